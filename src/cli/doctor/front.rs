//! The listeners, and a login through them with every user's secret.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use super::login::{LoginError, Visitor};
use crate::cli::ways::{Way, reachable};
use crate::net::listen;
use crate::telegram::DcId;

/// Time limit for one login.
const PATIENCE: Duration = Duration::from_secs(9);

/// The data centre that logins ask; every account may.
pub(super) const USUAL_DC: i16 = 2;

/// State of a listener's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing; it can be bound.
    Free,
    /// A running proxy that knows the secret of a user.
    Ours,
    /// Something else.
    Other,
    /// Nothing, and it cannot be bound.
    Unusable(io::ErrorKind),
    /// No one knows before the start: port 0.
    Later,
}

/// Tells what is at `listener` by trying to bind it and, where that fails, to enter.
pub async fn held(listener: SocketAddr, visitors: &[(String, Visitor)]) -> Held {
    if listener.port() == 0 {
        return Held::Later;
    }
    let refused = match listen::bind_all(&[listener]) {
        Ok(_) => return Held::Free,
        Err((_, error)) => error.kind(),
    };
    for address in reachable(listener) {
        for (_, visitor) in visitors {
            let mut random = StdRng::from_rng(&mut rand::rng());
            match timeout(PATIENCE, visitor.greet(address, &mut random)).await {
                Ok(Ok(_)) => return Held::Ours,
                // A user may be newer than the proxy that runs: others are asked too.
                Ok(Err(LoginError::NotAdmitted)) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }
    if refused == io::ErrorKind::AddrInUse { Held::Other } else { Held::Unusable(refused) }
}

/// Tells what is at a listener that no client comes to over TCP itself.
pub async fn held_at(way: &Way, visitors: &[(String, Visitor)]) -> Held {
    let refusal = match timeout(PATIENCE, way.connect()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.kind()),
        Err(_) => Some(io::ErrorKind::TimedOut),
    };
    match refusal {
        None => {}
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Held::Free,
        Some(kind) => return Held::Unusable(kind),
    }
    for (_, visitor) in visitors {
        let mut random = StdRng::from_rng(&mut rand::rng());
        let Ok(Ok(front)) = timeout(PATIENCE, way.connect()).await else { break };
        match timeout(PATIENCE, visitor.greet_over(front, &mut random)).await {
            Ok(Ok(_)) => return Held::Ours,
            Ok(Err(LoginError::NotAdmitted)) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Held::Other
}

/// Judges a listener. `redirects` says that it is one of `site.redirect_from`, of which no one can tell whose it is.
pub fn port(listener: impl fmt::Display, held: Held, redirects: bool) -> Finding {
    let broken = |reason: String, fix: &str| Finding::broken(Check::Ports, reason, fix);
    match held {
        Held::Free => Finding::ok(Check::Ports, format!("{listener} can be bound; nothing runs there now")),
        Held::Ours => Finding::ok(Check::Ports, format!("{listener} is in use by the running proxy")),
        Held::Other if redirects => {
            Finding::ok(Check::Ports, format!("{listener} is in use, apparently for the redirect"))
        }
        Held::Later => Finding::warning(
            Check::Ports,
            format!("{listener}: the port is chosen when the proxy starts"),
            "name the port of the running proxy with --listen",
        ),
        Held::Other => broken(
            format!("{listener} is in use by another program, or by a proxy that knows none of these secrets"),
            "stop that program, restart the proxy, or name another address with --listen",
        ),
        Held::Unusable(io::ErrorKind::PermissionDenied) => broken(
            format!("this user may not bind {listener}, and no proxy runs there"),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; or name another with --listen",
        ),
        Held::Unusable(kind) => {
            broken(format!("{listener} cannot be bound: {kind}"), "name an address of this machine with --listen")
        }
    }
}

/// User, and the result of the login.
pub type LoggedIn = (String, Result<Duration, LoginError>);

/// Logs every user in at once, by the first of the ways to the listener that the proxy holds.
pub async fn log_in(ways: &[Way], visitors: &[(String, Visitor)]) -> Vec<LoggedIn> {
    let Some(way) = first_open(ways).await else { return Vec::new() };
    let mut logins = JoinSet::new();
    for (user, visitor) in visitors.iter().cloned() {
        let (way, mut random) = (way.clone(), StdRng::from_rng(&mut rand::rng()));
        logins.spawn(async move {
            let login = timeout(PATIENCE, async {
                let front = way.connect().await.map_err(LoginError::Unreachable)?;
                visitor.log_in(front, DcId::new(USUAL_DC), &mut random).await
            });
            (user, login.await.unwrap_or(Err(LoginError::Dropped)))
        });
    }
    let mut outcomes = logins.join_all().await;
    outcomes.sort_by(|(a, _), (b, _)| a.cmp(b));
    outcomes
}

/// A listener on every address is reached over the loopback of the family that it has.
pub(super) async fn first_open(ways: &[Way]) -> Option<Way> {
    for way in ways {
        if matches!(timeout(PATIENCE, way.connect()).await, Ok(Ok(_))) {
            return Some(way.clone());
        }
    }
    None
}

/// Judges a login.
pub fn login((user, outcome): &LoggedIn) -> Finding {
    match outcome {
        Ok(time) => Finding::ok(
            Check::Login,
            format!("{user}: through the front to data centre {USUAL_DC} and back in {} ms", time.as_millis()),
        ),
        Err(error) => {
            let fix = match error {
                LoginError::Unreachable(_) => "check that the proxy still runs",
                LoginError::NotAdmitted => {
                    "restart the proxy, so that it knows this configuration; its log has the reason"
                }
                LoginError::Dropped | LoginError::Odd(_) => "see the results for Telegram and the log of the proxy",
            };
            Finding::broken(Check::Login, format!("{user}: {error}"), fix)
        }
    }
}

/// Judges logins of so many users of all: each alone where all have tried, else summed up by what came of them.
pub fn logins(outcomes: &[LoggedIn], all: usize) -> Vec<Finding> {
    if outcomes.len() >= all {
        return outcomes.iter().map(login).collect();
    }
    let mut causes: BTreeMap<String, Vec<&LoggedIn>> = BTreeMap::new();
    for one in outcomes {
        let cause = one.1.as_ref().map_or_else(ToString::to_string, |_| String::new());
        causes.entry(cause).or_default().push(one);
    }
    causes.into_values().map(|alike| sum_up(&alike, outcomes.len(), all)).collect()
}

/// Judges logins of which the same came, among so many that were tried.
fn sum_up(alike: &[&LoggedIn], tried: usize, all: usize) -> Finding {
    const NAMED: usize = 3;
    let names: Vec<&str> = alike.iter().take(NAMED).map(|(user, _)| user.as_str()).collect();
    let more = if alike.len() > NAMED { ", …" } else { "" };
    let users = format!("{} of {tried} users tried, of {all} ({}{more})", alike.len(), names.join(", "));
    let times = alike.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    match (times.clone().min(), times.max(), alike.first()) {
        (Some(least), Some(most), _) => {
            let times = format!("{} to {} ms", least.as_millis(), most.as_millis());
            Finding::ok(
                Check::Login,
                format!("{users}: through the front to data centre {USUAL_DC} and back in {times}"),
            )
        }
        (.., Some(one)) => {
            let Finding { reason, fix, .. } = login(one);
            let cause = reason.strip_prefix(&format!("{}: ", one.0)).unwrap_or(&reason).to_owned();
            Finding::broken(Check::Login, format!("{users}: {cause}"), fix.unwrap_or_default())
        }
        _ => no_login(all, true, None),
    }
}

/// A listener that is in use, and by which program cannot be told, since this machine's own address is barred there.
pub fn barred_port(listener: impl fmt::Display, why: &str) -> Finding {
    Finding::warning(
        Check::Ports,
        format!("{listener} is in use, by an unknown program: this address is blocked, {why}"),
        "see the result for the login",
    )
}

/// The finding where no login is possible. `running`: whether a proxy says that it runs; `barred`: why it does not judge those
/// who come from here.
pub fn no_login(users: usize, running: bool, barred: Option<&str>) -> Finding {
    match users {
        0 => Finding::warning(Check::Login, "there is no user yet", "start the proxy once, then run this again"),
        _ if barred.is_some() => Finding::warning(
            Check::Login,
            format!("no login is possible from here: this address is blocked, {}", barred.unwrap_or_default()),
            "remove it from that list, or add it to a list of lists.allow",
        ),
        _ if running => Finding::warning(
            Check::Login,
            "the proxy runs, but no login is possible from here by any of its listeners",
            "see the results for the ports; a front elsewhere has to be tested from outside",
        ),
        _ => Finding::warning(
            Check::Login,
            "the proxy does not run here, so no login was possible",
            "start it, then run this again with the same flags",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;
    use crate::telegram::ping::Odd;

    #[test]
    fn ports() {
        let listener: SocketAddr = "[::]:443".parse().unwrap();
        for (held, redirects, expected) in [
            (Held::Free, false, Fine),
            (Held::Ours, false, Fine),
            (Held::Later, false, Warning),
            (Held::Other, false, Broken),
            (Held::Other, true, Fine),
            (Held::Unusable(io::ErrorKind::PermissionDenied), false, Broken),
            (Held::Unusable(io::ErrorKind::AddrNotAvailable), true, Broken),
        ] {
            assert_eq!(port(listener, held, redirects).verdict, expected, "{held:?}");
        }
    }

    #[test]
    fn each_login_is_judged() {
        for (outcome, expected) in [
            (Ok(Duration::from_millis(30)), Fine),
            (Err(LoginError::Unreachable(io::ErrorKind::ConnectionRefused.into())), Broken),
            (Err(LoginError::NotAdmitted), Broken),
            (Err(LoginError::Dropped), Broken),
            (Err(LoginError::Odd(Odd::Refused(-404))), Broken),
        ] {
            let finding = login(&("alice".into(), outcome));
            assert!(finding.verdict == expected && finding.reason.starts_with("alice: "), "{finding:?}");
        }
        let said = |users, running, barred| no_login(users, running, barred).reason;
        assert!(said(0, false, None).contains("no user") && said(3, false, None).contains("does not run"));
        assert!(said(3, true, None).starts_with("the proxy runs") && said(3, true, Some("x")).contains("blocked, x"));
    }

    #[test]
    fn logins_of_a_sample_are_summed_up_by_cause() {
        let well = |n: u64| (format!("well{n}"), Ok(Duration::from_millis(n)));
        let badly = |n: u64| (format!("badly{n}"), Err(LoginError::NotAdmitted));
        let few: Vec<LoggedIn> = vec![well(1), badly(2)];
        assert_eq!(logins(&few, 2).len(), 2);
        assert!(logins(&few, 2)[0].reason.starts_with("well1: "));
        let many: Vec<LoggedIn> = (1..=5).map(badly).chain((7..=9).map(well)).collect();
        let found = logins(&many, 50_000);
        let said: Vec<_> = found.iter().map(|finding| (finding.verdict, finding.reason.as_str())).collect();
        let expected = [
            (
                Fine,
                "3 of 8 users tried, of 50000 (well7, well8, well9): through the front to data centre 2 and back in 7 to 9 ms",
            ),
            (Broken, "5 of 8 users tried, of 50000 (badly1, badly2, badly3, …): rejected: answered as a visitor"),
        ];
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_free_port_is_told_from_a_taken_one() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(held(address, &[]).await, Held::Other);
        drop(taken);
        assert_eq!(held(address, &[]).await, Held::Free);
        assert_eq!(held("127.0.0.1:0".parse().unwrap(), &[]).await, Held::Later);
        assert_eq!(
            held("192.0.2.77:44443".parse().unwrap(), &[]).await,
            Held::Unusable(io::ErrorKind::AddrNotAvailable)
        );
    }
}
