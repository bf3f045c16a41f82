//! What each user has moved, kept on disk: `usage.redb` in the state directory.
//!
//! A thread of its own writes once a second, or sooner when a quota needs its next grant, so nothing that moves bytes
//! waits for the disk except a session whose grant is used up. What is written of a quota is what may be used until the
//! next time: after a crash a user has lost half a hundredth of the quota at most, and has gained nothing.
//!
//! A disk that does not work stops no one. The log says so, and the numbers wait in memory.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs, io};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use rustix::fs::OFlags;
use tracing::{error, info, warn};

use crate::auth::{People, QuotaStore, UnixTime, Usage, UsageRecord};
use crate::base::files;

/// Name of the file in the state directory.
pub const FILE: &str = "usage.redb";

/// Interval at which changes are written that no caller waits for.
const EVERY: Duration = Duration::from_secs(1);

/// Time for which the numbers of a former user are kept: a user that comes back by then has them again.
pub const RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// By name: bytes up, bytes down, bytes in the period, its beginning, and when this was written.
const USERS: TableDefinition<'_, &str, (u64, u64, u64, Option<i64>, i64)> = TableDefinition::new("users");

/// A user has a hundred bytes or so; a mebibyte is more than will ever be asked for twice.
const CACHE: usize = 1 << 20;

/// Reason why the file cannot be used.
#[derive(Debug)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl<E: Into<redb::Error>> From<E> for UsageError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

/// Writes down what the people move, for as long as this lives.
#[derive(Debug)]
pub struct UsageWriter {
    bell: Arc<DirtyFlag>,
    writing: JoinHandle<()>,
}

impl UsageWriter {
    /// Opens the books in this folder and knows of the people what is written there. `is_user` says whose numbers are
    /// kept without end. If the books cannot be opened there are none, and the people are as if it was their first day.
    pub fn open(folder: &Path, is_user: impl Fn(&str) -> bool, now: UnixTime) -> (Arc<People>, Option<Self>) {
        let path = folder.join(FILE);
        match Self::try_open(&path, is_user, now) {
            Ok((people, books)) => (people, Some(books)),
            Err(error) => {
                error!(
                    %error,
                    path = %path.display(),
                    "the traffic of users cannot be kept on disk: a restart will lose it, and quotas start from zero"
                );
                (Arc::default(), None)
            }
        }
    }

    fn try_open(path: &Path, is_user: impl Fn(&str) -> bool, now: UnixTime) -> Result<(Arc<People>, Self), UsageError> {
        let mut store = Store { path: path.to_owned(), open: None };
        let bell = Arc::new(DirtyFlag::default());
        let bank: Arc<dyn QuotaStore> = Arc::clone(&bell) as _;
        let people = Arc::new(People::with_bank(bank));
        let rows = guarded(|| store.load(is_user, now))?;
        warn_of_the_clock(&rows, now);
        for (name, usage) in rows {
            people.remember(&name, usage);
        }
        let (book, rung) = (Arc::clone(&people), Arc::clone(&bell));
        let writing = thread::Builder::new().name("usage".into()).spawn(move || keep(store, &book, &rung));
        let writing = writing.map_err(|error| UsageError(error.to_string()))?;
        let _ = bell.thread.set(writing.thread().clone());
        Ok((people, Self { bell, writing }))
    }

