//! The carriers that are made of requests: `https` and `https-lanes`, and what `websocket` falls back to.

use std::time::Instant;

use bytes::Bytes;

use super::{CarrierBinding, End, LaneState, Mode, Session};
use crate::webproxy::frame::{self, Batch, Frame, MAX_BATCH};
use crate::webproxy::lane::BatchTurn;
use crate::webproxy::stream::Violation;

/// Answer to a batch of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// Applied, now or before: 204 with this number.
    Acknowledged(u64),
    /// Nothing was applied, and it may be tried again: 503.
    Busy,
    /// Nothing was applied, and the session goes on: 404.
    Refused,
    /// The session is over: 404.
    Ended,
}

/// Answer to a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// Frames for the app: 200.
    Batch {
        /// Number of the batch.
        cursor: u64,
        /// The frames.
        batch: Batch,
    },
    /// Nothing came in time, or a newer poll took over: 204.
    Empty {
        /// The poll's own cursor.
        cursor: u64,
    },
    /// The lane's stream is closed and everything was delivered: 204.
    LaneClosed {
        /// The poll's own cursor.
        cursor: u64,
    },
    /// To be asked again with [`Session::waited`].
    Wait(Poll),
    /// 404, and the session goes on.
    Refused,
    /// The session is over: 404.
    Ended,
}

/// A poll that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    lane: u32,
    number: u64,
    cursor: u64,
}

/// Lanes at once, in streams: refused ones live until their CLOSE has been read.
const LANES_A_STREAM: usize = 2;

impl Session {
    /// Takes a batch of the app from the body of a request.
    pub fn up(&mut self, lane: Option<u32>, sequence: u64, batch: Bytes, now: Instant) -> Up {
        if self.ended.is_some() {
            return Up::Ended;
        }
        if batch.is_empty() || batch.len() > MAX_BATCH || !self.takes_requests(lane) {
            return Up::Refused;
        }
        self.touched = now;
        let number = lane.unwrap_or(0);
        let turn = match self.lanes.get(&number) {
            Some(lane) if self.bound == CarrierBinding::Resumable => lane.up.judge_resumed(sequence),
            Some(lane) => lane.up.judge(sequence, &batch),
            None if sequence == 1 => BatchTurn::Next,
            None => BatchTurn::Wrong,
        };
        match turn {
            BatchTurn::Repeated => Up::Acknowledged(sequence),
            _ if number != 0 && self.streams.is_gone(number) => self.up_late(number, sequence, &batch),
            BatchTurn::Next => self.up_next(number, sequence, &batch, now),
            BatchTurn::Wrong => self.fail(End::Sequence),
        }
    }

    /// A batch for a lane whose stream is closed: acknowledged in whatever order, and ignored if its form is right.
    fn up_late(&mut self, lane: u32, sequence: u64, batch: &Bytes) -> Up {
        match frame::read_batch(batch) {
            Err(fault) => self.fail(End::Frame(fault)),
            Ok(frames) if frames.iter().any(|frame| frame.stream() != lane || matches!(frame, Frame::Open(_))) => {
                self.fail(End::Stream(Violation::Lane))
            }
            Ok(_) => Up::Acknowledged(sequence),
        }
    }

    fn up_next(&mut self, number: u32, sequence: u64, batch: &Bytes, now: Instant) -> Up {
        if !self.streams.takes(batch.len()) {
            return Up::Busy;
        }
        let frames = match frame::read_batch(batch) {
            Ok(frames) => frames,
            Err(fault) => return self.fail(End::Frame(fault)),
        };
        if self.mode == Mode::HttpsLanes && !self.belong(number, &frames) {
            return self.fail(End::Stream(Violation::Lane));
        }
        let lanes = self.lanes.len();
        if lanes > LANES_A_STREAM * self.streams.limits().streams && !self.lanes.contains_key(&number) {
            return self.fail(End::Stream(Violation::Refusals));
        }
        self.lanes.entry(number).or_insert_with(LaneState::new).up.applied(Some(batch));
        if !self.apply_all(frames, batch.len(), now) {
            return Up::Ended;
        }
        // A stream that the app closed has nothing more for it; one that we refused or closed still has its CLOSE.
        if number != 0 && !self.streams.is_live(number) && !self.streams.has(self.scope(number)) {
            self.drop_lane(number);
        }
        Up::Acknowledged(sequence)
    }

