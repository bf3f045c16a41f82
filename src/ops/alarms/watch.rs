//! What is an alarm and what is not, on given counts and times.

use std::collections::HashMap;
use std::net::IpAddr;

use super::clock::{Agreement, Clocks, Dates};
use super::declines::{Declines, Recent};
use super::{Alarm, Settings};
use crate::auth::UnixTime;
use crate::ops::nets::neighbourhood;
use crate::telegram::DcId;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Time for which the same alarm about the same subject is not repeated.
const QUIET: i64 = 6 * HOUR;

/// Multiple of the usual number of declined hellos that counts as a jump.
const JUMP: u64 = 10;

/// Percentages of a quota that raise an alarm, the highest first.
const QUOTA_MARKS: [u8; 2] = [100, 80];

/// Most users that are watched for networks and replays.
const MOST_USERS: usize = 10_000;

/// Decides what is an alarm. Knows no clock: `now` is given. Where it goes back, what was told later is told again.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    users: HashMap<String, Seen>,
    declines: Declines,
    clocks: Clocks,
    cover_failures: u32,
    /// Admitted clients in a row that the cover had no handshake for.
    flight_failures: u32,
    cover_changes: u64,
    dc_failures: HashMap<DcId, u32>,
    /// The mark that was told last, of which period.
    quotas: HashMap<String, (Option<UnixTime>, u8)>,
    told: HashMap<(usize, Option<String>), UnixTime>,
}

/// Recent networks and replays of a user.
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
            declines: Declines::new(now),
            clocks: Clocks::default(),
            cover_failures: 0,
            flight_failures: 0,
            cover_changes: 0,
            dc_failures: HashMap::new(),
            quotas: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// Returns the settings in effect.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other settings from now on; what was seen stays.
    pub fn replace(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A user was admitted from this address.
    pub fn admitted(&mut self, user: &str, from: IpAddr, now: UnixTime) -> Option<Alarm> {
        let most = self.settings.networks;
        let seen = self.seen(user, now)?;
        let network = neighbourhood(from);
        // One more than is allowed is all that has to be known.
        if seen.networks.len() > most && !seen.networks.contains_key(&network) {
            seen.networks.retain(|_, last| is_within(*last, now, DAY));
        }
        if seen.networks.len() <= most || seen.networks.contains_key(&network) {
            seen.networks.insert(network, now);
        }
        if seen.networks.len() <= most {
            return None;
        }
        seen.networks.retain(|_, last| is_within(*last, now, DAY));
        let networks = seen.networks.len();
        (networks > most).then(|| Alarm::Networks { user: user.to_owned(), networks }).and_then(|it| self.tell(it, now))
    }

    /// A spent hello of this user was shown.
    pub fn replayed(&mut self, user: &str, now: UnixTime) -> Option<Alarm> {
        let most = self.settings.replays;
        let seen = self.seen(user, now)?;
        if !is_within(seen.replays.0, now, HOUR) {
            seen.replays = (now, 0);
        }
        seen.replays.1 += 1;
        let count = seen.replays.1;
        (count > most).then(|| Alarm::Replays { user: user.to_owned(), count }).and_then(|it| self.tell(it, now))
    }

    /// A client of this user is ahead of this server's clock by so many seconds.
    pub fn clock(&mut self, user: &str, from: IpAddr, ahead: i64, now: UnixTime) -> Option<Alarm> {
        let Agreement { ahead, clients } = self.clocks.vote(user, neighbourhood(from), ahead, now)?;
        self.tell(Alarm::Clock { ahead, clients }, now)
    }

    /// Servers have told their time.
    pub fn dated(&mut self, dates: Dates, now: UnixTime) -> Option<Alarm> {
        let (ahead, by) = dates.agreed()?;
        self.tell(Alarm::ClockByDate { ahead, by }, now)
    }

    /// So many hellos were declined since the last call, which should come about every minute.
    pub fn declined(&mut self, count: u64, now: UnixTime) -> Option<Alarm> {
        let Recent { count, usual } = self.declines.add(count, now);
        let jump = count > self.settings.declines && count > usual.saturating_mul(JUMP);
        jump.then_some(Alarm::Declines { count, usual }).and_then(|it| self.tell(it, now))
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

    /// An admitted client got its flight of the cover, or the cover had none for it.
    pub fn flight(&mut self, given: bool, now: UnixTime) -> Option<Alarm> {
        self.flight_failures = if given { 0 } else { self.flight_failures.saturating_add(1) };
        (self.flight_failures >= self.settings.failures).then_some(Alarm::CoverFails).and_then(|it| self.tell(it, now))
    }

    /// Visits have found the cover changed this many times since the start.
    pub fn cover_changes(&mut self, changes: u64, now: UnixTime) -> Option<Alarm> {
        // Another cover, which the operator wanted, counts again.
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
        self.told.retain(|_, last| is_within(*last, now, QUIET));
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

/// Whether that was less than `seconds` ago. What is in the future was noted before the clock was set back.
fn is_within(then: UnixTime, now: UnixTime, seconds: i64) -> bool {
    (0..seconds).contains(&now.0.saturating_sub(then.0))
}

#[cfg(test)]
mod tests {
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
    fn a_clock_that_is_behind_is_told_of_once() {
        let mut watch = watch();
        let told: Vec<Alarm> = (0..31u8)
            .filter_map(|n| watch.clock(&format!("user {n}"), at(n), 7200 + i64::from(n), after(n.into())))
            .collect();
        assert_eq!(told, [Alarm::Clock { ahead: 7201, clients: 3 }]);
        assert!(told[0].text().contains("2 h 0 min behind"), "{}", told[0].text());
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
    fn a_clock_that_is_set_back_silences_no_alarm() {
        let mut watch = watch();
        assert!(watch.cover(false, after(400 * DAY)).is_none());
        let told = (0..).find_map(|n| watch.cover(false, after(400 * DAY + n)));
        assert_eq!(told, Some(Alarm::CoverAway));
        assert_eq!(watch.cover(true, START), None);
        assert_eq!((0..10).find_map(|n| watch.cover(false, after(n))), Some(Alarm::CoverAway));
    }

    #[test]
    fn a_clock_that_is_off_is_told_once_whoever_says_so() {
        let mut watch = watch();
        let dates = Dates { telegram: Some(-7200), cover: None };
        let alarm = watch.dated(dates, START).unwrap();
        assert_eq!((alarm.kind(), alarm.subject()), ("clock", None));
        assert!(alarm.text().contains("2 h 0 min ahead of Telegram"), "{}", alarm.text());
        assert_eq!(watch.dated(dates, after(60)), None);
        for n in 1..9 {
            assert_eq!(watch.clock("alice", at(n), -7200, after(61)), None, "told a while ago");
        }
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
}
