//! The way to Telegram under Telegram's own addresses, in networks where these are this machine's (`support::network`):
//! addresses that refuse, hang, reset and die, machines with one family only, what data centres see of numbers, and
//! connections that stand ready.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE, Session};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::network::{self, Land, command, vanished};
use crate::support::origin::Origin;
use crate::support::scrape::{at, until};
use crate::support::stage::{Kind, Stage};
use crate::support::{KEY, installed};
use tokio::task::JoinSet;

use Land::{Here, Nowhere};

/// Telegram's, by number: IPv4 and IPv6.
const CENTRES: [(i16, &str, &str); 9] = [
    (1, "149.154.175.50", "2001:b28:f23d:f001::a"),
    (2, "149.154.167.51", "2001:67c:4e8:f002::a"),
    (3, "149.154.175.100", "2001:b28:f23d:f003::a"),
    (4, "149.154.167.91", "2001:67c:4e8:f004::a"),
    (5, "149.154.171.5", "2001:b28:f23f:f005::a"),
    (203, "91.105.192.100", "2a0a:f280:203:a:5000::100"),
    (10_001, "149.154.175.10", "2001:b28:f23d:f001::e"),
    (10_002, "149.154.167.40", "2001:67c:4e8:f002::e"),
    (10_003, "149.154.175.117", "2001:b28:f23d:f003::e"),
];

/// The second IPv4 address of data centre 2.
const SECOND: &str = "95.161.76.100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn lands(lands: &[(&str, Land)]) -> Vec<(IpAddr, Land)> {
    lands.iter().map(|(address, land)| (ip(address), *land)).collect()
}

async fn centre(address: &str, role: Role) -> MockDc {
    MockDc::at(SocketAddr::new(ip(address), 443), role).await
}

/// A proxy with an admin listener and these lines in its configuration.
async fn stage(lines: &str) -> Stage {
    let origin = Origin::make();
    let file = origin.path().join("vizard.toml");
    let stage = Stage::with(Kind::Site, origin, |setup| {
        append(&file, &format!("[admin]\n{lines}\n"));
        setup.usual(&KEY)
    });
    let stage = stage.await.expect("the site needs nothing installed");
    stage.proxy.logged("\"admin listener\"").await;
    stage
}

fn append(file: &Path, lines: &str) {
    let known = std::fs::read_to_string(file).expect("the configuration");
    std::fs::write(file, known + lines).expect("writes the configuration");
}

async fn enter(stage: &Stage, dc: i16) -> Session {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen()).dc(dc);
    login.enter(stage.proxy.addr).await.expect("the proxy admits")
}

/// Enters, and hears the echo of one packet; gives the time from the first byte to the answer.
async fn echo(stage: &Stage, dc: i16) -> (Session, Duration) {
    let start = Instant::now();
    let mut session = enter(stage, dc).await;
    session.echo(&[7; 40]).await.unwrap_or_else(|end| panic!("data centre {dc}: {end:?}"));
    (session, start.elapsed())
}

/// Enters, and hears nothing but the end.
async fn in_vain(stage: &Stage, dc: i16) {
    let mut session = enter(stage, dc).await;
    session.up.packet(&[7; 40]).await.expect("the session is open");
    assert_eq!(session.down.end().await, End::Fin, "data centre {dc}");
}

/// Does a test of this file, which has this name, in a network of its own.
fn with_network<F: Future<Output = ()>>(name: &str, addresses: &[(IpAddr, Land)], body: impl FnOnce() -> F) {
    network::with_network(&format!("upstream::{name}"), addresses, body);
}

#[test]
fn an_address_that_hangs_is_waited_for_once() {
    let (_, four, six) = CENTRES[0];
    let name = "an_address_that_hangs_is_waited_for_once";
    with_network(name, &lands(&[(four, Nowhere), (six, Here)]), || async {
        let dc = centre(six, Role::Echo).await;
        // A connection that stands ready would be dialled for, too.
        let stage = stage("[telegram]\nwarm = 0").await;
        assert!(echo(&stage, 1).await.1 >= Duration::from_millis(250));
        assert_eq!(vanished(), 1);
        for number in [1, -1].repeat(10) {
            echo(&stage, number).await;
        }
        assert_eq!((vanished(), dc.seen().len()), (1, 21));
    });
}

#[test]
fn addresses_that_refuse_or_reset_give_way_to_one_that_works() {
    let (_, refuses, resets) = CENTRES[1];
    let name = "addresses_that_refuse_or_reset_give_way_to_one_that_works";
    with_network(name, &lands(&[(refuses, Here), (resets, Here), (SECOND, Here)]), || async {
        let (resetting, working) = (centre(resets, Role::Abort).await, centre(SECOND, Role::Echo).await);
        let stage = stage("").await;
        in_vain(&stage, 2).await;
        let broke = "vizard_relay_ends_total{relay=\"session\",by=\"far_broke\"}";
        until(stage.state.path(), "the session is over", |numbers| at(numbers, broke) == 1.0).await;
        assert_eq!((resetting.seen().len(), working.seen().len()), (1, 0));
        for number in [2, -2].repeat(5) {
            echo(&stage, number).await;
        }
        assert_eq!((resetting.seen().len(), working.seen().len()), (1, 10));
    });
}

