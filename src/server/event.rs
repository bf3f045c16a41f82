//! What the running proxy tells, as it happens. It asks no one anything: what counts, alarms or keeps records listens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::debug;

use crate::auth::{Declined, Member, Reason};
use crate::base::summary::{self, Cause};
use crate::cover::{Failure, VisitObserver};
use crate::relay::Closed;
use crate::server::limits::IpFilter;
use crate::telegram::DcId;
use crate::wire::HelloClass;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A client has connected.
    Accepted,
    /// A connection is known to be a mere visit of the cover.
    Declined {
        /// The client's address.
        from: SocketAddr,
        /// Reason, with the user whose key it showed.
        declined: &'a Declined,
    },
    /// A visit has ended.
    VisitOver {
        /// End of the pass-through, where it came to that.
        closed: Option<Closed>,
        /// Time since the client connected.
        lasted: Duration,
    },
    /// A visit of the built-in site is over, in which the client sent and got so many bytes.
    VisitorMoved {
        /// Sent by the client.
        up: u64,
        /// Sent to it.
        down: u64,
    },
    /// A remote cover could not be reached for a client, or left before it spoke.
    CoverAway,
    /// A remote cover accepted a client that was admitted, and had no flight for it.
    CoverFailed(Failure),
    /// A client has proved itself twice.
    Admitted {
        /// The client's address.
        from: SocketAddr,
        /// User whose key it was.
        member: &'a Arc<Member>,
        /// Class of its hello.
        class: HelloClass,
        /// Time since it connected.
        took: Duration,
        /// Whether the cover itself answered its hello.
        by_cover: bool,
    },
    /// A data centre was reached for a session.
    Dialled {
        /// Which.
        dc: DcId,
        /// Time that it took.
        took: Duration,
        /// Whether a connection stood ready.
        warm: bool,
    },
    /// A session has no data centre.
    Undialled {
        /// Which one was wanted.
        dc: DcId,
        /// Whether there is no such data centre.
        unknown: bool,
    },
    /// A session has a place on a link to a middle proxy.
    MiddleAttached {
        /// Its data centre.
        dc: DcId,
        /// Time that it took.
        took: Duration,
    },
    /// A session was to go through a middle proxy, and goes the direct way because there is no link.
    MiddleFallback {
        /// Its data centre.
        dc: DcId,
    },
    /// A session has ended.
    SessionOver {
        /// User of the session.
        member: &'a Arc<Member>,
        /// Its data centre.
        dc: DcId,
        /// Direction in which it ended.
        closed: Closed,
        /// Time since the client was admitted.
        lasted: Duration,
    },
}

/// Listens. Called on the threads that move bytes, so it must be quick and never block.
pub trait Observer: Send + Sync {
    /// This happened.
    fn observe(&self, event: &Event<'_>);
}

/// Several observers are one.
impl Observer for Vec<Arc<dyn Observer>> {
    fn observe(&self, event: &Event<'_>) {
        self.iter().for_each(|observer| observer.observe(event));
    }
}

/// Hears the cover and tells the log and the observer.
pub(super) struct VisitReporter {
    pub observer: Arc<dyn Observer>,
    /// Knows which list bars whom.
    pub barrier: Arc<dyn IpFilter>,
    /// Counts the clients that found the cover away.
    pub away: Arc<AtomicU64>,
}

impl VisitObserver for VisitReporter {
    /// An operator can act on the reasons of clients that know a secret, and on limits and lists of their own.
    fn declined(&self, from: SocketAddr, declined: &Declined) {
        let reason = declined.reason;
        let user = declined.member.as_ref().map(|member| member.name());
        match reason {
            Reason::Time(skew) => {
                let cause = Cause::info("a client with a valid secret was refused: its clock is off");
                summary::note(cause.of(user).because(reason.label()), || format!("by {skew} s"));
            }
            Reason::Unsearched => {
                summary::note(
                    Cause::warn("too many hellos arrived to check all of them: some may have been users"),
                    String::new,
                );
            }
            // Also where it is not known whose client it is: the operator's own may be among them.
            Reason::Barred(by) => {
                let list = self.barrier.list(from.ip()).map(|list| format!("{by}: {list}"));
                let cause = Cause::info("rejected by a limit or a list, and shown the cover");
                summary::note(cause.of(user).because(list.as_deref().unwrap_or(by)), String::new);
            }
            _ if user.is_some() => {
                let cause = Cause::info("declined after a valid digest").of(user).because(word(reason));
                summary::note(cause, || reason.to_string());
            }
            _ => debug!(reason = reason.label(), detail = %reason, "visitor"),
        }
        self.observer.observe(&Event::Declined { from, declined });
    }

    fn cover_away(&self, error: &io::Error) {
        self.away.fetch_add(1, Ordering::Relaxed);
        summary::note(Cause::warn("the cover could not be reached"), || error.to_string());
        self.observer.observe(&Event::CoverAway);
    }

    fn cover_failed(&self, failure: Failure) {
        let cause = Cause::warn("the cover accepted an admitted client and had no handshake for it");
        summary::note(cause.because(failure.label()), || failure.to_string());
        self.observer.observe(&Event::CoverFailed(failure));
    }

    fn visitor_moved(&self, up: u64, down: u64) {
        self.observer.observe(&Event::VisitorMoved { up, down });
    }
}

/// The word that tells apart what is counted: a user's limits one by one.
fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Refused(refusal) => refusal.label(),
        reason => reason.label(),
    }
}
