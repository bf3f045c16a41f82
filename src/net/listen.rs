//! Bind and accept.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// Pause after an error that would come again at once, such as no descriptor being left.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on all of `addresses`, or fails with the first that cannot be had. The unspecified IPv6 address takes IPv4
/// clients too, unless the IPv4 one stands beside it, and takes only those on a machine without IPv6.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let bind_one = |address: &SocketAddr| bind_beside(*address, addresses).map_err(|error| (*address, error));
    addresses.iter().map(bind_one).collect()
}

/// Listens on one of `addresses`, all of which are listened on.
pub fn bind_beside(address: SocketAddr, addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let ipv4_beside = addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
    bind(address, !ipv4_beside)
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

/// The next client. Errors of a single connection are no errors of the listener; others make it pause, not end,
/// and are reported once in a row.
pub async fn accept(listener: &TcpListener, report: impl Fn(&io::Error)) -> (TcpStream, SocketAddr) {
    let mut reported = false;
    loop {
        match listener.accept().await {
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

/// Where the kernel has no IPv6 there is no such socket; where it is switched off there is no such address.
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
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
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
        let listeners = bind_all(&[at("[::]:0")]).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, peer) = accept(&listeners[0], |error| panic!("{error}")).await;
        assert!(peer.ip().to_canonical().is_ipv4());
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
