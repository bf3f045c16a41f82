//! One encrypted link to a middle proxy, shared by many clients.
//!
//! Three things run for as long as a link lasts: a reader that hands out what comes, a writer that encrypts what clients
//! have left in the outbox and sends it in one piece, and a keeper that asks whether the other side is still there. What
//! ends one of them ends the link, and with it its clients, whose answers under way are lost: they come again and attach down
//! elsewhere.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::opening::{LinkReader, LinkWriter, NONCE_FRAME, Opening, Refused, Sealer};
use super::own::{self, Found};
use super::pulse::{Pulse, Signs};
use super::streams::{Delivery, StreamTable, Waiting};
use crate::auth::UnixTime;
use crate::crypto::middle_kdf::MiddleSecret;
use crate::relay::End;
use crate::relay::packets::Reply;
use crate::telegram::Upstream;
use crate::wire::DecodeError;
use crate::wire::rpc::{ConnectionId, FrameWriter, Message};

/// Most bytes of clients' packets that wait in an outbox. Further ones wait with their clients, which are not read from
/// meanwhile.
const OUTBOX: usize = 4 << 20;

/// Most bytes in an outbox before messages that no one needs are left out.
const CROWDED: usize = 256 << 10;

/// Interval of checks on whether the other side is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Time for which a link without clients is kept.
const EMPTY: Duration = Duration::from_secs(10 * 60);

/// Reason why there is no link.
#[derive(Debug)]
pub enum OpenError {
    /// No connection.
    Unreachable(io::Error),
    /// It took too long.
    TooSlow,
    /// The other side ended the connection instead of answering our nonce.
    NoNonce,
    /// The other side ended the connection instead of answering our handshake.
    NoHandshake,
    /// The other side sent an error, or an answer that cannot be accepted.
    Refused(Refused),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "no connection: {error}"),
            Self::TooSlow => f.write_str("it does not answer in time"),
            Self::NoNonce => f.write_str("it ends the connection at once: the secret may be out of date"),
            Self::NoHandshake => f.write_str(
                "it ends the connection at the handshake: it sees another address of this machine than is assumed",
            ),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl From<Refused> for OpenError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<DecodeError> for OpenError {
    fn from(error: DecodeError) -> Self {
        Self::Refused(error.into())
    }
}

/// A link that is open and does not run yet.
#[derive(Debug)]
pub struct NewLink {
    stream: TcpStream,
    inlet: LinkReader,
    outlet: LinkWriter,
    /// Its own address as the middle proxy sees it.
    pub ours: SocketAddr,
    /// Whom it leads to.
    pub theirs: SocketAddr,
}

/// Opens a link to one of these addresses. The caller limits the time.
pub async fn dial(
    upstream: &Upstream,
    addresses: &[SocketAddr],
    secret: &MiddleSecret,
    (own, found): (&own::Settings, &Found),
    start: UnixTime,
) -> Result<NewLink, OpenError> {
    let mut stream = upstream.dial(addresses).await.map_err(OpenError::Unreachable)?.stream;
    let theirs = stream.peer_addr().map_err(OpenError::Unreachable)?;
    let local = stream.local_addr().map_err(OpenError::Unreachable)?;
    let ours = SocketAddr::new(own.seen(local.ip(), theirs.ip(), found).await, local.port());
    let terms = Terms { secret, ours, theirs, now: SystemTime::now().into(), start };
    let (inlet, outlet) = open(&mut stream, terms, rand::random()).await?;
    Ok(NewLink { stream, inlet, outlet, ours, theirs })
}

/// Parameters of opening a link.
#[derive(Clone, Copy, Debug)]
struct Terms<'s> {
    secret: &'s MiddleSecret,
    /// The link's own address and port as the middle proxy sees them.
    ours: SocketAddr,
    theirs: SocketAddr,
    now: UnixTime,
    /// Start time of this process.
    start: UnixTime,
}

/// Goes through the handshake. `nonce` is random.
async fn open(
    stream: &mut TcpStream,
    terms: Terms<'_>,
    nonce: [u8; 16],
) -> Result<(LinkReader, LinkWriter), OpenError> {
    let (opening, hello) = Opening::new(terms.secret, terms.now, nonce);
    let mut frame = [0; NONCE_FRAME];
    let exchange = async {
        stream.write_all(&hello).await?;
        stream.read_exact(&mut frame).await
    };
    exchange.await.map_err(|_| OpenError::NoNonce)?;
    let (mut opened, handshake) = opening.answered(&frame, (terms.ours, terms.theirs), terms.start)?;
    stream.write_all(&handshake).await.map_err(|_| OpenError::NoHandshake)?;
    loop {
        match opened.agree()? {
            Ok(link) => return Ok(link),
            Err(more) => opened = more,
        }
        match stream.read_buf(opened.inlet.room()).await {
            Ok(1..) => opened.inlet.arrived(),
            Ok(0) | Err(_) => return Err(OpenError::NoHandshake),
        }
    }
}

