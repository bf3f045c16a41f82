//! How well a cover hides the proxy: a grade, and every reason for its not being better.
//!
//! ```text
//! A  one record, post-quantum, and the name leads to this machine
//! B  one record, post-quantum, but the name leads elsewhere
//! C  several records, no post-quantum key exchange, or a certificate that browsers warn of
//! D  unreachable, the proxy itself, no TLS 1.3, HelloRetryRequest, or a flight that Telegram on iOS refuses
//! ```
//!
//! A certificate that is signed by no known authority, out of its time or for another name lets clients in as well as any
//! other, and with TLS 1.3 only those see it who connect themselves; but sites that people visit have none of it, and one
//! probe tells. So each of the three leaves C: no more than the other ways to look unlike most sites, and no D, which is for
//! covers that do not work. What was learnt of no certificate caps nothing.

use std::fmt;

use super::profile::{FlightShape, Profile};
use crate::auth::UnixTime;
use crate::wire::HelloClass;
use crate::wire::numbers::TLS13;
use crate::wire::numbers::group::X25519MLKEM768;

/// Longest encrypted part of a first flight that Telegram on iOS takes (docs/protocol.md, "The flight").
pub const IOS_FLIGHT: usize = 10_240;

/// Grade of a cover, by how well it hides the proxy. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Nothing to be better at.
    A,
    /// Anybody may look up that the name belongs elsewhere.
    B,
    /// The first flight looks unlike the cover's, or it or the certificate unlike those of most sites today.
    C,
    /// Clients cannot use it, or it gives the proxy away.
    D,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// NameTarget of a cover, seen from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameTarget {
    /// Its name leads to the address of the proxy.
    Here,
    /// Its name leads elsewhere, or nowhere.
    Elsewhere,
    /// It is the proxy itself, and a visit would never end.
    Ourselves,
}

/// A reason for a cover's not being better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The cover is the proxy.
    Ourselves,
    /// No visit succeeded.
    Unreachable,
    /// A hello that offers TLS 1.3 is answered with an older version.
    OldTls,
    /// A hello is answered with a HelloRetryRequest, which clients refuse.
    Retry,
    /// The encrypted part of the flight has this many bytes.
    LongFlight(usize),
    /// The encrypted part of the flight has this many records, which are joined into one for clients.
    SeveralRecords(usize),
    /// A post-quantum share is not taken up.
    NoPostQuantum,
    /// The certificate is signed by itself, or by no authority that browsers know.
    Untrusted,
    /// The certificate is past its end.
    Expired,
    /// The certificate is before its beginning.
    Early,
    /// The certificate is not for these names of the cover.
    OtherName(Vec<String>),
    /// The name leads elsewhere.
    Elsewhere,
}

impl Flaw {
    /// The best grade that a cover with this flaw can have.
    pub fn grade(&self) -> Grade {
        match self {
            Self::Ourselves | Self::Unreachable | Self::OldTls | Self::Retry | Self::LongFlight(_) => Grade::D,
            Self::SeveralRecords(_) | Self::NoPostQuantum => Grade::C,
            Self::Untrusted | Self::Expired | Self::Early | Self::OtherName(_) => Grade::C,
            Self::Elsewhere => Grade::B,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ourselves => f.write_str("it is this proxy itself"),
            Self::Unreachable => f.write_str("it cannot be reached"),
            Self::OldTls => f.write_str("it does not speak TLS 1.3"),
            Self::Retry => f.write_str("it answers with a HelloRetryRequest, which clients refuse"),
            Self::LongFlight(bytes) => write!(f, "its first flight of {bytes} bytes is too long for Telegram on iOS"),
            Self::SeveralRecords(count) => {
                write!(f, "its first flight has {count} encrypted records, which clients must get as one")
            }
            Self::NoPostQuantum => f.write_str("it does not accept a post-quantum key share"),
            Self::Untrusted => f.write_str("its certificate is not signed by an authority that browsers trust"),
            Self::Expired => f.write_str("its certificate has expired"),
            Self::Early => f.write_str("its certificate is not valid yet"),
            Self::OtherName(names) => write!(f, "its certificate is not for {}", list(names)),
            Self::Elsewhere => f.write_str("its name does not lead to this machine, which anybody can look up"),
        }
    }
}

