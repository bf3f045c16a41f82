//! Whether each route leads to Telegram.

use std::time::Duration;

use tokio::task::JoinSet;

use super::finding::{Check, Finding};
use crate::telegram::Settings;
use crate::telegram::ping::Answer;

/// A route by its name and kind, and what a data centre answered over it, or why not.
pub type Asked = (String, &'static str, Result<Answer, String>);

/// Asks a data centre over every route that is configured, at once.
pub async fn ask(settings: &Settings) -> Vec<Asked> {
    let mut questions = JoinSet::new();
    for (at, route) in settings.routes.iter().enumerate() {
        let (route, settings) = (route.clone(), settings.clone());
        questions.spawn(async move {
            let answer = route.ask(&settings).await.map_err(|error| error.to_string());
            (at, (route.name.clone(), route.kind(), answer))
        });
    }
    let mut answers = questions.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, asked)| asked).collect()
}

/// Judges one route. `alone` says that there is no other.
pub fn route((name, kind, answer): &Asked, alone: bool) -> Finding {
    const SLOW: Duration = Duration::from_secs(2);
    match answer {
        Ok(Answer { connect, answer, .. }) => {
            let (connected, answered) = (connect.as_millis(), answer.as_millis());
            let reason = format!("{name} ({kind}): connection in {connected} ms, answer in {answered} ms");
            if *connect + *answer > SLOW {
                let fix = "every session is slowed by this; look for a shorter route";
                return Finding::warning(Check::Routes, reason, fix);
            }
            Finding::ok(Check::Routes, reason)
        }
        Err(why) => {
            let reason = format!("{name} ({kind}): {why}");
            let fix = "check that the proxy of this route runs and accepts this machine; see docs/routes.md";
            if alone {
                Finding::broken(Check::Routes, reason, fix)
            } else {
                Finding::warning(Check::Routes, reason, fix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::{Broken, Fine, Warning};
    use super::*;
    use crate::auth::UnixTime;

    #[test]
    fn one_of_several_may_be_down() {
        let answered = |millis| {
            let [connect, answer] = [millis, 20].map(Duration::from_millis);
            Ok(Answer { connect, answer, time: UnixTime(0) })
        };
        for (answer, alone, expected) in [
            (answered(30), true, Fine),
            (answered(1990), false, Warning),
            (Err("gone".to_owned()), false, Warning),
            (Err("gone".to_owned()), true, Broken),
        ] {
            let finding = route(&("abroad".into(), "socks5", answer), alone);
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert!(finding.reason.starts_with("abroad (socks5): "), "{finding:?}");
        }
    }
}
