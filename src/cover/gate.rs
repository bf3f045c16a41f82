//! The gate between a client and the cover: it watches what both say, changes one field, and ends in one of two ways.
//!
//! ```text
//!            client_data: hello whole, of our form          cover_data/cover_waits: flight whole, stamped, sent
//!   HELLO ───────────────▶ JUDGING ───────────────▶ FLIGHT ─────────────────────────────────────▶ HEADER
//!     │ anything else                                 │ declined, client speaks, or not such a flight│   │ valid header
//!     ▼                                               ▼                                 anything else│   ▼
//!   OPEN ◀────────────────────────────────────────────┴──────────────────────────────────────────────┘  Promotion
//! ```
//!
//! A hello that is of the form of our clients' and declined goes the same way as far as its flight, which is sent as it
//! came, but not sooner: the time of the first answer must not tell who was let in. With many secrets judging takes a
//! while; it is done in pieces ([`Gate::judge_on`]), and what the cover says meanwhile is kept.
//!
//! The gate owns no socket and reads no clock: it is told what arrived and says what to do. What it withholds from the
//! client for a while (a flight that is not whole) it gives back untouched when the connection turns out to be a
//! visit. From the client it withholds nothing but the chunk that completes the header, and that only while judging it.

use std::net::IpAddr;
use std::sync::Arc;

use super::profile::Profile;
use crate::auth::{Admission, Declined, Inquiry, Judge, Reason, UnixTime, Verdict};
use crate::wire::HelloClass;
use crate::wire::client_hello::{self, HelloCollector};
use crate::wire::obfuscated::{self, HeaderCollector, Opened, Wrapped};
use crate::wire::server_flight::{FlightCollector, Unfit};

/// Watches one connection until it is known to be a visit or has proved itself twice.
#[derive(Debug)]
pub struct Gate {
    judge: Arc<Judge>,
    from: IpAddr,
    end: FlightEnd,
    stage: Stage,
}

/// What tells that a cover's first flight is whole.
#[derive(Clone, Debug)]
pub enum FlightEnd {
    /// Whoever serves the cover says so, by [`Gate::cover_waits`].
    Told,
    /// The number of its encrypted records, as visits have seen it for the class of the hello; where they have not, the
    /// cover's silence.
    Counted(Arc<Profile>),
}

#[derive(Debug)]
enum Stage {
    Hello(HelloCollector),
    Judging { inquiry: Box<Inquiry>, flight: FlightCollector },
    Flight { guest: Guest, records: Option<usize>, flight: FlightCollector },
    Header { admission: Admission, header: HeaderCollector, withheld: Vec<u8> },
    Open(Declined),
    Promoted,
}

/// Whom a flight is for.
#[derive(Debug)]
enum Guest {
    Admitted(Admission),
    Declined(Declined),
}

/// What to do with bytes from the client.
#[derive(Debug)]
pub enum FromClient {
    /// Hand them to the cover. If `release` is not empty, it goes to the client first.
    Forward {
        /// What had been withheld from the client.
        release: Vec<u8>,
    },
    /// Drop the cover leg: the client is one of ours.
    Promote(Box<Promotion>),
}

/// What to do with bytes from the cover.
#[derive(Debug, PartialEq, Eq)]
pub enum FromCover {
    /// Hand them to the client as they are.
    Pass,
    /// They are kept here; the client gets nothing now.
    Withhold,
    /// They are kept here, and this goes to the client, in one write.
    Send(Vec<u8>),
}

/// A client that has proved itself twice.
#[derive(Debug)]
pub struct Promotion {
    /// The first proof.
    pub admission: Admission,
    /// The second proof.
    pub opened: Opened,
    /// Bytes behind the header that came with it, still as records.
    pub leftover: Vec<u8>,
    /// How many payload bytes of the header's record `leftover` and what follows begin with.
    pub record_left: usize,
}

impl Gate {
    /// A gate for a client at this address, in front of a cover whose first flights end like this.
    pub fn new(judge: Arc<Judge>, from: IpAddr, end: FlightEnd) -> Self {
        Self { judge, from, end, stage: Stage::Hello(HelloCollector::default()) }
    }

    /// The same for a client that is not judged, if there is a reason for that.
    pub fn barred(mut self, reason: Option<Reason>) -> Self {
        if let Some(reason) = reason {
            self.stage = Declined::from(reason).into();
        }
        self
    }

