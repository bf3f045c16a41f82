//! Counter mode on AES instructions that work on four blocks at a time, where the processor has them.
//!
//! The crate `ctr` uses them, too, but loses more than they gain by how it makes and adds the keystream. Here both are loops
//! over plain arrays, which the compiler turns into the widest instructions, because the crate `aes` calls them from within
//! code that may use those.

use aes::cipher::consts::U16;
use aes::cipher::{
    Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit, ParBlocks,
};
use aes::{Aes256Enc, Block};

use super::{BLOCK, Key};

/// Whether this processor has such instructions.
#[cfg(target_arch = "x86_64")]
pub fn is_there() -> bool {
    std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("vaes")
}

/// Whether this processor has such instructions.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_there() -> bool {
    false
}

/// Adds the keystream to `data`, from byte `skip` of the block of `counter` on. Right on any processor, and fast where
/// [`is_there`] says so.
pub fn apply(key: &Key, counter: u128, skip: usize, data: &mut [u8]) {
    Aes256Enc::new(key.into()).encrypt_with_backend(Pass { counter, skip, data });
}

struct Pass<'a> {
    counter: u128,
    skip: usize,
    data: &'a mut [u8],
}

impl BlockSizeUser for Pass<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Pass<'_> {
    // What is not inlined here cannot use the instructions.
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self { counter, skip, mut data } = self;
        let (mut counters, mut keystream) = (Aligned(ParBlocks::<B>::default()), Aligned(ParBlocks::<B>::default()));
        let (counters, keystream) = (&mut counters.0, &mut keystream.0);
        let batch = counters.len() as u128;
        let mut first = counter - counter % batch;
        let mut skip = (counter - first) as usize * BLOCK + skip;
        while !data.is_empty() {
            fill(first, counters);
            // Into another place, since what is encrypted in its own place has to be read back before it is stored.
            backend.encrypt_par_blocks((&*counters, &mut *keystream).into());
            first = first.wrapping_add(batch);
            let bytes = &Array::slice_as_flattened(keystream)[std::mem::take(&mut skip)..];
            let (here, later) = data.split_at_mut(data.len().min(bytes.len()));
            for (byte, key) in here.iter_mut().zip(bytes) {
                *byte ^= key;
            }
            data = later;
        }
    }
}

/// Else each of the widest instructions would touch two lines of the cache, and that halves the gain.
#[repr(align(64))]
struct Aligned<T>(T);

/// Makes the blocks hold the counters from `first` on. It is fast where they differ in their last byte only.
#[inline(always)]
fn fill(first: u128, blocks: &mut [Block]) {
    if usize::from(u8::MAX - first as u8) < blocks.len() - 1 {
        for (block, counter) in blocks.iter_mut().zip(0..) {
            block.copy_from_slice(&first.wrapping_add(counter).to_be_bytes());
        }
        return;
    }
    let (high, low) = (((first >> 64) as u64).to_be(), (first as u64).to_be());
    for (block, counter) in blocks.iter_mut().zip(0u64..) {
        block[..BLOCK / 2].copy_from_slice(&high.to_ne_bytes());
        block[BLOCK / 2..].copy_from_slice(&low.wrapping_add(counter.to_be()).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also of numbers of blocks that do not divide 256, as some processors take at a time.
    #[test]
    fn counters_go_over_every_border() {
        for first in [0, 5, 235, 236, 256, u128::from(u64::MAX) - 3, u128::MAX - 5] {
            let mut blocks = [Block::default(); 21];
            fill(first, &mut blocks);
            for (block, ahead) in blocks.iter().zip(0..) {
                assert_eq!(block[..], first.wrapping_add(ahead).to_be_bytes(), "{first} and {ahead}");
            }
        }
    }
}
