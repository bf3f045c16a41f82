//! A middle proxy on loopback, with codecs of its own: frames, checksums, key schedule and cipher chaining are written
//! down here again, from the protocol and not from the program under test, and are held against the published vectors.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::dice::Dice;

/// Bitwise, least significant bit first, all ones before and after.
pub fn crc(polynomial: u32, bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |s, _| (s >> 1) ^ (polynomial * (s & 1)));
    !bytes.iter().fold(!0, step)
}

/// The polynomials of the two checksums, reflected.
pub const CRC32: u32 = 0xedb8_8320;
pub const CRC32C: u32 = 0x82f6_3b78;

/// AES-256-CBC over one direction of a link.
pub struct Chain {
    cipher: Aes256,
    last: [u8; 16],
}

impl Chain {
    pub fn new(key: &[u8], iv: &[u8]) -> Self {
        let cipher = Aes256::new_from_slice(key).expect("32 bytes");
        Self { cipher, last: iv.try_into().expect("16 bytes") }
    }

    pub fn encrypt(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_exact_mut(16) {
            let mut mixed = aes::Block::default();
            for at in 0..16 {
                mixed[at] = block[at] ^ self.last[at];
            }
            self.cipher.encrypt_block(&mut mixed);
            block.copy_from_slice(&mixed);
            self.last.copy_from_slice(block);
        }
    }

    pub fn decrypt(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_exact_mut(16) {
            let mut plain = aes::Block::default();
            plain.copy_from_slice(block);
            self.cipher.decrypt_block(&mut plain);
            let next: [u8; 16] = (&*block).try_into().expect("a whole block");
            for at in 0..16 {
                block[at] = plain[at] ^ self.last[at];
            }
            self.last = next;
        }
    }
}

/// Both nonces, the time, both addresses and the secret, from the middle proxy's point of view.
pub struct Meeting<'a> {
    pub secret: &'a [u8],
    pub proxy: SocketAddr,
    pub middle: SocketAddr,
    pub proxy_nonce: &'a [u8],
    pub middle_nonce: &'a [u8],
    pub proxy_time: &'a [u8],
}

impl Meeting<'_> {
    /// Key and iv of what the proxy sends (`CLIENT`) or the middle proxy sends (`SERVER`).
    pub fn keys(&self, purpose: &[u8]) -> ([u8; 32], [u8; 16]) {
        let old = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().into_iter().rev().collect(),
            IpAddr::V6(_) => vec![0; 4],
        };
        let new = |ip: IpAddr| match ip {
            IpAddr::V4(_) => vec![],
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (proxy, middle) = (self.proxy, self.middle);
        let mut s = Vec::new();
        s.extend_from_slice(self.middle_nonce);
        s.extend_from_slice(self.proxy_nonce);
        s.extend_from_slice(self.proxy_time);
        s.extend(old(middle.ip()));
        s.extend(proxy.port().to_le_bytes());
        s.extend_from_slice(purpose);
        s.extend(old(proxy.ip()));
        s.extend(middle.port().to_le_bytes());
        s.extend_from_slice(self.secret);
        s.extend_from_slice(self.middle_nonce);
        s.extend(new(proxy.ip()));
        s.extend(new(middle.ip()));
        s.extend_from_slice(self.proxy_nonce);
        let mut key = [0; 32];
        key[..12].copy_from_slice(&Md5::digest(&s[1..])[..12]);
        key[12..].copy_from_slice(&Sha1::digest(&s));
        (key, Md5::digest(&s[2..]).into())
    }
}

/// A frame.
pub fn frame(sequence: i32, payload: &[u8], polynomial: u32) -> Vec<u8> {
    let mut out = (payload.len() as u32 + 12).to_le_bytes().to_vec();
    out.extend(sequence.to_le_bytes());
    out.extend(payload);
    out.extend(crc(polynomial, &out).to_le_bytes());
    out
}

/// The secret of these tests.
pub fn secret() -> Vec<u8> {
    Dice::new(4242).bytes(128)
}

const NONCE: u32 = 0x7acb_87aa;
const HANDSHAKE: u32 = 0x7682_eef5;
const REQUEST: u32 = 0x36ce_f1ee;
const ANSWER: u32 = 0x4403_da0d;
const CLOSE_CONN: u32 = 0x1fcf_425d;
const CLOSE_EXT: u32 = 0x5eb6_34a2;
const SIMPLE_ACK: u32 = 0x3bac_409b;
const PING: u32 = 0x5730_a2df;
const PONG: u32 = 0x8430_eaa7;

