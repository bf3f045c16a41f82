//! Frames of a WebSocket (RFC 6455), as a server reads and writes them.
//!
//! ```text
//!  0        1            2                        10       14
//!  ├ FIN op ┼ MASK len7 ─┼ length, 0, 2 or 8 bytes ┼─ mask ─┼ payload ─┤     from a client: always masked
//!  ├ FIN op ┼ len7 ──────┼ length ─────────────────┼ payload ─┤             to a client: never
//! ```
//!
//! Own code, since libraries gather what they send in a buffer of their own, which is a copy of each byte, and read at their
//! own pace, where here the reader has to stop while a session can take no more. No extension is ever agreed to.

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use sha1::{Digest, Sha1};

/// Longest head of a frame to a client.
pub const LONGEST_HEAD: usize = 10;

/// Longest payload of a control frame.
const LONGEST_CONTROL: usize = 125;

/// Value of `Sec-WebSocket-Accept` for the client's `Sec-WebSocket-Key`.
pub fn accept(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64.encode(&Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// ServerFrame of a frame that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// A whole binary message.
    Binary = 2,
    /// The end.
    Close = 8,
    /// A question whether the client is there.
    Ping = 9,
    /// The answer to the client's.
    Pong = 10,
}

/// Appends the head of a frame with so much payload.
pub fn write_head(kind: ServerFrame, length: usize, out: &mut Vec<u8>) {
    out.push(FIN | kind as u8);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..LENGTH_16), _) => out.push(short),
        (_, Ok(length)) => {
            out.push(LENGTH_16);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(LENGTH_64);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Message or control frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// A binary message, put together from its fragments.
    Message(Bytes),
    /// A ping, to be answered with the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong,
    /// The client has ended the socket; its code is of no interest.
    Close,
}

/// A frame that ends the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// A text message.
    Text,
    /// A message longer than it may be.
    TooLong,
    /// Something that the protocol forbids.
    Protocol,
}

/// Reads a client's frames.
#[derive(Debug)]
pub struct FrameReader {
    /// Longest message.
    most: usize,
    /// Fragments of a message whose end has not come.
    fragments: Option<BytesMut>,
}

/// FrameHead of a client's frame.
struct FrameHead {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Its own length and that of the payload.
    size: usize,
    payload: usize,
}

impl FrameReader {
    /// A reader of messages of so many bytes at most.
    pub fn new(most: usize) -> Self {
        Self { most, fragments: None }
    }

    /// Memory of the fragments of a message whose end has not come.
    pub fn held(&self) -> usize {
        self.fragments.as_ref().map_or(0, BytesMut::capacity)
    }

    /// Number of bytes that the frame at the front of `bytes` still lacks, as far as that is known: at least one.
    pub fn wants(&self, bytes: &[u8]) -> usize {
        match self.head(bytes) {
            Ok(Some(head)) => (head.size + head.payload).saturating_sub(bytes.len()).max(1),
            _ => 1,
        }
    }

    /// Takes frames from the front of `bytes` until one says something; `None` if the next has not come whole.
    pub fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<ClientMessage>, FrameFault> {
        loop {
            let Some(head) = self.head(bytes)? else { return Ok(None) };
            if bytes.len() < head.size + head.payload {
                return Ok(None);
            }
            let _ = bytes.split_to(head.size);
            let mut payload = bytes.split_to(head.payload);
            unmask(&mut payload, head.mask);
            if let Some(received) = self.take(&head, payload)? {
                return Ok(Some(received));
            }
        }
    }

    fn take(&mut self, head: &FrameHead, payload: BytesMut) -> Result<Option<ClientMessage>, FrameFault> {
        match (head.opcode, &mut self.fragments) {
            (CONTINUATION, Some(fragments)) => {
                fragments.extend_from_slice(&payload);
                let whole = if head.fin { self.fragments.take() } else { None };
                Ok(whole.map(|whole| ClientMessage::Message(whole.freeze())))
            }
            (BINARY, None) if head.fin => Ok(Some(ClientMessage::Message(payload.freeze()))),
            (BINARY, None) => {
                self.fragments = Some(payload);
                Ok(None)
            }
            (CLOSE, _) => Ok(Some(ClientMessage::Close)),
            (PING, _) => Ok(Some(ClientMessage::Ping(payload.freeze()))),
            (PONG, _) => Ok(Some(ClientMessage::Pong)),
            _ => Err(FrameFault::Protocol),
        }
    }

