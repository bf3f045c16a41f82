//! What an admitted session looks like from outside once the first flight is over: its records come in the number and
//! sizes that the cover itself would send to such a visitor, from the first to the last.
//!
//! Each test measures the cover first, by a real TLS client, and then a session through the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx::Nginx;
use crate::support::obfuscated::Frame;
use crate::support::origin::{Origin, PAGE, Sink};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::tap::{SLOW_FOR, SLOW_FROM, Visit, narrow};
use crate::support::turn;
use crate::support::vizard::Setup;

/// As every captured hello of a client offers them.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// What is downloaded, from the cover and through the proxy.
const BULK: usize = 20 << 20;

/// How far the shares of record sizes may be apart: 0 is the same, 1 has nothing in common. Whether the rest of a buffer leaves
/// by itself or joins the next one depends on what the machine did while the scout listened: 0.12 and 0.25 were seen beside
/// compilers, and sizes of another server are 0.9 apart.
const FAR: f64 = 0.4;

/// How many visits show what a cover may send of its own accord.
const VISITS: usize = 24;

/// A close alert of TLS 1.3: two bytes, the inner type and the tag.
const ALERT: usize = 19;

/// What the log says when the cover's own habits are known.
const KNOWN: &str = "the cover was visited";

/// A pause that shows that the proxy has said what it had to say.
const PAUSE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn bulk_comes_in_the_records_of_the_built_in_site() {
    bulk_comes_in_the_records_of(Kind::Site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_comes_in_the_records_of_nginx() {
    bulk_comes_in_the_records_of(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_comes_in_the_records_of_a_cover_that_has_small_ones() {
    bulk_comes_in_the_records_of(Kind::SmallRecords).await;
}

/// A hello of ours offers HTTP/2, so that is what a visit to a cover that has it would be. On both sides the line is slower
/// than the server, as it is outside of a test: until the kernel's buffers are full a server cannot know that, and how
/// much they hold is the one thing that is left to chance.
async fn bulk_comes_in_the_records_of(kind: Kind) {
    let _turn = turn().await;
    let dc = MockDc::start(Role::Pour(20, BULK)).await;
    let Some(stage) = with_bulk(kind, &dc).await else { return };
    stage.proxy.logged(KNOWN).await;
    let mut shown = Vec::new();
    // How many writes of nginx leave together depends on what else the machine does, so there are several tries.
    for _ in 0..DOWNLOADS {
        let cover = Visit::start(&stage.origin, stage.cover, &PROTOCOLS).await.fetch("/bulk.bin").await;
        let session = whole_session(&stage).await;
        let apart = distance(&cover, &session);
        if apart < FAR {
            return;
        }
        shown.push(format!("{apart:.3} apart\ncover   {}\nsession {}", summary(&cover), summary(&session)));
    }
    panic!("{kind:?}: {}", shown.join("\n"));
}

/// Tickets, and settings of HTTP/2: a session shows as many records, as large, when the data centre is silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_as_a_visit_to_the_built_in_site() {
    a_session_begins_as_a_visit_to(Kind::Site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_as_a_visit_to_nginx() {
    a_session_begins_as_a_visit_to(Kind::Nginx).await;
}

async fn a_session_begins_as_a_visit_to(kind: Kind) {
    let dc = MockDc::start(Role::Mute).await;
    let Some(stage) = Stage::with_dc(kind, &dc).await else { return };
    stage.proxy.logged(KNOWN).await;
    let (visits, answered) = greetings(&stage, &PROTOCOLS).await;
    assert!(!visits[0].is_empty(), "{kind:?} sends nothing after its handshake");
    let mut session = enter(&stage).await;
    while tokio::time::timeout(PAUSE, session.down.record()).await.is_ok() {}
    let sizes = session.down.sizes.clone();
    assert!(could_be_one_of(&sizes, &visits), "{kind:?}: session {sizes:?}, visits {visits:?}");
    // No server answers a preface that has not come; no client's first record has one in it.
    session.up.packet(b"go on").await.expect("the proxy takes it");
    while tokio::time::timeout(PAUSE, session.down.record()).await.is_ok() {}
    let sizes = &session.down.sizes;
    assert!(could_be_one_of(sizes, &answered), "{kind:?}: session {sizes:?}, visits {answered:?}");
    assert_eq!((session.down.frames.next(), session.down.frames.rest().len()), (None, 0), "fillers only, and whole");
}

/// No one has to wait for a round of visits.
#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_session_begins_as_a_visit_does() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Mute).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let mut session = enter(&stage).await;
        session.down.record().await.expect("a filler");
        while tokio::time::timeout(PAUSE, session.down.record()).await.is_ok() {}
        let (sizes, (visits, _)) = (&session.down.sizes, greetings(&stage, &PROTOCOLS).await);
        assert!(could_be_one_of(sizes, &visits), "{kind:?}: session {sizes:?}, visits {visits:?}");
    }
}

/// And what came first is still first where the data centre has something to say.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_records_of_a_download_are_those_of_the_cover() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Pour(21, 200_000)).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        stage.proxy.logged(KNOWN).await;
        let (mut visits, _) = greetings(&stage, &PROTOCOLS).await;
        visits.iter_mut().for_each(|visit| visit.truncate(6));
        let session = whole_session(&stage).await;
        let begun = visits.iter().any(|visit| could_be_one_of(&session[..visit.len()], &visits));
        assert!(begun, "{kind:?}: session {:?}, visits {visits:?}", &session[..6]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_as_a_visit_does() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Pour(22, 200_000)).await;
        let Some(stage) = with_bulk(kind, &dc).await else { continue };
        stage.proxy.logged(KNOWN).await;
        let cover = Visit::start(&stage.origin, stage.cover, &[]).await.fetch("/").await;
        assert_eq!(cover.last(), Some(&ALERT), "{kind:?} does not say that it closes");
        let session = whole_session(&stage).await;
        assert_eq!(session.last(), Some(&ALERT), "{kind:?}: {}", summary(&session));
    }
}

/// What the cover sends to visitors who ask for nothing, without and with the answer to their preface. Tickets and how they
/// are joined vary from one to the next.
async fn greetings(stage: &Stage, protocols: &[&str]) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let (mut greetings, mut answered) = (Vec::new(), Vec::new());
    for (pieces, answer) in greetings_in_pieces(stage, protocols).await {
        greetings.push(pieces.concat());
        answered.push([pieces.concat(), answer].concat());
    }
    (greetings, answered)
}

