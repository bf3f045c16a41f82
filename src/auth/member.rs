//! Those who may enter: what each of them may do, and what each of them does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::ledger::Ledger;
pub use super::ledger::{Allowance, Direction, Usage};
use super::policy::Policy;
use super::replay::SecretTag;
use super::window::UnixTime;

/// Grants what is about to be used, by writing it down first. See [`super::People::pages`].
pub trait QuotaStore: Send + Sync + fmt::Debug {
    /// There is something to be written soon. Called on the threads that move bytes, so it must be quick.
    fn call(&self);
}

/// One who may enter, whatever number of keys that takes. Lives on when the configuration is read again, so that what
/// is known of a member outlasts every change.
#[derive(Debug)]
pub struct Member {
    name: String,
    policy: ArcSwap<Policy>,
    /// Whether sessions have to ask; the same as in the policy, for those who cannot wait.
    metered: AtomicBool,
    removed: AtomicBool,
    bank: Option<Arc<dyn QuotaStore>>,
    inside: Mutex<Inside>,
    ledger: Mutex<Ledger>,
}

/// Current sessions of a member.
#[derive(Debug, Default)]
struct Inside {
    sessions: u32,
    /// Sessions by address.
    addresses: BTreeMap<IpAddr, Presence>,
}

/// Sessions from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Presence {
    sessions: u32,
    /// Time when the client was last heard.
    heard: UnixTime,
}

/// Seconds for which an address counts after the last byte of its clients. A phone that has changed networks leaves
/// sessions behind that no one ends, and is not to be kept out by them.
const PRESENT: i64 = 60;

impl Presence {
    /// Whether it counts. A clock that was set back lets no address count for long.
    fn counts(self, now: UnixTime) -> bool {
        (now.0 - self.heard.0).abs() < PRESENT
    }
}

impl Inside {
    /// Whether one more session from this address has a place.
    fn has_room(&self, policy: &Policy, address: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        if policy.max_sessions.is_some_and(|most| self.sessions >= most) {
            return Err(Refusal::Sessions);
        }
        let full = |most: u32| self.others(address, now) >= most as usize;
        if policy.max_addresses.is_some_and(full) { Err(Refusal::Addresses) } else { Ok(()) }
    }

    /// Number of other addresses that count, of the same family: one device may have an address of each.
    fn others(&self, address: IpAddr, now: UnixTime) -> usize {
        let counts = |known: &IpAddr, presence: &Presence| {
            *known != address && known.is_ipv4() == address.is_ipv4() && presence.counts(now)
        };
        self.addresses.iter().filter(|(known, presence)| counts(known, presence)).count()
    }
}