    /// Writes the exact numbers and leaves the file to another process. Blocks, for `patience` at most: an error if the disk
    /// has not taken them by then, and everything goes on as before. Otherwise nothing is written from then on, and no one
    /// waits for it.
    pub fn pause(&self, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        let mut leave = self.bell.lease.lock().unwrap_or_else(PoisonError::into_inner);
        *leave = Lease::Asked;
        self.bell.call();
        while *leave == Lease::Asked && !self.writing.is_finished() {
            if Instant::now() >= end {
                *leave = Lease::Ours;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the traffic of users cannot be written to disk"));
            }
            leave = self.bell.left.wait_timeout(leave, EVERY.min(patience)).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Goes on writing: the other process has left the file.
    pub fn resume(&self) {
        *self.bell.lease.lock().unwrap_or_else(PoisonError::into_inner) = Lease::Ours;
        self.bell.call();
    }

    /// Writes the exact numbers and closes the books. Blocks; to be called when nothing moves any more.
    pub fn close(self) {
        self.bell.closing.store(true, Ordering::Release);
        self.bell.call();
        let _ = self.writing.join();
    }
}

/// Wakes the thread that writes.
#[derive(Debug, Default)]
struct DirtyFlag {
    thread: OnceLock<Thread>,
    closing: AtomicBool,
    lease: Mutex<Lease>,
    left: Condvar,
}

/// Owner of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lease {
    #[default]
    Ours,
    /// Another process's, as soon as it is written to the end.
    Asked,
    Theirs,
}

impl QuotaStore for DirtyFlag {
    fn call(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Periods that begin in days to come show that the clock is behind now, or was ahead when they were noted.
fn warn_of_the_clock(rows: &[(String, Usage)], now: UnixTime) {
    const DAY: i64 = 24 * 60 * 60;
    let ahead = |(_, usage): &(String, Usage)| Some(usage.since?.0.saturating_sub(now.0)).filter(|by| *by > DAY);
    if let Some(most) = rows.iter().filter_map(ahead).max() {
        let users = rows.iter().filter(|row| ahead(row).is_some()).count();
        warn!(
            users,
            days = most / DAY,
            "the clock of this server is behind the times recorded here earlier: set it; until then these users' \
             quotas are not reset. If it is right now and was ahead before, move usage.redb out of the state \
             directory, which resets the traffic of all users"
        );
    }
}

fn keep(mut store: Store, people: &People, bell: &DirtyFlag) {
    let mut failing = false;
    loop {
        let closing = bell.closing.load(Ordering::Acquire);
        let lease = *bell.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease == Lease::Theirs {
            people.pages(false).into_iter().for_each(UsageRecord::lost);
            if closing {
                return;
            }
            thread::park_timeout(EVERY);
            continue;
        }
        let pages = people.pages(closing || lease == Lease::Asked);
        let outcome = match pages.is_empty() {
            true => Ok(()),
            false => guarded(|| store.write(&pages, SystemTime::now().into())),
        };
        match &outcome {
            Err(error) if !failing => error!(
                %error,
                "the traffic of users cannot be written: a restart now would lose the latest; make room or fix the \
                 state directory"
            ),
            Ok(()) if failing && !pages.is_empty() => info!("the traffic of users is written again"),
            _ => {}
        }
        failing = outcome.is_err() || (failing && pages.is_empty());
        pages.into_iter().for_each(|page| if outcome.is_ok() { page.kept() } else { page.lost() });
        if lease == Lease::Asked {
            store.open = None;
            let mut lease = bell.lease.lock().unwrap_or_else(PoisonError::into_inner);
            // Who asked may have lost patience meanwhile.
            if *lease == Lease::Asked {
                *lease = Lease::Theirs;
            }
            bell.left.notify_all();
            continue;
        }
        if closing {
            return;
        }
        thread::park_timeout(EVERY);
    }
}

/// A file that someone else has damaged may make the library panic, and those who wait for a grant must not suffer.
fn guarded<T>(work: impl FnOnce() -> Result<T, UsageError>) -> Result<T, UsageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(UsageError("the file is damaged".into())))
}

/// The file. After an error it is opened again.
struct Store {
    path: PathBuf,
    open: Option<Database>,
}

impl Store {
    fn database(&mut self) -> Result<&Database, UsageError> {
        let database = match self.open.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        Ok(self.open.insert(database))
    }

    /// Everybody in the file, after those were taken out who have not been users for long.
    fn load(&mut self, is_user: impl Fn(&str) -> bool, now: UnixTime) -> Result<Vec<(String, Usage)>, UsageError> {
        let oldest = now.0.saturating_sub(RETENTION.as_secs().cast_signed());
        let transaction = self.database()?.begin_write()?;
        let mut table = transaction.open_table(USERS)?;
        table.retain(|name, (.., written)| is_user(name) || written >= oldest)?;
        let rows = rows(&table)?;
        drop(table);
        transaction.commit()?;
        Ok(rows)
    }

    fn write(&mut self, pages: &[UsageRecord], now: UnixTime) -> Result<(), UsageError> {
        let outcome = self.try_write(pages, now);
        if outcome.is_err() {
            self.open = None;
        }
        outcome
    }

