//! Which clients get NOP fillers: by their whole fingerprint, and by how they took them.
//!
//! A library that imitates the hello of a client that skips fillers, and does not skip them itself, gives its sessions up
//! as soon as it has read the first: within a second, without another word. After two such sessions of a user with one
//! fingerprint it gets none for an hour. Then one session tries again: if it goes on all is well, and if it does not the next
//! try is twice as far away, up to a day. So a network that was bad for a moment does not cost the camouflage for good, and a
//! client that does not understand loses hardly any session. What is learnt holds for that user alone: none can spoil the
//! camouflage of others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::HelloClass;
use crate::wire::fingerprint::Fingerprint;

/// Sessions in a row that ended at once, after which a client is taken not to understand fillers.
const TWICE: u8 = 2;

/// Time within which a client gives a session up that it does not understand.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// Time for which a client that did not understand gets no fillers: at first, and at most.
const LAPSE: Duration = Duration::from_secs(60 * 60);
const LONGEST_LAPSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Most users with a fingerprint that are remembered; later ones are given fillers as their fingerprint says. A user can
/// have any number of fingerprints.
const MOST: usize = 4096;

/// Reactions of clients to fillers, by user and fingerprint.
#[derive(Debug, Default)]
pub struct Understanding(Mutex<HashMap<(Box<str>, Fingerprint), Taken>>);

/// Reaction of a client to fillers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It went on at least once.
    Well,
    /// So many sessions ended at once, and none went on.
    Badly(u8),
    /// So many and more: none until then, and none for so long behind the next failure.
    Lapsed(Instant, Duration),
}

impl Understanding {
    /// Whether a client gets fillers, where clients of these `classes` may have some. Of a class whose members are known one
    /// by one, only those that are known get any; of the others, all if the operator says so.
    pub fn gets_fillers(
        &self,
        classes: &[HelloClass],
        class: HelloClass,
        user: &str,
        fingerprint: Fingerprint,
        now: Instant,
    ) -> bool {
        let one_by_one = matches!(class, HelloClass::ChromeHybrid | HelloClass::Padded517);
        classes.contains(&class) && (fingerprint.skips_fillers() || !one_by_one) && self.may_try(user, fingerprint, now)
    }

    /// Whether nothing is known against it, or so long ago that this session is to try again: this one and no other until
    /// it is known how that went.
    fn may_try(&self, user: &str, fingerprint: Fingerprint, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(&(Box::from(user), fingerprint)) {
            Some(Taken::Lapsed(until, _)) if now < *until => false,
            Some(Taken::Lapsed(until, _)) => {
                *until = now + LAPSE;
                true
            }
            Some(Taken::Well | Taken::Badly(_)) | None => true,
        }
    }

    /// A session of a client that got fillers went on, or ended at once. Says whether that was once too often.
    pub fn note(&self, user: &str, fingerprint: Fingerprint, went_on: bool, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(user), fingerprint);
        let before = known.get(&key).copied();
        let after = match before {
            Some(Taken::Well) => return false,
            _ if went_on => Taken::Well,
            None => Taken::Badly(1),
            Some(Taken::Badly(times)) if times + 1 < TWICE => Taken::Badly(times + 1),
            Some(Taken::Badly(_)) => Taken::Lapsed(now + LAPSE, (2 * LAPSE).min(LONGEST_LAPSE)),
            Some(Taken::Lapsed(_, next)) => Taken::Lapsed(now + next, (2 * next).min(LONGEST_LAPSE)),
        };
        if before.is_some() || known.len() < MOST {
            known.insert(key, after);
        }
        matches!((before, after), (Some(Taken::Badly(_)), Taken::Lapsed(..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::captured;
    use crate::wire::ClientHello;

    const DEFAULT: [HelloClass; 2] = [HelloClass::ChromeHybrid, HelloClass::Padded517];

    fn seen(start: &str) -> (HelloClass, Fingerprint) {
        let hello = captured().into_iter().find(|hello| hello.file.starts_with(start)).unwrap();
        let hello = ClientHello::decode(&hello.record).unwrap();
        (HelloClass::of(&hello), Fingerprint::of(&hello))
    }

    #[test]
    fn libraries_that_share_a_class_with_known_clients_get_none() {
        let now = Instant::now();
        for (client, gets) in [("tdlib", true), ("tdesktop-4", true), ("telethonfaketls", false), ("mtcute", false)] {
            let (class, fingerprint) = seen(client);
            let known = Understanding::default();
            assert_eq!(known.gets_fillers(&DEFAULT, class, "alice", fingerprint, now), gets, "{client}");
            assert!(!known.gets_fillers(&[], class, "alice", fingerprint, now), "{client}: none at all");
        }
        let (_, fingerprint) = seen("curl");
        let known = Understanding::default();
        let gets = known.gets_fillers(&[HelloClass::Other], HelloClass::Other, "alice", fingerprint, now);
        assert!(gets, "the operator says so");
    }

    #[test]
    fn who_ends_at_once_twice_gets_none_any_more_and_others_do() {
        let ((class, fingerprint), known, now) = (seen("tdlib"), Understanding::default(), Instant::now());
        let gets = |user| known.gets_fillers(&DEFAULT, class, user, fingerprint, now);
        assert!(!known.note("alice", fingerprint, false, now) && gets("alice"));
        assert!(known.note("alice", fingerprint, false, now) && !gets("alice"));
        assert!(!known.note("alice", fingerprint, false, now), "said once");
        assert!(gets("bob"));
        // A ping ends at once, too, but not all that such a client does.
        known.note("bob", fingerprint, true, now);
        (0..5).for_each(|_| _ = known.note("bob", fingerprint, false, now));
        assert!(gets("bob"));
    }

    #[test]
    fn one_session_tries_again_and_the_next_later_and_later() {
        let ((class, fingerprint), known, start) = (seen("tdlib"), Understanding::default(), Instant::now());
        let gets = |now| known.gets_fillers(&DEFAULT, class, "alice", fingerprint, now);
        let second = Duration::from_secs(1);
        let mut now = start;
        (0..TWICE).for_each(|_| _ = known.note("alice", fingerprint, false, now));
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            let lapse = hours * LAPSE;
            assert!(!gets(now + lapse - second), "{hours}");
            now += lapse;
            assert!(gets(now) && !gets(now), "one session alone tries after {hours} hours");
            assert!(!known.note("alice", fingerprint, false, now), "nothing new");
        }
        now += LONGEST_LAPSE;
        // A try of which nothing is heard is made again.
        assert!(gets(now) && !gets(now + LAPSE - second) && gets(now + LAPSE));
        known.note("alice", fingerprint, true, now);
        assert!(gets(now) && gets(now));
    }

    #[test]
    fn no_user_fills_the_memory() {
        let known = Understanding::default();
        for number in 0..MOST as u64 + 10 {
            known.note(&number.to_string(), seen_once(), false, Instant::now());
        }
        assert_eq!(known.0.lock().unwrap().len(), MOST);
    }

    fn seen_once() -> Fingerprint {
        static ONE: std::sync::OnceLock<Fingerprint> = std::sync::OnceLock::new();
        *ONE.get_or_init(|| seen("tdlib").1)
    }
}