impl Member {
    /// A member of this name, without any limit.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Self::with(name, Policy::default(), None)
    }

    /// A member with limits. Without a bank a quota counts from the start of the process.
    pub(super) fn with(name: impl Into<String>, policy: Policy, bank: Option<Arc<dyn QuotaStore>>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            metered: policy.is_metered().into(),
            policy: ArcSwap::from_pointee(policy),
            removed: false.into(),
            bank,
            inside: Mutex::default(),
            ledger: Mutex::default(),
        })
    }

    /// The name, for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Policy that holds now.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// From now on this holds, for running sessions too.
    pub fn set_policy(&self, policy: Policy) {
        self.metered.store(policy.is_metered(), Ordering::Release);
        let new = Arc::new(policy);
        let old = self.policy.swap(Arc::clone(&new));
        let waiting = self.ledger().policy_changed(&old, &new);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the operator has taken the member out of the configuration.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Release);
    }

    /// Number of current sessions.
    pub fn sessions(&self) -> u32 {
        self.inside().sessions
    }

    /// From how many addresses they come; IPv6 addresses of one /64 are one.
    pub fn addresses(&self) -> usize {
        self.inside().addresses.len()
    }

    /// Traffic of the member so far. Sessions that have no quota to ask for are counted once a second.
    pub fn usage(&self, now: UnixTime) -> Usage {
        self.ledger().usage(&self.policy.load(), now)
    }

    /// Whether the member may enter now, from this address: decided in one step, so that no two can take one place.
    pub fn admit(self: &Arc<Self>, from: IpAddr, now: UnixTime) -> Result<Permit, Refusal> {
        self.standing(from, now)?;
        let policy = self.policy.load();
        let address = place(from);
        let mut inside = self.inside();
        inside.has_room(&policy, address, now)?;
        inside.sessions += 1;
        let presence = inside.addresses.entry(address).or_insert(Presence { sessions: 0, heard: now });
        *presence = Presence { sessions: presence.sessions + 1, heard: now };
        drop(inside);
        Ok(Permit { member: Arc::clone(self), address, key: None })
    }

    /// Whether [`Member::admit`] would say yes now; takes no place.
    pub(super) fn would_admit(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        self.standing(from, now)?;
        self.inside().has_room(&self.policy.load(), place(from), now)
    }

    /// Whether one who came from this address may stay inside.
    pub fn standing(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        if self.is_removed() {
            return Err(Refusal::Removed);
        }
        let policy = self.policy.load();
        policy.admits(from, now)?;
        if self.ledger().is_spent(&policy, now) { Err(Refusal::Quota) } else { Ok(()) }
    }

    /// Whether a session has to [`Member::ask`] before it moves anything.
    pub fn is_metered(&self) -> bool {
        self.metered.load(Ordering::Acquire)
    }

    /// Whether a session may move bytes this way now. If it has to wait, `waker` is called in time.
    pub fn ask(&self, way: Direction, instant: Instant, now: UnixTime, waker: &Waker) -> Allowance {
        if !self.is_metered() {
            return Allowance::Free;
        }
        let policy = self.policy.load();
        let mut ledger = self.ledger();
        let (leave, call) = ledger.ask(&policy, self.bank.is_some(), way, (instant, now));
        if leave == Allowance::Wait {
            ledger.wait(waker);
        }
        drop(ledger);
        if let (true, Some(bank)) = (call, &self.bank) {
            bank.call();
        }
        leave
    }

    /// A session that had asked has moved so much.
    pub fn charge(&self, way: Direction, bytes: u64, instant: Instant, now: UnixTime) {
        self.ledger().charge(&self.policy.load(), way, bytes, (instant, now));
    }

    /// A session has moved so much since it last said so, whether it had to ask or not.
    pub fn count(&self, up: u64, down: u64, now: UnixTime) {
        self.ledger().count(&self.policy.load(), up, down, now);
    }

    /// A client at this address has said something since the last call, which should come every few seconds.
    pub fn heard(&self, from: IpAddr, now: UnixTime) {
        if self.policy.load().max_addresses.is_some()
            && let Some(presence) = self.inside().addresses.get_mut(&place(from))
        {
            presence.heard = now;
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, address: IpAddr) {
        let mut inside = self.inside();
        inside.sessions = inside.sessions.saturating_sub(1);
        if let Some(presence) = inside.addresses.get_mut(&address) {
            presence.sessions -= 1;
            if presence.sessions == 0 {
                inside.addresses.remove(&address);
            }
        }
    }
}

/// Reduces an address to the part that counts as one: of IPv6 the network of a household.
fn place(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// A member's place inside; dropped, it is given back.
#[derive(Debug)]
pub struct Permit {
    member: Arc<Member>,
    address: IpAddr,
    key: Option<SecretTag>,
}

impl Permit {
    /// Member that the permit belongs to.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The key that it was given for, if it was for one.
    pub fn key(&self) -> Option<SecretTag> {
        self.key
    }

    pub(super) fn for_key(mut self, key: SecretTag) -> Self {
        self.key = Some(key);
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.member.leave(self.address);
    }
}

/// Reason why a member may not enter now. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The operator has switched the member off.
    Disabled,
    /// The operator has taken the member out of the configuration.
    Removed,
    /// The member's time is over.
    Expired,
    /// The time of this secret is over: there is a new one.
    OldSecret,
    /// Nothing is left of the quota.
    Quota,
    /// As many sessions as there may be.
    Sessions,
    /// Sessions from as many addresses as there may be.
    Addresses,
    /// Comes from where no one may come from.
    DeniedNetwork,
    /// Comes from elsewhere than where one may come from.
    OtherNetwork,
}

