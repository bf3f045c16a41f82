//! Watching files for changes, by way of the folders that they are in: editors and certificate tools replace files, and
//! a file that is replaced is no longer the one that was watched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

/// Time for which files must have been left alone before a change is told: several are often written one after the
/// other.
const QUIET: Duration = Duration::from_millis(500);

/// Most times that this is waited for, so that a file beside them which is written all the time does not keep changes
/// back.
const ROUNDS: usize = 4;

/// Files that are watched, and how they were when they were last looked at.
pub struct Files {
    tell: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// Metadata that differs once a file was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// Receiver of events in the folders of the files. Nothing wakes up while nothing happens.
pub struct Touched {
    events: mpsc::Receiver<()>,
    /// Whether something has happened that was not told yet.
    waiting: bool,
}

impl Touched {
    /// Waits until something has happened and the folders have been left alone since, or for two seconds at most. Nothing
    /// is lost if the future is dropped before.
    pub async fn settled(&mut self) -> Option<()> {
        if !self.waiting {
            self.events.recv().await?;
            self.waiting = true;
        }
        for _ in 0..ROUNDS {
            sleep(QUIET).await;
            if self.events.try_recv().is_err() {
                break;
            }
        }
        self.waiting = false;
        Some(())
    }
}

impl Files {
    /// Looks at nothing yet. Once [`Files::start`] was called, whatever happens in a folder is told;
    /// [`Files::changed`] says whether it means anything.
    pub fn new() -> (Self, Touched) {
        let (tell, events) = mpsc::channel(1);
        let files = Self { tell, watcher: None, folders: BTreeSet::new(), stamps: BTreeMap::new() };
        (files, Touched { events, waiting: false })
    }

    /// From now on events are sent. That takes a thread, while files can be looked at before there is a second one.
    pub fn start(&mut self) {
        let tell = self.tell.clone();
        let heard = move |event: notify::Result<notify::Event>| {
            // Who reads a file changes nothing.
            if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                // If one waits already, it tells the same.
                let _ = tell.try_send(());
            }
        };
        self.watcher = notify::recommended_watcher(heard)
            .inspect_err(|error| warn!(%error, "files cannot be watched: changes need `vizard reload` or SIGHUP"))
            .ok();
        self.attend();
        if self.changed() {
            let _ = self.tell.try_send(());
        }
    }

    /// From now on these are watched. Call it before they are read: a change in between is then told.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.stamps.clear();
        self.replace(files);
    }

    /// The same without looking again at those that are watched already; the others are no longer watched.
    pub fn replace(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let known = std::mem::take(&mut self.stamps);
        let stamp = |file: PathBuf| {
            let stamp = known.get(&file).copied().unwrap_or_else(|| Stamp::of(&file));
            (file, stamp)
        };
        self.stamps = files.into_iter().map(stamp).collect();
        self.attend();
    }

    /// Waits for events in the folders of all files, and in no others.
    fn attend(&mut self) {
        let folders: BTreeSet<PathBuf> = self.stamps.keys().map(|file| folder_of(file)).collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        self.folders.retain(|folder| folders.contains(folder));
        for new in folders {
            if self.folders.contains(&new) {
                continue;
            }
            match watcher.watch(&new, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.folders.insert(new),
                Err(error) => warn_unwatched(&new, &error),
            }
        }
    }

    /// Waits until the files have been left alone for as long as before a change is told, or for two seconds at most: who
    /// asks to read a file may ask while it is being written.
    pub async fn quiet(&self) {
        for _ in 0..ROUNDS {
            let unrest = self.unrest(SystemTime::now());
            if unrest.is_zero() {
                break;
            }
            sleep(unrest).await;
        }
    }

    /// Returns the time for which the files still have to be left alone.
    fn unrest(&self, now: SystemTime) -> Duration {
        let touched = self.stamps.keys().filter_map(|file| fs::metadata(file).ok());
        let touched = touched.map(|found| (found.mtime(), found.mtime_nsec()).max((found.ctime(), found.ctime_nsec())));
        let Some((seconds, nanoseconds)) = touched.max() else { return Duration::ZERO };
        let touched = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        match now.duration_since(UNIX_EPOCH).unwrap_or_default().checked_sub(touched) {
            Some(age) => QUIET.saturating_sub(age),
            // The clock was set back, or the file comes from another machine's.
            None => QUIET,
        }
    }

    /// Whether any of the files differs from when [`Files::watch`] was last called.
    pub fn changed(&self) -> bool {
        self.stamps.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }
}

fn warn_unwatched(folder: &Path, error: &notify::Error) {
    warn!(folder = %folder.display(), %error, "a folder cannot be watched: changes need `vizard reload` or SIGHUP");
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), length: found.len(), modified })
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_told_and_one_beside_it_means_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "one").unwrap();
        let (mut files, mut told) = Files::new();
        files.watch([file.clone()]);
        fs::write(&file, "other").unwrap();
        files.start();
        told.settled().await.unwrap();
        assert!(files.changed(), "what changed before the start is told too");
        files.watch([file.clone()]);
        fs::write(folder.path().join("b"), "x").unwrap();
        told.settled().await.unwrap();
        assert!(!files.changed());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        while !files.changed() {
            told.settled().await.unwrap();
        }
        files.watch([file]);
        assert!(!files.changed());
    }

    /// How long after the first of these events, that many milliseconds apart, something is told.
    async fn told_after(apart: u64, events: u32) -> Duration {
        let (files, mut told) = Files::new();
        let begin = Instant::now();
        let writing = async {
            for _ in 0..events {
                let _ = files.tell.try_send(());
                sleep(Duration::from_millis(apart)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            heard = told.settled() => assert!(heard.is_some()),
            () = writing => {}
        }
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_bit_by_bit_is_told_once_and_what_never_ends_is_told_too() {
        let rounds = |count| QUIET * count..QUIET * count + Duration::from_millis(10);
        assert!(rounds(1).contains(&told_after(0, 1).await));
        assert!(rounds(2).contains(&told_after(100, 3).await));
        assert!(rounds(4).contains(&told_after(100, 1000).await));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_where_waiting_is_broken_off() {
        let (files, mut told) = Files::new();
        files.tell.try_send(()).unwrap();
        assert!(timeout(QUIET / 2, told.settled()).await.is_err());
        assert!(timeout(QUIET * 2, told.settled()).await.is_ok());
        assert!(timeout(QUIET * 9, told.settled()).await.is_err(), "told twice");
    }
}
