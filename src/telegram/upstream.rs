//! The way to Telegram: every connection that the running proxy opens to a data centre, or to a place near one, is opened
//! here.
//!
//! There is one [`Upstream`] for as long as the server lives. A reload gives it other [`Settings`]; what it has learnt of
//! addresses survives. It is meant to be used like this:
//!
//! - a session asks for a data centre by its number: [`Upstream::connect`]. It may get a connection that stood ready
//!   (module `pool`); if that turns out to be dead, [`Upstream::connect_anew`];
//! - anyone who has addresses of its own, such as those of middle proxies, asks for one of them: [`Upstream::dial`]. The memory
//!   is the same, so an address that failed for one is tried last by the other;
//! - who finds later that an address accepts connections and breaks them says so: [`Upstream::broke`];
//! - Telegram's lists come through [`Upstream::lists`], for anyone who says that it needs them: [`Upstream::want_lists`].
//!
//! All of them take one of the [`routes`](super::routes), which race the addresses ([`net::race`](crate::net::race)).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::lists::Lists;
use super::pool::{LONGEST, Order, Pool, Rests};
use super::routes::{By, Reached, Routes, Standing};
use super::{DcId, Family, Settings};
use crate::base::told::ToldTime;
use crate::net::race::interleaved;
use crate::net::sockopt;

/// Interval at which routes are probed, give or take a fifth.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// Interval at which the connections that stand ready are looked after.
const TEND: Duration = Duration::from_secs(5);

/// Reaches Telegram. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: ArcSwap<Settings>,
    routes: ArcSwap<Routes>,
    pool: Pool<Reached>,
    lists: watch::Sender<Arc<Lists>>,
    /// Urgency of the lists. It is also touched when the settings change.
    need: watch::Sender<Need>,
    /// The time that Telegram's web server told with its lists.
    told: ToldTime,
}

/// Urgency of the need for Telegram's lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// No one does.
    #[default]
    Nothing,
    /// There is something else in their place meanwhile.
    Sometime,
    /// Without them something does not work.
    Soon,
}

/// Reason why there is no connection to a data centre.
#[derive(Debug)]
pub enum ReachError {
    /// There is no data centre of this number.
    Unknown,
    /// It could not be reached over any route.
    Unreachable(io::Error),
}

