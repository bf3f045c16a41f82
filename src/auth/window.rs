//! The clock skew that is accepted, as arithmetic on given times.

use std::time::{Duration, SystemTime};

/// Seconds since 1970. Hellos carry 32 bits of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub i64);

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => seconds(since),
            Err(before) => -seconds(before.duration()),
        })
    }
}

/// Tolerance for a client's clock.
///
/// The time in a hello is not covered by its authentication code, so a window of any width protects from nothing; it is
/// there for the operator who wants to see whose clock is wrong. Replays are the replay cache's business.
#[derive(Clone, Copy, Debug)]
pub struct TimeWindow(i64);

impl TimeWindow {
    /// A window of this width to either side.
    pub fn new(width: Duration) -> Self {
        Self(i64::try_from(width.as_secs()).unwrap_or(i64::MAX))
    }

    /// `Err` with the skew (positive: the client is ahead) if `claimed` is too far from `now`.
    pub fn check(self, claimed: UnixTime, now: UnixTime) -> Result<(), i64> {
        let skew = claimed.0.saturating_sub(now.0);
        if skew.saturating_abs() <= self.0 { Ok(()) } else { Err(skew) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_up_to_its_width_and_reports_the_skew() {
        let window = TimeWindow::new(Duration::from_secs(600));
        let now = UnixTime(1_767_225_600);
        let check = |offset| window.check(UnixTime(now.0 + offset), now);
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(600), Ok(()));
        assert_eq!(check(-600), Ok(()));
        assert_eq!(check(601), Err(601));
        assert_eq!(check(-86_400), Err(-86_400));
        assert_eq!(TimeWindow::new(Duration::MAX).check(UnixTime(0), now), Ok(()));
    }
}
