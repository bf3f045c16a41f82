//! The test that matters most: anyone who is no client of ours sees exactly the cover.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::browser::{self, Visitor};
use crate::support::dice::Dice;
use crate::support::fake_tls::End;
use crate::support::fork::Fork;
use crate::support::hello::{self, Key, RANDOM, capture};
use crate::support::network::with_network;
use crate::support::origin::{BIG, NAME, Origin, PAGE};
use crate::support::packets::{Capture, lengths};
use crate::support::probe::compare;
use crate::support::raw_cover::{RawCover, misread_closes};
use crate::support::stage::{ALL, BOTH, Kind, Stage};
use crate::support::vizard::Setup;
use crate::support::{KEY, OTHER_KEY, corpus};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use vizard::audit::probe::{Script, Step, overhear, play};
use vizard::audit::transcript::Piece;

#[tokio::test(flavor = "multi_thread")]
async fn nginx_is_all_that_a_prober_sees() {
    let Some(stage) = Stage::start(Kind::Nginx).await else { return };
    compare(corpus::all(), stage.lineup(Duration::from_secs(6))).await.expect_none();
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_site_is_all_that_a_prober_sees() {
    let stage = Stage::start(Kind::Site).await.expect("the site needs nothing installed");
    compare(corpus::all(), stage.lineup(Duration::from_secs(8))).await.expect_none();
}

/// OpenSSL 3.5 takes the share that current browsers prefer, and sends its encrypted flight in several records.
#[tokio::test(flavor = "multi_thread")]
async fn node_is_all_that_a_prober_sees() {
    let Some(stage) = Stage::start(Kind::Node).await else { return };
    compare(corpus::all(), stage.lineup(Duration::from_secs(6))).await.expect_none();
}

#[tokio::test(flavor = "multi_thread")]
async fn boring_site_is_all_that_a_prober_sees() {
    let Some(stage) = Stage::start(Kind::Boring).await else { return };
    compare(corpus::all(), stage.lineup(Duration::from_secs(6))).await.expect_none();
}

/// The four covers differ in what the tables above could stumble over: records in a flight, and the group.
#[tokio::test(flavor = "multi_thread")]
async fn the_covers_are_what_they_are_there_for() {
    for kind in ALL {
        let Some(stage) = Stage::start(kind).await else { continue };
        let hello = capture("tdlib-1.8.69-1").parts().fresh(&mut Dice::unseen()).fresh_shares().record();
        let script = Script { steps: vec![Step::Send(hello), Step::AwaitFlight, Step::Reset], ..Script::default() };
        let pieces = play(&script, stage.cover, Duration::from_secs(6)).await.pieces;
        let records = pieces.iter().filter(|piece| matches!(piece, Piece::Record { kind: 23, .. })).count();
        assert_eq!(records == 1, kind.one_record(), "{kind:?} sends {records} records");
        let Some(Piece::Record { body, .. }) = pieces.first() else { panic!("{kind:?} does not answer") };
        // The group and length of the share.
        let hybrid = body.contains(":11ec0460");
        assert_eq!(hybrid, kind.post_quantum(), "{kind:?}: {body}");
    }
}

/// One cover, two numbers: the gate has to know for each class of hello when the flight is whole.
#[tokio::test(flavor = "multi_thread")]
async fn each_class_of_hello_gets_the_records_that_it_is_answered_with() {
    let Some(nginx) = Stage::start(Kind::Nginx).await else { return };
    let site = Stage::start(Kind::Site).await.expect("the site needs nothing installed");
    let fork = Fork::start(site.cover, nginx.cover).await;
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::new(state.path(), &fork.addr.to_string()).usual(&KEY);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    proxy.logged("the cover was visited").await;
    for (name, records) in [("tdlib-1.8.69-1", 1), ("tdesktop-4.6.5-1", 4)] {
        let hello = |key: &Key| {
            let mut record = capture(name).parts_for(NAME).fresh(&mut Dice::unseen()).fresh_shares().record();
            hello::sign(&mut record, key, hello::now());
            record
        };
        let limit = Duration::from_secs(6);
        let stranger = encrypted(&overhear(&hello(&OTHER_KEY), proxy.addr, limit).await);
        let client = encrypted(&overhear(&hello(&KEY), proxy.addr, limit).await);
        assert_eq!((stranger.len(), client.len()), (records, 1), "{name}");
        // Signatures of the same key vary by a few bytes.
        let missing = stranger.iter().sum::<usize>().abs_diff(client[0]);
        assert!(missing <= 4, "{name}: {stranger:?} became {client:?}");
    }
}

/// Sizes of segments that clients announce: small ones, those of networks, and all around the place where the ServerHello
/// ends that answers such a hello. Twelve bytes of each are the timestamps'.
const ANNOUNCED: [(&str, &[u16]); 2] = [
    ("tdlib-1.8.69-1", &[128, 256, 620, 1226, 1227, 1228, 1232, 1236, 1237, 1238, 1300, 1460]),
    ("tdesktop-4.6.5-1", &[128, 138, 139, 140, 145, 149, 150, 536, 1460]),
];

#[test]
fn strangers_get_the_segments_that_the_cover_gives_them() {
    with_network("camouflage::strangers_get_the_segments_that_the_cover_gives_them", &[], || async {
        let line = Capture::start();
        for kind in BOTH {
            let Some(stage) = Stage::start(kind).await else { continue };
            stage.proxy.logged("the cover was visited").await;
            let all = ANNOUNCED.into_iter().flat_map(|(file, sizes)| sizes.iter().map(move |size| (*size, file)));
            for (announced, file) in all {
                let mut hello = capture(file).parts_for(NAME).fresh(&mut Dice::unseen()).fresh_shares().record();
                let direct = flight_in_segments(&line, stage.cover, announced, &hello).await;
                let stranger = flight_in_segments(&line, stage.proxy.addr, announced, &hello).await;
                hello[RANDOM.start] ^= 1;
                let changed = flight_in_segments(&line, stage.proxy.addr, announced, &hello).await;
                for seen in [stranger, changed] {
                    assert!(
                        cut_alike(&seen, &direct),
                        "{kind:?} {announced} {file}: {seen:?}, by the cover {direct:?}"
                    );
                }
            }
        }
    });
}

/// Android gives up a flight that a read cuts behind the ServerHello; no one else does, and no one else's is cut.
#[test]
fn only_who_minds_where_a_read_ends_gets_a_flight_that_is_cut_elsewhere() {
    with_network("camouflage::only_who_minds_where_a_read_ends_gets_a_flight_that_is_cut_elsewhere", &[], || async {
        let line = Capture::start();
        let stage = Stage::start(Kind::Site).await.expect("the site needs nothing installed");
        stage.proxy.logged("the cover was visited").await;
        for (announced, file) in
            [(1228, "tdlib-1.8.69-1"), (1232, "tdlib-1.8.69-1"), (1460, "tdlib-1.8.69-1"), (145, "tdesktop-4.6.5-1")]
        {
            let mut hello = capture(file).parts_for(NAME).fresh(&mut Dice::unseen()).fresh_shares().record();
            hello::sign(&mut hello, &KEY, hello::now());
            let segments = flight_in_segments(&line, stage.proxy.addr, announced, &hello).await;
            let whole = usize::from(announced) - 12;
            let (last, full) = segments.split_last().expect("a flight");
            let uncut = full.iter().all(|length| *length == whole) && *last <= whole;
            if file.starts_with("tdesktop") || announced == 1460 {
                assert!(uncut, "{file} {announced}: {segments:?}");
            } else {
                let ends = segments.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                });
                let hello = 5 + 1210;
                assert!(
                    !uncut && ends.clone().all(|end| !(hello..hello + 11).contains(&end)),
                    "{file} {announced}: {segments:?}"
                );
            }
        }
    });
}

