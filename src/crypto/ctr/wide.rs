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
        let Self { mut counter, mut skip, mut data } = self;
        let mut keystream = Aligned(ParBlocks::<B>::default());
        let keystream = &mut keystream.0;
        while !data.is_empty() {
            fill(counter, keystream);
            backend.encrypt_par_blocks_inplace(keystream);
            counter = counter.wrapping_add(keystream.len() as u128);
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

/// Makes the blocks hold the counters from `first` on.
#[inline(always)]
fn fill(first: u128, blocks: &mut [Block]) {
    let (high, low) = ((first >> 64) as u64, first as u64);
    if low.checked_add(blocks.len() as u64).is_none() {
        for (block, counter) in blocks.iter_mut().zip(0..) {
            block.copy_from_slice(&first.wrapping_add(counter).to_be_bytes());
        }
        return;
    }
    let high = high.to_be_bytes();
    for (block, counter) in blocks.iter_mut().zip(low..) {
        block[..BLOCK / 2].copy_from_slice(&high);
        block[BLOCK / 2..].copy_from_slice(&counter.to_be_bytes());
    }
}