async fn greetings_in_pieces(stage: &Stage, protocols: &[&str]) -> Vec<(Vec<Vec<usize>>, Vec<usize>)> {
    let mut visits = Vec::new();
    for _ in 0..VISITS {
        let visit = Visit::start(&stage.origin, stage.cover, protocols).await;
        visits.push(tokio::spawn(visit.greeting()));
    }
    let mut greetings = Vec::new();
    for visit in visits {
        greetings.push(visit.await.expect("no visit panics"));
    }
    greetings
}

/// Tickets leave in one write and settings in another, so they do in a session. A reader that is not quick enough takes two
/// writes for one, the scout of a remote cover among them: what counts is that no write is cut which is whole in visits, and
/// that a session has as many as the scout has heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_in_the_writes_of_a_visit() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Mute).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        stage.proxy.logged(KNOWN).await;
        let visits = greetings_in_pieces(&stage, &PROTOCOLS).await;
        let borders = |pieces: &[Vec<usize>]| -> BTreeSet<usize> {
            (0..pieces.len()).map(|number| pieces[..number].concat().len()).collect()
        };
        let mut visits: BTreeSet<usize> = visits.iter().flat_map(|(pieces, _)| borders(pieces)).collect();
        let heard = most_writes(&stage);
        let mut sessions = Vec::new();
        for _ in 0..TRIES {
            let mut session = enter(&stage).await;
            let mut pieces = Vec::new();
            while let Ok(Ok(piece)) = tokio::time::timeout(PAUSE, session.down.piece()).await {
                pieces.push(piece);
            }
            let own = borders(&pieces);
            if !own.is_subset(&visits) {
                let more = greetings_in_pieces(&stage, &PROTOCOLS).await;
                visits.extend(more.iter().flat_map(|(pieces, _)| borders(pieces)));
            }
            assert!(own.is_subset(&visits), "{kind:?}: {own:?}, visits {visits:?}");
            sessions.push(own.len());
            if own.len() == heard {
                break;
            }
        }
        assert_eq!(sessions.last(), Some(&heard), "{kind:?}: {sessions:?}");
    }
}

