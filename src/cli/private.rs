//! Files and folders with secrets in them: for their owner only, or, where root keeps them for a service, for its group.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Puts a file in its place in one step. Root gives it to the owner of the folder; in a folder that root shares with a
/// group, the group may read it.
pub fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Some(shared) = give(&beside, folder)? {
            file.set_permissions(Permissions::from_mode(shared))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().inspect_err(|_| _ = fs::remove_file(&beside))
}

/// Makes a folder and those above it, for their owner only.
pub fn folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder(above)?;
    fs::DirBuilder::new().mode(0o700).create(path)?;
    give(path, above).map(drop)
}

/// Returns the mode for a file, where that is another than its owner's alone.
fn give(path: &Path, folder: &Path) -> io::Result<Option<u32>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let owner = fs::metadata(folder)?;
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))?;
    let closed = owner.mode() & 0o007 == 0;
    Ok((owner.uid() == 0 && owner.gid() != 0 && closed).then_some(0o640))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_read_them() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/file");
        folder(path.parent().unwrap()).unwrap();
        put(&path, b"one").unwrap();
        put(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&home.path().join("a"))), (0o600, 0o700));
        assert_eq!(fs::read_dir(home.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_root_shares_with_a_group_shares_its_files() {
        let home = tempfile::tempdir().unwrap();
        let mine = fs::metadata(home.path()).unwrap().uid() == 0;
        if !mine || std::os::unix::fs::chown(home.path(), None, Some(1)).is_err() {
            return;
        }
        fs::set_permissions(home.path(), Permissions::from_mode(0o750)).unwrap();
        put(&home.path().join("file"), b"one").unwrap();
        let meta = fs::metadata(home.path().join("file")).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.gid()), (0o640, 1));
    }
}
