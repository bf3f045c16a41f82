//! Whether the data centres answer, and how fast.

use std::net::SocketAddr;
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

/// Time limits for a connection, and for connection and answer together.
const CONNECT: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(9);

/// A data centre, and what it answered over each route, or why not. The name of a route is empty where there is but one.
pub type Asked = (i16, Vec<(&'static str, Result<Answer, String>)>);

/// Asks every data centre over every route at once.
pub async fn ask(settings: &Settings) -> Vec<Asked> {
    let mut questions = JoinSet::new();
    for number in NUMBERS {
        for (route, addresses) in routes(&settings.addresses(DcId::new(number))) {
            let mut random = StdRng::from_rng(&mut rand::rng());
            questions.spawn(async move {
                let answer = timeout(PATIENCE, ping(&addresses, CONNECT, DcId::new(number), &mut random)).await;
                let answer = answer.map_or_else(
                    |_| Err("no answer in time".into()),
                    |answer| answer.map_err(|error| error.to_string()),
                );
                (number, route, answer)
            });
        }
    }
    let mut answers = questions.join_all().await;
    answers.sort_by_key(|(number, route, _)| (*number, *route));
    let mut asked: Vec<Asked> = Vec::new();
    for (number, route, answer) in answers {
        match asked.last_mut().filter(|(last, _)| *last == number) {
            Some((_, routes)) => routes.push((route, answer)),
            None => asked.push((number, vec![(route, answer)])),
        }
    }
    asked
}

/// The proxy takes whichever family answers first; here each is asked by itself.
fn routes(addresses: &[SocketAddr]) -> Vec<(&'static str, Vec<SocketAddr>)> {
    let (four, six): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    if four.is_empty() || six.is_empty() {
        return vec![("", addresses.to_vec())];
    }
    vec![("over IPv4 ", four), ("over IPv6 ", six)]
}

/// Seconds by which the data centres are ahead of `now`: what the one that agrees best says.
pub fn ahead<'a>(answers: impl Iterator<Item = &'a Answer>, now: i64) -> Option<i64> {
    // A clock that never ran says nothing about ours.
    const EARLIEST: i64 = 1_600_000_000;
    let times = answers.map(|answer| answer.time.0).filter(|time| *time > EARLIEST);
    times.map(|time| time - now).min_by_key(|skew| skew.abs())
}

/// Judges one data centre by its best route, for that is the one that clients are served over.
pub fn centre((number, routes): &Asked) -> Finding {
    const SLOW: Duration = Duration::from_secs(1);
    let told = |(route, answer): &(&str, Result<Answer, String>)| match answer {
        Ok(Answer { connect, answer, .. }) => {
            format!("{route}connection in {} ms, answer in {} ms", connect.as_millis(), answer.as_millis())
        }
        Err(why) => format!("{route}{why}"),
    };
    let reason = format!("data centre {number}: {}", routes.iter().map(told).collect::<Vec<_>>().join("; "));
    let times = routes.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    match times.map(|answer| answer.connect + answer.answer).min() {
        None => Finding::broken(
            Check::Telegram,
            reason,
            "check whether a firewall or the provider blocks Telegram from this machine",
        ),
        Some(best) if best > SLOW => {
            Finding::warning(Check::Telegram, reason, "a machine closer to Telegram serves its users faster")
        }
        Some(_) => Finding::ok(Check::Telegram, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;
    use crate::auth::UnixTime;

    fn answer(connect: u64, answer: u64, time: i64) -> Result<Answer, String> {
        let [connect, answer] = [connect, answer].map(Duration::from_millis);
        Ok(Answer { connect, answer, time: UnixTime(time) })
    }

    #[test]
    fn data_centres() {
        let gone = || Err("no connection".to_owned());
        for (routes, expected) in [
            (vec![("", answer(40, 50, 0))], Fine),
            (vec![("", answer(500, 500, 0))], Fine),
            (vec![("", answer(600, 500, 0))], Warning),
            (vec![("", gone())], Broken),
            (vec![("over IPv4 ", answer(40, 50, 0)), ("over IPv6 ", gone())], Fine),
            (vec![("over IPv4 ", answer(600, 500, 0)), ("over IPv6 ", answer(1, 1, 0))], Fine),
            (vec![("over IPv4 ", gone()), ("over IPv6 ", gone())], Broken),
        ] {
            let finding = centre(&(4, routes));
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert!(finding.reason.starts_with("data centre 4: "), "{finding:?}");
        }
        let both = centre(&(2, vec![("over IPv4 ", answer(4, 5, 0)), ("over IPv6 ", gone())]));
        let expected = "data centre 2: over IPv4 connection in 4 ms, answer in 5 ms; over IPv6 no connection";
        assert_eq!(both.reason, expected);
    }

    #[test]
    fn each_family_is_a_route_where_there_are_two() {
        let [four, six]: [SocketAddr; 2] = ["192.0.2.1:443", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        assert_eq!(routes(&[six, four, six]), [("over IPv4 ", vec![four]), ("over IPv6 ", vec![six, six])]);
        assert_eq!(routes(&[six, six]), [("", vec![six, six])]);
    }

    #[test]
    fn the_best_clock_counts() {
        const NOW: i64 = 1_767_225_600;
        let at = |skew: i64| answer(1, 1, NOW + skew).unwrap();
        assert_eq!(ahead([at(900), at(-2), at(40)].iter(), NOW), Some(-2));
        assert_eq!(ahead([answer(1, 1, 0).unwrap()].iter(), NOW), None);
    }
}
