//! Sequence numbers of one lane: which batch of the app is the next, which was repeated, and which batches for the app are
//! kept until they are acknowledged. The carriers without lanes have a single one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{Batch, MAX_BATCH};

/// Batches of the app, which come one after the other.
#[derive(Debug, Default)]
pub(super) struct BatchSequence {
    last: u64,
    /// Length and checksum of the last batch. The checksum need not be safe from forgery: an app that repeats a number with
    /// other bytes would harm its own session alone.
    seen: Option<(usize, u32)>,
}

/// Place of a batch among those of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchTurn {
    /// To be applied.
    Next,
    /// Applied before.
    Repeated,
    /// Neither.
    Wrong,
}

impl BatchSequence {
    /// Number of the last batch that was applied.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Judges a batch of carriers that repeat a request until it is answered.
    pub(super) fn judge(&self, sequence: u64, batch: &Bytes) -> BatchTurn {
        match self.last.checked_sub(sequence) {
            None if sequence - self.last == 1 => BatchTurn::Next,
            Some(0) if self.seen == Some(checksum(batch)) => BatchTurn::Repeated,
            _ => BatchTurn::Wrong,
        }
    }

    /// Judges a batch of the resumable carrier, which may repeat everything that it has not seen acknowledged.
    pub(super) fn judge_resumed(&self, sequence: u64) -> BatchTurn {
        match self.last.checked_sub(sequence) {
            None if sequence - self.last == 1 => BatchTurn::Next,
            Some(_) if sequence > 0 => BatchTurn::Repeated,
            _ => BatchTurn::Wrong,
        }
    }

    /// Counts a batch that was applied. `batch` only where [`Self::judge`] will have to know it again.
    pub(super) fn applied(&mut self, batch: Option<&Bytes>) {
        self.last += 1;
        self.seen = batch.map(checksum);
    }
}

fn checksum(batch: &Bytes) -> (usize, u32) {
    (batch.len(), crc32fast::hash(batch))
}

/// Most batches that are kept, however little is in them.
const KEPT: usize = 256;

/// Batches for the app.
#[derive(Debug)]
pub(super) struct SentBatches {
    acknowledged: u64,
    kept: VecDeque<SentBatch>,
    kept_bytes: usize,
    window: FlightWindow,
    /// The poll that waits; a newer one sends an older one home.
    pub(super) poll: Option<u64>,
}

#[derive(Debug)]
struct SentBatch {
    batch: Batch,
    issued: Instant,
    /// Sent again: how long the answer took says nothing.
    repeated: bool,
}

impl SentBatches {
    pub(super) fn new() -> Self {
        Self { acknowledged: 0, kept: VecDeque::new(), kept_bytes: 0, window: FlightWindow::new(), poll: None }
    }

    /// Number of the last batch that was issued.
    pub(super) fn issued(&self) -> u64 {
        self.acknowledged + self.kept.len() as u64
    }

    /// Takes a cursor of the app: everything up to it has arrived. Returns the cost of what need not be kept any
    /// longer; `None` if it is a cursor that the app cannot have.
    pub(super) fn acknowledge(&mut self, cursor: u64, now: Instant) -> Option<usize> {
        if !(self.acknowledged..=self.issued()).contains(&cursor) {
            return None;
        }
        let mut cost = 0;
        while self.acknowledged < cursor
            && let Some(kept) = self.kept.pop_front()
        {
            self.acknowledged += 1;
            self.kept_bytes -= kept.batch.len();
            cost += kept.batch.cost();
            if !kept.repeated {
                self.window.delivered(kept.batch.len(), now.saturating_duration_since(kept.issued));
            }
        }
        if self.kept.is_empty() {
            // An idle session owns no buffer.
            self.kept = VecDeque::new();
        }
        Some(cost)
    }

    /// The first batch that is not acknowledged, to be sent again.
    pub(super) fn again(&mut self, number: u64) -> Option<Batch> {
        let place = number.checked_sub(self.acknowledged + 1)?;
        let kept = self.kept.get_mut(usize::try_from(place).ok()?)?;
        kept.repeated = true;
        Some(kept.batch.clone())
    }

    /// Bytes that the next batch may have; 0 while too many are on their way, or too many batches.
    pub(super) fn allowance(&self) -> usize {
        if self.kept.len() >= KEPT {
            return 0;
        }
        self.window.size().saturating_sub(self.kept_bytes)
    }

    /// Keeps a batch that is sent now; returns its number.
    pub(super) fn keep(&mut self, batch: Batch, now: Instant) -> u64 {
        self.kept_bytes += batch.len();
        self.kept.push_back(SentBatch { batch, issued: now, repeated: false });
        self.issued()
    }

    /// Memory of what is kept.
    pub(super) fn kept_cost(&self) -> usize {
        self.kept.iter().map(|kept| kept.batch.cost()).sum()
    }
}

/// Bytes on their way to the app at most, so that what queues on a narrow road delays an answer to a ping by no more than
/// [`FlightWindow::DELAY`]. It grows while answers come about as fast as they ever did, and shrinks when they take longer.
#[derive(Debug)]
pub(super) struct FlightWindow {
    size: usize,
    fastest: Duration,
    /// Late answers in a row while it was as small as can be.
    late: u32,
}

