//! The two messages that open a link, and when the other end's are to be accepted.

use std::net::Ipv4Addr;

use crate::wire::DecodeError;
use crate::wire::cursor::Cursor;

/// Farthest that the clocks of the two ends may stand apart, in seconds; a middle proxy closes the link beyond it.
pub const MAX_CLOCK_SKEW: u32 = 30;

/// AES-256-CBC with the keys of `crypto::middle_kdf`, the only one of the protocol's schemas that proxies use.
const SCHEMA_AES: u32 = 1;

const FLAG_CRC32C: u32 = 0x800;

/// Bits of the handshake's flags that must be zero.
const FLAGS_RESERVED: u32 = 0xff;

/// Opens a link, in clear.
///
/// ```text
/// selector (4) ‖ schema (4) ‖ time (4) ‖ nonce (16)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// Names the secret that the sender means.
    pub selector: [u8; 4],
    /// The sender's clock, in seconds since 1970.
    pub time: u32,
    /// Random, and never the same twice.
    pub nonce: [u8; 16],
}

/// Reason why the other end's opening ends the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unacceptable {
    /// It means another secret than we do; ours may be out of date.
    Secret,
    /// Its clock is so many seconds ahead of ours, or behind it when negative.
    Clock(i64),
    /// It does not answer our handshake but someone else's.
    Peer,
    /// It insists on CRC-32C, for which we did not ask.
    Checksum,
}

impl Nonce {
    /// Whether `answer` may follow this nonce.
    pub fn accept(&self, answer: &Self) -> Result<(), Unacceptable> {
        if answer.selector != self.selector {
            return Err(Unacceptable::Secret);
        }
        if answer.time.abs_diff(self.time) > MAX_CLOCK_SKEW {
            return Err(Unacceptable::Clock(i64::from(answer.time) - i64::from(self.time)));
        }
        Ok(())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.selector);
        out.extend_from_slice(&SCHEMA_AES.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.nonce);
    }

    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let selector = *body.array("key selector")?;
        if u32::from_le_bytes(*body.array("crypto schema")?) != SCHEMA_AES {
            return Err(DecodeError::Malformed("crypto schema"));
        }
        let time = u32::from_le_bytes(*body.array("time")?);
        Ok(Self { selector, time, nonce: *body.array("nonce")? })
    }
}

/// Names one end of a link. A middle proxy echoes ours, which is all that we look at in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// The sender's address, as far as it knows.
    pub ip: Ipv4Addr,
    /// The port it listens on, or zero.
    pub port: u16,
    /// Its process number.
    pub pid: u16,
    /// Its start time, in seconds since 1970.
    pub start: u32,
}

impl ProcessId {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ip.to_bits().to_le_bytes());
        out.extend_from_slice(&self.port.to_le_bytes());
        out.extend_from_slice(&self.pid.to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
    }

    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ip: Ipv4Addr::from_bits(u32::from_le_bytes(*body.array("process address")?)),
            port: u16::from_le_bytes(*body.array("process port")?),
            pid: u16::from_le_bytes(*body.array("process number")?),
            start: u32::from_le_bytes(*body.array("process start")?),
        })
    }
}

/// The first encrypted message of either end.
///
/// ```text
/// flags (4) ‖ sender (12) ‖ peer (12)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Whether the sender asks for CRC-32C.
    pub wants_crc32c: bool,
    /// Process that sends this.
    pub sender: ProcessId,
    /// Whom the sender believes to talk to.
    pub peer: ProcessId,
}

impl Handshake {
    /// Whether `answer` may follow this handshake, and which checksum the two agree on.
    pub fn accept(&self, answer: &Self) -> Result<super::Checksum, Unacceptable> {
        if answer.peer != self.sender {
            return Err(Unacceptable::Peer);
        }
        match (self.wants_crc32c, answer.wants_crc32c) {
            (true, true) => Ok(super::Checksum::Crc32c),
            (_, false) => Ok(super::Checksum::Crc32),
            (false, true) => Err(Unacceptable::Checksum),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.wants_crc32c { FLAG_CRC32C } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        self.sender.encode(out);
        self.peer.encode(out);
    }

    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let flags = u32::from_le_bytes(*body.array("handshake flags")?);
        if flags & FLAGS_RESERVED != 0 {
            return Err(DecodeError::Malformed("handshake flags"));
        }
        let (sender, peer) = (ProcessId::decode(body)?, ProcessId::decode(body)?);
        Ok(Self { wants_crc32c: flags & FLAG_CRC32C != 0, sender, peer })
    }
}

