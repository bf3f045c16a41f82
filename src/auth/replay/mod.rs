//! The memory of spent hellos: whoever shows a hello that was accepted before is a visitor, for as long as the secret
//! lives, across restarts and crashes.
//!
//! ```text
//! spend(tag, random[0..28]) ─▶ Set::insert ── seen before ──▶ false
//!                                  │ new
//!                                  ▼
//!                          Journal::append ─────────────────▶ true, and only now may the hello be answered
//! ```
//!
//! **What is remembered.** The 28 bytes of the client random that the MAC fixes, cut to 64 bits on disk and 48 bits in
//! memory. The last four bytes of the random carry the time and can be altered by whoever recorded the hello, so they
//! are no part of the key. At ten million entries a new hello is mistaken for an old one once in 28 million; that client
//! is a visitor for one connection and tries again with another hello.
//!
//! **Order.** First the set, then the file, then the answer. The set decides under one lock, so of two racing copies
//! one wins. Whoever wins returns only after write(2), so every hello that was answered outlives the process; a crash
//! between set and file forgets a hello that nobody has answered yet, whose next showing is therefore its first. The
//! other order would need the file to be searched.
//!
//! **In vain.** The write is the dearest part, and it comes before the answer, so that who is admitted would be answered
//! later than who is not, by a few microseconds that can be measured. So a hello that is declined takes the same steps
//! ([`ReplayMemory::spend_in_vain`]): it is looked for in the set, and the header of the file is written over itself.
//! Nothing is remembered, nothing grows.
//!
//! **What a crash can lose.** Nothing when the process is killed: the kernel has the bytes. When the machine loses power,
//! what came after the last [`ReplayMemory::sync`], which is meant to be called about once a second.
//!
//! **A disk that refuses** neither stops nor delays anyone: the set goes on deciding, entries wait in order in a bounded
//! queue, each `spend` and each `sync` tries again, and [`ReplayMemory::health`] tells. Killed in that state, the process
//! loses what waits.
//!
//! **Two processes on one file** both append safely on a local file system, since every record is one write with
//! `O_APPEND` and readers find records at any offset. While one takes over from the other, both may spend, and no hello
//! twice: both are then [`ReplayMemory::share`]d, and each step reads what the other has written; of two that spend one
//! hello, the one whose record stands first in the file has won. No lock is taken, so that a process which was stopped
//! keeps nobody out at the other. A hello whose record the disk refuses cannot be checked: the process that leaves does
//! not accept it, the one that stays goes on as if it was alone. Sharing costs some system calls, so it is done for no
//! longer. Two that do not share learn nothing of each other; a hello spent at one may pass once at the other, which is
//! why a proxy holds a lock on its state directory.
//!
//! What this leaves out: nothing is ever deleted, 16 bytes of disk an entry. Someone who holds a valid secret can search
//! for hellos that share their first 16 bits and so lengthen one shard; each costs him 65,536 digests and us a longer
//! memmove, which is no bargain.

mod journal;
mod set;

use std::sync::{PoisonError, RwLock};
use std::{fmt, hint::black_box, io, path::Path};

use sha2::{Digest, Sha256};

use journal::{Journal, Record, Scanned};
use set::{Filling, Set};

/// What tells the entries of one secret from those of another, without telling the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretTag(u32);

