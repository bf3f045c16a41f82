//! The rhythm in which a server cuts something large into records.
//!
//! Servers fill a buffer of their own, cut it into full records and a rest, and begin again, so the sizes come round. What
//! comes round is kept once, for a session to repeat; a row without such a rhythm is kept as it is.

/// Longest rhythm that is looked for. nginx has five records, and 17 where it was told to make them small.
const LONGEST: usize = 64;

/// Most records of a row without a rhythm that are kept.
const MOST: usize = 256;

/// The rhythm of successive records in one answer: its records begin with the largest.
pub(super) fn rhythm(records: &[u16]) -> Vec<u16> {
    let midst = midst(records);
    let found = (1..=LONGEST).find_map(|period| {
        let (start, length) = longest_repetition(midst, period);
        // Three rounds are no chance, and half of it all leaves room for one thing that came between.
        (length >= 3 * period && 2 * length >= midst.len()).then(|| &midst[start..start + period])
    });
    match found {
        Some(round) => from_the_largest(round),
        None => midst.iter().copied().take(MOST).collect(),
    }
}

/// The records behind the slow start that some servers have, before the last ones that end the answer.
fn midst(records: &[u16]) -> &[u16] {
    let from = (records.len() / 4).max(1);
    let to = records.len().saturating_sub(2);
    records.get(from..to).unwrap_or_default()
}

/// Finds the longest stretch in which each record is as large as the one a `period` before it: its start and length.
fn longest_repetition(records: &[u16], period: usize) -> (usize, usize) {
    let (mut best, mut start) = ((0, 0), 0);
    for at in period..records.len() {
        if records[at] != records[at - period] {
            start = at - period + 1;
        }
        if at + 1 - start > best.1 {
            best = (start, at + 1 - start);
        }
    }
    best
}

/// The same round however it was met: it begins with its longest row of large records.
fn from_the_largest(round: &[u16]) -> Vec<u16> {
    let turned = |by: usize| [&round[by..], &round[..by]].concat();
    (0..round.len()).map(turned).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A beginning that is like nothing else, rounds, and an end.
    fn answer(round: &[u16], times: usize) -> Vec<u16> {
        [&[401, 186][..], &round.repeat(times), &[77, 19]].concat()
    }

    #[test]
    fn a_round_is_kept_once_and_begins_with_its_largest_records() {
        for (round, expected) in [
            (&[16_401, 16_401, 53][..], &[16_401, 16_401, 53][..]),
            (&[53, 16_401, 16_401], &[16_401, 16_401, 53]),
            (&[16_401, 89, 16_401, 16_401, 16_401], &[16_401, 16_401, 16_401, 16_401, 89]),
            (&[16_401], &[16_401]),
            (&[4113; 4], &[4113]),
        ] {
            assert_eq!(rhythm(&answer(round, 8)), expected);
        }
    }

    #[test]
    fn one_thing_in_between_does_not_hide_a_rhythm() {
        let round = [16_401, 16_401, 16_401, 16_401, 89];
        let records = [&round.repeat(3)[..], &[12_758, 3741], &round.repeat(9)].concat();
        assert_eq!(rhythm(&records), round);
    }

    #[test]
    fn what_has_no_rhythm_is_kept_without_beginning_and_end() {
        assert_eq!(rhythm(&[100, 1, 1, 2, 3, 4, 5, 6, 7, 9, 50, 19]), [2, 3, 4, 5, 6, 7, 9]);
        for short in [&[][..], &[1], &[1, 2], &[1, 2, 3]] {
            assert!(rhythm(short).is_empty());
        }
        let all: Vec<u16> = (0..1000).collect();
        assert_eq!(rhythm(&all), (250..506).collect::<Vec<u16>>());
    }

    proptest! {
        #[test]
        fn it_is_made_of_what_was_seen(records in prop::collection::vec(17u16..20, 0..300)) {
            let found = rhythm(&records);
            prop_assert!(found.len() <= MOST && found.iter().all(|size| records.contains(size)));
        }
    }
}