impl Upstream {
    /// A way to the data centres of these settings. Nothing is known of them yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            routes: ArcSwap::from_pointee(Routes::new(&settings.routes, None)),
            settings: ArcSwap::from_pointee(settings),
            pool: Pool::default(),
            lists: watch::Sender::default(),
            need: watch::Sender::default(),
            told: ToldTime::default(),
        }))
    }

    /// The settings that hold now.
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings.load_full()
    }

    /// From now on these settings hold. Connections of sessions stay as they are; those that stand ready are closed if
    /// anything is different.
    pub fn replace(&self, settings: Settings) {
        self.0.routes.store(Arc::new(Routes::new(&settings.routes, Some(&self.0.routes.load()))));
        let before = self.0.settings.swap(Arc::new(settings));
        if *before != *self.0.settings.load_full() {
            self.0.pool.clear();
            self.0.need.send_modify(|_| {});
        }
    }

    /// Connects to a data centre for this user, or takes a connection to it that stands ready.
    pub async fn connect(&self, dc: DcId, user: &str) -> Result<Reached, ReachError> {
        let settings = self.0.settings.load_full();
        if let (Some(centre), 1..) = (settings.centre(dc), settings.warm)
            && self.0.routes.load().can_wait()
            && let Some(ready) = self.0.pool.take(centre, Instant::now())
        {
            sockopt::keep_alive(&ready.stream);
            return Ok(ready);
        }
        self.connect_anew(dc, user).await
    }

    /// Connects to a data centre for this user.
    pub async fn connect_anew(&self, dc: DcId, user: &str) -> Result<Reached, ReachError> {
        let addresses = self.0.addresses(dc);
        if addresses.is_empty() {
            return Err(ReachError::Unknown);
        }
        let routes = self.0.routes.load_full();
        routes.connect(dc, user, &addresses).await.map_err(ReachError::Unreachable)
    }

    /// Connects to one of these addresses, with no other proxy between: who is there knows where we come from.
    pub async fn dial(&self, addresses: &[SocketAddr]) -> io::Result<Reached> {
        let routes = self.0.routes.load_full();
        routes.dial(addresses).await
    }

    /// Connects to one of these addresses over any route but those to another proxy for Telegram.
    pub async fn fetch(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let routes = self.0.routes.load_full();
        routes.fetch(addresses).await
    }

    /// A connection broke before the first byte came over it. Others are tried before its like for a while.
    pub fn broke(&self, by: By) {
        self.0.routes.load().broke(by);
        self.0.pool.discard(|ready| ready.by == by);
    }

    /// Returns the state of each route, in the order of the configuration.
    pub fn routes(&self) -> Vec<Standing> {
        self.0.routes.load().standing()
    }

    /// Finds out again and again whether routes work, where that makes a difference, for as long as it is polled.
    pub async fn keep_probing(&self) {
        loop {
            sleep(PROBE_EVERY.mul_f64(rand::random_range(0.8..1.2))).await;
            let routes = self.0.routes.load_full();
            routes.probe(|dc| self.0.addresses(dc)).await;
        }
    }

    /// Keeps connections ready, as many as the demand wants, for as long as this is polled; then there are none.
    pub async fn keep_warm(&self) {
        let _closing = Closing(&self.0.pool);
        let mut opening = JoinSet::new();
        loop {
            let most = self.0.settings.load().warm;
            for order in self.0.pool.tend(most.into(), Instant::now()) {
                let upstream = self.clone();
                opening.spawn(async move { upstream.stock(order).await });
            }
            tokio::select! {
                Some(_) = opening.join_next() => {}
                () = self.0.pool.asked.notified() => {}
                () = sleep(TEND), if !self.0.pool.is_at_rest() => {}
            }
        }
    }

    async fn stock(&self, order: Order) {
        match self.connect_anew(order.dc, "").await {
            Ok(reached) => {
                sockopt::notice_soon(&reached.stream);
                // A little apart, so that what was opened together is not replaced together.
                let age = LONGEST.mul_f64(0.75 + 0.25 * rand::random::<f64>());
                let by = reached.by;
                self.0.pool.put(order, Reached { warm: true, ..reached }, Instant::now() + age);
                // Asked only now: anyone who finds out later finds it in the pool.
                if self.0.routes.load().is_bad(by) {
                    self.0.pool.discard(|ready| ready.by == by);
                }
            }
            Err(_) => self.0.pool.failed(order, Instant::now()),
        }
    }

    /// Returns the number of connections that stand ready.
    pub fn ready(&self) -> usize {
        self.0.pool.len()
    }

    /// Telegram's lists as they were last seen, and news of them.
    pub fn lists(&self) -> watch::Receiver<Arc<Lists>> {
        self.0.lists.subscribe()
    }

    /// Someone needs the lists from now on. They are fetched if the settings allow it.
    pub fn want_lists(&self, need: Need) {
        self.0.want(need);
    }

    /// The time that Telegram's web server told last. It cannot be made up on the way: the lists come over HTTPS.
    pub fn told_time(&self) -> &ToldTime {
        &self.0.told
    }

    /// Returns the urgency of the lists.
    pub(super) fn need(&self) -> Need {
        *self.0.need.borrow()
    }

    /// Waits until the lists are needed more than now, or the settings are others. Nothing that happens after this call is
    /// missed.
    pub(super) fn needs_changed(&self) -> impl Future<Output = ()> + use<> {
        let mut need = self.0.need.subscribe();
        async move {
            // It cannot close: someone who waits holds the upstream.
            let _ = need.changed().await;
        }
    }

    /// From now on these are the lists; says whether they are others than before.
    pub(super) fn publish(&self, lists: Lists) -> bool {
        self.0.lists.send_if_modified(|known| {
            let others = **known != lists;
            if others {
                *known = Arc::new(lists);
            }
            others
        })
    }
}

/// The data centre for content delivery, the one whose addresses are in Telegram's lists.
const CONTENT: [DcId; 2] = [DcId::new(203), DcId::new(-203)];

