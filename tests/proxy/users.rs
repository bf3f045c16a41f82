//! Users with limits: anyone who may not enter meets the cover, whatever the reason; what may be moved is moved and no more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, Refused, Session, read_flight};
use crate::support::hello::{Key, capture};
use crate::support::mock_dc::{MockDc, Role, synthetic};
use crate::support::origin::{NAME, Origin};
use crate::support::stage::{Kind, Stage};
use crate::support::vizard::Setup;
use crate::support::{corpus, take_all};
use data_encoding::HEXLOWER;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use vizard::audit::compare::{self, AT_ONCE, Plan, ROUNDS};
use vizard::audit::probe::Subject;
use vizard::auth::Secret;
use vizard::config::edit::{self, Changes};
use vizard::ops::usage;

const MB: u64 = 1_000_000;

/// A user with a key made of this byte.
fn user(byte: u8, more: &str) -> String {
    format!("\n[[users]]\nname = \"user{byte}\"\nsecret = \"{}\"\n{more}\n", HEXLOWER.encode(&[byte; 16]))
}

/// The built-in site with these users, and the configuration file.
async fn stage(dc: &MockDc, users: &str) -> (Stage, PathBuf) {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let arrange = |setup: Setup| {
        let text = std::fs::read_to_string(&file).expect("the configuration") + users;
        std::fs::write(&file, text).expect("writes the configuration");
        setup.domain(NAME).dc(2, dc.addr)
    };
    let stage = Stage::with(Kind::Site, origin, arrange).await.expect("the site needs nothing installed");
    (stage, file)
}

fn login(byte: u8) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), [byte; 16], &mut Dice::unseen())
}

/// The same from another address of this machine.
async fn enter_from(address: &str, login: Login, proxy: SocketAddr) -> Result<Session, Refused> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("a loopback address");
    let mut stream = socket.connect(proxy).await.expect("the proxy listens");
    stream.write_all(&login.wire).await.expect("it is read");
    let flight = read_flight(&mut stream, &login.key, &login.random).await?;
    Ok(login.session(stream, flight))
}

