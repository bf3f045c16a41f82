//! Streams of one session: their credit both ways, what waits for the app, and the order in which it goes.
//!
//! Streams take turns by deficit round robin with a list of newcomers before the others (the idea of `fq_codel`): a stream
//! that had nothing to send goes first with its first 16 KiB, so that an answer to a ping does not wait behind a download.
//!
//! ```text
//!   push ─▶ queue of the stream ─▶ newcomers ─┬─▶ frames of a batch
//!                                   others  ──┘      before them: PING, CLOSE of refused streams, WINDOW, CLOSE
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::budget::{BudgetShare, FLOOR, ITEM, KeyBudget};
use super::frame::{Batch, HEAD, Kind, MAX_DATA, MAX_FRAMES, whole};
use super::queue::{OpenRate, RefusedStreams, StreamState, Tombstones};

/// Bytes that a stream may send in its turn while others wait.
const QUANTUM: usize = 16 << 10;
/// Bytes that may wait for a stream whatever else waits, so that a full session or a full budget stalls no stream for good.
const RESERVE: usize = 16 << 10;
/// Bytes that were passed on before the app is given them back.
const GRANT: u32 = 256 << 10;
/// Refusals that may wait to be sent. An app that opens more streams without reading an answer is none.
const REFUSALS: usize = 4096;
/// Payloads of the app below this are copied, whatever they came with.
const SMALL: usize = 4096;
/// Memory of a stream of which nothing waits: its state here, and the task that carries it on.
const STREAM: usize = 4096;
/// Streams that a session may have however little memory is left.
const FEW: usize = 8;

/// Bounds of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams at once.
    pub streams: usize,
    /// Bytes that wait for the app on one stream.
    pub stream_queue: usize,
    /// Bytes that wait for the app on all streams, sent and not acknowledged ones included.
    pub session_down: usize,
    /// Bytes of the app that have not been passed on to the streams' far ends.
    pub session_up: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 128, stream_queue: 256 << 10, session_down: 4 << 20, session_up: 32 << 20 }
    }
}

/// Outcome of a frame of the app, to be carried out by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new stream: its far end is to be dialled. [`super::Session::close`] refuses it.
    Open(u32),
    /// Bytes for the far end; [`super::Session::consumed`] says when they were passed on.
    Data(u32, Bytes),
    /// The stream may push again after its room was 0.
    Room(u32),
    /// The stream is over both ways, now. It needs no call any more.
    Close(u32),
}

/// A rule of streams that the app broke; ends the session, or the lane where lanes have sockets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// OPEN of a stream that lives or is remembered.
    OpenTwice,
    /// A frame for a stream that was never opened.
    Unknown,
    /// DATA beyond the credit.
    Credit,
    /// More refused streams than answers were read.
    Refusals,
    /// A frame that does not belong to its lane.
    Lane,
}

/// Which frames a batch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchScope {
    /// Those of all streams, and of the session itself.
    All,
    /// Those of the session itself: PING.
    Own,
    /// Those of one stream.
    One(u32),
}

/// All streams of a session.
#[derive(Debug)]
pub(super) struct StreamTable {
    limits: Limits,
    live: HashMap<u32, StreamState>,
    gone: Tombstones,
    newcomers: VecDeque<u32>,
    others: VecDeque<u32>,
    control: VecDeque<u32>,
    refused: RefusedStreams,
    opens: OpenRate,
    ping: Option<Bytes>,
    blocked: Vec<u32>,
    /// Memory of what the app sent and was not passed on yet.
    up: usize,
    /// Memory of what waits for the app, or was sent and not acknowledged.
    down: usize,
    /// Bytes of the app that were passed on, in all.
    passed: u64,
    /// Both, and the streams themselves.
    share: BudgetShare,
    pub(super) events: VecDeque<Event>,
}

