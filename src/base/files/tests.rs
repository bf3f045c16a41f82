use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::PathBuf;

use super::*;

/// A user that is not root and that nothing belongs to.
pub(crate) const OTHER: u32 = 54_321;

/// Whether this is root, without whom nothing can belong to others.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// A folder that belongs to another user, and one of root's with a file that the other must not get.
pub(crate) fn hostile() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (folder, precious) = (home.path().join("service"), home.path().join("precious"));
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(OTHER), Some(OTHER)).unwrap();
    fs::write(&precious, "precious").unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    (home, folder, precious)
}

/// A link that the other user has made.
pub(crate) fn plant(target: &Path, link: &Path) {
    symlink(target, link).unwrap();
    lchown(link, Some(OTHER), Some(OTHER)).unwrap();
}

#[test]
fn files_are_replaced_whole_and_nothing_else_is_left() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a/b/file");
    private_folder(path.parent().unwrap()).unwrap();
    for content in ["one", "two"] {
        replace_file(&path, content.as_bytes(), Access::Private).unwrap();
        assert_eq!(read_file(&path, 3).unwrap(), content.as_bytes());
    }
    assert!(read_file(&path, 2).is_err());
    assert_eq!((mode(&path), mode(&home.path().join("a"))), (0o600, 0o700));
    assert!(!create_file(&path, b"three", Access::Private).unwrap());
    assert!(create_file(&path.with_file_name("new"), b"three", Access::Public).unwrap());
    assert_eq!((fs::read(&path).unwrap(), mode(&path.with_file_name("new"))), (b"two".to_vec(), 0o644));
    assert_eq!(fs::read_dir(home.path().join("a/b")).unwrap().count(), 2);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
    replace_file(&path, b"four", Access::Kept).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn ones_own_links_are_followed_and_stay() {
    let home = tempfile::tempdir().unwrap();
    let (folder, link) = (home.path().join("folder"), home.path().join("link"));
    fs::create_dir(&folder).unwrap();
    symlink("link-to-folder/file", &link).unwrap();
    symlink("./folder/../folder", home.path().join("link-to-folder")).unwrap();
    replace_file(&link, b"one", Access::Private).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"one");
    symlink("round", home.path().join("round")).unwrap();
    assert!(replace_file(&home.path().join("round"), b"one", Access::Private).is_err());
    assert!(Folder::open(&home.path().join("round")).is_err());
}

#[test]
fn what_a_process_has_open_can_be_read_by_its_path() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    fs::write(&path, "one").unwrap();
    let file = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(read_file(Path::new(&format!("/dev/fd/{}", file.as_raw_fd())), 10).unwrap(), b"one");
}

#[test]
fn root_follows_no_link_of_another_user() {
    if !is_root() {
        return;
    }
    let (home, folder, precious) = hostile();
    plant(&precious, &folder.join("link"));
    plant(home.path(), &folder.join("up"));
    for path in [folder.join("link"), folder.join("up/precious")] {
        assert!(replace_file(&path, b"mine", Access::Kept).is_err(), "{}", path.display());
        assert!(create_file(&path, b"mine", Access::Private).is_err(), "{}", path.display());
        assert!(read_file(&path, 100).unwrap_err().to_string().contains("link"), "{}", path.display());
        assert!(open_file(&path, OFlags::RDWR | OFlags::CREATE).is_err(), "{}", path.display());
        assert!(set_mode(&path, 0o777).is_err(), "{}", path.display());
    }
    assert!(private_folder(&folder.join("up/new")).is_err() && !home.path().join("new").exists());
    assert_eq!((fs::read(&precious).unwrap(), mode(&precious)), (b"precious".to_vec(), 0o600));
    assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
}

#[test]
fn what_root_writes_belongs_to_the_owner_of_the_folder() {
    if !is_root() {
        return;
    }
    let (_home, folder, _) = hostile();
    private_folder(&folder.join("a")).unwrap();
    replace_file(&folder.join("a/file"), b"one", Access::Private).unwrap();
    for path in [folder.join("a"), folder.join("a/file")] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), OTHER, "{}", path.display());
    }
    // A folder that root shares with a group shares its files.
    chown(&folder, Some(0), Some(OTHER)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    replace_file(&folder.join("file"), b"one", Access::Private).unwrap();
    let found = fs::metadata(folder.join("file")).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o640, 0, OTHER));
    chown(folder.join("file"), Some(OTHER), Some(1)).unwrap();
    replace_file(&folder.join("file"), b"two", Access::Kept).unwrap();
    let found = fs::metadata(folder.join("file")).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o640, OTHER, 1));
}

#[test]
fn root_waits_at_no_pipe_and_borrows_no_file_of_another_user() {
    if !is_root() {
        return;
    }
    let (_home, folder, precious) = hostile();
    let pipe = folder.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
    chown(&pipe, Some(OTHER), Some(OTHER)).unwrap();
    assert!(read_file(&pipe, 100).is_err());
    fs::hard_link(&precious, folder.join("second")).unwrap();
    let open = Folder::open(&folder).unwrap();
    assert!(open.read("second".as_ref(), 100).is_err());
    fs::write(folder.join("own"), "own").unwrap();
    assert_eq!(open.read("own".as_ref(), 100).unwrap(), b"own");
}

#[test]
fn below_a_folder_nothing_leads_out_of_it() {
    let home = tempfile::tempdir().unwrap();
    let (inside, outside) = (home.path().join("inside"), home.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    symlink(outside.join("file"), inside.join("file")).unwrap();
    let folder = Folder::open(&inside).unwrap();
    for place in ["link", "link/deep", "../outside", "/etc", "a/../../outside"] {
        assert!(folder.make_below(Path::new(place)).is_err(), "{place}");
    }
    assert!(folder.below(Path::new("a/b")).is_err());
    folder.make_below(Path::new("a/b")).unwrap().replace("c".as_ref(), b"one", Access::Private).unwrap();
    assert_eq!(fs::read(inside.join("a/b/c")).unwrap(), b"one");
    folder.replace("file".as_ref(), b"two", Access::Private).unwrap();
    assert_eq!(fs::read(inside.join("file")).unwrap(), b"two");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