    fn try_write(&mut self, pages: &[UsageRecord], now: UnixTime) -> Result<(), UsageError> {
        let transaction = self.database()?.begin_write()?;
        let mut table = transaction.open_table(USERS)?;
        for page in pages {
            let Usage { up, down, in_period, since } = page.usage;
            table.insert(page.name(), (up, down, in_period, since.map(|since| since.0), now.0))?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}

fn open(path: &Path) -> Result<Database, UsageError> {
    let file = files::open_file(path, OFlags::RDWR | OFlags::CREATE);
    let file = file.map_err(|error| UsageError(error.to_string()))?;
    Ok(builder().create_with_backend(FileBackend::new(file)?)?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_concurrency_mode(ConcurrencyMode::SingleWriter).set_check_integrity_on_open(true);
    builder
}

/// Reads the numbers in this folder, for commands; a proxy may be writing meanwhile. Empty if there is no file.
pub fn read(folder: &Path) -> Result<BTreeMap<String, Usage>, UsageError> {
    let path = folder.join(FILE);
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(UsageError(error.to_string())),
        Ok(_) => {}
    }
    guarded(|| match builder().open_read_only(&path) {
        Ok(database) => everybody(&database),
        // A proxy was killed and none is writing now. Mending the file is for the next one, which may just be starting.
        Err(DatabaseError::RepairAborted) => everybody(&mended_copy(&path)?),
        Err(error) => Err(error.into()),
    })
}

/// The file of this folder as a new one with the same in it, for a backup; a proxy may be writing meanwhile. Nothing if
/// there is no file.
pub fn copy(folder: &Path) -> Result<Option<Vec<u8>>, UsageError> {
    let path = folder.join(FILE);
    if !path.try_exists().map_err(|error| UsageError(error.to_string()))? {
        return Ok(None);
    }
    guarded(|| match builder().open_read_only(&path) {
        Ok(database) => written_anew(&database).map(Some),
        Err(DatabaseError::RepairAborted) => written_anew(&mended_copy(&path)?).map(Some),
        Err(error) => Err(error.into()),
    })
}

fn written_anew(database: &impl ReadableDatabase) -> Result<Vec<u8>, UsageError> {
    let memory = Shared::default();
    let copy = Builder::new().set_cache_size(CACHE).create_with_backend(memory.clone())?;
    let transaction = copy.begin_write()?;
    let mut table = transaction.open_table(USERS)?;
    match database.begin_read()?.open_table(USERS) {
        Ok(rows) => {
            for row in rows.iter()? {
                let (name, row) = row?;
                table.insert(name.value(), row.value())?;
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    drop(table);
    transaction.commit()?;
    drop(copy);
    let error = |error: io::Error| UsageError(error.to_string());
    let mut bytes = vec![0; memory.0.len().map_err(error)?.try_into().unwrap_or_default()];
    memory.0.read(0, &mut bytes).map_err(error)?;
    Ok(bytes)
}

/// A file in memory that outlives its database.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<InMemoryBackend>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn mended_copy(path: &Path) -> Result<Database, UsageError> {
    let file = |error: io::Error| UsageError(error.to_string());
    let bytes = fs::read(path).map_err(file)?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes)).map_err(file)?;
    Ok(Builder::new().set_cache_size(CACHE).create_with_backend(copy)?)
}

fn everybody(database: &impl ReadableDatabase) -> Result<BTreeMap<String, Usage>, UsageError> {
    match database.begin_read()?.open_table(USERS) {
        Ok(table) => Ok(rows(&table)?.into_iter().collect()),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

fn rows(
    table: &impl ReadableTable<&'static str, (u64, u64, u64, Option<i64>, i64)>,
) -> Result<Vec<(String, Usage)>, UsageError> {
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (name, row) = row?;
        let (up, down, in_period, since, _) = row.value();
        rows.push((name.value().to_owned(), Usage { up, down, in_period, since: since.map(UnixTime) }));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::task::Waker;

    use super::*;
    use crate::auth::{Allowance, Direction, Enrolment, Period, Policy, Quota};

    const NOW: UnixTime = UnixTime(1_767_225_600);
    const MEGA: u64 = 1_000_000;

    fn enrol(people: &People, name: &str, quota: Option<u64>) {
        let quota = quota.map(|bytes| Quota { bytes, period: Period::Total });
        let policy = Policy { quota, ..Policy::default() };
        people.enrol([Enrolment { name: name.into(), policy, secrets: Vec::new() }]);
    }

    /// Moves as much as the quota gives, waiting for each grant.
    fn use_up(people: &People, name: &str, enough: u64) -> u64 {
        let member = people.get(name).unwrap();
        let mut sum = 0;
        while sum < enough {
            match member.ask(Direction::Down, Instant::now(), NOW, Waker::noop()) {
                Allowance::Most(most) => {
                    let bytes = most.min(50_000).min(enough - sum);
                    member.charge(Direction::Down, bytes, Instant::now(), NOW);
                    member.count(0, bytes, NOW);
                    sum += bytes;
                }
                Allowance::Wait => thread::yield_now(),
                leave => panic!("{leave:?}"),
            }
        }
        sum
    }

    #[test]
    fn a_clean_end_keeps_exact_numbers_and_others_can_read_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        assert_eq!(folder.path().join(FILE).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        enrol(&people, "alice", Some(100 * MEGA));
        use_up(&people, "alice", 30 * MEGA);
        let seen = read(folder.path()).unwrap()["alice"];
        assert!((30 * MEGA..31 * MEGA).contains(&seen.in_period), "{seen:?}");
        books.unwrap().close();
        let exact = Usage { up: 0, down: 30 * MEGA, in_period: 30 * MEGA, since: Some(NOW) };
        assert_eq!(read(folder.path()).unwrap()["alice"], exact);
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        enrol(&people, "alice", Some(100 * MEGA));
        assert_eq!(people.get("alice").unwrap().usage(NOW), exact);
        books.unwrap().close();
    }

    #[test]
    fn a_copy_has_the_same_in_it_while_somebody_writes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(copy(folder.path()).unwrap().is_none());
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        enrol(&people, "alice", Some(100 * MEGA));
        use_up(&people, "alice", 30 * MEGA);
        let bytes = copy(folder.path()).unwrap().unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(FILE), bytes).unwrap();
        let seen = read(other.path()).unwrap()["alice"];
        assert!((30 * MEGA..31 * MEGA).contains(&seen.in_period), "{seen:?}");
        books.unwrap().close();
        let (people, books) = UsageWriter::open(other.path(), |_| true, NOW);
        enrol(&people, "alice", Some(100 * MEGA));
        assert!(people.get("alice").unwrap().usage(NOW).in_period >= 30 * MEGA);
        books.unwrap().close();
    }

    #[test]
    fn a_start_with_a_clock_that_is_behind_gives_no_quota_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        enrol(&people, "alice", Some(10 * MEGA));
        use_up(&people, "alice", 10 * MEGA);
        books.unwrap().close();
        let behind = UnixTime(NOW.0 - 400 * 24 * 60 * 60);
        let (people, books) = UsageWriter::open(folder.path(), |_| true, behind);
        enrol(&people, "alice", Some(10 * MEGA));
        let alice = people.get("alice").unwrap();
        assert_eq!(alice.ask(Direction::Down, Instant::now(), behind, Waker::noop()), Allowance::Over);
        assert_eq!(alice.usage(behind).in_period, 10 * MEGA);
        books.unwrap().close();
    }

    #[test]
    fn a_file_that_is_something_else_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), vec![7; 100_000]).unwrap();
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        assert!(books.is_none());
        enrol(&people, "alice", Some(MEGA));
        assert_eq!(use_up(&people, "alice", MEGA), MEGA);
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn a_folder_that_is_gone_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        enrol(&people, "alice", Some(10 * MEGA));
        drop(folder);
        assert_eq!(use_up(&people, "alice", 10 * MEGA), 10 * MEGA);
        books.unwrap().close();
    }

    #[test]
    fn those_who_are_no_users_any_more_are_forgotten_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (people, books) = UsageWriter::open(folder.path(), |_| true, NOW);
        enrol(&people, "alice", None);
        people.get("alice").unwrap().count(1, 2, NOW);
        books.unwrap().close();
        let written = UnixTime::from(SystemTime::now());
        let later = UnixTime(written.0 + RETENTION.as_secs().cast_signed() + 60);
        for (now, is_user, kept) in [(written, false, 1), (later, true, 1), (later, false, 0)] {
            let mut store = Store { path: folder.path().join(FILE), open: None };
            assert_eq!(store.load(|_| is_user, now).unwrap().len(), kept);
        }
    }
}
