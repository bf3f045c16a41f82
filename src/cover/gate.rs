//! The gate between a client and the cover: it watches what both say, changes one field, and ends in one of two ways.
//!
//! ```text
//!          client_data: hello whole, of our form      answered, cover_data/cover_waits: flight whole, stamped, sent
//!   HELLO ───────────────▶ JUDGING ───────────▶ FLIGHT ────────────────▶ HEADER ───────────▶ PROVING
//!     │ anything else         │                   │ client speaks,         │ anything else     │  │ valid, new, and a
//!     ▼                       ▼                   ▼ or not such a flight   ▼                   │  ▼ place for the user
//!   OPEN ◀────────────────────┴───────────────────┴────────────────────────┴───────────────────┘  Promotion
//! ```
//!
//! Whatever a TLS server takes for a handshake and is declined goes the same way as far as what stands in a header's place,
//! and its client gets what the cover says, but not sooner: the time of an answer must not tell who was let in, nor which
//! forms of a hello are looked at. With many secrets judging takes a while; it is done elsewhere ([`Gate::search`]), and
//! what the cover says meanwhile is kept.
//!
//! The gate owns no socket, reads no clock and remembers nothing but its connection: it is told what arrived and says what to
//! do. What was spent is the matter of a store that may be far away, so asking it is one of the things to be done
//! ([`Gate::question`]), and the gate goes on with the answer ([`Gate::answered`]). It asks twice: about the hello, after the
//! search and before anything is answered, and about the header, before the cover is left. Both are asked whatever the
//! connection has become meanwhile, and about those who were refused too.
//!
//! A cover that ends too early, or says what it should not, makes a visit of the connection, but not of its proofs: a hello
//! that comes then is judged and spent, and so is what stands in a header's place behind a flight that has been sent.
//!
//! What the gate withholds from the client for a while (a flight that is not whole) it gives back untouched when the
//! connection turns out to be a visit. From the client it withholds nothing but the chunk that completes the header, and that
//! only while judging it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::profile::Profile;
use crate::auth::replay::{Entry, Question};
use crate::auth::{
    Admission, Declined, Inquiry, Judge, Key, Permit, Reason, ReplayCache, Searched, SecretTag, UnixTime, Verdict,
};
use crate::wire::HelloClass;
use crate::wire::client_hello::{self, HelloCollector};
use crate::wire::obfuscated::{self, HEADER, HeaderCollector, Opened, Wrapped};
use crate::wire::server_flight::{FlightCollector, Unfit};

/// Watches one connection until it is known to be a visit or has proved itself twice.
#[derive(Debug)]
pub struct Gate {
    judge: Arc<Judge>,
    from: IpAddr,
    /// Reason for declining the client whatever it says, if there is one.
    barred: Option<Reason>,
    end: FlightEnd,
    /// The hello that is being judged, unless it is being searched for elsewhere.
    inquiry: Option<Box<Inquiry>>,
    searching: bool,
    /// Next query to the replay cache.
    question: Option<Question>,
    /// Reason why the cover's answer is no flight for the admitted client that waits for one.
    failure: Option<&'static str>,
    stage: Stage,
}

/// Sign that a cover's first flight is complete.
#[derive(Clone, Debug)]
pub enum FlightEnd {
    /// The server of the cover says so, by [`Gate::cover_waits`].
    Told,
    /// The number of its encrypted records, as visits have seen it for the class of the hello; where they have not, the
    /// cover's silence.
    Counted(Arc<Profile>),
}

#[derive(Debug)]
enum Stage {
    /// With the reason why the client is declined whatever comes of its hello, if there is one by now.
    Hello(HelloCollector, Option<Reason>),
    /// There is no verdict yet; what the cover has said, and whether it still can be a flight.
    Judging {
        flight: FlightCollector,
        fit: Result<(), Unfit>,
    },
    Flight {
        guest: Guest,
        records: Option<usize>,
        flight: FlightCollector,
    },
    Header(Candidate),
    Proving(Candidate, Box<Proof>),
    /// A visit for this reason, although there is no verdict yet.
    Leaving(Reason),
    Open(Declined),
    Promoted,
}

/// The client that the connection may be of.
#[derive(Debug)]
enum Guest {
    Admitted(Admission),
    /// With what is known of its hello, if that was made with a key.
    Declined(Declined, Option<Traced>),
}

