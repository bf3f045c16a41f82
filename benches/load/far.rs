//! The far end: a mock data centre, or what stands in its place behind a bare relay or as the site behind a proxy.
//!
//! It does what the first frame of a transfer asks for: sends so many bytes, or takes and checks so many. Every other
//! frame is sent back as it came.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use vizard::audit::hello::Key;

use super::pattern::Pattern;
use super::wire::{Inbound, Opening, Outbound, Piece, broken, check, receive, send};

/// What a far end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// Obfuscated2, as a data centre does.
    Dc,
    /// What a client of a proxy says behind its greeting: for relays that understand nothing.
    Mirror(Key),
    /// Bare frames behind one record: the site's side of a visit.
    Visit,
}

/// Payload of the longest record that a mirror sends.
const MIRROR_RECORD: usize = 16_401;

/// Bytes of one frame of a transfer, as in a download.
pub const FRAME: usize = 128 << 10;

/// Frames up to this are sent back.
const ECHO: usize = 64 << 10;

/// Asks for a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whether the far end is to send, and not to take.
    pub down: bool,
    /// The pattern.
    pub seed: u64,
    /// Bytes of payload.
    pub count: u64,
}

impl Command {
    /// Length of its frame.
    pub const LENGTH: usize = 32;
    const MARK: &[u8] = b"a load command ";

    /// As it stands in its frame.
    pub fn encode(self) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        out[..15].copy_from_slice(Self::MARK);
        out[15] = self.down.into();
        out[16..24].copy_from_slice(&self.seed.to_le_bytes());
        out[24..].copy_from_slice(&self.count.to_le_bytes());
        out
    }

    fn decode(frame: &[u8]) -> Option<Self> {
        let number = |at: usize| frame.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let rest = frame.strip_prefix(Self::MARK)?;
        (frame.len() == Self::LENGTH).then_some(Self { down: rest[0] == 1, seed: number(16)?, count: number(24)? })
    }
}

/// The frame that says that everything arrived, and the one that greets a visitor.
pub fn receipt(count: u64) -> [u8; 24] {
    let mut out = *b"all of it came: ########";
    out[16..].copy_from_slice(&count.to_le_bytes());
    out
}

/// A far end that accepts connections; it ends with this value.
pub struct FarEnd {
    /// Where it listens.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl FarEnd {
    /// Listens on `at`.
    pub fn start(at: SocketAddr, tongue: Tongue) -> io::Result<Self> {
        let listener = listen(at)?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            loop {
                // What hinders accepting shows as a connection that stalls.
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    let outcome = Conversation::new(tongue).run(stream).await;
                    // The proxy looks at its site, too, and says other things there than a client of ours, whose own
                    // connection ends where its bytes were wrong.
                    if let Err(error) = outcome
                        && tongue != Tongue::Visit
                    {
                        complain(&error);
                    }
                });
            }
        });
        Ok(Self { addr, task })
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener with a queue that a burst of clients fits in.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(4096)
}

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Only what is wrong with the bytes: connections may end as they like.
fn complain(error: &io::Error) {
    if error.kind() == io::ErrorKind::Other
        && let Ok(mut complaints) = COMPLAINTS.lock()
    {
        complaints.push(error.to_string());
    }
}

/// What far ends have found wrong since the last call.
pub fn complaints() -> Vec<String> {
    COMPLAINTS.lock().map(|mut complaints| std::mem::take(&mut *complaints)).unwrap_or_default()
}

struct Conversation {
    inbound: Inbound,
    outbound: Outbound,
    state: State,
}

enum State {
    /// Collects a frame that may be a command.
    Frame(Vec<u8>),
    /// Takes a transfer.
    Taking { pattern: Pattern, count: u64, left: u64 },
}

enum Act {
    Reply(Vec<u8>),
    Pour(Command),
}

