//! When the authority is asked: arithmetic on given times and a given random number.

use serde::{Deserialize, Serialize};

use super::trouble::Trouble;
use crate::auth::UnixTime;

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before: UnixTime,
    /// Its last.
    pub not_after: UnixTime,
}

/// Memory of attempts, over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Attempts in a row that did not end well.
    pub failures: u32,
    /// Time when the last one began, in seconds since 1970.
    pub last: Option<i64>,
    /// Before this the authority does not want to be asked.
    pub not_before: Option<i64>,
    /// Description of the last problem.
    pub why: Option<String>,
    /// Advice on what to do.
    pub fix: Option<String>,
    /// Names that the last one was about; empty where it was about one.
    pub names: Vec<String>,
}

impl Memory {
    /// The memory, for an order of these names. What came of an order of others says nothing of this one, but that the
    /// authority wants to be left alone for a while.
    pub(super) fn about(self, names: &[String]) -> Self {
        let names = if names.len() > 1 { names.to_vec() } else { Vec::new() };
        if self.names == names { self } else { Self { not_before: self.not_before, names, ..Self::default() } }
    }

    /// An attempt begins now. Until it is known to have ended well it counts as a failure: the program may end in it.
    pub(super) fn begun(self, now: UnixTime) -> Self {
        Self {
            failures: self.failures.saturating_add(1),
            last: Some(now.0),
            not_before: None,
            why: Some("the attempt was not finished: the program ended or was given another configuration".into()),
            fix: Some("nothing: it is tried again".into()),
            names: self.names,
        }
    }

    /// It ended well.
    pub(super) fn succeeded(&self) -> Self {
        Self { last: self.last, names: self.names.clone(), ..Self::default() }
    }

    /// It did not.
    pub(super) fn failed(self, trouble: &Trouble, now: UnixTime) -> Self {
        let not_before = trouble.wait.map(|wait| now.0.saturating_add(wait.min(LONGEST_REFUSAL)));
        Self { not_before, why: Some(trouble.what.clone()), fix: Some(trouble.fix.clone()), ..self }
    }
}

/// Time to ask next; that may be in the past. `jitter` is a random number from 0 to 1. `asked` says that the operator
/// wishes it to be soon.
pub(super) fn due(validity: Option<Validity>, memory: &Memory, jitter: f64, asked: bool, now: UnixTime) -> UnixTime {
    let wanted = validity.map_or(now.0, |validity| renewal(validity, jitter));
    // A time that is still to come was written under a wrong clock.
    let last = memory.last.filter(|last| *last <= now.0);
    let again = match (memory.failures, last) {
        (_, None) => now.0,
        (0, Some(last)) if validity.is_none() => last + AFTER_SUCCESS,
        (0, Some(_)) => now.0,
        (failures, Some(last)) => {
            let wait = pause(failures);
            let wait = wait + (jitter * wait as f64 / 4.0) as i64;
            last + if asked { wait.min(ASKED) } else { wait }
        }
    };
    let allowed = memory.not_before.map_or(now.0, |time| time.min(now.0 + LONGEST_REFUSAL));
    UnixTime(wanted.max(again).max(allowed))
}

/// After two thirds of the lifetime, or up to a thirtieth of it earlier: not everybody comes at once.
fn renewal(Validity { not_before, not_after }: Validity, jitter: f64) -> i64 {
    let life = not_after.0.saturating_sub(not_before.0).max(0);
    not_before.0.saturating_add(life / 3 * 2).saturating_sub((jitter * (life / 30) as f64) as i64)
}

/// Seconds to wait after so many failures. Within any hour there are fewer than five attempts, which is what Let's
/// Encrypt bears of failed ones.
fn pause(failures: u32) -> i64 {
    const MINUTES: [i64; 8] = [2, 10, 30, 60, 2 * 60, 4 * 60, 8 * 60, 16 * 60];
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX).min(MINUTES.len() - 1);
    MINUTES[step] * 60
}

/// Seconds to wait where a certificate was issued and is not there any more: something removes it.
const AFTER_SUCCESS: i64 = 60 * 60;

/// Longest wait after an attempt once the operator asks for another, in seconds.
const ASKED: i64 = 15 * 60;