/// How many writes the scout has heard at most of what comes behind a Finished.
fn most_writes(stage: &Stage) -> usize {
    let file = std::fs::read(stage.state.path().join("cover-profile.json")).expect("a profile");
    let profile: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    let greetings = profile["profile"]["visit"]["greetings_http2"].as_array().expect("greetings");
    let counts = greetings.iter().map(|greeting| greeting["writes"].as_array().expect("writes").len());
    counts.max().expect("one at least")
}

/// How many downloads may be written at another pace than visits.
const DOWNLOADS: usize = 4;

/// How many sessions may have two writes read as one.
const TRIES: usize = 20;

/// How far a cover is away, one way.
const AWAY: Duration = Duration::from_millis(60);

/// A session is greeted as late as a visitor of a cover that is far away, and what its client says is not held up by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_greeted_when_a_visitor_would_be() {
    let (origin, uploads, dc) = (Origin::make(), Sink::start().await, MockDc::start(Role::Echo).await);
    let Some(nginx) = Nginx::start(&origin, uploads.addr).await else { return };
    let far = far_away(nginx.addr, &Arc::new(AtomicU64::new(AWAY.as_millis() as u64))).await;
    let state = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::new(state.path(), &far.to_string()).usual(&KEY).dc(2, dc.addr);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
    proxy.logged(KNOWN).await;
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut session = login.enter(proxy.addr).await.expect("the proxy admits");
    let since = Instant::now();
    session.up.packet(&[7; 40]).await.expect("the proxy takes it");
    session.up.packet(&[8; 40]).await.expect("the proxy takes it");
    session.down.record().await.expect("a greeting");
    let greeted = since.elapsed();
    assert!(greeted >= 2 * AWAY - Duration::from_millis(5), "greeted after {greeted:?}");
    for packet in [7, 8] {
        assert_eq!(session.down.frame().await, Ok(Frame::Packet(vec![packet; 40])));
    }
}

/// The way to the cover has become longer since visits were made, for it is loaded or leads elsewhere now.
#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_follows_the_distance_of_its_own_connection() {
    const LONGER: Duration = Duration::from_millis(250);
    let (origin, uploads, dc) = (Origin::make(), Sink::start().await, MockDc::start(Role::Echo).await);
    let Some(nginx) = Nginx::start(&origin, uploads.addr).await else { return };
    let away = Arc::new(AtomicU64::new(10));
    let far = far_away(nginx.addr, &away).await;
    let state = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::new(state.path(), &far.to_string()).usual(&KEY).dc(2, dc.addr);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
    proxy.logged(KNOWN).await;
    away.store(LONGER.as_millis() as u64, Ordering::SeqCst);
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut session = login.enter(proxy.addr).await.expect("the proxy admits");
    let since = Instant::now();
    session.up.packet(&[7; 40]).await.expect("the proxy takes it");
    session.down.record().await.expect("a greeting");
    let greeted = since.elapsed();
    assert!(greeted >= 2 * LONGER - Duration::from_millis(5), "greeted after {greeted:?}");
    assert_eq!(session.down.frame().await, Ok(Frame::Packet(vec![7; 40])));
    // Nor does what ends the session draw an answer sooner.
    let since = Instant::now();
    session.up.finish().await.expect("the proxy is there");
    assert_eq!(session.down.end().await, End::Fin);
    let ended = since.elapsed();
    assert!(ended >= 2 * LONGER - Duration::from_millis(100), "ended after {ended:?}");
}

/// A way to a server on which everything takes so many milliseconds.
async fn far_away(server: SocketAddr, away: &Arc<AtomicU64>) -> SocketAddr {
    let away = Arc::clone(away);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(server).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(late(near_in, far_out, Arc::clone(&away)));
            tokio::spawn(late(far_in, near_out, Arc::clone(&away)));
        }
    });
    addr
}

