//! Real Telegram software reaches Telegram through `vizard run`.
//!
//! The client is TDLib, the library inside Telegram's own applications, or Telegram Desktop, which has a library of its
//! own; the proxy is the program that ships; between them and around them is a small Internet made of network namespaces,
//! with a data centre that speaks enough of MTProto for TDLib to log in and move files. Each test has an Internet of its
//! own, so they run side by side.
//!
//! `tests/run.sh` installs what this needs. Without it the tests are skipped with a note, and fail where `CI` is set.

#![expect(clippy::unwrap_used, reason = "what surrounds a test may fail it from anywhere")]

mod cast;
mod world;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use cast::{Desktop, Forwarders, IPV4, IPV6, Link, Middle, Mtcute, Nginx, Proxy, Tdlib, Telegram, Telethon};
use world::{Place, World};

const EVERYTHING: &str = "ping,test,session,files";
/// Each way, for each data centre that files come from.
const LARGE: [&str; 4] = ["--megabytes", "50", "--timeout", "300"];
const REMOTE: &str = "cover.example:8443";

#[test]
fn tdlib_and_the_data_centre_understand_each_other_without_a_proxy() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    Tdlib::alone(&world, &telegram).with(&LARGE).passes("ping,session,files");
}

#[test]
fn tdlib_moves_files_through_the_built_in_site() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&LARGE).passes(EVERYTHING);
    proxy.close();
}

#[test]
fn tdlib_moves_files_through_the_built_in_site_over_ipv6() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    Tdlib::behind(&world, &proxy.link(IPV6), Some(&telegram)).with(&LARGE).passes(EVERYTHING);
    proxy.close();
}

#[test]
fn tdlib_moves_files_before_a_remote_rustls_cover() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let site = Proxy::as_rustls_site(&world);
    let proxy = Proxy::open(&world, REMOTE, &[]);
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&LARGE).passes(EVERYTHING);
    proxy.close();
    site.close();
}

#[test]
fn tdlib_moves_files_before_a_remote_rustls_cover_over_ipv6() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let site = Proxy::as_rustls_site(&world);
    let proxy = Proxy::open(&world, "[2001:db8:78::2]:8443", &[]);
    Tdlib::behind(&world, &proxy.link(IPV6), Some(&telegram)).with(&LARGE).passes(EVERYTHING);
    proxy.close();
    site.close();
}

/// Its packets are unwrapped and wrapped again on the way, and its quick acks are asked for and passed on.
#[test]
fn tdlib_moves_files_through_middle_proxies() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let middle = Middle::open(&world);
    let proxy = Proxy::open(&world, "site", &["--config", middle.configuration()]);
    let some = ["--megabytes", "10", "--timeout", "300"];
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&some).passes(EVERYTHING);
    let tags = middle.tags();
    assert!(tags.len() >= 3 && tags.iter().all(|tag| tag == Middle::TAG), "{tags:?}");
    proxy.close();
}

/// nginx sends several encrypted records, which TDLib only takes as one.
#[test]
fn tdlib_moves_files_before_nginx() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let _nginx = Nginx::open(&world);
    let proxy = Proxy::open(&world, REMOTE, &[]);
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&LARGE).passes(EVERYTHING);
    proxy.close();
}

/// Its transports pad their hellos as Telegram Desktop does, but it takes a NOP frame for an answer that it cannot read.
#[test]
fn telethon_works_at_the_default_setting() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    Telethon::passes(&world, &proxy.link(IPV4), &telegram);
    proxy.close();
}

/// It reads like Telegram's own clients, and its hello has the fingerprint of none of them.
#[test]
fn mtcute_works_at_the_default_setting() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    Mtcute::passes(&world, &proxy.link(IPV4), &telegram);
    proxy.close();
}

/// And where no client gets NOP frames.
#[test]
fn every_client_works_without_fillers() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let file = world.path("none.toml");
    fs::write(&file, "[session]\nfillers = []\n").unwrap();
    let proxy = Proxy::open(&world, "site", &["--config", file.to_str().unwrap()]);
    let link = proxy.link(IPV4);
    Telethon::passes(&world, &link, &telegram);
    Mtcute::passes(&world, &link, &telegram);
    Tdlib::behind(&world, &link, Some(&telegram)).passes("ping,session");
    proxy.close();
}

