//! Limits on connections: how many there are at once, and how many come in a second; all together, from one address, and
//! from one network.
//!
//! Who is above a limit is a visitor, and gets from the cover what every visitor gets: the connection is served, and only
//! not judged. Where the operator prefers it, the connections that come too fast wait a moment first, no matter who they are
//! from. The one limit that keeps anybody out is the one on all connections at once, which protects the descriptors:
//! above it no one is accepted, and clients wait in the listener's queue as they do with any busy server.
//!
//! An address is an IPv4 address or an IPv6 network of 64 bits, a network has 24 or 56.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Limits on connections. `None` is no limit, and that is the default of every limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Connections at once. The others wait in the listener's queue.
    pub connections: Option<usize>,
    /// New connections in a second.
    pub rate: Option<NonZeroU32>,
    /// Those of one address.
    pub address: Share,
    /// Those of one network.
    pub network: Share,
    /// Treatment of those that come too fast.
    pub excess: Excess,
}

/// Limits of one address or one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Connections at once.
    pub connections: Option<NonZeroU32>,
    /// New connections in a second.
    pub rate: Option<NonZeroU32>,
}

/// Treatment of connections that come too fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// They are visitors.
    #[default]
    Pass,
    /// They wait until their turn, and are visitors if that is far.
    Delay,
}

/// Reason why a connection is a mere visitor. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Too many came in this second.
    Rate,
    /// Too many of this address are there.
    AddressConnections,
    /// Too many came from this address.
    AddressRate,
    /// Too many of this network are there.
    NetworkConnections,
    /// Too many came from this network.
    NetworkRate,
}

impl Limit {
    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::AddressConnections => "address connections",
            Self::AddressRate => "address rate",
            Self::NetworkConnections => "network connections",
            Self::NetworkRate => "network rate",
        }
    }
}

/// Knows addresses from which no one is judged.
pub trait IpFilter: Send + Sync {
    /// Returns the reason why such an address is barred, in a word for logs and counters; `None` if it is not. Asked
    /// for every connection.
    fn bars(&self, address: IpAddr) -> Option<&'static str>;

    /// The list that bars such an address, by the name that the operator knows it under; `None` where it is no single list.
    fn list(&self, _: IpAddr) -> Option<String> {
        None
    }
}

/// Bars no one.
impl IpFilter for () {
    fn bars(&self, _: IpAddr) -> Option<&'static str> {
        None
    }
}

/// Result of counting a new connection against the limits on connections at once.
#[derive(Debug)]
pub struct Admittance {
    /// The limit that it is above, if it is above one.
    pub above: Option<Limit>,
    /// Its place, which is given back when this is dropped.
    pub place: ConnectionPermit,
}

/// Connections in a row that are fine at any rate: clients open 13 to 18 at once, and families share an address.
const BURST: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Most addresses and networks that a rate is kept of. More share what the first of them leave, so that an attacker with
/// many addresses cannot fill the memory.
const MOST_KEYS: usize = 1 << 16;

/// The limits, and all that counts towards them.
pub struct Limits {
    settings: Settings,
    rate: Option<DefaultDirectRateLimiter>,
    address_rate: Option<DefaultKeyedRateLimiter<IpAddr>>,
    network_rate: Option<DefaultKeyedRateLimiter<IpAddr>>,
    counts: Arc<Counts>,
}

/// Connections at once. Survives a change of the limits.
#[derive(Debug, Default)]
pub struct Counts {
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    all: usize,
    addresses: HashMap<IpAddr, u32>,
    networks: HashMap<IpAddr, u32>,
}

/// A connection's place in the counts; dropped, it is given back.
#[derive(Debug)]
pub struct ConnectionPermit {
    counts: Arc<Counts>,
    address: IpAddr,
    network: IpAddr,
}