impl Refusal {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Disabled,
        Self::Removed,
        Self::Expired,
        Self::OldSecret,
        Self::Quota,
        Self::Sessions,
        Self::Addresses,
        Self::DeniedNetwork,
        Self::OtherNetwork,
    ];

    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::OldSecret => "old_secret",
            Self::Quota => "quota",
            Self::Sessions => "sessions",
            Self::Addresses => "addresses",
            Self::DeniedNetwork => "denied_network",
            Self::OtherNetwork => "other_network",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_767_225_600);

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_taken_and_given_back() {
        let member = Member::with("alice", Policy { max_sessions: Some(2), ..Policy::default() }, None);
        let permits = [member.admit(from("192.0.2.1"), NOW).unwrap(), member.admit(from("192.0.2.2"), NOW).unwrap()];
        assert_eq!(member.admit(from("192.0.2.1"), NOW).unwrap_err(), Refusal::Sessions);
        assert_eq!((member.sessions(), member.addresses()), (2, 2));
        drop(permits);
        assert_eq!((member.sessions(), member.addresses()), (0, 0));
        assert!(member.admit(from("192.0.2.1"), NOW).is_ok());
    }

    #[test]
    fn addresses_are_counted_by_household() {
        let member = Member::with("alice", Policy { max_addresses: Some(2), ..Policy::default() }, None);
        let _first = member.admit(from("2001:db8:0:1::1"), NOW).unwrap();
        let _same = member.admit(from("2001:db8:0:1:ffff::2"), NOW).unwrap();
        let second = member.admit(from("2001:db8:0:2::1"), NOW).unwrap();
        let again = member.admit(from("2001:db8:0:2::2"), NOW).unwrap();
        assert_eq!(member.admit(from("2001:db8:0:3::1"), NOW).unwrap_err(), Refusal::Addresses);
        drop(second);
        assert_eq!(member.admit(from("2001:db8:0:3::1"), NOW).unwrap_err(), Refusal::Addresses, "one session is left");
        drop(again);
        assert!(member.admit(from("2001:db8:0:3::1"), NOW).is_ok());
    }

    #[test]
    fn a_device_with_an_address_of_each_family_counts_once() {
        let member = Member::with("alice", Policy { max_addresses: Some(1), ..Policy::default() }, None);
        let _v4 = member.admit(from("192.0.2.1"), NOW).unwrap();
        let _mapped = member.admit(from("::ffff:192.0.2.1"), NOW).unwrap();
        let _v6 = member.admit(from("2001:db8::1"), NOW).unwrap();
        assert_eq!(member.addresses(), 2);
        for other in ["192.0.2.2", "2001:db8:1::1"] {
            assert_eq!(member.admit(from(other), NOW).unwrap_err(), Refusal::Addresses, "{other}");
        }
    }

    #[test]
    fn an_address_that_a_phone_has_left_keeps_it_out_for_a_minute_at_most() {
        let member = Member::with("alice", Policy { max_addresses: Some(1), ..Policy::default() }, None);
        let after = |seconds: i64| UnixTime(NOW.0 + seconds);
        let _left_behind = member.admit(from("192.0.2.1"), NOW).unwrap();
        member.heard(from("192.0.2.1"), after(30));
        assert_eq!(member.admit(from("192.0.2.2"), after(89)).unwrap_err(), Refusal::Addresses);
        let _new = member.admit(from("192.0.2.2"), after(90)).unwrap();
        // What was left behind is none of it as long as the new one is in use.
        member.heard(from("192.0.2.2"), after(120));
        assert_eq!(member.admit(from("192.0.2.1"), after(130)).unwrap_err(), Refusal::Addresses);
        assert!(member.admit(from("192.0.2.1"), after(180)).is_ok());
        assert!(member.admit(from("192.0.2.3"), UnixTime(NOW.0 - 3600)).is_ok(), "the clock was set back");
    }

    #[test]
    fn of_many_at_once_only_as_many_enter_as_there_are_places() {
        let member = Member::with("alice", Policy { max_sessions: Some(5), ..Policy::default() }, None);
        let permits = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| permits.lock().unwrap().extend((0..5).map(|_| member.admit(from("::1"), NOW))));
            }
        });
        assert_eq!(permits.lock().unwrap().iter().filter(|permit| permit.is_ok()).count(), 5);
    }

    #[test]
    fn a_new_policy_holds_at_once() {
        let member = Member::new("alice");
        assert_eq!(member.ask(Direction::Up, Instant::now(), NOW, Waker::noop()), Allowance::Free);
        member.set_policy(Policy { bandwidth_up: Some(1), expires: Some(NOW), ..Policy::default() });
        assert!(matches!(member.ask(Direction::Up, Instant::now(), NOW, Waker::noop()), Allowance::Most(_)));
        assert_eq!(member.admit(from("::1"), NOW).unwrap_err(), Refusal::Expired);
    }

    #[test]
    fn every_refusal_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