/// Payload of the segments in which a flight comes to a client that announces this size.
async fn flight_in_segments(line: &Capture, to: SocketAddr, announced: u16, hello: &[u8]) -> Vec<usize> {
    line.forget();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket2::SockRef::from(&socket).set_tcp_mss(announced.into()).expect("a size of segments");
    let mut stream = socket.connect(to).await.expect("it listens");
    let near = stream.local_addr().expect("an address");
    stream.write_all(hello).await.expect("it takes the hello");
    let mut flight = Vec::new();
    loop {
        let patience = Duration::from_millis(if is_whole(&flight) { 20 } else { 10_000 });
        let read = tokio::time::timeout(patience, stream.read_buf(&mut flight)).await;
        if !matches!(read, Ok(Ok(1..))) {
            break;
        }
    }
    assert!(is_whole(&flight), "{announced}: {} bytes are no flight", flight.len());
    lengths(&line.whole(to, near, flight.len()))
}

/// Whether a ServerHello, a change_cipher_spec and whole encrypted records are there.
fn is_whole(flight: &[u8]) -> bool {
    let (mut rest, mut kinds) = (flight, Vec::new());
    while let [kind, _, _, high, low, ..] = *rest {
        let Some(behind) = rest.get(5 + usize::from(u16::from_be_bytes([high, low]))..) else { return false };
        kinds.push(kind);
        rest = behind;
    }
    rest.is_empty() && kinds.starts_with(&[22, 20, 23])
}

/// Whether two flights are cut at the same places; signatures of the same key vary by a few bytes.
fn cut_alike(one: &[usize], other: &[usize]) -> bool {
    let (Some((one_last, one)), Some((other_last, other))) = (one.split_last(), other.split_last()) else {
        return false;
    };
    let mut ends = [one.iter().sum::<usize>() + one_last, other.iter().sum::<usize>() + other_last];
    ends.sort();
    let all = |full: &[usize], size: usize| full.iter().all(|length| *length == size);
    let size = one.first().copied().unwrap_or(*one_last);
    ends[1] - ends[0] <= 8 && (one == other || all(one, size) && all(other, size))
}

