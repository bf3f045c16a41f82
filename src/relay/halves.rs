//! The two directions of a session as pure transforms on buffers.
//!
//! ```text
//! uplink     client's records ─▶ payload, from the client's cipher to the data centre's, in place
//! downlink   data centre's bytes ─▶ records; already encrypted for the client, so nothing else is done to them …
//!            … until a piece is too small for a legal record at the end of a frame: then NOP frames are put behind it,
//!            and from there on every byte is moved to its new place in the client's keystream
//! ```

use std::io::IoSliceMut;
use std::ops::Range;

use super::sizing;
use crate::crypto::Ctr;
use crate::crypto::kdf::KeyIv;
use crate::wire::framing::{self, FrameTracker, Place};
use crate::wire::record::{self, HEADER, Header, MAX_CIPHERTEXT, MAX_ENCRYPTED, MIN_ENCRYPTED, kind};

/// What the client sent is no record of application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

/// Client to data centre.
#[derive(Debug)]
pub struct Uplink {
    from_client: Ctr,
    to_dc: Ctr,
    header: [u8; HEADER],
    header_length: usize,
    record_left: usize,
}

impl Uplink {
    /// An uplink in the midst of a record of which `record_left` payload bytes are still to come.
    pub fn new(from_client: Ctr, to_dc: Ctr, record_left: usize) -> Self {
        Self { from_client, to_dc, header: [0; HEADER], header_length: 0, record_left }
    }

    /// Turns what the client sent into what the data centre is to get: re-encrypts every payload byte of `bytes` in
    /// place and reports where those bytes are, in order. Bytes before a bad record are reported all the same.
    pub fn transform(&mut self, bytes: &mut [u8], mut payload: impl FnMut(Range<usize>)) -> Result<(), BadRecord> {
        let mut at = 0;
        while at < bytes.len() {
            if self.record_left > 0 {
                let end = bytes.len().min(at + self.record_left);
                let piece = &mut bytes[at..end];
                self.from_client.apply(piece);
                self.to_dc.apply(piece);
                payload(at..end);
                self.record_left -= end - at;
                at = end;
            } else {
                self.header[self.header_length] = bytes[at];
                self.header_length += 1;
                at += 1;
                if self.header_length == HEADER {
                    self.header_length = 0;
                    self.record_left = data_record(Header::decode(self.header))?;
                }
            }
        }
        Ok(())
    }
}

/// Payload length of a record that a client may send.
fn data_record(header: Header) -> Result<usize, BadRecord> {
    let length = usize::from(header.length);
    let legal = header.kind == kind::APPLICATION_DATA && header.version == [3, 3] && length <= MAX_CIPHERTEXT;
    if legal { Ok(length) } else { Err(BadRecord) }
}

/// Data centre to client.
#[derive(Debug)]
pub struct Downlink {
    keys: KeyIv,
    tracker: FrameTracker,
    /// Bytes from the data centre that were too few for a record and belong to a frame that goes on.
    kept: Vec<u8>,
    moved: Option<Box<Moved>>,
}

/// A downlink that had to insert bytes: position in the client's keystream and in the data centre's no longer agree.
#[derive(Debug)]
struct Moved {
    from_dc: Ctr,
    to_client: Ctr,
}

/// Records that one read can fill.
const RECORDS: usize = 4;

/// Buffer for one step of the downlink: gaps for headers stand before each record's room.
pub const DOWNLINK_BUFFER: usize = RECORDS * (HEADER + MAX_ENCRYPTED);

/// Room behind the records that a step may need for NOP frames.
const NOP_ROOM: usize = 32;

/// Size of the buffer that [`Downlink::frame`] works on.
pub const FRAMING_BUFFER: usize = DOWNLINK_BUFFER + NOP_ROOM;

impl Downlink {
    /// A downlink at its first byte; `keys` are the client's, which the data centre was made to use.
    pub fn new(keys: KeyIv) -> Self {
        Self { tracker: FrameTracker::new(keys.clone()), keys, kept: Vec::new(), moved: None }
    }

