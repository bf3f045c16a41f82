//! The obfuscated2 layer, written a second time for the tests: header, keys and padded frames.

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
    fn new(key: &[u8], iv: &[u8]) -> Self {
        Self(Ctr128BE::new(key.try_into().expect("32 bytes"), iv.try_into().expect("16 bytes")))
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
    pub tag: [u8; 4],
    pub dc: i16,
    /// From the side that sent the header; already past the header.
    pub up: Stream,
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
    let ahead = &header[8..56];
    let back: Vec<u8> = ahead.iter().rev().copied().collect();
    (stream(ahead, key), stream(&back, key))
}

fn stream(block: &[u8], key: Option<&Key>) -> Stream {
    let hashed = key.map(|key| Sha256::new().chain_update(&block[..32]).chain_update(key).finalize());
    match &hashed {
        Some(hashed) => Stream::new(hashed, &block[32..]),
        None => Stream::new(&block[..32], &block[32..]),
    }
}

fn word(bytes: &[u8]) -> [u8; 4] {
    bytes.try_into().expect("four bytes")
}

/// What the padded transport carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A packet with its padding, which nobody but its reader can tell from it.
    Packet(Vec<u8>),
    /// A bare four-byte quick acknowledgement.
    Token(u32),
}

/// Puts frames together from decrypted bytes.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
    /// Fillers seen so far; they are never handed out.
    pub fillers: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.start));
        self.bytes.extend(bytes);
    }

    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.bytes[self.start..];
            let head = u32::from_le_bytes(rest.get(..4)?.try_into().expect("four bytes"));
            if head & 1 << 31 != 0 {
                self.start += 4;
                return Some(Frame::Token(head));
            }
            let body = rest.get(4..4 + head as usize)?.to_vec();
            self.start += 4 + body.len();
            if (4..16).contains(&body.len()) && body[..4] == [0; 4] {
                self.fillers += 1;
                continue;
            }
            return Some(Frame::Packet(body));
        }
    }

    /// Bytes that do not make a whole frame yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// A packet behind its length.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut out = (packet.len() as u32).to_le_bytes().to_vec();
    out.extend(packet);
    out
}
