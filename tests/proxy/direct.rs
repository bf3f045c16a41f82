//! Clients that know a secret, through the proxy to data centres on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::{Ccs, End, Login, PATIENCE, Refused, Session};
use crate::support::hello::{Captured, capture, captured, in_records};
use crate::support::mock_dc::{DONE, MockDc, Role, Silent, refusing, synthetic, tiny_pieces};
use crate::support::obfuscated::{Frame, Frames, PADDED};
use crate::support::origin::{NAME, Origin};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::{KEY, OTHER_KEY, take_all};

const MB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn packets_come_back() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        let mut dice = Dice::new(1);
        for size in [40, 300, 4, 8, 12, 16, 100_000, 2878, 3000, 16384, 16401, 16640, 1] {
            let mut packet = dice.bytes(size);
            packet[0] |= 1;
            session.echo(&packet).await.unwrap();
        }
        session.up.finish().await.unwrap();
        assert_eq!(session.down.end().await, End::Fin, "{kind:?}");
        assert_eq!((session.down.frames.next(), session.down.frames.rest().len()), (None, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_arrive_whole_in_each_direction() {
    let (down, up) = (MockDc::start(Role::Pour(50, 50 * MB)).await, MockDc::start(Role::Sink).await);
    let arrange = |setup: crate::support::vizard::Setup| setup.usual(&KEY).dc(2, down.addr).dc(4, up.addr);
    let Some(stage) = Stage::with(Kind::Site, Origin::make(), arrange).await else { return };

    let mut session = login().enter(stage.proxy.addr).await.unwrap();
    session.up.packet(b"go on").await.unwrap();
    assert_eq!(take_all(&mut session).await, (synthetic(50, 50 * MB), End::Fin));
    assert!(session.down.sizes.iter().filter(|size| **size == 16401).count() > 100, "bulk comes in full records");

    for record in [2878, 16408, 16640] {
        let mut session = Login { record, ..login().dc(4) }.enter(stage.proxy.addr).await.unwrap();
        let sum = pour_up(&mut session, 50 * MB).await;
        session.up.packet(DONE).await.unwrap();
        assert_eq!(session.down.frame().await, Ok(Frame::Packet(sum)), "records of {record}");
        assert_eq!(session.down.end().await, End::Fin);
    }
}

/// What hangs behind its answer is ended long before silence would end it; what is not one of Apple's is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_behind_its_answer_is_ended_where_that_is_asked_for() {
    let dc = MockDc::start(Role::Echo).await;
    let mut stages = Vec::new();
    for scope in ["all", "apple"] {
        let origin = Origin::make();
        let file = origin.path().join("vizard.toml");
        let arrange = |setup: crate::support::vizard::Setup| {
            let known = std::fs::read_to_string(&file).unwrap_or_default();
            std::fs::write(&file, format!("{known}\n[session]\nend_unanswered = \"{scope}\"\n")).unwrap();
            setup.usual(&KEY).dc(2, dc.addr)
        };
        stages.push(Stage::with(Kind::Site, origin, arrange).await.unwrap());
    }
    let mut sessions = Vec::new();
    for stage in &stages {
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        session.echo(&[7; 40]).await.unwrap();
        sessions.push((session, std::time::Instant::now()));
    }
    let (mut left, since) = sessions.swap_remove(0);
    let mut end = End::Open;
    while end == End::Open && since.elapsed() < Duration::from_secs(60) {
        end = left.down.end().await;
    }
    assert!(end == End::Fin && since.elapsed() > Duration::from_secs(14), "{end:?} after {:?}", since.elapsed());
    let (mut other, _) = sessions.remove(0);
    other.echo(&[9; 40]).await.unwrap();
}

/// Sends bytes while no one reads; gives the packet that a sink answers with.
async fn pour_up(session: &mut Session, count: usize) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    let mut dice = Dice::new(77);
    let mut left = count;
    while left > 0 {
        let packet = dice.bytes(left.min(1 + dice.clone().below(MB)));
        session.up.packet(&packet).await.expect("the proxy takes all");
        hash.update(&packet);
        left -= packet.len();
    }
    [&(count as u64).to_le_bytes()[..], &hash.finalize()].concat()
}

