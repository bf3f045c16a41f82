//! Key schedule of a link to a middle proxy (docs/protocol.md, "Middle-proxy links").
//!
//! ```text
//! s     their nonce ‖ our nonce ‖ our time ‖ their IPv4 ‖ our port ‖ "CLIENT" or "SERVER" ‖ our IPv4 ‖ their port
//!       ‖ secret ‖ their nonce ‖ our IPv6 ‖ their IPv6 ‖ our nonce
//! key   first 12 bytes of MD5(s[1..]) ‖ SHA-1(s)
//! iv    MD5(s[2..])
//! ```
//!
//! Integers are little-endian and IPv4 addresses count as such, so their octets stand in reverse. Of the two kinds of
//! address, the one that is not in use is four zero bytes for IPv4 and nothing at all for IPv6.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use md5::Md5;
use sha1::{Digest, Sha1};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::kdf::KeyIv;

/// The secret that Telegram publishes for all middle proxies. Every proxy has the same one, but it is no business of a
/// log: hidden in `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct MiddleSecret(Vec<u8>);

impl MiddleSecret {
    /// Lengths that are believed. Telegram's has 128 bytes; far fewer or more are an error page of some other server.
    pub const LENGTHS: std::ops::RangeInclusive<usize> = 32..=256;

    /// A secret of these bytes, if their number is believable.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Self::LENGTHS.contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The first four bytes, by which both ends name the secret that they mean.
    pub fn selector(&self) -> [u8; 4] {
        *self.0.first_chunk().expect("no secret is shorter than 32 bytes")
    }
}

impl fmt::Debug for MiddleSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MiddleSecret(hidden)")
    }
}

/// The addresses of a link as the middle proxy sees them: behind address translation ours is the public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    our_port: u16,
    their_port: u16,
    hosts: Hosts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hosts {
    V4 { ours: Ipv4Addr, theirs: Ipv4Addr },
    V6 { ours: Ipv6Addr, theirs: Ipv6Addr },
}

impl Ends {
    /// The link between these two; `None` when they are of different families. An IPv4 address that is mapped into
    /// IPv6 counts as IPv4.
    pub fn new(ours: SocketAddr, theirs: SocketAddr) -> Option<Self> {
        use std::net::IpAddr::{V4, V6};
        let hosts = match (ours.ip().to_canonical(), theirs.ip().to_canonical()) {
            (V4(ours), V4(theirs)) => Hosts::V4 { ours, theirs },
            (V6(ours), V6(theirs)) => Hosts::V6 { ours, theirs },
            _ => return None,
        };
        Some(Self { our_port: ours.port(), their_port: theirs.port(), hosts })
    }
}

/// Values that both ends know once the nonces are exchanged.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The secret that both named.
    pub secret: &'a MiddleSecret,
    /// The nonce that we sent.
    pub our_nonce: &'a [u8; 16],
    /// The time that we sent with it, in seconds since 1970.
    pub our_time: u32,
    /// The nonce that came back.
    pub their_nonce: &'a [u8; 16],
    /// Between whom.
    pub ends: Ends,
}

/// Keys and initialisation vectors of the two directions of a link, for AES-256-CBC.
#[derive(Clone, Debug)]
pub struct LinkKeys {
    /// From us to the middle proxy.
    pub to_middle: KeyIv,
    /// From the middle proxy to us.
    pub from_middle: KeyIv,
}

impl Exchange<'_> {
    /// Derives both directions.
    pub fn keys(&self) -> LinkKeys {
        LinkKeys { to_middle: direction(&self.string(b"CLIENT")), from_middle: direction(&self.string(b"SERVER")) }
    }

    fn string(&self, purpose: &[u8; 6]) -> Zeroizing<Vec<u8>> {
        let (v4, v6) = match self.ends.hosts {
            Hosts::V4 { ours, theirs } => ([ours, theirs], None),
            Hosts::V6 { ours, theirs } => ([Ipv4Addr::UNSPECIFIED; 2], Some([ours.octets(), theirs.octets()])),
        };
        let [our_v4, their_v4] = v4.map(|address| address.to_bits().to_le_bytes());
        let parts: [&[u8]; 12] = [
            self.their_nonce,
            self.our_nonce,
            &self.our_time.to_le_bytes(),
            &their_v4,
            &self.ends.our_port.to_le_bytes(),
            purpose,
            &our_v4,
            &self.ends.their_port.to_le_bytes(),
            &self.secret.0,
            self.their_nonce,
            v6.as_ref().map_or(&[], |addresses| addresses.as_flattened()),
            self.our_nonce,
        ];
        Zeroizing::new(parts.concat())
    }
}

