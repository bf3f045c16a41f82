//! A client of the proxy: enters as the audit's client does, then speaks obfuscated2 in records.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::dice::Dice;
use super::hello::{self, Key, RANDOM};
use super::obfuscated::{Frame, Frames, Header, PADDED, Stream, framed};

pub use vizard::audit::fake_tls::*;

/// What most clients put into one record, and what some put.
pub const USUAL_RECORD: usize = 2878;

/// With its length, what a record holds at least.
const LEAST_BODY: usize = 17 - 4;

/// How the record before the header is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ccs {
    /// In one write with the header, as real clients do.
    Together,
    /// In a write of its own.
    Apart,
    /// Not at all.
    None,
}

/// Everything about a login that a test may want otherwise.
#[derive(Clone)]
pub struct Login {
    pub key: Key,
    /// The signed hello as it is written, possibly in several records.
    pub wire: Vec<u8>,
    /// The random inside it.
    pub random: [u8; 32],
    pub dc: i16,
    pub ccs: Ccs,
    /// Payload bytes of the largest record that the client sends.
    pub record: usize,
    /// Bytes of each write of the hello; 0 for all at once.
    pub pieces: usize,
}

impl Login {
    /// A hello of the captured class `file`, new in everything that a real client draws again.
    pub fn of(captured: &hello::Captured, key: Key, dice: &mut Dice) -> Self {
        let mut record = captured.parts().fresh(dice).fresh_shares().record();
        hello::sign(&mut record, &key, hello::now());
        Self::with(record, key)
    }

    /// A login with this signed record.
    pub fn with(record: Vec<u8>, key: Key) -> Self {
        let random = record[RANDOM].try_into().expect("32 bytes");
        Self { key, wire: record, random, dc: 2, ccs: Ccs::Together, record: USUAL_RECORD, pieces: 0 }
    }

    pub fn dc(mut self, dc: i16) -> Self {
        self.dc = dc;
        self
    }

    /// Sends the hello and waits for a flight that the client accepts.
    pub async fn greet(&self, proxy: SocketAddr) -> Result<(TcpStream, Flight), Refused> {
        greet(proxy, &self.wire, self.pieces, &self.key, &self.random).await
    }

    /// Enters; the header leaves together with the first frame.
    pub async fn enter(&self, proxy: SocketAddr) -> Result<Session, Refused> {
        let (stream, flight) = self.greet(proxy).await?;
        Ok(self.session(stream, flight))
    }

    /// A session over a connection whose flight was accepted.
    pub fn session(&self, stream: TcpStream, flight: Flight) -> Session {
        let header = Header::make(Some(&self.key), PADDED, self.dc, &mut Dice::unseen());
        let (read, write) = stream.into_split();
        let up = Up { write, stream: header.up, start: Some((self.ccs, header.wire)), record: self.record };
        let down = Down {
            read,
            stream: header.down,
            wire: Vec::new(),
            frames: Frames::default(),
            sizes: Vec::new(),
            least: 17,
        };
        Session { up, down, flight }
    }
}

/// The record heads of ServerHello, CCS and one data record, once they are whole.
pub fn whole_flight(mut bytes: &[u8]) -> Option<Vec<(u8, usize)>> {
    let mut shape = Vec::new();
    for _ in 0..3 {
        let length = usize::from(u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]));
        shape.push((bytes[0], length));
        bytes = bytes.get(5 + length..)?;
    }
    Some(shape)
}

/// A client that has entered.
pub struct Session {
    pub up: Up,
    pub down: Down,
    pub flight: Flight,
}

impl Session {
    /// Sends one packet and expects the same back.
    pub async fn echo(&mut self, packet: &[u8]) -> Result<(), End> {
        self.up.packet(packet).await.map_err(|_| End::Reset)?;
        match self.down.frame().await? {
            Frame::Packet(back) if back.starts_with(packet) && back.len() == packet.len().max(LEAST_BODY) => Ok(()),
            other => panic!("sent {} bytes, got {other:?}", packet.len()),
        }
    }

    /// The bare connection, for tests that do not look at what comes.
    pub fn into_stream(self) -> TcpStream {
        self.up.write.reunite(self.down.read).expect("two halves of one stream")
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.into_stream().set_zero_linger().expect("a socket option");
    }
}

/// The sending half of a session.
pub struct Up {
    write: OwnedWriteHalf,
    stream: Stream,
    start: Option<(Ccs, [u8; 64])>,
    record: usize,
}

