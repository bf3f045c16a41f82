//! What a classifier makes of visits and sessions by all that the server decides about a connection: its flight, its greeting,
//! the ends of its writes, the way it ends, and when it does each of these.
//!
//! Visitors and clients of the proxy speak at the same times, ask for as much and leave in the same way. What they send
//! is theirs and is not looked at; nor is how long the answers are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::bulk::{opening, request};
use crate::support::dice::Dice;
use crate::support::fake_tls::Login;
use crate::support::forest::{Sample, separability};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::network::with_network;
use crate::support::origin::{NAME, Origin, PAGE};
use crate::support::packets::{Capture, Segment};
use crate::support::stage::{Kind, Stage};
use crate::support::{KEY, browser};

/// Connections of each kind, unless `FOREST` says how many.
const EACH: usize = 96;

/// So many of each are open at a time.
const AT_ONCE: usize = 12;

/// Lengths of what is asked for.
const ANSWERS: Range<usize> = 60_000..160_000;

/// What a client waits before it speaks again: longer than any answer takes.
const PAUSE: Duration = Duration::from_millis(120);

/// How long the end of a connection is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// Features by which sessions and visits must not be told apart.
const FAR: f64 = 0.6;

#[test]
fn a_forest_cannot_tell_sessions_from_visits() {
    with_network("forest::a_forest_cannot_tell_sessions_from_visits", &[], || async {
        let line = Capture::ethernet();
        let each = std::env::var("FOREST").ok().and_then(|count| count.parse().ok()).unwrap_or(EACH);
        for kind in [Kind::Site, Kind::Boring] {
            let dc = MockDc::start(Role::Asked).await;
            let Some(stage) = stage(kind, &dc).await else { continue };
            let samples = samples(&line, &stage, kind, each).await;
            let mut told = Vec::new();
            for (name, held, from) in GROUPS {
                let part = |(seen, positive): &(Seen, bool)| Sample { features: from(seen), positive: *positive };
                let part: Vec<Sample> = samples.iter().map(part).collect();
                let area = separability(&part, &mut Dice::new(7));
                eprintln!("{kind:?}: {name}: {:.3}, at least {:.3}", area.found, area.least);
                if area.least > FAR {
                    medians(&part);
                    told.extend(held.then(|| format!("{name}: {area:?}")));
                }
            }
            assert!(told.is_empty(), "{kind:?}: {} connections are told apart by {told:?}", samples.len());
        }
    });
}

type Features = fn(&Seen) -> Vec<f64>;

/// Parts of what is seen, and whether it is promised that they tell nothing.
const GROUPS: [(&str, bool, Features); 7] = [
    ("flight", false, |seen| seen.flight.clone()),
    ("records of the greeting", true, |seen| seen.records.clone()),
    ("greeting", false, |seen| seen.greeting.clone()),
    ("bulk", false, |seen| seen.bulk.clone()),
    ("end", false, |seen| seen.end.clone()),
    ("first five packets", true, |seen| seen.first.clone()),
    ("everything", false, |seen| [&seen.flight[..], &seen.greeting, &seen.bulk, &seen.end].concat()),
];

/// Shows what tells them apart.
fn medians(samples: &[Sample]) {
    for feature in 0..samples[0].features.len() {
        let median = |positive| {
            let mut all: Vec<f64> = samples
                .iter()
                .filter(|sample| sample.positive == positive)
                .map(|sample| sample.features[feature])
                .collect();
            all.sort_by(f64::total_cmp);
            [all[all.len() / 10], all[all.len() / 2], all[all.len() * 9 / 10]]
        };
        eprintln!("    feature {feature}: visits {:.3?}, sessions {:.3?}", median(false), median(true));
    }
}

/// The lengths that there are.
fn lengths() -> Vec<usize> {
    ANSWERS.step_by(997).collect()
}

/// A cover with answers of many lengths.
async fn stage(kind: Kind, dc: &MockDc) -> Option<Stage> {
    let origin = Origin::make();
    let page = format!("{PAGE}<!--{}-->", "x".repeat(ANSWERS.end));
    std::fs::write(origin.folder().join("index.html"), page).expect("writes the page");
    for length in lengths() {
        std::fs::write(origin.folder().join(length.to_string()), vec![b'x'; length]).expect("writes an answer");
    }
    let stage = Stage::with(kind, origin, |setup| setup.usual(&KEY).dc(2, dc.addr)).await?;
    stage.proxy.logged("the cover was visited").await;
    Some(stage)
}

