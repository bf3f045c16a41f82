//! The lock on the state directory: one proxy at a time spends hellos and keeps the accounts there.
//!
//! ```text
//! lock      held exclusively by the proxy that runs, from its start to its end. At an upgrade the descriptor goes to the
//!           new process, so both hold the same lock until the old one lets go; there is no moment without it
//! leaving   held in common by processes that were taken over from and still serve connections: as long as one of them
//!           lives, hellos are spent in common (`ReplayMemory::share`)
//! ```
//!
//! Both are locks of the kernel (flock(2)) on files that stay: a process that was killed holds nothing, and there is no file
//! to be removed. Commands that only read take neither.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::base::files::{self, Access};

/// Files in the state directory. There is nothing in them to be kept.
pub const FILES: [&str; 2] = [LOCK, LEAVING];
const LOCK: &str = "lock";
const LEAVING: &str = "leaving";

/// The lock of the proxy that runs. Let go when dropped, or when the process ends.
#[derive(Debug)]
pub struct StateLock(File);

/// Reasons for not having the lock.
#[derive(Debug)]
pub enum NotLocked {
    /// Another process has it, of this number as far as it is known.
    Held(Option<u32>),
    /// The file cannot be opened, or its file system has no locks.
    Impossible(io::Error),
}

impl StateLock {
    /// Takes the lock of this folder, without waiting.
    pub fn take(state: &Path) -> Result<Self, NotLocked> {
        let file = open(&state.join(LOCK)).map_err(NotLocked::Impossible)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NotLocked::Held(holder(&file))),
            Err(TryLockError::Error(error)) => return Err(NotLocked::Impossible(error)),
        }
        let lock = Self(file);
        lock.sign();
        Ok(lock)
    }

    /// The lock that another process has passed on.
    pub fn adopt(passed: OwnedFd) -> Self {
        Self(passed.into())
    }

    /// The same lock for another process, which holds it as long as either does.
    pub fn pass(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(Into::into)
    }

    /// Writes down that this process has the lock, for those who meet it. For people only; nothing is decided by it.
    pub fn sign(&self) {
        let number = format!("{}\n", std::process::id());
        let _ = self.0.set_len(0).and_then(|()| self.0.write_all_at(number.as_bytes(), 0));
    }
}

/// The mark of a process that was taken over from. Gone when dropped, or when the process ends.
#[derive(Debug)]
pub struct Leaving {
    _file: File,
}

impl Leaving {
    /// Marks this process as one that leaves. Blocks for a moment at most.
    pub fn mark(state: &Path) -> io::Result<Self> {
        const TRIES: u32 = 100;
        let file = open(&state.join(LEAVING))?;
        for _ in 0..TRIES {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Self { _file: file }),
                // Another process is just looking whether anybody leaves.
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

/// Whether processes still serve connections that were taken over from. Where that cannot be told there may be some, and it
/// is to be asked again.
pub fn has_leaving(state: &Path) -> bool {
    // Not made where it is missing: no one has left then.
    match files::open_file(&state.join(LEAVING), OFlags::RDONLY) {
        Ok(file) => file.try_lock().is_err(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Readable for every user who gets into the folder, since locking takes no more. What root makes is the folder's owner's.
fn open(path: &Path) -> io::Result<File> {
    match files::open_or_make(path, OFlags::RDWR, Access::Public) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => files::open_file(path, OFlags::RDONLY),
        opened => opened,
    }
}

fn holder(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::base::files::tests::{OTHER, hostile, is_root, plant};

    fn is_held(state: &Path) -> bool {
        match StateLock::take(state) {
            Ok(_) => false,
            Err(NotLocked::Held(holder)) => {
                assert_eq!(holder, Some(std::process::id()));
                true
            }
            Err(NotLocked::Impossible(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn one_has_it_until_both_ends_of_a_hand_over_have_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let old = StateLock::take(folder.path()).unwrap();
        assert!(is_held(folder.path()));
        let new = StateLock::adopt(old.pass().unwrap());
        new.sign();
        drop(old);
        assert!(is_held(folder.path()), "passed on");
        drop(new);
        assert!(!is_held(folder.path()));
    }

    #[test]
    fn processes_that_leave_are_noticed_until_the_last_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_leaving(folder.path()));
        let [one, other] = [(); 2].map(|()| Leaving::mark(folder.path()).unwrap());
        assert!(has_leaving(folder.path()));
        drop(one);
        assert!(has_leaving(folder.path()));
        drop(other);
        assert!(!has_leaving(folder.path()));
    }

    #[test]
    fn where_it_cannot_be_told_whether_processes_leave_some_may() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_leaving(&folder.path().join("missing")), "no one can have left there");
        let leaving = folder.path().join(LEAVING);
        std::os::unix::fs::symlink(&leaving, &leaving).unwrap();
        assert!(has_leaving(folder.path()), "a file that cannot be opened");
        assert!(Leaving::mark(folder.path()).is_err());
    }

    #[test]
    fn root_follows_no_link_that_the_user_of_the_service_has_planted() {
        if !is_root() {
            return;
        }
        let (_home, state, precious) = hostile();
        FILES.iter().for_each(|name| plant(&precious, &state.join(name)));
        assert!(matches!(StateLock::take(&state), Err(NotLocked::Impossible(_))));
        assert!(Leaving::mark(&state).is_err() && has_leaving(&state));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        std::fs::remove_file(state.join(LOCK)).unwrap();
        drop(StateLock::take(&state).unwrap());
        let made = std::fs::metadata(state.join(LOCK)).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (OTHER, 0o644), "of the folder's owner");
    }

    #[test]
    fn a_folder_that_cannot_be_locked_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(StateLock::take(&missing), Err(NotLocked::Impossible(_))));
    }
}