async fn late(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, away: Arc<AtomicU64>) {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let due = tokio::time::Instant::now() + Duration::from_millis(away.load(Ordering::SeqCst));
            let _ = tell.send((due, bytes[..count].to_vec()));
        }
        // The end takes as long as everything.
        tokio::time::sleep(Duration::from_millis(away.load(Ordering::SeqCst))).await;
    });
    while let Some((due, bytes)) = told.recv().await {
        tokio::time::sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Whether each record has a size that some visit of as many records had in its place.
fn could_be_one_of(sizes: &[usize], visits: &[Vec<usize>]) -> bool {
    let alike: Vec<_> = visits.iter().filter(|visit| visit.len() == sizes.len()).collect();
    !alike.is_empty() && (0..sizes.len()).all(|place| alike.iter().any(|visit| visit[place] == sizes[place]))
}

/// A stage whose cover has a file as large as the download.
async fn with_bulk(kind: Kind, dc: &MockDc) -> Option<Stage> {
    let origin = Origin::make();
    std::fs::write(origin.folder().join("bulk.bin"), Dice::new(20).bytes(BULK)).expect("writes the file");
    // A site without anything large teaches nothing of how it cuts what is large.
    std::fs::write(origin.folder().join("index.html"), format!("{PAGE}<a href=\"/bulk.bin\">all of it</a>\n"))
        .expect("writes the page");
    Stage::with(kind, origin, |setup| setup.usual(&KEY).dc(2, dc.addr)).await
}

/// Enters, and says something so that the data centre answers.
async fn enter(stage: &Stage) -> Session {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut session = login.enter(stage.proxy.addr).await.expect("the proxy admits");
    session.up.packet(b"go on").await.expect("the proxy takes it");
    session
}

/// Sizes of all records behind the first flight, until the proxy's FIN, for a client at the end of a slow line.
async fn whole_session(stage: &Stage) -> Vec<usize> {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let (stream, flight) = login.greet(stage.proxy.addr).await.expect("the proxy admits");
    narrow(&stream);
    let mut session = login.session(stream, flight);
    session.up.packet(b"go on").await.expect("the proxy takes it");
    while session.down.sizes.iter().sum::<usize>() < SLOW_FROM {
        session.down.record().await.expect("more to come");
    }
    tokio::time::sleep(SLOW_FOR).await;
    let (_, end) = crate::support::take_all(&mut session).await;
    assert_eq!(end, End::Fin);
    session.down.sizes
}

type Shares = BTreeMap<usize, f64>;

fn shares(sizes: &[usize]) -> Shares {
    let mut shares = Shares::new();
    for size in sizes {
        *shares.entry(*size).or_default() += 1.0 / sizes.len() as f64;
    }
    shares
}

/// Total variation distance between two histograms of sizes.
fn distance(one: &[usize], other: &[usize]) -> f64 {
    let (one, other) = (shares(one), shares(other));
    let sizes: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let share = |of: &Shares, size| of.get(size).copied().unwrap_or_default();
    sizes.into_iter().map(|size| (share(&one, size) - share(&other, size)).abs()).sum::<f64>() / 2.0
}

/// The most frequent sizes with their shares, and the first and last records.
fn summary(sizes: &[usize]) -> String {
    let mut most: Vec<_> = shares(sizes).into_iter().collect();
    most.sort_by(|one, other| other.1.total_cmp(&one.1));
    most.truncate(6);
    let shown: Vec<_> = most.iter().map(|(size, share)| format!("{size}: {:.1} %", share * 100.0)).collect();
    let (first, last) = (&sizes[..sizes.len().min(8)], &sizes[sizes.len().saturating_sub(3)..]);
    format!("{} records, {}; first {first:?}, last {last:?}", sizes.len(), shown.join(", "))
}

#[test]
fn distances_are_those_of_the_shares() {
    assert_eq!(distance(&[1, 1, 2, 2], &[2, 2, 1, 1]), 0.0);
    assert_eq!(distance(&[1], &[2, 3]), 1.0);
    assert_eq!(distance(&[1, 1, 1, 2], &[1, 2]), 0.25);
}