impl StreamTable {
    pub(super) fn new(limits: Limits, budget: Arc<KeyBudget>) -> Self {
        Self {
            limits,
            live: HashMap::new(),
            gone: Tombstones::default(),
            newcomers: VecDeque::new(),
            others: VecDeque::new(),
            control: VecDeque::new(),
            refused: RefusedStreams::default(),
            opens: OpenRate::default(),
            ping: None,
            blocked: Vec::new(),
            up: 0,
            down: 0,
            passed: 0,
            share: BudgetShare::new(budget),
            events: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The part of the budget that the session belongs to.
    pub(super) fn budget(&self) -> &Arc<KeyBudget> {
        self.share.key()
    }

    /// Bytes of the app that were passed on, in all.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Tells the budget what is held now.
    fn settle(&mut self) {
        self.share.set(self.up + self.down + STREAM * self.live.len());
    }

    pub(super) fn is_live(&self, id: u32) -> bool {
        self.live.contains_key(&id)
    }

    pub(super) fn is_gone(&self, id: u32) -> bool {
        self.gone.has(id)
    }

    /// Whether a batch of this length may be taken in now. One that finds nothing of the session waiting always makes some
    /// progress, so that those who fill the budget cannot shut out the others.
    pub(super) fn takes(&self, length: usize) -> bool {
        match self.up {
            0 => !self.share.is_spent() || length <= FLOOR,
            waiting => waiting + length <= self.limits.session_up && !self.share.is_spent(),
        }
    }

    // Frames of the app.

    pub(super) fn open(&mut self, id: u32, now: Instant) -> Result<(), Violation> {
        if self.is_live(id) || self.is_gone(id) {
            return Err(Violation::OpenTwice);
        }
        let live = self.live.len();
        let full = live >= self.limits.streams || (live >= FEW && self.share.is_spent());
        if full || !self.opens.take(now) {
            self.gone.add(id);
            self.refused.add(id);
            return if self.refused.len() > REFUSALS { Err(Violation::Refusals) } else { Ok(()) };
        }
        self.live.insert(id, StreamState::new());
        self.settle();
        self.events.push_back(Event::Open(id));
        Ok(())
    }

    /// Takes in DATA. A payload that is most of its batch is handed on as it is; others are copied, so that a few bytes that
    /// wait for a slow far end do not keep the memory of a whole batch.
    pub(super) fn data(&mut self, id: u32, payload: Bytes, batch: usize) -> Result<(), Violation> {
        let Some(stream) = self.live.get_mut(&id) else { return self.late(id) };
        let length = payload.len();
        stream.allowed = stream.allowed.checked_sub(length as u32).ok_or(Violation::Credit)?;
        if stream.closing {
            return Ok(());
        }
        stream.hold(length as u32);
        self.up += length + ITEM;
        self.settle();
        let most = length >= SMALL && 2 * length >= batch;
        let payload = if most { payload } else { Bytes::copy_from_slice(&payload) };
        self.events.push_back(Event::Data(id, payload));
        Ok(())
    }

    pub(super) fn window(&mut self, id: u32, more: u32) -> Result<(), Violation> {
        let Some(stream) = self.live.get_mut(&id) else { return self.late(id) };
        stream.credit = stream.credit.saturating_add(more);
        self.list(id);
        self.tell_room();
        Ok(())
    }

    pub(super) fn closed(&mut self, id: u32) -> Result<(), Violation> {
        if self.is_live(id) {
            self.remove(id)
        } else {
            return self.late(id);
        };
        Ok(())
    }

    /// Ends a stream as if the app had closed it, and remembers it even if it was never opened.
    pub(super) fn bury(&mut self, id: u32) {
        self.remove(id);
        self.gone.add(id);
        self.refused.take(id);
    }

    /// A frame for a stream that is not live: ignored if it is remembered.
    fn late(&self, id: u32) -> Result<(), Violation> {
        if self.is_gone(id) { Ok(()) } else { Err(Violation::Unknown) }
    }

    // Calls of the streams' far ends.

    /// Bytes that may be pushed now, and whether it is the budget that allows no more.
    fn room(&self, id: u32) -> (usize, bool) {
        let Some(stream) = self.live.get(&id).filter(|stream| !stream.closing) else { return (0, false) };
        let spent = self.share.is_spent();
        let session = if spent { 0 } else { self.limits.session_down.saturating_sub(self.down) };
        let reserve = RESERVE.saturating_sub(stream.queued());
        let queue = self.limits.stream_queue.saturating_sub(stream.queued());
        let most = queue.min((stream.credit as usize).saturating_sub(stream.queued()));
        (session.max(reserve).min(most), spent && most > 0)
    }

    /// The same; a stream that has no room is told when it has some, however often others were quicker to take it.
    pub(super) fn ask_room(&mut self, id: u32) -> (usize, bool) {
        let room = self.room(id);
        if room.0 == 0
            && let Some(stream) = self.live.get_mut(&id)
            && !std::mem::replace(&mut stream.blocked, true)
        {
            self.blocked.push(id);
        }
        room
    }

    pub(super) fn push(&mut self, id: u32, data: Bytes) {
        let Some(stream) = self.live.get_mut(&id).filter(|stream| !stream.closing && !data.is_empty()) else { return };
        self.down -= stream.down_cost();
        stream.append(data);
        self.down += stream.down_cost();
        self.settle();
        self.list(id);
    }

    pub(super) fn consumed(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        self.up -= stream.up_cost();
        let bytes = stream.pass(bytes);
        self.up += stream.up_cost();
        self.passed += bytes as u64;
        stream.owed += bytes as u32;
        if stream.owed >= GRANT && !stream.closing && !std::mem::replace(&mut stream.control, true) {
            self.control.push_back(id);
        }
        self.settle();
        self.tell_room();
    }

    /// The far end is gone: CLOSE follows what is queued.
    pub(super) fn close(&mut self, id: u32) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        stream.closing = true;
        self.up -= stream.up_cost();
        stream.drop_held();
        self.settle();
        self.close_if_drained(id);
    }

    /// CLOSE without what is queued.
    pub(super) fn abort(&mut self, id: u32) {
        if let Some(stream) = self.live.get_mut(&id) {
            self.down -= stream.down_cost();
            stream.drop_queue();
            self.unlist(id);
        }
        self.close(id);
    }

    pub(super) fn ping(&mut self, payload: &[u8; 8]) {
        self.ping = Some(whole(Kind::Ping, 0, payload));
    }

    /// Ends all streams.
    pub(super) fn end(&mut self) {
        let ids: Vec<u32> = self.live.keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(id));
        self.refused = RefusedStreams::default();
        self.ping = None;
        (self.up, self.down) = (0, 0);
        self.settle();
    }

