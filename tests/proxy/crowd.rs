//! A thousand users, and strangers who send hellos as fast as they like: anyone who may enter does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::fake_tls::Login;
use crate::support::hello::{Key, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::scrape::{Numbers, at, scrape, sum, until};
use crate::support::stage::{Kind, Stage};
use crate::support::turn;
use data_encoding::HEXLOWER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

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
    crowded(Kind::Site, USERS, dc).await.expect("the site needs nothing installed")
}

/// The same in front of this cover, with so many users; `None` where it is not installed.
async fn crowded(kind: Kind, users: u16, dc: &MockDc) -> Option<Stage> {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let user =
        |n| format!("[[users]]\nname = \"user{n}\"\nsecret = \"{}\"\nmax_sessions = 20\n", HEXLOWER.encode(&key(n)));
    let users: String = (0..users).map(user).collect();
    let stage = Stage::with(kind, origin, |setup| {
        let known = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, format!("{known}[telegram]\nwarm = 0\n[admin]\n{users}"))
            .expect("writes the configuration");
        let setup = if kind == Kind::Site { setup } else { setup.arg("--config", file.display()) };
        setup.domain(NAME).dc(2, dc.addr)
    });
    let stage = stage.await?;
    stage.proxy.logged("\"admin listener\"").await;
    Some(stage)
}

/// A hello like those of real clients, under a key that no one has.
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
    const AT_ONCE: u64 = 500;
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
    const AT_ONCE: u64 = 500;
    /// What a rush may leave behind if every one leaves it: half a KiB for each connection.
    const KEPT: f64 = 256e3;
    /// What three of them may leave behind in any case.
    const MOST: f64 = 24e6;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(&dc).await;
    let state = stage.state.path();
    // What is opened once and kept, such as a file or a database, is open afterwards.
    enter(&stage, 2).await;
    let over = |n: &Numbers| sum(n, "vizard_connections_open") == 0.0;
    let quiet = until(state, "quiet", over).await;
    let mut after = vec![quiet.clone()];
    for round in 1..=5 {
        let mut strangers = Vec::new();
        for _ in 0..AT_ONCE {
            strangers.push(junk(&stage).await);
        }
        let all = (round * AT_ONCE) as f64;
        let during = until(state, "all were declined", |n| declined(n) == all).await;
        assert!(at(&during, OPEN) >= AT_ONCE as f64 && at(&during, FDS) > AT_ONCE as f64, "all are there: {during:#?}");
        drop(strangers);
        // What sessions before have left closes in between, and visits of the proxy itself come and go.
        after.push(until(state, "all over", |n| over(n) && at(n, FDS) <= at(&quiet, FDS) + 20.0).await);
    }
    assert_eq!(
        at(&after[5], "vizard_replay_entries"),
        at(&quiet, "vizard_replay_entries"),
        "none of them is remembered"
    );
    let memory = after.iter().map(|numbers| at(numbers, "process_resident_memory_bytes")).collect::<Vec<_>>();
    // What is lost is lost every time; an allocator keeps more now and then.
    let least = memory[1..].windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    assert!(least <= KEPT && memory[5] <= memory[2] + MOST, "memory grows with every rush: {memory:?}");
    enter(&stage, 10).await;
    assert_eq!(sum(&scrape(state).await, "vizard_admissions_total"), 12.0);
}

const FDS: &str = "process_open_fds";
const OPEN: &str = "vizard_connections_open{state=\"visitor\"}";

/// The hello with an extension behind its others that makes it this long.
fn lengthened(record: &[u8], length: usize) -> Vec<u8> {
    let (mut record, more) = (record.to_vec(), length - record.len());
    record.extend([0x00, 21]);
    record.extend(((more - 4) as u16).to_be_bytes());
    record.resize(length, 0);
    let suites = 44 + usize::from(record[43]);
    let compression = suites + 2 + usize::from(u16::from_be_bytes([record[suites], record[suites + 1]]));
    let extensions = compression + 1 + usize::from(record[compression]);
    for (at, rest) in [(3, 5), (7, 9), (extensions, extensions + 2)] {
        record[at..at + 2].copy_from_slice(&((length - rest) as u16).to_be_bytes());
    }
    record
}

/// A connection from this address of the loopback network.
async fn connect_from(source: [u8; 4], proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((source, 0))).expect("an address of this machine");
    socket.connect(proxy).await.expect("the proxy listens")
}