impl Limits {
    /// These limits over what `counts` knows of already.
    pub fn new(settings: Settings, counts: Arc<Counts>) -> Self {
        let quota = |rate: NonZeroU32| Quota::per_second(rate).allow_burst(rate.max(BURST));
        Self {
            rate: settings.rate.map(|rate| RateLimiter::direct(quota(rate))),
            address_rate: settings.address.rate.map(|rate| RateLimiter::dashmap(quota(rate))),
            network_rate: settings.network.rate.map(|rate| RateLimiter::dashmap(quota(rate))),
            counts,
            settings,
        }
    }

    /// Returns the limits in effect.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts in a connection from `from`.
    pub fn admit(&self, from: IpAddr) -> Admittance {
        let (place, above) = self.take_place(address_of(from), network_of(from));
        Admittance { above, place }
    }

    /// Says which rate a new connection from `from` is above, if it is above one; where that is what the operator wants,
    /// it waits for its turn first.
    pub async fn turn(&self, from: IpAddr) -> Option<Limit> {
        let (address, network) = (address_of(from), network_of(from));
        let address_turn = || self.address_rate.as_ref().and_then(|rate| keyed_turn(rate, address));
        let network_turn = || self.network_rate.as_ref().and_then(|rate| keyed_turn(rate, network));
        let turn = || self.rate.as_ref().and_then(direct_turn);
        let end = Instant::now() + LONGEST_WAIT;
        // The narrowest first: a crowd in one place takes nothing from the others.
        let checks: [(&(dyn Fn() -> Option<Duration> + Sync), Limit); 3] =
            [(&address_turn, Limit::AddressRate), (&network_turn, Limit::NetworkRate), (&turn, Limit::Rate)];
        for (turn, limit) in checks {
            while let Some(wait) = turn() {
                if self.settings.excess == Excess::Pass || Instant::now() + wait > end {
                    return Some(limit);
                }
                sleep(wait).await;
            }
        }
        None
    }

    fn take_place(&self, address: IpAddr, network: IpAddr) -> (ConnectionPermit, Option<Limit>) {
        let mut table = self.counts.lock();
        table.all += 1;
        let at_address = one_more(&mut table.addresses, address);
        let in_network = one_more(&mut table.networks, network);
        drop(table);
        let over = |share: Share, count: u32| share.connections.is_some_and(|most| count > most.get());
        let above = match () {
            () if over(self.settings.address, at_address) => Some(Limit::AddressConnections),
            () if over(self.settings.network, in_network) => Some(Limit::NetworkConnections),
            () => None,
        };
        (ConnectionPermit { counts: Arc::clone(&self.counts), address, network }, above)
    }

    /// Forgets the rates of those who have not come for a while. To be called every few seconds.
    pub fn tidy(&self) {
        for keyed in [&self.address_rate, &self.network_rate].into_iter().flatten() {
            keyed.retain_recent();
            keyed.shrink_to_fit();
        }
    }

    /// Whether one more connection may be accepted now.
    pub fn has_room(&self) -> bool {
        self.settings.connections.is_none_or(|most| self.counts.lock().all < most)
    }
}

impl Counts {
    /// Waits until a connection is over.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Returns the number of connections.
    pub fn all(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self.counts.lock();
        table.all -= 1;
        one_less(&mut table.addresses, self.address);
        one_less(&mut table.networks, self.network);
        drop(table);
        self.counts.freed.notify_one();
    }
}

fn one_more<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> u32 {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count
}

