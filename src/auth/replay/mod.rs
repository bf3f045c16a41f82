//! The memory of spent proofs: what was shown once is a visitor's for as long as the secret lives, across restarts and
//! crashes.
//!
//! ```text
//! gate ── Question::Spend(entry) ─▶ ReplayCache::ask ── seen before ──▶ false
//!                                         │ new, and from now on it is not
//!                                         ▼
//!                                       true, and only now may the hello be answered, or the client be let in
//! ```
//!
//! **What is remembered.** Two things of each client, in one set and one file:
//!
//! - of its *hello*, the 28 bytes of the random that the MAC fixes, cut to 64 bits. The last four bytes of the random carry
//!   the time and can be altered by anyone who recorded the hello, so they are no part of the key;
//! - of its *header*, a hash of the 16 bytes that its two AES keys have in common ([`Entry::of_header`]). The header is not
//!   tied to the hello in any way, so without this a recorded one would go with any hello. Its other bytes can be altered by
//!   those who recorded it: 8 of them nothing depends on, 16 are the counter, which can be moved to a place of the
//!   recorded keystream of which the plain text is known, and the two keys can be swapped.
//!
//! **What is spent.** Every hello whose digest holds, whatever else is wrong with it: the clock, the name, a limit, a list.
//! And every header that opens under the secret of the hello before it, even if that hello was refused. Else a refused
//! hello and an old header, both recorded, would make a session without the secret.
//!
//! **A false yes** (new, although it was shown before) lets a censor in who has recorded a hello and a header: he learns that
//! this is a proxy, and the data centre gets the user's first packet again. This is what the memory is there to prevent,
//! so a store that is in doubt says no. **A false no** (seen, although it is new) makes a real client a visitor for one
//! connection; it comes again at once with other bytes. At ten million entries that happens once in 28 million, since 48
//! bits are compared. A store that says no to everybody keeps everybody out, so one that is away must say so
//! ([`ReplayCache::health`]) and bound its wait.
//!
//! **Order, and what a crash between two steps does.**
//!
//! 1. *The hello goes into the store*, then it is answered. A crash between them forgets nothing: the hello is spent and was
//!    never answered, its client comes again. A crash before the store has it: no one was answered, so its next
//!    showing is its first.
//! 2. *The header goes into the store*, then the user's place is taken, then the cover is left, then the data centre is
//!    dialled. Whatever a crash leaves undone here, hello and header are spent and no byte went to Telegram.
//!
//! Within the journal: first the set, then the file, then the answer. The set decides under one lock, so of two racing
//! copies one wins. The winner returns only after write(2), so everything that was answered outlives the process. The
//! other order would need the file to be searched.
//!
//! **In vain.** The write is the dearest part, and it comes before the answer, so that a client that is admitted would be
//! answered later than one that is not, by a few microseconds that can be measured. So a proof that does not hold takes
//! the same steps ([`Question::InVain`]), and so does one that was seen before: it is looked for in the set, and the header of
//! the file is written over itself. Nothing is remembered, nothing grows.
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
//! keeps no one out at the other. A hello whose record the disk refuses cannot be checked: the process that leaves does
//! not accept it, the one that stays goes on as if it was alone. What waits for the disk is written before a process leaves;
//! where that fails it does not ([`ReplayMemory::share`] says so), or what waits would be new to the other. Sharing costs some system calls, so it is done for no
//! longer. Two that do not share learn nothing of each other; a hello spent at one may pass once at the other, which is
//! why a proxy holds a lock on its state directory.
//!
//! What this leaves out: nothing is ever deleted, 16 bytes of disk an entry, so 32 a session. A hello and a header of one
//! secret that *both* never reached the proxy, because someone on the way kept them from it, are new when they are shown.
//! Someone who holds a valid secret can search for hellos that share their first 16 bits and so lengthen one shard; each
//! costs him 65,536 digests and us a longer memmove, which is no bargain.

mod journal;
mod set;

use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll};
use std::{fmt, hint::black_box, io, path::Path};

use sha2::{Digest, Sha256};

use journal::{Journal, Record, Scanned};
use set::{Filling, Set};

use crate::wire::obfuscated;

/// Tag that tells the entries of one secret from those of another, without revealing the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretTag(u32);

impl SecretTag {
    /// The tag of nothing, for work that is done in vain.
    pub const NONE: Self = Self(0);

