//! Middle proxies: Telegram's own servers between a proxy and its data centres, through which a proxy goes that shows a
//! promoted channel to its users, or whose users shall get media as any.
//!
//! ```text
//! sessions ─▶ Port ─▶ StreamTable ─▶ Link ═══ AES-CBC ═══▶ middle proxy ─▶ data centre
//!             (one each)       (one for some hundred clients; a Pool of them for each data centre)
//! ```
//!
//! [`opening`] is the handshake of a link without its socket, [`link`] an open link, [`pulse`] what becomes of
//! one that is silent, [`streams`] who sits on it and what
//! waits for them, [`pool`] opens links and replaces them, [`port`] is what a session holds, [`own`] finds out which
//! address of ours is part of the keys. Where there is no link, [`Middle::attach`] says so soon, and the session goes the
//! direct way.

pub mod link;
pub mod opening;
pub mod own;
pub mod pool;
pub mod port;
pub mod pulse;
pub mod streams;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::timeout;
use tracing::info;

pub use port::{Caller, Port};

use super::lists::Lists;
use super::{DcId, Family, Upstream};
use crate::auth::UnixTime;
use crate::crypto::middle_kdf::MiddleSecret;
use link::Cause;
use own::Found;
use pool::Pool;
use streams::Waiting;

/// Which middle proxies there are, and their secret. Telegram publishes both, and changes them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The secret.
    pub secret: MiddleSecret,
    /// Addresses by the number of the data centre; negative: its media cluster.
    pub clusters: BTreeMap<DcId, Vec<SocketAddr>>,
    /// The one for numbers that are not listed.
    pub default: Option<DcId>,
}

/// Settings of the operator for middle proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// A secret in place of the published one.
    pub secret: Option<MiddleSecret>,
    /// Addresses in place of the published ones.
    pub addresses: BTreeMap<DcId, Vec<SocketAddr>>,
    /// Which family is tried first.
    pub prefer: Family,
    /// Ways to find out our own address.
    pub own: own::Settings,
    /// Whether middle proxies are told the addresses of clients. Otherwise they are told our own.
    pub tell_addresses: bool,
}

impl Settings {
    /// Returns the directory in effect, given the published one. Addresses that are stated count alone: a list is of
    /// one piece.
    pub fn directory(&self, published: Option<&Directory>) -> Option<Directory> {
        let secret = self.secret.clone().or(published.map(|published| published.secret.clone()))?;
        let (clusters, default) = match (self.addresses.is_empty(), published) {
            (false, _) => (self.addresses.clone(), None),
            (true, Some(published)) => (published.clusters.clone(), published.default),
            (true, None) => return None,
        };
        Some(Directory { secret, clusters, default })
    }
}

impl Directory {
    /// Makes a directory of Telegram's lists, once secret and addresses are there.
    pub fn published(lists: &Lists) -> Option<Self> {
        let secret = MiddleSecret::new(lists.secret.as_ref()?.bytes())?;
        let mut clusters = lists.v4.by_centre.clone();
        for (dc, addresses) in &lists.v6.by_centre {
            clusters.entry(*dc).or_default().extend(addresses);
        }
        let default = lists.v4.default.or(lists.v6.default);
        (!clusters.is_empty()).then_some(Self { secret, clusters, default })
    }

    /// Returns the addresses of the middle proxies for this data centre, those of the preferred family first. Test
    /// centres have none unless they are listed: the default for numbers that are not is a production one.
    pub fn addresses(&self, dc: DcId, prefer: Family) -> Option<Vec<SocketAddr>> {
        const FIRST_TEST: u16 = 10_000;
        let fallback = || self.default.filter(|_| dc.number().unsigned_abs() < FIRST_TEST);
        let found = self.clusters.get(&dc).or_else(|| self.clusters.get(&fallback()?))?;
        let mut addresses = found.clone();
        addresses.sort_by_key(|address| (address.is_ipv4() != (prefer == Family::Ipv4), *address));
        addresses.dedup();
        (!addresses.is_empty()).then_some(addresses)
    }
}

/// Reason why a session gets no seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Neither is anything stated nor was anything fetched so far.
    NoDirectory,
    /// There is no middle proxy for this data centre.
    NoCluster,
    /// It takes too long to open a link.
    TooSlow,
    /// The last attempt to open a link failed, and the next one is not due yet.
    Failed(String),
}

