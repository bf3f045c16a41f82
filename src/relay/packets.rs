//! A session as packets: records on the client's side, whole MTProto packets on the far side, which is a [`Port`].
//!
//! [`Unpacker`] and [`Packer`] are the pure halves: what a client sent, cut into packets; packets for a client, framed,
//! encrypted and cut into records as the cover would. [`Session`] moves bytes through them. It waits for room at its port
//! before it reads more from the client, and takes nothing more from its port before the client has taken what there is,
//! so that the port is where things pile up, and where that is bounded.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::downlink::Downlink;
use super::meter::Meter;
use super::stream::{Manner, Occasion, PIECE, part, say_to_the_end, with_buffer};
use super::tariff::Direction;
use super::unanswered::{AnswerWatch, FIRST_SILENCE};
use super::uplink::{BadRecord, Uplink};
use super::welcome::Welcome;
use super::writes::Writes;
use super::{Closed, End, attempt, ready};
use crate::crypto::Ctr;
use crate::wire::DecodeError;
use crate::wire::packets::{ClientPacket, Framing, Packet};

/// Message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A packet.
    Packet(Box<[u8]>),
    /// The token of a quick ack.
    QuickAck(u32),
}

impl Reply {
    /// Returns its size in bytes, for counting.
    pub fn size(&self) -> usize {
        const TOKEN: usize = 4;
        match self {
            Self::Packet(packet) => packet.len(),
            Self::QuickAck(_) => TOKEN,
        }
    }
}

