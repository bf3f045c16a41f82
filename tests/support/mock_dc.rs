//! A data centre on loopback: reads the header of each connection, notes it, and plays one role.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::dice::Dice;
use super::hello::Key;
use super::obfuscated::{Frame, Frames, Header, Stream, framed};

/// What a data centre does once it has the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends every packet back; FIN follows FIN.
    Echo,
    /// Sends every byte back, however it is framed; FIN follows FIN.
    Mirror,
    /// Answers every request for a key with as much of an answer as clients look at, in the framing of the header.
    Keys,
    /// On the first packet sends [`synthetic`] bytes of this seed and count in frames, then FIN.
    Pour(u64, usize),
    /// Takes everything until a packet that is [`DONE`] or FIN, then answers with one packet: count and SHA-256 of the
    /// packets' bytes.
    Sink,
    /// Sends one packet at the first, and takes everything until FIN; the sum is only noted.
    Note,
    /// The same, sending small packets all the time.
    Chatter,
    /// On the first packet closes with FIN.
    Shut,
    /// On the first packet closes with RST.
    Abort,
    /// Sends half of a frame on the first packet, then closes with RST.
    Die,
    /// Takes everything and never answers.
    Mute,
    /// Answers each packet with bare tokens and small frames, every one in a segment of its own.
    Tiny,
    /// Answers each packet with a frame as long as the number in its first four bytes says; with none where that is 0.
    Asked,
    /// On the first packet sends the head of one huge frame and this many bytes of it, then FIN.
    Unframed(u64, usize),
}

/// A connection that reached the data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub tag: [u8; 4],
    pub dc: i16,
    /// Count and SHA-256 of what a sink took, once it has all of it.
    pub sum: Option<Sum>,
}

/// Beginning of the packet behind which a [`Role::Sink`] answers.
pub const DONE: &[u8] = b"that was all of it";

/// Count and SHA-256 of bytes.
pub type Sum = (u64, [u8; 32]);

pub struct MockDc {
    pub addr: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    news: Notify,
    /// How many have connected, and how many of them are still there.
    came: AtomicUsize,
    there: AtomicUsize,
}

impl MockDc {
    pub async fn start(role: Role) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), role).await
    }

    /// At an address of a network in which it is free.
    pub async fn at(addr: SocketAddr, role: Role) -> Self {
        Self::listen(addr, None, role).await
    }

    /// A proxy without disguise that knows this key, with a data centre behind it.
    pub async fn behind(role: Role, key: Key) -> Self {
        Self::listen("127.0.0.1:0".parse().expect("an address"), Some(key), role).await
    }

    async fn listen(addr: SocketAddr, key: Option<Key>, role: Role) -> Self {
        let listener = TcpListener::bind(addr).await.expect("the address is free");
        let addr = listener.local_addr().expect("an address");
        let log = Arc::new(Log::default());
        let task = tokio::spawn(accept(listener, key, role, log.clone()));
        Self { addr, log, task }
    }

    /// Every connection with a whole header so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().expect("no panic while logging").clone()
    }

    /// Ends, with all its connections; the address is free when this returns.
    pub async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        while self.connections().1 > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// How many connections came so far, those without a header too, and how many of them are still there.
    pub fn connections(&self) -> (usize, usize) {
        (self.log.came.load(Ordering::SeqCst), self.log.there.load(Ordering::SeqCst))
    }

    /// Waits until the log satisfies `enough`; gives the log either way.
    pub async fn wait(&self, limit: Duration, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let waiting = async {
            loop {
                let news = self.log.news.notified();
                if enough(&self.seen()) {
                    break;
                }
                news.await;
            }
        };
        let _ = timeout(limit, waiting).await;
        self.seen()
    }
}

impl Drop for MockDc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address that refuses connections.
pub async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}

/// An address where the first packet of a connection is never answered: a listener whose queue is full.
pub struct Silent {
    pub addr: SocketAddr,
    _held: Vec<JoinHandle<std::io::Result<TcpStream>>>,
    _listener: TcpListener,
}

impl Silent {
    pub async fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("listens");
        let addr = listener.local_addr().expect("an address");
        let mut held = Vec::new();
        // Two fill the queue of one; anyone who comes after them is left without an answer.
        for _ in 0..2 {
            let dial = TcpStream::connect(addr).await;
            held.push(tokio::spawn(async { dial }));
        }
        for _ in 0..4 {
            held.push(tokio::spawn(TcpStream::connect(addr)));
        }
        Self { addr, _held: held, _listener: listener }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self._held.iter().for_each(JoinHandle::abort);
    }
}

