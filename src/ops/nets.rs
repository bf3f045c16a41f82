//! Sets of networks, and the lists that they are written in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses, as ranges that neither meet nor overlap. A lookup takes a handful of comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nets {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// Reason why a text is not taken for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadList {
    /// Most of its lines are something else.
    Foreign {
        /// Number of such lines.
        lines: usize,
    },
    /// It has too many entries.
    TooLong,
}

impl std::fmt::Display for BadList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign { lines } => write!(f, "this is no list of addresses: {lines} lines are something else"),
            Self::TooLong => write!(f, "the list has more than {MOST} entries"),
        }
    }
}

impl std::error::Error for BadList {}

/// Most entries of one list, which take 32 MiB at worst.
pub const MOST: usize = 1 << 20;

impl Nets {
    /// Reads a list: on each line an address, a network (`192.0.2.0/24`) or a range (`192.0.2.1-192.0.2.9`), and behind
    /// `#` or `;` what people say about it. FireHOL's ipsets and netsets are such lists. A few lines of something else are
    /// passed over; their number comes back.
    pub fn read(text: &str) -> Result<(Self, usize), BadList> {
        let mut nets = Self::default();
        let (mut entries, mut foreign) = (0, 0);
        for line in text.lines() {
            let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            match range(entry) {
                Some((IpAddr::V4(first), IpAddr::V4(last))) => nets.v4.push((first.to_bits(), last.to_bits())),
                Some((IpAddr::V6(first), IpAddr::V6(last))) => nets.v6.push((first.to_bits(), last.to_bits())),
                _ => {
                    foreign += 1;
                    continue;
                }
            }
            entries += 1;
            if entries > MOST {
                return Err(BadList::TooLong);
            }
        }
        // A page of a web server that lost the list has many lines, and by chance an address among them.
        if foreign > 10 + entries / 10 || (entries == 0 && foreign > 0) {
            return Err(BadList::Foreign { lines: foreign });
        }
        nets.v4 = joined(nets.v4, |last| last.checked_add(1));
        nets.v6 = joined(nets.v6, |last| last.checked_add(1));
        Ok((nets, foreign))
    }

    /// Whether this address is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// First and last address of an entry.
fn range(entry: &str) -> Option<(IpAddr, IpAddr)> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some((address.to_canonical(), address.to_canonical()));
    }
    if let Ok(net) = entry.parse::<IpNet>() {
        let (first, last) = (net.network(), net.broadcast());
        // A mapped network is one of IPv4 only if all of it is.
        let (short, end) = (first.to_canonical(), last.to_canonical());
        return Some(if short.is_ipv4() == end.is_ipv4() { (short, end) } else { (first, last) });
    }
    let (first, last) = entry.split_once('-')?;
    let (first, last) = (first.trim().parse::<IpAddr>().ok()?, last.trim().parse::<IpAddr>().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}

/// Sorted, and with those joined that meet or overlap.
fn joined<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if next(before.1).is_none_or(|next| first <= next) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined.shrink_to_fit();
    joined
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).is_some_and(|at| value <= ranges[at].1)
}

/// The network that an address stands for where people are counted by networks: 24 bits of IPv4, 48 of IPv6.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() & (u128::MAX << 80)).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn plain_and_firehol_lists_are_read() {
        let text = "#\n# firehol_level1\n#\n# Maintainer: x\n192.0.2.1\n198.51.100.0/24\n203.0.113.7-203.0.113.9 ; why\n\
                    \n2001:db8::/32 # doc\n::ffff:192.0.2.77\n255.255.255.255\n198.51.101.0/24\nnonsense\n";
        let (nets, foreign) = Nets::read(text).unwrap();
        assert_eq!((foreign, nets.v4.len(), nets.v6.len()), (1, 5, 1), "{nets:?}");
        for inside in
            ["192.0.2.1", "198.51.100.255", "198.51.101.9", "203.0.113.8", "2001:db8:5::1", "::ffff:192.0.2.77"]
        {
            assert!(nets.contains(at(inside)), "{inside}");
        }
        for outside in ["192.0.2.2", "198.51.99.255", "203.0.113.10", "2001:db9::", "0.0.0.0", "255.255.255.254"] {
            assert!(!nets.contains(at(outside)), "{outside}");
        }
    }

    #[test]
    fn a_page_is_no_list() {
        let page = "<html>\n".repeat(50) + "192.0.2.1\n";
        assert_eq!(Nets::read(&page), Err(BadList::Foreign { lines: 50 }));
        assert_eq!(Nets::read("<html>"), Err(BadList::Foreign { lines: 1 }));
        assert!(Nets::read("# nothing today\n").unwrap().0.is_empty());
        assert_eq!(Nets::read(&"192.0.2.1\n".repeat(MOST + 1)), Err(BadList::TooLong));
    }

    proptest! {
        #[test]
        fn a_set_contains_what_any_of_its_entries_does(nets in proptest::collection::vec((any::<u32>(), 0u8..=32), 1..20), probe: u32, near: prop::sample::Index) {
            let nets: Vec<ipnet::Ipv4Net> = nets.into_iter().map(|(address, prefix)| ipnet::Ipv4Net::new(address.into(), prefix).unwrap()).collect();
            let text: String = nets.iter().map(|net| format!("{net}\n")).collect();
            let (set, _) = Nets::read(&text).unwrap();
            let edge = near.get(&nets).broadcast().to_bits();
            for address in [probe, edge, edge.wrapping_add(1)].map(Ipv4Addr::from) {
                prop_assert_eq!(set.contains(address.into()), nets.iter().any(|net| net.contains(&address)));
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "[0-9a-f.:/# ;\n-]{0,200}|.{0,100}") {
            let _ = Nets::read(&text);
        }
    }
}
