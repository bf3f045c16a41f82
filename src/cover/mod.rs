//! Being the site.
//!
//! A [`Cover`] receives a client and is simply what it is: a web server. Between the two stands a [`gate::Gate`], which
//! ends in one of two ways: the connection is a visit to the end, or the client has proved itself twice and leaves with a
//! [`gate::Promotion`]. The two kinds of cover differ in how the gate is put in: `guarded` is a stream that the built-in
//! site is served through, [`remote`] stands between two sockets.

pub mod gate;
pub mod grade;
mod guarded;
pub mod profile;
pub mod remote;
mod scout;
pub mod site;
pub mod visits;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::{debug, info};

use crate::auth::{Judge, Reason};
use crate::relay::Closed;
use gate::Promotion;

/// The site that everybody meets.
pub enum Cover {
    /// The built-in web server.
    Site(Arc<site::Site>),
    /// A web server elsewhere.
    Remote(Box<remote::Remote>),
}

/// How receiving a client ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was a visit and is over. For a remote cover: how the pass-through ended, where it came to that.
    Visited(Option<Closed>),
    /// The client is one of ours; the cover has been left.
    Promoted(TcpStream, Box<Promotion>),
}

impl Cover {
    /// Receives a client, from its first byte on.
    pub async fn receive(&self, client: TcpStream, peer: SocketAddr, judge: Arc<Judge>) -> Outcome {
        match self {
            Self::Site(site) => guarded::receive(site, client, peer, judge).await,
            Self::Remote(remote) => remote.receive(client, peer, judge).await,
        }
    }

    /// Keeps what is known of the cover fresh, for as long as this is polled. `listeners` is where the proxy itself is.
    pub async fn watch(&self, listeners: &[SocketAddr]) {
        match self {
            Self::Site(_) => std::future::pending().await,
            Self::Remote(remote) => remote.watch(listeners).await,
        }
    }
}

/// Tells the log that the connection is a mere visit. An operator can act on the reasons of clients that know a secret.
fn log_visit(reason: Reason) {
    match reason {
        Reason::Time(skew_seconds) => {
            info!(reason = reason.label(), skew_seconds, "a client with a valid secret was refused: its clock is off");
        }
        Reason::Replay | Reason::Name | Reason::Early | Reason::Cover(_) | Reason::Header(_) => {
            info!(reason = reason.label(), detail = %reason, "declined after a valid digest");
        }
        _ => debug!(reason = reason.label(), detail = %reason, "visitor"),
    }
}
