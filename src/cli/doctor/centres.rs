//! Whether the data centres answer, and how fast.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use crate::telegram::ping::{Answer, ping};
use crate::telegram::{DcId, Settings};

/// The production data centres.
const NUMBERS: [i16; 6] = [1, 2, 3, 4, 5, 203];

/// How long a connection may take, and with the answer.
const CONNECT: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(9);

/// A data centre and what it answered, or why not.
pub type Asked = (i16, Result<Answer, String>);

/// Asks every data centre at once.
pub async fn ask(settings: &Settings) -> Vec<Asked> {
    let mut questions = JoinSet::new();
    for number in NUMBERS {
        let addresses = settings.addresses(DcId::new(number));
        let mut random = StdRng::from_rng(&mut rand::rng());
        questions.spawn(async move {
            let answer = timeout(PATIENCE, ping(&addresses, CONNECT, DcId::new(number), &mut random)).await;
            let answer = answer
                .map_or_else(|_| Err("no answer in time".into()), |answer| answer.map_err(|error| error.to_string()));
            (number, answer)
        });
    }
    let mut asked = questions.join_all().await;
    asked.sort_by_key(|(number, _)| *number);
    asked
}

/// How far the data centres are ahead of `now`: what the one that agrees best says.
pub fn ahead(asked: &[Asked], now: i64) -> Option<i64> {
    // A clock that never ran says nothing about ours.
    const EARLIEST: i64 = 1_600_000_000;
    let times = asked.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|answer| answer.time.0);
    times.filter(|time| *time > EARLIEST).map(|time| time - now).min_by_key(|skew| skew.abs())
}

/// Judges one data centre.
pub fn centre((number, answer): &Asked) -> Finding {
    const SLOW: Duration = Duration::from_secs(1);
    match answer {
        Ok(Answer { connect, answer, .. }) => {
            let reason = format!(
                "data centre {number}: connection in {} ms, answer in {} ms",
                connect.as_millis(),
                answer.as_millis()
            );
            if *connect + *answer > SLOW {
                return Finding::warning(
                    Check::Telegram,
                    reason,
                    "a machine nearer to Telegram serves its users faster",
                );
            }
            Finding::ok(Check::Telegram, reason)
        }
        Err(why) => Finding::broken(
            Check::Telegram,
            format!("data centre {number}: {why}"),
            "see whether a firewall or the provider stands between this machine and Telegram",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;
    use crate::auth::UnixTime;

    fn answer(connect: u64, answer: u64, time: i64) -> Asked {
        let [connect, answer] = [connect, answer].map(Duration::from_millis);
        (4, Ok(Answer { connect, answer, time: UnixTime(time) }))
    }

    #[test]
    fn data_centres() {
        for (asked, expected) in [
            (answer(40, 50, 0), Fine),
            (answer(500, 500, 0), Fine),
            (answer(600, 500, 0), Warning),
            ((4, Err("no connection".into())), Broken),
        ] {
            let finding = centre(&asked);
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert!(finding.reason.starts_with("data centre 4: "), "{finding:?}");
        }
    }

    #[test]
    fn the_best_clock_counts() {
        const NOW: i64 = 1_767_225_600;
        let at = |skew: i64| answer(1, 1, NOW + skew);
        assert_eq!(ahead(&[at(900), at(-2), at(40)], NOW), Some(-2));
        assert_eq!(ahead(&[answer(1, 1, 0), (1, Err("gone".into()))], NOW), None);
    }
}
