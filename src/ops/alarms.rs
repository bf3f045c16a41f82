//! Alarms: what an operator should hear of without reading logs.
//!
//! [`Watch`] decides, on counts and times that it is given. [`Alarms`] tells it what happens, and tells the log and, if
//! there is one, the webhook what it decided. No alarm holds an address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use super::nets::neighbourhood;
use super::snapshot::AlarmState;
use crate::auth::{Reason, UnixTime};
use crate::net::https::{Bounds, Client};
use crate::server::event::{Event, Observer};
use crate::server::handle::Handle;
use crate::telegram::DcId;

/// Settings of the alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where alarms are posted.
    pub webhook: Option<Webhook>,
    /// From how many networks one user may come within a day.
    pub networks: usize,
    /// How many spent hellos of one user may be shown within an hour.
    pub replays: u32,
    /// How many hellos may be declined within ten minutes, however few there usually are.
    pub declines: u64,
    /// How many clients in a row may find the cover or a data centre away.
    pub failures: u32,
    /// How long before its end a certificate is an alarm.
    pub certificate: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            webhook: None,
            networks: 10,
            replays: 3,
            declines: 1000,
            failures: 5,
            certificate: Duration::from_secs(14 * 86_400),
        }
    }
}

/// Where alarms are posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `https://…`, or `http://` to this machine.
    pub url: String,
    /// Sent along as `Authorization: Bearer …`.
    pub token: Option<String>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook(hidden)")
    }
}

/// Something that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// A user comes from many networks: the link may have been handed on.
    Networks {
        /// The user.
        user: String,
        /// From how many at least.
        networks: usize,
    },
    /// Spent hellos of a user are shown again: somebody has recorded connections and tries them.
    Replays {
        /// The user.
        user: String,
        /// How many within the hour.
        count: u32,
    },
    /// Far more hellos are declined than usual.
    Declines {
        /// How many within ten minutes.
        count: u64,
        /// How many are usual.
        usual: u64,
    },
    /// The certificate of the site ends soon, or has ended.
    Certificate {
        /// Days that are left; negative afterwards.
        days: i64,
    },
    /// The authority issues no certificate.
    Issuance {
        /// How many attempts in a row failed.
        failures: u32,
    },
    /// The cover cannot be reached.
    CoverAway,
    /// The cover answers otherwise than before.
    CoverChanged,
    /// A data centre cannot be reached.
    DataCentre {
        /// Which.
        dc: DcId,
    },
    /// A user has spent most or all of a quota.
    Quota {
        /// The user.
        user: String,
        /// How much of it.
        percent: u8,
    },
}

impl Alarm {
    /// All names.
    pub const KINDS: [&str; 9] = [
        "networks",
        "replays",
        "declines",
        "certificate",
        "cover away",
        "cover changed",
        "data centre",
        "quota",
        "issuance",
    ];

    /// A short name.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[self.number()]
    }

    fn number(&self) -> usize {
        match self {
            Self::Networks { .. } => 0,
            Self::Replays { .. } => 1,
            Self::Declines { .. } => 2,
            Self::Certificate { .. } => 3,
            Self::CoverAway => 4,
            Self::CoverChanged => 5,
            Self::DataCentre { .. } => 6,
            Self::Quota { .. } => 7,
            Self::Issuance { .. } => 8,
        }
    }

    /// Whom or what it is about.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Networks { user, .. } | Self::Replays { user, .. } => Some(user.clone()),
            Self::Quota { user, percent } => Some(format!("{user} {percent} %")),
            Self::DataCentre { dc } => Some(dc.to_string()),
            _ => None,
        }
    }

    /// The alarm in a sentence.
    pub fn text(&self) -> String {
        match self {
            Self::Networks { user, networks } => {
                format!("{user} came from {networks} networks within a day: the link may have been handed on")
            }
            Self::Replays { user, count } => {
                format!("{count} recorded hellos of {user} were shown again within an hour")
            }
            Self::Declines { count, usual } => {
                format!("{count} hellos were declined within ten minutes, where {usual} are usual")
            }
            Self::Certificate { days } if *days < 0 => "the certificate of the site has ended".into(),
            Self::Certificate { days } => format!("the certificate of the site ends in {days} days"),
            Self::Issuance { failures } => {
                format!(
                    "the authority issued no certificate, {failures} times in a row: see the log or `vizard doctor`"
                )
            }
            Self::CoverAway => "the cover cannot be reached".into(),
            Self::CoverChanged => "the cover answers otherwise than before".into(),
            Self::DataCentre { dc } => format!("data centre {dc} cannot be reached"),
            Self::Quota { user, percent } => format!("{user} has used {percent} % of the quota"),
        }
    }

    fn json(&self, now: UnixTime) -> String {
        let user = match self {
            Self::Networks { user, .. } | Self::Replays { user, .. } | Self::Quota { user, .. } => Some(user),
            _ => None,
        };
        json!({ "alarm": self.kind(), "user": user, "text": self.text(), "time": now.0 }).to_string()
    }
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// How long the same alarm about the same subject is not repeated.
const QUIET: i64 = 6 * HOUR;

