//! One connection from its first byte to its last.
//!
//! Every connection is received by the cover, no matter who it is. Most of them end there. What leaves the cover again is a
//! client that has proved itself twice: with its hello (`auth::Judge`), and with the header behind it (`cover::gate`).
//! Only then does the proxy talk to Telegram, and from then on to its client in the cover's place.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tracing::{Instrument, Level, Span, debug, enabled};

use super::event::Event;
use super::limits::{Admittance, Limit};
use super::{Server, promote, web};
use crate::auth::Reason;
use crate::cover::{Caller, Outcome};
use crate::net::sockopt;
use crate::relay::splice::Splice;

/// Remaining work for a connection that is decided: to move its bytes.
pub(super) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves one client to the end.
///
/// The parts are boxed one by one, so that a connection that only moves bytes carries nothing of what was needed to find
/// out what it is. An idle one costs what its two sockets and the state of its directions take.
pub(super) fn serve(
    server: Arc<Server>,
    client: TcpStream,
    peer: SocketAddr,
    admittance: Admittance,
    span: Span,
) -> impl Future<Output = ()> + Send {
    let Admittance { above, place } = admittance;
    // Boxed out here, since an asynchronous block keeps the room of all that it was given.
    let begun = Box::pin(begin(server, client, peer, above).instrument(span));
    async move {
        let _place = place;
        if let Some(rest) = begun.await {
            rest.await;
        }
    }
}

async fn begin(server: Arc<Server>, client: TcpStream, peer: SocketAddr, above: Option<Limit>) -> Option<Rest> {
    let above = above.or(server.limits.load_full().turn(peer.ip()).await);
    let barred = server.barrier.bars(peer.ip()).or(above.map(Limit::label)).map(Reason::Barred);
    let since = Instant::now();
    sockopt::no_delay(&client);
    server.observer.observe(&Event::Accepted);
    let (judge, witness) = (Arc::clone(&server.judge), Arc::clone(&server.witness));
    let extension = Some(web::entrance(&server, barred.is_some()));
    let cover = server.cover();
    let received = Box::pin(cover.receive(Caller { client, peer, barred, judge, witness, extension })).await;
    match received {
        Outcome::Visited => {
            debug!("visit is over");
            server.observer.observe(&Event::VisitOver { closed: None, lasted: since.elapsed() });
            None
        }
        Outcome::PassThrough(splice) => {
            Some(Box::pin(pass_through(server, splice, since).instrument(span_to_the_end())))
        }
        Outcome::Promoted(client, promotion) => {
            let (member, class) = (promotion.admission.member(), promotion.admission.class());
            let (took, by_cover) = (since.elapsed(), promotion.by_cover);
            server.observer.observe(&Event::Admitted { from: peer, member, class, took, by_cover });
            Box::pin(promote::session(server, &cover, client, peer, *promotion)).await
        }
    }
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for its arguments twice")]
fn pass_through(server: Arc<Server>, mut splice: Splice, since: Instant) -> impl Future<Output = ()> + Send {
    async move {
        let closed = splice.run().await;
        debug!(by = closed.by.label(), up = closed.up, down = closed.down, "visit is over");
        server.observer.observe(&Event::VisitOver { closed: Some(closed), lasted: since.elapsed() });
    }
}

/// The connection's span, if anything will be logged in it once bytes are only moved.
pub(super) fn span_to_the_end() -> Span {
    if enabled!(Level::DEBUG) { Span::current() } else { Span::none() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::super::event::Observer;
    use super::super::limits;
    use super::*;
    use crate::auth::{Judge, Keyring, ReplayMemory, Rules, TimeWindow};
    use crate::cover::Cover;
    use crate::cover::remote::{Remote, Settings};
    use crate::server;
    use crate::telegram;

    pub(in super::super) async fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    pub(in super::super) fn server() -> Arc<Server> {
        let settings = server::Settings {
            telegram: telegram::Settings::default(),
            middle: telegram::middle::Settings::default(),
            ad_tag: None,
            middle_use: Default::default(),
            idle: None,
            drain: Duration::from_secs(10),
            handover: Duration::from_secs(10),
            fillers: Vec::new(),
            end_unanswered: Default::default(),
            log_addresses: false,
            limits: limits::Settings::default(),
            web: None,
            believed: Vec::new(),
        };
        let dialer = crate::net::route::Dialer::default();
        let remote = Remote::new(Settings { host: "192.0.2.1".into(), port: 443, dialer, ..Settings::default() });
        let window = TimeWindow::new(Duration::from_secs(600));
        let judge = Judge::new(Rules { keyring: Keyring::new([]), window, names: None }, ReplayMemory::volatile());
        let cover = Cover::remote(remote, "site.test".parse().unwrap(), None);
        let nobody: Arc<dyn Observer> = Arc::new(Vec::new());
        let stop = CancellationToken::new();
        Server::handle(settings, cover, judge, Arc::default(), nobody, Arc::new(()), stop).0
    }

    /// Checks the sizes that docs/architecture.md relies on for the memory of connections.
    #[tokio::test]
    async fn connections_are_small() {
        let peer = SocketAddr::from(([192, 0, 2, 2], 1));
        let server = server();
        let limits = server.limits.load_full();
        let admittance = || limits.admit(peer.ip());
        let whole = serve(Arc::clone(&server), socket().await, peer, admittance(), Span::none());
        let cover = server.cover();
        let (judge, witness) = (Arc::clone(&server.judge), Arc::clone(&server.witness));
        let received =
            cover.receive(Caller { client: socket().await, peer, barred: None, judge, witness, extension: None });
        let undecided = size_of_val(&begin(Arc::clone(&server), socket().await, peer, None)) + size_of_val(&received);
        let splice = Splice::new(socket().await, socket().await);
        let passing = pass_through(Arc::clone(&server), splice, Instant::now());
        let sizes = [size_of_val(&whole), undecided, size_of_val(&passing)];
        for (size, most) in sizes.into_iter().zip([144, 2688, 768]) {
            assert!(size <= most, "{sizes:?}");
        }
    }
}
