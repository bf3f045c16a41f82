//! What a watcher of the line sees of a download: where writes end, which the last segment of each shows by its PSH and by
//! its length.
//!
//! A visitor of the proxy fetches a file from the cover, and a session as much from its data centre, over an Ethernet of
//! their own. Both clients do the same work: what comes is thrown away as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, read_flight};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::network::with_network;
use crate::support::origin::{NAME, Origin, PAGE};
use crate::support::packets::{Capture, ETHERNET, Segment};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::vizard::Setup;
use crate::support::{KEY, browser};

/// What is downloaded.
const BULK: usize = 4 << 20;

/// The beginning, which greetings and handshakes are in, is none of it.
const BEGINNING: usize = 128 << 10;

/// A client whose line is slower than the server, and the others.
const SLOW: [u8; 4] = [127, 0, 0, 9];
const FAST: [u8; 4] = [127, 0, 0, 1];

/// How fast the slow line is.
const SLOW_RATE: &str = "100mbit";

#[test]
fn bulk_is_written_as_it_is_for_visitors() {
    with_network("bulk::bulk_is_written_as_it_is_for_visitors", &[], || async {
        let line = Capture::ethernet();
        // On a busy machine the site is slower than that line, so this is for people to look at.
        let slow = std::env::var_os("SLOW_LINE").is_some() && slow_line();
        for kind in BOTH {
            let dc = MockDc::start(Role::Asked).await;
            let Some(stage) = stage(kind, &dc).await else { continue };
            for (from, there) in [(FAST, true), (SLOW, slow)] {
                if there {
                    compare(&line, &stage, from, kind).await;
                }
            }
        }
    });
}

/// A machine that is busy now and then lets the one or the other client fall behind, so there are a few attempts; what is
/// written otherwise differs in each.
async fn compare(line: &Capture, stage: &Stage, from: [u8; 4], kind: Kind) {
    let mut shown = String::new();
    for _ in 0..ATTEMPTS {
        line.forget();
        let visit = visit(stage, from).await;
        let visit = Texture::of(&line.whole(stage.proxy.addr, visit, BULK));
        line.forget();
        let session = session(stage, from).await;
        let session = Texture::of(&line.whole(stage.proxy.addr, session, BULK));
        shown = format!("{kind:?} to {from:?}\n  visit   {visit}\n  session {session}");
        eprintln!("{shown}");
        if from == SLOW || alike(visit.pushed, session.pushed) && alike(visit.short, session.short) {
            return;
        }
    }
    panic!("{shown}");
}

/// How often two downloads may differ.
const ATTEMPTS: usize = 4;

/// Whether two shares are the same but for what chance makes of them: of a client that falls behind now and then a session
/// knows sooner. What is written otherwise has a seventh of the share, or less.
fn alike(one: f64, other: f64) -> bool {
    let (least, most) = (one.min(other), one.max(other));
    most - least < 0.02 || most < 4.0 * least
}

/// What the data segments of a download are like.
struct Texture {
    /// Share of those with PSH, and of those that could have been longer.
    pushed: f64,
    short: f64,
    /// Bytes from one PSH to the next: the most frequent ones, with their shares.
    runs: Vec<(usize, f64)>,
    segments: usize,
}

impl fmt::Display for Texture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pushed, short) = (self.pushed * 100.0, self.short * 100.0);
        write!(f, "{} segments, {pushed:.1} % with PSH, {short:.1} % short; from one PSH to the next", self.segments)?;
        self.runs.iter().try_for_each(|(run, share)| write!(f, " {run}: {:.0} %", share * 100.0))
    }
}

