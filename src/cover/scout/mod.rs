//! Visits the cover, and keeps what that teaches as a [`Profile`].
//!
//! A round has the parts below, each on connections of its own, those first that the next client needs first. Every
//! part is bounded in time and bytes, and what it fails to learn stays as it was known before: the cover has bad days,
//! and is no friend either.
//!
//! ```text
//! visit    handshakes that are completed, and silence: records of the flight, certificate, tickets, HTTP/2 settings
//! flight   one hello of each class, several times: version, cipher, group, record sizes, how stable they are
//! reading  the front page and something large: record sizes in bulk; another to the end: the close alert
//!          beside them: the answers to a bare FIN and to a record that cannot be decrypted
//! ccs      once: how many change_cipher_spec records the cover takes
//! rest     apart from all this, for up to 330 seconds: how visitors are left who rest
//! ```
//!
//! Before the first client there is a quick_scan: the visits, and beside them the readings as far as they get in a second.

mod ccs;
mod ends;
mod examine;
mod flight;
mod keep;
mod page;
mod ping;
mod reading;
mod rhythm;
mod tap;
mod visit;
mod visitor;

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

use self::keep::Store;
use self::reading::{Bulk, Farewell};
use self::visit::{HTTP1, HTTP2, Heard};
use super::chain::Shown;
use super::profile::{ByProtocol, Endings, FlightShape, GreetingShape, IdleEnd, Profile, VisitShape};
use crate::auth::{Domain, UnixTime};
use crate::base::told::{ToldTime, Uptime};
use crate::wire::HelloClass;
use crate::wire::hellos::{TEMPLATES, Template};
use crate::wire::record::CLOSE_NOTIFY;

pub use self::examine::Examined;
pub use self::keep::Whose;
pub use self::ping::{Reaction, ping};
pub use visitor::AnyCertificate;

/// The encrypted part of a cover's first flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenFlight {
    /// Number of records that it came in.
    pub records: usize,
    /// Their payload in all, in bytes.
    pub payload: usize,
}

/// Result of a round of visits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Differences from what was known before, in words; empty at the first round.
    pub changes: Vec<String>,
    /// Failures to learn something, with the reasons.
    pub failures: Vec<String>,
}

/// Refusal of a round that comes too soon after the last one.
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

/// Opens connections to the cover.
pub(super) trait CoverDialer: Sync {
    /// A fresh connection to it.
    fn open(&self) -> impl Future<Output = io::Result<Leg>> + Send;
}

/// Lifetime of a round, give or take a fifth; and shortest time before another may begin, whatever asks for one.
const EVERY: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(30);

/// Time limits for a single handshake, a visit that listens, and one that reads something.
const HANDSHAKE: Duration = Duration::from_secs(5);
const VISIT: Duration = Duration::from_secs(10);
const READING: Duration = Duration::from_secs(20);

/// Longest wait of the first clients for what is good to know of the cover, but not needed to let them in.
const GLANCE: Duration = Duration::from_secs(1);

/// Number of hellos of each template in a round.
const TIMES: usize = 2;

/// Visits one cover and knows what was learnt of it.
#[derive(Debug)]
pub struct Scout {
    name: Domain,
    /// Further names of the same site.
    further: Vec<Domain>,
    store: Option<Store>,
    profile: ArcSwap<Profile>,
    /// Ends of visitors who rest: learnt beside the rounds, and published with what those learn.
    rests: ArcSwap<ByProtocol<IdleEnd>>,
    stale: Notify,
    changes: AtomicU64,
    told: ToldTime,
    /// Held throughout a round, so that there is one at a time.
    last: Mutex<Last>,
}

/// The last round.
#[derive(Debug, Default)]
struct Last {
    /// Time when it began, if there was one since the start.
    began: Option<Instant>,
    /// Profile that came of it, or of one of an earlier run.
    profile: Profile,
    /// Time when a quick scan heard the greetings of visitors, if no round was made since.
    greeted: Option<Instant>,
    /// Whether the cover has been asked how many change_cipher_spec records it takes.
    counted_ccs: bool,
}

