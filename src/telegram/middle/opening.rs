//! How a link is opened, without its socket: two messages each way, the first of them in clear.
//!
//! ```text
//! Opening::new ─▶ nonce ─────────▶
//!                       ◀───────── nonce ─▶ Opening::answered ─▶ Opened: keys
//!                 handshake ─────▶
//!                       ◀───────── handshake ─▶ Opened::agree ─▶ LinkReader, LinkWriter
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::auth::UnixTime;
use crate::crypto::middle_kdf::{Ends, Exchange, MiddleSecret};
use crate::crypto::{CbcDecrypt, CbcEncrypt};
use crate::wire::DecodeError;
use crate::wire::rpc::{FrameReader, FrameWriter, Handshake, Message, Nonce, ProcessId, Unacceptable, pad_to_block};

/// Length of the frame that either side begins with.
pub const NONCE_FRAME: usize = 44;

/// Reason why a link could not be opened, or was lost while it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The bytes that came are none of the protocol's messages.
    Malformed(DecodeError),
    /// Another message came than the one that was due.
    OutOfOrder,
    /// The message does not go with what was sent.
    Unacceptable(Unacceptable),
    /// The middle proxy says so itself, with this number.
    Error(i32),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // With wrong keys nothing decrypts to anything.
            Self::Malformed(DecodeError::Malformed("frame length" | "sequence number" | "checksum")) => f.write_str(
                "what it sends cannot be decrypted: it sees another address of this machine than is assumed, or has \
                 another secret",
            ),
            Self::Malformed(error) => write!(f, "what it sends is no link of middle proxies: {error}"),
            Self::OutOfOrder => f.write_str("what it sends is out of order"),
            Self::Unacceptable(Unacceptable::Secret) => f.write_str("it has another secret: ours is out of date"),
            Self::Unacceptable(Unacceptable::Clock(ahead)) => {
                write!(f, "its clock is {ahead} seconds ahead of ours, and 30 either way is the most")
            }
            Self::Unacceptable(Unacceptable::Peer) => f.write_str("it answers another connection"),
            Self::Unacceptable(Unacceptable::Checksum) => f.write_str("it insists on an unrequested checksum"),
            Self::Error(code) => write!(f, "it refuses the handshake with the error {code}"),
        }
    }
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A nonce was made; theirs is due.
#[derive(Debug)]
pub struct Opening<'s> {
    secret: &'s MiddleSecret,
    nonce: Nonce,
    frames: FrameWriter,
}

impl<'s> Opening<'s> {
    /// Begins a link under this secret, and gives what is to be sent. `nonce` is random.
    pub fn new(secret: &'s MiddleSecret, now: UnixTime, nonce: [u8; 16]) -> (Self, Vec<u8>) {
        // The protocol has 32 bits for the time.
        let nonce = Nonce { selector: secret.selector(), time: now.0 as u32, nonce };
        let (mut frames, mut hello) = (FrameWriter::default(), Vec::new());
        frames.write(&Message::Nonce(nonce), &mut hello);
        (Self { secret, nonce, frames }, hello)
    }

    /// Takes their first frame, and gives what is to be sent next. `ours` and `theirs` are the addresses of the link as
    /// the middle proxy sees them; `start` is when this process was started.
    pub fn answered(
        self,
        frame: &[u8; NONCE_FRAME],
        (ours, theirs): (SocketAddr, SocketAddr),
        start: UnixTime,
    ) -> Result<(Opened, Vec<u8>), Refused> {
        let (mut reader, mut rest) = (FrameReader::default(), &frame[..]);
        let Some(Message::Nonce(answer)) = Message::decode(reader.read(&mut rest)?)? else {
            return Err(Refused::OutOfOrder);
        };
        self.nonce.accept(&answer).map_err(Refused::Unacceptable)?;
        let ends = Ends::new(ours, theirs).ok_or(Refused::OutOfOrder)?;
        let keys = Exchange {
            secret: self.secret,
            our_nonce: &self.nonce.nonce,
            our_time: self.nonce.time,
            their_nonce: &answer.nonce,
            ends,
        }
        .keys();
        let handshake = Handshake {
            wants_crc32c: true,
            sender: ProcessId { ip: ipv4(ours.ip()), port: 0, pid: std::process::id() as u16, start: start.0 as u32 },
            peer: ProcessId { ip: ipv4(theirs.ip()), port: theirs.port(), pid: 0, start: 0 },
        };
        let (to, from) = (&keys.to_middle, &keys.from_middle);
        let mut outlet = LinkWriter { frames: self.frames, encrypt: CbcEncrypt::new(&to.key, &to.iv) };
        let mut sealed = Vec::new();
        outlet.frames.write(&Message::Handshake(handshake), &mut sealed);
        outlet.seal(&mut sealed);
        let inlet = LinkReader::new(reader, CbcDecrypt::new(&from.key, &from.iv));
        Ok((Opened { inlet, outlet, handshake }, sealed))
    }
}

fn ipv4(address: IpAddr) -> Ipv4Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// Both directions have keys; their handshake is due.
#[derive(Debug)]
pub struct Opened {
    /// Receiver of what they send.
    pub inlet: LinkReader,
    outlet: LinkWriter,
    handshake: Handshake,
}

impl Opened {
    /// Looks for their handshake in what has come. `None` if there is more to come.
    pub fn agree(mut self) -> Result<Result<(LinkReader, LinkWriter), Self>, Refused> {
        let answer = match self.inlet.payload()? {
            None => return Ok(Err(self)),
            Some(payload) => match Message::decode(payload)? {
                Some(Message::Handshake(answer)) => answer,
                Some(Message::HandshakeError(error)) => return Err(Refused::Error(error.code)),
                _ => return Err(Refused::OutOfOrder),
            },
        };
        let agreed = self.handshake.accept(&answer).map_err(Refused::Unacceptable)?;
        self.inlet.frames.agree(agreed);
        self.outlet.frames.agree(agreed);
        Ok(Ok((self.inlet, self.outlet)))
    }
}

