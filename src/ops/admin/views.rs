//! What answers look like. Nothing in here is a secret.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::control::Control;
use crate::auth::UnixTime;
use crate::ops::snapshot::{QuotaState, Snapshot, UserState};
use crate::server::fan_out;
use crate::server::sessions::Live;
use crate::telegram::routes;

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Description of the error.
    pub error: String,
    /// Advice on what to do.
    pub next: String,
}

/// Whether the proxy serves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Whether a visitor was answered just now.
    pub serving: bool,
    /// In words.
    pub detail: String,
}

/// Whether the proxy should be sent clients.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether it should.
    pub ready: bool,
    /// Reasons against it.
    pub reasons: Vec<String>,
}

/// The state of the proxy.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Start time (RFC 3339).
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: i64,
    /// Addresses on which clients are accepted.
    pub listen: Vec<String>,
    /// Whether no more are accepted.
    pub draining: bool,
    /// Connections.
    pub connections: Connections,
    /// Bytes of sessions since the start.
    pub bytes: Bytes,
    /// Declined connections by reason; a refusal stands behind a colon.
    pub declines: BTreeMap<String, u64>,
    /// Admitted clients by class of hello.
    pub hellos: BTreeMap<String, u64>,
    /// Sessions that one client has now, by class of hello.
    #[serde(default)]
    pub fan_out: BTreeMap<String, ClassFanOut>,
    /// Ends of sessions by what ended them.
    pub session_ends: BTreeMap<String, u64>,
    /// Data centres.
    pub data_centres: Vec<DataCentre>,
    /// Middle proxies.
    #[serde(default)]
    pub middle: Middle,
    /// The ways to Telegram, in the order of the configuration.
    pub routes: Vec<Route>,
    /// The cover.
    pub cover: Cover,
    /// The memory of spent hellos.
    pub replay: ReplayMemory,
    /// Users that are configured.
    pub users: usize,
    /// Alarms that need attention.
    pub alarms: Vec<Alarm>,
}

/// Clients of one class of hello, with the sessions that they have now. A client is a user at an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ClassFanOut {
    /// Clients.
    pub clients: u64,
    /// Their sessions.
    pub sessions: u64,
    /// Most sessions of one client.
    pub most: u64,
    /// Clients by the number of their sessions, as a range.
    pub by_sessions: BTreeMap<String, u64>,
}

impl From<&fan_out::FanOut> for ClassFanOut {
    fn from(fan_out: &fan_out::FanOut) -> Self {
        let fan_out::FanOut { clients, sessions, most, by_range } = *fan_out;
        let ranges = fan_out::RANGES.iter().zip(by_range).map(|((range, _), count)| ((*range).to_owned(), count));
        Self { clients, sessions, most, by_sessions: ranges.collect() }
    }
}

/// Connections since the start and now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Since the start.
    pub accepted: u64,
    /// Clients that were let in.
    pub admitted: u64,
    /// Known to be visits.
    pub declined: u64,
    /// Visitors now.
    pub visitors: u64,
    /// Sessions now.
    pub sessions: usize,
}

/// Bytes in both directions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Bytes {
    /// From clients.
    pub up: u64,
    /// To clients.
    pub down: u64,
}

/// A data centre that sessions asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DataCentre {
    /// Its number, or `unknown` for all that do not exist.
    pub dc: String,
    /// Times that it was reached.
    pub reached: u64,
    /// Times that it was not.
    pub failed: u64,
    /// Sessions now.
    pub sessions: usize,
}

/// Links to middle proxies, which sessions with a tag go through.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Middle {
    /// Links that are open.
    pub links: u64,
    /// Sessions that went through them since the start.
    pub sessions: u64,
    /// Sessions with a tag that went the direct way instead.
    pub fallbacks: u64,
    /// Bytes that wait for clients.
    pub waiting_bytes: usize,
    /// Links that could not be opened.
    pub failures: u64,
}

/// A way to Telegram.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Its kind, as in the configuration.
    pub kind: String,
    /// Whether it worked when last tried.
    pub up: bool,
    /// Times that a data centre was reached over it.
    pub reached: u64,
    /// Times that none was.
    pub failed: u64,
}

