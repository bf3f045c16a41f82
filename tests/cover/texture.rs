//! What an admitted session looks like from outside once the first flight is over: its records come in the number and
//! sizes that the cover itself would send to such a visitor, from the first to the last.
//!
//! Each test measures the cover first, by a real TLS client, and then a session through the proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{Origin, PAGE};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::tap::{SLOW_FOR, SLOW_FROM, Visit, narrow};
use crate::support::turn;

/// As every captured hello of a client offers them.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// What is downloaded, from the cover and through the proxy.
const BULK: usize = 20 << 20;

/// How far the shares of record sizes may be apart: 0 is the same, 1 has nothing in common.
const FAR: f64 = 0.05;

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
    let cover = Visit::start(&stage.origin, stage.cover, &PROTOCOLS).await.fetch("/bulk.bin").await;
    let session = whole_session(&stage).await;
    let apart = distance(&cover, &session);
    let shown = format!("cover   {}\nsession {}", summary(&cover), summary(&session));
    assert!(apart < FAR, "{kind:?}: {apart:.3} apart\n{shown}");
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
    let visits = greetings(&stage).await;
    assert!(!visits[0].is_empty(), "{kind:?} sends nothing after its handshake");
    let mut session = enter(&stage).await;
    while tokio::time::timeout(PAUSE, session.down.record()).await.is_ok() {}
    let sizes = &session.down.sizes;
    assert!(could_be_one_of(sizes, &visits), "{kind:?}: session {sizes:?}, visits {visits:?}");
    assert_eq!((session.down.frames.next(), session.down.frames.rest().len()), (None, 0), "fillers only, and whole");
}

/// Nobody has to wait for a round of visits.
#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_session_begins_as_a_visit_does() {
    for kind in BOTH {
        let dc = MockDc::start(Role::Mute).await;
        let Some(stage) = Stage::with_dc(kind, &dc).await else { continue };
        let mut session = enter(&stage).await;
        session.down.record().await.expect("a filler");
        while tokio::time::timeout(PAUSE, session.down.record()).await.is_ok() {}
        let (sizes, visits) = (&session.down.sizes, greetings(&stage).await);
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
        let mut visits = greetings(&stage).await;
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

/// What the cover sends to visitors who ask for nothing. Tickets and how they are joined vary from one to the next.
async fn greetings(stage: &Stage) -> Vec<Vec<usize>> {
    let mut visits = Vec::new();
    for _ in 0..VISITS {
        let visit = Visit::start(&stage.origin, stage.cover, &PROTOCOLS).await;
        visits.push(tokio::spawn(visit.greeting()));
    }
    let mut greetings = Vec::new();
    for visit in visits {
        greetings.push(visit.await.expect("no visit panics"));
    }
    greetings
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
    let sizes: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
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
