//! The message authentication codes inside hello and flight (docs/protocol.md, "The hello", "The flight").
//!
//! ```text
//! m              = HMAC-SHA256(secret, hello with its random zeroed)
//! hello.random   = m[0..28] ‖ m[28..32] xor time
//! flight.random  = HMAC-SHA256(secret, hello.random ‖ flight with its random zeroed)
//! ```

use subtle::{Choice, ConstantTimeEq};

use super::window::UnixTime;
use crate::crypto::{Mac, Message};
use crate::wire::client_hello::{ClientHello, RANDOM_RANGE};
use crate::wire::server_flight::{self, Flight};

/// How many bytes of the random the digest fixes; the time is laid over the rest.
pub const AUTHENTICATED: usize = 28;

/// What a hello shows of the key that it was made with.
#[derive(Debug)]
pub struct Claim {
    message: Message,
    random: [u8; 32],
}

impl Claim {
    /// The claim of this hello.
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let (before, after) = (&hello.record[..RANDOM_RANGE.start], &hello.record[RANDOM_RANGE.end..]);
        Self { message: Message::new(&[before, &[0; 32], after]), random: *hello.random }
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
    }
}

/// Puts the authenticator that answers `client_random` into the flight.
pub fn stamp(mac: &Mac, client_random: &[u8; 32], flight: &mut Flight) {
    let bytes = flight.as_bytes();
    let (before, after) = (&bytes[..server_flight::RANDOM.start], &bytes[server_flight::RANDOM.end..]);
    let digest = mac.digest(&[client_random, before, &[0; 32], after]);
    flight.set_random(&digest);
}