/// The cover.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Cover {
    /// `site` or `remote`.
    pub kind: String,
    /// The name that clients ask for.
    pub name: String,
    /// `A` to `D`, once it was visited.
    pub grade: Option<String>,
    /// Flaws that keep it from a better grade.
    pub flaws: Vec<String>,
    /// Whether it could be reached, and had a handshake for the client, when last asked for.
    pub up: bool,
    /// Times that it could not be reached.
    pub away: u64,
    /// Whether it accepts connections and had no handshake for the client that was admitted last.
    #[serde(default)]
    pub failing: bool,
    /// Times that it had none for an admitted client.
    #[serde(default)]
    pub failed: u64,
    /// Rounds of visits that found it changed.
    pub changes: u64,
    /// Time of the last round of visits (RFC 3339).
    pub visited: Option<String>,
    /// Expiry of the certificate of the built-in site (RFC 3339).
    pub certificate_ends: Option<String>,
}

impl Cover {
    /// Returns its condition in a few words.
    pub fn standing(&self) -> &'static str {
        match (self.up, self.failing) {
            (true, _) => "up",
            (false, true) => "accepts connections and has no handshake for clients",
            (false, false) => "away",
        }
    }
}

/// The memory of spent hellos.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReplayMemory {
    /// Hellos and headers in memory.
    pub entries: usize,
    /// Those that wait for the disk.
    pub unsaved: usize,
    /// Those that a restart will forget.
    pub dropped: u64,
    /// Whether the disk takes them.
    pub healthy: bool,
}

/// Something that someone should look at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// A short name.
    pub name: String,
    /// Number of times since the start.
    pub count: u64,
    /// The last one in words.
    pub text: String,
    /// Time of the last one (RFC 3339).
    pub last: Option<String>,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// The name.
    pub name: String,
    /// Whether the user may enter, as far as that does not depend on the moment.
    pub enabled: bool,
    /// Reason why not, if so.
    pub reason: Option<String>,
    /// End of access (RFC 3339).
    pub expires: Option<String>,
    /// Note on the user.
    pub note: Option<String>,
    /// Sessions now.
    pub sessions: usize,
    /// Networks that they come from.
    pub addresses: usize,
    /// Most sessions at once.
    pub max_sessions: Option<u64>,
    /// Most networks at once.
    pub max_addresses: Option<u64>,
    /// Tag of a promoted channel, or `none`; null where the one of everybody counts.
    #[serde(default)]
    pub ad_tag: Option<String>,
    /// Sessions without a tag that go through middle proxies: `tagged`, `media` or `all`; null where it is as for everybody.
    #[serde(default)]
    pub middle: Option<String>,
    /// Name of the site that the user's link carries; null where it is the first.
    #[serde(default)]
    pub domain: Option<String>,
    /// Bytes that were moved, ever.
    pub bytes: Bytes,
    /// The quota.
    pub quota: Option<Quota>,
}

/// A quota.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// Bytes that may be moved.
    pub bytes: u64,
    /// Bytes that were, in this period.
    pub used: u64,
    /// The period.
    pub period: String,
    /// Beginning of the next period (RFC 3339).
    pub resets: Option<String>,
}

/// Traffic of a user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Bytes that were moved, ever.
    pub bytes: Bytes,
    /// The quota.
    pub quota: Option<Quota>,
}

/// A session. The client's address is not told.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its number.
    pub id: u64,
    /// User of the session.
    pub user: String,
    /// Number of the data centre.
    pub dc: i16,
    /// Class of the client's hello.
    pub hello: String,
    /// Time at which it began (RFC 3339).
    pub since: String,
    /// Bytes so far.
    pub bytes: Bytes,
}

/// Number of sessions that were ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Closed {
    /// Number of sessions.
    pub closed: usize,
}

impl Status {
    /// The state now.
    pub fn of(control: &dyn Control, started: UnixTime) -> Self {
        let (seen, counts) = (control.look(), control.counts());
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let ends = counts.ends.list().into_iter().filter(|(end, _)| end.what == "session");
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            started: moment(started),
            uptime_seconds: now().0 - started.0,
            listen: seen.listen.iter().map(ToString::to_string).collect(),
            draining: seen.draining,
            connections: Connections {
                accepted: load(&counts.accepted),
                admitted: counts.admitted.sum(),
                declined: counts.declined.sum(),
                visitors: counts.visitors(),
                sessions: seen.sessions,
            },
            bytes: Bytes { up: seen.moved.up, down: seen.moved.down },
            declines: counts.declined.list().into_iter().map(|(why, n)| (why.to_string(), n)).collect(),
            hellos: counts.admitted.list().into_iter().map(|(class, n)| (class.label().to_owned(), n)).collect(),
            fan_out: seen.fan_out.iter().map(|(class, fan_out)| ((*class).to_owned(), fan_out.into())).collect(),
            session_ends: ends.map(|(end, n)| (end.by.to_owned(), n)).collect(),
            data_centres: data_centres(control),
            middle: Middle {
                links: seen.middle.links,
                sessions: counts.attached.sum(),
                fallbacks: counts.fallbacks.sum(),
                waiting_bytes: seen.middle.waiting,
                failures: seen.middle.failed,
            },
            routes: seen.routes.iter().map(Route::from).collect(),
            cover: cover(&seen, counts),
            replay: ReplayMemory {
                entries: seen.replay.entries,
                unsaved: seen.replay.unsaved,
                dropped: seen.replay.dropped,
                healthy: seen.replay.well,
            },
            users: seen.users.len(),
            alarms: seen.alarms.iter().map(alarm).collect(),
        }
    }
}

