//! Sockets in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;

use crate::base::files;

/// Most bytes of a path: the kernel takes 108 with the one that ends it.
pub const LONGEST_PATH: usize = 107;

/// A file that goes with this value.
#[derive(Debug)]
pub struct Removed {
    path: PathBuf,
    kept: AtomicBool,
}

impl Removed {
    /// Takes charge of a file.
    pub fn later(path: &Path) -> Self {
        Self { path: path.to_owned(), kept: false.into() }
    }

    /// Leaves the file, or takes charge of it again: someone else has it or not.
    pub fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens there, for those whom `mode` lets.
///
/// What an earlier run left behind is removed; a socket that someone answers at is not (`AddrInUse`), nor is anything
/// else (`AlreadyExists`).
pub fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, Removed)> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() && !answers(path)? => fs::remove_file(path)?,
        Ok(found) if found.file_type().is_socket() => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => {}
    }
    // The file appears under another name first, so that no one can connect before its mode is set.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    files::set_mode(&hidden, mode)?;
    fs::rename(&hidden, path)?;
    Ok((listener, Removed::later(path)))
}

/// Whether someone listens there, busy or not.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?) != Err(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_file_has_its_mode_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let first = bind(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(bind(&path, 0o600).unwrap());
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
