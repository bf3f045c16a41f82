//! The ways to Telegram, and which of them a session takes.
//!
//! Routes are tried in their order; those of the same order share the sessions by their weights. One that failed lately goes
//! behind the others, which is known of each data centre by itself from sessions that failed, and of the route as a whole
//! from probes. A session that there is stays on its route whatever becomes of that.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::ping::{self, Answer};
use super::{DcId, Settings, hop};
use crate::auth::{Secret, SecretText};
use crate::net::health::Health;
use crate::net::resolve::Resolver;
use crate::net::route::{Dialer, Endpoint, Via};
use crate::net::{race, sockopt};
use crate::wire::HelloClass;

/// Time limit for a route to reach a data centre while there are others to try, and for the last one.
const PATIENCE: Duration = Duration::from_secs(4);
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Time limit for the answer to a probe, with the way there.
const PROBE_PATIENCE: Duration = Duration::from_secs(15);

/// A way to Telegram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name that the operator gave it.
    pub name: String,
    /// Far end of the route.
    pub way: Way,
    /// Lower ones are tried first.
    pub order: u32,
    /// The share among those of the same order.
    pub weight: u32,
    /// The data centres that it is for, without their signs; empty: all.
    pub data_centres: BTreeSet<DcId>,
    /// The users that it is for; empty: all.
    pub users: BTreeSet<String>,
}

/// Far end of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The data centres.
    Straight(Dialer),
    /// Another MTProto proxy, which goes on to them.
    Hop {
        /// The way to it.
        dialer: Dialer,
        /// Host and port of the proxy.
        place: Endpoint,
        /// Secret of the proxy.
        pass: SecretText,
    },
}

impl Way {
    /// The same with someone else to ask about names.
    pub fn asking(&self, names: &Resolver) -> Self {
        match self {
            Self::Straight(dialer) => Self::Straight(dialer.asking(names)),
            Self::Hop { dialer, place, pass } => {
                Self::Hop { dialer: dialer.asking(names), place: place.clone(), pass: pass.clone() }
            }
        }
    }
}

impl Default for Route {
    /// The direct one that there is when none is configured.
    fn default() -> Self {
        Self {
            name: "direct".into(),
            way: Way::Straight(Dialer::default()),
            order: 0,
            weight: 1,
            data_centres: BTreeSet::new(),
            users: BTreeSet::new(),
        }
    }
}

impl Route {
    /// Whether it is for this data centre and this user.
    fn is_for(&self, dc: DcId, user: &str) -> bool {
        (self.data_centres.is_empty() || self.data_centres.contains(&dc.unsigned()))
            && (self.users.is_empty() || self.users.contains(user))
    }

    /// Whether it goes to Telegram without any proxy, for everybody and to every data centre.
    pub fn is_plain(&self) -> bool {
        self.direct().is_some() && self.users.is_empty() && self.data_centres.is_empty()
    }

    /// A word for its kind, as in the configuration.
    pub fn kind(&self) -> &'static str {
        match &self.way {
            Way::Hop { .. } => "mtproto",
            Way::Straight(dialer) => match dialer.route().via {
                Via::Direct => "direct",
                Via::Socks5 { .. } => "socks5",
                Via::Socks4a { .. } => "socks4a",
                Via::Http { .. } => "http",
                Via::Shadowsocks(_) => "shadowsocks",
            },
        }
    }
}

/// A connection that leads to a data centre; nothing has been said over it yet.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub stream: TcpStream,
    /// Way in which it came about.
    pub by: By,
    /// Whether it stood ready, so that it may have died unnoticed.
    pub warm: bool,
    /// The secret of the proxy at its other end, whose header it takes in place of a data centre's.
    pub proxy: Option<Secret>,
}

/// Way in which a connection came about, for [`Upstream::broke`](super::Upstream::broke).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    route: u64,
    dc: DcId,
    pub(super) address: Option<SocketAddr>,
}

/// State of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// A word for its kind.
    pub kind: &'static str,
    /// Whether it worked the last time.
    pub well: bool,
    /// Number of connections that came about over it.
    pub reached: u64,
    /// Number of attempts that failed.
    pub failed: u64,
}

/// The routes in use.
#[derive(Debug)]
pub(super) struct Routes {
    live: Vec<Arc<Live>>,
    /// By route and data centre; [`WHOLE`] is what probes say of the route as such.
    health: Arc<Health<(u64, DcId)>>,
}

const WHOLE: DcId = DcId::new(0);

#[derive(Debug)]
struct Live {
    /// Never the same twice.
    id: u64,
    route: Route,
    /// Whether the proxy at its end wants to be greeted as clients of old did it: some know no other hello.
    old_hello: AtomicBool,
    reached: AtomicU64,
    failed: AtomicU64,
}

