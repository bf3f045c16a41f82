//! Encryption under a passphrase: Argon2id makes the key, ChaCha20-Poly1305 seals.
//!
//! ```text
//! 0                16       20       24       28        44         56
//! ├────────────────┼────────┼────────┼────────┼─────────┼──────────┼─ …
//! │ vizard sealed 1│ KiB 4  │passes 4│ lanes 4│ salt 16 │ nonce 12 │ sealed bytes, tag 16
//! └────────────────┴────────┴────────┴────────┴─────────┴──────────┴─ …   numbers big-endian
//! ```
//!
//! All that stands before the sealed bytes is authenticated with them. The costs stand in the file so that later versions
//! may raise them; a file cannot ask for more than the bounds below.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rand::CryptoRng;
use std::{error, fmt};
use zeroize::Zeroizing;

const MAGIC: &[u8; 16] = b"vizard sealed 1\n";
const SALT: usize = 16;
const HEAD: usize = MAGIC.len() + 12 + SALT + NONCE_LEN;

/// 64 MiB, three passes, one lane: under a second on a small machine, and dear to anyone who has to guess.
const COST: [u32; 3] = [64 * 1024, 3, 1];

/// Highest cost that a file may ask for: 1 GiB and 16 passes keep a made-up one from holding the machine.
const MOST: [u32; 3] = [1 << 20, 16, 16];

/// Reason why something cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The passphrase is another one, or the file is damaged.
    Closed,
    /// The head of the file is not one that this version writes.
    Head,
    /// There is no memory for the key, or the passphrase is too long.
    Key,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the passphrase is not the right one, or the file is damaged",
            Self::Head => "the file is damaged, or a newer version of vizard has made it",
            Self::Key => "no key can be made of the passphrase",
        })
    }
}

impl error::Error for SealError {}

/// Whether these bytes were sealed.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Seals bytes. The passphrase should have been made, not thought of.
pub fn seal(passphrase: &[u8], bytes: Vec<u8>, random: &mut impl CryptoRng) -> Result<Vec<u8>, SealError> {
    let mut head = MAGIC.to_vec();
    COST.iter().for_each(|cost| head.extend(cost.to_be_bytes()));
    let mut fresh = [0; SALT + NONCE_LEN];
    random.fill_bytes(&mut fresh);
    head.extend(fresh);
    let (key, nonce) = key(passphrase, &head)?;
    let mut sealed = bytes;
    key.seal_in_place_append_tag(nonce, Aad::from(&head[..]), &mut sealed).map_err(|_| SealError::Key)?;
    head.extend(sealed);
    Ok(head)
}

/// Opens what was sealed.
pub fn open(passphrase: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (head, body) = sealed.split_at_checked(HEAD).ok_or(SealError::Head)?;
    let (key, nonce) = key(passphrase, head)?;
    let mut body = body.to_vec();
    let length = key.open_in_place(nonce, Aad::from(head), &mut body).map_err(|_| SealError::Closed)?.len();
    body.truncate(length);
    Ok(body)
}

fn key(passphrase: &[u8], head: &[u8]) -> Result<(LessSafeKey, Nonce), SealError> {
    let fields = head.strip_prefix(MAGIC).ok_or(SealError::Head)?;
    let (costs, rest) = fields.split_at_checked(12).ok_or(SealError::Head)?;
    let (salt, nonce) = rest.split_at_checked(SALT).ok_or(SealError::Head)?;
    let mut cost = [0; 3];
    for (cost, bytes) in cost.iter_mut().zip(costs.chunks_exact(4)) {
        *cost = u32::from_be_bytes(bytes.try_into().map_err(|_| SealError::Head)?);
    }
    if cost.iter().zip(MOST).any(|(cost, most)| *cost > most) {
        return Err(SealError::Head);
    }
    let params = Params::new(cost[0], cost[1], cost[2], Some(32)).map_err(|_| SealError::Head)?;
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(passphrase, salt, &mut *key).map_err(|_| SealError::Key)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).map_err(|_| SealError::Key)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Head)?;
    Ok((LessSafeKey::new(key), nonce))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn only_the_passphrase_opens_and_no_bit_may_differ() {
        let mut random = StdRng::seed_from_u64(1);
        let sealed = seal(b"correct horse", b"secrets".to_vec(), &mut random).unwrap();
        assert!(is_sealed(&sealed) && !sealed.windows(7).any(|window| window == b"secrets"));
        assert_eq!(open(b"correct horse", &sealed).unwrap(), b"secrets");
        assert_eq!(open(b"wrong horse", &sealed), Err(SealError::Closed));
        let again = seal(b"correct horse", b"secrets".to_vec(), &mut random).unwrap();
        assert_ne!(sealed[HEAD..], again[HEAD..]);
        for at in [30, 50, HEAD, sealed.len() - 1] {
            let mut spoilt = sealed.clone();
            spoilt[at] ^= 1;
            assert_eq!(open(b"correct horse", &spoilt), Err(SealError::Closed), "{at}");
        }
    }

    #[test]
    fn a_file_cannot_ask_for_the_whole_machine() {
        let mut random = StdRng::seed_from_u64(1);
        let sealed = seal(b"x", Vec::new(), &mut random).unwrap();
        for field in 0..3 {
            let mut greedy = sealed.clone();
            greedy[16 + 4 * field..20 + 4 * field].copy_from_slice(&u32::MAX.to_be_bytes());
            assert_eq!(open(b"x", &greedy), Err(SealError::Head));
        }
        for length in 0..HEAD {
            assert_eq!(open(b"x", &sealed[..length]), Err(SealError::Head));
        }
    }
}
