//! The instruments themselves: what judges the proxy is judged here first, with a bare relay in the proxy's place, with
//! relays that make mistakes, and against published vectors.

use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::{Ccs, End, Login, Refused, authentic};
use crate::support::hello::{self, Parts, RANDOM, capture, captured};
use crate::support::mock_dc::{MockDc, Role, synthetic, tiny_pieces};
use crate::support::nginx::{self, Nginx};
use crate::support::obfuscated::{Frame, Frames, Header, PADDED, framed};
use crate::support::origin::{Origin, Sink};
use crate::support::probe::{Lineup, Probe, Report, compare, compare_once};
use crate::support::raw_cover::{RawCover, misread_closes};
use crate::support::relay::{Fault, Relay};
use crate::support::toy::Toy;
use crate::support::{KEY, OTHER_KEY, corpus};
use data_encoding::HEXLOWER;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(6);

#[test]
fn captured_hellos_survive_being_taken_apart() {
    for hello in captured() {
        assert_eq!(hello.parts().record(), hello.record, "{}", hello.file);
        let (Some(key), Some(time)) = (&hello.key, hello.signed_time) else { continue };
        let mut again = hello.record.to_vec();
        again[RANDOM].fill(0);
        hello::sign(&mut again, key, time);
        assert_eq!(again, hello.record, "{}", hello.file);
    }
    assert!(captured().iter().filter(|hello| hello.signed_time.is_some()).count() > 20);
}

#[test]
fn hellos_and_flights_agree_with_the_vectors() {
    let (vectors, key) = vectors();
    for (hello, flight) in [("helloA", "flightA"), ("helloB", "flightB")] {
        let mut record = hex(&vectors[hello]["record"]);
        let random = record[RANDOM].to_vec();
        assert_eq!(Parts::parse(&record).unwrap().record(), record);
        hello::sign(&mut record, &key, vectors["const"]["unix_time"].as_u64().unwrap() as u32);
        assert_eq!(record[RANDOM], random[..]);
        let mut flight = hex(&vectors[flight]["bytes"]);
        assert!(authentic(&flight, &key, &random));
        *flight.last_mut().unwrap() ^= 1;
        assert!(!authentic(&flight, &key, &random));
    }
    let mut redated = hex(&vectors["helloA"]["record"]);
    let time = vectors["const"]["unix_time"].as_u64().unwrap() as u32;
    hello::redate(&mut redated, time, vectors["redated"]["unix_time"].as_u64().unwrap() as u32);
    assert_eq!(redated[RANDOM], hex(&vectors["redated"]["random"])[..]);
}

#[test]
fn headers_and_streams_agree_with_the_vectors() {
    let (vectors, key) = vectors();
    for (name, key) in [("O1_nosecret_interm", None), ("O3_dd_padded", Some(&key)), ("O4_ee_in_tls", Some(&key))] {
        let vector = &vectors[name];
        let wire: [u8; 64] = hex(&vector["wire_init"]).try_into().unwrap();
        let mut opened = Header::open(wire, key);
        let sealed = Header::seal(hex(&vector["plain_init"]).try_into().unwrap(), key);
        assert_eq!((sealed.wire, sealed.tag, sealed.dc), (wire, opened.tag, opened.dc));
        let mut up = hex(&vector["up_plain"]);
        opened.up.apply(&mut up);
        assert_eq!(up, hex(&vector["up_wire"]), "{name}");
        let mut down = hex(&vector["dn_plain"]);
        opened.down.apply(&mut down);
        assert_eq!(down, hex(&vector["dn_wire"]), "{name}");
    }
    assert_eq!(Header::open(hex(&vectors["O4_ee_in_tls"]["wire_init"]).try_into().unwrap(), Some(&key)).dc, 10002);
}

