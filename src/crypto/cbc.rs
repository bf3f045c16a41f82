//! AES-256-CBC over whole blocks, in place: the two directions of a link to a middle proxy.

use aes::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes256Dec, Aes256Enc};

use super::ctr::{BLOCK, Iv, Key};

/// One block of the cipher.
pub type Block = [u8; BLOCK];

/// The sending end of an AES-256-CBC stream. The chain runs on from call to call.
pub struct CbcEncrypt(cbc::Encryptor<Aes256Enc>);

/// The receiving end of an AES-256-CBC stream. The chain runs on from call to call.
pub struct CbcDecrypt(cbc::Decryptor<Aes256Dec>);

impl CbcEncrypt {
    /// The stream whose first block is chained to `iv`.
    pub fn new(key: &Key, iv: &Iv) -> Self {
        Self(cbc::Encryptor::new(key.into(), iv.into()))
    }

    /// Encrypts the next blocks of the stream. A caller with bytes gets the blocks from `as_chunks_mut` and keeps what
    /// is left over for later.
    // Compiled here, once, for the same reason as `Ctr::apply`.
    #[inline(never)]
    pub fn apply(&mut self, blocks: &mut [Block]) {
        self.0.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

impl CbcDecrypt {
    /// The stream whose first block is chained to `iv`.
    pub fn new(key: &Key, iv: &Iv) -> Self {
        Self(cbc::Decryptor::new(key.into(), iv.into()))
    }

    /// Decrypts the next blocks of the stream.
    #[inline(never)]
    pub fn apply(&mut self, blocks: &mut [Block]) {
        self.0.decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

impl std::fmt::Debug for CbcEncrypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CbcEncrypt(hidden)")
    }
}

impl std::fmt::Debug for CbcDecrypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CbcDecrypt(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{unhex, vector, vector_array};

    fn blocks(bytes: &mut [u8]) -> &mut [Block] {
        let (blocks, rest) = bytes.as_chunks_mut();
        assert!(rest.is_empty());
        blocks
    }

    /// NIST SP 800-38A, F.2.5 and F.2.6.
    #[test]
    fn agrees_with_the_nist_vector() {
        let key: Key = unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").try_into().unwrap();
        let iv: Iv = unhex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let plain = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let cipher = unhex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d");

        let mut data = plain.clone();
        CbcEncrypt::new(&key, &iv).apply(blocks(&mut data));
        assert_eq!(data, cipher);
        CbcDecrypt::new(&key, &iv).apply(blocks(&mut data));
        assert_eq!(data, plain);
    }

    #[test]
    fn the_chain_runs_on_over_the_vectors_of_each_direction() {
        for (key, iv, messages) in [
            ("write_key", "write_iv", &["M_handshake", "M_proxy_req"][..]),
            ("read_key", "read_iv", &["M_handshake_ans", "M_proxy_ans", "M_close_ext"]),
        ] {
            let (key, iv) = (vector_array("M_keys4", key), vector_array("M_keys4", iv));
            let (mut encrypt, mut decrypt) = (CbcEncrypt::new(&key, &iv), CbcDecrypt::new(&key, &iv));
            for message in messages {
                let mut data = vector(message, "plain");
                encrypt.apply(blocks(&mut data));
                assert_eq!(data, vector(message, "wire"), "{message}");
                decrypt.apply(blocks(&mut data));
                assert_eq!(data, vector(message, "plain"), "{message}");
            }
        }
    }

    proptest! {
        #[test]
        fn calls_may_be_cut_anywhere_between_blocks(data in prop::collection::vec(any::<Block>(), 0..40),
                                                    cut in 0usize..40, other in 0usize..40) {
            let (key, iv) = ([7; 32], [9; 16]);
            let mut whole = data.clone();
            CbcEncrypt::new(&key, &iv).apply(&mut whole);
            let mut pieces = data.clone();
            let (cut, other) = (cut.min(data.len()), other.min(data.len()));
            let mut encrypt = CbcEncrypt::new(&key, &iv);
            encrypt.apply(&mut pieces[..cut]);
            encrypt.apply(&mut pieces[cut..]);
            prop_assert_eq!(&pieces, &whole);
            let mut decrypt = CbcDecrypt::new(&key, &iv);
            decrypt.apply(&mut pieces[..other]);
            decrypt.apply(&mut pieces[other..]);
            prop_assert_eq!(pieces, data);
        }
    }
}