    /// The tag of a secret: 32 bits of a hash made for this purpose alone. Should two secrets share one, entries of both
    /// are loaded for either, and nothing else happens.
    pub fn of(secret: &[u8; 16]) -> Self {
        let digest = Sha256::new().chain_update(b"vizard replay tag\0").chain_update(secret).finalize();
        Self(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

/// A store of spent proofs. The page of this module says what its wrong answers cost and in which order things happen.
///
/// Everything but [`ReplayCache::ask`] has a default for stores that have nothing to do there.
pub trait ReplayCache: fmt::Debug + Send + Sync {
    /// Whether the entry is new; if the question is [`Question::Spend`], it is not from now on: one atomic step, of which the
    /// other processes that share the store see all or nothing. Takes as long whatever is asked and answered.
    fn ask(&self, question: Question) -> Answer;

    /// Loads the entries of further secrets before the first hello under one of them is judged. A secret that joins a
    /// running proxy may have been used before. May block.
    fn learn(&self, _tags: &[SecretTag]) -> io::Result<Loaded> {
        Ok(Loaded::default())
    }

    /// From now on another process of this machine may spend from the same store, or none any more. Says whether others
    /// can know all that was spent here.
    fn share(&self, _with: Company) -> bool {
        true
    }

    /// Has what was spent kept over a power cut. May block; called about once a second.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the store is well.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Number of entries in memory.
    fn len(&self) -> usize {
        0
    }

    /// Whether no entry is remembered in memory.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Query to a store about one proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The proof holds: whether it is new, and from now on it is not.
    Spend(Entry),
    /// The proof does not hold: the same work, of which nothing must remain.
    InVain(Entry),
}

/// Entry of one proof in the replay cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    tag: SecretTag,
    key: Key,
}

impl Entry {
    /// The entry of a hello under the secret of `tag`; `authenticator` is `random[0..28]`.
    pub fn of_hello(tag: SecretTag, authenticator: &[u8; 28]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *authenticator;
        Self { tag, key: [a, b, c, d, e, f, g, h] }
    }

    /// The entry of an obfuscated2 header under the secret of `tag`, the same for all headers that use one of its keys.
    pub fn of_header(tag: SecretTag, header: &[u8; obfuscated::HEADER]) -> Self {
        let shared = obfuscated::shared_by_keys(header);
        let digest = Sha256::new()
            .chain_update(b"vizard replay header\0")
            .chain_update(tag.0.to_be_bytes())
            .chain_update(shared)
            .finalize();
        Self { tag, key: std::array::from_fn(|at| digest[at]) }
    }
}

/// A store's answer, now or later: whether the entry was new. Dropped, the question may or may not have been asked.
pub enum Answer {
    /// The answer of a store that does not have to wait for anything.
    Now(bool),
    /// The answer of a store elsewhere, which bounds its wait.
    Later(Pin<Box<dyn Future<Output = bool> + Send>>),
}

impl Answer {
    /// The answer if it is there already.
    pub fn now(self) -> Option<bool> {
        match self {
            Self::Now(new) => Some(new),
            Self::Later(_) => None,
        }
    }
}

impl Future for Answer {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        match self.get_mut() {
            Self::Now(new) => Poll::Ready(*new),
            Self::Later(answer) => answer.as_mut().poll(context),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(new) => f.debug_tuple("Now").field(new).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// Every proof that was ever spent, in memory and in a journal on disk. Shared by reference between all connections.
pub struct ReplayMemory {
    set: Set,
    journal: Option<Journal>,
    /// Other processes that may spend. Each step holds it, so that it changes between two steps.
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

    /// Reports what [`ReplayMemory::open`] would find in a file that is there; nothing is changed.
    pub fn examine(path: &Path, tags: &[SecretTag]) -> io::Result<Loaded> {
        let journal = Journal::open_to_read(path)?;
        let mut filling = Filling::new();
        let (others, scanned) = read_entries(&journal, tags, |key| filling.push(key))?;
        let damaged = scanned.damaged + usize::from(journal.repaired().is_some());
        Ok(Loaded { entries: filling.finish().len(), others, damaged })
    }

    /// Joins two files into one that knows all that both know; `None` if the first is no replay cache.
    pub fn joined(there: &[u8], more: &[u8]) -> Option<Vec<u8>> {
        Journal::joined(there, more)
    }

    /// Copy of the file as it was before its damaged start was written again.
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
        self.spend_entry(Entry::of_hello(tag, authenticator))
    }

    fn spend_entry(&self, Entry { tag, key }: Entry) -> bool {
        let company = self.company.read().unwrap_or_else(PoisonError::into_inner);
        if let (true, Some(journal)) = (*company != Company::Alone, &self.journal) {
            // What is known here already costs no more than when no one shares.
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

    /// Takes as long as [`ReplayMemory::spend`] takes to say yes, for a proof that is not spent; nothing changes.
    pub fn spend_in_vain(&self, Entry { key, .. }: Entry) {
        let record = Record { tag: SecretTag::NONE, key };
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
    ///
    /// False says that something is not in the file, since a disk refuses it or has refused too much, or since there is no
    /// file: another process would let in what was spent here.
    pub fn share(&self, with: Company) -> bool {
        let mut company = self.company.write().unwrap_or_else(PoisonError::into_inner);
        let whole = self.journal.as_ref().is_some_and(Journal::settle_backlog);
        match (&self.journal, *company, with) {
            (_, Company::Leaving, Company::Alone) => return whole,
            (Some(journal), Company::Alone, _) => journal.settle_seen(),
            (Some(journal), ..) => journal.catch_up(|other| _ = self.set.insert(other.key)),
            (None, ..) => {}
        }
        *company = with;
        whole
    }

    /// Writes what waits and asks the disk to keep what was written since the last call: after it only a broken disk
    /// forgets. Blocks as long as the disk does, so it belongs on a thread that may, about once a second; `spend` does
    /// not wait for it. The error is also kept for [`ReplayMemory::health`]; after one from a failing disk, what the last
    /// second wrote may be lost at a power cut although the next call succeeds.
    pub fn sync(&self) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::sync)
    }

    /// Health of the file. Changes from healthy to unhealthy and back are what an operator wants to hear of, once each.
    pub fn health(&self) -> Health {
        self.journal.as_ref().map_or_else(Health::default, Journal::health)
    }

    /// Number of hellos in memory.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no hello is remembered in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReplayCache for ReplayMemory {
    fn ask(&self, question: Question) -> Answer {
        let (new, entry) = match question {
            Question::Spend(entry) => (self.spend_entry(entry), entry),
            Question::InVain(entry) => (false, entry),
        };
        if !new {
            self.spend_in_vain(entry);
        }
        Answer::Now(new)
    }

    fn learn(&self, tags: &[SecretTag]) -> io::Result<Loaded> {
        ReplayMemory::learn(self, tags)
    }

    fn share(&self, with: Company) -> bool {
        ReplayMemory::share(self, with)
    }

    fn sync(&self) -> io::Result<()> {
        ReplayMemory::sync(self)
    }

    fn health(&self) -> Health {
        ReplayMemory::health(self)
    }

    fn len(&self) -> usize {
        ReplayMemory::len(self)
    }
}

impl fmt::Debug for ReplayMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayMemory").field("len", &self.len()).field("on_disk", &self.journal.is_some()).finish()
    }
}

/// Result of reading the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Entries that are in memory now and were not before, repetitions counted once.
    pub entries: usize,
    /// Records of secrets that were not asked for; they stay in the file.
    pub others: usize,
    /// Places for a record that held none, a torn one included.
    pub damaged: usize,
}

/// Health of the replay cache's file.
#[derive(Debug, Default)]
pub struct Health {
    /// Entries that are in memory and wait for the disk.
    pub unsaved: usize,
    /// Entries that found the queue full and will be forgotten at the next restart. Never shrinks.
    pub dropped: u64,
    /// Last error of the disk, until it takes everything again.
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

/// The first eight bytes of an authenticator, or of a header's hash.
type Key = [u8; 8];

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
            assert!(writes(&|| memory.spend_in_vain(Entry::of_hello(TAG, &authenticator(number)))));
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

