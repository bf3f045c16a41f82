//! Sessions with a tag, through middle proxies on loopback whose codecs are not ours.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, Session};
use crate::support::hello::{Key, capture};
use crate::support::mock_dc::{MockDc, Role, refusing};
use crate::support::mock_middle::{
    CLOSE, CRC32, CRC32C, Chain, Manners, Meeting, MockMiddle, POUR, crc, frame, secret,
};
use crate::support::obfuscated::{Frame, framed};
use crate::support::origin::{NAME, Origin};
use crate::support::stage::{Kind, Stage};
use crate::support::{KEY, OTHER_KEY};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const TAG: &str = "00112233445566778899aabbccddeeff";

/// The built-in site and a configuration of these parts: keys for the top of the file, and sections behind it.
struct Parts {
    top: String,
    sections: String,
    secret: Vec<u8>,
    /// Where data centres are reached directly.
    dc: SocketAddr,
}

impl Parts {
    fn new(dc: &MockDc, middles: &[(i16, SocketAddr)]) -> Self {
        let user =
            |name: &str, key: &Key| format!("[[users]]\nname = \"{name}\"\nsecret = \"{}\"\n", HEXLOWER.encode(key));
        let sections = user("alice", &KEY) + &user("bob", &OTHER_KEY) + "ad_tag = \"none\"\n" + &places(middles);
        Self { top: format!("ad_tag = \"{TAG}\"\n"), sections, secret: secret(), dc: dc.addr }
    }

    fn and(mut self, more: &str) -> Self {
        self.sections = self.sections.replacen("[middle]\n", &format!("[middle]\n{more}\n"), 1);
        self
    }

    async fn stage(self) -> (Stage, PathBuf) {
        let origin = Origin::make();
        let file = origin.path().join("vizard.toml");
        std::fs::write(origin.path().join("middle.secret"), &self.secret).unwrap();
        let written = file.clone();
        let stage = Stage::with(Kind::Site, origin, |setup| {
            let known = std::fs::read_to_string(&written).unwrap();
            std::fs::write(&written, self.top.clone() + &known + &self.sections).unwrap();
            [1, 2, 3, 4, 5].into_iter().fold(setup.domain(NAME), |setup, number| setup.dc(number, self.dc))
        });
        (stage.await.unwrap(), file)
    }
}

fn places(middles: &[(i16, SocketAddr)]) -> String {
    let place = |(number, address): &(i16, SocketAddr)| format!("{number} = [\"{address}\"]\n");
    let places: String = middles.iter().map(place).collect();
    format!("[middle]\nsecret_file = \"middle.secret\"\n[middle.addresses]\n{places}")
}

/// A proxy in front of one middle proxy for data centre 2.
async fn world(manners: Manners) -> (Stage, MockMiddle, MockDc) {
    let (middle, dc) = (MockMiddle::start(manners).await, MockDc::start(Role::Echo).await);
    let (stage, _) = Parts::new(&dc, &[(2, middle.addr)]).stage().await;
    (stage, middle, dc)
}

fn login(key: Key) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), key, &mut Dice::unseen())
}

async fn enter(stage: &Stage) -> Session {
    login(KEY).enter(stage.proxy.addr).await.unwrap()
}

/// A packet as a client has it: whole words, 28 bytes at least, not in clear.
fn packet(dice: &mut Dice, words: usize) -> Vec<u8> {
    let mut packet = dice.bytes(words.max(7) * 4);
    packet[0] |= 1;
    packet
}

/// The next frame, which is to be this packet and padding of less than a word.
async fn expect(session: &mut Session, packet: &[u8]) {
    match session.down.frame().await.unwrap() {
        Frame::Packet(back) => {
            assert!(back.starts_with(packet) && back.len() - packet.len() < 4, "another packet of {}", back.len());
        }
        Frame::Token(token) => panic!("a token {token:x}"),
    }
}

async fn echo(session: &mut Session, packet: &[u8]) {
    session.up.packet(packet).await.unwrap();
    expect(session, packet).await;
}