/// All connections end with this.
async fn accept(listener: TcpListener, key: Option<Key>, role: Role, log: Arc<Log>) {
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let log = log.clone();
        log.came.fetch_add(1, Ordering::SeqCst);
        let there = There::new(&log);
        serving.spawn(async move {
            let _there = there;
            let _ = Peer::serve(stream, key, role, log).await;
        });
    }
}

/// A connection that is there; what it is made of goes before this value.
struct There(Arc<Log>);

impl There {
    fn new(log: &Arc<Log>) -> Self {
        log.there.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(log))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.0.there.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Peer {
    stream: TcpStream,
    up: Stream,
    down: Stream,
    frames: Frames,
}

impl Peer {
    async fn serve(mut stream: TcpStream, key: Option<Key>, role: Role, log: Arc<Log>) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut wire = [0; 64];
        stream.read_exact(&mut wire).await?;
        let header = Header::open(wire, key.as_ref());
        let index = log.add(Seen { tag: header.tag, dc: header.dc, sum: None });
        let mut peer = Self { stream, up: header.up, down: header.down, frames: Frames::default() };
        let sum = peer.play(role, header.tag).await?;
        log.sum(index, sum);
        Ok(())
    }

    async fn play(&mut self, role: Role, tag: [u8; 4]) -> std::io::Result<Option<Sum>> {
        match role {
            Role::Echo => self.echo().await?,
            Role::Mirror => self.mirror().await?,
            Role::Keys => self.keys(tag).await?,
            Role::Pour(seed, count) => self.pour(seed, count).await?,
            Role::Sink => return self.sink(true).await.map(Some),
            Role::Note => return self.note().await.map(Some),
            Role::Chatter => return self.chatter().await.map(Some),
            Role::Shut => drop(self.frame().await?),
            Role::Abort => {
                self.frame().await?;
                self.stream.set_zero_linger()?;
            }
            Role::Die => {
                self.frame().await?;
                self.send(framed(&[7; 5000])[..3000].to_vec()).await?;
                self.stream.set_zero_linger()?;
            }
            Role::Mute => while self.frame().await?.is_some() {},
            Role::Tiny => self.tiny().await?,
            Role::Asked => self.asked().await?,
            Role::Unframed(seed, count) => self.unframed(seed, count).await?,
        }
        Ok(None)
    }

    async fn echo(&mut self) -> std::io::Result<()> {
        while let Some(frame) = self.frame().await? {
            if let Frame::Packet(packet) = frame {
                self.send(framed(&packet)).await?;
            }
        }
        self.stream.shutdown().await
    }

