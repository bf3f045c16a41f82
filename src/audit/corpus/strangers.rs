//! Bytes that are no hello, or only a part of one.

use super::*;

/// Single records that no client sends.
pub(super) fn records() -> Vec<Probe> {
    let record = |kind: u8, version: [u8; 2], length: usize, body: Vec<u8>| {
        let mut out = vec![kind, version[0], version[1]];
        out.extend((length as u16).to_be_bytes());
        out.extend(body);
        out
    };
    let mut table: Vec<(String, Vec<u8>)> = Vec::new();
    for length in [0usize, 1, 3, 4, 16384, 16385, 16640, 16641, 65535] {
        table.push((format!("handshake record of {length}"), record(22, [3, 1], length, vec![1; length])));
        table.push((format!("head of a handshake record of {length}"), record(22, [3, 1], length, vec![])));
        table.push((format!("data record of {length}"), record(23, [3, 3], length, vec![1; length])));
    }
    for version in [[0, 0], [2, 0], [3, 5], [4, 0], [0xff, 0xff]] {
        table.push((format!("record of version {version:?}"), record(22, version, 200, vec![1; 200])));
    }
    for kind in [0u8, 19, 20, 21, 24, 25, 0x80, 0xff] {
        table.push((format!("record of type {kind}"), record(kind, [3, 3], 2, vec![1, 0])));
    }
    table.push(("alert close_notify".into(), vec![21, 3, 1, 0, 2, 1, 0]));
    table.push(("alert handshake_failure".into(), vec![21, 3, 1, 0, 2, 2, 40]));
    table.push(("alert unknown".into(), vec![21, 3, 1, 0, 2, 7, 200]));
    table.push(("alert of one byte".into(), vec![21, 3, 1, 0, 1, 1]));
    table.push(("one CCS".into(), CCS.to_vec()));
    table.push(("33 CCS".into(), CCS.repeat(33)));
    table.push(("CCS of two bytes".into(), vec![20, 3, 3, 0, 2, 1, 1]));
    let mut probes = Vec::new();
    for (name, content) in table {
        for then in [Then::Silence, Then::FinAtOnce] {
            let content = content.clone();
            probes.push(bytes(format!("{name} then {then:?}"), then, move |_| content.clone()));
        }
    }
    probes
}

