//! Key shares (RFC 8446 §4.2.8) that a server can really use. Their private halves are thrown away: whoever sends these
//! hellos wants to see how they are answered, or knows the other side by other means.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group;

/// A share of the group X25519; `None` if the library fails.
pub fn x25519() -> Option<Vec<u8>> {
    public_half(kx_group::X25519)
}

/// A share of the group X25519MLKEM768; `None` if the library fails.
pub fn x25519_mlkem768() -> Option<Vec<u8>> {
    public_half(kx_group::X25519MLKEM768)
}

fn public_half(group: &dyn SupportedKxGroup) -> Option<Vec<u8>> {
    group.start().ok().map(|exchange| exchange.pub_key().to_vec())
}
