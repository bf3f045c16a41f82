//! How outgoing data is cut into records.

use crate::wire::record::{MAX_ENCRYPTED, MIN_ENCRYPTED};

/// Payload sizes of the records that `length` bytes become: full ones, then the rest. A rest too small for a legal
/// record takes what it lacks from the one before it, so only a `length` below [`MIN_ENCRYPTED`] gives a record that is
/// shorter.
pub fn records(length: usize) -> impl Iterator<Item = usize> {
    let (full, rest) = (length / MAX_ENCRYPTED, length % MAX_ENCRYPTED);
    let lacking = if full > 0 && (1..MIN_ENCRYPTED).contains(&rest) { MIN_ENCRYPTED - rest } else { 0 };
    (0..full)
        .map(move |index| if index + 1 == full { MAX_ENCRYPTED - lacking } else { MAX_ENCRYPTED })
        .chain((rest > 0).then_some(rest + lacking))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_is_legal_and_none_is_lost(length in MIN_ENCRYPTED..200_000) {
            let sizes: Vec<usize> = records(length).collect();
            prop_assert_eq!(sizes.iter().sum::<usize>(), length);
            prop_assert!(sizes.iter().all(|size| (MIN_ENCRYPTED..=MAX_ENCRYPTED).contains(size)));
            prop_assert_eq!(sizes.len(), length.div_ceil(MAX_ENCRYPTED));
        }
    }

    #[test]
    fn borders() {
        let sizes = |length| records(length).collect::<Vec<_>>();
        assert!(sizes(0).is_empty());
        assert_eq!(sizes(5), [5]);
        assert_eq!(sizes(16_401), [16_401]);
        assert_eq!(sizes(16_402), [16_385, 17]);
        assert_eq!(sizes(32_802), [16_401, 16_401]);
    }
}
