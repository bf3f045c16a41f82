//! A thousand users, and strangers who send hellos as fast as they like: whoever may enter does.

use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::Login;
use crate::support::hello::{Key, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::scrape::{Numbers, at, scrape, sum, until};
use crate::support::stage::{Kind, Stage};
use crate::support::turn;
use data_encoding::HEXLOWER;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const USERS: u16 = 1000;

fn key(user: u16) -> Key {
    let mut key = [0x3c; 16];
    key[..2].copy_from_slice(&user.to_be_bytes());
    key
}

fn login(key: Key) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), key, &mut Dice::unseen())
}

/// The built-in site with all these users, and an admin listener.
async fn stage(dc: &MockDc) -> Stage {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let user =
        |n| format!("[[users]]\nname = \"user{n}\"\nsecret = \"{}\"\nmax_sessions = 20\n", HEXLOWER.encode(&key(n)));
    let users: String = (0..USERS).map(user).collect();
    let stage = Stage::with(Kind::Site, origin, |setup| {
        let known = std::fs::read_to_string(&file).expect("the configuration");
        std::fs::write(&file, format!("{known}[telegram]\nwarm = 0\n[admin]\n{users}"))
            .expect("writes the configuration");
        setup.domain(NAME).dc(2, dc.addr)
    });
    let stage = stage.await.expect("the site needs nothing installed");
    stage.proxy.logged("\"admin listener\"").await;
    stage
}

/// A hello like those of real clients, under a key that nobody has.
async fn junk(stage: &Stage) -> TcpStream {
    let mut stream = TcpStream::connect(stage.proxy.addr).await.expect("the proxy listens");
    stream.write_all(&login([0xee; 16]).wire).await.expect("it is read");
    stream
}

fn declined(numbers: &Numbers) -> f64 {
    at(numbers, "vizard_declines_total{reason=\"digest\",refusal=\"\"}")
}

/// So many clients of users all over the list, the first and the last among them, enter one after the other.
async fn enter(stage: &Stage, clients: u16) {
    for n in 0..clients {
        let user = (u32::from(n) * u32::from(USERS - 1) / u32::from(clients - 1)) as u16;
        let entered = login(key(user)).enter(stage.proxy.addr).await;
        let mut session = entered.unwrap_or_else(|why| panic!("user{user} was kept out: {why:?}"));
        session.echo(&[7; 400]).await.expect("the session works");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_bad_hellos_in_a_second_keep_none_of_a_thousand_users_out() {
    let _turn = turn().await;
    const PACED: u64 = 300;
    const AT_ONCE: u64 = 1000;
    const CLIENTS: u16 = 40;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(&dc).await;
    let paced = async {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        let mut sent = Vec::new();
        for _ in 0..PACED {
            pace.tick().await;
            sent.push(junk(&stage).await);
        }
        sent
    };
    let (strangers, ()) = tokio::join!(paced, enter(&stage, CLIENTS));
    let rush = async {
        let mut sent = Vec::new();
        for _ in 0..AT_ONCE {
            sent.push(junk(&stage).await);
        }
        sent
    };
    let (more, ()) = tokio::join!(rush, enter(&stage, CLIENTS));
    let all = (PACED + AT_ONCE) as f64;
    let numbers = until(stage.state.path(), "all were declined", |n| declined(n) == all).await;
    let entered = f64::from(2 * CLIENTS);
    assert_eq!(sum(&numbers, "vizard_admissions_total"), entered, "{numbers:#?}");
    assert_eq!((at(&numbers, "vizard_dc_dials_total{dc=\"2\"}"), at(&numbers, "vizard_users")), (entered, 1000.0));
    assert_eq!(at(&numbers, "vizard_connections_open{state=\"visitor\"}"), all, "they are visitors of the site");
    assert_eq!(at(&numbers, "vizard_connections_total"), all + entered);
    drop((strangers, more));
}

/// As the apps do it, and several of them behind one address.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_open_eighteen_connections_at_once_get_all_of_them() {
    let _turn = turn().await;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(&dc).await;
    let mut entering = JoinSet::new();
    for n in 0..3 * 18 {
        let (proxy, login) = (stage.proxy.addr, login(key(n % 3)));
        entering.spawn(async move {
            let mut session = login.enter(proxy).await.expect("a place inside");
            session.echo(&[7; 400]).await.expect("the session works");
            session
        });
    }
    let sessions = entering.join_all().await;
    let numbers = scrape(stage.state.path()).await;
    assert_eq!(at(&numbers, "vizard_connections_open{state=\"session\"}"), 54.0);
    assert_eq!(at(&numbers, "vizard_user_sessions{user=\"user2\"}"), 18.0);
    drop(sessions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rush_of_bad_hellos_leaves_descriptors_and_memory_as_they_were() {
    let _turn = turn().await;
    const AT_ONCE: u64 = 1000;
    /// Of what a thousand connections took, an allocator keeps some, and of the second thousand perhaps more.
    const KEPT: f64 = 8e6;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(&dc).await;
    let state = stage.state.path();
    // What is opened once and kept, such as a file or a database, is open afterwards.
    enter(&stage, 2).await;
    let over = |n: &Numbers| sum(n, "vizard_connections_open") == 0.0;
    let quiet = until(state, "quiet", over).await;
    let mut after = Vec::new();
    for round in 1..=5 {
        let mut strangers = Vec::new();
        for _ in 0..AT_ONCE {
            strangers.push(junk(&stage).await);
        }
        let all = (round * AT_ONCE) as f64;
        let during = until(state, "all were declined", |n| declined(n) == all).await;
        assert!(at(&during, FDS) >= at(&quiet, FDS) + AT_ONCE as f64, "they are all there: {during:#?}");
        drop(strangers);
        after.push(until(state, "all over", |n| over(n) && at(n, FDS) <= at(&quiet, FDS)).await);
    }
    assert_eq!(
        at(&after[4], "vizard_replay_entries"),
        at(&quiet, "vizard_replay_entries"),
        "none of them is remembered"
    );
    let memory = after.iter().map(|numbers| at(numbers, "process_resident_memory_bytes")).collect::<Vec<_>>();
    assert!(memory[4] <= memory[1] + KEPT, "memory grows with every rush: {memory:?}");
    enter(&stage, 10).await;
    assert_eq!(sum(&scrape(state).await, "vizard_admissions_total"), 12.0);
}

const FDS: &str = "process_open_fds";