/// A grade with its reasons, the worst first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graded {
    /// The grade that the worst flaw leaves.
    pub grade: Grade,
    /// Everything that keeps the cover from being better.
    pub flaws: Vec<Flaw>,
}

/// Grades at `now` what visits have taught. A profile without a flight is that of a cover that could not be reached.
pub fn grade(profile: &Profile, place: NameTarget, now: UnixTime) -> Graded {
    let mut flaws = match (place, profile.flights.is_empty()) {
        (NameTarget::Ourselves, _) => vec![Flaw::Ourselves],
        (_, true) => vec![Flaw::Unreachable],
        _ => [flaws_of_flights(profile), flaws_of_certificate(profile, now)].concat(),
    };
    if place == NameTarget::Elsewhere {
        flaws.push(Flaw::Elsewhere);
    }
    flaws.sort_by_key(|flaw| std::cmp::Reverse(flaw.grade()));
    let grade = flaws.first().map_or(Grade::A, |flaw| flaw.grade());
    Graded { grade, flaws }
}

fn flaws_of_flights(profile: &Profile) -> Vec<Flaw> {
    let flights = || profile.flights.values();
    let modern = || flights().filter(|flight| flight.version == TLS13);
    let longest = modern().map(payload).max().unwrap_or_default();
    let records = modern().map(|flight| flight.records.len()).max().unwrap_or_default();
    let declines = |(label, flight): (&String, &FlightShape)| offers_hybrid(label) && flight.group != X25519MLKEM768;
    let hybrid = profile.flights.keys().any(|label| offers_hybrid(label));
    let found = [
        (modern().count() < flights().count(), Flaw::OldTls),
        (flights().any(|flight| flight.retry), Flaw::Retry),
        (longest > IOS_FLIGHT, Flaw::LongFlight(longest)),
        (records > 1, Flaw::SeveralRecords(records)),
        (!hybrid || profile.flights.iter().any(declines), Flaw::NoPostQuantum),
    ];
    found.into_iter().filter_map(|(has, flaw)| has.then_some(flaw)).collect()
}

fn flaws_of_certificate(profile: &Profile, now: UnixTime) -> Vec<Flaw> {
    let Some(shown) = &profile.certificate else { return Vec::new() };
    let found = [
        (!shown.trusted, Flaw::Untrusted),
        (shown.is_expired(now), Flaw::Expired),
        (shown.is_early(now), Flaw::Early),
        (!shown.lacks.is_empty(), Flaw::OtherName(shown.lacks.clone())),
    ];
    found.into_iter().filter_map(|(has, flaw)| has.then_some(flaw)).collect()
}

/// Names in a sentence, some of them if they are many.
pub fn list(names: &[String]) -> String {
    const MOST: usize = 3;
    match names {
        [] => "no name".into(),
        names if names.len() > MOST => format!("{} and {} more", names[..MOST].join(", "), names.len() - MOST),
        names => names.join(", "),
    }
}

/// Payload bytes of the encrypted flight, which clients get as one record.
fn payload(flight: &FlightShape) -> usize {
    flight.records.iter().map(|record| usize::from(*record)).sum()
}

