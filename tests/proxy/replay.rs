//! A hello enters once: not twice at the same moment, not after a crash, not with another date.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE, Refused, Session, authentic, whole_flight};
use crate::support::hello::{self, RANDOM, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::stage::{BOTH, Kind, Stage};
use tokio::io::AsyncReadExt;
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
    use tokio::io::AsyncWriteExt;
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

/// What a client makes of the cover's own flight.
fn turned_away(kind: Kind) -> Refused {
    if kind.one_record() { Refused::Digest } else { Refused::TooMuch }
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}
