//! The obfuscated2 layer, written a second time: header and keys.

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use sha2::{Digest, Sha256};

use super::dice::Dice;
use super::hello::Key;

/// The tag of the padded intermediate transport.
pub const PADDED: [u8; 4] = [0xdd; 4];

/// One direction of a connection.
pub struct Stream(Ctr128BE<Aes256>);

impl Stream {
    fn new(key: [u8; 32], iv: [u8; 16]) -> Self {
        Self(Ctr128BE::new(&key.into(), &iv.into()))
    }

    /// Encrypts or decrypts, which are the same.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

/// A header and both streams behind it.
pub struct Header {
    /// The 64 bytes as they travel.
    pub wire: [u8; 64],
    /// Names the transport.
    pub tag: [u8; 4],
    /// Number of the data centre.
    pub dc: i16,
    /// From the side that sent the header; already past the header.
    pub up: Stream,
    /// Towards the side that sent the header.
    pub down: Stream,
}

impl Header {
    /// A header to send. `key` is `None` towards a data centre.
    pub fn make(key: Option<&Key>, tag: [u8; 4], dc: i16, dice: &mut Dice) -> Self {
        let mut plain: [u8; 64] = dice.array();
        plain[56..60].copy_from_slice(&tag);
        plain[60..62].copy_from_slice(&dc.to_le_bytes());
        Self::seal(plain, key)
    }

    /// Encrypts a plain header.
    pub fn seal(plain: [u8; 64], key: Option<&Key>) -> Self {
        let (mut up, down) = streams(&plain, key);
        let mut sealed = plain;
        up.apply(&mut sealed);
        let mut wire = plain;
        wire[56..].copy_from_slice(&sealed[56..]);
        Self { wire, tag: word(&plain[56..60]), dc: i16::from_le_bytes([plain[60], plain[61]]), up, down }
    }

    /// Reads a header that arrived.
    pub fn open(wire: [u8; 64], key: Option<&Key>) -> Self {
        let (mut up, down) = streams(&wire, key);
        let mut plain = wire;
        up.apply(&mut plain);
        Self { wire, tag: word(&plain[56..60]), dc: i16::from_le_bytes([plain[60], plain[61]]), up, down }
    }
}

fn streams(header: &[u8; 64], key: Option<&Key>) -> (Stream, Stream) {
    let mut ahead = [0; 48];
    ahead.copy_from_slice(&header[8..56]);
    let mut back = ahead;
    back.reverse();
    (stream(&ahead, key), stream(&back, key))
}

fn stream(block: &[u8; 48], key: Option<&Key>) -> Stream {
    let (mut half, mut iv) = ([0; 32], [0; 16]);
    half.copy_from_slice(&block[..32]);
    iv.copy_from_slice(&block[32..]);
    match key {
        Some(key) => Stream::new(Sha256::new().chain_update(half).chain_update(key).finalize().into(), iv),
        None => Stream::new(half, iv),
    }
}

fn word(bytes: &[u8]) -> [u8; 4] {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    word
}
