//! The client's side of the fake-TLS transport (docs/protocol.md, "The hello", "The flight"): a hello that is signed with
//! the secret, and whether an answer is signed for it.

use rand::CryptoRng;

use super::client_hello::RANDOM_RANGE;
use super::{HelloClass, hellos, server_flight};
use crate::crypto::Mac;

/// A hello of this class for the site `name`, signed with `key` at `time` in seconds since 1970; `None` for
/// [`HelloClass::Other`], and if the crypto library fails.
pub fn signed_hello(
    class: HelloClass,
    name: &str,
    key: &[u8; 16],
    time: u32,
    random: &mut impl CryptoRng,
) -> Option<Vec<u8>> {
    let mut hello = hellos::hello(class, name, random)?;
    hello[RANDOM_RANGE].fill(0);
    let mut digest = Mac::new(key).digest(&[&hello]);
    for (byte, time) in digest[28..].iter_mut().zip(time.to_le_bytes()) {
        *byte ^= time;
    }
    hello[RANDOM_RANGE].copy_from_slice(&digest);
    Some(hello)
}

/// Whether `flight` answers a hello with this random, from someone who knows the key.
pub fn is_signed(flight: &[u8], key: &[u8; 16], client_random: &[u8]) -> bool {
    let random = server_flight::RANDOM;
    let Some(stamp) = flight.get(random.clone()) else { return false };
    let parts = [client_random, &flight[..random.start], &[0; 32], &flight[random.end..]];
    Mac::new(key).digest(&parts) == stamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::vector;

    #[test]
    fn flights_of_the_vectors_are_signed_for_their_hello_alone() {
        let (flight, hello) = (vector("flightA", "bytes"), vector("helloA", "record"));
        let key = vector("const", "key").try_into().unwrap();
        assert!(is_signed(&flight, &key, &hello[RANDOM_RANGE]));
        assert!(!is_signed(&flight, &key, &[0; 32]));
        assert!(!is_signed(&flight[..20], &key, &hello[RANDOM_RANGE]));
    }
}
