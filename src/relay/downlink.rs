//! Data centre to client, as a pure transform on buffers. What comes is already encrypted for the client, so it is cut into
//! records and nothing else is done to it …
//!
//! … until a piece is too small for a legal record at the end of a frame: then NOP frames are put behind it, and from there
//! on every byte is moved to its new place in the client's keystream.

use std::io::IoSliceMut;

use smallvec::SmallVec;

use super::kept::PendingBytes;
use super::sizing::Pattern;
use crate::crypto::kdf::KeyIv;
use crate::crypto::{BLOCK, Ctr};
use crate::wire::framing::{self, FramePosition, FrameTracker};
use crate::wire::record::{HEADER, Header, MAX_ENCRYPTED, MIN_ENCRYPTED};

/// Data centre to client.
#[derive(Clone, Debug)]
pub struct Downlink {
    /// Key and IV that the data centre encrypts with.
    keys: KeyIv,
    tracker: FrameTracker,
    /// Payload for the client that waits to become part of a record: the beginning of one in the midst of a frame, or
    /// what separates a filler from the data centre's first byte.
    kept: PendingBytes,
    /// Bytes of `kept` that were there before the data centre said anything.
    lead: usize,
    pattern: Pattern,
    /// Records of the pattern that have been sent in a row.
    number: usize,
    /// Bytes that the last room had space for.
    offered: usize,
    moved: Option<Box<Transcoder>>,
}

/// A downlink that had to insert bytes: position in the client's keystream and in the data centre's no longer agree.
#[derive(Clone, Debug)]
struct Transcoder {
    from_dc: Ctr,
    to_client: Ctr,
}

impl Transcoder {
    /// From one keystream to the other; the way back is the same.
    fn apply(&mut self, bytes: &mut [u8]) {
        self.from_dc.apply(bytes);
        self.to_client.apply(bytes);
    }
}

/// State of a [`Downlink`] before it framed what was read.
#[derive(Debug)]
pub struct Checkpoint {
    tracker: FrameTracker,
    kept: PendingBytes,
    lead: usize,
    number: usize,
    moved: Option<Box<Transcoder>>,
    /// Bytes that were read.
    read: usize,
}

/// The records that a client has got a beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialSend {
    /// Their length with their heads.
    pub length: usize,
    /// Bytes of the last read that are in them.
    pub read: usize,
    /// Bytes of the last read at the end of the last record.
    pub last: usize,
}

/// Most records that one read can fill.
const RECORDS: usize = 16;

/// Room for what is read at once: sixteen full records with their headers. Four take a tenth more CPU time for each byte.
const READ_BUFFER: usize = 16 * (HEADER + MAX_ENCRYPTED);

/// Size of the buffer that a [`Downlink`] works on: room to read, and for NOP frames behind it.
pub const FRAMING_BUFFER: usize = READ_BUFFER + 2 * MIN_ENCRYPTED;

impl Downlink {
    /// A downlink at its first byte; `keys` are the client's, which the data centre is made to use.
    pub fn new(keys: KeyIv, pattern: Pattern) -> Self {
        Self {
            tracker: FrameTracker::new(keys.clone()),
            keys,
            kept: PendingBytes::default(),
            lead: 0,
            pattern,
            number: 0,
            offered: 0,
            moved: None,
        }
    }