/// Payload sizes of the encrypted records in a flight.
fn encrypted(mut flight: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = flight {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == 23 {
            sizes.push(size);
        }
        flight = rest.get(size..).expect("whole records");
    }
    sizes
}

/// The built-in site waits a minute for a handshake, longer than the whole table should take.
#[tokio::test(flavor = "multi_thread")]
async fn built_in_site_keeps_its_patience_behind_the_proxy() {
    let stage = Stage::start(Kind::Site).await.expect("the site needs nothing installed");
    let states = [
        "no byte then Silence",
        "100 bytes of a hello by Us then Silence",
        "class tdlib-1.8.69-1.bin by Nobody then Silence",
        "class tdlib-1.8.69-1.bin by Us then Silence",
        "tdlib and one CCS then Silence",
        "tdlib and half of a record then Silence",
        "tdlib and half of a header then Silence",
    ];
    let probes: Vec<_> = corpus::all().into_iter().filter(|probe| states.contains(&probe.name.as_str())).collect();
    assert_eq!(probes.len(), states.len());
    compare(probes, stage.lineup(Duration::from_secs(80))).await.expect_none();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_close_arrives_as_what_it_was() {
    let mut cover = RawCover::start().await;
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::new(state.path(), &cover.addr.to_string()).usual(&KEY);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    assert_eq!(misread_closes(proxy.addr, &mut cover).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_ends_as_the_cover_ends_it() {
    for kind in BOTH {
        let Some(stage) = Stage::start(kind).await else { continue };
        for version in [&TLS12, &TLS13] {
            let visitor = Visitor::new(&stage.origin, version);
            let stay = Duration::from_secs(6);
            let (direct, proxied) = tokio::join!(visitor.load(stage.cover, stay), visitor.load(stage.proxy.addr, stay));
            assert_eq!(direct.2, proxied.2, "{kind:?} {version:?}");
            assert!(direct.3.abs_diff(proxied.3) < Duration::from_millis(300), "{:?} {:?}", direct.3, proxied.3);
            assert!(kind == Kind::Site || direct.2 == End::Fin, "nginx did not end a quiet connection");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_of_the_cover_are_taken_through_the_proxy() {
    for kind in BOTH {
        let Some(stage) = Stage::start(kind).await else { continue };
        for version in [&TLS12, &TLS13] {
            let visitor = Visitor::new(&stage.origin, version);
            // Two sites in two processes have two ticket keys; nginx is one and the same either way.
            let first = if kind == Kind::Nginx { stage.cover } else { stage.proxy.addr };
            let stay = Duration::from_millis(1);
            assert_ne!(visitor.load(first, stay).await.0, HandshakeKind::Resumed);
            let again = visitor.load(stage.proxy.addr, stay).await;
            assert_eq!((again.0, again.1.ends_with(PAGE)), (HandshakeKind::Resumed, true), "{kind:?} {version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_loads_the_page_with_the_right_certificate() {
    for kind in BOTH {
        let Some(stage) = Stage::start(kind).await else { continue };
        for http in [["--http1.1", "1.1"], ["--http2", "2"]] {
            for tls in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
                let options = [&[http[0], "-w", "%{http_version}"], tls].concat();
                let Some(page) = browser::curl(&stage.origin, stage.proxy.addr, "/", &options).await else { return };
                assert_eq!(page, format!("{PAGE}{}", http[1]), "{kind:?} {options:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_shows_the_page() {
    for kind in BOTH {
        let Some(stage) = Stage::start(kind).await else { continue };
        let profile = tempfile::tempdir().unwrap();
        let Some(page) = browser::chromium(&stage.origin, stage.proxy.addr, profile.path()).await else { return };
        assert!(page.contains("Wind from the west on Sunday."), "{kind:?}: {page:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_arrive_whole_in_both_directions() {
    let scratch = tempfile::tempdir().unwrap();
    for kind in BOTH {
        let origin = Origin::make();
        let sum = origin.big_file();
        let Some(stage) = Stage::with(kind, origin, |setup| setup.usual(&KEY)).await else { continue };
        for http in ["--http1.1", "--http2"] {
            let saved = scratch.path().join("big");
            let output = saved.display().to_string();
            let options = [http, "-o", &output];
            let Some(_) = browser::curl(&stage.origin, stage.proxy.addr, "/big.bin", &options).await else { return };
            assert_eq!(crate::support::sum_of_file(&saved), sum, "{kind:?} {http}");
            if kind == Kind::Nginx {
                let file = format!("@{}", stage.origin.folder().join("big.bin").display());
                let options = [http, "--data-binary", &file, "-H", "Expect:"];
                let answer = browser::curl(&stage.origin, stage.proxy.addr, "/upload", &options).await;
                assert_eq!(answer, Some(format!("{BIG} {sum}")), "{http}");
            }
        }
    }
}
