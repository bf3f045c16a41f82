//! The running proxy. Read [`connection`] first.

pub mod connection;
pub mod event;
pub mod fan_out;
pub mod handle;
mod keeper;
pub mod limits;
mod listeners;
mod promote;
pub mod sessions;
pub mod silence;
mod streams;
mod tariff;
mod tasks;
mod understanding;
mod web;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Span, field, info_span};

pub use listeners::{Bound, CannotListen, InheritedListener, ListenerSpec, Listening, Purpose};

use crate::auth::{Judge, MiddleUse, People, UnixTime};
use crate::base::memory;
use crate::base::summary::{self, Cause};
use crate::cover::{Cover, VisitObserver};
use crate::net::listen::{self, Listener};
use crate::net::proxy_protocol::{self, NoHeader};
use crate::net::sockopt;
use crate::relay::sizing::Patterns;
use crate::telegram::middle::{self, Middle};
use crate::telegram::{self, Upstream};
use crate::webproxy::WebProxy;
use crate::webproxy::service;
use crate::wire::HelloClass;
use crate::wire::rpc::AdTag;
use event::{Observer, VisitReporter};
use handle::Handle;
use limits::{Counts, IpFilter, Limits};
use listeners::ListenerSet;
use sessions::Sessions;
use silence::{SilenceLimits, SilenceScope};
use streams::StreamPlaces;
use tasks::Tasks;
use understanding::Understanding;

/// Settings of the running proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data centres.
    pub telegram: telegram::Settings,
    /// Middle proxies.
    pub middle: middle::Settings,
    /// The tag of those users who have none of their own; sessions of users with a tag go through middle proxies.
    pub ad_tag: Option<AdTag>,
    /// Sessions of users without a tag that go through middle proxies, where a user has nothing else.
    pub middle_use: MiddleUse,
    /// A session without a byte in either direction for this long is ended; `None`: for as long as the cover bears it.
    pub idle: Option<Duration>,
    /// Time for which connections may go on after the proxy was told to stop.
    pub drain: Duration,
    /// Time for which they may go on after another process has taken over.
    pub handover: Duration,
    /// Classes of clients that get records of NOP frames behind their header, in place of the cover's session tickets.
    pub fillers: Vec<HelloClass>,
    /// Clients whose silence behind an answer ends their session.
    pub end_unanswered: SilenceScope,
    /// Whether the log may show clients' addresses.
    pub log_addresses: bool,
    /// Limits on connections.
    pub limits: limits::Settings,
    /// Telegram's WEB proxies, if the built-in site serves them.
    pub web: Option<service::Settings>,
    /// Networks of the programs whose PROXY protocol headers count, on listeners that are meant for them. To others
    /// such a listener is like any other.
    pub believed: Vec<IpNet>,
}

/// Everything that connections share. What can be replaced while it is in use is asked for once by each connection.
pub struct Server {
    settings: ArcSwap<Settings>,
    cover: ArcSwap<Cover>,
    upstream: Upstream,
    judge: Arc<Judge>,
    people: Arc<People>,
    sessions: Arc<Sessions>,
    patterns: Patterns,
    understanding: Understanding,
    silences: Arc<SilenceLimits>,
    middle: Arc<Middle>,
    web: Arc<WebProxy>,
    observer: Arc<dyn Observer>,
    witness: Arc<dyn VisitObserver>,
    limits: ArcSwap<Limits>,
    counts: Arc<Counts>,
    barrier: Arc<dyn IpFilter>,
    listeners: ListenerSet,
    connections: Tasks,
    /// WEB's streams. They are opened inside of connections, and hold no listener back.
    streams: Tasks,
    stream_places: Arc<StreamPlaces>,
    /// No more clients.
    stop: CancellationToken,
    /// Another process accepts the clients.
    handed: CancellationToken,
    /// Visitors of the site are to come again, to another process if there is one.
    leaving: CancellationToken,
    /// Tells that the cover or the listeners are others than before.
    changed: watch::Sender<()>,
    /// Tells each time that everything which connections need was found in order.
    beats: watch::Sender<()>,
    /// Asks for that out of turn.
    asked: Notify,
    since: UnixTime,
    /// Number of clients that found a remote cover away.
    away: Arc<AtomicU64>,
    /// What the limit of open files has room for.
    room: DescriptorRoom,
}

impl Settings {
    fn believes(&self, front: IpAddr) -> bool {
        let front = front.to_canonical();
        self.believed.iter().any(|network| network.contains(&front))
    }
}