fn direction(string: &[u8]) -> KeyIv {
    let mut pair = KeyIv { key: [0; 32], iv: Md5::digest(&string[2..]).into() };
    pair.key[..12].copy_from_slice(&Md5::digest(&string[1..])[..12]);
    pair.key[12..].copy_from_slice(&Sha1::digest(string));
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{unhex, vector, vector_array};

    fn keys(ours: &str, theirs: &str) -> (LinkKeys, Zeroizing<Vec<u8>>) {
        let exchange = Exchange {
            secret: &MiddleSecret::new(&vector("M_keys4", "secret")).unwrap(),
            our_nonce: &vector_array("M_keys4", "nonce_clt"),
            our_time: u32::from_le_bytes(vector_array("M_keys4", "clt_ts")),
            their_nonce: &vector_array("M_keys4", "nonce_srv"),
            ends: Ends::new(ours.parse().unwrap(), theirs.parse().unwrap()).unwrap(),
        };
        (exchange.keys(), exchange.string(b"CLIENT"))
    }

    fn expect(keys: &LinkKeys, group: &str) {
        assert_eq!(keys.to_middle.key.to_vec(), vector(group, "write_key"));
        assert_eq!(keys.to_middle.iv.to_vec(), vector(group, "write_iv"));
        assert_eq!(keys.from_middle.key.to_vec(), vector(group, "read_key"));
        assert_eq!(keys.from_middle.iv.to_vec(), vector(group, "read_iv"));
    }

    #[test]
    fn ipv4_links_have_the_vectors_keys() {
        let (keys, string) = keys("203.0.113.7:40000", "149.154.175.50:8888");
        assert_eq!(*string, vector("M_keys4", "write_s"));
        for (range, part) in
            [(36..40, "srv_ip_bytes"), (40..42, "clt_port_bytes"), (48..52, "clt_ip_bytes"), (52..54, "srv_port_bytes")]
        {
            assert_eq!(string[range], vector("M_keys4", part), "{part}");
        }
        expect(&keys, "M_keys4");
    }

    #[test]
    fn ipv6_links_have_the_vectors_keys() {
        let [ours, theirs] = ["clt_ip6", "srv_ip6"].map(|name| Ipv6Addr::from(vector_array::<16>("M_keys6", name)));
        let (keys, _) = keys(&format!("[{ours}]:40000"), &format!("[{theirs}]:8888"));
        expect(&keys, "M_keys6");
    }

    #[test]
    fn families_do_not_mix_but_mapped_addresses_are_ipv4() {
        let [v4, mapped, v6] =
            ["203.0.113.7:1", "[::ffff:203.0.113.7]:1", "[2001:db8::7]:1"].map(|text| text.parse().unwrap());
        assert_eq!(Ends::new(v4, v6), None);
        assert_eq!(Ends::new(v6, mapped), None);
        assert_eq!(Ends::new(mapped, v4), Ends::new(v4, v4));
    }

    /// A link that someone really had, under the secret that Telegram publishes.
    #[test]
    fn a_published_link_has_its_keys() {
        let secret = unhex(concat!(
            "c4f9faca9678e6bb48ad6c7e2ce5c0d24430645d554addeb55419e034da62721d046eaab6e52ab14a95a443ecfb3463e",
            "79a05a66612adf9caeda8be9a80da6986fb0a6ff387af84d88ef3a6413713e5c3377f6e1a3d47d99f5e0c56eece8f05c",
            "54c490b079e31bef82ff0ee8f2b0a32756d249c5f21269816cb7061b265db212",
        ));
        let secret = MiddleSecret::new(&secret).unwrap();
        assert_eq!(secret.selector().to_vec(), unhex("c4f9faca"));
        let exchange = Exchange {
            secret: &secret,
            our_nonce: &unhex("1831356fc60aebb4e6705c4e01c96a69").try_into().unwrap(),
            our_time: 1_528_396_015,
            their_nonce: &unhex("f728d238410c65aad89b0efdfaeedbe2").try_into().unwrap(),
            ends: Ends::new("80.211.29.34:54208".parse().unwrap(), "149.154.162.38:80".parse().unwrap()).unwrap(),
        };
        let KeyIv { key, iv } = &exchange.keys().to_middle;
        assert_eq!(key.to_vec(), unhex("a59e7f3129e8bb45261da3e2b7921c43e1e086bfcf98ffa69842a9c4368732bc"));
        assert_eq!(iv.to_vec(), unhex("216e7dddb779a07482b49cf9346f25b2"));
    }

    #[test]
    fn secrets_have_a_believable_length_and_never_print() {
        for (length, believed) in [(0, false), (31, false), (32, true), (256, true), (257, false)] {
            assert_eq!(MiddleSecret::new(&vec![1; length]).is_some(), believed, "{length}");
        }
        assert_eq!(format!("{:?}", MiddleSecret::new(&[0xab; 32]).unwrap()), "MiddleSecret(hidden)");
    }
}
