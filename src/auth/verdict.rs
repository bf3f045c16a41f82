//! The first proof: form, digest, time, name, replay, in this order.
//!
//! The digest comes before anything is remembered, so that a stranger cannot fill the memory; the memory comes last,
//! so that a hello is spent only when it would otherwise enter, and before anything is answered.
//!
//! A hello that is declined for any reason but its form costs as much time as one that is admitted: what only the latter
//! needs is done for the former too, in vain. Otherwise the time of the first answer would tell who was let in.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use super::digest::{self, AUTHENTICATED};
use super::keyring::{Keyring, Member};
use super::replay::ReplayMemory;
use super::secret::Domain;
use super::window::{TimeWindow, UnixTime};
use crate::wire::server_flight::Flight;
use crate::wire::{ClientHello, HelloClass};

/// Decides on hellos.
#[derive(Debug)]
pub struct Judge {
    /// Who may enter.
    pub keyring: Keyring,
    /// Hellos that have entered before.
    pub replay: ReplayMemory,
    /// How far clocks may be off.
    pub window: TimeWindow,
    /// Names that a hello may carry; `None`: any. A hello without a name may always enter.
    pub names: Option<Vec<Domain>>,
}

/// What was decided on a hello.
#[derive(Debug)]
pub enum Verdict {
    /// A visitor, and it stays one.
    Decline(Reason),
    /// The first proof holds.
    Admit(Admission),
}

