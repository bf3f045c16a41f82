//! What others may ask of a running server, and do to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::listeners::{Bound, CannotListen, InheritedListener, ListenerSpec, Listening};
use super::sessions::Sessions;
use super::{Server, Settings, keeper, web};
use crate::auth::{Judge, People, Rules, UnixTime};
use crate::base::summary;
use crate::cover::site::acme::Standing;
use crate::cover::{Cover, profile::Profile};
use crate::telegram::Upstream;
use crate::telegram::middle::Middle;

/// Time limit of a sign of life; it usually takes less than a millisecond.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// A running server. Cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Server>);

/// Everything that can be different from now on.
pub struct Change {
    /// Settings of the server itself.
    pub settings: Settings,
    /// Rules of the judge. The replay cache must already hold what was shown under keys that are new here.
    pub rules: Rules,
    /// The cover; `None` leaves the present one in its place. Visits that have begun stay with the old one.
    pub cover: Option<Cover>,
    /// The listeners.
    pub listeners: Bound,
}

/// State of a server.
#[derive(Clone, Debug)]
pub struct Status {
    /// Start time.
    pub since: UnixTime,
    /// Whether it accepts no more clients and waits for the rest to go.
    pub draining: bool,
    /// Open listeners.
    pub listeners: Vec<Listening>,
    /// Number of connections, sessions included.
    pub connections: usize,
    /// Number of sessions.
    pub sessions: usize,
    /// The cover.
    pub cover: CoverStatus,
}

/// State of the cover.
#[derive(Clone, Debug)]
pub struct CoverStatus {
    /// `site` or `remote`.
    pub kind: &'static str,
    /// Host and port of a remote cover.
    pub place: Option<(String, u16)>,
    /// Profile learnt from visits to it.
    pub profile: Arc<Profile>,
    /// Number of rounds of visits that found it changed.
    pub changes: u64,
    /// Number of clients that found it away since the start.
    pub away: u64,
    /// Expiry of the certificate of the built-in site.
    pub certificate_ends: Option<UnixTime>,
    /// State of issuance by the authority, if there is one.
    pub acme: Option<Standing>,
}

impl Handle {
    pub(super) fn new(server: Server) -> Self {
        web::offer(&server).file();
        Self(Arc::new(server))
    }

    /// The sessions that are going on: to be listed, and to be ended.
    pub fn sessions(&self) -> &Arc<Sessions> {
        self.0.sessions()
    }

    /// Returns the judge of hellos.
    pub fn judge(&self) -> &Arc<Judge> {
        self.0.judge()
    }

    /// All who may enter: what they may do, and what they have moved.
    pub fn people(&self) -> &Arc<People> {
        &self.0.people
    }

    /// Links to middle proxies: to be told which there are, and asked how it stands.
    pub fn middle(&self) -> &Arc<Middle> {
        &self.0.middle
    }

    /// The cover as it is now.
    pub fn cover(&self) -> Arc<Cover> {
        self.0.cover()
    }

    /// The way to Telegram.
    pub fn upstream(&self) -> &Upstream {
        &self.0.upstream
    }