    /// Where in `buffer` the data centre's next bytes are to be read to: behind what was kept, with gaps for headers.
    pub fn room<'b>(&mut self, buffer: &'b mut [u8]) -> [IoSliceMut<'b>; RECORDS] {
        let (head, mut rest) = buffer[..DOWNLINK_BUFFER].split_at_mut(HEADER + self.kept.len());
        head[HEADER..].copy_from_slice(&self.kept);
        let (first, after) = rest.split_at_mut(MAX_ENCRYPTED - self.kept.len());
        rest = after;
        let mut slices = [IoSliceMut::new(first), empty(), empty(), empty()];
        for slice in &mut slices[1..] {
            let (record, after) = std::mem::take(&mut rest).split_at_mut(HEADER + MAX_ENCRYPTED);
            *slice = IoSliceMut::new(&mut record[HEADER..]);
            rest = after;
        }
        slices
    }

    /// Makes records of `read` bytes that were read to [`Downlink::room`]; returns how many bytes of `buffer` are to be
    /// sent, which may be none. `filler` gives the random bytes of NOP frames.
    pub fn frame(&mut self, buffer: &mut [u8], read: usize, filler: impl FnMut() -> u8) -> usize {
        let length = self.kept.len() + read;
        for (record, size) in full_records(length) {
            let start = HEADER + record * (HEADER + MAX_ENCRYPTED);
            let fresh = if record == 0 { start + self.kept.len()..start + size } else { start..start + size };
            self.take(&mut buffer[fresh]);
        }
        self.kept.clear();
        if length >= MIN_ENCRYPTED { write_headers(buffer, length) } else { self.frame_small(buffer, length, filler) }
    }

    /// A record with NOP frames of `length` bytes in all; `None` where the stream stands in the midst of a frame.
    pub fn nops(&mut self, length: usize, filler: impl FnMut() -> u8) -> Option<Vec<u8>> {
        if self.tracker.place() != Place::Border {
            return None;
        }
        let frames = self.sealed_nops(length, filler);
        Some([&header(length)[..], &frames].concat())
    }

    /// Follows fresh bytes from the data centre, and moves them to their place in the client's keystream.
    fn take(&mut self, bytes: &mut [u8]) {
        self.tracker.advance(bytes);
        if let Some(moved) = &mut self.moved {
            moved.from_dc.apply(bytes);
            moved.to_client.apply(bytes);
        }
    }

    /// Too few bytes for a legal record: in a frame they wait for the rest of it, which the client waits for too; behind
    /// one they are filled up.
    fn frame_small(&mut self, buffer: &mut [u8], length: usize, filler: impl FnMut() -> u8) -> usize {
        let payload = HEADER..HEADER + length;
        match self.tracker.place() {
            _ if length == 0 => 0,
            Place::Inside => {
                self.kept.extend_from_slice(&buffer[payload]);
                0
            }
            Place::Unknown => write_headers(buffer, length),
            Place::Border => {
                let lacking = (MIN_ENCRYPTED - length).max(*framing::NOP.start());
                let frames = self.sealed_nops(lacking, filler);
                buffer[payload.end..payload.end + lacking].copy_from_slice(&frames);
                write_headers(buffer, length + lacking)
            }
        }
    }

    /// NOP frames as the client is to get them. From here on the two keystreams differ.
    fn sealed_nops(&mut self, length: usize, filler: impl FnMut() -> u8) -> Vec<u8> {
        let mut frames = framing::nops(length, filler);
        let (keys, position) = (&self.keys, self.tracker.position());
        let moved = self.moved.get_or_insert_with(|| {
            Box::new(Moved { from_dc: keys.stream_at(position), to_client: keys.stream_at(position) })
        });
        moved.to_client.apply(&mut frames);
        frames
    }
}

fn empty<'b>() -> IoSliceMut<'b> {
    IoSliceMut::new(&mut [])
}

/// Which of the buffer's records `length` bytes fill, and how far.
fn full_records(length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length.div_ceil(MAX_ENCRYPTED)).map(move |record| (record, MAX_ENCRYPTED.min(length - record * MAX_ENCRYPTED)))
}

fn header(length: usize) -> [u8; HEADER] {
    Header::application_data(length as u16).encode()
}

