//! Visits the cover, and keeps what that teaches as a [`Profile`].
//!
//! A round has the parts below, each on connections of its own. Every part is bounded in time and bytes, and what it
//! fails to learn stays as it was known before: the cover has bad days, and is no friend either.
//!
//! ```text
//! visit    a handshake that is completed, and silence: records of the flight, tickets, HTTP/2 settings
//! flight   one hello of each class, several times: version, cipher, group, record sizes, how stable they are
//! reading  the front page and something large: record sizes in bulk; another to the end: the close alert
//! ccs      once: how many change_cipher_spec records the cover takes
//! ```

mod ccs;
mod flight;
mod hellos;
mod keep;
mod page;
mod reading;
pub(super) mod visit;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use self::hellos::TEMPLATES;
use self::keep::Store;
use super::profile::{FlightShape, Profile, VisitShape};
use crate::auth::{Domain, UnixTime};
use crate::wire::HelloClass;

pub use self::keep::Whose;

/// The encrypted part of a cover's first flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenFlight {
    /// How many records it came in.
    pub records: usize,
    /// Their payload in all, in bytes.
    pub payload: usize,
}

/// What a round of visits came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What is not as it was known before, in words; empty at the first round.
    pub changes: Vec<String>,
    /// What could not be learnt, and why.
    pub failures: Vec<String>,
}

/// Why no round was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon;

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cover was visited a moment ago")
    }
}

impl std::error::Error for TooSoon {}

/// A byte stream to the cover.
pub(super) type Leg = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where the cover is met.
pub(super) trait Door: Sync {
    /// A fresh connection to it.
    fn open(&self) -> impl Future<Output = io::Result<Leg>> + Send;
}

/// How long a round is good for, give or take a fifth; and how soon another may begin, whatever asks for one.
const EVERY: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(30);

/// How long a single handshake may take, and a visit that reads something.
const HANDSHAKE: Duration = Duration::from_secs(5);
const VISIT: Duration = Duration::from_secs(10);
const READING: Duration = Duration::from_secs(20);

/// How many hellos of each template are sent in a round.
const TIMES: usize = 2;

/// Visits one cover and knows what was learnt of it.
#[derive(Debug)]
pub struct Scout {
    name: Domain,
    store: Option<Store>,
    profile: ArcSwap<Profile>,
    stale: Notify,
    changes: AtomicU64,
    /// Held throughout a round, so that there is one at a time.
    last: Mutex<Last>,
}

/// The last round.
#[derive(Debug, Default)]
struct Last {
    /// When it began, if there was one since the start.
    began: Option<Instant>,
    /// What it, or one of an earlier run, came to.
    profile: Profile,
    /// Whether the cover has been asked how many change_cipher_spec records it takes.
    counted_ccs: bool,
}

impl Scout {
    /// A scout for the site `name`, which begins with what an earlier one kept in the folder `state` about the same cover.
    pub(super) fn new(name: Domain, whose: Whose, state: Option<&Path>) -> Self {
        let store = state.map(|folder| Store::new(folder, whose));
        let known = match store.as_ref().map(Store::load) {
            Some(Ok(profile)) => profile,
            Some(Err(error)) => {
                warn!(%error, "what was known of the cover cannot be read and will be learnt anew");
                None
            }
            None => None,
        };
        let known = known.unwrap_or_default();
        Self {
            name,
            store,
            profile: ArcSwap::from_pointee(known.clone()),
            stale: Notify::new(),
            changes: AtomicU64::new(0),
            last: Mutex::new(Last { profile: known, ..Last::default() }),
        }
    }

    /// What is known of the cover.
    pub fn profile(&self) -> Arc<Profile> {
        self.profile.load_full()
    }

    /// How many rounds found the cover changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The cover was not what it is known to be: it should be looked at again.
    pub fn note_stale(&self) {
        self.stale.notify_one();
    }

    /// One handshake, to learn the number of records in the first flight before the first client comes.
    pub(super) async fn glance(&self, door: &impl Door) -> io::Result<SeenFlight> {
        let glance = async { visit::see_flight(&mut door.open().await?, self.name.as_str()).await };
        let seen = within(HANDSHAKE, glance).await?;
        let known = self.profile();
        if known.visit.as_ref().is_none_or(|visit| visit.flight_records != seen.records) {
            let mut profile = Profile::clone(&known);
            profile.begin_anew(seen.records);
            self.profile.store(Arc::new(profile));
        }
        Ok(seen)
    }

