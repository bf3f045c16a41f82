//! Streams of one session: their credit both ways, what waits for the app, and the order in which it goes.
//!
//! Streams take turns by deficit round robin with a list of newcomers before the others (the idea of `fq_codel`): a stream
//! that had nothing to send goes first with its first 16 KiB, so that an answer to a ping does not wait behind a download.
//!
//! ```text
//!   push ─▶ queue of the stream ─▶ newcomers ─┬─▶ frames of a batch
//!                                   others  ──┘      before them: PING, CLOSE of refused streams, WINDOW, CLOSE
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::frame::{Batch, HEAD, INITIAL_CREDIT, Kind, MAX_DATA, MAX_FRAMES, whole};

/// Bytes that a stream may send in its turn while others wait.
const QUANTUM: usize = 16 << 10;
/// Bytes that may wait for a stream whatever else waits, so that a full session or a full budget stalls no stream for good.
const RESERVE: usize = 16 << 10;
/// Bytes that were passed on before the app is given them back.
const GRANT: u32 = 256 << 10;
/// Closed streams that are remembered, as the apps do.
const TOMBSTONES: usize = 4096;
/// Refusals that may wait to be sent. An app that opens more streams without reading an answer is none.
const REFUSALS: usize = 4096;
/// Chunks below this are joined in a queue, so that many small ones cost no more than their bytes.
const SMALL: usize = 4096;

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

/// Bytes that may wait in all sessions together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Bytes that wait now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether it is used up. Sessions then keep what they have and take in no more than a reserve.
    pub fn is_spent(&self) -> bool {
        self.used() >= self.limit
    }
}

/// BudgetShare of one session in the budget; gives it back when dropped.
#[derive(Debug)]
pub(super) struct BudgetShare {
    budget: Arc<Budget>,
    bytes: usize,
}

impl BudgetShare {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.sub(self.bytes);
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

/// One stream.
#[derive(Debug)]
struct StreamState {
    /// Bytes that the app has allowed us to send.
    credit: u32,
    /// Bytes that we have allowed the app to send.
    allowed: u32,
    /// Bytes of the app that were handed out as events and not passed on yet.
    held: usize,
    /// Bytes that were passed on and not given back as credit.
    owed: u32,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// What is left of its turn.
    deficit: usize,
    /// Whether it stands in one of the two lists.
    listed: bool,
    /// Whether it stands in the list of control frames.
    control: bool,
    /// Whether its far end is gone: CLOSE follows what is queued.
    closing: bool,
    /// Whether [`Event::Room`] is awaited.
    blocked: bool,
}

impl StreamState {
    fn new() -> Self {
        Self {
            credit: INITIAL_CREDIT,
            allowed: INITIAL_CREDIT,
            held: 0,
            owed: 0,
            queue: VecDeque::new(),
            queued: 0,
            deficit: 0,
            listed: false,
            control: false,
            closing: false,
            blocked: false,
        }
    }

    fn append(&mut self, data: Bytes) {
        self.queued += data.len();
        let small = |tail: &Bytes| tail.len() + data.len() <= SMALL;
        match self.queue.pop_back_if(|tail| small(tail)) {
            Some(tail) => {
                let mut joined = tail.try_into_mut().unwrap_or_else(|tail| BytesMut::from(&tail[..]));
                joined.extend_from_slice(&data);
                self.queue.push_back(joined.freeze());
            }
            None => self.queue.push_back(data),
        }
    }

    /// The next bytes of the queue, at most so many.
    fn take(&mut self, most: usize) -> (SmallVec<[Bytes; 4]>, usize) {
        let (mut pieces, mut taken) = (SmallVec::new(), 0);
        while taken < most
            && let Some(front) = self.queue.front_mut()
        {
            let piece = front.split_to(front.len().min(most - taken));
            taken += piece.len();
            if front.is_empty() {
                self.queue.pop_front();
            }
            pieces.push(piece);
        }
        self.queued -= taken;
        self.credit -= taken as u32;
        if self.queue.is_empty() {
            // An idle stream owns no buffer.
            self.queue = VecDeque::new();
        }
        (pieces, taken)
    }

