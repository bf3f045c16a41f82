//! What visits to the cover have taught us: plain data, kept on disk.
//!
//! A [`super::scout`] writes it. What an admitted client sees behind its header is cut after it, and when the cover is
//! away, so is the flight.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chain::Shown;
use crate::wire::HelloClass;
use crate::wire::numbers::TLS13;

/// Everything that is known of a cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The first flight, by class of hello ([`crate::wire::HelloClass::label`]).
    pub flights: BTreeMap<String, FlightShape>,
    /// Shape of a whole visit with a handshake that was completed; `None` if there was none yet.
    pub visit: Option<VisitShape>,
    /// Ends of visitors who rest after their first request, by what they offer; learnt on connections of their own, since that
    /// takes minutes.
    #[serde(default)]
    pub rests: ByProtocol<IdleEnd>,
    /// The certificate that visitors are shown; `None` if that is not known.
    #[serde(default)]
    pub certificate: Option<Shown>,
    /// Time when this was learnt, in seconds since 1970.
    pub learnt: i64,
}

/// The cover's first answer to a class of hellos.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightShape {
    /// Chosen version: 0x0304 for TLS 1.3.
    pub version: u16,
    /// Whether the answer was a HelloRetryRequest.
    pub retry: bool,
    /// Cipher suite.
    pub cipher_suite: u16,
    /// Group of the key share.
    pub group: u16,
    /// Types of the ServerHello's extensions, in order.
    pub extensions: Vec<u16>,
    /// Payload sizes of the encrypted records.
    pub records: Vec<u16>,
    /// Whether several hellos of the class were all answered with records of these sizes.
    pub stable: bool,
}

/// Shape of a visit behind the first flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitShape {
    /// Encrypted records up to the server's Finished.
    pub flight_records: usize,
    /// Records that the cover sends before it has heard from the client again, behind its flight.
    pub before_finished: Vec<u16>,
    /// Payload sizes of the records that come by themselves once the client's Finished has arrived: session tickets and
    /// HTTP/2 settings.
    pub after_finished: Vec<u16>,
    /// Greetings of several visitors who offered HTTP/2: covers differ from visit to visit, and a client is shown one
    /// of them.
    #[serde(default)]
    pub greetings_http2: Vec<GreetingShape>,
    /// The same for visitors who offered HTTP/1.1 alone.
    #[serde(default)]
    pub greetings_http1: Vec<GreetingShape>,
    /// Time from the client's Finished to the first record after it, in milliseconds.
    pub after_finished_ms: u64,
    /// Shortest and longest time from the hello to the first byte of the answer, of the visitors who were greeted, in
    /// microseconds; 0 if it was not measured.
    #[serde(default)]
    pub answered_us: (u64, u64),
    /// Answers to what ends a connection from the visitor's side, by what visitors offer.
    #[serde(default)]
    pub endings: ByProtocol<Endings>,
    /// Payload sizes of successive records in the midst of a large answer, over and over; empty if the cover has none to
    /// offer.
    pub bulk: Vec<u16>,
    /// The same once the visitor has been slower than the cover; empty if that was not seen.
    #[serde(default)]
    pub bulk_stalled: Vec<u16>,
    /// Payload size of the close alert that the cover ends a connection with; `None` if it sends none.
    pub close_alert: Option<u16>,
    /// Most change_cipher_spec records in a row that the cover takes; `None`: it was not seen to give up.
    pub ccs_limit: Option<u16>,
}

/// Shape of what a cover sends of its own accord to one visitor whose Finished has arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GreetingShape {
    /// Its writes, one behind the other: payload sizes of the records in each.
    pub writes: Vec<Vec<u16>>,
    /// Time from the Finished to the first of them, in microseconds.
    pub delay_us: u64,
    /// Payload sizes of the records that answer the preface of HTTP/2; empty where nothing did.
    pub answer: Vec<u16>,
    /// Time from the preface to the first of them, in microseconds.
    pub answer_delay_us: u64,
}

