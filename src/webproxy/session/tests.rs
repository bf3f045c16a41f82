use std::time::Duration;

use super::*;
use crate::auth::SecretTag;
use crate::fixtures::{unhex, web_vectors};
use crate::webproxy::budget::{Budget, ITEM};
use crate::webproxy::frame::{Batch, INITIAL_CREDIT, Kind, MAX_BATCH, whole};
use crate::webproxy::request::Socket;

fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(512 << 20))
}

fn part(budget: &Arc<Budget>) -> Arc<KeyBudget> {
    budget.key(SecretTag::NONE)
}

/// Memory of so many streams of which nothing waits.
fn streams(count: usize) -> usize {
    count * 4096
}

fn session(mode: Mode) -> Session {
    Session::new(mode, Limits::default(), part(&budget()), Instant::now())
}

fn open(id: u32) -> Bytes {
    whole(Kind::Open, id, &[])
}

fn data(id: u32, payload: &[u8]) -> Bytes {
    whole(Kind::Data, id, payload)
}

fn close(id: u32) -> Bytes {
    whole(Kind::Close, id, &[])
}

fn window(id: u32, more: u32) -> Bytes {
    whole(Kind::Window, id, &more.to_be_bytes())
}

fn pong() -> Bytes {
    whole(Kind::Pong, 0, &[])
}

fn join(frames: &[Bytes]) -> Bytes {
    frames.concat().into()
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.next_event()).collect()
}

