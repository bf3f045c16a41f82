//! The latest events, for those who look: a ring in memory, and a way to wait for the next.
//!
//! Visits of strangers are counted and not listed here: there are too many of them. No entry has an address. What was done
//! through the admin listener has a ring of its own, so that clients cannot push it out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::views::{moment, now};
use crate::server::event::{Event, Observer};

/// Entries that are kept, and actions besides.
pub const KEPT: usize = 1000;
const KEPT_ACTIONS: usize = 200;

/// Kind of what was done through the admin listener.
pub const ACTION: &str = "action";

/// One event.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its number; later ones have higher numbers.
    pub id: u64,
    /// Time of the event (RFC 3339).
    pub time: String,
    /// Kind of event: `admitted`, `declined`, `session_over`, `cover_away`, `cover_failed`, `dc_unreachable` or
    /// `action`.
    pub kind: String,
    /// User that it concerns, where known; for an action, its actor.
    pub user: Option<String>,
    /// More about it.
    pub detail: String,
}

/// The latest events.
#[derive(Debug)]
pub struct Events {
    rings: Mutex<Rings>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rings {
    events: VecDeque<Entry>,
    actions: VecDeque<Entry>,
}

impl Default for Events {
    fn default() -> Self {
        Self { rings: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Adds an event.
    pub fn add(&self, kind: &str, user: Option<&str>, detail: impl Into<String>) {
        let entry =
            Entry { id: 0, time: moment(now()), kind: kind.into(), user: user.map(Into::into), detail: detail.into() };
        let mut rings = self.rings();
        let id = *self.last.borrow() + 1;
        let (ring, most) = match kind {
            ACTION => (&mut rings.actions, KEPT_ACTIONS),
            _ => (&mut rings.events, KEPT),
        };
        if ring.len() == most {
            ring.pop_front();
        }
        ring.push_back(Entry { id, ..entry });
        self.last.send_replace(id);
    }

    /// Those behind number `after`, at most `most` of the latest.
    pub fn list(&self, after: u64, most: usize) -> Vec<Entry> {
        let rings = self.rings();
        let fresh = |ring: &VecDeque<Entry>| ring.partition_point(|entry| entry.id <= after);
        let (events, actions) = (&rings.events, &rings.actions);
        let mut all: Vec<&Entry> = events.range(fresh(events)..).chain(actions.range(fresh(actions)..)).collect();
        all.sort_unstable_by_key(|entry| entry.id);
        all[all.len().saturating_sub(most)..].iter().map(|entry| (*entry).clone()).collect()
    }

    /// The same, as soon as there is one, or after this time.
    pub async fn wait(&self, after: u64, most: usize, patience: Duration) -> Vec<Entry> {
        let mut last = self.last.subscribe();
        // Someone who names a number of an earlier run would wait for a long time.
        let after = if after > *last.borrow() { 0 } else { after };
        let _ = tokio::time::timeout(patience, last.wait_for(|id| *id > after)).await;
        self.list(after, most)
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Events {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::Declined { declined, .. } => {
                let Some(member) = &declined.member else { return };
                self.add("declined", Some(member.name()), declined.reason.to_string());
            }
            Event::Admitted { member, class, .. } => self.add("admitted", Some(member.name()), class.label()),
            Event::SessionOver { member, dc, closed, lasted } => {
                let (by, up, down) = (closed.by.label(), closed.up, closed.down);
                let text = format!("dc {dc}, {} s, {up} bytes up, {down} down: {by}", lasted.as_secs());
                self.add("session_over", Some(member.name()), text);
            }
            Event::CoverAway => self.add("cover_away", None, "the cover could not be reached"),
            Event::CoverFailed(failure) => self.add("cover_failed", None, failure.to_string()),
            Event::Undialled { dc, unknown } => {
                let what = if unknown { "does not exist" } else { "cannot be reached" };
                self.add("dc_unreachable", None, format!("data centre {dc} {what}"));
            }
            Event::MiddleFallback { dc } => {
                self.add("middle_fallback", None, format!("data centre {dc} was reached directly: no middle proxy"));
            }
            Event::Accepted
            | Event::VisitOver { .. }
            | Event::VisitorMoved { .. }
            | Event::Dialled { .. }
            | Event::MiddleAttached { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::{Declined, Member, Reason};

    #[test]
    fn the_latest_are_kept_and_strangers_are_not_listed() {
        let events = Events::default();
        let from = ([192, 0, 2, 77], 5).into();
        events.observe(&Event::Declined { from, declined: &Reason::Digest.into() });
        assert!(events.list(0, 10).is_empty());
        let declined = Declined { reason: Reason::Replay, member: Some(Member::new("alice")) };
        events.observe(&Event::Declined { from, declined: &declined });
        let entry = &events.list(0, 10)[0];
        assert_eq!((entry.id, entry.user.as_deref(), entry.detail.as_str()), (1, Some("alice"), "replay"));
        assert!(!format!("{entry:?}").contains("192.0.2"));
        (0..KEPT).for_each(|_| events.observe(&Event::CoverAway));
        let all = events.list(0, usize::MAX);
        assert_eq!((all.len(), all[0].id, all[KEPT - 1].id), (KEPT, 2, KEPT as u64 + 1));
        assert_eq!(events.list(KEPT as u64, 10).len(), 1);
        events.add(ACTION, Some("ops"), "drain");
        (0..KEPT).for_each(|_| events.observe(&Event::CoverAway));
        assert_eq!(events.list(0, usize::MAX)[0].detail, "drain", "clients do not push it out");
        let events = Events::default();
        (0..=KEPT).for_each(|_| events.observe(&Event::CoverAway));
        assert_eq!(events.list(5, 3).iter().map(|entry| entry.id).collect::<Vec<_>>(), [999, 1000, 1001]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_an_event_or_with_patience() {
        let events = Arc::new(Events::default());
        events.add("action", None, "first");
        let waiting = {
            let events = Arc::clone(&events);
            tokio::spawn(async move { events.wait(1, 9, Duration::from_secs(20)).await })
        };
        tokio::task::yield_now().await;
        events.add("action", Some("ops"), "second");
        assert_eq!(waiting.await.unwrap()[0].detail, "second");
        assert!(events.wait(2, 9, Duration::from_secs(20)).await.is_empty());
        assert_eq!(events.wait(77, 9, Duration::from_secs(20)).await.len(), 2, "a number of an earlier run");
    }
}
