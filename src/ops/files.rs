//! Watching files for changes, by way of the folders that they are in: editors and certificate tools replace files, and
//! a file that is replaced is no longer the one that was watched.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use notify_debouncer_full::notify::{self, EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::mpsc;
use tracing::warn;

/// How long files must have been left alone before a change is told: several are often written one after the other.
const QUIET: Duration = Duration::from_millis(500);

/// Files that are watched, and how they were when they were last looked at.
pub struct Files {
    tell: mpsc::Sender<()>,
    debouncer: Option<Debouncer<RecommendedWatcher, RecommendedCache>>,
    folders: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What differs when a file was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Files {
    /// Looks at nothing yet. Once [`Files::start`] was called, something is sent whenever there was an event in a folder;
    /// [`Files::changed`] says whether it means anything.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel(1);
        (Self { tell, debouncer: None, folders: BTreeSet::new(), stamps: BTreeMap::new() }, told)
    }

    /// From now on events are sent. That takes a thread, while files can be looked at before there is a second one.
    pub fn start(&mut self) {
        let tell = self.tell.clone();
        let heard = move |events: DebounceEventResult| {
            let matters = |kind: EventKind| !matches!(kind, EventKind::Access(_));
            if events.map_or(true, |events| events.iter().any(|event| matters(event.kind))) {
                // If one waits already, it tells the same.
                let _ = tell.try_send(());
            }
        };
        self.debouncer = new_debouncer(QUIET, None, heard)
            .inspect_err(|error| warn!(%error, "files cannot be watched: changes take `vizard reload` or SIGHUP"))
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
        let Some(debouncer) = &mut self.debouncer else { return };
        for gone in self.folders.difference(&folders) {
            let _ = debouncer.unwatch(gone);
        }
        self.folders.retain(|folder| folders.contains(folder));
        for new in folders {
            if self.folders.contains(&new) {
                continue;
            }
            match debouncer.watch(&new, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.folders.insert(new),
                Err(error) => warn_unwatched(&new, &error),
            }
        }
    }

    /// Whether any of the files differs from when [`Files::watch`] was last called.
    pub fn changed(&self) -> bool {
        self.stamps.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }
}

fn warn_unwatched(folder: &Path, error: &notify::Error) {
    warn!(folder = %folder.display(), %error, "a folder cannot be watched: changes there take `vizard reload` or SIGHUP");
}

/// A debouncer waits for its thread when it is dropped, which takes as long as the quiet time.
impl Drop for Files {
    fn drop(&mut self) {
        if let Some(debouncer) = self.debouncer.take() {
            thread::spawn(move || debouncer.stop());
        }
    }
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
        told.recv().await.unwrap();
        assert!(files.changed(), "what changed before the start is told too");
        files.watch([file.clone()]);
        fs::write(folder.path().join("b"), "x").unwrap();
        told.recv().await.unwrap();
        assert!(!files.changed());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        while !files.changed() {
            told.recv().await.unwrap();
        }
        files.watch([file]);
        assert!(!files.changed());
    }
}