    /// The head at the front of `bytes`, as soon as it is whole; what is wrong with it is known by then.
    fn head(&self, bytes: &[u8]) -> Result<Option<FrameHead>, FrameFault> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode, control) = (first & FIN != 0, first & OPCODE, first & CONTROL != 0);
        let masked = second & MASK != 0;
        if first & RESERVED != 0 || !masked {
            return Err(FrameFault::Protocol);
        }
        if opcode == TEXT {
            return Err(FrameFault::Text);
        }
        let (extra, length) = match second & !MASK {
            LENGTH_16 => (2, rest.first_chunk().map(|length| u64::from(u16::from_be_bytes(*length)))),
            LENGTH_64 => (8, rest.first_chunk().map(|length| u64::from_be_bytes(*length))),
            short => (0, Some(u64::from(short))),
        };
        let Some(length) = length else { return Ok(None) };
        let least = [(2, u64::from(LENGTH_16)), (8, 1 << 16)].iter().find(|(size, _)| *size == extra).map(|row| row.1);
        if least.is_some_and(|least| length < least) || (control && (!fin || length > LONGEST_CONTROL as u64)) {
            return Err(FrameFault::Protocol);
        }
        let before = self.fragments.as_ref().map_or(0, |fragments| fragments.len());
        let most = if control { LONGEST_CONTROL } else { self.most.saturating_sub(before) };
        let payload = usize::try_from(length).ok().filter(|length| *length <= most).ok_or(FrameFault::TooLong)?;
        let mask = rest.get(extra..).and_then(|rest| rest.first_chunk::<4>());
        Ok(mask.map(|mask| FrameHead { fin, opcode, mask: *mask, size: 2 + extra + 4, payload }))
    }
}

/// Adds the mask, or takes it away.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let twice = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    words.iter_mut().for_each(|word| *word = (u64::from_ne_bytes(*word) ^ twice).to_ne_bytes());
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const CONTROL: u8 = 0x08;
const MASK: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        write_head(ServerFrame::Binary, payload.len(), &mut head);
        (head[0], head[1]) = (first, head[1] | MASK);
        let mask = [1, 0x80, 7, 0xff];
        let mut masked = payload.to_vec();
        unmask(&mut masked, mask);
        [&head[..], &mask, &masked].concat()
    }

    fn all(most: usize, wire: &[u8], step: usize) -> Result<Vec<ClientMessage>, FrameFault> {
        let (mut reader, mut bytes, mut out) = (FrameReader::new(most), BytesMut::new(), Vec::new());
        for piece in wire.chunks(step.max(1)) {
            bytes.extend_from_slice(piece);
            while let Some(received) = reader.read(&mut bytes)? {
                out.push(received);
            }
            assert!(reader.wants(&bytes) > 0);
        }
        Ok(out)
    }

    #[test]
    fn the_accept_value_is_that_of_the_standard() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_are_put_together_around_control_frames() {
        let long = vec![9; 70_000];
        let wire = [
            frame(0x82, b"whole"),
            frame(0x02, b"in "),
            frame(0x89, b"there?"),
            frame(0x00, b"three "),
            frame(0x8a, b""),
            frame(0x80, b"parts"),
            frame(0x82, &long),
            frame(0x88, &[3, 0xe8]),
        ]
        .concat();
        for step in [1, 3, 4096, wire.len()] {
            let message = |bytes: &[u8]| ClientMessage::Message(Bytes::copy_from_slice(bytes));
            let expected = [
                message(b"whole"),
                ClientMessage::Ping(Bytes::from_static(b"there?")),
                ClientMessage::Pong,
                message(b"in three parts"),
                message(&long),
                ClientMessage::Close,
            ];
            assert_eq!(all(70_000, &wire, step).unwrap(), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn what_the_protocol_forbids_is_refused_from_its_head() {
        let unmasked = vec![0x82, 0x01, 0];
        let padded_16 = vec![0x82, 0xfe, 0, 125];
        let padded_64 = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let endless = vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
        for (what, wire, fault) in [
            ("text", frame(0x81, b"text"), FrameFault::Text),
            ("compressed", frame(0xc2, b"x"), FrameFault::Protocol),
            ("not masked", unmasked, FrameFault::Protocol),
            ("a continuation of nothing", frame(0x80, b"x"), FrameFault::Protocol),
            ("a message within another", [frame(0x02, b"x"), frame(0x82, b"y")].concat(), FrameFault::Protocol),
            ("a ping in fragments", frame(0x09, b"x"), FrameFault::Protocol),
            ("a long ping", frame(0x89, &[0; 126]), FrameFault::Protocol),
            ("an unknown kind", frame(0x83, b"x"), FrameFault::Protocol),
            ("a length that needs no two bytes", padded_16, FrameFault::Protocol),
            ("a length that needs no eight bytes", padded_64, FrameFault::Protocol),
            ("an endless length", endless, FrameFault::TooLong),
            ("too long", frame(0x82, &[0; 201]), FrameFault::TooLong),
            ("too long in all", [frame(0x02, &[0; 100]), frame(0x80, &[0; 101])].concat(), FrameFault::TooLong),
        ] {
            assert_eq!(all(200, &wire, 1), Err(fault), "{what}");
        }
        assert_eq!(all(200, &frame(0x82, &[0; 200]), 1).unwrap().len(), 1);
    }

    #[test]
    fn heads_are_as_short_as_they_can_be() {
        for (length, head) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            write_head(ServerFrame::Binary, length, &mut out);
            assert_eq!(out, head);
            assert!(out.len() <= LONGEST_HEAD);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
            if let Ok(received) = all(100, &bytes, step) {
                let message = |received: &ClientMessage| match received {
                    ClientMessage::Message(bytes) | ClientMessage::Ping(bytes) => bytes.len(),
                    _ => 0,
                };
                prop_assert!(received.iter().all(|received| message(received) <= 125));
            }
        }
    }
}
