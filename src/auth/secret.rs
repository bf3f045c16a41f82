//! Secrets and the domains they travel with (protocol facts: docs/protocol.md, "Secrets and links").

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The 16-byte key that a client and this proxy share. Hidden in `Debug`, wiped when dropped, and never displayed:
/// whoever prints one says so by calling [`Secret::bytes`].
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; Secret::LENGTH]);

impl Secret {
    /// Length of the key in bytes, without the `dd` or `ee` mark and without the domain.
    pub const LENGTH: usize = 16;

    /// A secret of these bytes.
    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The key itself.
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A domain name that every client accepts inside an `ee` secret: 4 to 182 bytes of lower-case letters, digits, `-`
/// and `.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain(String);

impl Domain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Domain {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(Self(text.to_owned()))
    }
}
