//! A remote cover that goes away: clients enter all the same, strangers find a dead end.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use crate::direct::first_record_is_answered_when_whole;
use crate::replay::second_flight;
use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, PATIENCE, Refused, Session};
use crate::support::hello::{self, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Sink};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, OTHER_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What the log says when the cover's own habits are known.
const KNOWN: &str = "the cover was visited";

async fn start(setup: &Setup) -> Vizard {
    let setup = setup.clone();
    tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts")
}

async fn enter(proxy: &Vizard, key: [u8; 16], dice: &mut Dice) -> Vec<Result<Session, Refused>> {
    let mut outcomes = Vec::new();
    for name in ["tdlib-1.8.69-1", "tdesktop-4.6.5-1", "tdesktop-5.7.2-1"] {
        outcomes.push(Login::of(capture(name), key, dice).enter(proxy.addr).await);
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_enter_while_the_cover_is_away_and_strangers_do_not() {
    let (origin, uploads, dc) = (Origin::make(), Sink::start().await, MockDc::start(Role::Echo).await);
    let Some(nginx) = Nginx::start(&origin, uploads.addr).await else { return };
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::new(state.path(), &nginx.addr.to_string()).usual(&KEY).dc(2, dc.addr);
    let proxy = start(&setup).await;
    proxy.logged(KNOWN).await;
    drop(nginx);

    let mut dice = Dice::unseen();
    // What was learnt is still known after a restart.
    let mut running = Some(proxy);
    for _ in 0..2 {
        // The state directory is free again when the first has ended.
        let proxy = match running.take() {
            Some(proxy) => proxy,
            None => start(&setup).await,
        };
        let sessions = enter(&proxy, KEY, &mut dice).await;
        assert_eq!(sessions.len(), 3);
        for session in sessions {
            session.expect("the proxy stands in").echo(&[5; 400]).await.expect("the data centre is there");
        }
        first_record_is_answered_when_whole(proxy.addr).await;
        assert!(enter(&proxy, OTHER_KEY, &mut dice).await.iter().all(Result::is_err), "another key");
        let mut stranger = TcpStream::connect(proxy.addr).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
}

/// Shows a hello and what may be a header, as far as the proxy goes along; whether that opened a session.
async fn opens(hello: &[u8], second: &[u8], proxy: &Vizard, dc: &MockDc) -> bool {
    let sessions = dc.seen().len();
    let mut stream = TcpStream::connect(proxy.addr).await.expect("connects");
    stream.write_all(hello).await.expect("sends a hello");
    let mut answer = vec![0; 16 << 10];
    let greeted = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer or an end");
    if !matches!(greeted, Ok(1..)) || stream.write_all(second).await.is_err() {
        return dc.seen().len() > sessions;
    }
    let ended = async { while let Ok(1..) = stream.read(&mut answer).await {} };
    tokio::select! {
        () = ended => dc.seen().len() > sessions,
        seen = dc.wait(PATIENCE, |seen| seen.len() > sessions) => seen.len() > sessions,
    }
}

fn hello_of(time: u32) -> Vec<u8> {
    let mut record = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen()).wire;
    hello::sign(&mut record, &KEY, time);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_recorded_enters_while_the_cover_is_away() {
    let (origin, uploads, dc) = (Origin::make(), Sink::start().await, MockDc::start(Role::Echo).await);
    let Some(nginx) = Nginx::start(&origin, uploads.addr).await else { return };
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::new(state.path(), &nginx.addr.to_string()).usual(&KEY).dc(2, dc.addr);
    let proxy = start(&setup).await;
    proxy.logged(KNOWN).await;
    drop(nginx);

    let now = hello::now();
    let late = now - 7 * 3600;
    let (admitted, refused, old) = (hello_of(now), hello_of(late), second_flight(&KEY));
    assert!(opens(&admitted, &old, &proxy, &dc).await, "a session to record");
    assert!(!opens(&refused, &second_flight(&KEY), &proxy, &dc).await, "a clock that is off");
    let followed = hello_of(now);
    assert!(!opens(&[&followed[..], &old].concat(), b"", &proxy, &dc).await, "bytes behind a hello");
    let mut redated = refused.clone();
    hello::redate(&mut redated, late, now);
    for hello in [&admitted, &refused, &redated, &followed] {
        for header in [&old, &second_flight(&OTHER_KEY), &second_flight(&KEY)] {
            assert!(!opens(hello, header, &proxy, &dc).await);
        }
    }
    for header in [&old, &second_flight(&OTHER_KEY)] {
        assert!(!opens(&hello_of(now), header, &proxy, &dc).await);
    }
    assert!(opens(&hello_of(now), &second_flight(&KEY), &proxy, &dc).await, "both are new");
}
