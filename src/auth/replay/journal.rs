//! The file behind the set: a line that says what it is, then records that are only ever appended.
//!
//! ```text
//! 0              16             32
//! ├──────────────┼──────────────┼─ …     header: "vizard replay 1\n"
//! │ header       │ record       │        record: tag 4 │ key 8 │ salted CRC-32 of both 4, big-endian
//! └──────────────┴──────────────┴─ …
//! ```
//!
//! A record is found by its checksum at whatever offset it stands. So nothing needs to be truncated or completed after
//! a torn write, which could hurt a second writer: the record is simply written again, and readers step over the rest.
//!
//! **A damaged start** is skipped like damage elsewhere, if the rest shows whose file it is: records, or nothing but zeroes as
//! a power cut leaves them. The header is then written again, after the file was copied to one beside it. What shows nothing
//! of the kind is another program's file, and refused.
//!
//! **Two processes need no lock.** The kernel puts appended records one behind the other, so the file itself says who was
//! first: a process appends its record, reads what stands before it, and has lost if the same key stands there already. No
//! process ever waits for another, whatever state that one was stopped in.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::{Health, Key, SecretTag};
use crate::base::files::{self, Access};

const BLOCK: usize = 16;
type Block = [u8; BLOCK];

const HEADER: &Block = b"vizard replay 1\n";
/// Prefix of the header in every version.
const FAMILY: &[u8] = b"vizard replay ";

/// Entries that may wait for a disk that refuses: 16 MiB, and at a hundred new connections a second almost three hours.
const UNSAVED_MAX: usize = 1 << 20;

/// Read at once; large enough that system calls do not show, small enough that no one misses it.
const READ_SIZE: usize = 1 << 18;

/// An open file of records.
pub(super) struct Journal {
    file: File,
    /// The same file without `O_APPEND`, so that something can be written where it stands already.
    in_place: File,
    state: Mutex<State>,
    repaired: Option<Repaired>,
}

/// Note of a file whose start was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repaired {
    /// Copy of the file as it was, if there was room for one.
    pub(super) copy: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    backlog: Backlog,
    /// Something was written that the disk was not yet asked to keep.
    dirty: bool,
    refused_write: Option<io::Error>,
    /// Apart from the other, since a write that works says nothing about a sync that failed.
    refused_sync: Option<io::Error>,
    /// Offset up to which every record of the file is known in memory; what comes behind may be another process's.
    seen: u64,
}

/// Outcome of reading the whole file.
pub(super) struct Scanned {
    /// Records that were damaged.
    pub(super) damaged: usize,
    /// Offset at which the reading ended.
    pub(super) end: u64,
}

