//! The carriers that are made of WebSockets.
//!
//! Messages of the plain socket and of lanes are batches, byte for byte. Those of the resumable socket are
//!
//! ```text
//! offset 0  number        u32, big-endian: of the batch, from 1; 0 without a batch, ffffffff without one if an answer is wanted
//!        4  acknowledged  u32: number of the last batch that arrived in the other direction
//!        8  batch
//! ```
//!
//! Its first message says what the app has, and nothing is sent before it. A newer socket takes the place of an older one.

use std::time::Instant;

use bytes::Bytes;

use super::{CarrierBinding, End, Mode, Session};
use crate::webproxy::frame::{self, Batch, Frame, MAX_BATCH};
use crate::webproxy::lane::BatchTurn;
use crate::webproxy::request::Socket;
use crate::webproxy::stream::{BatchScope, Violation};

/// Bytes before the batch in a message of the resumable socket.
const HEAD: usize = 8;
/// Number of a message that has no batch and wants an answer.
const ASKING: u32 = u32::MAX;

/// Name of an open socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(u32);

/// A socket that the session must not have: 404, and the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// All of it was applied.
    Applied,
    /// Nothing was applied: to be tried again when something was passed on.
    Busy,
    /// The socket is to be ended.
    Ended,
}

/// A socket that was opened and not closed.
#[derive(Debug)]
pub(super) struct OpenSocket {
    kind: Socket,
    /// Whether it is to be ended.
    pub(super) over: bool,
    /// Whether the first message has come.
    begun: bool,
    /// Number of the next batch to be sent, of a resumable socket.
    next: u64,
    /// Whether the app waits for an acknowledgement, of a resumable socket.
    owes: bool,
}

impl Session {
    /// Opens a socket.
    pub fn open_socket(&mut self, kind: Socket, now: Instant) -> Result<SocketId, Refused> {
        let allowed = match (kind, self.mode, self.bound) {
            (Socket::Plain, Mode::Websocket, CarrierBinding::Free) => true,
            (Socket::Resumable, Mode::Websocket, CarrierBinding::Free | CarrierBinding::Resumable) => true,
            (Socket::Lane(lane), Mode::WebsocketLanes, _) => self.takes_lane(lane),
            _ => false,
        };
        if !allowed || self.ended.is_some() {
            return Err(Refused);
        }
        match kind {
            Socket::Plain => self.bound = CarrierBinding::Socket,
            Socket::Resumable => {
                self.bound = CarrierBinding::Resumable;
                self.sockets.values_mut().for_each(|socket| socket.over = true);
            }
            Socket::Lane(_) => {}
        }
        let id = self.next_number() as u32;
        self.sockets.insert(id, OpenSocket { kind, over: false, begun: false, next: 1, owes: false });
        self.touched = now;
        Ok(SocketId(id))
    }

    fn takes_lane(&self, lane: u32) -> bool {
        let in_use = self.sockets.values().any(|socket| socket.kind == Socket::Lane(lane));
        let full = self.sockets.len() >= 2 * self.streams.limits().streams;
        !in_use && !full && !self.streams.is_live(lane) && !self.streams.is_gone(lane)
    }

    /// Takes a binary message.
    pub fn message(&mut self, socket: SocketId, message: Bytes, now: Instant) -> Message {
        let Some(open) = self.sockets.get(&socket.0).filter(|open| !open.over) else { return Message::Ended };
        let (kind, begun) = (open.kind, open.begun);
        self.touched = now;
        match kind {
            Socket::Resumable => return self.resumable_message(socket, message, now),
            _ if !message.is_empty() && !self.streams.takes(message.len()) => return Message::Busy,
            _ => {}
        }
        self.begun(socket);
        let frames = frame::read_batch(&message);
        match (kind, frames) {
            (Socket::Lane(lane), frames) => self.lane_message(socket, (lane, begun), frames, (message.len(), now)),
            (_, Ok(frames)) => self.goes_on(|session| session.apply_all(frames, message.len(), now)),
            (_, Err(fault)) => self.fail_socket(End::Frame(fault)),
        }
    }

    /// A message on the socket of one stream: whatever is wrong with it ends this stream alone.
    fn lane_message(
        &mut self,
        socket: SocketId,
        (lane, begun): (u32, bool),
        frames: Result<Vec<Frame>, frame::Fault>,
        (length, now): (usize, Instant),
    ) -> Message {
        let belong = |frames: &Vec<Frame>| {
            (begun || matches!(frames[..], [Frame::Open(_), ..])) && frames.iter().all(|frame| frame.stream() == lane)
        };
        let applied = match frames.ok().filter(belong) {
            Some(frames) => frames.into_iter().try_for_each(|frame| self.apply(frame, length, now)),
            None => Err(Violation::Lane),
        };
        match applied {
            Ok(()) => Message::Applied,
            Err(_) => {
                self.streams.bury(lane);
                self.over(socket);
                Message::Ended
            }
        }
    }