    /// Why the connection is a mere visit, once that is known. From then on every byte is to be handed on as it is.
    pub fn open(&self) -> Option<&Declined> {
        match &self.stage {
            Stage::Open(declined) => Some(declined),
            _ => None,
        }
    }

    /// Whether bytes from the client must be judged before they are handed on. Otherwise they can be handed on first,
    /// so that the work of judging hides behind the cover's own.
    pub fn judges_first(&self) -> bool {
        matches!(self.stage, Stage::Header { .. })
    }

    /// Whether the cover may have ended its flight although nothing but its silence says so.
    pub fn flight_may_be_whole(&self) -> bool {
        matches!(&self.stage, Stage::Flight { flight, .. } if flight.may_be_whole())
    }

    /// Whether the hello is still being judged, so that [`Gate::judge_on`] is to be called when others have had a turn.
    pub fn is_judging(&self) -> bool {
        matches!(self.stage, Stage::Judging { .. })
    }

    /// Judges the hello for a moment longer. What this returns goes to the client.
    pub fn judge_on(&mut self) -> Vec<u8> {
        let Stage::Judging { inquiry, .. } = &mut self.stage else { return Vec::new() };
        if !inquiry.go_on() {
            return Vec::new();
        }
        self.settle();
        match self.flight_step(Ok(())) {
            FromCover::Send(bytes) => bytes,
            FromCover::Pass | FromCover::Withhold => Vec::new(),
        }
    }

    /// Whether it is known how many records the flight has that is under way.
    pub fn flight_is_counted(&self) -> bool {
        matches!(&self.stage, Stage::Flight { records: Some(_), .. })
    }

    /// Whether what goes to the client now is the flight of an admitted client that minds where a read ends. All else
    /// leaves in the segments that the kernel makes of it, as the cover's own does.
    pub fn cuts_flight(&self) -> bool {
        matches!(&self.stage, Stage::Header { admission, .. } if admission.class().minds_read_ends())
    }

    /// Whether the cover has said more than its flight, as far as its end was known, before hearing from the client.
    pub fn cover_went_on(&self) -> bool {
        matches!(&self.stage, Stage::Header { withheld, .. } if !withheld.is_empty())
    }

