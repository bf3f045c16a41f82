//! Primitives in the exact shapes that the protocols need: AES-256-CTR in place, HMAC-SHA256 over several slices, and
//! the key schedule of the obfuscated2 header. No randomness, no clock, no sockets.

mod ctr;
pub mod kdf;
mod mac;

pub use ctr::{BLOCK, Ctr, Iv, Key};
pub use mac::{DIGEST, Mac};