impl Inner {
    /// The addresses of a data centre in the order of preference.
    fn addresses(&self, dc: DcId) -> Vec<SocketAddr> {
        let settings = self.settings.load();
        let mut addresses = settings.addresses(dc);
        if CONTENT.contains(&dc) && !settings.overrides.contains_key(&settings.centre(dc).unwrap_or(dc)) {
            self.want(Need::Sometime);
            let known = addresses.clone();
            let mut listed = self.lists.borrow().listed(CONTENT);
            listed.retain(|address| !known.contains(address));
            listed.sort_by_key(|address| address.is_ipv4() != (settings.prefer == Family::Ipv4));
            addresses.extend(interleaved(&listed));
        }
        addresses
    }

    fn want(&self, need: Need) {
        self.need.send_if_modified(|known| {
            let more = need > *known;
            *known = need.max(*known);
            more
        });
    }
}

impl Rests for Reached {
    fn rests(&self) -> bool {
        sockopt::is_at_rest(&self.stream)
    }
}

/// Empties the pool at the end, however that comes.
struct Closing<'p>(&'p Pool<Reached>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::net::race::STAGGER;
    use crate::telegram::lists::{Clusters, Version};

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn settings(number: i16, addresses: &[SocketAddr]) -> Settings {
        Settings { overrides: [(DcId::new(number), addresses.to_vec())].into(), ..Settings::default() }
    }

    /// Waits until so many connections stand ready.
    async fn until(upstream: &Upstream, ready: usize) {
        let waiting = async {
            while upstream.ready() != ready {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(Duration::from_secs(10), waiting).await;
        assert!(waited.is_ok(), "{} stand ready, not {ready}", upstream.ready());
    }

    fn keep_warm(upstream: &Upstream) -> AbortOnDropHandle<()> {
        let upstream = upstream.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { upstream.keep_warm().await }))
    }

    const DC: DcId = DcId::new(2);

    #[tokio::test]
    async fn a_number_that_is_not_known_is_no_failure_of_the_network() {
        let upstream = Upstream::new(Settings::default());
        for number in [0, 6, 10_004, i16::MIN] {
            assert!(matches!(upstream.connect(DcId::new(number), "").await, Err(ReachError::Unknown)), "{number}");
        }
        assert!(upstream.0.pool.is_at_rest());
    }

    #[tokio::test]
    async fn what_was_learnt_of_an_address_survives_other_settings() {
        let dead = listener().await.1;
        let (_alive, alive) = listener().await;
        let upstream = Upstream::new(settings(2, &[dead, alive]));
        assert_eq!(upstream.connect(DcId::new(-2), "").await.unwrap().by.address.unwrap(), alive);
        upstream.replace(settings(4, &[dead, alive]));
        assert!(matches!(upstream.connect(DcId::new(6), "").await, Err(ReachError::Unknown)));
        let start = Instant::now();
        assert_eq!(upstream.connect(DcId::new(4), "").await.unwrap().by.address.unwrap(), alive);
        assert!(start.elapsed() < STAGGER);
    }

    #[tokio::test]
    async fn an_address_that_breaks_what_it_accepts_is_avoided() {
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let upstream = Upstream::new(settings(2, &[first, second]));
        let _keeping = keep_warm(&upstream);
        let reached = upstream.connect(DC, "").await.unwrap();
        assert_eq!(reached.by.address.unwrap(), first);
        until(&upstream, 1).await;
        upstream.broke(reached.by);
        assert_eq!(upstream.connect(DC, "").await.unwrap().by.address.unwrap(), second);
    }

    #[tokio::test]
    async fn what_was_being_opened_when_its_address_broke_does_not_stand_ready() {
        let (_listening, address) = listener().await;
        let upstream = Upstream::new(settings(2, &[address]));
        let by = upstream.connect(DC, "").await.unwrap().by;
        for breaks in [false, true] {
            let order = upstream.0.pool.tend(1, Instant::now())[0];
            let mut opening = std::pin::pin!(upstream.stock(order));
            let begun = poll_fn(|context| Poll::Ready(opening.as_mut().poll(context).is_pending())).await;
            assert!(begun, "it is under way");
            if breaks {
                upstream.broke(by);
            }
            opening.await;
            assert_eq!(upstream.ready(), usize::from(!breaks));
            upstream.0.pool.discard(|_| true);
        }
    }

    #[tokio::test]
    async fn the_second_session_finds_a_connection_ready() {
        let (listening, address) = listener().await;
        let upstream = Upstream::new(settings(2, &[address]));
        let keeping = keep_warm(&upstream);
        assert!(!upstream.connect(DC, "").await.unwrap().warm);
        until(&upstream, 1).await;
        let ready = upstream.connect(DcId::new(-2), "").await.unwrap();
        assert_eq!(
            (ready.warm, ready.by.address),
            (true, Some(address)),
            "the media of a data centre are at the same place"
        );
        until(&upstream, 2).await;
        drop(keeping);
        until(&upstream, 0).await;
        for _ in 0..4 {
            listening.accept().await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_has_ended_or_spoken_is_never_handed_out() {
        let (listening, address) = listener().await;
        let upstream = Upstream::new(settings(2, &[address]));
        let keeping = keep_warm(&upstream);
        for manner in 0..3 {
            drop(upstream.connect_anew(DC, "").await.unwrap());
            assert!(!upstream.connect(DC, "").await.unwrap().warm);
            for _ in 0..2 {
                listening.accept().await.unwrap();
            }
            until(&upstream, 1).await;
            let (mut far, _) = listening.accept().await.unwrap();
            match manner {
                0 => far.shutdown().await.unwrap(),
                1 => far.set_zero_linger().unwrap(),
                _ => far.write_all(b"?").await.unwrap(),
            }
            let held = (manner != 1).then_some(far);
            let noticing = async {
                while upstream.ready() > 0 {
                    upstream.0.pool.tend(8, Instant::now());
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), noticing).await.unwrap();
            assert!(!upstream.connect(DC, "").await.unwrap().warm);
            listening.accept().await.unwrap();
            upstream.0.pool.clear();
            drop(held);
        }
        drop(keeping);
    }

    #[tokio::test]
    async fn other_settings_close_what_stands_ready_and_none_keep_it() {
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let upstream = Upstream::new(settings(2, &[first]));
        let _keeping = keep_warm(&upstream);
        upstream.connect(DC, "").await.unwrap();
        until(&upstream, 1).await;
        upstream.replace(settings(2, &[first]));
        assert_eq!(upstream.ready(), 1, "they are the same");
        upstream.replace(settings(2, &[second]));
        assert_eq!(upstream.ready(), 0);
        let fresh = upstream.connect(DC, "").await.unwrap();
        assert_eq!((fresh.warm, fresh.by.address), (false, Some(second)));
        until(&upstream, 1).await;
        upstream.replace(Settings { warm: 0, ..settings(2, &[second]) });
        assert!(!upstream.connect(DC, "").await.unwrap().warm);
        assert!(upstream.0.pool.is_at_rest());
    }

    #[tokio::test]
    async fn lists_add_to_the_addresses_of_203_and_to_no_others() {
        let parse = |text: &str, version| Clusters::parse(text.as_bytes(), version).unwrap();
        let v4 = "proxy_for 2 192.0.2.2:8888; proxy_for 203 91.105.192.100:443; proxy_for -203 192.0.2.203:443;";
        let v6 = "proxy_for 203 [2001:db8::203]:443;";
        let lists = Lists { secret: None, v4: parse(v4, Version::V4), v6: parse(v6, Version::V6) };
        let upstream = Upstream::new(Settings::default());
        let addresses = |number| upstream.0.addresses(DcId::new(number)).iter().map(ToString::to_string).collect();
        let of_two: Vec<String> = addresses(2);
        assert_eq!(upstream.need(), Need::Nothing);
        let built_in: Vec<String> = addresses(203);
        assert_eq!(upstream.need(), Need::Sometime);
        assert!(upstream.publish(lists.clone()) && !upstream.publish(lists));
        assert_eq!(addresses(2), of_two);
        let more = ["192.0.2.203:443", "[2001:db8::203]:443"].map(String::from);
        assert_eq!(addresses(-203), [built_in, more.to_vec()].concat());
        let given: SocketAddr = "192.0.2.9:443".parse().unwrap();
        upstream.replace(settings(203, &[given]));
        assert_eq!(addresses(-203), [given.to_string()]);
    }
}