    /// Tells when the cover or the listeners are others than before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings()
    }

    /// Binds those of these listeners that are not open, without accepting anybody yet. One that is open, not wanted and
    /// in the way of another is closed for it, so that nothing but [`Handle::apply`] should follow; it is opened again if
    /// that was in vain.
    pub async fn bind(&self, wanted: &[ListenerSpec]) -> Result<Bound, CannotListen> {
        self.0.listeners.rebind(&self.0, wanted).await
    }

    /// Returns the listeners that are open, for clients and visitors.
    pub fn listeners(&self) -> Vec<Listening> {
        self.0.listeners.list()
    }

    /// From now on everything is like this. Cannot fail: whatever may has been tried by the one who made the change.
    /// Connections that there are go on, but for sessions of those who may not enter any more.
    pub fn apply(&self, change: Change) {
        let Change { settings, rules, cover, listeners } = change;
        let server = &self.0;
        server.limit(&settings.limits);
        server.upstream.replace(settings.telegram.clone());
        server.middle.apply(settings.middle.clone());
        server.settings.store(Arc::new(settings));
        server.judge.replace_rules(rules);
        let mut changed = cover.is_some();
        if let Some(cover) = cover {
            server.cover.store(Arc::new(cover));
        }
        if !self.is_draining() {
            changed |= server.listeners.apply(server, listeners);
        }
        if changed {
            server.changed.send_replace(());
        }
        web::offer_again(server);
        keeper::end_unwanted(server);
        keeper::ask_for_lists(server);
    }

    /// From now on exactly these may enter, and all else stays as it is. What was spent under keys that are new here must
    /// have been learnt before.
    pub fn enrol(&self, rules: Rules) {
        self.0.judge.replace_rules(rules);
        web::offer_again(&self.0);
        keeper::end_unwanted(&self.0);
    }

    /// Accepts no more; what is going on has the time that the settings promise it, then [`Handle::serve`] returns.
    pub fn drain(&self) {
        self.0.stop.cancel();
    }

    /// Whether [`Handle::drain`] or [`Handle::hand_over`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.stop.is_cancelled() || self.0.handed.is_cancelled()
    }

    /// The listeners once more, for another process that takes over.
    pub fn pass(&self) -> io::Result<Vec<InheritedListener>> {
        self.0.listeners.pass()
    }

    /// Everything that another process has passed on is this one's from now on, also files of sockets.
    pub fn own(&self) {
        self.0.listeners.leave_files(false);
    }

    /// Accepts no one for now: who comes waits in the listeners' queues for the process that accepts next.
    pub async fn pause(&self) {
        self.0.listeners.pause().await;
    }

    /// Accepts again: the other process has not taken over, or not yet.
    pub fn resume(&self) {
        self.0.listeners.resume(&self.0);
    }

    /// Leaves the clients that come to the other process. What is going on has the time that the settings promise it for
    /// this, then [`Handle::serve`] returns.
    pub fn hand_over(&self) {
        self.0.handed.cancel();
    }

    /// Whether the server gives a sign of life within a few seconds: it is asked to look after its connections out of turn,
    /// for which it takes every lock that connections take.
    pub async fn is_alive(&self) -> bool {
        let mut beats = self.0.beats.subscribe();
        self.0.asked.notify_one();
        timeout(SIGN_OF_LIFE, beats.changed()).await.is_ok()
    }

    /// Returns the state of the server.
    pub fn status(&self) -> Status {
        let cover = self.cover();
        Status {
            since: self.0.since,
            draining: self.is_draining(),
            listeners: self.listeners(),
            connections: self.0.connections.len(),
            sessions: self.sessions().len(),
            cover: CoverStatus {
                kind: cover.kind(),
                place: cover.place().map(|(host, port)| (host.to_owned(), port)),
                profile: cover.profile(),
                changes: cover.changes(),
                away: self.0.away.load(Ordering::Relaxed),
                certificate_ends: cover.certificate_ends(),
                acme: cover.acme(),
            },
        }
    }

    /// Accepts clients on these listeners; [`Handle::serve`] is to follow.
    pub fn open(&self, listeners: Bound) {
        self.0.listeners.apply(&self.0, listeners);
    }

    /// Serves until [`Handle::drain`] or [`Handle::hand_over`] is called, then gives what is going on the time it was
    /// promised.
    pub async fn serve(&self) {
        let server = &self.0;
        let keeper = tokio::spawn(keeper::keep(Arc::clone(server)));
        let upstream = server.upstream.clone();
        let warm = AbortOnDropHandle::new(tokio::spawn(async move { upstream.keep_warm().await }));
        tokio::select! {
            () = server.stop.cancelled() => {}
            () = server.handed.cancelled() => {}
        }
        drop(warm);
        server.listeners.shut().await;
        // Sessions of WEB cannot go on in another process, and a page that kept its connection would not even reach it. The
        // sooner apps load the page again the better; what answers them on the way says that the connection ends.
        server.leaving.cancel();
        server.web.close();
        if !server.stop.is_cancelled() {
            let grace = server.settings().handover;
            info!(connections = server.connections.len(), grace_seconds = grace.as_secs(), "leaving");
            tokio::select! {
                () = server.stop.cancelled() => {}
                over = timeout(grace, server.over()) => if over.is_err() { server.end() },
            }
        }
        let grace = server.settings().drain;
        info!(connections = server.connections.len(), grace_seconds = grace.as_secs(), "stopping");
        if timeout(grace, server.over()).await.is_err() {
            server.end();
            server.over().await;
        }
        keeper.abort();
        keeper::last_sync(server).await;
        summary::tell_rest();
        info!("stopped");
    }
}
