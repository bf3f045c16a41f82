//! The running proxy. Read [`connection`] first.

pub mod connection;
mod keeper;
mod promote;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Span, field, info, info_span, warn};

use crate::auth::Judge;
use crate::cover::Cover;
use crate::net::listen;
use crate::relay::sizing::Patterns;
use crate::telegram;
use crate::wire::HelloClass;

/// Settings of the running proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data centres.
    pub telegram: telegram::Settings,
    /// A session without a byte in either direction for this long is ended.
    pub idle: Duration,
    /// How long connections may go on after the proxy was told to stop.
    pub drain: Duration,
    /// Classes of clients that get records of NOP frames behind their header, in place of the cover's session tickets.
    pub fillers: Vec<HelloClass>,
    /// Whether the log may show clients' addresses.
    pub log_addresses: bool,
}

/// Everything that connections share.
pub struct Server {
    settings: Settings,
    cover: Cover,
    judge: Arc<Judge>,
    patterns: Patterns,
}

impl Server {
    /// A proxy in front of this cover, with this judge at the door.
    pub fn new(settings: Settings, cover: Cover, judge: Judge) -> Self {
        Self { settings, cover, judge: Arc::new(judge), patterns: Patterns::default() }
    }

    /// Serves until `stop` is cancelled, then accepts no more and gives what is going on the time it was promised.
    pub async fn run(self, listeners: Vec<TcpListener>, stop: CancellationToken) {
        let server = Arc::new(self);
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let connections = TaskTracker::new();
        let hurry = CancellationToken::new();
        let acceptors = TaskTracker::new();
        for listener in listeners {
            let accepting = Arc::clone(&server).accept(listener, connections.clone(), hurry.clone());
            let stop = stop.clone();
            acceptors.spawn(async move { stop.run_until_cancelled(accepting).await });
        }
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&server), addresses));
        stop.cancelled().await;
        acceptors.close();
        acceptors.wait().await;
        connections.close();
        info!(connections = connections.len(), grace_seconds = server.settings.drain.as_secs(), "stopping");
        if tokio::time::timeout(server.settings.drain, connections.wait()).await.is_err() {
            hurry.cancel();
            connections.wait().await;
        }
        keeper.abort();
        keeper::last_sync(&server).await;
        info!("stopped");
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, connections: TaskTracker, hurry: CancellationToken) {
        loop {
            let report = |error: &std::io::Error| warn!(%error, "cannot accept connections");
            let (client, peer) = listen::accept(&listener, report).await;
            let (server, hurry) = (Arc::clone(&self), hurry.clone());
            let span = self.span(peer);
            connections
                .spawn(async move { hurry.run_until_cancelled(connection::serve(server, client, peer, span)).await });
        }
    }

    /// One span for each connection. It names the client only if the operator asked for that.
    fn span(&self, peer: SocketAddr) -> Span {
        let span = info_span!("connection", client = field::Empty, user = field::Empty, dc = field::Empty);
        if self.settings.log_addresses {
            span.record("client", field::display(peer.ip().to_canonical()));
        }
        span
    }
}
