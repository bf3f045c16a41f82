//! Where the admin listener is, and which places are refused.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system, for its owner alone.
    Unix(PathBuf),
}

impl Place {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.strip_prefix("unix:") {
            // The kernel takes 108 bytes with the one that ends it.
            Some(path) if path.is_empty() || path.len() > 107 => Err(NoPlace),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| NoPlace),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Not a place to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a place to listen: an address with a port, or unix: and a path of at most 107 bytes")
    }
}

impl std::error::Error for NoPlace {}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a socket in the file system, which is removed with this value.
    Unix(UnixListener, Removed),
}

/// Listens there.
pub async fn bind(place: &Place) -> io::Result<Listener> {
    match place {
        Place::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
        Place::Unix(path) => bind_unix(path).await,
    }
}

/// What an earlier run left behind is removed; a socket that somebody answers at is not, nor is anything else.
async fn bind_unix(path: &Path) -> io::Result<Listener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => {}
    }
    // The file appears under another name first, so that nobody can connect before its mode is set.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    fs::rename(&hidden, path)?;
    Ok(Listener::Unix(listener, Removed(path.to_owned())))
}

/// A file that goes with this value.
#[derive(Debug)]
pub struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_known_to_be_local_or_not() {
        for (text, local) in [
            ("127.0.0.1:9090", true),
            ("[::1]:9090", true),
            ("[::ffff:127.0.0.1]:9090", true),
            ("unix:/run/vizard/admin.sock", true),
            ("0.0.0.0:9090", false),
            ("[::]:9090", false),
            ("10.0.0.1:9090", false),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.to_string().as_str(), place.is_local()), (text, local));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for text in ["", "localhost:80", "127.0.0.1", "unix:", &long] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_its_owners_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let place = Place::Unix(path.clone());
        let first = bind(&place).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&place).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(bind(&place).await.unwrap());
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&place).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
