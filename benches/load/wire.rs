//! What travels: frames, under a cipher or not, in records or not. Nothing is buffered beyond a few bytes of a head, so
//! that ten thousand idle links cost the load tool hardly anything.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use vizard::audit::hello::Key;
use vizard::audit::obfuscated::{Header, Stream};

/// A transfer that makes no progress for this long has failed.
pub const STALL: Duration = Duration::from_secs(30);

/// Bytes of one read of the load tool.
const BUFFER: usize = 256 << 10;

/// The longest record that is believed.
const LONGEST_RECORD: usize = 16_640;

/// Frames shorter than this are fillers, which every client has to ignore; the load tool sends none.
pub const SHORTEST: usize = 16;

/// A part of a frame, as much of it as arrived in one go.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Length of the whole frame.
    pub length: usize,
    /// Where in it these bytes lie.
    pub at: usize,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl Piece<'_> {
    /// Whether the frame ends here.
    pub fn is_last(&self) -> bool {
        self.at + self.bytes.len() == self.length
    }
}

/// What comes before the first frame.
#[derive(Debug)]
pub enum Opening {
    /// Nothing.
    None,
    /// An obfuscated2 header, under this secret or under none.
    Header(Option<Key>),
    /// A record, whatever is in it.
    Record,
}

/// The receiving half of a link.
pub struct Inbound {
    opening: Opening,
    record: Option<RecordState>,
    cipher: Option<Stream>,
    head: Vec<u8>,
    length: usize,
    at: usize,
    answer: Option<Stream>,
    opened: bool,
}

#[derive(Default)]
struct RecordState {
    head: [u8; 5],
    got: usize,
    left: usize,
}

impl Inbound {
    /// Frames, in records or bare, behind this opening; `cipher` is for what has no header.
    pub fn new(opening: Opening, in_records: bool, cipher: Option<Stream>) -> Self {
        let record = in_records.then(RecordState::default);
        Self { opening, record, cipher, head: Vec::new(), length: 0, at: 0, answer: None, opened: false }
    }

    /// Whether the opening has come since the last call, with the cipher of the way back.
    pub fn take_opened(&mut self) -> Option<Option<Stream>> {
        std::mem::take(&mut self.opened).then(|| self.answer.take())
    }

    /// Takes bytes as they came; they are decrypted in place.
    pub fn feed(&mut self, bytes: &mut [u8], take: &mut impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
        let Some(mut record) = self.record.take() else { return self.payload(bytes, take) };
        let mut rest = bytes;
        while !rest.is_empty() {
            if record.left == 0 {
                record.head[record.got] = rest[0];
                record.got += 1;
                rest = &mut rest[1..];
                if record.got == record.head.len() {
                    record.got = 0;
                    record.left = usize::from(u16::from_be_bytes([record.head[3], record.head[4]]));
                    let sound =
                        matches!(record.head[..3], [20 | 23, 3, 3]) && (1..=LONGEST_RECORD).contains(&record.left);
                    check(sound, || format!("no record begins with {:02x?}", record.head))?;
                }
                continue;
            }
            let (now, later) = rest.split_at_mut(record.left.min(rest.len()));
            record.left -= now.len();
            if record.head[0] == 23 {
                self.payload(now, take)?;
            }
            rest = later;
        }
        self.record = Some(record);
        Ok(())
    }

    fn payload(&mut self, mut bytes: &mut [u8], take: &mut impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() && !matches!(self.opening, Opening::None) {
            self.head.push(bytes[0]);
            bytes = &mut bytes[1..];
            self.open();
        }
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(bytes);
        }
        let mut rest = &*bytes;
        while !rest.is_empty() {
            if self.at == self.length {
                self.head.push(rest[0]);
                rest = &rest[1..];
                if let Ok(head) = self.head[..].try_into() {
                    self.length = u32::from_le_bytes(head) as usize;
                    self.at = 0;
                    self.head.clear();
                    check((1..1 << 24).contains(&self.length), || format!("no frame is {} bytes long", self.length))?;
                }
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(self.length - self.at));
            if self.length >= SHORTEST {
                take(Piece { length: self.length, at: self.at, bytes: now })?;
            }
            self.at += now.len();
            rest = later;
        }
        Ok(())
    }

    fn open(&mut self) {
        match &self.opening {
            Opening::Header(key) => {
                let Ok(wire) = self.head[..].try_into() else { return };
                let header = Header::open(wire, key.as_ref());
                (self.cipher, self.answer) = (Some(header.up), Some(header.down));
            }
            Opening::Record if self.head.len() < 5 || self.head.len() < 5 + record_length(&self.head) => return,
            Opening::Record | Opening::None => {}
        }
        self.head = Vec::new();
        (self.opening, self.opened) = (Opening::None, true);
    }
}

fn record_length(head: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([head[3], head[4]]))
}

/// The sending half of a link.
#[derive(Default)]
pub struct Outbound {
    /// What goes out ahead of the first frame and outside of the cipher, and what in the first record.
    pub ahead: (Vec<u8>, Vec<u8>),
    /// The cipher, if there is one.
    pub cipher: Option<Stream>,
    /// Payload bytes of the longest record, if there are records.
    pub record: Option<usize>,
}

impl Outbound {
    /// A frame around `body` as it travels.
    pub fn seal(&mut self, body: impl FnOnce(&mut [u8]), length: usize) -> Vec<u8> {
        let (mut wire, mut payload) = std::mem::take(&mut self.ahead);
        let plain = payload.len();
        payload.extend((length as u32).to_le_bytes());
        payload.resize(plain + 4 + length, 0);
        body(&mut payload[plain + 4..]);
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(&mut payload[plain..]);
        }
        let Some(most) = self.record else {
            wire.append(&mut payload);
            return wire;
        };
        wire.reserve(payload.len() + payload.len() / most * 5 + 5);
        for piece in payload.chunks(most) {
            wire.extend([23, 3, 3]);
            wire.extend((piece.len() as u16).to_be_bytes());
            wire.extend(piece);
        }
        wire
    }
}

/// Waits for bytes and takes them; gives their number, 0 at the end.
pub async fn receive(
    stream: &TcpStream,
    inbound: &mut Inbound,
    take: &mut impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<usize> {
    thread_local! {
        static BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
    }
    loop {
        stream.readable().await?;
        let step = BYTES.with_borrow_mut(|bytes| match stream.try_read(bytes) {
            Ok(count) => inbound.feed(&mut bytes[..count], take).map(|()| Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        })?;
        if let Some(count) = step {
            return Ok(count);
        }
    }
}

/// Writes all of it, or fails when the other side takes nothing for too long.
pub async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => in_time("writing", stream.writable()).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fails what makes no progress.
pub async fn in_time<T>(what: &str, doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(STALL, doing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(broken(format!("{what} stalled for {STALL:?}"))),
    }
}

/// An error in words.
pub fn broken(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Fails with this text unless it holds.
pub fn check(holds: bool, text: impl FnOnce() -> String) -> io::Result<()> {
    if holds { Ok(()) } else { Err(broken(text())) }
}