/// Two observations: of visitors who offer HTTP/2, and of those who offer HTTP/1.1 alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByProtocol<T> {
    /// Of those who offer HTTP/2; `None` if it was not seen.
    pub http2: Option<T>,
    /// Of the others.
    pub http1: Option<T>,
}

impl<T> Default for ByProtocol<T> {
    fn default() -> Self {
        Self { http2: None, http1: None }
    }
}

impl<T> ByProtocol<T> {
    /// What was seen of visitors who offer HTTP/2, or do not; of the others where it was not seen of these.
    pub fn get(&self, http2: bool) -> Option<&T> {
        let (same, other) = if http2 { (&self.http2, &self.http1) } else { (&self.http1, &self.http2) };
        same.as_ref().or(other.as_ref())
    }

    /// The same with what was seen later.
    pub(super) fn updated(self, later: Self) -> Self {
        Self { http2: later.http2.or(self.http2), http1: later.http1.or(self.http1) }
    }
}

/// End of a connection as the cover makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Payload sizes of the records ahead of it.
    pub records: Vec<u16>,
    /// Whether it was a reset.
    pub reset: bool,
    /// Time from its cause to the first byte, or to the end where there is none, in microseconds.
    pub delay_us: u64,
}

/// Ends of connections that visitors cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// Answer to the end of the visitor's side without a close alert.
    pub fin: Ending,
    /// Answer to a record that cannot be decrypted.
    pub bad_record: Ending,
}

/// Shortest silence after which sessions are ended as the cover would end them: most apps of Telegram's say something
/// within that time, TDLib in the background after 60 seconds and a random part.
pub const LEAST_IDLE: Duration = Duration::from_secs(75);

/// By how much a limit may be missed when it is measured.
const MISSED: Duration = Duration::from_secs(1);

/// End of a connection on which nothing moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleEnd {
    /// Time without a byte, in milliseconds; `None` if the visitor left first.
    pub after_ms: Option<u64>,
    /// The end.
    pub ending: Ending,
    /// Time for which data is thrown away behind it, in milliseconds.
    pub linger_ms: u64,
}

/// By how many bytes a record may be longer or shorter without being another: ECDSA signatures vary by a few, and
/// OpenSSL's tickets by a block.
const SLACK: u16 = 16;

impl Profile {
    /// Number of encrypted records in the cover's answer to a hello of this class: as such hellos were seen to be
    /// answered, else as the visit with a whole handshake was; `None` while neither is known.
    pub fn flight_records(&self, class: HelloClass) -> Option<usize> {
        let seen = self.flights.get(class.label()).filter(|flight| flight.version == TLS13 && !flight.retry);
        let visit = || self.visit.as_ref().map(|visit| visit.flight_records);
        seen.map(|flight| flight.records.len())
            .filter(|records| *records > 0)
            .or_else(visit)
            .filter(|records| *records > 0)
    }

    /// Forgets what hellos of each class were answered with and how connections end, since the cover has been seen to be
    /// another than it was, with so many records in its flight.
    pub(super) fn begin_anew(&mut self, flight_records: usize) {
        self.flights.clear();
        self.rests = ByProtocol::default();
        let visit = self.visit.get_or_insert_default();
        (visit.flight_records, visit.endings) = (flight_records, ByProtocol::default());
    }

    /// Describes how a later profile differs, in words. What was or is not known is no difference.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (class, old) in &self.flights {
            if let Some(new) = later.flights.get(class) {
                old.differences(new, class, &mut found);
            }
        }
        if let (Some(old), Some(new)) = (&self.visit, &later.visit) {
            old.differences(new, &mut found);
        }
        for (protocol, old, new) in
            [("HTTP/2", &self.rests.http2, &later.rests.http2), ("HTTP/1.1", &self.rests.http1, &later.rests.http1)]
        {
            if let (Some(old), Some(new)) = (old, new) {
                old.differences(new, protocol, &mut found);
            }
        }
        found
    }
}

impl IdleEnd {
    /// Whether the cover leaves a visitor who rests sooner than a session can be left.
    pub fn is_early(&self) -> bool {
        self.after_ms.is_some_and(|after| Duration::from_millis(after) + MISSED < LEAST_IDLE)
    }