fn vector(group: &str, name: &str) -> Vec<u8> {
    let text = std::fs::read("fixtures/vectors.json").unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    HEXLOWER_PERMISSIVE.decode(all[group][name].as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn the_mock_speaks_the_published_protocol() {
    assert_eq!((crc(CRC32, b"123456789"), crc(CRC32C, b"123456789")), (0xcbf4_3926, 0xe306_9283));
    assert_eq!(frame(0, &[1; 4], CRC32), vector("M_crc", "frame_crc32"));
    assert_eq!(frame(0, &[1; 4], CRC32C), vector("M_crc", "frame_crc32c"));
    for (name, sequence) in [("ping", 2), ("pong", 1)] {
        let whole = vector("M_ping", name);
        assert_eq!(frame(sequence, &whole[8..20], CRC32), whole);
    }
    let keys = |name: &str| vector("M_keys4", name);
    let (secret, nonces) = (keys("secret"), (keys("nonce_clt"), keys("nonce_srv")));
    let time = keys("clt_ts");
    for (group, proxy, middle) in [
        ("M_keys4", "203.0.113.7:40000", "149.154.175.50:8888"),
        ("M_keys6", "[2001:db8::7]:40000", "[2001:b28:f23d:f001::d]:8888"),
    ] {
        let meeting = Meeting {
            secret: &secret,
            proxy: proxy.parse().unwrap(),
            middle: middle.parse().unwrap(),
            proxy_nonce: &nonces.0,
            middle_nonce: &nonces.1,
            proxy_time: &time,
        };
        for (purpose, key, iv) in [(b"CLIENT", "write_key", "write_iv"), (b"SERVER", "read_key", "read_iv")] {
            let derived = meeting.keys(purpose);
            assert_eq!((derived.0.to_vec(), derived.1.to_vec()), (vector(group, key), vector(group, iv)), "{group}");
        }
    }
    for (key, iv, groups) in [
        ("write_key", "write_iv", &["M_handshake", "M_proxy_req"][..]),
        ("read_key", "read_iv", &["M_handshake_ans", "M_proxy_ans", "M_close_ext"]),
    ] {
        let (mut there, mut back) = (Chain::new(&keys(key), &keys(iv)), Chain::new(&keys(key), &keys(iv)));
        for group in groups {
            let mut bytes = vector(group, "plain");
            there.encrypt(&mut bytes);
            assert_eq!(bytes, vector(group, "wire"), "{group}");
            back.decrypt(&mut bytes);
            assert_eq!(bytes, vector(group, "plain"), "{group}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_share_few_links() {
    let _turn = crate::support::turn().await;
    const CLIENTS: u64 = 1000;
    let (stage, middle, dc) = world(Manners::default()).await;
    let (stage, at_once) = (Arc::new(stage), Arc::new(Semaphore::new(32)));
    let mut running = JoinSet::new();
    for number in 0..CLIENTS {
        let (stage, at_once) = (Arc::clone(&stage), Arc::clone(&at_once));
        running.spawn(async move {
            let permit = at_once.acquire().await.unwrap();
            let (mut session, mut dice, mut sum) = (enter(&stage).await, Dice::new(number), Sha256::new());
            for words in [10, 1 + dice.below(6000), 7, 300] {
                let packet = packet(&mut dice, words);
                sum.update(&packet);
                echo(&mut session, &packet).await;
            }
            drop(permit);
            (session, <[u8; 32]>::from(sum.finalize()), dice)
        });
    }
    let mut sessions = running.join_all().await;
    let heard = middle.heard();
    assert_eq!(heard.len() as u64, CLIENTS, "every client has a number of its own");
    assert!(heard.values().all(|one| one.tag == Some(HEXLOWER.decode(TAG.as_bytes()).unwrap())));
    let (mut there, mut here): (Vec<_>, Vec<_>) =
        (heard.values().map(|one| one.sum()).collect(), sessions.iter().map(|(_, sum, _)| *sum).collect());
    there.sort_unstable();
    here.sort_unstable();
    assert!(there == here, "what the clients sent is not what the middle proxy got");
    let (opened, open) = middle.links();
    assert!(opened == open && open <= 8, "{opened} links were opened, {open} are open");
    // All are still there, and served.
    for (session, _, dice) in sessions.iter_mut().step_by(97) {
        echo(session, &packet(dice, 50)).await;
    }
    drop(sessions);
    middle.wait(|heard| heard.values().all(|one| one.closed)).await;
    assert_eq!(dc.seen().len(), 0, "no one went the direct way");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_tag_goes_there_and_addresses_are_told_on_request_only() {
    for told in [false, true] {
        let (middle, dc) = (MockMiddle::start(Manners::default()).await, MockDc::start(Role::Echo).await);
        let parts = Parts::new(&dc, &[(2, middle.addr)]).and(&format!("client_addresses = {told}"));
        let (stage, _) = parts.stage().await;
        let login = login(KEY);
        let (stream, flight) = login.greet(stage.proxy.addr).await.unwrap();
        let from = stream.local_addr().unwrap();
        let mut alice = login.session(stream, flight);
        echo(&mut alice, &packet(&mut Dice::new(1), 40)).await;
        let heard = middle.heard();
        let [one] = &heard.values().collect::<Vec<_>>()[..] else { panic!("{heard:?}") };
        assert_eq!((one.client == from, one.ours.ip()), (told, from.ip()), "{one:?}");
        assert_eq!(one.flags, 0x2802_1008);

        let mut bob = self::login(OTHER_KEY).enter(stage.proxy.addr).await.unwrap();
        bob.echo(&packet(&mut Dice::new(2), 40)).await.unwrap();
        assert_eq!((middle.heard().len(), dc.seen().len()), (1, 1), "a user without a tag goes directly");
        assert!(!stage.proxy.log().iter().any(|line| line.contains("goes directly")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quick_acks_and_closes_are_passed_on() {
    let (stage, middle, _dc) = world(Manners::default()).await;
    let (mut session, packet) = (enter(&stage).await, packet(&mut Dice::new(3), 40));
    let mut frame = framed(&packet);
    frame[3] |= 0x80;
    session.up.bytes(frame).await.unwrap();
    assert_eq!(session.down.frame().await, Ok(Frame::Token(crc(CRC32, &packet) | 1 << 31)));
    expect(&mut session, &packet).await;
    middle.ping(0).await;
    let pong = async {
        while middle.pongs() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::fake_tls::PATIENCE, pong).await.expect("a ping is answered");

    session.up.packet(&[CLOSE, &[1; 40]].concat()).await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
    assert_eq!(session.down.sizes.last(), Some(&19), "as the cover closes");
    let mut other = enter(&stage).await;
    echo(&mut other, &packet).await;
    other.up.finish().await.unwrap();
    assert_eq!(other.down.end().await, End::Fin);
    middle.wait(|heard| heard.values().filter(|one| one.closed).count() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_packet_ends_the_session_and_not_the_link() {
    let (stage, middle, _dc) = world(Manners::default()).await;
    let mut good = enter(&stage).await;
    echo(&mut good, &packet(&mut Dice::new(4), 40)).await;
    for bad in [vec![7; 8], vec![0; 60], vec![9; 24]] {
        let mut session = enter(&stage).await;
        session.up.packet(&bad).await.unwrap();
        assert_eq!(session.down.end().await, End::Fin);
    }
    echo(&mut good, &packet(&mut Dice::new(5), 40)).await;
    assert_eq!((middle.heard().len(), middle.links()), (1, (1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_lost_takes_its_clients_and_nobody_else() {
    let (two, four) = (MockMiddle::start(Manners::default()).await, MockMiddle::start(Manners::default()).await);
    let dc = MockDc::start(Role::Echo).await;
    let (stage, _) = Parts::new(&dc, &[(2, two.addr), (-2, two.addr), (4, four.addr)]).stage().await;
    let mut dice = Dice::new(6);
    let mut lost = enter(&stage).await;
    let mut media = login(KEY).dc(-2).enter(stage.proxy.addr).await.unwrap();
    let mut kept = login(KEY).dc(4).enter(stage.proxy.addr).await.unwrap();
    for session in [&mut lost, &mut media, &mut kept] {
        echo(session, &packet(&mut dice, 40)).await;
    }
    assert_eq!((two.links(), four.links()), ((1, 1), (1, 1)), "data centres behind one middle proxy share a link");
    two.end(0).await;
    for session in [&mut lost, &mut media] {
        assert_eq!(session.down.end().await, End::Fin);
        assert_eq!(session.down.sizes.last(), Some(&19), "as the cover closes");
    }
    echo(&mut kept, &packet(&mut dice, 40)).await;
    echo(&mut enter(&stage).await, &packet(&mut dice, 40)).await;
    assert_eq!((two.links().0, four.links().0, dc.seen().len()), (2, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_middle_proxies_take_over_without_a_client_being_lost() {
    let (old, new) = (MockMiddle::start(Manners::default()).await, MockMiddle::start(Manners::default()).await);
    let dc = MockDc::start(Role::Echo).await;
    let (stage, file) = Parts::new(&dc, &[(2, old.addr)]).stage().await;
    let (mut dice, mut before) = (Dice::new(7), enter(&stage).await);
    echo(&mut before, &packet(&mut dice, 40)).await;
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&old.addr.to_string(), &new.addr.to_string())).unwrap();
    stage.proxy.logged("their links are replaced").await;
    let mut after = enter(&stage).await;
    echo(&mut after, &packet(&mut dice, 40)).await;
    echo(&mut before, &packet(&mut dice, 4000)).await;
    assert_eq!((old.heard().len(), new.heard().len(), old.links()), (1, 1, (1, 1)));
    drop(before);
    let gone = async {
        while old.links().1 > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::fake_tls::PATIENCE, gone).await.expect("the last client takes the link along");
    echo(&mut after, &packet(&mut dice, 40)).await;
}

/// Says where this middle proxy is, as Telegram does.
async fn published(middle: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut head, list) = (Vec::new(), format!("default 2;\nproxy_for 2 {middle};\n"));
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            let body = match &head[..] {
                head if head.starts_with(b"GET /getProxySecret ") => secret(),
                head if head.starts_with(b"GET /getProxyConfig ") => list.into(),
                _ => b"proxy_for 4 [2001:db8::4]:8888;".to_vec(),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_telegram_publishes_is_fetched_once_somebody_has_a_tag() {
    let (middle, dc) = (MockMiddle::start(Manners::default()).await, MockDc::start(Role::Echo).await);
    let mut parts = Parts::new(&dc, &[]);
    let place = published(middle.addr).await;
    parts.sections = parts.sections.replace(&places(&[]), &format!("[telegram]\nlists = \"http://{place}\"\n"));
    let (stage, _) = parts.stage().await;
    stage.proxy.logged("lists of middle proxies have changed").await;
    let mut session = enter(&stage).await;
    echo(&mut session, &packet(&mut Dice::new(11), 40)).await;
    let mut other = login(KEY).dc(5).enter(stage.proxy.addr).await.unwrap();
    echo(&mut other, &packet(&mut Dice::new(11), 40)).await;
    assert_eq!((middle.heard().len(), dc.seen().len()), (2, 0), "the default cluster serves what is not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_link_sessions_go_the_direct_way_and_the_log_says_why() {
    let out_of_date = Manners { secret: Dice::new(1).bytes(128), ..Manners::default() };
    let elsewhere = Manners { sees: Some([203, 0, 113, 9].into()), ..Manners::default() };
    let ahead = Manners { ahead: 100, ..Manners::default() };
    for (manners, why) in [
        (None, "no connection"),
        (Some(out_of_date), "secret may be out of date"),
        (Some(elsewhere), "another address of this machine"),
        (Some(ahead), "clock"),
    ] {
        let dc = MockDc::start(Role::Echo).await;
        let middle = match manners {
            Some(manners) => Some(MockMiddle::start(manners).await),
            None => None,
        };
        let place = match &middle {
            Some(middle) => middle.addr,
            None => refusing().await,
        };
        let (stage, _) = Parts::new(&dc, &[(2, place)]).stage().await;
        for _ in 0..3 {
            enter(&stage).await.echo(&packet(&mut Dice::new(8), 40)).await.unwrap();
        }
        let line = stage.proxy.logged("goes directly").await;
        assert!(line.contains(why), "{why}: {line}");
        assert_eq!(dc.seen().len(), 3);
        // No list has this one.
        login(KEY).dc(4).enter(stage.proxy.addr).await.unwrap().echo(&packet(&mut Dice::new(8), 40)).await.unwrap();
        stage.proxy.logged("no middle proxy for this data centre").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_come_about_behind_translation_with_the_old_checksum_and_over_ipv6() {
    let translated = Manners { sees: Some([203, 0, 113, 9].into()), ..Manners::default() };
    let old = Manners { crc32c: false, ..Manners::default() };
    for (at, manners, more) in [
        ("127.0.0.1:0", translated, "public_addresses = [\"203.0.113.9\", \"2001:db8::9\"]"),
        ("127.0.0.1:0", old, ""),
        ("[::1]:0", Manners::default(), ""),
    ] {
        let (middle, dc) = (MockMiddle::at(at, manners).await, MockDc::start(Role::Echo).await);
        let (stage, _) = Parts::new(&dc, &[(2, middle.addr)]).and(more).stage().await;
        let (mut session, mut dice) = (enter(&stage).await, Dice::new(9));
        for words in [7, 5000, 40, 120_000] {
            echo(&mut session, &packet(&mut dice, words)).await;
        }
        assert_eq!((middle.heard().len(), dc.seen().len()), (1, 0), "{at} {more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_take_plain_routes_and_are_no_way_round_others() {
    for (restriction, links, direct) in [("", 1, 0), ("data_centres = [1, 2, 3, 4, 5]\n", 0, 1)] {
        let (middle, dc) = (MockMiddle::start(Manners::default()).await, MockDc::start(Role::Echo).await);
        let mut parts = Parts::new(&dc, &[(2, middle.addr)]);
        let route = "[[routes]]\nname = \"line\"\nkind = \"direct\"\nsource = \"127.0.0.9\"\n";
        parts.sections = format!("{route}{restriction}{}", parts.sections);
        let (stage, _) = parts.stage().await;
        echo(&mut enter(&stage).await, &packet(&mut Dice::new(11), 10)).await;
        assert_eq!((middle.heard().len(), dc.seen().len()), (links, direct), "{restriction}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_needs_is_fetched_at_once_where_nothing_is_known() {
    let (middle, dc) = (MockMiddle::start(Manners::default()).await, MockDc::start(Role::Echo).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let six = "proxy_for 2 [2001:db8::2]:8888;".to_owned();
    let config = format!("default 2;\nproxy_for 2 {};\n", middle.addr);
    let bodies = [("getProxySecret", secret()), ("getProxyConfig", config.into()), ("getProxyConfigV6", six.into())];
    let serving = tokio::spawn(async move {
        for (name, body) in bodies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            assert!(head.starts_with(format!("GET /lists/{name} HTTP/1.1\r\n").as_bytes()), "{}", head.escape_ascii());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        }
    });
    let mut parts = Parts::new(&dc, &[]);
    let users = parts.sections.split("[middle]").next().unwrap();
    parts.sections = format!("{users}[telegram]\nlists = \"{base}/lists\"\n");
    let (stage, _) = parts.stage().await;
    stage.proxy.logged("Telegram's lists of middle proxies have changed").await;
    serving.await.unwrap();
    echo(&mut enter(&stage).await, &packet(&mut Dice::new(12), 10)).await;
    assert_eq!((middle.heard().len(), dc.seen().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_opens_links_and_says_what_becomes_of_them() {
    const OTHERS: &str = "state,files,ports,login,clock,name,certificate,acme,cover,post-quantum,records,telegram";
    let elsewhere = Manners { sees: Some([203, 0, 113, 9].into()), ..Manners::default() };
    let (good, bad) = (MockMiddle::start(Manners::default()).await, MockMiddle::start(elsewhere).await);
    let dc = MockDc::start(Role::Echo).await;
    let (stage, file) = Parts::new(&dc, &[(2, good.addr), (-2, good.addr), (4, bad.addr)]).stage().await;
    let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
    doctor.args(["doctor", "--json", "--domain", NAME, "--config"]).arg(file);
    doctor.arg("--state-dir").arg(stage.state.path()).args(OTHERS.split(',').flat_map(|check| ["--skip", check]));
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |verdict: &str| {
        let mut found = found.as_array().unwrap().iter().filter(|one| one["check"] == "middle");
        let one = found.find(|one| one["verdict"] == verdict).unwrap_or_else(|| panic!("{found:?}"));
        one["reason"].as_str().unwrap().to_owned()
    };
    assert!(of("ok").starts_with("middle proxies for -2, 2: a link in ") && of("ok").ends_with("127.0.0.1"));
    assert!(of("warning").starts_with("middle proxies for 4: it ends the connection at the handshake"));
    assert_eq!(good.links().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_nobody_and_is_let_go_in_the_end() {
    let _turn = crate::support::turn().await;
    const COUNT: usize = 80;
    const SIZE: usize = 1 << 20;
    let (stage, middle, _dc) = world(Manners { pour: (COUNT, SIZE), ..Manners::default() }).await;
    let (mut good, mut dice) = (enter(&stage).await, Dice::new(10));
    for words in [100, SIZE / 4, 100] {
        echo(&mut good, &packet(&mut dice, words)).await;
    }
    let before = resident(&stage);
    let mut slow = enter(&stage).await;
    slow.up.packet(&[POUR, &[1; 40]].concat()).await.unwrap();
    // The other one is served all the while.
    let end = std::time::Instant::now() + 2 * crate::support::fake_tls::PATIENCE;
    while !middle.heard().values().any(|one| one.closed) {
        echo(&mut good, &packet(&mut dice, 100)).await;
        assert!(std::time::Instant::now() < end, "who does not read stays for ever");
    }
    let grown = resident(&stage).saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for one who does not read");
    assert_eq!(slow.down.end().await, End::Fin);
    echo(&mut good, &packet(&mut dice, 100)).await;
    assert_eq!(middle.links(), (1, 1));
}

/// Memory that the proxy has.
fn resident(stage: &Stage) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.proxy.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_through_middle_proxies_without_a_tag_where_that_is_asked_for() {
    let (middle, dc) = (MockMiddle::start(Manners::default()).await, MockDc::start(Role::Echo).await);
    let places = [(2, middle.addr), (-2, middle.addr)];
    // For media alone, and one user for all.
    let mut parts = Parts::new(&dc, &places).and("sessions = \"media\"");
    parts.top.clear();
    parts.sections = parts.sections.replacen("ad_tag = \"none\"", "middle = \"all\"", 1);
    let (stage, _) = parts.stage().await;
    let mut dice = Dice::new(7);
    for (key, number, through) in [(KEY, 2, false), (KEY, -2, true), (OTHER_KEY, 2, true), (OTHER_KEY, -2, true)] {
        let (before, direct) = (middle.heard().len(), dc.seen().len());
        let mut session = login(key).dc(number).enter(stage.proxy.addr).await.unwrap();
        echo(&mut session, &packet(&mut dice, 20)).await;
        let now = (middle.heard().len() - before, dc.seen().len() - direct);
        assert_eq!(now, if through { (1, 0) } else { (0, 1) }, "data centre {number}");
    }
    for one in middle.heard().into_values() {
        assert!(one.tag.is_none() && one.flags & 0xc == 0, "{:x} {:?}", one.flags, one.tag);
    }
}