    /// The client said this.
    pub fn client_data(&mut self, bytes: &[u8], now: UnixTime) -> FromClient {
        self.settle();
        let (stage, step) = match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Hello(hello) => {
                self.stage = self.hello_data(hello, bytes, now);
                return FromClient::Forward { release: self.judge_on() };
            }
            Stage::Flight { guest, flight, .. } => {
                (guest.declined(Reason::Early).into(), FromClient::Forward { release: flight.into_bytes() })
            }
            Stage::Header { admission, header, withheld } => header_data(admission, header, withheld, bytes),
            other => (other, forward()),
        };
        self.stage = stage;
        step
    }

    /// The client ended its side; what this returns goes to the client.
    pub fn client_end(&mut self) -> Vec<u8> {
        let reason = match self.stage {
            Stage::Hello(_) => Reason::Unfinished("the client ended"),
            Stage::Judging { .. } | Stage::Flight { .. } => Reason::Early,
            _ => Reason::Header("the client ended"),
        };
        self.give_up(reason)
    }

    /// The cover said this.
    pub fn cover_data(&mut self, bytes: &[u8]) -> FromCover {
        match &mut self.stage {
            Stage::Hello(_) => {
                self.stage = Declined::from(Reason::Unfinished("the cover spoke")).into();
                FromCover::Pass
            }
            Stage::Judging { flight, .. } => match flight.feed(bytes) {
                Ok(()) => FromCover::Withhold,
                Err(unfit) => {
                    self.settle();
                    self.flight_step(Err(unfit))
                }
            },
            Stage::Flight { flight, .. } => {
                let fit = flight.feed(bytes);
                self.flight_step(fit)
            }
            Stage::Header { withheld, .. } => {
                // A client takes nothing behind the flight before it has spoken.
                withheld.extend_from_slice(bytes);
                if withheld.len() <= MAX_WITHHELD {
                    return FromCover::Withhold;
                }
                FromCover::Send(self.give_up(Reason::Cover("went on behind its flight")))
            }
            Stage::Open(_) | Stage::Promoted => FromCover::Pass,
        }
    }

    /// The cover has nothing more to say before it hears from the client. Returns what goes to the client, in one write.
    pub fn cover_waits(&mut self) -> Option<Vec<u8>> {
        self.settle();
        let Stage::Flight { flight, .. } = &self.stage else { return None };
        if flight.is_empty() {
            return None;
        }
        let records = flight.encrypted_records();
        let sent = if flight.may_be_whole() {
            self.send_flight(records)
        } else {
            FromCover::Send(self.give_up(Reason::Cover("stopped within its flight")))
        };
        match sent {
            FromCover::Send(bytes) => Some(bytes),
            FromCover::Pass | FromCover::Withhold => None,
        }
    }

    /// The cover ended its side; what this returns goes to the client before its side is ended too.
    pub fn cover_end(&mut self) -> Vec<u8> {
        let reason = match self.stage {
            Stage::Hello(_) => Reason::Unfinished("the cover ended"),
            _ => Reason::Cover("ended"),
        };
        self.give_up(reason)
    }

    fn hello_data(&self, mut hello: HelloCollector, bytes: &[u8], now: UnixTime) -> Stage {
        match hello.feed(bytes) {
            client_hello::Progress::More => Stage::Hello(hello),
            client_hello::Progress::Foreign(what) => Declined::from(Reason::Form(what)).into(),
            client_hello::Progress::Whole => match self.judge.inquire(&hello.into_record(), self.from, now) {
                Ok(inquiry) => Stage::Judging { inquiry: inquiry.into(), flight: FlightCollector::default() },
                Err(declined) => declined.into(),
            },
        }
    }

    /// Comes to a verdict on a hello that is still being judged, at once.
    fn settle(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Judging { inquiry, flight } => match self.judge.decide(*inquiry) {
                Verdict::Admit(admission) => {
                    let records = self.end.records(admission.class());
                    Stage::Flight { guest: Guest::Admitted(admission), records, flight }
                }
                Verdict::Decline(declined) => {
                    let records = self.end.least_records();
                    Stage::Flight { guest: Guest::Declined(declined), records, flight }
                }
            },
            settled => settled,
        };
    }

    /// What to do with a flight as far as it has come; `fit` is whether it still can be one.
    fn flight_step(&mut self, fit: Result<(), Unfit>) -> FromCover {
        let Stage::Flight { records, flight, .. } = &self.stage else { return FromCover::Pass };
        match (*records, fit) {
            // What comes behind the flight in the same piece is no concern of the flight's.
            (Some(expected), _) if flight.encrypted_records() >= expected => self.send_flight(expected),
            (_, Err(unfit)) => FromCover::Send(self.give_up(Reason::Cover(unfit.0))),
            (_, Ok(())) => FromCover::Withhold,
        }
    }

    fn send_flight(&mut self, records: usize) -> FromCover {
        let Stage::Flight { guest, flight: collected, .. } = std::mem::replace(&mut self.stage, Stage::Promoted) else {
            return FromCover::Pass;
        };
        let joined = match guest {
            Guest::Admitted(_) => collected.join(records),
            Guest::Declined(_) => collected.join(collected.encrypted_records()),
        };
        let (stage, sent) = match (joined, guest) {
            (Ok((mut flight, rest)), Guest::Admitted(admission)) => {
                admission.stamp(&mut flight);
                let withheld = rest.to_vec();
                (Stage::Header { admission, header: HeaderCollector::default(), withheld }, flight.into_bytes())
            }
            (Ok((mut flight, _)), Guest::Declined(declined)) => {
                self.judge.stamp_in_vain(&mut flight);
                (declined.into(), collected.into_bytes())
            }
            (Err(unfit), guest) => (guest.declined(Reason::Cover(unfit.0)).into(), collected.into_bytes()),
        };
        self.stage = stage;
        FromCover::Send(sent)
    }

    /// A visit after all. Returns what was withheld from the client.
    fn give_up(&mut self, reason: Reason) -> Vec<u8> {
        self.settle();
        let (declined, release) = match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Judging { flight, .. } => (reason.into(), flight.into_bytes()),
            Stage::Flight { guest, flight, .. } => (guest.declined(reason), flight.into_bytes()),
            Stage::Header { admission, withheld, .. } => (admission.declined(reason), withheld),
            Stage::Open(earlier) => (earlier, Vec::new()),
            Stage::Hello(_) | Stage::Promoted => (reason.into(), Vec::new()),
        };
        self.stage = declined.into();
        release
    }
}