fn data_centres(control: &dyn Control) -> Vec<DataCentre> {
    let counts = control.counts();
    let name = |dc: Option<crate::telegram::DcId>| dc.map_or_else(|| "unknown".into(), |dc| dc.to_string());
    let mut rows: BTreeMap<String, DataCentre> = BTreeMap::new();
    let mut row = |dc: String, change: &dyn Fn(&mut DataCentre)| {
        change(rows.entry(dc.clone()).or_insert(DataCentre { dc, reached: 0, failed: 0, sessions: 0 }));
    };
    for (dc, count) in counts.dialled.list() {
        row(dc.to_string(), &|row| row.reached = count);
    }
    for (dc, count) in counts.undialled.list() {
        row(name(dc), &|row| row.failed = count);
    }
    for live in control.sessions().list() {
        row(live.dc.to_string(), &|row| row.sessions += 1);
    }
    rows.into_values().collect()
}

fn cover(seen: &Snapshot, counts: &crate::ops::counts::Counts) -> Cover {
    let failing = counts.cover_fails();
    let state = &seen.cover;
    Cover {
        kind: state.kind.into(),
        name: state.name.clone(),
        grade: state.graded.as_ref().map(|graded| graded.grade.to_string()),
        flaws: state.graded.iter().flat_map(|graded| &graded.flaws).map(ToString::to_string).collect(),
        up: !counts.cover_is_away() && !failing,
        away: counts.cover_away.load(Ordering::Relaxed),
        failing,
        failed: counts.cover_failed.sum(),
        changes: state.changes,
        visited: state.learnt.map(moment),
        certificate_ends: seen.certificate_ends.map(moment),
    }
}

fn alarm(alarm: &crate::ops::snapshot::AlarmState) -> Alarm {
    let last = alarm.last.map(moment);
    Alarm { name: alarm.name.into(), count: alarm.count, text: alarm.text.clone(), last }
}

impl From<&UserState> for User {
    fn from(user: &UserState) -> Self {
        Self {
            name: user.name.clone(),
            enabled: user.shut.is_none(),
            reason: user.shut.map(Into::into),
            expires: user.expires.map(moment),
            note: user.note.clone(),
            sessions: user.sessions,
            addresses: user.addresses,
            max_sessions: user.max_sessions,
            max_addresses: user.max_addresses,
            ad_tag: user.ad_tag.clone(),
            middle: user.middle.map(Into::into),
            domain: user.domain.clone(),
            bytes: Bytes { up: user.up, down: user.down },
            quota: user.quota.as_ref().map(Quota::from),
        }
    }
}

impl From<&routes::Standing> for Route {
    fn from(route: &routes::Standing) -> Self {
        Self {
            name: route.name.clone(),
            kind: route.kind.into(),
            up: route.well,
            reached: route.reached,
            failed: route.failed,
        }
    }
}

impl From<&QuotaState> for Quota {
    fn from(quota: &QuotaState) -> Self {
        let resets = quota.resets.map(moment);
        Self { bytes: quota.bytes, used: quota.used, period: quota.period.clone(), resets }
    }
}

impl From<&Live> for Session {
    fn from(live: &Live) -> Self {
        Self {
            id: live.id,
            user: live.member.name().into(),
            dc: live.dc.number(),
            hello: live.class.label().into(),
            since: moment(live.since),
            bytes: Bytes { up: live.meter.up(), down: live.meter.down() },
        }
    }
}

/// A time in words that machines read too.
pub fn moment(time: UnixTime) -> String {
    Timestamp::from_second(time.0).map(|time| time.to_string()).unwrap_or_default()
}

/// The time.
pub fn now() -> UnixTime {
    SystemTime::now().into()
}
