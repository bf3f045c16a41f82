//! Places of streams: how many of WEB's streams may have a connection to Telegram at once, in all and by key, and how quickly
//! a key may begin them.
//!
//! Streams are opened inside of sessions, where the listeners' queue cannot hold them back, so that they have descriptors of
//! their own beside those of clients: a visitor that opens many of them keeps no client out. A key may have as many as are free, which
//! leaves a part for every other key, as in [`crate::webproxy::budget`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::auth::SecretTag;

/// Greatest number of places that the rate follows.
const MOST_PLACES: usize = 1 << 20;

/// Parts of all places of which a key may take one in a second, again and again. It may take all that it may have at once.
const PARTS_IN_A_SECOND: u32 = 8;

/// Places, and the streams that have one.
#[derive(Debug)]
pub(super) struct StreamPlaces {
    most: usize,
    rate: DefaultKeyedRateLimiter<SecretTag>,
    taken: Mutex<TakenPlaces>,
}

#[derive(Debug, Default)]
struct TakenPlaces {
    all: usize,
    keys: HashMap<SecretTag, usize>,
}

/// Reason why a stream has no place. Its name is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// Its key has as many as are free.
    Full,
    /// Its key begins too many.
    TooFast,
}

impl NoPlace {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Full => "too many streams of its key at once",
            Self::TooFast => "too many new streams of its key",
        }
    }
}

impl StreamPlaces {
    /// So many places.
    pub(super) fn new(most: usize) -> Self {
        let burst = u32::try_from(most.clamp(1, MOST_PLACES)).unwrap_or(u32::MAX);
        let of = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(of(burst / PARTS_IN_A_SECOND)).allow_burst(of(burst));
        Self { most, rate: RateLimiter::dashmap(quota), taken: Mutex::default() }
    }

    /// A place for a stream of this key.
    pub(super) fn take(self: &Arc<Self>, key: SecretTag) -> Result<StreamPlace, NoPlace> {
        if self.rate.check_key(&key).is_err() {
            return Err(NoPlace::TooFast);
        }
        let mut taken = self.taken();
        let free = self.most.saturating_sub(taken.all);
        if free <= taken.keys.get(&key).copied().unwrap_or_default() {
            return Err(NoPlace::Full);
        }
        taken.all += 1;
        *taken.keys.entry(key).or_default() += 1;
        Ok(StreamPlace { places: Arc::clone(self), key })
    }

    /// Forgets the rates of keys that have begun nothing for a while. To be called every few seconds.
    pub(super) fn tidy(&self) {
        self.rate.retain_recent();
    }

    fn taken(&self) -> MutexGuard<'_, TakenPlaces> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Place of a stream; dropped, it is given back.
#[derive(Debug)]
pub(super) struct StreamPlace {
    places: Arc<StreamPlaces>,
    key: SecretTag,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Entry::Occupied(mut entry) = taken.keys.entry(self.key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SecretTag {
        SecretTag::of(&[number; 16])
    }

    fn taken(places: &Arc<StreamPlaces>, number: u8) -> Vec<StreamPlace> {
        std::iter::from_fn(|| places.take(key(number)).ok()).collect()
    }

    #[test]
    fn a_key_leaves_places_for_the_others() {
        let places = Arc::new(StreamPlaces::new(64));
        let (first, second) = (taken(&places, 1), taken(&places, 2));
        assert_eq!((first.len(), second.len()), (32, 16));
        assert_eq!(places.take(key(1)).err(), Some(NoPlace::Full));
        drop(second);
        assert!(places.take(key(3)).is_ok());
        drop(first);
        assert!(places.taken().keys.is_empty() && places.taken().all == 0);
    }

    #[test]
    fn a_key_that_opens_and_closes_without_end_is_slowed_down() {
        let places = Arc::new(StreamPlaces::new(100));
        let begun = (0..10_000).filter(|_| places.take(key(1)).is_ok()).count();
        assert!((100..1000).contains(&begun), "{begun}");
        assert_eq!(places.take(key(1)).err(), Some(NoPlace::TooFast));
        assert!(places.take(key(2)).is_ok());
    }
}
