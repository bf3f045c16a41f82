//! AES-256-CTR in place: the innermost loop of every relay.

use aes::Aes256Enc;
use aes::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ctr::Ctr128BE;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// An AES-256 key.
pub type Key = [u8; 32];

/// The first counter block, big-endian.
pub type Iv = [u8; BLOCK];

/// Bytes of keystream that one counter value yields.
pub const BLOCK: usize = 16;

/// One direction of an AES-256-CTR stream: 128-bit big-endian counter, encryption and decryption are the same.
///
/// It is kept as key and position, since many streams rest most of the time and an expanded key takes a kilobyte.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Ctr {
    key: Key,
    iv: Iv,
    position: u64,
}

impl Ctr {
    /// The stream that begins with counter block `iv`.
    pub fn new(key: &Key, iv: &Iv) -> Self {
        Self::at(key, iv, 0)
    }

    /// The same stream from byte `offset` on.
    pub fn at(key: &Key, iv: &Iv, offset: u64) -> Self {
        Self { key: *key, iv: *iv, position: offset }
    }

    /// Encrypts or decrypts `data` and advances by its length.
    pub fn apply(&mut self, data: &mut [u8]) {
        self.expand().apply(data);
    }

    /// The stream with its key expanded, to be applied to several pieces.
    pub fn expand(&mut self) -> Expanded<'_> {
        let mut cipher: Ctr128BE<Aes256Enc> = Ctr128BE::new((&self.key).into(), (&self.iv).into());
        if self.position > 0 {
            cipher.seek(self.position);
        }
        Expanded { cipher, position: &mut self.position }
    }
}

/// A [`Ctr`] at work.
pub struct Expanded<'a> {
    cipher: Ctr128BE<Aes256Enc>,
    position: &'a mut u64,
}

impl Expanded<'_> {
    /// Encrypts or decrypts `data` and advances by its length.
    // Not generic and never inlined, so that the cipher is compiled here, once, with the optimisation this crate asks for.
    #[inline(never)]
    pub fn apply(&mut self, data: &mut [u8]) {
        self.cipher.apply_keystream(data);
        *self.position += data.len() as u64;
    }
}

impl std::fmt::Debug for Ctr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ctr(hidden)")
    }
}

impl std::fmt::Debug for Expanded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expanded(hidden)")
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

        let (mut stream, mut data) = (Ctr::new(&key, &iv), plain);
        let mut expanded = stream.expand();
        data[..21].chunks_mut(5).for_each(|piece| expanded.apply(piece));
        stream.apply(&mut data[21..]);
        assert_eq!(data, cipher);
    }

    #[test]
    fn a_stream_at_rest_is_small() {
        assert_eq!(size_of::<Ctr>(), 56);
    }
}
