//! Where the admin listener is, and which places are refused.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::{TcpListener, UnixListener};

use crate::net::unix;

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system, for its owner alone.
    Unix(PathBuf),
}

impl AdminAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for AdminAddress {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.strip_prefix("unix:") {
            Some(path) if path.is_empty() || path.len() > unix::LONGEST_PATH => Err(NoPlace),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| NoPlace),
        }
    }
}

impl fmt::Display for AdminAddress {
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
        f.write_str("not an address to listen on: an address with a port, or unix: and a path of at most 107 bytes")
    }
}

impl std::error::Error for NoPlace {}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a socket in the file system, which is removed with this value.
    Unix(UnixListener, unix::Removed),
}

/// Listens there.
pub async fn bind(place: &AdminAddress) -> io::Result<Listener> {
    match place {
        AdminAddress::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
        AdminAddress::Unix(path) => unix::bind(path, 0o600).map(|(listener, file)| Listener::Unix(listener, file)),
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
            let place: AdminAddress = text.parse().unwrap();
            assert_eq!((place.to_string().as_str(), place.is_local()), (text, local));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for text in ["", "localhost:80", "127.0.0.1", "unix:", &long] {
            assert_eq!(text.parse::<AdminAddress>(), Err(NoPlace), "{text}");
        }
    }
}
