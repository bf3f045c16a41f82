//! Dates as HTTP writes them.

use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use jiff::fmt::strtime;

/// A moment, to the second.
pub(super) fn text(seconds: i64) -> String {
    let moment = Timestamp::from_second(seconds).unwrap_or_default();
    DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).unwrap_or_default()
}

/// The present moment.
pub(super) fn now() -> String {
    text(Timestamp::now().as_second())
}

/// A moment in any of the three forms that HTTP has known.
pub(super) fn parse(text: &str) -> Option<i64> {
    let old = || {
        let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
        let broken = forms.iter().find_map(|form| strtime::parse(form, text).ok())?;
        broken.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    };
    DateTimeParser::new().parse_timestamp(text).ok().or_else(old).map(|moment| moment.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read() {
        assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        for form in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(form), Some(784_111_777), "{form}");
        }
        assert_eq!(parse("yesterday"), None);
    }
}
