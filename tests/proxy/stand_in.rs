//! A remote cover that goes away: clients enter all the same, strangers find a dead end.

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, Refused, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Sink};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, OTHER_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    for proxy in [proxy, start(&setup).await] {
        let sessions = enter(&proxy, KEY, &mut dice).await;
        assert_eq!(sessions.len(), 3);
        for session in sessions {
            session.expect("the proxy stands in").echo(&[5; 400]).await.expect("the data centre is there");
        }
        assert!(enter(&proxy, OTHER_KEY, &mut dice).await.iter().all(Result::is_err), "another key");
        let mut stranger = TcpStream::connect(proxy.addr).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
}
