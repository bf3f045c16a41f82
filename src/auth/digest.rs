//! The message authentication codes inside hello and flight (docs/protocol.md, "The hello", "The flight").
//!
//! ```text
//! m              = HMAC-SHA256(secret, hello with its random zeroed)
//! hello.random   = m[0..28] ‖ m[28..32] xor time
//! flight.random  = HMAC-SHA256(secret, hello.random ‖ flight with its random zeroed)
//! ```

use std::hint::black_box;

use subtle::{Choice, ConstantTimeEq};

use super::window::UnixTime;
use crate::crypto::{Mac, Message};
use crate::wire::client_hello::{ClientHello, MAX_HELLO, RANDOM_RANGE};
use crate::wire::server_flight::{self, Flight};

/// Number of bytes of the random that the digest fixes; the time is laid over the rest.
pub const AUTHENTICATED: usize = 28;

/// Block of the hash, and the least that pads a message.
const BLOCK: usize = 64;
const PADDING: usize = 9;

/// Blocks that are digested for every hello: those of the longest, and one.
const ALL_BLOCKS: usize = (MAX_HELLO + PADDING).div_ceil(BLOCK) + 1;

/// Proof of a key in a hello: the bytes that its digest covers, and the digest in its random.
#[derive(Debug)]
pub struct Claim {
    message: Message,
    /// Bytes that are digested besides, for nothing: a short hello takes as long as a long one, or the time of the
    /// answer would grow with the hello here and not at other servers.
    rest: Message,
    random: [u8; 32],
}

impl Claim {
    /// The claim of this hello.
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let (before, after) = (&hello.record[..RANDOM_RANGE.start], &hello.record[RANDOM_RANGE.end..]);
        Self::over(&[before, &[0; 32], after], *hello.random)
    }

    /// A claim that nothing bears out: for work that is done in vain.
    pub fn in_vain(record: &[u8]) -> Self {
        Self::over(&[record], [0; 32])
    }

    fn over(parts: &[&[u8]], random: [u8; 32]) -> Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let missing = ALL_BLOCKS.saturating_sub((length + PADDING).div_ceil(BLOCK)).max(1);
        Self { message: Message::new(parts), rest: Message::new(&[&vec![0; missing * BLOCK - PADDING]]), random }
    }

    /// The random of the hello.
    pub fn random(&self) -> &[u8; 32] {
        &self.random
    }

    /// The part of the random that the digest fixes.
    pub fn authenticator(&self) -> &[u8; AUTHENTICATED] {
        self.random.first_chunk().expect("a random is longer than its authenticated part")
    }

    /// Tells of each of these keys, by its place among them, whether the hello was made with it, and the time that it
    /// would then carry. Takes the same time whatever it tells.
    pub fn examine(&self, macs: &[&Mac], mut tell: impl FnMut(usize, Choice, UnixTime)) {
        self.message.digests(macs, |place, digest| {
            let genuine = digest[..AUTHENTICATED].ct_eq(&self.authenticator()[..]);
            let time: [u8; 4] = std::array::from_fn(|i| digest[AUTHENTICATED + i] ^ self.random[AUTHENTICATED + i]);
            tell(place, genuine, UnixTime(u32::from_le_bytes(time).into()));
        });
        self.rest.digests(macs, |_, digest| _ = black_box(digest));
    }
}

/// Puts the authenticator that answers `client_random` into the flight.
pub fn stamp(mac: &Mac, client_random: &[u8; 32], flight: &mut Flight) {
    let bytes = flight.as_bytes();
    let (before, after) = (&bytes[..server_flight::RANDOM.start], &bytes[server_flight::RANDOM.end..]);
    let digest = mac.digest(&[client_random, before, &[0; 32], after]);
    flight.set_random(&digest);
}
