//! A proof is good once: a hello not twice at the same moment, not after a crash, not with another date; a header not
//! behind another hello.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{CCS, End, Login, PATIENCE, Refused, Session, authentic, whole_flight};
use crate::support::hello::{self, RANDOM, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::obfuscated::{Header, PADDED, framed};
use crate::support::origin::{NAME, Origin};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::vizard::Setup;
use data_encoding::HEXLOWER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;

const COPIES: usize = 24;
const ROUNDS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn of_many_copies_at_once_exactly_one_enters() {
    let dc = MockDc::start(Role::Echo).await;
    let stage = Stage::with_dc(Kind::Site, &dc).await.expect("the site needs nothing installed");
    for round in 0..ROUNDS {
        let login = Arc::new(login());
        let start = Arc::new(Barrier::new(COPIES));
        let mut copies = JoinSet::new();
        for _ in 0..COPIES {
            copies.spawn(enter_or_not(login.clone(), stage.proxy.addr, start.clone()));
        }
        let outcomes = copies.join_all().await;
        let entered = outcomes.iter().filter(|(_, entered)| *entered).count();
        assert_eq!(entered, 1, "round {round}");
        assert!(outcomes.iter().all(|(shape, _)| *shape == outcomes[0].0), "round {round}: {outcomes:?}");
        assert_eq!(dc.seen().len(), round + 1);
    }
}

/// Lengths of the records of the flight, and whether the data centre answered.
async fn enter_or_not(login: Arc<Login>, proxy: SocketAddr, start: Arc<Barrier>) -> (Vec<(u8, usize)>, bool) {
    let mut stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_zero_linger().expect("a socket option");
    start.wait().await;
    stream.write_all(&login.wire).await.expect("writes");
    let mut bytes = Vec::with_capacity(16 << 10);
    let shape = loop {
        if let Some(shape) = whole_flight(&bytes) {
            break shape;
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("a flight in time").expect("a flight");
        assert_ne!(read, 0, "the flight is cut after {} bytes", bytes.len());
    };
    let ours = authentic(&bytes, &login.key, &login.random);
    let flight = crate::support::fake_tls::Flight { bytes, hello: 0, data: 0 };
    let session = login.session(stream, flight);
    (shape, if ours { echoes(session).await } else { is_turned_away(session).await })
}

async fn echoes(mut session: Session) -> bool {
    session.echo(b"it was me").await.is_ok()
}

/// Sends a valid header all the same: the site cannot read it and ends the connection.
async fn is_turned_away(mut session: Session) -> bool {
    let _ = session.up.packet(b"let me in").await;
    while session.down.record().await.is_ok() {}
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_stay_spent_over_a_crash_and_a_restart() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(mut stage) = Stage::with_dc(kind, &dc).await else { continue };
        let spent: Vec<Login> = (0..20).map(|_| login()).collect();
        for login in &spent {
            login.enter(stage.proxy.addr).await.unwrap().echo(b"first").await.unwrap();
        }
        for crash in [true, false] {
            let setup = stage.setup.clone();
            let old = stage.proxy;
            stage.proxy = tokio::task::spawn_blocking(move || {
                if crash {
                    old.kill();
                } else {
                    assert_eq!(old.terminate().code(), Some(0));
                }
                setup.start()
            })
            .await
            .unwrap();
            for login in &spent {
                let again = login.enter(stage.proxy.addr).await.map(|_| ());
                assert_eq!(again, Err(turned_away(kind)), "crash: {crash}");
            }
            login().enter(stage.proxy.addr).await.unwrap().echo(b"a new one").await.unwrap();
        }
        assert_eq!(dc.seen().len(), 22, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_date_does_not_make_another_hello() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let first = login();
        first.enter(stage.proxy.addr).await.unwrap().echo(b"first").await.unwrap();
        let sent = hello::now();
        for offset in [1, 60, 300, 86_400] {
            let mut record = first.wire.clone();
            hello::redate(&mut record, sent, sent + offset);
            let redated = Login::with(record, KEY);
            assert_eq!(redated.enter(stage.proxy.addr).await.map(|_| ()), Err(turned_away(kind)), "{offset}");
        }
        assert_eq!(dc.seen().len(), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_hellos_spend_nothing() {
    let dc = MockDc::start(Role::Echo).await;
    let stage = Stage::with_dc(Kind::Site, &dc).await.expect("the site needs nothing installed");
    let good = login();
    for place in [0, 15, 27].map(|place| RANDOM.start + place) {
        let mut record = good.wire.clone();
        record[place] ^= 1;
        let forged = Login::with(record, KEY);
        assert_eq!(forged.enter(stage.proxy.addr).await.map(|_| ()), Err(Refused::Digest));
    }
    let mut session = good.enter(stage.proxy.addr).await.unwrap();
    session.echo(b"the real one").await.unwrap();
    session.up.finish().await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
}

/// What a client sends behind the flight, as someone on the way records it: a header and one packet.
pub fn second_flight(key: &hello::Key) -> Vec<u8> {
    let mut header = Header::make(Some(key), PADDED, 2, &mut Dice::unseen());
    let mut frame = framed(b"the user's first packet");
    header.up.apply(&mut frame);
    let mut record = [&CCS[..], &[23, 3, 3]].concat();
    hello::push_counted(&mut record, 2, &[&header.wire[..], &frame].concat());
    record
}

/// Shows a hello and waits for the flight, no matter who it is for.
async fn show(hello: &[u8], proxy: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    stream.write_all(hello).await.expect("writes");
    let mut bytes = Vec::with_capacity(16 << 10);
    while whole_flight(&bytes).is_none() {
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("a flight in time").expect("a flight");
        assert_ne!(read, 0, "the flight is cut after {} bytes", bytes.len());
    }
    stream
}

/// Shows both. The data centre must hear of it if they open a session, and the cover must end it if not.
async fn replayed(hello: &[u8], second: &[u8], proxy: SocketAddr, dc: &MockDc, sessions: usize) {
    let mut stream = show(hello, proxy).await;
    stream.write_all(second).await.expect("writes");
    let end = async { while let Ok(1..) = stream.read(&mut [0; 4096]).await {} };
    assert!(timeout(PATIENCE, end).await.is_ok(), "the cover does not end it");
    assert_eq!(dc.seen().len(), sessions, "the data centre got recorded bytes");
}

/// A proxy whose only user may have so many sessions.
async fn with_places(kind: Kind, dc: &MockDc, places: u32) -> Option<Stage> {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let user = HEXLOWER.encode(&KEY);
    let user = format!("\n[[users]]\nname = \"alice\"\nsecret = \"{user}\"\nmax_sessions = {places}\n");
    let arrange = |setup: Setup| {
        let site = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, site + &user).expect("writes the configuration");
        let setup = if kind == Kind::Site { setup } else { setup.arg("--config", file.display()) };
        setup.domain(NAME).dc(2, dc.addr)
    };
    Stage::with(kind, origin, arrange).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hello_and_the_header_of_another_are_no_session() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = with_places(kind, &dc, 1).await else { continue };
        let (first, refused, header) = (login(), login(), second_flight(&KEY));
        let mut inside = show(&first.wire, stage.proxy.addr).await;
        inside.write_all(&header).await.unwrap();
        assert_eq!(dc.wait(PATIENCE, |seen| seen.len() == 1).await.len(), 1);
        assert_eq!(refused.enter(stage.proxy.addr).await.map(|_| ()), Err(turned_away(kind)));
        drop(inside);
        // Until there is a place again.
        while login().enter(stage.proxy.addr).await.is_err() {}
        replayed(&refused.wire, &header, stage.proxy.addr, &dc, 1).await;
        // One that was stopped on the way is new, but the header is not.
        replayed(&login().wire, &header, stage.proxy.addr, &dc, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_off_is_off_for_good() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let mut record = login().wire;
        let late = hello::now() - 7 * 3600;
        hello::sign(&mut record, &KEY, late);
        assert_eq!(Login::with(record.clone(), KEY).enter(stage.proxy.addr).await.map(|_| ()), Err(turned_away(kind)));
        // Blindly in steps that are shorter than the window is wide, the last of them into it.
        for steps in [1, 10, 22, 23] {
            let mut moved = record.clone();
            hello::redate(&mut moved, late, late + steps * 1100);
            replayed(&moved, &second_flight(&KEY), stage.proxy.addr, &dc, 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_alone_lock_nobody_out() {
    const PLACES: u32 = 4;
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = with_places(kind, &dc, PLACES).await else { continue };
        // Some were recorded, and some are new, of a holder of the link: none is followed by a header.
        let recorded: Vec<_> = (0..PLACES).map(|_| login().wire).collect();
        let mut bare = Vec::new();
        for hello in recorded.iter().chain(&recorded).cloned().chain((0..=PLACES).map(|_| login().wire)) {
            bare.push(show(&hello, stage.proxy.addr).await);
        }
        let mut session = login().enter(stage.proxy.addr).await.expect("a place is free");
        session.echo(b"the user himself").await.expect("a place is free");
    }
}

/// What a client makes of the cover's own flight.
fn turned_away(kind: Kind) -> Refused {
    if kind.one_record() { Refused::Digest } else { Refused::TooMuch }
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}