impl SecretTag {
    /// The tag of a secret: 32 bits of a hash made for this purpose alone. Should two secrets share one, entries of both
    /// are loaded for either, and nothing else happens.
    pub fn of(secret: &[u8; 16]) -> Self {
        let digest = Sha256::new().chain_update(b"vizard replay tag\0").chain_update(secret).finalize();
        Self(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

/// Every hello that was ever accepted. Shared by reference between all connections.
pub struct ReplayMemory {
    set: Set,
    journal: Option<Journal>,
    /// Who else may spend. Each step holds it, so that it changes between two steps.
    company: RwLock<Company>,
}

/// Other processes that may spend from the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// None.
    Alone,
    /// Some that leave; this one goes on.
    Staying,
    /// One that goes on; this one leaves.
    Leaving,
}

impl ReplayMemory {
    /// Opens or creates the file at `path`, readable by its owner alone, and loads the entries of `tags`; those of other
    /// secrets stay in the file. Damaged stretches are skipped and counted.
    ///
    /// A file that is something else is refused and left as it is (`InvalidData`). A full disk is no error here; see
    /// [`ReplayMemory::health`].
    pub fn open(path: &Path, tags: &[SecretTag]) -> io::Result<(Self, Loaded)> {
        let journal = Journal::open(path)?;
        let mut filling = Filling::new();
        let (others, scanned) = read_entries(&journal, tags, |key| filling.push(key))?;
        journal.knows_until(scanned.end);
        let set = filling.finish();
        let damaged = scanned.damaged + usize::from(journal.repaired().is_some());
        let loaded = Loaded { entries: set.len(), others, damaged };
        Ok((Self { set, journal: Some(journal), company: Company::Alone.into() }, loaded))
    }

    /// What [`ReplayMemory::open`] would find in a file that is there; nothing is changed.
    pub fn examine(path: &Path, tags: &[SecretTag]) -> io::Result<Loaded> {
        let journal = Journal::open_to_read(path)?;
        let mut filling = Filling::new();
        let (others, scanned) = read_entries(&journal, tags, |key| filling.push(key))?;
        let damaged = scanned.damaged + usize::from(journal.repaired().is_some());
        Ok(Loaded { entries: filling.finish().len(), others, damaged })
    }

    /// Where the file is kept as it was before its damaged start was written again.
    pub fn kept_copy(&self) -> Option<&Path> {
        self.journal.as_ref()?.repaired()?.copy.as_deref()
    }

    /// The same beside a process that spends from the same file and shares it.
    pub fn open_shared(path: &Path, tags: &[SecretTag]) -> io::Result<(Self, Loaded)> {
        let (memory, loaded) = Self::open(path, tags)?;
        // What the other has written since is read with the first step.
        *memory.company.write().unwrap_or_else(PoisonError::into_inner) = Company::Staying;
        Ok((memory, loaded))
    }

    /// A memory without a file, which ends with the process. For tests and benches.
    pub fn volatile() -> Self {
        Self { set: Filling::new().finish(), journal: None, company: Company::Alone.into() }
    }

    /// Loads the entries of further secrets from the file, before the first hello under one of them is judged. A secret
    /// that joins a running proxy may have been used before. Others may `spend` meanwhile.
    pub fn learn(&self, tags: &[SecretTag]) -> io::Result<Loaded> {
        let Some(journal) = &self.journal else { return Ok(Loaded::default()) };
        let mut entries = 0;
        // How far the file is known stays as it is: of what another process has written, this takes in these tags alone.
        let (others, scanned) = read_entries(journal, tags, |key| entries += usize::from(self.set.insert(key)))?;
        Ok(Loaded { entries, others, damaged: scanned.damaged })
    }

    /// Whether this hello is new, and from now on it is not: one atomic step, of which the page of this module gives the
    /// order. `authenticator` is `random[0..28]` of a hello whose digest held under the secret of `tag`; called any
    /// earlier, strangers could fill the memory.
    ///
    /// Costs one small write(2) when the answer is true, and none when it is false.
    pub fn spend(&self, tag: SecretTag, authenticator: &[u8; 28]) -> bool {
        let key = key_of(authenticator);
        let company = self.company.read().unwrap_or_else(PoisonError::into_inner);
        if let (true, Some(journal)) = (*company != Company::Alone, &self.journal) {
            // What is known here already costs no more than when nobody shares.
            return !self.set.contains(key)
                && journal.append_among_others(
                    Record { tag, key },
                    |other| _ = self.set.insert(other.key),
                    || self.set.insert(key),
                    *company == Company::Staying,
                );
        }
        let new = self.set.insert(key);
        if let (true, Some(journal)) = (new, &self.journal) {
            journal.append(Record { tag, key });
        }
        new
    }

    /// What a hello costs that is not spent: as long as [`ReplayMemory::spend`] takes to say yes, and nothing changes.
    pub fn spend_in_vain(&self, authenticator: &[u8; 28]) {
        let key = key_of(authenticator);
        let record = Record { tag: SecretTag(0), key };
        let company = self.company.read().unwrap_or_else(PoisonError::into_inner);
        black_box(self.set.contains(key));
        match &self.journal {
            Some(journal) if *company != Company::Alone => {
                let contains = || black_box(self.set.contains(key));
                journal.append_in_vain_among_others(record, |other| _ = self.set.insert(other.key), contains);
            }
            Some(journal) => journal.append_in_vain(record),
            None => {}
        }
    }

    /// From now on another process may spend from the same file, once it shares too: what was spent here is in the file
    /// when this returns, and every later step takes in what the other has written. With [`Company::Alone`] all others
    /// have ended, and what they have spent to the last is known here when this returns; a process that leaves has to be
    /// one that stays again before it can be alone.
    pub fn share(&self, with: Company) {
        let mut company = self.company.write().unwrap_or_else(PoisonError::into_inner);
        match (&self.journal, *company, with) {
            (_, Company::Leaving, Company::Alone) => return,
            (Some(journal), Company::Alone, _) => journal.settle_seen(),
            (Some(journal), ..) => journal.catch_up(|other| _ = self.set.insert(other.key)),
            (None, ..) => {}
        }
        *company = with;
    }

    /// Writes what waits and asks the disk to keep what was written since the last call: after it only a broken disk
    /// forgets. Blocks as long as the disk does, so it belongs on a thread that may, about once a second; `spend` does
    /// not wait for it. The error is also kept for [`ReplayMemory::health`]; after one from a failing disk, what the last
    /// second wrote may be lost at a power cut although the next call succeeds.
    pub fn sync(&self) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::sync)
    }

