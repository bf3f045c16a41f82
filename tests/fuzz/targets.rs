//! Fuzz targets: one function for everything that reads bytes of others, each of which must take any bytes, and holds what
//! it promises of those that it understands.
//!
//! The programs of this package run them under libFuzzer (docs/contributing.md, "Fuzzing"); the tests run each over its
//! corpus.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use vizard::auth::{ReplayMemory, SecretTag};
use vizard::config::{self, Environment, Flags, LoadError};
use vizard::cover::site::published_path;
use vizard::crypto::kdf::KeyIv;
use vizard::net::proxy_protocol;
use vizard::ops::backup::archive::Archive;
use vizard::relay::uplink::Unwrap;
use vizard::webproxy::budget::Budget;
use vizard::webproxy::capability::{Index, Place};
use vizard::webproxy::request::{Call, Head, Request, Socket, classify};
use vizard::webproxy::session::{End, Limits, Message as WebMessage, Mode, Up};
use vizard::webproxy::{Capability, Form, Session, TokenKey, TokenKind, frame};
use vizard::wire::client_hello::{ClientHello, HelloCollector, Progress};
use vizard::wire::framing::FrameTracker;
use vizard::wire::packets::{ClientPacket, Framing, Packet};
use vizard::wire::rpc::{Checksum, FrameReader, FrameWriter, Message};
use vizard::wire::server_flight::{FlightCollector, safe_cut};
use vizard::wire::{dns, obfuscated};

/// Name of a target's program and corpus, and what is run on each input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Target; 14] = [
    ("client_hello", client_hello),
    ("server_flight", server_flight),
    ("records", records),
    ("obfuscated", obfuscated),
    ("middle_proxy", middle_proxy),
    ("proxy_header", proxy_header),
    ("dns_answer", dns_answer),
    ("configuration", configuration),
    ("archive", archive),
    ("http_target", http_target),
    ("proxy_link", proxy_link),
    ("replay_journal", replay_journal),
    ("web_frames", web_frames),
    ("web_request", web_request),
];