#[test]
fn an_address_whose_sessions_die_is_not_blamed_for_it() {
    let (_, four, six) = CENTRES[3];
    let name = "an_address_whose_sessions_die_is_not_blamed_for_it";
    with_network(name, &lands(&[(four, Here), (six, Here)]), || async {
        let (dying, other) = (centre(four, Role::Die).await, centre(six, Role::Echo).await);
        let stage = stage("").await;
        for _ in 0..3 {
            let mut session = enter(&stage, 4).await;
            session.up.packet(&[7; 40]).await.expect("the session is open");
            assert_eq!(session.down.end().await, End::Fin);
        }
        assert_eq!((dying.seen().len(), other.connections().0), (3, 0));
    });
}

/// All numbers, where only one family has a way out; the other ends at once.
async fn every_number_reaches_its_own(addresses: [(i16, &str); 9]) {
    let mut centres = Vec::new();
    for (number, address) in addresses {
        centres.push((number, centre(address, Role::Echo).await));
    }
    let stage = stage("").await;
    for (number, dc) in &centres {
        for signed in [*number, -number] {
            echo(&stage, signed).await;
            assert_eq!(dc.seen().last().map(|seen| seen.dc), Some(signed));
        }
        assert_eq!(dc.seen().len(), 2, "no one else comes to {number}");
    }
    let before: Vec<_> = centres.iter().map(|(_, dc)| dc.seen().len()).collect();
    for unknown in [6, 202, -6, 10_004, -10_004, 9999, i16::MIN] {
        in_vain(&stage, unknown).await;
    }
    let unknown = "vizard_dc_dial_failures_total{dc=\"unknown\"}";
    until(stage.state.path(), "all were refused", |numbers| at(numbers, unknown) == 7.0).await;
    assert_eq!(before, centres.iter().map(|(_, dc)| dc.seen().len()).collect::<Vec<_>>());
}

#[test]
fn a_machine_with_ipv4_only_reaches_every_number_under_its_sign() {
    let name = "a_machine_with_ipv4_only_reaches_every_number_under_its_sign";
    with_network(name, &CENTRES.map(|(_, four, _)| (ip(four), Here)), || async {
        every_number_reaches_its_own(CENTRES.map(|(number, four, _)| (number, four))).await;
    });
}

#[test]
fn a_machine_with_ipv6_only_reaches_every_number_under_its_sign() {
    let name = "a_machine_with_ipv6_only_reaches_every_number_under_its_sign";
    with_network(name, &CENTRES.map(|(_, _, six)| (ip(six), Here)), || async {
        every_number_reaches_its_own(CENTRES.map(|(number, _, six)| (number, six))).await;
    });
}

#[test]
fn a_mark_leads_where_the_kernel_lets_nothing_else_through() {
    let (_, four, _) = CENTRES[1];
    let name = "a_mark_leads_where_the_kernel_lets_nothing_else_through";
    with_network(name, &lands(&[(four, Here)]), || async {
        if !installed("/usr/sbin/nft") {
            return;
        }
        let dc = centre(four, Role::Echo).await;
        let rules = "add table ip marks; add chain ip marks out { type filter hook output priority 0; }; \
                     add rule ip marks out tcp dport 443 meta mark != 7 reject with tcp reset";
        command("nft", [rules]);
        for (mark, served) in [(8, 0), (7, 1)] {
            let route = format!("[[routes]]\nname = \"line\"\nkind = \"direct\"\nmark = {mark}");
            let stage = stage(&format!("[telegram]\nwarm = 0\n{route}")).await;
            if served == 0 {
                in_vain(&stage, 2).await;
            } else {
                echo(&stage, 2).await;
            }
            assert_eq!(dc.seen().len(), served, "mark {mark}");
        }
    });
}

const READY: &str = "vizard_dc_warm_open";
const HITS: &str = "vizard_dc_warm_total{outcome=\"hit\"}";
const DESCRIPTORS: &str = "process_open_fds";

