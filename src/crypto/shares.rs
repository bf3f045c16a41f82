//! Key shares of TLS 1.3 (RFC 8446 §4.2.8) that the other side can compute with: X25519 (RFC 7748) and X25519MLKEM768
//! (draft-ietf-tls-ecdhe-mlkem §4, the ML-KEM part first).
//!
//! Private halves are dropped: a client that scans a cover only wants to see the answer, and a server that answers from
//! a stored profile derives no keys. The randomness of X25519 is an argument; the library draws that of ML-KEM itself.

use rustls::crypto::aws_lc_rs::kx_group::MLKEM768;
use x25519_dalek::{PublicKey, StaticSecret};

/// Bytes of an X25519 value, private or public.
pub const X25519_LEN: usize = 32;

/// Client's or server's share of X25519 for a private key of these bytes.
pub fn x25519(private: [u8; X25519_LEN]) -> [u8; X25519_LEN] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

/// Client's share of X25519MLKEM768 (1216 bytes); `None` if the library fails.
pub fn x25519_mlkem768(private: [u8; X25519_LEN]) -> Option<Vec<u8>> {
    let encapsulation_key = MLKEM768.start().ok()?;
    Some([encapsulation_key.pub_key(), &x25519(private)].concat())
}

/// Server's share of X25519 for this client's share; `None` for one that a server refuses (RFC 8446 §7.4.2: wrong length
/// or a shared secret of zeros).
pub fn answer_x25519(client: &[u8], private: [u8; X25519_LEN]) -> Option<Vec<u8>> {
    let client = PublicKey::from(<[u8; X25519_LEN]>::try_from(client).ok()?);
    let private = StaticSecret::from(private);
    private.diffie_hellman(&client).was_contributory().then(|| PublicKey::from(&private).to_bytes().to_vec())
}

/// Server's share of X25519MLKEM768 (1120 bytes) for this client's share, with a real encapsulation; `None` for one that
/// a server refuses.
pub fn answer_x25519_mlkem768(client: &[u8], private: [u8; X25519_LEN]) -> Option<Vec<u8>> {
    let (encapsulation_key, client) = client.split_at_checked(client.len().checked_sub(X25519_LEN)?)?;
    let classical = answer_x25519(client, private)?;
    let ciphertext = MLKEM768.start_and_complete(encapsulation_key).ok()?.pub_key;
    Some([ciphertext, classical].concat())
}

#[cfg(test)]
mod tests {
    use rustls::crypto::SupportedKxGroup;
    use rustls::crypto::aws_lc_rs::kx_group;

    use super::*;

    #[test]
    fn a_private_key_gives_the_public_one_of_rfc_7748() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap();
        // RFC 7748 §6.1, the key of Alice.
        let private = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        assert_eq!(x25519(private), hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
    }

    /// aws-lc refuses shares that are not valid, on either side.
    #[test]
    fn another_library_completes_every_exchange() {
        let classical: &dyn SupportedKxGroup = kx_group::X25519;
        let hybrid: &dyn SupportedKxGroup = kx_group::X25519MLKEM768;
        for byte in 0..20 {
            let private = [byte; X25519_LEN];
            assert!(classical.start_and_complete(&x25519(private)).is_ok());
            assert!(hybrid.start_and_complete(&x25519_mlkem768(private).unwrap()).is_ok());
            for (group, answer) in [
                (classical, answer_x25519 as fn(&[u8], [u8; X25519_LEN]) -> Option<Vec<u8>>),
                (hybrid, answer_x25519_mlkem768),
            ] {
                let exchange = group.start().unwrap();
                let answer = answer(exchange.pub_key(), private).unwrap();
                assert!(exchange.complete(&answer).is_ok());
            }
        }
    }

    #[test]
    fn a_share_that_a_server_refuses_has_no_answer() {
        let zeros = [0; X25519_LEN];
        assert_eq!(answer_x25519(&zeros, [7; X25519_LEN]), None);
        assert_eq!(answer_x25519(&[9; 31], [7; X25519_LEN]), None);
        let mut hybrid = x25519_mlkem768([7; X25519_LEN]).unwrap();
        assert_eq!(answer_x25519_mlkem768(&hybrid[1..], [7; X25519_LEN]), None);
        hybrid[1184..].fill(0);
        assert_eq!(answer_x25519_mlkem768(&hybrid, [7; X25519_LEN]), None);
        assert_eq!(answer_x25519_mlkem768(&[1; 16], [7; X25519_LEN]), None);
    }
}
