//! Lines of the log that a peer can cause: the first is told at once, what follows is counted and told once a minute.
//!
//! A line per connection would let anybody fill the disk with a cheap loop. So each kind of line, each with its user and
//! its reason, has one line at once when it was quiet before, and then one line a minute with the number of times. The
//! table is bounded: of what finds no room in it, only the number is told.
//!
//! ```text
//! note(cause) ─▶ quiet before? ── yes ─▶ a line now, count = 1
//!                     └── no ──▶ counted ──(each minute)──▶ a line, count = n
//! ```

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// Interval at which counts are logged.
pub const EVERY: Duration = Duration::from_secs(60);

/// Most different lines in a minute. An attacker would need a recorded hello of as many users to reach it.
const MOST: usize = 256;

/// Of these, places that lines worth knowing leave to lines worth acting on: clients can cause many of the first kind.
const RESERVED: usize = 64;

/// Longest detail that is kept; it may hold what a peer or a library said.
const LONGEST: usize = 200;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth acting on.
    Warn,
}

/// Kind of a line: what is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause<'a> {
    /// The sentence.
    pub what: &'static str,
    /// Severity of the line.
    pub severity: Severity,
    /// Whom it concerns, if that is known.
    pub user: Option<&'a str>,
    /// A word from a closed set that tells lines of one sentence apart; empty if there is but one.
    pub reason: &'a str,
}

impl<'a> Cause<'a> {
    /// Something worth knowing.
    pub fn info(what: &'static str) -> Self {
        Self { what, severity: Severity::Info, user: None, reason: "" }
    }

    /// Something worth acting on.
    pub fn warn(what: &'static str) -> Self {
        Self { severity: Severity::Warn, ..Self::info(what) }
    }

    /// The same about this user.
    pub fn of(self, user: Option<&'a str>) -> Self {
        Self { user, ..self }
    }

    /// The same for this reason.
    pub fn because(self, reason: &'a str) -> Self {
        Self { reason, ..self }
    }
}

/// A line that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The sentence.
    pub what: &'static str,
    /// Severity of the line.
    pub severity: Severity,
    /// Whom it concerns.
    pub user: Option<String>,
    /// Reason, a word from a closed set; empty if the sentence has but one.
    pub reason: String,
    /// More about the last time.
    pub detail: String,
    /// Number of times that it happened.
    pub count: u64,
}