/// The sending direction of a link.
#[derive(Debug)]
pub struct LinkWriter {
    /// Makes frames, in the order in which they are to be sent.
    pub frames: FrameWriter,
    encrypt: CbcEncrypt,
}

impl LinkWriter {
    /// The two parts: one that makes frames, and one that encrypts them in the same order.
    pub fn split(self) -> (FrameWriter, Sealer) {
        (self.frames, Sealer(self.encrypt))
    }

    fn seal(&mut self, frames: &mut Vec<u8>) {
        pad_to_block(frames);
        self.encrypt.apply(frames.as_chunks_mut().0);
    }
}

/// Encrypts what is about to be written to the socket.
#[derive(Debug)]
pub struct Sealer(CbcEncrypt);

impl Sealer {
    /// Whole frames, in place, with what is lacking to the end of a block behind them.
    pub fn seal(&mut self, frames: &mut Vec<u8>) {
        pad_to_block(frames);
        self.0.apply(frames.as_chunks_mut().0);
    }
}

/// The receiving direction of a link.
#[derive(Debug)]
pub struct LinkReader {
    frames: FrameReader,
    decrypt: CbcDecrypt,
    /// Bytes that have come: payloads that were handed out, what is decrypted, and less than a block that is not.
    bytes: Vec<u8>,
    done: usize,
    plain: usize,
}

impl LinkReader {
    /// Room for what is read from the socket at once.
    const ROOM: usize = 64 * 1024;

    fn new(frames: FrameReader, decrypt: CbcDecrypt) -> Self {
        Self { frames, decrypt, bytes: Vec::new(), done: 0, plain: 0 }
    }

    /// Returns the buffer to which the next bytes are to be appended. To be followed by [`LinkReader::arrived`].
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.done);
        self.plain -= self.done;
        self.done = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 4 * Self::ROOM {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(Self::ROOM);
        &mut self.bytes
    }

    /// Decrypts what was appended, as far as it is whole blocks.
    pub fn arrived(&mut self) {
        let blocks = self.bytes[self.plain..].as_chunks_mut().0;
        self.decrypt.apply(blocks);
        self.plain += blocks.as_flattened().len();
    }

    /// The payload of the next frame that has come whole.
    pub fn payload(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let before = &self.bytes[self.done..self.plain];
        let mut rest = before;
        let outcome = self.frames.read(&mut rest);
        self.done += before.len() - rest.len();
        match outcome {
            Ok(payload) => Ok(Some(payload)),
            Err(DecodeError::Incomplete) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{vector, vector_array};

    fn secret() -> MiddleSecret {
        MiddleSecret::new(&vector("M_keys4", "secret")).unwrap()
    }

    /// What is to be sent first, and the opening behind it.
    fn begun(secret: &MiddleSecret) -> (Opening<'_>, Vec<u8>) {
        Opening::new(secret, UnixTime(1_767_225_600), vector_array("M_keys4", "nonce_clt"))
    }

    fn ends(ours: &str) -> (SocketAddr, SocketAddr) {
        (ours.parse().unwrap(), "149.154.175.50:8888".parse().unwrap())
    }

    fn fed(mut opened: Opened, bytes: &[u8]) -> Opened {
        opened.inlet.room().extend_from_slice(bytes);
        opened.inlet.arrived();
        opened
    }

    #[test]
    fn a_link_begins_as_the_vectors_do() {
        let secret = secret();
        let (opening, hello) = begun(&secret);
        assert_eq!(hello, vector("M_nonce", "c2s"));
        let theirs = vector_array("M_nonce", "s2c");
        let (mut opened, handshake) = opening.answered(&theirs, ends("203.0.113.7:40000"), UnixTime(7)).unwrap();
        assert_eq!(handshake.len(), 48);
        // However it is cut, nothing is said before the answer is whole: which decrypts, and is for someone else.
        let wire = vector("M_handshake_ans", "wire");
        let (last, all) = wire.split_last().unwrap();
        for byte in all {
            opened = fed(opened, &[*byte]).agree().unwrap().unwrap_err();
        }
        assert_eq!(fed(opened, &[*last]).agree().unwrap_err(), Refused::Unacceptable(Unacceptable::Peer));
    }

    #[test]
    fn another_address_or_secret_is_told_apart_from_nonsense() {
        let secret = secret();
        let theirs = vector_array("M_nonce", "s2c");
        let opened = begun(&secret).0.answered(&theirs, ends("203.0.113.8:40000"), UnixTime(7)).unwrap().0;
        let refused = fed(opened, &vector("M_handshake_ans", "wire")).agree().unwrap_err();
        assert!(refused.to_string().contains("another address"), "{refused}");
        let other = MiddleSecret::new(&[9; 128]).unwrap();
        let outcome = begun(&other).0.answered(&theirs, ends("203.0.113.7:40000"), UnixTime(7)).map(|_| ());
        assert_eq!(outcome, Err(Refused::Unacceptable(Unacceptable::Secret)));
        let outcome = begun(&secret).0.answered(&[1; 44], ends("203.0.113.7:40000"), UnixTime(7)).map(|_| ());
        assert!(matches!(outcome, Err(Refused::Malformed(_))), "{outcome:?}");
        let outcome = begun(&secret).0.answered(&theirs, ends("[2001:db8::1]:40000"), UnixTime(7)).map(|_| ());
        assert_eq!(outcome, Err(Refused::OutOfOrder), "the two ends are of two families");
    }
}