/// It closes a connection on which it meets a frame that it does not know, and comes again; so one that stays shows
/// that everything the proxy adds to the stream is welcome.
#[test]
fn telegram_desktop_stays_behind_the_built_in_site() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let Some(desktop) = Desktop::find(&world, &telegram) else { return };
    let proxy = Proxy::open(&world, "site", &[]);
    desktop.stays_behind(&proxy.link(IPV4));
    proxy.close();
}

#[test]
fn telegram_desktop_stays_before_nginx() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let Some(desktop) = Desktop::find(&world, &telegram) else { return };
    let _nginx = Nginx::open(&world);
    let proxy = Proxy::open(&world, REMOTE, &[]);
    desktop.stays_behind(&proxy.link(IPV4));
    proxy.close();
}

/// The bridge of docs/routes.md, and ordinary proxies in its place.
#[test]
fn tdlib_moves_files_over_every_kind_of_route() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let Some(_proxies) = Forwarders::open(&world) else { return };
    let abroad = Proxy::abroad(&world);
    let Link { server, port, secret } = abroad.link("203.0.113.2");
    let link = format!("link = \"tg://proxy?server={server}&port=8443&secret={secret}\"");
    assert_eq!(port, "443");
    let method = "address = \"203.0.113.2:8388\"\nmethod = \"aes-256-gcm\"\npassword = \"correct horse\"";
    let ways = [
        ("socks5", "address = \"203.0.113.2:1080\""),
        ("http", "address = \"203.0.113.2:3128\""),
        ("mtproto", &link),
        ("shadowsocks", method),
    ];
    for (kind, way) in ways.into_iter().filter(|(kind, _)| *kind != "shadowsocks" || cfg!(feature = "shadowsocks")) {
        let file = world.path(&format!("{kind}.toml"));
        fs::write(&file, format!("[[routes]]\nname = \"way\"\nkind = \"{kind}\"\n{way}\n[site]\n")).unwrap();
        let home = Proxy::open(&world, "site", &["--config", file.to_str().unwrap()]);
        let checks = ["--megabytes", "10", "--timeout", "120"];
        Tdlib::behind(&world, &home.link(IPV4), Some(&telegram)).with(&checks).passes(EVERYTHING);
        home.close();
    }
    abroad.close();
}

/// What README's first command promises.
#[test]
fn the_first_link_of_an_unconfigured_proxy_connects_and_survives_a_restart() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::embedded(&world, "fresh");
    let first = proxy.printed_link(&world, "fresh");
    assert_eq!(first.port, "443");
    Tdlib::behind(&world, &reachable(&first), Some(&telegram)).passes("ping,test,session");
    proxy.close();

    let again = Proxy::embedded(&world, "fresh");
    assert!(again.printed_link(&world, "fresh").secret == first.secret, "the second start has another secret");
    Tdlib::behind(&world, &reachable(&first), Some(&telegram)).passes("ping");
    again.close();
}

#[test]
fn an_unconfigured_proxy_makes_do_with_port_8443() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let taken = Proxy::embedded(&world, "first");
    let proxy = Proxy::embedded(&world, "second");
    assert_eq!(proxy.listen.iter().map(|address| address.port()).collect::<Vec<_>>(), [8443]);
    let link = proxy.printed_link(&world, "second");
    assert_eq!(link.port, "8443");
    assert!(link.secret != taken.printed_link(&world, "first").secret, "two fresh proxies have one secret");
    Tdlib::behind(&world, &reachable(&link), Some(&telegram)).passes("ping");
    taken.close();
    proxy.close();
}

/// Where this world's clients find the proxy of a link, if it names an address that only its own machine knows.
fn reachable(link: &Link) -> Link {
    let known = [IPV4, IPV6].contains(&link.server.as_str());
    let server = if known { link.server.clone() } else { IPV4.into() };
    Link { server, port: link.port.clone(), secret: link.secret.clone() }
}

