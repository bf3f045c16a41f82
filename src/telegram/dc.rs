//! Numbers of data centres and the addresses that are built in (docs/protocol.md, "Data centres").

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Family, Settings};
use crate::net::race::interleaved;

/// A data centre as clients name it: 1 to 5 and 203 production, 10001 to 10003 test; negative: its media cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DcId(i16);

impl DcId {
    /// The number as it stands in an obfuscated2 header.
    pub const fn new(number: i16) -> Self {
        Self(number)
    }

    /// The signed number.
    pub fn number(self) -> i16 {
        self.0
    }

    /// Whether it is asked for media alone: it is a media cluster, or 203, which has nothing else.
    pub fn is_for_media(self) -> bool {
        const MEDIA: i16 = 203;
        self.0 < 0 || self.0 == MEDIA
    }

    /// The same data centre without regard to what it is asked for.
    pub(super) fn unsigned(self) -> Self {
        Self(self.0.saturating_abs())
    }
}

impl fmt::Display for DcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DcId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

const PORT: u16 = 443;

/// Telegram's own addresses, by number. Media clusters are served at the same ones.
const BUILT_IN: &[(i16, &[&str])] = &[
    (1, &["149.154.175.50", "2001:b28:f23d:f001::a"]),
    (2, &["149.154.167.51", "95.161.76.100", "2001:67c:4e8:f002::a"]),
    (3, &["149.154.175.100", "2001:b28:f23d:f003::a"]),
    (4, &["149.154.167.91", "2001:67c:4e8:f004::a"]),
    (5, &["149.154.171.5", "2001:b28:f23f:f005::a"]),
    (203, &["91.105.192.100", "2a0a:f280:203:a:5000::100"]),
    (10_001, &["149.154.175.10", "2001:b28:f23d:f001::e"]),
    (10_002, &["149.154.167.40", "2001:67c:4e8:f002::e"]),
    (10_003, &["149.154.175.117", "2001:b28:f23d:f003::e"]),
];

impl Settings {
    /// The number under which the addresses of a data centre stand: it is the same for its media, unless that has addresses
    /// of its own. `None` if there is no such data centre.
    pub fn centre(&self, dc: DcId) -> Option<DcId> {
        let numbers = [dc, dc.unsigned()];
        let given = numbers.into_iter().find(|number| self.overrides.contains_key(number));
        given.or_else(|| BUILT_IN.iter().map(|(number, _)| DcId(*number)).find(|number| *number == dc.unsigned()))
    }

    /// Addresses of a data centre in the order in which they are to be tried; empty if there is no such data centre.
    ///
    /// An override for the number as the client wrote it comes first, then one without its sign, then what is built in: of
    /// that, the families take turns. What an override says is tried as it says.
    pub fn addresses(&self, dc: DcId) -> Vec<SocketAddr> {
        let Some(centre) = self.centre(dc) else { return Vec::new() };
        if let Some(given) = self.overrides.get(&centre) {
            return given.clone();
        }
        let mut addresses: Vec<SocketAddr> = BUILT_IN
            .iter()
            .filter(|(number, _)| *number == centre.0)
            .flat_map(|(_, texts)| *texts)
            .filter_map(|text| text.parse().ok())
            .map(|address: IpAddr| SocketAddr::new(address, PORT))
            .collect();
        addresses.sort_by_key(|address| address.is_ipv4() != (self.prefer == Family::Ipv4));
        interleaved(&addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(settings: &Settings, number: i16) -> Vec<String> {
        settings.addresses(DcId::new(number)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_built_in_address_is_one() {
        for (number, texts) in BUILT_IN {
            assert_eq!(addresses(&Settings::default(), *number).len(), texts.len(), "{number}");
            assert_eq!(addresses(&Settings::default(), -number).len(), texts.len(), "-{number}");
        }
    }

    #[test]
    fn unknown_numbers_have_no_address() {
        for number in [0, 6, -6, 202, 10_000, 10_004, i16::MAX, i16::MIN] {
            assert!(addresses(&Settings::default(), number).is_empty(), "{number}");
        }
    }

    #[test]
    fn the_preferred_family_comes_first_and_then_they_take_turns() {
        let settings = Settings { prefer: Family::Ipv6, ..Settings::default() };
        assert_eq!(addresses(&settings, 1), ["[2001:b28:f23d:f001::a]:443", "149.154.175.50:443"]);
        assert_eq!(addresses(&Settings::default(), 1), ["149.154.175.50:443", "[2001:b28:f23d:f001::a]:443"]);
        let turns = ["149.154.167.51:443", "[2001:67c:4e8:f002::a]:443", "95.161.76.100:443"];
        assert_eq!(addresses(&Settings::default(), 2), turns);
    }

    #[test]
    fn overrides_go_by_the_signed_number_first() {
        let given = |text: &str| vec![text.parse().unwrap()];
        let mut settings = Settings::default();
        settings.overrides.insert(DcId::new(2), given("192.0.2.1:1"));
        settings.overrides.insert(DcId::new(-4), given("192.0.2.2:2"));
        assert_eq!(addresses(&settings, 2), ["192.0.2.1:1"]);
        assert_eq!(addresses(&settings, -2), ["192.0.2.1:1"]);
        assert_eq!(addresses(&settings, -4), ["192.0.2.2:2"]);
        assert_eq!(addresses(&settings, 4)[0], "149.154.167.91:443");
    }
}