    /// Makes rounds for as long as it is polled: at once, every hour or so, and when the cover was not as known.
    pub(super) async fn watch(&self, door: &impl Door) {
        let mut failing = false;
        loop {
            if let Ok(round) = self.round(door).await {
                match round.failures.first() {
                    Some(first) if !failing => {
                        warn!(first, failures = round.failures.len(), "the cover could not be visited in every way");
                    }
                    None if failing => info!("the cover can be visited again"),
                    _ => {}
                }
                failing = !round.failures.is_empty();
            }
            let pause = pause(self.profile().learnt > 0, rand::random());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stale.notified() => {}
            }
            let began = self.last.lock().await.began;
            sleep_until(began.map_or_else(Instant::now, |began| began + AGAIN)).await;
        }
    }

    /// Visits the cover in every way there is, keeps and publishes what was learnt, and logs what has changed. Waits for
    /// a round that is under way; refuses to begin one within 30 seconds of the last.
    pub(super) async fn round(&self, door: &impl Door) -> Result<Round, TooSoon> {
        let mut last = self.last.lock().await;
        if last.began.is_some_and(|began| began.elapsed() < AGAIN) {
            return Err(TooSoon);
        }
        last.began = Some(Instant::now());
        let mut round = Round::default();
        let profile = self.learn(door, &mut last, &mut round.failures).await;
        round.changes = last.profile.differences(&profile);
        if !round.changes.is_empty() {
            self.changes.fetch_add(1, Ordering::Relaxed);
            warn!(changes = round.changes.join("; "), "the cover has changed");
        }
        info!(failures = round.failures.len(), "the cover was visited");
        debug!(?profile, "the cover is known");
        self.profile.store(Arc::new(profile.clone()));
        self.keep(&profile).await;
        last.profile = profile;
        Ok(round)
    }

    async fn learn(&self, door: &impl Door, last: &mut Last, failures: &mut Vec<String>) -> Profile {
        let mut profile = last.profile.clone();
        let mut learnt = false;
        match self.whole_visit(door, last, failures).await {
            Ok(visit) => {
                profile.visit = Some(visit);
                learnt = true;
            }
            Err(error) => failures.push(format!("handshake: {error}")),
        }
        let (expected, behind) = match &profile.visit {
            Some(visit) => (Some(visit.flight_records + visit.before_finished.len()), &visit.before_finished[..]),
            None => (None, &[][..]),
        };
        for (class, shapes) in self.flights(door, expected, failures).await {
            if let Some(shape) = merged(shapes, behind) {
                profile.flights.insert(class.label().to_owned(), shape);
                learnt = true;
            }
        }
        if learnt {
            profile.learnt = UnixTime::from(SystemTime::now()).0;
        }
        profile
    }

    async fn flights(
        &self,
        door: &impl Door,
        expected: Option<usize>,
        failures: &mut Vec<String>,
    ) -> BTreeMap<HelloClass, Vec<FlightShape>> {
        let mut seen: BTreeMap<HelloClass, Vec<FlightShape>> = BTreeMap::new();
        for template in TEMPLATES.into_iter().flat_map(|template| [template; TIMES]) {
            match self.flight(door, template, expected).await {
                Ok(shape) => seen.entry(template.class).or_default().push(shape),
                Err(error) => failures.push(format!("{}: {error}", template.class)),
            }
        }
        seen
    }

    async fn flight(
        &self,
        door: &impl Door,
        template: hellos::Template,
        expected: Option<usize>,
    ) -> io::Result<FlightShape> {
        let hello = template
            .hello(self.name.as_str(), &mut rand::rng())
            .map_err(|_| io::Error::other("no hello could be made"))?;
        within(HANDSHAKE, async { flight::watch(&mut door.open().await?, &hello, expected).await }).await
    }

    /// All that takes a completed handshake. Fails if there is none; what else fails stays as it was.
    async fn whole_visit(
        &self,
        door: &impl Door,
        last: &mut Last,
        failures: &mut Vec<String>,
    ) -> io::Result<VisitShape> {
        let name = self.name.as_str();
        let heard = within(VISIT, async { visit::listen(&mut door.open().await?, name).await }).await?;
        let mut greetings = vec![heard.after_finished.clone()];
        for _ in 1..GREETINGS {
            let again = within(VISIT, async { visit::listen(&mut door.open().await?, name).await });
            match again.await {
                Ok(heard) => greetings.push(heard.after_finished),
                Err(error) => failures.push(format!("greeting: {error}")),
            }
        }
        let mut shape = VisitShape {
            greetings,
            flight_records: heard.flight.records,
            before_finished: heard.before_finished,
            after_finished: heard.after_finished,
            after_finished_ms: heard.after_finished_ms,
            ..last.profile.visit.clone().unwrap_or_default()
        };
        match within(READING, async { reading::bulk(door.open().await?, name).await }).await {
            Ok(bulk) => shape.bulk = bulk,
            Err(error) => failures.push(format!("reading: {error}")),
        }
        match within(VISIT, async { reading::close_alert(door.open().await?, name).await }).await {
            Ok(close_alert) => shape.close_alert = close_alert,
            Err(error) => failures.push(format!("close: {error}")),
        }
        if !last.counted_ccs {
            match ccs::limit(door, name).await {
                Ok(limit) => (shape.ccs_limit, last.counted_ccs) = (limit, true),
                Err(error) => failures.push(format!("change_cipher_spec: {error}")),
            }
        }
        Ok(shape)
    }

    async fn keep(&self, profile: &Profile) {
        let Some(store) = self.store.clone() else { return };
        let profile = profile.clone();
        match tokio::task::spawn_blocking(move || store.save(&profile)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "what is known of the cover cannot be kept on disk"),
            Err(panic) => warn!(%panic, "what is known of the cover cannot be kept on disk"),
        }
    }
}

/// How many visits show what covers say by themselves after a handshake.
const GREETINGS: usize = 6;

async fn within<T>(limit: Duration, visit: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, visit).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}

/// Several answers as one: the latest, without the records that come `behind` a flight, and whether all were alike.
fn merged(mut shapes: Vec<FlightShape>, behind: &[u16]) -> Option<FlightShape> {
    for shape in &mut shapes {
        if !behind.is_empty() && shape.records.len() > behind.len() && shape.records.ends_with(behind) {
            shape.records.truncate(shape.records.len() - behind.len());
        }
    }
    let stable = shapes.windows(2).all(|pair| pair[0] == pair[1]);
    shapes.pop().map(|latest| FlightShape { stable, ..latest })
}

/// Until the next round: an hour, from a fifth less to a fifth more as `dice` falls; half a minute while nothing is known.
fn pause(known: bool, dice: u16) -> Duration {
    let jitter = f64::from(dice) / f64::from(u16::MAX) * 0.4 - 0.2;
    if known { EVERY.mul_f64(1.0 + jitter) } else { AGAIN }
}

#[cfg(test)]
mod tests;