#[test]
fn what_stands_ready_leaks_nothing_under_churn_and_goes_with_a_reload() {
    let (_, four, _) = CENTRES[1];
    let name = "what_stands_ready_leaks_nothing_under_churn_and_goes_with_a_reload";
    with_network(name, &lands(&[(four, Here)]), || async {
        let dc = centre(four, Role::Echo).await;
        let stage = stage("[telegram]\nwarm = 5").await;
        let state = stage.state.path();
        let before = at(&crate::support::scrape::scrape(state).await, DESCRIPTORS);
        for _ in 0..15 {
            let mut coming: JoinSet<_> = JoinSet::new();
            for _ in 0..6 {
                let (proxy, login) = (stage.proxy.addr, Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen()));
                coming.spawn(async move {
                    let mut session = login.enter(proxy).await.expect("the proxy admits");
                    session.echo(&[7; 40]).await.expect("the session works");
                });
            }
            coming.join_all().await;
        }
        let over = |ready: f64| {
            move |numbers: &crate::support::scrape::Numbers| {
                at(numbers, READY) == ready && at(numbers, "vizard_connections_open{state=\"session\"}") == 0.0
            }
        };
        let numbers = until(state, "five stand ready", over(5.0)).await;
        assert!(at(&numbers, HITS) >= 30.0, "{numbers:#?}");
        left(&dc, 5).await;
        assert_eq!(dc.seen().len(), 90);
        assert!(at(&numbers, DESCRIPTORS) <= before + 5.0 + 2.0, "{before} before, {numbers:#?}");

        let file = stage.origin.path().join("vizard.toml");
        let warm = std::fs::read_to_string(&file).expect("the configuration");
        std::fs::write(&file, warm.replace("warm = 5", "warm = 0")).expect("writes the configuration");
        stage.proxy.hangup();
        let numbers = until(state, "none stands ready", over(0.0)).await;
        assert!(at(&numbers, DESCRIPTORS) <= before + 2.0, "{before} before, {numbers:#?}");
        left(&dc, 0).await;
    });
}

/// Waits until the data centre has so many connections.
async fn left(dc: &MockDc, count: usize) {
    let end = Instant::now() + PATIENCE;
    while dc.connections().1 != count {
        assert!(Instant::now() < end, "{:?} came and stayed, not {count}", dc.connections());
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_data_centre_that_ends_what_waits_costs_nobody_a_session() {
    let (_, four, _) = CENTRES[1];
    let name = "a_data_centre_that_ends_what_waits_costs_nobody_a_session";
    with_network(name, &lands(&[(four, Here)]), || async {
        let dc = centre(four, Role::Echo).await;
        let stage = stage("").await;
        let state = stage.state.path();
        echo(&stage, 2).await;
        until(state, "one stands ready", |numbers| at(numbers, READY) == 1.0).await;
        dc.end().await;
        let dc = centre(four, Role::Echo).await;
        let (_session, _) = echo(&stage, 2).await;
        assert_eq!(dc.seen().len(), 1);
    });
}

#[test]
fn what_was_listed_for_203_before_a_restart_is_tried_behind_what_is_built_in() {
    let (number, built_in, _) = CENTRES[5];
    let (listed, middle) = ("198.51.100.203", "198.51.100.2");
    let name = "what_was_listed_for_203_before_a_restart_is_tried_behind_what_is_built_in";
    with_network(name, &lands(&[(built_in, Here), (listed, Here), (middle, Here)]), || async {
        let (dc, proxy) = (centre(listed, Role::Echo).await, centre(middle, Role::Echo).await);
        let mut stage = stage("").await;
        in_vain(&stage, number).await;
        let folder = stage.state.path().join("telegram");
        std::fs::create_dir(&folder).expect("a folder");
        let list = format!("default 2;\nproxy_for 2 {middle}:443;\nproxy_for 203 {listed}:443;\n");
        std::fs::write(folder.join("proxy-config"), list).expect("writes the list");
        let setup = stage.setup.clone();
        stage.proxy.kill();
        stage.proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
        for signed in [number, -number] {
            echo(&stage, signed).await;
        }
        in_vain(&stage, 2).await;
        assert_eq!((dc.seen().len(), proxy.connections().0), (2, 0), "a middle proxy is no data centre");
    });
}

/// There and back.
const FAR: Duration = Duration::from_millis(150);

#[test]
fn a_far_data_centre_answers_within_one_round_trip() {
    let (_, four, _) = CENTRES[1];
    let name = "a_far_data_centre_answers_within_one_round_trip";
    with_network(name, &lands(&[("10.9.0.2", Here)]), || async {
        let dc = centre("10.9.0.2", Role::Echo).await;
        let Some(_distance) = Distance::put(four, "10.9.0.2", FAR) else { return };
        let stage = stage("").await;
        let (_first, cold) = echo(&stage, 2).await;
        assert!(cold >= 2 * FAR, "a handshake and an answer take two round trips, not {cold:?}");
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            until(stage.state.path(), "one stands ready", |numbers| at(numbers, READY) >= 1.0).await;
            quickest = quickest.min(echo(&stage, 2).await.1);
        }
        assert!(quickest >= FAR && quickest < 2 * FAR, "{quickest:?}");
        assert_eq!(dc.seen().len(), 4);
    });
}

/// Keeps an address of this machine far away.
struct Distance(Child);

impl Distance {
    /// `None` where the kernel has no tunnels for us.
    fn put(far: &str, near: &str, time: Duration) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy/upstream/far.py");
        let mut command = Command::new("python3");
        command.arg(script).args([far, near]).arg(time.as_secs_f64().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("Python runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let distance = Self(child);
        assert!(line == "ready\n" || std::env::var_os("CI").is_none(), "no tunnel");
        if line.is_empty() {
            eprintln!("skipped a_far_data_centre_answers_within_one_round_trip: no tunnel");
            return None;
        }
        Some(distance)
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