impl Routes {
    /// These routes, or the direct one if there are none. What is known of those that stay is kept.
    pub fn new(routes: &[Route], before: Option<&Self>) -> Self {
        let health = before.map(|before| Arc::clone(&before.health)).unwrap_or_default();
        let same = |route: &Route| before?.live.iter().find(|live| live.route == *route).cloned();
        let live = |route: &Route| same(route).unwrap_or_else(|| Arc::new(Live::new(route.clone())));
        let live = match routes {
            [] => vec![live(&Route::default())],
            routes => routes.iter().map(live).collect(),
        };
        Self { live, health }
    }

    /// Connects to a data centre that has these addresses, over the first route that leads there.
    pub async fn connect(&self, dc: DcId, user: &str, addresses: &[SocketAddr]) -> io::Result<Reached> {
        let began = Instant::now();
        let routes = self.arranged(dc, user, began, || rand::rng().random());
        let mut failure = None;
        for (at, live) in routes.iter().enumerate() {
            let patience = if at + 1 == routes.len() { LAST_PATIENCE } else { PATIENCE };
            let error = match live.reach(dc, addresses, patience).await {
                Ok(reached) => {
                    live.reached.fetch_add(1, Ordering::Relaxed);
                    self.health.worked((live.id, dc.unsigned()), began, Instant::now());
                    return Ok(reached);
                }
                Err(error) => error,
            };
            live.failed.fetch_add(1, Ordering::Relaxed);
            if !race::is_ours(&error) {
                self.health.failed((live.id, dc.unsigned()), Instant::now());
            }
            failure.get_or_insert_with(|| live.route.blame(error));
        }
        Err(failure
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no route is for this user and data centre")))
    }

    /// Whether a connection may be opened before it is known for whom: it is for everybody, and ends at a data centre.
    pub fn can_wait(&self) -> bool {
        self.live.iter().all(|live| live.route.users.is_empty() && matches!(live.route.way, Way::Straight(_)))
    }

    /// Connects to one of these addresses as they are, for those to whom it matters where they come from: no proxy is
    /// between.
    pub async fn dial(&self, addresses: &[SocketAddr]) -> io::Result<Reached> {
        let direct = |live: &&Arc<Live>| live.route.direct().is_some();
        self.first(self.live.iter().filter(direct), addresses).await
    }

    /// Connects to one of these addresses, which are no data centre's.
    pub async fn fetch(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let straight = |live: &&Arc<Live>| matches!(live.route.way, Way::Straight(_));
        Ok(self.first(self.live.iter().filter(straight), addresses).await?.stream)
    }

    async fn first(&self, routes: impl Iterator<Item = &Arc<Live>>, addresses: &[SocketAddr]) -> io::Result<Reached> {
        let mut failure = None;
        for live in routes {
            match live.reach(WHOLE, addresses, LAST_PATIENCE).await {
                Ok(reached) => return Ok(reached),
                Err(error) => _ = failure.get_or_insert_with(|| live.route.blame(error)),
            }
        }
        Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no route leads there")))
    }

    /// A connection broke before the first byte came over it.
    pub fn broke(&self, by: By) {
        let Some(live) = self.live.iter().find(|live| live.id == by.route) else { return };
        match (live.route.direct(), by.address) {
            // There may be another address.
            (Some(dialer), Some(address)) => dialer.broke(address),
            _ => self.health.failed((by.route, by.dc), Instant::now()),
        }
    }

    /// Whether connections like this one have been found to break, or to fail, since it was opened.
    pub fn is_bad(&self, by: By) -> bool {
        let Some(live) = self.live.iter().find(|live| live.id == by.route) else { return true };
        match (live.route.direct(), by.address) {
            (Some(dialer), Some(address)) => dialer.is_bad(address),
            _ => self.health.is_bad(&(by.route, by.dc)),
        }
    }

    /// Returns the state of each route, in the order of the configuration.
    pub fn standing(&self) -> Vec<Standing> {
        let known = |live: &Arc<Live>| Standing {
            name: live.route.name.clone(),
            kind: live.route.kind(),
            well: self.is_well(live),
            reached: live.reached.load(Ordering::Relaxed),
            failed: live.failed.load(Ordering::Relaxed),
        };
        self.live.iter().map(known).collect()
    }

    /// Asks a data centre something over each route, if there is a choice or one has failed, and remembers what came of it.
    pub async fn probe(&self, addresses: impl Fn(DcId) -> Vec<SocketAddr>) {
        if self.live.len() < 2 && self.live.iter().all(|live| self.is_well(live)) {
            return;
        }
        let began = Instant::now();
        let probes = self.live.iter().map(|live| {
            let (live, dc) = (Arc::clone(live), live.route.probed());
            let addresses = addresses(dc);
            async move { (live.id, live.route.name.clone(), live.probe(dc, &addresses).await) }
        });
        let outcomes = probes.collect::<JoinSet<_>>().join_all().await;
        for (id, route, outcome) in outcomes {
            match outcome {
                Ok(_) => self.health.worked((id, WHOLE), began, Instant::now()),
                Err(error) => {
                    debug!(route, %error, "a route does not work");
                    self.health.failed((id, WHOLE), Instant::now());
                }
            }
        }
    }

    fn is_well(&self, live: &Live) -> bool {
        let asked = [live.route.probed().unsigned(), WHOLE];
        !asked.iter().any(|dc| self.health.is_bad(&(live.id, *dc)))
    }

    /// The routes for a session in the order in which they are to be tried. `random` gives numbers from 0 to 1.
    fn arranged(&self, dc: DcId, user: &str, now: Instant, mut random: impl FnMut() -> f64) -> Vec<Arc<Live>> {
        let fit: Vec<_> = self.live.iter().filter(|live| live.route.is_for(dc, user)).collect();
        // Anyone who draws the smallest goes first, and does so as often as its weight has it.
        let mut drawn: Vec<_> = fit.iter().map(|live| (live.route.order, live.route.lot(random()), *live)).collect();
        drawn.sort_by(|(order, lot, _), (other, than, _)| order.cmp(other).then(lot.total_cmp(than)));
        let keys: Vec<_> = drawn.iter().map(|(_, _, live)| (live.id, dc.unsigned())).collect();
        // What is not known yet is as good as what worked: the order is the operator's.
        let (bad, good): (Vec<_>, Vec<_>) = keys.iter().partition(|(id, _)| self.health.is_bad(&(*id, WHOLE)));
        let ordered = [self.health.bad_last(&good, now), self.health.bad_last(&bad, now)].concat();
        let of = |(id, _): (u64, DcId)| fit.iter().find(|live| live.id == id).map(|live| Arc::clone(live));
        ordered.into_iter().filter_map(of).collect()
    }
}

impl Route {
    /// Asks a data centre for an answer over it, for tests before the proxy runs.
    pub async fn ask(&self, settings: &Settings) -> io::Result<Answer> {
        let dc = self.probed();
        Live::new(self.clone()).probe(dc, &settings.addresses(dc)).await
    }

