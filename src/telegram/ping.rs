//! The smallest question that a data centre answers: the first step of a key exchange, which needs no key.
//!
//! ```text
//! 0          8          16       20      24
//! ├ 0 ───────┼ message ─┼ length ┼ type ─┼ nonce ─┤ …       in clear, but under obfuscated2 like everything
//! ```
//!
//! The answer repeats the nonce, which shows that it is one, and carries the time in the number of its message. It does
//! not prove who answers: that takes a key exchange to the end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DcId;
use crate::auth::{Secret, UnixTime};
use crate::crypto::kdf::KeyIv;
use crate::net::{dial, sockopt};
use crate::wire::DecodeError;
use crate::wire::obfuscated;
use crate::wire::packets::{Framing, Packet};

const REQ_PQ_MULTI: u32 = 0xbe7e_8ef1;
const RES_PQ: u32 = 0x0516_2463;

/// Most bytes of an answer that are looked at; a real one has about a hundred.
const LONGEST: usize = 4096;

/// A question with its own nonce.
#[derive(Clone, Debug)]
pub struct Question {
    nonce: [u8; 16],
}

/// Reply of the other side that is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// A transport error, such as -404.
    Refused(i32),
    /// Something that is no answer to the question.
    Other,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "it answers with the error {code}"),
            Self::Other => f.write_str("what answers is no data centre"),
        }
    }
}

impl Question {
    /// A question with this nonce.
    pub fn new(nonce: [u8; 16]) -> Self {
        Self { nonce }
    }

    /// The question in a padded frame.
    pub fn frame(&self, now: UnixTime) -> Vec<u8> {
        let mut packet = vec![0; 8];
        packet.extend((now.0 << 32).to_le_bytes());
        packet.extend(20_u32.to_le_bytes());
        packet.extend(REQ_PQ_MULTI.to_le_bytes());
        packet.extend(self.nonce);
        let mut frame = Vec::new();
        if let Some(packet) = Packet::new(&packet) {
            Framing::Padded.encode(packet, [0; 4], &mut frame);
        }
        frame
    }

    /// Looks for the answer in what has come so far, decrypted: the time of the data centre, or `None` if there is none
    /// yet. NOP frames are skipped.
    pub fn answer(&self, mut plain: &[u8]) -> Result<Option<UnixTime>, Odd> {
        loop {
            let (frame, end) = match Framing::Padded.decode(plain) {
                Ok(whole) => whole,
                Err(DecodeError::Incomplete) if plain.len() <= LONGEST => return Ok(None),
                Err(_) => return Err(Odd::Other),
            };
            match frame.packet {
                [0, 0, 0, 0] | [0, 0, 0, 0, _, _, _, _] => {}
                [a, b, c, d] => return Err(Odd::Refused(i32::from_le_bytes([*a, *b, *c, *d]))),
                packet => return self.examine(packet).map(Some),
            }
            plain = &plain[end..];
        }
    }

    fn examine(&self, packet: &[u8]) -> Result<UnixTime, Odd> {
        let word = |at: usize| packet.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied());
        let genuine = packet.starts_with(&[0; 8])
            && word(20) == Some(RES_PQ.to_le_bytes())
            && packet.get(24..40) == Some(&self.nonce[..]);
        let seconds = word(12).filter(|_| genuine).ok_or(Odd::Other)?;
        Ok(UnixTime(u32::from_le_bytes(seconds).into()))
    }
}

/// An answered question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Time that the TCP connection took.
    pub connect: Duration,
    /// Time that the answer took after it.
    pub answer: Duration,
    /// The data centre's clock.
    pub time: UnixTime,
}

/// Reason why there is no answer.
#[derive(Debug)]
pub enum PingError {
    /// No connection.
    Unreachable(io::Error),
    /// The connection ended first.
    Ended,
    /// Not the answer.
    Odd(Odd),
}

impl std::error::Error for PingError {}

impl fmt::Display for PingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "no connection: {error}"),
            Self::Ended => f.write_str("it ends the connection without an answer"),
            Self::Odd(odd) => odd.fmt(f),
        }
    }
}

