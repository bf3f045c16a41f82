//! Stretches of time after which a quota begins again, as arithmetic on given times. The calendar is that of UTC.

use jiff::civil::{DateTime, Weekday};
use jiff::tz::Offset;
use jiff::{Span, Timestamp, ToSpan};

use super::window::UnixTime;

/// Period of a quota, after which it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// It never does.
    Total,
    /// 24 hours from the first byte.
    Day,
    /// Seven days from the first byte.
    Week,
    /// From the first byte to the same time of day in the next month.
    Month,
    /// From midnight to midnight.
    CalendarDay,
    /// From Monday to Monday.
    CalendarWeek,
    /// From the first of a month to the first of the next.
    CalendarMonth,
}

const DAY: i64 = 24 * 60 * 60;

impl Period {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Total, Self::Day, Self::Week, Self::Month, Self::CalendarDay, Self::CalendarWeek, Self::CalendarMonth];

    /// The name that people write.
    pub fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::CalendarDay => "calendar day",
            Self::CalendarWeek => "calendar week",
            Self::CalendarMonth => "calendar month",
        }
    }

    /// Start of the period that `now` is in; `last` is the start of the one that was last made use of.
    ///
    /// It never goes back, however far the clock does: to set a clock back, or to start a machine without one, must not
    /// give every quota once more. The price is paid if a clock that was ahead began a period: it lasts until then.
    pub fn start(self, last: Option<UnixTime>, now: UnixTime) -> UnixTime {
        match last {
            Some(last) if self.end(last).is_none_or(|end| now < end) => last,
            _ => self.natural_start(now),
        }
    }

    /// End of the period that began at `start`; `None`: never.
    pub fn end(self, start: UnixTime) -> Option<UnixTime> {
        let natural = || civil(self.natural_start(start));
        match self {
            Self::Total => None,
            Self::Day => Some(UnixTime(start.0.saturating_add(DAY))),
            Self::Week => Some(UnixTime(start.0.saturating_add(7 * DAY))),
            Self::Month => Some(later(civil(start), 1.month())),
            Self::CalendarDay => Some(later(natural(), 1.day())),
            Self::CalendarWeek => Some(later(natural(), 7.days())),
            Self::CalendarMonth => Some(later(natural(), 1.month())),
        }
    }

    fn natural_start(self, now: UnixTime) -> UnixTime {
        let today = || civil(now).date();
        let midnight = |date: jiff::civil::Date| unix(date.to_datetime(jiff::civil::Time::midnight()));
        match self {
            Self::Total | Self::Day | Self::Week | Self::Month => now,
            Self::CalendarDay => midnight(today()),
            Self::CalendarWeek => {
                let since = today().weekday().since(Weekday::Monday);
                midnight(today().saturating_sub(i64::from(since).days()))
            }
            Self::CalendarMonth => midnight(today().first_of_month()),
        }
    }
}

/// The calendar has an end; times beyond it are taken for the end.
fn civil(time: UnixTime) -> DateTime {
    let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
    let seconds = time.0.clamp(*range.start(), *range.end());
    Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn unix(time: DateTime) -> UnixTime {
    UnixTime(Offset::UTC.to_timestamp(time).map_or(i64::MAX, Timestamp::as_second))
}

fn later(time: DateTime, span: Span) -> UnixTime {
    time.checked_add(span).map_or(UnixTime(i64::MAX), unix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> UnixTime {
        UnixTime(text.parse::<Timestamp>().unwrap().as_second())
    }

    #[test]
    fn periods_begin_with_the_first_byte_or_with_the_calendar() {
        let now = at("2026-01-31T13:30:00Z");
        let bounds = |period: Period| (period.start(None, now), period.end(period.start(None, now)));
        assert_eq!(bounds(Period::Total), (now, None));
        assert_eq!(bounds(Period::Day), (now, Some(at("2026-02-01T13:30:00Z"))));
        assert_eq!(bounds(Period::Week), (now, Some(at("2026-02-07T13:30:00Z"))));
        assert_eq!(bounds(Period::Month), (now, Some(at("2026-02-28T13:30:00Z"))));
        assert_eq!(bounds(Period::CalendarDay), (at("2026-01-31T00:00:00Z"), Some(at("2026-02-01T00:00:00Z"))));
        assert_eq!(bounds(Period::CalendarWeek), (at("2026-01-26T00:00:00Z"), Some(at("2026-02-02T00:00:00Z"))));
        assert_eq!(bounds(Period::CalendarMonth), (at("2026-01-01T00:00:00Z"), Some(at("2026-02-01T00:00:00Z"))));
    }

    #[test]
    fn a_clock_that_goes_back_renews_no_quota() {
        let start = at("2026-06-10T00:00:00Z");
        for period in Period::ALL {
            for back in [3600, DAY + 1, 400 * DAY, 56 * 365 * DAY] {
                let wrong = UnixTime(start.0 - back);
                assert_eq!(period.start(Some(start), wrong), start, "{period:?}: {back} seconds back");
            }
        }
    }

    fn any_period() -> impl Strategy<Value = Period> {
        prop::sample::select(&Period::ALL[..])
    }

    proptest! {
        #[test]
        fn now_is_within_its_period(period in any_period(), now in -1_000_000_000i64..10_000_000_000, last: Option<i32>) {
            let (now, last) = (UnixTime(now), last.map(|last| UnixTime(last.into())));
            let start = period.start(last, now);
            prop_assert!(start <= now || Some(start) == last, "only what was noted lies ahead");
            prop_assert!(last.is_none_or(|last| start >= last), "no period goes back");
            prop_assert!(period.end(start).is_none_or(|end| now < end && start < end));
            prop_assert_eq!(period.start(Some(start), now), start, "asking again changes nothing");
        }

        #[test]
        fn periods_follow_each_other_without_a_gap(period in any_period(), now in 0i64..5_000_000_000) {
            let start = period.start(None, UnixTime(now));
            let Some(end) = period.end(start) else { return Ok(()) };
            prop_assert_eq!(period.start(Some(start), UnixTime(end.0 - 1)), start);
            prop_assert_eq!(period.start(Some(start), end), end);
            prop_assert!((DAY..=31 * DAY).contains(&(end.0 - start.0)));
        }

        #[test]
        fn any_number_is_survived(period in any_period(), now: i64, last: Option<i64>) {
            period.end(period.start(last.map(UnixTime), UnixTime(now)));
        }
    }
}