impl Up {
    /// Sends one packet in a padded frame, in as many records as it needs. A packet that is shorter than any of MTProto
    /// gets so much padding that its record is one of TLS 1.3.
    pub async fn packet(&mut self, packet: &[u8]) -> io::Result<()> {
        self.bytes(in_frame(packet)).await
    }

    /// What [`Up::packet`] would send, for a caller that sends it in pieces.
    pub fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        self.records(in_frame(packet))
    }

    /// Sends what is sealed already.
    pub async fn piece(&mut self, sealed: &[u8]) -> io::Result<()> {
        self.write.write_all(sealed).await
    }

    /// Sends bytes as they are, framed or not.
    pub async fn bytes(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let apart = matches!(self.start, Some((Ccs::Apart, _)));
        let wire = self.records(bytes);
        let (first, rest) = wire.split_at(if apart { CCS.len() } else { 0 });
        if apart {
            self.write.write_all(first).await?;
        }
        self.write.write_all(rest).await
    }

    fn records(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        self.stream.apply(&mut bytes);
        let mut wire = Vec::new();
        if let Some((ccs, header)) = self.start.take() {
            bytes.splice(..0, header);
            if ccs != Ccs::None {
                wire.extend(CCS);
            }
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // Behind records shorter than real clients' no record may be too short.
            let joined = self.record < USUAL_RECORD && rest.len() < self.record + 17;
            let (payload, later) = rest.split_at(if joined { rest.len() } else { rest.len().min(self.record) });
            wire.extend([23, 3, 3]);
            hello::push_counted(&mut wire, 2, payload);
            rest = later;
        }
        wire
    }

    /// Sends FIN.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }
}

fn in_frame(packet: &[u8]) -> Vec<u8> {
    let mut body = packet.to_vec();
    body.resize(packet.len().max(LEAST_BODY), 0xfd);
    framed(&body)
}

/// The receiving half of a session. It panics at a record that a real client or TLS 1.3 would not have.
pub struct Down {
    read: OwnedReadHalf,
    stream: Stream,
    wire: Vec<u8>,
    pub frames: Frames,
    /// Payload bytes of every record so far.
    pub sizes: Vec<usize>,
    /// The smallest record that is believed.
    pub least: usize,
}

impl Down {
    /// The next frame that is not a filler.
    pub async fn frame(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(frame);
            }
            self.record().await?;
        }
    }

    /// Everything until the other side ends: how it ended is the answer, the bytes are in `frames`.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.record().await {
                return end;
            }
        }
    }

    /// Takes one record into `frames`.
    pub async fn record(&mut self) -> Result<(), End> {
        let mut payload = loop {
            if let Some(payload) = self.split()? {
                break payload;
            }
            self.read_more().await?;
        };
        self.stream.apply(&mut payload);
        self.frames.push(&payload);
        Ok(())
    }

    /// Takes what can be read at once into `frames`; the payload bytes of its records.
    pub async fn piece(&mut self) -> Result<Vec<usize>, End> {
        let known = self.sizes.len();
        self.read_more().await?;
        while let Some(mut payload) = self.split()? {
            self.stream.apply(&mut payload);
            self.frames.push(&payload);
        }
        Ok(self.sizes[known..].to_vec())
    }

    async fn read_more(&mut self) -> Result<(), End> {
        self.wire.reserve(64 << 10);
        let end = match timeout(PATIENCE, self.read.read_buf(&mut self.wire)).await {
            Err(_) => End::Open,
            Ok(Ok(0)) => End::Fin,
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => End::Reset,
        };
        assert!(end != End::Fin || self.wire.is_empty(), "FIN inside a record: {} bytes of it", self.wire.len());
        Err(end)
    }

    fn split(&mut self) -> Result<Option<Vec<u8>>, End> {
        let Some(head) = self.wire.get(..5) else { return Ok(None) };
        assert_eq!(head[..3], [23, 3, 3], "a record that is no application data");
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        assert!((self.least..=16401).contains(&length), "a record of {length} bytes is not possible in TLS 1.3");
        if self.wire.len() < 5 + length {
            return Ok(None);
        }
        self.sizes.push(length);
        let rest = self.wire.split_off(5 + length);
        let mut record = std::mem::replace(&mut self.wire, rest);
        record.drain(..5);
        Ok(Some(record))
    }
}