impl Journal {
    /// Opens the file, or makes it. Refuses what is no file of ours.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = files::open_or_make(path, OFlags::RDWR | OFlags::APPEND, Access::Private)?;
        let in_place = files::open_file(path, OFlags::WRONLY)?;
        let mut journal = Self { file, in_place, state: Mutex::default(), repaired: None };
        match journal.beginning()? {
            Beginning::Whole => {}
            Beginning::Unwritten => {
                // Through the backlog, like any record: a full disk must not keep the proxy from starting.
                journal.push(*HEADER);
                journal.settle_in(path);
            }
            Beginning::Damaged { within } => {
                journal.repaired = Some(Repaired { copy: copy_beside(path).ok() });
                // First what the header will stand on, where the front of the file was cut off.
                within.into_iter().for_each(|record| journal.append(record));
                let _ = retry(|| journal.in_place.write_at(HEADER, 0));
                journal.settle_in(path);
            }
        }
        Ok(journal)
    }

    /// Opens the file to be read, and changes nothing.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        let file = files::open_file(path, OFlags::RDONLY)?;
        let mut journal = Self { in_place: file.try_clone()?, file, state: Mutex::default(), repaired: None };
        if matches!(journal.beginning()?, Beginning::Damaged { .. }) {
            journal.repaired = Some(Repaired { copy: None });
        }
        Ok(journal)
    }

    /// Whether the start of the file was damaged.
    pub(super) fn repaired(&self) -> Option<&Repaired> {
        self.repaired.as_ref()
    }

    /// Joins two files into one that has all records of both; `None` if `there` is not one of ours.
    pub(super) fn joined(there: &[u8], more: &[u8]) -> Option<Vec<u8>> {
        there.starts_with(HEADER).then(|| [there, more.strip_prefix(HEADER).unwrap_or(more)].concat())
    }

    /// Hands every record of the file to `each`, in order.
    pub(super) fn scan(&self, mut each: impl FnMut(Record)) -> io::Result<Scanned> {
        let mut scanner = Scanner::default();
        let mut buffer = vec![0; READ_SIZE];
        let (mut offset, mut kept) = (BLOCK as u64, 0);
        loop {
            let read = retry(|| self.file.read_at(&mut buffer[kept..], offset))?;
            if read == 0 {
                return Ok(Scanned { damaged: scanner.finish(kept), end: offset - kept as u64 });
            }
            offset += read as u64;
            let filled = kept + read;
            let done = scanner.feed(&buffer[..filled], &mut each);
            buffer.copy_within(done..filled, 0);
            kept = filled - done;
        }
    }

    /// Writes the record, or keeps it for later.
    pub(super) fn append(&self, record: Record) {
        self.push(record.encode());
    }

    /// Takes as long as [`Journal::append`] and changes nothing: writes the header over itself, or tries again to write
    /// what waits. Nothing comes of it that the disk would have to be asked to keep.
    pub(super) fn append_in_vain(&self, record: Record) {
        black_box(record.encode());
        let mut state = self.state();
        if state.backlog.front().is_none() {
            let _ = retry(|| self.in_place.write_at(HEADER, 0));
        } else {
            state.write(&self.file);
        }
    }

    /// Writes the record if `is_new` says so after `learn` was handed what others have written, and tells whether it is the
    /// first with its key: of all processes that do the same with one key, exactly one hears `true`.
    ///
    /// `unwritten` is the answer for a record that the disk refuses, which others cannot see.
    pub(super) fn append_among_others(
        &self,
        record: Record,
        mut learn: impl FnMut(Record),
        is_new: impl FnOnce() -> bool,
        unwritten: bool,
    ) -> bool {
        let mut state = self.state();
        state.catch_up(&self.file, u64::MAX, &mut learn);
        if !is_new() {
            return false;
        }
        state.backlog.push(record.encode());
        state.write(&self.file);
        let (true, Ok(end)) = (state.backlog.front().is_none(), (&self.file).stream_position()) else {
            return unwritten;
        };
        let mut same = 0;
        state.catch_up(&self.file, end, |found| {
            same += usize::from(found.key == record.key);
            learn(found);
        });
        // Its own is the last of them. None at all: the file could not be read.
        if same == 0 { unwritten } else { same == 1 }
    }

    /// Takes as long as [`Journal::append_among_others`] and changes nothing but what was learnt.
    pub(super) fn append_in_vain_among_others(
        &self,
        record: Record,
        mut learn: impl FnMut(Record),
        is_new: impl FnOnce() -> bool,
    ) {
        let mut state = self.state();
        state.catch_up(&self.file, u64::MAX, &mut learn);
        black_box((record.encode(), is_new()));
        if state.backlog.front().is_none() {
            let _ = retry(|| self.in_place.write_at(HEADER, 0));
        } else {
            state.write(&self.file);
        }
        let _ = black_box((&self.file).stream_position());
        state.catch_up(&self.file, u64::MAX, &mut learn);
    }

    /// Hands over what others have written since the last time.
    pub(super) fn catch_up(&self, learn: impl FnMut(Record)) {
        self.state().catch_up(&self.file, u64::MAX, learn);
    }

    /// All records before this place are known in memory.
    pub(super) fn knows_until(&self, end: u64) {
        self.state().seen = end;
    }

    /// Writes what waits; says whether nothing waits any more and nothing was dropped.
    pub(super) fn settle_backlog(&self) -> bool {
        let mut state = self.state();
        state.write(&self.file);
        state.backlog.front().is_none() && state.backlog.dropped == 0
    }

    /// All that is in the file now is this process's, or was read.
    pub(super) fn settle_seen(&self) {
        let mut state = self.state();
        state.seen = self.file.metadata().map_or(state.seen, |found| found.len());
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let (written, dirty) = {
            let mut state = self.state();
            state.write(&self.file);
            (state.refused_write.as_ref().map(copy), std::mem::take(&mut state.dirty))
        };
        if dirty {
            // Not under the lock: a disk may take its time, a hello may not.
            let synced = self.file.sync_data();
            let mut state = self.state();
            state.dirty |= synced.is_err();
            state.refused_sync = synced.as_ref().err().map(copy);
            synced?;
        }
        written.map_or(Ok(()), Err)
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state();
        let error = state.refused_write.as_ref().or(state.refused_sync.as_ref()).map(copy);
        Health { unsaved: state.backlog.queue.len(), dropped: state.backlog.dropped, error }
    }

    /// Goes on in the file of another, which is the same.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, other: Self) {
        (self.file, self.in_place) = (other.file, other.in_place);
    }

    fn push(&self, block: Block) {
        let mut state = self.state();
        state.backlog.push(block);
        state.write(&self.file);
    }

    fn beginning(&self) -> io::Result<Beginning> {
        if !self.file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut start = [0; 2 * BLOCK];
        let length = retry(|| self.file.read_at(&mut start, 0))?;
        let start = &start[..length];
        match Start::of(start) {
            Start::Unwritten => Ok(Beginning::Unwritten),
            Start::Ours => Ok(Beginning::Whole),
            Start::OtherVersion => Err(io::Error::new(ErrorKind::InvalidData, "a replay memory of another version")),
            Start::Foreign => {
                let (contents, within) = self.contents()?;
                match contents.are_ours() || is_almost_the_header(start) {
                    true => Ok(Beginning::Damaged { within }),
                    false => Err(io::Error::new(ErrorKind::InvalidData, "not a replay memory")),
                }
            }
        }
    }

    /// Reads the whole file, header or not: a summary, and the records that begin where the header belongs.
    fn contents(&self) -> io::Result<(Contents, Vec<Record>)> {
        let (mut contents, mut within) = (Contents { zeroes: true, ..Contents::default() }, Vec::new());
        let (mut scanner, mut buffer) = (Scanner::default(), vec![0; READ_SIZE]);
        let (mut offset, mut kept) = (0, 0);
        loop {
            let read = retry(|| self.file.read_at(&mut buffer[kept..], offset))?;
            if read == 0 {
                contents.length = offset;
                return Ok((contents, within));
            }
            contents.zeroes &= buffer[kept..kept + read].iter().all(|byte| *byte == 0);
            let first = offset == 0;
            offset += read as u64;
            let filled = kept + read;
            let done = scanner.feed(&buffer[..filled], &mut |_| contents.records += 1);
            if first {
                let mut early = Scanner::default();
                let reach = filled.min(2 * BLOCK - 1);
                early.feed(&buffer[..reach], &mut |record| within.push(record));
            }
            buffer.copy_within(done..filled, 0);
            kept = filled - done;
        }
    }

    /// Has the disk keep the name and the header of a new file. Without it, a power cut could leave a file that the next
    /// start refuses. Not every file system can, and none has to: `sync` tells what is wrong with a disk.
    fn settle_in(&self, path: &Path) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = self.file.sync_all();
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands over the records behind what was seen and before `end`, this process's own among them. What cannot be read is
    /// tried again the next time.
    fn catch_up(&mut self, file: &File, end: u64, mut learn: impl FnMut(Record)) {
        const PIECE: usize = 64 * BLOCK;
        let (mut scanner, mut buffer) = (Scanner::default(), [0; PIECE]);
        // The header is no record; a file that is new may hold nothing else.
        self.seen = self.seen.max(BLOCK as u64);
        loop {
            let most = end.saturating_sub(self.seen).min(PIECE as u64) as usize;
            let Ok(read) = retry(|| file.read_at(&mut buffer[..most], self.seen)) else { return };
            self.seen += scanner.feed(&buffer[..read], &mut learn) as u64;
            if read < PIECE {
                return;
            }
        }
    }

    /// Writes what waits, oldest first, until the file has it all or refuses.
    fn write(&mut self, mut file: &File) {
        while let Some(waiting) = self.backlog.front() {
            match retry(|| file.write(waiting)) {
                Ok(written) if written > 0 => {
                    self.dirty = true;
                    self.backlog.written(written);
                }
                Ok(_) => return self.refused_write = Some(ErrorKind::WriteZero.into()),
                Err(error) => return self.refused_write = Some(error),
            }
        }
        self.refused_write = None;
    }
}

