//! The cover: visited, graded, and told from the proxy itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::timeout;

use super::finding::{Check, Finding};
use super::login::Visitor;
use super::name::leads;
use crate::auth::Domain;
use crate::config::Cover;
use crate::cover;
use crate::cover::grade::{Flaw, Grade, Graded};
use crate::cover::profile::Profile;
use crate::cover::remote::{Remote, Settings, Unusable};
use crate::cover::scout::Examined;
use crate::cover::site::Site;
use crate::wire::numbers::group::X25519MLKEM768;

/// Time limit for finding and visiting the cover.
const PATIENCE: Duration = Duration::from_secs(10);

/// Result of a visit to the cover.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It is the proxy.
    Ourselves,
    /// It cannot be visited; says why.
    Unreachable(String),
    /// It has been visited.
    Visited(Box<Examined>),
}

/// Facts about the proxy, by which a cover that is the proxy itself is recognised.
pub struct Asker<'a> {
    /// Addresses on which the proxy accepts clients.
    pub listeners: &'a [SocketAddr],
    /// Whom no one but the proxy lets in.
    pub visitors: &'a [(String, Visitor)],
    /// The host that links name.
    pub host: Option<&'a str>,
}

/// Looks at the cover as visitors of the site with these names do.
pub async fn look(cover: &Cover, names: &[Domain], asker: &Asker<'_>) -> Seen {
    let look = async {
        let Some((name, further)) = names.split_first() else { return Seen::Unreachable("it has no name yet".into()) };
        match cover {
            Cover::Remote(settings) => look_at_remote(settings, (name, further), asker).await,
            Cover::Site(settings) => match Site::open(settings) {
                // It can be judged before the proxy runs.
                Ok(site) => {
                    let cover = cover::Cover::site(Arc::new(site), name.clone(), None);
                    examined(&cover.also_known_as(further)).await
                }
                Err(error) => Seen::Unreachable(error.to_string()),
            },
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| Seen::Unreachable("no answer in time".into()))
}

async fn look_at_remote(settings: &Settings, (name, further): (&Domain, &[Domain]), asker: &Asker<'_>) -> Seen {
    let remote = Remote::new(settings.clone());
    match remote.resolve(asker.listeners).await {
        Ok(()) => {}
        Err(Unusable::Ourselves) => return Seen::Ourselves,
        Err(error) => return Seen::Unreachable(error.to_string()),
    }
    // Anyone else who got such a hello could play it to the proxy, which has never seen it, and watch what comes back.
    let bare = settings.proxy_protocol.is_none() && settings.dialer.route().via.proxy().is_none();
    if bare && leads(&settings.host, asker.host).await.here() {
        let addresses = match settings.dialer.names().lookup(&settings.host, settings.port).await {
            Ok(found) => found,
            Err(error) => return Seen::Unreachable(error.to_string()),
        };
        if lets_in(&addresses, asker.visitors).await {
            return Seen::Ourselves;
        }
    }
    examined(&cover::Cover::remote(remote, name.clone(), None).also_known_as(further)).await
}

/// Whether one of the addresses answers as the proxy would, through whatever relay.
async fn lets_in(addresses: &[SocketAddr], visitors: &[(String, Visitor)]) -> bool {
    const PATIENCE: Duration = Duration::from_secs(3);
    let Some((_, visitor)) = visitors.first() else { return false };
    for address in addresses {
        let mut random = StdRng::from_rng(&mut rand::rng());
        if matches!(timeout(PATIENCE, visitor.greet(*address, &mut random)).await, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

async fn examined(cover: &cover::Cover) -> Seen {
    match cover.examine().await {
        Ok(examined) => Seen::Visited(Box::new(examined)),
        Err(error) => Seen::Unreachable(error.to_string()),
    }
}

/// Puts a grade into words. `why` is what the system said where the cover could not be reached.
pub fn cover(graded: &Graded, why: Option<&str>) -> Finding {
    let flaws: Vec<String> = graded.flaws.iter().map(ToString::to_string).collect();
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let reason = match flaws.is_empty() {
        true => "grade A: one record, post-quantum, a good certificate, and the name leads here".to_owned(),
        false => format!("grade {}: {}{why}", graded.grade, flaws.join("; ")),
    };
    let fix = match graded.flaws.first() {
        None => return Finding::ok(Check::Cover, reason),
        Some(Flaw::Ourselves) => "name another web server with --cover, or use the built-in site: --cover site",
        Some(Flaw::Unreachable) => "check that the address of the cover is right and that it runs",
        Some(Flaw::Elsewhere) => "a domain of your own that leads here, with the built-in site, has grade A",
        Some(Flaw::Untrusted | Flaw::Expired | Flaw::Early | Flaw::OtherName(_)) => {
            "see the result for the certificate"
        }
        Some(_) => "the built-in site avoids all of this: --cover site, with a domain and a certificate of your own",
    };
    match graded.grade {
        Grade::D => Finding::broken(Check::Cover, reason, fix),
        _ => Finding::warning(Check::Cover, reason, fix),
    }
}

/// The finding where the running proxy has no handshake of its cover for the clients that it admits.
pub fn failing() -> Finding {
    Finding::broken(
        Check::Cover,
        "the running proxy's cover accepted the last admitted client and had no handshake for it, so clients get what the \
         proxy remembers of it",
        "see the proxy's log for the cause, and the cover's own log: it may reset, time out or answer without TLS",
    )
}

/// Says whether a post-quantum share is taken up.
pub fn post_quantum(profile: &Profile) -> Finding {
    let takes = profile.flights.values().any(|flight| flight.group == X25519MLKEM768);
    match takes {
        true => Finding::ok(Check::PostQuantum, "an X25519MLKEM768 key share is accepted"),
        false => Finding::warning(
            Check::PostQuantum,
            "an X25519MLKEM768 key share is offered and ignored: modern sites accept it",
            "update the web server and its TLS library (OpenSSL 3.5 or later), or use the built-in site",
        ),
    }
}

/// Says how many records the first flight has, and whether that is so at each of the visits.
pub fn records(counts: &[usize], stable: bool) -> Finding {
    const FIX: &str = "the built-in site sends one: --cover site";
    let visits = counts.len();
    let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) else {
        return Finding::warning(Check::Records, "no first flight was received", "see the result for the cover");
    };
    let sizes = if stable { "of the same sizes" } else { "with sizes that vary, as those of ECDSA signatures do" };
    match (least == most, most) {
        (false, _) => {
            Finding::warning(Check::Records, format!("{least} to {most} encrypted records, from visit to visit"), FIX)
        }
        (true, 1) => Finding::ok(Check::Records, format!("one encrypted record at each of {visits} visits, {sizes}")),
        (true, _) => Finding::warning(
            Check::Records,
            format!("{most} encrypted records at each of {visits} visits, {sizes}"),
            FIX,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;
    use crate::cover::profile::FlightShape;

    #[test]
    fn grades_become_verdicts() {
        for (grade, flaws, expected) in [
            (Grade::A, vec![], Fine),
            (Grade::B, vec![Flaw::Elsewhere], Warning),
            (Grade::C, vec![Flaw::SeveralRecords(4), Flaw::Elsewhere], Warning),
            (Grade::C, vec![Flaw::Untrusted], Warning),
            (Grade::D, vec![Flaw::Ourselves], Broken),
            (Grade::D, vec![Flaw::Retry, Flaw::Elsewhere], Broken),
        ] {
            let finding = cover(&Graded { grade, flaws }, None);
            assert!(finding.verdict == expected && finding.reason.contains(&format!("grade {grade}: ")), "{finding:?}");
        }
        let gone = Graded { grade: Grade::D, flaws: vec![Flaw::Unreachable] };
        assert!(cover(&gone, Some("connection refused")).reason.ends_with("(connection refused)"));
    }

    #[test]
    fn post_quantum_shares() {
        for (group, expected) in [(X25519MLKEM768, Fine), (0x1d, Warning)] {
            let flight = FlightShape { group, ..FlightShape::default() };
            let profile = Profile { flights: [("safari-hybrid".to_owned(), flight)].into(), ..Profile::default() };
            assert_eq!(post_quantum(&profile).verdict, expected);
        }
    }

    #[test]
    fn record_counts() {
        for (counts, stable, expected) in [
            (&[1, 1, 1][..], true, Fine),
            (&[1, 1, 1], false, Fine),
            (&[4, 4], true, Warning),
            (&[1, 2, 1], false, Warning),
            (&[], true, Warning),
        ] {
            assert_eq!(records(counts, stable).verdict, expected, "{counts:?}");
        }
    }
}