/// A hello that was made with a key, and declined.
#[derive(Debug)]
struct Traced {
    key: Arc<Key>,
    class: HelloClass,
}

/// A client whose flight has been sent.
#[derive(Debug)]
struct Candidate {
    guest: Guest,
    header: HeaderCollector,
    /// Once the header is in and was new, until the record that it stands in is whole.
    begun: Option<Box<Begun>>,
    /// Bytes of the cover behind its flight. Kept from a client that was admitted, which would not take them.
    withheld: Vec<u8>,
    /// Number of bytes behind the flight, kept or not.
    behind: usize,
}

/// The beginning of a client's first record, with a valid header in it. No TLS server says anything before such a record is
/// whole, so neither does a session begin.
#[derive(Debug)]
struct Begun {
    opened: Opened,
    /// Bytes behind the header.
    leftover: Vec<u8>,
    /// Number of payload bytes that follow the header in its record.
    record_left: usize,
}

/// Bytes in a header's place, while the replay cache is asked about them.
#[derive(Debug)]
struct Proof {
    opened: Option<Opened>,
    /// The chunk that completed it, which the cover gets if it is none.
    chunk: Vec<u8>,
    used: usize,
    record_left: usize,
    now: UnixTime,
}

/// Action for bytes from the client.
#[derive(Debug)]
pub enum FromClient {
    /// Hand them to the cover. If `release` is not empty, it goes to the client first.
    Forward {
        /// Bytes that had been withheld from the client.
        release: Vec<u8>,
    },
    /// They are kept here until there is an answer to [`Gate::question`]. Until then nothing is to be read from the client.
    Hold,
    /// Drop the cover leg: the client is one of ours.
    Promote(Box<Promotion>),
}

/// Action for bytes from the cover.
#[derive(Debug, PartialEq, Eq)]
pub enum FromCover {
    /// Hand them to the client as they are.
    Pass,
    /// They are kept here; the client gets nothing now.
    Withhold,
    /// They are kept here, and this goes to the client, in one write.
    Send(Vec<u8>),
}

/// Action after the answer of the replay cache.
#[derive(Debug)]
pub enum Answered {
    /// Hand this to the client in one write, and then that to the cover.
    GoOn {
        /// For the client.
        client: Vec<u8>,
        /// For the cover.
        cover: Vec<u8>,
    },
    /// Drop the cover leg: the client is one of ours.
    Promote(Box<Promotion>),
}

/// A client that has proved itself twice.
#[derive(Debug)]
pub struct Promotion {
    /// The first proof.
    pub admission: Admission,
    /// The user's place.
    pub permit: Permit,
    /// The second proof.
    pub opened: Opened,
    /// Bytes behind the header that came with it, still as records: the rest of its own, which is whole, and what followed.
    pub leftover: Vec<u8>,
    /// Number of payload bytes of the header's record that `leftover` begins with.
    pub record_left: usize,
    /// Whether the flight was the cover's own, and not one in its place.
    pub by_cover: bool,
    /// Time that a remote cover took to answer the hello, as far as that is known.
    pub answered: Option<Duration>,
}

impl Promotion {
    /// A client that the cover itself has answered.
    fn new(admission: Admission, permit: Permit, opened: Opened, leftover: Vec<u8>, record_left: usize) -> Self {
        Self { admission, permit, opened, leftover, record_left, by_cover: true, answered: None }
    }
}

impl Gate {
    /// A gate for a client at this address, in front of a cover whose first flights end like this.
    pub fn new(judge: Arc<Judge>, from: IpAddr, end: FlightEnd) -> Self {
        let stage = Stage::Hello(HelloCollector::default(), None);
        Self { judge, from, barred: None, end, inquiry: None, searching: false, question: None, failure: None, stage }
    }

    /// The same for a client that is declined whatever it says, if there is a reason for that. Its hello is judged all the
    /// same, after those of others, and spent.
    pub fn barred(self, reason: Option<Reason>) -> Self {
        Self { barred: reason, ..self }
    }

    /// Verdict that the connection is a mere visit, once that is known.
    pub fn declined(&self) -> Option<&Declined> {
        match &self.stage {
            Stage::Open(declined)
            | Stage::Header(Candidate { guest: Guest::Declined(declined, _), .. })
            | Stage::Proving(Candidate { guest: Guest::Declined(declined, _), .. }, _) => Some(declined),
            _ => None,
        }
    }