/// What a prober sees who has the user's very key, compared with what the cover shows.
async fn looks_like_the_cover(stage: &Stage, key: Key) {
    let probes: Vec<_> = corpus::all()
        .into_iter()
        .filter(|probe| probe.name.starts_with("class tdlib-1.8.69-1.bin by Us") || probe.name.starts_with("tdlib and"))
        .collect();
    assert!(probes.len() >= 8, "the corpus has other names now");
    let subject = Subject { key, name: NAME.to_owned(), dc: 2 };
    let lineup = stage.lineup(Duration::from_secs(4));
    let plan = Plan { subject, lineup, seed: Dice::unseen().number(), rounds: ROUNDS, at_once: AT_ONCE };
    let _quiet = crate::support::quiet().await;
    let found = compare::compare(probes, &plan, |_| {}).await.differences;
    assert!(found.is_empty(), "key {key:?}: {found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_enter_meets_the_cover() {
    let dc = MockDc::start(Role::Echo).await;
    let old = format!("previous_secret = \"{}\"\nprevious_until = \"2020-01-01\"", HEXLOWER.encode(&[58; 16]));
    let users = [
        user(50, ""),
        user(51, "enabled = false"),
        user(52, "expires = 2020-01-01"),
        user(53, "deny = [\"127.0.0.0/8\"]"),
        user(54, "allow = [\"192.0.2.0/24\"]"),
        user(55, "max_sessions = 1"),
        user(56, "max_addresses = 1"),
        user(57, "quota = \"1MB/month\""),
        user(59, &old),
    ];
    let (stage, _) = stage(&dc, &users.concat()).await;
    let proxy = stage.proxy.addr;

    let mut places = vec![
        login(55).enter(proxy).await.expect("the first session"),
        enter_from("127.0.0.2", login(56), proxy).await.expect("the first address"),
    ];
    for session in &mut places {
        session.echo(b"I stay").await.unwrap();
    }
    enter_from("127.0.0.2", login(56), proxy).await.expect("an address that is known");
    let mut greedy = login(57).enter(proxy).await.expect("a whole quota");
    while greedy.echo(&[1; 20_000]).await.is_ok() {}

    let refused = [
        (51, "disabled"),
        (52, "expired"),
        (53, "denied_network"),
        (54, "other_network"),
        (55, "sessions"),
        (56, "addresses"),
        (57, "quota"),
    ];
    for (byte, reason) in refused {
        let outcome = login(byte).enter(proxy).await.map(|_| ());
        assert_eq!(outcome, Err(Refused::Digest), "{reason}");
        stage.proxy.logged(&format!("refused: {reason}")).await;
        looks_like_the_cover(&stage, [byte; 16]).await;
    }
    // A secret whose time is over is no one's.
    assert_eq!(login(58).enter(proxy).await.map(|_| ()), Err(Refused::Digest));
    looks_like_the_cover(&stage, [58; 16]).await;
    // A hello that was refused is spent: a new one enters as soon as there is a place, and the old one never.
    let refused = login(55);
    assert_eq!(refused.enter(proxy).await.map(|_| ()), Err(Refused::Digest));
    places.remove(0).reset();
    while login(55).enter(proxy).await.is_err() {}
    assert_eq!(refused.enter(proxy).await.map(|_| ()), Err(Refused::Digest));
    for byte in [50, 59] {
        login(byte).enter(proxy).await.expect("a user").echo(b"I may").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_good_until_its_time_is_over_and_a_strangers_then() {
    let dc = MockDc::start(Role::Echo).await;
    let (stage, file) = stage(&dc, &user(65, "")).await;
    let mut inside = login(65).enter(stage.proxy.addr).await.expect("a user");
    inside.echo(b"for now").await.unwrap();
    let soon = SystemTime::now() + Duration::from_secs(3);
    edit::rotate(&file, "user65", &Secret::new([66; 16]), soon.into()).unwrap();
    stage.proxy.logged("user user65 changed").await;
    login(66).enter(stage.proxy.addr).await.expect("the new one").echo(b"for long").await.unwrap();
    // The session ends when the time of its secret is over, and the secret has left the search by then.
    assert_eq!(inside.down.end().await, End::Fin);
    assert!(SystemTime::now() >= soon - Duration::from_secs(1));
    assert_eq!(login(65).enter(stage.proxy.addr).await.map(|_| ()), Err(Refused::Digest));
    looks_like_the_cover(&stage, [65; 16]).await;
    assert!(!stage.proxy.log().iter().any(|line| line.contains("refused: old_secret")));
    login(66).enter(stage.proxy.addr).await.expect("the new one").echo(b"for long").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_soon_when_their_user_may_not_be_inside_any_more() {
    let dc = MockDc::start(Role::Echo).await;
    let users: String = (60..=64).map(|byte| user(byte, "")).collect();
    let (stage, file) = stage(&dc, &users).await;
    let mut sessions = BTreeMap::new();
    for byte in 60..=64 {
        let mut session = login(byte).enter(stage.proxy.addr).await.expect("a user");
        session.echo(b"for now").await.unwrap();
        sessions.insert(byte, session);
    }
    edit::disable(&file, "user60").unwrap();
    edit::remove(&file, "user61").unwrap();
    let change =
        |changes: Changes, name| edit::change(&file, name, &changes, || unreachable!("no one is moved")).unwrap();
    change(Changes { expires: Some("2020-01-01".into()), ..Changes::default() }, "user62");
    change(Changes { deny: Some(vec!["127.0.0.1".into()]), ..Changes::default() }, "user63");
    for byte in 60..=63 {
        let mut session = sessions.remove(&byte).expect("it is there");
        assert_eq!(session.down.end().await, End::Fin, "user{byte}");
        assert_eq!(login(byte).enter(stage.proxy.addr).await.map(|_| ()), Err(Refused::Digest), "user{byte}");
    }
    looks_like_the_cover(&stage, [61; 16]).await;
    sessions.remove(&64).expect("it is there").echo(b"no one meant me").await.unwrap();
}

/// Echoes packets until the session ends or so much has been moved both ways; says how much that was.
async fn move_some(session: &mut Session, enough: u64) -> u64 {
    const PACKET: usize = 10_000;
    let mut moved = 0;
    while moved < enough && session.echo(&[1; PACKET]).await.is_ok() {
        moved += 2 * PACKET as u64;
    }
    moved
}

fn written(state: &Path, name: &str) -> vizard::auth::Usage {
    usage::read(state).expect("the file")[name]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_kept_to_the_hundredth_over_a_kill() {
    const QUOTA: u64 = 20 * MB;
    let dc = MockDc::start(Role::Echo).await;
    let (stage, _) = stage(&dc, &user(70, "quota = \"20MB\"")).await;
    let Stage { mut proxy, setup, state, origin: _files, .. } = stage;
    let mut moved = 0;
    for _ in 0..2 {
        let mut session = login(70).enter(proxy.addr).await.expect("some of the quota is left");
        moved += move_some(&mut session, 6 * MB).await;
        proxy.kill();
        let kept = written(state.path(), "user70").in_period;
        assert!(kept >= moved && kept <= moved + moved / 200 + QUOTA / 100, "{kept} for {moved}");
        proxy = start(setup.clone()).await;
    }
    let mut session = login(70).enter(proxy.addr).await.expect("some of the quota is left");
    moved += move_some(&mut session, u64::MAX).await;
    // Headers of records and frames count too: less than half a hundredth.
    assert!((QUOTA - QUOTA / 50..=QUOTA).contains(&moved), "{moved}");
    assert_eq!(login(70).enter(proxy.addr).await.map(|_| ()), Err(Refused::Digest));
}

async fn start(setup: Setup) -> crate::support::vizard::Vizard {
    tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_keeps_what_everybody_has_moved() {
    let dc = MockDc::start(Role::Echo).await;
    let (stage, _) = stage(&dc, &[user(80, ""), user(81, "quota = \"1GB/week\"")].concat()).await;
    let since = SystemTime::now();
    for byte in [80, 81] {
        let mut session = login(byte).enter(stage.proxy.addr).await.expect("a user");
        session.echo(&[1; 300_000]).await.unwrap();
        session.up.finish().await.unwrap();
        assert_eq!(session.down.end().await, End::Fin);
    }
    let Stage { proxy, state, .. } = stage;
    tokio::task::spawn_blocking(move || proxy.terminate()).await.unwrap();
    for name in ["user80", "user81"] {
        let usage = written(state.path(), name);
        for bytes in [usage.up, usage.down, usage.in_period / 2] {
            // What came along with the header counts as well.
            assert!((300_000..303_000).contains(&bytes), "{name}: {usage:?}");
        }
        assert!(usage.since.is_some_and(|start| start >= since.into()), "{name}: {usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_user_gets_everything_and_not_faster_than_allowed() {
    let dc = MockDc::start(Role::Pour(9, 2_000_000)).await;
    let limits = "bandwidth_down = \"8Mbit\"\nbandwidth_up = \"1MB/s\"\nquota = \"1GB\"";
    let (stage, _) = stage(&dc, &user(90, limits)).await;
    let since = Instant::now();
    let mut session = login(90).enter(stage.proxy.addr).await.expect("a user");
    session.up.packet(b"go on").await.unwrap();
    assert_eq!(take_all(&mut session).await, (synthetic(9, 2_000_000), End::Fin));
    assert!(since.elapsed() >= Duration::from_secs(1), "two megabytes in {:?}", since.elapsed());
}