/// Other protocols.
pub(super) fn strangers() -> Vec<Probe> {
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP HEAD", b"HEAD / HTTP/1.0\r\n\r\n".to_vec()),
        ("HTTP POST", b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
        ("HTTP CONNECT", b"CONNECT www.example.net:443 HTTP/1.1\r\n\r\n".to_vec()),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("half of an HTTP request", b"GET / HTTP/1.1\r\nHo".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("SMTP", b"EHLO mail.example.net\r\n".to_vec()),
        ("SOCKS4", vec![4, 1, 0, 80, 192, 0, 2, 7, 0]),
        ("SOCKS5", vec![5, 2, 0, 2]),
        ("RDP", b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x0b\0\0\0".to_vec()),
        ("SSL 2", [&[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[7; 21], &[9; 16]].concat()),
        ("PROXY v1", b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 443\r\n".to_vec()),
        ("PROXY v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x13\x88\x01\xbb".to_vec()),
        ("MTProto abridged", [&[0xef, 10][..], &[0; 8], &[3; 32]].concat()),
        ("MTProto intermediate", [&[0xee; 4][..], &[40, 0, 0, 0], &[0; 8], &[3; 32]].concat()),
        ("MTProto padded", [&[0xdd; 4][..], &[45, 0, 0, 0], &[0; 8], &[3; 37]].concat()),
        ("zeros", vec![0; 1000]),
        ("ones", vec![0xff; 1000]),
        ("a line break", b"\r\n".to_vec()),
    ];
    let mut probes = Vec::new();
    for then in [Then::Silence, Then::FinAtOnce, Then::Rst] {
        probes.push(bytes(format!("HTTP GET then {then:?}"), then, |draw| http_get(&draw.subject.name)));
    }
    for (name, content) in table {
        for then in [Then::Silence, Then::FinAtOnce, Then::Rst] {
            let content = content.clone();
            probes.push(bytes(format!("{name} then {then:?}"), then, move |_| content.clone()));
        }
    }
    probes.push(bytes("obfuscated2 without TLS", Then::Silence, |draw| {
        let header = header(By::Us, PADDED, draw);
        [&header.wire[..], &draw.bytes(48)].concat()
    }));
    probes.push(bytes("5000 random bytes", Then::Silence, |draw| [&[0x41][..], &draw.bytes(5000)].concat()));
    probes.push(bytes("40000 random bytes", Then::FinAtOnce, |draw| [&[0x90][..], &draw.bytes(40000)].concat()));
    probes
}

/// Random bytes of many lengths. The first byte decides which parser of a web server they meet.
pub(super) fn lengths() -> Vec<Probe> {
    let mut probes = vec![bytes("no byte then Silence", Then::Silence, |_| Vec::new())];
    probes.push(bytes("no byte then Fin", Then::FinAtOnce, |_| Vec::new()));
    probes.push(bytes("no byte then RST", Then::Rst, |_| Vec::new()));
    let counts =
        [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 15, 16, 31, 43, 44, 48, 63, 64, 65, 100, 516, 517, 518, 1460, 2049];
    let heads: [(&str, &[u8]); 4] =
        [("letter", b"A"), ("high", &[0x9c]), ("TLS", &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]), ("type", &[22])];
    for count in counts {
        for (kind, head) in heads {
            for then in [Then::Silence, Then::FinAtOnce] {
                probes.push(bytes(format!("{count} bytes, {kind} first, then {then:?}"), then, move |draw| {
                    let mut out = head.to_vec();
                    out.extend(draw.bytes(count));
                    out.truncate(count);
                    out
                }));
            }
        }
    }
    probes
}

/// Hellos cut short.
pub(super) fn truncated() -> Vec<Probe> {
    let length = tdlib().record.len();
    let mut probes = Vec::new();
    for cut in [1, 4, 5, 6, 9, 11, 43, 44, 76, 100, length / 2, length - 1] {
        for then in [Then::Silence, Then::FinAtOnce, Then::Rst] {
            for by in [By::Nobody, By::Us] {
                let name = format!("{cut} bytes of a hello by {by:?} then {then:?}");
                let needs = if by == By::Us { Needs::CapturedHello } else { Needs::Connection };
                let probe = bytes(name, then, move |draw| {
                    let mut record = fresh(tdlib(), by, draw);
                    record.truncate(cut);
                    record
                });
                probes.push(probe.needing(needs));
            }
        }
    }
    probes
}

/// Visitors who stay silent until the server has enough of them.
pub(super) fn silences() -> Vec<Probe> {
    let part = |by: By, cut: usize| move |draw: &mut Draw<'_>| fresh(tdlib(), by, draw)[..cut].to_vec();
    let whole = |by: By| move |draw: &mut Draw<'_>| fresh(tdlib(), by, draw);
    let probes = vec![
        bytes("no byte for as long as the server likes", Then::Silence, |_| Vec::new()),
        bytes("one byte for as long as the server likes", Then::Silence, |_| vec![22]),
        bytes("half an HTTP request for as long as the server likes", Then::Silence, |_| b"GET / HT".to_vec()),
        bytes("part of a hello for as long as the server likes", Then::Silence, part(By::Nobody, 100)),
        bytes("part of an own hello for as long as the server likes", Then::Silence, part(By::Us, 100))
            .needing(Needs::CapturedHello),
        bytes("a hello for as long as the server likes", Then::Silence, whole(By::Nobody)),
    ];
    probes.into_iter().map(Probe::patient).collect()
}

/// Builds the request that browsers and health checks begin with on a port without TLS.
pub(super) fn http_get(name: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes()
}
