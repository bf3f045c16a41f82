//! Keys, and a search whose time does not depend on the answer.

use std::collections::HashSet;
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
        if self.until.is_some_and(|until| now >= until) {
            return Err(Refusal::OldSecret);
        }
        Ok(self.member.admit(from, now)?.with_end(self.until))
    }

    /// Whose key it is.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The 16 bytes that the member's client knows.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn tag(&self) -> SecretTag {
        self.tag
    }

    pub(super) fn mac(&self) -> &Mac {
        &self.mac
    }
}

/// The keys of all who may enter.
#[derive(Debug, Default)]
pub struct Keyring(Vec<Arc<Key>>);

impl Keyring {
    /// A keyring of these keys.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Self(keys.into_iter().map(Arc::new).collect())
    }

    /// What the replay memory has to remember for.
    pub fn tags(&self) -> Vec<SecretTag> {
        self.0.iter().map(|key| key.tag).collect()
    }

    /// The names of those who have a key.
    pub fn members(&self) -> HashSet<&str> {
        self.0.iter().map(|key| key.member.name()).collect()
    }

    /// Those who have a key, in the order of their first one.
    pub fn people(&self) -> Vec<Arc<Member>> {
        let mut seen = HashSet::new();
        let members = self.0.iter().map(|key| &key.member);
        members.filter(|member| seen.insert(member.name())).cloned().collect()
    }

    /// The member of this name, if it has a key.
    pub fn member(&self, name: &str) -> Option<&Arc<Member>> {
        self.0.iter().map(|key| &key.member).find(|member| member.name() == name)
    }

    /// The key that made this hello, and the time that the hello carries.
    ///
    /// Every key is tried, whoever asks: a search that stopped at the right one would tell a stranger that there is one,
    /// and its place in the list.
    pub(super) fn find(&self, hello: &ClientHello<'_>) -> Option<(&Arc<Key>, UnixTime)> {
        let (mut found, mut time) = (u64::MAX, 0);
        for (index, key) in self.0.iter().enumerate() {
            let (genuine, claimed) = digest::examine(&key.mac, hello);
            found.conditional_assign(&(index as u64), genuine);
            time.conditional_assign(&claimed.0, genuine);
        }
        let key = self.0.get(usize::try_from(found).ok()?)?;
        Some((key, UnixTime(time)))
    }
}