    /// Whether the gate has done its work on a mere visit: from now on every byte is to be handed on as it is.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_)) && self.question.is_none()
    }

    /// Whether bytes from the client must be judged before they are handed on. Otherwise they can be handed on first,
    /// so that the work of judging hides behind the cover's own.
    pub fn judges_first(&self) -> bool {
        matches!(self.stage, Stage::Header(_))
    }

    /// Whether the cover may have ended its flight although nothing but its silence says so.
    pub fn flight_may_be_whole(&self) -> bool {
        matches!(&self.stage, Stage::Flight { flight, .. } if flight.may_be_whole())
    }

    /// Whether the hello is not whole yet.
    pub fn awaits_hello(&self) -> bool {
        matches!(self.stage, Stage::Hello(..))
    }

    /// Whether the client may still be one of ours, and nothing was said to it.
    pub fn is_before_flight(&self) -> bool {
        matches!(self.stage, Stage::Hello(..) | Stage::Judging { .. } | Stage::Flight { .. })
    }

    /// Whether a client of ours waits for the cover's flight, of which it has got nothing.
    pub fn owes_flight(&self) -> bool {
        matches!(self.stage, Stage::Flight { guest: Guest::Admitted(_), .. })
    }

    /// Reason why the answer of a remote cover is no flight for the admitted client that waits for one. That answer is
    /// kept until [`Gate::take_waiting`] or [`Gate::release`] is called.
    pub fn failure(&self) -> Option<&'static str> {
        self.failure.filter(|_| self.owes_flight())
    }

    /// The client of ours that waits for a flight; it is to get another than the cover's, and leaves the gate.
    pub fn take_waiting(&mut self) -> Option<Admission> {
        match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Flight { guest: Guest::Admitted(admission), .. } => Some(admission),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// A visit after all, since the cover has no flight for its client. Returns what goes to the client.
    pub fn release(&mut self, why: &'static str) -> Vec<u8> {
        self.give_up(Reason::Cover(why))
    }

    /// Whether the hello waits for its search, which is the next thing to be done.
    pub fn is_judging(&self) -> bool {
        self.searching || self.inquiry.is_some() && self.question.is_none()
    }

    /// Whether there is a hello and no verdict on it. Until there is one the client gets nothing, whatever the cover says:
    /// what is answered at once would tell how long the search took for what is not.
    pub fn is_undecided(&self) -> bool {
        self.searching || self.inquiry.is_some()
    }

    /// The search that is to be done ([`Judge::search`]), which is to be followed by [`Gate::searched`].
    pub fn search(&mut self) -> Option<Searched> {
        let inquiry = self.inquiry.take_if(|_| self.question.is_none())?;
        self.searching = true;
        Some(self.judge.search(inquiry))
    }

    /// The search is over. Now there is a [`Gate::question`]; or, if there was no search, a visit, and what this returns goes
    /// to the client.
    pub fn searched(&mut self, inquiry: Option<Box<Inquiry>>) -> Vec<u8> {
        self.searching = false;
        let Some(mut inquiry) = inquiry else { return self.unsearched() };
        self.question = Some(inquiry.question());
        self.inquiry = Some(inquiry);
        Vec::new()
    }

    fn unsearched(&mut self) -> Vec<u8> {
        let (reason, release) = match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Judging { flight, .. } => (Reason::Unsearched, flight.into_bytes()),
            Stage::Leaving(reason) => (reason, Vec::new()),
            other => {
                self.stage = other;
                return Vec::new();
            }
        };
        self.stage = self.barred_or(reason.into()).into();
        release
    }

    /// The replay memory that is to be asked.
    pub fn memory(&self) -> &dyn ReplayCache {
        &*self.judge.replay
    }

    /// Query that the replay cache is to be asked now, which is to be followed by [`Gate::answered`].
    pub fn question(&self) -> Option<Question> {
        self.question
    }

    /// The replay memory has answered whether what it was asked about is new.
    pub fn answered(&mut self, new: bool) -> Answered {
        self.question = None;
        match (self.inquiry.take(), std::mem::replace(&mut self.stage, Stage::Promoted)) {
            (Some(inquiry), stage) => {
                let client = self.judged(*inquiry, new, stage);
                Answered::GoOn { client, cover: Vec::new() }
            }
            (None, Stage::Proving(candidate, proof)) => self.proved(candidate, *proof, new),
            (None, other) => {
                self.stage = other;
                Answered::GoOn { client: Vec::new(), cover: Vec::new() }
            }
        }
    }

    /// Whether it is known how many records the flight has that is under way.
    pub fn flight_is_counted(&self) -> bool {
        matches!(&self.stage, Stage::Flight { records: Some(_), .. })
    }

    /// Whether what goes to the client now is the flight of a client of ours that minds where a read ends, admitted or not:
    /// a replay must look like its original. All else leaves in the segments that the kernel makes of it, as the cover's own
    /// does.
    pub fn cuts_flight(&self) -> bool {
        let class = match &self.stage {
            Stage::Header(Candidate { guest: Guest::Admitted(admission), .. }) => admission.class(),
            Stage::Header(Candidate { guest: Guest::Declined(_, Some(traced)), .. }) => traced.class,
            _ => return false,
        };
        class.minds_read_ends()
    }

    /// Whether the cover has said more than its flight, as far as its end was known, before hearing from the client.
    pub fn cover_went_on(&self) -> bool {
        matches!(&self.stage, Stage::Header(candidate) if !candidate.withheld.is_empty())
    }

    /// The client said this.
    pub fn client_data(&mut self, bytes: &[u8], now: UnixTime) -> FromClient {
        match std::mem::replace(&mut self.stage, Stage::Promoted) {
            Stage::Hello(hello, spoiled) => {
                self.stage = self.hello_data(hello, spoiled, bytes, now);
                FromClient::Forward { release: Vec::new() }
            }
            Stage::Header(candidate) => self.header_data(candidate, bytes, now),
            // No one who waits for an answer reads on.
            Stage::Proving(candidate, mut proof) => {
                proof.chunk.extend_from_slice(bytes);
                self.stage = Stage::Proving(candidate, proof);
                FromClient::Hold
            }
            stage @ (Stage::Judging { .. } | Stage::Flight { .. }) => {
                self.stage = stage;
                FromClient::Forward { release: self.give_up(Reason::Early) }
            }
            stage @ (Stage::Leaving(_) | Stage::Open(_) | Stage::Promoted) => {
                self.stage = stage;
                FromClient::Forward { release: Vec::new() }
            }
        }
    }

    /// The client ended its side; what this returns goes to the client.
    pub fn client_end(&mut self) -> Vec<u8> {
        self.give_up(self.client_ended())
    }

    /// The connection is over, and nothing opens a session any more. What has arrived of the client and was not read yet can
    /// still be shown here, so that it is spent, before [`Gate::client_end`].
    pub fn break_off(&mut self) {
        let _ = self.decline(self.client_ended());
    }

    fn client_ended(&self) -> Reason {
        match self.stage {
            Stage::Hello(..) => Reason::Unfinished("the client ended"),
            Stage::Judging { .. } | Stage::Flight { .. } => Reason::Early,
            _ => Reason::Header("the client ended"),
        }
    }

    /// The cover said this.
    pub fn cover_data(&mut self, bytes: &[u8]) -> FromCover {
        match &mut self.stage {
            Stage::Hello(..) => {
                self.decline(Reason::Unfinished("the cover spoke"));
                FromCover::Pass
            }
            Stage::Judging { flight, fit } => {
                let before = std::mem::replace(fit, flight.feed(bytes));
                match *fit {
                    Ok(()) => FromCover::Withhold,
                    // What comes behind the flight in the same piece is no concern of the flight's.
                    Err(_) if before.is_ok() && flight.encrypted_records() > 0 => FromCover::Withhold,
                    Err(unfit) => FromCover::Send(self.give_up(Reason::Cover(unfit.0))),
                }
            }
            Stage::Flight { flight, .. } => {
                let fit = flight.feed(bytes);
                self.flight_step(fit)
            }
            Stage::Header(candidate) | Stage::Proving(candidate, _) => {
                candidate.behind += bytes.len();
                let over = candidate.behind > MAX_WITHHELD;
                match &candidate.guest {
                    Guest::Declined(..) => FromCover::Pass,
                    // A client takes nothing behind the flight before it has spoken.
                    Guest::Admitted(_) => {
                        candidate.withheld.extend_from_slice(bytes);
                        if !over {
                            return FromCover::Withhold;
                        }
                        FromCover::Send(self.decline(Reason::Cover("went on behind its flight")))
                    }
                }
            }
            Stage::Leaving(_) | Stage::Open(_) | Stage::Promoted => FromCover::Pass,
        }
    }

    /// The cover has nothing more to say before it hears from the client. Returns what goes to the client, in one write.
    pub fn cover_waits(&mut self) -> Option<Vec<u8>> {
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
            Stage::Hello(..) => Reason::Unfinished("the cover ended"),
            _ => Reason::Cover("ended"),
        };
        self.decline(reason)
    }

    fn hello_data(&mut self, mut hello: HelloCollector, spoiled: Option<Reason>, bytes: &[u8], now: UnixTime) -> Stage {
        match hello.feed(bytes) {
            client_hello::Progress::More => return Stage::Hello(hello, spoiled),
            client_hello::Progress::Foreign(what) if !hello.is_begun() => {
                return self.barred_or(spoiled.unwrap_or(Reason::Form(what)).into()).into();
            }
            // What a server refuses at once takes as long as what it looks at.
            client_hello::Progress::Foreign(_) | client_hello::Progress::Whole => {}
        }
        self.inquiry = Some(Box::new(self.judge.inquire_any(hello, self.barred.or(spoiled), self.from, now)));
        spoiled.map_or_else(Stage::judging, Stage::Leaving)
    }

    /// The verdict is there. Returns what goes to the client.
    fn judged(&mut self, inquiry: Inquiry, new: bool, stage: Stage) -> Vec<u8> {
        let class = inquiry.class();
        let traced = inquiry.key().cloned().map(|key| Traced { key, class });
        let guest = match inquiry.verdict(new) {
            Verdict::Admit(admission) => Guest::Admitted(admission),
            Verdict::Decline(declined) => Guest::Declined(declined, traced),
        };
        let (flight, fit) = match stage {
            Stage::Judging { flight, fit } => (flight, fit),
            Stage::Leaving(reason) => {
                self.stage = guest.declined(reason).into();
                return Vec::new();
            }
            other => {
                self.stage = other;
                return Vec::new();
            }
        };
        let records = match &guest {
            Guest::Admitted(admission) => self.end.records(admission.class()),
            Guest::Declined(..) => self.end.least_records(),
        };
        self.stage = Stage::Flight { guest, records, flight };
        match self.flight_step(fit) {
            FromCover::Send(bytes) => bytes,
            FromCover::Pass | FromCover::Withhold => Vec::new(),
        }
    }

    /// Decides on a flight as far as it has come; `fit` is whether it still can be one.
    fn flight_step(&mut self, fit: Result<(), Unfit>) -> FromCover {
        let Stage::Flight { records, flight, .. } = &self.stage else { return FromCover::Pass };
        match (*records, fit) {
            // What comes behind the flight in the same piece is no concern of the flight's.
            (Some(expected), _) if flight.encrypted_records() >= expected => self.send_flight(expected),
            // What an alert is about may come in another segment than its head.
            (_, Err(_)) if self.owes_flight() && matches!(self.end, FlightEnd::Counted(_)) && flight.begins_alert() => {
                FromCover::Withhold
            }
            // Another flight may be had in its place, unless the cover dislikes the hello: then it answers all the same.
            (_, Err(unfit))
                if self.owes_flight() && matches!(self.end, FlightEnd::Counted(_)) && !flight.is_refusal() =>
            {
                self.failure = Some(unfit.0);
                FromCover::Withhold
            }
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
            Guest::Declined(..) => collected.join(collected.encrypted_records()),
        };
        let (stage, sent) = match (joined, guest) {
            (Ok((mut flight, rest)), Guest::Admitted(admission)) => {
                admission.stamp(&mut flight);
                let candidate = Candidate::new(Guest::Admitted(admission), rest);
                (Stage::Header(candidate), flight.into_bytes())
            }
            (Ok((mut flight, rest)), guest) => {
                self.judge.stamp_in_vain(&mut flight);
                let mut candidate = Candidate::new(guest, rest);
                candidate.withheld.clear();
                (Stage::Header(candidate), collected.into_bytes())
            }
            (Err(unfit), guest) => (guest.declined(Reason::Cover(unfit.0)).into(), collected.into_bytes()),
        };
        self.stage = stage;
        FromCover::Send(sent)
    }

    fn header_data(&mut self, mut candidate: Candidate, bytes: &[u8], now: UnixTime) -> FromClient {
        if let Some(begun) = candidate.begun.take() {
            return self.record_data(candidate, *begun, bytes, now);
        }
        match candidate.header.feed(bytes) {
            obfuscated::Progress::More => {
                self.stage = Stage::Header(candidate);
                FromClient::Forward { release: Vec::new() }
            }
            obfuscated::Progress::Foreign(what) => {
                let Candidate { guest, withheld, .. } = candidate;
                self.stage = guest.declined(Reason::Header(what)).into();
                FromClient::Forward { release: withheld }
            }
            obfuscated::Progress::Whole(Wrapped { header, used, record_left }) => {
                let (opened, question) = second_proof(candidate.guest.key(), &header);
                let proof = Proof { opened, chunk: bytes.to_vec(), used, record_left, now };
                self.question = Some(question);
                self.stage = Stage::Proving(candidate, Box::new(proof));
                FromClient::Hold
            }
        }
    }

    /// More of the record that a valid header stands in. Until that is whole it goes to the cover, which waits for the same.
    fn record_data(&mut self, mut candidate: Candidate, mut begun: Begun, bytes: &[u8], now: UnixTime) -> FromClient {
        begun.leftover.extend_from_slice(bytes);
        let admission = match candidate.guest {
            Guest::Admitted(_) if begun.leftover.len() < begun.record_left => {
                candidate.begun = Some(Box::new(begun));
                self.stage = Stage::Header(candidate);
                return FromClient::Forward { release: Vec::new() };
            }
            Guest::Admitted(admission) => admission,
            Guest::Declined(declined, _) => {
                self.stage = declined.into();
                return FromClient::Forward { release: candidate.withheld };
            }
        };
        let Begun { opened, leftover, record_left } = begun;
        match enter(admission, Some(opened), true, now) {
            Ok((admission, permit, opened)) => {
                self.judge.note_user(self.from);
                FromClient::Promote(Box::new(Promotion::new(admission, permit, opened, leftover, record_left)))
            }
            Err(declined) => {
                self.stage = declined.into();
                FromClient::Forward { release: candidate.withheld }
            }
        }
    }

    /// The memory has answered about the header.
    fn proved(&mut self, candidate: Candidate, proof: Proof, new: bool) -> Answered {
        let Candidate { guest, header, withheld, behind, .. } = candidate;
        let Proof { opened, mut chunk, used, record_left, now } = proof;
        let declined = match (guest, opened) {
            (Guest::Declined(declined, _), _) => declined,
            (guest @ Guest::Admitted(_), Some(opened)) if new && chunk.len() - used < record_left => {
                let begun = Some(Box::new(Begun { opened, leftover: chunk[used..].to_vec(), record_left }));
                self.stage = Stage::Header(Candidate { guest, header, begun, withheld, behind });
                return Answered::GoOn { client: Vec::new(), cover: chunk };
            }
            (Guest::Admitted(admission), opened) => match enter(admission, opened, new, now) {
                Err(declined) => declined,
                Ok((admission, permit, opened)) => {
                    chunk.drain(..used);
                    self.judge.note_user(self.from);
                    let promotion = Promotion::new(admission, permit, opened, chunk, record_left);
                    return Answered::Promote(Box::new(promotion));
                }
            },
        };
        self.stage = declined.into();
        Answered::GoOn { client: withheld, cover: chunk }
    }

    /// A visit after all, whose proofs are spent if they still come. Returns what was withheld from the client.
    fn decline(&mut self, reason: Reason) -> Vec<u8> {
        match &mut self.stage {
            Stage::Hello(_, spoiled) => {
                spoiled.get_or_insert(reason);
                Vec::new()
            }
            Stage::Header(candidate) | Stage::Proving(candidate, _) => candidate.decline(reason),
            _ => self.give_up(reason),
        }
    }

    /// A visit after all, with nothing left to be judged. Returns what was withheld from the client.
    fn give_up(&mut self, reason: Reason) -> Vec<u8> {
        let (stage, release) = match std::mem::replace(&mut self.stage, Stage::Promoted) {
            // The hello is spent all the same, and only then it is known whose it was.
            Stage::Judging { flight, .. } => (Stage::Leaving(reason), flight.into_bytes()),
            Stage::Flight { guest, flight, .. } => (guest.declined(reason).into(), flight.into_bytes()),
            Stage::Header(Candidate { guest, withheld, .. }) | Stage::Proving(Candidate { guest, withheld, .. }, _) => {
                (guest.declined(reason).into(), withheld)
            }
            stage @ (Stage::Open(_) | Stage::Leaving(_)) => (stage, Vec::new()),
            Stage::Hello(_, spoiled) => (self.barred_or(spoiled.unwrap_or(reason).into()).into(), Vec::new()),
            Stage::Promoted => (self.barred_or(reason.into()).into(), Vec::new()),
        };
        self.stage = stage;
        release
    }

    fn barred_or(&self, declined: Declined) -> Declined {
        self.barred.map_or(declined, Declined::from)
    }
}

