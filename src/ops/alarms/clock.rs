//! The clock of this server, judged by its clients: one client whose clock is off has a wrong clock, many that are off by the
//! same have not.
//!
//! A client's time is not covered by its authentication code, so one who has recorded a hello may show it with any time. A
//! vote therefore counts once for each user and network, and no single user decides where there are others.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::auth::UnixTime;

const HOUR: i64 = 3600;

/// Most votes that are kept. The oldest give way.
const MOST: usize = 512;

/// Largest difference, in seconds, between clocks that agree. A phone is within seconds of the network's time, a
/// desktop within a minute.
const TOLERANCE: i64 = 60;

/// From how many networks those must come that agree.
const NETWORKS: usize = 3;

/// By how much a clock must be off to be worth a word.
const WORTH: i64 = 120;

/// Evidence from servers on this one's clock: by how many seconds theirs are ahead.
///
/// Telegram's web server counts alone: its lists come over HTTPS, so its time cannot be made up on the way. The time of
/// a remote cover could be made up between the two machines, or be wrong, and counts where it agrees. What clients
/// claim is no part of this: a thief with a recorded hello, or a holder of a link, can claim any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dates {
    /// Telegram, with its lists of middle proxies.
    pub telegram: Option<i64>,
    /// A remote cover, with its front page.
    pub cover: Option<i64>,
}

impl Dates {
    /// By how much this server's clock is behind theirs, if that is worth a word, and whose word it is.
    pub(super) fn agreed(self) -> Option<(i64, &'static str)> {
        let is_off = |ahead: &i64| ahead.saturating_abs() >= WORTH;
        let (ahead, who) = match (self.telegram, self.cover) {
            (Some(telegram), Some(cover)) if telegram.abs_diff(cover) <= TOLERANCE.unsigned_abs() => {
                (telegram, "Telegram and the cover")
            }
            (Some(telegram), _) => (telegram, "Telegram"),
            (None, _) => return None,
        };
        is_off(&ahead).then_some((ahead, who))
    }
}

/// Agreement of clients on the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// By how much their clocks are ahead of this server's.
    pub(super) ahead: i64,
    /// Number of clients that agree.
    pub(super) clients: usize,
}

/// Votes of the last hour. Knows no clock: `now` is given, by the clock that is judged.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    votes: HashMap<(String, IpAddr), Vote>,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    ahead: i64,
    at: UnixTime,
}

