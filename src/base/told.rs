//! A time that another machine has told, and how far it is ahead of this one's clock.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use jiff::fmt::rfc2822::DateTimeParser;

/// The time that a server told last. What is asked of it later follows a clock that was set since.
#[derive(Debug, Default)]
pub struct ToldTime(Mutex<Option<(Uptime, i64)>>);

/// Seconds since this machine was started, those in which it slept among them: a clock that stood still meanwhile would make
/// the time that was told seem to be behind by as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(pub i64);

impl Uptime {
    /// The present one (`CLOCK_BOOTTIME`).
    pub fn now() -> Self {
        Self(rustix::system::sysinfo().uptime)
    }
}

/// Seconds for which a told time is of use: the clock that counts on from it runs wrong, too.
const GOOD_FOR: i64 = 3 * 3600;

impl ToldTime {
    /// A server said this in a header `Date`; what is no date is nothing.
    pub fn hear(&self, date: &str, at: Uptime) {
        if let Some(seconds) = parse(date) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, seconds));
        }
    }

    /// By how many seconds that server's clock is ahead of this one's, if it told its time lately.
    pub fn ahead(&self, now: SystemTime, at: Uptime) -> Option<i64> {
        let (heard, seconds) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.0.saturating_sub(heard.0);
        let own = match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).ok()?,
            Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
        };
        (since < GOOD_FOR).then(|| seconds.saturating_add(since).saturating_sub(own))
    }
}

/// Seconds since 1970 of a date as HTTP writes it.
pub fn parse(date: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(date.trim()).ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_that_was_told_goes_on_and_sees_that_the_clock_was_set() {
        let (told, start) = (ToldTime::default(), Uptime(1000));
        let own = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(told.ahead(own(0), start), None);
        told.hear("Tue, 15 Nov 1994 08:12:31 GMT", start);
        told.hear("soon", start);
        let later = Uptime(1060);
        assert_eq!(told.ahead(own(784_887_151 - 7200), start), Some(7200));
        assert_eq!(told.ahead(own(784_887_151 - 7140), later), Some(7200));
        assert_eq!(told.ahead(own(784_887_151 + 60), later), Some(0), "the clock was set meanwhile");
        assert_eq!(told.ahead(own(784_887_151), Uptime(1000 + GOOD_FOR)), None, "long ago");
    }

    /// What `CLOCK_MONOTONIC` counts stands still in a machine that sleeps; what is counted here does not.
    #[test]
    fn the_time_of_the_machine_is_that_since_its_start_with_its_sleep() {
        let shown = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            text.split('.').next().unwrap().parse::<i64>().unwrap()
        };
        let (before, now, after) = (shown(), Uptime::now(), shown());
        assert!(before <= now.0 && now.0 <= after + 1, "{before} {now:?} {after}");
        let told = ToldTime::default();
        told.hear("Tue, 15 Nov 1994 08:12:31 GMT", now);
        // An hour's sleep: both clocks have gone on.
        let woken = SystemTime::UNIX_EPOCH + Duration::from_secs(784_887_151 + 3600);
        assert_eq!(told.ahead(woken, Uptime(now.0 + 3600)), Some(0));
    }
}