/// Over how long declined hellos are counted, and how many times the usual number is a jump.
const SPAN: i64 = 600;
const JUMP: u64 = 10;

/// How much of a quota is worth an alarm, the most first.
const QUOTA_MARKS: [u8; 2] = [100, 80];

/// Most users that are watched for networks and replays.
const MOST_USERS: usize = 10_000;

/// Decides what is an alarm. Knows no clock: `now` is given, and never goes back by much.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    users: HashMap<String, Seen>,
    /// Since when declined hellos are counted, how many came, and how many usually come.
    span: (UnixTime, u64),
    usual: Option<f64>,
    cover_failures: u32,
    cover_changes: u64,
    dc_failures: HashMap<DcId, u32>,
    /// The mark that was told last, of which period.
    quotas: HashMap<String, (Option<UnixTime>, u8)>,
    told: HashMap<(usize, Option<String>), UnixTime>,
}

/// What was seen of a user.
#[derive(Debug)]
struct Seen {
    networks: HashMap<IpAddr, UnixTime>,
    replays: (UnixTime, u32),
}

impl Watch {
    /// Begins at `now`.
    pub fn new(settings: Settings, now: UnixTime) -> Self {
        Self {
            settings,
            users: HashMap::new(),
            span: (now, 0),
            usual: None,
            cover_failures: 0,
            cover_changes: 0,
            dc_failures: HashMap::new(),
            quotas: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// A user was admitted from this address.
    pub fn admitted(&mut self, user: &str, from: IpAddr, now: UnixTime) -> Option<Alarm> {
        let most = self.settings.networks;
        let seen = self.seen(user, now)?;
        let network = neighbourhood(from);
        // One more than is allowed is all that has to be known.
        if seen.networks.len() > most && !seen.networks.contains_key(&network) {
            seen.networks.retain(|_, last| now.0 - last.0 < DAY);
        }
        if seen.networks.len() <= most || seen.networks.contains_key(&network) {
            seen.networks.insert(network, now);
        }
        if seen.networks.len() <= most {
            return None;
        }
        seen.networks.retain(|_, last| now.0 - last.0 < DAY);
        let networks = seen.networks.len();
        (networks > most).then(|| Alarm::Networks { user: user.to_owned(), networks }).and_then(|it| self.tell(it, now))
    }

    /// A spent hello of this user was shown.
    pub fn replayed(&mut self, user: &str, now: UnixTime) -> Option<Alarm> {
        let most = self.settings.replays;
        let seen = self.seen(user, now)?;
        if now.0 - seen.replays.0.0 >= HOUR {
            seen.replays = (now, 0);
        }
        seen.replays.1 += 1;
        let count = seen.replays.1;
        (count > most).then(|| Alarm::Replays { user: user.to_owned(), count }).and_then(|it| self.tell(it, now))
    }

    /// So many hellos were declined since the last call, which should come about every minute.
    pub fn declined(&mut self, count: u64, now: UnixTime) -> Option<Alarm> {
        let (since, so_far) = &mut self.span;
        *so_far += count;
        let (count, usual) = (*so_far, self.usual.unwrap_or_default());
        let jump = count > self.settings.declines && count as f64 > usual * JUMP as f64;
        if now.0 - since.0 >= SPAN {
            // Half of what is usual was seen within the last two hours or so.
            self.usual = Some(self.usual.map_or(count as f64, |usual| usual + (count as f64 - usual) / 12.0));
            self.span = (now, 0);
        }
        jump.then_some(Alarm::Declines { count, usual: usual.round() as u64 }).and_then(|it| self.tell(it, now))
    }

    /// The certificate ends then.
    pub fn certificate(&mut self, ends: UnixTime, now: UnixTime) -> Option<Alarm> {
        let left = ends.0 - now.0;
        let near = left < i64::try_from(self.settings.certificate.as_secs()).unwrap_or(i64::MAX);
        near.then_some(Alarm::Certificate { days: left.div_euclid(DAY) }).and_then(|it| self.tell(it, now))
    }

    /// The authority was asked for a certificate this many times in a row without getting one.
    pub fn issuance(&mut self, failures: u32, now: UnixTime) -> Option<Alarm> {
        (failures >= self.settings.failures).then_some(Alarm::Issuance { failures }).and_then(|it| self.tell(it, now))
    }

    /// A client was received by the cover, or found it away.
    pub fn cover(&mut self, there: bool, now: UnixTime) -> Option<Alarm> {
        self.cover_failures = if there { 0 } else { self.cover_failures.saturating_add(1) };
        (self.cover_failures >= self.settings.failures).then_some(Alarm::CoverAway).and_then(|it| self.tell(it, now))
    }

    /// Visits have found the cover changed this many times since the start.
    pub fn cover_changes(&mut self, changes: u64, now: UnixTime) -> Option<Alarm> {
        // Another cover, which the operator wanted, counts anew.
        let more = changes > self.cover_changes;
        self.cover_changes = changes;
        more.then_some(Alarm::CoverChanged).and_then(|it| self.tell(it, now))
    }

    /// A data centre was reached, or not.
    pub fn dialled(&mut self, dc: DcId, there: bool, now: UnixTime) -> Option<Alarm> {
        if there {
            self.dc_failures.remove(&dc);
            return None;
        }
        let failures = self.dc_failures.entry(dc).or_default();
        *failures = failures.saturating_add(1);
        (*failures >= self.settings.failures).then_some(Alarm::DataCentre { dc }).and_then(|it| self.tell(it, now))
    }

    /// A user has used so many of these bytes since then. Each of the two marks is told once in a period.
    pub fn quota(&mut self, user: &str, used: u64, of: u64, since: Option<UnixTime>) -> Option<Alarm> {
        let percent = QUOTA_MARKS.into_iter().find(|mark| u128::from(used) * 100 >= u128::from(of) * u128::from(*mark));
        let Some(percent) = percent else {
            self.quotas.remove(user);
            return None;
        };
        let before = self.quotas.get(user).filter(|(period, _)| *period == since).map_or(0, |(_, told)| *told);
        if percent <= before || (before == 0 && self.quotas.len() >= MOST_USERS) {
            return None;
        }
        self.quotas.insert(user.to_owned(), (since, percent));
        Some(Alarm::Quota { user: user.to_owned(), percent })
    }

    /// The alarm, unless it was told a while ago.
    fn tell(&mut self, alarm: Alarm, now: UnixTime) -> Option<Alarm> {
        self.told.retain(|_, last| now.0 - last.0 < QUIET);
        let what = (alarm.number(), alarm.subject());
        if self.told.contains_key(&what) {
            return None;
        }
        self.told.insert(what, now);
        Some(alarm)
    }

    fn seen(&mut self, user: &str, now: UnixTime) -> Option<&mut Seen> {
        if !self.users.contains_key(user) {
            if self.users.len() >= MOST_USERS {
                return None;
            }
            self.users.insert(user.to_owned(), Seen { networks: HashMap::new(), replays: (now, 0) });
        }
        self.users.get_mut(user)
    }
}

/// The alarms of a running proxy.
pub struct Alarms {
    watch: Mutex<Watch>,
    declines: AtomicU64,
    sounded: Mutex<BTreeMap<&'static str, AlarmState>>,
    sender: mpsc::Sender<Alarm>,
}

/// Alarms that may wait for the webhook.
const WAITING: usize = 64;

/// How often that is looked at which nobody tells of.
const LOOK: Duration = Duration::from_secs(60);

impl Alarms {
    /// With what [`post`] takes.
    pub fn new(settings: Settings) -> (Arc<Self>, mpsc::Receiver<Alarm>) {
        let (sender, alarms) = mpsc::channel(WAITING);
        let alarms_of = Self {
            watch: Mutex::new(Watch::new(settings, now())),
            declines: AtomicU64::new(0),
            sounded: Mutex::default(),
            sender,
        };
        (Arc::new(alarms_of), alarms)
    }

    /// Other settings from now on; what was seen stays.
    pub fn replace(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// What has sounded: how often, and what it said last.
    pub fn sounded(&self) -> Vec<AlarmState> {
        self.sounded.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Looks at the server from time to time, for as long as this is polled.
    pub async fn keep(&self, handle: &Handle) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let cover = handle.cover();
            let (ends, changes, now) = (cover.certificate_ends(), cover.changes(), now());
            let failures = cover.acme().map(|standing| standing.failures);
            let declines = self.declines.swap(0, Ordering::Relaxed);
            let alarms = {
                let mut watch = self.lock();
                let certificate = ends.and_then(|ends| watch.certificate(ends, now));
                let issuance = failures.and_then(|failures| watch.issuance(failures, now));
                [watch.declined(declines, now), watch.cover_changes(changes, now), certificate, issuance]
            };
            alarms.into_iter().for_each(|alarm| self.sound(alarm));
            for member in handle.people().list() {
                let Some(quota) = member.policy().quota else { continue };
                let usage = member.usage(now);
                let alarm = self.lock().quota(member.name(), usage.in_period, quota.bytes, usage.since);
                self.sound(alarm);
            }
        }
    }

    fn sound(&self, alarm: Option<Alarm>) {
        let Some(alarm) = alarm else { return };
        let (name, text) = (alarm.kind(), alarm.text());
        warn!(alarm = name, subject = alarm.subject(), "{text}");
        let mut sounded = self.sounded.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sounded.get(name).map_or(0, |before| before.count) + 1;
        sounded.insert(name, AlarmState { name, count, text, last: Some(now()) });
        drop(sounded);
        if self.sender.try_send(alarm).is_err() {
            debug!("an alarm was not posted: too many wait");
        }
    }

    /// The webhook of the settings.
    pub fn webhook(&self) -> Option<Webhook> {
        self.lock().settings.webhook.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Alarms {
    fn observe(&self, event: &Event<'_>) {
        let alarm = match event {
            Event::Declined { declined, .. } => {
                self.declines.fetch_add(1, Ordering::Relaxed);
                match (&declined.member, declined.reason) {
                    (Some(member), Reason::Replay) => self.lock().replayed(member.name(), now()),
                    _ => None,
                }
            }
            Event::Admitted { from, member, .. } => {
                let mut watch = self.lock();
                watch.cover_failures = 0;
                watch.admitted(member.name(), from.ip(), now())
            }
            Event::VisitOver { closed: Some(closed), .. } if closed.down > 0 => self.lock().cover(true, now()),
            Event::CoverAway => self.lock().cover(false, now()),
            Event::Dialled { dc, .. } => self.lock().dialled(*dc, true, now()),
            Event::Undialled { dc, unknown: false } => self.lock().dialled(*dc, false, now()),
            _ => None,
        };
        self.sound(alarm);
    }
}

/// How often a webhook is tried for one alarm, and the pause after the first failure, which doubles with each.
#[derive(Clone, Copy, Debug)]
pub struct Persistence {
    /// How often.
    pub tries: u32,
    /// The first pause.
    pub pause: Duration,
}

impl Default for Persistence {
    /// For five minutes.
    fn default() -> Self {
        Self { tries: 7, pause: Duration::from_secs(5) }
    }
}

/// What a webhook's answer may cost.
const BOUNDS: Bounds = Bounds { size: 64 << 10, time: Duration::from_secs(15) };

/// Posts alarms one after the other, for as long as this is polled.
pub async fn post(alarms: &Alarms, mut waiting: mpsc::Receiver<Alarm>, client: Client, persistence: Persistence) {
    while let Some(alarm) = waiting.recv().await {
        // As it is now: the operator may have changed it.
        if let Some(webhook) = alarms.webhook() {
            post_one(&alarm, &webhook, &client, persistence).await;
        }
    }
}

async fn post_one(alarm: &Alarm, webhook: &Webhook, client: &Client, persistence: Persistence) {
    let headers: Vec<(HeaderName, HeaderValue)> = webhook
        .token
        .iter()
        .filter_map(|token| HeaderValue::try_from(format!("Bearer {token}")).ok())
        .map(|mut value| {
            value.set_sensitive(true);
            (AUTHORIZATION, value)
        })
        .collect();
    let Ok(url) = webhook.url.parse::<Uri>() else { return };
    let body = alarm.json(now());
    let mut pause = persistence.pause;
    for attempt in 1..=persistence.tries {
        match client.post_json(&url, &headers, body.clone().into(), BOUNDS).await {
            Ok(()) => return,
            Err(error) if attempt == persistence.tries => {
                warn!(%error, alarm = alarm.kind(), "an alarm could not be posted");
            }
            Err(error) => {
                debug!(%error, attempt, "the webhook does not work yet");
                sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

fn now() -> UnixTime {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const START: UnixTime = UnixTime(1_800_000_000);

    fn watch() -> Watch {
        Watch::new(Settings { networks: 3, ..Settings::default() }, START)
    }

    fn after(seconds: i64) -> UnixTime {
        UnixTime(START.0 + seconds)
    }

    fn at(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[test]
    fn a_link_that_is_handed_on_shows_by_its_networks() {
        let mut watch = watch();
        for n in [1, 2, 3, 1, 2, 3] {
            assert_eq!(watch.admitted("alice", at(n), START), None);
        }
        assert_eq!(watch.admitted("bob", at(4), START), None);
        assert_eq!(
            watch.admitted("alice", at(4), after(5)),
            Some(Alarm::Networks { user: "alice".into(), networks: 4 })
        );
        assert_eq!(watch.admitted("alice", at(5), after(6)), None, "told a moment ago");
        assert!(watch.admitted("alice", at(4), after(QUIET + 6)).is_some(), "and it goes on");
        let mut watch = self::watch();
        for n in 0..100u8 {
            assert_eq!(
                watch.admitted("alice", at(n), after(i64::from(n) * DAY / 3)),
                None,
                "one new every eight hours"
            );
        }
        assert!(watch.users["alice"].networks.len() <= 5);
    }

    #[test]
    fn replays_count_within_an_hour() {
        let mut watch = watch();
        for hour in 0..10 {
            for n in 0..3 {
                assert_eq!(watch.replayed("alice", after(hour * HOUR + n)), None);
            }
        }
        assert_eq!(
            watch.replayed("alice", after(9 * HOUR + 9)),
            Some(Alarm::Replays { user: "alice".into(), count: 4 })
        );
    }

    #[test]
    fn a_jump_in_declines_is_one_over_the_usual_and_over_the_least() {
        let mut watch = watch();
        for minute in 0..=600 {
            assert_eq!(watch.declined(90, after(minute * 60)), None, "900 every ten minutes are usual");
        }
        assert_eq!(watch.declined(5000, after(36_060)), None);
        let alarm = watch.declined(6000, after(36_120));
        assert!(matches!(alarm, Some(Alarm::Declines { count: 11_000.., usual: 800..1300 })), "{alarm:?}");
        let mut quiet = self::watch();
        assert_eq!(quiet.declined(1000, START), None);
        assert!(quiet.declined(1, after(60)).is_some());
    }

    #[test]
    fn certificates_covers_and_data_centres() {
        let mut watch = watch();
        assert_eq!(watch.certificate(after(15 * DAY), START), None);
        assert_eq!(watch.certificate(after(15 * DAY), after(3 * DAY)), Some(Alarm::Certificate { days: 12 }));
        assert!(watch.certificate(START, after(4 * DAY)).unwrap().text().contains("has ended"));
        assert_eq!(watch.issuance(4, after(4 * DAY)), None);
        assert_eq!(watch.issuance(5, after(4 * DAY)), Some(Alarm::Issuance { failures: 5 }));
        assert_eq!(watch.issuance(6, after(4 * DAY)), None, "told a while ago");
        let dc = DcId::new(2);
        for n in 0..4 {
            assert_eq!((watch.cover(false, START), watch.dialled(dc, false, START)), (None, None), "{n}");
        }
        assert_eq!(watch.cover(true, START), None);
        assert_eq!(watch.cover(false, START), None, "once it was there between");
        assert_eq!(watch.dialled(dc, false, START), Some(Alarm::DataCentre { dc }));
        for _ in 0..3 {
            watch.cover(false, START);
        }
        assert_eq!(watch.cover(false, START), Some(Alarm::CoverAway));
        assert_eq!(watch.cover_changes(0, START), None);
        assert_eq!(watch.cover_changes(1, START), Some(Alarm::CoverChanged));
        assert_eq!(watch.cover_changes(1, after(QUIET)), None);
    }

    #[test]
    fn each_mark_of_a_quota_is_told_once_in_a_period() {
        let mut watch = watch();
        let first = Some(START);
        let percent = |alarm: Option<Alarm>| match alarm {
            Some(Alarm::Quota { percent, .. }) => percent,
            _ => 0,
        };
        let told = [79, 80, 81, 99, 100, 120].map(|used| percent(watch.quota("alice", used, 100, first)));
        assert_eq!(told, [0, 80, 0, 0, 100, 0]);
        let second = Some(after(30 * DAY));
        assert_eq!([0, 200, 200].map(|used| percent(watch.quota("alice", used, 100, second))), [0, 100, 0]);
        assert_eq!(percent(watch.quota("bob", u64::MAX, u64::MAX, None)), 100);
    }

    #[test]
    fn no_text_holds_an_address() {
        let mut watch = watch();
        let alarm = (1..9).find_map(|n| watch.admitted("alice", at(n), START)).unwrap();
        assert!(!alarm.json(START).contains("192."), "{}", alarm.json(START));
    }

    #[tokio::test]
    async fn a_webhook_that_fails_is_tried_again_and_gets_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in ["", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                seen.push(String::from_utf8(request).unwrap());
            }
            seen
        });
        let webhook = Some(Webhook { url, token: Some("s3cret".into()) });
        let (alarms, waiting) = Alarms::new(Settings { webhook, ..Settings::default() });
        let persistence = Persistence { tries: 5, pause: Duration::from_millis(1) };
        let posting = Arc::clone(&alarms);
        let posting = tokio::spawn(async move { post(&posting, waiting, Client::default(), persistence).await });
        let alarm = alarms.lock().quota("alice", 80, 100, None);
        alarms.sound(alarm);
        let seen = serving.await.unwrap();
        posting.abort();
        let sounded = alarms.sounded();
        assert_eq!((sounded[0].name, sounded[0].count), ("quota", 1));
        assert!(seen.iter().all(|request| request.contains("authorization: Bearer s3cret\r\n")), "{seen:?}");
        let (_, body) = seen[2].split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["alarm"], &body["user"]), (&"quota".into(), &"alice".into()));
        assert!(!format!("{:?}", alarms.webhook()).contains("s3cret"));
    }
}
