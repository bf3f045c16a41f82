//! Number of connections that one client has open at once, by class of hello: what a watcher counts, too.
//!
//! A client is a user at an address, an IPv6 address standing for its /64. What comes out holds neither.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::sessions::Live;
use crate::wire::HelloClass;

/// Ranges that clients are counted in, by the most sessions of each.
pub const RANGES: [(&str, u64); 6] =
    [("1", 1), ("2-4", 4), ("5-8", 8), ("9-16", 16), ("17-32", 32), ("33 or more", u64::MAX)];

/// Clients of one class, with the sessions that they have now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FanOut {
    /// Clients.
    pub clients: u64,
    /// Their sessions.
    pub sessions: u64,
    /// Most sessions of one client.
    pub most: u64,
    /// Clients by the number of their sessions, in the order of [`RANGES`].
    pub by_range: [u64; RANGES.len()],
}

impl FanOut {
    fn add(&mut self, sessions: u64) {
        self.clients += 1;
        self.sessions += sessions;
        self.most = self.most.max(sessions);
        let range = RANGES.iter().position(|(_, most)| sessions <= *most);
        range.into_iter().for_each(|range| self.by_range[range] += 1);
    }
}

/// Counts the sessions of each client. One whose sessions are of several classes counts in each.
pub fn by_class<'l>(sessions: impl IntoIterator<Item = &'l Live>) -> BTreeMap<&'static str, FanOut> {
    let mut clients: HashMap<(HelloClass, &str, IpAddr), u64> = HashMap::new();
    for live in sessions {
        *clients.entry((live.class, live.member.name(), network(live.from))).or_default() += 1;
    }
    let mut classes: BTreeMap<&'static str, FanOut> = BTreeMap::new();
    for ((class, ..), count) in clients {
        classes.entry(class.label()).or_default().add(count);
    }
    classes
}

fn network(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Member, UnixTime};
    use crate::telegram::DcId;

    #[test]
    fn connections_are_counted_by_client_and_clients_by_class() {
        let live = |user: &str, from: &str, class| Live {
            id: 1,
            member: Member::new(user),
            dc: DcId::new(2),
            class,
            since: UnixTime(0),
            from: from.parse().unwrap(),
            key: None,
            greeted: None,
            opened_with: 0,
            meter: std::sync::Arc::default(),
        };
        let (new, old) = (HelloClass::ChromeHybrid, HelloClass::Padded517);
        let mut sessions: Vec<_> = (0..18).map(|_| live("alice", "192.0.2.1", new)).collect();
        sessions.push(live("alice", "192.0.2.2", new));
        // Two addresses of one network.
        sessions.extend([live("bob", "2001:db8::1", new), live("bob", "2001:db8::2", new)]);
        sessions.push(live("alice", "192.0.2.1", old));
        let found = by_class(&sessions);
        let by_range = |one, two, seventeen| [one, two, 0, 0, seventeen, 0];
        let expected = FanOut { clients: 3, sessions: 21, most: 18, by_range: by_range(1, 1, 1) };
        assert_eq!(found[new.label()], expected);
        assert_eq!(found[old.label()], FanOut { clients: 1, sessions: 1, most: 1, by_range: by_range(1, 0, 0) });
        assert_eq!(found.len(), 2);
        assert!(by_class([]).is_empty());
    }
}