impl Scout {
    /// The name of the site.
    pub(super) fn name(&self) -> &Domain {
        &self.name
    }

    /// A scout for the site `name`, which begins with what an earlier one kept in the folder `state` about the same cover.
    pub(super) fn new(name: Domain, whose: Whose, state: Option<&Path>) -> Self {
        let store = state.map(|folder| Store::new(folder, whose));
        let known = match store.as_ref().map(Store::load) {
            Some(Ok(profile)) => profile,
            Some(Err(error)) => {
                warn!(%error, "the profile of the cover cannot be read and will be measured again");
                None
            }
            None => None,
        };
        let known = known.unwrap_or_default();
        Self {
            name,
            further: Vec::new(),
            store,
            profile: ArcSwap::from_pointee(known.clone()),
            rests: ArcSwap::from_pointee(known.rests.clone()),
            stale: Notify::new(),
            changes: AtomicU64::new(0),
            told: ToldTime::default(),
            last: Mutex::new(Last { profile: known, ..Last::default() }),
        }
    }

    /// The same for a site that is known by these names too.
    pub(super) fn also_known_as(self, names: &[Domain]) -> Self {
        Self { further: names.to_vec(), ..self }
    }

    /// All names of the site, the one first under which it is visited.
    fn names(&self) -> Vec<&str> {
        std::iter::once(&self.name).chain(&self.further).map(Domain::as_str).collect()
    }

    /// Profile of the cover.
    pub fn profile(&self) -> Arc<Profile> {
        self.profile.load_full()
    }

    /// Number of rounds that found the cover changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The time that the cover told last.
    pub(super) fn told_time(&self) -> &ToldTime {
        &self.told
    }

    /// The cover was not what it is known to be: it should be looked at again.
    pub fn note_stale(&self) {
        self.stale.notify_one();
    }

    /// Learns what the first clients need: how many records the first flight has, and what comes behind it. How the
    /// cover cuts what is large and how it ends a connection is learnt too, as far as that is quick.
    pub(super) async fn quick_scan(&self, door: &impl CoverDialer) -> io::Result<SeenFlight> {
        let mut last = self.last.lock().await;
        let (greeting, readings) =
            tokio::join!(within(HANDSHAKE, self.greeting(door)), self.readings(door, GLANCE, GLANCE));
        let greeting = greeting?;
        let (seen, mut profile) = (greeting.first.flight, Profile::clone(&self.profile()));
        if profile.visit.as_ref().is_none_or(|visit| visit.flight_records != seen.records) {
            profile.begin_anew(seen.records);
            self.rests.store(Arc::default());
        }
        let certificate = greeting.certificate(&self.names());
        let mut visit = greeting.shape(profile.visit.take());
        // What was not quick is for the round to say, and so is what has changed.
        readings.teach(&mut visit, &mut Vec::new());
        profile.visit = Some(visit);
        profile.certificate = certificate;
        self.publish(&profile);
        last.greeted = Some(Instant::now());
        Ok(seen)
    }

    /// Makes rounds for as long as it is polled: at once, every hour or so, and when the cover was not as known.
    pub(super) async fn watch(&self, door: &impl CoverDialer) {
        tokio::join!(self.watch_rounds(door), self.watch_rests(door));
    }

    /// Learns how visitors are left who rest, which takes longer than a round may. The first that is learnt counts from then
    /// on; the next round compares it with what was known before, and keeps it.
    async fn watch_rests(&self, door: &impl CoverDialer) {
        let mut doubted = ByProtocol::default();
        loop {
            if self.profile().visit.is_none() {
                sleep(AGAIN).await;
                continue;
            }
            let (before, doubts) = (self.rests.load_full(), doubted != ByProtocol::default());
            let seen = ends::rests(door, self.name.as_str()).await;
            let known = seen.http2.is_some() || seen.http1.is_some();
            if known {
                self.learn_rests(seen, &before, &mut doubted).await;
            }
            // What is doubted is looked at again, once.
            let again = !doubts && doubted != ByProtocol::default();
            sleep(match known {
                false => ends::RESTS,
                true if again => AGAIN,
                true => pause(true, rand::random()),
            })
            .await;
        }
    }