    /// A descriptor without the right to write stands for a full disk.
    #[test]
    fn a_process_leaves_what_it_has_spent_in_the_file_or_says_that_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay");
        let (mut old, _) = ReplayMemory::open(&path, &[TAG]).unwrap();
        assert!(old.share(Company::Leaving) && old.share(Company::Staying));
        let refusal = Journal::open_to_read(&path).unwrap();
        let file = old.journal.replace(refusal).unwrap();
        *old.company.get_mut().unwrap() = Company::Alone;
        assert!(old.spend(TAG, &authenticator(1)), "a full disk keeps no one out");
        assert!(!old.share(Company::Leaving));
        old.share(Company::Staying);
        assert_eq!(ReplayMemory::examine(&path, &[TAG]).unwrap().entries, 0);
        // There is room again.
        old.journal.as_mut().unwrap().write_to(file);
        assert!(old.share(Company::Leaving));
        assert_eq!(ReplayMemory::examine(&path, &[TAG]).unwrap().entries, 1, "written before it leaves");
        assert!(!ReplayMemory::volatile().share(Company::Leaving), "there is no file to leave");
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

    /// A process that was stopped while it held a lock of the file, of whatever kind, keeps no one out and lets no one in
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
        new.spend_in_vain(Entry::of_hello(TAG, &authenticator(0)));
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
