//! Counters by a small set of keys, which can be listed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Counters by key. The set of keys must be closed: nothing that a peer writes may be one.
#[derive(Debug)]
pub struct Tally<K>(RwLock<BTreeMap<K, AtomicU64>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Ord + Copy> Tally<K> {
    /// Counts this key once.
    pub fn count(&self, key: K) {
        self.add(key, 1);
    }

    /// Counts this key `times`.
    pub fn add(&self, key: K, times: u64) {
        if let Some(counter) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            counter.fetch_add(times, Ordering::Relaxed);
            return;
        }
        let mut counters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        counters.entry(key).or_default().fetch_add(times, Ordering::Relaxed);
    }

    /// Returns the counts in the order of the keys.
    pub fn list(&self) -> Vec<(K, u64)> {
        let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(key, counter)| (*key, counter.load(Ordering::Relaxed))).collect()
    }

    /// The sum over all keys.
    pub fn sum(&self) -> u64 {
        self.list().into_iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_apart_and_listed_in_order() {
        let tally = Tally::default();
        tally.count("b");
        tally.add("a", 3);
        tally.count("b");
        assert_eq!(tally.list(), [("a", 3), ("b", 2)]);
        assert_eq!(tally.sum(), 5);
    }
}
