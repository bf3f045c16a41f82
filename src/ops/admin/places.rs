//! Places of connections on the admin listener: how many there are, how many one peer may have, and who makes room.
//!
//! A connection that waits for its peer (for a handshake, a request, the rest of a body, or for its answer to be read) is
//! silent. Where there is no place left, the one that has been silent for the longest gives up its own: of the peer that
//! wants another one if that has its share, else of the peer that has most. So idle connections, however many and of
//! however many addresses, keep no one out; a connection whose request is being worked on stays.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// Connections at once.
pub const MOST: usize = 128;

/// Those of one address, and of all that come through the socket.
pub const SHARE: usize = 32;

/// Places that only a request for health may be worked on in, whatever else is going on.
pub const HEALTH: usize = 8;

/// Origin of a connection; `None`: through the socket in the file system.
pub type From = Option<IpAddr>;

/// All places.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<Table>>);

/// At most [`MOST`] entries.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    from: From,
    /// Since when it is silent; `None` while its request is worked on.
    silent: Option<Instant>,
    end: CancellationToken,
}

/// AdminPermit of one connection, given back when this is dropped.
#[derive(Debug)]
pub struct AdminPermit {
    id: u64,
    places: Places,
    end: CancellationToken,
}

/// Keeps a connection from making room for others; dropped, it is silent again.
#[derive(Debug)]
pub struct AtWork<'a>(&'a AdminPermit);

impl Places {
    /// A place for a connection from there, which another one may have to give up; `None` if all are being worked on.
    pub fn take(&self, from: From, now: Instant) -> Option<AdminPermit> {
        let mut table = self.lock();
        let full = table.held.len() >= MOST;
        let at_share = table.count(from) >= SHARE;
        if full || at_share {
            let giver = if at_share { from } else { table.richest()? };
            let silent = table.held.iter().filter(|(_, held)| held.from == giver);
            let longest = silent.filter_map(|(id, held)| Some((held.silent?, *id))).min().map(|(_, id)| id)?;
            if let Some(held) = table.held.remove(&longest) {
                held.end.cancel();
            }
        }
        let (id, end) = (table.next, CancellationToken::new());
        table.next += 1;
        table.held.insert(id, Held { from, silent: Some(now), end: end.clone() });
        Some(AdminPermit { id, places: self.clone(), end })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn count(&self, from: From) -> usize {
        self.held.values().filter(|held| held.from == from).count()
    }

    /// The peer with most connections that are silent.
    fn richest(&self) -> Option<From> {
        let mut counts = HashMap::<From, usize>::new();
        for held in self.held.values().filter(|held| held.silent.is_some()) {
            *counts.entry(held.from).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from)
    }
}

impl AdminPermit {
    /// Waits until another connection needs this place.
    pub async fn given_up(&self) {
        self.end.cancelled().await;
    }

    /// Says that a request is worked on from now on; `None` if there is no room for that: the last [`HEALTH`] places are
    /// for questions whether the proxy serves.
    pub fn work(&self, for_health: bool) -> Option<AtWork<'_>> {
        let mut table = self.places.lock();
        let busy = table.held.values().filter(|held| held.silent.is_none()).count();
        if !for_health && busy >= MOST - HEALTH {
            return None;
        }
        if let Some(held) = table.held.get_mut(&self.id) {
            held.silent = None;
        }
        drop(table);
        Some(AtWork(self))
    }
}

impl Drop for AdminPermit {
    fn drop(&mut self) {
        self.places.lock().held.remove(&self.id);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.0.places.lock().held.get_mut(&self.0.id) {
            held.silent = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn from(host: u8) -> From {
        Some([192, 0, 2, host].into())
    }

    #[test]
    fn the_longest_silent_of_the_same_peer_makes_room_at_its_share() {
        let (places, start) = (Places::default(), Instant::now());
        let other = places.take(from(2), start).unwrap();
        let at = |n: usize| start + Duration::from_secs(n as u64);
        let mut held: Vec<_> = (0..SHARE).map(|n| places.take(from(1), at(n)).unwrap()).collect();
        let work = held[0].work(false);
        let newest = places.take(from(1), at(99)).unwrap();
        let ended: Vec<_> = held.iter().map(|place| place.end.is_cancelled()).collect();
        assert!(ended[1] && ended.iter().filter(|ended| **ended).count() == 1, "the first is being worked on");
        assert!(!other.end.is_cancelled() && !newest.end.is_cancelled());
        drop(work);
        held.clear();
        assert_eq!(places.lock().held.len(), 2);
    }

    #[test]
    fn peers_with_many_make_room_for_those_with_few() {
        let (places, now) = (Places::default(), Instant::now());
        let held: Vec<_> = (0..MOST).map(|n| places.take(from((n / SHARE) as u8), now).unwrap()).collect();
        let few: Vec<_> = (100..132).map(|host| places.take(from(host), now).unwrap()).collect();
        assert!(few.iter().all(|place| !place.end.is_cancelled()));
        assert_eq!(held.iter().filter(|place| place.end.is_cancelled()).count(), few.len());
        assert_eq!(places.lock().held.len(), MOST);
    }

    #[test]
    fn work_leaves_room_for_questions_of_health() {
        let (places, now) = (Places::default(), Instant::now());
        let held: Vec<_> = (0..MOST).map(|n| places.take(from((n / SHARE) as u8), now).unwrap()).collect();
        let work: Vec<_> = held.iter().map_while(|place| place.work(false)).collect();
        assert_eq!(work.len(), MOST - HEALTH);
        let place = places.take(from(9), now).expect("one is silent");
        assert!(place.work(false).is_none() && place.work(true).is_some());
    }
}