#[test]
fn every_data_centre_and_its_media_cluster_is_found() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    let all = ["--dc", "1", "2", "3", "4", "5", "--megabytes", "1", "--file-dc", "1", "2", "4"];
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&all).passes(EVERYTHING);
    proxy.close();
    assert_numbers(&telegram, &[1, 2, 3, 4, 5, -2, -4]);
}

#[test]
fn test_data_centres_are_found() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    let test = ["--test-dc", "--megabytes", "1", "--file-dc", "1", "2", "3"];
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&test).passes("ping,session,files");
    proxy.close();
    assert_numbers(&telegram, &[10_001, 10_002, 10_003]);
}

/// Every wanted number was seen, and every connection came to an address of the data centre that its header names.
fn assert_numbers(telegram: &Telegram, wanted: &[i64]) {
    let seen = telegram.seen();
    seen.iter().for_each(|seen| eprintln!("{} at {}", seen.dc, seen.address));
    for number in wanted {
        assert!(seen.iter().any(|seen| seen.dc == *number), "no one asked for data centre {number}");
    }
    for seen in seen {
        let (_, addresses) = ADDRESSES.iter().find(|(dc, _)| *dc == seen.dc.abs()).expect("a known number");
        assert!(addresses.contains(&seen.address.as_str()), "{} for data centre {}", seen.address, seen.dc);
    }
}

/// As Telegram's own clients have them built in.
const ADDRESSES: [(i64, &[&str]); 8] = [
    (1, &["149.154.175.50", "2001:b28:f23d:f001::a"]),
    (2, &["149.154.167.51", "95.161.76.100", "2001:67c:4e8:f002::a"]),
    (3, &["149.154.175.100", "2001:b28:f23d:f003::a"]),
    (4, &["149.154.167.91", "2001:67c:4e8:f004::a"]),
    (5, &["149.154.171.5", "2001:b28:f23f:f005::a"]),
    (10_001, &["149.154.175.10", "2001:b28:f23d:f001::e"]),
    (10_002, &["149.154.167.40", "2001:67c:4e8:f002::e"]),
    (10_003, &["149.154.175.117", "2001:b28:f23d:f003::e"]),
];

#[test]
fn an_override_sends_clients_elsewhere_even_over_ipv6() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &["--dc", "1=[2a0a:f280::7]:443", "--dc", "2=203.0.113.2:443"]);
    let both = ["--dc", "1", "2"];
    Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&both).passes("ping,test");
    proxy.close();
    for (number, address) in [(1, "2a0a:f280::7"), (2, "203.0.113.2")] {
        assert!(telegram.seen().iter().any(|seen| seen.dc == number));
        assert!(telegram.seen().iter().all(|seen| seen.dc != number || seen.address == address));
    }
}

#[test]
fn an_unreachable_data_centre_fails_the_client_and_not_the_proxy() {
    let Some(world) = World::create() else { return };
    let proxy = Proxy::open(&world, "site", &[]);
    let link = proxy.link(IPV4);
    let report = Tdlib::behind(&world, &link, None).with(&["--count", "1"]).check("ping");
    assert_eq!(report["ping"]["ok"], false);
    assert!(proxy.log().contains("data centre cannot be reached"), "the log does not say why");

    let telegram = Telegram::open(&world);
    Tdlib::behind(&world, &link, Some(&telegram)).passes("ping");
    proxy.close();
}

#[test]
fn a_client_with_another_secret_meets_the_site() {
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let proxy = Proxy::open(&world, "site", &[]);
    let mut link = proxy.link(IPV4);
    link.secret.replace_range(2..4, "00");
    let report = Tdlib::behind(&world, &link, Some(&telegram)).with(&["--count", "1"]).check("ping");
    assert_eq!(report["ping"]["ok"], false);
    assert!(telegram.seen().is_empty());
    proxy.close();
}