    /// Writes of records of exactly these payload sizes, made of NOP frames, and the downlink behind them. Behind these,
    /// room is left for further records, which [`Downlink::split_lead`] gives until the data centre has spoken.
    ///
    /// The data centre's stream can only begin at a block of the keystream. It is made to begin at the next one that
    /// leaves room for whole NOP frames, and those go into the same record as its first byte (docs/protocol.md,
    /// "Frames"). [`Downlink::dc_keys`] is what the data centre must use.
    pub fn behind_fillers(
        keys: KeyIv,
        pattern: Pattern,
        writes: &[Vec<u16>],
        later: &[u16],
        mut filler: impl FnMut() -> u8,
    ) -> (Self, Vec<Vec<u8>>) {
        let length = |sizes: &[u16]| sizes.iter().map(|size| usize::from(*size)).sum::<usize>();
        let (sent, later) = (writes.iter().map(|sizes| length(sizes)).sum::<usize>(), length(later));
        if [sent, later].iter().any(|length| (1..*framing::NOP.start()).contains(length)) {
            return (Self::new(keys, pattern), Vec::new());
        }
        let padding = match (BLOCK - (sent + later) % BLOCK) % BLOCK {
            0 => 0,
            lacking if framing::NOP.contains(&lacking) => lacking,
            lacking => lacking + BLOCK,
        };
        let mut frames = framing::nops(sent, &mut filler);
        frames.extend(framing::nops(later, &mut filler));
        frames.extend(framing::nops(padding, filler));
        keys.stream().apply(&mut frames);
        let (mut rest, kept) = frames.split_at(sent);
        let (kept, lead) = (PendingBytes::from(kept), kept.len());
        let mut written = Vec::with_capacity(writes.len());
        for sizes in writes {
            let (now, behind) = rest.split_at(length(sizes));
            written.push(in_records(now, sizes));
            rest = behind;
        }
        let blocks = ((sent + lead) / BLOCK) as i128;
        (Self { kept, lead, ..Self::new(keys.moved_by(blocks), pattern) }, written)
    }

    /// Records of these sizes out of what is kept for the data centre's first byte; none once that has come.
    pub fn split_lead(&mut self, sizes: &[u16]) -> Vec<u8> {
        let length = sizes.iter().map(|size| usize::from(*size)).sum();
        if self.kept.len() != self.lead || self.lead < length {
            return Vec::new();
        }
        let kept = std::mem::take(&mut self.kept);
        let (now, later) = kept.split_at(length);
        (self.kept, self.lead) = (PendingBytes::from(later), later.len());
        in_records(now, sizes)
    }

    /// The same downlink for a far side that chooses its keys itself: every byte is moved from its keystream to the
    /// client's. Only before the first byte.
    pub fn from_keys(self, far: KeyIv) -> Self {
        // What separates a filler from the data centre's first byte is not needed: no place in the keystream is better
        // than another.
        let unused = self.lead.div_ceil(BLOCK);
        let place = self.keys.moved_by(-(unused as i128));
        let to_client = place.stream_at((unused * BLOCK - self.lead) as u64);
        let moved = Some(Box::new(Transcoder { from_dc: far.stream(), to_client }));
        Self { moved, ..Self::new(far, self.pattern) }
    }

    /// The keys that the data centre must encrypt with.
    pub fn dc_keys(&self) -> &KeyIv {
        &self.keys
    }

    /// The client has not taken all that was sent. Not to be told between [`Downlink::room`] and [`Downlink::frame`].
    pub fn client_is_slow(&mut self) {
        if self.pattern.stall() {
            self.number = 0;
        }
    }

    /// Whether something is kept that is to become part of a record.
    pub fn keeps(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Memory for what waits.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.kept.len()
    }

    /// Whether anything waits that must go out when the data centre has nothing more to say for now.
    pub fn is_waiting(&self) -> bool {
        self.kept.len() > self.lead && self.tracker.place() != FramePosition::Inside
    }

