//! What Telegram publishes for proxies: where its middle proxies are, and the secret that they share with everybody.
//!
//! ```text
//! getProxySecret      128 bytes
//! getProxyConfig      default 2;                                   which cluster serves numbers that are not listed
//!                     proxy_for -4 149.154.165.109:8888;           one address of the cluster for a signed number
//! getProxyConfigV6    proxy_for 1 [2001:b28:f23d:f001::d]:8888;    the same for IPv6
//! ```
//!
//! [`Lists`] is all of it, as of the last time that it was good; anyone who needs it takes
//! [`Upstream::lists`](super::Upstream::lists), which tells when there is something new, and says with
//! [`Upstream::want_lists`](super::Upstream::want_lists) that someone needs it. [`Keeper`] fetches it and keeps it on disk.
//!
//! Middle proxies are no data centres: a session without one cannot use their addresses. The exception is 203, the data
//! centre for content delivery, whose listed addresses are its own.

mod keeper;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use zeroize::Zeroizing;

pub use keeper::{Keeper, stored};

use super::DcId;

/// Secret and lists that Telegram publishes for proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Secret that middle proxies ask for.
    pub secret: Option<ProxySecret>,
    /// Clusters by their IPv4 addresses.
    pub v4: Clusters,
    /// Clusters by their IPv6 addresses.
    pub v6: Clusters,
}

/// The secret that middle proxies share with all proxies. It is public, and yet nothing that belongs into a log.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxySecret(Zeroizing<Vec<u8>>);

/// Middle proxies by the data centre that they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clusters {
    /// The number whose cluster serves those that are not listed.
    pub default: Option<DcId>,
    /// Addresses by signed number, in the order of the list; no cluster is empty.
    pub by_centre: BTreeMap<DcId, Vec<SocketAddr>>,
}

/// Longest list that is read. Telegram's have less than two thousand bytes.
pub const LONGEST: usize = 64 << 10;

/// Most addresses of a list.
const MOST: usize = 1024;

/// Reason why a text is no list, or bytes are no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadList {
    /// It is too long, or has too many addresses.
    TooLong,
    /// It is too short or too long for a secret, or a text.
    NoSecret,
    /// It is no UTF-8.
    NoText,
    /// The statement of this number, from 1, is not one that a list may have.
    Statement(usize),
    /// It names no address.
    Empty,
    /// It ends in the midst of a statement.
    CutShort,
}

impl fmt::Display for BadList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("it is too long"),
            Self::NoSecret => f.write_str("it is no secret"),
            Self::NoText => f.write_str("it is no text"),
            Self::Statement(number) => write!(f, "its statement {number} is not understood"),
            Self::Empty => f.write_str("it names no address"),
            Self::CutShort => f.write_str("it ends in the middle of a statement"),
        }
    }
}

impl std::error::Error for BadList {}

/// Address family of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Lists {
    /// The cluster for a signed number, of both families, IPv4 first: its own, else the default one.
    pub fn cluster(&self, dc: DcId) -> Vec<SocketAddr> {
        [&self.v4, &self.v6].into_iter().flat_map(|clusters| clusters.of(dc)).copied().collect()
    }

    /// Addresses that are listed for just these numbers.
    pub(super) fn listed(&self, numbers: [DcId; 2]) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for clusters in [&self.v4, &self.v6] {
            for address in numbers.iter().filter_map(|number| clusters.by_centre.get(number)).flatten() {
                if !all.contains(address) {
                    all.push(*address);
                }
            }
        }
        all
    }
}

impl Clusters {
    /// Reads a list. All of it must be understood: half a list, or the page of someone in between, is none.
    pub fn parse(text: &[u8], version: Version) -> Result<Self, BadList> {
        if text.len() > LONGEST {
            return Err(BadList::TooLong);
        }
        let text = str::from_utf8(text).map_err(|_| BadList::NoText)?;
        let bare: String = text.lines().flat_map(|line| [line.split('#').next().unwrap_or_default(), "\n"]).collect();
        let Some((statements, rest)) = bare.rsplit_once(';') else {
            return Err(if bare.trim().is_empty() { BadList::Empty } else { BadList::CutShort });
        };
        if !rest.trim().is_empty() {
            return Err(BadList::CutShort);
        }
        let (mut clusters, mut count) = (Self::default(), 0);
        for (index, statement) in statements.split(';').enumerate() {
            let words: Vec<&str> = statement.split_ascii_whitespace().collect();
            let named = clusters.take(&words, version).ok_or(BadList::Statement(index + 1))?;
            count += usize::from(named);
            if count > MOST {
                return Err(BadList::TooLong);
            }
        }
        if clusters.by_centre.is_empty() { Err(BadList::Empty) } else { Ok(clusters) }
    }

    /// Understands one statement; says whether it named an address.
    fn take(&mut self, words: &[&str], version: Version) -> Option<bool> {
        let (dc, address) = match words {
            ["proxy_for", dc, address] => (dc.parse().ok()?, address),
            ["proxy", address] => (DcId::new(0), address),
            ["default", dc] => {
                self.default = Some(dc.parse().ok()?);
                return Some(false);
            }
            // How many links a proxy has is its own business here.
            ["timeout" | "min_connections" | "max_connections", number] => {
                return number.parse::<u32>().ok().map(|_| false);
            }
            _ => return None,
        };
        let address: SocketAddr = address.parse().ok()?;
        if address.is_ipv4() != (version == Version::V4) || address.port() == 0 || address.ip().is_unspecified() {
            return None;
        }
        let cluster = self.by_centre.entry(dc).or_default();
        if !cluster.contains(&address) {
            cluster.push(address);
        }
        Some(true)
    }

