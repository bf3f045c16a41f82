//! SHA-256 over the same blocks behind many states, one state in each lane of the processor's vectors.
//!
//! What SHA-256 makes of a block before it looks at the state, the message schedule, is made once for all of them. The rest
//! are rounds of words, which the widest vectors do for sixteen states at a time. Sections and names are those of FIPS
//! 180-4.

use std::ops::{Add, BitOr, BitXor, Shl, Shr};

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch};

use super::{Block, DIGEST, Mac, State, bit_length, bytes};

/// The constants of the rounds (4.2.2).
const K: [u32; ROUNDS] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
];

const ROUNDS: usize = 64;

/// A kind of vectors.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    level: Level,
    /// For how many keys these are quicker than the processor's other way.
    fewest: usize,
}

impl Lanes {
    /// The widest of this processor, unless hashes in turns are quicker for any number of keys.
    ///
    /// Instructions for SHA-256 are as quick as vectors of eight lanes, and only once there are three in four of sixteen are
    /// these quicker. Without such instructions, two keys in vectors of any width take less time than in turns.
    #[cfg(target_arch = "x86_64")]
    pub fn here() -> Option<Self> {
        let level = Level::new();
        match (level.as_avx512(), std::is_x86_feature_detected!("sha")) {
            (Some(_), _) => Some(Self { level, fewest: 12 }),
            (None, true) => None,
            (None, false) => Some(Self { level, fewest: 2 }),
        }
    }

    /// The widest of this processor, unless hashes in turns are quicker: on other processors no one has measured.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn here() -> Option<Self> {
        None
    }

    /// Each kind that this processor has, for this many keys and more.
    #[cfg(test)]
    pub fn every(fewest: usize) -> Vec<Self> {
        let widest = Level::new();
        #[cfg(target_arch = "x86_64")]
        let levels = [
            widest.as_sse2().map(Level::Sse2),
            widest.as_sse4_2().map(Level::Sse4_2),
            widest.as_avx2().map(Level::Avx2),
            widest.as_avx512().map(Level::Avx512),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let levels = [Some(widest)];
        levels.into_iter().flatten().map(|level| Self { level, fewest }).collect()
    }

    /// Tells the digest of the blocks under each of the first of these keys, with its place among them, and for how many:
    /// the rest are too few for this.
    pub fn digests(self, blocks: &[Block], macs: &[&Mac], tell: impl FnMut(usize, [u8; DIGEST])) -> usize {
        if macs.len() < self.fewest {
            return 0;
        }
        dispatch!(self.level, simd => digests(simd, blocks, &macs[..self.worthwhile(simd, macs.len())], tell))
    }

    /// Returns how many of `keys` keys fill vectors well enough.
    #[inline(always)]
    fn worthwhile<S: Simd>(self, _: S, keys: usize) -> usize {
        let rest = keys % S::u32s::LEN;
        if rest < self.fewest { keys - rest } else { keys }
    }
}

/// A hash's state in each lane.
type States<S> = [<S as Simd>::u32s; 8];

// What is not inlined from here on cannot use the instructions.

#[inline(always)]
fn digests<S: Simd>(simd: S, blocks: &[Block], macs: &[&Mac], mut tell: impl FnMut(usize, [u8; DIGEST])) -> usize {
    let lanes = S::u32s::LEN;
    let mut inner: Vec<States<S>> = macs.chunks(lanes).map(|macs| load(simd, macs, |mac| &mac.inner)).collect();
    for block in blocks {
        compress_all(simd, &mut inner, &shared_schedule(block));
    }
    for (turn, (inner, macs)) in inner.iter().zip(macs.chunks(lanes)).enumerate() {
        let schedule = outer_schedule(simd, inner);
        let mut outer = [load(simd, macs, |mac| &mac.outer)];
        compress(simd, &mut outer, &schedule);
        for lane in 0..macs.len() {
            tell(turn * lanes + lane, bytes(&outer[0].map(|word| word[lane])));
        }
    }
    macs.len()
}

/// A state of each of these keys, one in each lane.
#[inline(always)]
fn load<S: Simd>(simd: S, macs: &[&Mac], state: impl Fn(&Mac) -> &State) -> States<S> {
    let mut states = [S::u32s::splat(simd, 0); 8];
    for (lane, mac) in macs.iter().enumerate() {
        for (words, word) in states.iter_mut().zip(state(mac)) {
            words[lane] = *word;
        }
    }
    states
}