impl Candidate {
    fn new(guest: Guest, rest: &[u8]) -> Self {
        Self { guest, header: HeaderCollector::default(), begun: None, withheld: rest.to_vec(), behind: rest.len() }
    }

    /// Keeps the key, under which the header is still to be opened. Returns what was withheld.
    fn decline(&mut self, reason: Reason) -> Vec<u8> {
        if let Guest::Admitted(admission) = &self.guest {
            let traced = Traced { key: Arc::clone(admission.key()), class: admission.class() };
            self.guest = Guest::Declined(admission.declined(reason), Some(traced));
        }
        std::mem::take(&mut self.withheld)
    }
}

impl Guest {
    /// A mere visit, now that `reason` makes it one: a client that was declined has been one all along.
    fn declined(self, reason: Reason) -> Declined {
        match self {
            Self::Admitted(admission) => admission.declined(reason),
            Self::Declined(earlier, _) => earlier,
        }
    }

    fn key(&self) -> Option<&Key> {
        match self {
            Self::Admitted(admission) => Some(admission.key()),
            Self::Declined(_, traced) => traced.as_ref().map(|traced| &*traced.key),
        }
    }
}

/// Opens what stands in a header's place under the key of the hello, and says what the memory is to be asked about it. A
/// client without a key costs the same.
pub(super) fn second_proof(key: Option<&Key>, header: &[u8; HEADER]) -> (Option<Opened>, Question) {
    let secret = key.map_or(&[0; 16], |key| key.secret().bytes());
    let opened = obfuscated::open(header, secret);
    match key.filter(|_| opened.is_some()) {
        Some(key) => (opened, Question::Spend(Entry::of_header(key.tag(), header))),
        None => (None, Question::InVain(Entry::of_header(SecretTag::NONE, header))),
    }
}