#[test]
fn frames_skip_fillers_and_know_tokens() {
    let mut frames = Frames::default();
    let wire = [framed(&[0; 4]), framed(&[0; 11]), vec![1, 0, 0, 0x80], framed(&[0; 16]), framed(&[5; 3])].concat();
    let mut read = Vec::new();
    for byte in wire {
        frames.push(&[byte]);
        read.extend(frames.next());
    }
    let expected = [Frame::Token(1 << 31 | 1), Frame::Packet(vec![0; 16]), Frame::Packet(vec![5; 3])];
    assert_eq!((read, frames.fillers), (expected.to_vec(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_relay_in_place_of_the_proxy_shows_no_difference() {
    let Some(report) = nginx_against(Fault::None, corpus::all()).await else { return };
    assert!(report.probes > 940);
    eprintln!("{} probes, {} noisy", report.probes, report.noise.len());
    report.expect_none();
    let share = report.noise.len() * 50 / report.probes;
    assert_eq!(share, 0, "more than two per cent of the probes are noisy: {:#?}", report.noise);
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_relays_are_found() {
    let table = [
        (Fault::RefusesStrangers, "HTTP GET then Silence"),
        (Fault::Impatient, "no byte then Silence"),
        (Fault::ForgetsSession, "class tdlib-1.8.69-1.bin by Nobody then Silence"),
        (Fault::AddsAlert, "no byte then Fin"),
        (Fault::CutsFlight, "class tdlib-1.8.69-1.bin by Nobody then Fin"),
    ];
    for (fault, probe) in table {
        let probes = corpus::all().into_iter().filter(|known| known.name == probe).collect();
        let Some(report) = nginx_against(fault, probes).await else { return };
        assert_eq!((report.probes, report.differences.len()), (1, 1), "{fault:?} was not found by {probe}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_closes_are_found() {
    for (fault, sound) in [(Fault::None, true), (Fault::FinForReset, false), (Fault::FullClose, false)] {
        let mut cover = RawCover::start().await;
        let relay = Relay::start(cover.addr, fault).await.unwrap();
        let wrong = misread_closes(relay.addr, &mut cover).await;
        assert_eq!(wrong.is_empty(), sound, "{fault:?}: {wrong:#?}");
    }
}

/// The probes with a relay of this fault where the proxy would be; a faulty one has a single try.
async fn nginx_against(fault: Fault, probes: Vec<Probe>) -> Option<Report> {
    let origin = Origin::make();
    let sink = Sink::start().await;
    let nginx = Nginx::start(&origin, sink.addr).await?;
    let relay = Relay::start(nginx.addr, Fault::None).await.expect("a free port");
    let proxy = Relay::start(nginx.addr, fault).await.expect("a free port");
    assert!(LIMIT > nginx::TIMEOUT + Duration::from_secs(2));
    let (relay, proxy) = (&relay.addr, &proxy.addr);
    let lineup = Lineup { cover: nginx.addr, relay: *relay, proxy: *proxy, limit: LIMIT, one_record: false };
    Some(if fault == Fault::None { compare(probes, lineup).await } else { compare_once(probes, lineup).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn client_and_data_centre_understand_each_other() {
    for (ccs, record) in [(Ccs::Together, 2878), (Ccs::Apart, 16408), (Ccs::None, 16640)] {
        let dc = MockDc::start(Role::Echo).await;
        let toy = Toy::start(KEY, dc.addr).await;
        let login = Login { ccs, record, ..login().dc(-4) };
        let mut session = login.enter(toy.addr).await.unwrap();
        session.down.least = 1;
        for packet in [&b"first"[..], &[3; 100_000], b"last one"] {
            session.echo(packet).await.unwrap();
        }
        session.up.finish().await.unwrap();
        assert_eq!(session.down.end().await, End::Fin);
        let seen = dc.seen();
        assert_eq!((seen.len(), seen[0].tag, seen[0].dc), (1, PADDED, -4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_refuses_flights_of_others() {
    let dc = MockDc::start(Role::Echo).await;
    let toy = Toy::start(OTHER_KEY, dc.addr).await;
    assert_eq!(login().enter(toy.addr).await.map(|_| ()), Err(Refused::Digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_of_the_data_centre_is_played() {
    let first = b"hello, data centre";
    let (dc, mut session) = through_toy(Role::Pour(5, 300_000)).await;
    session.up.packet(first).await.unwrap();
    assert_eq!(crate::support::take_all(&mut session).await, (synthetic(5, 300_000), End::Fin));
    drop(dc);

    let (dc, mut session) = through_toy(Role::Sink).await;
    session.up.packet(&[1; 200_000]).await.unwrap();
    session.up.finish().await.unwrap();
    assert!(matches!(session.down.frame().await, Ok(Frame::Packet(sum)) if sum[..8] == 200_000u64.to_le_bytes()));
    drop(dc);

    let (dc, mut session) = through_toy(Role::Tiny).await;
    session.up.packet(first).await.unwrap();
    let mut expected = Frames::default();
    expected.push(&tiny_pieces().concat());
    while let Some(frame) = expected.next() {
        assert_eq!(session.down.frame().await, Ok(frame));
    }
    drop(dc);

    let (_dc, mut session) = through_toy(Role::Abort).await;
    session.up.packet(first).await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
}

async fn through_toy(role: Role) -> (MockDc, crate::support::fake_tls::Session) {
    let dc = MockDc::start(role).await;
    let toy = Toy::start(KEY, dc.addr).await;
    let mut session = login().enter(toy.addr).await.expect("the toy admits everybody");
    session.down.least = 1;
    (dc, session)
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

fn vectors() -> (Value, hello::Key) {
    let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/vectors.json")).expect("vectors");
    let vectors: Value = serde_json::from_slice(&text).expect("vectors are JSON");
    let key = hex(&vectors["const"]["key"]).try_into().expect("16 bytes");
    (vectors, key)
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().expect("text").as_bytes()).expect("hex")
}
