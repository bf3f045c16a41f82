//! Listening sockets that the service manager opened for us (socket activation of systemd, sd_listen_fds(3)).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

/// A socket as it was handed over.
#[derive(Debug)]
pub enum Inherited {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a socket in the file system, which stays the service manager's.
    Unix(UnixListener),
}

/// All that were handed over, with their names.
static HANDED_OVER: LazyLock<Vec<(String, Kind, OwnedFd)>> = LazyLock::new(|| {
    // The crate takes the variables out of the environment.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut sockets = ListenFd::from_env();
    let mut names = names.split(':');
    (0..sockets.len())
        .filter_map(|at| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
            match (sockets.take_tcp_listener(at), sockets.take_unix_listener(at)) {
                (Ok(Some(socket)), _) => Some((name, Kind::Tcp, socket.into())),
                (_, Ok(Some(socket))) => Some((name, Kind::Unix, socket.into())),
                _ => None,
            }
        })
        .collect()
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
}

/// Takes note of what was handed over, before threads can look at the environment.
pub fn take_note() {
    LazyLock::force(&HANDED_OVER);
}

/// The sockets of this name (`FileDescriptorName=` of the socket unit, which is the unit's own name by default). They can be
/// asked for again when they were dropped: the service manager's own stays open.
pub fn named(name: &str) -> io::Result<Vec<Inherited>> {
    let ours = HANDED_OVER.iter().filter(|(known, ..)| known == name);
    let listeners: Vec<_> = ours.map(|(_, kind, socket)| open(*kind, socket)).collect::<Result<_, _>>()?;
    if listeners.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the service manager has handed over no socket of this name",
        ));
    }
    Ok(listeners)
}

fn open(kind: Kind, socket: &OwnedFd) -> io::Result<Inherited> {
    let socket = socket.try_clone()?;
    match kind {
        Kind::Tcp => {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Inherited::Tcp)
        }
        Kind::Unix => {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(Inherited::Unix)
        }
    }
}
