//! The state directory as it goes into a backup, while a proxy may be writing to it.
//!
//! - The memory of spent hellos is only ever appended to, and its readers step over a record that is half there: a plain
//!   copy is good.
//! - What users have moved is read through the database and written again.
//! - Everything else is replaced as a whole when it changes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::base::files::Folder;
use crate::ops::backup::archive;
use crate::ops::{state_lock, usage};

/// Files gathered from a state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Files by their place in the folder, in order.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Files that could not be included, as sentences.
    pub left_out: Vec<String>,
}

/// Gathers a state directory. `skip` says which files stay where they are.
pub fn gather(folder: &Path, skip: impl Fn(&Path) -> bool) -> io::Result<Gathered> {
    let mut gathered = Gathered::default();
    let root = Folder::open(folder)?;
    let mut left = archive::LONGEST;
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner))? {
            let entry = entry?;
            let (place, kind) = (inner.join(entry.file_name()), entry.file_type()?);
            let path = folder.join(&place);
            if kind.is_dir() {
                folders.push(place);
            } else if place == Path::new(usage::FILE) {
                match usage::copy(folder) {
                    Ok(copy) => gathered.files.extend(copy.map(|copy| (place, copy))),
                    Err(error) => {
                        gathered.left_out.push(format!("the traffic of users: it cannot be read ({error})"));
                    }
                }
            } else if kind.is_file() && !skip(&path) && !is_passing(&place) {
                match root.below(&inner).and_then(|inner| inner.read(&entry.file_name(), left)) {
                    Ok(content) => {
                        left -= content.len() as u64;
                        gathered.files.push((place, content));
                    }
                    // It was replaced or removed just now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // A link or a second name that was put there, and that root does not follow.
                    Err(error) if error.raw_os_error().is_none() && error.kind() == io::ErrorKind::PermissionDenied => {
                        gathered.left_out.push(format!("{}: {error}", path.display()));
                    }
                    Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
                }
            }
        }
    }
    gathered.files.sort();
    Ok(gathered)
}

/// Files on their way to become others, and those that hold nothing.
fn is_passing(place: &Path) -> bool {
    state_lock::FILES.iter().any(|name| place == Path::new(name))
        || place.extension().is_some_and(|extension| extension == "new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_along_and_sockets_are_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("site/deep")).unwrap();
        for name in ["secret", "replay", "site/deep/page", "secret.0123.new", "audit.log", "lock", "leaving"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("control")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let gathered = gather(folder.path(), |path| path.ends_with("audit.log")).unwrap();
        let places: Vec<_> = gathered.files.iter().map(|(place, _)| place.to_str().unwrap()).collect();
        assert_eq!(places, ["replay", "secret", "site/deep/page"]);
        assert_eq!(gathered.files[1].1, b"secret");
        assert!(gathered.left_out.is_empty());
    }

    #[test]
    fn books_that_cannot_be_read_are_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(usage::FILE), vec![7; 100_000]).unwrap();
        let gathered = gather(folder.path(), |_| false).unwrap();
        assert!(gathered.files.is_empty() && gathered.left_out.len() == 1, "{gathered:?}");
    }
}