fn offers_hybrid(label: &str) -> bool {
    matches!(label.parse(), Ok(HelloClass::ChromeHybrid | HelloClass::SafariHybrid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::chain::Shown;
    use crate::wire::numbers::group::X25519;

    const NOW: UnixTime = UnixTime(1_767_225_600);

    fn flight(group: u16, records: &[u16]) -> FlightShape {
        FlightShape { version: TLS13, group, records: records.to_vec(), ..FlightShape::default() }
    }

    fn profile(flights: &[(HelloClass, FlightShape)]) -> Profile {
        let flights = flights.iter().map(|(class, flight)| (class.label().to_owned(), flight.clone())).collect();
        Profile { flights, ..Profile::default() }
    }

    #[test]
    fn grades_and_their_reasons() {
        use Flaw::*;
        use HelloClass::{ChromeHybrid, Padded517};
        let good = || (ChromeHybrid, flight(X25519MLKEM768, &[2000]));
        let classical = (Padded517, flight(X25519, &[2000]));
        let old = (Padded517, FlightShape { version: 0x0303, ..FlightShape::default() });
        let retry = (Padded517, FlightShape { retry: true, ..flight(X25519, &[2000]) });
        for (flights, place, grade_, flaws) in [
            (vec![good(), classical.clone()], NameTarget::Here, Grade::A, vec![]),
            (vec![good()], NameTarget::Elsewhere, Grade::B, vec![Elsewhere]),
            (vec![(ChromeHybrid, flight(X25519, &[2000]))], NameTarget::Here, Grade::C, vec![NoPostQuantum]),
            (vec![classical.clone()], NameTarget::Here, Grade::C, vec![NoPostQuantum]),
            (
                vec![(ChromeHybrid, flight(X25519, &[27, 900, 300, 53]))],
                NameTarget::Elsewhere,
                Grade::C,
                vec![SeveralRecords(4), NoPostQuantum, Elsewhere],
            ),
            (vec![(ChromeHybrid, flight(X25519MLKEM768, &[10_240]))], NameTarget::Here, Grade::A, vec![]),
            (
                vec![(ChromeHybrid, flight(X25519MLKEM768, &[10_241]))],
                NameTarget::Here,
                Grade::D,
                vec![LongFlight(10_241)],
            ),
            (
                vec![(ChromeHybrid, flight(X25519MLKEM768, &[10_000, 241]))],
                NameTarget::Here,
                Grade::D,
                vec![LongFlight(10_241), SeveralRecords(2)],
            ),
            (vec![good(), retry], NameTarget::Here, Grade::D, vec![Retry]),
            (vec![good(), old], NameTarget::Here, Grade::D, vec![OldTls]),
            (vec![], NameTarget::Here, Grade::D, vec![Unreachable]),
            (vec![], NameTarget::Elsewhere, Grade::D, vec![Unreachable, Elsewhere]),
            (vec![good()], NameTarget::Ourselves, Grade::D, vec![Ourselves]),
        ] {
            assert_eq!(grade(&profile(&flights), place, NOW), Graded { grade: grade_, flaws }, "{flights:?}");
        }
    }

    #[test]
    fn a_certificate_that_browsers_warn_of_caps_the_grade() {
        let good = || Shown { not_before: NOW.0 - 1, not_after: NOW.0 + 1, trusted: true, lacks: Vec::new() };
        let (lacks, other) = (vec!["b.example".to_owned()], Flaw::OtherName(vec!["b.example".to_owned()]));
        assert_eq!(other.to_string(), "its certificate is not for b.example");
        let flights = [(HelloClass::ChromeHybrid, flight(X25519MLKEM768, &[2000]))];
        for (shown, expected, flaws) in [
            (good(), Grade::A, vec![]),
            (Shown { trusted: false, ..good() }, Grade::C, vec![Flaw::Untrusted]),
            (Shown { not_after: NOW.0, ..good() }, Grade::C, vec![Flaw::Expired]),
            (Shown { not_before: NOW.0 + 1, ..good() }, Grade::C, vec![Flaw::Early]),
            (Shown { lacks: lacks.clone(), ..good() }, Grade::C, vec![other.clone()]),
            (Shown { trusted: false, lacks, ..good() }, Grade::C, vec![Flaw::Untrusted, other]),
        ] {
            let profile = Profile { certificate: Some(shown.clone()), ..profile(&flights) };
            assert_eq!(grade(&profile, NameTarget::Here, NOW), Graded { grade: expected, flaws }, "{shown:?}");
        }
        let elsewhere = Profile { certificate: Some(Shown { trusted: false, ..good() }), ..profile(&flights) };
        assert_eq!(grade(&elsewhere, NameTarget::Elsewhere, NOW).flaws, [Flaw::Untrusted, Flaw::Elsewhere]);
    }
}