/// Frames of a batch for the app: type, stream, payload.
fn frames(batch: &Batch) -> Vec<(u8, u32, Vec<u8>)> {
    let (bytes, mut at, mut found) = (batch.to_bytes(), 0, Vec::new());
    assert_eq!(bytes.len(), batch.len());
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let stream = u32::from_be_bytes([0, bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        found.push((bytes[at], stream, bytes[at + 8..at + 8 + length].to_vec()));
        at += 8 + length;
    }
    assert_eq!(found.len(), batch.frames());
    found
}

/// A session on one plain socket.
struct Plain {
    session: Session,
    socket: SocketId,
    now: Instant,
}

impl Plain {
    fn new(limits: Limits, budget: Arc<Budget>) -> Self {
        let now = Instant::now();
        let mut session = Session::new(Mode::Websocket, limits, part(&budget), now);
        let socket = session.open_socket(Socket::Plain, now).unwrap();
        Self { session, socket, now }
    }

    fn send(&mut self, frames: &[Bytes]) -> Message {
        self.session.message(self.socket, join(frames), self.now)
    }

    fn next(&mut self, limit: usize) -> Option<Vec<(u8, u32, Vec<u8>)>> {
        assert_eq!(self.session.socket_has_downlink(self.socket), self.session.streams.has(BatchScope::All));
        self.session.next_message(self.socket, limit, self.now).map(|batch| frames(&batch))
    }

    fn all(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        std::iter::from_fn(|| self.next(MAX_BATCH)).flatten().collect()
    }
}

fn plain() -> Plain {
    Plain::new(Limits::default(), budget())
}

#[test]
fn frames_change_streams_as_the_vectors_say() {
    let rows = web_vectors("state_rules");
    assert!(rows.as_array().unwrap().len() >= 15);
    for row in rows.as_array().unwrap() {
        let mut plain = plain();
        let (name, before) = (row["name"].as_str().unwrap(), unhex(row["before"].as_str().unwrap()));
        if !before.is_empty() {
            assert_eq!(plain.send(&[before.into()]), Message::Applied, "{name}");
        }
        events(&mut plain.session);
        let outcome = plain.send(&[unhex(row["frame"].as_str().unwrap()).into()]);
        let (events, answer) = (events(&mut plain.session), plain.all());
        let reaction = row["reaction"].as_str().unwrap();
        let fatal = reaction == "fatal";
        assert_eq!((outcome == Message::Ended, plain.session.ended().is_some()), (fatal, fatal), "{name}");
        match reaction {
            "fatal" => assert!(answer.is_empty(), "{name}"),
            "deliver" => assert_eq!(events, [Event::Data(1, Bytes::from_static(b"x"))]),
            "ignore" => assert_eq!((events, answer), (vec![], vec![]), "{name}"),
            "abort, tombstone, no answer" => assert_eq!((events, answer), (vec![Event::Close(1)], vec![])),
            "credit +9" | "credit = 4294967295" => assert_eq!((events, answer), (vec![], vec![])),
            refused if refused.contains("CLOSE") => {
                assert_eq!((events.len(), answer.len(), answer[0].0), (0, 1, Kind::Close as u8), "{name}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn credit_is_kept_both_ways() {
    let mut plain = plain();
    plain.send(&[open(1)]);
    let payload = vec![7; 1 << 20];
    for _ in 0..4 {
        assert_eq!(plain.send(&[data(1, &payload)]), Message::Applied);
    }
    let mut passed = 0;
    for event in events(&mut plain.session).into_iter().skip(1) {
        let Event::Data(1, bytes) = event else { panic!("{event:?}") };
        passed += bytes.len();
        plain.session.consumed(1, bytes.len());
    }
    assert_eq!(passed, 4 << 20);
    // What was passed on is given back in one frame, and then as much again may come.
    assert_eq!(plain.all(), [(Kind::Window as u8, 1, (4u32 << 20).to_be_bytes().to_vec())]);
    for _ in 0..4 {
        assert_eq!(plain.send(&[data(1, &payload)]), Message::Applied);
    }
    assert_eq!(plain.send(&[data(1, b"x")]), Message::Ended);
    assert_eq!(plain.session.ended(), Some(End::Stream(Violation::Credit)));
}

#[test]
fn nothing_is_sent_beyond_the_apps_credit() {
    let mut plain = plain();
    plain.send(&[open(1)]);
    let mut sent = 0;
    for _ in 0..200 {
        let room = plain.session.room(1);
        plain.session.push(1, vec![0; room].into());
        sent += plain.all().iter().map(|frame| frame.2.len()).sum::<usize>();
    }
    assert_eq!((sent, plain.session.room(1)), (INITIAL_CREDIT as usize, 0));
    events(&mut plain.session);
    plain.send(&[window(1, 10)]);
    assert_eq!((plain.session.room(1), events(&mut plain.session)), (10, vec![Event::Room(1)]));
    plain.session.push(1, Bytes::from_static(b"0123456789"));
    assert_eq!(plain.all(), [(Kind::Data as u8, 1, b"0123456789".to_vec())]);
}

#[test]
fn what_was_pushed_goes_before_close_and_nothing_after() {
    let mut plain = plain();
    plain.send(&[open(1), open(2)]);
    plain.session.push(1, Bytes::from_static(b"last words"));
    plain.session.close(1);
    plain.session.push(1, Bytes::from_static(b"too late"));
    plain.session.push(2, Bytes::from_static(b"unheard"));
    plain.session.abort(2);
    assert_eq!(plain.session.streams(), 2);
    let sent = plain.all();
    assert_eq!(
        sent,
        [(Kind::Close as u8, 2, vec![]), (Kind::Data as u8, 1, b"last words".to_vec()), (Kind::Close as u8, 1, vec![]),]
    );
    assert_eq!((plain.session.streams(), plain.all()), (0, vec![]));
    // Frames that crossed it on the way are ignored.
    assert_eq!(plain.send(&[data(1, b"x"), window(1, 5), close(1), close(2)]), Message::Applied);
    assert_eq!((events(&mut plain.session).len(), plain.all()), (2, vec![]));
}

#[test]
fn a_newcomer_goes_before_a_download_and_downloads_share() {
    let mut plain = plain();
    plain.send(&[open(1), open(2), open(3)]);
    for id in [1, 2] {
        plain.session.push(id, vec![id as u8; 256 << 10].into());
    }
    plain.next(64 << 10);
    plain.session.push(3, Bytes::from_static(b"pong"));
    assert_eq!(plain.next(64 << 10).unwrap()[0], (Kind::Data as u8, 3, b"pong".to_vec()));
    let mut shares = [0usize; 3];
    for (_, id, payload) in plain.next(128 << 10).unwrap() {
        shares[id as usize - 1] += payload.len();
    }
    assert!(shares[0].abs_diff(shares[1]) <= 16 << 10, "{shares:?}");
}

#[test]
fn a_stream_that_is_alone_has_long_frames() {
    let mut plain = plain();
    plain.send(&[open(1)]);
    for byte in 0..64u8 {
        plain.session.push(1, vec![byte; 4 << 10].into());
    }
    let frames = plain.next(1 << 20).unwrap();
    assert!(frames.iter().all(|frame| frame.2.len() == 64 << 10), "{:?}", frames.iter().map(|f| f.2.len()));
    let sent: Vec<u8> = frames.into_iter().flat_map(|frame| frame.2).collect();
    assert_eq!(sent, (0..64u8).flat_map(|byte| [byte; 4 << 10]).collect::<Vec<_>>());
}

/// Time until an answer to a ping has arrived, on a road of 10 Mbit/s that a download fills.
fn ping_behind_a_download(mode: Mode) -> f64 {
    let (rate, trip) = (10e6 / 8.0, 0.04);
    let (start, mut clock, mut worst) = (Instant::now(), 0.0f64, 0.0f64);
    let mut session = Session::new(mode, Limits::default(), part(&budget()), start);
    assert_eq!(session.up(None, 1, join(&[open(1), open(2)]), start), Up::Acknowledged(1));
    let (mut cursor, mut asked, mut credit) = (0, None, 2);
    for turn in 0..400 {
        let room = session.room(1);
        session.push(1, vec![0; room].into());
        let now = start + Duration::from_secs_f64(clock);
        let Down::Batch { cursor: next, batch } = session.down(None, cursor, now) else { panic!() };
        let arrived = clock + batch.len() as f64 / rate + trip / 2.0;
        if let Some(since) = asked
            && frames(&batch).iter().any(|frame| frame.1 == 2)
        {
            worst = worst.max(arrived - since - trip / 2.0);
            asked = None;
        }
        // The answer of the ping comes from Telegram just after this batch was made up: the worst moment.
        if turn > 40 && asked.is_none() {
            asked = Some(clock);
            session.push(2, Bytes::from_static(b"pong"));
        }
        clock = arrived + trip / 2.0;
        cursor = next;
        session.up(None, credit, window(1, batch.data() as u32), start + Duration::from_secs_f64(clock));
        credit += 1;
    }
    worst
}

#[test]
fn a_download_delays_a_ping_by_a_tenth_of_a_second_at_most() {
    let worst = ping_behind_a_download(Mode::Https);
    // Two turns of the poll are in it: the one that was just sent off, and its own.
    assert!((0.01..0.04 + 0.1).contains(&worst), "{worst}");
}

#[test]
fn what_waits_is_bounded_for_each_stream_session_and_in_all() {
    let limits = Limits { stream_queue: 64 << 10, session_down: 128 << 10, ..Limits::default() };
    let budget = Arc::new(Budget::new(8 << 20));
    let mut plain = Plain::new(limits, budget.clone());
    let opens: Vec<Bytes> = (1..=100).map(open).collect();
    plain.send(&opens);
    for id in 1..=100 {
        while plain.session.room(id) > 0 {
            let room = plain.session.room(id);
            plain.session.push(id, vec![0; room].into());
        }
    }
    // The session's bound, and a reserve for each stream.
    let waits = budget.used() - streams(100);
    assert!(waits <= (128 << 10) + 100 * ((16 << 10) + ITEM), "{waits}");
    events(&mut plain.session);
    plain.all();
    assert_eq!(budget.used(), streams(100));
    let rooms = events(&mut plain.session);
    assert_eq!(rooms.len(), 100);
    assert!(rooms.iter().all(|event| matches!(event, Event::Room(_))));
}

#[test]
fn a_stream_that_found_room_taken_by_another_is_told_of_the_next() {
    let limits = Limits { stream_queue: 64 << 10, session_down: 128 << 10, ..Limits::default() };
    let mut plain = Plain::new(limits, Arc::new(Budget::new(8 << 20)));
    let ids = 1..=20;
    plain.send(&ids.clone().map(open).collect::<Vec<_>>());
    let fill = |plain: &mut Plain, id: u32| {
        while let room @ 1.. = plain.session.room(id) {
            plain.session.push(id, vec![0; room].into());
        }
    };
    ids.clone().for_each(|id| fill(&mut plain, id));
    events(&mut plain.session);
    // Room for a few, of which all are told that wait for it, and the first take it.
    let mut told = Vec::new();
    while told.is_empty() {
        plain.next(8 << 10).expect("something waits");
        told = events(&mut plain.session);
    }
    ids.clone().for_each(|id| fill(&mut plain, id));
    plain.all();
    let told_again = events(&mut plain.session);
    assert!(!told.is_empty() && told_again.len() == 20, "{told:?}, then {told_again:?}");
}

#[test]
fn a_session_that_holds_too_much_of_the_app_takes_no_more_until_it_was_passed_on() {
    let limits = Limits { session_up: 1 << 20, ..Limits::default() };
    let budget = Arc::new(Budget::new(64 << 20));
    let mut plain = Plain::new(limits, budget.clone());
    plain.send(&[open(1), open(2)]);
    let payload = vec![0; 600 << 10];
    assert_eq!(plain.send(&[data(1, &payload)]), Message::Applied);
    assert_eq!(plain.send(&[data(2, &payload)]), Message::Busy);
    assert_eq!(budget.used(), (600 << 10) + ITEM + streams(2));
    plain.session.consumed(1, 600 << 10);
    assert_eq!(plain.send(&[data(2, &payload)]), Message::Applied);
    // What a stream held is free when it is closed, from either side.
    plain.session.close(2);
    assert_eq!(budget.used(), streams(2));
    drop(plain);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_full_budget_leaves_every_session_some_progress() {
    let budget = Arc::new(Budget::new(1 << 20));
    let mut greedy = Plain::new(Limits::default(), budget.clone());
    greedy.send(&[open(1)]);
    assert_eq!(greedy.send(&[data(1, &vec![0; 1 << 20])]), Message::Applied);
    assert_eq!((part(&budget).is_spent(), greedy.send(&[data(1, b"x")])), (true, Message::Busy));
    let mut modest = Plain::new(Limits::default(), budget.clone());
    assert_eq!(modest.send(&[open(1), data(1, b"hello")]), Message::Applied);
    assert_eq!(modest.session.room(1), 16 << 10);
    drop(greedy);
    assert_eq!(budget.used(), 5 + ITEM + streams(1));
    assert!(modest.session.room(1) > 16 << 10);
}

#[test]
fn a_few_bytes_for_a_slow_stream_do_not_keep_a_whole_batch() {
    let mut plain = plain();
    plain.send(&[open(1), open(2)]);
    events(&mut plain.session);
    let batch = join(&[data(1, &[1; 100 << 10]), data(2, &[2; 3])]);
    assert_eq!(plain.session.message(plain.socket, batch.clone(), plain.now), Message::Applied);
    let [Event::Data(1, most), Event::Data(2, few)] = &events(&mut plain.session)[..] else { panic!() };
    assert!(batch.as_ptr_range().contains(&most.as_ptr()), "most of a batch is handed on as it is");
    assert!(!batch.as_ptr_range().contains(&few.as_ptr()), "a small part of it is copied");
}

#[test]
fn small_pieces_cost_what_they_take_up() {
    let budget = budget();
    let mut plain = Plain::new(Limits::default(), budget.clone());
    plain.send(&[open(1)]);
    let small: Vec<Bytes> = (0..1000).map(|_| data(1, b"x")).collect();
    plain.send(&small);
    let waits = budget.used() - streams(1);
    assert!(waits >= 1000 * ITEM, "{waits} bytes for a thousand pieces");
    // They go as they came, and leave nothing behind.
    events(&mut plain.session).iter().skip(1).for_each(|_| plain.session.consumed(1, 1));
    plain.all();
    assert_eq!(budget.used(), streams(1));
    // Most of a batch that was cut out of something long is no reason to keep that.
    let long = join(&[data(1, b"short"), vec![0; 1 << 20].into()]);
    events(&mut plain.session);
    plain.session.message(plain.socket, long.slice(..13), plain.now);
    let [Event::Data(1, short)] = &events(&mut plain.session)[..] else { panic!() };
    assert!(!long.as_ptr_range().contains(&short.as_ptr()));
}

#[test]
fn a_session_opens_streams_at_a_rate() {
    let (mut plain, mut opened) = (plain(), 0);
    for id in 1..=1000 {
        plain.send(&[open(id), close(id)]);
        opened += events(&mut plain.session).iter().filter(|event| matches!(event, Event::Open(_))).count();
    }
    assert!((100..=300).contains(&opened), "{opened} of a thousand at once");
    let refused = plain.all();
    assert!(refused.iter().all(|frame| frame.0 == Kind::Close as u8) && refused.len() == 1000 - opened);
    plain.now += Duration::from_secs(60);
    plain.send(&[open(2000)]);
    assert_eq!(events(&mut plain.session), [Event::Open(2000)]);
}

#[test]
fn one_key_leaves_the_others_their_part_of_the_budget() {
    let budget = Arc::new(Budget::new(32 << 20));
    let session = |key: u8| {
        let now = Instant::now();
        let part = budget.key(SecretTag::of(&[key; 16]));
        let mut session = Session::new(Mode::Websocket, Limits::default(), part, now);
        let socket = session.open_socket(Socket::Plain, now).unwrap();
        Plain { session, socket, now }
    };
    let mut greedy: Vec<Plain> = (0..64).map(|_| session(1)).collect();
    for plain in &mut greedy {
        plain.send(&[open(1)]);
        (0..15).for_each(|_| _ = plain.send(&[data(1, &vec![0; 256 << 10])]));
    }
    let mut modest = session(2);
    assert_eq!(modest.send(&[open(1), data(1, &vec![0; 2 << 20][..1 << 20])]), Message::Applied);
    assert_eq!(modest.session.room(1), 256 << 10);
    drop(greedy);
}

#[test]
fn refusals_are_bounded() {
    let mut plain = Plain::new(Limits { streams: 2, ..Limits::default() }, budget());
    let many: Vec<Bytes> = (1..=4096).map(open).collect();
    assert_eq!(plain.send(&many), Message::Applied);
    assert_eq!(plain.send(&[open(4097), open(4098), open(4099)]), Message::Ended);
    assert_eq!(plain.session.ended(), Some(End::Stream(Violation::Refusals)));
}

#[test]
fn closed_streams_are_forgotten_oldest_first() {
    let mut plain = plain();
    for id in 1..=4097 {
        assert_eq!(plain.send(&[open(id), close(id)]), Message::Applied);
        events(&mut plain.session);
    }
    assert_eq!(plain.send(&[close(2), open(1), close(1)]), Message::Applied);
    assert_eq!(plain.send(&[open(4097)]), Message::Ended);
}

#[test]
fn a_ping_goes_out_once_and_a_pong_is_welcome() {
    let mut plain = plain();
    plain.session.ping(&[1; 8]);
    plain.session.ping(&[2; 8]);
    assert_eq!(plain.all(), [(Kind::Ping as u8, 0, vec![2; 8])]);
    assert_eq!(plain.send(&[pong()]), Message::Applied);
}

#[test]
fn the_end_of_a_session_ends_its_streams_and_frees_everything() {
    let budget = budget();
    let mut plain = Plain::new(Limits::default(), budget.clone());
    plain.send(&[open(1), open(2), data(2, b"x")]);
    plain.session.push(1, Bytes::from_static(b"x"));
    events(&mut plain.session);
    plain.session.end(End::Revoked);
    plain.session.end(End::Idle);
    let mut closed = events(&mut plain.session);
    closed.sort_by_key(|event| format!("{event:?}"));
    assert_eq!((closed, plain.session.ended()), (vec![Event::Close(1), Event::Close(2)], Some(End::Revoked)));
    assert!(plain.session.socket_over(plain.socket));
    assert_eq!((plain.next(99), budget.used(), plain.session.room(1)), (None, 0, 0));
    assert_eq!(plain.send(&[open(3)]), Message::Ended);
}

// Requests.

#[test]
fn requests_repeat_and_order_batches() {
    let now = Instant::now();
    let mut session = session(Mode::Https);
    let first = join(&[open(3), data(3, &[0; 10])]);
    assert_eq!(session.up(None, 1, first.clone(), now), Up::Acknowledged(1));
    assert_eq!(session.up(None, 1, first.clone(), now), Up::Acknowledged(1));
    assert_eq!(events(&mut session).len(), 2, "it was applied once");
    assert_eq!(session.up(Some(0), 2, pong(), now), Up::Refused);
    assert_eq!(session.up(None, 2, Bytes::new(), now), Up::Refused);
    assert_eq!(session.up(None, 2, vec![0; MAX_BATCH + 1].into(), now), Up::Refused);
    assert_eq!(session.up(None, 2, window(3, 9), now), Up::Acknowledged(2));
    for (sequence, batch) in [(4, pong()), (1, first), (2, pong())] {
        let mut session = self::session(Mode::Https);
        session.up(None, 1, open(3), now);
        session.up(None, 2, window(3, 9), now);
        assert_eq!(session.up(None, sequence, batch, now), Up::Ended, "number {sequence}");
        assert_eq!(session.ended(), Some(End::Sequence));
        assert_eq!((session.up(None, 3, pong(), now), session.down(None, 0, now)), (Up::Ended, Down::Ended));
    }
}

fn batch_of(down: Down) -> (u64, Vec<(u8, u32, Vec<u8>)>) {
    match down {
        Down::Batch { cursor, batch } => (cursor, frames(&batch)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn polls_wait_repeat_and_take_over() {
    let now = Instant::now();
    let mut session = session(Mode::Https);
    session.up(None, 1, open(3), now);
    let Down::Wait(old) = session.down(None, 0, now) else { panic!() };
    assert_eq!((session.idle_since(), session.is_due(old)), (None, false));
    let Down::Wait(new) = session.down(None, 0, now) else { panic!() };
    assert_eq!((session.is_due(old), session.waited(old, now, false)), (true, Down::Empty { cursor: 0 }));
    session.push(3, Bytes::from_static(b"one"));
    assert!(session.is_due(new));
    let first = session.waited(new, now, false);
    assert_eq!(batch_of(first.clone()), (1, vec![(2, 3, b"one".to_vec())]));
    // The answer was lost: the same again, whatever has come since.
    session.push(3, Bytes::from_static(b"two"));
    assert_eq!((session.down(None, 0, now), session.idle_since()), (first, Some(now)));
    assert_eq!(batch_of(session.down(None, 1, now)), (2, vec![(2, 3, b"two".to_vec())]));
    let Down::Wait(poll) = session.down(None, 2, now) else { panic!() };
    assert_eq!(session.waited(poll, now, true), Down::Empty { cursor: 2 });
    let Down::Wait(poll) = session.down(None, 2, now) else { panic!() };
    session.abandoned(poll, now);
    assert_eq!(session.idle_since(), Some(now));
    assert_eq!((session.down(Some(1), 2, now), session.ended()), (Down::Refused, None));
    for wrong in [0, 1, 3] {
        let mut session = self::session(Mode::Https);
        session.up(None, 1, open(3), now);
        for cursor in 0..2 {
            session.push(3, Bytes::from_static(b"x"));
            batch_of(session.down(None, cursor, now));
        }
        assert!(matches!(session.down(None, 2, now), Down::Wait(_)));
        assert_eq!((session.down(None, wrong, now), session.ended()), (Down::Ended, Some(End::Cursor)), "{wrong}");
    }
}

#[test]
fn every_lane_counts_by_itself() {
    let now = Instant::now();
    let mut session = session(Mode::HttpsLanes);
    assert_eq!(session.up(None, 1, open(3), now), Up::Refused);
    assert_eq!(session.down(Some(3), 0, now), Down::Refused);
    assert!(matches!(session.down(Some(0), 0, now), Down::Wait(_)));
    assert_eq!(session.up(Some(3), 1, open(3), now), Up::Acknowledged(1));
    assert_eq!(session.up(Some(4), 1, join(&[open(4), data(4, b"x")]), now), Up::Acknowledged(1));
    assert_eq!(session.up(Some(0), 1, pong(), now), Up::Acknowledged(1));
    session.push(4, Bytes::from_static(b"four"));
    session.ping(&[7; 8]);
    assert_eq!((session.has_downlink(Some(3)), session.has_downlink(Some(4))), (false, true));
    assert!(matches!(session.down(Some(3), 0, now), Down::Wait(_)));
    assert_eq!(batch_of(session.down(Some(4), 0, now)), (1, vec![(2, 4, b"four".to_vec())]));
    assert_eq!(batch_of(session.down(Some(0), 0, now)), (1, vec![(5, 0, vec![7; 8])]));
    // The app closes one.
    let Down::Wait(poll) = session.down(Some(3), 0, now) else { panic!() };
    assert_eq!(session.up(Some(3), 2, close(3), now), Up::Acknowledged(2));
    assert!(session.is_due(poll));
    assert_eq!(session.waited(poll, now, false), Down::LaneClosed { cursor: 0 });
    for _ in 0..2 {
        assert_eq!(session.down(Some(3), 0, now), Down::LaneClosed { cursor: 0 });
    }
    // What comes late is acknowledged in any order, and ignored.
    assert_eq!(session.up(Some(3), 9, join(&[window(3, 1), close(3)]), now), Up::Acknowledged(9));
    assert_eq!(session.ended(), None);
    // We close the other: CLOSE first, again if it was lost, and then the lane is over.
    session.close(4);
    let closing = session.down(Some(4), 1, now);
    assert_eq!(batch_of(closing.clone()), (2, vec![(3, 4, vec![])]));
    assert_eq!(session.up(Some(4), 7, data(4, b"late"), now), Up::Acknowledged(7));
    assert_eq!(session.down(Some(4), 1, now), closing);
    assert_eq!(session.down(Some(4), 2, now), Down::LaneClosed { cursor: 2 });
    assert_eq!(session.lanes.len(), 1);
}

#[test]
fn a_frame_on_the_wrong_lane_ends_the_session() {
    let now = Instant::now();
    for (lane, batch) in [
        (3, data(3, b"no OPEN")),
        (3, join(&[open(3), open(4)])),
        (0, open(3)),
        (0, window(5, 1)),
        (5, pong()),
        (5, join(&[open(5), pong()])),
        (6, open(6)),
        (6, window(5, 1)),
    ] {
        let mut session = session(Mode::HttpsLanes);
        session.up(Some(5), 1, open(5), now);
        session.up(Some(6), 1, open(6), now);
        session.up(Some(6), 2, close(6), now);
        let sequence = if lane == 5 { 2 } else { 1 };
        assert_eq!(session.up(Some(lane), sequence, batch, now), Up::Ended, "lane {lane}");
    }
}

#[test]
fn lanes_beyond_the_limit_are_closed_and_bounded() {
    let now = Instant::now();
    let limits = Limits { streams: 2, ..Limits::default() };
    let mut session = Session::new(Mode::HttpsLanes, limits, part(&budget()), now);
    for lane in 1..=4 {
        assert_eq!(session.up(Some(lane), 1, open(lane), now), Up::Acknowledged(1));
    }
    assert_eq!(batch_of(session.down(Some(3), 0, now)), (1, vec![(3, 3, vec![])]));
    assert_eq!(session.down(Some(3), 1, now), Down::LaneClosed { cursor: 1 });
    assert_eq!(session.up(Some(5), 1, open(5), now), Up::Acknowledged(1));
    assert_eq!(session.up(Some(6), 1, open(6), now), Up::Ended);
}

// Sockets.

#[test]
fn the_plain_socket_is_the_session() {
    let now = Instant::now();
    let mut session = session(Mode::Websocket);
    assert_eq!(session.open_socket(Socket::Lane(1), now), Err(Refused));
    let socket = session.open_socket(Socket::Plain, now).unwrap();
    assert_eq!(session.open_socket(Socket::Plain, now), Err(Refused));
    assert_eq!(session.open_socket(Socket::Resumable, now), Err(Refused));
    assert_eq!((session.up(None, 1, open(1), now), session.down(None, 0, now)), (Up::Refused, Down::Refused));
    assert_eq!(session.idle_since(), None);
    session.close_socket(socket, now);
    assert_eq!(session.ended(), Some(End::Socket));
    for empty in [Bytes::new(), Bytes::from_static(b"\x01\0\0\x01\0\0\0")] {
        let mut session = self::session(Mode::Websocket);
        let socket = session.open_socket(Socket::Plain, now).unwrap();
        assert_eq!((session.message(socket, empty, now), session.socket_over(socket)), (Message::Ended, true));
    }
}

#[test]
fn a_lane_of_its_own_socket_ends_alone() {
    let now = Instant::now();
    let mut session = session(Mode::WebsocketLanes);
    assert_eq!(session.open_socket(Socket::Plain, now), Err(Refused));
    let [a, b, c] = [3, 4, 5].map(|lane| session.open_socket(Socket::Lane(lane), now).unwrap());
    assert_eq!(session.open_socket(Socket::Lane(3), now), Err(Refused));
    assert_eq!(session.message(a, join(&[open(3), data(3, b"x")]), now), Message::Applied);
    assert_eq!(session.message(b, join(&[open(4), open(5)]), now), Message::Ended);
    assert_eq!((session.socket_over(a), session.socket_over(b)), (false, true));
    session.close_socket(b, now);
    assert_eq!(session.open_socket(Socket::Lane(4), now), Err(Refused), "it is remembered");
    assert_eq!(session.message(c, open(5), now), Message::Applied);
    assert_eq!(session.message(c, close(5), now), Message::Applied);
    assert!(session.socket_over(c));
    events(&mut session);
    // Our CLOSE goes out before the socket ends.
    session.push(3, Bytes::from_static(b"y"));
    session.close(3);
    assert!(!session.socket_over(a));
    let batch = session.next_message(a, 99, now).unwrap();
    assert_eq!(frames(&batch), [(2, 3, b"y".to_vec()), (3, 3, vec![])]);
    assert!(session.socket_over(a));
    assert_eq!((session.ended(), session.streams(), events(&mut session)), (None, 0, vec![]));
    // A socket that is lost takes its stream along.
    let lost = session.open_socket(Socket::Lane(9), now).unwrap();
    session.message(lost, open(9), now);
    session.close_socket(lost, now);
    assert_eq!(events(&mut session), [Event::Open(9), Event::Close(9)]);
}

fn numbered(number: u32, acknowledged: u32, batch: &[Bytes]) -> Bytes {
    [&number.to_be_bytes()[..], &acknowledged.to_be_bytes(), &batch.concat()].concat().into()
}

fn read(message: &Batch) -> (u32, u32, Vec<u8>) {
    let bytes = message.to_bytes();
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(0), word(4), bytes[8..].to_vec())
}

const ASK: u32 = u32::MAX;

#[test]
fn a_resumable_socket_goes_on_where_another_was_lost() {
    let now = Instant::now();
    let mut session = session(Mode::Websocket);
    let first = session.open_socket(Socket::Resumable, now).unwrap();
    assert_eq!((session.next_message(first, 99, now), session.socket_has_downlink(first)), (None, false));
    assert_eq!(session.message(first, numbered(1, 0, &[open(1)]), now), Message::Applied);
    session.push(1, Bytes::from_static(b"one"));
    assert_eq!(read(&session.next_message(first, 99, now).unwrap()), (1, 1, data(1, b"one").to_vec()));
    assert_eq!(session.next_message(first, 99, now), None);
    session.push(1, Bytes::from_static(b"two"));
    assert_eq!(read(&session.next_message(first, 99, now).unwrap()), (2, 1, data(1, b"two").to_vec()));
    assert_eq!(session.message(first, numbered(2, 1, &[data(1, b"up")]), now), Message::Applied);
    assert_eq!(read(&session.next_message(first, 99, now).unwrap()), (0, 2, vec![]));
    events(&mut session);
    // A new one says what has arrived, and gets what has not; what it repeats is not applied again.
    let second = session.open_socket(Socket::Resumable, now).unwrap();
    assert!(session.socket_over(first));
    session.close_socket(first, now);
    assert_eq!(session.ended(), None);
    assert_eq!(session.message(second, numbered(ASK, 1, &[]), now), Message::Applied);
    assert!(session.socket_has_downlink(second));
    assert_eq!(read(&session.next_message(second, 99, now).unwrap()), (2, 2, data(1, b"two").to_vec()));
    assert_eq!(session.next_message(second, 99, now), None);
    assert_eq!(session.message(second, numbered(2, 2, &[data(1, b"up")]), now), Message::Applied);
    assert_eq!(events(&mut session), []);
    assert_eq!(read(&session.next_message(second, 99, now).unwrap()), (0, 2, vec![]));
    assert_eq!(session.message(second, numbered(0, 2, &[]), now), Message::Applied);
    assert_eq!(session.next_message(second, 99, now), None, "an acknowledgement is not answered");
    session.close_socket(second, now);
    assert_eq!((session.ended(), session.idle_since()), (None, Some(now)));
}

#[test]
fn requests_go_on_where_a_resumable_socket_was_lost() {
    let now = Instant::now();
    let mut session = session(Mode::Websocket);
    let socket = session.open_socket(Socket::Resumable, now).unwrap();
    session.message(socket, numbered(1, 0, &[open(1)]), now);
    for text in ["one", "two"] {
        session.push(1, text.into());
        session.next_message(socket, 99, now).unwrap();
    }
    assert_eq!(session.up(None, 1, open(1), now), Up::Acknowledged(1), "repeated");
    assert_eq!(session.up(None, 2, data(1, b"x"), now), Up::Acknowledged(2));
    assert!(session.socket_over(socket));
    assert_eq!(session.up(None, 1, open(1), now), Up::Acknowledged(1), "it may repeat all that was not acknowledged");
    assert_eq!(batch_of(session.down(None, 0, now)), (1, vec![(2, 1, b"one".to_vec())]));
    assert_eq!(batch_of(session.down(None, 1, now)), (2, vec![(2, 1, b"two".to_vec())]));
    session.push(1, "three".into());
    assert_eq!(batch_of(session.down(None, 2, now)), (3, vec![(2, 1, b"three".to_vec())]));
    assert_eq!(session.up(None, 4, pong(), now), Up::Ended);
}

#[test]
fn requests_serve_a_session_whose_socket_never_opened() {
    let now = Instant::now();
    let mut session = session(Mode::Websocket);
    assert_eq!(session.up(None, 1, open(1), now), Up::Acknowledged(1));
    assert_eq!(session.open_socket(Socket::Resumable, now), Err(Refused), "it came too late");
    session.push(1, "one".into());
    assert_eq!(batch_of(session.down(None, 0, now)), (1, vec![(2, 1, b"one".to_vec())]));
}

#[test]
fn wrong_messages_on_a_resumable_socket_end_the_session() {
    let now = Instant::now();
    for wrong in [
        Bytes::from_static(b"1234567"),
        numbered(1, 0, &[]),
        numbered(2, 0, &[pong()]),
        numbered(1, 1, &[pong()]),
        numbered(0, 0, &[pong()]),
        numbered(ASK, 0, &[pong()]),
        numbered(1, 0, &[data(1, b"x")]),
    ] {
        let mut session = session(Mode::Websocket);
        let socket = session.open_socket(Socket::Resumable, now).unwrap();
        assert_eq!(session.message(socket, wrong.clone(), now), Message::Ended, "{wrong:?}");
        assert!(session.ended().is_some());
    }
}

#[test]
fn what_a_resumable_socket_has_not_acknowledged_is_bounded() {
    let now = Instant::now();
    let budget = budget();
    let mut session = Session::new(Mode::Websocket, Limits::default(), part(&budget), now);
    let socket = session.open_socket(Socket::Resumable, now).unwrap();
    session.message(socket, numbered(1, 0, &[open(1)]), now);
    let mut sent = 0;
    loop {
        let room = session.room(1);
        session.push(1, vec![0; room].into());
        let Some(message) = session.next_message(socket, 16 << 10, now) else { break };
        sent += message.data();
    }
    assert!(sent <= 16 << 10, "{sent} bytes are on their way");
    assert!(budget.used() <= (256 << 10) + (32 << 10) + streams(1));
    session.message(socket, numbered(0, 1, &[]), now);
    assert!(session.socket_has_downlink(socket));
}

// Anything.

#[derive(Clone, Debug)]
enum Step {
    Up(Option<u32>, u64, Vec<Bytes>),
    Down(Option<u32>, u64),
    Push(u32, usize),
    Consume(u32, usize),
    Close(u32),
    Abort(u32),
    Ping,
    Message(Vec<Bytes>),
    Next(usize),
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let id = 1..5u32;
    let frame = prop_oneof![
        id.clone().prop_map(open),
        id.clone().prop_map(close),
        (id.clone(), 1..3000usize).prop_map(|(id, length)| data(id, &vec![1; length])),
        (id.clone(), 1..9000u32).prop_map(|(id, more)| window(id, more)),
        Just(pong()),
    ];
    let batch = proptest::collection::vec(frame, 1..4);
    let lane = proptest::option::weighted(0.3, 0..4u32);
    let step = prop_oneof![
        (lane.clone(), 1..6u64, batch.clone()).prop_map(|(lane, sequence, batch)| Step::Up(lane, sequence, batch)),
        (lane, 0..5u64).prop_map(|(lane, cursor)| Step::Down(lane, cursor)),
        (id.clone(), 1..70_000usize).prop_map(|(id, length)| Step::Push(id, length)),
        (id.clone(), 1..70_000usize).prop_map(|(id, length)| Step::Consume(id, length)),
        id.clone().prop_map(Step::Close),
        id.prop_map(Step::Abort),
        Just(Step::Ping),
        batch.prop_map(Step::Message),
        (1..70_000usize).prop_map(Step::Next),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Runs any calls in any order; returns how many bytes were pushed and how many came out.
fn run(mode: Mode, socket: Option<Socket>, steps: Vec<Step>, budget: Arc<Budget>) -> (usize, usize) {
    let now = Instant::now();
    let mut session = Session::new(mode, Limits { streams: 3, ..Limits::default() }, part(&budget), now);
    let socket = socket.map(|kind| session.open_socket(kind, now).unwrap());
    let (mut pushed, mut sent, mut number) = (0, 0, 0);
    for step in steps {
        match (step, socket) {
            (Step::Up(lane, sequence, batch), _) => _ = session.up(lane, sequence, join(&batch), now),
            (Step::Down(lane, cursor), _) => match session.down(lane, cursor, now) {
                Down::Batch { batch, .. } => sent += batch.data(),
                Down::Wait(poll) => assert_eq!(session.waited(poll, now, true), Down::Empty { cursor }),
                _ => {}
            },
            (Step::Push(id, length), _) => {
                let length = length.min(session.room(id));
                pushed += length;
                session.push(id, vec![0; length].into());
            }
            (Step::Consume(id, length), _) => session.consumed(id, length),
            (Step::Close(id), _) => session.close(id),
            (Step::Abort(id), _) => session.abort(id),
            (Step::Ping, _) => session.ping(&[0; 8]),
            (Step::Message(batch), Some(socket)) => {
                let resumable = mode == Mode::Websocket && session.bound == CarrierBinding::Resumable;
                number += 1;
                let message = if resumable { numbered(number, 0, &batch) } else { join(&batch) };
                session.message(socket, message, now);
            }
            (Step::Next(limit), Some(socket)) => {
                let has = session.socket_has_downlink(socket);
                let message = session.next_message(socket, limit, now);
                assert_eq!(has, message.is_some());
                sent += message.map_or(0, |batch| batch.data());
            }
            _ => {}
        }
        events(&mut session);
    }
    session.end(End::Shutdown);
    assert_eq!(budget.used(), 0);
    (pushed, sent)
}

proptest::proptest! {
    #[test]
    fn no_order_of_calls_breaks_a_session(steps in steps()) {
        for (mode, socket) in [
            (Mode::Https, None),
            (Mode::HttpsLanes, None),
            (Mode::Websocket, None),
            (Mode::Websocket, Some(Socket::Plain)),
            (Mode::Websocket, Some(Socket::Resumable)),
            (Mode::WebsocketLanes, Some(Socket::Lane(1))),
        ] {
            run(mode, socket, steps.clone(), budget());
        }
    }
}
