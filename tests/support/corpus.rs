//! The probes: what a censor tries before anything is proved, and with a hello that he has captured.

use super::dice::Dice;
use super::fake_tls::CCS;
use super::hello::{self, Captured, Parts, capture, ext, push_counted};
use super::obfuscated::{Header, PADDED};
use super::probe::{Probe, Script, Step};
use super::{KEY, OTHER_KEY};

use Step::{AwaitEnd, AwaitFlight, Finish, Poke, Reset, Send};

/// Every probe of the table.
pub fn all() -> Vec<Probe> {
    let groups = [classes, replays, mutations, names, shapes, records, strangers, lengths, truncated, tampered];
    let probes: Vec<Probe> = groups.iter().flat_map(|group| group()).collect();
    let mut known = std::collections::HashSet::new();
    assert!(probes.iter().all(|probe| known.insert(probe.name.clone())), "two probes of one name");
    probes
}

/// Who signs the hello, if anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    Us,
    SomebodyElse,
}

impl By {
    fn sign(self, record: &mut [u8]) {
        match self {
            By::Nobody => {}
            By::Us => hello::sign(record, &KEY, hello::now()),
            By::SomebodyElse => hello::sign(record, &OTHER_KEY, hello::now()),
        }
    }
}

/// What the prober does once the hello is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Silence,
    Fin,
    FinAtOnce,
    Rst,
}

impl Then {
    fn steps(self) -> Vec<Step> {
        match self {
            Then::Silence => vec![AwaitFlight, AwaitEnd, Poke],
            Then::Fin => vec![AwaitFlight, Finish, AwaitEnd],
            Then::FinAtOnce => vec![Finish, AwaitEnd],
            Then::Rst => vec![AwaitFlight, Reset],
        }
    }
}

/// Bytes at once, then `then`.
fn bytes(
    name: impl Into<String>,
    then: Then,
    make: impl Fn(&mut Dice) -> Vec<u8> + Sync + 'static + std::marker::Send,
) -> Probe {
    Probe::new(name, move |dice| Script { steps: [vec![Send(make(dice))], then.steps()].concat(), ..Script::default() })
}

/// A changed hello of `class`; `join` where the proxy may admit it.
fn altered(
    name: impl Into<String>,
    class: &'static Captured,
    by: By,
    change: impl Fn(Parts) -> Parts + Sync + 'static + std::marker::Send,
) -> Probe {
    Probe::new(name, move |dice| {
        let mut record = change(class.parts().fresh(dice)).record();
        by.sign(&mut record);
        let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
        Script { steps, hello: Some(record), join: by == By::Us, ..Script::default() }
    })
}

fn fresh(class: &Captured, by: By, dice: &mut Dice) -> Vec<u8> {
    let mut record = class.parts().fresh(dice).record();
    by.sign(&mut record);
    record
}

fn tdlib() -> &'static Captured {
    capture("tdlib-1.8.69-1")
}

fn tdesktop() -> &'static Captured {
    capture("tdesktop-5.7.2-1")
}

/// Hellos of every captured class, admitted and not.
fn classes() -> Vec<Probe> {
    let mut probes = Vec::new();
    let others = ["tdlib-1.8.69-shortsni-1", "tdlib-1.8.69-longsni-1", "tdlib-1.8.69-ipv6-1"].map(capture);
    for class in hello::classes().into_iter().chain(others) {
        for by in [By::Nobody, By::Us, By::SomebodyElse] {
            for then in [Then::Silence, Then::Fin, Then::FinAtOnce, Then::Rst] {
                let name = format!("class {} by {by:?} then {then:?}", class.file);
                probes.push(Probe::new(name, move |dice| {
                    let record = fresh(class, by, dice);
                    let steps = [vec![Send(record.clone())], then.steps()].concat();
                    Script { steps, hello: Some(record), join: by == By::Us, ..Script::default() }
                }));
            }
        }
    }
    probes
}

