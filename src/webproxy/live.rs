//! A session of the carriers and its streams: what the pure [`Session`] decides is carried out here.
//!
//! Requests, sockets and streams call it from their own tasks, one at a time. What it decides are events, which go to the
//! streams while it is still locked, so that they arrive in their order.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::budget::{BudgetShare, KeyBudget};
use super::session::{End, Event, Session};
use super::token::Token;
use crate::auth::Key;

/// Carries streams on to their data centres.
pub trait StreamBackend: Send + Sync {
    /// A stream was opened. It lasts until the backend drops it, or learns from it that it is over. To be quick: it is only
    /// to be started here.
    fn open(&self, stream: WebStream);
}

/// A session that is going on.
pub struct LiveSession {
    token: Token,
    /// Token of the page that began it.
    page: Token,
    key: Arc<Key>,
    place: usize,
    backend: Arc<dyn StreamBackend>,
    /// Whether a stream of it was under the key.
    proven: AtomicBool,
    budget: Arc<KeyBudget>,
    state: Mutex<SessionState>,
    /// Tells those who wait for any change of the session.
    changed: Arc<Notify>,
}

/// Origin of a session.
pub struct SessionOrigin {
    /// Its token.
    pub token: Token,
    /// The token of the page.
    pub page: Token,
    /// The key whose capability was shown.
    pub key: Arc<Key>,
    /// The place that the page was made for.
    pub place: usize,
    /// Address that it was asked for from.
    pub peer: SocketAddr,
}

struct SessionState {
    session: Session,
    streams: HashMap<u32, StreamFeed>,
    /// Tells those who wait for a change of one lane.
    lanes: HashMap<u32, Arc<Notify>>,
    /// Address that the latest frames came from.
    peer: SocketAddr,
}

/// The session's end of a stream.
struct StreamFeed {
    data: mpsc::UnboundedSender<Bytes>,
    signals: Arc<StreamSignals>,
}

/// Signals for the backend of a stream.
#[derive(Default)]
struct StreamSignals {
    /// There may be room again.
    room: Notify,
    /// The stream is over, both ways.
    over: CancellationToken,
}

/// Time after which those look again who wait for the budget: a little that was given back is not told.
const AGAIN: Duration = Duration::from_millis(250);

impl LiveSession {
    /// A session that was not used yet.
    pub fn new(session: Session, begun: SessionOrigin, backend: Arc<dyn StreamBackend>) -> Arc<Self> {
        let SessionOrigin { token, page, key, place, peer } = begun;
        let budget = Arc::clone(session.budget());
        let (proven, changed) = (AtomicBool::new(false), Arc::default());
        let state = SessionState { session, streams: HashMap::new(), lanes: HashMap::new(), peer };
        Arc::new(Self { token, page, key, place, backend, budget, proven, state: Mutex::new(state), changed })
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The token of the page that began it.
    pub fn page(&self) -> &Token {
        &self.page
    }

    /// The key whose capability opened it.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Number of the place that its page was made for.
    pub fn place(&self) -> usize {
        self.place
    }

    /// A stream of it was under the key: its holder has the link, not only an address that the app has opened.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Whether it was proven.
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Has the session decide something, and carries that out.
    pub fn act<R>(self: &Arc<Self>, decide: impl FnOnce(&mut Session) -> R) -> R {
        let outcome = self.take(decide);
        self.tell();
        outcome
    }

    /// The same for what concerns no lane but this one.
    pub fn act_on<R>(self: &Arc<Self>, lane: u32, decide: impl FnOnce(&mut Session) -> R) -> R {
        let outcome = self.take(decide);
        self.tell_lane(lane);
        outcome
    }

    /// A share of the budget for what is on its way in.
    pub fn memory(&self) -> BudgetShare {
        BudgetShare::new(Arc::clone(&self.budget))
    }

    /// Waits until the budget may have room again, from this call on.
    pub fn budget_freed(&self) -> impl Future<Output = ()> + '_ {
        let freed = self.budget.freed();
        async move { _ = timeout(AGAIN, freed).await }
    }

    /// Frames come from there.
    pub fn heard_from(&self, peer: SocketAddr) {
        self.lock().peer = peer;
    }

    /// Address that the latest frames came from.
    pub fn peer(&self) -> SocketAddr {
        self.lock().peer
    }

    /// Tells all polls and sockets that there may be something for them.
    pub fn tell(&self) {
        self.changed.notify_waiters();
        self.lock().lanes.values().for_each(|lane| lane.notify_waiters());
    }