/// How a middle proxy behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    pub secret: Vec<u8>,
    /// From where it sees the proxy; otherwise from where the connection comes.
    pub sees: Option<IpAddr>,
    /// Whether it agrees to CRC-32C.
    pub crc32c: bool,
    /// How far its clock is ahead.
    pub ahead: i64,
    /// A connection whose first packet says so is sent this many packets of this size, unasked for.
    pub pour: (usize, usize),
}

impl Default for Manners {
    fn default() -> Self {
        Self { secret: secret(), sees: None, crc32c: true, ahead: 0, pour: (0, 0) }
    }
}

/// First bytes of a packet that asks for [`Manners::pour`]; of others nothing but an echo comes.
pub const POUR: &[u8] = b"pour on!";

/// First bytes of a packet that asks for a close in place of an answer.
pub const CLOSE: &[u8] = b"close me";

/// What was heard of one client.
#[derive(Clone, Debug)]
pub struct Heard {
    pub link: usize,
    pub flags: u32,
    pub client: SocketAddr,
    pub ours: SocketAddr,
    pub tag: Option<Vec<u8>>,
    pub packets: u64,
    /// Whether the proxy said that the client is gone.
    pub closed: bool,
    hash: Sha256,
}

impl Heard {
    /// SHA-256 of all its packets.
    pub fn sum(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

#[derive(Default)]
struct Log {
    heard: Mutex<HashMap<u64, Heard>>,
    links: Mutex<Vec<Option<mpsc::Sender<Say>>>>,
    pongs: Mutex<usize>,
    news: Notify,
}

enum Say {
    Message(Vec<u8>),
    /// Ends the link.
    End,
}

/// A running middle proxy. It ends with this value, and its links with it.
pub struct MockMiddle {
    pub addr: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

impl MockMiddle {
    pub async fn start(manners: Manners) -> Self {
        Self::at("127.0.0.1:0", manners).await
    }

    pub async fn at(address: &str, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let log = Arc::<Log>::default();
        let task = tokio::spawn(accept(listener, manners, log.clone()));
        Self { addr, log, task }
    }

    /// What was heard so far, by connection id.
    pub fn heard(&self) -> HashMap<u64, Heard> {
        self.log.heard.lock().expect("no panic while logging").clone()
    }

    /// The same as soon as it is so.
    pub async fn wait(&self, so: impl Fn(&HashMap<u64, Heard>) -> bool) -> HashMap<u64, Heard> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let waiting = async {
            loop {
                let news = self.log.news.notified();
                let heard = self.heard();
                if so(&heard) {
                    return heard;
                }
                news.await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never heard: {:#?}", self.heard().len()))
    }

    /// Links that were ever opened, and those that are open.
    pub fn links(&self) -> (usize, usize) {
        let links = self.log.links.lock().expect("no panic while logging");
        (links.len(), links.iter().flatten().count())
    }

    pub fn pongs(&self) -> usize {
        *self.log.pongs.lock().expect("no panic while logging")
    }

    /// Says this on a link.
    async fn say(&self, link: usize, what: Say) {
        let sender = self.log.links.lock().expect("no panic while logging")[link].clone();
        sender.expect("the link is open").send(what).await.expect("the link is open");
    }

    /// Ends a link.
    pub async fn end(&self, link: usize) {
        self.say(link, Say::End).await;
    }

    pub async fn ping(&self, link: usize) {
        self.say(link, Say::Message([PING.to_le_bytes().as_slice(), &[7; 8]].concat())).await;
    }
}

impl Drop for MockMiddle {
    fn drop(&mut self) {
        self.task.abort();
        self.log.links.lock().expect("no panic while logging").iter_mut().for_each(|link| *link = None);
    }
}

async fn accept(listener: TcpListener, manners: Manners, log: Arc<Log>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (manners, log) = (manners.clone(), log.clone());
        tokio::spawn(async move {
            let link = {
                let mut links = log.links.lock().expect("no panic while logging");
                links.push(None);
                links.len() - 1
            };
            let _ = Peer::serve(stream, manners, log.clone(), link).await;
            log.links.lock().expect("no panic while logging")[link] = None;
            log.news.notify_waiters();
        });
    }
}

struct Peer {
    manners: Manners,
    log: Arc<Log>,
    link: usize,
    say: mpsc::Sender<Say>,
}

impl Peer {
    async fn serve(mut stream: TcpStream, manners: Manners, log: Arc<Log>, link: usize) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut hello = [0; 44];
        stream.read_exact(&mut hello).await?;
        assert_eq!(hello, *frame(-2, &hello[8..40], CRC32), "the proxy's nonce is framed otherwise");
        assert_eq!(hello[8..12], NONCE.to_le_bytes());
        if hello[12..16] != manners.secret[..4] {
            return Ok(());
        }
        let nonce = Dice::unseen().bytes(16);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 + manners.ahead;
        let mut answer = [&NONCE.to_le_bytes()[..], &manners.secret[..4], &1_u32.to_le_bytes()].concat();
        answer.extend((now as u32).to_le_bytes());
        answer.extend(&nonce);
        stream.write_all(&frame(-2, &answer, CRC32)).await?;

        let (peer, middle) = (stream.peer_addr()?, stream.local_addr()?);
        let meeting = Meeting {
            secret: &manners.secret,
            proxy: SocketAddr::new(manners.sees.unwrap_or(peer.ip()), peer.port()),
            middle,
            proxy_nonce: &hello[24..40],
            middle_nonce: &nonce,
            proxy_time: &hello[20..24],
        };
        let (from, to) = (meeting.keys(b"CLIENT"), meeting.keys(b"SERVER"));
        let mut inlet =
            LinkReader { chain: Chain::new(&from.0, &from.1), bytes: vec![], plain: 0, sequence: -1, crc: CRC32 };
        let (mut read, write) = stream.into_split();
        let Some(handshake) = inlet.next(&mut read).await? else { return Ok(()) };
        if handshake[..4] != HANDSHAKE.to_le_bytes() {
            return Ok(());
        }
        let agreed = manners.crc32c && handshake[5] & 8 != 0;
        let mut outlet = LinkWriter { chain: Chain::new(&to.0, &to.1), write, sequence: -1, crc: CRC32, padding: link };
        let flags = if agreed { 0x800_u32 } else { 0 };
        let mut ours = [HANDSHAKE.to_le_bytes(), flags.to_le_bytes()].concat();
        ours.extend([9; 12]);
        ours.extend(&handshake[8..20]);
        outlet.send(vec![ours]).await?;
        if agreed {
            (inlet.crc, outlet.crc) = (CRC32C, CRC32C);
        }

        let (say, mut said) = mpsc::channel(64);
        log.links.lock().expect("no panic while logging")[link] = Some(say.clone());
        log.news.notify_waiters();
        let peer = Self { manners, log, link, say };
        let listening = async {
            while let Some(payload) = inlet.next(&mut read).await? {
                peer.take(&payload).await;
            }
            Ok(())
        };
        let speaking = async {
            while let Some(Say::Message(first)) = said.recv().await {
                let mut batch = vec![first];
                loop {
                    match said.try_recv() {
                        Ok(Say::Message(more)) if batch.len() < 20 => batch.push(more),
                        Ok(Say::Message(more)) => {
                            batch.push(more);
                            break;
                        }
                        Ok(Say::End) => return Ok(()),
                        Err(_) => break,
                    }
                }
                outlet.send(batch).await?;
            }
            Ok(())
        };
        tokio::select! {
            outcome = listening => outcome,
            outcome = speaking => outcome,
        }
    }

    async fn take(&self, payload: &[u8]) {
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("a word"));
        let id = u64::from_le_bytes(payload[4..12].try_into().expect("an id"));
        match word(0) {
            REQUEST => self.request(payload, word(4)).await,
            PING => self.say([&PONG.to_le_bytes()[..], &payload[4..12]].concat()).await,
            PONG => {
                *self.log.pongs.lock().expect("no panic while logging") += 1;
                self.log.news.notify_waiters();
            }
            CLOSE_CONN => {
                if let Some(heard) = self.log.heard.lock().expect("no panic while logging").get_mut(&id) {
                    heard.closed = true;
                }
                self.log.news.notify_waiters();
            }
            other => panic!("the proxy said {other:08x}"),
        }
    }

    async fn request(&self, payload: &[u8], flags: u32) {
        assert_eq!(flags & !0x8800_000a, 0x2002_1000, "flags {flags:08x}");
        let id: [u8; 8] = payload[8..16].try_into().expect("an id");
        let (client, ours) = (address(&payload[16..36]), address(&payload[36..56]));
        let (tag, packet) = if flags & 8 != 0 {
            assert_eq!(payload[56..65], [24, 0, 0, 0, 0xae, 0x26, 0x1e, 0xdb, 16]);
            assert_eq!(payload[81..84], [0; 3]);
            (Some(payload[65..81].to_vec()), &payload[84..])
        } else {
            (None, &payload[56..])
        };
        assert_eq!(flags & 2 != 0, packet[..8] == [0; 8], "the flag of packets in clear");
        let first = {
            let mut all = self.log.heard.lock().expect("no panic while logging");
            let heard = all.entry(u64::from_le_bytes(id)).or_insert(Heard {
                link: self.link,
                flags,
                client,
                ours,
                tag: tag.clone(),
                packets: 0,
                closed: false,
                hash: Sha256::new(),
            });
            assert_eq!((heard.link, heard.client, &heard.tag), (self.link, client, &tag), "one id, two clients");
            heard.packets += 1;
            heard.hash.update(packet);
            heard.packets == 1
        };
        self.log.news.notify_waiters();
        if flags & 0x8000_0000 != 0 {
            let token = (crc(CRC32, packet) | 1 << 31).to_le_bytes();
            self.say([&SIMPLE_ACK.to_le_bytes()[..], &id, &token].concat()).await;
        }
        if packet.starts_with(CLOSE) {
            self.say([&CLOSE_EXT.to_le_bytes()[..], &id].concat()).await;
        } else if first && packet.starts_with(POUR) {
            let ((count, size), say) = (self.manners.pour, self.say.clone());
            tokio::spawn(async move {
                for number in 0..count {
                    let message = answer(id, &poured(number, size));
                    if say.send(Say::Message(message)).await.is_err() {
                        break;
                    }
                }
            });
        } else {
            self.say(answer(id, packet)).await;
        }
    }

    async fn say(&self, message: Vec<u8>) {
        let _ = self.say.send(Say::Message(message)).await;
    }
}

/// The packets of a pour.
fn poured(number: usize, size: usize) -> Vec<u8> {
    let mut packet = vec![number as u8 | 1; size];
    packet[..4].copy_from_slice(&(number as u32 + 1).to_le_bytes());
    packet
}

fn answer(id: [u8; 8], packet: &[u8]) -> Vec<u8> {
    [&ANSWER.to_le_bytes()[..], &[0; 4], &id, packet].concat()
}

fn address(bytes: &[u8]) -> SocketAddr {
    let ip: [u8; 16] = bytes[..16].try_into().expect("16 bytes");
    let port = u32::from_le_bytes(bytes[16..20].try_into().expect("4 bytes"));
    let ip = match ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        ip => Ipv6Addr::from(ip).into(),
    };
    SocketAddr::new(ip, port.try_into().expect("a port"))
}

struct LinkReader {
    chain: Chain,
    bytes: Vec<u8>,
    plain: usize,
    sequence: i32,
    crc: u32,
}

impl LinkReader {
    /// `None` at the end, or where what comes cannot be decrypted.
    async fn next(&mut self, read: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            while self.plain >= 4 && self.bytes[..4] == [4, 0, 0, 0] {
                self.bytes.drain(..4);
                self.plain -= 4;
            }
            if self.plain >= 8 {
                let word = |at: usize| u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("a word"));
                let length = word(0) as usize;
                if length > 1 << 24 || word(4) as i32 != self.sequence {
                    return Ok(None);
                }
                if self.plain >= length {
                    let frame: Vec<u8> = self.bytes.drain(..length).collect();
                    self.plain -= length;
                    let payload = frame[8..length - 4].to_vec();
                    assert_eq!(frame, super::mock_middle::frame(self.sequence, &payload, self.crc), "the checksum");
                    self.sequence += 1;
                    return Ok(Some(payload));
                }
            }
            if read.read_buf(&mut self.bytes).await? == 0 {
                return Ok(None);
            }
            let whole = self.plain + (self.bytes.len() - self.plain) / 16 * 16;
            self.chain.decrypt(&mut self.bytes[self.plain..whole]);
            self.plain = whole;
        }
    }
}

struct LinkWriter {
    chain: Chain,
    write: OwnedWriteHalf,
    sequence: i32,
    crc: u32,
    /// Varies where padding stands.
    padding: usize,
}

impl LinkWriter {
    /// All of these in one flush, padded behind some of the frames or at the end only.
    async fn send(&mut self, payloads: Vec<Vec<u8>>) -> std::io::Result<()> {
        let mut out = Vec::new();
        for payload in payloads {
            out.extend(frame(self.sequence, &payload, self.crc));
            self.sequence += 1;
            self.padding += 1;
            if self.padding.is_multiple_of(3) {
                out.extend([4, 0, 0, 0]);
            }
        }
        while !out.len().is_multiple_of(16) {
            out.extend([4, 0, 0, 0]);
        }
        self.chain.encrypt(&mut out);
        self.write.write_all(&out).await
    }
}
