//! The message authentication codes inside hello and flight (docs/protocol.md, "The hello", "The flight").
//!
//! ```text
//! m              = HMAC-SHA256(secret, hello with its random zeroed)
//! hello.random   = m[0..28] ‖ m[28..32] xor time
//! flight.random  = HMAC-SHA256(secret, hello.random ‖ flight with its random zeroed)
//! ```

use subtle::{Choice, ConstantTimeEq};

use super::window::UnixTime;
use crate::crypto::Mac;
use crate::wire::client_hello::{ClientHello, RANDOM_RANGE};
use crate::wire::server_flight::{self, Flight};

/// How many bytes of the random the digest fixes; the time is laid over the rest.
pub const AUTHENTICATED: usize = 28;

/// Whether the hello was made with the key in `mac`, and the time it would then carry. Takes the same time either way.
pub fn examine(mac: &Mac, hello: &ClientHello<'_>) -> (Choice, UnixTime) {
    let (before, after) = (&hello.record[..RANDOM_RANGE.start], &hello.record[RANDOM_RANGE.end..]);
    let digest = mac.digest(&[before, &[0; 32], after]);
    let genuine = digest[..AUTHENTICATED].ct_eq(&hello.random[..AUTHENTICATED]);
    let time: [u8; 4] = std::array::from_fn(|i| digest[AUTHENTICATED + i] ^ hello.random[AUTHENTICATED + i]);
    (genuine, UnixTime(u32::from_le_bytes(time).into()))
}

/// Puts the authenticator that answers `client_random` into the flight.
pub fn stamp(mac: &Mac, client_random: &[u8; 32], flight: &mut Flight) {
    let bytes = flight.as_bytes();
    let (before, after) = (&bytes[..server_flight::RANDOM.start], &bytes[server_flight::RANDOM.end..]);
    let digest = mac.digest(&[client_random, before, &[0; 32], after]);
    flight.set_random(&digest);
}
