//! Files and folders that hold secrets or state, read and written so that nothing planted in the way is followed.
//!
//! Root runs commands on folders that belong to the user of the service. Anyone who takes over that service can put links
//! into them, and waits for root. So:
//!
//! - A path is walked part by part, each from the descriptor of the one before. While root works, only links that belong to
//!   root are followed; for everybody else the system's own rules hold, for there is no right to borrow.
//! - A file is written beside the one that it replaces: under a random name that must not exist, with mode and owner set on
//!   the descriptor, synced, renamed, and the folder synced. A crash leaves the old file or the new one.
//! - A single file that is mounted into a container cannot be renamed over. It is written in place; what it held is kept
//!   beside it under the same name with `.old`, where the folder can be written to.
//!
//! What this leaves out: access lists and extended attributes of a file that is replaced are not kept.

mod folder;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

pub use folder::Folder;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};

/// Owner, group and mode of a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For its owner alone. Root gives it to the owner of the folder; in a folder that root shares with a group and with
    /// no one else, the group may read it.
    Private,
    /// For everybody to read; root gives it to the owner of the folder.
    Public,
    /// As the file that it replaces; `Private` if there is none.
    Kept,
}

/// Replaces a file, or makes it, as a whole.
pub fn replace_file(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    folder.replace(&name, content, access)
}

/// Makes a file as a whole unless there is one. Of several callers at once one writes; says whether this one did.
pub fn create_file(path: &Path, content: &[u8], access: Access) -> io::Result<bool> {
    let (folder, name) = Folder::of(path)?;
    folder.create(&name, content, access)
}

/// Reads a file, which must not have more than `longest` bytes.
pub fn read_file(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let (folder, name) = Folder::of(path)?;
    read_all(&folder.open_file(&name, OFlags::RDONLY)?, longest)
}

/// Opens a file with these flags; one that `CREATE` makes is for its owner alone.
pub fn open_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let (folder, name) = Folder::of(path)?;
    folder.open_file(&name, flags)
}

/// Opens a file with these flags, or makes it where there is none, with the owner and the mode that `access` says.
pub fn open_or_make(path: &Path, flags: OFlags, access: Access) -> io::Result<File> {
    let (folder, name) = Folder::of(path)?;
    folder.open_or_make(&name, flags, access)
}

/// Makes a folder and those above it, for their owner only. Root gives each to the owner of the folder that it is in.
pub fn private_folder(path: &Path) -> io::Result<()> {
    Folder::make(path).map(drop)
}

/// Sets the mode of what lies at this path, a socket for instance; a link is refused.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let (folder, name) = Folder::named(path)?;
    let found = folder.look_at(&name)?;
    if rustix::fs::FileType::from_raw_mode(fstat(&found)?.st_mode).is_symlink() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link is in its place"));
    }
    // A descriptor that can only be looked at has no mode to set except by this road.
    fs::set_permissions(
        format!("/proc/self/fd/{}", found.as_raw_fd()),
        std::os::unix::fs::PermissionsExt::from_mode(mode),
    )
}

/// All bytes of an open file, which must not be more than `longest`.
pub fn read_all(file: &File, longest: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(longest.saturating_add(1)).read_to_end(&mut content)?;
    match content.len() as u64 > longest {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {longest} bytes"))),
        false => Ok(content),
    }
}

/// Owner, group and mode as numbers; no owner where the process keeps what it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    owner: Option<(u32, u32)>,
    mode: u32,
}

impl Rights {
    /// For something new in a folder whose owner, group and mode are these.
    fn in_folder(folder: &rustix::fs::Stat, mode: u32, root: bool) -> Self {
        if !root {
            return Self { owner: None, mode };
        }
        let (uid, gid) = (folder.st_uid, folder.st_gid);
        let shared = uid == 0 && gid != 0 && folder.st_mode & 0o007 == 0;
        let mode = if shared && mode == 0o600 { 0o640 } else { mode };
        Self { owner: Some((uid, gid)), mode }
    }

    fn of_file(file: &rustix::fs::Stat) -> Self {
        Self { owner: Some((file.st_uid, file.st_gid)), mode: file.st_mode & 0o777 }
    }

    /// Gives a file to its owner, then sets its mode, since a change of owner may take bits away.
    fn set(self, file: BorrowedFd<'_>, root: bool) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            match fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                // Only root may give files away, and only to root does it matter.
                Err(error) if root => return Err(error.into()),
                _ => {}
            }
        }
        Ok(fchmod(file, Mode::from_raw_mode(self.mode))?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