    /// Tells those of one lane, and those that no lane is for.
    pub fn tell_lane(&self, lane: u32) {
        let state = self.lock();
        if state.session.ended().is_some() {
            drop(state);
            return self.tell();
        }
        if let Some(waiting) = state.lanes.get(&lane) {
            waiting.notify_waiters();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Asks the session something that changes nothing.
    pub fn ask<R>(&self, question: impl FnOnce(&Session) -> R) -> R {
        question(&self.lock().session)
    }

    /// Takes something out of the session, which no poll or socket has to hear of.
    pub fn take<R>(self: &Arc<Self>, decide: impl FnOnce(&mut Session) -> R) -> R {
        let mut state = self.lock();
        let outcome = decide(&mut state.session);
        self.carry_out(state);
        outcome
    }

    /// Ends the session and all its streams.
    pub fn end(self: &Arc<Self>, why: End) {
        self.act(|session| session.end(why));
    }

    /// Waits for the next change of a lane from now on; of anything without one.
    pub fn changed(self: &Arc<Self>, lane: Option<u32>) -> LaneChange {
        let lane = lane.filter(|lane| *lane != 0);
        let notify = match lane {
            None => Arc::clone(&self.changed),
            Some(lane) => Arc::clone(self.lock().lanes.entry(lane).or_default()),
        };
        LaneChange { live: Arc::clone(self), lane, change: Box::pin(Arc::clone(&notify).notified_owned()), notify }
    }

    /// Cause of the session's end, if it is over: by itself, or since it was not used after `before`.
    pub fn is_over(&self, before: Option<Instant>) -> Option<End> {
        let state = self.lock();
        let idle = || before.zip(state.session.idle_since()).is_some_and(|(before, since)| since <= before);
        state.session.ended().or_else(|| idle().then_some(End::Idle))
    }

    /// Tells the streams what was decided.
    fn carry_out(self: &Arc<Self>, mut state: MutexGuard<'_, SessionState>) {
        let mut opened = Vec::new();
        while let Some(event) = state.session.next_event() {
            match event {
                Event::Open(id) => {
                    let (data, uplink) = mpsc::unbounded_channel();
                    let signals = Arc::<StreamSignals>::default();
                    state.streams.insert(id, StreamFeed { data, signals: Arc::clone(&signals) });
                    let handle = StreamHandle { live: Arc::clone(self), id, signals, peer: state.peer };
                    opened.push(WebStream { uplink, handle });
                }
                Event::Data(id, bytes) => {
                    // One that was dropped by its backend is closed by that.
                    if let Some(feed) = state.streams.get(&id) {
                        let _ = feed.data.send(bytes);
                    }
                }
                Event::Room(id) => {
                    if let Some(feed) = state.streams.get(&id) {
                        feed.signals.room.notify_one();
                    }
                }
                Event::Close(id) => {
                    if let Some(feed) = state.streams.remove(&id) {
                        feed.signals.over.cancel();
                    }
                }
            }
        }
        drop(state);
        // Whatever the backend does with it, even drop it, asks for the lock.
        opened.into_iter().for_each(|stream| self.backend.open(stream));
    }

    fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that is waited for.
pub struct LaneChange {
    live: Arc<LiveSession>,
    lane: Option<u32>,
    notify: Arc<Notify>,
    change: Pin<Box<OwnedNotified>>,
}

impl LaneChange {
    /// Waits for it.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.change.as_mut().poll(context)).await;
    }
}

impl Drop for LaneChange {
    fn drop(&mut self) {
        let Some(lane) = self.lane else { return };
        let mut state = self.live.lock();
        // The list, this and the future hold it: the last one leaves nothing behind.
        if state.lanes.get(&lane).is_some_and(|listed| Arc::ptr_eq(listed, &self.notify))
            && Arc::strong_count(&self.notify) <= 3
        {
            state.lanes.remove(&lane);
        }
    }
}

/// A stream, as its backend holds it.
pub struct WebStream {
    /// Bytes that the app sends, as far as its credit goes; the end tells that the stream is over, both ways.
    pub uplink: mpsc::UnboundedReceiver<Bytes>,
    /// The way back.
    pub handle: StreamHandle,
}

/// The way back of a stream. Dropped, the stream is closed behind what was pushed.
pub struct StreamHandle {
    live: Arc<LiveSession>,
    id: u32,
    signals: Arc<StreamSignals>,
    peer: SocketAddr,
}

impl StreamHandle {
    /// The key whose capability opened the session.
    pub fn key(&self) -> &Arc<Key> {
        self.live.key()
    }

    /// Address of the app.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The stream is under the key of its session.
    pub fn prove(&self) {
        self.live.prove();
    }

    /// So many bytes of the app were passed on, which gives it credit for others.
    pub fn consumed(&self, bytes: usize) {
        self.act(|session, id| session.consumed(id, bytes));
    }

    /// Waits until bytes may be pushed, and says how many.
    pub async fn room(&self) -> usize {
        loop {
            match self.room_now() {
                (0, false) => self.signals.room.notified().await,
                (0, true) => {
                    let freed = self.live.budget_freed();
                    // What was given back before that is seen by looking again.
                    if self.room_now() == (0, true) {
                        tokio::select! {
                            () = self.signals.room.notified() => {}
                            () = freed => {}
                        }
                    }
                }
                (room, _) => return room,
            }
        }
    }

    fn room_now(&self) -> (usize, bool) {
        let mut state = self.live.lock();
        if self.is_open(&state) { state.session.room_and_scarcity(self.id) } else { (0, false) }
    }

    /// Waits until the stream is over: the app has closed it, or its session has ended.
    pub async fn over(&self) {
        self.signals.over.cancelled().await;
    }

    /// Bytes for the app, at most as many as there is room for.
    pub fn push(&self, bytes: Bytes) {
        self.act(|session, id| session.push(id, bytes));
    }

    /// Ends the stream without what was pushed and has not left.
    pub fn abort(self) {
        self.act(|session, id| session.abort(id));
    }

    fn act(&self, decide: impl FnOnce(&mut Session, u32)) {
        let mut state = self.live.lock();
        if self.is_open(&state) {
            decide(&mut state.session, self.id);
            self.live.carry_out(state);
            self.live.tell_lane(self.id);
        }
    }

    /// Whether this is still the stream of its number.
    fn is_open(&self, state: &SessionState) -> bool {
        state.streams.get(&self.id).is_some_and(|feed| Arc::ptr_eq(&feed.signals, &self.signals))
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.act(|session, id| session.close(id));
        let mut state = self.live.lock();
        if self.is_open(&state) {
            state.streams.remove(&self.id);
        }
    }
}