/// Blocks that wait for the disk, in order, and a count of those without room. Usually one record for a moment.
#[derive(Default)]
struct Backlog {
    queue: VecDeque<Block>,
    dropped: u64,
}

impl Backlog {
    /// The newest gives way when all places are taken; the order of the file is never broken.
    fn push(&mut self, block: Block) {
        if self.queue.len() < UNSAVED_MAX {
            self.queue.push_back(block);
        } else {
            self.dropped += 1;
        }
    }

    /// Whole blocks to be written now, in one piece.
    fn front(&self) -> Option<&[u8]> {
        let front = self.queue.as_slices().0.as_flattened();
        (!front.is_empty()).then_some(front)
    }

    /// That many bytes of `front` are in the file. A block of which only a part is there stays, to be written whole.
    fn written(&mut self, bytes: usize) {
        self.queue.drain(..bytes / BLOCK);
        if self.queue.is_empty() {
            // After an outage it holds megabytes that will not be needed again.
            self.queue.shrink_to(BLOCK);
        }
    }
}

/// One spent hello as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) tag: SecretTag,
    pub(super) key: Key,
}

impl Record {
    fn encode(self) -> Block {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(&self.tag.0.to_be_bytes());
        block[4..12].copy_from_slice(&self.key);
        let sum = checksum(&block);
        block[12..].copy_from_slice(&sum);
        block
    }