    /// The addresses for a signed number, or those of the default cluster.
    pub fn of(&self, dc: DcId) -> &[SocketAddr] {
        let own = self.by_centre.get(&dc);
        own.or_else(|| self.by_centre.get(&self.default?)).map_or(&[], Vec::as_slice)
    }
}

impl ProxySecret {
    /// Takes 32 to 256 bytes. A text is none: it is what someone says instead.
    pub fn new(bytes: &[u8]) -> Result<Self, BadList> {
        let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
        if !(32..=256).contains(&bytes.len()) || is_text {
            return Err(BadList::NoSecret);
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// All of it. The first four bytes tell which secret it is.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ProxySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxySecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Clusters, BadList> {
        Clusters::parse(text.as_bytes(), Version::V4)
    }

    fn addresses(clusters: &Clusters, number: i16) -> Vec<String> {
        clusters.of(DcId::new(number)).iter().map(ToString::to_string).collect()
    }

    const LIST: &str = "# force_probability 10 10
default 2;
proxy_for 1 149.154.175.50:8888;
proxy_for -1 149.154.175.50:8888;
proxy_for 2 149.154.161.144:8888; proxy_for 2 149.154.162.39:80; # two of them
proxy_for 2 149.154.161.144:8888;
proxy_for -4 149.154.165.109:8888;
proxy_for
    203 91.105.192.110:443;
timeout 30000;
";

    #[test]
    fn a_list_is_read() {
        let clusters = parse(LIST).unwrap();
        assert_eq!(clusters.default, Some(DcId::new(2)));
        assert_eq!(addresses(&clusters, 2), ["149.154.161.144:8888", "149.154.162.39:80"]);
        assert_eq!(addresses(&clusters, -4), ["149.154.165.109:8888"]);
        assert_eq!(addresses(&clusters, 203), ["91.105.192.110:443"]);
        assert_eq!(addresses(&clusters, 4), addresses(&clusters, 2), "the default one");
        let six = "proxy_for 1 [2001:b28:f23d:f001::d]:8888;\r\n";
        let six = Clusters::parse(six.as_bytes(), Version::V6).unwrap();
        assert_eq!(addresses(&six, 1), ["[2001:b28:f23d:f001::d]:8888"]);
        assert!(addresses(&six, 2).is_empty(), "it names no default");
        let lists = Lists { secret: None, v4: clusters, v6: six };
        assert_eq!(lists.cluster(DcId::new(1)).len(), 2);
        assert_eq!(lists.listed([DcId::new(1), DcId::new(-1)]).len(), 2, "the same address twice is one");
        assert!(lists.listed([DcId::new(5), DcId::new(-5)]).is_empty());
    }

    #[test]
    fn every_prefix_of_a_list_is_no_list_or_ends_with_a_statement() {
        for length in 0..LIST.len() {
            let prefix = &LIST[..length];
            let bare = prefix.lines().last().unwrap_or_default().split('#').next().unwrap_or_default().trim();
            assert!(parse(prefix).is_err() || bare.is_empty() || bare.ends_with(';'), "{prefix}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_as_a_whole() {
        let good = "proxy_for 2 192.0.2.1:443;";
        for (text, why) in [
            ("", BadList::Empty),
            ("# nothing\n", BadList::Empty),
            ("default 2;", BadList::Empty),
            ("<html><body>Busy</body></html>", BadList::CutShort),
            ("<p style=\"color: red;\">Busy;</p>;", BadList::Statement(1)),
            ("proxy_for 2 192.0.2.1:443", BadList::CutShort),
            ("proxy_for 2 192.0.2.1:443; proxy_for", BadList::CutShort),
            ("proxy_for 2 192.0.2.1:443;;", BadList::Statement(2)),
            ("proxy_for 2 192.0.2.1;", BadList::Statement(1)),
            ("proxy_for 2 192.0.2.1:0;", BadList::Statement(1)),
            ("proxy_for 2 0.0.0.0:443;", BadList::Statement(1)),
            ("proxy_for 2 host.example:443;", BadList::Statement(1)),
            ("proxy_for 2 [2001:db8::1]:443;", BadList::Statement(1)),
            ("proxy_for 40000 192.0.2.1:443;", BadList::Statement(1)),
            ("proxy_for two 192.0.2.1:443;", BadList::Statement(1)),
            ("proxy_for 2 192.0.2.1:443 more;", BadList::Statement(1)),
            ("secret 2;", BadList::Statement(1)),
            ("timeout soon;", BadList::Statement(1)),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert!(parse(good).is_ok());
        assert_eq!(parse(&good.repeat(LONGEST / good.len() + 1)), Err(BadList::TooLong));
        assert_eq!(parse(&good.repeat(MOST + 1)), Err(BadList::TooLong));
        assert_eq!(Clusters::parse(b"\xff\xfe", Version::V4), Err(BadList::NoText));
        assert!(Clusters::parse(good.as_bytes(), Version::V6).is_err());
    }

    #[test]
    fn a_secret_is_neither_short_nor_long_nor_a_text_and_does_not_print() {
        let random: Vec<u8> = (0..=255).collect();
        for length in [32, 128, 256] {
            assert_eq!(ProxySecret::new(&random[..length]).unwrap().bytes(), &random[..length]);
        }
        assert!(ProxySecret::new(&random[..31]).is_err() && ProxySecret::new(&[9; 257]).is_err());
        assert!(ProxySecret::new("<html><body>Too many requests</body></html>\r\n".as_bytes()).is_err());
        let lists = Lists { secret: ProxySecret::new(&[0xab; 128]).ok(), ..Lists::default() };
        let shown = format!("{lists:?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, ab"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = (Clusters::parse(&bytes, Version::V4), ProxySecret::new(&bytes));
        }
    }
}
