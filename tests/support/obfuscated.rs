//! The obfuscated2 layer of the audit, and the padded frames inside it.

pub use vizard::audit::obfuscated::*;

/// What the padded transport carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A packet with its padding, which no one but its reader can tell from it.
    Packet(Vec<u8>),
    /// A bare four-byte quick acknowledgement.
    Token(u32),
}

/// Puts frames together from decrypted bytes.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
    /// Fillers seen so far; they are never handed out.
    pub fillers: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.start));
        self.bytes.extend(bytes);
    }

    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.bytes[self.start..];
            let head = u32::from_le_bytes(rest.get(..4)?.try_into().expect("four bytes"));
            if head & 1 << 31 != 0 {
                self.start += 4;
                return Some(Frame::Token(head));
            }
            let body = rest.get(4..4 + head as usize)?.to_vec();
            self.start += 4 + body.len();
            if (4..16).contains(&body.len()) && body[..4] == [0; 4] {
                self.fillers += 1;
                continue;
            }
            return Some(Frame::Packet(body));
        }
    }

    /// Bytes that do not make a whole frame yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// A packet behind its length.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut out = (packet.len() as u32).to_le_bytes().to_vec();
    out.extend(packet);
    out
}