    /// `None` for what is no record: torn, damaged or zeroed by a power cut.
    fn decode(block: &Block) -> Option<Self> {
        let [a, b, c, d, key @ .., _, _, _, _] = *block;
        (block[12..] == checksum(block)).then_some(Self { tag: SecretTag(u32::from_be_bytes([a, b, c, d])), key })
    }
}

/// Of the first twelve bytes; salted, so that no plain CRC of anybody's passes for a record.
fn checksum(block: &Block) -> [u8; 4] {
    const SALT: u32 = 0x7669_7a61;
    let mut sum = crc32fast::Hasher::new_with_initial(SALT);
    sum.update(&block[..12]);
    sum.finalize().to_be_bytes()
}

/// Finds records in a stream of bytes.
#[derive(Default)]
struct Scanner {
    /// Bytes since the last record that belong to none.
    stray: usize,
    damaged: usize,
}

impl Scanner {
    /// Hands out the records of `bytes`; returns how many bytes are dealt with. The rest, less than a block, belongs in
    /// front of the next bytes.
    fn feed(&mut self, bytes: &[u8], each: &mut impl FnMut(Record)) -> usize {
        let mut at = 0;
        while let Some(block) = bytes[at..].first_chunk() {
            if let Some(record) = Record::decode(block) {
                self.close_gap();
                each(record);
                at += BLOCK;
            } else {
                self.stray += 1;
                at += 1;
            }
        }
        at
    }

    /// Ends the scan, with `rest` bytes left at the end; returns the number of damaged records.
    fn finish(mut self, rest: usize) -> usize {
        self.stray += rest;
        self.close_gap();
        self.damaged
    }

    fn close_gap(&mut self) {
        self.damaged += std::mem::take(&mut self.stray).div_ceil(BLOCK);
    }
}

/// The beginning of a file that is ours.
enum Beginning {
    Whole,
    Unwritten,
    /// The header is not there; these records stand in its place.
    Damaged {
        within: Vec<Record>,
    },
}

/// Summary of a whole file.
#[derive(Debug, Default)]
struct Contents {
    length: u64,
    records: u64,
    /// Whether there is nothing but zeroes, as after a power cut.
    zeroes: bool,
}

impl Contents {
    /// Whether a quarter of it are records, which have a checksum that no other program makes.
    fn are_ours(&self) -> bool {
        self.zeroes || self.records > 0 && self.records * BLOCK as u64 * 4 >= self.length
    }
}

