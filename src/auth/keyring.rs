//! Named secrets, and a search whose time does not depend on the answer.

use std::sync::Arc;

use subtle::ConditionallySelectable;

use super::digest;
use super::replay::SecretTag;
use super::secret::Secret;
use super::window::UnixTime;
use crate::crypto::Mac;
use crate::wire::ClientHello;

/// One who may enter.
#[derive(Debug)]
pub struct Member {
    name: String,
    secret: Secret,
    tag: SecretTag,
    mac: Mac,
}

impl Member {
    /// A member with this name and secret.
    pub fn new(name: String, secret: Secret) -> Self {
        let mac = Mac::new(secret.bytes());
        Self { name, tag: SecretTag::of(secret.bytes()), secret, mac }
    }

    /// The name, for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that the member's client knows.
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

/// All who may enter.
#[derive(Debug)]
pub struct Keyring {
    members: Vec<Arc<Member>>,
    /// The key of nobody, for work that is done in vain.
    nobody: Mac,
}

impl Keyring {
    /// A keyring of these members.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        Self { members: members.into_iter().map(Arc::new).collect(), nobody: Mac::new(&[]) }
    }

    /// What the replay memory has to remember for.
    pub fn tags(&self) -> Vec<SecretTag> {
        self.members.iter().map(|member| member.tag).collect()
    }

    pub(super) fn nobody(&self) -> &Mac {
        &self.nobody
    }

    /// The member whose secret made this hello, and the time that the hello carries.
    ///
    /// Every secret is tried, whoever asks: a search that stopped at the right one would tell a stranger that there is
    /// one, and a member's place in the list.
    pub(super) fn find(&self, hello: &ClientHello<'_>) -> Option<(&Arc<Member>, UnixTime)> {
        let (mut found, mut time) = (u64::MAX, 0);
        for (index, member) in self.members.iter().enumerate() {
            let (genuine, claimed) = digest::examine(&member.mac, hello);
            found.conditional_assign(&(index as u64), genuine);
            time.conditional_assign(&claimed.0, genuine);
        }
        let member = self.members.get(usize::try_from(found).ok()?)?;
        Some((member, UnixTime(time)))
    }
}
