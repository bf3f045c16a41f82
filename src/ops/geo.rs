//! Countries of addresses, out of a database that the operator has (the format is MaxMind's, others write it too).

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

/// Two letters, as ISO 3166 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl FromStr for Country {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let letters: [u8; 2] = text.as_bytes().try_into().map_err(|_| ())?;
        letters.iter().all(u8::is_ascii_alphabetic).then(|| Self(letters.map(|it| it.to_ascii_uppercase()))).ok_or(())
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// Which countries may not enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// These.
    Deny(Vec<Country>),
    /// All but these. An address of no known country may not enter either.
    AllowOnly(Vec<Country>),
}

/// Settings of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The database.
    pub database: PathBuf,
    /// The rule.
    pub rule: Rule,
}

/// The rule with its database in memory.
pub struct Geo {
    reader: Reader<Vec<u8>>,
    rule: Rule,
}

/// Part of an entry that is read.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    country: Option<Code<'a>>,
}

#[derive(Deserialize)]
struct Code<'a> {
    iso_code: Option<&'a str>,
}

impl Geo {
    /// Reads the database. Blocks.
    pub fn open(settings: &Settings) -> Result<Self, MaxMindDbError> {
        Ok(Self { reader: open(&settings.database)?, rule: settings.rule.clone() })
    }

    /// Whether the rule bars this address.
    pub fn bars(&self, address: IpAddr) -> bool {
        let country = self.country(address);
        match &self.rule {
            Rule::Deny(denied) => country.is_some_and(|country| denied.contains(&country)),
            Rule::AllowOnly(allowed) => !country.is_some_and(|country| allowed.contains(&country)),
        }
    }

    fn country(&self, address: IpAddr) -> Option<Country> {
        let entry: Entry<'_> = self.reader.lookup(address.to_canonical()).ok()?.decode().ok()??;
        entry.country?.iso_code?.parse().ok()
    }
}

fn open(path: &Path) -> Result<Reader<Vec<u8>>, MaxMindDbError> {
    Reader::open_readfile(path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A database of IPv4 networks with their countries, made here after the public description of the format
    /// (MaxMind DB file format 2.0): a tree with records of 24 bits, a data section, and the metadata.
    pub(crate) fn database(nets: &[(&str, &str)]) -> Vec<u8> {
        const EMPTY: usize = usize::MAX;
        let mut nodes = vec![[EMPTY; 2]];
        let mut data = Vec::new();
        // Leaves carry a mark until the number of nodes is known.
        const LEAF: usize = 1 << 40;
        for (net, country) in nets {
            let net: ipnet::Ipv4Net = net.parse().unwrap();
            let offset = data.len();
            data.extend([&map(1)[..], &text("country"), &map(1), &text("iso_code"), &text(country)].concat());
            let mut node = 0;
            for depth in 0..net.prefix_len() {
                let bit = (net.network().to_bits() >> (31 - depth) & 1) as usize;
                if depth + 1 == net.prefix_len() {
                    nodes[node][bit] = LEAF + offset;
                } else if nodes[node][bit] == EMPTY {
                    nodes[node][bit] = nodes.len();
                    node = nodes.len();
                    nodes.push([EMPTY; 2]);
                } else {
                    node = nodes[node][bit];
                }
            }
        }
        let count = nodes.len();
        let mut bytes = Vec::new();
        for record in nodes.into_iter().flatten() {
            let value = match record {
                EMPTY => count,
                leaf if leaf >= LEAF => count + 16 + leaf - LEAF,
                node => node,
            };
            bytes.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
        }
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(9));
        for (key, value) in [
            ("node_count", vec![0xc4, 0, 0, (count >> 8) as u8, count as u8]),
            ("record_size", vec![0xa1, 24]),
            ("ip_version", vec![0xa1, 4]),
            ("database_type", text("Test")),
            ("languages", vec![0x00, 0x04]),
            ("binary_format_major_version", vec![0xa1, 2]),
            ("binary_format_minor_version", vec![0xa1, 0]),
            ("build_epoch", vec![0x01, 0x02, 1]),
            ("description", map(0)),
        ] {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }

    fn map(entries: u8) -> Vec<u8> {
        vec![0xe0 | entries]
    }

    fn text(text: &str) -> Vec<u8> {
        assert!(text.len() < 29);
        [&[0x40 | text.len() as u8], text.as_bytes()].concat()
    }

    fn geo(rule: Rule) -> Geo {
        let bytes = database(&[("192.0.2.0/24", "AA"), ("198.51.100.0/25", "BB"), ("198.51.100.128/25", "AA")]);
        Geo { reader: Reader::from_source(bytes).unwrap(), rule }
    }

    #[test]
    fn countries_are_denied_or_alone_allowed() {
        let aa = vec!["aa".parse().unwrap()];
        let (deny, only) = (geo(Rule::Deny(aa.clone())), geo(Rule::AllowOnly(aa)));
        for (address, denied, alone) in [
            ("192.0.2.1", true, false),
            ("::ffff:192.0.2.1", true, false),
            ("198.51.100.1", false, true),
            ("198.51.100.200", true, false),
            ("203.0.113.1", false, true),
            ("2001:db8::1", false, true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((deny.bars(address), only.bars(address)), (denied, alone), "{address}");
        }
    }

    #[test]
    fn a_broken_database_is_an_error_and_no_panic() {
        let whole = database(&[("192.0.2.0/24", "AA")]);
        for end in 0..whole.len() {
            if let Ok(reader) = Reader::from_source(whole[..end].to_vec()) {
                let geo = Geo { reader, rule: Rule::Deny(vec!["AA".parse().unwrap()]) };
                let _ = geo.bars("192.0.2.1".parse().unwrap());
            }
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0x55;
            if let Ok(reader) = Reader::from_source(bent) {
                let _ = Geo { reader, rule: Rule::Deny(vec![]) }.bars("192.0.2.1".parse().unwrap());
            }
        }
    }

    #[test]
    fn two_letters_are_a_country() {
        assert_eq!("de".parse::<Country>().unwrap().to_string(), "DE");
        for text in ["", "d", "deu", "d1", "é"] {
            assert!(text.parse::<Country>().is_err(), "{text}");
        }
    }
}
