//! The ways into the proxy from this machine: one notion for `doctor`, `health`, `check` and `link`.
//!
//! A proxy that runs knows best where it listens: it may have fallen back to another port, the service manager may have opened
//! its sockets, or all of its clients are handed on. So it is asked, and only where none runs the configuration says it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::invitation::expected_listeners;
use crate::config::{Listen, Proxied, units};
use crate::net::listen::Address;
use crate::ops::control;

/// Addresses at which the proxy is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Addresses that clients connect to themselves.
    pub(super) clients: Vec<Address>,
    /// Addresses at which they are handed on by another program.
    pub(super) proxied: Vec<Address>,
    /// Whether it is a proxy that runs who says so.
    pub(super) running: bool,
    /// Whether that proxy's cover has no handshake for clients that it admits.
    pub(super) cover_fails: bool,
    /// Whether it believes a PROXY protocol header that comes from this machine.
    header: bool,
}

impl Ways {
    /// The ways that the proxy which runs with this state directory has open; otherwise those of the configuration, as far as
    /// they can be known without running.
    pub(super) fn of(listen: &Listen, proxied: &Proxied, state: &Path) -> Self {
        let header = proxied.from.iter().any(|network| network.contains(&std::net::IpAddr::from(Ipv4Addr::LOCALHOST)));
        match control::ask_open(state) {
            Ok(open) => {
                let read = |texts: &[String]| texts.iter().filter_map(|text| units::listener(text).ok()).collect();
                let (clients, proxied) = (read(&open.clients), read(&open.proxied));
                Self { clients, proxied, running: true, cover_fails: open.cover_fails, header }
            }
            Err(_) => {
                let clients = match listen {
                    Listen::Given(addresses) => addresses.clone(),
                    Listen::Automatic => expected_listeners(listen).into_iter().map(Address::from).collect(),
                };
                Self { clients, proxied: proxied.listen.clone(), running: false, cover_fails: false, header }
            }
        }
    }

    /// TCP addresses where clients come to it themselves.
    pub(super) fn tcp(&self) -> Vec<SocketAddr> {
        self.clients.iter().filter_map(Address::tcp).collect()
    }

    /// The ways to the first listener that clients come to themselves, or else to the first of the others.
    pub(super) fn first(&self) -> Vec<Way> {
        self.with_header(Way::all(&self.clients, &self.proxied))
    }

    /// The ways to all listeners but those of [`Ways::tcp`].
    pub(super) fn others(&self) -> Vec<Way> {
        let sockets = self.clients.iter().filter(|address| address.tcp().is_none());
        let sockets = sockets.flat_map(|address| Way::all(std::slice::from_ref(address), &[]));
        let handed_on = self.proxied.iter().filter_map(|address| {
            // Each listener once, whichever of its addresses it is reached at.
            Way::all(&[], std::slice::from_ref(address)).pop()
        });
        self.with_header(sockets.chain(handed_on).collect())
    }

    fn with_header(&self, mut ways: Vec<Way>) -> Vec<Way> {
        ways.iter_mut().for_each(|way| way.proxied &= self.header);
        ways
    }
}

/// A way to the proxy from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    address: Address,
    /// Whether a PROXY protocol header goes first.
    proxied: bool,
}

impl Way {
    /// All ways to these listeners: the first that clients come to themselves, or else the first of the others.
    pub(super) fn all(clients: &[Address], proxied: &[Address]) -> Vec<Self> {
        let known = |address: &&Address| !matches!(address, Address::Systemd(_));
        let first = |listeners: &[Address]| listeners.iter().find(known).cloned();
        let (found, proxied) = match first(clients) {
            Some(address) => (Some(address), false),
            None => (first(proxied), true),
        };
        let way = |address| Self { address, proxied };
        match found {
            Some(Address::Tcp(address)) => reachable(address).into_iter().map(|one| way(one.into())).collect(),
            other => other.into_iter().map(way).collect(),
        }
    }

    /// A connection over which the proxy may be spoken to; nothing limits the time.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let mut front = match &self.address {
            Address::Tcp(address) => {
                let front = TcpStream::connect(address).await?;
                // Without a listener, a port that the system happens to give to this very socket connects to itself.
                if front.local_addr()? == front.peer_addr()? {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                front
            }
            // As at the other end, a socket is a socket.
            Address::Unix(path) => {
                TcpStream::from_std(OwnedFd::from(UnixStream::connect(path).await?.into_std()?).into())?
            }
            Address::Systemd(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        if self.proxied {
            front.write_all(b"PROXY UNKNOWN\r\n").await?;
        }
        Ok(front)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Addresses at which a connection from this machine reaches the listener.
pub(super) fn reachable(listener: SocketAddr) -> Vec<SocketAddr> {
    let loopback = |ip: std::net::IpAddr| SocketAddr::new(ip, listener.port());
    match listener {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            vec![loopback(Ipv6Addr::LOCALHOST.into()), loopback(Ipv4Addr::LOCALHOST.into())]
        }
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => vec![loopback(Ipv4Addr::LOCALHOST.into())],
        bound => vec![bound],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_without_a_running_proxy_are_those_of_the_configuration() {
        let state = tempfile::tempdir().unwrap();
        let unix = Address::Unix("/run/x".into());
        let front: SocketAddr = "0.0.0.0:8443".parse().unwrap();
        let proxied = Proxied { listen: vec![front.into()], from: vec!["127.0.0.1/32".parse().unwrap()] };
        let listen = Listen::Given(vec![unix.clone(), Address::Systemd("web".into())]);
        let ways = Ways::of(&listen, &proxied, state.path());
        assert!(!ways.running && ways.tcp().is_empty());
        let at = |address: Address, proxied| Way { address, proxied };
        let handed_on = |header| at(Address::Tcp("127.0.0.1:8443".parse().unwrap()), header);
        assert_eq!(ways.first(), [at(unix.clone(), false)]);
        assert_eq!(ways.others(), [at(unix, false), handed_on(true)]);
        let foreign = Proxied { from: vec!["192.0.2.1/32".parse().unwrap()], ..proxied };
        let ways = Ways::of(&Listen::Given(Vec::new()), &foreign, state.path());
        assert_eq!((ways.first(), ways.others()), (vec![handed_on(false)], vec![handed_on(false)]));
    }
}
