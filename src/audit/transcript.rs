//! What a prober saw, with only that masked which is random by nature.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::fake_tls::End;

/// One thing the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A TLS record.
    Record {
        /// Type of the record.
        kind: u8,
        /// Version in its head.
        version: [u8; 2],
        /// Length of its content.
        length: usize,
        /// Its content with the random parts named instead of shown; empty where it is encrypted.
        body: String,
    },
    /// Bytes that are no TLS record.
    Text(String),
    /// The end of the reply lies inside this record: its head, and how many bytes came behind that.
    Torn(Vec<u8>, usize),
}

/// Reaction to one byte written after the server's FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// None was written.
    NotTried,
    /// RST.
    Reset,
    /// Nothing.
    Quiet,
}

/// All that one run of a probe saw.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Reply of the server, in pieces.
    pub pieces: Vec<Piece>,
    /// End of the connection.
    pub end: End,
    /// From the prober's last act to the end.
    pub took: Duration,
    /// Reaction to a byte written after the end.
    pub after: After,
}

impl Transcript {
    /// `flight` is how many bytes of the reply make the first flight; `join` merges its encrypted records.
    pub fn new(reply: &[u8], hello: Option<&[u8]>, join: Option<usize>) -> Self {
        let mut pieces = pieces(reply, hello);
        if let Some(flight) = join {
            join_flight(&mut pieces, flight);
        }
        Self { pieces, end: End::Open, took: Duration::ZERO, after: After::NotTried }
    }

    /// Describes the server's reply in one line.
    pub fn said(&self) -> String {
        self.pieces.iter().map(Piece::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Of a target that took no connection.
    pub fn unreachable() -> Self {
        Self { end: End::Unreachable, ..Self::new(&[], None, None) }
    }

    /// Whether two runs looked alike: an end may come 0.3 s or one per cent apart, and a signature may be a few bytes
    /// longer.
    pub fn same(&self, other: &Self) -> bool {
        let ends = self.end != End::Open && other.end != End::Open;
        let slack = Duration::from_millis(300).max(self.took.max(other.took) / 100);
        let said = self.pieces.len() == other.pieces.len()
            && self.pieces.iter().zip(&other.pieces).all(|(piece, other)| piece.alike(other));
        (said && (self.end, self.after) == (other.end, other.after))
            && (!ends || self.took.abs_diff(other.took) <= slack)
    }
}

/// By how many bytes two records with a signature may differ in length: those of ECDSA vary by as many, from one to the
/// next under the same key. That they vary alike everywhere is for the passive statistics to say.
const SIGNATURE: usize = 4;

/// Shortest encrypted record that can hold a CertificateVerify with such a signature.
const SIGNED: usize = 80;

impl Piece {
    /// Whether they are the same but for the length of a signature.
    fn alike(&self, other: &Self) -> bool {
        let (Self::Record { kind, version, length, body }, Self::Record { length: another, .. }) = (self, other) else {
            return self == other;
        };
        let signed = match kind {
            23 => *length.min(another) >= SIGNED,
            _ => body.contains(KEY_EXCHANGE),
        };
        let length = if signed && length.abs_diff(*another) <= SIGNATURE { *another } else { *length };
        Self::Record { kind: *kind, version: *version, length, body: body.clone() } == *other
    }
}

const KEY_EXCHANGE: &str = "KeyExchange";

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Record { kind, version: [major, minor], length, body } => {
                write!(f, "[{kind} {major}.{minor} {length}")?;
                let shown = if body.is_empty() { String::new() } else { format!(" {body:.400}") };
                write!(f, "{shown}]")
            }
            Piece::Text(text) => write!(f, "{text:?}"),
            Piece::Torn(head, rest) => write!(f, "[{}… torn after {rest}]", HEXLOWER.encode(head)),
        }
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.pieces {
            write!(f, "{piece} ")?;
        }
        write!(f, "{:?} after {:.2} s, then {:?}", self.end, self.took.as_secs_f64(), self.after)
    }
}