/// An open link.
#[derive(Debug)]
pub struct Link {
    /// Whom it leads to.
    pub theirs: SocketAddr,
    /// Its own address as the middle proxy sees it.
    pub ours: SocketAddr,
    /// StreamTable of its clients.
    pub streams: StreamTable,
    outbox: Mutex<Outbox>,
    /// Something is in the outbox.
    filled: Notify,
    /// Room in the outbox, in bytes.
    room: Semaphore,
    /// It is over, or is to be.
    over: CancellationToken,
    opened: Instant,
    /// Time at which something came last, in milliseconds after it was opened.
    heard: AtomicU64,
    /// Time at which the other side was asked last whether it is there, in the same way; later than `heard`: it has not
    /// answered.
    asked: AtomicU64,
    /// Bytes that were sent since something came.
    sent: AtomicU64,
}

/// Reason why a link is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The middle proxy has ended it.
    Ended,
    /// The connection broke.
    Broke,
    /// The bytes that came make no sense.
    Nonsense,
    /// The middle proxy did not answer any more.
    Stalled,
    /// It was not needed.
    Unneeded,
}

impl Cause {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Ended, Self::Broke, Self::Nonsense, Self::Stalled, Self::Unneeded];

    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Broke => "broke",
            Self::Nonsense => "nonsense",
            Self::Stalled => "stalled",
            Self::Unneeded => "unneeded",
        }
    }
}

/// End of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// Cause of the end.
    pub cause: Cause,
    /// The same with details.
    pub detail: String,
}

impl LinkEnd {
    fn new(cause: Cause, detail: impl fmt::Display) -> Self {
        Self { cause, detail: detail.to_string() }
    }
}

#[derive(Debug)]
struct Outbox {
    frames: FrameWriter,
    bytes: Vec<u8>,
    /// Room that is to be given back when these bytes are sent.
    owed: usize,
}

