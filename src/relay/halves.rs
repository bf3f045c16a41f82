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

    /// Bytes that were kept for the rest of their frame, which will not come, as a last record.
    pub fn flush(&mut self) -> Vec<u8> {
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() { kept } else { [&header(kept.len())[..], &kept].concat() }
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