/// The same hello a second time, and hellos whose time is wrong. None of them may enter.
fn replays() -> Vec<Probe> {
    let replay = |name: &str, first: fn() -> Vec<Step>, change: fn(&mut Vec<u8>)| {
        Probe::new(name, move |dice| {
            let record = fresh(tdlib(), By::Us, dice);
            let mut again = record.clone();
            change(&mut again);
            let before = [vec![Send(record)], first()].concat();
            let steps = [vec![Send(again.clone())], Then::Silence.steps()].concat();
            Script { before, steps, hello: Some(again), join: false }
        })
    };
    let later = |name: &str, offset: i64| {
        Probe::new(name, move |dice| {
            let mut record = fresh(tdlib(), By::Nobody, dice);
            hello::sign(&mut record, &KEY, (i64::from(hello::now()) + offset) as u32);
            let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
            Script { steps, hello: Some(record), ..Script::default() }
        })
    };
    vec![
        replay("replay after FIN", || vec![AwaitFlight, Finish, AwaitEnd], |_| ()),
        replay("replay after RST", || vec![AwaitFlight, Reset], |_| ()),
        replay("replay without waiting for the flight", || vec![AwaitFlight], |_| ()),
        replay("replay after a bad record", || vec![AwaitFlight, Send(data(&[1; 90])), AwaitEnd], |_| ()),
        replay("replay a minute later", || vec![AwaitFlight, Finish, AwaitEnd], |record| later_by(record, 60)),
        replay("replay a day later", || vec![AwaitFlight, Finish, AwaitEnd], |record| later_by(record, 86400)),
        later("clock a day behind", -86400),
        later("clock a day ahead", 86400),
        later("clock at 1970", -i64::from(hello::now())),
    ]
}

/// Moves the time of a hello that was signed just now.
fn later_by(record: &mut [u8], seconds: u32) {
    let sent = hello::now();
    hello::redate(record, sent, sent + seconds);
}

/// One bit of a signed hello changed, everywhere but in the time, which the code does not cover.
fn mutations() -> Vec<Probe> {
    let length = tdlib().record.len();
    let mut dice = Dice::new(40);
    let heads = (0..11).chain([11, 27, 38, 43, 44, 60, 75, 76, 77, 78, 110, 112]);
    let spread: Vec<usize> = (0..28).map(|_| 43 + dice.below(length - 43)).chain([length - 1]).collect();
    let mut places: Vec<usize> = heads.chain(spread).collect();
    places.sort_unstable();
    places.dedup();
    let flip = |place: usize, bit: usize| {
        let name = format!("bit {bit} of byte {place} changed");
        Probe::new(name, move |dice| {
            let mut record = fresh(tdlib(), By::Us, dice);
            record[place] ^= 1 << bit;
            let steps = [vec![Send(record.clone())], Then::Silence.steps()].concat();
            let join = hello::RANDOM.contains(&place) && place >= 39;
            Script { steps, hello: Some(record), join, ..Script::default() }
        })
    };
    let mut probes: Vec<Probe> = places.into_iter().map(|place| flip(place, dice.below(8))).collect();
    probes.extend([flip(39, 0), flip(42, 7)]);
    probes
}