/// Far end of a session's packets.
pub trait Port: Send + Sync {
    /// Hands on a client's packet; waits while the way is full. Fails with what ended the session.
    fn send(&self, packet: ClientPacket<'_>, quick_ack: bool) -> impl Future<Output = Result<(), End>> + Send;

    /// Puts what there is for the client into `replies`, but no more than is to be sent at once. Ready when that is
    /// something, or with what ended the session once everything before the end was handed out.
    fn poll_receive(&self, context: &mut Context<'_>, replies: &mut Vec<Reply>) -> Poll<Result<(), End>>;
}

/// From a client's records to its packets.
#[derive(Debug)]
pub struct Unpacker {
    records: Uplink,
    framing: Framing,
    /// Payload of which no packet was made yet, behind `done` bytes of which one was.
    plain: Vec<u8>,
    done: usize,
}

/// Error for input of a client that is no packet that could be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPacket;

impl Unpacker {
    /// An unpacker behind this payload. `records` gives more of it in clear.
    pub fn new(records: Uplink, framing: Framing, payload: &[u8]) -> Self {
        Self { records: records.without_frames(), framing, plain: payload.to_vec(), done: 0 }
    }

    /// The beginning of a record whose rest has not come; what is fed has to begin with it.
    fn held(&self) -> &[u8] {
        self.records.held()
    }

    /// Takes what came from the client. Packets in front of a bad record can still be had.
    pub fn feed(&mut self, bytes: &mut [u8]) -> Result<(), BadRecord> {
        let (payload, outcome) = self.records.transform(bytes);
        self.plain.drain(..self.done);
        self.done = 0;
        self.plain.extend_from_slice(payload);
        outcome
    }

    /// The next packet that has come whole, and whether the client asks for a quick ack of it.
    pub fn packet(&mut self) -> Result<Option<(ClientPacket<'_>, bool)>, BadPacket> {
        if self.done == self.plain.len() {
            // Anyone who rests holds no memory.
            (self.plain, self.done) = (Vec::new(), 0);
            return Ok(None);
        }
        match self.framing.decode(&self.plain[self.done..]) {
            Ok((frame, length)) => {
                self.done += length;
                let packet = ClientPacket::examine(frame.packet).map_err(|_| BadPacket)?;
                Ok(Some((packet, frame.quick_ack)))
            }
            Err(DecodeError::Incomplete) => Ok(None),
            Err(DecodeError::Malformed(_)) => Err(BadPacket),
        }
    }
}

/// From packets to records for a client.
#[derive(Debug)]
pub struct Packer {
    down: Downlink,
    /// Encrypts for the client as a data centre would.
    stream: Ctr,
    framing: Framing,
}

impl Packer {
    /// A packer at the first byte of the far side.
    pub fn new(down: Downlink, framing: Framing) -> Self {
        Self { stream: down.dc_keys().stream(), down, framing }
    }

    /// Appends the records that carry all of these. `random` is for padding and NOP frames.
    pub fn pack(&mut self, replies: &[Reply], random: fn() -> u8, wire: &mut Vec<u8>) {
        let mut stream = Vec::with_capacity(replies.iter().map(|reply| reply.size() + 8).sum());
        for reply in replies {
            match reply {
                Reply::Packet(bytes) => {
                    if let Some(packet) = Packet::new(bytes) {
                        self.framing.encode(packet, std::array::from_fn(|_| random()), &mut stream);
                    }
                }
                // Without its top bit it would be taken for a length.
                Reply::QuickAck(token) => stream.extend(self.framing.quick_ack(token | 1 << 31)),
            }
        }
        self.stream.apply(&mut stream);
        with_buffer(|buffer| self.records(&stream, buffer, random, wire));
    }

    fn records(&mut self, mut rest: &[u8], buffer: &mut [u8], random: fn() -> u8, wire: &mut Vec<u8>) {
        while !rest.is_empty() || self.down.is_waiting() {
            let mut taken = 0;
            for room in &mut self.down.room(buffer) {
                let (now, later) = rest.split_at(room.len().min(rest.len()));
                room[..now.len()].copy_from_slice(now);
                (taken, rest) = (taken + now.len(), later);
            }
            let length = self.down.frame(buffer, taken, random);
            wire.extend_from_slice(&buffer[..length]);
        }
    }
}

/// A client and its port.
#[derive(Debug)]
pub struct Session<P> {
    client: TcpStream,
    up: Unpacker,
    down: Packer,
    manner: Manner,
    welcome: Option<Box<Welcome>>,
    meter: Arc<Meter>,
    watch: Option<Box<Mutex<AnswerWatch>>>,
    port: P,
}

impl<P: Port> Session<P> {
    /// A session whose first payload has been counted. It counts what it moves from now on in `meter`, and ends when that
    /// says so.
    pub fn new(client: TcpStream, up: Unpacker, down: Packer, manner: Manner, meter: Arc<Meter>, port: P) -> Self {
        Self { client, up, down, manner, welcome: None, meter, watch: None, port }
    }

    /// The same with what is still to be said to the client by itself. What has to wait for the client's word goes along
    /// with the first packet.
    pub fn with_welcome(self, welcome: Option<Box<Welcome>>) -> Self {
        Self { welcome, ..self }
    }

    /// The same with a watch over its answers, if any: it may end the session with [`End::Unanswered`].
    pub fn watched(self, watch: Option<AnswerWatch>) -> Self {
        Self { watch: watch.map(|watch| Box::new(Mutex::new(watch))), ..self }
    }

    /// Moves packets until either side is done or broke, or nothing moved for `idle`. The counts are those of
    /// [`super::stream::Session::run`], and so is the end.
    pub async fn run(self, idle: Duration) -> Closed {
        let Self { client, mut up, mut down, manner, welcome, meter, watch, port } = self;
        let mut welcome = welcome.unwrap_or_default();
        let (alive, mut wire) = (Alive::now(), Wire { writes: manner.writes, ..Wire::default() });
        let ways = Ways { client: &client, meter: &meter, port: &port, alive: &alive, watch: watch.as_deref() };
        let (by, occasion) = tokio::select! {
            biased;
            () = meter.ended() => {
                (End::Closed, Occasion::Own)
            }
            end = ways.up(&mut up) => end,
            end = ways.down(&mut welcome, &mut down, &mut wire, manner.filler) => (end, Occasion::Own),
            () = alive.rests_for(idle) => (End::Idle, Occasion::Own),
            () = ways.is_left_alone() => (End::Unanswered, Occasion::Own),
        };
        drop(port);
        let due = manner.ends_at(occasion, Some(&welcome));
        if by != End::ClientBroke && say_to_the_end(&client, &mut welcome, due).await {
            wire.bytes.extend(down.down.cut_short());
            wire.bytes.extend(manner.last_records(occasion, &mut down.down));
            part(&client, wire.left(), manner, occasion).await;
        }
        Closed { by, up: meter.up(), down: meter.down() }
    }
}

/// Records that the client has not taken yet, behind those that it has.
#[derive(Debug, Default)]
struct Wire {
    bytes: Vec<u8>,
    sent: usize,
    /// Where the write ends that is under way.
    border: usize,
    writes: Writes,
}

impl Wire {
    fn left(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// What is to be written now: the rest of a write, or the next one.
    fn piece(&mut self) -> &[u8] {
        if self.sent == self.border || self.writes.is_full() {
            self.border = self.sent + self.writes.next(&self.bytes[self.sent..]);
        }
        &self.bytes[self.sent..self.border]
    }

    /// The client's socket took so much of what it was offered.
    fn wrote(&mut self, offered: usize, taken: usize) {
        self.writes.wrote(offered, taken);
        self.sent += taken;
    }

    /// Forgets what was sent.
    fn clear(&mut self) {
        *self = Self { writes: self.writes, ..Self::default() };
    }
}

/// State that both directions need.
struct Ways<'s, P> {
    client: &'s TcpStream,
    meter: &'s Meter,
    port: &'s P,
    alive: &'s Alive,
    watch: Option<&'s Mutex<AnswerWatch>>,
}

impl<P: Port> Ways<'_, P> {
    async fn up(&self, up: &mut Unpacker) -> (End, Occasion) {
        let mut last = Ok(());
        loop {
            loop {
                match up.packet() {
                    Ok(Some((packet, quick_ack))) => {
                        if let Err(end) = self.port.send(packet, quick_ack).await {
                            return (end, Occasion::Own);
                        }
                    }
                    Ok(None) => break,
                    Err(BadPacket) => return (End::BadPacket, Occasion::BadRecord),
                }
            }
            if let Err(BadRecord) = last {
                return (End::BadRecord, Occasion::BadRecord);
            }
            last = match self.read(up).await {
                Ok(outcome) => outcome,
                Err(End::Finished) => return (End::Finished, Occasion::Fin),
                Err(end) => return (end, Occasion::Own),
            };
        }
    }

    /// Tells the watch over the answers what happened, if there is one.
    fn tell<T>(&self, news: impl FnOnce(&mut AnswerWatch) -> T) -> Option<T> {
        self.watch.map(|watch| news(&mut watch.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Done once the client has left an answer alone for too long.
    async fn is_left_alone(&self) {
        loop {
            let Some(due) = self.tell(|watch| watch.due()) else { return std::future::pending().await };
            // Apart, since most sessions have no watch.
            Box::pin(sleep_until(due.unwrap_or_else(|| Instant::now() + FIRST_SILENCE))).await;
            let all = ready::has_room(self.client);
            if self.tell(|watch| watch.judge(all, Instant::now())) == Some(true) {
                return;
            }
        }
    }

    /// Waits for bytes of the client.
    async fn read(&self, up: &mut Unpacker) -> Result<Result<(), BadRecord>, End> {
        loop {
            // Allowance is asked for what is there, and not before.
            self.client.readable().await.map_err(|_| End::ClientBroke)?;
            let most = self.meter.leave(Direction::Up).await.ok_or(End::Closed)?;
            let read = with_buffer(|buffer| {
                let (room, held) = (PIECE.min(most), up.held().len());
                buffer[..held].copy_from_slice(up.held());
                let into = &mut buffer[held..held + room];
                let read = attempt(self.client.try_read(into)).map_err(|_| End::ClientBroke)?;
                Ok(read.map(|read| (read, up.feed(&mut buffer[..held + read]))))
            })?;
            if let Some((read, outcome)) = read {
                if read == 0 {
                    return Err(End::Finished);
                }
                self.meter.add_up(read);
                self.meter.charge(Direction::Up, read);
                self.alive.moved();
                self.tell(|watch| watch.client_spoke(Instant::now()));
                return Ok(outcome);
            }
        }
    }

    async fn down(&self, welcome: &mut Welcome, down: &mut Packer, wire: &mut Wire, random: fn() -> u8) -> End {
        if welcome.say(self.client).await.is_err() {
            return End::ClientBroke;
        }
        loop {
            let mut replies = Vec::new();
            if let Err(end) = poll_fn(|context| self.port.poll_receive(context, &mut replies)).await {
                return end;
            }
            down.pack(&replies, random, &mut wire.bytes);
            drop(replies);
            if let Err(end) = self.write(down, wire).await {
                return end;
            }
            wire.clear();
        }
    }

    async fn write(&self, down: &mut Packer, wire: &mut Wire) -> Result<(), End> {
        while !wire.left().is_empty() {
            let most = self.meter.leave(Direction::Down).await.ok_or(End::Closed)?;
            let piece = wire.piece();
            let piece = &piece[..most.min(piece.len())];
            let taken = poll_fn(|context| ready::poll_write(self.client, context, &[IoSlice::new(piece)])).await;
            let (taken, offered) = (taken.map_err(|_| End::ClientBroke)?, piece.len());
            if taken < offered {
                down.down.client_is_slow();
            }
            wire.wrote(offered, taken);
            self.meter.add_down(taken);
            self.meter.charge(Direction::Down, taken);
            self.alive.moved();
            let all = wire.left().is_empty();
            self.tell(|watch| watch.client_was_answered(all, Instant::now()));
        }
        Ok(())
    }
}

/// Time of the last traffic.
#[derive(Debug)]
struct Alive {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
}

impl Alive {
    fn now() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn moved(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Done once nothing has moved for so long.
    async fn rests_for(&self, idle: Duration) {
        loop {
            let deadline = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::crypto::kdf::KeyIv;
    use crate::relay::sizing::Pattern;
    use crate::relay::stream::testing::MANNER;
    use crate::relay::unanswered::testing::Strict;
    use crate::wire::record::{HEADER, Header, MIN_ENCRYPTED};

    const ALL: [Framing; 3] = [Framing::Abridged, Framing::Intermediate, Framing::Padded];

    fn keys(byte: u8) -> KeyIv {
        KeyIv { key: [byte; 32], iv: [4; 16] }
    }

    /// A packet that a client may send.
    fn packet(byte: u8, words: usize) -> Vec<u8> {
        vec![byte; words * 4]
    }

    fn framed(framing: Framing, packet: &[u8], quick_ack: bool) -> Vec<u8> {
        let mut frame = Vec::new();
        framing.encode(Packet::new(packet).unwrap(), [3, 1, 2, 3], &mut frame);
        let top = if framing == Framing::Abridged { 0 } else { 3 };
        frame[top] |= u8::from(quick_ack) << 7;
        frame
    }

    /// Bytes of a client as they travel: encrypted, and in records of this size.
    fn in_records(mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
        keys(1).stream().apply(&mut bytes);
        let record = |piece: &[u8]| [&Header::application_data(piece.len() as u16).encode()[..], piece].concat();
        let (mut rest, mut wire) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            // None may be too short for TLS.
            let (piece, later) = rest.split_at(if rest.len() < size + MIN_ENCRYPTED { rest.len() } else { size });
            wire.extend(record(piece));
            rest = later;
        }
        wire
    }

    /// Feeds bytes as a session does: with what was held before them.
    fn fed(unpacker: &mut Unpacker, bytes: &[u8]) -> Result<(), BadRecord> {
        let mut bytes = [unpacker.held(), bytes].concat();
        unpacker.feed(&mut bytes)
    }

    fn unpacker(framing: Framing) -> Unpacker {
        Unpacker::new(Uplink::in_clear(keys(1).stream(), 0), framing, &[])
    }

    fn packer(framing: Framing) -> Packer {
        Packer::new(Downlink::new(keys(2), Pattern::default()), framing)
    }

    /// What a client makes of records, and how large they were.
    fn opened(mut wire: &[u8]) -> (Vec<u8>, Vec<usize>) {
        let (mut stream, mut sizes) = (Vec::new(), Vec::new());
        while let Some((header, rest)) = wire.split_first_chunk::<HEADER>() {
            let length = usize::from(Header::decode(*header).length);
            assert_eq!(*header, Header::application_data(length as u16).encode());
            stream.extend_from_slice(&rest[..length]);
            sizes.push(length);
            wire = &rest[length..];
        }
        keys(2).stream().apply(&mut stream);
        (stream, sizes)
    }

    /// Frames and tokens of a stream, without NOPs and padding.
    fn replies(framing: Framing, mut stream: &[u8]) -> Vec<Reply> {
        let mut replies = Vec::new();
        while !stream.is_empty() {
            let token = match framing {
                Framing::Abridged => stream[0] & 0x80 != 0,
                Framing::Intermediate | Framing::Padded => stream[3] & 0x80 != 0,
            };
            if token {
                let token: [u8; 4] = stream[..4].try_into().unwrap();
                let abridged = framing == Framing::Abridged;
                let token = if abridged { u32::from_be_bytes(token) } else { u32::from_le_bytes(token) };
                replies.push(Reply::QuickAck(token));
                stream = &stream[4..];
            } else {
                let (frame, length) = framing.decode(stream).unwrap();
                if !matches!(frame.packet, [0, 0, 0, 0, ..] if frame.packet.len() <= 8) {
                    replies.push(Reply::Packet(frame.packet.into()));
                }
                stream = &stream[length..];
            }
        }
        replies
    }

    proptest! {
        /// However records and reads cut them, in whichever framing.
        #[test]
        fn packets_come_out_of_records(sizes in prop::collection::vec(7usize..2000, 1..12), cut in 1usize..4000,
                                       record in 17usize..3000, framing in prop::sample::select(&ALL[..])) {
            let sent: Vec<_> = sizes.iter().enumerate().map(|(n, words)| (packet(n as u8 + 1, *words), n % 3 == 0)).collect();
            let stream = sent.iter().flat_map(|(packet, ack)| framed(framing, packet, *ack)).collect();
            let mut unpacker = unpacker(framing);
            let mut seen = Vec::new();
            for piece in in_records(stream, record).chunks(cut) {
                prop_assert_eq!(fed(&mut unpacker, piece), Ok(()));
                while let Some((packet, ack)) = unpacker.packet().unwrap() {
                    seen.push((packet.bytes().to_vec(), ack));
                }
            }
            prop_assert_eq!(seen, sent);
            prop_assert_eq!(unpacker.plain.capacity(), 0);
        }

        /// In records that TLS 1.3 allows, from the first byte on.
        #[test]
        fn replies_arrive_in_possible_records(batches in prop::collection::vec(prop::collection::vec(
                                                  prop_oneof![Just(0usize), 1usize..8, 8usize..9000], 1..5), 1..8)) {
            let reply = |words: usize| match words {
                0 => Reply::QuickAck(0x8000_0001),
                words => Reply::Packet(packet(9, words).into()),
            };
            let (mut packer, mut wire, mut sent) = (packer(Framing::Padded), Vec::new(), Vec::new());
            for batch in batches {
                let batch: Vec<_> = batch.into_iter().map(reply).collect();
                packer.pack(&batch, || 6, &mut wire);
                sent.extend(batch);
            }
            let (stream, sizes) = opened(&wire);
            prop_assert!(sizes.iter().all(|size| *size >= MIN_ENCRYPTED), "{:?}", sizes);
            prop_assert_eq!(replies(Framing::Padded, &stream), sent);
        }
    }

    #[test]
    fn quick_acks_have_their_top_bit_where_each_framing_has_it() {
        for (framing, expected) in [
            (Framing::Abridged, [0x9a, 0xbc, 0xde, 0xf1]),
            (Framing::Intermediate, [0xf1, 0xde, 0xbc, 0x9a]),
            (Framing::Padded, [0xf1, 0xde, 0xbc, 0x9a]),
        ] {
            let mut wire = Vec::new();
            packer(framing).pack(&[Reply::QuickAck(0x1abc_def1)], || 0, &mut wire);
            assert_eq!(opened(&wire).0[..4], expected, "{framing:?}");
        }
    }

    #[test]
    fn what_is_no_packet_ends_it_and_what_came_before_a_bad_record_counts() {
        let good = framed(Framing::Padded, &packet(1, 10), false);
        for bad in [vec![0xff; 4], vec![8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]] {
            let mut unpacker = unpacker(Framing::Padded);
            assert_eq!(unpacker.feed(&mut in_records([&good[..], &bad].concat(), 900)), Ok(()));
            assert!(unpacker.packet().unwrap().is_some());
            assert_eq!(unpacker.packet(), Err(BadPacket));
        }
        let mut unpacker = unpacker(Framing::Padded);
        let bytes = [in_records(good, 900), b"GET / HTTP/1.1".to_vec()].concat();
        assert_eq!(unpacker.feed(&mut bytes.clone()), Err(BadRecord));
        assert!(unpacker.packet().unwrap().is_some());
        assert_eq!(unpacker.packet(), Ok(None));
    }

    /// Nothing of a greeting is said ahead of its time, whatever ends the session, and an end of the client's making is
    /// answered as such.
    #[tokio::test]
    async fn an_end_waits_for_the_greeting_and_is_answered_by_its_occasion() {
        for (sends, expected) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], &[200, 19][..]), (&[], &[200])] {
            let (session, mut client) = session(&Arc::default(), &Arc::default()).await;
            let (down, writes) = Downlink::behind_fillers(keys(2), Pattern::default(), &[vec![200]], &[], || 7);
            let due = Instant::now() + Duration::from_millis(300);
            let welcome = Some(Box::new(Welcome::new(writes, due, Vec::new(), Duration::ZERO)));
            let session = Session { down: Packer::new(down, Framing::Padded), ..session }.with_welcome(welcome);
            tokio::spawn(session.run(Duration::from_secs(1800)));
            client.write_all(sends).await.unwrap();
            if sends.is_empty() {
                client.shutdown().await.unwrap();
            }
            let mut last = vec![0];
            client.read_exact(&mut last).await.unwrap();
            assert!(Instant::now() + Duration::from_millis(2) >= due, "too early");
            client.read_to_end(&mut last).await.unwrap();
            assert_eq!(opened(&last).1, expected);
        }
    }

    /// A far side in a test's hands.
    #[derive(Debug, Default)]
    struct Desk(Mutex<Papers>);

    #[derive(Debug, Default)]
    struct Papers {
        sent: Vec<(Vec<u8>, bool)>,
        replies: VecDeque<Result<Reply, End>>,
        taken: usize,
        waker: Option<Waker>,
    }

    impl Desk {
        fn reply(&self, reply: Result<Reply, End>) {
            let mut papers = self.0.lock().unwrap();
            papers.replies.push_back(reply);
            papers.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    impl Port for Arc<Desk> {
        async fn send(&self, packet: ClientPacket<'_>, quick_ack: bool) -> Result<(), End> {
            self.0.lock().unwrap().sent.push((packet.bytes().to_vec(), quick_ack));
            self.reply(Ok(Reply::Packet(packet.bytes().into())));
            Ok(())
        }

        fn poll_receive(&self, context: &mut Context<'_>, replies: &mut Vec<Reply>) -> Poll<Result<(), End>> {
            let mut papers = self.0.lock().unwrap();
            papers.waker = Some(context.waker().clone());
            match papers.replies.pop_front() {
                None => Poll::Pending,
                Some(reply) => {
                    papers.taken += 1;
                    Poll::Ready(reply.map(|reply| replies.push(reply)))
                }
            }
        }
    }

    async fn session(meter: &Arc<Meter>, desk: &Arc<Desk>) -> (Session<Arc<Desk>>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let (up, down) = (unpacker(Framing::Padded), packer(Framing::Padded));
        (Session::new(ours, up, down, MANNER, Arc::clone(meter), Arc::clone(desk)), client)
    }

    /// What docs/architecture.md says of the memory of sessions rests on this size.
    #[tokio::test]
    async fn an_idle_session_is_small() {
        let (session, _client) = session(&Arc::default(), &Arc::default()).await;
        let size = size_of_val(&session.run(Duration::from_secs(1800)));
        assert!(size <= 2304, "{size} bytes");
    }

    #[tokio::test]
    async fn packets_go_both_ways_and_every_end_looks_like_the_covers() {
        for (far, by) in [(true, End::FarBroke), (false, End::Closed)] {
            let (meter, desk) = (Arc::default(), Arc::default());
            let (session, mut client) = session(&meter, &desk).await;
            let running = tokio::spawn(session.run(Duration::from_secs(1800)));
            let sent = in_records(framed(Framing::Padded, &packet(1, 10), true), 900);
            client.write_all(&sent).await.unwrap();
            let mut back = vec![0; HEADER + 44];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(desk.0.lock().unwrap().sent, [(packet(1, 10), true)]);
            if far {
                desk.reply(Err(End::FarBroke))
            } else {
                meter.end()
            }
            client.read_to_end(&mut back).await.unwrap();
            let (stream, sizes) = opened(&back[..]);
            assert_eq!(sizes[sizes.len() - 2..], [34, 19]);
            assert_eq!(replies(Framing::Padded, &stream), [Reply::Packet(packet(1, 10).into())]);
            drop(client);
            let (up, down) = (sent.len() as u64, (back.len() - 2 * HEADER - 34 - 19) as u64);
            assert_eq!(running.await.unwrap(), Closed { by, up, down });
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_leaves_things_where_they_are() {
        let (meter, desk) = (Arc::default(), Arc::<Desk>::default());
        let (session, mut client) = session(&meter, &desk).await;
        (0..60).for_each(|_| desk.reply(Ok(Reply::Packet(packet(1, 1 << 18).into()))));
        desk.reply(Err(End::Finished));
        let running = tokio::spawn(session.run(Duration::from_secs(1800)));
        let taken = || desk.0.lock().unwrap().taken;
        let (mut seen, mut still) = (0, 0);
        while still < 1000 || seen == 0 {
            tokio::task::yield_now().await;
            still = if taken() == seen { still + 1 } else { 0 };
            seen = taken();
        }
        assert!(seen < 40, "{seen} packets were taken for someone who reads none");
        let mut wire = Vec::new();
        client.read_to_end(&mut wire).await.unwrap();
        assert_eq!(replies(Framing::Padded, &opened(&wire).0).len(), 60);
        drop(client);
        assert_eq!(running.await.unwrap().by, End::Finished);
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_for_too_long_is_let_go() {
        let (meter, desk) = (Arc::default(), Arc::default());
        let (session, mut client) = session(&meter, &desk).await;
        let running = tokio::spawn(session.run(Duration::from_secs(60)));
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(opened(&last).1, [34, 19]);
        drop(client);
        assert_eq!(running.await.unwrap().by, End::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_its_answer_alone_is_let_go_sooner() {
        let (meter, desk) = (Arc::default(), Arc::default());
        let (session, mut client) = session(&meter, &desk).await;
        let start = Instant::now();
        let watch = AnswerWatch::new(Arc::new(Strict), start);
        let running = tokio::spawn(session.watched(Some(watch)).run(Duration::from_secs(1800)));
        let (mut all, mut sent) = (Vec::new(), Vec::new());
        // What comes unasked, long behind the client's last word, asks for none.
        tokio::time::sleep(Duration::from_secs(100)).await;
        desk.reply(Ok(Reply::Packet(packet(1, 20).into())));
        tokio::time::sleep(Duration::from_secs(100)).await;
        sent.extend(framed(Framing::Padded, &packet(1, 10), false));
        client.write_all(&in_records(sent, 900)).await.unwrap();
        client.read_to_end(&mut all).await.unwrap();
        let lasted = start.elapsed();
        assert!(Duration::from_secs(215) <= lasted && lasted < Duration::from_secs(232), "{lasted:?}");
        drop(client);
        assert_eq!(running.await.unwrap().by, End::Unanswered);
    }
}
