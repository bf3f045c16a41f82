//! How outgoing data is cut into records: as the cover cuts its own.

use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::record::{MAX_ENCRYPTED, MIN_ENCRYPTED};

/// Payload sizes of successive records in bulk data, over and over.
///
/// Servers fill larger buffers once a visitor is slower than they are, and their records show it; so there are two rows.
#[derive(Clone, Debug)]
pub struct Pattern {
    sizes: Arc<[usize]>,
    /// Sizes that take their place once the client has made us wait; empty if none do.
    stalled: Arc<[usize]>,
}

impl Default for Pattern {
    /// Full records, as most servers send them.
    fn default() -> Self {
        Self { sizes: Arc::new([MAX_ENCRYPTED]), stalled: Arc::new([]) }
    }
}

impl Pattern {
    /// A pattern that was seen, and what it became once the visitor was slow. Sizes that no record may have are left out;
    /// a pattern without others is the usual one.
    pub fn seen(sizes: &[u16], stalled: &[u16]) -> Self {
        let usable = |sizes: &[u16]| -> Arc<[usize]> {
            let legal = MIN_ENCRYPTED..=MAX_ENCRYPTED;
            sizes.iter().map(|size| usize::from(*size)).filter(|size| legal.contains(size)).collect()
        };
        let (sizes, mut stalled) = (usable(sizes), usable(stalled));
        // Where every record has the one size, nothing changes.
        if stalled == sizes && sizes.len() == 1 {
            stalled = Arc::new([]);
        }
        if sizes.is_empty() { Self { stalled, ..Self::default() } } else { Self { sizes, stalled } }
    }

    /// The size of the record with this number.
    pub fn size(&self, number: usize) -> usize {
        self.sizes[number % self.sizes.len()]
    }

    /// The client has made us wait. Says whether that changes the sizes from here on.
    pub fn stall(&mut self) -> bool {
        let changes = !self.stalled.is_empty();
        if changes {
            self.sizes = std::mem::replace(&mut self.stalled, Arc::new([]));
        }
        changes
    }
}

/// The last pattern that was seen, so that all sessions share one.
#[derive(Debug, Default)]
pub struct Patterns(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    sizes: Vec<u16>,
    stalled: Vec<u16>,
    pattern: Pattern,
}

impl Patterns {
    /// As [`Pattern::seen`].
    pub fn seen(&self, sizes: &[u16], stalled: &[u16]) -> Pattern {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.sizes != sizes || last.stalled != stalled {
            let pattern = Pattern::seen(sizes, stalled);
            *last = Seen { sizes: sizes.to_vec(), stalled: stalled.to_vec(), pattern };
        }
        last.pattern.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_round_again_and_impossible_ones_are_left_out() {
        let pattern = Pattern::seen(&[16_401, 16, 26, 16_402, 0], &[]);
        assert_eq!([0, 1, 2, 3].map(|number| pattern.size(number)), [16_401, 26, 16_401, 26]);
        for sizes in [&[][..], &[3, 60_000]] {
            assert_eq!(Pattern::seen(sizes, sizes).size(7), MAX_ENCRYPTED);
        }
    }

    #[test]
    fn a_client_that_makes_us_wait_gets_the_other_row_from_then_on() {
        let mut pattern = Pattern::seen(&[100, 200], &[300, 16]);
        assert_eq!(pattern.size(1), 200);
        assert!(pattern.stall());
        assert!(!pattern.stall());
        assert_eq!([0, 1].map(|number| pattern.size(number)), [300, 300]);
        assert!(!Pattern::seen(&[100], &[3]).stall());
        assert!(!Pattern::seen(&[100], &[100]).stall(), "there is only one");
    }

    #[test]
    fn sessions_share_a_pattern_while_it_stays() {
        let patterns = Patterns::default();
        let [first, again, other] = [&[26][..], &[26], &[27]].map(|sizes| patterns.seen(sizes, &[]));
        assert!(Arc::ptr_eq(&first.sizes, &again.sizes) && Arc::ptr_eq(&first.stalled, &again.stalled));
        assert_eq!((first.size(0), other.size(0), patterns.seen(&[], &[]).size(0)), (26, 27, MAX_ENCRYPTED));
        assert!(patterns.seen(&[26], &[30]).stall());
    }
}