async fn samples(line: &Capture, stage: &Stage, kind: Kind, each: usize) -> Vec<(Seen, bool)> {
    let mut config = browser::config(&stage.origin, &TLS13);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let (config, server, two) = (Arc::new(config), stage.proxy.addr, kind == Kind::Site);
    let (mut samples, mut dice, lengths) = (Vec::new(), Dice::unseen(), lengths());
    // Of a few connections not all is noted on a busy machine.
    for _ in 0..2 * each.div_ceil(AT_ONCE) {
        if samples.len() >= 2 * each {
            break;
        }
        line.forget();
        let mut open = Vec::new();
        for number in 0..2 * AT_ONCE {
            let (config, positive) = (config.clone(), number % 2 == 1);
            let length = lengths[dice.below(lengths.len())];
            open.push((
                positive,
                tokio::spawn(async move {
                    sleep(Duration::from_millis(15 * number as u64)).await;
                    if positive { session(server, length).await } else { visit(server, config, two, length).await }
                }),
            ));
        }
        let mut done = Vec::new();
        for (positive, client) in open {
            done.push((client.await.expect("no client panics"), positive));
        }
        // What the kernel has noted by now is read soon.
        sleep(PAUSE).await;
        let mut all: HashMap<_, Vec<Segment>> = HashMap::new();
        for segment in line.all() {
            all.entry(if segment.from == server { segment.to } else { segment.from }).or_default().push(segment);
        }
        for (own, positive) in done {
            let seen = all.remove(&own).and_then(|segments| Seen::of(own, &segments));
            samples.extend(seen.map(|seen| (seen, positive)));
        }
    }
    samples
}

async fn visit(server: SocketAddr, config: Arc<ClientConfig>, two: bool, length: usize) -> SocketAddr {
    let stream = connect(server).await;
    let own = stream.local_addr().expect("an address");
    let name = ServerName::try_from(NAME).expect("a name");
    let mut tls = TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
    sleep(PAUSE).await;
    if two {
        tls.write_all(&opening()).await.expect("writes");
        tls.flush().await.expect("writes");
    }
    sleep(PAUSE).await;
    let one = format!("GET /{length} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").into_bytes();
    tls.write_all(&if two { request(&format!("/{length}")) } else { one }).await.expect("writes");
    tls.flush().await.expect("writes");
    leave(tls.into_inner().0, own, length).await
}

async fn session(server: SocketAddr, length: usize) -> SocketAddr {
    let login = Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen());
    let mut stream = connect(server).await;
    let own = stream.local_addr().expect("an address");
    stream.write_all(&login.wire).await.expect("writes");
    let flight = crate::support::fake_tls::read_flight(&mut stream, &KEY, &login.random).await;
    let mut session = login.session(stream, flight.expect("the proxy admits"));
    session.up.packet(&[0; 40]).await.expect("the proxy takes it");
    sleep(PAUSE).await;
    session.up.packet(&[0; 40]).await.expect("the proxy takes it");
    sleep(PAUSE).await;
    session.up.packet(&(length as u32).to_le_bytes()).await.expect("the proxy takes it");
    leave(session.into_stream(), own, length).await
}

async fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// Takes the answer, waits, says that this was all, and takes what still comes.
async fn leave(mut stream: TcpStream, own: SocketAddr, length: usize) -> SocketAddr {
    let (mut bytes, mut taken) = (vec![0; 64 << 10], 0);
    while taken < length {
        match timeout(Duration::from_secs(20), stream.read(&mut bytes)).await {
            Ok(Ok(count @ 1..)) => taken += count,
            other => panic!("{other:?} after {taken} bytes"),
        }
    }
    sleep(PAUSE).await;
    let _ = stream.shutdown().await;
    let rest = async { while let Ok(1..) = stream.read(&mut bytes).await {} };
    let _ = timeout(PATIENCE, rest).await;
    own
}

/// The features of one connection.
struct Seen {
    flight: Vec<f64>,
    greeting: Vec<f64>,
    records: Vec<f64>,
    bulk: Vec<f64>,
    end: Vec<f64>,
    first: Vec<f64>,
}