/// Takes a block into all states.
#[inline(always)]
fn compress_all<S: Simd>(simd: S, states: &mut [States<S>], schedule: &[u32; ROUNDS]) {
    // The widest come with as many registers as two in turn take, so that one fills the time in which the other waits.
    let in_turn = if S::u32s::LEN == 16 { states.len() / 2 * 2 } else { 0 };
    let (in_turn, alone) = states.split_at_mut(in_turn);
    in_turn.as_chunks_mut().0.iter_mut().for_each(|two| compress::<S, _, 2>(simd, two, schedule));
    alone.as_chunks_mut().0.iter_mut().for_each(|one| compress::<S, _, 1>(simd, one, schedule));
}

/// Takes the block of this schedule into these states (6.2.2, steps 2 to 4).
#[inline(always)]
fn compress<S, W, const TURNS: usize>(simd: S, states: &mut [States<S>; TURNS], schedule: &[W; ROUNDS])
where
    S: Simd,
    W: Copy + SimdInto<S::u32s, S>,
{
    let mut working = *states;
    // Unrolled: after eight rounds each variable is back in its place.
    for words in schedule.as_chunks::<8>().0 {
        for word in words {
            let word = (*word).simd_into(simd);
            working.iter_mut().for_each(|working| round::<S>(working, word));
        }
    }
    for (state, working) in states.as_flattened_mut().iter_mut().zip(working.as_flattened()) {
        *state += *working;
    }
}

/// One round, with the constant in the word (6.2.2, step 3).
#[inline(always)]
fn round<S: Simd>(working: &mut States<S>, word: S::u32s) {
    let [a, b, c, d, e, f, g, h] = *working;
    let sum_1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
    let choice = g ^ (e & (f ^ g));
    let t1 = h + word + choice + sum_1;
    let sum_0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
    // The exclusive or of the first two is that of the last two in the next round.
    let majority = ((a ^ b) & (b ^ c)) ^ b;
    *working = [t1 + (sum_0 + majority), a, b, c, d + t1, e, f, g];
}

/// The message schedule of a block for all lanes, the constants added.
#[inline(always)]
fn shared_schedule(block: &Block) -> [u32; ROUNDS] {
    let mut words = [0; 16];
    words.iter_mut().zip(block.as_chunks().0).for_each(|(word, bytes)| *word = u32::from_be_bytes(*bytes));
    schedule(words, u32::wrapping_add, u32::wrapping_add)
}

/// The message schedule of the outer hash's block in each lane (`outer_block`), the constants added.
#[inline(always)]
fn outer_schedule<S: Simd>(simd: S, inner: &States<S>) -> [S::u32s; ROUNDS] {
    let mut words = [S::u32s::splat(simd, 0); 16];
    words[..8].copy_from_slice(inner);
    words[8] = S::u32s::splat(simd, 0x8000_0000);
    words[15] = S::u32s::splat(simd, bit_length(DIGEST) as u32);
    schedule(words, Add::add, Add::add)
}

/// The message schedule (6.2.2, step 1), the constants added.
#[inline(always)]
fn schedule<W: Word>(block: [W; 16], add: impl Fn(W, W) -> W, add_constant: impl Fn(W, u32) -> W) -> [W; ROUNDS] {
    let mut words = [block[0]; ROUNDS];
    words[..16].copy_from_slice(&block);
    for t in 16..ROUNDS {
        let (x, y) = (words[t - 15], words[t - 2]);
        let sigma_0 = rotr(x, 7) ^ rotr(x, 18) ^ (x >> 3);
        let sigma_1 = rotr(y, 17) ^ rotr(y, 19) ^ (y >> 10);
        words[t] = add(add(sigma_1, words[t - 7]), add(sigma_0, words[t - 16]));
    }
    words.iter_mut().zip(K).for_each(|(word, constant)| *word = add_constant(*word, constant));
    words
}

#[inline(always)]
fn rotr<W: Word>(word: W, bits: u32) -> W {
    (word >> bits) | (word << (32 - bits))
}

/// A word, or one in each lane.
trait Word:
    Copy + BitOr<Output = Self> + BitXor<Output = Self> + Shl<u32, Output = Self> + Shr<u32, Output = Self>
{
}

impl<W: Copy + BitOr<Output = W> + BitXor<Output = W> + Shl<u32, Output = W> + Shr<u32, Output = W>> Word for W {}