/// Writes the headers into the gaps of a buffer that holds `length` bytes of payload; returns the length of it all.
///
/// Where the last record takes a few bytes from the one before it, its gap moves ahead of them.
fn write_headers(buffer: &mut [u8], length: usize) -> usize {
    let mut at = 0;
    let mut gap = 0;
    for size in sizing::records(length) {
        if at < gap {
            buffer.copy_within(at..gap, at + HEADER);
        }
        buffer[at..at + HEADER].copy_from_slice(&header(size));
        at += HEADER + size;
        gap += HEADER + MAX_ENCRYPTED;
    }
    at
}

const _: () = assert!(DOWNLINK_BUFFER < 1 << 17 && record::MAX_ENCRYPTED == 16_401);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(seed: u8) -> KeyIv {
        KeyIv { key: [seed; 32], iv: [seed; 16] }
    }

    fn uplink() -> Uplink {
        Uplink::new(keys(1).stream(), keys(2).stream(), 0)
    }

    /// Payload as a client wraps it, in records of the given sizes.
    fn wrap(plain: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut cipher = plain.to_vec();
        keys(1).stream().apply(&mut cipher);
        let mut rest = &cipher[..];
        let mut bytes = Vec::new();
        for size in sizes.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            bytes.extend_from_slice(&header(piece.len()));
            bytes.extend_from_slice(piece);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        bytes
    }

    fn sent(uplink: &mut Uplink, mut chunk: Vec<u8>) -> Result<Vec<u8>, BadRecord> {
        let mut ranges = Vec::new();
        uplink.transform(&mut chunk, |range| ranges.push(range))?;
        Ok(ranges.into_iter().flat_map(|range| chunk[range].to_vec()).collect())
    }

    /// Feeds a downlink with pieces of a data centre's stream; returns the payload sizes and what the client decrypts.
    fn received(pieces: &[Vec<u8>]) -> (Vec<usize>, Vec<u8>) {
        let mut downlink = Downlink::new(keys(3));
        let mut buffer = vec![0; FRAMING_BUFFER];
        let mut dc = keys(3).stream();
        let mut wire = Vec::new();
        for piece in pieces {
            let mut piece = piece.clone();
            dc.apply(&mut piece);
            let mut left = &piece[..];
            for mut slice in downlink.room(&mut buffer) {
                let (now, later) = left.split_at(left.len().min(slice.len()));
                slice[..now.len()].copy_from_slice(now);
                left = later;
            }
            assert!(left.is_empty());
            let length = downlink.frame(&mut buffer, piece.len(), || 0xaa);
            wire.extend_from_slice(&buffer[..length]);
        }
        unwrap(&wire)
    }

    fn unwrap(mut wire: &[u8]) -> (Vec<usize>, Vec<u8>) {
        let (mut sizes, mut payload) = (Vec::new(), Vec::new());
        while let Some((head, rest)) = wire.split_first_chunk() {
            let length = usize::from(Header::decode(*head).length);
            assert_eq!(Header::decode(*head), Header::application_data(length as u16));
            sizes.push(length);
            payload.extend_from_slice(&rest[..length]);
            wire = &rest[length..];
        }
        keys(3).stream().apply(&mut payload);
        (sizes, payload)
    }

    /// A client's view of a stream: its frames without NOPs, quick-ack tokens as frames of four bytes.
    fn frames(mut plain: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some((word, rest)) = plain.split_first_chunk() {
            let word = u32::from_le_bytes(*word);
            if word >> 31 == 1 {
                frames.push(word.to_le_bytes().to_vec());
                plain = rest;
                continue;
            }
            let body = &rest[..word as usize];
            if !(body.len() < 12 && body.starts_with(&[0; 4])) {
                frames.push(body.to_vec());
            }
            plain = &rest[body.len()..];
        }
        assert!(plain.is_empty());
        frames
    }

    fn frame(length: usize) -> Vec<u8> {
        [&(length as u32).to_le_bytes()[..], &vec![0x11; length]].concat()
    }

    fn token() -> Vec<u8> {
        vec![0xf1, 0xde, 0xbc, 0x9a]
    }

    #[test]
    fn a_quick_ack_becomes_a_legal_record_and_what_follows_still_decrypts() {
        let pieces = [frame(100), token(), frame(60), token(), token(), frame(20_000)];
        let (sizes, plain) = received(&pieces);
        assert!(sizes.iter().all(|size| (MIN_ENCRYPTED..=MAX_ENCRYPTED).contains(size)), "{sizes:?}");
        let expected: Vec<Vec<u8>> =
            vec![vec![0x11; 100], token(), vec![0x11; 60], token(), token(), vec![0x11; 20_000]];
        assert_eq!(frames(&plain), expected);
    }

    #[test]
    fn without_small_pieces_the_bytes_are_untouched() {
        let pieces = [frame(40), frame(16_397 + 3), frame(60_000)];
        let (_, plain) = received(&pieces);
        assert_eq!(plain, pieces.concat());
    }

    #[test]
    fn a_small_piece_within_a_frame_waits_for_the_rest() {
        let whole = frame(30);
        let (sizes, plain) = received(&[whole[..10].to_vec(), whole[10..].to_vec()]);
        assert_eq!((sizes, plain), (vec![34], whole.clone()));
        // If none comes, the client could do nothing with the piece.
        assert!(received(&[whole[..10].to_vec()]).0.is_empty());
    }

    #[test]
    fn the_goodbye_is_a_nop_record_of_the_size_asked_for_at_a_border_only() {
        let mut downlink = Downlink::new(keys(3));
        let record = downlink.nops(19, || 0).unwrap();
        let (sizes, plain) = unwrap(&record);
        assert_eq!(sizes, [19]);
        assert!(frames(&plain).is_empty());
        let mut buffer = vec![0; FRAMING_BUFFER];
        let mut cut = frame(100)[..50].to_vec();
        keys(3).stream().apply(&mut cut);
        let mut downlink = Downlink::new(keys(3));
        downlink.room(&mut buffer)[0][..50].copy_from_slice(&cut);
        downlink.frame(&mut buffer, 50, || 0);
        assert!(downlink.nops(19, || 0).is_none());
    }

    #[test]
    fn other_records_end_the_uplink_behind_what_came_before() {
        for bad in [[0x14, 3, 3, 0, 1], [0x15, 3, 3, 0, 2], [0x17, 3, 1, 0, 1], [0x17, 3, 3, 0x41, 1]] {
            let mut chunk = [&wrap(b"before", &[6])[..], &bad].concat();
            let mut payload = Vec::new();
            assert_eq!(uplink().transform(&mut chunk, |range| payload.push(range)), Err(BadRecord));
            assert_eq!(payload, vec![5..11]);
        }
        assert_eq!(sent(&mut uplink(), vec![0x17, 3, 3, 0, 0, 0x17, 3, 3, 0x41, 0]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn the_uplink_is_the_payload_under_the_other_cipher(plain in prop::collection::vec(any::<u8>(), 1..5000),
                                                            sizes in prop::collection::vec(1usize..3000, 1..5),
                                                            cuts in prop::collection::vec(1usize..700, 1..20)) {
            let wire = wrap(&plain, &sizes);
            let mut uplink = uplink();
            let (mut rest, mut out) = (&wire[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                out.extend(sent(&mut uplink, chunk.to_vec()).unwrap());
                rest = later;
                if rest.is_empty() { break }
            }
            keys(2).stream().apply(&mut out);
            prop_assert_eq!(out, plain);
        }

        /// Whatever the data centre sends in whatever pieces, the client gets the same frames in legal records.
        #[test]
        fn the_downlink_loses_nothing(lengths in prop::collection::vec(prop_oneof![Just(0), 12usize..60, 16_380usize..16_420, 30_000usize..70_000], 1..12),
                                      cuts in prop::collection::vec(prop_oneof![1usize..40, 16_000usize..65_000], 1..12)) {
            let parts: Vec<Vec<u8>> = lengths.iter().map(|length| if *length == 0 { token() } else { frame(*length) }).collect();
            let stream = parts.concat();
            let (mut rest, mut pieces) = (&stream[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = later;
                if rest.is_empty() { break }
            }
            let (sizes, plain) = received(&pieces);
            prop_assert!(sizes.iter().all(|size| (MIN_ENCRYPTED..=MAX_ENCRYPTED).contains(size)), "{:?}", sizes);
            let expected: Vec<Vec<u8>> = parts.iter().map(|part| if part.len() == 4 { part.clone() } else { part[4..].to_vec() }).collect();
            prop_assert_eq!(frames(&plain), expected);
        }

        #[test]
        fn arbitrary_records_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = sent(&mut uplink(), bytes);
        }
    }
}