    /// Returns the parts of `buffer` that the data centre's next bytes are to be read to: behind what was kept, with
    /// gaps for headers.
    pub fn room<'b>(&mut self, buffer: &'b mut [u8]) -> SmallVec<[IoSliceMut<'b>; RECORDS]> {
        self.room_for(usize::MAX, buffer)
    }

    /// The same, with room for so many bytes at most: for whole records, if there are that many.
    pub fn room_for<'b>(&mut self, most: usize, buffer: &'b mut [u8]) -> SmallVec<[IoSliceMut<'b>; RECORDS]> {
        let mut left = most;
        let mut slices: SmallVec<[IoSliceMut<'b>; RECORDS]> = SmallVec::new();
        let mut rest = &mut buffer[..READ_BUFFER];
        for (number, (_, size)) in self.layout(self.number, self.kept.len(), most).into_iter().enumerate() {
            let (record, later) = rest.split_at_mut(HEADER + size);
            let mut payload = &mut record[HEADER..];
            if number == 0 {
                let (kept, free) = payload.split_at_mut(self.kept.len());
                kept.copy_from_slice(&self.kept);
                payload = free;
            }
            if number > 0 && payload.len() > left {
                break;
            }
            let length = payload.len().min(left);
            left -= length;
            slices.push(IoSliceMut::new(&mut payload[..length]));
            rest = later;
        }
        self.offered = slices.iter().map(|slice| slice.len()).sum();
        slices
    }

    /// Makes records of `read` bytes that were read to [`Downlink::room`], which must have been asked for just before;
    /// returns how many bytes of `buffer` are to be sent, which may be none. `filler` gives the random bytes of NOP frames.
    ///
    /// Within a frame, of which its receiver can use nothing before it is whole, and while more can be read at once, only
    /// whole records of the pattern go out. `read` is 0 when nothing more can be read for now.
    pub fn frame(&mut self, buffer: &mut [u8], read: usize, filler: impl FnMut() -> u8) -> usize {
        self.lay(buffer, read, filler).0
    }

    /// The same, with what there was before, so that a part can be taken back.
    pub fn frame_for_now(&mut self, buffer: &mut [u8], read: usize, filler: impl FnMut() -> u8) -> (usize, Checkpoint) {
        let (tracker, lead, number, moved) = (self.tracker.clone(), self.lead, self.number, self.moved.clone());
        let (length, kept) = self.lay(buffer, read, filler);
        (length, Checkpoint { tracker, kept, lead, number, moved, read })
    }

    /// Takes back all of what was `framed` but the records that the first `taken` bytes of it are of: what was read
    /// for the others has never been read.
    pub fn take_back(&mut self, before: Checkpoint, framed: &[u8], taken: usize) -> PartialSend {
        let mut layout = self.layout(before.number, before.kept.len(), before.read);
        layout.truncate(layout.iter().take_while(|(start, _)| start - HEADER < taken).count());
        let differs = |(start, size): &(usize, usize)| framed.get(start - HEADER..*start) != Some(&header(*size));
        if let Some(at) = layout.iter().position(differs) {
            // Behind this there is at most what was too little for a record of its own.
            let (ahead, start) = (layout[..at].iter().map(|(_, size)| size).sum::<usize>(), layout[at].0);
            let rest = before.kept.len() + before.read - ahead;
            let as_it_came = framed.len() == start + rest;
            let last = if as_it_came { rest.min(before.read) } else { 0 };
            return PartialSend { length: framed.len(), read: before.read, last };
        }
        let Checkpoint { tracker, kept, lead, number, moved, read: _ } = before;
        (self.tracker, self.moved, self.number) = (tracker, moved, number + layout.len());
        let Some((start, size)) = layout.last().copied() else {
            (self.kept, self.lead) = (kept, lead);
            return PartialSend { length: 0, read: 0, last: 0 };
        };
        (self.kept, self.lead) = (PendingBytes::default(), 0);
        let (mut skip, mut read, mut last) = (kept.len(), 0, 0);
        for (start, size) in layout {
            let fresh = &framed[start + std::mem::take(&mut skip)..start + size];
            self.follow(fresh);
            last = fresh.len();
            read += last;
        }
        PartialSend { length: start + size, read, last }
    }

    /// Moves bytes of the data centre to their place in the client's keystream that end so many bytes behind their
    /// beginning, where the records stand.
    pub fn repeat(&self, bytes: &mut [u8], behind: usize) {
        if let Some(moved) = &self.moved {
            let back = |stream: &Ctr| stream.back_by(behind as u64);
            Transcoder { from_dc: back(&moved.from_dc), to_client: back(&moved.to_client) }.apply(bytes);
        }
    }

    /// Lays records out; gives the length of what is to be sent, and what was kept before.
    fn lay(&mut self, buffer: &mut [u8], read: usize, filler: impl FnMut() -> u8) -> (usize, PendingBytes) {
        let layout = self.layout(self.number, self.kept.len(), read);
        let before = std::mem::take(&mut self.kept);
        let length = before.len() + read;
        let mut fresh = before.len();
        self.lead = 0;
        let (mut full, mut rest) = (0, length);
        for (start, size) in &layout {
            let here = rest.min(*size);
            self.take(&mut buffer[start + fresh.min(here)..start + here]);
            fresh = fresh.saturating_sub(here);
            if here < *size {
                break;
            }
            full += 1;
            rest -= here;
        }
        let more = read > 0 && read == self.offered;
        self.number += full;
        for (start, size) in &layout[..full] {
            buffer[start - HEADER..*start].copy_from_slice(&header(*size));
        }
        let end = layout[..full].last().map_or(0, |(start, size)| start + size);
        let length = match self.tracker.place() {
            _ if rest == 0 => end,
            place if place == FramePosition::Inside || more => {
                let start = layout[full].0;
                self.kept = PendingBytes::from(&buffer[start..start + rest]);
                end
            }
            place => {
                self.number = 0;
                let last = layout[..full].last().copied();
                self.last_record(buffer, last, rest, place, filler)
            }
        };
        (length, before)
    }

    /// Returns the kept beginning of a frame whose rest will not come, as a last record where it is long enough for a
    /// legal one.
    pub fn cut_short(&mut self) -> Vec<u8> {
        let kept = std::mem::take(&mut self.kept);
        if self.lead < kept.len() && kept.len() >= MIN_ENCRYPTED {
            [&header(kept.len())[..], &kept].concat()
        } else {
            self.kept = kept;
            Vec::new()
        }
    }

    /// A record with NOP frames of `length` bytes in all, at least 8; `None` where the stream stands in the midst of a
    /// frame.
    pub fn nops(&mut self, length: usize, filler: impl FnMut() -> u8) -> Option<Vec<u8>> {
        if self.tracker.place() != FramePosition::Border
            || self.kept.len() > self.lead
            || length < *framing::NOP.start()
        {
            return None;
        }
        let frames = self.sealed_nops(length, filler);
        Some([&header(length)[..], &frames].concat())
    }

    /// The records from this number of the pattern on that have room for what was kept and `fresh` bytes, as far as the
    /// buffer has: start of the payload in the buffer, and its size.
    fn layout(&self, number: usize, kept: usize, fresh: usize) -> SmallVec<[(usize, usize); RECORDS]> {
        let mut layout = SmallVec::new();
        let (mut at, mut left) = (0, kept.saturating_add(fresh));
        for next in 0..RECORDS {
            // What was kept is always shorter than the record it was to become, but for a lead before a tiny record.
            let least = if next == 0 { kept + 1 } else { 0 };
            let size = self.pattern.size(number + next).max(least);
            if left == 0 || at + HEADER + size > READ_BUFFER {
                break;
            }
            layout.push((at + HEADER, size));
            at += HEADER + size;
            left = left.saturating_sub(size);
        }
        layout
    }

    /// Follows fresh bytes from the data centre, and moves them to their place in the client's keystream.
    fn take(&mut self, bytes: &mut [u8]) {
        self.tracker.advance(bytes);
        if let Some(moved) = &mut self.moved {
            moved.apply(bytes);
        }
    }

    /// Follows bytes that were moved already.
    fn follow(&mut self, bytes: &[u8]) {
        match &mut self.moved {
            None => self.tracker.advance(bytes),
            Some(moved) => {
                let mut bytes = bytes.to_vec();
                moved.apply(&mut bytes);
                self.tracker.advance(&bytes);
            }
        }
    }

    /// Ends a row of records with one of `rest` bytes, whatever the pattern says. If that is too few for a legal record
    /// it takes what it lacks from the one before it; if there is none, it is filled up with NOP frames. Returns the
    /// length of it all.
    fn last_record(
        &mut self,
        buffer: &mut [u8],
        before: Option<(usize, usize)>,
        rest: usize,
        place: FramePosition,
        filler: impl FnMut() -> u8,
    ) -> usize {
        let end = before.map_or(0, |(start, size)| start + size);
        let payload = end + HEADER..end + HEADER + rest;
        let lacking = MIN_ENCRYPTED.saturating_sub(rest);
        match before {
            Some((start, size)) if lacking > 0 && size >= lacking + MIN_ENCRYPTED => {
                buffer.copy_within(end - lacking..end, end - lacking + HEADER);
                buffer[start - HEADER..start].copy_from_slice(&header(size - lacking));
                buffer[end - lacking..end - lacking + HEADER].copy_from_slice(&header(rest + lacking));
                payload.end
            }
            _ if lacking > 0 && place == FramePosition::Border => {
                let frames = self.sealed_nops(lacking.max(*framing::NOP.start()), filler);
                buffer[payload.end..payload.end + frames.len()].copy_from_slice(&frames);
                buffer[end..payload.start].copy_from_slice(&header(rest + frames.len()));
                payload.end + frames.len()
            }
            _ => {
                buffer[end..payload.start].copy_from_slice(&header(rest));
                payload.end
            }
        }
    }

    /// NOP frames as the client is to get them. From here on the two keystreams differ.
    fn sealed_nops(&mut self, length: usize, filler: impl FnMut() -> u8) -> Vec<u8> {
        let mut frames = framing::nops(length, filler);
        let (keys, position, lead) = (&self.keys, self.tracker.position(), std::mem::take(&mut self.lead));
        let moved = self.moved.get_or_insert_with(|| {
            // A lead that was never sent leaves the client that much behind the data centre's first byte.
            let blocks = lead.div_ceil(BLOCK);
            let behind = keys.moved_by(-(blocks as i128)).stream_at((blocks * BLOCK - lead) as u64 + position);
            Box::new(Transcoder { from_dc: keys.stream_at(position), to_client: behind })
        });
        if lead > 0 {
            self.kept = PendingBytes::default();
        }
        moved.to_client.apply(&mut frames);
        frames
    }
}

