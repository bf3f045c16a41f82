//! Frames: a length, a sequence number, a payload of whole words and a checksum.
//!
//! ```text
//! 0        4          8             L−4        L
//! ├ L ─────┼ sequence ┼─ payload ───┼ checksum ┤      checksum over everything before it
//! ├ 4 ─────┤                                          padding, anywhere between frames
//! ```
//!
//! Sequence numbers begin at −2 with the nonce, −1 is the handshake; both have CRC-32 whatever is agreed for later.

use super::Message;
use crate::crypto::BLOCK;
use crate::wire::DecodeError;

/// Longest frame of an open link (protocol limit); it is what a middle proxy can make us gather per link.
pub const MAX_FRAME: usize = 1 << 24;

/// Longest frame before a link is open: nonce and handshake have 44 bytes, an error has fewer. Until then nothing
/// proves who is at the other end, and a stranger is to make us gather no more than this.
const MAX_OPENING_FRAME: usize = 44;

/// Length, sequence number and checksum.
const OVERHEAD: usize = 12;

/// Of the nonce; the handshake has the next.
const FIRST_SEQUENCE: i32 = -2;

const WORD: usize = 4;

/// A word that is padding where a length is expected.
const PADDING: [u8; WORD] = [4, 0, 0, 0];

/// Which checksum ends the frames of an open link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32 (IEEE 802.3).
    #[default]
    Crc32,
    /// CRC-32C (Castagnoli), where both ends asked for it in their handshakes.
    Crc32c,
}

impl Checksum {
    fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Self::Crc32 => crc32fast::hash(bytes),
            Self::Crc32c => crc32c::crc32c(bytes),
        }
    }
}

/// State of one direction of a link.
#[derive(Clone, Copy, Debug)]
struct RecordPosition {
    sequence: i32,
    agreed: Checksum,
}

impl RecordPosition {
    fn is_opening(self) -> bool {
        (FIRST_SEQUENCE..0).contains(&self.sequence)
    }

    fn checksum(self) -> Checksum {
        if self.is_opening() { Checksum::Crc32 } else { self.agreed }
    }

    fn advance(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }
}

impl Default for RecordPosition {
    fn default() -> Self {
        Self { sequence: FIRST_SEQUENCE, agreed: Checksum::default() }
    }
}

/// Cuts the receiving direction of a link into payloads.
#[derive(Debug, Default)]
pub struct FrameReader(RecordPosition);

impl FrameReader {
    /// A reader in the midst of a link: the next frame has this sequence number.
    pub fn at(sequence: i32, agreed: Checksum) -> Self {
        Self(RecordPosition { sequence, agreed })
    }

    /// From the first frame behind the handshake on, frames end with `agreed`.
    pub fn agree(&mut self, agreed: Checksum) {
        self.0.agreed = agreed;
    }

    /// The payload of the next frame, taken from the front of `bytes` together with its frame. Padding in front of it
    /// is taken in any case, so what stays in `bytes` is never longer than one frame that has not come whole. Nothing
    /// but `Incomplete` can be fixed by more bytes: a link that is malformed once is lost.
    pub fn read<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
        while let Some(rest) = bytes.strip_prefix(&PADDING) {
            *bytes = rest;
        }
        let length = self.frame_length(bytes)?;
        let (frame, rest) = bytes.split_at_checked(length).ok_or(DecodeError::Incomplete)?;
        let (covered, checksum) = frame.split_last_chunk::<WORD>().ok_or(DecodeError::Malformed("frame length"))?;
        if u32::from_le_bytes(*checksum) != self.0.checksum().of(covered) {
            return Err(DecodeError::Malformed("checksum"));
        }
        self.0.advance();
        *bytes = rest;
        Ok(&covered[2 * WORD..])
    }

    /// The length of the frame at the front, once length and sequence number are there and could be the next frame's.
    fn frame_length(&self, bytes: &[u8]) -> Result<usize, DecodeError> {
        let (length, rest) = bytes.split_first_chunk::<WORD>().ok_or(DecodeError::Incomplete)?;
        let length = u32::from_le_bytes(*length) as usize;
        let longest = if self.0.is_opening() { MAX_OPENING_FRAME } else { MAX_FRAME };
        if !(OVERHEAD..=longest).contains(&length) || !length.is_multiple_of(WORD) {
            return Err(DecodeError::Malformed("frame length"));
        }
        let sequence = rest.first_chunk::<WORD>().ok_or(DecodeError::Incomplete)?;
        if i32::from_le_bytes(*sequence) != self.0.sequence {
            return Err(DecodeError::Malformed("sequence number"));
        }
        Ok(length)
    }
}