/// Whether a file without records begins with a header of which some bytes have changed.
fn is_almost_the_header(start: &[u8]) -> bool {
    const ENOUGH: usize = BLOCK - 4;
    start.len() < 2 * BLOCK && start.iter().zip(HEADER).filter(|(one, other)| one == other).count() >= ENOUGH
}

/// Copies the file to one beside it that is not there yet.
fn copy_beside(path: &Path) -> io::Result<PathBuf> {
    const MOST: u32 = 20;
    let name = |number| match number {
        1 => path.with_extension("damaged"),
        _ => path.with_extension(format!("damaged-{number}")),
    };
    let free = (1..=MOST).map(name).find(|path| fs::symlink_metadata(path).is_err());
    let copy = free.ok_or_else(|| io::Error::from(ErrorKind::AlreadyExists))?;
    let mut to = files::open_file(&copy, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    let copied = files::open_file(path, OFlags::RDONLY)
        .and_then(|mut from| io::copy(&mut from, &mut to))
        .and_then(|_| to.sync_all());
    if let Err(error) = copied {
        let _ = fs::remove_file(&copy);
        return Err(error);
    }
    Ok(copy)
}

/// Kind of a file, by its first two blocks.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// Nothing, or a first write that was torn.
    Unwritten,
    Ours,
    OtherVersion,
    Foreign,
}

impl Start {
    fn of(start: &[u8]) -> Self {
        let torn_then_whole = |tear| {
            let (torn, rest) = start.split_at_checked(tear)?;
            (HEADER.starts_with(torn) && rest.starts_with(HEADER)).then_some(())
        };
        if start.len() < BLOCK && HEADER.starts_with(start) {
            Self::Unwritten
        } else if (0..BLOCK).any(|tear| torn_then_whole(tear).is_some()) {
            Self::Ours
        } else if is_other_version(start) {
            Self::OtherVersion
        } else {
            Self::Foreign
        }
    }
}

/// Whether it begins with the header that another version would write: its number and the end of the line.
fn is_other_version(start: &[u8]) -> bool {
    let rest = start.strip_prefix(FAMILY).unwrap_or_default();
    let number = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    number > 0 && rest.get(number) == Some(&b'\n')
}

