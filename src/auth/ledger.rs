//! What a member has moved and may still move: the arithmetic behind [`super::Member`], on given times.
//!
//! A quota must hold over a crash, so bytes are granted in steps, and a step counts once it is on disk: what is written
//! there is never less than what was used, and more by two steps at most.

use std::task::Waker;
use std::time::Instant;

use super::bucket::Bucket;
use super::policy::{Policy, Quota};
use super::window::UnixTime;

/// Steps in a quota. Two of them are what a crash can cost a member: half a hundredth.
const STEPS: u64 = 400;

/// Smallest step: less is not worth a write to the disk.
const LEAST_STEP: u64 = 16 * 1024;

/// The two directions of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// Whether a session may move bytes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// As many as it likes.
    Free,
    /// This many now, at most.
    Most(u64),
    /// None before this time.
    After(Instant),
    /// None before the waker is called.
    Wait,
    /// None any more.
    Over,
}

/// Traffic of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes from clients, ever.
    pub up: u64,
    /// Bytes to clients, ever.
    pub down: u64,
    /// Bytes both ways in the present period of the quota; without a quota, ever.
    pub in_period: u64,
    /// Start of this period; `None` before its first byte.
    pub since: Option<UnixTime>,
}

impl Usage {
    /// Traffic since it was `before`; in another period all of that.
    pub fn beyond(self, before: Self) -> Self {
        let period = if self.since == before.since { before.in_period } else { 0 };
        Self {
            up: self.up.saturating_sub(before.up),
            down: self.down.saturating_sub(before.down),
            in_period: self.in_period.saturating_sub(period),
            since: self.since,
        }
    }

    /// The same, seen from `now`: a period that is over has taken its sum along.
    pub fn seen(self, policy: &Policy, now: UnixTime) -> Self {
        match policy.quota {
            Some(quota) if self.since != Some(quota.period.start(self.since, now)) => {
                Self { in_period: 0, since: None, ..self }
            }
            _ => self,
        }
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    usage: Usage,
    /// Bytes of the present period that may be used: as many as the disk knows.
    granted: u64,
    /// Someone was asked to grant more.
    asked: bool,
    /// The disk does not know the latest.
    changed: bool,
    /// Usage that is on disk.
    written: Option<Usage>,
    up: Bucket,
    down: Bucket,
    waiting: Vec<Waker>,
}

impl Ledger {
    /// Goes on from what was kept.
    pub fn restore(&mut self, usage: Usage) {
        (self.usage, self.granted, self.changed, self.written) = (usage, usage.in_period, false, Some(usage));
    }

    /// Whether so many bytes may be moved now, and whether someone has to be asked for a grant. `banked` says that
    /// there is one to ask.
    pub fn ask(
        &mut self,
        policy: &Policy,
        banked: bool,
        way: Direction,
        now: (Instant, UnixTime),
    ) -> (Allowance, bool) {
        let (mut most, mut call) = (u64::MAX, false);
        if let Some(quota) = policy.quota {
            self.turn(quota, now.1);
            let left = quota.bytes.saturating_sub(self.usage.in_period);
            if left == 0 {
                return (Allowance::Over, false);
            }
            let granted = if banked { self.granted.saturating_sub(self.usage.in_period) } else { left };
            if granted < left.min(step(quota)) && !self.asked {
                (self.asked, self.changed, call) = (true, true, true);
            }
            if granted == 0 {
                return (Allowance::Wait, call);
            }
            most = left.min(granted);
        }
        let (bucket, rate) = self.bucket(policy, way);
        match rate.map(|rate| bucket.ask(rate, now.0)) {
            Some(Err(later)) => (Allowance::After(later), call),
            Some(Ok(allowed)) => (Allowance::Most(most.min(allowed)), call),
            None => (Allowance::Most(most), call),
        }
    }

    /// So much was moved by a session that had asked.
    pub fn charge(&mut self, policy: &Policy, way: Direction, bytes: u64, now: (Instant, UnixTime)) {
        if let Some(quota) = policy.quota {
            self.turn(quota, now.1);
            self.usage.in_period = self.usage.in_period.saturating_add(bytes);
            self.changed = true;
        }
        if let (bucket, Some(rate)) = self.bucket(policy, way) {
            bucket.charge(rate, bytes, now.0);
        }
    }

    /// So much was moved by any session, whether it had to ask or not.
    pub fn count(&mut self, policy: &Policy, up: u64, down: u64, now: UnixTime) {
        if up == 0 && down == 0 {
            return;
        }
        let sum = up.saturating_add(down);
        self.usage.up = self.usage.up.saturating_add(up);
        self.usage.down = self.usage.down.saturating_add(down);
        if policy.quota.is_none() {
            self.usage.in_period = self.usage.in_period.saturating_add(sum);
            self.usage.since.get_or_insert(now);
        }
        self.changed = true;
    }

