//! `vizard health`: asks whether the proxy accepts connections.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Failure, load, output};
use crate::config::{Environment, Flags, Listen};

/// Succeeds if the first listener accepts a connection in time. To the proxy it is a visitor like any other.
pub fn health(flags: &Flags, environment: &Environment) -> Result<(), Failure> {
    let listen = load(flags, environment)?.draft.listen;
    let answer = targets(&listen).into_iter().find(accepts);
    match answer {
        Some(target) => {
            output::print(format!("{target} accepts connections"));
            Ok(())
        }
        None => Err(Failure::new(
            "the proxy does not accept connections",
            "see its log; `vizard health` needs the same flags and variables as `vizard run`",
        )),
    }
}

/// Whether somebody else accepts a connection in time.
pub(super) fn accepts(target: &SocketAddr) -> bool {
    // Without a listener, a port that the system happens to give to this very socket connects to itself.
    TcpStream::connect_timeout(target, PATIENCE).is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != *target))
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Every address of this machine includes the one of the loopback.
pub(super) fn targets(listen: &Listen) -> Vec<SocketAddr> {
    let listeners = match listen {
        Listen::Given(addresses) => addresses.iter().take(1).copied().collect(),
        Listen::Automatic => Listen::candidates().to_vec(),
    };
    listeners.into_iter().flat_map(reachable).collect()
}

/// Where a connection from this machine comes to the listener.
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