impl Seen {
    /// `None` if not all of it was noted. The client's own segments say when it did what.
    fn of(own: SocketAddr, all: &[Segment]) -> Option<Self> {
        let (client, server): (Vec<&Segment>, Vec<&Segment>) = all.iter().partition(|segment| segment.from == own);
        let hello = client.first()?.at;
        let (flight, behind) = server.split_at(flight(&server)?);
        let spoke = |after: Instant| client.iter().map(|segment| segment.at).find(|at| *at > after);
        let finished = spoke(flight.last()?.at)?;
        // A visitor may have nothing to say before its request.
        let again = finished + PAUSE;
        let asked = spoke(again + PAUSE * 6 / 10)?;
        let again = spoke(finished + PAUSE * 6 / 10).filter(|at| *at < asked).unwrap_or(again);
        let fin = client.iter().find(|segment| segment.fin || segment.reset)?.at;
        let within = |from: Instant, to: Instant| -> Vec<&Segment> {
            behind.iter().copied().filter(|segment| (from..to).contains(&segment.at)).collect()
        };
        let [greeting, answer, bulk, end] =
            [(finished, again), (again, asked), (asked, fin), (fin, fin + 2 * PATIENCE)]
                .map(|(from, to)| within(from, to));
        if bulk.iter().map(|segment| segment.payload.len()).sum::<usize>() < ANSWERS.start {
            return None;
        }
        let first: Vec<&Segment> =
            server.iter().copied().filter(|segment| !segment.payload.is_empty()).take(5).collect();
        let bulk = &bulk[..bulk.len().saturating_sub(8)];
        Some(Self {
            flight: shape(flight, hello),
            greeting: [shape(&greeting, finished), records(&greeting), shape(&answer, again)].concat(),
            records: records(&greeting),
            bulk: texture(&bulk[8.min(bulk.len())..]),
            end: [
                shape(&end, fin),
                vec![flag(end.iter().any(|segment| segment.fin)), flag(end.iter().any(|segment| segment.reset))],
            ]
            .concat(),
            first: first
                .iter()
                .flat_map(|segment| [segment.payload.len() as f64, flag(segment.push)])
                .collect::<Vec<_>>(),
        })
        .filter(|seen| seen.first.len() == 10)
    }
}

/// How many segments the flight has: a ServerHello, a change_cipher_spec and one encrypted record.
fn flight(segments: &[&Segment]) -> Option<usize> {
    let bytes: Vec<u8> = segments.iter().take(8).flat_map(|segment| segment.payload.clone()).collect();
    let mut length = 0;
    for _ in 0..3 {
        length += 5 + usize::from(u16::from_be_bytes([*bytes.get(length + 3)?, *bytes.get(length + 4)?]));
    }
    let mut have = 0;
    let whole = segments.iter().position(|segment| {
        have += segment.payload.len();
        have >= length
    });
    whole.map(|last| last + 1)
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

/// How many segments, the lengths and PSH of three, when the first came and how long the last took, in milliseconds.
fn shape(segments: &[&Segment], since: Instant) -> Vec<f64> {
    let after = |segment: Option<&&Segment>| {
        segment.map_or(-1.0, |segment| segment.at.saturating_duration_since(since).as_secs_f64() * 1000.0)
    };
    let length = |number: usize| segments.get(number).map_or(-1.0, |segment| segment.payload.len() as f64);
    let pushed = |number: usize| segments.get(number).map_or(-1.0, |segment| flag(segment.push));
    let (first, last) = (after(segments.first()), after(segments.last()));
    let mut shape = vec![segments.len() as f64, first, last - first];
    shape.extend((0..3).flat_map(|number| [length(number), pushed(number)]));
    shape
}

/// How many records, and the sizes of four.
fn records(segments: &[&Segment]) -> Vec<f64> {
    let bytes: Vec<u8> = segments.iter().flat_map(|segment| segment.payload.clone()).collect();
    let (mut rest, mut sizes) = (&bytes[..], Vec::new());
    while let [_, _, _, high, low, ..] = *rest {
        let size = usize::from(u16::from_be_bytes([high, low]));
        sizes.push(size as f64);
        rest = rest.get(5 + size..).unwrap_or_default();
    }
    let count = sizes.len() as f64;
    sizes.resize(4, -1.0);
    sizes.insert(0, count);
    sizes
}

/// Shares of segments with PSH and of short ones, and the mean and the longest way from one PSH to the next.
fn texture(segments: &[&Segment]) -> Vec<f64> {
    let full = segments.iter().map(|segment| segment.payload.len()).max().unwrap_or_default();
    let share =
        |is: &dyn Fn(&&&Segment) -> bool| segments.iter().filter(is).count() as f64 / segments.len().max(1) as f64;
    let runs = segments.split_inclusive(|segment| segment.push);
    let longest = runs.clone().map(<[_]>::len).max().unwrap_or_default() as f64;
    let mean = segments.len() as f64 / runs.count().max(1) as f64;
    vec![share(&|segment| segment.push), share(&|segment| segment.payload.len() < full), mean, longest]
}