impl Texture {
    fn of(segments: &[Segment]) -> Self {
        let full = segments.iter().map(|segment| segment.payload.len()).max().expect("some data");
        assert!((ETHERNET - 100..ETHERNET).contains(&full), "segments of {full} bytes");
        let mut behind = 0;
        let bulk = segments.iter().filter(|segment| {
            behind += segment.payload.len();
            behind > BEGINNING && behind < BULK && !segment.payload.is_empty()
        });
        let (mut pushed, mut short, mut all, mut run) = (0, 0, 0, 0);
        let mut runs = BTreeMap::<usize, usize>::new();
        for segment in bulk {
            all += 1;
            run += segment.payload.len();
            short += usize::from(segment.payload.len() < full);
            if segment.push {
                pushed += 1;
                *runs.entry(run).or_default() += 1;
                run = 0;
            }
        }
        let mut runs: Vec<_> = runs.into_iter().map(|(run, count)| (run, count as f64 / pushed as f64)).collect();
        runs.sort_by(|one, other| other.1.total_cmp(&one.1));
        runs.truncate(5);
        let share = |count: usize| count as f64 / all as f64;
        Self { pushed: share(pushed), short: share(short), runs, segments: all }
    }
}

/// A stage whose cover has a file as large as the download, and has been visited.
async fn stage(kind: Kind, dc: &MockDc) -> Option<Stage> {
    let origin = Origin::make();
    std::fs::write(origin.folder().join("bulk.bin"), vec![7; BULK]).expect("writes the file");
    std::fs::write(origin.folder().join("index.html"), format!("{PAGE}<a href=\"/bulk.bin\">all of it</a>\n"))
        .expect("writes the page");
    let stage = Stage::with(kind, origin, |setup: Setup| setup.usual(&KEY).dc(2, dc.addr)).await?;
    stage.proxy.logged("the cover was visited").await;
    Some(stage)
}

/// Fetches the file as a browser that lets the server send all of it at once; returns its own address.
async fn visit(stage: &Stage, from: [u8; 4]) -> SocketAddr {
    let mut config = browser::config(&stage.origin, &TLS13);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(from, stage.proxy.addr).await;
    let name = ServerName::try_from(NAME).expect("a name");
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    tls.write_all(&[opening(), request("/bulk.bin")].concat()).await.expect("writes");
    tls.flush().await.expect("writes");
    take(tls.into_inner().0).await
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// How a browser begins that lets the server send without end: preface, settings and windows.
pub fn opening() -> Vec<u8> {
    const ENDLESS: [u8; 4] = [0x7f, 0xff, 0, 0];
    let settings = frame(4, 0, 0, &[&[0, 4][..], &ENDLESS].concat());
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &frame(8, 0, 0, &ENDLESS)].concat()
}

/// A request that needs no table of headers.
pub fn request(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    // GET, https, and path and authority in letters.
    frame(1, 5, 1, &[&[0x82, 0x87, 0x04][..], &text(path), &[0x01], &text(NAME)].concat())
}

/// Has the data centre send as much.
async fn session(stage: &Stage, from: [u8; 4]) -> SocketAddr {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut stream = connect(from, stage.proxy.addr).await;
    stream.write_all(&login.wire).await.expect("writes");
    let flight = read_flight(&mut stream, &KEY, &login.random).await.expect("the proxy admits");
    let mut session = login.session(stream, flight);
    session.up.packet(&(BULK as u32).to_le_bytes()).await.expect("the proxy takes it");
    take(session.into_stream()).await
}

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of ours");
    let stream = socket.connect(to).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// Throws away what comes until that was all, as fast as that may be.
async fn take(stream: TcpStream) -> SocketAddr {
    let mut stream = stream.into_std().expect("a socket");
    let own = stream.local_addr().expect("an address");
    let taking = move || {
        stream.set_nonblocking(false).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        let (mut bytes, mut taken) = (vec![0; 256 << 10], 0);
        while taken < BULK {
            let count = stream.read(&mut bytes).expect("more in time");
            assert!(count > 0, "the end after {taken} bytes");
            taken += count;
        }
    };
    tokio::task::spawn_blocking(taking).await.expect("all of it");
    own
}

/// Makes the way to the slow client slow; says whether that could be had.
fn slow_line() -> bool {
    let address = SLOW.map(|byte| byte.to_string()).join(".");
    let lines = [
        "qdisc add dev lo root handle 1: htb".to_owned(),
        format!("class add dev lo parent 1: classid 1:9 htb rate {SLOW_RATE}"),
        format!("filter add dev lo parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:9"),
    ];
    let made = |line: &String| {
        let made = std::process::Command::new("tc").args(line.split(' ')).output();
        made.is_ok_and(|made| made.status.success())
    };
    lines.iter().all(made)
}