    /// What to go by after a visit, with what was `known` before. A limit shorter than that is believed once two visits in
    /// a row agree on it, for servers that are reloaded close connections that rest; until then it is `doubted`.
    pub(super) fn weighed(known: Option<Self>, seen: Option<Self>, doubted: &mut Option<Self>) -> Option<Self> {
        let Some(seen) = seen else { return known };
        let limit = |one: &Self| one.after_ms.unwrap_or(u64::MAX);
        let is_like = |one: &Self| close(limit(one), limit(&seen));
        let before = doubted.take();
        let is_shorter = |known: &Self| limit(&seen) < limit(known) && !is_like(known);
        if known.as_ref().is_some_and(is_shorter) && !before.as_ref().is_some_and(is_like) {
            *doubted = Some(seen);
            return known;
        }
        Some(seen)
    }

    fn differences(&self, later: &Self, protocol: &str, found: &mut Vec<String>) {
        let seconds = |after: Option<u64>| after.map_or("none".to_owned(), |after| format!("{} s", after / SECOND));
        let same = match (self.after_ms, later.after_ms) {
            (Some(old), Some(new)) => close(old, new),
            (old, new) => old == new,
        };
        if !same {
            let (old, new) = (seconds(self.after_ms), seconds(later.after_ms));
            found.push(format!("idle limit over {protocol}: {old}, now {new}"));
        }
        let (old, new) = (&self.ending.records, &later.ending.records);
        if same && self.after_ms.is_some() && !alike(old, new) {
            found.push(format!("records at the idle limit over {protocol}: {}, now {}", sizes(old), sizes(new)));
        }
    }
}

const SECOND: u64 = 1000;

/// Whether two limits are the same: times vary by what the cover's machine was busy with.
fn close(old: u64, new: u64) -> bool {
    old.abs_diff(new) <= SECOND.max(old / 10)
}

impl GreetingShape {
    /// Sizes of all records, in order.
    pub fn records(&self) -> Vec<u16> {
        [&self.writes.concat()[..], &self.answer].concat()
    }

    /// Greetings as they were made, out of how they were heard: two writes may have been read as one, and one that came
    /// late was kept up on its way, or by a busy machine. No write is ever read as two.
    pub fn settled(mut heard: Vec<Self>) -> Vec<Self> {
        let earliest = |delay: fn(&Self) -> u64| heard.iter().map(delay).filter(|delay| *delay > 0).min().unwrap_or(0);
        let (delay, answer_delay) = (earliest(|one| one.delay_us), earliest(|one| one.answer_delay_us));
        let finest: Vec<Vec<usize>> =
            heard.iter().map(|one| one.writes.iter().map(Vec::len).collect::<Vec<_>>()).collect();
        for one in &mut heard {
            one.delay_us = one.delay_us.min(MOST_LATE * delay);
            one.answer_delay_us = one.answer_delay_us.min(MOST_LATE * answer_delay);
            let records = one.writes.concat();
            let alike = finest.iter().filter(|writes| writes.iter().sum::<usize>() == records.len());
            if let Some(writes) = alike.max_by_key(|writes| writes.len()) {
                let mut rest = records.into_iter();
                one.writes = writes.iter().map(|count| rest.by_ref().take(*count).collect()).collect();
            }
        }
        heard
    }
}

/// Upper bound of a greeting's delay, as a multiple of the shortest of several.
const MOST_LATE: u64 = 2;

impl FlightShape {
    fn differences(&self, later: &Self, class: &str, found: &mut Vec<String>) {
        let mut compare = |same: bool, what: &str, old: String, new: String| {
            if !same {
                found.push(format!("{what} for {class}: {old}, now {new}"));
            }
        };
        let hex = |number: u16| format!("{number:04x}");
        compare(self.version == later.version, "version", hex(self.version), hex(later.version));
        compare(self.retry == later.retry, "HelloRetryRequest", self.retry.to_string(), later.retry.to_string());
        compare(
            self.cipher_suite == later.cipher_suite,
            "cipher suite",
            hex(self.cipher_suite),
            hex(later.cipher_suite),
        );
        compare(self.group == later.group, "group", hex(self.group), hex(later.group));
        let list = |numbers: &[u16]| numbers.iter().map(|number| hex(*number)).collect::<Vec<_>>().join(" ");
        compare(self.extensions == later.extensions, "extensions", list(&self.extensions), list(&later.extensions));
        compare(alike(&self.records, &later.records), "records", sizes(&self.records), sizes(&later.records));
    }
}