    /// Drops a stream and remembers it.
    fn remove(&mut self, id: u32) {
        let Some(stream) = self.live.remove(&id) else { return };
        self.gone.add(id);
        self.up -= stream.up_cost();
        self.down -= stream.down_cost();
        self.settle();
        for list in [&mut self.newcomers, &mut self.others, &mut self.control] {
            list.retain(|listed| *listed != id);
        }
        self.blocked.retain(|blocked| *blocked != id);
        if !stream.closing {
            self.events.push_back(Event::Close(id));
        }
        self.tell_room();
    }

    // Lists.

    fn list(&mut self, id: u32) {
        let Some(stream) = self.live.get_mut(&id).filter(|stream| !stream.listed && stream.sendable() > 0) else {
            return;
        };
        stream.listed = true;
        stream.deficit = QUANTUM;
        self.newcomers.push_back(id);
    }

    fn unlist(&mut self, id: u32) {
        if let Some(stream) = self.live.get_mut(&id).filter(|stream| stream.listed) {
            stream.listed = false;
            self.newcomers.retain(|listed| *listed != id);
            self.others.retain(|listed| *listed != id);
        }
    }

    fn close_if_drained(&mut self, id: u32) {
        if let Some(stream) = self.live.get_mut(&id)
            && stream.closing
            && stream.queued() == 0
            && !std::mem::replace(&mut stream.control, true)
        {
            self.control.push_back(id);
        }
    }

    /// Wakes the streams that wait for room and have some.
    fn tell_room(&mut self) {
        if self.blocked.is_empty() {
            return;
        }
        let (free, blocked) = std::mem::take(&mut self.blocked).into_iter().partition(|id| self.room(*id).0 > 0);
        self.blocked = blocked;
        let free: Vec<u32> = free;
        for id in free {
            if let Some(stream) = self.live.get_mut(&id) {
                stream.blocked = false;
                self.events.push_back(Event::Room(id));
            }
        }
    }

    // Batches.

    /// Whether [`Self::fill`] would find a frame.
    pub(super) fn has(&self, scope: BatchScope) -> bool {
        let of = |id: u32| {
            let waits = |stream: &StreamState| stream.control || stream.sendable() > 0;
            self.refused.has(id) || self.live.get(&id).is_some_and(waits)
        };
        match scope {
            BatchScope::All => {
                let lists = [&self.newcomers, &self.others, &self.control];
                let refused = !self.refused.is_empty();
                self.ping.is_some() || refused || lists.iter().any(|list| !list.is_empty())
            }
            BatchScope::Own => self.ping.is_some(),
            BatchScope::One(id) => of(id),
        }
    }

