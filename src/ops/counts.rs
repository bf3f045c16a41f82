//! Counts what happens: an observer without a clock, a log or an address.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::tally::Tally;
use crate::auth::Reason;
use crate::relay::Closed;
use crate::server::event::{Event, Observer};
use crate::telegram::DcId;
use crate::wire::HelloClass;

/// Everything that is counted since the start.
///
/// An event costs an atomic addition behind a lock that is held for reading, a histogram a short lock; both happen a few
/// times in a connection and never for a byte.
#[derive(Debug)]
pub struct Counts {
    /// Connections that came.
    pub accepted: AtomicU64,
    /// Visits that ended.
    pub visits_over: AtomicU64,
    /// Clients that proved themselves twice, by their hellos.
    pub admitted: Tally<HelloClass>,
    /// Connections that were known to be visits, by reason.
    pub declined: Tally<Declines>,
    /// Times that a remote cover could not be reached.
    pub cover_away: AtomicU64,
    /// Admitted clients that a remote cover had no flight for, by [`crate::cover::Failure::label`].
    pub cover_failed: Tally<&'static str>,
    /// Data centres that were reached.
    pub dialled: Tally<DcId>,
    /// Those for which a connection stood ready.
    pub dialled_warm: AtomicU64,
    /// Data centres that were not; `None`: there is no such one.
    pub undialled: Tally<Option<DcId>>,
    /// Sessions that have a place on a link to a middle proxy.
    pub attached: Tally<DcId>,
    /// Sessions that were to have one and went the direct way.
    pub fallbacks: Tally<DcId>,
    /// Ends of sessions and of pass-throughs.
    pub ends: Tally<Ends>,
    /// Bytes that visitors sent and got: of a remote cover after it was known that they are visitors, of the built-in site all.
    pub passed_up: AtomicU64,
    /// See above.
    pub passed_down: AtomicU64,
    /// Time from the first byte to the second proof.
    pub handshake: Histogram,
    /// Time to reach a data centre.
    pub dial: Histogram,
    /// Duration of sessions.
    pub lasted: Histogram,
    cover_is_away: AtomicBool,
    cover_fails: AtomicBool,
}

/// Labels of a declined connection: of the reason, and of the refusal where it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declines {
    /// [`Reason::label`].
    pub reason: &'static str,
    /// The label of the refusal, else empty.
    pub refusal: &'static str,
}

impl From<Reason> for Declines {
    fn from(reason: Reason) -> Self {
        let refusal = if let Reason::Refused(refusal) = reason { refusal.label() } else { "" };
        Self { reason: reason.label(), refusal }
    }
}

/// The reason, and the refusal behind a colon.
impl fmt::Display for Declines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refusal {
            "" => f.write_str(self.reason),
            refusal => write!(f, "{}: {refusal}", self.reason),
        }
    }
}

/// Labels of an end: of the kind of connection, and of the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// `session` or `visit`.
    pub what: &'static str,
    /// [`crate::relay::End::label`].
    pub by: &'static str,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::default(),
            visits_over: AtomicU64::default(),
            admitted: Tally::default(),
            declined: Tally::default(),
            cover_away: AtomicU64::default(),
            cover_failed: Tally::default(),
            dialled: Tally::default(),
            dialled_warm: AtomicU64::default(),
            undialled: Tally::default(),
            attached: Tally::default(),
            fallbacks: Tally::default(),
            ends: Tally::default(),
            passed_up: AtomicU64::default(),
            passed_down: AtomicU64::default(),
            handshake: Histogram::new(LATENCIES),
            dial: Histogram::new(LATENCIES),
            lasted: Histogram::new(LENGTHS),
            cover_is_away: AtomicBool::default(),
            cover_fails: AtomicBool::default(),
        }
    }
}

/// Bounds in seconds, from a loopback to a far and busy place.
const LATENCIES: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Bounds in seconds, from a fetch to a day.
const LENGTHS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21_600.0, 86_400.0];

impl Counts {
    /// Whether the last that was heard of a remote cover is that it could not be reached.
    pub fn cover_is_away(&self) -> bool {
        self.cover_is_away.load(Ordering::Relaxed)
    }

    /// Whether the last admitted client got no flight of a remote cover that had accepted it.
    pub fn cover_fails(&self) -> bool {
        self.cover_fails.load(Ordering::Relaxed)
    }

    /// Visits that go on, and connections that are not yet known to be one.
    pub fn visitors(&self) -> u64 {
        // The later event is read first, so that one in between does not make the difference negative.
        let gone = self.visits_over.load(Ordering::Relaxed) + self.admitted.sum();
        self.accepted.load(Ordering::Relaxed).saturating_sub(gone)
    }

    fn visit_over(&self, closed: Option<Closed>) {
        add(&self.visits_over, 1);
        let Some(closed) = closed else { return };
        self.ends.count(Ends { what: "visit", by: closed.by.label() });
        add(&self.passed_up, closed.up);
        add(&self.passed_down, closed.down);
        if closed.down > 0 {
            self.cover_is_away.store(false, Ordering::Relaxed);
        }
    }
}

