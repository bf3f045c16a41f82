//! The set in memory: 65,536 shards by the first 16 bits of a key, each a sorted list of the next 32 bits behind a lock
//! of its own.
//!
//! Keys are digests, so shards are of one size: 153 entries each at ten million. A search is eight comparisons, an
//! insertion moves 300 bytes, and a shard that grows copies its 600 bytes alone, so no call ever waits for a table to be
//! rebuilt. A hash table would take two to four times the memory and stop for its doublings.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::Key;

const SHARDS: usize = 1 << 16;

/// A set of keys that only grows.
pub(super) struct Set {
    shards: Box<[Mutex<Shard>]>,
    len: AtomicUsize,
}

impl Set {
    /// Adds the key; false if it was there. One atomic step.
    pub(super) fn insert(&self, key: Key) -> bool {
        let (shard, rest) = split(key);
        // A holder of the lock has no way to panic between two changes, so a poisoned list is a sorted list.
        let new = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner).insert(rest);
        if new {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        new
    }

    /// Whether the key was added before.
    pub(super) fn contains(&self, key: Key) -> bool {
        let (shard, rest) = split(key);
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner).0.binary_search(&rest).is_ok()
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

/// A set that takes its first keys: unsorted until all are in, which is ten times faster than putting each in its place.
pub(super) struct Filling(Vec<Shard>);

impl Filling {
    pub(super) fn new() -> Self {
        Self(vec![Shard::default(); SHARDS])
    }

    /// Adds the key, which may be there already.
    pub(super) fn push(&mut self, key: Key) {
        let (shard, rest) = split(key);
        self.0[shard].push(rest);
    }

    /// The set of what was added.
    pub(super) fn finish(mut self) -> Set {
        self.0.iter_mut().for_each(Shard::sort);
        let len = self.0.iter().map(|shard| shard.0.len()).sum();
        Set { shards: self.0.into_iter().map(Mutex::new).collect(), len: AtomicUsize::new(len) }
    }
}

/// Sorted, without repetitions, once in a [`Set`].
#[derive(Clone, Default)]
struct Shard(Vec<u32>);

impl Shard {
    fn insert(&mut self, rest: u32) -> bool {
        let Err(place) = self.0.binary_search(&rest) else { return false };
        self.make_room();
        self.0.insert(place, rest);
        true
    }

    fn push(&mut self, rest: u32) {
        self.make_room();
        self.0.push(rest);
    }

    fn sort(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// Grows by an eighth where `Vec` would double: all shards are of one size, so they would all be half empty at once.
    fn make_room(&mut self) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(4 + self.0.len() / 8);
        }
    }
}

/// The number of the shard and what is remembered in it. The last two bytes matter on disk only.
fn split([a, b, c, d, e, f, _, _]: Key) -> (usize, u32) {
    (u16::from_be_bytes([a, b]).into(), u32::from_be_bytes([c, d, e, f]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Keys of few shards and few values, so that repetitions and neighbours are common.
    fn keys() -> impl Strategy<Value = Vec<Key>> {
        let byte = || prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()];
        prop::collection::vec((0..3u8, byte(), byte()).prop_map(|(a, b, c)| [a, 0, b, 0, 0, c, 0, 0]), 0..400)
    }

    proptest! {
        #[test]
        fn answers_like_a_plain_set(loaded in keys(), spent in keys()) {
            let mut filling = Filling::new();
            loaded.iter().for_each(|key| filling.push(*key));
            let set = filling.finish();
            let mut model: HashSet<Key> = loaded.into_iter().collect();
            prop_assert_eq!(set.len(), model.len());
            for key in spent {
                prop_assert_eq!(set.contains(key), model.contains(&key));
                prop_assert_eq!(set.insert(key), model.insert(key));
            }
            prop_assert_eq!(set.len(), model.len());
        }
    }

    #[test]
    fn six_bytes_count() {
        let set = Filling::new().finish();
        assert!(set.insert([0; 8]));
        for at in 0..8 {
            let mut key = [0; 8];
            key[at] = 1;
            assert_eq!(set.insert(key), at < 6, "byte {at}");
        }
    }

    #[test]
    fn room_is_never_more_than_an_eighth_too_much() {
        let mut shard = Shard::default();
        for rest in 0..10_000 {
            shard.insert(rest);
            assert!(shard.0.capacity() <= shard.0.len() + shard.0.len() / 8 + 4);
        }
    }
}