    /// Takes the next frames, at most about so many bytes; `None` if there are none. What they cost stays in the session's
    /// share until [`Self::delivered`].
    pub(super) fn fill(&mut self, scope: BatchScope, limit: usize) -> Option<Batch> {
        let mut batch = Batch::default();
        if matches!(scope, BatchScope::All | BatchScope::Own)
            && let Some(ping) = self.ping.take()
        {
            batch.add(ping);
        }
        match scope {
            BatchScope::Own => {}
            BatchScope::All => {
                self.fill_control(&mut batch, limit);
                self.fill_in_turns(&mut batch, limit);
            }
            BatchScope::One(id) => self.fill_one(id, &mut batch, limit),
        }
        self.down += batch.cost();
        self.settle();
        (!batch.is_empty()).then_some(batch)
    }

    /// Notes that batches of this cost are gone for good: sent where nothing is kept, or acknowledged.
    pub(super) fn delivered(&mut self, cost: usize) {
        self.down = self.down.saturating_sub(cost);
        self.settle();
        self.tell_room();
    }

    fn fill_control(&mut self, batch: &mut Batch, limit: usize) {
        while has_room(batch, limit)
            && let Some(id) = self.refused.pop()
        {
            batch.add(whole(Kind::Close, id, &[]));
        }
        while has_room(batch, limit)
            && let Some(id) = self.control.pop_front()
        {
            self.add_control(id, batch);
        }
    }

    /// WINDOW or CLOSE of a stream that has been taken off the list of control frames.
    fn add_control(&mut self, id: u32, batch: &mut Batch) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        stream.control = false;
        if !stream.closing {
            let owed = std::mem::take(&mut stream.owed);
            stream.allowed = stream.allowed.saturating_add(owed);
            batch.add(whole(Kind::Window, id, &owed.to_be_bytes()));
        } else if stream.queued() == 0 {
            batch.add(whole(Kind::Close, id, &[]));
            self.remove(id);
        }
    }

    fn fill_in_turns(&mut self, batch: &mut Batch, limit: usize) {
        while has_room(batch, limit) {
            let new = !self.newcomers.is_empty();
            let Some(id) = self.newcomers.pop_front().or_else(|| self.others.pop_front()) else { break };
            let alone = self.newcomers.is_empty() && self.others.is_empty();
            let turn = match self.live.get(&id) {
                Some(_) if alone => MAX_DATA,
                Some(stream) => stream.deficit,
                None => continue,
            };
            let sent = self.add_data(id, batch, turn, limit);
            self.list_again(id, new, sent);
        }
        // CLOSE of streams whose queues have just been emptied goes along.
        self.fill_control(batch, limit);
    }

    /// Puts a stream back in a list after it has sent: with its turn not used up where it was, else behind the others.
    fn list_again(&mut self, id: u32, new: bool, sent: usize) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        stream.deficit = stream.deficit.saturating_sub(sent);
        if stream.sendable() == 0 {
            stream.listed = false;
            return self.close_if_drained(id);
        }
        match (stream.deficit, new) {
            (0, _) => {
                stream.deficit = QUANTUM;
                self.others.push_back(id);
            }
            (_, true) => self.newcomers.push_front(id),
            (_, false) => self.others.push_front(id),
        }
    }

    fn fill_one(&mut self, id: u32, batch: &mut Batch, limit: usize) {
        if self.refused.take(id) {
            batch.add(whole(Kind::Close, id, &[]));
        }
        self.control_of(id, batch);
        while has_room(batch, limit) && self.add_data(id, batch, MAX_DATA, limit) > 0 {}
        if self.live.get(&id).is_some_and(|stream| stream.sendable() == 0) {
            self.unlist(id);
        }
        self.close_if_drained(id);
        self.control_of(id, batch);
    }

    fn control_of(&mut self, id: u32, batch: &mut Batch) {
        if self.live.get(&id).is_some_and(|stream| stream.control) {
            self.control.retain(|listed| *listed != id);
            self.add_control(id, batch);
        }
    }

    /// Adds one frame of DATA; returns how long it is.
    fn add_data(&mut self, id: u32, batch: &mut Batch, turn: usize, limit: usize) -> usize {
        let Some(stream) = self.live.get_mut(&id) else { return 0 };
        let left = limit.saturating_sub(batch.len() + HEAD);
        let left = if batch.is_empty() { left.max(1024) } else { left };
        let most = turn.min(MAX_DATA).min(stream.sendable()).min(left);
        if most == 0 {
            return 0;
        }
        self.down -= stream.down_cost();
        let (pieces, length) = stream.take(most);
        self.down += stream.down_cost();
        batch.add_data(id, pieces, length);
        length
    }
}

/// Whether a batch of at most about so many bytes takes another frame.
fn has_room(batch: &Batch, limit: usize) -> bool {
    batch.is_empty() || (batch.len() + 64 <= limit && batch.frames() < MAX_FRAMES)
}
