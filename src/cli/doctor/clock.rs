//! Whether this machine knows what time it is: hellos carry the time of the client, and it is compared with ours.

use std::time::Duration;

use super::finding::{Check, Finding};

/// Seconds by which others are ahead of this machine's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skews {
    /// The cover, by its `Date`; `None` if it did not say or is this machine.
    pub cover: Option<i64>,
    /// Telegram's data centres, by the number of their answer.
    pub telegram: Option<i64>,
}

/// Judges the clock by what others say; `window` is what a client may be off.
pub fn clock(skews: Skews, window: Duration) -> Finding {
    const FIX: &str = "set the clock and keep it right: `timedatectl set-ntp true`";
    let window = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
    // A client is off by its own error and by ours.
    let far = |skew: i64| skew.saturating_abs() > window;
    let half = |skew: i64| skew.saturating_abs() > window / 2;
    let told = |who: &str, skew: i64| match skew {
        0 => format!("right to the second, says {who}"),
        1.. => format!("{skew} s behind {who}"),
        _ => format!("{} s ahead of {who}", skew.saturating_abs()),
    };
    let (who, skew) = match (skews.telegram, skews.cover) {
        (Some(telegram), Some(cover)) if far(cover) && !half(telegram) => {
            return Finding::warning(
                Check::Clock,
                format!("{}, but {}: the cover's clock is wrong", told("Telegram", telegram), told("the cover", cover)),
                "correct the clock of the cover if it is yours",
            );
        }
        (Some(telegram), _) => ("Telegram", telegram),
        (None, Some(cover)) => ("the cover", cover),
        (None, None) => {
            return Finding::warning(
                Check::Clock,
                "no server could be asked for the time",
                "see the results for the cover and for Telegram; compare the clock with another one",
            );
        }
    };
    let reason = format!(
        "{}; clients are accepted up to {window} s off, so their clocks matter as much as this one",
        told(who, skew)
    );
    match skew {
        skew if far(skew) => Finding::broken(Check::Clock, reason, FIX),
        skew if half(skew) => Finding::warning(Check::Clock, reason, FIX),
        _ => Finding::ok(Check::Clock, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    #[test]
    fn clocks() {
        for (cover, telegram, expected) in [
            (Some(0), Some(0), Fine),
            (Some(-3), None, Fine),
            (None, Some(300), Fine),
            (None, Some(301), Warning),
            (Some(-600), None, Warning),
            (Some(601), None, Broken),
            (None, Some(-601), Broken),
            (Some(86_400), None, Broken),
            (Some(86_400), Some(86_390), Broken),
            (Some(86_400), Some(1), Warning),
            // A cover on this machine has our own clock.
            (Some(0), Some(-601), Broken),
            (Some(i64::MIN), None, Broken),
            (None, None, Warning),
        ] {
            let finding = clock(Skews { cover, telegram }, Duration::from_secs(600));
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
        let finding = clock(Skews { cover: None, telegram: Some(7) }, Duration::from_secs(600));
        assert!(finding.reason.starts_with("7 s behind Telegram"), "{finding:?}");
    }
}
