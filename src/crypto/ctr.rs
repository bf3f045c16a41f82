//! AES-256-CTR in place: the innermost loop of every relay.

use aes::Aes256Enc;
use aes::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ctr::Ctr128BE;

/// An AES-256 key.
pub type Key = [u8; 32];

/// The first counter block, big-endian.
pub type Iv = [u8; BLOCK];

/// Bytes of keystream that one counter value yields.
pub const BLOCK: usize = 16;

/// One direction of an AES-256-CTR stream: 128-bit big-endian counter, encryption and decryption are the same.
pub struct Ctr(Ctr128BE<Aes256Enc>);

impl Ctr {
    /// The stream that begins with counter block `iv`.
    pub fn new(key: &Key, iv: &Iv) -> Self {
        Self(Ctr128BE::new(key.into(), iv.into()))
    }

    /// The same stream from byte `offset` on.
    pub fn at(key: &Key, iv: &Iv, offset: u64) -> Self {
        let mut stream = Self::new(key, iv);
        stream.0.seek(offset);
        stream
    }

    /// Encrypts or decrypts `data` and advances by its length.
    // Not generic and never inlined, so that the cipher is compiled here, once, with the optimisation this crate asks for.
    #[inline(never)]
    pub fn apply(&mut self, data: &mut [u8]) {
        self.0.apply_keystream(data);
    }
}

impl std::fmt::Debug for Ctr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ctr(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.5.5.
    #[test]
    fn agrees_with_the_nist_vector_and_seeks() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let key: Key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").try_into().unwrap();
        let iv: Iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let cipher = hex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5");

        let mut data = plain.clone();
        Ctr::new(&key, &iv).apply(&mut data);
        assert_eq!(data, cipher);

        let mut tail = plain[7..].to_vec();
        Ctr::at(&key, &iv, 7).apply(&mut tail);
        assert_eq!(tail, cipher[7..]);
    }
}