/// Lets a client in whose header opened and is new, if there is a place for it.
pub(super) fn enter(
    admission: Admission,
    opened: Option<Opened>,
    new: bool,
    now: UnixTime,
) -> Result<(Admission, Permit, Opened), Declined> {
    let Some(opened) = opened else { return Err(admission.declined(Reason::Header("not under this secret"))) };
    if !new {
        return Err(admission.declined(Reason::Replay));
    }
    match admission.take_place(now) {
        Ok(permit) => Ok((admission, permit, opened)),
        Err(refusal) => Err(admission.declined(Reason::Refused(refusal))),
    }
}

impl FlightEnd {
    /// Number of encrypted records in the answer to a hello of this class, if they tell that it is whole.
    fn records(&self, class: HelloClass) -> Option<usize> {
        match self {
            Self::Told => None,
            Self::Counted(profile) => profile.flight_records(class),
        }
    }

    /// The same for a stranger: one, for no one waits for the silence of a cover that resumes a session in fewer records.
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

impl Stage {
    fn judging() -> Self {
        Self::Judging { flight: FlightCollector::default(), fit: Ok(()) }
    }
}

impl From<Declined> for Stage {
    fn from(declined: Declined) -> Self {
        Self::Open(declined)
    }
}

#[cfg(test)]
mod tests;