impl Line {
    /// Writes it to the log.
    pub fn tell(&self) {
        let user = self.user.as_deref();
        let reason = (!self.reason.is_empty()).then_some(self.reason.as_str());
        let detail = (!self.detail.is_empty()).then_some(self.detail.as_str());
        let (what, count) = (self.what, (self.count > 1).then_some(self.count));
        match self.severity {
            Severity::Info => info!(reason, user, detail, count, "{what}"),
            Severity::Warn => warn!(reason, user, detail, count, "{what}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    what: &'static str,
    user: Option<String>,
    reason: String,
}

#[derive(Debug)]
struct Counted {
    severity: Severity,
    detail: String,
    count: u64,
}

/// Counts of one log.
#[derive(Debug, Default)]
pub struct Summary(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    counted: HashMap<Key, Counted>,
    /// Number of events that found no room.
    more: u64,
}

impl Summary {
    /// Counts this; returns the line that is due at once, if it was quiet before.
    pub fn note(&self, cause: Cause<'_>, detail: impl FnOnce() -> String) -> Option<Line> {
        let Cause { what, severity, user, reason } = cause;
        let key = Key { what, user: user.map(str::to_owned), reason: reason.to_owned() };
        let mut table = self.lock();
        if let Some(counted) = table.counted.get_mut(&key) {
            counted.count += 1;
            counted.detail = shortened(detail());
            return None;
        }
        let room = match severity {
            Severity::Info => MOST - RESERVED,
            Severity::Warn => MOST,
        };
        if table.counted.len() >= room {
            table.more += 1;
            return None;
        }
        let detail = shortened(detail());
        let line = Line {
            what,
            severity,
            user: key.user.clone(),
            reason: key.reason.clone(),
            detail: detail.clone(),
            count: 1,
        };
        table.counted.insert(key, Counted { severity, detail, count: 0 });
        Some(line)
    }

    /// The lines that are due after a minute. What was quiet in it will be told at once again.
    pub fn due(&self) -> Vec<Line> {
        let mut table = self.lock();
        table.counted.retain(|_, counted| counted.count > 0);
        let line = |(key, counted): (&Key, &mut Counted)| Line {
            what: key.what,
            severity: counted.severity,
            user: key.user.clone(),
            reason: key.reason.clone(),
            detail: std::mem::take(&mut counted.detail),
            count: std::mem::take(&mut counted.count),
        };
        let mut lines: Vec<Line> = table.counted.iter_mut().map(line).collect();
        lines.sort_by(|a, b| (b.severity, b.count, &a.user).cmp(&(a.severity, a.count, &b.user)));
        let more = std::mem::take(&mut table.more);
        if more > 0 {
            let what = "more events than are listed separately";
            let (severity, reason, detail) = (Severity::Info, String::new(), String::new());
            lines.push(Line { what, severity, user: None, reason, detail, count: more });
        }
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    text
}

/// That of the process's log.
static LOG: LazyLock<Summary> = LazyLock::new(Summary::default);

/// Counts this for the process's log, and tells it at once if it was quiet before.
pub fn note(cause: Cause<'_>, detail: impl FnOnce() -> String) {
    if let Some(line) = LOG.note(cause, detail) {
        line.tell();
    }
}

/// Tells what was counted and not yet told, before the program ends.
pub fn tell_rest() {
    LOG.due().iter().for_each(Line::tell);
}

/// Tells each minute what was counted, for as long as it is polled.
pub async fn keep_telling() {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell_rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(user: &str) -> Cause<'_> {
        Cause::info("declined").of(Some(user)).because("replay")
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_once_with_their_number() {
        let summary = Summary::default();
        let note = |user: &'static str, n: u64| summary.note(cause(user), || format!("the {n}."));
        assert_eq!(note("alice", 1).map(|line| (line.count, line.detail)), Some((1, "the 1.".into())));
        assert!((2..=1000).all(|n| note("alice", n).is_none()));
        assert!(note("bob", 1).is_some() && summary.note(Cause::warn("declined"), String::new).is_some());
        let due = summary.due();
        assert_eq!(due.len(), 1, "what was told and did not happen again is not told twice: {due:?}");
        assert_eq!((due[0].user.as_deref(), due[0].count, due[0].detail.as_str()), (Some("alice"), 999, "the 1000."));
        assert!(note("alice", 1).is_none(), "it goes on");
        assert_eq!(summary.due()[0].count, 1);
        assert!(summary.due().is_empty());
        assert!(note("alice", 1).is_some(), "it was quiet");
    }

    #[test]
    fn the_table_is_bounded_and_details_are_short() {
        let summary = Summary::default();
        let users: Vec<String> = (0..2 * MOST).map(|n| n.to_string()).collect();
        let told = users.iter().filter(|user| summary.note(cause(user), || "é".repeat(LONGEST)).is_some()).count();
        assert_eq!((told, summary.lock().counted.len()), (MOST - RESERVED, MOST - RESERVED));
        let warnings =
            users.iter().filter(|user| summary.note(Cause::warn("fails").of(Some(user)), String::new).is_some());
        assert_eq!((warnings.count(), summary.lock().counted.len()), (RESERVED, MOST));
        assert!(summary.lock().counted.values().all(|counted| counted.detail.len() <= LONGEST));
        let due = summary.due();
        let left_out = 2 * MOST - (MOST - RESERVED) + 2 * MOST - RESERVED;
        assert_eq!((due.len(), due[0].count), (1, left_out as u64));
        assert!(summary.note(cause("x"), String::new).is_some(), "there is room again");
    }
}
