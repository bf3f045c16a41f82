//! Which clients get NOP fillers: by their whole fingerprint, and by how they took them.
//!
//! A library that imitates the hello of a client that skips fillers, and does not skip them itself, gives its sessions up
//! as soon as it has read the first: within a second, without another word. After two such sessions of a user with one
//! fingerprint it gets none any more. What is learnt holds for that user alone, so nobody can spoil the camouflage of others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::wire::HelloClass;
use crate::wire::fingerprint::Fingerprint;

/// Sessions in a row that ended at once, after which a client is taken not to understand fillers.
const TWICE: u8 = 2;

/// How soon a client gives a session up that it does not understand.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// Most users with a fingerprint that are remembered; later ones are given fillers as their fingerprint says. A user can
/// have any number of fingerprints.
const MOST: usize = 4096;

/// What is known of clients.
#[derive(Debug, Default)]
pub struct Understanding(Mutex<HashMap<(Box<str>, Fingerprint), Taken>>);

/// How a client took fillers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It went on at least once.
    Well,
    /// So many sessions ended at once, and none went on.
    Badly(u8),
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
    ) -> bool {
        let one_by_one = matches!(class, HelloClass::ChromeHybrid | HelloClass::Padded517);
        classes.contains(&class)
            && (fingerprint.skips_fillers() || !one_by_one)
            && self.taken(user, fingerprint) != Some(Taken::Badly(TWICE))
    }

    /// A session of a client that got fillers went on, or ended at once. Says whether that was once too often.
    pub fn note(&self, user: &str, fingerprint: Fingerprint, went_on: bool) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(user), fingerprint);
        let before = known.get(&key).copied();
        let now = match before {
            Some(Taken::Well) => return false,
            _ if went_on => Taken::Well,
            Some(Taken::Badly(times)) => Taken::Badly((times + 1).min(TWICE)),
            None => Taken::Badly(1),
        };
        if before.is_some() || known.len() < MOST {
            known.insert(key, now);
        }
        now == Taken::Badly(TWICE) && before != Some(now)
    }

    fn taken(&self, user: &str, fingerprint: Fingerprint) -> Option<Taken> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(Box::from(user), fingerprint)).copied()
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
        for (client, gets) in [("tdlib", true), ("tdesktop-4", true), ("telethonfaketls", false), ("mtcute", false)] {
            let (class, fingerprint) = seen(client);
            let known = Understanding::default();
            assert_eq!(known.gets_fillers(&DEFAULT, class, "alice", fingerprint), gets, "{client}");
            assert!(!known.gets_fillers(&[], class, "alice", fingerprint), "{client}: none at all");
        }
        let (_, fingerprint) = seen("curl");
        let known = Understanding::default();
        assert!(
            known.gets_fillers(&[HelloClass::Other], HelloClass::Other, "alice", fingerprint),
            "the operator says so"
        );
    }

    #[test]
    fn who_ends_at_once_twice_gets_none_any_more_and_others_do() {
        let ((class, fingerprint), known) = (seen("tdlib"), Understanding::default());
        let gets = |user| known.gets_fillers(&DEFAULT, class, user, fingerprint);
        assert!(!known.note("alice", fingerprint, false) && gets("alice"));
        assert!(known.note("alice", fingerprint, false) && !gets("alice"));
        assert!(!known.note("alice", fingerprint, false), "said once");
        assert!(gets("bob"));
        // A ping ends at once, too, but not all that such a client does.
        known.note("bob", fingerprint, true);
        (0..5).for_each(|_| _ = known.note("bob", fingerprint, false));
        assert!(gets("bob"));
    }

    #[test]
    fn no_user_fills_the_memory() {
        let known = Understanding::default();
        for number in 0..MOST as u64 + 10 {
            known.note(&number.to_string(), seen_once(), false);
        }
        assert_eq!(known.0.lock().unwrap().len(), MOST);
    }

    fn seen_once() -> Fingerprint {
        static ONE: std::sync::OnceLock<Fingerprint> = std::sync::OnceLock::new();
        *ONE.get_or_init(|| seen("tdlib").1)
    }
}
