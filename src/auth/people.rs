//! All members, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::keyring::{Key, Keyring};
use super::ledger::Usage;
use super::member::{Member, QuotaStore};
use super::policy::Policy;
use super::secret::Secret;
use super::window::UnixTime;

/// One who shall be a member.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The name.
    pub name: String,
    /// Policy of the member.
    pub policy: Policy,
    /// The secrets that open the door, each with its end if it has one.
    pub secrets: Vec<(Secret, Option<UnixTime>)>,
}

/// All members. A name keeps its member for as long as the process lives, so counters and running sessions are found
/// again by anyone who is enrolled later, even after a removal.
#[derive(Debug, Default)]
pub struct People {
    known: Mutex<BTreeMap<String, Arc<Member>>>,
    bank: Option<Arc<dyn QuotaStore>>,
}

/// Usage of a member that has to be written.
#[derive(Clone, Debug)]
pub struct UsageRecord {
    member: Arc<Member>,
    /// Usage to write: of a quota at least what was used.
    pub usage: Usage,
}

impl People {
    /// No one yet; quotas are to be granted by this bank.
    pub fn with_bank(bank: Arc<dyn QuotaStore>) -> Self {
        Self { known: Mutex::default(), bank: Some(bank) }
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Member>> {
        self.known().get(name).filter(|member| !member.is_removed()).cloned()
    }

    /// All members, by name.
    pub fn list(&self) -> Vec<Arc<Member>> {
        self.known().values().filter(|member| !member.is_removed()).cloned().collect()
    }

    /// Notes what someone had moved before this process. To be called before anybody enters.
    pub fn remember(&self, name: &str, usage: Usage) {
        let mut known = self.known();
        let member = known.entry(name.to_owned()).or_insert_with(|| {
            let member = Member::with(name, Policy::default(), self.bank.clone());
            member.set_removed(true);
            member
        });
        member.ledger().restore(usage);
    }

    /// Traffic of each member, removed ones included.
    pub fn moved(&self) -> BTreeMap<String, Usage> {
        let known = self.known();
        known.iter().map(|(name, member)| (name.clone(), member.ledger().exact())).collect()
    }

    /// So much was moved by a member in another process.
    pub fn add(&self, name: &str, moved: Usage, now: UnixTime) {
        if let Some(member) = self.known().get(name) {
            member.ledger().add(&member.policy(), moved, now);
        }
    }

    /// From now on exactly these are members; the keyring is for [`super::Rules`]. Members that are known keep their
    /// counters, those that are not named any more are removed.
    pub fn enrol(&self, enrolments: impl IntoIterator<Item = Enrolment>) -> Keyring {
        let mut known = self.known();
        let mut keys = Vec::new();
        let mut named = BTreeMap::new();
        for Enrolment { name, policy, secrets } in enrolments {
            let member = match known.get(&name) {
                Some(member) => {
                    member.set_policy(policy);
                    member.set_removed(false);
                    Arc::clone(member)
                }
                None => Member::with(name.clone(), policy, self.bank.clone()),
            };
            let key = |(secret, until)| Key::new(Arc::clone(&member), secret).until(until);
            keys.extend(secrets.into_iter().map(key));
            named.insert(name, member);
        }
        for (name, member) in &*known {
            if !named.contains_key(name) {
                member.set_removed(true);
            }
        }
        known.append(&mut named);
        Keyring::new(keys)
    }

    /// Usage that has changed and has to be written; `exact` is for the last time, when nothing moves any more. Each
    /// page is to be followed by [`UsageRecord::kept`] or [`UsageRecord::lost`].
    pub fn pages(&self, exact: bool) -> Vec<UsageRecord> {
        let known: Vec<_> = self.known().values().cloned().collect();
        let page = |member: Arc<Member>| {
            let usage = member.ledger().page(&member.policy(), exact)?;
            Some(UsageRecord { member, usage })
        };
        known.into_iter().filter_map(page).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Member>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UsageRecord {
    /// Name of the member.
    pub fn name(&self) -> &str {
        self.member.name()
    }

    /// It is on disk: what it grants may be used.
    pub fn kept(self) {
        self.grant(true);
    }

    /// It could not be written, which must stop no one: what it grants may be used all the same, and the next page will
    /// say it again.
    pub fn lost(self) {
        self.grant(false);
    }

    fn grant(self, written: bool) {
        let waiting = self.member.ledger().grant(&self.usage, written);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Refusal, SecretTag};

    const NOW: UnixTime = UnixTime(1_767_225_600);

    fn enrolment(name: &str, policy: Policy) -> Enrolment {
        Enrolment { name: name.into(), policy, secrets: vec![(Secret::new([1; 16]), None)] }
    }

    #[test]
    fn a_name_keeps_its_member_over_changes_and_over_a_removal() {
        let (people, here) = (People::default(), "192.0.2.1".parse().unwrap());
        people.enrol([enrolment("alice", Policy::default()), enrolment("bob", Policy::default())]);
        let alice = people.get("alice").unwrap();
        let permit = alice.admit(here, NOW).unwrap();
        alice.count(1, 2, NOW);
        people.enrol([enrolment("alice", Policy { enabled: false, ..Policy::default() })]);
        assert!(Arc::ptr_eq(&alice, &people.get("alice").unwrap()));
        assert_eq!(alice.standing(here, NOW), Err(Refusal::Disabled));
        assert!(people.get("bob").is_none());
        people.enrol([enrolment("bob", Policy::default())]);
        assert_eq!(people.list().len(), 1);
        assert_eq!(alice.standing(here, NOW), Err(Refusal::Removed));
        people.enrol([enrolment("alice", Policy::default())]);
        let alice = people.get("alice").unwrap();
        assert_eq!((alice.usage(NOW).up, alice.usage(NOW).down, alice.sessions()), (1, 2, 1));
        drop(permit);
        assert_eq!((alice.sessions(), alice.addresses()), (0, 0));
    }

    #[test]
    fn what_was_remembered_waits_for_its_name() {
        let people = People::default();
        let usage = Usage { up: 5, down: 6, in_period: 11, since: Some(NOW) };
        people.remember("alice", usage);
        assert!(people.get("alice").is_none() && people.list().is_empty());
        people.enrol([enrolment("alice", Policy::default())]);
        assert_eq!(people.get("alice").unwrap().usage(NOW), usage);
        assert!(people.pages(false).is_empty(), "nothing new is to be written");
        assert!(people.pages(true).is_empty(), "the disk knows it");
    }

    #[test]
    fn a_keyring_has_all_secrets_of_all_and_knows_when_they_end() {
        let people = People::default();
        let (first, second, third) = (Secret::new([1; 16]), Secret::new([2; 16]), Secret::new([3; 16]));
        let secrets = vec![(first.clone(), None), (second.clone(), Some(NOW))];
        let alice = Enrolment { secrets, ..enrolment("alice", Policy::default()) };
        let keyring = people.enrol([alice, enrolment("bob", Policy::default())]);
        assert_eq!(keyring.tags().len(), 3);
        let standing = |secret: &Secret, now| keyring.standing(SecretTag::of(secret.bytes()), now);
        assert_eq!(standing(&first, NOW), Ok(()));
        assert_eq!(standing(&second, UnixTime(NOW.0 - 1)), Ok(()));
        assert_eq!(standing(&second, NOW), Err(Refusal::OldSecret));
        assert_eq!(standing(&third, NOW), Err(Refusal::OldSecret));
    }

    #[test]
    fn a_key_leaves_the_ring_when_its_time_is_over() {
        let people = People::default();
        let secret = |byte| Secret::new([byte; 16]);
        let secrets = [(1, None), (2, Some(NOW)), (3, Some(UnixTime(NOW.0 + 60)))].map(|(n, end)| (secret(n), end));
        let keyring = people.enrol([Enrolment { secrets: secrets.to_vec(), ..enrolment("alice", Policy::default()) }]);
        let after = |seconds| UnixTime(NOW.0 + seconds);
        assert!(keyring.without_ended(after(-1)).is_none());
        let keyring = keyring.without_ended(NOW).unwrap();
        let tag = |byte| SecretTag::of(secret(byte).bytes());
        assert_eq!(keyring.tags(), [tag(1), tag(3)]);
        assert_eq!(keyring.standing(tag(2), NOW), Err(Refusal::OldSecret), "anyone who is inside with it has to go");
        assert!(keyring.without_ended(after(59)).is_none());
        let keyring = keyring.without_ended(after(60)).unwrap();
        assert_eq!(keyring.tags(), [tag(1)]);
        assert!(keyring.without_ended(after(i64::MAX - NOW.0)).is_none(), "what has no end stays");
    }
}
