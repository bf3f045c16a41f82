//! HMAC-SHA256 over several slices, with constant-time comparison.

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// Length of an HMAC-SHA256 digest in bytes.
pub const DIGEST: usize = 32;

/// HMAC-SHA256 with its key already absorbed; computing a digest leaves it ready for the next.
#[derive(Clone)]
pub struct Mac(Hmac<Sha256>);

impl Mac {
    /// Absorbs a key of any length.
    pub fn new(key: &[u8]) -> Self {
        Self(<Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// The digest of the slices, one after the other.
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; DIGEST] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mac(hidden)")
    }
}