/// No authority keeps anybody waiting for longer, in seconds.
const LONGEST_REFUSAL: i64 = 8 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_767_225_600);
    const DAY: i64 = 86_400;
    const MINUTE: i64 = 60;

    fn valid(from: i64, to: i64) -> Option<Validity> {
        Some(Validity { not_before: UnixTime(NOW.0 + from * DAY), not_after: UnixTime(NOW.0 + to * DAY) })
    }

    fn failed(failures: u32, ago: i64) -> Memory {
        Memory { failures, last: Some(NOW.0 - ago), ..Memory::default() }
    }

    fn from_now(validity: Option<Validity>, memory: &Memory, jitter: f64, asked: bool) -> i64 {
        due(validity, memory, jitter, asked, NOW).0 - NOW.0
    }

    #[test]
    fn what_is_missing_is_asked_for_at_once() {
        assert_eq!(from_now(None, &Memory::default(), 0.5, false), 0);
    }

    #[test]
    fn renewal_is_at_two_thirds_or_a_little_earlier() {
        let none = Memory::default();
        assert_eq!(from_now(valid(0, 90), &none, 0.0, false), 60 * DAY);
        assert_eq!(from_now(valid(0, 90), &none, 1.0, false), 57 * DAY);
        assert_eq!(from_now(valid(0, 6), &none, 0.0, false), 4 * DAY, "short-lived ones as well");
        assert!(from_now(valid(-61, 29), &none, 0.0, false) <= 0);
        assert!(from_now(valid(-100, -10), &none, 0.0, false) <= 0);
        assert!(from_now(valid(0, -1), &none, 0.0, false) <= 0, "a certificate that makes no sense");
    }

    #[test]
    fn each_failure_makes_the_pause_longer_up_to_a_day() {
        let waits: Vec<i64> = (1..12).map(|n| from_now(None, &failed(n, 0), 0.0, false) / MINUTE).collect();
        assert_eq!(waits, [2, 10, 30, 60, 120, 240, 480, 960, 960, 960, 960]);
        assert_eq!(from_now(None, &failed(8, 0), 1.0, false), 20 * 60 * MINUTE);
        assert!(from_now(None, &failed(1, 2 * MINUTE), 0.0, false) <= 0);
        assert_eq!(from_now(None, &failed(u32::MAX, 0), 0.0, false), 960 * MINUTE);
    }

    #[test]
    fn no_hour_has_five_attempts() {
        let mut begun = Vec::new();
        let mut time = 0;
        for failures in 1..20 {
            begun.push(time);
            time += pause(failures);
        }
        for start in &begun {
            assert!(begun.iter().filter(|at| (*start..start + 60 * MINUTE).contains(at)).count() < 5);
        }
    }

    #[test]
    fn the_operator_may_hurry_it_within_bounds() {
        assert_eq!(from_now(None, &failed(8, 0), 0.0, true), 15 * MINUTE);
        assert_eq!(from_now(None, &failed(1, 0), 0.0, true), 2 * MINUTE);
        let refused = Memory { not_before: Some(NOW.0 + 3 * 3600), ..failed(8, DAY) };
        assert_eq!(from_now(None, &refused, 0.0, true), 3 * 3600, "what the authority says counts");
        let absurd = Memory { not_before: Some(i64::MAX), ..failed(1, DAY) };
        assert_eq!(from_now(None, &absurd, 0.0, false), LONGEST_REFUSAL);
    }

    #[test]
    fn a_good_certificate_is_not_renewed_early_whatever_failed() {
        assert_eq!(from_now(valid(0, 90), &failed(3, DAY), 0.0, true), 60 * DAY);
        assert_eq!(from_now(valid(-61, 29), &failed(4, 0), 0.0, false), 60 * MINUTE);
    }

    #[test]
    fn a_certificate_that_keeps_vanishing_is_not_ordered_again_and_again() {
        let issued = Memory { last: Some(NOW.0), ..Memory::default() };
        assert_eq!(from_now(None, &issued, 0.0, true), AFTER_SUCCESS);
        assert_eq!(from_now(valid(-61, 29), &issued, 0.0, false), 0);
    }

    #[test]
    fn other_names_are_ordered_at_once_unless_the_authority_has_refused() {
        let names = ["a.example".to_owned(), "b.example".to_owned()];
        let issued = Memory { last: Some(NOW.0), ..Memory::default() };
        assert_eq!(issued.clone().about(&names[..1]), issued, "what was remembered of one name is about that one");
        let about = issued.about(&names);
        assert_eq!(from_now(None, &about, 0.0, false), 0);
        let failed = Memory { not_before: Some(NOW.0 + 60), ..about.begun(NOW) };
        assert_eq!(failed.clone().about(&names), failed, "failures of the same order count");
        assert_eq!(from_now(None, &failed.about(&names[..1]), 0.0, false), 60);
    }

    #[test]
    fn a_wrong_clock_holds_nothing_back() {
        assert_eq!(from_now(None, &failed(8, -400 * DAY), 0.5, false), 0);
    }

    #[test]
    fn an_attempt_is_a_failure_until_it_is_known_to_be_none() {
        let begun = Memory::default().begun(NOW);
        assert_eq!((begun.failures, begun.last), (1, Some(NOW.0)));
        assert_eq!(from_now(None, &begun, 0.0, false), 2 * MINUTE);
        assert_eq!(begun.succeeded(), Memory { last: Some(NOW.0), ..Memory::default() });
        let trouble = Trouble { what: "w".into(), fix: "m".into(), wait: Some(3600) };
        let failed = begun.begun(NOW).failed(&trouble, NOW);
        assert_eq!((failed.failures, failed.not_before, failed.why.as_deref()), (2, Some(NOW.0 + 3600), Some("w")));
    }
}