impl Link {
    /// A link that was opened, and what makes it run: a future that is done when the link is over, and says why.
    pub fn start(fresh: NewLink, waiting: Arc<Waiting>) -> (Arc<Self>, impl Future<Output = LinkEnd> + Send + 'static) {
        let NewLink { stream, inlet, outlet, ours, theirs } = fresh;
        let (frames, sealer) = outlet.split();
        let link = Arc::new(Self {
            theirs,
            ours,
            streams: StreamTable::new(waiting),
            outbox: Mutex::new(Outbox { frames, bytes: Vec::new(), owed: 0 }),
            filled: Notify::new(),
            room: Semaphore::new(OUTBOX),
            over: CancellationToken::new(),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        (Arc::clone(&link), run(link, stream, inlet, sealer))
    }

    /// Sends a client's message once there is room for it; `size` is about what it takes. Fails when the link is over.
    pub async fn send(&self, message: &Message<'_>, size: usize) -> Result<(), End> {
        let owed = size.min(OUTBOX);
        let room = self.room.acquire_many(owed as u32).await.map_err(|_| End::FarBroke)?;
        room.forget();
        self.post(message, owed);
        Ok(())
    }

    /// Sends one of our own messages, which are short and few.
    pub fn say(&self, message: &Message<'_>) {
        self.post(message, 0);
    }

    /// The same where it does not matter much whether it is sent.
    fn mention(&self, message: &Message<'_>) {
        if self.outbox().bytes.len() < CROWDED {
            self.say(message);
        }
    }

    fn post(&self, message: &Message<'_>, owed: usize) {
        let mut outbox = self.outbox();
        let Outbox { frames, bytes, .. } = &mut *outbox;
        frames.write(message, bytes);
        outbox.owed += owed;
        drop(outbox);
        self.filled.notify_one();
    }

    /// Whether someone may attach down.
    pub fn is_open(&self) -> bool {
        !self.streams.is_shut()
    }

    /// Whether the other side does not answer: who sits there may be waiting in vain, and newcomers go elsewhere.
    pub fn is_doubtful(&self) -> bool {
        matches!(self.signs().pulse(1.0), Pulse::Doubtful | Pulse::Over)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// No one sits down from now on, and it is over when no one sits there any more.
    pub fn retire(&self) {
        if self.streams.shut() {
            self.over.cancel();
        }
    }

    /// A client has left of its own.
    pub fn leave(&self, id: ConnectionId, was_ended: bool) {
        let was_last = self.streams.leave(id);
        if !was_ended {
            self.say(&Message::CloseConnection(id));
        }
        if was_last {
            self.over.cancel();
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a message from the middle proxy.
    fn take(&self, payload: &[u8]) -> Result<(), DecodeError> {
        let (id, reply) = match Message::decode(payload)? {
            Some(Message::Answer(answer)) => (answer.connection, Reply::Packet(answer.packet.bytes().into())),
            Some(Message::SimpleAck(id, token)) => (id, Reply::QuickAck(token)),
            Some(Message::CloseExt(id) | Message::CloseConnection(id)) => {
                self.streams.end(id, End::Finished);
                return Ok(());
            }
            Some(Message::Ping(id)) => {
                self.mention(&Message::Pong(id));
                return Ok(());
            }
            Some(Message::Pong(_)) | None => return Ok(()),
            Some(Message::Nonce(_) | Message::Handshake(_) | Message::HandshakeError(_) | Message::Request(_)) => {
                return Err(DecodeError::Malformed("message for an open link"));
            }
        };
        match self.streams.deliver(id, reply) {
            Delivery::Done => {}
            Delivery::Unknown => self.mention(&Message::CloseConnection(id)),
            Delivery::TooMuch => self.say(&Message::CloseConnection(id)),
        }
        Ok(())
    }

    fn signs(&self) -> Signs {
        let now = self.opened.elapsed();
        let (heard, asked) = (self.heard.load(Ordering::Relaxed), self.asked.load(Ordering::Relaxed));
        let since = |moment| now.saturating_sub(Duration::from_millis(moment));
        Signs {
            silent: since(heard),
            asked: (asked > heard).then(|| since(asked)),
            sent: self.sent.load(Ordering::Relaxed),
            clients: self.streams.count(),
        }
    }

    /// Milliseconds since it was opened.
    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ask(&self) {
        self.asked.store(self.age().max(self.heard.load(Ordering::Relaxed) + 1), Ordering::Relaxed);
        self.say(&Message::Ping(rand::random()));
    }
}

/// Moves bytes until the link is over, and says why that is.
async fn run(link: Arc<Link>, stream: TcpStream, inlet: LinkReader, sealer: Sealer) -> LinkEnd {
    let (read, write) = stream.into_split();
    let why = tokio::select! {
        why = reader(&link, read, inlet) => why,
        why = writer(&link, write, sealer) => why,
        why = keeper(&link) => why,
        () = link.over.cancelled() => LinkEnd::new(Cause::Unneeded, "it is no longer needed"),
    };
    link.over.cancel();
    link.room.close();
    link.streams.end_all(End::FarBroke);
    why
}

async fn reader(link: &Link, mut read: OwnedReadHalf, mut inlet: LinkReader) -> LinkEnd {
    let nonsense = |error| LinkEnd::new(Cause::Nonsense, format_args!("what it sent cannot be parsed: {error}"));
    loop {
        loop {
            match inlet.payload() {
                Ok(None) => break,
                Ok(Some(payload)) => {
                    if let Err(error) = link.take(payload) {
                        return nonsense(error);
                    }
                }
                Err(error) => return nonsense(error),
            }
        }
        match read.read_buf(inlet.room()).await {
            Ok(0) => return LinkEnd::new(Cause::Ended, "the middle proxy has ended it"),
            Ok(_) => inlet.arrived(),
            Err(error) => return LinkEnd::new(Cause::Broke, error),
        }
        link.sent.store(0, Ordering::Relaxed);
        // Also what comes in the very moment of a question is an answer.
        link.heard.store(link.age().max(link.asked.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

async fn writer(link: &Link, mut write: OwnedWriteHalf, mut sealer: Sealer) -> LinkEnd {
    loop {
        link.filled.notified().await;
        let (mut bytes, owed) = {
            let mut outbox = link.outbox();
            (std::mem::take(&mut outbox.bytes), std::mem::take(&mut outbox.owed))
        };
        if bytes.is_empty() {
            continue;
        }
        sealer.seal(&mut bytes);
        link.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Err(error) = write.write_all(&bytes).await {
            return LinkEnd::new(Cause::Broke, error);
        }
        link.room.add_permits(owed);
    }
}

/// Asks whether the other side is there, and notices that no one else is.
async fn keeper(link: &Link) -> LinkEnd {
    let mut empty_since = None;
    let mut jitter = rand::random_range(0.8..1.2);
    loop {
        sleep(LOOK.mul_f64(jitter)).await;
        let signs = link.signs();
        match signs.pulse(jitter) {
            Pulse::Over => {
                let detail = format!("nothing has come for {} seconds", signs.silent.as_secs());
                return LinkEnd::new(Cause::Stalled, detail);
            }
            Pulse::Ask => {
                jitter = rand::random_range(0.8..1.2);
                link.ask();
            }
            Pulse::Well | Pulse::Doubtful => {}
        }
        if link.streams.count() > 0 {
            empty_since = None;
        } else if empty_since.get_or_insert_with(Instant::now).elapsed() > EMPTY {
            // Anyone who has just sat down is waited for.
            link.retire();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::crypto::middle_kdf::{Ends, Exchange};
    use crate::crypto::{CbcDecrypt, CbcEncrypt};
    use crate::wire::packets::{ClientPacket, Framing, Packet};
    use crate::wire::rpc::{Answer, Checksum, FrameReader, Handshake, Nonce, Request, pad_to_block};

    const ID: ConnectionId = ConnectionId(7);

    /// The middle proxy's end of a link.
    pub(in super::super) struct Far {
        stream: TcpStream,
        reader: FrameReader,
        decrypt: CbcDecrypt,
        plain: Vec<u8>,
        writer: FrameWriter,
        encrypt: CbcEncrypt,
    }

    impl Far {
        async fn answer(mut stream: TcpStream, secret: MiddleSecret) -> Self {
            let (mut reader, mut writer) = (FrameReader::default(), FrameWriter::default());
            let mut hello = [0; NONCE_FRAME];
            stream.read_exact(&mut hello).await.unwrap();
            let payload = reader.read(&mut &hello[..]).unwrap();
            let Ok(Some(Message::Nonce(theirs))) = Message::decode(payload) else { panic!() };
            let ours = Nonce { nonce: [5; 16], ..theirs };
            let mut out = Vec::new();
            writer.write(&Message::Nonce(ours), &mut out);
            stream.write_all(&out).await.unwrap();
            let ends = Ends::new(stream.peer_addr().unwrap(), stream.local_addr().unwrap()).unwrap();
            let (our_nonce, their_nonce) = (&theirs.nonce, &ours.nonce);
            let keys = Exchange { secret: &secret, our_nonce, our_time: theirs.time, their_nonce, ends }.keys();
            let decrypt = CbcDecrypt::new(&keys.to_middle.key, &keys.to_middle.iv);
            let encrypt = CbcEncrypt::new(&keys.from_middle.key, &keys.from_middle.iv);
            let mut far = Self { stream, reader, decrypt, plain: Vec::new(), writer, encrypt };
            let payload = far.payload().await;
            let Ok(Some(Message::Handshake(asked))) = Message::decode(&payload) else { panic!() };
            assert!(asked.wants_crc32c);
            far.say(&Message::Handshake(Handshake { sender: asked.peer, peer: asked.sender, ..asked })).await;
            far.reader.agree(Checksum::Crc32c);
            far.writer.agree(Checksum::Crc32c);
            far
        }

        async fn payload(&mut self) -> Vec<u8> {
            loop {
                let mut rest = &self.plain[..];
                let found = self.reader.read(&mut rest).map(<[u8]>::to_vec);
                self.plain = rest.to_vec();
                if let Ok(payload) = found {
                    return payload;
                }
                let mut block = [[0; 16]];
                self.stream.read_exact(block.as_flattened_mut()).await.unwrap();
                self.decrypt.apply(&mut block);
                self.plain.extend_from_slice(block.as_flattened());
            }
        }

        async fn say(&mut self, message: &Message<'_>) {
            let mut out = Vec::new();
            self.writer.write(message, &mut out);
            pad_to_block(&mut out);
            self.encrypt.apply(out.as_chunks_mut().0);
            self.stream.write_all(&out).await.unwrap();
        }
    }

    /// A link that runs, and the other end of it.
    pub(in super::super) async fn linked() -> (Arc<Link>, JoinHandle<LinkEnd>, Far) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let secret = MiddleSecret::new(&[3; 64]).unwrap();
        let theirs = secret.clone();
        let far = tokio::spawn(async move { Far::answer(listener.accept().await.unwrap().0, theirs).await });
        let (own, found) = (own::Settings::default(), Found::default());
        let upstream = Upstream::new(crate::telegram::Settings::default());
        let fresh = dial(&upstream, &[address], &secret, (&own, &found), UnixTime(1)).await.unwrap();
        let (link, running) = Link::start(fresh, Arc::default());
        (link, tokio::spawn(running), far.await.unwrap())
    }

    fn request(packet: &[u8]) -> Message<'_> {
        let (client, ours) = (SocketAddr::from(([1; 4], 1)), SocketAddr::from(([2; 4], 2)));
        let packet = ClientPacket::examine(packet).unwrap();
        let framing = Framing::Padded;
        Message::Request(Request { connection: ID, client, ours, framing, quick_ack: false, tag: None, packet })
    }

    #[tokio::test]
    async fn messages_cross_a_link_and_pings_are_answered() {
        let (link, running, mut far) = linked().await;
        let (seat, packet) = (link.streams.take(ID).unwrap(), [9; 40]);
        link.send(&request(&packet), 100).await.unwrap();
        assert_eq!(Message::decode(&far.payload().await), Ok(Some(request(&packet))));
        let answer = Answer { flags: 0, connection: ID, packet: Packet::new(&packet).unwrap() };
        far.say(&Message::Answer(answer)).await;
        let mut replies = Vec::new();
        std::future::poll_fn(|context| seat.poll_receive(context, &mut replies)).await.unwrap();
        assert_eq!(replies, [Reply::Packet(packet.into())]);
        far.say(&Message::Ping(77)).await;
        assert_eq!(Message::decode(&far.payload().await), Ok(Some(Message::Pong(77))));
        far.say(&Message::Answer(Answer { connection: ConnectionId(8), ..answer })).await;
        let told = far.payload().await;
        assert_eq!(Message::decode(&told), Ok(Some(Message::CloseConnection(ConnectionId(8)))), "no one sits there");
        link.leave(ID, false);
        assert_eq!(Message::decode(&far.payload().await), Ok(Some(Message::CloseConnection(ID))));
        assert!(!link.is_over());
        link.retire();
        assert_eq!(running.await.unwrap().cause, Cause::Unneeded);
    }

    #[tokio::test]
    async fn what_is_not_sent_yet_is_bounded_and_waits_until_it_is() {
        let (link, running, mut far) = linked().await;
        let packet = vec![9; 1 << 20];
        // No one reads at the other end. What the kernel takes is a few megabytes.
        let mut sent = 0;
        while let Ok(outcome) =
            tokio::time::timeout(Duration::from_millis(300), link.send(&request(&packet), 1 << 20)).await
        {
            outcome.unwrap();
            sent += 1;
            assert!(sent < 64, "the outbox has no bound");
        }
        assert!(link.outbox().bytes.len() <= OUTBOX + 8 * 200, "{}", link.outbox().bytes.len());
        let waiting = {
            let link = Arc::clone(&link);
            tokio::spawn(async move { link.send(&request(&[9; 40]), 100).await })
        };
        for _ in 0..sent {
            assert_eq!(Message::decode(&far.payload().await), Ok(Some(request(&packet))));
        }
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(far);
        assert!(matches!(running.await.unwrap().cause, Cause::Ended | Cause::Broke));
        assert_eq!(link.send(&request(&[9; 40]), 100).await, Err(End::FarBroke));
    }

    #[tokio::test]
    async fn what_makes_no_sense_ends_a_link() {
        let (link, running, mut far) = linked().await;
        let seat = link.streams.take(ID).unwrap();
        far.say(&request(&[9; 40])).await;
        assert_eq!(running.await.unwrap().cause, Cause::Nonsense);
        assert!(seat.is_over() && !link.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_gives_no_sign_of_life_is_given_up() {
        let (link, running, mut far) = linked().await;
        let _seat = link.streams.take(ID).unwrap();
        let begin = Instant::now();
        assert!(matches!(Message::decode(&far.payload().await), Ok(Some(Message::Ping(_)))));
        assert!(!link.is_doubtful(), "it has only just been asked");
        while !link.is_doubtful() {
            sleep(LOOK).await;
        }
        assert!(link.is_open() && begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        assert_eq!(running.await.unwrap().cause, Cause::Stalled);
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn an_answer_dispels_doubt() {
        let (link, _running, mut far) = linked().await;
        link.ask();
        let Ok(Some(Message::Ping(id))) = Message::decode(&far.payload().await) else { panic!() };
        assert!(link.signs().asked.is_some());
        far.say(&Message::Pong(id)).await;
        while link.signs().asked.is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(link.signs().sent, 0);
    }
}