    /// So much was moved in another process, `in_period` of it in the present period.
    pub fn add(&mut self, policy: &Policy, moved: Usage, now: UnixTime) {
        self.count(policy, moved.up, moved.down, now);
        if let Some(quota) = policy.quota {
            self.turn(quota, now);
            self.usage.in_period = self.usage.in_period.saturating_add(moved.in_period);
            self.changed = true;
        }
    }

    /// Whether nothing is left of the quota.
    pub fn is_spent(&mut self, policy: &Policy, now: UnixTime) -> bool {
        policy.quota.is_some_and(|quota| self.usage(policy, now).in_period >= quota.bytes)
    }

    /// Usage as of `now`: a period that is over does not count.
    pub fn usage(&self, policy: &Policy, now: UnixTime) -> Usage {
        self.usage.seen(policy, now)
    }

    /// Usage as counted.
    pub fn exact(&self) -> Usage {
        self.usage
    }

    /// Usage that has to be written, if any: with the next grant, or exactly as it is.
    pub fn page(&mut self, policy: &Policy, exact: bool) -> Option<Usage> {
        if !std::mem::take(&mut self.changed) && !exact {
            return None;
        }
        let ahead = policy.quota.filter(|_| !exact).map_or(self.usage.in_period, |quota| {
            let promised = self.usage.in_period.saturating_add(2 * step(quota));
            promised.min(quota.bytes).max(self.usage.in_period)
        });
        Some(Usage { in_period: ahead, ..self.usage }).filter(|page| self.written != Some(*page))
    }

    /// This page is on disk, or never will be: what it grants may be used. Says whom to wake.
    pub fn grant(&mut self, page: &Usage, written: bool) -> Vec<Waker> {
        self.written = Some(*page).filter(|_| written);
        self.changed |= !written;
        if page.since == self.usage.since {
            self.granted = page.in_period;
        }
        self.asked = false;
        std::mem::take(&mut self.waiting)
    }

    /// Calls this one once there are news.
    pub fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// Another policy holds from now on. Says whom to wake.
    pub fn policy_changed(&mut self, old: &Policy, new: &Policy) -> Vec<Waker> {
        if (old.bandwidth_up, old.bandwidth_down) != (new.bandwidth_up, new.bandwidth_down) {
            self.up.forget();
            self.down.forget();
        }
        self.asked = false;
        std::mem::take(&mut self.waiting)
    }

    fn turn(&mut self, quota: Quota, now: UnixTime) {
        let start = quota.period.start(self.usage.since, now);
        if self.usage.since != Some(start) {
            (self.usage.since, self.usage.in_period, self.granted) = (Some(start), 0, 0);
            self.changed = true;
        }
    }