    async fn learn_rests(
        &self,
        seen: ByProtocol<IdleEnd>,
        before: &Arc<ByProtocol<IdleEnd>>,
        doubted: &mut ByProtocol<IdleEnd>,
    ) {
        // No round is to publish what it knew before.
        let last = self.last.lock().await;
        if !Arc::ptr_eq(before, &self.rests.load_full()) {
            // The cover is another than the one that was visited.
            *doubted = ByProtocol::default();
            return;
        }
        let known = ByProtocol::clone(before);
        let rests = ByProtocol {
            http2: IdleEnd::weighed(known.http2, seen.http2, &mut doubted.http2),
            http1: IdleEnd::weighed(known.http1, seen.http1, &mut doubted.http1),
        };
        debug!(?rests, "it is known how the cover leaves who rests");
        let early = |rests: &ByProtocol<IdleEnd>| rests.get(true).filter(|rest| rest.is_early()).cloned();
        if let (Some(rest), false) = (early(&rests), early(&self.rests.load()).is_some()) {
            let seconds = rest.after_ms.unwrap_or(0) / 1000;
            info!(
                seconds,
                "the cover leaves visitors who rest sooner than after 75 seconds, and sessions are borne that long: who \
                 watches can tell. A cover with a longer keep-alive time hides them better"
            );
        }
        self.rests.store(Arc::new(rests));
        let profile = Profile::clone(&self.profile());
        self.publish(&profile);
        if profile.learnt > 0 {
            self.keep(&self.profile()).await;
        }
        drop(last);
    }

