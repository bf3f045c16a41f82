//! The last hour in memory, for the graphs of the page.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::control::Control;

/// Interval between samples, and how many are kept: an hour.
pub const EVERY: Duration = Duration::from_secs(10);
const KEPT: usize = 361;

/// The state at one moment; what is counted is counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Sessions.
    pub sessions: usize,
    /// Visitors.
    pub visitors: u64,
    /// Bytes from clients.
    pub up: u64,
    /// Bytes to clients.
    pub down: u64,
    /// Admitted clients.
    pub admitted: u64,
    /// Declined connections.
    pub declined: u64,
}

impl Sample {
    /// The state now.
    pub fn of(control: &dyn Control) -> Self {
        let counts = control.counts();
        let moved = control.sessions().moved();
        Self {
            sessions: control.sessions().len(),
            visitors: counts.visitors(),
            up: moved.up,
            down: moved.down,
            admitted: counts.admitted.sum(),
            declined: counts.declined.sum(),
        }
    }
}

/// The last hour.
#[derive(Debug, Default)]
pub struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    /// Adds one.
    pub fn add(&self, sample: Sample) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(sample);
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Takes samples for as long as it is polled.
    pub async fn keep(&self, control: &dyn Control) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.add(Sample::of(control));
        }
    }
}

/// Returns the rate of `what` per second between each two samples.
pub fn rates(samples: &[Sample], what: fn(&Sample) -> u64) -> Vec<f64> {
    let seconds = EVERY.as_secs_f64();
    samples.windows(2).map(|pair| what(&pair[1]).saturating_sub(what(&pair[0])) as f64 / seconds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_rates_are_by_the_second() {
        let samples = Samples::default();
        (0..KEPT as u64 + 5).for_each(|n| samples.add(Sample { up: n * 50, ..Sample::default() }));
        let list = samples.list();
        assert_eq!((list.len(), list[0].up), (KEPT, 250));
        assert!(rates(&list, |sample| sample.up).iter().all(|rate| *rate == 5.0));
        assert!(rates(&list[..1], |sample| sample.up).is_empty());
    }
}