/// Asks the data centre at the first of these addresses that accepts a connection. `random` is fit for keys. The caller
/// limits the time; only the connection has a limit here.
pub async fn ping(
    addresses: &[SocketAddr],
    patience: Duration,
    dc: DcId,
    random: &mut impl rand::CryptoRng,
) -> Result<Answer, PingError> {
    let start = std::time::Instant::now();
    let mut stream = dial::dial(addresses, patience).await.map_err(PingError::Unreachable)?;
    sockopt::no_delay(&stream);
    let connect = start.elapsed();
    let time = ask(&mut stream, None, dc, random).await?;
    Ok(Answer { connect, answer: start.elapsed() - connect, time })
}

/// Asks over a connection on which nothing has been said; at its other end is a data centre, or a proxy with this secret
/// that leads to one. The caller limits the time.
pub async fn ask(
    stream: &mut TcpStream,
    proxy: Option<&Secret>,
    dc: DcId,
    random: &mut impl rand::CryptoRng,
) -> Result<UnixTime, PingError> {
    let question = Question::new(array(random));
    let (header, mut up, down) = match proxy {
        None => {
            let down = KeyIv { key: array(random), iv: array(random) };
            let (header, up) = obfuscated::seal_for_dc(dc.number(), Framing::Padded, &down, || array(random));
            (header, up, down)
        }
        Some(secret) => obfuscated::seal_for_proxy(dc.number(), Framing::Padded, secret.bytes(), || array(random)),
    };
    let mut frame = question.frame(SystemTime::now().into());
    up.apply(&mut frame);
    stream.write_all(&[&header[..], &frame].concat()).await.map_err(|_| PingError::Ended)?;
    read_answer(stream, &question, &down).await
}

fn array<const N: usize>(random: &mut impl rand::CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill_bytes(&mut bytes);
    bytes
}

async fn read_answer(stream: &mut TcpStream, question: &Question, keys: &KeyIv) -> Result<UnixTime, PingError> {
    let (mut down, mut plain) = (keys.stream(), Vec::new());
    loop {
        let before = plain.len();
        match stream.read_buf(&mut plain).await {
            Ok(1..) => down.apply(&mut plain[before..]),
            Ok(0) | Err(_) => return Err(PingError::Ended),
        }
        if let Some(time) = question.answer(&plain).map_err(PingError::Odd)? {
            return Ok(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::vector;
    use crate::wire::packets::ClientPacket;

    fn question() -> Question {
        Question::new(vector("req_pq", "packet")[24..].try_into().unwrap())
    }

    #[test]
    fn the_question_is_the_one_of_the_vectors() {
        let frame = question().frame(UnixTime(1_767_225_600));
        let (frame, _) = Framing::Padded.decode(&frame).unwrap();
        let packet = vector("req_pq", "packet");
        assert_eq!((&frame.packet[..8], &frame.packet[16..]), (&packet[..8], &packet[16..]));
        assert_eq!(frame.packet[8..16], (1_767_225_600_u64 << 32).to_le_bytes());
        assert!(ClientPacket::examine(frame.packet).is_ok());
    }

    #[test]
    fn the_answer_is_known_by_its_nonce() {
        let answer = vector("O3_dd_padded", "dn_plain");
        for length in 0..answer.len() {
            assert_eq!(question().answer(&answer[..length]), Ok(None), "{length}");
        }
        assert_eq!(
            question().answer(&answer),
            Ok(Some(UnixTime(i64::from(u32::from_le_bytes(answer[16..20].try_into().unwrap())))))
        );
        let nop = [&[4, 0, 0, 0, 0, 0, 0, 0][..], &answer].concat();
        assert!(matches!(question().answer(&nop), Ok(Some(_))));
        assert_eq!(Question::new([1; 16]).answer(&answer), Err(Odd::Other));
        assert_eq!(question().answer(&[4, 0, 0, 0, 0x6c, 0xfe, 0xff, 0xff]), Err(Odd::Refused(-404)));
        assert_eq!(question().answer(b"HTTP/1.1 400 Bad Request"), Err(Odd::Other));
    }
}
