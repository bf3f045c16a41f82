//! Sessions whose client has its answer and says nothing more.
//!
//! Telegram's app for iPhones can wait for ever behind an answer: it throws the salt away that a data centre tells it after
//! a long rest, lets no request go out until it has one, and has no timer left that would end the wait
//! (docs/protocol.md, "Ends"). Only a new connection gets it going again, so the session is ended for it:
//!
//! ```text
//!          client speaks                 answer begins within WATCHDOG, and the client's socket has taken all of it
//!  Quiet ────────────────▶ Asked ──────────────────────────────────────────────────────▶ Answered ──── silence ───▶ end
//!    ▲                       │ later than that: the app has given the connection up itself      │
//!    └───────────────────────┴──────────────────────────────────────────────────────────────────┘ the client speaks: Asked
//! ```
//!
//! A healthy app at rest looks the same, so how much silence is too much is asked of a [`SilenceBudget`], which knows what
//! was ended for this client before.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Time within which an answer has to begin: MTProtoKit ends a connection by itself that leaves a request without any
/// byte for so long.
const WATCHDOG: Duration = Duration::from_secs(12);

/// Judges the silence of a client behind an answer.
pub trait SilenceBudget: fmt::Debug + Send + Sync {
    /// Decides about a session that began at `begun` and has been silent for so long. [`SilenceRuling::End`] is counted
    /// against the client, so the session has to end then.
    fn judge(&self, begun: Instant, silent: Duration, now: Instant) -> SilenceRuling;
}

/// Decision of a [`SilenceBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceRuling {
    /// The session ends.
    End,
    /// It goes on until the silence has lasted for so long, and is judged again then.
    Until(Duration),
    /// It goes on until the client has had another answer.
    Keep,
}

/// Shortest silence that is judged: the app's watchdog and what a slow network may take.
pub const FIRST_SILENCE: Duration = Duration::from_secs(15);

/// Watch over the answers of one session.
#[derive(Debug)]
pub struct AnswerWatch {
    budget: Arc<dyn SilenceBudget>,
    begun: Instant,
    state: AnswerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerState {
    /// Nothing is owed to the client, as far as that is known.
    Quiet,
    /// It spoke last, at this time.
    Asked(Instant),
    /// It is being answered, and its socket has not taken all of it.
    Answering,
    /// It has all of the answer since the first time, and is judged at the second.
    Answered(Instant, Instant),
}

impl AnswerWatch {
    /// A watch over a session that begins at `now` with a word of the client.
    pub fn new(budget: Arc<dyn SilenceBudget>, now: Instant) -> Self {
        Self { budget, begun: now, state: AnswerState::Asked(now) }
    }

    /// The client said something.
    pub fn client_spoke(&mut self, now: Instant) {
        self.state = AnswerState::Asked(now);
    }

    /// The client's socket took something from the data centre. `all`: nothing more waits for it.
    pub fn client_was_answered(&mut self, all: bool, now: Instant) {
        self.state = match self.state {
            // What comes of a data centre's own accord asks for no word of the client's.
            AnswerState::Quiet => AnswerState::Quiet,
            AnswerState::Asked(at) if now.saturating_duration_since(at) > WATCHDOG => AnswerState::Quiet,
            _ if all => AnswerState::Answered(now, now + FIRST_SILENCE),
            _ => AnswerState::Answering,
        };
    }

    /// Time at which the silence is to be judged, if any.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            AnswerState::Answered(_, due) => Some(due),
            AnswerState::Quiet | AnswerState::Asked(_) | AnswerState::Answering => None,
        }
    }

    /// Judges the silence, once that is due; says whether the session ends. A client that has not taken `all` of its answer
    /// after all is not silent yet.
    pub fn judge(&mut self, all: bool, now: Instant) -> bool {
        let AnswerState::Answered(since, due) = self.state else { return false };
        if now < due {
            return false;
        }
        if !all {
            self.client_was_answered(true, now);
            return false;
        }
        match self.budget.judge(self.begun, now.saturating_duration_since(since), now) {
            SilenceRuling::End => return true,
            SilenceRuling::Until(silence) => self.state = AnswerState::Answered(since, since + silence),
            SilenceRuling::Keep => self.state = AnswerState::Quiet,
        }
        false
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Ends whatever it is asked about.
    #[derive(Debug)]
    pub struct Strict;

    impl SilenceBudget for Strict {
        fn judge(&self, _: Instant, _: Duration, _: Instant) -> SilenceRuling {
            SilenceRuling::End
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Strict;
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Grants twice the first silence, and nothing behind that.
    #[derive(Debug)]
    struct Twice;

    impl SilenceBudget for Twice {
        fn judge(&self, _: Instant, silent: Duration, _: Instant) -> SilenceRuling {
            if silent < 2 * FIRST_SILENCE { SilenceRuling::Until(2 * FIRST_SILENCE) } else { SilenceRuling::Keep }
        }
    }

    #[test]
    fn a_silence_counts_from_the_last_byte_of_an_answer_that_came_in_time() {
        for (answered_after, judged) in [(0, true), (12, true), (13, false)] {
            let start = Instant::now();
            let mut watch = AnswerWatch::new(Arc::new(Strict), start);
            assert_eq!(watch.due(), None, "nothing came yet");
            let at = start + seconds(answered_after);
            watch.client_was_answered(false, at);
            assert_eq!(watch.due(), None, "the client has not taken all of it");
            let at = at + seconds(20);
            watch.client_was_answered(true, at);
            assert_eq!(watch.due(), judged.then_some(at + FIRST_SILENCE), "after {answered_after} s");
            assert!(!watch.judge(true, at + seconds(14)));
            assert_eq!(watch.judge(true, at + FIRST_SILENCE), judged, "after {answered_after} s");
        }
    }

    #[test]
    fn any_word_of_the_client_ends_the_silence_and_what_comes_unasked_begins_none() {
        let start = Instant::now();
        let mut watch = AnswerWatch::new(Arc::new(Strict), start);
        watch.client_was_answered(true, start);
        watch.client_spoke(start + seconds(14));
        assert!(watch.due().is_none() && !watch.judge(true, start + seconds(60)));
        // An update, a minute later.
        watch.client_was_answered(true, start + seconds(74));
        assert!(watch.due().is_none() && !watch.judge(true, start + seconds(600)));
        watch.client_spoke(start + seconds(700));
        watch.client_was_answered(true, start + seconds(701));
        assert!(watch.judge(true, start + seconds(716)));
    }

    #[test]
    fn the_budget_may_grant_more_and_then_all() {
        let start = Instant::now();
        let mut watch = AnswerWatch::new(Arc::new(Twice), start);
        watch.client_was_answered(true, start);
        assert!(!watch.judge(true, start + FIRST_SILENCE));
        assert_eq!(watch.due(), Some(start + 2 * FIRST_SILENCE));
        assert!(!watch.judge(true, start + 2 * FIRST_SILENCE) && watch.due().is_none());
    }

    #[test]
    fn a_client_that_has_not_taken_everything_is_not_silent() {
        let start = Instant::now();
        let mut watch = AnswerWatch::new(Arc::new(Strict), start);
        watch.client_was_answered(true, start);
        assert!(!watch.judge(false, start + FIRST_SILENCE));
        assert!(!watch.judge(true, start + FIRST_SILENCE + seconds(14)));
        assert!(watch.judge(true, start + 2 * FIRST_SILENCE));
    }
}
