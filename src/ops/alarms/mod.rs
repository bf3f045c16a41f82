//! Alarms: what an operator should hear of without reading logs.
//!
//! [`Watch`] decides, on counts and times that it is given. [`Alarms`] tells it what happens, and tells the log and, if
//! there is one, the webhook what it decided. No alarm holds an address.

mod clock;
mod declines;
mod kinds;
mod post;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

pub use self::clock::Dates;
pub use self::kinds::Alarm;
pub use self::post::{Persistence, post};
pub use self::watch::Watch;

use super::snapshot::AlarmState;
use crate::auth::{Reason, UnixTime};
use crate::base::told::Uptime;
use crate::server::event::{Event, Observer};
use crate::server::handle::Handle;

/// Settings of the alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Webhook that alarms are posted to.
    pub webhook: Option<Webhook>,
    /// From how many networks one user may come within a day.
    pub networks: usize,
    /// Most replayed hellos of one user within an hour without an alarm.
    pub replays: u32,
    /// Most declined hellos within ten minutes without an alarm, however few there usually are.
    pub declines: u64,
    /// Failures in a row, of the cover, a data centre or the certificate's authority, that raise an alarm.
    pub failures: u32,
    /// Remaining lifetime of a certificate below which there is an alarm.
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

/// Destination that alarms are posted to.
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

/// The alarms of a running proxy.
pub struct Alarms {
    watch: Mutex<Watch>,
    declines: AtomicU64,
    sounded: Mutex<BTreeMap<&'static str, AlarmState>>,
    sender: mpsc::Sender<Alarm>,
}

/// Alarms that may wait for the webhook.
const WAITING: usize = 64;

/// Interval between looks at the things that send no events.
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
        self.lock().replace(settings);
    }

    /// Returns the alarms so far: how often each was raised, and its last text.
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
            let dates = Dates {
                telegram: handle.upstream().told_time().ahead(SystemTime::now(), Uptime::now()),
                cover: cover.clock_ahead(),
            };
            let declines = self.declines.swap(0, Ordering::Relaxed);
            let alarms = {
                let mut watch = self.lock();
                let certificate = ends.and_then(|ends| watch.certificate(ends, now));
                let issuance = failures.and_then(|failures| watch.issuance(failures, now));
                let dated = watch.dated(dates, now);
                [watch.declined(declines, now), watch.cover_changes(changes, now), certificate, issuance, dated]
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

    /// The configuration was not taken at a reload, for so many complaints.
    pub fn refused(&self, complaints: usize) {
        self.sound(Some(Alarm::Refused { complaints }));
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
        self.lock().settings().webhook.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Alarms {
    fn observe(&self, event: &Event<'_>) {
        let alarm = match event {
            Event::Declined { from, declined } => {
                self.declines.fetch_add(1, Ordering::Relaxed);
                match (&declined.member, declined.reason) {
                    (Some(member), Reason::Replay) => self.lock().replayed(member.name(), now()),
                    (Some(member), Reason::Time(ahead)) => self.lock().clock(member.name(), from.ip(), ahead, now()),
                    _ => None,
                }
            }
            Event::Admitted { from, member, by_cover, .. } => {
                let mut watch = self.lock();
                // A flight in the cover's place says nothing for the cover.
                if *by_cover {
                    _ = watch.cover(true, now());
                    _ = watch.flight(true, now());
                }
                _ = watch.clock(member.name(), from.ip(), 0, now());
                watch.admitted(member.name(), from.ip(), now())
            }
            Event::VisitOver { closed: Some(closed), .. } if closed.down > 0 => self.lock().cover(true, now()),
            Event::CoverAway => self.lock().cover(false, now()),
            Event::CoverFailed(_) => self.lock().flight(false, now()),
            Event::Dialled { dc, .. } => self.lock().dialled(*dc, true, now()),
            Event::Undialled { dc, unknown: false } => self.lock().dialled(*dc, false, now()),
            _ => None,
        };
        self.sound(alarm);
    }
}

fn now() -> UnixTime {
    SystemTime::now().into()
}