    /// How the file is doing. Changes from well to unwell and back are what an operator wants to hear of, once each.
    pub fn health(&self) -> Health {
        self.journal.as_ref().map_or_else(Health::default, Journal::health)
    }

    /// How many hellos are remembered in memory.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no hello is remembered in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for ReplayMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayMemory").field("len", &self.len()).field("on_disk", &self.journal.is_some()).finish()
    }
}

/// What was found in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Entries that are in memory now and were not before, repetitions counted once.
    pub entries: usize,
    /// Records of secrets that were not asked for; they stay in the file.
    pub others: usize,
    /// Places for a record that held none, a torn one included.
    pub damaged: usize,
}

/// How the file of a memory is doing.
#[derive(Debug, Default)]
pub struct Health {
    /// Entries that are in memory and wait for the disk.
    pub unsaved: usize,
    /// Entries that found the queue full and will be forgotten at the next restart. Never shrinks.
    pub dropped: u64,
    /// What the disk said last, until it takes everything again.
    pub error: Option<io::Error>,
}

impl Health {
    /// Whether nothing waits and the disk refuses nothing. What was dropped before stays dropped.
    pub fn is_well(&self) -> bool {
        self.unsaved == 0 && self.error.is_none()
    }
}

/// Hands the key of every entry of `tags` to `keep`; returns how many records were of other secrets, and how the reading
/// went.
fn read_entries(journal: &Journal, tags: &[SecretTag], mut keep: impl FnMut(Key)) -> io::Result<(usize, Scanned)> {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    let mut others = 0;
    let scanned = journal.scan(|record| match tags.binary_search(&record.tag) {
        Ok(_) => keep(record.key),
        Err(_) => others += 1,
    })?;
    Ok((others, scanned))
}

/// The first eight bytes of an authenticator.
type Key = [u8; 8];