    fn bucket(&mut self, policy: &Policy, way: Direction) -> (&mut Bucket, Option<u64>) {
        match way {
            Direction::Up => (&mut self.up, policy.bandwidth_up),
            Direction::Down => (&mut self.down, policy.bandwidth_down),
        }
    }
}

fn step(quota: Quota) -> u64 {
    (quota.bytes / STEPS).max(LEAST_STEP)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::Period;

    const NOW: UnixTime = UnixTime(1_767_225_600);
    const MEGA: u64 = 1_000_000;

    fn quota(bytes: u64, period: Period) -> Policy {
        Policy { quota: Some(Quota { bytes, period }), ..Policy::default() }
    }

    /// Uses as much as it may in reads of `read` bytes until it has to wait or `enough` were moved.
    fn use_up(ledger: &mut Ledger, policy: &Policy, read: u64, enough: u64) -> (u64, Allowance) {
        let now = (Instant::now(), NOW);
        let mut sum = 0;
        loop {
            match ledger.ask(policy, true, Direction::Down, now).0 {
                Allowance::Most(most) if sum < enough => {
                    let bytes = most.min(read);
                    ledger.charge(policy, Direction::Down, bytes, now);
                    sum += bytes;
                }
                leave => return (sum, leave),
            }
        }
    }

    #[test]
    fn nothing_moves_before_it_is_granted_and_nothing_beyond_the_quota() {
        let policy = quota(100 * MEGA, Period::Total);
        let mut ledger = Ledger::default();
        let mut sum = 0;
        loop {
            let (moved, leave) = use_up(&mut ledger, &policy, 65_536, u64::MAX);
            sum += moved;
            if leave == Allowance::Over {
                break;
            }
            let page = ledger.page(&policy, false).expect("a grant was asked for");
            assert!(page.in_period <= sum + 2 * step(policy.quota.unwrap()));
            ledger.grant(&page, true);
        }
        assert_eq!(sum, 100 * MEGA);
        assert!(ledger.is_spent(&policy, UnixTime(NOW.0 + 1_000_000_000)));
    }

    #[test]
    fn a_grant_is_asked_for_once_and_ahead() {
        let policy = quota(400 * MEGA, Period::Total);
        let (mut ledger, now) = (Ledger::default(), (Instant::now(), NOW));
        assert_eq!(ledger.ask(&policy, true, Direction::Up, now), (Allowance::Wait, true));
        assert_eq!(ledger.ask(&policy, true, Direction::Up, now), (Allowance::Wait, false));
        let page = ledger.page(&policy, false).unwrap();
        assert_eq!(page.in_period, 2 * MEGA);
        ledger.grant(&page, true);
        assert_eq!(ledger.ask(&policy, true, Direction::Up, now), (Allowance::Most(2 * MEGA), false));
        ledger.charge(&policy, Direction::Up, MEGA + 1, now);
        assert_eq!(ledger.ask(&policy, true, Direction::Down, now), (Allowance::Most(MEGA - 1), true));
    }

    #[test]
    fn without_a_bank_nobody_waits() {
        let policy = quota(MEGA, Period::Total);
        let (mut ledger, now) = (Ledger::default(), (Instant::now(), NOW));
        assert_eq!(ledger.ask(&policy, false, Direction::Up, now), (Allowance::Most(MEGA), false));
        ledger.charge(&policy, Direction::Up, MEGA, now);
        assert_eq!(ledger.ask(&policy, false, Direction::Up, now), (Allowance::Over, false));
    }

    #[test]
    fn a_new_period_has_the_whole_quota_and_the_sums_go_on() {
        let policy = quota(MEGA, Period::CalendarDay);
        let mut ledger = Ledger::default();
        let now = |days: i64| (Instant::now(), UnixTime(NOW.0 + days * 86_400));
        ledger.charge(&policy, Direction::Up, MEGA, now(0));
        ledger.count(&policy, MEGA, 0, NOW);
        assert!(ledger.is_spent(&policy, NOW) && !ledger.is_spent(&policy, now(1).1));
        assert_eq!(ledger.usage(&policy, NOW), Usage { up: MEGA, down: 0, in_period: MEGA, since: Some(NOW) });
        assert_eq!(ledger.usage(&policy, now(1).1), Usage { up: MEGA, down: 0, in_period: 0, since: None });
        assert_eq!(ledger.ask(&policy, false, Direction::Up, now(1)).0, Allowance::Most(MEGA));
    }

    #[test]
    fn without_a_quota_sums_are_counted_and_written_when_they_change() {
        let policy = Policy::default();
        let mut ledger = Ledger::default();
        assert_eq!(ledger.page(&policy, false), None);
        ledger.count(&policy, 3, 4, NOW);
        let page = Usage { up: 3, down: 4, in_period: 7, since: Some(NOW) };
        assert_eq!(ledger.page(&policy, false), Some(page));
        assert_eq!(ledger.page(&policy, false), None);
        ledger.grant(&page, false);
        assert_eq!(ledger.page(&policy, false), Some(page), "it was lost");
        assert_eq!(ledger.page(&policy, true), Some(page));
        ledger.grant(&page, true);
        assert_eq!(ledger.page(&policy, true), None);
    }

    #[test]
    fn each_way_has_its_own_rate() {
        let policy = Policy { bandwidth_down: Some(1000), ..Policy::default() };
        let (mut ledger, now) = (Ledger::default(), (Instant::now(), NOW));
        ledger.charge(&policy, Direction::Down, 5000, now);
        assert!(matches!(ledger.ask(&policy, true, Direction::Down, now).0, Allowance::After(later) if later > now.0));
        assert_eq!(ledger.ask(&policy, true, Direction::Up, now).0, Allowance::Most(u64::MAX));
    }

    proptest! {
        /// Whenever the process is killed, what the disk says is what was used, or more by half a hundredth.
        #[test]
        fn a_crash_costs_at_most_half_a_hundredth(
            bytes in 10 * MEGA..5_000 * MEGA,
            read in 1_000u64..70_000,
            share in 0.0f64..1.0,
        ) {
            let policy = quota(bytes, Period::CalendarMonth);
            let (mut ledger, mut disk, mut used) = (Ledger::default(), Usage::default(), 0);
            let read = read.max(bytes / 5_000);
            let enough = (bytes as f64 * share) as u64;
            while used < enough {
                let (moved, leave) = use_up(&mut ledger, &policy, read, enough - used);
                used += moved;
                if leave == Allowance::Wait {
                    disk = ledger.page(&policy, false).unwrap();
                    ledger.grant(&disk, true);
                }
            }
            prop_assert!(disk.in_period >= used && disk.in_period - used <= bytes / 200 + 1, "{disk:?} {used}");
        }
    }
}
