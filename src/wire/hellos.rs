//! Hellos that look like those of Telegram's clients and are good for a handshake: what a client sent once, with fresh
//! random parts, key shares that a server can really use, and the cover's name. All else stays byte for byte.

use rand::Rng;

use super::cursor::Cursor;
use super::numbers::group::{SECP256R1, SECP384R1, SECP521R1, X25519, X25519MLKEM768};
use super::numbers::{TLS13, extension};
use super::record::{self, kind};
use super::{ClientHello, DecodeError, HelloClass};
use crate::crypto::shares;

/// A hello to start from.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Class of its copies.
    pub class: HelloClass,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// As it was captured.
    Captured(&'static [u8]),
    /// As it was captured, less the X25519MLKEM768 share.
    WithoutHybrid(&'static [u8]),
    /// Hello that Apple's clients build, of which there is no capture: with these cipher suites and this ALPN list, of
    /// which each process picks one (protocol.md, "The hello").
    Safari(&'static [u16], &'static [u8]),
}

/// One or more for each class but [`HelloClass::Other`], whose members have nothing in common.
pub const TEMPLATES: [Template; 8] = [
    Template { class: HelloClass::ChromeHybrid, shape: Shape::Captured(TDLIB) },
    Template { class: HelloClass::Chrome, shape: Shape::WithoutHybrid(TDLIB) },
    Template { class: HelloClass::SafariHybrid, shape: Shape::Safari(SAFARI_SHORT, HTTP2_OR_1) },
    Template { class: HelloClass::Padded517, shape: Shape::Captured(TDESKTOP_4) },
    Template { class: HelloClass::Padded517, shape: Shape::Captured(TDESKTOP_5) },
    Template { class: HelloClass::SafariHybrid, shape: Shape::Safari(SAFARI_LONG, HTTP2_OR_1) },
    Template { class: HelloClass::SafariHybrid, shape: Shape::Safari(SAFARI_SHORT, HTTP1) },
    Template { class: HelloClass::SafariHybrid, shape: Shape::Safari(SAFARI_LONG, HTTP1) },
];

/// The two lists of cipher suites of Apple's clients, GREASE first.
const SAFARI_SHORT: &[u16] =
    &[0x2a2a, 0x1302, 0x1301, 0x1303, 0xc02c, 0xc030, 0xc02b, 0xcca9, 0xc02f, 0xcca8, 0xc00a, 0xc009, 0xc014, 0xc013];
const SAFARI_LONG: &[u16] = &[
    0x2a2a, 0x1302, 0x1303, 0x1301, 0xc02c, 0xc02b, 0xcca9, 0xc030, 0xc02f, 0xcca8, 0xc00a, 0xc009, 0xc014, 0xc013,
    0x009d, 0x009c, 0x0035, 0x002f, 0xc008, 0xc012, 0x000a,
];

/// Their two lists of protocols (RFC 7301 §3.1).
const HTTP2_OR_1: &[u8] = b"\x02h2\x08http/1.1";
const HTTP1: &[u8] = b"\x08http/1.1";

/// Hellos of the clients that skip NOP frames, one of each build, as they were captured.
pub(super) const CAPTURED: [&[u8]; 3] = [TDLIB, TDESKTOP_4, TDESKTOP_5];

const TDLIB: &[u8] = include_bytes!("../../fixtures/client_hello/tdlib-1.8.69-1.bin");
const TDESKTOP_4: &[u8] = include_bytes!("../../fixtures/client_hello/tdesktop-4.6.5-1.bin");
const TDESKTOP_5: &[u8] = include_bytes!("../../fixtures/client_hello/tdesktop-5.7.2-1.bin");

/// Length that [`HelloClass::Padded517`] is padded to.
const PADDED: usize = 517;

/// A fresh hello of this class for the site `name`, unsigned; `None` for [`HelloClass::Other`], whose members have
/// nothing in common.
pub fn hello(class: HelloClass, name: &str, random: &mut impl Rng) -> Option<Vec<u8>> {
    let template = TEMPLATES.into_iter().find(|template| template.class == class)?;
    template.hello(name, random).ok()
}

impl Template {
    /// A fresh hello for the site `name`, in one record.
    pub fn hello(self, name: &str, random: &mut impl Rng) -> Result<Vec<u8>, NoHello> {
        let safari;
        let (template, hybrid) = match self.shape {
            Shape::Captured(bytes) => (bytes, true),
            Shape::WithoutHybrid(bytes) => (bytes, false),
            Shape::Safari(suites, protocols) => {
                safari = safari_template(suites, protocols, random);
                (&safari[..], true)
            }
        };
        let old = ClientHello::decode(template)?;
        let mut extensions = Vec::with_capacity(template.len());
        let mut padding_at = None;
        for (kind, body) in old.extensions() {
            let body = match kind {
                extension::SERVER_NAME => server_name(name),
                extension::SUPPORTED_GROUPS if !hybrid => without_hybrid_group(body),
                extension::KEY_SHARE => fresh_shares(body, hybrid, random)?,
                extension::ENCRYPTED_CLIENT_HELLO => fresh_ech(body, random)?,
                extension::PADDING => {
                    padding_at = Some(extensions.len());
                    continue;
                }
                _ => body.to_vec(),
            };
            put_extension(&mut extensions, kind, &body);
        }
        let head = 4 + 2 + 32 + 1 + 32 + 2 + old.cipher_suites.len() + 2 + 2;
        if let Some(at) = padding_at {
            let without = record::HEADER + head + extensions.len();
            if let Some(length) = PADDED.checked_sub(without + 4) {
                let mut padding = Vec::new();
                put_extension(&mut padding, extension::PADDING, &vec![0; length]);
                extensions.splice(at..at, padding);
            }
        }
        Ok(assemble(old.cipher_suites, &extensions, random))
    }
}

/// No hello could be made; a mistake in a template or a failure of the crypto library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHello;

impl From<DecodeError> for NoHello {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// All clients of ours begin alike (docs/protocol.md, "The hello").
fn assemble(cipher_suites: &[u8], extensions: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.resize(2 + 32 + 1 + 32, 32);
    random.fill_bytes(&mut body[2..34]);
    random.fill_bytes(&mut body[35..]);
    put_vector16(&mut body, cipher_suites);
    body.extend([1, 0]);
    put_vector16(&mut body, extensions);
    let mut hello = vec![kind::HANDSHAKE, 3, 1];
    hello.extend(((body.len() + 4) as u16).to_be_bytes());
    hello.extend([1, 0]);
    put_vector16(&mut hello, &body);
    hello
}

fn server_name(name: &str) -> Vec<u8> {
    let mut entry = vec![0];
    put_vector16(&mut entry, name.as_bytes());
    let mut body = Vec::new();
    put_vector16(&mut body, &entry);
    body
}

fn without_hybrid_group(body: &[u8]) -> Vec<u8> {
    let groups = body.get(2..).unwrap_or_default().chunks_exact(2);
    let kept: Vec<u8> = groups.filter(|group| *group != X25519MLKEM768.to_be_bytes()).flatten().copied().collect();
    let mut body = Vec::new();
    put_vector16(&mut body, &kept);
    body
}

/// The same groups with values that a server can use: it encapsulates to them, and some servers check before they do.
fn fresh_shares(body: &[u8], hybrid: bool, random: &mut impl Rng) -> Result<Vec<u8>, NoHello> {
    let mut shares = Cursor::new(Cursor::new(body).vector16("key shares")?);
    let mut list = Vec::with_capacity(body.len());
    while !shares.is_empty() {
        let group = shares.u16("key share group")?;
        let old = shares.vector16("key share")?;
        let value = match group {
            X25519MLKEM768 if !hybrid => continue,
            X25519MLKEM768 => shares::x25519_mlkem768(private_key(random)).ok_or(NoHello)?,
            X25519 => shares::x25519(private_key(random)).to_vec(),
            _ => old.to_vec(),
        };
        list.extend(group.to_be_bytes());
        put_vector16(&mut list, &value);
    }
    let mut body = Vec::new();
    put_vector16(&mut body, &list);
    Ok(body)
}

fn private_key(random: &mut impl Rng) -> [u8; shares::X25519_LEN] {
    let mut private = [0; shares::X25519_LEN];
    random.fill_bytes(&mut private);
    private
}

/// An ECH extension without meaning: the same algorithms and lengths, a key that could be one, and noise.
fn fresh_ech(body: &[u8], random: &mut impl Rng) -> Result<Vec<u8>, NoHello> {
    let mut old = Cursor::new(body);
    let mut fresh = old.take(5, "ECH algorithms")?.to_vec();
    old.u8("ECH configuration")?;
    fresh.push(random.next_u32() as u8);
    old.vector16("ECH key")?;
    put_vector16(&mut fresh, &shares::x25519(private_key(random)));
    let mut noise = old.vector16("ECH payload")?.to_vec();
    random.fill_bytes(&mut noise);
    put_vector16(&mut fresh, &noise);
    Ok(fresh)
}

/// The hello of Apple's clients: GREASE where Safari has it, no ECH, no ALPS, no session ticket.
fn safari_template(suites: &[u16], protocols: &[u8], random: &mut impl Rng) -> Vec<u8> {
    const SIGNATURES: [u16; 10] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0805, 0x0501, 0x0806, 0x0601, 0x0201];
    const GROUPS: [u16; 6] = [0x6a6a, X25519MLKEM768, X25519, SECP256R1, SECP384R1, SECP521R1];
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let list = |words: &[u8]| [&(words.len() as u16).to_be_bytes()[..], words].concat();
    let mut shares = [&0x6a6a_u16.to_be_bytes()[..], &[0, 1, 0]].concat();
    for (group, length) in [(X25519MLKEM768, 1216), (X25519, 32)] {
        shares.extend(group.to_be_bytes());
        put_vector16(&mut shares, &vec![0; length]);
    }
    let extensions: [(u16, Vec<u8>); 15] = [
        (0x4a4a, vec![]),
        (extension::SERVER_NAME, server_name("")),
        (extension::EXTENDED_MASTER_SECRET, vec![]),
        (extension::RENEGOTIATION_INFO, vec![0]),
        (extension::SUPPORTED_GROUPS, list(&words(&GROUPS))),
        (extension::EC_POINT_FORMATS, vec![1, 0]),
        (extension::ALPN, list(protocols)),
        (extension::STATUS_REQUEST, vec![1, 0, 0, 0, 0]),
        (extension::SIGNATURE_ALGORITHMS, list(&words(&SIGNATURES))),
        (extension::SIGNED_CERTIFICATE_TIMESTAMP, vec![]),
        (extension::KEY_SHARE, list(&shares)),
        (extension::PSK_KEY_EXCHANGE_MODES, vec![1, 1]),
        (extension::SUPPORTED_VERSIONS, [&[6][..], &words(&[0x8a8a, TLS13, 0x0303])].concat()),
        (extension::COMPRESS_CERTIFICATE, vec![2, 0, 1]),
        (0xaaaa, vec![0]),
    ];
    let mut bytes = Vec::new();
    for (kind, body) in extensions {
        put_extension(&mut bytes, kind, &body);
    }
    assemble(&words(suites), &bytes, random)
}

fn put_extension(to: &mut Vec<u8>, kind: u16, body: &[u8]) {
    to.extend(kind.to_be_bytes());
    put_vector16(to, body);
}

fn put_vector16(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u16).to_be_bytes());
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "cover.example.org";

    fn fresh(template: Template) -> Vec<u8> {
        template.hello(NAME, &mut rand::rng()).unwrap()
    }

    /// Everything about a hello that is not meant to change.
    fn skeleton(hello: &ClientHello<'_>) -> (Vec<u8>, Vec<(u16, Vec<u8>)>) {
        let blank = |(kind, body): (u16, &[u8])| match kind {
            extension::SERVER_NAME | extension::PADDING => (kind, Vec::new()),
            extension::KEY_SHARE | extension::ENCRYPTED_CLIENT_HELLO => (kind, vec![0; body.len()]),
            _ => (kind, body.to_vec()),
        };
        (hello.cipher_suites.to_vec(), hello.extensions().map(blank).collect())
    }

    #[test]
    fn hellos_are_of_their_class_and_ask_for_the_cover() {
        for template in TEMPLATES {
            let bytes = fresh(template);
            let hello = ClientHello::decode(&bytes).unwrap();
            assert_eq!(HelloClass::of(&hello), template.class, "{template:?}");
            assert_eq!(hello.server_name, Some(NAME.as_bytes()));
            assert!(hello.offers_tls13);
            let mut collector = crate::wire::HelloCollector::default();
            assert_eq!(collector.feed(&bytes), crate::wire::client_hello::Progress::Whole);
        }
    }

    #[test]
    fn what_was_captured_keeps_its_shape() {
        for (template, captured) in [(TEMPLATES[0], TDLIB), (TEMPLATES[3], TDESKTOP_4), (TEMPLATES[4], TDESKTOP_5)] {
            let bytes = fresh(template);
            let (new, old) = (ClientHello::decode(&bytes).unwrap(), ClientHello::decode(captured).unwrap());
            assert_eq!(skeleton(&new), skeleton(&old));
            let name = old.server_name.unwrap().len() as isize - NAME.len() as isize;
            let padded = new.extension(extension::PADDING).is_some();
            assert_eq!(bytes.len() as isize, captured.len() as isize - if padded { 0 } else { name });
        }
    }

    #[test]
    fn without_the_hybrid_share_nothing_else_is_missing() {
        let bytes = fresh(TEMPLATES[1]);
        let (new, old) = (ClientHello::decode(&bytes).unwrap(), ClientHello::decode(TDLIB).unwrap());
        let kinds = |hello: &ClientHello<'_>| hello.extensions().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(&new), kinds(&old));
        assert!(!new.key_share_groups().unwrap().contains(&X25519MLKEM768));
        assert!(new.key_share_groups().unwrap().contains(&X25519));
        assert_eq!(
            new.extension(extension::SUPPORTED_GROUPS).unwrap().len() + 2,
            old.extension(extension::SUPPORTED_GROUPS).unwrap().len()
        );
    }

    /// Protocol facts: 3 bytes for `h2`, 14 for the long list of cipher suites.
    #[test]
    fn those_of_apples_clients_have_the_lengths_of_real_ones_and_are_one_class_but_four_fingerprints() {
        let (mut lengths, mut prints) = (Vec::new(), std::collections::BTreeSet::new());
        for template in TEMPLATES.into_iter().filter(|template| template.class == HelloClass::SafariHybrid) {
            let bytes = fresh(template);
            lengths.push(bytes.len() - NAME.len());
            prints.insert(crate::wire::fingerprint::Fingerprint::of(&ClientHello::decode(&bytes).unwrap()));
        }
        assert_eq!(lengths, [1509, 1523, 1506, 1520]);
        assert_eq!(prints.len(), 4);
    }

    #[test]
    fn no_two_hellos_share_a_random_part() {
        for template in TEMPLATES {
            let (a, b) = (fresh(template), fresh(template));
            let (a, b) = (ClientHello::decode(&a).unwrap(), ClientHello::decode(&b).unwrap());
            assert_ne!(a.random, b.random);
            assert_ne!(a.session_id, b.session_id);
            for kind in [extension::KEY_SHARE, extension::ENCRYPTED_CLIENT_HELLO] {
                assert!(a.extension(kind).is_none() || a.extension(kind) != b.extension(kind));
            }
        }
    }

    #[test]
    fn a_name_that_leaves_no_room_for_padding_leaves_it_out() {
        let name = format!("{}.example.org", "a".repeat(200));
        let bytes = TEMPLATES[3].hello(&name, &mut rand::rng()).unwrap();
        let hello = ClientHello::decode(&bytes).unwrap();
        assert_eq!(hello.server_name, Some(name.as_bytes()));
        assert!(bytes.len() == PADDED || hello.extension(extension::PADDING).is_none());
    }
}
