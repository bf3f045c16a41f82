//! Key schedule of the obfuscated2 header (docs/protocol.md, "The obfuscated2 header").
//!
//! ```text
//!  0        8                                40               56       60     62     64
//!  ├ random ┼───────── key material ─────────┼─────── iv ─────┼─ tag ──┼─ dc ─┼ rnd ─┤
//!           └────────────── 48 bytes, read backwards for the other direction ──┘
//! ```

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::ctr::{Ctr, Iv, Key};

/// Length of the key material in a header: a 32-byte key and a 16-byte counter block.
pub const MATERIAL: usize = 48;

/// Key and first counter block of one direction.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyIv {
    /// AES-256 key.
    pub key: Key,
    /// First counter block.
    pub iv: Iv,
}

impl KeyIv {
    /// The keystream from its first byte.
    pub fn stream(&self) -> Ctr {
        Ctr::new(&self.key, &self.iv)
    }

    /// The keystream from byte `offset` on.
    pub fn stream_at(&self, offset: u64) -> Ctr {
        Ctr::at(&self.key, &self.iv, offset)
    }

    /// The same keystream with its start moved by this many blocks, forwards or back: the counter is a 128-bit big-endian
    /// number and wraps around.
    pub fn moved_by(&self, blocks: i128) -> Self {
        let counter = u128::from_be_bytes(self.iv).wrapping_add_signed(blocks);
        Self { key: self.key, iv: counter.to_be_bytes() }
    }

    /// The material that a header must carry so that its down direction gets exactly these keys when no secret enters
    /// the derivation: fast mode, where a data centre encrypts for the client directly.
    pub fn as_down_material(&self) -> [u8; MATERIAL] {
        let mut material = [0; MATERIAL];
        material[..32].copy_from_slice(&self.key);
        material[32..].copy_from_slice(&self.iv);
        material.reverse();
        material
    }
}

impl std::fmt::Debug for KeyIv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyIv(hidden)")
    }
}

/// Keys of the two directions of an obfuscated2 stream.
#[derive(Clone, Debug)]
pub struct Directions {
    /// From the side that sent the header.
    pub up: KeyIv,
    /// Towards the side that sent the header.
    pub down: KeyIv,
}

/// Derives both directions from bytes 8 to 55 of a header; the secret, where there is one, is hashed into the keys.
pub fn directions(material: &[u8; MATERIAL], secret: Option<&[u8; 16]>) -> Directions {
    let mut backwards = *material;
    backwards.reverse();
    Directions { up: direction(material, secret), down: direction(&backwards, secret) }
}

fn direction(material: &[u8; MATERIAL], secret: Option<&[u8; 16]>) -> KeyIv {
    let mut pair = KeyIv { key: [0; 32], iv: [0; 16] };
    pair.key.copy_from_slice(&material[..32]);
    pair.iv.copy_from_slice(&material[32..]);
    if let Some(secret) = secret {
        pair.key = Sha256::new().chain_update(pair.key).chain_update(secret).finalize().into();
    }
    pair
}