fn key_of(authenticator: &[u8; 28]) -> Key {
    let [a, b, c, d, e, f, g, h, ..] = *authenticator;
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };
    use std::{fs, os::unix::fs::PermissionsExt, thread, time::SystemTime};

    use super::*;

    const TAG: SecretTag = SecretTag(0x0102_0304);
    const OTHER: SecretTag = SecretTag(0x0506_0708);

    /// An authenticator as spread out as a digest is.
    fn authenticator(number: u64) -> [u8; 28] {
        let digest = Sha256::digest(number.to_be_bytes());
        std::array::from_fn(|at| digest[at])
    }

    fn spend_range(memory: &ReplayMemory, tag: SecretTag, range: std::ops::Range<u64>) -> usize {
        range.filter(|number| memory.spend(tag, &authenticator(*number))).count()
    }

    #[test]
    fn a_tag_tells_secrets_apart_and_stays_the_same_between_versions() {
        let one = SecretTag::of(&[1; 16]);
        assert_ne!(one, SecretTag::of(&[2; 16]));
        assert_eq!(one, SecretTag(0x9df3_d083));
    }

    #[test]
    fn a_hello_is_new_once() {
        let memory = ReplayMemory::volatile();
        assert!(memory.is_empty());
        assert!(memory.spend(TAG, &authenticator(1)));
        assert!(!memory.spend(TAG, &authenticator(1)));
        assert!(!memory.spend(OTHER, &authenticator(1)), "no digest holds under two secrets");
        assert_eq!(memory.len(), 1);
        assert!(memory.sync().is_ok() && memory.health().is_well());
    }

    /// The time of the last write is the seam: put back to the beginning of time, it tells whether there was another.
    #[test]
    fn what_is_not_spent_costs_a_write_all_the_same_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (memory, _) = ReplayMemory::open(&path, &[TAG]).unwrap();
        let writes = |step: &dyn Fn()| {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            step();
            file.metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH
        };
        assert!(writes(&|| assert!(memory.spend(TAG, &authenticator(1)))));
        let before = fs::read(&path).unwrap();
        for number in [1, 2] {
            assert!(writes(&|| memory.spend_in_vain(&authenticator(number))));
        }
        assert!(!writes(&|| assert!(!memory.spend(TAG, &authenticator(1)))), "the seam sees nothing where nothing is");
        assert_eq!((fs::read(&path).unwrap(), memory.len()), (before, 1));
        assert!(memory.spend(TAG, &authenticator(2)), "nothing was remembered");
        drop(memory);
        let (_, loaded) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(loaded, Loaded { entries: 2, others: 0, damaged: 0 });
    }

    #[test]
    fn of_racing_copies_exactly_one_is_new() {
        const COPIES: usize = 24;
        const ROUNDS: usize = 1000;
        let memory = ReplayMemory::volatile();
        let start = Barrier::new(COPIES);
        let wins: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            for _ in 0..COPIES {
                scope.spawn(|| {
                    for (round, wins) in wins.iter().enumerate() {
                        start.wait();
                        wins.fetch_add(memory.spend(TAG, &authenticator(round as u64)).into(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(wins.iter().all(|wins| wins.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (memory, loaded) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(loaded, Loaded::default());
        assert_eq!(spend_range(&memory, TAG, 0..1000), 1000);
        memory.sync().unwrap();
        drop(memory);

        let (memory, loaded) = ReplayMemory::open(&path, &[OTHER, TAG]).unwrap();
        assert_eq!(loaded, Loaded { entries: 1000, others: 0, damaged: 0 });
        assert_eq!(memory.len(), 1000);
        assert_eq!(spend_range(&memory, TAG, 0..1001), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().len(), 16 * (1 + 1001), "a replay writes nothing");
    }

    #[test]
    fn entries_of_other_secrets_stay_in_the_file_until_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (memory, _) = ReplayMemory::open(&path, &[TAG, OTHER]).unwrap();
        spend_range(&memory, TAG, 0..10);
        spend_range(&memory, OTHER, 10..15);
        drop(memory);

        let (memory, loaded) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(loaded, Loaded { entries: 10, others: 5, damaged: 0 });
        assert_eq!(memory.learn(&[OTHER]).unwrap(), Loaded { entries: 5, others: 10, damaged: 0 });
        assert_eq!(memory.learn(&[OTHER]).unwrap().entries, 0);
        assert_eq!(spend_range(&memory, OTHER, 10..15), 0);
        assert_eq!(ReplayMemory::volatile().learn(&[TAG]).unwrap(), Loaded::default());
    }

    #[test]
    fn two_processes_append_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (one, _) = ReplayMemory::open(&path, &[TAG]).unwrap();
        let (two, _) = ReplayMemory::open(&path, &[TAG]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| spend_range(&one, TAG, 0..2000));
            scope.spawn(|| spend_range(&two, TAG, 2000..4000));
        });
        let (both, loaded) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(loaded, Loaded { entries: 4000, others: 0, damaged: 0 });
        assert_eq!(spend_range(&both, TAG, 0..4000), 0);
    }

    /// Two memories on one file, the first of which leaves.
    fn leaving_and_staying(path: &Path, tags: &[SecretTag]) -> [ReplayMemory; 2] {
        let (old, _) = ReplayMemory::open(path, tags).unwrap();
        let (new, _) = ReplayMemory::open_shared(path, tags).unwrap();
        old.share(Company::Leaving);
        [old, new]
    }

    #[test]
    fn a_secret_that_joins_does_not_hide_what_the_other_process_spends_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = leaving_and_staying(&folder.path().join("replay"), &[TAG]);
        assert_eq!(spend_range(&old, TAG, 0..10), 10);
        assert_eq!(new.learn(&[OTHER]).unwrap().others, 10);
        assert_eq!(spend_range(&new, TAG, 0..10), 0);
    }

    #[test]
    fn what_the_other_process_spent_last_is_known_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = leaving_and_staying(&folder.path().join("replay"), &[TAG]);
        assert_eq!(spend_range(&old, TAG, 0..10), 10);
        drop(old);
        new.share(Company::Alone);
        assert_eq!(spend_range(&new, TAG, 0..11), 1);
    }

    /// A process that was stopped while it held a lock of the file, of whatever kind, keeps nobody out and lets nobody in
    /// twice.
    #[test]
    fn a_stopped_process_neither_delays_a_decision_nor_makes_it_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let [old, new] = leaving_and_staying(&path, &[TAG]);
        let stopped = fs::File::open(&path).unwrap();
        stopped.lock().unwrap();
        let begun = std::time::Instant::now();
        let barrier = Barrier::new(2);
        let wins: [Vec<u64>; 2] = thread::scope(|scope| {
            let race = |memory: &'_ ReplayMemory| {
                let mut won = Vec::new();
                for number in 0..50 {
                    barrier.wait();
                    won.extend(memory.spend(TAG, &authenticator(number)).then_some(number));
                }
                won
            };
            let racers = [&old, &new].map(|memory| scope.spawn(move || race(memory)));
            racers.map(|racer| racer.join().unwrap())
        });
        let mut all = wins.concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[test]
    fn of_two_processes_that_share_exactly_one_is_first() {
        const COUNT: u64 = 3000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (old, _) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(spend_range(&old, TAG, 0..100), 100);
        let (new, _) = ReplayMemory::open_shared(&path, &[TAG]).unwrap();
        assert_eq!(spend_range(&old, TAG, 100..200), 100, "before it shares, after the other has opened the file");
        old.share(Company::Leaving);
        assert_eq!(spend_range(&new, TAG, 0..200), 0);
        new.spend_in_vain(&authenticator(0));
        let wins: Vec<usize> = thread::scope(|scope| {
            let race = |memory| scope.spawn(move || spend_range(memory, TAG, 200..COUNT));
            [race(&old), race(&new), race(&old), race(&new)].map(|racer| racer.join().unwrap()).into()
        });
        assert_eq!(wins.iter().sum::<usize>() as u64, COUNT - 200, "{wins:?}");
        drop(old);
        new.share(Company::Alone);
        assert_eq!(spend_range(&new, TAG, 0..COUNT + 1), 1);
        drop(new);
        let (_, loaded) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert_eq!(loaded, Loaded { entries: COUNT as usize + 1, others: 0, damaged: 0 });
    }
}