impl Clocks {
    /// A client of this user from this network is ahead by so much. Says what all of them agree on, if that is not this
    /// server's time.
    pub(super) fn vote(&mut self, user: &str, network: IpAddr, ahead: i64, now: UnixTime) -> Option<Agreement> {
        let is_off = ahead.abs() >= WORTH;
        if is_off || self.votes.len() >= MOST {
            // Also those of a time to come: the clock was set since.
            self.votes.retain(|_, vote| (now.0 - vote.at.0).abs() < HOUR);
        }
        let key = (user.to_owned(), network);
        if self.votes.len() >= MOST && !self.votes.contains_key(&key) {
            let oldest = self.votes.iter().min_by_key(|(_, vote)| vote.at).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.votes.remove(&oldest));
        }
        self.votes.insert(key, Vote { ahead, at: now });
        if is_off { self.agreement() } else { None }
    }

    fn agreement(&self) -> Option<Agreement> {
        let mut all: Vec<i64> = self.votes.values().map(|vote| vote.ahead).collect();
        all.sort_unstable();
        let ahead = *all.get(all.len() / 2)?;
        let agree = |vote: &Vote| vote.ahead.abs_diff(ahead) <= TOLERANCE.unsigned_abs();
        let those = || self.votes.iter().filter(|(_, vote)| agree(vote)).map(|(key, _)| key);
        let users: HashSet<&str> = those().map(|(user, _)| user.as_str()).collect();
        let networks: HashSet<IpAddr> = those().map(|(_, network)| *network).collect();
        let known: HashSet<&str> = self.votes.keys().map(|(user, _)| user.as_str()).collect();
        let clients = those().count();
        let is_agreed = ahead.abs() >= WORTH
            && networks.len() >= NETWORKS
            && clients * 3 >= all.len() * 2
            && users.len() >= known.len().min(2);
        is_agreed.then_some(Agreement { ahead, clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixTime = UnixTime(1_800_000_000);

    fn at(n: u8) -> IpAddr {
        [192, 0, n, 0].into()
    }

    /// The last word of votes of users by number, each from a network of its own.
    fn voted(votes: &[(&str, u8, i64)]) -> Option<Agreement> {
        let mut clocks = Clocks::default();
        votes.iter().map(|(user, network, ahead)| clocks.vote(user, at(*network), *ahead, START)).last().flatten()
    }

    #[test]
    fn many_clients_that_are_off_by_the_same_are_right() {
        let mut clocks = Clocks::default();
        let mut first = None;
        for n in 0..31u8 {
            let ahead = 7200 + i64::from(n) - 15;
            let user = format!("user {}", n % 7);
            let agreed = clocks.vote(&user, at(n), ahead, UnixTime(START.0 + i64::from(n)));
            first = first.or(agreed.map(|_| n));
        }
        assert_eq!(first, Some(2), "three networks and two users are enough");
        assert_eq!(clocks.agreement().map(|agreed| agreed.clients), Some(31));
        assert!(clocks.agreement().unwrap().ahead.abs_diff(7200) <= 15);
    }

    #[test]
    fn the_date_of_telegram_counts_and_that_of_a_cover_only_beside_it() {
        let agreed = |telegram, cover| Dates { telegram, cover }.agreed();
        assert_eq!(agreed(Some(7200), Some(7190)), Some((7200, "Telegram and the cover")));
        assert_eq!(agreed(Some(-7200), None), Some((-7200, "Telegram")));
        assert_eq!(agreed(Some(-7200), Some(0)), Some((-7200, "Telegram")), "a cover may have our own clock");
        for (telegram, cover) in [(None, None), (None, Some(7200)), (Some(0), Some(7200)), (Some(WORTH - 1), None)] {
            assert_eq!(agreed(telegram, cover), None, "{telegram:?} {cover:?}");
        }
        assert!(agreed(Some(i64::MIN), Some(i64::MAX)).is_some());
    }

    #[test]
    fn a_few_wrong_clocks_do_not_blame_the_server() {
        assert_eq!(voted(&[("a", 1, 7200), ("b", 2, 7200)]), None, "two may be two");
        assert_eq!(
            voted(&[("a", 1, 7200), ("b", 2, -400), ("c", 3, 86_400), ("d", 4, 3600)]),
            None,
            "each off its own way"
        );
        let right = [("d", 4, 0), ("e", 5, 0), ("f", 6, 1)];
        let wrong = [("a", 1, 7200), ("b", 2, 7200), ("c", 3, 7200)];
        assert_eq!(voted(&[&right[..], &wrong].concat()), None, "others are admitted");
        assert!(voted(&[&right[..1], &wrong].concat()).is_some());
        assert_eq!(voted(&[("a", 1, 100), ("b", 2, 100), ("c", 3, 100)]), None, "little");
    }

    #[test]
    fn one_user_alone_does_not_speak_for_the_others() {
        let replayed: Vec<(&str, u8, i64)> = (0..40).map(|n| ("a", n, -7200)).collect();
        assert!(voted(&replayed).is_some(), "a link that many share");
        let with_another = [&[("b", 50, 0)][..], &replayed].concat();
        assert_eq!(voted(&with_another), None);
    }

    #[test]
    fn votes_of_before_do_not_count_for_ever() {
        let mut clocks = Clocks::default();
        for n in 0..3u8 {
            let later = UnixTime(START.0 + i64::from(n) * HOUR);
            assert_eq!(clocks.vote(&n.to_string(), at(n), 7200, later), None);
        }
        // The clock was set back.
        assert_eq!(clocks.vote("z", at(9), 7200, UnixTime(START.0 - 10 * HOUR)), None);
        assert_eq!(clocks.votes.len(), 1);
        for n in 0..2 * MOST {
            let n = u32::try_from(n).unwrap();
            clocks.vote("a", IpAddr::from(n.to_be_bytes()), i64::from(n) * 1000, START);
        }
        assert!(clocks.votes.len() <= MOST);
    }
}
