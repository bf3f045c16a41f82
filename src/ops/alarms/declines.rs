//! How many hellos were declined lately, and how many usually are.

use std::collections::VecDeque;

use crate::auth::UnixTime;

/// Over how many seconds hellos are counted.
const SPAN: i64 = 600;

/// Seconds of the past from which the usual number is learnt; what is older fades.
const PAST: i64 = 2 * 3600;

/// Counts over the last ten minutes, whenever they are asked for. What is usual is learnt from the time before these, so
/// a jump is never compared with itself, and there is no border that it could fall on.
#[derive(Debug)]
pub struct Declines {
    /// Counts of the last ten minutes, oldest first.
    recent: VecDeque<Piece>,
    last: UnixTime,
    /// In ten minutes.
    usual: f64,
    /// Seconds that it was learnt from, [`PAST`] at most.
    learnt: i64,
}

#[derive(Debug)]
struct Piece {
    until: UnixTime,
    seconds: i64,
    count: u64,
}

/// The last ten minutes and what is usual in ten minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    pub count: u64,
    pub usual: u64,
}

impl Declines {
    /// Begins at `now`.
    pub fn new(now: UnixTime) -> Self {
        Self { recent: VecDeque::new(), last: now, usual: 0.0, learnt: 0 }
    }

    /// So many came since the last call.
    pub fn add(&mut self, count: u64, now: UnixTime) -> Recent {
        let seconds = (now.0 - self.last.0).clamp(1, PAST);
        self.last = now;
        self.recent.push_back(Piece { until: now, seconds, count });
        while let Some(old) = self.recent.pop_front_if(|piece| now.0 - piece.until.0 >= SPAN) {
            self.learn(&old);
        }
        let count = self.recent.iter().map(|piece| piece.count).sum();
        Recent { count, usual: self.usual.round() as u64 }
    }

    fn learn(&mut self, old: &Piece) {
        self.learnt = (self.learnt + old.seconds).min(PAST);
        let in_span = old.count as f64 * SPAN as f64 / old.seconds as f64;
        self.usual += (in_span - self.usual) * old.seconds as f64 / self.learnt as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> UnixTime {
        UnixTime(1_800_000_000 + 60 * minute)
    }

    #[test]
    fn a_jump_counts_as_a_whole_whenever_it_begins() {
        for quiet in 0..40 {
            let mut declines = Declines::new(at(0));
            (0..quiet).for_each(|minute| _ = declines.add(2, at(minute)));
            let most = (0..9).map(|n| declines.add(100, at(quiet + n)).count).max();
            assert!(most >= Some(900), "after {quiet} minutes: {most:?}");
        }
    }

    #[test]
    fn what_is_usual_is_learnt_and_unlearnt() {
        let mut declines = Declines::new(at(0));
        let mut recent = Recent { count: 0, usual: 0 };
        (1..=120).for_each(|minute| recent = declines.add(50, at(minute)));
        assert_eq!(recent, Recent { count: 500, usual: 500 });
        (121..=127).for_each(|minute| recent = declines.add(5000, at(minute)));
        assert_eq!(recent, Recent { count: 35_150, usual: 500 }, "the jump itself is not usual yet");
        (128..=900).for_each(|minute| recent = declines.add(50, at(minute)));
        assert!(recent.count == 500 && (490..600).contains(&recent.usual), "{recent:?}");
        assert_eq!(declines.add(70, at(1000)).count, 70, "what came long ago is gone");
        assert!(declines.recent.len() == 1);
    }
}