/// What the server_name extension may hold.
fn names() -> Vec<Probe> {
    type Change = Box<dyn Fn(Parts) -> Parts + Sync + std::marker::Send>;
    let named = |names: Vec<Vec<u8>>| -> Change {
        Box::new(move |parts: Parts| parts.named(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    };
    let raw = |body: Vec<u8>| -> Change { Box::new(move |parts: Parts| parts.with(ext::SERVER_NAME, body.clone())) };
    let table: Vec<(&str, fn() -> Vec<Vec<u8>>)> = vec![
        ("foreign", || vec![b"www.example.net".to_vec()]),
        ("upper case", || vec![b"MASK.EXAMPLE.ORG".to_vec()]),
        ("empty", || vec![Vec::new()]),
        ("two", || vec![b"mask.example.org".to_vec(), b"www.example.net".to_vec()]),
        ("long", || vec![[b"a".repeat(63), b".".to_vec()].concat().repeat(4)[..255].to_vec()]),
        ("with a final dot", || vec![b"mask.example.org.".to_vec()]),
        ("address", || vec![b"192.0.2.7".to_vec()]),
        ("with a zero byte", || vec![b"mask\0example.org".to_vec()]),
        ("not ASCII", || vec!["mäsk.example.org".as_bytes().to_vec()]),
        ("sub-domain", || vec![b"www.mask.example.org".to_vec()]),
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
            probes.push(altered(format!("name {name} by {by:?}"), tdlib(), by, named(list())));
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
fn shapes() -> Vec<Probe> {
    let changes: Vec<(&str, fn(Parts) -> Parts)> = vec![
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
    ];
    let mut probes = Vec::new();
    for (name, change) in changes {
        for by in [By::Nobody, By::Us] {
            probes.push(altered(format!("{name} by {by:?}"), tdlib(), by, change));
        }
    }
    probes.extend(wrappings());
    probes
}

/// The same hello, carried in other ways.
fn wrappings() -> Vec<Probe> {
    type Wrap = fn(&[u8], &mut Dice) -> Vec<Step>;
    let wraps: Vec<(&str, bool, Wrap)> = vec![
        ("segments of one byte", true, |record, _| record.chunks(1).map(|byte| Send(byte.to_vec())).collect()),
        ("segments of 100 bytes", true, |record, _| record.chunks(100).map(|part| Send(part.to_vec())).collect()),
        ("two records", true, |record, _| vec![Send(hello::in_records(record, &[100]))]),
        ("five records", true, |record, _| vec![Send(hello::in_records(record, &[1, 4, 38, 500]))]),
        ("many records", true, |record, _| {
            let cuts: Vec<usize> = (1..record.len() / 50).map(|part| part * 50).collect();
            vec![Send(hello::in_records(record, &cuts))]
        }),
        ("an empty record in the middle", true, |record, _| vec![Send(hello::in_records(record, &[50, 50]))]),
        ("the hello twice", false, |record, _| vec![Send(record.repeat(2))]),
        ("the hello five times", false, |record, _| vec![Send(record.repeat(5))]),
        ("garbage behind it", false, |record, dice| vec![Send([record, &dice.bytes(300)].concat())]),
        ("a record of garbage behind it", false, |record, dice| vec![Send([record, &data(&dice.bytes(90))].concat())]),
        ("CCS behind it", true, |record, _| vec![Send([record, &CCS].concat())]),
        ("CCS before it", false, |record, _| vec![Send([&CCS, record].concat())]),
        ("an alert behind it", false, |record, _| vec![Send([record, &[21, 3, 3, 0, 2, 1, 0]].concat())]),
        ("an empty record before it", false, |record, _| vec![Send([&[22, 3, 1, 0, 0], record].concat())]),
        ("a byte before it", false, |record, _| vec![Send([&[0], record].concat())]),
        ("a byte behind the message", false, |record, _| {
            let mut out = record[..3].to_vec();
            push_counted(&mut out, 2, &[&record[5..], &[0]].concat());
            vec![Send(out)]
        }),
        ("a message that claims more", false, |record, _| {
            let mut out = record.to_vec();
            out[8] = out[8].wrapping_add(40);
            vec![Send(out)]
        }),
        ("a message that claims 16 MB", false, |record, _| {
            let mut out = record.to_vec();
            out[6] = 0xff;
            vec![Send(out)]
        }),
        ("a HelloRequest before it", false, |record, _| vec![Send([&[22, 3, 3, 0, 4, 0, 0, 0, 0], record].concat())]),
        ("as a ServerHello", false, |record, _| {
            let mut out = record.to_vec();
            out[5] = 2;
            vec![Send(out)]
        }),
    ];
    let mut probes = Vec::new();
    for (name, may_enter, wrap) in wraps {
        for by in [By::Nobody, By::Us] {
            probes.push(Probe::new(format!("{name} by {by:?}"), move |dice| {
                let record = fresh(tdlib(), by, dice);
                let steps = [wrap(&record, dice), Then::Silence.steps()].concat();
                let join = by == By::Us && (may_enter || !name.contains("before") && !name.contains("claims"));
                Script { steps, hello: Some(record), join, ..Script::default() }
            }));
        }
    }
    probes.push(Probe::new("a second hello after a retry", |dice| {
        let parts = tdlib().parts().fresh(dice);
        let first = parts.clone().with(ext::KEY_SHARE, vec![0, 0]).record();
        let steps = vec![Send(first.clone()), AwaitFlight, Send([&CCS[..], &parts.record()].concat()), AwaitEnd, Poke];
        Script { steps, hello: Some(first), ..Script::default() }
    }));
    probes
}

/// Single records that no client sends.
fn records() -> Vec<Probe> {
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
fn strangers() -> Vec<Probe> {
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP GET", b"GET / HTTP/1.1\r\nHost: mask.example.org\r\n\r\n".to_vec()),
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
    for (name, content) in table {
        for then in [Then::Silence, Then::FinAtOnce, Then::Rst] {
            let content = content.clone();
            probes.push(bytes(format!("{name} then {then:?}"), then, move |_| content.clone()));
        }
    }
    probes.push(bytes("obfuscated2 without TLS", Then::Silence, |dice| {
        let header = Header::make(Some(&KEY), PADDED, 2, dice);
        [&header.wire[..], &dice.bytes(48)].concat()
    }));
    probes.push(bytes("5000 random bytes", Then::Silence, |dice| [&[0x41][..], &dice.bytes(5000)].concat()));
    probes.push(bytes("40000 random bytes", Then::FinAtOnce, |dice| [&[0x90][..], &dice.bytes(40000)].concat()));
    probes
}

/// Random bytes of many lengths. The first byte decides which parser of a web server they meet.
fn lengths() -> Vec<Probe> {
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
                probes.push(bytes(format!("{count} bytes, {kind} first, then {then:?}"), then, move |dice| {
                    let mut out = head.to_vec();
                    out.extend(dice.bytes(count));
                    out.truncate(count);
                    out
                }));
            }
        }
    }
    probes
}

/// Hellos cut short.
fn truncated() -> Vec<Probe> {
    let length = tdlib().record.len();
    let mut probes = Vec::new();
    for cut in [1, 4, 5, 6, 9, 11, 43, 44, 76, 100, length / 2, length - 1] {
        for then in [Then::Silence, Then::FinAtOnce, Then::Rst] {
            for by in [By::Nobody, By::Us] {
                let name = format!("{cut} bytes of a hello by {by:?} then {then:?}");
                probes.push(bytes(name, then, move |dice| fresh(tdlib(), by, dice)[..cut].to_vec()));
            }
        }
    }
    probes
}

/// What follows an admitted hello and is no valid header.
fn tampered() -> Vec<Probe> {
    type Second = fn(&mut Dice) -> Vec<Vec<u8>>;
    let table: Vec<(&str, Second)> = vec![
        ("garbage of 53", |dice| vec![[&CCS[..], &data(&dice.bytes(53))].concat()]),
        ("garbage of 64", |dice| vec![[&CCS[..], &data(&dice.bytes(64))].concat()]),
        ("garbage of 200 without CCS", |dice| vec![data(&dice.bytes(200))]),
        ("garbage of 16640", |dice| vec![[&CCS[..], &data(&dice.bytes(16640))].concat()]),
        ("garbage byte by byte", |dice| data(&dice.bytes(90)).chunks(1).map(<[u8]>::to_vec).collect()),
        ("ten records of garbage", |dice| vec![data(&dice.bytes(90)).repeat(10)]),
        ("an empty record", |_| vec![[&CCS[..], &data(&[])].concat()]),
        ("a record of one byte", |_| vec![[&CCS[..], &data(&[0])].concat()]),
        ("a record of 63", |dice| vec![[&CCS[..], &data(&valid(dice)[..63])].concat()]),
        ("a record of 16641", |dice| vec![[&CCS[..], &data(&dice.bytes(16641))].concat()]),
        ("the head of a record of 16641", |dice| vec![[&CCS[..], &[23, 3, 3, 0x41, 0x01][..], &valid(dice)].concat()]),
        ("type 22", |dice| vec![[&CCS[..], &typed(22, &dice.bytes(90))].concat()]),
        ("type 24", |dice| vec![[&CCS[..], &typed(24, &dice.bytes(90))].concat()]),
        ("type 0", |dice| vec![[&CCS[..], &typed(0, &dice.bytes(90))].concat()]),
        ("type 255", |dice| vec![[&CCS[..], &typed(255, &dice.bytes(90))].concat()]),
        ("a valid header in type 22", |dice| vec![[&CCS[..], &typed(22, &valid(dice))].concat()]),
        ("a valid header in version 3.1", |dice| {
            let mut record = data(&valid(dice));
            record[2] = 1;
            vec![[&CCS[..], &record].concat()]
        }),
        ("alert close_notify", |_| vec![typed(21, &[1, 0])]),
        ("alert unexpected_message", |_| vec![typed(21, &[2, 10])]),
        ("alert user_canceled", |_| vec![typed(21, &[1, 90])]),
        ("one CCS", |_| vec![CCS.to_vec()]),
        ("32 CCS", |_| vec![CCS.repeat(32)]),
        ("33 CCS", |_| vec![CCS.repeat(33)]),
        ("CCS of two bytes", |_| vec![typed(20, &[1, 1])]),
        ("CCS of another value", |_| vec![typed(20, &[2])]),
        ("CCS of another value, valid header", |dice| vec![[typed(20, &[2]), data(&valid(dice))].concat()]),
        ("text", |_| vec![b"GET / HTTP/1.1\r\nHost: mask.example.org\r\n\r\n".to_vec()]),
        ("random bytes", |dice| vec![dice.bytes(200)]),
        ("another hello", |dice| vec![fresh(tdlib(), By::Us, dice)]),
        ("a header of another secret", |dice| {
            let header = Header::make(Some(&OTHER_KEY), PADDED, 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header of no secret", |dice| {
            let header = Header::make(None, PADDED, 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header of another tag", |dice| {
            let header = Header::make(Some(&KEY), [1, 2, 3, 4], 2, dice);
            vec![[&CCS[..], &data(&[&header.wire[..], &dice.bytes(100)].concat())].concat()]
        }),
        ("a header in two records", |dice| {
            let header = valid(dice);
            vec![[&CCS[..], &data(&header[..32]), &data(&header[32..])].concat()]
        }),
        ("a header of 63 and 1", |dice| {
            let header = valid(dice);
            vec![[&CCS[..], &data(&header[..63]), &data(&header[63..])].concat()]
        }),
        ("garbage and then a header", |dice| vec![[&CCS[..], &data(&dice.bytes(30)), &data(&valid(dice))].concat()]),
        ("garbage of 64 and then a header", |dice| {
            vec![[&CCS[..], &data(&dice.bytes(64)), &data(&valid(dice))].concat()]
        }),
        ("half of a record", |dice| vec![[&CCS[..], &data(&dice.bytes(300))[..100]].concat()]),
        ("half of a header", |dice| vec![[&CCS[..], &data(&valid(dice))[..40]].concat()]),
        ("the head of a record", |_| vec![[&CCS[..], &[23, 3, 3, 1, 0]].concat()]),
        ("one byte", |_| vec![vec![23]]),
    ];
    let mut probes = Vec::new();
    for class in [tdlib(), tdesktop()] {
        for (name, second) in &table {
            for then in [Then::Silence, Then::FinAtOnce] {
                let second = *second;
                let name = format!("{} and {name} then {then:?}", class.client);
                probes.push(Probe::new(name, move |dice| {
                    let record = fresh(class, By::Us, dice);
                    let mut steps = vec![Send(record.clone()), AwaitFlight];
                    steps.extend(second(dice).into_iter().map(Send));
                    match then {
                        Then::Silence => steps.extend([AwaitEnd, Poke]),
                        _ => steps.extend(then.steps()),
                    }
                    Script { steps, hello: Some(record), join: true, ..Script::default() }
                }));
            }
        }
    }
    probes
}

/// A header that would open a session, with something behind it.
fn valid(dice: &mut Dice) -> Vec<u8> {
    Header::make(Some(&KEY), PADDED, 2, dice).wire.to_vec()
}

fn data(payload: &[u8]) -> Vec<u8> {
    typed(23, payload)
}

fn typed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    push_counted(&mut record, 2, payload);
    record
}
