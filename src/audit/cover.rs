//! The cover, reached without the proxy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::relay::{Fault, Relay};
use crate::cover::remote;
use crate::cover::site::{self, Site, SiteError, linger};
use crate::net::dial;

/// Time limit for a remote cover to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cover at an address; what serves it ends with this value.
#[derive(Debug)]
pub struct Target {
    /// Address to connect to.
    pub addr: SocketAddr,
    _served: Served,
}

#[derive(Debug)]
enum Served {
    Here(JoinHandle<()>),
    /// A relay introduces us to a cover that wants to know its visitors.
    Introduced(#[expect(dead_code, reason = "it is to be dropped")] Relay),
    Elsewhere,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Self::Here(task) = self {
            task.abort();
        }
    }
}

/// Reason why a cover cannot be reached.
#[derive(Debug)]
pub enum Unreachable {
    /// The built-in site cannot be opened.
    Site(SiteError),
    /// The system or the network says no.
    Io(io::Error),
}

/// Serves the built-in site on a port of its own: the same files, and no gate in front of them.
pub async fn site(settings: &site::Settings) -> Result<Target, Unreachable> {
    let site = Arc::new(Site::open(settings).map_err(Unreachable::Site)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Unreachable::Io)?;
    let addr = listener.local_addr().map_err(Unreachable::Io)?;
    let task = tokio::spawn(async move {
        loop {
            // What hinders accepting, such as too many open files, passes.
            match listener.accept().await {
                Ok((stream, peer)) => drop(tokio::spawn(visit(site.clone(), stream, peer))),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(Target { addr, _served: Served::Here(task) })
}

async fn visit(site: Arc<Site>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    if let Err((_, stream)) = site.serve(stream, Some(peer)).await {
        linger(stream).await;
    }
}

/// The address of a remote cover that accepts connections now.
pub async fn remote(settings: &remote::Settings) -> Result<Target, Unreachable> {
    let look_up = tokio::net::lookup_host((settings.host.as_str(), settings.port));
    let found: Vec<SocketAddr> = look_up.await.map_err(Unreachable::Io)?.collect();
    let stream = dial::dial(&found, PATIENCE).await.map_err(Unreachable::Io)?;
    let addr = stream.peer_addr().map_err(Unreachable::Io)?;
    let Some(version) = settings.proxy_protocol else {
        return Ok(Target { addr, _served: Served::Elsewhere });
    };
    let relay = Relay::introducing(addr, Fault::None, Some(version)).await.map_err(Unreachable::Io)?;
    Ok(Target { addr: relay.addr, _served: Served::Introduced(relay) })
}
