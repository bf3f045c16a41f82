//! One session of an app: its streams, and the carriers that move their frames. Pure: it owns no socket and reads no clock.
//!
//! ```text
//!   Events ◀─ streams ◀─ apply ◀─ [lane: sequence] ◀─ up / message          the app's batches
//!   push ────▶ streams ─▶ fill ─▶ [lane: kept]     ─▶ down / next_message    batches for the app
//! ```
//!
//! A session is announced with a mode, and the first carrier that is used binds it:
//!
//! | mode | carriers |
//! |---|---|
//! | `https` | requests |
//! | `https-lanes` | requests with a lane each |
//! | `websocket` | one socket, whose end is the session's end; or resumable sockets, which requests may follow; or requests |
//! | `websocket-lanes` | a socket for each stream |
//!
//! The resumable socket is our own page's: a lost one is followed by another, or by requests, with the same sequence numbers.

mod requests;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

pub use self::requests::{Down, Poll, Up};
use self::sockets::OpenSocket;
pub use self::sockets::{Message, Refused, SocketId};
use super::budget::KeyBudget;
use super::frame::{self, Frame};
use super::lane::{BatchSequence, SentBatches};
use super::stream::{BatchScope, StreamTable};
pub use super::stream::{Event, Limits, Violation};

/// Carrier that a site announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Requests: one at a time up, one long poll down.
    Https,
    /// The same for each stream.
    HttpsLanes,
    /// One WebSocket.
    Websocket,
    /// A WebSocket for each stream.
    WebsocketLanes,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Https, Self::HttpsLanes, Self::Websocket, Self::WebsocketLanes];

    /// Name in the page and in the answer to a session's creation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::HttpsLanes => "https-lanes",
            Self::Websocket => "websocket",
            Self::WebsocketLanes => "websocket-lanes",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or(())
    }
}

/// Cause of a session's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The app said so.
    Left,
    /// A malformed batch.
    Frame(frame::Fault),
    /// A batch against the rules of streams.
    Stream(Violation),
    /// A sequence number that cannot be.
    Sequence,
    /// A cursor that cannot be.
    Cursor,
    /// Its only socket ended.
    Socket,
    /// Nothing came for long.
    Idle,
    /// It was not proven, and another session of its key needed the place.
    Replaced,
    /// The user may not go on: disabled, expired, over quota.
    Revoked,
    /// The server stops.
    Shutdown,
}

/// Carrier that was used first, where the mode leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CarrierBinding {
    Free,
    Requests,
    Socket,
    Resumable,
}

/// Sequence numbers of one lane.
#[derive(Debug)]
struct LaneState {
    up: BatchSequence,
    down: SentBatches,
}

impl LaneState {
    fn new() -> Self {
        Self { up: BatchSequence::default(), down: SentBatches::new() }
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    bound: CarrierBinding,
    streams: StreamTable,
    /// Lane 0 is the whole session where there are no lanes.
    lanes: HashMap<u32, LaneState>,
    sockets: HashMap<u32, OpenSocket>,
    /// Counts polls and sockets.
    number: u64,
    touched: Instant,
    ended: Option<End>,
}

impl Session {
    /// A session that was just created.
    pub fn new(mode: Mode, limits: Limits, budget: Arc<KeyBudget>, now: Instant) -> Self {
        Self {
            mode,
            bound: CarrierBinding::Free,
            streams: StreamTable::new(limits, budget),
            lanes: HashMap::from([(0, LaneState::new())]),
            sockets: HashMap::new(),
            number: 0,
            touched: now,
            ended: None,
        }
    }

    /// The carrier that was announced.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes the next thing to be done. To be asked after every call until there is none.
    pub fn next_event(&mut self) -> Option<Event> {
        self.streams.events.pop_front()
    }

    /// Whether it is over, and why.
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Since when the app has given no sign of life; `None` while a socket is open or a poll waits.
    pub fn idle_since(&self) -> Option<Instant> {
        let open = self.sockets.values().any(|socket| !socket.over);
        let polled = self.lanes.values().any(|lane| lane.down.poll.is_some());
        (!open && !polled).then_some(self.touched)
    }

    /// Ends the session and all its streams.
    pub fn end(&mut self, why: End) {
        if self.ended.is_none() {
            self.ended = Some(why);
            self.streams.end();
            self.lanes = HashMap::new();
            self.sockets.values_mut().for_each(|socket| socket.over = true);
        }
    }

    /// How many streams live.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that may be pushed on a stream now. After 0 there will be an [`Event::Room`], if the stream lives and it is not
    /// the budget that allows no more.
    pub fn room(&mut self, id: u32) -> usize {
        self.streams.ask_room(id).0
    }

    /// The same, and whether it is the budget that allows no more.
    pub fn room_and_scarcity(&mut self, id: u32) -> (usize, bool) {
        self.streams.ask_room(id)
    }

    /// The part of the budget that it belongs to.
    pub fn budget(&self) -> &Arc<KeyBudget> {
        self.streams.budget()
    }

    /// Bytes of the app that were passed on to streams' far ends, in all.
    pub fn passed(&self) -> u64 {
        self.streams.passed()
    }

    /// Takes bytes of a stream's far end, at most [`Self::room`] of them.
    pub fn push(&mut self, id: u32, data: Bytes) {
        self.streams.push(id, data);
    }

    /// Tells that bytes of [`Event::Data`] were passed on: the app may send as many again.
    pub fn consumed(&mut self, id: u32, bytes: usize) {
        self.streams.consumed(id, bytes);
    }

    /// Closes a stream whose far end is gone or was never there. What was pushed still goes out before.
    pub fn close(&mut self, id: u32) {
        self.streams.close(id);
    }

    /// Closes a stream at once.
    pub fn abort(&mut self, id: u32) {
        self.streams.abort(id);
    }

    /// Asks the app for a sign of life. Carriers without a lane for it ask by their own means.
    pub fn ping(&mut self, payload: &[u8; 8]) {
        if self.mode != Mode::WebsocketLanes && self.ended.is_none() {
            self.streams.ping(payload);
        }
    }

    /// Whether something waits for the app on a lane of requests, or on all of them.
    pub fn has_downlink(&self, lane: Option<u32>) -> bool {
        self.ended.is_some() || self.streams.has(self.scope(lane.unwrap_or(0)))
    }

    fn scope(&self, lane: u32) -> BatchScope {
        match (self.mode, lane) {
            (Mode::Https | Mode::Websocket, _) => BatchScope::All,
            (_, 0) => BatchScope::Own,
            (_, lane) => BatchScope::One(lane),
        }
    }

    /// Applies one frame whose form was checked.
    fn apply(&mut self, frame: Frame, batch: usize, now: Instant) -> Result<(), Violation> {
        match frame {
            Frame::Open(id) => self.streams.open(id, now),
            Frame::Data(id, payload) => self.streams.data(id, payload, batch),
            Frame::Close(id) => self.streams.closed(id),
            Frame::Window(id, more) => self.streams.window(id, more),
            Frame::Pong => Ok(()),
        }
    }

    /// Applies a batch; the session is over if it breaks a rule. Says whether it goes on.
    fn apply_all(&mut self, frames: Vec<Frame>, batch: usize, now: Instant) -> bool {
        for frame in frames {
            if let Err(violation) = self.apply(frame, batch, now) {
                self.end(End::Stream(violation));
                return false;
            }
        }
        true
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}
