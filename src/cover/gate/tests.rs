//! The gate without a socket: what it does with every order of events.

use std::cell::Cell;
use std::time::Duration;

use super::super::profile::{FlightShape, VisitShape};
use super::*;
use crate::auth::{Keyring, Member, Period, Policy, Quota, Refusal, ReplayMemory, Rules, Secret, TimeWindow};
use crate::crypto::Mac;
use crate::crypto::kdf::KeyIv;
use crate::fixtures::{vector, vector_array};
use crate::wire::ClientHello;
use crate::wire::packets::Framing;
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
    gate.declined().map(|declined| declined.reason)
}

/// Has the gate's question answered by the memory of its judge.
fn ask(gate: &mut Gate) -> Option<Answered> {
    let new = gate.judge.replay.ask(gate.question()?).now().expect("a memory at hand");
    Some(gate.answered(new))
}

/// Has the search done that the gate waits for.
fn search(gate: &mut Gate) {
    if let Some(search) = gate.search() {
        assert!(gate.is_undecided() && gate.question().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        gate.searched(runtime.block_on(search));
    }
}

/// What goes to the client and what to the cover once this has come from the client and all questions are answered.
fn said(gate: &mut Gate, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Box<Promotion>> {
    let (mut to_client, mut to_cover) = match gate.client_data(bytes, NOW) {
        FromClient::Forward { release } => (release, bytes.to_vec()),
        FromClient::Hold => (Vec::new(), Vec::new()),
        FromClient::Promote(promotion) => return Err(promotion),
    };
    search(gate);
    match ask(gate) {
        Some(Answered::Promote(promotion)) => return Err(promotion),
        Some(Answered::GoOn { client, cover }) => {
            to_client.extend(client);
            to_cover.extend(cover);
        }
        None => {}
    }
    Ok((to_client, to_cover))
}

/// What goes to the client after these bytes of a client that is not promoted; the cover gets them as they are.
fn released(gate: &mut Gate, bytes: &[u8]) -> Vec<u8> {
    let (to_client, to_cover) = said(gate, bytes).expect("no promotion");
    assert_eq!(to_cover, bytes);
    to_client
}

/// A gate whose client has sent its hello and whose cover has answered.
fn candidate() -> Gate {
    let mut gate = gate(Some(1));
    assert!(released(&mut gate, &vector("helloB", "record")).is_empty());
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
    let Err(promotion) = said(&mut gate, &write) else { panic!("not promoted") };
    assert_eq!((promotion.opened.dc, promotion.admission.member().name()), (10_002, "somebody"));
    assert_eq!(promotion.leftover, write[6 + 5 + 64..]);
    assert_eq!(promotion.record_left, promotion.leftover.len());
    assert!(gate.declined().is_none());
}

/// A censor that holds the rest of a record back finds a TLS server that waits for it.
#[test]
fn nothing_follows_from_a_record_before_its_last_byte() {
    let write = vector("tls_first_client_write", "bytes");
    let header_ends = CHANGE_CIPHER_SPEC.len() + 5 + HEADER;
    assert!(write.len() > header_ends);
    let behind = [&write[..], &[0x17, 3, 3, 0, 40, 1, 2, 3]].concat();
    for first in 1..write.len() {
        for second in [first, first + 1, write.len() - 1].into_iter().filter(|second| *second < write.len()) {
            let mut gate = candidate();
            for piece in [&write[..first], &write[first..second]].into_iter().filter(|piece| !piece.is_empty()) {
                assert!(released(&mut gate, piece).is_empty() && gate.judges_first(), "{first} {second}");
            }
            let Err(promotion) = said(&mut gate, &behind[second..]) else { panic!("not promoted: {first} {second}") };
            assert_eq!(promotion.leftover, behind[header_ends..], "{first} {second}");
            assert_eq!(promotion.record_left, write.len() - header_ends);
        }
    }
}

#[test]
fn a_header_is_spent_though_its_record_never_gets_whole() {
    let ticket = [&Header::application_data(200).encode()[..], &[7; 200]].concat();
    let write = vector("tls_first_client_write", "bytes");
    for cover_ends in [true, false] {
        let mut gate = candidate();
        assert_eq!(gate.cover_data(&ticket), FromCover::Withhold);
        assert!(released(&mut gate, &write[..write.len() - 1]).is_empty());
        assert_eq!(gate.judge.replay.len(), 2);
        assert!(gate.declined().is_none());
        if cover_ends {
            assert_eq!(gate.cover_end(), ticket);
            assert!(released(&mut gate, &write[write.len() - 1..]).is_empty());
        } else {
            assert_eq!(gate.client_end(), ticket);
        }
        assert!(gate.is_open());
    }
}

#[test]
fn the_flight_is_whole_when_its_records_are_or_when_the_cover_waits() {
    let flight = cover_flight();
    for known in [Some(1), None] {
        let mut gate = gate(known);
        released(&mut gate, &vector("helloB", "record"));
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
fn a_hello_that_the_cover_refuses_is_answered_by_the_cover() {
    let alert = |about| [0x15, 3, 3, 0, 2, 2, about];
    for about in [40, 47, 50, 112, 120] {
        let mut gate = gate(Some(1));
        released(&mut gate, &vector("helloB", "record"));
        assert_eq!(gate.cover_data(&alert(about)), FromCover::Send(alert(about).to_vec()), "{about}");
        assert!(gate.is_open() && gate.failure().is_none(), "{about}");
    }
    let mut gate = gate(Some(1));
    released(&mut gate, &vector("helloB", "record"));
    assert_eq!(gate.cover_data(&alert(80)), FromCover::Withhold);
    assert!(gate.failure().is_some());
}

/// A cover's alert says in its last byte what it is about, and that may come in a segment of its own.
#[test]
fn a_refusal_in_two_segments_is_the_covers_and_a_failure_in_two_is_one() {
    for (about, refuses) in [(40, true), (112, true), (80, false)] {
        let alert = [0x15, 3, 3, 0, 2, 2, about];
        for cut in 1..alert.len() {
            let mut gate = gate(Some(1));
            released(&mut gate, &vector("helloB", "record"));
            assert_eq!(gate.cover_data(&alert[..cut]), FromCover::Withhold, "{about} {cut}");
            assert!(gate.failure().is_none() && gate.owes_flight(), "{about} {cut}");
            let rest = gate.cover_data(&alert[cut..]);
            let whole = if refuses { FromCover::Send(alert.to_vec()) } else { FromCover::Withhold };
            assert_eq!((rest, gate.failure().is_none()), (whole, refuses), "{about} {cut}");
        }
    }
    // A stranger gets each segment as it comes.
    let mut gate = gate(Some(1));
    released(&mut gate, &stranger());
    assert_eq!(gate.cover_data(&[0x15, 3]), FromCover::Send(vec![0x15, 3]));
}

#[test]
fn a_visit_gets_back_all_that_was_withheld_untouched_and_in_order() {
    let flight = cover_flight();
    let early = |gate: &mut Gate| released(gate, b"x");
    for (what, give_up) in [
        ("the client speaks early", early as fn(&mut Gate) -> Vec<u8>),
        ("the client ends", |gate| gate.client_end()),
        ("the cover ends", |gate| gate.cover_end()),
        ("the cover waits", |gate| gate.cover_waits().unwrap()),
        ("the cover sends an alert", |gate| {
            assert_eq!(gate.cover_data(&[0x15, 3, 3, 0, 2]), FromCover::Withhold, "another flight may be had");
            let bytes = gate.release(gate.failure().unwrap());
            bytes[..bytes.len() - 5].to_vec()
        }),
    ] {
        let mut gate = gate(Some(1));
        released(&mut gate, &vector("helloB", "record"));
        // The whole of the first two records, where another may begin.
        let part = &flight[..1215 + CHANGE_CIPHER_SPEC.len()];
        assert_eq!(gate.cover_data(part), FromCover::Withhold, "{what}");
        assert_eq!(give_up(&mut gate), part, "{what}");
        assert!(gate.is_open(), "{what}");
        assert_eq!(gate.cover_data(b"later"), FromCover::Pass, "{what}");
    }
}

#[test]
fn what_is_no_header_is_handed_on_and_what_the_cover_said_meanwhile_comes_first() {
    let ticket = [&Header::application_data(200).encode()[..], &[7; 200]].concat();
    let mut gate = candidate();
    assert_eq!(gate.cover_data(&ticket), FromCover::Withhold);
    assert!(released(&mut gate, &CHANGE_CIPHER_SPEC).is_empty());
    assert!(gate.declined().is_none());
    let mut finished = vector("tls_first_client_write", "bytes")[6..].to_vec();
    finished[40] ^= 1;
    assert_eq!(released(&mut gate, &finished), ticket);
    assert_eq!(reason(&gate), Some(Reason::Header("not under this secret")));
    assert_eq!(
        gate.declined().and_then(|declined| declined.member.as_ref()).map(|member| member.name()),
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
    assert!(released(&mut gate, b"GET / HTTP/1.1\r\n").is_empty());
    assert_eq!(reason(&gate).map(Reason::label), Some("form"));
    assert_eq!(gate.cover_data(&cover_flight()), FromCover::Pass);
    let mut gate = self::gate(Some(1));
    released(&mut gate, &stranger()[..50]);
    assert_eq!(gate.cover_data(b"220 ready"), FromCover::Pass);
    assert!(!gate.is_open(), "a hello may still become whole");
    assert!(gate.client_end().is_empty() && gate.is_open());
    assert_eq!(reason(&gate), Some(Reason::Unfinished("the cover spoke")));
}

/// A hello of the right form under no one's secret.
fn stranger() -> Vec<u8> {
    let mut hello = vector("helloB", "record");
    hello[100] ^= 1;
    hello
}

/// The step at which a flight in these pieces leaves for the client, and what leaves.
fn leaves(mut gate: Gate, hello: &[u8], pieces: &[&[u8]]) -> (usize, Vec<u8>) {
    assert!(released(&mut gate, hello).is_empty());
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
    let replay = |gate: &mut Gate| assert!(released(gate, &vector("helloB", "record")).is_empty());
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
        released(&mut gate, &stranger());
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
    released(&mut gate, &stranger());
    assert_eq!(gate.cover_data(&cover_flight()), FromCover::Send(cover_flight()));
}

#[test]
fn the_number_of_records_is_that_of_the_class() {
    let record = [&Header::application_data(100).encode()[..], &[7; 100]].concat();
    let flight = [&cover_flight()[..], &record, &record].concat();
    let shape = |records: usize| FlightShape { version: 0x0304, records: vec![100; records], ..FlightShape::default() };
    let hello = vector("helloB", "record");
    let class = HelloClass::of(&ClientHello::decode(&hello).unwrap());
    for (own, other, sent) in [(1, 3, 2048), (3, 1, 2248)] {
        let flights =
            HelloClass::ALL.map(|any| (any.label().to_owned(), shape(if any == class { own } else { other })));
        let visit = Some(VisitShape { flight_records: other, ..VisitShape::default() });
        let profile = Profile { flights: flights.into(), visit, learnt: 1, ..Profile::default() };
        let mut gate = gate_of(FlightEnd::Counted(Arc::new(profile)));
        released(&mut gate, &hello);
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
        for (hello, expected) in
            [(vector("helloB", "record"), vector("flightB", "bytes")), (stranger(), flight.clone())]
        {
            let mut gate = crowded_gate(300, end.clone());
            gate.client_data(&hello, NOW);
            assert_eq!(gate.cover_data(&flight), FromCover::Withhold);
            assert!(gate.is_judging() && gate.declined().is_none() && !gate.flight_may_be_whole());
            let mut sent = after_the_search(&mut gate);
            if !counted {
                assert!(sent.is_empty() && gate.flight_may_be_whole());
                sent = gate.cover_waits().unwrap();
            }
            assert!(sent == expected);
        }
    }
}

/// Ends the search and has the memory asked; what goes to the client then.
fn after_the_search(gate: &mut Gate) -> Vec<u8> {
    search(gate);
    match ask(gate) {
        Some(Answered::GoOn { client, cover }) if cover.is_empty() => client,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_happens_during_the_search_comes_out_as_it_would_have_behind_it() {
    let flight = cover_flight();
    let alert = [0x15, 3, 3, 0, 2, 2, 40];
    let early = |gate: &mut Gate| match gate.client_data(b"x", NOW) {
        FromClient::Forward { release } => release,
        other => panic!("{other:?}"),
    };
    for (what, happens, reason) in [
        ("the client speaks", early as fn(&mut Gate) -> Vec<u8>, Reason::Early),
        ("the client ends", |gate| gate.client_end(), Reason::Early),
        ("the cover ends", |gate| gate.cover_end(), Reason::Cover("ended")),
    ] {
        for hello in [vector("helloB", "record"), stranger()] {
            let mut gate = crowded_gate(300, FlightEnd::Told);
            gate.client_data(&hello, NOW);
            gate.cover_data(&flight[..1000]);
            assert!(gate.is_judging(), "{what}");
            assert_eq!(happens(&mut gate), flight[..1000], "{what}");
            // A visit from now on, of which it is not known whose.
            assert!(gate.declined().is_none() && !gate.is_open(), "{what}");
            assert_eq!(gate.cover_data(&flight[1000..]), FromCover::Pass, "{what}");
            assert!(after_the_search(&mut gate).is_empty() && gate.is_open(), "{what}");
            let declined = gate.declined().expect(what);
            let member = declined.member.as_ref().map(|member| member.name());
            let expected = if hello == stranger() { (Reason::Digest, None) } else { (reason, Some("somebody")) };
            assert_eq!((declined.reason, member), expected, "{what}");
            assert_eq!(gate.judge.replay.len(), usize::from(member.is_some()), "{what}");
        }
    }
    // The cover says what is no flight.
    let mut gate = crowded_gate(300, self::gate(Some(1)).end);
    gate.client_data(&vector("helloB", "record"), NOW);
    assert_eq!(gate.cover_data(&alert), FromCover::Send(alert.to_vec()));
    // What comes behind the flight while the hello is judged is withheld as ever, and be it no record of a flight.
    let ticket = [&Header::application_data(200).encode()[..], &[7; 200]].concat();
    for behind in [&ticket[..], &alert] {
        let mut gate = crowded_gate(300, self::gate(Some(1)).end);
        gate.client_data(&vector("helloB", "record"), NOW);
        assert_eq!(gate.cover_data(&[&flight[..], behind].concat()), FromCover::Withhold);
        assert_eq!(after_the_search(&mut gate), vector("flightB", "bytes"));
        assert!(gate.cover_went_on());
    }
}

/// Who a hello belongs to, and the judge that knows its secret.
struct World {
    member: Arc<Member>,
    judge: Arc<Judge>,
    /// Makes every hello another.
    hellos: Cell<u8>,
    headers: Cell<u8>,
}

const OURS: [u8; 16] = [7; 16];
const THEIRS: [u8; 16] = [8; 16];

impl World {
    fn new() -> Self {
        let member = Member::new("alice");
        let judge = Judge::new(Self::rules(&member, None), ReplayMemory::volatile());
        Self { member, judge: Arc::new(judge), hellos: Cell::default(), headers: Cell::default() }
    }

    fn rules(member: &Arc<Member>, names: Option<&str>) -> Rules {
        let keys = [(member, OURS), (&Member::new("bob"), THEIRS)];
        let keyring = Keyring::new(keys.map(|(member, key)| Key::new(Arc::clone(member), Secret::new(key))));
        let names = names.map(|name| vec![name.parse().unwrap()]);
        Rules { keyring, window: TimeWindow::new(Duration::from_secs(600)), names }
    }

    /// A hello like no other, under our secret.
    fn hello(&self, time: UnixTime) -> Vec<u8> {
        self.hellos.set(self.hellos.get() + 1);
        let mut record = vector("helloB", "record");
        record[44] = self.hellos.get();
        record[11..43].fill(0);
        let mut random = Mac::new(&OURS).digest(&[&record]);
        for (byte, part) in random[28..].iter_mut().zip((time.0 as u32).to_le_bytes()) {
            *byte ^= part;
        }
        record[11..43].copy_from_slice(&random);
        record
    }

    /// A header like no other in its record.
    fn header(&self, secret: &[u8; 16]) -> Vec<u8> {
        let number = self.headers.get() + 1;
        self.headers.set(number);
        let (header, ..) =
            obfuscated::seal_for_proxy(2, Framing::Padded, secret, || std::array::from_fn(|at| at as u8 ^ number));
        in_record(&header)
    }

    fn gate(&self) -> Gate {
        Gate::new(Arc::clone(&self.judge), HERE, gate(Some(1)).end)
    }

    /// Shows both on a connection of their own, and says whether that opened a session.
    fn enters(&self, hello: &[u8], header: &[u8]) -> bool {
        let mut gate = self.gate();
        assert!(released(&mut gate, hello).is_empty());
        let FromCover::Send(sent) = gate.cover_data(&cover_flight()) else { panic!("no flight") };
        assert_eq!(sent.len(), cover_flight().len());
        said(&mut gate, &[&CHANGE_CIPHER_SPEC[..], header].concat()).is_err()
    }
}

fn in_record(header: &[u8]) -> Vec<u8> {
    [&Header::application_data(100).encode()[..], header, &[9; 36]].concat()
}

/// The same hello with another time in it.
fn redated(hello: &[u8], from: UnixTime, to: UnixTime) -> Vec<u8> {
    let mut hello = hello.to_vec();
    for (byte, part) in hello[39..43].iter_mut().zip(((from.0 ^ to.0) as u32).to_le_bytes()) {
        *byte ^= part;
    }
    hello
}

/// How a hello is met the first time: what is arranged before and undone behind it, and what happens.
type First = (&'static str, fn(&World), fn(&World, &[u8], &[u8]));

fn policy(change: fn(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

fn show(world: &World, hello: &[u8], header: &[u8]) {
    world.enters(hello, header);
}

const FIRSTS: [First; 19] = [
    ("admitted", |_| {}, show),
    ("of a wrong name", |world| world.judge.replace_rules(World::rules(&world.member, Some("other.example"))), show),
    ("disabled", |world| world.member.set_policy(policy(|policy| policy.enabled = false)), show),
    ("expired", |world| world.member.set_policy(policy(|policy| policy.expires = Some(NOW))), show),
    (
        "denied",
        |world| world.member.set_policy(policy(|policy| policy.deny = vec!["127.0.0.0/8".parse().unwrap()])),
        show,
    ),
    (
        "elsewhere",
        |world| world.member.set_policy(policy(|policy| policy.allow = vec!["192.0.2.0/24".parse().unwrap()])),
        show,
    ),
    ("without a session", |world| world.member.set_policy(policy(|policy| policy.max_sessions = Some(0))), show),
    ("without an address", |world| world.member.set_policy(policy(|policy| policy.max_addresses = Some(0))), show),
    ("without quota", |world| world.member.set_policy(policy(|policy| policy.quota = Some(NOTHING))), show),
    (
        "barred",
        |_| {},
        |world, hello, header| {
            let mut gate = world.gate().barred(Some(Reason::Barred("list")));
            released(&mut gate, hello);
            gate.cover_data(&cover_flight());
            released(&mut gate, header);
            assert_eq!(reason(&gate), Some(Reason::Barred("list")));
        },
    ),
    (
        "early",
        |_| {},
        |world, hello, _| {
            let mut gate = world.gate();
            released(&mut gate, hello);
            released(&mut gate, b"x");
            assert_eq!(reason(&gate), Some(Reason::Early));
        },
    ),
    (
        "followed at once",
        |_| {},
        |world, hello, header| {
            let mut gate = world.gate();
            released(&mut gate, &[hello, header].concat());
            gate.cover_end();
            assert_eq!(reason(&gate), Some(Reason::Form("bytes behind the hello")));
        },
    ),
    (
        "met by an alert",
        |_| {},
        |world, hello, _| {
            let mut gate = world.gate();
            released(&mut gate, hello);
            let alert = [0x15, 3, 3, 0, 2, 2, 40];
            let said = gate.cover_data(&alert);
            if let Some(why) = gate.failure() {
                assert_eq!((said, gate.release(why)), (FromCover::Withhold, alert.to_vec()));
            } else {
                assert_eq!(said, FromCover::Send(alert.to_vec()));
            }
            assert_eq!(gate.take_waiting().map(|_| ()), None);
        },
    ),
    (
        "hung up on",
        |_| {},
        |world, hello, _| {
            let mut gate = world.gate();
            gate.client_data(hello, NOW);
            gate.client_end();
            after_the_search(&mut gate);
        },
    ),
    (
        "late for a cover that has ended",
        |_| {},
        |world, hello, _| {
            let mut gate = world.gate();
            released(&mut gate, &hello[..50]);
            assert!(gate.cover_end().is_empty());
            released(&mut gate, &hello[50..]);
            assert_eq!(reason(&gate), Some(Reason::Unfinished("the cover ended")));
            assert!(gate.is_open());
        },
    ),
    (
        "late for a cover that has spoken",
        |_| {},
        |world, hello, _| {
            let mut gate = world.gate();
            assert_eq!(gate.cover_data(&[0x15, 3, 3, 0, 2, 2, 40]), FromCover::Pass);
            released(&mut gate, hello);
            assert_eq!(reason(&gate), Some(Reason::Unfinished("the cover spoke")));
        },
    ),
    (
        "left behind the flight",
        |_| {},
        |world, hello, header| {
            let mut gate = flown(world, hello);
            assert!(gate.cover_end().is_empty() && !gate.is_open());
            released(&mut gate, header);
            assert_eq!(reason(&gate), Some(Reason::Cover("ended")));
            assert!(gate.is_open());
        },
    ),
    (
        "told too much behind the flight",
        |_| {},
        |world, hello, header| {
            let mut gate = flown(world, hello);
            let more = vec![0; MAX_WITHHELD + 1];
            assert!(matches!(gate.cover_data(&more), FromCover::Send(_)));
            assert_eq!(gate.cover_data(b"more"), FromCover::Pass);
            released(&mut gate, header);
            assert_eq!(reason(&gate), Some(Reason::Cover("went on behind its flight")));
        },
    ),
    (
        "broken off",
        |_| {},
        |world, hello, header| {
            let mut gate = flown(world, hello);
            gate.break_off();
            released(&mut gate, header);
            assert_eq!(reason(&gate), Some(Reason::Header("the client ended")));
        },
    ),
];

/// A gate whose client has got the flight.
fn flown(world: &World, hello: &[u8]) -> Gate {
    let mut gate = world.gate();
    released(&mut gate, hello);
    assert!(matches!(gate.cover_data(&cover_flight()), FromCover::Send(_)));
    gate
}

const NOTHING: Quota = Quota { bytes: 0, period: Period::Total };

/// The heart of the matter: nothing that was recorded opens a session, in whatever way it is put together.
#[test]
fn of_all_pairs_of_hello_and_header_only_two_that_were_never_shown_enter() {
    for (what, arrange, first) in FIRSTS {
        let world = World::new();
        let [old, own] = [(); 2].map(|()| world.header(&OURS));
        let admitted = world.hello(NOW);
        assert!(world.enters(&admitted, &old), "{what}");
        let hello = world.hello(NOW);
        arrange(&world);
        first(&world, &hello, &own);
        world.member.set_policy(Policy::default());
        world.judge.replace_rules(World::rules(&world.member, None));
        let headers = [old.clone(), own.clone(), world.header(&THEIRS), world.header(&OURS)];
        for (n, header) in headers.iter().enumerate() {
            assert!(!world.enters(&hello, header), "{what}: spent hello, header {n}");
        }
        // The last of them was shown behind a spent hello of its secret.
        let unseen = ["early", "followed at once", "met by an alert", "hung up on"];
        let seen_own = !unseen.contains(&what) && !what.starts_with("late for");
        for (n, header) in headers.iter().enumerate().filter(|(n, _)| *n != 1 || seen_own) {
            let stopped = world.hello(NOW);
            assert!(!world.enters(&stopped, header), "{what}: new hello, header {n}");
        }
        let (stopped, fresh) = (world.hello(NOW), world.header(&OURS));
        assert!(world.enters(&stopped, &fresh), "{what}");
    }
}

/// A censor who moves the clock of a hello that came seven hours late, step by step, until it is believed.
#[test]
fn a_hello_that_was_refused_for_its_time_is_spent_for_every_time() {
    let world = World::new();
    let (old, late) = (world.header(&OURS), UnixTime(NOW.0 - 7 * 3600));
    let admitted = world.hello(NOW);
    assert!(world.enters(&admitted, &old));
    let hello = world.hello(late);
    assert!(!world.enters(&hello, &world.header(&OURS)));
    for step in 0..30 {
        let moved = redated(&hello, late, UnixTime(late.0 + step * 1100));
        assert!(!world.enters(&moved, &world.header(&OURS)) && !world.enters(&moved, &old), "{step}");
    }
}

/// What of a header can be altered without the secret. Behind a header the plain text of some bytes is known: of a
/// client that makes a new key, and of what the proxy says itself.
#[test]
fn an_altered_copy_of_a_header_is_the_same_header() {
    for (what, alter) in ALTERATIONS {
        let world = World::new();
        let (mut header, mut up, down) = obfuscated::seal_for_proxy(2, Framing::Padded, &OURS, || [3; HEADER]);
        let (hello, again) = (world.hello(NOW), world.hello(NOW));
        assert!(world.enters(&hello, &in_record(&header)), "{what}");
        let mut known = [0; 64];
        up.apply(&mut known);
        alter(&mut header, &known, &down);
        assert!(obfuscated::open(&header, &OURS).is_some(), "{what} makes no header");
        assert!(!world.enters(&again, &in_record(&header)), "{what}");
    }
}

/// Alters a header, given the keystream behind it and that of the other direction.
type Alteration = (&'static str, fn(&mut [u8; HEADER], &[u8; 64], &KeyIv));

const ALTERATIONS: [Alteration; 4] = [
    ("nothing", |_, _, _| {}),
    ("other bytes in front", |header, _, _| header[..8].fill(0x77)),
    ("the counter moved by a block", |header, known, _| {
        header[55] += 1;
        // What was the keystream behind the header is now that of its tag.
        for (at, byte) in [0xdd, 0xdd, 0xdd, 0xdd, 2, 0, 0, 0].into_iter().enumerate() {
            header[56 + at] = byte ^ known[8 + at];
        }
    }),
    ("the directions swapped", |header, _, down| {
        header[8..56].reverse();
        let mut plain = *header;
        plain[56..].copy_from_slice(&[0xdd, 0xdd, 0xdd, 0xdd, 2, 0, 0, 0]);
        down.stream().apply(&mut plain);
        header[56..].copy_from_slice(&plain[56..]);
    }),
];

#[test]
fn the_flight_of_a_replay_is_cut_like_that_of_its_original() {
    let world = World::new();
    let hello = world.hello(NOW);
    let mut stranger = hello.clone();
    stranger[100] ^= 1;
    for (what, hello, cut) in [("first", &hello, true), ("replay", &hello, true), ("stranger", &stranger, false)] {
        assert_eq!(flown(&world, hello).cuts_flight(), cut, "{what}");
    }
}

/// Hellos that were recorded, or that the holder of a link sends, take no places.
#[test]
fn hellos_alone_keep_nobody_out() {
    let world = World::new();
    world.member.set_policy(policy(|policy| (policy.max_sessions, policy.max_addresses) = (Some(1), Some(1))));
    let mut candidates = Vec::new();
    for last in 1..=5 {
        let from = IpAddr::from([192, 0, 2, last]);
        let mut gate = Gate::new(Arc::clone(&world.judge), from, gate(Some(1)).end);
        released(&mut gate, &world.hello(NOW));
        assert!(matches!(gate.cover_data(&cover_flight()), FromCover::Send(_)));
        candidates.push(gate);
    }
    assert_eq!(world.member.sessions(), 0);
    let (hello, header) = (world.hello(NOW), world.header(&OURS));
    let mut gate = world.gate();
    released(&mut gate, &hello);
    gate.cover_data(&cover_flight());
    let promotion = said(&mut gate, &header).expect_err("a place is free");
    assert_eq!(world.member.sessions(), 1);
    // Now there is none, for those who were greeted while there was.
    for mut gate in candidates {
        released(&mut gate, &world.header(&OURS));
        assert_eq!(reason(&gate), Some(Reason::Refused(Refusal::Sessions)));
    }
    drop(promotion);
    assert_eq!(world.member.sessions(), 0);
}

/// Forms of a hello that no client sends and a TLS server takes for a handshake.
fn odd_hellos() -> Vec<(&'static str, Vec<u8>)> {
    let changed = |at: usize, value: u8| {
        let mut hello = vector("helloB", "record");
        hello[at] = value;
        hello
    };
    let mut behind = vector("helloB", "record");
    behind.extend([0x14, 3, 3, 0, 1, 1]);
    let after_nothing = [&[0x16, 3, 1, 0, 0][..], &vector("helloB", "record")].concat();
    let mut long = changed(7, 30);
    let length = 5 + 4 + (30 << 8 | usize::from(long[8]));
    long.resize(length, 0);
    let record_length = (length - 5) as u16;
    long[3..5].copy_from_slice(&record_length.to_be_bytes());
    vec![
        ("record version", changed(2, 0)),
        ("record version", changed(1, 2)),
        ("legacy version", changed(10, 1)),
        ("session id length", changed(43, 31)),
        ("handshake type", changed(5, 2)),
        ("hello", changed(76, 0xff)),
        ("bytes behind the hello", behind),
        ("empty record", after_nothing),
        ("hello length", long),
        ("hello length", changed(6, 1)),
        ("record length", changed(3, 0x50)),
    ]
}

#[test]
fn whatever_a_server_takes_for_a_handshake_goes_the_way_of_a_hello() {
    let flight = cover_flight();
    for end in [FlightEnd::Told, gate(Some(1)).end] {
        for (form, hello) in odd_hellos() {
            let mut gate = crowded_gate(300, end.clone());
            assert!(matches!(gate.client_data(&hello, NOW), FromClient::Forward { .. }), "{form}");
            assert!(gate.is_judging() && gate.declined().is_none(), "{form}");
            assert_eq!(gate.cover_data(&flight), FromCover::Withhold, "{form}");
            let mut sent = after_the_search(&mut gate);
            if matches!(end, FlightEnd::Told) {
                sent = gate.cover_waits().expect(form);
            }
            assert_eq!((sent == flight, reason(&gate)), (true, Some(Reason::Form(form))), "{form}");
            // Whatever stands around a hello of ours, it is spent.
            let spent = ["bytes behind the hello", "empty record"].contains(&form);
            assert_eq!(gate.judge.replay.is_empty(), !spent, "{form}");
        }
    }
}
