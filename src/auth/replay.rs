//! The memory of spent hellos.

use std::path::Path;

/// What tells the entries of one secret from those of another, without telling the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretTag(u32);

impl SecretTag {
    /// The tag of this secret.
    pub fn of(_secret: &[u8; 16]) -> Self {
        todo!()
    }
}

/// Every hello that was ever accepted.
#[derive(Debug)]
pub struct ReplayMemory;

impl ReplayMemory {
    /// Opens or creates the file at `path`; entries of secrets other than `tags` are not loaded.
    pub fn open(_path: &Path, _tags: &[SecretTag]) -> std::io::Result<Self> {
        todo!()
    }

    /// Whether this hello is new, and from now on it is not. One atomic step.
    pub fn spend(&self, _tag: SecretTag, _authenticator: &[u8; 28]) -> bool {
        todo!()
    }

    /// Stub.
    pub fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}