    fn sendable(&self) -> usize {
        self.queued.min(self.credit as usize)
    }
}

/// Streams that were closed and are remembered, the oldest forgotten first.
#[derive(Debug, Default)]
struct Tombstones {
    order: VecDeque<u32>,
    set: HashSet<u32>,
}

impl Tombstones {
    fn add(&mut self, id: u32) {
        if !self.set.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > TOMBSTONES
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
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
    refused: VecDeque<u32>,
    ping: Option<Bytes>,
    blocked: Vec<u32>,
    /// Bytes of the app that were not passed on yet.
    up: usize,
    /// These bytes, and those that wait for the app or were sent and not acknowledged.
    share: BudgetShare,
    pub(super) events: VecDeque<Event>,
}

impl StreamTable {
    pub(super) fn new(limits: Limits, budget: Arc<Budget>) -> Self {
        Self {
            limits,
            live: HashMap::new(),
            gone: Tombstones::default(),
            newcomers: VecDeque::new(),
            others: VecDeque::new(),
            control: VecDeque::new(),
            refused: VecDeque::new(),
            ping: None,
            blocked: Vec::new(),
            up: 0,
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

    pub(super) fn is_live(&self, id: u32) -> bool {
        self.live.contains_key(&id)
    }

    pub(super) fn is_gone(&self, id: u32) -> bool {
        self.gone.set.contains(&id)
    }

    /// Whether a batch of this length may be taken in now. One that finds nothing of the session waiting always makes some
    /// progress, so that those who fill the budget cannot shut out the others.
    pub(super) fn takes(&self, length: usize) -> bool {
        match self.up {
            0 => !self.share.is_spent() || length <= 8 * RESERVE,
            waiting => waiting + length <= self.limits.session_up && !self.share.is_spent(),
        }
    }

    // Frames of the app.

    pub(super) fn open(&mut self, id: u32) -> Result<(), Violation> {
        if self.is_live(id) || self.is_gone(id) {
            return Err(Violation::OpenTwice);
        }
        if self.live.len() >= self.limits.streams {
            self.gone.add(id);
            self.refused.push_back(id);
            return if self.refused.len() > REFUSALS { Err(Violation::Refusals) } else { Ok(()) };
        }
        self.live.insert(id, StreamState::new());
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
        stream.held += length;
        self.up += length;
        self.share.add(length);
        let payload = if 2 * length >= batch { payload } else { Bytes::copy_from_slice(&payload) };
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
        self.refused.retain(|refused| *refused != id);
    }

    /// A frame for a stream that is not live: ignored if it is remembered.
    fn late(&self, id: u32) -> Result<(), Violation> {
        if self.is_gone(id) { Ok(()) } else { Err(Violation::Unknown) }
    }

    // Calls of the streams' far ends.

    /// Bytes that may be pushed now.
    pub(super) fn room(&self, id: u32) -> usize {
        let Some(stream) = self.live.get(&id).filter(|stream| !stream.closing) else { return 0 };
        let session = match self.share.is_spent() {
            true => 0,
            false => self.limits.session_down.saturating_sub(self.share.bytes().saturating_sub(self.up)),
        };
        let reserve = RESERVE.saturating_sub(stream.queued);
        let queue = self.limits.stream_queue.saturating_sub(stream.queued);
        let credit = (stream.credit as usize).saturating_sub(stream.queued);
        session.max(reserve).min(queue).min(credit)
    }

    pub(super) fn push(&mut self, id: u32, data: Bytes) {
        let Some(stream) = self.live.get_mut(&id).filter(|stream| !stream.closing && !data.is_empty()) else { return };
        self.share.add(data.len());
        stream.append(data);
        self.list(id);
        if self.room(id) == 0
            && let Some(stream) = self.live.get_mut(&id)
            && !std::mem::replace(&mut stream.blocked, true)
        {
            self.blocked.push(id);
        }
    }

    pub(super) fn consumed(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        let bytes = bytes.min(stream.held);
        stream.held -= bytes;
        stream.owed += bytes as u32;
        self.up -= bytes;
        self.share.sub(bytes);
        if stream.owed >= GRANT && !stream.closing && !std::mem::replace(&mut stream.control, true) {
            self.control.push_back(id);
        }
        self.tell_room();
    }

    /// The far end is gone: CLOSE follows what is queued.
    pub(super) fn close(&mut self, id: u32) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        stream.closing = true;
        let held = std::mem::take(&mut stream.held);
        self.up -= held;
        self.share.sub(held);
        self.close_if_drained(id);
    }

    /// CLOSE without what is queued.
    pub(super) fn abort(&mut self, id: u32) {
        if let Some(stream) = self.live.get_mut(&id) {
            let queued = std::mem::take(&mut stream.queued);
            stream.queue = VecDeque::new();
            self.share.sub(queued);
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
        self.refused = VecDeque::new();
        self.ping = None;
        self.share.sub(self.share.bytes());
    }

    /// Drops a stream and remembers it.
    fn remove(&mut self, id: u32) {
        let Some(stream) = self.live.remove(&id) else { return };
        self.gone.add(id);
        self.up -= stream.held;
        self.share.sub(stream.queued + stream.held);
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
            && stream.queued == 0
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
        let (free, blocked) = std::mem::take(&mut self.blocked).into_iter().partition(|id| self.room(*id) > 0);
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
            self.refused.contains(&id) || self.live.get(&id).is_some_and(waits)
        };
        match scope {
            BatchScope::All => {
                let lists = [&self.newcomers, &self.others, &self.control, &self.refused];
                self.ping.is_some() || lists.iter().any(|list| !list.is_empty())
            }
            BatchScope::Own => self.ping.is_some(),
            BatchScope::One(id) => of(id),
        }
    }

    /// Takes the next frames, at most about so many bytes; `None` if there are none. The bytes stay in the session's share
    /// until [`Self::delivered`].
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
        (!batch.is_empty()).then_some(batch)
    }

    /// Bytes of DATA that are gone for good: sent where nothing is kept, or acknowledged.
    pub(super) fn delivered(&mut self, bytes: usize) {
        self.share.sub(bytes);
        self.tell_room();
    }

    fn fill_control(&mut self, batch: &mut Batch, limit: usize) {
        while has_room(batch, limit)
            && let Some(id) = self.refused.pop_front()
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
        } else if stream.queued == 0 {
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
        if let Some(at) = self.refused.iter().position(|refused| *refused == id) {
            self.refused.remove(at);
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
        let (pieces, length) = stream.take(most);
        batch.add_data(id, pieces, length);
        length
    }
}

/// Whether a batch of at most about so many bytes takes another frame.
fn has_room(batch: &Batch, limit: usize) -> bool {
    batch.is_empty() || (batch.len() + 64 <= limit && batch.frames() < MAX_FRAMES)
}
