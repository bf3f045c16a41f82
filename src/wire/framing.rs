//! Frames of the padded intermediate transport, seen from outside: where one ends and the next begins, and the frames
//! that a client ignores (docs/protocol.md, "Frames").
//!
//! ```text
//!  0        4
//!  ├ length ┼─ packet, 0 to 15 bytes of padding ─┤      length: little-endian, top bit clear
//!  ├ token ─┤                                           quick ack: top bit set, nothing follows
//! ```

use crate::crypto::kdf::KeyIv;

/// Longest frame that is believed; real ones end at 16 MiB. A longer one means that this is not such a stream.
const MAX_FRAME: u32 = 1 << 25;

/// Shortest and longest frame that every client takes for a NOP, its length field included: a body of four zero bytes
/// and up to seven more.
pub const NOP: std::ops::RangeInclusive<usize> = 8..=15;

/// Follows an encrypted stream from frame to frame, decrypting nothing but the four bytes that say how long each is.
#[derive(Clone, Debug)]
pub struct FrameTracker {
    keys: KeyIv,
    position: u64,
    /// Position of the next frame; `None` when the stream turned out to be something else.
    next: Option<u64>,
    /// First bytes of a length field that was cut by the end of a chunk.
    cut: [u8; 4],
}

impl FrameTracker {
    /// A tracker at the first byte of the stream that `keys` encrypts.
    pub fn new(keys: KeyIv) -> Self {
        Self { keys, position: 0, next: Some(0), cut: [0; 4] }
    }

    /// Takes the next bytes of the stream, as encrypted by the sender.
    pub fn advance(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len() as u64;
        while let Some(next) = self.next.filter(|next| *next < end) {
            for at in next.max(self.position)..end.min(next + 4) {
                self.cut[(at - next) as usize] = bytes[(at - self.position) as usize];
            }
            if next + 4 > end {
                break;
            }
            let mut word = self.cut;
            self.keys.stream_at(next).apply(&mut word);
            self.next = frame_length(u32::from_le_bytes(word)).map(|length| next + length);
        }
        self.position = end;
    }

    /// Returns the number of bytes that have passed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the place of the stream within its frames.
    pub fn place(&self) -> FramePosition {
        match self.next {
            None => FramePosition::Unknown,
            Some(next) if next == self.position => FramePosition::Border,
            Some(_) => FramePosition::Inside,
        }
    }
}

/// FramePosition of a stream within its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePosition {
    /// Between two frames; a NOP may stand here.
    Border,
    /// In a frame: its receiver can do nothing before the rest has come.
    Inside,
    /// The stream does not look like frames.
    Unknown,
}

/// Bytes from one frame to the next.
fn frame_length(word: u32) -> Option<u64> {
    const QUICK_ACK: u32 = 1 << 31;
    match word {
        QUICK_ACK.. => Some(4),
        0..=MAX_FRAME => Some(4 + u64::from(word)),
        _ => None,
    }
}

/// Plain NOP frames of `length` bytes in all; the bytes beyond each zero word are taken from `filler`.
///
/// `length` must be a sum of numbers in [`NOP`], as every number from 16 and those from 8 to 15 are.
pub fn nops(length: usize, mut filler: impl FnMut() -> u8) -> Vec<u8> {
    let mut frames = Vec::with_capacity(length);
    let mut left = length;
    while left > 0 {
        let frame = match left {
            ..=15 => left,
            16..=30 => left / 2,
            _ => *NOP.end(),
        };
        frames.extend_from_slice(&(frame as u32 - 4).to_le_bytes());
        frames.extend_from_slice(&[0; 4]);
        frames.extend((8..frame).map(|_| filler()));
        left -= frame;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> KeyIv {
        KeyIv { key: [7; 32], iv: [9; 16] }
    }

    proptest! {
        /// However a stream of frames and tokens is cut, the tracker knows where it stands.
        #[test]
        fn follows_any_cut(frames in prop::collection::vec(prop_oneof![Just(None), (0usize..300).prop_map(Some)], 1..20),
                           cuts in prop::collection::vec(1usize..70, 1..200)) {
            let mut stream = Vec::new();
            let mut borders = vec![0u64];
            for frame in frames {
                match frame {
                    None => stream.extend_from_slice(&[1, 2, 3, 0x80]),
                    Some(length) => {
                        stream.extend_from_slice(&(length as u32).to_le_bytes());
                        stream.extend(std::iter::repeat_n(0x5a, length));
                    }
                }
                borders.push(stream.len() as u64);
            }
            keys().stream().apply(&mut stream);
            let mut tracker = FrameTracker::new(keys());
            let mut rest = &stream[..];
            for cut in cuts.into_iter().cycle() {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                tracker.advance(chunk);
                let expected = if borders.contains(&tracker.position()) { FramePosition::Border } else { FramePosition::Inside };
                prop_assert_eq!(tracker.place(), expected);
                rest = later;
                if rest.is_empty() { break }
            }
        }

        #[test]
        fn nops_have_the_length_asked_for_and_are_nops(length in 8usize..200) {
            let frames = nops(length, || 0xff);
            prop_assert_eq!(frames.len(), length);
            let mut rest = &frames[..];
            while !rest.is_empty() {
                let size = 4 + u32::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
                prop_assert!(NOP.contains(&size));
                prop_assert_eq!(&rest[4..8], [0; 4]);
                rest = &rest[size..];
            }
        }

        #[test]
        fn arbitrary_bytes_are_survived(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..50)) {
            let mut tracker = FrameTracker::new(keys());
            chunks.iter().for_each(|chunk| tracker.advance(chunk));
        }
    }
}