/// Why a connection is a mere visitor. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No Telegram client begins like this; says which part.
    Form(&'static str),
    /// Something happened before the hello was whole; says what.
    Unfinished(&'static str),
    /// No known secret made this hello.
    Digest,
    /// The clock of a client that knows a secret is too far off: by this many seconds, positive when it is ahead.
    Time(i64),
    /// The hello carries a name that is not among the accepted ones.
    Name,
    /// This hello has entered before.
    Replay,
    /// The client spoke again before the cover had answered its hello.
    Early,
    /// The cover's answer is not one that a Telegram client takes; says which part.
    Cover(&'static str),
    /// What followed the flight is no header under the same secret; says which part.
    Header(&'static str),
}

impl Reason {
    /// A short name without details.
    pub fn label(self) -> &'static str {
        match self {
            Self::Form(_) => "form",
            Self::Unfinished(_) => "unfinished",
            Self::Digest => "digest",
            Self::Time(_) => "time",
            Self::Name => "name",
            Self::Replay => "replay",
            Self::Early => "early",
            Self::Cover(_) => "cover",
            Self::Header(_) => "header",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(part) => write!(f, "form: {part}"),
            Self::Unfinished(what) => write!(f, "unfinished: {what}"),
            Self::Time(skew) => write!(f, "time: the client's clock is off by {skew} s"),
            Self::Cover(part) => write!(f, "cover: {part}"),
            Self::Header(part) => write!(f, "header: {part}"),
            other => f.write_str(other.label()),
        }
    }
}

/// Proof that a hello was judged and may be answered. Only [`Judge::judge`] makes one.
#[derive(Debug)]
pub struct Admission {
    member: Arc<Member>,
    client_random: [u8; 32],
    class: HelloClass,
}

impl Admission {
    /// Whose secret it was.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// What kind of hello it was.
    pub fn class(&self) -> HelloClass {
        self.class
    }

    /// Makes the flight one that this client accepts: its random becomes the authenticator.
    pub fn stamp(&self, flight: &mut Flight) {
        digest::stamp(self.member.mac(), &self.client_random, flight);
    }
}

impl Judge {
    /// Judges a whole hello, and spends it if it is admitted.
    pub fn judge(&self, record: &[u8], now: UnixTime) -> Verdict {
        let hello = match ClientHello::decode(record) {
            Ok(hello) if hello.offers_tls13 => hello,
            Ok(_) => return Verdict::Decline(Reason::Form("no TLS 1.3")),
            Err(_) => return Verdict::Decline(Reason::Form("hello")),
        };
        let class = HelloClass::of(&hello);
        let authenticator: &[u8; AUTHENTICATED] =
            hello.random.first_chunk().expect("a random is longer than its authenticated part");
        match self.examine(&hello, authenticator, now) {
            Ok(member) => Verdict::Admit(Admission { member, client_random: *hello.random, class }),
            Err(reason) => {
                self.replay.spend_in_vain(authenticator);
                Verdict::Decline(reason)
            }
        }
    }

    /// What [`Admission::stamp`] costs, for a flight to somebody who was declined.
    pub fn stamp_in_vain(&self, flight: &mut Flight) {
        digest::stamp(self.keyring.nobody(), &[0; 32], flight);
        black_box(flight);
    }

    fn examine(
        &self,
        hello: &ClientHello<'_>,
        authenticator: &[u8; AUTHENTICATED],
        now: UnixTime,
    ) -> Result<Arc<Member>, Reason> {
        let (member, claimed) = self.keyring.find(hello).ok_or(Reason::Digest)?;
        self.window.check(claimed, now).map_err(Reason::Time)?;
        if !self.accepts_name(hello.server_name) {
            return Err(Reason::Name);
        }
        if !self.replay.spend(member.tag(), authenticator) {
            return Err(Reason::Replay);
        }
        Ok(member.clone())
    }

    fn accepts_name(&self, name: Option<&[u8]>) -> bool {
        let (Some(names), Some(name)) = (&self.names, name) else { return true };
        names.iter().any(|accepted| accepted.as_str().as_bytes().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::time::Duration;

    use super::*;
    use crate::auth::secret::Secret;
    use crate::fixtures::{captured, vector, vector_array};
    use crate::wire::server_flight::FlightCollector;

    const TIME: UnixTime = UnixTime(1_767_225_600);

    fn judge_of(keys: &[[u8; 16]]) -> Judge {
        let members = keys.iter().enumerate().map(|(n, key)| Member::new(format!("user{n}"), Secret::new(*key)));
        Judge {
            keyring: Keyring::new(members),
            replay: ReplayMemory::volatile(),
            window: TimeWindow::new(Duration::from_secs(600)),
            names: None,
        }
    }

    fn vector_judge() -> Judge {
        judge_of(&[[9; 16], vector_array("const", "key"), [8; 16]])
    }

    fn reason(verdict: Verdict) -> Option<Reason> {
        match verdict {
            Verdict::Decline(reason) => Some(reason),
            Verdict::Admit(_) => None,
        }
    }

    #[test]
    fn admits_the_vectors_once_and_stamps_their_flights() {
        let judge = vector_judge();
        for (hello, flight) in [("helloA", "flightA"), ("helloB", "flightB")] {
            let record = vector(hello, "record");
            let Verdict::Admit(admission) = judge.judge(&record, TIME) else { panic!("{hello}") };
            assert_eq!(admission.member().name(), "user1");
            let mut collector = FlightCollector::default();
            let mut bytes = vector(flight, "bytes");
            bytes[11..43].fill(0x77);
            collector.feed(&bytes).unwrap();
            let (mut stamped, _) = collector.join(1).unwrap();
            admission.stamp(&mut stamped);
            assert_eq!(stamped.into_bytes(), vector(flight, "bytes"));
            assert_eq!(reason(judge.judge(&record, TIME)), Some(Reason::Replay));
        }
    }

    #[test]
    fn admits_every_captured_hello_at_its_time() {
        for hello in captured() {
            let Some((key, time)) = hello.signed else {
                assert_eq!(reason(vector_judge().judge(&hello.record, TIME)), Some(Reason::Digest), "{}", hello.file);
                continue;
            };
            assert_eq!(reason(judge_of(&[key]).judge(&hello.record, time)), None, "{}", hello.file);
        }
    }

    #[test]
    fn any_changed_bit_is_noticed_and_none_of_the_time_buys_a_second_entry() {
        let judge = vector_judge();
        let record = vector("helloA", "record");
        assert_eq!(reason(judge.judge(&record, TIME)), None);
        for bit in 0..record.len() * 8 {
            let mut altered = record.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            match reason(judge.judge(&altered, TIME)) {
                Some(Reason::Digest | Reason::Form(_)) if !(39..43).contains(&(bit / 8)) => {}
                Some(Reason::Time(_) | Reason::Replay) if (39..43).contains(&(bit / 8)) => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_redated_hello_is_a_replay_after_the_original_and_a_first_use_before() {
        let mut redated = vector("helloA", "record");
        redated[39..43].copy_from_slice(&vector("redated", "bytes_39_42"));
        let tomorrow = UnixTime(TIME.0 + 86_400);
        let judge = vector_judge();
        assert_eq!(reason(judge.judge(&redated, TIME)), Some(Reason::Time(86_400)));
        assert_eq!(reason(judge.judge(&vector("helloA", "record"), TIME)), None);
        assert_eq!(reason(judge.judge(&redated, tomorrow)), Some(Reason::Replay));
    }

    #[test]
    fn a_hello_that_is_declined_for_another_reason_is_not_spent() {
        let mut judge = vector_judge();
        let record = vector("helloA", "record");
        assert_eq!(reason(judge.judge(&record, UnixTime(TIME.0 + 601))), Some(Reason::Time(-601)));
        judge.names = Some(vec![Domain::from_str("other.example").unwrap()]);
        assert_eq!(reason(judge.judge(&record, TIME)), Some(Reason::Name));
        judge.names = Some(vec![Domain::from_str("example.com").unwrap()]);
        assert_eq!(reason(judge.judge(&record, TIME)), None);
    }

    /// The time of the last write to the file of spent hellos, put back each time, tells whether there was another.
    #[test]
    fn whoever_is_declined_for_more_than_the_form_costs_a_write_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let mut judge = vector_judge();
        judge.replay = ReplayMemory::open(&path, &judge.keyring.tags()).unwrap().0;
        let mut cost = |names: Option<&str>, record: &[u8], now: UnixTime| {
            judge.names = names.map(|name| vec![Domain::from_str(name).unwrap()]);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            let reason = reason(judge.judge(record, now)).map(Reason::label);
            (reason, file.metadata().unwrap().modified().unwrap() > std::time::UNIX_EPOCH)
        };
        let record = vector("helloA", "record");
        let mut stranger = record.clone();
        stranger[44] ^= 1;
        assert_eq!(cost(None, &record[..100], TIME), (Some("form"), false));
        assert_eq!(cost(None, &stranger, TIME), (Some("digest"), true));
        assert_eq!(cost(None, &record, UnixTime(TIME.0 + 601)), (Some("time"), true));
        assert_eq!(cost(Some("other.example"), &record, TIME), (Some("name"), true));
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(cost(None, &record, TIME), (None, true));
        assert_eq!(cost(None, &record, TIME), (Some("replay"), true));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length + 16, "only who entered is remembered");
    }

    #[test]
    fn strangers_leave_no_trace_in_the_memory() {
        let judge = judge_of(&[[1; 16]]);
        assert_eq!(reason(judge.judge(&vector("helloA", "record"), TIME)), Some(Reason::Digest));
        assert!(judge.replay.is_empty());
    }
}
