//! Primitives in the exact shapes that the protocols need: AES-256-CTR and AES-256-CBC in place, HMAC-SHA256 over
//! several slices, the key schedules of the obfuscated2 header and of links to middle proxies, and key shares for hellos.
//! No clock, no sockets, and no randomness but what key shares are made of.

mod cbc;
mod ctr;
pub mod kdf;
mod mac;
pub mod middle_kdf;
pub mod shares;

pub use cbc::{Block, CbcDecrypt, CbcEncrypt};
pub use ctr::{BLOCK, Ctr, Iv, Key};
pub use mac::{DIGEST, Mac, Message};