    fn resumable_message(&mut self, socket: SocketId, message: Bytes, now: Instant) -> Message {
        let Some(([number, acknowledged], batch)) = read_head(&message) else {
            return self.fail_socket(End::Frame(frame::Fault::Partial));
        };
        let Some(lane) = self.lanes.get_mut(&0) else { return Message::Ended };
        let turn = match number {
            0 | ASKING => None,
            number => Some(lane.up.judge_resumed(number.into())),
        };
        if turn == Some(BatchTurn::Next) && !self.streams.takes(batch.len()) {
            return Message::Busy;
        }
        let Some(cost) = lane.down.acknowledge(acknowledged.into(), now) else {
            return self.fail_socket(End::Cursor);
        };
        self.streams.delivered(cost);
        self.begun(socket);
        if let Some(open) = self.sockets.get_mut(&socket.0) {
            open.next = open.next.max(u64::from(acknowledged) + 1);
            open.owes |= number != 0;
        }
        match turn {
            None if !batch.is_empty() => self.fail_socket(End::Frame(frame::Fault::Form)),
            None | Some(BatchTurn::Repeated) => Message::Applied,
            Some(BatchTurn::Wrong) => self.fail_socket(End::Sequence),
            Some(BatchTurn::Next) => self.resumable_batch(&batch, now),
        }
    }

    fn resumable_batch(&mut self, batch: &Bytes, now: Instant) -> Message {
        match frame::read_batch(batch) {
            Err(fault) => self.fail_socket(End::Frame(fault)),
            Ok(frames) => {
                if let Some(lane) = self.lanes.get_mut(&0) {
                    lane.up.applied(None);
                }
                self.goes_on(|session| session.apply_all(frames, batch.len(), now))
            }
        }
    }

    /// Takes the next message to be sent, at most about so many bytes.
    pub fn next_message(&mut self, socket: SocketId, limit: usize, now: Instant) -> Option<Batch> {
        let open = self.sockets.get(&socket.0).filter(|open| !open.over)?;
        let scope = match open.kind {
            Socket::Plain => BatchScope::All,
            Socket::Lane(lane) => BatchScope::One(lane),
            Socket::Resumable => return self.next_resumable(socket, limit, now),
        };
        let batch = self.streams.fill(scope, limit.min(MAX_BATCH))?;
        self.streams.delivered(batch.cost());
        Some(batch)
    }

    fn next_resumable(&mut self, socket: SocketId, limit: usize, now: Instant) -> Option<Batch> {
        let open = self.sockets.get_mut(&socket.0).filter(|open| open.begun)?;
        let lane = self.lanes.get_mut(&0)?;
        let batch = match lane.down.again(open.next) {
            Some(batch) => Some(batch),
            None => match lane.down.allowance().min(limit).min(MAX_BATCH) {
                0 => None,
                limit => {
                    self.streams.fill(BatchScope::All, limit).inspect(|batch| _ = lane.down.keep(batch.clone(), now))
                }
            },
        };
        if batch.is_none() && !open.owes {
            return None;
        }
        open.owes = false;
        let number = if batch.is_some() { open.next as u32 } else { 0 };
        open.next += u64::from(batch.is_some());
        let mut message = batch.unwrap_or_default();
        message.put_before(write_head(number, lane.up.last() as u32));
        Some(message)
    }

    /// Whether [`Self::next_message`] would find something.
    pub fn socket_has_downlink(&self, socket: SocketId) -> bool {
        let Some(open) = self.sockets.get(&socket.0).filter(|open| !open.over) else { return false };
        match (open.kind, self.lanes.get(&0)) {
            (Socket::Plain, _) => self.streams.has(BatchScope::All),
            (Socket::Lane(lane), _) => self.streams.has(BatchScope::One(lane)),
            (Socket::Resumable, Some(lane)) => {
                let fresh = lane.down.allowance() > 0 && self.streams.has(BatchScope::All);
                open.begun && (open.owes || open.next <= lane.down.issued() || fresh)
            }
            (Socket::Resumable, None) => false,
        }
    }

    /// Whether a socket is to be ended by us: its stream is closed and everything was sent, a newer one took its place, or
    /// the session is over.
    pub fn socket_over(&self, socket: SocketId) -> bool {
        let Some(open) = self.sockets.get(&socket.0) else { return true };
        let done = match open.kind {
            Socket::Lane(lane) => open.begun && self.streams.is_gone(lane) && !self.streams.has(BatchScope::One(lane)),
            _ => false,
        };
        open.over || done
    }

    /// Tells that a socket has ended, by whichever side.
    pub fn close_socket(&mut self, socket: SocketId, now: Instant) {
        let Some(open) = self.sockets.remove(&socket.0) else { return };
        self.touched = now;
        match open.kind {
            Socket::Plain => self.end(End::Socket),
            Socket::Lane(lane) => self.streams.bury(lane),
            Socket::Resumable => {}
        }
    }

    fn begun(&mut self, socket: SocketId) {
        if let Some(open) = self.sockets.get_mut(&socket.0) {
            open.begun = true;
        }
    }

    fn over(&mut self, socket: SocketId) {
        if let Some(open) = self.sockets.get_mut(&socket.0) {
            open.over = true;
        }
    }

    fn goes_on(&mut self, apply: impl FnOnce(&mut Self) -> bool) -> Message {
        if apply(self) { Message::Applied } else { Message::Ended }
    }

    fn fail_socket(&mut self, why: End) -> Message {
        self.end(why);
        Message::Ended
    }
}

fn read_head(message: &Bytes) -> Option<([u32; 2], Bytes)> {
    let [a, b, c, d, e, f, g, h] = *message.first_chunk::<HEAD>()?;
    let head = [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])];
    Some((head, message.slice(HEAD..)))
}

fn write_head(number: u32, acknowledged: u32) -> Bytes {
    Bytes::from([number.to_be_bytes(), acknowledged.to_be_bytes()].concat())
}