    fn direct(&self) -> Option<&Dialer> {
        match &self.way {
            Way::Straight(dialer) if dialer.route().via == Via::Direct => Some(dialer),
            _ => None,
        }
    }

    /// The data centre that probes ask.
    fn probed(&self) -> DcId {
        self.data_centres.first().copied().unwrap_or(DcId::new(2))
    }

    /// Its place among those of the same order (weighted random sampling after Efraimidis and Spirakis).
    fn lot(&self, random: f64) -> f64 {
        -random.max(f64::MIN_POSITIVE).ln() / f64::from(self.weight)
    }

    fn blame(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.name))
    }
}

impl Live {
    fn new(route: Route) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let id = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { id, route, old_hello: AtomicBool::new(false), reached: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    async fn reach(&self, dc: DcId, addresses: &[SocketAddr], patience: Duration) -> io::Result<Reached> {
        let by = |address| By { route: self.id, dc: dc.unsigned(), address };
        let reached = match &self.route.way {
            Way::Straight(dialer) if dialer.route().via == Via::Direct => {
                let (address, stream) = dialer.race(addresses, patience).await?;
                Reached { stream, by: by(Some(address)), warm: false, proxy: None }
            }
            Way::Straight(dialer) => {
                let stream = dialer.connect_to_any(addresses, patience).await?;
                Reached { stream, by: by(None), warm: false, proxy: None }
            }
            Way::Hop { dialer, place, pass } => {
                let entering = async { self.enter(dialer.connect(place, patience).await?, pass).await };
                let stream = timeout(patience, entering).await??;
                Reached { stream, by: by(None), warm: false, proxy: Some(pass.secret.clone()) }
            }
        };
        sockopt::no_delay(&reached.stream);
        sockopt::keep_alive(&reached.stream);
        Ok(reached)
    }

    async fn enter(&self, stream: TcpStream, pass: &SecretText) -> io::Result<TcpStream> {
        sockopt::no_delay(&stream);
        sockopt::keep_alive(&stream);
        let old = self.old_hello.load(Ordering::Relaxed);
        let class = if old { HelloClass::Padded517 } else { HelloClass::ChromeHybrid };
        let entered = hop::enter(stream, pass, class).await;
        if matches!(&entered, Err(error) if error.kind() == io::ErrorKind::PermissionDenied) {
            self.old_hello.store(!old, Ordering::Relaxed);
        }
        entered
    }

    /// Asks a data centre for an answer over this route.
    async fn probe(&self, dc: DcId, addresses: &[SocketAddr]) -> io::Result<Answer> {
        let asking = async {
            let start = Instant::now();
            let mut reached = self.reach(dc, addresses, LAST_PATIENCE).await?;
            let connect = start.elapsed();
            let mut random = StdRng::from_rng(&mut rand::rng());
            let time = ping::ask(&mut reached.stream, reached.proxy.as_ref(), dc, &mut random).await;
            let time = time.map_err(io::Error::other)?;
            Ok(Answer { connect, answer: start.elapsed() - connect, time })
        };
        timeout(PROBE_PATIENCE, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::route;

    const DC: DcId = DcId::new(2);

    fn named(name: &str, order: u32) -> Route {
        Route { name: name.into(), order, ..Route::default() }
    }

    fn names(routes: &Routes, dc: i16, user: &str, now: Instant) -> Vec<String> {
        let arranged = routes.arranged(DcId::new(dc), user, now, || 0.5);
        arranged.iter().map(|live| live.route.name.clone()).collect()
    }

    #[test]
    fn routes_are_tried_in_their_order_and_only_for_what_they_are_for() {
        let now = Instant::now();
        let four = Route { data_centres: [DcId::new(4)].into(), ..named("four", 1) };
        let alices = Route { users: ["alice".to_owned()].into(), ..named("alices", 2) };
        let routes = Routes::new(&[named("last", 9), alices, four], None);
        assert_eq!(names(&routes, 2, "bob", now), ["last"]);
        assert_eq!(names(&routes, -4, "bob", now), ["four", "last"]);
        assert_eq!(names(&routes, 4, "alice", now), ["four", "alices", "last"]);
    }

    #[test]
    fn weights_are_shares_among_equals() {
        let heavy = Route { weight: 3, ..named("heavy", 1) };
        let routes = Routes::new(&[named("light", 1), heavy], None);
        let (mut random, now) = (StdRng::seed_from_u64(1), Instant::now());
        let first = |_: &usize| routes.arranged(DC, "", now, || random.random())[0].route.name == "heavy";
        let count = (0..4000).filter(first).count();
        assert!((2850..3150).contains(&count), "{count} of 4000");
    }

    #[test]
    fn what_failed_goes_last_for_its_data_centre_and_what_a_probe_found_for_all() {
        let now = Instant::now();
        let routes = Routes::new(&[named("a", 1), named("b", 2)], None);
        routes.health.failed((routes.live[0].id, DC), now);
        assert_eq!(names(&routes, 2, "", now), ["b", "a"]);
        assert_eq!(names(&routes, -2, "", now), ["b", "a"]);
        assert_eq!(names(&routes, 3, "", now), ["a", "b"]);
        routes.health.worked((routes.live[0].id, DC), now, now);
        routes.health.failed((routes.live[0].id, WHOLE), now);
        assert_eq!(names(&routes, 3, "", now), ["b", "a"]);
        assert_eq!(names(&routes, 3, "", now + Duration::from_secs(3600)), ["b", "a"], "only a probe changes that");
        assert_eq!(routes.standing().iter().map(|known| known.well).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_is_known_of_a_route_stays_with_it_and_goes_when_it_changes() {
        let before = Routes::new(&[named("a", 1), named("b", 2)], None);
        before.health.failed((before.live[1].id, DC), Instant::now());
        let after = Routes::new(&[named("b", 2), named("c", 1)], Some(&before));
        assert_eq!(after.standing().iter().map(|known| known.well).collect::<Vec<_>>(), [false, true]);
        let changed = Routes::new(&[named("b", 3)], Some(&after));
        assert!(changed.standing()[0].well);
    }

    #[tokio::test]
    async fn probes_find_a_route_that_leads_nowhere() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let via = Via::Socks5 { proxy: gone.into(), login: None };
        let dialer = Dialer::new(route::Route { via, ..route::Route::default() }, Resolver::System);
        let straight = Route { way: Way::Straight(dialer), ..named("gone", 1) };
        let routes = Routes::new(&[straight.clone(), named("other", 2)], None);
        assert!(routes.standing()[0].well);
        routes.probe(|_| vec!["127.0.0.1:9".parse().unwrap()]).await;
        assert!(!routes.standing()[0].well);
        let alone = Routes::new(&[straight], None);
        alone.probe(|_| Vec::new()).await;
        assert!(alone.standing()[0].well, "no one has asked");
    }
}