impl VisitShape {
    /// Whether it was heard how visitors are greeted.
    pub fn has_greetings(&self) -> bool {
        !self.greetings_http2.is_empty()
    }

    /// Greetings of visitors whose hello offers HTTP/2, or does not.
    pub fn greetings(&self, http2: bool) -> &[GreetingShape] {
        if http2 || self.greetings_http1.is_empty() { &self.greetings_http2 } else { &self.greetings_http1 }
    }

    /// Time that the cover takes for what took it `learnt` microseconds in visits, on a connection on which its answer to the
    /// hello took so long. Nothing is concluded within the spread of the visits, and nothing comes sooner than an answer can.
    pub fn delay(&self, learnt: u64, answered: Option<Duration>) -> Duration {
        let (least, most) = self.answered_us;
        let greetings = self.greetings_http2.iter().chain(&self.greetings_http1);
        let quickest = greetings.map(|one| one.delay_us).filter(|delay| *delay > 0).min();
        let own = answered.map(|time| time.as_micros() as u64).filter(|_| most > 0);
        Duration::from_micros(match own {
            Some(own) if own > most => learnt + own - quickest.unwrap_or(least).min(least),
            Some(own) if own < least => learnt.min(own),
            _ => learnt,
        })
    }

    fn differences(&self, later: &Self, found: &mut Vec<String>) {
        let mut compare = |same: bool, what: &str, old: String, new: String| {
            if !same {
                found.push(format!("{what}: {old}, now {new}"));
            }
        };
        compare(
            self.flight_records == later.flight_records,
            "records up to the Finished",
            self.flight_records.to_string(),
            later.flight_records.to_string(),
        );
        for (what, old, new) in [
            ("records behind the flight", &self.before_finished, &later.before_finished),
            ("records behind the client's Finished", &self.after_finished, &later.after_finished),
        ] {
            compare(alike(old, new), what, sizes(old), sizes(new));
        }
        let largest = |records: &[u16]| records.iter().copied().max();
        if let (Some(old), Some(new)) = (largest(&self.bulk), largest(&later.bulk)) {
            compare(old == new, "largest record of bulk data", old.to_string(), new.to_string());
        }
        let alert = |size: Option<u16>| size.map_or("none".to_owned(), |size| size.to_string());
        compare(
            self.close_alert == later.close_alert,
            "close alert",
            alert(self.close_alert),
            alert(later.close_alert),
        );
        for (protocol, old, new) in [
            ("HTTP/2", &self.endings.http2, &later.endings.http2),
            ("HTTP/1.1", &self.endings.http1, &later.endings.http1),
        ] {
            if let (Some(old), Some(new)) = (old, new) {
                let (old, new) = (&old.fin, &new.fin);
                let same = alike(&old.records, &new.records) && old.reset == new.reset;
                compare(same, &format!("answer to a FIN over {protocol}"), old.to_string(), new.to_string());
            }
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", sizes(&self.records), if self.reset { "a reset" } else { "FIN" })
    }
}

/// Whether these are as many records of about the same sizes.
fn alike(old: &[u16], new: &[u16]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.abs_diff(*new) <= SLACK)
}

