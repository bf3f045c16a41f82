//! Which address of ours a middle proxy sees. It is part of a link's keys, so it has to be known: behind address
//! translation it is not the one of the socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use crate::net::stun;

/// Ways to find out our own address. The first that is known counts: what is stated, the socket's own address if the
/// whole world can reach it, what a STUN server says, what our name leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Stated addresses, one for each family.
    pub stated: Vec<IpAddr>,
    /// A STUN server, host and port.
    pub stun: Option<(String, u16)>,
    /// The name under which clients reach this machine.
    pub name: Option<String>,
}

/// Time limit of the search for our address.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time for which an address that was found is believed.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// Cache of our own addresses, so that they are not searched for at every link.
#[derive(Debug, Default)]
pub struct Found(Mutex<Vec<(IpAddr, Instant)>>);

impl Settings {
    /// Returns the address that can be told without a search.
    fn at_once(&self, local: IpAddr, theirs: IpAddr) -> Option<IpAddr> {
        let stated = self.stated.iter().copied().find(|stated| stated.is_ipv4() == local.is_ipv4());
        // Within one network no one translates.
        stated.or((is_global(local) || !is_global(theirs)).then_some(local))
    }

    /// Our address as `theirs` sees it on a link from `local`; where nothing better is known, `local` itself.
    pub async fn seen(&self, local: IpAddr, theirs: IpAddr, found: &Found) -> IpAddr {
        let (local, theirs) = (local.to_canonical(), theirs.to_canonical());
        if let Some(address) = self.at_once(local, theirs).or(found.get(local.is_ipv4())) {
            return address;
        }
        let search = timeout(PATIENCE, self.search(local.is_ipv4())).await;
        match search.ok().flatten() {
            Some(address) => {
                found.put(address);
                address
            }
            None => local,
        }
    }

    async fn search(&self, v4: bool) -> Option<IpAddr> {
        let of_family = |address: &IpAddr| address.is_ipv4() == v4;
        if let Some((host, port)) = &self.stun {
            let servers = lookup_host((&**host, *port)).await.into_iter().flatten();
            if let Some(server) = servers.into_iter().find(|server| server.is_ipv4() == v4)
                && let Ok(address) = stun::ask(server).await
            {
                return Some(address);
            }
        }
        let addresses = lookup_host((self.name.as_deref()?, 0)).await.ok()?.map(|address| address.ip().to_canonical());
        addresses.into_iter().find(|address| of_family(address) && is_global(*address))
    }
}

impl Found {
    fn get(&self, v4: bool) -> Option<IpAddr> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, since)| since.elapsed() < FRESH);
        known.iter().map(|(address, _)| *address).find(|address| address.is_ipv4() == v4)
    }

    fn put(&self, address: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((address, Instant::now()));
    }

    /// A link has failed, which may be because our address is another by now.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether the whole world can reach it.
pub fn is_global(address: IpAddr) -> bool {
    const SHARED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.to_bits() >> 22 == SHARED.to_bits() >> 22;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        // Of what is assigned to hosts everything but addresses for one site or one link is here.
        IpAddr::V6(v6) => (Ipv6Addr::from_bits(0x2000 << 112)..Ipv6Addr::from_bits(0x4000 << 112)).contains(&v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_the_world_can_reach() {
        for global in ["203.0.113.7", "8.8.8.8", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(is_global(ip(global)), "{global}");
        }
        for local in ["10.0.0.1", "127.0.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.255", "169.254.1.1", "0.0.0.0"]
        {
            assert!(!is_global(ip(local)), "{local}");
        }
        for local in ["::1", "fe80::1", "fd00::1", "::", "::ffff:10.0.0.1"] {
            assert!(!is_global(ip(local)), "{local}");
        }
    }

    #[tokio::test]
    async fn what_is_stated_goes_before_what_the_socket_says() {
        let settings = Settings { stated: vec![ip("203.0.113.7"), ip("2001:db8::7")], ..Settings::default() };
        let nothing = Found::default();
        let (private, world) = (ip("10.0.0.5"), ip("149.154.175.50"));
        assert_eq!(settings.seen(private, world, &nothing).await, ip("203.0.113.7"));
        assert_eq!(settings.seen(ip("fd00::1"), ip("2001:b28::1"), &nothing).await, ip("2001:db8::7"));
        let settings = Settings::default();
        assert_eq!(settings.seen(ip("198.51.100.1"), world, &nothing).await, ip("198.51.100.1"));
        assert_eq!(settings.seen(private, ip("10.0.0.9"), &nothing).await, private);
        assert_eq!(settings.seen(private, world, &nothing).await, private, "nothing better is known");
    }

    #[tokio::test]
    async fn behind_translation_a_name_that_leads_to_us_says_it_and_is_not_asked_again_at_once() {
        let settings = Settings { name: Some("198.51.100.9".into()), ..Settings::default() };
        let found = Found::default();
        let (private, world) = (ip("10.0.0.5"), ip("149.154.175.50"));
        assert_eq!(settings.seen(private, world, &found).await, ip("198.51.100.9"));
        assert_eq!(Settings::default().seen(private, world, &found).await, ip("198.51.100.9"));
        found.forget();
        assert_eq!(Settings::default().seen(private, world, &found).await, private);
    }
}