impl Observer for Counts {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::Accepted => add(&self.accepted, 1),
            Event::Declined { declined, .. } => self.declined.count(declined.reason.into()),
            Event::VisitOver { closed, .. } => self.visit_over(closed),
            Event::VisitorMoved { up, down } => {
                add(&self.passed_up, up);
                add(&self.passed_down, down);
            }
            Event::CoverAway => {
                add(&self.cover_away, 1);
                self.cover_is_away.store(true, Ordering::Relaxed);
            }
            Event::CoverFailed(failure) => {
                self.cover_failed.count(failure.label());
                self.cover_fails.store(true, Ordering::Relaxed);
            }
            Event::Admitted { class, took, by_cover, .. } => {
                if by_cover {
                    self.cover_is_away.store(false, Ordering::Relaxed);
                    self.cover_fails.store(false, Ordering::Relaxed);
                }
                self.admitted.count(class);
                self.handshake.observe(took.as_secs_f64());
            }
            Event::Dialled { dc, took, warm } => {
                self.dialled.count(dc);
                add(&self.dialled_warm, warm.into());
                self.dial.observe(took.as_secs_f64());
            }
            // The number of one that does not exist was chosen by a client.
            Event::Undialled { dc, unknown } => self.undialled.count((!unknown).then_some(dc)),
            Event::MiddleAttached { dc, .. } => self.attached.count(dc),
            Event::MiddleFallback { dc } => self.fallbacks.count(dc),
            Event::SessionOver { closed, lasted, .. } => {
                self.ends.count(Ends { what: "session", by: closed.by.label() });
                self.lasted.observe(Duration::as_secs_f64(&lasted));
            }
        }
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Declined, Member, Refusal};
    use crate::cover::Failure;
    use crate::relay::End;

    #[test]
    fn events_are_counted_by_what_they_say() {
        let counts = Counts::default();
        let member = Member::new("alice");
        let from = ([127, 0, 0, 1], 5).into();
        for _ in 0..5 {
            counts.observe(&Event::Accepted);
        }
        let declined = |reason: Reason| Declined { reason, member: None };
        counts.observe(&Event::Declined { from, declined: &declined(Reason::Form("hello")) });
        counts.observe(&Event::Declined { from, declined: &declined(Reason::Form("no TLS 1.3")) });
        counts.observe(&Event::Declined { from, declined: &declined(Reason::Refused(Refusal::Disabled)) });
        counts.observe(&Event::CoverAway);
        assert!(counts.cover_is_away());
        counts.observe(&Event::VisitOver { closed: None, lasted: Duration::ZERO });
        let closed = Closed { by: End::FarBroke, up: 3, down: 9 };
        counts.observe(&Event::VisitOver { closed: Some(closed), lasted: Duration::ZERO });
        counts.observe(&Event::VisitorMoved { up: 40, down: 50 });
        assert!(!counts.cover_is_away());
        let took = Duration::from_millis(30);
        let class = HelloClass::ChromeHybrid;
        counts.observe(&Event::CoverFailed(Failure::Slow));
        counts.observe(&Event::Admitted { from, member: &member, class, took, by_cover: false });
        assert!(counts.cover_fails(), "another flight is none of the cover's");
        counts.observe(&Event::Admitted { from, member: &member, class, took, by_cover: true });
        assert!(!counts.cover_fails());
        let (dc, far) = (DcId::new(2), DcId::new(-31_000));
        counts.observe(&Event::Dialled { dc, took, warm: false });
        counts.observe(&Event::Dialled { dc, took, warm: true });
        counts.observe(&Event::Undialled { dc, unknown: false });
        counts.observe(&Event::Undialled { dc: far, unknown: true });
        let closed = Closed { by: End::ClientBroke, up: 1, down: 1 };
        counts.observe(&Event::SessionOver { member: &member, dc, closed, lasted: took });
        assert_eq!(counts.visitors(), 1);
        assert_eq!((counts.dialled.list(), counts.dialled_warm.load(Ordering::Relaxed)), (vec![(dc, 2)], 1));
        let reasons: Vec<_> = counts.declined.list().into_iter().map(|(why, n)| (why.reason, why.refusal, n)).collect();
        assert_eq!(reasons, [("form", "", 2), ("refused", "disabled", 1)]);
        assert_eq!(counts.undialled.list(), [(None, 1), (Some(dc), 1)], "a client's number is no key");
        let ends: Vec<_> = counts.ends.list().into_iter().map(|(end, n)| (end.what, end.by, n)).collect();
        assert_eq!(ends, [("session", "client_broke", 1), ("visit", "far_broke", 1)]);
        let passed = [&counts.passed_up, &counts.passed_down].map(|bytes| bytes.load(Ordering::Relaxed));
        assert_eq!(passed, [43, 59], "of a remote cover and of the built-in site");
        assert_eq!(counts.admitted.list(), [(class, 2)]);
    }
}
