//! Whether bytes can be ML-KEM-768 ciphertexts.
//!
//! The first part of a ciphertext is 768 numbers modulo 3329, each compressed to ten bits. Since 3329 is three times
//! 1024 and 257 more, 257 of the 1024 values are the image of four numbers and the others of three. Random bytes know
//! nothing of that, and one ciphertext is enough to be right in 24 cases of 25.

const MODULUS: usize = 3329;
const VALUES: usize = 1024;
const NUMBERS: usize = 768;

/// Length of a ciphertext.
pub const CIPHERTEXT: usize = 1088;

/// Logarithm of how much likelier these bytes are as a ciphertext than as random bytes; `None` if there are too few.
pub fn evidence(ciphertext: &[u8]) -> Option<f64> {
    let packed = ciphertext.get(..NUMBERS * 10 / 8)?;
    let images = images();
    let weight = |value: usize| (images[value] as f64 * VALUES as f64 / MODULUS as f64).ln();
    Some(unpack(packed).map(weight).sum())
}

/// Counts the numbers that are compressed to each value.
fn images() -> [usize; VALUES] {
    let mut images = [0; VALUES];
    for number in 0..MODULUS {
        images[(number * VALUES + MODULUS / 2) / MODULUS % VALUES] += 1;
    }
    images
}

/// Ten bits each, the lowest first.
fn unpack(packed: &[u8]) -> impl Iterator<Item = usize> {
    packed.chunks_exact(5).flat_map(|chunk| {
        let bits = chunk.iter().rev().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        (0..4).map(move |at| bits >> (10 * at) & (VALUES - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::dice::Dice;
    use crate::audit::hello::fresh_share;

    #[test]
    fn the_compression_is_that_of_the_standard() {
        let images = images();
        assert_eq!(images.iter().filter(|images| **images == 4).count(), 257);
        assert_eq!(images.iter().filter(|images| **images == 3).count(), 767);
    }

    #[test]
    fn ciphertexts_and_random_bytes_are_told_apart() {
        let mut dice = Dice::new(4);
        let random: f64 = (0..30).map(|_| evidence(&dice.bytes(CIPHERTEXT)).unwrap()).sum();
        let group = rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
        let genuine = |_| {
            let share = fresh_share(0x11ec).unwrap();
            let answer = group.start_and_complete(&share).unwrap();
            evidence(&answer.pub_key[..CIPHERTEXT]).unwrap()
        };
        let genuine: f64 = (0..30).map(genuine).sum();
        assert!(genuine > 30.0 && random < -30.0, "{genuine} {random}");
        assert_eq!(evidence(&[0; 900]), None);
    }
}
