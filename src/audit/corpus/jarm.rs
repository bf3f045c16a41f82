//! The ten hellos whose answers make the JARM fingerprint of a server.
//!
//! The fingerprint names the cipher, the version and the extensions that a server chooses. Here the whole answers are
//! compared, which says more: two servers whose answers are alike have the same fingerprint.

use super::*;

/// One of the ten.
struct Shape {
    name: &'static str,
    versions: Versions,
    /// Whether suites of TLS 1.3 are among the others.
    with_13: bool,
    order: Order,
    grease: bool,
    /// Whether the protocols that every server knows are left out.
    rare_protocols: bool,
    /// Order of protocols and versions.
    lists: Order,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// The version of the hello alone.
    Only([u8; 2]),
    /// A list that ends with this minor version.
    UpTo(u8),
}

#[derive(Clone, Copy)]
enum Order {
    Forward,
    Reverse,
    TopHalf,
    BottomHalf,
    MiddleOut,
}

const TLS12: [u8; 2] = [3, 3];
const TLS11: [u8; 2] = [3, 2];

const SHAPES: [Shape; 10] = {
    use Order::*;
    use Versions::*;
    [
        shape("1.2 forward", UpTo(3), Forward, Reverse),
        shape("1.2 reverse", UpTo(3), Reverse, Forward),
        shape("1.2 top half", Only(TLS12), TopHalf, Forward),
        Shape { rare_protocols: true, ..shape("1.2 bottom half", Only(TLS12), BottomHalf, Forward) },
        Shape { rare_protocols: true, grease: true, ..shape("1.2 middle out", Only(TLS12), MiddleOut, Reverse) },
        shape("1.1 forward", Only(TLS11), Forward, Forward),
        shape("1.3 forward", UpTo(4), Forward, Reverse),
        shape("1.3 reverse", UpTo(4), Reverse, Forward),
        Shape { with_13: false, ..shape("1.3 without its suites", UpTo(4), Forward, Forward) },
        Shape { grease: true, ..shape("1.3 middle out", UpTo(4), MiddleOut, Reverse) },
    ]
};

const fn shape(name: &'static str, versions: Versions, order: Order, lists: Order) -> Shape {
    Shape { name, versions, with_13: true, order, grease: false, rare_protocols: false, lists }
}

/// The ten hellos.
pub(super) fn jarm() -> Vec<Probe> {
    let probe = |shape: &'static Shape| {
        Probe::new(format!("JARM {}", shape.name), |draw| {
            let record = shape.parts(draw).record();
            let steps = [vec![Send(record.clone())], Then::Fin.steps()].concat();
            Script { steps, hello: Some(record), ..Script::default() }
        })
    };
    SHAPES.iter().map(probe).collect()
}

impl Shape {
    fn parts(&self, draw: &mut Draw<'_>) -> Parts {
        let mut suites: Vec<u16> = SUITES.to_vec();
        suites.retain(|suite| self.with_13 || suite >> 8 != 0x13);
        let mut suites = self.order.of(&suites);
        if self.grease {
            suites.insert(0, grease(draw));
        }
        let version = match self.versions {
            Versions::Only(version) => version,
            Versions::UpTo(_) => TLS12,
        };
        let parts = Parts {
            // A hello of TLS 1.3 comes in a record of 1.0, all others in one of their own version.
            record_version: if self.versions == Versions::UpTo(4) { [3, 1] } else { version },
            version,
            random: draw.array(),
            session: draw.bytes(32),
            ciphers: suites.iter().flat_map(|suite| suite.to_be_bytes()).collect(),
            compression: vec![0],
            extensions: Vec::new(),
        };
        self.extended(parts, draw)
    }

    fn extended(&self, mut parts: Parts, draw: &mut Draw<'_>) -> Parts {
        if self.grease {
            parts = parts.with(grease(draw), Vec::new());
        }
        let name = draw.subject.name.clone();
        let mut parts = parts
            .named(&[name.as_bytes()])
            .with(23, Vec::new())
            .with(1, vec![1])
            .with(0xff01, vec![0])
            .with(ext::GROUPS, vec![0, 8, 0, 0x1d, 0, 0x17, 0, 0x18, 0, 0x19])
            .with(11, vec![1, 0])
            .with(35, Vec::new())
            .with(ext::ALPN, self.protocols())
            .with(13, counted(&SCHEMES.map(u16::to_be_bytes).concat()))
            .with(ext::KEY_SHARE, self.shares(draw))
            .with(45, vec![1, 1]);
        if let Versions::UpTo(minor) = self.versions {
            let mut list = self.lists.of(&(1..=minor).map(|minor| u16::from_be_bytes([3, minor])).collect::<Vec<_>>());
            if self.grease {
                list.insert(0, grease(draw));
            }
            let list: Vec<u8> = list.iter().flat_map(|version| version.to_be_bytes()).collect();
            let mut body = Vec::new();
            push_counted(&mut body, 1, &list);
            parts = parts.with(ext::VERSIONS, body);
        }
        parts
    }