    async fn watch_rounds(&self, door: &impl CoverDialer) {
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
    pub(super) async fn round(&self, door: &impl CoverDialer) -> Result<Round, TooSoon> {
        let mut last = self.last.lock().await;
        if last.began.is_some_and(|began| began.elapsed() < AGAIN) {
            return Err(TooSoon);
        }
        last.began = Some(Instant::now());
        let mut round = Round::default();
        let mut profile = self.learn(door, &mut last, &mut round.failures).await;
        profile.rests = ByProtocol::clone(&self.rests.load());
        round.changes = last.profile.differences(&profile);
        if !round.changes.is_empty() {
            self.changes.fetch_add(1, Ordering::Relaxed);
            warn!(changes = round.changes.join("; "), "the cover has changed");
        }
        self.publish(&profile);
        self.keep(&profile).await;
        info!(failures = round.failures.len(), "the cover was visited");
        debug!(?profile, "the profile of the cover is complete");
        last.profile = profile;
        Ok(round)
    }

    fn publish(&self, profile: &Profile) {
        let rests = ByProtocol::clone(&self.rests.load());
        self.profile.store(Arc::new(Profile { rests, ..profile.clone() }));
    }

    /// Sessions have each part as soon as it is there.
    async fn learn(&self, door: &impl CoverDialer, last: &mut Last, failures: &mut Vec<String>) -> Profile {
        let mut profile = Profile::clone(&self.profile());
        let mut learnt = last.greeted.take().is_some_and(|at| at.elapsed() < AGAIN);
        if !learnt {
            match self.greeting(door).await {
                Ok(greeting) => {
                    failures.extend_from_slice(&greeting.failures);
                    profile.visit = Some(greeting.shape(profile.visit.take()));
                    profile.certificate = greeting.certificate(&self.names());
                    self.publish(&profile);
                    learnt = true;
                }
                Err(error) => failures.push(format!("handshake: {error}")),
            }
        }
        let shakes_hands = learnt;
        if self.learn_flights(door, &mut profile, failures).await {
            self.publish(&profile);
            learnt = true;
        }
        if let Some(visit) = profile.visit.as_mut().filter(|_| shakes_hands) {
            self.readings(door, READING, VISIT).await.teach(visit, failures);
            if !last.counted_ccs {
                match ccs::limit(door, self.name.as_str()).await {
                    Ok(limit) => (visit.ccs_limit, last.counted_ccs) = (limit, true),
                    Err(error) => failures.push(format!("change_cipher_spec: {error}")),
                }
            }
        }
        if learnt {
            profile.learnt = UnixTime::from(SystemTime::now()).0;
        }
        profile
    }

    /// Says whether anything was learnt.
    async fn learn_flights(&self, door: &impl CoverDialer, profile: &mut Profile, failures: &mut Vec<String>) -> bool {
        let behind = profile.visit.as_ref().map(|visit| visit.before_finished.clone()).unwrap_or_default();
        let expected = profile.visit.as_ref().map(|visit| visit.flight_records + behind.len());
        let mut learnt = false;
        for (class, shapes) in self.flights(door, expected, failures).await {
            if let Some(shape) = merged(shapes, &behind) {
                profile.flights.insert(class.label().to_owned(), shape);
                learnt = true;
            }
        }
        learnt
    }

    async fn flights(
        &self,
        door: &impl CoverDialer,
        expected: Option<usize>,
        failures: &mut Vec<String>,
    ) -> BTreeMap<HelloClass, Vec<(usize, FlightShape)>> {
        let mut seen: BTreeMap<HelloClass, Vec<(usize, FlightShape)>> = BTreeMap::new();
        for (number, template) in TEMPLATES.into_iter().enumerate().flat_map(|template| [template; TIMES]) {
            match self.flight(door, template, expected).await {
                Ok(shape) => seen.entry(template.class).or_default().push((number, shape)),
                Err(error) => failures.push(format!("{}: {error}", template.class)),
            }
        }
        seen
    }

    async fn flight(
        &self,
        door: &impl CoverDialer,
        template: Template,
        expected: Option<usize>,
    ) -> io::Result<FlightShape> {
        let hello = template
            .hello(self.name.as_str(), &mut rand::rng())
            .map_err(|_| io::Error::other("no hello could be made"))?;
        within(HANDSHAKE, async { flight::watch(&mut door.open().await?, &hello, expected).await }).await
    }

    /// Several visits at once that complete a handshake and ask for nothing. Fails if none of them succeeds.
    async fn greeting(&self, door: &impl CoverDialer) -> io::Result<Greeting> {
        let name = self.name.as_str();
        let listen =
            |protocols| within(VISIT, async move { visit::listen(&mut door.open().await?, name, protocols).await });
        let (two, one) = (|| listen(HTTP2), || listen(HTTP1));
        let (a, b, c, d, e, f, g) = tokio::join!(two(), two(), two(), two(), two(), one(), one());
        let (mut heard, mut failures) = (Vec::new(), Vec::new());
        for outcome in [a, b, c, d, e] {
            match outcome {
                Ok(visit) => heard.push(visit),
                Err(error) => failures.push(error),
            }
        }
        // A cover without HTTP/1.1 is not less known.
        let http1 = [f, g].into_iter().flatten().map(|visit| visit.greeting).collect();
        match (heard.first().cloned(), failures.pop()) {
            (Some(first), last) => {
                let failures = failures.iter().chain(&last).map(|error| format!("greeting: {error}")).collect();
                Ok(Greeting { first, all: heard, http1, failures })
            }
            (None, error) => Err(error.unwrap_or_else(|| io::ErrorKind::NotConnected.into())),
        }
    }

    /// Visits that read something, at once.
    async fn readings(&self, door: &impl CoverDialer, bulk: Duration, farewell: Duration) -> Readings {
        let name = self.name.as_str();
        let (bulk, farewell, endings) = tokio::join!(
            within(bulk, async { reading::bulk(door.open().await?, name).await }),
            within(farewell, async { reading::farewell(door.open().await?, name).await }),
            ends::endings(door, name, farewell),
        );
        if let Some(date) = farewell.as_ref().ok().and_then(|farewell| examine::date(&farewell.head)) {
            self.told.hear(&date, Uptime::now());
        }
        Readings { bulk, farewell, endings }
    }

    async fn keep(&self, profile: &Profile) {
        let Some(store) = self.store.clone() else { return };
        let profile = profile.clone();
        match tokio::task::spawn_blocking(move || store.save(&profile)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the profile of the cover cannot be kept on disk"),
            Err(panic) => warn!(%panic, "the profile of the cover cannot be kept on disk"),
        }
    }
}

/// Results of visits that completed a handshake.
struct Greeting {
    first: Heard,
    all: Vec<Heard>,
    /// Of visitors who offer HTTP/1.1 alone.
    http1: Vec<GreetingShape>,
    failures: Vec<String>,
}

impl Greeting {
    /// Shape of visits by this, and by what was known `before`.
    fn shape(&self, before: Option<VisitShape>) -> VisitShape {
        // Until it is seen, a cover is taken to close as nearly all do.
        let usual = || VisitShape { close_alert: Some(CLOSE_NOTIFY), ..VisitShape::default() };
        let first = self.first.clone();
        let answered = || self.all.iter().map(|heard| heard.answered_us);
        VisitShape {
            answered_us: (answered().min().unwrap_or(0), answered().max().unwrap_or(0)),
            flight_records: first.flight.records,
            before_finished: first.before_finished,
            after_finished: first.greeting.records(),
            after_finished_ms: first.greeting.delay_us / 1000,
            greetings_http2: GreetingShape::settled(self.all.iter().map(|heard| heard.greeting.clone()).collect()),
            greetings_http1: GreetingShape::settled(self.http1.clone()),
            ..before.unwrap_or_else(usual)
        }
    }