fn one_less<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// `None` if it is its turn now, else how long until then.
fn direct_turn(rate: &DefaultDirectRateLimiter) -> Option<Duration> {
    rate.check().err().map(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
}

fn keyed_turn(rate: &DefaultKeyedRateLimiter<IpAddr>, key: IpAddr) -> Option<Duration> {
    let key = if rate.len() < MOST_KEYS { key } else { EVERYBODY_ELSE };
    rate.check_key(&key).err().map(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
}

/// No client has this address.
const EVERYBODY_ELSE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Returns the prefix that counts as one address.
fn address_of(from: IpAddr) -> IpAddr {
    cut(from, 32, 64)
}

/// Returns the prefix that counts as one network.
fn network_of(from: IpAddr) -> IpAddr {
    cut(from, 24, 56)
}

/// The first bits of an address, by family.
pub fn cut(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from(address.to_bits() & u32::MAX.checked_shl(32 - v4).unwrap_or(0)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() & u128::MAX.checked_shl(128 - v6).unwrap_or(0)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limits(settings: Settings) -> Limits {
        Limits::new(settings, Arc::default())
    }

    #[tokio::test]
    async fn without_settings_nobody_is_above_anything() {
        let limits = limits(Settings::default());
        let mut places = Vec::new();
        for _ in 0..1000 {
            places.push(limits.admit(at("192.0.2.1")));
            assert_eq!(limits.turn(at("192.0.2.1")).await, None);
        }
        assert!(limits.has_room() && places.iter().all(|it| it.above.is_none()));
    }

    #[test]
    fn places_are_given_back_and_counts_leave_nothing_behind() {
        let share = Share { connections: NonZeroU32::new(2), rate: None };
        let limits = limits(Settings { address: share, ..Settings::default() });
        let first = limits.admit(at("2001:db8::1"));
        let second = limits.admit(at("2001:db8::2"));
        assert_eq!(limits.admit(at("2001:db8::3")).above, Some(Limit::AddressConnections), "one network of 64 bits");
        assert_eq!(limits.admit(at("2001:db8:0:1::1")).above, None);
        drop(first);
        assert_eq!(limits.admit(at("2001:db8::3")).above, None);
        drop(second);
        let table = limits.counts.lock();
        assert_eq!((table.all, table.addresses.len(), table.networks.len()), (0, 0, 0));
    }

    #[test]
    fn neighbours_share_what_their_network_may_have() {
        let share = Share { connections: NonZeroU32::new(1), rate: None };
        let limits = limits(Settings { network: share, ..Settings::default() });
        let _first = limits.admit(at("192.0.2.1"));
        assert_eq!(limits.admit(at("::ffff:192.0.2.254")).above, Some(Limit::NetworkConnections));
        assert_eq!(limits.admit(at("192.0.3.1")).above, None);
    }

    #[tokio::test]
    async fn a_rate_bears_what_a_client_opens_at_once() {
        let share = Share { connections: None, rate: NonZeroU32::new(1) };
        let limits = limits(Settings { address: share, ..Settings::default() });
        let mut turns = Vec::new();
        for _ in 0..200 {
            turns.push(limits.turn(at("192.0.2.1")).await);
        }
        assert!(turns[..64].iter().all(Option::is_none));
        assert!(turns[64..].contains(&Some(Limit::AddressRate)));
        assert_eq!(limits.turn(at("192.0.2.2")).await, None);
    }

    #[tokio::test]
    async fn those_who_come_too_fast_wait_for_their_turn() {
        let rate = NonZeroU32::new(100);
        let limits = limits(Settings { rate, excess: Excess::Delay, ..Settings::default() });
        let begun = std::time::Instant::now();
        for _ in 0..BURST.get().max(100) + 30 {
            assert_eq!(limits.turn(at("192.0.2.1")).await, None);
        }
        assert!(begun.elapsed() >= Duration::from_millis(250), "thirty took their time at a hundred a second");
    }

    #[tokio::test]
    async fn many_addresses_do_not_fill_the_memory() {
        let share = Share { connections: None, rate: NonZeroU32::new(1) };
        let limits = limits(Settings { address: share, ..Settings::default() });
        for n in 0..MOST_KEYS as u32 + 500 {
            limits.turn(Ipv4Addr::from(n).into()).await;
        }
        assert!(limits.address_rate.as_ref().unwrap().len() <= MOST_KEYS + 1);
    }

    #[test]
    fn above_the_limit_on_all_there_is_no_room() {
        let limits = limits(Settings { connections: Some(1), ..Settings::default() });
        let only = limits.admit(at("192.0.2.1"));
        assert!(!limits.has_room() && only.above.is_none());
        drop(only);
        assert!(limits.has_room());
    }
}