/// What the operator sees of a client is what the client does.
#[test]
fn the_metrics_tell_of_tdlib_while_its_sessions_run_and_add_up_afterwards() {
    const MEGABYTES: f64 = 20.0;
    let Some(world) = World::create() else { return };
    let telegram = Telegram::open(&world);
    let file = world.path("admin.toml");
    fs::write(&file, "[admin]\n").unwrap();
    let proxy = Proxy::open(&world, "site", &["--config", file.to_str().unwrap()]);
    let files = ["--megabytes", &MEGABYTES.to_string(), "--timeout", "300"];
    let tdlib = Tdlib::behind(&world, &proxy.link(IPV4), Some(&telegram)).with(&files);
    let during = thread::scope(|scope| {
        let client = scope.spawn(|| tdlib.passes("session,files"));
        let during = loop {
            let numbers = proxy.scrape(&world);
            let sessions = at(&numbers, SESSIONS);
            // The sessions of the only user are all of them; one that comes or goes between two looks is seen next time.
            let complete = sessions > 0.0 && at(&numbers, "vizard_user_sessions{user=\"user\"}") == sessions;
            if complete && WAYS.iter().all(|way| bytes(&numbers, "session", way) > 1e6) {
                break Some(numbers);
            }
            if client.is_finished() {
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        client.join().unwrap();
        during.expect("a scrape with the sessions of TDLib in it")
    });
    let classes: Vec<_> = during.keys().filter(|name| name.starts_with("vizard_admissions_total")).collect();
    assert_eq!(classes, [ADMISSIONS], "TDLib says the hello of Chrome");
    assert!(at(&during, ADMISSIONS) >= at(&during, SESSIONS), "{during:#?}");
    assert!(sum(&during, "vizard_dc_dials_total") >= 1.0 && at(&during, "vizard_handshake_seconds_count") >= 1.0);

    let end = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let numbers = proxy.scrape(&world);
        if at(&numbers, SESSIONS) == 0.0 && at(&numbers, "vizard_connections_open{state=\"visitor\"}") == 0.0 {
            break numbers;
        }
        assert!(Instant::now() < end, "its connections stay: {numbers:#?}");
        thread::sleep(Duration::from_millis(20));
    };
    for way in WAYS {
        let moved = bytes(&after, "session", way);
        assert!(moved >= bytes(&during, "session", way) && moved >= MEGABYTES * 1e6, "{way}: {moved}");
        assert_eq!(moved, bytes(&after, "user", way), "{way}: all of it was the user's");
    }
    let ends = sum(&after, "vizard_relay_ends_total{relay=\"session\"");
    assert_eq!((ends, sum(&after, "vizard_dc_dials_total")), (at(&after, ADMISSIONS), at(&after, ADMISSIONS)));
    assert_eq!(at(&after, "vizard_handshake_seconds_count"), at(&after, ADMISSIONS));
    assert_eq!(at(&after, "vizard_replay_entries"), 2.0 * at(&after, ADMISSIONS), "a hello and a header each");
    proxy.close();
}

const WAYS: [&str; 2] = ["up", "down"];
const SESSIONS: &str = "vizard_connections_open{state=\"session\"}";
const ADMISSIONS: &str = "vizard_admissions_total{hello=\"chrome-hybrid\"}";

fn at(numbers: &BTreeMap<String, f64>, name: &str) -> f64 {
    numbers.get(name).copied().unwrap_or_default()
}

fn sum(numbers: &BTreeMap<String, f64>, start: &str) -> f64 {
    numbers.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, number)| number).sum()
}

/// Bytes one way, of all sessions or of the only user.
fn bytes(numbers: &BTreeMap<String, f64>, whose: &str, way: &str) -> f64 {
    match whose {
        "session" => at(numbers, &format!("vizard_session_bytes_total{{direction=\"{way}\"}}")),
        _ => at(numbers, &format!("vizard_user_bytes_total{{user=\"user\",direction=\"{way}\"}}")),
    }
}

/// The kit itself: a data centre can be reached through the proxy only.
#[test]
fn clients_cannot_go_round_the_proxy() {
    let Some(world) = World::create() else { return };
    let _telegram = Telegram::open(&world);
    for (place, reaches) in [(Place::Client, false), (Place::Proxy, true)] {
        let mut command = world.command(place, "bash");
        command.args(["-c", &format!("exec 3<>/dev/tcp/{}/443", Ipv4Addr::new(149, 154, 175, 50))]);
        assert_eq!(command.output().unwrap().status.success(), reaches);
    }
}