impl FlightWindow {
    /// Delay that may be added to the fastest answer. A poll's answer waits for the batch before it and for its own, so that
    /// a ping waits twice as long.
    const DELAY: Duration = Duration::from_millis(30);
    const LEAST: usize = 16 << 10;
    /// A road that has become longer looks like one that is full. So many late answers to the smallest window tell it.
    const LONGER: u32 = 8;

    fn new() -> Self {
        Self { size: Self::LEAST, fastest: Duration::MAX, late: 0 }
    }

    fn size(&self) -> usize {
        self.size
    }

    /// Learns how long a batch of this length was on its way and back.
    fn delivered(&mut self, length: usize, took: Duration) {
        self.fastest = self.fastest.min(took);
        let late = took - self.fastest;
        let share = Self::DELAY.as_secs_f64() / late.as_secs_f64();
        if share >= 1.0 {
            // Twice as much while nothing is late, less and less of that towards the bound.
            let more = length as f64 * (1.0 - 1.0 / share);
            self.size = (self.size + more as usize).min(MAX_BATCH);
            self.late = 0;
            return;
        }
        self.size = ((self.size as f64 * share.clamp(0.5, 0.9)) as usize).max(Self::LEAST);
        self.late = if self.size == Self::LEAST { self.late + 1 } else { 0 };
        if self.late >= Self::LONGER {
            (self.fastest, self.late) = (took, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webproxy::frame::{Kind, whole};

    fn batch(length: usize) -> Batch {
        let mut batch = Batch::default();
        batch.add_data(1, [Bytes::from(vec![0; length])], length);
        batch
    }

    #[test]
    fn batches_of_the_app_come_one_after_the_other() {
        let (first, second) = (whole(Kind::Open, 1, &[]), whole(Kind::Close, 1, &[]));
        let mut uplink = BatchSequence::default();
        assert_eq!([0, 2, u64::MAX].map(|sequence| uplink.judge(sequence, &first)), [BatchTurn::Wrong; 3]);
        assert_eq!(uplink.judge(1, &first), BatchTurn::Next);
        uplink.applied(Some(&first));
        assert_eq!(uplink.judge(1, &first), BatchTurn::Repeated);
        assert_eq!(uplink.judge(1, &second), BatchTurn::Wrong);
        assert_eq!(uplink.judge(2, &second), BatchTurn::Next);
        uplink.applied(Some(&second));
        assert_eq!(uplink.judge(1, &first), BatchTurn::Wrong);
        assert_eq!([0, 1, 2, 3, 4].map(|sequence| uplink.judge_resumed(sequence)), {
            [BatchTurn::Wrong, BatchTurn::Repeated, BatchTurn::Repeated, BatchTurn::Next, BatchTurn::Wrong]
        });
    }

    #[test]
    fn batches_for_the_app_are_kept_until_they_are_acknowledged() {
        let now = Instant::now();
        let mut downlink = SentBatches::new();
        assert_eq!((downlink.acknowledge(0, now), downlink.acknowledge(1, now)), (Some(0), None));
        assert_eq!((downlink.keep(batch(5), now), downlink.keep(batch(7), now)), (1, 2));
        let [five, seven] = [5, 7].map(|length| batch(length).cost());
        assert_eq!(downlink.kept_cost(), five + seven);
        assert_eq!(downlink.again(2), Some(batch(7)));
        assert_eq!((downlink.again(0), downlink.again(3)), (None, None));
        assert_eq!((downlink.acknowledge(1, now), downlink.acknowledge(0, now)), (Some(five), None));
        assert_eq!(downlink.acknowledge(3, now), None);
        assert_eq!((downlink.acknowledge(2, now), downlink.kept_cost(), downlink.issued()), (Some(seven), 0, 2));
    }

    #[test]
    fn batches_that_are_kept_are_bounded_also_if_little_is_in_them() {
        let (now, mut downlink) = (Instant::now(), SentBatches::new());
        while downlink.allowance() > 0 {
            assert!(downlink.keep(batch(1), now) < 10_000, "they have no end");
        }
        assert_eq!(downlink.issued(), KEPT as u64);
        downlink.acknowledge(1, now).unwrap();
        assert!(downlink.allowance() > 0);
    }

    /// How late the last byte of a full window comes on a road of so many bytes a second and this round trip.
    fn settle(rate: f64, trip: f64) -> (usize, f64) {
        let mut window = FlightWindow::new();
        // A first answer with little in it.
        window.delivered(100, Duration::from_secs_f64(trip));
        for _ in 0..200 {
            let queue = window.size() as f64 / rate;
            window.delivered(window.size(), Duration::from_secs_f64(trip + queue));
        }
        (window.size(), window.size() as f64 / rate)
    }

    #[test]
    fn what_is_on_its_way_delays_nothing_for_long_and_fills_a_wide_road() {
        for trip in [0.001, 0.05, 0.2] {
            let (_, delay) = settle(10e6 / 8.0, trip);
            assert!(delay < 0.095, "{delay} s at 10 Mbit/s, round trip {trip} s");
            let (size, _) = settle(1e9, trip);
            assert_eq!(size, MAX_BATCH);
        }
    }

    #[test]
    fn a_road_that_becomes_longer_is_not_taken_for_a_full_one_for_ever() {
        let mut window = FlightWindow::new();
        window.delivered(100, Duration::from_millis(10));
        (0..400).for_each(|_| window.delivered(window.size(), Duration::from_millis(300)));
        assert_eq!(window.size(), MAX_BATCH);
    }
}