/// Tells that a program in front of us did not name its client.
fn give_up(front: SocketAddr, why: &str) {
    let front = front.ip().to_canonical().to_string();
    summary::note(Cause::warn("dropping connections of a front").because(&front), || why.to_owned());
}

/// What a limit of open files has room for, beside what else is open: listeners, the admin listener's connections, files,
/// connections that stand ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DescriptorRoom {
    /// Connections, each with its far side, where there are no streams.
    connections: usize,
    /// Connections beside as many streams as there may be.
    beside_streams: usize,
    /// WEB's streams, which are far sides alone. They have a part of their own, so that no client waits for them.
    streams: usize,
}

impl DescriptorRoom {
    fn of(limit: Option<u64>) -> Self {
        const APART: u64 = 256;
        let Some(limit) = limit else {
            return Self { connections: usize::MAX, beside_streams: usize::MAX, streams: usize::MAX };
        };
        let all = limit.saturating_sub(APART.min(limit / 4));
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX).max(1);
        let streams = all / 4;
        Self { connections: count(all / 2), beside_streams: count((all - streams) / 2), streams: count(streams) }
    }
}

/// Time limit for a program in front of us to name its client.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// A proxy in front of this cover, with this judge at the door, for these people; `observer` is told what happens,
    /// `barrier` knows who is not judged. It accepts no one before [`Handle::open`], and no more once `stop` is cancelled.
    pub fn handle(
        settings: Settings,
        cover: Cover,
        judge: Judge,
        people: Arc<People>,
        observer: Arc<dyn Observer>,
        barrier: Arc<dyn IpFilter>,
        stop: CancellationToken,
    ) -> Handle {
        let counts = Arc::<Counts>::default();
        let away = Arc::new(AtomicU64::new(0));
        let room = DescriptorRoom::of(getrlimit(Resource::Nofile).current);
        let upstream = Upstream::new(settings.telegram.clone());
        let witness =
            VisitReporter { observer: Arc::clone(&observer), barrier: Arc::clone(&barrier), away: Arc::clone(&away) };
        let witness = Arc::new(witness);
        Handle::new(Self {
            limits: ArcSwap::from_pointee(Limits::new(settings.limits.clone(), Arc::clone(&counts))),
            counts,
            barrier,
            middle: Arc::new(Middle::new(settings.middle.clone(), upstream.clone())),
            upstream,
            web: Arc::new(WebProxy::new(service::memory(memory::usable()))),
            settings: ArcSwap::from_pointee(settings),
            cover: ArcSwap::from_pointee(cover),
            judge: Arc::new(judge),
            people,
            sessions: Arc::default(),
            patterns: Patterns::default(),
            understanding: Understanding::default(),
            silences: Arc::default(),
            observer,
            witness,
            listeners: ListenerSet::default(),
            connections: Tasks::default(),
            streams: Tasks::default(),
            stream_places: Arc::new(StreamPlaces::new(room.streams)),
            stop,
            handed: CancellationToken::new(),
            leaving: CancellationToken::new(),
            changed: watch::Sender::new(()),
            beats: watch::Sender::new(()),
            asked: Notify::new(),
            since: SystemTime::now().into(),
            away,
            room,
        })
    }

    /// The sessions that are going on.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Returns the judge of hellos, which may be given other rules.
    pub fn judge(&self) -> &Arc<Judge> {
        &self.judge
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    fn cover(&self) -> Arc<Cover> {
        self.cover.load_full()
    }

    async fn accept(self: &Arc<Self>, listener: Arc<Listener>, purpose: Purpose) {
        loop {
            self.room().await;
            let report =
                |error: &std::io::Error| summary::note(Cause::warn("cannot accept connections"), || error.to_string());
            let (client, peer) = listen::accept(&listener, report).await;
            if purpose == Purpose::Proxied && self.settings.load().believes(peer.ip()) {
                let server = Arc::clone(self);
                // The box goes with the header; what serves the client has a task of its own.
                self.connections.spawn(async move { server.introduced(client, peer).await });
            } else {
                self.welcome(client, peer);
            }
        }
    }

    fn welcome(self: &Arc<Self>, client: TcpStream, peer: SocketAddr) {
        let admittance = self.limits.load().admit(peer.ip());
        self.connections.spawn(connection::serve(Arc::clone(self), client, peer, admittance, self.span(peer)));
    }

    /// A client whom the program in front of us names. Without its header no one knows who it is.
    async fn introduced(self: &Arc<Self>, mut client: TcpStream, front: SocketAddr) {
        match timeout(HEADER_PATIENCE, proxy_protocol::receive(&mut client)).await {
            Ok(Ok(peer)) => self.welcome(client, peer.unwrap_or(front)),
            Ok(Err(NoHeader::Nothing)) => {}
            Ok(Err(why)) => give_up(front, &why.to_string()),
            Err(_) => give_up(front, "no PROXY protocol header came"),
        }
    }

    /// Waits until one more client may be accepted. Meanwhile clients wait in the listener's queue.
    async fn room(&self) {
        // Of several listeners only one hears of each place, so the others look for themselves.
        const AGAIN: Duration = Duration::from_millis(50);
        while !self.limits.load().has_room() || !self.has_descriptors() {
            let _ = tokio::time::timeout(AGAIN, self.counts.freed()).await;
        }
    }

    /// Whether one more connection leaves enough descriptors for the far sides of those that there are: who is accepted must
    /// not be dropped for want of one.
    fn has_descriptors(&self) -> bool {
        let DescriptorRoom { connections, beside_streams, .. } = self.room;
        let most = if self.web.is_offered() { beside_streams } else { connections };
        let room = self.connections.len() < most;
        if !room {
            let cause = Cause::warn("clients wait: the limit of open files is reached; raise it");
            summary::note(cause, || format!("{most} connections"));
        }
        room
    }

    /// Waits until there is no connection and no stream any more.
    async fn over(&self) {
        self.connections.wait().await;
        self.streams.wait().await;
    }

    /// Ends all of them.
    fn end(&self) {
        self.connections.end();
        self.streams.end();
    }

    /// Limits for connections to come; those that there are keep their places.
    fn limit(&self, settings: &limits::Settings) {
        if self.limits.load().settings() != settings {
            self.limits.store(Arc::new(Limits::new(settings.clone(), Arc::clone(&self.counts))));
        }
    }

    /// Answers plain HTTP for the built-in site. Who has come stays with the site that was there then.
    async fn redirect(self: &Arc<Self>, listener: Arc<Listener>) {
        // Those who say nothing on this port must not use up what clients need on the other one.
        let places = Arc::new(Semaphore::new((self.room.connections / 4).clamp(8, 1024)));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let report =
                |error: &std::io::Error| summary::note(Cause::warn("cannot accept plain HTTP"), || error.to_string());
            let (client, peer) = listen::accept(&listener, report).await;
            let cover = self.cover();
            self.connections.spawn(async move {
                cover.redirect(client, peer).await;
                drop(place);
            });
        }
    }

    /// Serves the built-in site to web servers in front. The site of the moment serves a connection to its end. There are no
    /// limits by address, since all visitors come from that of the web server.
    async fn serve_fronts(self: &Arc<Self>, listener: Arc<Listener>) {
        let local = matches!(*listener, Listener::Unix(..));
        loop {
            self.room().await;
            let report = |error: &std::io::Error| {
                summary::note(Cause::warn("cannot accept web servers in front"), || error.to_string());
            };
            let (client, peer) = listen::accept(&listener, report).await;
            sockopt::no_delay(&client);
            let (cover, extension) = (self.cover(), web::entrance(self, false));
            self.connections.spawn(async move { cover.serve_front(client, (peer, local), Some(extension)).await });
        }
    }

    /// One span for each connection. It names the client only if the operator asked for that.
    fn span(&self, peer: SocketAddr) -> Span {
        let span = info_span!("connection", client = field::Empty, user = field::Empty, dc = field::Empty);
        if self.settings.load().log_addresses {
            span.record("client", field::display(peer.ip().to_canonical()));
        }
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_the_far_side_of_every_connection() {
        let most = [64, 256, 1024, 1 << 20].map(|limit| DescriptorRoom::of(Some(limit)).connections);
        assert_eq!(most, [24, 96, 384, (1 << 19) - 128]);
        let [none, zero] = [None, Some(0)].map(|limit| DescriptorRoom::of(limit).connections);
        assert_eq!((none, zero), (usize::MAX, 1));
        for limit in [64, 1000, 1024, 65_536, 1 << 20] {
            let room = DescriptorRoom::of(Some(limit));
            let all = 2 * room.beside_streams + room.streams;
            assert!(all as u64 <= limit && room.streams > 0 && room.beside_streams > room.connections / 2, "{room:?}");
        }
    }
}
