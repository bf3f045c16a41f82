//! Bind and accept.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::inherited::{self, Inherited};
use super::unix;

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// A socket in the file system, for its owner and its group.
    Unix(PathBuf),
    /// Sockets that the service manager opened, by their name.
    Systemd(String),
}

impl Address {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// A listener that is open.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a socket in the file system, which is removed with this value if it is our own.
    Unix(UnixListener, Option<unix::Removed>),
}

/// Mode of our own sockets in the file system: the user and its group may write to them.
const MODE: u32 = 0o660;

impl Listener {
    /// Listens there; on the unspecified IPv6 address for both families, if `both` says so. Some names of the service
    /// manager stand for several listeners.
    pub fn open(address: &Address, both: bool) -> io::Result<Vec<Self>> {
        match address {
            Address::Tcp(address) => Ok(vec![Self::Tcp(bind(*address, both)?)]),
            Address::Unix(path) => {
                unix::bind(path, MODE).map(|(listener, file)| vec![Self::Unix(listener, Some(file))])
            }
            Address::Systemd(name) => Ok(inherited::named(name)?.into_iter().map(Self::from).collect()),
        }
    }

    /// A listener on this address that another process has opened and passed on. A file that belongs to it stays that
    /// process's; see [`Listener::leave_file`].
    pub fn adopt(address: &Address, socket: OwnedFd) -> io::Result<Self> {
        let unix = |path: Option<&PathBuf>, socket: OwnedFd| -> io::Result<Self> {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            let listener = Self::Unix(UnixListener::from_std(listener)?, path.map(|path| unix::Removed::later(path)));
            listener.leave_file(true);
            Ok(listener)
        };
        match address {
            Address::Unix(path) => unix(Some(path), socket),
            Address::Systemd(_) if Socket::from(socket.try_clone()?).local_addr()?.is_unix() => unix(None, socket),
            Address::Tcp(_) | Address::Systemd(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
        }
    }

    /// The same socket once more, for another process.
    pub fn pass(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Leaves a file that goes with this to another process, or takes it back.
    pub fn leave_file(&self, left: bool) {
        if let Self::Unix(_, Some(file)) = self {
            file.keep(left);
        }
    }

    /// Its TCP address, as the system gave it.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await,
            Self::Unix(listener, _) => Ok((as_tcp(listener.accept().await?.0)?, THIS_MACHINE)),
        }
    }
}

impl From<Inherited> for Listener {
    fn from(inherited: Inherited) -> Self {
        match inherited {
            Inherited::Tcp(listener) => Self::Tcp(listener),
            Inherited::Unix(listener) => Self::Unix(listener, None),
        }
    }
}

/// The peer at the other end of a socket in the file system.
const THIS_MACHINE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The calls that move bytes are the same for both kinds of sockets. Options of TCP fail on this one, and addresses are not
/// there; neither is needed.
fn as_tcp(stream: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(stream.into_std()?)))
}

/// Connections that the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// Pause after an error that would come again at once, such as no descriptor being left.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on all of `addresses`, or fails with the first that cannot be had. The unspecified IPv6 address takes IPv4
/// clients too, unless the IPv4 one stands beside it, and takes only those on a machine without IPv6.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let bind_one =
        |address: &SocketAddr| bind(*address, takes_both(*address, addresses)).map_err(|error| (*address, error));
    addresses.iter().map(bind_one).collect()
}

/// Whether a listener on one of `addresses` takes clients of both families.
pub fn takes_both(address: SocketAddr, addresses: &[SocketAddr]) -> bool {
    let ipv4_beside = || addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
    address.ip() == Ipv6Addr::UNSPECIFIED && !ipv4_beside()
}

/// Whether a listener on the one address can keep another from the other.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn bind(address: SocketAddr, dual: bool) -> io::Result<TcpListener> {
    match bind_as_given(address, dual) {
        Err(error) if dual && address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            bind_as_given((Ipv4Addr::UNSPECIFIED, address.port()).into(), dual)
        }
        outcome => outcome,
    }
}

fn bind_as_given(address: SocketAddr, dual: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!(dual && address.ip().is_unspecified()))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next client of a listener; see [`accept_with`].
pub async fn accept(listener: &Listener, report: impl Fn(&io::Error)) -> (TcpStream, SocketAddr) {
    accept_with(|| listener.accept(), report).await
}

/// Accepts the next connection with `accept`, for every kind of listener. Errors of a single connection are no errors
/// of the listener; others make it pause, not end, and are reported once in a row.
pub async fn accept_with<T, F>(accept: impl Fn() -> F, report: impl Fn(&io::Error)) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut reported = false;
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut reported, true) {
                    report(&error);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the error means that there is no IPv6: without it in the kernel there is no such socket, and where it is
/// switched off there is no such address.
fn is_without_ipv6(error: &io::Error) -> bool {
    let unsupported = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_connections_are_passed_over_and_others_reported_once() {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, OutOfMemory};
        let errors = std::cell::RefCell::new(vec![OutOfMemory, ConnectionReset, OutOfMemory, ConnectionAborted]);
        let reported = std::cell::Cell::new(0);
        let accept = || {
            let next = errors.borrow_mut().pop();
            async move { next.map_or(Ok(7), |kind| Err(kind.into())) }
        };
        let accepted = accept_with(accept, |_| reported.set(reported.get() + 1)).await;
        assert_eq!((accepted, reported.get()), (7, 1));
    }

    #[tokio::test]
    async fn both_families_can_stand_side_by_side_on_one_port() {
        let listeners = bind_all(&[at("127.0.0.1:0")]).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        drop(listeners);
        let addresses = [SocketAddr::new(at("0.0.0.0:0").ip(), port), SocketAddr::new(at("[::]:0").ip(), port)];
        assert_eq!(bind_all(&addresses).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn the_unspecified_address_takes_both_families() {
        let listener = Listener::open(&at("[::]:0").into(), true).unwrap().remove(0);
        let port = listener.local().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, peer) = accept(&listener, |error| panic!("{error}")).await;
        assert!(peer.ip().to_canonical().is_ipv4());
    }

    #[tokio::test]
    async fn bytes_pass_through_sockets_in_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front.sock");
        let listener = Listener::open(&Address::Unix(path.clone()), false).unwrap().remove(0);
        let mut front = UnixStream::connect(&path).await.unwrap();
        let (mut client, peer) = accept(&listener, |error| panic!("{error}")).await;
        assert!(peer.ip().is_loopback());
        front.write_all(b"there").await.unwrap();
        client.write_all(b"back").await.unwrap();
        drop(listener);
        assert!(!path.exists());
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"there");
        drop(client);
        let mut bytes = Vec::new();
        front.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"back");
    }

    #[tokio::test]
    async fn the_address_that_cannot_be_had_is_named() {
        let taken = bind_all(&[at("127.0.0.1:0")]).unwrap()[0].local_addr().unwrap();
        let holder = std::net::TcpListener::bind(taken).unwrap();
        let (address, error) = bind_all(&[at("127.0.0.1:0"), taken]).unwrap_err();
        assert_eq!((address, error.kind()), (taken, io::ErrorKind::AddrInUse));
        drop(holder);
    }
}
