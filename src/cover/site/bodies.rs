//! How long the body of a request may be in coming.
//!
//! A body ends after a minute without a byte, as in nginx. By that rule alone one byte a minute keeps a connection here and
//! one at the upstream open for days. nginx has no least rate, so one that a single slow upload meets would tell the two
//! apart; but it has a limit on connections, 768 on the systems where most of it runs, beyond which everybody is turned away.
//! So the rate counts only while as many bodies are open as that. Over HTTP/1.1 a visitor who finds it out would have met that
//! limit at nginx; over HTTP/2, where a connection carries 128 bodies, it has not (docs/threat-model.md). Each body costs a
//! connection to the upstream here, so there has to be an end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest silence between two pieces of a body.
const SILENCE: Duration = Duration::from_secs(60);

/// As many bodies may be as slow as they like.
const FEW: usize = 768;

/// The least rate of the others, in bytes a second, from a minute after their beginning on. A telephone line has ten times
/// as much.
const RATE: u64 = 500;

/// Bodies that are being read, over all connections of a site.
#[derive(Debug, Default)]
pub(super) struct Bodies(AtomicUsize);

/// One of them, counted for as long as it lives.
#[derive(Debug)]
pub(super) struct Body<'b> {
    all: &'b Bodies,
    bytes: u64,
    /// Time spent waiting for it. A slow upstream is not the visitor's fault, so the time that it takes does not count.
    waited: Duration,
}

impl Bodies {
    /// Counts a body that begins now.
    pub(super) fn open(&self) -> Body<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Body { all: self, bytes: 0, waited: Duration::ZERO }
    }
}

impl Body<'_> {
    /// Time limit for the next piece.
    pub(super) fn patience(&self) -> Duration {
        patience(self.all.0.load(Ordering::Relaxed), self.bytes, self.waited)
    }

    /// Notes a piece of this length, for which it was waited that long.
    pub(super) fn note(&mut self, bytes: usize, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn patience(open: usize, bytes: u64, waited: Duration) -> Duration {
    if open <= FEW {
        return SILENCE;
    }
    let earned = SILENCE.saturating_add(Duration::from_secs(bytes / RATE));
    earned.saturating_sub(waited).min(SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_body_ends_only_among_many() {
        let seconds = Duration::from_secs;
        for (open, bytes, waited, expected) in [
            (1, 0, 0, 60),
            (FEW, 1, 1_000_000, 60),
            (FEW + 1, 0, 0, 60),
            (FEW + 1, 1, 59, 1),
            (FEW + 1, 1, 61, 0),
            (FEW + 1, 500, 60, 1),
            (FEW + 1, 1 << 30, 1_000_000, 60),
        ] {
            assert_eq!(patience(open, bytes, seconds(waited)), seconds(expected), "{open} {bytes} {waited}");
        }
    }

    #[test]
    fn bodies_are_counted_while_they_live() {
        let all = Bodies::default();
        let mut slow = all.open();
        slow.note(1, Duration::from_secs(600));
        let crowd: Vec<_> = (0..FEW).map(|_| all.open()).collect();
        assert_eq!((slow.patience(), crowd[0].patience()), (Duration::ZERO, SILENCE));
        drop(crowd);
        assert_eq!(slow.patience(), SILENCE);
    }
}
