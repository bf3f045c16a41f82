//! Parts of the table of streams: what is known of each stream, and of those that are gone or were refused.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::budget::ITEM;
use super::frame::INITIAL_CREDIT;

/// Closed streams that are remembered, as the apps do.
const TOMBSTONES: usize = 4096;
/// Chunks below this are joined in a queue, so that many small ones cost no more than their bytes.
const SMALL: usize = 4096;

/// One stream.
#[derive(Debug)]
pub(super) struct StreamState {
    /// Bytes that the app has allowed us to send.
    pub(super) credit: u32,
    /// Bytes that we have allowed the app to send.
    pub(super) allowed: u32,
    /// Bytes that were passed on and not given back as credit.
    pub(super) owed: u32,
    /// Lengths of the pieces of the app that were handed out as events and not passed on yet.
    held: VecDeque<u32>,
    held_bytes: usize,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// What is left of its turn.
    pub(super) deficit: usize,
    /// Whether it stands in one of the two lists.
    pub(super) listed: bool,
    /// Whether it stands in the list of control frames.
    pub(super) control: bool,
    /// Whether its far end is gone: CLOSE follows what is queued.
    pub(super) closing: bool,
    /// Whether [`super::stream::Event::Room`] is awaited.
    pub(super) blocked: bool,
}

impl StreamState {
    pub(super) fn new() -> Self {
        Self {
            credit: INITIAL_CREDIT,
            allowed: INITIAL_CREDIT,
            owed: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            queue: VecDeque::new(),
            queued: 0,
            deficit: 0,
            listed: false,
            control: false,
            closing: false,
            blocked: false,
        }
    }

    /// Memory of what the app sent.
    pub(super) fn up_cost(&self) -> usize {
        self.held_bytes + ITEM * self.held.len()
    }

    /// Memory of what waits for the app.
    pub(super) fn down_cost(&self) -> usize {
        self.queued + ITEM * self.queue.len()
    }

    /// Bytes that wait for the app.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Notes a piece of the app that is handed out.
    pub(super) fn hold(&mut self, length: u32) {
        self.held.push_back(length);
        self.held_bytes += length as usize;
    }

    /// Notes that bytes were passed on, oldest first; returns how many of them there were.
    pub(super) fn pass(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.held_bytes);
        self.held_bytes -= bytes;
        let mut left = bytes as u32;
        while let Some(front) = self.held.front_mut() {
            if *front > left {
                *front -= left;
                break;
            }
            left -= *front;
            self.held.pop_front();
        }
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
        bytes
    }

    /// Forgets what the app sent.
    pub(super) fn drop_held(&mut self) {
        (self.held, self.held_bytes) = (VecDeque::new(), 0);
    }

    /// Forgets what waits for the app.
    pub(super) fn drop_queue(&mut self) {
        (self.queue, self.queued) = (VecDeque::new(), 0);
    }

    pub(super) fn append(&mut self, data: Bytes) {
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
    pub(super) fn take(&mut self, most: usize) -> (SmallVec<[Bytes; 4]>, usize) {
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

    pub(super) fn sendable(&self) -> usize {
        self.queued.min(self.credit as usize)
    }
}

/// Streams that were closed and are remembered, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    order: VecDeque<u32>,
    set: HashSet<u32>,
}

impl Tombstones {
    pub(super) fn add(&mut self, id: u32) {
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

    pub(super) fn has(&self, id: u32) -> bool {
        self.set.contains(&id)
    }
}

/// Streams that were refused and whose CLOSE waits to be sent, the oldest first.
#[derive(Debug, Default)]
pub(super) struct RefusedStreams {
    /// In their order, with some that were taken out already.
    order: VecDeque<u32>,
    set: HashSet<u32>,
}

impl RefusedStreams {
    pub(super) fn add(&mut self, id: u32) {
        if self.set.insert(id) {
            self.order.push_back(id);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.set.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.set.contains(&id)
    }

    /// Takes one out; says whether it was there.
    pub(super) fn take(&mut self, id: u32) -> bool {
        let was = self.set.remove(&id);
        if self.set.is_empty() {
            *self = Self::default();
        } else if self.order.len() > 2 * self.set.len() + 16 {
            self.order.retain(|id| self.set.contains(id));
        }
        was
    }

    /// Takes the oldest out.
    pub(super) fn pop(&mut self) -> Option<u32> {
        while let Some(oldest) = self.order.pop_front() {
            if self.take(oldest) {
                return Some(oldest);
            }
        }
        None
    }
}

/// Rate at which a session may open streams. An app opens a dozen when it begins, and again when its network has changed;
/// one that opens and closes them without end would have as many connections to Telegram made.
#[derive(Debug, Default)]
pub(super) struct OpenRate {
    /// Time at which as many may be opened at once again.
    whole: Option<Instant>,
}

impl OpenRate {
    const EACH: Duration = Duration::from_millis(50);
    const BURST: u32 = 256;

    /// Counts one that is opened now; says whether it may be.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let next = self.whole.map_or(now, |whole| whole.max(now)) + Self::EACH;
        let may = next.saturating_duration_since(now) <= Self::EACH * Self::BURST;
        if may {
            self.whole = Some(next);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_may_be_opened_in_a_burst_and_then_at_a_rate() {
        let (mut rate, now) = (OpenRate::default(), Instant::now());
        let opened = |rate: &mut OpenRate, now| (0..1000).filter(|_| rate.take(now)).count();
        assert_eq!(opened(&mut rate, now), 256);
        assert_eq!(opened(&mut rate, now + Duration::from_secs(1)), 20);
        assert_eq!(opened(&mut rate, now + Duration::from_secs(60)), 256);
    }

    #[test]
    fn refused_streams_go_in_their_order_and_leave_nothing_behind() {
        let mut refused = RefusedStreams::default();
        (0..5000).for_each(|id| refused.add(id));
        (0..4990).for_each(|id| assert!(refused.take(id)));
        assert!(refused.order.len() <= 40 && refused.len() == 10, "{}", refused.order.len());
        assert_eq!((refused.pop(), refused.has(4990), refused.take(4990)), (Some(4990), false, false));
        let rest: Vec<_> = std::iter::from_fn(|| refused.pop()).collect();
        assert_eq!(rest, (4991..5000).collect::<Vec<_>>());
        assert!(refused.is_empty() && refused.order.is_empty());
    }
}