/// A number from 1 that the bytes themselves choose, so that no input is spent on saying where it is cut.
fn piece(bytes: &[u8]) -> usize {
    1 + bytes.iter().fold(bytes.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % 97
}

/// A ClientHello is the same however it is cut, and every range of what is read from it lies within it.
pub fn client_hello(bytes: &[u8]) {
    let (mut whole, mut cut) = (HelloCollector::default(), HelloCollector::default());
    let expected = whole.feed(bytes);
    let found = bytes.chunks(piece(bytes)).map(|chunk| cut.feed(chunk)).find(|progress| *progress != Progress::More);
    match (expected, found.unwrap_or(Progress::More)) {
        (Progress::Whole, Progress::Whole) => {
            let record = whole.into_record();
            assert_eq!(record, cut.into_record());
            if let Ok(hello) = ClientHello::decode(&record) {
                let length: usize = hello.extensions().map(|(_, body)| 4 + body.len()).sum();
                assert!(length <= record.len());
            }
        }
        // What is foreign or more in the midst of a chunk may be known to be whole at the end of a smaller one.
        (Progress::Foreign(_), Progress::Whole)
        | (Progress::Foreign(_), Progress::Foreign(_))
        | (Progress::More, Progress::More) => {}
        (expected, found) => panic!("{expected:?} became {found:?}"),
    }
    let _ = ClientHello::decode(bytes);
}

/// The flight of a cover is collected the same however it is cut, and joined without a byte lost.
pub fn server_flight(bytes: &[u8]) {
    let (mut whole, mut cut) = (FlightCollector::default(), FlightCollector::default());
    let expected = whole.feed(bytes);
    let found = bytes.chunks(piece(bytes)).try_for_each(|chunk| cut.feed(chunk));
    assert_eq!(expected, found);
    if expected.is_err() {
        return;
    }
    assert_eq!(whole.encrypted_records(), cut.encrypted_records());
    for records in 1..=whole.encrypted_records() {
        if let Ok((flight, rest)) = whole.join(records) {
            let headers = 5 * (records - 1);
            assert_eq!(flight.as_bytes().len() + rest.len() + headers, bytes.len());
            if let Some(at) = safe_cut(flight.as_bytes(), piece(bytes)) {
                assert!(at > 0 && at < bytes.len());
            }
        }
    }
}

/// Records of a client give the same payload however they are cut.
pub fn records(bytes: &[u8]) {
    let [first, rest @ ..] = bytes else { return };
    let (mut at_once, mut in_pieces) = (Unwrap::new((*first).into()), Unwrap::new((*first).into()));
    let mut buffer = rest.to_vec();
    let (payload, outcome) = at_once.payload(&mut buffer);
    let (mut gathered, mut last) = (Vec::new(), Ok(()));
    for chunk in rest.chunks(piece(bytes)) {
        let mut chunk = chunk.to_vec();
        let (payload, outcome) = in_pieces.payload(&mut chunk);
        gathered.extend_from_slice(payload);
        last = outcome;
        if last.is_err() {
            break;
        }
    }
    assert_eq!((payload as &[u8], outcome), (&gathered[..], last));
}

/// The obfuscated2 header, and the frames behind it.
pub fn obfuscated(bytes: &[u8]) {
    let mut collector = obfuscated::HeaderCollector::default();
    let (mut taken, mut wrapped) = (0, None);
    for chunk in bytes.chunks(piece(bytes)) {
        match collector.feed(chunk) {
            obfuscated::Progress::More => taken += chunk.len(),
            obfuscated::Progress::Whole(found) => {
                taken += found.used;
                assert!(found.used <= chunk.len());
                wrapped = Some(found);
                break;
            }
            obfuscated::Progress::Foreign(_) => break,
        }
    }
    if let Some(wrapped) = wrapped {
        assert!(bytes[..taken].ends_with(&wrapped.header));
        let _ = obfuscated::open(&wrapped.header, &[7; 16]);
    }
    for framing in [Framing::Abridged, Framing::Intermediate, Framing::Padded] {
        frames(framing, bytes);
    }
    let keys = KeyIv { key: [3; 32], iv: [5; 16] };
    let (mut at_once, mut in_pieces) = (FrameTracker::new(keys.clone()), FrameTracker::new(keys));
    at_once.advance(bytes);
    bytes.chunks(piece(bytes)).for_each(|chunk| in_pieces.advance(chunk));
    assert_eq!((at_once.place(), at_once.position()), (in_pieces.place(), in_pieces.position()));
}

/// Cuts off frame after frame; each packet comes out again of the frame that is made of it.
fn frames(framing: Framing, mut bytes: &[u8]) {
    while let Ok((frame, length)) = framing.decode(bytes) {
        assert!(length > 0 && length <= bytes.len() && frame.packet.len().is_multiple_of(4));
        let _ = ClientPacket::examine(frame.packet);
        if let Some(packet) = Packet::new(frame.packet) {
            let mut made = Vec::new();
            framing.encode(packet, [1; 4], &mut made);
            assert_eq!(framing.decode(&made).map(|(again, end)| (again.packet, end)), Ok((frame.packet, made.len())));
        }
        bytes = &bytes[length..];
    }
}

/// Frames and messages of a middle proxy: what is understood is written as it was read.
pub fn middle_proxy(bytes: &[u8]) {
    for (sequence, checksum) in [(-2, Checksum::Crc32), (0, Checksum::Crc32c)] {
        let (mut reader, mut rest) = (FrameReader::at(sequence, checksum), bytes);
        while let Ok(payload) = reader.read(&mut rest) {
            let _ = Message::decode(payload);
        }
    }
    if let Ok(Some(message)) = Message::decode(bytes) {
        let (mut writer, mut wire) = (FrameWriter::at(9, Checksum::Crc32), Vec::new());
        writer.write(&message, &mut wire);
        let (mut reader, mut rest) = (FrameReader::at(9, Checksum::Crc32), &wire[..]);
        let payload = reader.read(&mut rest).expect("our own frame");
        assert_eq!((Message::decode(payload), rest), (Ok(Some(message)), &[][..]));
    }
}

/// The PROXY protocol header: nothing behind its longest form is read.
pub fn proxy_header(bytes: &[u8]) {
    const LONGEST: usize = 2048;
    let mut rest = bytes;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _: Result<Option<SocketAddr>, _> = runtime.block_on(proxy_protocol::receive(&mut rest));
    assert!(bytes.len() - rest.len() <= LONGEST);
}

/// An answer has no more addresses than fit into it.
pub fn dns_answer(bytes: &[u8]) {
    for kind in [dns::Kind::A, dns::Kind::Aaaa] {
        if let Ok(answer) = dns::answer(bytes, kind) {
            assert!(answer.addresses.len() <= bytes.len() / 12);
        }
    }
}

/// A configuration is loaded, or each complaint can be shown.
pub fn configuration(bytes: &[u8]) {
    load(&String::from_utf8_lossy(bytes));
}

/// The link of another proxy.
pub fn proxy_link(bytes: &[u8]) {
    let link = toml::Value::String(String::from_utf8_lossy(bytes).into_owned());
    load(&format!("[[routes]]\nname = \"abroad\"\nkind = \"mtproto\"\nlink = {link}\n"));
}

fn load(text: &str) {
    match config::load_text(text, None, &Flags::default(), &Environment::default()) {
        Ok(loaded) => _ = loaded.warnings.render(false),
        Err(LoadError::Complaints(report)) => assert_ne!(report.render(true), ""),
        Err(LoadError::Unreadable { .. }) => panic!("there is no file to be read"),
    }
}

/// An archive that is unpacked has its files where they belong, and is packed and unpacked into the same.
pub fn archive(bytes: &[u8]) {
    let Ok(archive) = Archive::unpack(bytes) else { return };
    assert!(archive.state.iter().all(|(path, _)| path.is_relative() && !path.ends_with("..")));
    let packed = archive.pack().expect("what was packed");
    assert!(Archive::unpack(&packed).is_ok_and(|again| again == archive));
}

/// No target of a request leads out of the folder of a site, or to a hidden file.
pub fn http_target(bytes: &[u8]) {
    let Ok(target) = std::str::from_utf8(bytes) else { return };
    let Some(path) = published_path(target) else { return };
    assert!(path.starts_with(b"/"));
    for name in path.split(|byte| *byte == b'/') {
        assert!(!name.starts_with(b".") || name == b".well-known", "{}", String::from_utf8_lossy(&path));
    }
}

/// A file of spent hellos is refused or loaded, and whatever is spent behind it is known the next time.
pub fn replay_journal(bytes: &[u8]) {
    let path = scratch();
    std::fs::write(&path, bytes).expect("a file");
    let tag = SecretTag::of(&[7; 16]);
    if let Ok((memory, before)) = ReplayMemory::open(&path, &[tag]) {
        let new = memory.spend(tag, &[9; 28]);
        assert!(!memory.spend(tag, &[9; 28]));
        drop(memory);
        let (memory, after) = ReplayMemory::open(&path, &[tag]).expect("it was opened before");
        assert_eq!(after.entries, before.entries + usize::from(new));
        assert!(!memory.spend(tag, &[9; 28]));
    }
    let _ = std::fs::remove_file(&path);
}

/// A file of this thread alone, in memory where there is such a place.
fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("vizard-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()))
}

/// A batch of a WEB proxy's app is applied or ends the session, on every carrier, and what it made us keep is freed.
pub fn web_frames(bytes: &[u8]) {
    let (now, budget) = (Instant::now(), Arc::new(Budget::new(1 << 30)));
    let open = frame::head(frame::Kind::Open, 1, 0);
    for (mode, socket) in [
        (Mode::Https, None),
        (Mode::HttpsLanes, None),
        (Mode::Websocket, Some(Socket::Plain)),
        (Mode::Websocket, Some(Socket::Resumable)),
        (Mode::WebsocketLanes, Some(Socket::Lane(1))),
    ] {
        let mut session = Session::new(mode, Limits::default(), budget.key(SecretTag::NONE), now);
        let is_numbered = socket == Some(Socket::Resumable);
        let socket = socket.map(|kind| session.open_socket(kind, now).expect("the first socket"));
        let numbered = [[0, 0, 0, 1, 0, 0, 0, 0], open].concat();
        let first = if is_numbered { &numbered[..] } else { &open[..] };
        for (number, batch) in [first, bytes, bytes].into_iter().enumerate() {
            let batch = batch.to_vec().into();
            let ended = match socket {
                Some(socket) => session.message(socket, batch, now) == WebMessage::Ended,
                None => {
                    let lane = (mode == Mode::HttpsLanes).then_some(1);
                    session.up(lane, number as u64 + 1, batch, now) == Up::Ended
                }
            };
            assert_eq!(ended && mode != Mode::WebsocketLanes, session.ended().is_some());
            while session.next_event().is_some() {}
        }
        let room = session.room(1);
        session.push(1, bytes[..bytes.len().min(room)].to_vec().into());
        let _ = socket.map(|socket| session.next_message(socket, piece(bytes), now));
        session.end(End::Shutdown);
        drop(session);
        assert_eq!(budget.used(), 0);
    }
    if let Ok(frames) = frame::read_batch(&bytes.to_vec().into()) {
        assert!(!frames.is_empty() && frames.len() * frame::HEAD <= bytes.len());
    }
}

/// A request without an authentic value is the site's, and one with it is what its head says. `$B`, `$S` and `$C` stand for
/// a bootstrap token, a session token and a capability.
pub fn web_request(bytes: &[u8]) {
    let (host, base) = ("a.example".parse().expect("a host"), "p".parse().expect("a path"));
    let capability = Capability::new(&[7; 16], Form::Plain, &host, &base).text();
    let places = vec![Place { host, base }];
    let (index, tokens) = (Index::build(&[1; 32], places, [((), [7; 16])]), TokenKey::new(&[2; 32]));
    let token = |kind| tokens.issue(kind, [3; 16]).text();
    let text = String::from_utf8_lossy(bytes).replace("$C", &capability);
    let text = text.replace("$B", &token(TokenKind::Bootstrap)).replace("$S", &token(TokenKind::Session));
    let mut lines = text.lines();
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let host = fields.clone().find(|(name, _)| *name == "Host").map(|(_, value)| value.as_bytes());
    let head = Head {
        method: method.as_bytes(),
        target: target.as_bytes(),
        host,
        protocol: (method == "CONNECT").then_some(b"websocket".as_slice()),
        fields: fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    };
    match classify(&head, &index, &tokens) {
        Request::Stranger => {}
        Request::Bridge(_) => assert_eq!((method, target.contains(&capability)), ("GET", true)),
        Request::Api { call, .. } => match call {
            Call::Create | Call::Up { .. } | Call::Down { .. } => assert_eq!(method, "POST"),
            Call::End => assert_eq!(method, "DELETE"),
            Call::Socket(_) => assert!(matches!(method, "GET" | "CONNECT")),
        },
        Request::Unusable => {}
    }
    assert!(bytes.contains(&b'$') || classify(&head, &index, &tokens) == Request::Stranger);
}