/// No app of Telegram's ends one side alone. A client that does is answered like a visitor, whatever the data centre does,
/// and that still gets all that was said before.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_is_answered_at_once_and_has_been_heard() {
    for role in [Role::Note, Role::Chatter] {
        let dc = MockDc::start(role).await;
        let stage = site(&dc).await;
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        session.up.packet(b"one").await.unwrap();
        assert_eq!(session.down.frame().await, Ok(Frame::Packet(vec![9; 40])));
        session.up.packet(&[3; 1_000_000]).await.unwrap();
        session.up.finish().await.unwrap();
        // The data centre's connection has no end of its own.
        assert_eq!(session.down.end().await, End::Fin, "{role:?}");
        let seen = dc.wait(PATIENCE, |seen| seen[0].sum.is_some()).await;
        // The first packet came with padding, and is what the one waits for and the other counts.
        let first = if role == Role::Chatter { 13 } else { 0 };
        assert_eq!(seen[0].sum.map(|sum| sum.0), Some(first + 1_000_000), "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_centre_that_fails_ends_in_fin() {
    for role in [Role::Shut, Role::Abort, Role::Die] {
        let dc = MockDc::start(role).await;
        let stage = site(&dc).await;
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        session.up.packet(&[1; 5000]).await.unwrap();
        assert_eq!(session.down.end().await, End::Fin, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_centre_that_refuses_or_does_not_answer_ends_in_fin() {
    let (refusing, silent) = (refusing().await, Silent::start().await);
    let arrange = |setup: crate::support::vizard::Setup| setup.usual(&KEY).dc(2, refusing).dc(4, silent.addr);
    let stage = Stage::with(Kind::Site, Origin::make(), arrange).await.unwrap();
    for dc in [2, 4, 77] {
        let mut session = login().dc(dc).enter(stage.proxy.addr).await.unwrap();
        session.up.packet(&[1; 5000]).await.unwrap();
        assert_eq!(session.down.end().await, End::Fin, "data centre {dc}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_centre_that_is_quiet_is_waited_for() {
    let dc = MockDc::start(Role::Mute).await;
    let stage = site(&dc).await;
    let mut session = login().enter(stage.proxy.addr).await.unwrap();
    session.up.packet(&[1; 5000]).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_secs(5), session.down.end()).await;
    assert!(quiet.is_err(), "ended with {quiet:?}");
    let frames = &mut session.down.frames;
    assert_eq!((frames.next(), frames.rest().len()), (None, 0), "fillers only, and whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_leaves_nothing_behind() {
    let dc = MockDc::start(Role::Sink).await;
    let stage = site(&dc).await;
    for _ in 0..20 {
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        session.up.packet(&[1; 5000]).await.unwrap();
        session.reset();
    }
    login().enter(stage.proxy.addr).await.expect("the proxy still admits");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_data_centre_is_reached_by_its_number() {
    let mut numbers: Vec<i16> = (1..=5).flat_map(|number| [number, -number]).collect();
    numbers.extend([203, -203, 10001, 10002, 10003, -10001]);
    let mut centres = Vec::new();
    for number in &numbers {
        centres.push((*number, MockDc::start(Role::Echo).await));
    }
    let arrange = |setup: crate::support::vizard::Setup| {
        centres.iter().fold(setup.usual(&KEY), |setup, (number, dc)| setup.dc(*number, dc.addr))
    };
    let stage = Stage::with(Kind::Site, Origin::make(), arrange).await.unwrap();
    for (number, dc) in &centres {
        let mut session = login().dc(*number).enter(stage.proxy.addr).await.unwrap();
        session.echo(b"are you the right one?").await.unwrap();
        let seen = dc.seen();
        assert_eq!((seen.len(), seen[0].tag), (1, PADDED), "{number}");
        assert_eq!(seen[0].dc, *number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_captured_hello_enters() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let mut names: Vec<&str> = captured().iter().map(|hello| hello.sni.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let arrange = |setup: crate::support::vizard::Setup| setup.domain(name).user("alice", &KEY).dc(2, dc.addr);
            let Some(stage) = Stage::with(kind, Origin::make(), arrange).await else { continue };
            for hello in captured().iter().filter(|hello| hello.sni == name && is_a_client(hello)) {
                let login = Login::of(hello, KEY, &mut Dice::unseen());
                let session = login.enter(stage.proxy.addr).await;
                let mut session = session.unwrap_or_else(|refused| panic!("{kind:?} {}: {refused:?}", hello.file));
                session.echo(b"here I am").await.unwrap();
            }
        }
    }
}

fn is_a_client(hello: &Captured) -> bool {
    hello.key.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_enter_however_they_are_cut() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let records = |cuts: &[usize]| {
            let login = login();
            Login { wire: in_records(&login.wire, cuts), ..login }
        };
        let logins = [
            Login { pieces: 1, ..login() },
            Login { pieces: 1400, ..login() },
            records(&[1, 4, 38, 500]),
            Login { pieces: 1, ..records(&[1, 4, 38, 500]) },
            records(&[100]),
        ];
        for (index, login) in logins.into_iter().enumerate() {
            let session = login.enter(stage.proxy.addr).await;
            let mut session = session.unwrap_or_else(|refused| panic!("{kind:?} {index}: {refused:?}"));
            session.echo(b"all of me").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_enter_however_they_are_sent() {
    let dc = MockDc::start(Role::Echo).await;
    for kind in BOTH {
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        for ccs in [Ccs::Together, Ccs::Apart, Ccs::None] {
            for record in [64, 65, 200, 2878, 16408, 16640] {
                let login = Login { ccs, record, ..login() };
                let mut session = login.enter(stage.proxy.addr).await.unwrap();
                session.echo(&[7; 40_000]).await.unwrap_or_else(|end| panic!("{kind:?} {ccs:?} {record}: {end:?}"));
            }
        }
    }
}

/// The rest of a client's first record is held back on its way: no TLS server says anything before it has it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_answers_a_record_before_its_last_byte() {
    let dc = MockDc::start(Role::Echo).await;
    for kind in BOTH {
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        stage.proxy.logged(KNOWN).await;
        first_record_is_answered_when_whole(stage.proxy.addr).await;
    }
}

/// What the log says when the cover's own habits are known.
const KNOWN: &str = "the cover was visited";

/// How long nothing may come, while other connections show that the proxy is quick.
const SILENCE: Duration = Duration::from_millis(300);

pub async fn first_record_is_answered_when_whole(proxy: SocketAddr) {
    let header_ends = 6 + 5 + 64;
    let mut held = Vec::new();
    for at in [1, 6, 7, 11, 40, header_ends - 1, header_ends, header_ends + 1, usize::MAX - 1, usize::MAX] {
        held.push(tokio::spawn(async move {
            let mut session = login().enter(proxy).await.expect("the proxy admits");
            let packet = [7; 90];
            let first = session.up.sealed(&packet);
            let at = if at > first.len() { first.len() - 1 - (usize::MAX - at) } else { at };
            session.up.piece(&first[..at]).await.expect("the proxy takes it");
            let early = tokio::time::timeout(SILENCE, session.down.record()).await;
            assert!(early.is_err(), "{early:?} after {at} of {} bytes", first.len());
            session.up.piece(&first[at..]).await.expect("the proxy takes it");
            assert_eq!(session.down.frame().await, Ok(Frame::Packet(packet.to_vec())), "{at}");
        }));
    }
    for one in held {
        one.await.expect("no answer before the last byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pieces_travel_in_possible_records() {
    let dc = MockDc::start(Role::Tiny).await;
    let stage = site(&dc).await;
    let mut session = login().enter(stage.proxy.addr).await.unwrap();
    for _ in 0..50 {
        session.up.packet(b"tell me").await.unwrap();
        let mut expected = Frames::default();
        expected.push(&tiny_pieces().concat());
        while let Some(frame) = expected.next() {
            assert_eq!(session.down.frame().await, Ok(frame));
        }
    }
    session.up.finish().await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_frames_arrive_too() {
    let dc = MockDc::start(Role::Unframed(8, 300_001)).await;
    let stage = site(&dc).await;
    let mut session = login().enter(stage.proxy.addr).await.unwrap();
    session.up.packet(b"go on").await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
    let rest = session.down.frames.rest();
    // Behind the fillers, whose number is the cover's.
    let unframed = rest.len().checked_sub(4 + 300_001).map(|fillers| &rest[fillers + 4..]);
    assert!(unframed == Some(&Dice::new(8).bytes(300_001)[..]), "the bytes have changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_the_flight_before_the_client_speaks() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Echo).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let login = login();
        let (stream, flight) = login.greet(stage.proxy.addr).await.unwrap();
        let mut more = [0];
        let waited = tokio::time::timeout(Duration::from_secs(1), stream.peek(&mut more)).await;
        assert!(waited.is_err(), "{kind:?}: {waited:?}");
        assert!(flight.data <= 10240 && flight.hello <= 10240);
        login.session(stream, flight).echo(b"now").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_have_two_secrets() {
    let dc = MockDc::start(Role::Echo).await;
    let arrange = |setup: crate::support::vizard::Setup| {
        setup.domain(NAME).user("alice", &KEY).user("bob", &OTHER_KEY).dc(2, dc.addr)
    };
    let stage = Stage::with(Kind::Site, Origin::make(), arrange).await.unwrap();
    for key in [KEY, OTHER_KEY] {
        let login = Login::of(capture("tdlib-1.8.69-1"), key, &mut Dice::unseen());
        login.enter(stage.proxy.addr).await.unwrap().echo(b"mine").await.unwrap();
    }
    let stranger = Login::of(capture("tdlib-1.8.69-1"), [1; 16], &mut Dice::unseen());
    assert_eq!(stranger.enter(stage.proxy.addr).await.map(|_| ()), Err(Refused::Digest));
    assert_eq!(dc.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_records_never_reset_or_hang() {
    let dc = MockDc::start(Role::Pour(3, 200_000)).await;
    let stage = site(&dc).await;
    let mut session = login().enter(stage.proxy.addr).await.unwrap();
    // Flipped payload means a wrong length to the data centre; the proxy knows nothing of it.
    session.up.bytes(vec![0x55; 3000]).await.unwrap();
    session.up.finish().await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_program_well() {
    let dc = MockDc::start(Role::Echo).await;
    let stage = site(&dc).await;
    login().enter(stage.proxy.addr).await.unwrap().echo(b"hello").await.unwrap();
    let status = tokio::task::spawn_blocking(move || stage.proxy.terminate()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

async fn site(dc: &MockDc) -> Stage {
    Stage::with_dc(Kind::Site, dc).await.expect("the site needs nothing installed")
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_ends_with_the_client_that_it_is_for() {
    const CLIENTS: usize = 20;
    let silent = Silent::start().await;
    let arrange = |setup: crate::support::vizard::Setup| setup.usual(&KEY).dc(2, silent.addr);
    let Some(stage) = Stage::with(Kind::Site, Origin::make(), arrange).await else { return };
    let process = stage.proxy.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
    let before = descriptors();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut session = login().enter(stage.proxy.addr).await.unwrap();
        session.up.packet(b"is anybody there?").await.unwrap();
        clients.push(session);
    }
    let begun = std::time::Instant::now();
    while descriptors() < before + 2 * CLIENTS {
        assert!(begun.elapsed() < PATIENCE, "{} dials, and {before} before", descriptors() - before);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(clients);
    let left = std::time::Instant::now();
    while descriptors() > before + CLIENTS / 2 {
        assert!(left.elapsed() < Duration::from_secs(5), "{} of {before} descriptors", descriptors());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
