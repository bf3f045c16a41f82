//! HMAC-SHA256 over several slices, under one key or under many.
//!
//! An HMAC is two hashes, and each of them begins with a block that only the key fills. A key is kept as the two states
//! behind those blocks.
//!
//! Under many keys it is the same blocks that are hashed behind many states, and there are two ways to gain by that.
//! [`lanes`] does it for several states at once in vectors, where the processor has wide ones or no instructions for
//! SHA-256. Else, and where there are too few keys for that, the blocks are hashed in turns, one under each key and then the
//! next: a hash has to wait for itself from one round to the next, and the processor fills that time with the hash under the
//! next key, which takes a third less time than one key after the other, where it has instructions for SHA-256.

mod lanes;

use lanes::Lanes;
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// Length of an HMAC-SHA256 digest in bytes.
pub const DIGEST: usize = 32;

type State = [u32; 8];
type Block = [u8; 64];

/// Initial hash value of SHA-256 (FIPS 180-4, 5.3.3).
const FIRST: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Keys in turn. More than two gain nothing where this was measured, and cost nothing.
const TURNS: usize = 4;

/// HMAC-SHA256 with its key already absorbed.
#[derive(Clone)]
pub struct Mac {
    inner: State,
    outer: State,
}

impl Mac {
    /// Absorbs a key of any length.
    pub fn new(key: &[u8]) -> Self {
        let mut block: Block = [0; 64];
        match block.get_mut(..key.len()) {
            Some(place) => place.copy_from_slice(key),
            None => block[..DIGEST].copy_from_slice(&Sha256::digest(key)),
        }
        let behind = |pad: u8| {
            let mut state = FIRST;
            compress256(&mut state, &[block.map(|byte| byte ^ pad)]);
            state
        };
        Self { inner: behind(0x36), outer: behind(0x5c) }
    }

    /// The digest of the slices, one after the other.
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        Message::new(parts).digests_by(None, &[self], |_, found| digest = found);
        digest
    }
}

/// A message that is to be digested under several keys.
pub struct Message {
    /// Padded, for a hash that has taken a block before.
    blocks: Vec<Block>,
}

impl Message {
    /// The slices, one after the other.
    pub fn new(parts: &[&[u8]]) -> Self {
        Self { blocks: padded(&parts.concat()) }
    }

    /// Tells the digest under each of these keys, with its place among them.
    pub fn digests(&self, macs: &[&Mac], tell: impl FnMut(usize, [u8; DIGEST])) {
        self.digests_by(Lanes::here(), macs, tell);
    }

    fn digests_by(&self, lanes: Option<Lanes>, macs: &[&Mac], mut tell: impl FnMut(usize, [u8; DIGEST])) {
        let done = lanes.map_or(0, |lanes| lanes.digests(&self.blocks, macs, &mut tell));
        for (turn, macs) in macs[done..].chunks(TURNS).enumerate() {
            self.digests_in_turns(macs, |place, digest| tell(done + turn * TURNS + place, digest));
        }
    }

    /// For no more than [`TURNS`] keys.
    fn digests_in_turns(&self, macs: &[&Mac], mut tell: impl FnMut(usize, [u8; DIGEST])) {
        let mut states = [State::default(); TURNS];
        states.iter_mut().zip(macs).for_each(|(state, mac)| *state = mac.inner);
        let states = &mut states[..macs.len()];
        for block in &self.blocks {
            states.iter_mut().for_each(|state| compress256(state, std::slice::from_ref(block)));
        }
        for (place, (inner, mac)) in states.iter().zip(macs).enumerate() {
            let mut state = mac.outer;
            compress256(&mut state, &[outer_block(inner)]);
            tell(place, bytes(&state));
        }
    }
}

/// Builds the block of the outer hash that follows the key's block: the inner hash, padded.
fn outer_block(inner: &State) -> Block {
    let mut block: Block = [0; 64];
    block[..DIGEST].copy_from_slice(&bytes(inner));
    block[DIGEST] = 0x80;
    block[56..].copy_from_slice(&bit_length(DIGEST).to_be_bytes());
    block
}

/// Returns the bit length for the padding of a message that follows a first block.
fn bit_length(bytes: usize) -> u64 {
    8 * (size_of::<Block>() + bytes) as u64
}

/// A message as SHA-256 takes it behind a first block.
fn padded(message: &[u8]) -> Vec<Block> {
    let (whole, rest) = message.as_chunks::<64>();
    let mut end = [0; 128];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let length = if rest.len() < 56 { 64 } else { 128 };
    end[length - 8..length].copy_from_slice(&bit_length(message.len()).to_be_bytes());
    [whole, end[..length].as_chunks().0].concat()
}

fn bytes(state: &State) -> [u8; DIGEST] {
    let mut bytes = [0; DIGEST];
    bytes.as_chunks_mut().0.iter_mut().zip(state).for_each(|(word, value)| *word = value.to_be_bytes());
    bytes
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mac(hidden)")
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} blocks)", self.blocks.len())
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac as _};

    use super::*;

    fn by_library(key: &[u8], message: &[u8]) -> [u8; DIGEST] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    #[test]
    fn agrees_with_the_library_for_messages_and_keys_of_any_length() {
        let bytes: Vec<u8> = (0..400u32).map(|number| (number * 7) as u8).collect();
        for length in 0..bytes.len() {
            let (key, message) = (&bytes[..length / 2], &bytes[..length]);
            let (front, back) = message.split_at(length / 3);
            assert_eq!(Mac::new(key).digest(&[front, back]), by_library(key, message), "{length} bytes");
        }
    }

    /// All that this processor can do, whatever is quickest on it, with keys left over and without.
    fn ways() -> Vec<Option<Lanes>> {
        let lanes = [1, 3].map(Lanes::every).concat().into_iter().map(Some);
        lanes.chain([None, Lanes::here()]).collect()
    }

    fn keys(count: usize) -> Vec<[u8; 16]> {
        (0..count).map(|number| [number as u8; 16]).collect()
    }

    /// Asserts that each way agrees with the library under the first so many of these keys, in their order.
    fn assert_agreement(message: &[u8], keys: &[[u8; 16]], counts: impl Iterator<Item = usize>) {
        let macs: Vec<Mac> = keys.iter().map(|key| Mac::new(key)).collect();
        let macs: Vec<&Mac> = macs.iter().collect();
        let expected: Vec<_> = keys.iter().map(|key| by_library(key, message)).enumerate().collect();
        let message = Message::new(&[message]);
        for count in counts {
            for way in ways() {
                let mut found = Vec::new();
                message.digests_by(way, &macs[..count], |place, digest| found.push((place, digest)));
                assert_eq!(found, expected[..count], "{message:?}, {count} keys, {way:?}");
            }
        }
    }

    #[test]
    fn digests_under_any_number_of_keys_come_in_their_order() {
        // The widest vectors have 16 lanes, and two of them take turns.
        let keys = keys(2 * 32 + 1);
        assert_agreement(&[5; 517], &keys, 0..=keys.len());
    }

    #[test]
    fn digests_under_many_keys_agree_with_the_library_for_messages_of_any_length() {
        let bytes: Vec<u8> = (0..1800u32).map(|number| (number * 7) as u8).collect();
        let keys = keys(32 + 16 + 8 + 4 + 1);
        for length in (0..400).chain([517, 1700, 1800]) {
            assert_agreement(&bytes[..length], &keys, std::iter::once(keys.len()));
        }
    }
}
