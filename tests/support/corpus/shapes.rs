//! Hellos with other contents than clients send.

use super::*;

/// What the server_name extension may hold.
pub(super) fn names() -> Vec<Probe> {
    type Change = Box<dyn Fn(Parts) -> Parts + Sync + std::marker::Send>;
    let named = |names: Vec<Vec<u8>>| -> Change {
        Box::new(move |parts: Parts| parts.named(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    };
    let raw = |body: Vec<u8>| -> Change { Box::new(move |parts: Parts| parts.with(ext::SERVER_NAME, body.clone())) };
    let table: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("foreign", vec![b"www.example.net".to_vec()]),
        ("upper case", vec![b"MASK.EXAMPLE.ORG".to_vec()]),
        ("empty", vec![Vec::new()]),
        ("two", vec![b"mask.example.org".to_vec(), b"www.example.net".to_vec()]),
        ("long", vec![[b"a".repeat(63), b".".to_vec()].concat().repeat(4)[..255].to_vec()]),
        ("with a final dot", vec![b"mask.example.org.".to_vec()]),
        ("address", vec![b"192.0.2.7".to_vec()]),
        ("with a zero byte", vec![b"mask\0example.org".to_vec()]),
        ("not ASCII", vec!["mäsk.example.org".as_bytes().to_vec()]),
        ("sub-domain", vec![b"www.mask.example.org".to_vec()]),
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
        for (name, list) in &table {
            probes.push(altered(format!("name {name} by {by:?}"), tdlib(), by, named(list.clone())));
        }
        for (name, body) in &broken {
            probes.push(altered(format!("name with {name} by {by:?}"), tdlib(), by, raw(body.clone())));
        }
        let without = |parts: Parts| parts.without(ext::SERVER_NAME);
        probes.push(altered(format!("no name by {by:?}"), tdlib(), by, without));
    }
    probes
}

/// Hellos of other shapes.
pub(super) fn shapes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for (name, change) in changes() {
        for by in [By::Nobody, By::Us] {
            probes.push(altered(format!("{name} by {by:?}"), tdlib(), by, change));
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
            let mut shares = vec![0, 69, 0, 0x17, 0, 65];
            let point = rustls::crypto::aws_lc_rs::kx_group::SECP256R1.start().expect("key exchange starts");
            shares.extend(point.pub_key());
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
