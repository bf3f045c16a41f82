//! Memory of what worked and what failed among places that are dialled again and again.
//!
//! It only decides the order of attempts. A place that failed lately goes last, so that a dead one costs an attempt and not
//! a delay of everybody who comes; now and then it is given a chance in its old place, by one caller, because no one else
//! would notice that it is back. Nothing here reads a clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a place is not trusted after its first failure. Doubled with each further one in a row, up to
/// [`LONGEST`].
pub const FIRST: Duration = Duration::from_secs(30);

/// Longest time for which a place is not trusted.
pub const LONGEST: Duration = Duration::from_secs(600);

/// Most places that are remembered. There are a few dozen; a list from the web may name more over the years.
const MOST: usize = 512;

/// Record of the places that worked or failed. `K` identifies a place: an address, or an address and the way to it.
#[derive(Debug)]
pub struct Health<K = SocketAddr> {
    known: Mutex<HashMap<K, Mark>>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Failures in a row; none if it worked the last time.
    failures: u32,
    /// Time of the last result.
    at: Instant,
    /// Not before is one that failed given a chance.
    again: Instant,
}

/// Expected success of a place, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prospect {
    /// It worked, or is due for a chance.
    Good,
    /// It was never tried.
    Unknown,
    /// It failed lately; the one that failed first goes first.
    Bad(Instant),
}

impl<K> Default for Health<K> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Copy + Eq + Hash> Health<K> {
    /// The order in which to try these: what worked last before what is not known, and what failed lately at the end. Among
    /// equals the given order stays. A place that is due for a chance is put among the good ones for this caller only.
    pub fn order(&self, places: &[K], now: Instant) -> Vec<K> {
        let mut known = self.lock();
        let mut ordered: Vec<(Prospect, K)> =
            places.iter().map(|place| (Self::prospect(&mut known, place, now), *place)).collect();
        ordered.sort_by_key(|(prospect, _)| *prospect);
        ordered.into_iter().map(|(_, place)| place).collect()
    }

    /// The same where the given order is someone's will: only what failed lately is put at the end.
    pub fn bad_last(&self, places: &[K], now: Instant) -> Vec<K> {
        let mut known = self.lock();
        let will = |prospect| match prospect {
            Prospect::Bad(since) => Some(since),
            Prospect::Good | Prospect::Unknown => None,
        };
        let mut ordered: Vec<(Option<Instant>, K)> =
            places.iter().map(|place| (will(Self::prospect(&mut known, place, now)), *place)).collect();
        ordered.sort_by_key(|(bad, _)| *bad);
        ordered.into_iter().map(|(_, place)| place).collect()
    }

    fn prospect(known: &mut HashMap<K, Mark>, place: &K, now: Instant) -> Prospect {
        match known.get_mut(place) {
            None => Prospect::Unknown,
            Some(Mark { failures: 0, .. }) => Prospect::Good,
            Some(mark) if now < mark.again => Prospect::Bad(mark.at),
            Some(mark) => {
                // The next caller waits until it is known what came of this one, or for as long again.
                mark.again = now + distrust(mark.failures);
                Prospect::Good
            }
        }
    }

    /// This one answered an attempt that began at `began`, which says nothing against a failure that was found since.
    pub fn worked(&self, place: K, began: Instant, now: Instant) {
        let news = self.lock().get(&place).is_none_or(|mark| mark.failures == 0 || mark.at <= began);
        if news {
            self.put(place, Mark { failures: 0, at: now, again: now });
        }
    }

    /// This one did not answer, or later than another that was asked after it.
    pub fn failed(&self, place: K, now: Instant) {
        let before = self.lock().get(&place).copied();
        // Callers that set out together find out together, which is one failure.
        let failures = match before {
            Some(mark) if mark.failures > 0 && now < mark.at + FIRST => mark.failures,
            Some(mark) => mark.failures.saturating_add(1),
            None => 1,
        };
        self.put(place, Mark { failures, at: now, again: now + distrust(failures) });
    }

    /// Whether this one is known to have failed and has not worked since.
    pub fn is_bad(&self, place: &K) -> bool {
        self.lock().get(place).is_some_and(|mark| mark.failures > 0)
    }