    /// The certificate that was shown, if there was one.
    fn certificate(&self, names: &[&str]) -> Option<Shown> {
        Shown::of(&self.first.chain, names)
    }
}

/// Results of visits that read something.
struct Readings {
    bulk: io::Result<Bulk>,
    farewell: io::Result<Farewell>,
    endings: ByProtocol<Endings>,
}

impl Readings {
    fn teach(self, visit: &mut VisitShape, failures: &mut Vec<String>) {
        match self.bulk {
            Ok(bulk) => (visit.bulk, visit.bulk_stalled) = (bulk.flowing, bulk.stalled),
            Err(error) => failures.push(format!("reading: {error}")),
        }
        match self.farewell {
            Ok(farewell) => visit.close_alert = farewell.alert,
            Err(error) => failures.push(format!("close: {error}")),
        }
        visit.endings = std::mem::take(&mut visit.endings).updated(self.endings);
    }
}

async fn within<T>(limit: Duration, visit: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, visit).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}

/// Several answers, each with the number of its template, as one: the latest, without the records that come `behind` a
/// flight, and whether those to one template were alike. Templates of one class may offer other protocols.
fn merged(mut shapes: Vec<(usize, FlightShape)>, behind: &[u16]) -> Option<FlightShape> {
    for (_, shape) in &mut shapes {
        if !behind.is_empty() && shape.records.len() > behind.len() && shape.records.ends_with(behind) {
            shape.records.truncate(shape.records.len() - behind.len());
        }
    }
    let stable = shapes.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 == pair[1].1);
    shapes.pop().map(|(_, latest)| FlightShape { stable, ..latest })
}

/// Until the next round: an hour, from a fifth less to a fifth more as `dice` falls; half a minute while nothing is known.
fn pause(known: bool, dice: u16) -> Duration {
    let jitter = f64::from(dice) / f64::from(u16::MAX) * 0.4 - 0.2;
    if known { EVERY.mul_f64(1.0 + jitter) } else { AGAIN }
}

#[cfg(test)]
mod tests;