/// Strangers who send hellos of any size as fast as many phones would, from one address and from as many as they like, as
/// long as users come from elsewhere: all of these enter, soon.
#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_hellos_in_a_second_keep_none_of_a_thousand_users_out() {
    const RATE: u32 = 400;
    /// Logins of which each one has to succeed, one after the other, while the strangers come.
    const LOGINS: u16 = 30;
    /// More than enough on a machine that does other things too; without a bound on searches each login takes longer than
    /// the one before.
    const MOST: Duration = Duration::from_secs(20);
    let _turn = turn().await;
    let dc = MockDc::start(Role::Echo).await;
    let stage = stage(&dc).await;
    let whole = login([0xee; 16]).wire;
    for many in [false, true] {
        let (done, begun) = (AtomicBool::new(false), Instant::now());
        let flood = async {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / RATE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut sent, mut open) = (0_u32, Vec::new());
            while !done.load(Ordering::Relaxed) || sent < RATE {
                pace.tick().await;
                let [_, a, b, c] = sent.to_be_bytes();
                let source = if many { [127, 1 + a, 1 + b, c | 1] } else { [127, 0, 0, 9] };
                let mut stream = connect_from(source, stage.proxy.addr).await;
                let mut hello = lengthened(&whole, [1900, 2500, 4000, 8100, 16_000][sent as usize % 5]);
                hello[11..43].fill_with(rand::random);
                stream.write_all(&hello).await.expect("it is read");
                // Some stay for the answer; on a slow machine not all of them.
                if open.len() == 1000 {
                    open.clear();
                }
                open.push(stream);
                sent += 1;
            }
            sent
        };
        let users = async {
            let mut longest = Duration::ZERO;
            for n in 0..LOGINS {
                let (begun, user) = (Instant::now(), n * 37 % USERS);
                let login = login(key(user));
                let entering = tokio::time::timeout(MOST, login.enter(stage.proxy.addr));
                let session = entering.await.unwrap_or_else(|_| panic!("user{user} waits in vain"));
                let mut session = session.unwrap_or_else(|why| panic!("user{user} was kept out: {why:?}"));
                session.echo(&[7; 400]).await.expect("the session works");
                longest = longest.max(begun.elapsed());
            }
            done.store(true, Ordering::Relaxed);
            longest
        };
        let (sent, longest) = tokio::join!(flood, users);
        eprintln!("{sent} hellos in {:?}, many sources: {many}, longest login {longest:?}", begun.elapsed());
    }
    let entered = sum(&scrape(stage.state.path()).await, "vizard_admissions_total");
    assert_eq!(entered, f64::from(2 * LOGINS));
}

/// A form of a hello: what is changed in one that could be a client's.
type Form = (&'static str, fn(&mut Vec<u8>));

/// So many of them have the same length.
const SAME_LENGTH: usize = 4;

/// The first is a hello that could be a client's, and so is the control.
const FORMS: [Form; 6] = [
    ("usual", |_| {}),
    ("control", |_| {}),
    ("record version", |hello| hello[2] = 0),
    ("session id", |hello| {
        hello.remove(75);
        hello[43] = 31;
        let length = hello.len();
        for (at, rest) in [(3, 5), (7, 9)] {
            hello[at..at + 2].copy_from_slice(&((length - rest) as u16).to_be_bytes());
        }
    }),
    ("length", |hello| *hello = lengthened(hello, 2500)),
    ("beyond clients", |hello| *hello = lengthened(hello, 5000)),
];

/// How long each form of hello waits for the first byte, in turns.
async fn times(stage: &Stage, samples: usize) -> [Vec<f64>; FORMS.len()] {
    let mut times = FORMS.map(|_| Vec::new());
    for _ in 0..samples {
        for ((_, change), times) in FORMS.iter().zip(&mut times) {
            let mut hello = login([0xee; 16]).wire;
            change(&mut hello);
            let mut stream = TcpStream::connect(stage.proxy.addr).await.expect("the proxy listens");
            let begun = Instant::now();
            stream.write_all(&hello).await.expect("it is read");
            let mut first = [0; 1];
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut first));
            // Some covers end the connection without an answer; that has its time, too.
            let _ = read.await.expect("an answer or an end");
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    times
}

/// The largest distance of two empirical distributions (Kolmogorov and Smirnov).
fn distance(one: &[f64], other: &[f64]) -> f64 {
    let share = |all: &[f64], at: f64| all.iter().filter(|time| **time <= at).count() as f64 / all.len() as f64;
    let at = |time: &f64| (share(one, *time) - share(other, *time)).abs();
    one.iter().chain(other).map(at).fold(0.0, f64::max)
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_the_first_answer_does_not_tell_the_form_of_a_hello() {
    const SAMPLES: usize = 60;
    /// Chance exceeds this once in a hundred thousand comparisons of so many samples.
    const MOST: f64 = 0.5;
    let _turn = turn().await;
    let dc = MockDc::start(Role::Echo).await;
    for (kind, users) in [(Kind::Site, 1), (Kind::Site, USERS), (Kind::Nginx, USERS)] {
        let Some(stage) = crowded(kind, users, &dc).await else { continue };
        let times = times(&stage, SAMPLES).await;
        let (same, longer) = times.split_at(SAME_LENGTH);
        for ((form, _), other) in FORMS.iter().zip(same) {
            let distance = distance(&times[0], other);
            assert!(distance < MOST, "{form} in front of {kind:?} with {users} users: {distance}");
        }
        // A longer hello takes any server a little longer, but not the time of another search.
        for ((form, _), other) in FORMS[SAME_LENGTH..].iter().zip(longer) {
            let ratio = median(other) / median(&times[0]);
            assert!((0.5..2.0).contains(&ratio), "{form} in front of {kind:?} with {users} users: {ratio}");
        }
    }
}
