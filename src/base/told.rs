//! A time that another machine has told, and how far it is ahead of this one's clock.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::fmt::rfc2822::DateTimeParser;

/// The time that a server told last. What is asked of it later follows a clock that was set since.
#[derive(Debug, Default)]
pub struct ToldTime(Mutex<Option<(Instant, i64)>>);

/// Time for which a told time is of use: the clock that counts on from it runs wrong, too.
const GOOD_FOR: Duration = Duration::from_secs(3 * 3600);

impl ToldTime {
    /// A server said this in a header `Date`; what is no date is nothing.
    pub fn hear(&self, date: &str, at: Instant) {
        if let Some(seconds) = parse(date) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, seconds));
        }
    }

    /// By how many seconds that server's clock is ahead of this one's, if it told its time lately.
    pub fn ahead(&self, now: SystemTime, at: Instant) -> Option<i64> {
        let (heard, seconds) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.saturating_duration_since(heard);
        let own = match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).ok()?,
            Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
        };
        (since < GOOD_FOR).then(|| seconds.saturating_add(since.as_secs().cast_signed()).saturating_sub(own))
    }
}

/// Seconds since 1970 of a date as HTTP writes it.
pub fn parse(date: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(date.trim()).ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_told_goes_on_and_sees_that_the_clock_was_set() {
        let (told, start) = (ToldTime::default(), Instant::now());
        let own = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(told.ahead(own(0), start), None);
        told.hear("Tue, 15 Nov 1994 08:12:31 GMT", start);
        told.hear("soon", start);
        let later = start + Duration::from_secs(60);
        assert_eq!(told.ahead(own(784_887_151 - 7200), start), Some(7200));
        assert_eq!(told.ahead(own(784_887_151 - 7140), later), Some(7200));
        assert_eq!(told.ahead(own(784_887_151 + 60), later), Some(0), "the clock was set meanwhile");
        assert_eq!(told.ahead(own(784_887_151), start + GOOD_FOR), None, "long ago");
    }
}