impl Conversation {
    fn new(tongue: Tongue) -> Self {
        let inbound = match tongue {
            Tongue::Dc => Inbound::new(Opening::Header(None), false, None),
            Tongue::Mirror(key) => Inbound::new(Opening::Header(Some(key)), true, None),
            Tongue::Visit => Inbound::new(Opening::Record, false, None),
        };
        let record = matches!(tongue, Tongue::Mirror(_)).then_some(MIRROR_RECORD);
        let outbound = Outbound { record, ..Outbound::default() };
        Self { inbound, outbound, state: State::Frame(Vec::new()) }
    }

    async fn run(mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut acts = Vec::new();
        loop {
            let state = &mut self.state;
            let count = receive(&stream, &mut self.inbound, &mut |piece| state.take(piece, &mut acts)).await?;
            if count == 0 {
                return Ok(());
            }
            if let Some(cipher) = self.inbound.take_opened() {
                // A visit has no cipher, and its client waits to be greeted.
                if cipher.is_none() {
                    acts.insert(0, Act::Reply(receipt(0).to_vec()));
                }
                self.outbound.cipher = cipher;
            }
            for act in acts.drain(..) {
                match act {
                    Act::Reply(body) => {
                        let wire = self.outbound.seal(|out| out.copy_from_slice(&body), body.len());
                        send_patiently(&stream, &wire).await?;
                    }
                    Act::Pour(command) => pour(&stream, &mut self.outbound, command).await?,
                }
            }
        }
    }
}

impl State {
    fn take(&mut self, piece: Piece<'_>, acts: &mut Vec<Act>) -> io::Result<()> {
        match self {
            Self::Frame(frame) => {
                check(piece.length <= ECHO, || format!("a frame of {} bytes out of nowhere", piece.length))?;
                frame.extend_from_slice(piece.bytes);
                if !piece.is_last() {
                    return Ok(());
                }
                match (Command::decode(frame), std::mem::take(frame)) {
                    (None, frame) => acts.push(Act::Reply(frame)),
                    (Some(command), _) if command.down => acts.push(Act::Pour(command)),
                    (Some(Command { seed, count, .. }), _) => {
                        *self = Self::Taking { pattern: Pattern::new(seed), count, left: count };
                    }
                }
            }
            Self::Taking { pattern, count, left } => {
                let Some(rest) = left.checked_sub(piece.bytes.len() as u64) else {
                    return Err(broken("more came than was promised"));
                };
                *left = rest;
                check(pattern.holds(piece.bytes), || format!("wrong bytes, {left} before the end of {count}"))?;
                if *left == 0 {
                    acts.push(Act::Reply(receipt(*count).to_vec()));
                    *self = Self::Frame(Vec::new());
                }
            }
        }
        Ok(())
    }
}

/// Sends the payload that a command asks for.
async fn pour(stream: &TcpStream, outbound: &mut Outbound, command: Command) -> io::Result<()> {
    let mut pattern = Pattern::new(command.seed);
    for length in frames(command.count) {
        let wire = outbound.seal(|body| pattern.fill(body), length);
        send_patiently(stream, &wire).await?;
    }
    Ok(())
}

/// The far end leaves it to its client to complain about time: some are stuck on purpose.
async fn send_patiently(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lengths of the frames that `count` bytes travel in; none is so short that it would count as a filler.
pub fn frames(count: u64) -> impl Iterator<Item = usize> {
    let mut left = count;
    std::iter::from_fn(move || {
        let length = match left {
            0 => return None,
            1..=0x2_0010 => left as usize,
            _ => FRAME,
        };
        left -= length as u64;
        Some(length)
    })
}

/// Sends a transfer that its command has announced.
pub async fn send_all(stream: &TcpStream, outbound: &mut Outbound, seed: u64, count: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    for length in frames(count) {
        let wire = outbound.seal(|body| pattern.fill(body), length);
        send(stream, &wire).await?;
    }
    Ok(())
}
