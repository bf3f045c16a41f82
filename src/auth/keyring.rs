//! Keys, and a search whose time does not depend on the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;
use subtle::ConditionallySelectable;

use super::digest::Claim;
use super::member::{Member, Permit, Refusal};
use super::replay::SecretTag;
use super::secret::Secret;
use super::window::UnixTime;
use crate::crypto::Mac;

/// A secret that opens the door for a member.
#[derive(Debug)]
pub struct Key {
    member: Arc<Member>,
    secret: Secret,
    tag: SecretTag,
    mac: Mac,
    until: Option<UnixTime>,
}

impl Key {
    /// A key of this member.
    pub fn new(member: Arc<Member>, secret: Secret) -> Self {
        let mac = Mac::new(secret.bytes());
        Self { member, tag: SecretTag::of(secret.bytes()), secret, mac, until: None }
    }

    /// The same key, good until then.
    pub fn until(self, until: Option<UnixTime>) -> Self {
        Self { until, ..self }
    }

    /// Whether the member may enter with this key now, from this address.
    pub(super) fn admit(&self, from: IpAddr, now: UnixTime) -> Result<Permit, Refusal> {
        self.standing(now)?;
        Ok(self.member.admit(from, now)?.for_key(self.tag))
    }

    /// Whether [`Key::admit`] would say yes; takes no place.
    pub(super) fn would_admit(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        self.standing(now)?;
        self.member.would_admit(from, now)
    }

    /// Whose key it is.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The 16 bytes that the member's client knows.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    fn standing(&self, now: UnixTime) -> Result<(), Refusal> {
        if self.until.is_some_and(|until| now >= until) { Err(Refusal::OldSecret) } else { Ok(()) }
    }

    /// What tells its entries in the replay memory from those of others.
    pub fn tag(&self) -> SecretTag {
        self.tag
    }

    pub(super) fn mac(&self) -> &Mac {
        &self.mac
    }
}

/// The keys of all who may enter.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Arc<Key>>,
    /// Where each stands.
    places: BTreeMap<SecretTag, usize>,
    /// When the first of them ends.
    next_end: Option<UnixTime>,
    /// The key of nobody, for work that is done in vain.
    nobody: Mac,
}

impl Keyring {
    /// A keyring of these keys.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Self::of(keys.into_iter().map(Arc::new).collect())
    }

    fn of(keys: Vec<Arc<Key>>) -> Self {
        // Should two secrets share a tag, the one without an end counts.
        let (ending, lasting): (Vec<_>, Vec<_>) =
            keys.iter().enumerate().partition::<Vec<(usize, &Arc<Key>)>, _>(|(_, key)| key.until.is_some());
        let places = ending.into_iter().chain(lasting).map(|(place, key)| (key.tag, place)).collect();
        let next_end = keys.iter().filter_map(|key| key.until).min();
        Self { keys, places, next_end, nobody: Mac::new(&[]) }
    }

    /// The keyring without the keys whose time is over, if there are any. What a search takes then is less for everybody,
    /// so that it still tells nothing of whoever asks.
    pub(super) fn without_ended(&self, now: UnixTime) -> Option<Self> {
        let ended = |key: &Arc<Key>| key.standing(now).is_err();
        self.next_end.filter(|end| now >= *end)?;
        Some(Self::of(self.keys.iter().filter(|key| !ended(key)).cloned().collect()))
    }

    /// What the replay memory has to remember for.
    pub fn tags(&self) -> Vec<SecretTag> {
        self.keys.iter().map(|key| key.tag).collect()
    }

    /// Whether all keys are tried in less time than it takes to have that done elsewhere.
    pub(super) fn is_short(&self) -> bool {
        self.keys.len() <= SHORT
    }

    pub(super) fn nobody(&self) -> &Mac {
        &self.nobody
    }

    /// Whether one may stay inside who came in with this key. Not for strangers: its time says something about the key.
    pub fn standing(&self, key: SecretTag, now: UnixTime) -> Result<(), Refusal> {
        let place = self.places.get(&key).ok_or(Refusal::OldSecret)?;
        self.keys[*place].standing(now)
    }

    /// Tries as many keys as are tried at a stretch; says whether all have been.
    ///
    /// Every key is tried, whoever asks: a search that stopped at the right one would tell a stranger that there is one,
    /// and its place in the list.
    pub(super) fn go_on(&self, search: &mut Search) -> bool {
        let first = search.tried;
        search.tried = self.keys.len().min(first + STRETCH);
        let macs: SmallVec<[&Mac; STRETCH]> = self.keys[first..search.tried].iter().map(|key| key.mac()).collect();
        let (found, time) = (&mut search.found, &mut search.time);
        search.claim.examine(&macs, |place, genuine, claimed| {
            found.conditional_assign(&((first + place) as u64), genuine);
            time.conditional_assign(&claimed.0, genuine);
        });
        search.tried == self.keys.len()
    }

    /// The key that made the hello, and the time that the hello carries, once all have been tried.
    pub(super) fn found(&self, search: &Search) -> Option<(&Arc<Key>, UnixTime)> {
        let key = self.keys.get(usize::try_from(search.found).ok()?)?;
        Some((key, UnixTime(search.time)))
    }
}

/// The search for the key that made a hello.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) claim: Claim,
    tried: usize,
    found: u64,
    time: i64,
}

impl Search {
    pub(super) fn new(claim: Claim) -> Self {
        Self { claim, tried: 0, found: u64::MAX, time: 0 }
    }
}

/// Keys that are tried at a stretch. It is a multiple of what fills the processor's vectors, so that none are left over but
/// at the end.
const STRETCH: usize = 128;

/// Keys that are tried within 50 microseconds, on processors without wide vectors too.
const SHORT: usize = 16;
