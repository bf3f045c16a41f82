//! Silence behind an answer that is borne of each client, so that none is ended over and over.
//!
//! A session that is ended for its silence costs a healthy app a reconnect, and shows to a watcher. So the silence that is
//! borne doubles with each wave of ends, and after the third none is ended until the client has been left alone for half
//! an hour. A client is a user at an address with a data centre; the connections that it had open at the first end of a wave belong
//! to that wave, and a few of them may end in it.
//!
//! ```text
//!  15 s ──▶ 30 s ──▶ 60 s ──▶ none ── half an hour without an end ──▶ 15 s
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::relay::unanswered::{FIRST_SILENCE, SilenceBudget, SilenceRuling};
use crate::telegram::DcId;

/// Clients whose silence behind an answer ends their session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SilenceScope {
    /// None.
    Off,
    /// Those whose hello has the shape of Telegram's apps for Apple's systems.
    #[default]
    Apple,
    /// All.
    All,
}

impl SilenceScope {
    /// Whether a client is meant. Connections for media are left alone by the apps as soon as they have what they came for.
    pub fn covers(self, has_apples_shape: bool, dc: DcId) -> bool {
        let meant = match self {
            Self::Off => false,
            Self::Apple => has_apples_shape,
            Self::All => true,
        };
        meant && !dc.is_for_media()
    }
}

/// Waves of ends before a client is left alone.
const WAVES: u32 = 3;

/// Most sessions of a client that end in one wave.
const AT_ONCE: u32 = 4;

/// Time without an end after which a client's budget is what it was at first.
const REST: Duration = Duration::from_secs(30 * 60);

/// Most clients that are remembered; further ones keep their sessions.
const MOST: usize = 4096;

/// A client, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClientKey {
    user: Box<str>,
    from: IpAddr,
    dc: DcId,
}

/// Ends of one client's sessions.
#[derive(Clone, Copy, Debug)]
struct SilenceWaves {
    count: u32,
    /// First end of the last wave, and the number of ends in it.
    first: Instant,
    ended: u32,
    last: Instant,
}

/// What was ended for all clients.
#[derive(Debug, Default)]
pub struct SilenceLimits(Mutex<HashMap<ClientKey, SilenceWaves>>);

/// The budget of one session.
#[derive(Debug)]
struct ClientBudget {
    limits: Arc<SilenceLimits>,
    client: ClientKey,
}

impl SilenceLimits {
    /// The budget of a session of this user from there with this data centre.
    pub fn budget(self: &Arc<Self>, user: &str, from: IpAddr, dc: DcId) -> Arc<dyn SilenceBudget> {
        let client = ClientKey { user: user.into(), from: from.to_canonical(), dc };
        Arc::new(ClientBudget { limits: Arc::clone(self), client })
    }

    fn judge(&self, client: &ClientKey, begun: Instant, silent: Duration, now: Instant) -> SilenceRuling {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = |waves: &SilenceWaves| now.saturating_duration_since(waves.last) >= REST;
        let before = known.get(client).copied().filter(|waves| !rested(waves));
        let after = match before {
            None => SilenceWaves { count: 1, first: now, ended: 1, last: now },
            Some(waves) if begun <= waves.first => SilenceWaves { ended: waves.ended + 1, last: now, ..waves },
            Some(waves) => SilenceWaves { count: waves.count + 1, first: now, ended: 1, last: now },
        };
        if after.count > WAVES || after.ended > AT_ONCE {
            return SilenceRuling::Keep;
        }
        let borne = FIRST_SILENCE * (1 << (after.count - 1));
        if silent < borne {
            return SilenceRuling::Until(borne);
        }
        if known.len() >= MOST && !known.contains_key(client) {
            known.retain(|_, waves| !rested(waves));
            if known.len() >= MOST {
                return SilenceRuling::Keep;
            }
        }
        known.insert(client.clone(), after);
        SilenceRuling::End
    }
}

impl SilenceBudget for ClientBudget {
    fn judge(&self, begun: Instant, silent: Duration, now: Instant) -> SilenceRuling {
        self.limits.judge(&self.client, begun, silent, now)
    }
}

#[cfg(test)]
mod tests {
    use SilenceRuling::{End, Keep, Until};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn connections_for_media_are_none_of_those_that_are_meant() {
        for (scope, apple, others) in
            [(SilenceScope::Off, false, false), (SilenceScope::Apple, true, false), (SilenceScope::All, true, true)]
        {
            for (dc, main) in [(2, true), (-2, false), (203, false), (10_002, true)] {
                let covers = |shape| scope.covers(shape, DcId::new(dc));
                assert_eq!((covers(true), covers(false)), (apple && main, others && main), "{scope:?} {dc}");
            }
        }
    }

    #[test]
    fn the_silence_that_is_borne_doubles_and_then_a_client_is_left_alone_for_half_an_hour() {
        let limits = Arc::new(SilenceLimits::default());
        let budget = limits.budget("alice", HERE, DcId::new(2));
        let mut now = Instant::now();
        for round in 0..2 {
            for borne in [15, 30, 60] {
                let begun = now + seconds(1);
                now = begun + seconds(15);
                if borne > 15 {
                    assert_eq!(budget.judge(begun, seconds(15), now), Until(seconds(borne)), "round {round}");
                }
                now = begun + seconds(borne);
                assert_eq!(budget.judge(begun, seconds(borne), now), End, "round {round}");
            }
            let last = now;
            for later in [60, 600, 1799] {
                now = last + seconds(later);
                assert_eq!(budget.judge(now - seconds(30), seconds(3600), now), Keep, "after {later} s");
            }
            now = last + REST;
        }
        let other = limits.budget("alice", HERE, DcId::new(4));
        assert_eq!(other.judge(now, seconds(15), now), End, "another data centre is another client");
    }

    #[test]
    fn connections_of_one_time_are_one_wave_and_not_all_of_them_end() {
        let limits = Arc::new(SilenceLimits::default());
        let budget = limits.budget("alice", HERE, DcId::new(2));
        let begun = Instant::now();
        let now = begun + seconds(20);
        let rulings: Vec<_> = (0..6).map(|_| budget.judge(begun, seconds(15), now)).collect();
        assert_eq!(rulings, [End, End, End, End, Keep, Keep]);
        assert_eq!(budget.judge(now + seconds(1), seconds(15), now + seconds(16)), Until(seconds(30)));
    }

    #[test]
    fn no_client_fills_the_memory_and_old_ones_make_room() {
        let limits = Arc::new(SilenceLimits::default());
        let now = Instant::now();
        let ends = |number: usize, now| {
            let budget = limits.budget(&number.to_string(), HERE, DcId::new(2));
            budget.judge(now, seconds(15), now) == End
        };
        assert!((0..MOST).all(|number| ends(number, now)));
        assert!(!ends(MOST, now));
        assert!(ends(MOST, now + REST));
        assert_eq!(limits.0.lock().unwrap().len(), 1);
    }
}