    async fn mirror(&mut self) -> std::io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let count = self.stream.read(&mut chunk).await?;
            if count == 0 {
                return self.stream.shutdown().await;
            }
            let mut bytes = chunk[..count].to_vec();
            self.up.apply(&mut bytes);
            self.send(bytes).await?;
        }
    }

    async fn keys(&mut self, tag: [u8; 4]) -> std::io::Result<()> {
        const NONCE: std::ops::Range<usize> = 24..40;
        let head = if tag == [0xef; 4] { 1 } else { 4 };
        let (mut chunk, mut plain) = (vec![0; 4 << 10], Vec::new());
        loop {
            let count = self.stream.read(&mut chunk).await?;
            if count == 0 {
                return self.stream.shutdown().await;
            }
            self.up.apply(&mut chunk[..count]);
            plain.extend_from_slice(&chunk[..count]);
            while let Some(length) = plain.get(..head).map(|bytes| match *bytes {
                [words] => usize::from(words) * 4,
                _ => u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize,
            }) && plain.len() >= head + length
            {
                let rest = plain.split_off(head + length);
                let request = std::mem::replace(&mut plain, rest).split_off(head);
                let mut answer = vec![0; 84];
                answer[16..20].copy_from_slice(&64u32.to_le_bytes());
                answer[20..24].copy_from_slice(&0x0516_2463_u32.to_le_bytes());
                answer[NONCE].copy_from_slice(&request[NONCE]);
                let length = answer.len() as u32;
                let framed = if head == 1 { vec![(length / 4) as u8] } else { length.to_le_bytes().to_vec() };
                self.send([framed, answer].concat()).await?;
            }
        }
    }

    async fn pour(&mut self, seed: u64, count: usize) -> std::io::Result<()> {
        self.frame().await?;
        let mut sizes = Dice::new(seed ^ 1);
        let mut source = Dice::new(seed);
        let mut left = count;
        while left > 0 {
            let size = (16 + 8 * sizes.below(60_000)).min(left);
            self.send(framed(&source.bytes(size))).await?;
            left -= size;
        }
        self.stream.shutdown().await?;
        while self.frame().await?.is_some() {}
        Ok(())
    }

    async fn sink(&mut self, answer: bool) -> std::io::Result<Sum> {
        let mut count = 0;
        let mut hash = Sha256::new();
        while let Some(frame) = self.frame().await? {
            if let Frame::Packet(packet) = frame {
                if packet.starts_with(DONE) {
                    break;
                }
                count += packet.len() as u64;
                hash.update(&packet);
            }
        }
        let sum: Sum = (count, hash.finalize().into());
        if answer {
            let mut packet = sum.0.to_le_bytes().to_vec();
            packet.extend(sum.1);
            self.send(framed(&packet)).await?;
            self.stream.shutdown().await?;
        }
        Ok(sum)
    }

    async fn note(&mut self) -> std::io::Result<Sum> {
        self.frame().await?;
        self.send(framed(&[9; 40])).await?;
        self.sink(false).await
    }

    async fn chatter(&mut self) -> std::io::Result<Sum> {
        let (mut count, mut hash) = (0, Sha256::new());
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut chunk = vec![0; 64 << 10];
        loop {
            tokio::select! {
                read = self.stream.read(&mut chunk) => {
                    let read = read?;
                    if read == 0 {
                        return Ok((count, hash.finalize().into()));
                    }
                    self.up.apply(&mut chunk[..read]);
                    self.frames.push(&chunk[..read]);
                    while let Some(frame) = self.frames.next() {
                        let Frame::Packet(packet) = frame else { continue };
                        count += packet.len() as u64;
                        hash.update(&packet);
                    }
                }
                _ = tick.tick() => self.send(framed(&[9; 40])).await?,
            }
        }
    }

    async fn tiny(&mut self) -> std::io::Result<()> {
        while self.frame().await?.is_some() {
            for piece in tiny_pieces() {
                self.send(piece).await?;
            }
        }
        self.stream.shutdown().await
    }

    async fn asked(&mut self) -> std::io::Result<()> {
        while let Some(frame) = self.frame().await? {
            if let Frame::Packet(packet) = frame
                && let Some(length) = packet.first_chunk()
                && let length @ 1.. = u32::from_le_bytes(*length)
            {
                self.send(framed(&vec![7; length as usize])).await?;
            }
        }
        self.stream.shutdown().await
    }

    async fn unframed(&mut self, seed: u64, count: usize) -> std::io::Result<()> {
        self.frame().await?;
        self.send((1u32 << 24).to_le_bytes().to_vec()).await?;
        let bytes = Dice::new(seed).bytes(count);
        self.send(bytes).await?;
        self.stream.shutdown().await?;
        while self.frame().await?.is_some() {}
        Ok(())
    }

    async fn send(&mut self, mut bytes: Vec<u8>) -> std::io::Result<()> {
        self.down.apply(&mut bytes);
        self.stream.write_all(&bytes).await
    }

    /// `None` once the other side has sent FIN.
    async fn frame(&mut self) -> std::io::Result<Option<Frame>> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(Some(frame));
            }
            let count = self.stream.read(&mut chunk).await?;
            if count == 0 {
                return Ok(None);
            }
            self.up.apply(&mut chunk[..count]);
            self.frames.push(&chunk[..count]);
        }
    }
}

impl Log {
    fn add(&self, seen: Seen) -> usize {
        let mut log = self.seen.lock().expect("no panic while logging");
        log.push(seen);
        self.news.notify_waiters();
        log.len() - 1
    }

    fn sum(&self, index: usize, sum: Option<Sum>) {
        self.seen.lock().expect("no panic while logging")[index].sum = sum;
        self.news.notify_waiters();
    }
}

/// What [`Role::Tiny`] sends for each packet: tokens and frames of a few bytes.
pub fn tiny_pieces() -> Vec<Vec<u8>> {
    let token = |number: u32| (number | 1 << 31).to_le_bytes().to_vec();
    vec![
        token(0x1234_5678),
        framed(&[0x6c, 0xfe, 0xff, 0xff]),
        token(1),
        token(2),
        framed(&[0x11; 5]),
        framed(&[0x22; 12]),
        framed(&[0x33; 13]),
        token(3),
    ]
}

/// Count and SHA-256 of what [`Role::Pour`] sends.
pub fn synthetic(seed: u64, count: usize) -> Sum {
    let mut hash = Sha256::new();
    let mut sizes = Dice::new(seed ^ 1);
    let mut source = Dice::new(seed);
    let mut left = count;
    while left > 0 {
        let size = (16 + 8 * sizes.below(60_000)).min(left);
        hash.update(source.bytes(size));
        left -= size;
    }
    (count as u64, hash.finalize().into())
}
