//! A remote cover that accepts connections and then fails: clients enter all the same, strangers meet the failure.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, PATIENCE};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Sink};
use crate::support::scrape::{at, scrape, sum, until};
use crate::support::vizard::Setup;
use crate::support::{KEY, OTHER_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// Ways of a cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// As the server behind it.
    Well,
    Reset,
    Ends,
    Alert,
    Page,
    Hangs,
    /// It resets before anything is said.
    Early,
}

const FAILURES: [Mood; 5] = [Mood::Reset, Mood::Ends, Mood::Alert, Mood::Page, Mood::Hangs];
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];
const PAGE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// How long a stranger waits for the cover: longer than an admitted client does.
const LONG: Duration = Duration::from_secs(4);

/// A server in front of another, whose mood can be set.
struct Moody {
    addr: SocketAddr,
    mood: Arc<AtomicUsize>,
}

const MOODS: [Mood; 7] = [Mood::Well, Mood::Reset, Mood::Ends, Mood::Alert, Mood::Page, Mood::Hangs, Mood::Early];

impl Moody {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, mood) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let set = Arc::clone(&mood);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, MOODS[set.load(Ordering::SeqCst)]));
            }
        });
        Self { addr, mood }
    }

    fn set(&self, mood: Mood) {
        self.mood.store(MOODS.iter().position(|one| *one == mood).unwrap(), Ordering::SeqCst);
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, mood: Mood) -> std::io::Result<()> {
    if mood == Mood::Well {
        let mut server = TcpStream::connect(server).await?;
        return copy_bidirectional(&mut client, &mut server).await.map(|_| ());
    }
    if mood == Mood::Early {
        return client.set_zero_linger();
    }
    // The whole hello, so that the end is no reset unless it is to be one.
    let mut hello = vec![0; 5];
    client.read_exact(&mut hello).await?;
    let length = usize::from(hello[3]) << 8 | usize::from(hello[4]);
    client.read_exact(&mut vec![0; length]).await?;
    match mood {
        Mood::Reset => return client.set_zero_linger(),
        Mood::Alert => client.write_all(ALERT).await?,
        Mood::Page => client.write_all(PAGE).await?,
        Mood::Hangs => sleep(PATIENCE).await,
        _ => {}
    }
    client.shutdown().await
}

/// What a stranger gets, up to the end or for as long as it looks.
async fn met(addr: SocketAddr) -> (Vec<u8>, &'static str) {
    let login = Login::of(capture("tdlib-1.8.69-1"), OTHER_KEY, &mut Dice::unseen());
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(&login.wire).await.unwrap();
    let mut got = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut got)).await;
    let end = match end {
        Err(_) => "silence",
        Ok(Ok(_)) => "end",
        Ok(Err(_)) => "reset",
    };
    (got, end)
}

fn meets(mood: Mood) -> (Vec<u8>, &'static str) {
    match mood {
        Mood::Reset => (Vec::new(), "reset"),
        Mood::Ends => (Vec::new(), "end"),
        Mood::Alert => (ALERT.to_vec(), "end"),
        Mood::Page => (PAGE.to_vec(), "end"),
        _ => (Vec::new(), "silence"),
    }
}

async fn enters(proxy: SocketAddr, name: &'static str, mood: Mood) {
    let login = Login::of(capture(name), KEY, &mut Dice::unseen());
    let entered = timeout(PATIENCE, login.enter(proxy)).await.expect("before the test gives up");
    let mut session = entered.unwrap_or_else(|refused| panic!("{name}, {mood:?}: {refused:?}"));
    session.echo(&[5; 400]).await.expect("the data centre is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_enter_however_the_cover_fails_and_strangers_meet_the_failure() {
    let (origin, uploads, dc) = (Origin::make(), Sink::start().await, MockDc::start(Role::Echo).await);
    let Some(nginx) = Nginx::start(&origin, uploads.addr).await else { return };
    let cover = Moody::start(nginx.addr).await;
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("vizard.toml");
    std::fs::write(&file, "[admin]\n").unwrap();
    let setup = Setup::new(state.path(), &cover.addr.to_string()).arg("--config", file.display());
    let setup = setup.usual(&KEY).dc(2, dc.addr);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    proxy.logged("the cover was visited").await;
    proxy.logged("\"admin listener\"").await;

    enters(proxy.addr, "tdlib-1.8.69-1", Mood::Well).await;
    assert_eq!(sum(&scrape(state.path()).await, "vizard_cover_failures"), 0.0);
    for mood in FAILURES {
        cover.set(mood);
        let ((), (), stranger) = tokio::join!(
            enters(proxy.addr, "tdlib-1.8.69-1", mood),
            enters(proxy.addr, "tdesktop-5.7.2-1", mood),
            met(proxy.addr)
        );
        assert_eq!(stranger, meets(mood), "{mood:?}");
    }
    let numbers = scrape(state.path()).await;
    // On a busy machine any of them may come too late for a client.
    assert_eq!(sum(&numbers, "vizard_cover_failures"), 10.0, "{numbers:#?}");
    assert!(at(&numbers, "vizard_cover_failures_total{cause=\"slow\"}") >= 2.0, "{numbers:#?}");
    assert_eq!(at(&numbers, "vizard_cover_up"), 0.0);
    proxy.logged("the cover accepts connections and has no handshake for clients").await;
    // Commands hear of it from the running proxy: what strangers meet says nothing of those who are admitted.
    assert!(vizard::ops::control::ask_open(state.path()).unwrap().cover_fails);

    cover.set(Mood::Well);
    enters(proxy.addr, "tdlib-1.8.69-1", Mood::Well).await;
    until(state.path(), "up again", |numbers| at(numbers, "vizard_cover_up") > 0.0).await;
    assert!(!vizard::ops::control::ask_open(state.path()).unwrap().cover_fails);

    // No client is let in by a cover that does not wait for a hello, but the operator hears of it.
    cover.set(Mood::Early);
    let mut silent = Vec::new();
    for _ in 0..5 {
        // The reset may be there as soon as the connection is, or, where the cover counts as away, only after a minute.
        silent.push(TcpStream::connect(proxy.addr).await);
    }
    proxy.logged("the cover cannot be reached").await;
    assert_eq!(at(&scrape(state.path()).await, "vizard_cover_up"), 0.0);
}
