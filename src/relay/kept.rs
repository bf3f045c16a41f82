//! Bytes that wait with a session: the beginning of a record for its rest, or the rest of one for the client.
//!
//! In a rush a thousand sessions have some at once, each for a moment. An allocator keeps that memory for the next rush; here
//! it kept all of it, 8 MiB, as it does where one thread gives back what another took. So whatever is not small lies in
//! pages of its own, and these the kernel has back at once. Each thread holds on to a few of them, so that a few busy
//! sessions map none.

use std::cell::RefCell;
use std::ops::Deref;

use memmap2::MmapMut;

use crate::wire::record::MAX_ENCRYPTED;

/// Smallest size that is mapped; anything shorter is left to the allocator. A quarter of a page, because what many wait
/// with for a moment has to be back with the kernel sooner than a page has to be full. Anything longer than [`ROOM`] is
/// left to it, too: it comes from clients that send more than a data centre takes, and to map it each time cost them a
/// tenth more CPU time or more, in one run.
const LEAST: usize = 1024;

/// So many bytes are mapped at once, a record's; those that are never used cost nothing.
const ROOM: usize = MAX_ENCRYPTED;

/// So many unused mappings stay with a thread.
const SPARE: usize = 4;

thread_local! {
    static UNUSED: RefCell<Vec<MmapMut>> = const { RefCell::new(Vec::new()) };
}

/// Bytes as a slice. Small itself, because most sessions have none.
#[derive(Debug, Default)]
pub struct PendingBytes(Option<Box<PendingPlace>>);

#[derive(Debug)]
enum PendingPlace {
    Heap(Box<[u8]>),
    Pages { pages: Pages, length: usize },
}

impl PendingBytes {
    /// These bytes, one part after the other.
    pub fn of(parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len()).sum();
        let pages = if (LEAST..=ROOM).contains(&length) { Pages::new() } else { None };
        let place = match pages {
            Some(mut pages) => {
                let mut room = pages.bytes_mut();
                for part in parts {
                    let (here, later) = room.split_at_mut(part.len());
                    here.copy_from_slice(part);
                    room = later;
                }
                PendingPlace::Pages { pages, length }
            }
            None => PendingPlace::Heap(parts.concat().into()),
        };
        Self((length > 0).then(|| Box::new(place)))
    }
}

impl From<&[u8]> for PendingBytes {
    fn from(bytes: &[u8]) -> Self {
        Self::of(&[bytes])
    }
}

impl Clone for PendingBytes {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl Deref for PendingBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.0.as_deref() {
            None => &[],
            Some(PendingPlace::Heap(bytes)) => bytes,
            Some(PendingPlace::Pages { pages, length }) => &pages.bytes()[..*length],
        }
    }
}

/// A mapping, until it is dropped.
#[derive(Debug)]
struct Pages(Option<MmapMut>);

impl Pages {
    /// `None` where the kernel has none to give.
    fn new() -> Option<Self> {
        let unused = UNUSED.with_borrow_mut(Vec::pop);
        unused.or_else(|| MmapMut::map_anon(ROOM).ok()).map(|pages| Self(Some(pages)))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // A thread that ends has nothing to hold on to any more.
        let _ = UNUSED.try_with(|unused| {
            let mut unused = unused.borrow_mut();
            if unused.len() < SPARE {
                unused.extend(self.0.take());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_are_what_they_were() {
        for length in [0, 1, LEAST - 1, LEAST, LEAST + 1, ROOM, ROOM + 1, 5 * ROOM] {
            let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let kept = PendingBytes::from(&bytes[..]);
            assert_eq!((&*kept, &*kept.clone()), (&bytes[..], &bytes[..]));
            let (front, back) = bytes.split_at(length / 3);
            assert_eq!(&*PendingBytes::of(&[front, &[], back]), &bytes[..]);
            // And once more in pages that others have used.
            drop(kept);
            assert_eq!(&*PendingBytes::from(&[7; LEAST][..]), &[7; LEAST]);
        }
    }

    #[test]
    fn a_thread_holds_on_to_a_few_pages_only() {
        let unused = || UNUSED.with_borrow(Vec::len);
        let held: Vec<PendingBytes> = (0..3 * SPARE).map(|_| PendingBytes::from(&[1; LEAST][..])).collect();
        assert_eq!(unused(), 0);
        drop(held);
        assert_eq!(unused(), SPARE);
        let again = PendingBytes::from(&[2; LEAST][..]);
        assert_eq!((unused(), &again[..]), (SPARE - 1, &[2; LEAST][..]));
    }
}