/// Makes the frames of the sending direction of a link.
#[derive(Debug, Default)]
pub struct FrameWriter(RecordPosition);

impl FrameWriter {
    /// A writer in the midst of a link: the next frame gets this sequence number.
    pub fn at(sequence: i32, agreed: Checksum) -> Self {
        Self(RecordPosition { sequence, agreed })
    }

    /// From the first frame behind the handshake on, frames end with `agreed`.
    pub fn agree(&mut self, agreed: Checksum) {
        self.0.agreed = agreed;
    }

    /// Appends the message as the next frame. No message is longer than a frame may be.
    pub fn write(&mut self, message: &Message<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; WORD]);
        out.extend_from_slice(&self.0.sequence.to_le_bytes());
        message.encode(out);
        let length = (out.len() - start + WORD) as u32;
        out[start..][..WORD].copy_from_slice(&length.to_le_bytes());
        let checksum = self.0.checksum().of(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        self.0.advance();
    }
}

/// Appends the padding words that make `out` a whole number of cipher blocks. To be called once per write to the
/// socket, on everything that the write is to encrypt.
pub fn pad_to_block(out: &mut Vec<u8>) {
    let words = (out.len().next_multiple_of(BLOCK) - out.len()) / WORD;
    out.extend(std::iter::repeat_n(PADDING, words).flatten());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{vector, vector_word};

    /// A frame around any payload, made without the writer.
    fn framed(sequence: i32, payload: &[u8], checksum: Checksum) -> Vec<u8> {
        let length = (payload.len() + OVERHEAD) as u32;
        let mut frame = [&length.to_le_bytes()[..], &sequence.to_le_bytes(), payload].concat();
        frame.extend_from_slice(&checksum.of(&frame).to_le_bytes());
        frame
    }

    fn read_whole(mut reader: FrameReader, bytes: &[u8]) -> Result<&[u8], DecodeError> {
        let mut rest = bytes;
        let payload = reader.read(&mut rest)?;
        assert!(rest.is_empty());
        Ok(payload)
    }

    #[test]
    fn checksums_are_the_vectors() {
        assert_eq!(Checksum::Crc32.of(b"123456789"), vector_word("M_crc", "crc32"));
        assert_eq!(Checksum::Crc32c.of(b"123456789"), vector_word("M_crc", "crc32c"));
        for (name, checksum) in [("frame_crc32", Checksum::Crc32), ("frame_crc32c", Checksum::Crc32c)] {
            let frame = vector("M_crc", name);
            assert_eq!(framed(0, &[1; 4], checksum), frame);
            assert_eq!(read_whole(FrameReader::at(0, checksum), &frame), Ok(&[1; 4][..]));
        }
        let frame = vector("M_crc", "frame_crc32");
        let refused = read_whole(FrameReader::at(0, Checksum::Crc32c), &frame);
        assert_eq!(refused, Err(DecodeError::Malformed("checksum")));
    }

    #[test]
    fn every_prefix_of_a_frame_is_a_beginning() {
        for group in ["c2s", "s2c"] {
            let frame = vector("M_nonce", group);
            for length in 0..frame.len() {
                assert_eq!(read_whole(FrameReader::default(), &frame[..length]), Err(DecodeError::Incomplete));
            }
            assert_eq!(read_whole(FrameReader::default(), &frame), Ok(&frame[8..40]));
        }
    }

    #[test]
    fn padding_is_taken_even_where_no_frame_follows() {
        let mut reader = FrameReader::at(0, Checksum::Crc32);
        let bytes = [&PADDING.repeat(1000)[..], &PADDING[..3]].concat();
        let mut rest = &bytes[..];
        assert_eq!(reader.read(&mut rest), Err(DecodeError::Incomplete));
        assert_eq!(rest, &PADDING[..3]);
    }

    #[test]
    fn bad_lengths_and_numbers_are_known_before_the_rest_has_come() {
        let head = |length: usize, sequence: i32| [(length as u32).to_le_bytes(), sequence.to_le_bytes()].concat();
        let link = || FrameReader::at(5, Checksum::Crc32);
        for (what, reader, bytes, bad) in [
            ("no length", link(), head(0, 5), true),
            ("padding and then no frame", link(), head(4, 0), true),
            ("no checksum", link(), head(8, 5), true),
            ("nothing inside", link(), head(12, 5), false),
            ("a broken word", link(), head(17, 5), true),
            ("the longest", link(), head(MAX_FRAME, 5), false),
            ("too long", link(), head(MAX_FRAME + 4, 5), true),
            ("a negative length", link(), head(0xffff_fff0, 5), true),
            ("a frame twice", link(), head(16, 4), true),
            ("a frame lost", link(), head(16, 6), true),
            ("a nonce", FrameReader::default(), head(44, -2), false),
            ("a longer nonce", FrameReader::default(), head(48, -2), true),
            ("a handshake", FrameReader::at(-1, Checksum::Crc32), head(44, -1), false),
            ("a longer handshake", FrameReader::at(-1, Checksum::Crc32), head(48, -1), true),
        ] {
            let outcome = read_whole(reader, &bytes);
            assert_eq!(matches!(outcome, Err(DecodeError::Malformed(_))), bad, "{what}: {outcome:?}");
        }
    }

    #[test]
    fn an_agreed_checksum_begins_behind_the_handshake() {
        let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
        writer.agree(Checksum::Crc32c);
        reader.agree(Checksum::Crc32c);
        for (sequence, checksum) in [(-2, Checksum::Crc32), (-1, Checksum::Crc32), (0, Checksum::Crc32c)] {
            let mut out = Vec::new();
            writer.write(&Message::Ping(7), &mut out);
            let payload = &out[8..out.len() - 4];
            assert_eq!(out, framed(sequence, payload, checksum));
            assert_eq!(reader.read(&mut &out[..]), Ok(payload));
        }
    }

    #[test]
    fn numbers_wrap() {
        let mut out = Vec::new();
        let mut writer = FrameWriter::at(i32::MAX, Checksum::Crc32c);
        writer.write(&Message::Ping(1), &mut out);
        writer.write(&Message::Ping(2), &mut out);
        let mut reader = FrameReader::at(i32::MAX, Checksum::Crc32c);
        let mut rest = &out[..];
        assert!(reader.read(&mut rest).is_ok() && reader.read(&mut rest).is_ok());
    }

    proptest! {
        /// Frames with padding between them come out as they went in, however they are cut.
        #[test]
        fn any_cut_gives_the_same_payloads(payloads in prop::collection::vec(prop::collection::vec(any::<[u8; 4]>(), 0..40), 1..8),
                                           padding in 0usize..4, cut in 1usize..90) {
            let mut stream = Vec::new();
            for (sequence, payload) in payloads.iter().enumerate() {
                stream.extend(PADDING.repeat(padding));
                stream.extend(framed(sequence as i32, payload.as_flattened(), Checksum::Crc32c));
            }
            let mut reader = FrameReader::at(0, Checksum::Crc32c);
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for chunk in stream.chunks(cut) {
                buffer.extend_from_slice(chunk);
                let mut rest = &buffer[..];
                while let Ok(payload) = reader.read(&mut rest) {
                    seen.push(payload.as_chunks().0.to_vec());
                }
                buffer = rest.to_vec();
            }
            prop_assert_eq!(seen, payloads);
        }

        /// No single wrong byte gets through.
        #[test]
        fn damage_is_noticed(payload in prop::collection::vec(any::<[u8; 4]>(), 0..40), at: prop::sample::Index, flip in 1u8..) {
            let mut frame = framed(3, payload.as_flattened(), Checksum::Crc32);
            *at.get_mut(&mut frame) ^= flip;
            prop_assert!(FrameReader::at(3, Checksum::Crc32).read(&mut &frame[..]).is_err());
        }

        #[test]
        fn blocks_are_filled_with_padding_alone(words in 0usize..40) {
            let mut out = vec![9; words * WORD];
            pad_to_block(&mut out);
            prop_assert!(out.len().is_multiple_of(BLOCK) && out.len() < words * WORD + BLOCK);
            prop_assert!(out[words * WORD..].chunks(WORD).all(|word| word == PADDING));
        }

        #[test]
        fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), small in 0u8..64, sequence in -2i32..1) {
            let _ = FrameReader::at(sequence, Checksum::Crc32).read(&mut &bytes[..]);
            let likely = [&[small, 0, 0, 0][..], &sequence.to_le_bytes(), &bytes].concat();
            let _ = FrameReader::at(sequence, Checksum::Crc32).read(&mut &likely[..]);
        }
    }
}
