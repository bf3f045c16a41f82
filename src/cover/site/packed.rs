//! Compressed files: each is compressed once and kept, within a bound on memory that no client can pass.
//!
//! One file is compressed at a time, whatever the number of connections. Where there is no room, or too long a queue,
//! a client gets the file as it is, which is what `Accept-Encoding` allows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use tokio::sync::Semaphore;

/// A version of a file: device, inode, time of change and length.
pub(super) type Key = (u64, u64, i64, i64, u64);

/// Compressed files.
pub(super) struct Packed {
    shelf: Mutex<Shelf>,
    turn: Semaphore,
    bound: usize,
}

#[derive(Default)]
struct Shelf {
    files: HashMap<Key, Kept>,
    size: usize,
    /// Number of requests for files so far, which orders the files by their last use.
    uses: u64,
    waiting: usize,
}

struct Kept {
    bytes: Arc<Vec<u8>>,
    used: u64,
}

/// Part of the bytes that are kept; while it lives they are not given back.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Packed {
    pub(super) fn new() -> Packed {
        Packed::bounded(BOUND)
    }

    fn bounded(bound: usize) -> Packed {
        Packed { shelf: Mutex::default(), turn: Semaphore::new(1), bound }
    }

    /// The file in compressed form; `None` if it is better sent as it is.
    pub(super) async fn get(&self, key: Key, file: &Arc<File>) -> Option<Bytes> {
        if key.4 > LARGEST {
            return None;
        }
        if let Some(bytes) = self.kept(&key) {
            return Some(bytes);
        }
        let _waiting = Waiting::enter(&self.shelf)?;
        let turn = self.turn.acquire().await.ok()?;
        // Another client may have waited for the same.
        if let Some(bytes) = self.kept(&key) {
            return Some(bytes);
        }
        let length = usize::try_from(key.4).ok()?;
        if !self.shelf().make_room(self.bound, length) {
            return None;
        }
        let file = Arc::clone(file);
        let packing = tokio::task::spawn_blocking(move || pack(&file, key.4));
        let bytes = match packing.await.ok()? {
            // What cannot be made smaller would only take room.
            Ok(bytes) if bytes.len() <= length => Arc::new(bytes),
            _ => return None,
        };
        self.shelf().keep(key, Arc::clone(&bytes));
        drop(turn);
        Some(Bytes::from_owner(Lent(bytes)))
    }

    fn kept(&self, key: &Key) -> Option<Bytes> {
        let mut shelf = self.shelf();
        shelf.uses += 1;
        let uses = shelf.uses;
        let kept = shelf.files.get_mut(key)?;
        kept.used = uses;
        Some(Bytes::from_owner(Lent(Arc::clone(&kept.bytes))))
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }
}

impl Shelf {
    /// Gives back what no one is being sent, the longest unused first; says whether there is room for one more.
    fn make_room(&mut self, bound: usize, length: usize) -> bool {
        while self.size + length > bound {
            let idle = self.files.iter().filter(|(_, kept)| Arc::strong_count(&kept.bytes) == 1);
            let Some(oldest) = idle.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { return false };
            self.size -= self.files.remove(&oldest).map_or(0, |kept| kept.bytes.len());
        }
        true
    }

    fn keep(&mut self, key: Key, bytes: Arc<Vec<u8>>) {
        self.uses += 1;
        self.size += bytes.len();
        let used = self.uses;
        if let Some(old) = self.files.insert(key, Kept { bytes, used }) {
            self.size -= old.bytes.len();
        }
    }
}

/// A place in the queue.
struct Waiting<'s>(&'s Mutex<Shelf>);

impl Waiting<'_> {
    fn enter(shelf: &Mutex<Shelf>) -> Option<Waiting<'_>> {
        let mut queue = lock(shelf);
        (queue.waiting < LONGEST_QUEUE).then(|| queue.waiting += 1).map(|()| Waiting(shelf))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.0).waiting -= 1;
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compresses a short text at once.
pub(super) fn pack_bytes(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().operating_system(UNIX).write(Vec::new(), Compression::new(LEVEL));
    encoder.write_all(text)?;
    encoder.finish()
}

fn pack(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().operating_system(UNIX).write(Vec::new(), Compression::new(LEVEL));
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        file.read_exact_at(&mut buffer[..wanted], at)?;
        encoder.write_all(&buffer[..wanted])?;
        at += wanted as u64;
    }
    let mut packed = encoder.finish()?;
    packed.shrink_to_fit();
    Ok(packed)
}

/// For all compressed files together, whether they are only kept or being sent: more than the texts of a usual site.
const BOUND: usize = 32 << 20;

/// Larger texts are sent as they are.
pub(super) const LARGEST: u64 = 8 << 20;

/// Requests that wait for a file to be compressed.
const LONGEST_QUEUE: usize = 256;

/// Compression level that nginx recommends as the best compromise.
const LEVEL: u32 = 6;

/// The operating system, as zlib writes it.
const UNIX: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: usize) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        // Nothing that compresses: what comes out is about as long.
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 % 128
        })
        .take(length)
        .collect();
        file.write_all(&noise).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_file_is_compressed_once() {
        let (packed, file) = (Packed::bounded(100_000), file(10_000));
        let key = (1, 1, 0, 0, 10_000);
        let (first, second) = tokio::join!(packed.get(key, &file), packed.get(key, &file));
        assert_eq!(first.unwrap().as_ptr(), second.unwrap().as_ptr(), "the same bytes");
        assert_eq!(packed.shelf().files.len(), 1);
        let empty = Arc::new(tempfile::tempfile().unwrap());
        assert!(packed.get((1, 2, 0, 0, 10), &empty).await.is_none(), "a file that became shorter");
    }

    #[tokio::test]
    async fn memory_has_a_bound_that_readers_cannot_pass() {
        let (packed, file) = (Packed::bounded(35_000), file(10_000));
        let mut held = Vec::new();
        for inode in 0..3 {
            held.push(packed.get((1, inode, 0, 0, 10_000), &file).await.unwrap());
        }
        assert!(packed.get((1, 3, 0, 0, 10_000), &file).await.is_none(), "all are being sent");
        held.remove(1);
        assert!(packed.get((1, 3, 0, 0, 10_000), &file).await.is_some());
        assert!(packed.shelf().size <= 35_000);
        assert!(packed.kept(&(1, 1, 0, 0, 10_000)).is_none() && packed.kept(&(1, 0, 0, 0, 10_000)).is_some());
    }
}
