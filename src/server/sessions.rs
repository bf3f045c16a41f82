//! The sessions that are going on: to be listed, and to be ended by others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::tariff::UserLimiter;
use crate::auth::{Keyring, Member, Permit, Refusal, SecretTag, UnixTime};
use crate::relay::meter::Meter;
use crate::telegram::DcId;
use crate::wire::HelloClass;
use crate::wire::fingerprint::Fingerprint;

/// One session.
#[derive(Debug)]
pub struct Live {
    /// Its number, which no other session of this process has.
    pub id: u64,
    /// User of the session.
    pub member: Arc<Member>,
    /// Its data centre.
    pub dc: DcId,
    /// Class of the client's hello.
    pub class: HelloClass,
    /// Time at which the client was admitted.
    pub since: UnixTime,
    /// The client's address. Not for the log, nor for a disk.
    pub from: IpAddr,
    /// The key that the client came with.
    pub key: Option<SecretTag>,
    /// Which client it is, if it was greeted with fillers.
    pub greeted: Option<Fingerprint>,
    /// Number of bytes that came along with its header.
    pub opened_with: u64,
    /// Meter of its traffic, and the way to end it.
    pub meter: Arc<Meter>,
}

/// Bytes that sessions have moved, record headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From clients.
    pub up: u64,
    /// To clients.
    pub down: u64,
}

impl Moved {
    fn and(self, meter: &Meter) -> Self {
        Self { up: self.up + meter.up(), down: self.down + meter.down() }
    }
}

impl Live {
    /// A session that begins now, of a client that was not greeted. `id` is its number, `client` is what it asked for and
    /// how, and so many bytes came along with its header.
    pub(super) fn inside(
        id: u64,
        permit: &Permit,
        (dc, class): (DcId, HelloClass),
        from: IpAddr,
        came_along: usize,
    ) -> Self {
        let member = permit.member();
        Self {
            id,
            member: Arc::clone(member),
            dc,
            class,
            since: SystemTime::now().into(),
            from: from.to_canonical(),
            key: permit.key(),
            greeted: None,
            opened_with: came_along as u64,
            meter: Arc::new(Meter::with_tariff(Arc::new(UserLimiter(Arc::clone(member))))),
        }
    }

    /// Tells the member what was moved since the last time.
    pub fn count(&self, now: UnixTime) {
        let (up, down) = self.meter.news();
        self.member.count(up, down, now);
        if up > 0 {
            self.member.heard(self.from, now);
        }
    }

    /// Whether the member may still be inside, from this address and with this key.
    pub fn standing(&self, keyring: &Keyring, now: UnixTime) -> Result<(), Refusal> {
        self.member.standing(self.from, now)?;
        self.key.map_or(Ok(()), |key| keyring.standing(key, now))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.count(SystemTime::now().into());
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    last: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    live: BTreeMap<u64, Arc<Live>>,
    /// Traffic of the sessions that have ended.
    ended: Moved,
}

impl Sessions {
    /// A number for a session to come.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lists a session for as long as the guard lives.
    pub fn enter(self: &Arc<Self>, live: Live) -> Entry {
        let live = Arc::new(live);
        self.lock().live.insert(live.id, Arc::clone(&live));
        Entry { sessions: Arc::clone(self), live }
    }

    /// All sessions, oldest first.
    pub fn list(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    /// Returns the number of sessions.
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends those that `whose` picks, as the cover ends a connection; says how many these are. They are gone from the
    /// list once their clients have been told.
    pub fn end(&self, mut whose: impl FnMut(&Live) -> bool) -> usize {
        let chosen: Vec<_> = self.list().into_iter().filter(|live| whose(live)).collect();
        chosen.iter().for_each(|live| live.meter.end());
        chosen.len()
    }

    /// Returns the traffic of all sessions since the start, the running ones included. Never goes back.
    pub fn moved(&self) -> Moved {
        let held = self.lock();
        held.live.values().fold(held.ended, |moved, live| moved.and(&live.meter))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listed session. It leaves the list with this value.
#[derive(Debug)]
pub struct Entry {
    sessions: Arc<Sessions>,
    live: Arc<Live>,
}

impl Entry {
    /// The session.
    pub fn live(&self) -> &Live {
        &self.live
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut held = self.sessions.lock();
        held.live.remove(&self.live.id);
        held.ended = held.ended.and(&self.live.meter);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_was_moved_stays_counted_when_a_session_ends() {
        let sessions = Arc::new(Sessions::default());
        let enter = || {
            sessions.enter(Live {
                id: sessions.number(),
                member: Member::new("alice"),
                dc: DcId::new(2),
                class: HelloClass::Other,
                since: UnixTime(0),
                from: Ipv4Addr::LOCALHOST.into(),
                key: None,
                greeted: None,
                opened_with: 0,
                meter: Arc::default(),
            })
        };
        let (first, second) = (enter(), enter());
        first.live().meter.add_up(3);
        second.live().meter.add_down(5);
        assert_eq!(sessions.moved(), Moved { up: 3, down: 5 });
        drop(first);
        assert_eq!((sessions.moved(), sessions.len()), (Moved { up: 3, down: 5 }, 1));
        second.live().meter.add_down(1);
        drop(second);
        assert_eq!((sessions.moved(), sessions.len()), (Moved { up: 3, down: 6 }, 0));
    }
}
