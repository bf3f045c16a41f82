//! How outgoing data is cut into records: as the cover cuts its own.

use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::record::{MAX_ENCRYPTED, MIN_ENCRYPTED};

/// Payload sizes of successive records in bulk data, over and over.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<[usize]>);

impl Default for Pattern {
    /// Full records, as most servers send them.
    fn default() -> Self {
        Self(Arc::new([MAX_ENCRYPTED]))
    }
}

impl Pattern {
    /// A pattern that was seen. Sizes that no record may have are
    /// left out; a pattern without others is the usual one.
    pub fn seen(sizes: &[u16]) -> Self {
        let usable = MIN_ENCRYPTED..=MAX_ENCRYPTED;
        let sizes: Arc<[usize]> =
            sizes.iter().map(|size| usize::from(*size)).filter(|size| usable.contains(size)).collect();
        if sizes.is_empty() { Self::default() } else { Self(sizes) }
    }

    /// The size of the record with this number.
    pub fn size(&self, number: usize) -> usize {
        self.0[number % self.0.len()]
    }
}

/// The last pattern that was seen, so that all sessions share one.
#[derive(Debug, Default)]
pub struct Patterns(Mutex<(Vec<u16>, Pattern)>);

impl Patterns {
    /// As [`Pattern::seen`].
    pub fn seen(&self, sizes: &[u16]) -> Pattern {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != sizes {
            *last = (sizes.to_vec(), Pattern::seen(sizes));
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_round_again_and_impossible_ones_are_left_out() {
        let pattern = Pattern::seen(&[16_401, 16, 26, 16_402, 0]);
        assert_eq!([0, 1, 2, 3].map(|number| pattern.size(number)), [16_401, 26, 16_401, 26]);
        for sizes in [&[][..], &[3, 60_000]] {
            assert_eq!(Pattern::seen(sizes).size(7), MAX_ENCRYPTED);
        }
    }

    #[test]
    fn sessions_share_a_pattern_while_it_stays() {
        let patterns = Patterns::default();
        let [first, again, other] = [&[26][..], &[26], &[27]].map(|sizes| patterns.seen(sizes));
        assert!(Arc::ptr_eq(&first.0, &again.0));
        assert_eq!((first.size(0), other.size(0), patterns.seen(&[]).size(0)), (26, 27, MAX_ENCRYPTED));
    }
}