impl Guest {
    /// A mere visit, now that `reason` makes it one: whoever was declined has been one all along.
    fn declined(self, reason: Reason) -> Declined {
        match self {
            Self::Admitted(admission) => admission.declined(reason),
            Self::Declined(earlier) => earlier,
        }
    }
}

impl FlightEnd {
    /// How many encrypted records the answer to a hello of this class has, if they tell that it is whole.
    fn records(&self, class: HelloClass) -> Option<usize> {
        match self {
            Self::Told => None,
            Self::Counted(profile) => profile.flight_records(class),
        }
    }

    /// The same for a stranger: one, for nobody waits for the silence of a cover that resumes a session in fewer records.
    fn least_records(&self) -> Option<usize> {
        match self {
            Self::Told => None,
            Self::Counted(_) => Some(1),
        }
    }
}

/// Most bytes that are withheld behind a flight. Covers that say more before the client has spoken are no servers that
/// a Telegram client could be shown.
const MAX_WITHHELD: usize = 16 * 1024;

impl From<Declined> for Stage {
    fn from(declined: Declined) -> Self {
        Self::Open(declined)
    }
}

fn forward() -> FromClient {
    FromClient::Forward { release: Vec::new() }
}

fn header_data(
    admission: Admission,
    mut header: HeaderCollector,
    withheld: Vec<u8>,
    bytes: &[u8],
) -> (Stage, FromClient) {
    let visit = |admission: &Admission, what, release| {
        (admission.declined(Reason::Header(what)).into(), FromClient::Forward { release })
    };
    match header.feed(bytes) {
        obfuscated::Progress::More => (Stage::Header { admission, header, withheld }, forward()),
        obfuscated::Progress::Foreign(what) => visit(&admission, what, withheld),
        obfuscated::Progress::Whole(Wrapped { header, used, record_left }) => {
            match obfuscated::open(&header, admission.key().secret().bytes()) {
                None => visit(&admission, "not under this secret", withheld),
                Some(opened) => {
                    let leftover = bytes[used..].to_vec();
                    let promotion = Promotion { admission, opened, leftover, record_left };
                    (Stage::Promoted, FromClient::Promote(Box::new(promotion)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::profile::{FlightShape, VisitShape};
    use super::*;
    use crate::auth::{Key, Keyring, Member, ReplayMemory, Rules, Secret, TimeWindow};
    use crate::fixtures::{vector, vector_array};
    use crate::wire::ClientHello;
    use crate::wire::record::{CHANGE_CIPHER_SPEC, Header};

    const NOW: UnixTime = UnixTime(1_767_225_600);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A gate before a cover of which this number of records is known, or nothing.
    fn gate(flight_records: Option<usize>) -> Gate {
        let visit = flight_records.map(|flight_records| VisitShape { flight_records, ..VisitShape::default() });
        gate_of(FlightEnd::Counted(Arc::new(Profile { visit, ..Profile::default() })))
    }

    fn gate_of(end: FlightEnd) -> Gate {
        crowded_gate(0, end)
    }

    /// The same, with so many secrets of others before the one of the vectors.
    fn crowded_gate(others: u32, end: FlightEnd) -> Gate {
        let others = (0..others).map(|number| {
            let mut key = [0x55; 16];
            key[..4].copy_from_slice(&number.to_le_bytes());
            Key::new(Member::new(number.to_string()), Secret::new(key))
        });
        let ours = Key::new(Member::new("somebody"), Secret::new(vector_array("const", "key")));
        let keyring = Keyring::new(others.chain([ours]));
        let rules = Rules { keyring, window: TimeWindow::new(Duration::from_secs(600)), names: None };
        let judge = Judge::new(rules, ReplayMemory::volatile());
        Gate::new(Arc::new(judge), HERE, end)
    }

    fn reason(gate: &Gate) -> Option<Reason> {
        gate.open().map(|declined| declined.reason)
    }

    fn released(step: FromClient) -> Vec<u8> {
        match step {
            FromClient::Forward { release } => release,
            FromClient::Promote(_) => panic!("promoted"),
        }
    }

    /// A gate whose client has sent its hello and whose cover has answered.
    fn candidate() -> Gate {
        let mut gate = gate(Some(1));
        assert!(released(gate.client_data(&vector("helloB", "record"), NOW)).is_empty());
        assert_eq!(gate.cover_data(&cover_flight()), FromCover::Send(vector("flightB", "bytes")));
        gate
    }

    /// The flight of vector B as a cover would send it, with a random of its own.
    fn cover_flight() -> Vec<u8> {
        let mut flight = vector("flightB", "bytes");
        flight[11..43].fill(0xa5);
        flight
    }

    #[test]
    fn two_proofs_promote() {
        let mut gate = candidate();
        assert!(gate.judges_first());
        let write = vector("tls_first_client_write", "bytes");
        let FromClient::Promote(promotion) = gate.client_data(&write, NOW) else { panic!("not promoted") };
        assert_eq!((promotion.opened.dc, promotion.admission.member().name()), (10_002, "somebody"));
        assert_eq!(promotion.leftover, write[6 + 5 + 64..]);
        assert_eq!(promotion.record_left, promotion.leftover.len());
        assert!(gate.open().is_none());
    }

    #[test]
    fn the_flight_is_whole_when_its_records_are_or_when_the_cover_waits() {
        let flight = cover_flight();
        for known in [Some(1), None] {
            let mut gate = gate(known);
            gate.client_data(&vector("helloB", "record"), NOW);
            assert_eq!(gate.cover_waits(), None);
            assert_eq!(gate.cover_data(&flight[..1000]), FromCover::Withhold);
            assert!(!gate.flight_may_be_whole());
            let stamped = vector("flightB", "bytes");
            match known {
                Some(_) => assert_eq!(gate.cover_data(&flight[1000..]), FromCover::Send(stamped)),
                None => {
                    assert_eq!(gate.cover_data(&flight[1000..]), FromCover::Withhold);
                    assert!(gate.flight_may_be_whole());
                    assert_eq!(gate.cover_waits(), Some(stamped));
                }
            }
        }
    }

    #[test]
    fn a_visit_gets_back_all_that_was_withheld_untouched_and_in_order() {
        let flight = cover_flight();
        let early = |gate: &mut Gate| released(gate.client_data(b"x", NOW));
        for (what, give_up) in [
            ("the client speaks early", early as fn(&mut Gate) -> Vec<u8>),
            ("the client ends", |gate| gate.client_end()),
            ("the cover ends", |gate| gate.cover_end()),
            ("the cover waits", |gate| gate.cover_waits().unwrap()),
            ("the cover sends an alert", |gate| match gate.cover_data(&[0x15, 3, 3, 0, 2]) {
                FromCover::Send(bytes) => bytes[..bytes.len() - 5].to_vec(),
                other => panic!("{other:?}"),
            }),
        ] {
            let mut gate = gate(Some(1));
            gate.client_data(&vector("helloB", "record"), NOW);
            // The whole of the first two records, where another may begin.
            let part = &flight[..1215 + CHANGE_CIPHER_SPEC.len()];
            assert_eq!(gate.cover_data(part), FromCover::Withhold, "{what}");
            assert_eq!(give_up(&mut gate), part, "{what}");
            assert!(gate.open().is_some(), "{what}");
            assert_eq!(gate.cover_data(b"later"), FromCover::Pass, "{what}");
        }
    }

    #[test]
    fn what_is_no_header_is_handed_on_and_what_the_cover_said_meanwhile_comes_first() {
        let ticket = [&Header::application_data(200).encode()[..], &[7; 200]].concat();
        let mut gate = candidate();
        assert_eq!(gate.cover_data(&ticket), FromCover::Withhold);
        assert!(released(gate.client_data(&CHANGE_CIPHER_SPEC, NOW)).is_empty());
        assert!(gate.open().is_none());
        let mut finished = vector("tls_first_client_write", "bytes")[6..].to_vec();
        finished[40] ^= 1;
        assert_eq!(released(gate.client_data(&finished, NOW)), ticket);
        assert_eq!(reason(&gate), Some(Reason::Header("not under this secret")));
        assert_eq!(
            gate.open().and_then(|declined| declined.member.as_ref()).map(|member| member.name()),
            Some("somebody")
        );
        assert_eq!(gate.cover_data(b"alert"), FromCover::Pass);
    }

    #[test]
    fn a_cover_that_goes_on_and_on_is_not_kept_back_without_bound() {
        let mut gate = candidate();
        let more = vec![0; MAX_WITHHELD];
        assert_eq!(gate.cover_data(&more), FromCover::Withhold);
        let FromCover::Send(all) = gate.cover_data(&more) else { panic!("withheld more") };
        assert_eq!(all.len(), 2 * MAX_WITHHELD);
        assert!(matches!(reason(&gate), Some(Reason::Cover(_))));
    }

    #[test]
    fn strangers_pass_from_the_byte_that_proves_them_strangers() {
        let mut gate = gate(Some(1));
        assert!(released(gate.client_data(b"GET / HTTP/1.1\r\n", NOW)).is_empty());
        assert_eq!(reason(&gate).map(Reason::label), Some("form"));
        assert_eq!(gate.cover_data(&cover_flight()), FromCover::Pass);
        let mut gate = self::gate(Some(1));
        gate.client_data(&stranger()[..50], NOW);
        assert_eq!(gate.cover_data(b"220 ready"), FromCover::Pass);
        assert_eq!(reason(&gate).map(Reason::label), Some("unfinished"));
    }

    /// A hello of the right form under nobody's secret.
    fn stranger() -> Vec<u8> {
        let mut hello = vector("helloB", "record");
        hello[100] ^= 1;
        hello
    }

    /// The step at which a flight in these pieces leaves for the client, and what leaves.
    fn leaves(mut gate: Gate, hello: &[u8], pieces: &[&[u8]]) -> (usize, Vec<u8>) {
        assert!(released(gate.client_data(hello, NOW)).is_empty());
        for (step, piece) in pieces.iter().enumerate() {
            match gate.cover_data(piece) {
                FromCover::Withhold => {}
                FromCover::Send(bytes) => return (step, bytes),
                FromCover::Pass => return (step, piece.to_vec()),
            }
        }
        (pieces.len(), gate.cover_waits().expect("a flight"))
    }

    #[test]
    fn a_stranger_is_answered_no_sooner_than_a_client_and_with_what_the_cover_said() {
        let flight = cover_flight();
        let replay = |gate: &mut Gate| assert!(released(gate.client_data(&vector("helloB", "record"), NOW)).is_empty());
        for end in [FlightEnd::Told, gate(Some(1)).end] {
            for cuts in [&[][..], &[5], &[1000], &[1215, 1221], &[1215, 1221, 2000]] {
                let mut pieces = Vec::new();
                let mut rest = &flight[..];
                for cut in cuts.iter().rev() {
                    let (before, piece) = rest.split_at(*cut);
                    pieces.insert(0, piece);
                    rest = before;
                }
                pieces.insert(0, rest);
                let admitted = leaves(gate_of(end.clone()), &vector("helloB", "record"), &pieces);
                assert_eq!(admitted.1, vector("flightB", "bytes"));
                let mut spent = gate_of(end.clone());
                replay(&mut spent);
                let spent = Gate::new(spent.judge, HERE, end.clone());
                for (gate, hello) in [(gate_of(end.clone()), stranger()), (spent, vector("helloB", "record"))] {
                    assert_eq!(leaves(gate, &hello, &pieces), (admitted.0, flight.clone()), "{end:?} {cuts:?}");
                }
            }
        }
    }

    #[test]
    fn a_stranger_gets_what_is_no_flight_at_once_and_keeps_its_reason() {
        for answer in [&[0x15, 3, 3, 0, 2, 2, 40][..], b"HTTP/1.1 400 Bad Request", &cover_flight()[..3]] {
            let mut gate = gate(Some(1));
            gate.client_data(&stranger(), NOW);
            let sent = gate.cover_data(answer);
            let all = match sent {
                FromCover::Send(bytes) => bytes,
                FromCover::Withhold => gate.cover_end(),
                FromCover::Pass => panic!("passed"),
            };
            assert_eq!((all.as_slice(), reason(&gate)), (answer, Some(Reason::Digest)));
        }
        // A resumed session has fewer records than others.
        let mut gate = self::gate(Some(4));
        gate.client_data(&stranger(), NOW);
        assert_eq!(gate.cover_data(&cover_flight()), FromCover::Send(cover_flight()));
    }

    #[test]
    fn the_number_of_records_is_that_of_the_class() {
        let record = [&Header::application_data(100).encode()[..], &[7; 100]].concat();
        let flight = [&cover_flight()[..], &record, &record].concat();
        let shape =
            |records: usize| FlightShape { version: 0x0304, records: vec![100; records], ..FlightShape::default() };
        let hello = vector("helloB", "record");
        let class = HelloClass::of(&ClientHello::decode(&hello).unwrap());
        for (own, other, sent) in [(1, 3, 2048), (3, 1, 2248)] {
            let flights =
                HelloClass::ALL.map(|any| (any.label().to_owned(), shape(if any == class { own } else { other })));
            let visit = Some(VisitShape { flight_records: other, ..VisitShape::default() });
            let profile = Profile { flights: flights.into(), visit, learnt: 1 };
            let mut gate = gate_of(FlightEnd::Counted(Arc::new(profile)));
            gate.client_data(&hello, NOW);
            assert!(gate.flight_is_counted());
            let FromCover::Send(bytes) = gate.cover_data(&flight) else { panic!("not whole") };
            assert_eq!(bytes.len(), cover_flight().len() - 2048 + sent);
            assert_eq!(gate.cover_went_on(), own == 1);
        }
    }

    #[test]
    fn among_many_secrets_the_flight_waits_for_a_verdict_that_takes_as_long_for_all() {
        let flight = cover_flight();
        for (end, counted) in [(FlightEnd::Told, false), (gate(Some(1)).end, true)] {
            let mut turns = Vec::new();
            for (hello, expected) in
                [(vector("helloB", "record"), vector("flightB", "bytes")), (stranger(), flight.clone())]
            {
                let mut gate = crowded_gate(300, end.clone());
                assert!(released(gate.client_data(&hello, NOW)).is_empty());
                assert_eq!(gate.cover_data(&flight), FromCover::Withhold);
                let mut count = 0;
                let mut sent = Vec::new();
                while gate.is_judging() {
                    assert!(sent.is_empty() && gate.open().is_none() && !gate.flight_may_be_whole());
                    sent = gate.judge_on();
                    count += 1;
                }
                if !counted {
                    assert!(sent.is_empty() && gate.flight_may_be_whole());
                    sent = gate.cover_waits().unwrap();
                }
                assert!(sent == expected);
                turns.push(count);
            }
            assert!(turns[0] > 1 && turns[0] == turns[1], "{turns:?}");
        }
    }

    #[test]
    fn what_happens_during_the_search_comes_out_as_it_would_have_behind_it() {
        let flight = cover_flight();
        let alert = [0x15, 3, 3, 0, 2, 2, 40];
        let early = |gate: &mut Gate| released(gate.client_data(b"x", NOW));
        for (what, happens, reason, whose) in [
            ("the client speaks", early as fn(&mut Gate) -> Vec<u8>, Reason::Early, Some("somebody")),
            ("the client ends", |gate| gate.client_end(), Reason::Early, Some("somebody")),
            ("the cover ends", |gate| gate.cover_end(), Reason::Cover("ended"), Some("somebody")),
        ] {
            for hello in [vector("helloB", "record"), stranger()] {
                let mut gate = crowded_gate(300, FlightEnd::Told);
                gate.client_data(&hello, NOW);
                gate.cover_data(&flight[..1000]);
                assert!(gate.is_judging(), "{what}");
                assert_eq!(happens(&mut gate), flight[..1000], "{what}");
                let declined = gate.open().expect(what);
                let member = declined.member.as_ref().map(|member| member.name());
                let expected = if hello == stranger() { (Reason::Digest, None) } else { (reason, whose) };
                assert_eq!((declined.reason, member), expected, "{what}");
            }
        }
        // The cover's silence is asked for, or it says what is no flight.
        let mut gate = crowded_gate(300, FlightEnd::Told);
        gate.client_data(&vector("helloB", "record"), NOW);
        gate.cover_data(&flight);
        assert_eq!(gate.cover_waits(), Some(vector("flightB", "bytes")));
        let mut gate = crowded_gate(300, self::gate(Some(1)).end);
        gate.client_data(&vector("helloB", "record"), NOW);
        assert_eq!(gate.cover_data(&alert), FromCover::Send(alert.to_vec()));
        // What comes behind the flight while the hello is judged is withheld as ever.
        let mut gate = crowded_gate(300, self::gate(Some(1)).end);
        gate.client_data(&vector("helloB", "record"), NOW);
        let ticket = [&Header::application_data(200).encode()[..], &[7; 200]].concat();
        gate.cover_data(&[&flight[..], &ticket].concat());
        let mut sent = Vec::new();
        while gate.is_judging() {
            sent = gate.judge_on();
        }
        assert_eq!(sent, vector("flightB", "bytes"));
        assert!(gate.cover_went_on());
    }
}