/// A payload in records of these sizes.
fn in_records(mut payload: &[u8], sizes: &[u16]) -> Vec<u8> {
    let mut records = Vec::with_capacity(payload.len() + sizes.len() * HEADER);
    for size in sizes {
        let (now, later) = payload.split_at(usize::from(*size));
        records.extend_from_slice(&header(now.len()));
        records.extend_from_slice(now);
        payload = later;
    }
    records
}

fn header(length: usize) -> [u8; HEADER] {
    Header::application_data(length as u16).encode()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(seed: u8) -> KeyIv {
        KeyIv { key: [seed; 32], iv: [seed; 16] }
    }

    /// Puts as much of what came into the room as there is room for; returns how much that was.
    fn read<'b>(room: impl IntoIterator<Item = IoSliceMut<'b>>, came: &[u8]) -> usize {
        let mut left = came;
        for mut slice in room {
            let (now, later) = left.split_at(left.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            left = later;
        }
        came.len() - left.len()
    }

    /// Feeds a downlink with pieces of a data centre's stream, each after a pause; returns the payload sizes and what the
    /// client decrypts.
    fn received(pieces: &[Vec<u8>]) -> (Vec<usize>, Vec<u8>) {
        received_by(&mut Downlink::new(keys(3), Pattern::default()), pieces, Vec::new())
    }

    fn received_by(downlink: &mut Downlink, pieces: &[Vec<u8>], mut wire: Vec<u8>) -> (Vec<usize>, Vec<u8>) {
        let mut buffer = vec![0; FRAMING_BUFFER];
        let mut dc = downlink.dc_keys().stream();
        for piece in pieces {
            let mut piece = piece.clone();
            dc.apply(&mut piece);
            let mut left = &piece[..];
            while !left.is_empty() {
                let read = read(downlink.room(&mut buffer), left);
                left = &left[read..];
                let length = downlink.frame(&mut buffer, read, || 0xaa);
                wire.extend_from_slice(&buffer[..length]);
            }
            if downlink.is_waiting() {
                downlink.room(&mut buffer);
                let length = downlink.frame(&mut buffer, 0, || 0xaa);
                wire.extend_from_slice(&buffer[..length]);
            }
            assert!(!downlink.is_waiting());
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

    /// Frames of these lengths, and a token for none.
    fn parts(lengths: &[usize]) -> Vec<Vec<u8>> {
        lengths.iter().map(|length| if *length == 0 { token() } else { frame(*length) }).collect()
    }

    /// What the client sees of them.
    fn seen(parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| if part.len() == 4 { part.clone() } else { part[4..].to_vec() }).collect()
    }

    fn token() -> Vec<u8> {
        vec![0xf1, 0xde, 0xbc, 0x9a]
    }

    #[test]
    fn room_is_for_whole_records_where_there_may_be_one() {
        let mut downlink = Downlink::new(keys(3), Pattern::seen(&[100, 200], &[]));
        let mut buffer = vec![0; FRAMING_BUFFER];
        let mut room = |most| -> usize { downlink.room_for(most, &mut buffer).iter().map(|slice| slice.len()).sum() };
        assert_eq!([50, 100, 299, 300, 399].map(&mut room), [50, 100, 100, 300, 300]);
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
        assert!(received(&[whole[..10].to_vec()]).0.is_empty());
    }

    #[test]
    fn what_was_kept_goes_out_at_the_end_if_a_record_can_hold_it() {
        for (length, sent) in [(16, 0), (17, 17), (90, 90)] {
            let mut downlink = Downlink::new(keys(3), Pattern::default());
            let (sizes, _) = received_by(&mut downlink, &[frame(100)[..length].to_vec()], Vec::new());
            assert!(sizes.is_empty());
            let (sizes, plain) = unwrap(&downlink.cut_short());
            assert_eq!((sizes.iter().sum::<usize>(), plain), (sent, frame(100)[..sent].to_vec()));
        }
    }

    #[test]
    fn the_goodbye_is_a_nop_record_of_the_size_asked_for_at_a_border_only() {
        let mut downlink = Downlink::new(keys(3), Pattern::default());
        let record = downlink.nops(19, || 0).unwrap();
        let (sizes, plain) = unwrap(&record);
        assert_eq!(sizes, [19]);
        assert!(frames(&plain).is_empty());
        let mut buffer = vec![0; FRAMING_BUFFER];
        let mut cut = frame(100)[..50].to_vec();
        keys(3).stream().apply(&mut cut);
        let mut downlink = Downlink::new(keys(3), Pattern::default());
        downlink.room(&mut buffer)[0][..50].copy_from_slice(&cut);
        downlink.frame(&mut buffer, 50, || 0);
        assert!(downlink.nops(19, || 0).is_none());
    }

    #[test]
    fn fillers_have_the_sizes_asked_for_and_the_data_centres_bytes_stay_untouched_behind_them() {
        for sizes in [&[17][..], &[250, 250, 66], &[255], &[249], &[16_401, 17], &[32], &[40, 41]] {
            let (mut downlink, wire) = behind_filler(Pattern::default(), sizes);
            let pieces = [frame(100), token(), frame(40_000)];
            let (seen, plain) = received_by(&mut downlink, &pieces[..1], wire);
            assert!(downlink.moved.is_none(), "{sizes:?}: the fast path is lost");
            assert_eq!(seen[..sizes.len()], sizes.iter().map(|size| usize::from(*size)).collect::<Vec<_>>());
            assert_eq!(frames(&plain), [vec![0x11; 100]], "{sizes:?}");
        }
        assert!(behind_filler(Pattern::default(), &[]).1.is_empty());
    }

    fn behind_filler(pattern: Pattern, sizes: &[u16]) -> (Downlink, Vec<u8>) {
        let (downlink, writes) = Downlink::behind_fillers(keys(3), pattern, &[sizes.to_vec()], &[], || 0xaa);
        (downlink, writes.concat())
    }

    /// The answer to a preface, as a record of its own, along with the data centre's first bytes, or before an end; and
    /// with a far side that uses keys of its own.
    #[test]
    fn records_for_later_take_nothing_from_the_data_centre() {
        for (writes, later) in [(&[vec![250, 250], vec![50]][..], &[26][..]), (&[vec![17]], &[31, 40]), (&[], &[26])] {
            for (splits, ends, own_keys) in [
                (true, false, false),
                (false, false, false),
                (true, true, false),
                (false, true, false),
                (true, false, true),
                (false, false, true),
            ] {
                let made = Downlink::behind_fillers(keys(3), Pattern::default(), writes, later, || 0xaa);
                let (mut downlink, written) = made;
                assert_eq!(
                    written.iter().map(Vec::len).collect::<Vec<_>>(),
                    writes
                        .iter()
                        .map(|sizes| sizes.iter().map(|size| usize::from(*size) + HEADER).sum::<usize>())
                        .collect::<Vec<_>>()
                );
                let mut wire = written.concat();
                if splits {
                    let split = downlink.split_lead(later);
                    assert_eq!(unwrap(&split).0, later.iter().map(|size| usize::from(*size)).collect::<Vec<_>>());
                    wire.extend(split);
                }
                if ends {
                    wire.extend(downlink.nops(19, || 0).unwrap());
                }
                if own_keys {
                    downlink = downlink.from_keys(keys(9));
                }
                let (_, plain) = received_by(&mut downlink, &[frame(100), token()], wire);
                assert_eq!(frames(&plain), [vec![0x11; 100], token()], "{writes:?} {later:?} {splits} {ends}");
                assert!(downlink.split_lead(later).is_empty(), "the data centre has spoken");
            }
        }
    }

    #[test]
    fn a_goodbye_right_behind_the_filler_still_decrypts() {
        for sizes in [&[17][..], &[250, 250], &[255], &[32]] {
            let (mut downlink, mut wire) = behind_filler(Pattern::default(), sizes);
            wire.extend(downlink.nops(19, || 0).unwrap());
            wire.extend(downlink.nops(24, || 0).unwrap());
            let (seen, plain) = unwrap(&wire);
            assert_eq!(seen[sizes.len()..], [19, 24]);
            assert!(frames(&plain).is_empty(), "{sizes:?}");
            // And whatever comes after it.
            let (_, plain) = received_by(&mut downlink, &[frame(30), token()], wire);
            assert_eq!(frames(&plain), [vec![0x11; 30], token()], "{sizes:?}");
        }
    }

    #[test]
    fn bulk_follows_the_pattern() {
        let pattern = [16_401, 26, 8000];
        let mut downlink = Downlink::new(keys(3), Pattern::seen(&pattern, &[]));
        let (sizes, plain) = received_by(&mut downlink, &[frame(300_000)], Vec::new());
        let (last, bulk) = sizes.split_last().unwrap();
        assert!(bulk.iter().zip(pattern.iter().cycle()).all(|(size, seen)| *size == usize::from(*seen)), "{sizes:?}");
        assert!(*last >= MIN_ENCRYPTED);
        assert_eq!(plain, frame(300_000));
    }

    #[test]
    fn bulk_has_another_pattern_once_the_client_is_slow() {
        for (slow, expected) in [(false, [100, 100, 100, 100]), (true, [200, 17, 200, 17])] {
            let mut downlink = Downlink::new(keys(3), Pattern::seen(&[100], &[200, 17]));
            if slow {
                downlink.client_is_slow();
            }
            let (sizes, plain) = received_by(&mut downlink, &[frame(1000)], Vec::new());
            assert_eq!(sizes[..4], expected);
            assert!(plain == frame(1000));
        }
    }

    proptest! {
        /// Whatever the data centre sends in whatever pieces, the client gets the same frames in legal records.
        #[test]
        fn the_downlink_loses_nothing(lengths in prop::collection::vec(prop_oneof![Just(0), 12usize..60, 16_380usize..16_420, 30_000usize..70_000], 1..12),
                                      cuts in prop::collection::vec(prop_oneof![1usize..40, 16_000usize..65_000], 1..12),
                                      pattern in prop::collection::vec(17u16..16_402, 0..4),
                                      filler in prop::collection::vec(17u16..300, 0..4)) {
            let parts = parts(&lengths);
            let stream = parts.concat();
            let (mut rest, mut pieces) = (&stream[..], Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = later;
                if rest.is_empty() { break }
            }
            let (mut downlink, wire) = behind_filler(Pattern::seen(&pattern, &[]), &filler);
            let (sizes, plain) = received_by(&mut downlink, &pieces, wire);
            prop_assert!(sizes.iter().all(|size| (MIN_ENCRYPTED..=MAX_ENCRYPTED).contains(size)), "{:?}", sizes);
            prop_assert_eq!(frames(&plain), seen(&parts));
        }

        /// Whatever the client takes, and with or without a token that moves the rest of the stream.
        #[test]
        fn what_is_taken_back_comes_again(lengths in prop::collection::vec(prop_oneof![Just(0), 12usize..60, 30_000usize..170_000], 1..6),
                                          reads in prop::collection::vec(prop_oneof![1usize..40, 16_000usize..65_000], 1..12),
                                          shares in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0], 1..12),
                                          pattern in prop::collection::vec(17u16..16_402, 0..4)) {
            let sent = parts(&lengths);
            let mut downlink = Downlink::new(keys(3), Pattern::seen(&pattern, &[]));
            let mut stream = sent.concat();
            downlink.dc_keys().stream().apply(&mut stream);
            let (mut buffer, mut wire, mut rest) = (vec![0; FRAMING_BUFFER], Vec::new(), &stream[..]);
            let mut nothing = 0;
            for (read, share) in reads.into_iter().cycle().zip(shares.into_iter().cycle()) {
                let read = self::read(downlink.room_for(read, &mut buffer), &rest[..read.min(rest.len())]);
                let (length, before) = downlink.frame_for_now(&mut buffer, read, || 0xaa);
                // Who never takes anything gets nowhere.
                let taken = if nothing > 20 { length } else { (length as f64 * share) as usize };
                nothing = if taken > 0 { 0 } else { nothing + 1 };
                let framed = &buffer[..length];
                let whole = PartialSend { length, read, last: 0 };
                let begun = if taken < length { downlink.take_back(before, framed, taken) } else { whole };
                prop_assert!((taken..=length).contains(&begun.length) && begun.read <= read);
                rest = &rest[begun.read..];
                let at = stream.len() - rest.len();
                for unread in [begun.last, begun.last / 2] {
                    let mut again = stream[at - unread..at].to_vec();
                    downlink.repeat(&mut again, unread);
                    prop_assert_eq!(&again, &framed[begun.length - unread..begun.length]);
                }
                wire.extend_from_slice(&framed[..begun.length]);
                if rest.is_empty() && !downlink.is_waiting() { break }
            }
            let (sizes, plain) = unwrap(&wire);
            prop_assert!(sizes.iter().all(|size| (MIN_ENCRYPTED..=MAX_ENCRYPTED).contains(size)), "{:?}", sizes);
            prop_assert_eq!(frames(&plain), seen(&sent));
        }
    }
}
