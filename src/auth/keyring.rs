//! Keys, and a search whose time does not depend on the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use subtle::ConditionallySelectable;

use super::digest;
use super::member::{Member, Permit, Refusal};
use super::replay::SecretTag;
use super::secret::Secret;
use super::window::UnixTime;
use crate::crypto::Mac;
use crate::wire::ClientHello;

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

    pub(super) fn tag(&self) -> SecretTag {
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

    pub(super) fn nobody(&self) -> &Mac {
        &self.nobody
    }

    /// Whether one may stay inside who came in with this key. Not for strangers: its time says something about the key.
    pub fn standing(&self, key: SecretTag, now: UnixTime) -> Result<(), Refusal> {
        let place = self.places.get(&key).ok_or(Refusal::OldSecret)?;
        self.keys[*place].standing(now)
    }

    /// The key that made this hello, and the time that the hello carries.
    ///
    /// Every key is tried, whoever asks: a search that stopped at the right one would tell a stranger that there is one,
    /// and its place in the list.
    pub(super) fn find(&self, hello: &ClientHello<'_>) -> Option<(&Arc<Key>, UnixTime)> {
        let (mut found, mut time) = (u64::MAX, 0);
        for (index, key) in self.keys.iter().enumerate() {
            let (genuine, claimed) = digest::examine(&key.mac, hello);
            found.conditional_assign(&(index as u64), genuine);
            time.conditional_assign(&claimed.0, genuine);
        }
        let key = self.keys.get(usize::try_from(found).ok()?)?;
        Some((key, UnixTime(time)))
    }
}