impl Unavailable {
    /// A short name without details, by which lines of the log are counted together.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoDirectory => "no directory",
            Self::NoCluster => "no cluster",
            Self::TooSlow => "too slow",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory => f.write_str("the addresses of middle proxies are not known"),
            Self::NoCluster => f.write_str("there is no middle proxy for this data centre"),
            Self::TooSlow => f.write_str("a link takes too long to open"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// State of the links to middle proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Links that are open.
    pub links: u64,
    /// Clients that can attach down beside others: those on links that were replaced are not among them.
    pub clients: usize,
    /// Bytes that wait for clients.
    pub waiting: usize,
    /// Links that were opened since the start.
    pub opened: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Links that are over, in the order of [`Cause::ALL`].
    pub ends: [u64; Cause::ALL.len()],
}

/// All links.
#[derive(Debug)]
pub struct Middle {
    common: Arc<Common>,
    published: ArcSwapOption<Directory>,
    directory: ArcSwapOption<Directory>,
    /// By addresses, since nothing else tells data centres apart: several may be behind one middle proxy.
    pools: Mutex<BTreeMap<Vec<SocketAddr>, Arc<Pool>>>,
}

/// State that all pools share.
#[derive(Debug)]
struct Common {
    upstream: Upstream,
    settings: ArcSwap<Settings>,
    waiting: Arc<Waiting>,
    found: Found,
    counts: Counts,
    start: UnixTime,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    ends: [AtomicU64; Cause::ALL.len()],
    failed: AtomicU64,
}

impl Counts {
    fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, cause: Cause) {
        self.ends[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Longest wait of a client for a link before it goes the direct way.
const PATIENCE: Duration = Duration::from_secs(4);

impl Middle {
    /// No links yet; they will be dialled by `upstream`.
    pub fn new(settings: Settings, upstream: Upstream) -> Self {
        let directory = settings.directory(None).map(Arc::new);
        let common = Common {
            upstream,
            settings: ArcSwap::from_pointee(settings),
            waiting: Arc::default(),
            found: Found::default(),
            counts: Counts::default(),
            start: SystemTime::now().into(),
        };
        Self {
            common: Arc::new(common),
            published: ArcSwapOption::empty(),
            directory: ArcSwapOption::new(directory),
            pools: Mutex::default(),
        }
    }

    /// From now on this is published.
    pub fn publish(&self, directory: Directory) {
        self.published.store(Some(Arc::new(directory)));
        self.settle();
    }

    /// From now on these settings hold.
    pub fn apply(&self, settings: Settings) {
        if **self.common.settings.load() != settings {
            self.common.settings.store(Arc::new(settings));
            self.common.found.forget();
            self.settle();
        }
    }

    /// Lets go of links that the present directory would not open. Clients that attach on them stay until they leave.
    fn settle(&self) {
        let settings = self.common.settings.load();
        let new = settings.directory(self.published.load().as_deref()).map(Arc::new);
        let mut pools = self.pools();
        let old = self.directory.swap(new.clone());
        let secret = |directory: &Option<Arc<Directory>>| directory.as_ref().map(|directory| directory.secret.clone());
        let same_secret = secret(&old) == secret(&new);
        let wanted = |addresses: &Vec<SocketAddr>| {
            new.as_ref().is_some_and(|new| {
                new.clusters.keys().any(|dc| new.addresses(*dc, settings.prefer).as_ref() == Some(addresses))
            })
        };
        let (mut kept, mut retired) = (BTreeMap::new(), 0);
        for (addresses, pool) in std::mem::take(&mut *pools) {
            if same_secret && wanted(&addresses) {
                pool.reset_backoff();
                kept.insert(addresses, pool);
            } else {
                pool.retire();
                retired += 1;
            }
        }
        if retired > 0 {
            info!(
                data_centres = retired,
                "middle proxies have changed: their links are replaced as clients leave them"
            );
        }
        *pools = kept;
    }

    /// A seat for a client of this data centre. Fails soon rather than let the client wait.
    pub async fn attach(&self, dc: DcId, caller: Caller) -> Result<Port, Unavailable> {
        let (pool, directory) = self.pool(dc)?;
        let seat = pool.attach(&self.common, &directory, caller);
        timeout(PATIENCE, seat).await.unwrap_or(Err(Unavailable::TooSlow))
    }

    fn pool(&self, dc: DcId) -> Result<(Arc<Pool>, Arc<Directory>), Unavailable> {
        let mut pools = self.pools();
        let directory = self.directory.load_full().ok_or(Unavailable::NoDirectory)?;
        let addresses = directory.addresses(dc, self.common.settings.load().prefer).ok_or(Unavailable::NoCluster)?;
        let pool = pools.entry(addresses.clone()).or_insert_with(|| Arc::new(Pool::new(addresses)));
        Ok((Arc::clone(pool), directory))
    }

    /// Whether middle proxies are told the addresses of clients.
    pub fn tells_addresses(&self) -> bool {
        self.common.settings.load().tell_addresses
    }

    /// Returns the state of the links.
    pub fn standing(&self) -> Standing {
        let counts = &self.common.counts;
        let ends = counts.ends.each_ref().map(|count| count.load(Ordering::Relaxed));
        let opened = counts.opened.load(Ordering::Relaxed);
        Standing {
            links: opened.saturating_sub(ends.iter().sum()),
            clients: self.pools().values().map(|pool| pool.clients()).sum(),
            waiting: self.common.waiting.bytes(),
            opened,
            failed: counts.failed.load(Ordering::Relaxed),
            ends,
        }
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<Vec<SocketAddr>, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telegram::lists::{Clusters, ProxySecret, Version};

    fn published() -> Directory {
        let v4 = b"default 2; proxy_for 2 192.0.2.2:8888; proxy_for -2 192.0.2.3:8888; proxy_for 2 192.0.2.1:8888;";
        let v6 = b"proxy_for 2 [2001:db8::2]:8888;";
        let lists = Lists {
            secret: Some(ProxySecret::new(&[0xab; 64]).unwrap()),
            v4: Clusters::parse(v4, Version::V4).unwrap(),
            v6: Clusters::parse(v6, Version::V6).unwrap(),
        };
        assert_eq!(Directory::published(&Lists { secret: None, ..lists.clone() }), None);
        Directory::published(&lists).unwrap()
    }

    fn addresses(directory: &Directory, dc: i16, prefer: Family) -> Vec<String> {
        let found = directory.addresses(DcId::new(dc), prefer).unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_published_leads_to_clusters_and_to_the_default_where_that_makes_sense() {
        let directory = published();
        assert_eq!(addresses(&directory, 2, Family::Ipv4), ["192.0.2.1:8888", "192.0.2.2:8888", "[2001:db8::2]:8888"]);
        assert_eq!(addresses(&directory, 2, Family::Ipv6)[0], "[2001:db8::2]:8888");
        assert_eq!(addresses(&directory, -2, Family::Ipv4), ["192.0.2.3:8888"]);
        assert_eq!(addresses(&directory, 5, Family::Ipv4), addresses(&directory, 2, Family::Ipv4));
        assert!(addresses(&directory, 10_002, Family::Ipv4).is_empty(), "a test centre is none of production");
    }

    #[test]
    fn what_is_stated_goes_before_what_is_published() {
        let (published, secret) = (published(), MiddleSecret::new(&[1; 32]));
        let settings = Settings { secret: secret.clone(), ..Settings::default() };
        assert_eq!(Settings::default().directory(None), None);
        assert_eq!(Settings::default().directory(Some(&published)), Some(published.clone()));
        assert_eq!(settings.directory(None), None);
        assert_eq!(settings.directory(Some(&published)).map(|it| Some(it.secret)), Some(secret));
        let stated = BTreeMap::from([(DcId::new(4), vec!["192.0.2.9:1".parse().unwrap()])]);
        let settings = Settings { addresses: stated, ..settings };
        let directory = settings.directory(Some(&published)).unwrap();
        assert_eq!(addresses(&directory, 4, Family::Ipv4), ["192.0.2.9:1"]);
        assert!(addresses(&directory, 2, Family::Ipv4).is_empty(), "lists are not mixed");
        assert_eq!(settings.directory(None), Some(directory));
    }

    #[tokio::test]
    async fn who_cannot_have_a_seat_is_told_at_once_and_why() {
        let caller = Caller { client: None, framing: crate::wire::packets::Framing::Padded, tag: None };
        let middle = Middle::new(Settings::default(), Upstream::new(crate::telegram::Settings::default()));
        let outcome = middle.attach(DcId::new(2), caller).await.map(|_| ());
        assert_eq!(outcome, Err(Unavailable::NoDirectory));
        middle.publish(published());
        let outcome = middle.attach(DcId::new(10_002), caller).await.map(|_| ());
        assert_eq!(outcome, Err(Unavailable::NoCluster));
        assert_eq!(middle.standing(), Standing::default());
    }
}
