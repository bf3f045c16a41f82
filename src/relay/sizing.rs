//! How outgoing data is cut into records: as the cover cuts its own.

use std::sync::Arc;

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
}