fn sizes(records: &[u16]) -> String {
    match records {
        [] => "none".to_owned(),
        records => records.iter().map(u16::to_string).collect::<Vec<_>>().join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let flight = FlightShape { version: 0x0304, records: vec![32, 900, 281, 69], ..FlightShape::default() };
        let visit = VisitShape { flight_records: 4, after_finished: vec![266, 266], ..VisitShape::default() };
        let flights = [("chrome".to_owned(), flight)].into();
        Profile { flights, visit: Some(visit), learnt: 1, ..Profile::default() }
    }

    #[test]
    fn each_class_has_its_own_number_of_records() {
        let mut profile = profile();
        profile
            .flights
            .insert("padded-517".into(), FlightShape { version: TLS13, records: vec![900], ..Default::default() });
        profile.flights.insert("safari-hybrid".into(), FlightShape { version: 0x0303, ..Default::default() });
        profile.visit.as_mut().unwrap().flight_records = 2;
        for (class, records) in [
            (HelloClass::Chrome, Some(4)),
            (HelloClass::Padded517, Some(1)),
            (HelloClass::SafariHybrid, Some(2)),
            (HelloClass::Other, Some(2)),
        ] {
            assert_eq!(profile.flight_records(class), records, "{class}");
        }
        profile.visit.as_mut().unwrap().endings.http2 = Some(Endings::default());
        profile.rests.http1 = Some(IdleEnd::default());
        profile.begin_anew(3);
        assert_eq!(profile.rests, ByProtocol::default());
        assert_eq!(profile.visit.as_ref().unwrap().endings, ByProtocol::default());
        assert!(HelloClass::ALL.iter().all(|class| profile.flight_records(*class) == Some(3)));
        assert_eq!(Profile::default().flight_records(HelloClass::Chrome), None);
    }

    #[test]
    fn greetings_are_settled_by_the_others() {
        let heard = |writes: &[&[u16]], delay_us, answer_delay_us| GreetingShape {
            writes: writes.iter().map(|write| write.to_vec()).collect(),
            delay_us,
            answer: vec![26],
            answer_delay_us,
        };
        let made = GreetingShape::settled(vec![
            heard(&[&[250, 234, 50]], 100, 0),
            heard(&[&[250, 250], &[50]], 900, 70),
            heard(&[&[234]], 150, 60),
            heard(&[], 0, 0),
        ]);
        assert_eq!(made[0], heard(&[&[250, 234], &[50]], 100, 0));
        assert_eq!(made[1], heard(&[&[250, 250], &[50]], 200, 70));
        assert_eq!(made[2..], [heard(&[&[234]], 150, 60), heard(&[], 0, 0)]);
        assert_eq!(made[0].records(), [250, 234, 50, 26]);
        assert!(GreetingShape::settled(Vec::new()).is_empty());
    }

    #[test]
    fn visitors_are_greeted_by_what_they_offer() {
        let one = |size| vec![GreetingShape { writes: vec![vec![size]], ..GreetingShape::default() }];
        let mut visit = VisitShape { greetings_http2: one(1), ..VisitShape::default() };
        assert_eq!((visit.greetings(true), visit.greetings(false)), (&one(1)[..], &one(1)[..]));
        visit.greetings_http1 = one(2);
        assert_eq!((visit.greetings(true), visit.greetings(false)), (&one(1)[..], &one(2)[..]));
    }

    #[test]
    fn a_connection_is_as_far_away_as_its_own_answer_was() {
        let mut visit = VisitShape { answered_us: (100_000, 104_000), ..VisitShape::default() };
        let millis = Duration::from_millis;
        let delay = |visit: &VisitShape, own| visit.delay(101_000, Some(millis(own)));
        assert_eq!([100, 102, 104].map(|own| delay(&visit, own)), [millis(101); 3], "as in visits");
        assert_eq!([90, 105, 400].map(|own| delay(&visit, own)), [90, 106, 401].map(millis));
        // Handshakes were slow, and the way is not: no greeting comes sooner than an answer could.
        visit.greetings_http2 = vec![GreetingShape { delay_us: 60_000, ..GreetingShape::default() }];
        assert_eq!(visit.delay(60_000, Some(millis(200))), millis(200));
        for (visit, own) in [(&visit, None), (&VisitShape::default(), Some(millis(1)))] {
            assert_eq!(visit.delay(101_000, own), millis(101));
        }
    }

    #[test]
    fn a_limit_is_early_if_a_session_would_outlive_it() {
        let early = |after_ms| IdleEnd { after_ms, ..IdleEnd::default() }.is_early();
        assert_eq!(
            [Some(60_000), Some(73_000), Some(74_900), Some(75_000), None].map(early),
            [true, true, false, false, false]
        );
    }

    #[test]
    fn a_shorter_limit_is_believed_when_two_visits_agree() {
        let rest = |after_ms| Some(IdleEnd { after_ms, ..IdleEnd::default() });
        let (mut known, mut doubted) = (None, None);
        for (seen, believed) in [
            (rest(Some(75_000)), rest(Some(75_000))),
            (rest(Some(20_000)), rest(Some(75_000))),
            (rest(Some(75_100)), rest(Some(75_100))),
            (rest(Some(20_000)), rest(Some(75_100))),
            (rest(Some(50_000)), rest(Some(75_100))),
            (None, rest(Some(75_100))),
            (rest(Some(50_300)), rest(Some(50_300))),
            (rest(None), rest(None)),
            (rest(Some(75_000)), rest(None)),
            (rest(Some(75_000)), rest(Some(75_000))),
            (rest(Some(90_000)), rest(Some(90_000))),
        ] {
            known = IdleEnd::weighed(known, seen.clone(), &mut doubted);
            assert_eq!(known, believed, "{seen:?}");
        }
    }

    #[test]
    fn how_a_cover_ends_is_compared_where_it_is_stable() {
        let rest = |after_ms, records: &[u16]| IdleEnd {
            after_ms,
            ending: Ending { records: records.to_vec(), ..Ending::default() },
            linger_ms: 0,
        };
        let with = |rest, fin: &[u16]| {
            let fin = Ending { records: fin.to_vec(), ..Ending::default() };
            let mut profile = profile();
            let endings = Endings { fin, ..Endings::default() };
            profile.visit.as_mut().unwrap().endings.http2 = Some(endings);
            Profile { rests: ByProtocol { http2: Some(rest), http1: None }, ..profile }
        };
        let old = with(rest(Some(75_000), &[34, 19]), &[]);
        for same in [with(rest(Some(75_900), &[34, 19]), &[]), with(rest(Some(70_000), &[34, 19]), &[]), profile()] {
            assert_eq!(old.differences(&same), [""; 0]);
        }
        for (new, found) in [
            (with(rest(Some(60_000), &[34, 19]), &[]), "idle limit over HTTP/2: 75 s, now 60 s"),
            (with(rest(None, &[]), &[]), "idle limit over HTTP/2: 75 s, now none"),
            (with(rest(Some(75_000), &[19]), &[]), "records at the idle limit over HTTP/2: 34 + 19, now 19"),
            (with(rest(Some(75_000), &[34, 19]), &[19]), "answer to a FIN over HTTP/2: none and FIN, now 19 and FIN"),
        ] {
            assert_eq!(old.differences(&new), [found]);
        }
    }

    #[test]
    fn what_is_as_it_was_is_no_change() {
        let mut later = profile();
        later.learnt = 2;
        let visit = later.visit.as_mut().unwrap();
        (visit.after_finished_ms, visit.ccs_limit) = (12, Some(32));
        later.flights.get_mut("chrome").unwrap().records[2] = 279;
        later.flights.insert("padded-517".into(), FlightShape::default());
        assert_eq!(profile().differences(&later), [""; 0]);
        assert_eq!(Profile::default().differences(&profile()), [""; 0]);
    }

    #[test]
    fn every_change_is_named_with_before_and_after() {
        let mut later = profile();
        let flight = later.flights.get_mut("chrome").unwrap();
        *flight = FlightShape {
            version: 0x0303,
            retry: true,
            cipher_suite: 0x1301,
            group: 29,
            extensions: vec![43, 51],
            records: vec![1000],
            stable: true,
        };
        let visit = later.visit.as_mut().unwrap();
        visit.flight_records = 1;
        (visit.before_finished, visit.after_finished) = (vec![100], vec![]);
        visit.close_alert = Some(19);
        let found = profile().differences(&later);
        assert_eq!(found.len(), 10, "{found:#?}");
        assert!(found.contains(&"records for chrome: 32 + 900 + 281 + 69, now 1000".to_owned()), "{found:#?}");
        assert!(found.contains(&"records behind the client's Finished: 266 + 266, now none".to_owned()));
    }
}
