//! Whether links to middle proxies come about, where a promoted channel needs them.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use crate::telegram::Upstream;
use crate::telegram::middle::{Directory, Settings, link, own};

/// Time limit for a link.
const PATIENCE: Duration = Duration::from_secs(8);

/// Answers of the middle proxies.
pub enum Asked {
    /// It is not known where they are.
    Nowhere,
    /// One answer for each place, with the data centres behind it.
    Links(Vec<(Vec<i16>, Result<Link, String>)>),
}

/// A link that came about.
pub struct Link {
    /// Time that it took.
    pub took: Duration,
    /// Our address as the middle proxy sees it.
    pub ours: IpAddr,
}

/// Opens a link to each place, and closes it again.
pub async fn ask(upstream: &Upstream, settings: &Settings, published: Option<&Directory>) -> Asked {
    let Some(directory) = settings.directory(published) else { return Asked::Nowhere };
    let mut places: Vec<(Vec<i16>, Vec<_>)> = Vec::new();
    for dc in directory.clusters.keys() {
        let Some(addresses) = directory.addresses(*dc, settings.prefer) else { continue };
        match places.iter_mut().find(|(_, known)| *known == addresses) {
            Some((numbers, _)) => numbers.push(dc.number()),
            None => places.push((vec![dc.number()], addresses)),
        }
    }
    let mut links = JoinSet::new();
    for (numbers, addresses) in places {
        let (upstream, secret, own) = (upstream.clone(), directory.secret.clone(), settings.own.clone());
        links.spawn(async move {
            let (begin, found) = (Instant::now(), own::Found::default());
            let dialling = link::dial(&upstream, &addresses, &secret, (&own, &found), SystemTime::now().into());
            let outcome = match timeout(PATIENCE, dialling).await {
                Ok(Ok(fresh)) => Ok(Link { took: begin.elapsed(), ours: fresh.ours.ip() }),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(link::OpenError::TooSlow.to_string()),
            };
            (numbers, outcome)
        });
    }
    let mut links = links.join_all().await;
    links.sort_by_key(|(numbers, _)| numbers.iter().map(|number| number.unsigned_abs()).min());
    Asked::Links(links)
}

/// Judges what came of it. Without links sessions go the direct way, which is no loss but of the channel.
pub fn middle(asked: &Asked) -> Vec<Finding> {
    const FIX: &str = "see docs/promoted-channel.md for what links need; until then sessions go directly, without the \
                        channel";
    let Asked::Links(links) = asked else {
        let reason = "there is a tag, but the addresses of Telegram's middle proxies are not known yet";
        let fix = "start the proxy, which fetches them within some minutes; if it runs, its log says why a list could \
                    not be fetched; or configure them, see docs/promoted-channel.md";
        return vec![Finding::warning(Check::Middle, reason, fix)];
    };
    let none = links.iter().all(|(_, outcome)| outcome.is_err());
    let finding = |(numbers, outcome): &(Vec<i16>, Result<Link, String>)| {
        let numbers = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match outcome {
            Ok(Link { took, ours }) => {
                let reason = format!("middle proxies for {numbers}: a link in {} ms, seen as {ours}", took.as_millis());
                Finding::ok(Check::Middle, reason)
            }
            Err(why) => {
                let reason = format!("middle proxies for {numbers}: {why}");
                let judge = if none { Finding::broken } else { Finding::warning };
                judge(Check::Middle, reason, FIX)
            }
        }
    };
    links.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    #[test]
    fn the_channel_is_broken_only_where_no_link_comes_about() {
        let good = || Ok(Link { took: Duration::from_millis(40), ours: [203, 0, 113, 7].into() });
        let bad = || Err("no connection".to_owned());
        for (links, expected) in [
            (vec![good(), good()], vec![Fine, Fine]),
            (vec![good(), bad()], vec![Fine, Warning]),
            (vec![bad(), bad()], vec![Broken, Broken]),
        ] {
            let links = links.into_iter().map(|link| (vec![2, -2], link)).collect();
            let found = middle(&Asked::Links(links));
            assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{found:?}");
            assert!(found[0].reason.starts_with("middle proxies for 2, -2: "), "{found:?}");
        }
        assert_eq!(middle(&Asked::Nowhere)[0].verdict, Warning);
    }
}
