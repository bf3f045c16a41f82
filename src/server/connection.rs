//! One connection from its first byte to its last.
//!
//! Every connection is received by the cover, whoever it is. Most of them end there. What leaves the cover again is a
//! client that has proved itself twice: with its hello (`auth::Judge`), and with the header behind it (`cover::gate`).
//! Only then does the proxy talk to Telegram, and from then on to its client in the cover's place.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::{Instrument, Level, Span, debug, enabled};

use super::{Server, promote};
use crate::cover::Outcome;
use crate::net::sockopt;
use crate::relay::splice::Splice;

/// What is left to do for a connection that is decided: to move its bytes.
pub(super) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves one client to the end.
///
/// The parts are boxed one by one, so that a connection that only moves bytes carries nothing of what was needed to find
/// out what it is. An idle one costs what its two sockets and the state of its directions take.
pub(super) async fn serve(server: Arc<Server>, client: TcpStream, peer: SocketAddr, span: Span) {
    if let Some(rest) = Box::pin(begin(server, client, peer).instrument(span)).await {
        rest.await;
    }
}

async fn begin(server: Arc<Server>, client: TcpStream, peer: SocketAddr) -> Option<Rest> {
    sockopt::no_delay(&client);
    let received = Box::pin(server.cover.receive(client, peer, Arc::clone(&server.judge))).await;
    match received {
        Outcome::Visited => {
            debug!("visit is over");
            None
        }
        Outcome::PassThrough(splice) => Some(Box::pin(pass_through(splice).instrument(span_to_the_end()))),
        Outcome::Promoted(client, promotion) => Box::pin(promote::session(&server, client, *promotion)).await,
    }
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for its arguments twice")]
fn pass_through(mut splice: Splice) -> impl Future<Output = ()> + Send {
    async move {
        let closed = splice.run().await;
        debug!(by = closed.by.label(), up = closed.up, down = closed.down, "visit is over");
    }
}

/// The connection's span, if anything will be logged in it once bytes are only moved.
pub(super) fn span_to_the_end() -> Span {
    if enabled!(Level::DEBUG) { Span::current() } else { Span::none() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::auth::{Judge, Keyring, ReplayMemory, TimeWindow};
    use crate::cover::Cover;
    use crate::cover::remote::{Remote, Settings};
    use crate::server;
    use crate::telegram;

    async fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    fn server() -> Arc<Server> {
        let settings = server::Settings {
            telegram: telegram::Settings::default(),
            idle: Duration::from_secs(1800),
            drain: Duration::from_secs(10),
            fillers: Vec::new(),
            log_addresses: false,
        };
        let remote = Remote::new(Settings { host: "192.0.2.1".into(), port: 443, proxy_protocol: None });
        let judge = Judge {
            keyring: Keyring::new([]),
            replay: ReplayMemory::volatile(),
            window: TimeWindow::new(Duration::from_secs(600)),
            names: None,
        };
        Arc::new(Server::new(settings, Cover::remote(remote, "site.test".parse().unwrap(), None), judge))
    }

    /// What docs/architecture.md says of the memory of connections rests on these sizes.
    #[tokio::test]
    async fn connections_are_small() {
        let peer = SocketAddr::from(([192, 0, 2, 2], 1));
        let whole = serve(server(), socket().await, peer, Span::none());
        let server = server();
        let received = server.cover.receive(socket().await, peer, Arc::clone(&server.judge));
        let undecided = size_of_val(&begin(Arc::clone(&server), socket().await, peer)) + size_of_val(&received);
        let passing = pass_through(Splice::new(socket().await, socket().await));
        let sizes = [size_of_val(&whole), undecided, size_of_val(&passing)];
        for (size, most) in sizes.into_iter().zip([192, 2048, 768]) {
            assert!(size <= most, "{sizes:?}");
        }
    }
}