fn pieces(mut reply: &[u8], hello: Option<&[u8]>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !reply.is_empty() {
        if !looks_like_record(reply) {
            pieces.push(Piece::Text(text(reply)));
            break;
        }
        let length = reply.get(3..5).map_or(usize::MAX - 5, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        if reply.len() < 5 + length {
            let head = reply.len().min(5);
            pieces.push(Piece::Torn(reply[..head].to_vec(), reply.len() - head));
            break;
        }
        let (record, rest) = reply.split_at(5 + length);
        let body = match record[0] {
            22 => handshake(&record[5..], hello),
            21 if length != 2 => String::new(),
            20 | 21 => HEXLOWER.encode(&record[5..]),
            _ => String::new(),
        };
        pieces.push(Piece::Record { kind: record[0], version: [record[1], record[2]], length, body });
        reply = rest;
    }
    pieces
}

fn looks_like_record(bytes: &[u8]) -> bool {
    (20..=24).contains(&bytes[0]) && bytes.get(1).is_none_or(|major| *major == 3)
}

/// Text as it is but for the date; other bytes in hex.
fn text(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return HEXLOWER.encode(bytes) };
    let line = |line: &str| match line.to_ascii_lowercase().starts_with("date:") {
        true => "Date: …\r\n".to_owned(),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Merges the encrypted records of the first flight into one of the summed length.
fn join_flight(pieces: &mut Vec<Piece>, flight: usize) {
    let mut joined: Vec<Piece> = Vec::new();
    let mut seen = 0;
    for piece in pieces.drain(..) {
        if let Piece::Record { kind, length, .. } = &piece {
            seen += 5 + length;
            if let (23, Some(Piece::Record { kind: 23, length: sum, .. })) = (*kind, joined.last_mut())
                && seen <= flight
            {
                *sum += length;
                continue;
            }
        }
        joined.push(piece);
    }
    *pieces = joined;
}

/// The handshake messages of one record, or its length alone where it is encrypted.
fn handshake(mut body: &[u8], hello: Option<&[u8]>) -> String {
    let mut out = Vec::new();
    while let Some(head) = body.get(..4) {
        let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
        let Some(content) = body.get(4..4 + length) else { return "encrypted".to_owned() };
        out.push(message(head[0], content, hello));
        body = &body[4 + length..];
    }
    if body.is_empty() { out.join(" + ") } else { "encrypted".to_owned() }
}

fn message(kind: u8, content: &[u8], hello: Option<&[u8]>) -> String {
    match kind {
        2 => server_hello(content, hello).unwrap_or_else(|| format!("odd ServerHello {}", HEXLOWER.encode(content))),
        // Curve and length of the point; then the algorithm of the signature.
        12 if content.len() > 4 => {
            let signature = content.get(4 + usize::from(content[3])..).and_then(|rest| rest.get(..2));
            format!(
                "{KEY_EXCHANGE} {} {}",
                HEXLOWER.encode(&content[..4]),
                HEXLOWER.encode(signature.unwrap_or_default())
            )
        }
        4 => format!("Ticket of {}", content.len()),
        0 | 14 => format!("{kind}:{}", HEXLOWER.encode(content)),
        _ => format!("{kind}:{} bytes {}", content.len(), HEXLOWER.encode(&Sha256::digest(content)[..8])),
    }
}

fn server_hello(content: &[u8], hello: Option<&[u8]>) -> Option<String> {
    let length = usize::from(*content.get(34)?);
    let session = content.get(35..35 + length)?;
    let sent = hello.and_then(|hello| hello.get(44..44 + usize::from(*hello.get(43)?)));
    let session = match session {
        [] => "none".to_owned(),
        echo if Some(echo) == sent => "echo".to_owned(),
        other => format!("{} bytes of its own", other.len()),
    };
    let rest = content.get(35 + length..)?;
    let (suite, mut list) = (HEXLOWER.encode(rest.get(..3)?), rest.get(5..).unwrap_or_default());
    let mut extensions = Vec::new();
    while let Some(head) = list.get(..4) {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let body = list.get(4..4 + length)?;
        // A share is its group and length; without a share it is the group that a retry asks for.
        let shown = if head[..2] == [0, 51] { &body[..body.len().min(4)] } else { body };
        extensions.push(format!("{}:{length}:{}", HEXLOWER.encode(&head[..2]), HEXLOWER.encode(shown)));
        list = &list[4 + length..];
    }
    let version = HEXLOWER.encode(&content[..2]);
    let random = random(&content[2..34]);
    let extensions = extensions.join(",");
    Some(format!("ServerHello {version} random {random} session {session} suite {suite} extensions {extensions}"))
}

fn random(random: &[u8]) -> &'static str {
    // SHA-256 of "HelloRetryRequest" is what a retry carries in place of a random.
    if Sha256::digest("HelloRetryRequest")[..] == *random {
        return "retry";
    }
    match &random[24..] {
        b"DOWNGRD\x01" => "downgraded to 1.2",
        b"DOWNGRD\x00" => "downgraded to 1.1",
        _ => "any",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saw(kind: u8, lengths: &[usize], body: &str) -> Transcript {
        let record = |length: &usize| Piece::Record { kind, version: [3, 3], length: *length, body: body.to_owned() };
        Transcript { pieces: lengths.iter().map(record).collect(), ..Transcript::unreachable() }
    }

    #[test]
    fn a_signature_may_be_longer_and_nothing_else() {
        for (kind, one, other, body, same) in [
            (23, &[583][..], &[585][..], "", true),
            (23, &[30, 900, 95], &[30, 900, 97], "", true),
            (23, &[583], &[588], "", false),
            (23, &[583], &[583, 583], "", false),
            (23, &[19], &[20], "", false),
            (21, &[583], &[585], "", false),
            (22, &[115], &[116], "KeyExchange 03001d20 0403", true),
            (22, &[115], &[116], "11:111 bytes", false),
        ] {
            let (one, other) = (saw(kind, one, body), saw(kind, other, body));
            assert_eq!((one.same(&other), other.same(&one)), (same, same), "{one} {other}");
        }
        assert!(!saw(22, &[115], "KeyExchange a").same(&saw(22, &[115], "KeyExchange b")));
    }
}
