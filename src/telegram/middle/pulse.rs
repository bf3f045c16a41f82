//! Signs of life of a link, and what follows from their absence: a pure decision on times and counts.
//!
//! A middle proxy that hangs still has a kernel that acknowledges what it is sent, so only what comes from it counts. A ping
//! that waits behind a large upload is answered later, though: each piece that was sent without a word in return gives the
//! other side more time.

use std::time::Duration;

/// Silence after which a link with clients is asked whether it is still there, give or take a fifth.
const ASK: Duration = Duration::from_secs(8);

/// The same for a link without clients.
const ASK_EMPTY: Duration = Duration::from_secs(25);

/// Time without an answer after which newcomers go elsewhere: many times what a packet needs round the world.
const DOUBT: Duration = Duration::from_secs(2);

/// Time without an answer after which the link is given up.
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes that may take a second to arrive.
const PER_SECOND: u64 = 128 << 10;

/// Longest time to wait for an answer behind any upload.
const LONGEST: Duration = Duration::from_secs(60);

/// Signs of life of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Time since something came.
    pub silent: Duration,
    /// Time since the other side was asked, if nothing has come since.
    pub asked: Option<Duration>,
    /// Bytes that were handed to the kernel since something came.
    pub sent: u64,
    /// Number of clients.
    pub clients: usize,
}

/// Action to take on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing.
    Well,
    /// Ask whether it is still there.
    Ask,
    /// Send newcomers elsewhere.
    Doubtful,
    /// Give it up.
    Over,
}

impl Signs {
    /// Decides what to do; `jitter` is about one, so that links do not ask all at once.
    pub fn pulse(self, jitter: f64) -> Pulse {
        let Some(asked) = self.asked else {
            let due = if self.clients > 0 { ASK } else { ASK_EMPTY };
            return if self.silent >= due.mul_f64(jitter) { Pulse::Ask } else { Pulse::Well };
        };
        let upload = Duration::from_secs(self.sent / PER_SECOND);
        match asked {
            late if late >= (ANSWER + upload).min(LONGEST) => Pulse::Over,
            late if late >= DOUBT => Pulse::Doubtful,
            _ => Pulse::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_unanswered_ping_keeps_newcomers_away_and_then_ends_a_link_within_half_a_minute() {
        let signs = |silent: u32, asked: Option<u32>| Signs {
            silent: SECOND * silent,
            asked: asked.map(|asked| SECOND * asked),
            sent: 3000,
            clients: 5,
        };
        let seen = [(5, None), (8, None), (9, Some(1)), (10, Some(2)), (17, Some(9)), (18, Some(10))];
        let pulses = seen.map(|(silent, asked)| signs(silent, asked).pulse(1.0));
        use Pulse::{Ask, Doubtful, Over, Well};
        assert_eq!(pulses, [Well, Ask, Well, Doubtful, Doubtful, Over]);
        assert!((ASK.mul_f64(1.2) + ANSWER).as_secs() + 3 < 30);
        assert_eq!(Signs { clients: 0, ..signs(20, None) }.pulse(1.0), Well, "no one minds");
    }

    #[test]
    fn a_busy_link_that_is_slow_to_answer_is_not_given_up() {
        let busy = |asked| Signs { silent: SECOND * 40, asked: Some(SECOND * asked), sent: 3 << 20, clients: 5 };
        assert_eq!(
            [busy(20), busy(33), busy(34)].map(|busy| busy.pulse(1.0)),
            [Pulse::Doubtful, Pulse::Doubtful, Pulse::Over]
        );
        assert_eq!(Signs { sent: u64::MAX, ..busy(60) }.pulse(1.0), Pulse::Over, "not for ever");
    }
}