/// Again when a signal came between.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// `io::Error` is no `Clone`; its code is what an operator needs.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::base::files::tests::{OTHER, hostile, is_root, plant};

    fn record(number: u64) -> Record {
        Record { tag: SecretTag(number as u32), key: number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes() }
    }

    fn blocks(numbers: std::ops::Range<u64>) -> Vec<u8> {
        numbers.flat_map(|number| record(number).encode()).collect()
    }

    /// All records of `bytes`, fed in pieces of at most `piece` new bytes, and the count of damaged ones.
    fn scan(bytes: &[u8], piece: usize) -> (Vec<Record>, usize) {
        let (mut scanner, mut found, mut buffer) = (Scanner::default(), Vec::new(), Vec::new());
        for chunk in bytes.chunks(piece) {
            buffer.extend_from_slice(chunk);
            let done = scanner.feed(&buffer, &mut |record| found.push(record));
            buffer.drain(..done);
        }
        (found, scanner.finish(buffer.len()))
    }

    fn numbers(range: std::ops::Range<u64>) -> Vec<Record> {
        range.map(record).collect()
    }

    #[test]
    fn blocks_of_one_value_are_no_records() {
        for value in 0..=255 {
            assert_eq!(Record::decode(&[value; BLOCK]), None, "{value}");
        }
        assert_eq!(Record::decode(HEADER), None);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let block = record(7).encode();
        assert_eq!(Record::decode(&block), Some(record(7)));
        for bit in 0..128 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_torn_record_costs_itself_alone() {
        for kept in 1..BLOCK {
            let mut file = blocks(0..4);
            file.truncate(3 * BLOCK + kept);
            assert_eq!(scan(&file, 5), (numbers(0..3), 1), "at the end, {kept} bytes");
            file.extend(blocks(4..6));
            let found: Vec<Record> = [numbers(0..3), numbers(4..6)].concat();
            assert_eq!(scan(&file, 5), (found, 1), "in the middle, {kept} bytes");
        }
    }

    #[test]
    fn a_hole_of_zeroes_costs_what_it_covers() {
        let mut file = blocks(0..1000);
        file[100 * BLOCK..356 * BLOCK].fill(0);
        assert_eq!(scan(&file, 4096), ([numbers(0..100), numbers(356..1000)].concat(), 256));
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1..50usize) {
            let (found, damaged) = scan(&bytes, piece);
            prop_assert_eq!((found.len(), damaged), (0, bytes.len().div_ceil(BLOCK)));
        }

        #[test]
        fn the_size_of_reads_does_not_matter(
            noise in prop::collection::vec(any::<u8>(), 1..40), before in 0..5u64, after in 5..9u64, piece in 1..70usize
        ) {
            let file = [blocks(0..before), noise.clone(), blocks(5..after)].concat();
            let found = [numbers(0..before), numbers(5..after)].concat();
            prop_assert_eq!(scan(&file, piece), (found, noise.len().div_ceil(BLOCK)));
        }

        /// A disk that takes any number of bytes at a time, as one that is full now and then does.
        #[test]
        fn torn_writes_lose_and_reorder_nothing(takes in prop::collection::vec(0..100usize, 0..60)) {
            let (mut backlog, mut file, mut pushed) = (Backlog::default(), Vec::new(), 0);
            let everything = usize::MAX;
            for take in takes.into_iter().chain([everything, everything]) {
                for _ in 0..2 {
                    backlog.push(record(pushed).encode());
                    pushed += 1;
                }
                let front = backlog.front().unwrap_or_default();
                let written = take.min(front.len());
                file.extend_from_slice(&front[..written]);
                backlog.written(written);
            }
            while let Some(front) = backlog.front() {
                file.extend_from_slice(front);
                backlog.written(front.len());
            }
            prop_assert_eq!(scan(&file, 1000).0, numbers(0..pushed));
        }
    }

    #[test]
    fn a_full_backlog_counts_what_it_cannot_keep() {
        let mut backlog = Backlog::default();
        for number in 0..UNSAVED_MAX as u64 + 3 {
            backlog.push(record(number).encode());
        }
        assert_eq!((backlog.queue.len(), backlog.dropped), (UNSAVED_MAX, 3));
        assert_eq!(&backlog.front().unwrap()[..BLOCK], record(0).encode());
        backlog.written(UNSAVED_MAX * BLOCK);
        assert!(backlog.front().is_none() && backlog.queue.capacity() < 100);
    }

    #[test]
    fn the_start_of_a_file_tells_whose_it_is() {
        for length in 0..BLOCK {
            assert_eq!(Start::of(&HEADER[..length]), Start::Unwritten, "{length}");
            assert_eq!(Start::of(&[&HEADER[..length], HEADER].concat()), Start::Ours, "{length}");
        }
        assert_eq!(
            Start::of(
                b"vizard replay 2
abcdefghijklmnop"
            ),
            Start::OtherVersion
        );
        for foreign in [&b"listen = 443"[..], b"0", &[0; 32], b"vizard replaying things"] {
            assert_eq!(Start::of(foreign), Start::Foreign);
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vizard.toml");
        fs::write(&path, "listen = [\"0.0.0.0:443\"]\n").unwrap();
        assert_eq!(Journal::open(&path).err().unwrap().kind(), ErrorKind::InvalidData);
        assert_eq!(fs::read(&path).unwrap(), b"listen = [\"0.0.0.0:443\"]\n");
        assert_eq!(Journal::open(Path::new("/dev/null")).err().unwrap().kind(), ErrorKind::InvalidInput);
        assert!(Journal::open(folder.path()).is_err());
    }

    /// The records of the file after it was opened, and whether its start was damaged and is kept.
    fn opened(path: &Path) -> (Vec<Record>, bool) {
        let (journal, mut found) = (Journal::open(path).unwrap(), Vec::new());
        journal.scan(|record| found.push(record)).unwrap();
        (found, journal.repaired().is_some_and(|repaired| repaired.copy.as_ref().is_some_and(|copy| copy.exists())))
    }

    #[test]
    fn damage_at_the_start_costs_no_more_than_elsewhere() {
        for bit in 0..8 * BLOCK {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("replay");
            let mut file = [HEADER.to_vec(), blocks(0..2)].concat();
            file[bit / 8] ^= 1 << (bit % 8);
            if is_other_version(&file) {
                continue;
            }
            fs::write(&path, &file).unwrap();
            assert_eq!(Journal::open_to_read(&path).unwrap().scan(|_| {}).unwrap().damaged, 0);
            assert_eq!(fs::read(&path).unwrap(), file, "bit {bit}: reading changes nothing");
            assert_eq!(opened(&path), (numbers(0..2), true), "bit {bit}");
            assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), file, "bit {bit}");
            assert_eq!(opened(&path), (numbers(0..2), false), "bit {bit}: once");
        }
    }

    #[test]
    fn a_file_whose_front_was_cut_off_keeps_every_record() {
        for cut in 1..2 * BLOCK {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("replay");
            fs::write(&path, &[HEADER.to_vec(), blocks(0..9)].concat()[cut..]).unwrap();
            let (mut found, kept) = opened(&path);
            assert!(kept, "{cut}");
            found.sort_by_key(|record| record.tag.0);
            found.dedup();
            let first = u64::from(cut > BLOCK);
            assert_eq!(found, numbers(first..9), "{cut} bytes");
        }
    }

    #[test]
    fn a_file_of_zeroes_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        for length in [1, BLOCK, 3 * BLOCK + 1] {
            fs::write(&path, vec![0; length]).unwrap();
            assert_eq!(opened(&path), (Vec::new(), true), "{length}");
            Journal::open(&path).unwrap().append(record(1));
            assert_eq!(opened(&path), (numbers(1..2), false), "{length}");
        }
    }

    #[test]
    fn a_file_with_few_records_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let foreign = [vec![7; 10 * BLOCK], blocks(0..2)].concat();
        for foreign in [foreign, b"vizard replay 12\nwith more behind".to_vec(), vec![255; 100]] {
            fs::write(&path, &foreign).unwrap();
            assert_eq!(Journal::open(&path).err().unwrap().kind(), ErrorKind::InvalidData);
            assert_eq!(fs::read(&path).unwrap(), foreign);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_header_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        fs::write(&path, &HEADER[..5]).unwrap();
        Journal::open(&path).unwrap().append(record(1));
        let mut found = Vec::new();
        assert_eq!(Journal::open(&path).unwrap().scan(|record| found.push(record)).unwrap().damaged, 1);
        assert_eq!(found, [record(1)]);
    }

    #[test]
    fn reads_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let count = 3 * (READ_SIZE / BLOCK) as u64 + 1;
        fs::write(&path, [HEADER.to_vec(), b"torn".to_vec(), blocks(0..count)].concat()).unwrap();
        let mut found = Vec::new();
        assert_eq!(Journal::open(&path).unwrap().scan(|record| found.push(record)).unwrap().damaged, 1);
        assert_eq!(found, numbers(0..count));
    }

    #[test]
    fn a_file_that_refuses_gets_everything_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        fs::write(&path, HEADER).unwrap();
        // A descriptor without the right to write stands for a disk that refuses.
        let [file, in_place] = [(); 2].map(|()| File::open(&path).unwrap());
        let mut journal = Journal { file, in_place, state: Mutex::default(), repaired: None };
        journal.append(record(0));
        journal.append(record(1));
        assert!(journal.sync().is_err());
        let health = journal.health();
        assert_eq!((health.unsaved, health.is_well()), (2, false));
        assert!(health.error.is_some_and(|error| error.raw_os_error().is_some()));

        journal.file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        journal.append(record(2));
        assert!(journal.health().is_well());
        journal.sync().unwrap();
        let mut found = Vec::new();
        assert_eq!(journal.scan(|record| found.push(record)).unwrap().damaged, 0);
        assert_eq!(found, numbers(0..3));
    }

    #[test]
    fn root_writes_through_no_link_that_the_user_of_the_service_has_planted() {
        if !is_root() {
            return;
        }
        let (_home, state, precious) = hostile();
        fs::write(&precious, "").unwrap();
        let path = state.join("replay");
        plant(&precious, &path);
        assert!(Journal::open(&path).is_err() && Journal::open_to_read(&path).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"", "an empty file would get a header");
        fs::remove_file(&path).unwrap();
        Journal::open(&path).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (OTHER, 0o600), "of the folder's owner");
    }
}