    fn put(&self, place: K, mark: Mark) {
        let mut known = self.lock();
        if known.len() >= MOST
            && !known.contains_key(&place)
            && let Some(oldest) = known.iter().min_by_key(|(_, mark)| mark.at).map(|(place, _)| *place)
        {
            known.remove(&oldest);
        }
        known.insert(place, mark);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Mark>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn distrust(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_failed_goes_last_and_what_worked_before_what_is_not_known() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(health.order(&[1, 2, 3, 4], now), [1, 2, 3, 4]);
        health.worked(3, now, now);
        health.failed(1, now);
        health.failed(4, after(now, 1));
        assert_eq!(health.order(&[4, 1, 2, 3], after(now, 2)), [3, 2, 1, 4]);
        assert!(health.is_bad(&1) && !health.is_bad(&2) && !health.is_bad(&3));
        health.worked(1, after(now, 3), after(now, 3));
        assert_eq!(health.order(&[4, 1, 2, 3], after(now, 4)), [1, 3, 2, 4]);
    }

    #[test]
    fn an_attempt_that_began_before_a_failure_was_found_does_not_make_it_good() {
        let (health, now) = (Health::default(), Instant::now());
        health.failed(1, after(now, 2));
        health.worked(1, after(now, 1), after(now, 3));
        assert!(health.is_bad(&1));
        health.worked(1, after(now, 2), after(now, 4));
        assert!(!health.is_bad(&1));
    }

    #[test]
    fn somebodys_order_is_changed_by_failures_alone() {
        let (health, now) = (Health::default(), Instant::now());
        health.worked(3, now, now);
        health.failed(1, now);
        health.failed(4, after(now, 1));
        assert_eq!(health.bad_last(&[4, 1, 2, 3], after(now, 2)), [2, 3, 1, 4]);
        assert_eq!(health.bad_last(&[4, 1, 2, 3], after(now, 30)), [1, 2, 3, 4]);
    }

    #[test]
    fn one_caller_in_a_period_gives_a_failed_one_its_chance() {
        let (health, now) = (Health::default(), Instant::now());
        health.worked(2, now, now);
        health.failed(1, now);
        assert_eq!(health.order(&[1, 2], after(now, 29)), [2, 1]);
        assert_eq!(health.order(&[1, 2], after(now, 30)), [1, 2]);
        assert_eq!(health.order(&[1, 2], after(now, 30)), [2, 1], "that is one");
        health.failed(1, after(now, 40));
        assert_eq!(health.order(&[1, 2], after(now, 99)), [2, 1], "and then twice as long");
        assert_eq!(health.order(&[1, 2], after(now, 100)), [1, 2]);
        health.worked(1, after(now, 101), after(now, 101));
        assert_eq!(health.order(&[1, 2], after(now, 101)), [1, 2]);
        assert_eq!(health.order(&[1, 2], after(now, 101)), [1, 2]);
    }

    #[test]
    fn a_chance_that_nobody_reports_on_comes_again() {
        let (health, now) = (Health::default(), Instant::now());
        health.worked(2, now, now);
        health.failed(1, now);
        for seconds in [30, 60, 90] {
            assert_eq!(health.order(&[1, 2], after(now, seconds)), [1, 2]);
            assert_eq!(health.order(&[1, 2], after(now, seconds + 1)), [2, 1]);
        }
    }

    #[test]
    fn a_hundred_that_fail_together_are_one_failure_and_there_is_a_longest_time() {
        let (health, mut now) = (Health::default(), Instant::now());
        (0..100).for_each(|_| health.failed(1, now));
        health.worked(2, now, now);
        assert_eq!(health.order(&[1, 2], after(now, 30)), [1, 2]);
        for _ in 0..50 {
            now += LONGEST;
            health.failed(1, now);
        }
        assert_eq!(health.order(&[1, 2], now + LONGEST - FIRST), [2, 1]);
        assert_eq!(health.order(&[1, 2], now + LONGEST), [1, 2]);
    }

    #[test]
    fn the_memory_has_a_bound() {
        let (health, now) = (Health::default(), Instant::now());
        for place in 0..3 * MOST {
            health.failed(place, now + Duration::from_millis(place as u64));
        }
        assert_eq!(health.lock().len(), MOST);
        assert!(health.is_bad(&(3 * MOST - 1)) && !health.is_bad(&0));
    }
}