/// Comes in place of a handshake when ours did not please.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeError {
    /// −3 length, −4 peer, −6 sender, −7 flags, −8 CRC-32C unexpected.
    pub code: i32,
    /// Process that sends this.
    pub sender: ProcessId,
}

impl HandshakeError {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.to_le_bytes());
        self.sender.encode(out);
    }

    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let code = i32::from_le_bytes(*body.array("error code")?);
        Ok(Self { code, sender: ProcessId::decode(body)? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Checksum, FrameReader, Message};
    use super::*;
    use crate::crypto::middle_kdf::MiddleSecret;
    use crate::fixtures::{vector, vector_array};

    fn nonce(name: &str) -> Nonce {
        let frame = vector("M_nonce", name);
        let payload = FrameReader::default().read(&mut &frame[..]).map(<[u8]>::to_vec).unwrap();
        let Ok(Some(Message::Nonce(nonce))) = Message::decode(&payload) else { panic!() };
        nonce
    }

    fn handshake(group: &str) -> Handshake {
        let frame = vector(group, "plain");
        let payload = FrameReader::at(-1, Checksum::Crc32).read(&mut &frame[..]).map(<[u8]>::to_vec).unwrap();
        let Ok(Some(Message::Handshake(handshake))) = Message::decode(&payload) else { panic!() };
        handshake
    }

    #[test]
    fn nonces_hold_what_the_keys_are_made_of() {
        let (ours, theirs) = (nonce("c2s"), nonce("s2c"));
        assert_eq!(ours.selector, MiddleSecret::new(&vector("M_keys4", "secret")).unwrap().selector());
        assert_eq!(ours.nonce, vector_array("M_keys4", "nonce_clt"));
        assert_eq!(ours.time.to_le_bytes(), vector_array("M_keys4", "clt_ts"));
        assert_eq!(theirs.nonce, vector_array("M_keys4", "nonce_srv"));
        assert_eq!(ours.accept(&theirs), Ok(()));
    }

    #[test]
    fn nonces_must_mean_one_secret_and_about_the_same_time() {
        let ours = nonce("c2s");
        let at = |skew: i32| Nonce { time: ours.time.wrapping_add_signed(skew), ..nonce("s2c") };
        for (skew, expected) in
            [(30, Ok(())), (-30, Ok(())), (31, Err(Unacceptable::Clock(31))), (-31, Err(Unacceptable::Clock(-31)))]
        {
            assert_eq!(ours.accept(&at(skew)), expected);
        }
        assert_eq!(ours.accept(&Nonce { selector: [0; 4], ..at(99) }), Err(Unacceptable::Secret));
    }

    #[test]
    fn handshakes_must_echo_and_agree_on_a_checksum() {
        let (ours, theirs) = (handshake("M_handshake"), handshake("M_handshake_ans"));
        assert_eq!((theirs.sender.ip, theirs.sender.port), ("149.154.175.50".parse().unwrap(), 8888));
        assert_eq!(ours.accept(&theirs), Ok(Checksum::Crc32));
        assert_eq!(ours.accept(&Handshake { peer: theirs.sender, ..theirs }), Err(Unacceptable::Peer));
        let with = |wants_crc32c, handshake| Handshake { wants_crc32c, ..handshake };
        assert_eq!(with(true, ours).accept(&theirs), Ok(Checksum::Crc32));
        assert_eq!(with(true, ours).accept(&with(true, theirs)), Ok(Checksum::Crc32c));
        assert_eq!(ours.accept(&with(true, theirs)), Err(Unacceptable::Checksum));
    }
}
