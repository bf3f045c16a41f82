//! Hellos with other contents than clients send.

use super::*;

/// Probes with various contents of the server_name extension.
pub(super) fn names() -> Vec<Probe> {
    type Name = fn(&str) -> Vec<Vec<u8>>;
    let table: Vec<(&str, Name)> = vec![
        ("foreign", |_| vec![b"www.example.net".to_vec()]),
        ("upper case", |name| vec![name.to_ascii_uppercase().into_bytes()]),
        ("empty", |_| vec![Vec::new()]),
        ("two", |name| vec![name.into(), b"www.example.net".to_vec()]),
        ("long", |_| vec![[b"a".repeat(63), b".".to_vec()].concat().repeat(4)[..255].to_vec()]),
        ("with a final dot", |name| vec![format!("{name}.").into_bytes()]),
        ("address", |_| vec![b"192.0.2.7".to_vec()]),
        ("with a zero byte", |name| vec![name.replacen('.', "\0", 1).into_bytes()]),
        ("not ASCII", |name| vec![format!("m\u{e4}sk.{name}").into_bytes()]),
        ("sub-domain", |name| vec![format!("www.{name}").into_bytes()]),
    ];
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("no list", vec![]),
        ("empty list", vec![0, 0]),
        ("list too long", vec![0, 9, 0, 0, 3, b'a', b'.', b'b']),
        ("name too long", vec![0, 6, 0, 0, 9, b'a', b'.', b'b']),
        ("bytes behind the list", vec![0, 6, 0, 0, 3, b'a', b'.', b'b', 0, 0]),
        ("another type of name", vec![0, 6, 7, 0, 3, b'a', b'.', b'b']),
    ];
    let mut probes = Vec::new();
    for by in [By::Nobody, By::Us] {
        for (label, list) in &table {
            let list = *list;
            let change = move |parts: Parts, name: &str| {
                let names = list(name);
                parts.named(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())
            };
            probes.push(altered(format!("name {label} by {by:?}"), tdlib(), by, change));
        }
        for (label, body) in &broken {
            let body = body.clone();
            let change = move |parts: Parts, _: &str| parts.with(ext::SERVER_NAME, body.clone());
            probes.push(altered(format!("name with {label} by {by:?}"), tdlib(), by, change));
        }
        let without = |parts: Parts, _: &str| parts.without(ext::SERVER_NAME);
        probes.push(altered(format!("no name by {by:?}"), tdlib(), by, without));
    }
    probes
}

/// Hellos of other shapes.
pub(super) fn shapes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for (name, change) in changes() {
        for by in [By::Nobody, By::Us] {
            probes.push(altered(format!("{name} by {by:?}"), tdlib(), by, move |parts, _| change(parts)));
        }
    }
    probes
}

type Change = (&'static str, fn(Parts) -> Parts);

fn changes() -> Vec<Change> {
    vec![
        ("TLS 1.2 alone", |parts| parts.without(ext::VERSIONS).without(ext::KEY_SHARE)),
        ("TLS 1.2 in the list alone", |parts| parts.with(ext::VERSIONS, vec![2, 3, 3])),
        ("TLS 1.1 alone", |mut parts| {
            parts.version = [3, 2];
            parts.without(ext::VERSIONS).without(ext::KEY_SHARE)
        }),
        ("SSL 3", |mut parts| {
            parts.version = [3, 0];
            parts.without(ext::VERSIONS).without(ext::KEY_SHARE)
        }),
        ("no extensions", |mut parts| {
            parts.extensions.clear();
            parts
        }),
        ("groups without a share", |parts| parts.with(ext::KEY_SHARE, vec![0, 0])),
        ("share of P-256 alone", |parts| {
            let shares = [&[0, 69, 0, 0x17, 0, 65], &P256_SHARE[..]].concat();
            parts.with(ext::KEY_SHARE, shares)
        }),
        ("share of nonsense", |parts| parts.with(ext::KEY_SHARE, vec![0, 36, 0, 0x1d, 0, 32])),
        ("share of zeros", |parts| parts.with(ext::KEY_SHARE, [vec![0, 36, 0, 0x1d, 0, 32], vec![0; 32]].concat())),
        ("unknown groups", |parts| parts.with(ext::GROUPS, vec![0, 2, 0x7f, 0x7f])),
        ("no session id", |mut parts| {
            parts.session.clear();
            parts
        }),
        ("session id of 8 bytes", |mut parts| {
            parts.session.truncate(8);
            parts
        }),
        ("session id of 33 bytes", |mut parts| {
            parts.session.push(0);
            parts
        }),
        ("no ciphers", |mut parts| {
            parts.ciphers.clear();
            parts
        }),
        ("unknown ciphers", |mut parts| {
            parts.ciphers = vec![0x7f, 0x7f];
            parts
        }),
        ("one cipher of TLS 1.3", |mut parts| {
            parts.ciphers = vec![0x13, 0x03];
            parts
        }),
        ("ciphers of odd length", |mut parts| {
            parts.ciphers.push(0x13);
            parts
        }),
        ("compression", |mut parts| {
            parts.compression = vec![1, 0];
            parts
        }),
        ("no compression list", |mut parts| {
            parts.compression.clear();
            parts
        }),
        ("unknown ALPN", |parts| parts.with(ext::ALPN, vec![0, 5, 4, b'x', b'm', b'p', b'p'])),
        ("ALPN http/1.1 alone", |parts| parts.with(ext::ALPN, b"\x00\x09\x08http/1.1".to_vec())),
        ("no ALPN", |parts| parts.without(ext::ALPN)),
        ("broken ALPN", |parts| parts.with(ext::ALPN, vec![0, 9, 9, 1])),
        ("an extension twice", |mut parts| {
            let first = parts.extensions[1].clone();
            parts.extensions.push(first);
            parts
        }),
        ("a pre-shared key of nonsense", |parts| {
            parts.with(41, [&[0, 10, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 33, 32][..], &[7; 32]].concat())
        }),
        ("early data", |parts| parts.with(42, Vec::new())),
        ("a hello of 9000 bytes", |parts| parts.with(ext::PADDING, vec![0; 7000])),
        ("record version 3.0", |mut parts| {
            parts.record_version = [3, 0];
            parts
        }),
        ("record version 3.3", |mut parts| {
            parts.record_version = [3, 3];
            parts
        }),
        ("record version 3.4", |mut parts| {
            parts.record_version = [3, 4];
            parts
        }),
        ("record version 2.0", |mut parts| {
            parts.record_version = [2, 0];
            parts
        }),
        ("hello version 3.4", |mut parts| {
            parts.version = [3, 4];
            parts
        }),
    ]
}

/// The base point of P-256: the share of a private key of 1.
#[rustfmt::skip]
const P256_SHARE: [u8; 65] = [
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03,
    0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe,
    0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce,
    0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];