    /// Whether all frames are of their lane, and a new lane begins with OPEN.
    fn belong(&self, lane: u32, frames: &[Frame]) -> bool {
        let first = self.lanes.contains_key(&lane) || matches!(frames, [Frame::Open(_), ..]);
        first && frames.iter().all(|frame| frame.stream() == lane)
    }

    /// Takes a poll for frames.
    pub fn down(&mut self, lane: Option<u32>, cursor: u64, now: Instant) -> Down {
        if self.ended.is_some() {
            return Down::Ended;
        }
        if !self.takes_requests(lane) {
            return Down::Refused;
        }
        self.touched = now;
        let number = lane.unwrap_or(0);
        let poll = Poll { lane: number, number: self.next_number(), cursor };
        let Some(lane) = self.lanes.get_mut(&number) else {
            return if self.streams.is_gone(number) { Down::LaneClosed { cursor } } else { Down::Refused };
        };
        let Some(cost) = lane.down.acknowledge(cursor, now) else {
            self.end(End::Cursor);
            return Down::Ended;
        };
        lane.down.poll = Some(poll.number);
        self.streams.delivered(cost);
        self.waited(poll, now, false)
    }

    /// Answers a poll that waits; with `give_up` it gets an answer in any case.
    pub fn waited(&mut self, poll: Poll, now: Instant, give_up: bool) -> Down {
        let cursor = poll.cursor;
        if self.ended.is_some() {
            return Down::Ended;
        }
        let scope = self.scope(poll.lane);
        let Some(lane) = self.lanes.get_mut(&poll.lane) else { return Down::LaneClosed { cursor } };
        if lane.down.poll != Some(poll.number) {
            return Down::Empty { cursor };
        }
        if let Some(batch) = lane.down.again(cursor + 1) {
            lane.down.poll = None;
            return Down::Batch { cursor: cursor + 1, batch };
        }
        if let Some(batch) = self.streams.fill(scope, lane.down.allowance()) {
            lane.down.poll = None;
            self.touched = now;
            return Down::Batch { cursor: lane.down.keep(batch.clone(), now), batch };
        }
        if poll.lane != 0 && self.streams.is_gone(poll.lane) {
            self.drop_lane(poll.lane);
            return Down::LaneClosed { cursor };
        }
        if give_up {
            lane.down.poll = None;
            self.touched = now;
            return Down::Empty { cursor };
        }
        Down::Wait(poll)
    }

    /// Whether [`Self::waited`] would answer this poll now.
    pub fn is_due(&self, poll: Poll) -> bool {
        match self.lanes.get(&poll.lane) {
            Some(lane) if lane.down.poll == Some(poll.number) => {
                let closed = poll.lane != 0 && self.streams.is_gone(poll.lane);
                closed || self.streams.has(self.scope(poll.lane))
            }
            _ => true,
        }
    }

    /// Tells that the connection of a poll that waits was lost.
    pub fn abandoned(&mut self, poll: Poll, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(&poll.lane).filter(|lane| lane.down.poll == Some(poll.number)) {
            lane.down.poll = None;
            self.touched = now;
        }
    }

    /// Whether the session is carried by requests like this one. The first binds a session that had a choice; one on
    /// resumable sockets goes on with requests, and its sockets are over.
    fn takes_requests(&mut self, lane: Option<u32>) -> bool {
        match (self.mode, self.bound, lane) {
            (Mode::Https, _, None) | (Mode::HttpsLanes, _, Some(_)) => true,
            (Mode::Websocket, CarrierBinding::Free | CarrierBinding::Requests, None) => {
                self.bound = CarrierBinding::Requests;
                true
            }
            (Mode::Websocket, CarrierBinding::Resumable, None) => {
                self.sockets.values_mut().for_each(|socket| socket.over = true);
                true
            }
            _ => false,
        }
    }

    fn drop_lane(&mut self, number: u32) {
        if let Some(lane) = self.lanes.remove(&number) {
            self.streams.delivered(lane.down.kept_cost());
        }
    }

    fn fail(&mut self, why: End) -> Up {
        self.end(why);
        Up::Ended
    }
}