    fn protocols(&self) -> Vec<u8> {
        let known: &[&str] = &["http/1.1", "h2"];
        let names: Vec<&str> =
            PROTOCOLS.into_iter().filter(|name| !self.rare_protocols || !known.contains(name)).collect();
        let mut list = Vec::new();
        for name in self.lists.of(&names) {
            push_counted(&mut list, 1, name.as_bytes());
        }
        counted(&list)
    }

    fn shares(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let mut list = Vec::new();
        if self.grease {
            list.extend(grease(draw).to_be_bytes());
            push_counted(&mut list, 2, &[0]);
        }
        list.extend([0, 0x1d]);
        // Any 32 bytes with the top bit clear are someone's share.
        let mut share: [u8; 32] = draw.array();
        share[31] &= 0x7f;
        push_counted(&mut list, 2, &share);
        counted(&list)
    }
}

impl Order {
    fn of<T: Copy>(self, items: &[T]) -> Vec<T> {
        let half = items.len() / 2;
        let odd = items.len() % 2;
        match self {
            Self::Forward => items.to_vec(),
            Self::Reverse => items.iter().rev().copied().collect(),
            Self::BottomHalf => items[half + odd..].to_vec(),
            // The middle of an odd number belongs to the upper half.
            Self::TopHalf => {
                let middle = (odd == 1).then(|| items[half]);
                middle.into_iter().chain(items[..half].iter().rev().copied()).collect()
            }
            Self::MiddleOut => {
                let mut out: Vec<T> = if odd == 1 { vec![items[half]] } else { Vec::new() };
                for step in 0..half {
                    out.extend([items[half + odd + step], items[half - 1 - step]]);
                }
                out
            }
        }
    }
}

/// A value that servers must not know (RFC 8701).
fn grease(draw: &mut Draw<'_>) -> u16 {
    0x0a0a + 0x1010 * draw.below(16) as u16
}

fn counted(list: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_counted(&mut body, 2, list);
    body
}

const PROTOCOLS: [&str; 9] = ["http/0.9", "http/1.0", "http/1.1", "spdy/1", "spdy/2", "spdy/3", "h2", "h2c", "hq"];

const SCHEMES: [u16; 9] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601, 0x0201];

#[rustfmt::skip]
const SUITES: [u16; 69] = [
    0x0016, 0x0033, 0x0067, 0xc09e, 0xc0a2, 0x009e, 0x0039, 0x006b, 0xc09f, 0xc0a3, 0x009f, 0x0045, 0x00be, 0x0088,
    0x00c4, 0x009a, 0xc008, 0xc009, 0xc023, 0xc0ac, 0xc0ae, 0xc02b, 0xc00a, 0xc024, 0xc0ad, 0xc0af, 0xc02c, 0xc072,
    0xc073, 0xcca9, 0x1302, 0x1301, 0xcc14, 0xc007, 0xc012, 0xc013, 0xc027, 0xc02f, 0xc014, 0xc028, 0xc030, 0xc060,
    0xc061, 0xc076, 0xc077, 0xcca8, 0x1305, 0x1304, 0x1303, 0xcc13, 0xc011, 0x000a, 0x002f, 0x003c, 0xc09c, 0xc0a0,
    0x009c, 0x0035, 0x003d, 0xc09d, 0xc0a1, 0x009d, 0x0041, 0x00ba, 0x0084, 0x00c0, 0x0007, 0x0004, 0x0005,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::probe::Subject;

    #[test]
    fn orders_are_what_their_names_say() {
        let five = [1, 2, 3, 4, 5];
        assert_eq!(Order::Reverse.of(&five), [5, 4, 3, 2, 1]);
        assert_eq!(Order::TopHalf.of(&five), [3, 2, 1]);
        assert_eq!(Order::BottomHalf.of(&five), [4, 5]);
        assert_eq!(Order::MiddleOut.of(&five), [3, 4, 2, 5, 1]);
        assert_eq!(Order::MiddleOut.of(&[1, 2, 3, 4]), [3, 2, 4, 1]);
    }

    #[test]
    fn there_are_ten_sound_hellos() {
        let subject = Subject { key: [0; 16], name: "www.example.org".into(), dc: 2 };
        let probes = jarm();
        assert_eq!(probes.len(), 10);
        for probe in probes {
            let record = probe.script(3, &subject).hello.unwrap();
            let parts = Parts::parse(&record).unwrap();
            assert_eq!(parts.name(), Some(&b"www.example.org"[..]), "{}", probe.name);
            assert_eq!(parts.extension(ext::VERSIONS).is_some(), has_versions(&probe.name));
        }
    }

    fn has_versions(name: &str) -> bool {
        name.contains("1.3") || matches!(name, "JARM 1.2 forward" | "JARM 1.2 reverse")
    }
}
