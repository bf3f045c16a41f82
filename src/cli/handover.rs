//! Taking over from a running proxy, and being taken over from; [`crate::ops::handover`] has the steps.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use rustix::stdio::dup2_stderr;
use tokio::sync::mpsc;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::Failure;
use crate::auth::Company;
use crate::ops::handover::{Leaving, Progress, STEP, Taking};
use crate::ops::service_manager::ServiceManager;
use crate::ops::state_lock::{self, NotLocked, StateLock};
use crate::ops::usage::UsageWriter;
use crate::server::handle::Handle;

/// Interval at which the other process is told what members have moved here.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Asks the proxy that runs with this state directory for its listeners.
pub(super) async fn ask(state: &Path) -> Result<Taking, Failure> {
    let place = state.to_owned();
    let asked = spawn_blocking(move || Taking::ask(&place)).await.map_err(io::Error::other).flatten();
    asked.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::usage(
            format!("there is nothing to take over: no proxy runs with the state directory {}", state.display()),
            "start it without --take-over",
        ),
        _ => failed(&error),
    })
}

/// Destination of the log of a process that takes over, once it has.
pub(super) struct Log(Option<OwnedFd>);

impl Log {
    /// Opens the log of `process`, its standard error; without one, the log stays where it was.
    pub(super) fn of(process: Option<u32>) -> Self {
        // Opened before there is a sandbox. What was a socket cannot be opened.
        let open = |process| {
            let there = OpenOptions::new().append(true).open(format!("/proc/{process}/fd/2"));
            there.or_else(|_| OpenOptions::new().append(true).open("/dev/null")).ok().map(Into::into)
        };
        Self(process.and_then(open))
    }

    /// Has the log go there from now on.
    pub(super) fn move_there(self) {
        if let Some(error) = self.0.and_then(|there| dup2_stderr(there).err()) {
            warn!(%error, "the log stays where it was");
        }
    }
}

/// The lock on the state directory, without which no proxy starts. `None` where there can be no locks.
pub(super) fn lock(state: &Path) -> Result<Option<StateLock>, Failure> {
    match StateLock::take(state) {
        Ok(lock) => Ok(Some(lock)),
        Err(NotLocked::Held(holder)) => {
            let holder = holder.map(|process| format!(" (process {process})")).unwrap_or_default();
            Err(Failure::usage(
                format!("another proxy{holder} runs with the state directory {}", state.display()),
                "stop that one first, replace it with `vizard upgrade`, or name another folder with --state-dir",
            ))
        }
        Err(NotLocked::Impossible(error)) => {
            error!(%error, folder = %state.display(), "the state directory cannot be locked: a second proxy in it would not be noticed");
            Ok(None)
        }
    }
}

/// Everything is read here; from now on the other process has left the books.
pub(super) async fn ready(mut taking: Taking) -> Result<Taking, Failure> {
    let said = spawn_blocking(move || taking.ready().map(|()| taking)).await;
    said.map_err(io::Error::other).flatten().map_err(|error| failed(&error))
}

/// All that is left to be done here is to accept; from now on the other process does not.
pub(super) async fn prepared(mut taking: Taking) -> Result<Taking, Failure> {
    let said = spawn_blocking(move || taking.prepared().map(|()| taking)).await;
    said.map_err(io::Error::other).flatten().map_err(|error| failed(&error))
}

/// Clients are accepted here. What the other process still has to say is listened to until it ends.
pub(super) async fn taken(taking: Taking, handle: &Handle, state: &Path) -> Result<(), Failure> {
    let said = spawn_blocking(move || taking.taken()).await.map_err(io::Error::other).flatten();
    let aftermath = said.map_err(|error| failed(&error))?;
    handle.own();
    let (handle, state) = (handle.clone(), state.to_owned());
    // No task: the end of the program would wait for it.
    thread::spawn(move || {
        for moved in aftermath {
            let now = SystemTime::now().into();
            moved.into_iter().for_each(|(name, moved)| handle.people().add(&name, moved, now));
        }
        info!("the process before this one has ended");
        until_alone(&state, &handle);
    });
    Ok(())
}

/// Has hellos spent in common until no process is left that was taken over from, the last one or one before it.
pub(super) fn keep_company(state: PathBuf, handle: Handle) {
    thread::spawn(move || until_alone(&state, &handle));
}

fn until_alone(state: &Path, handle: &Handle) {
    while state_lock::has_leaving(state) {
        thread::sleep(TELL_EVERY);
    }
    handle.judge().replay.share(Company::Alone);
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(format!("the running proxy did not hand over: {error}"), "see its log; it keeps running")
}

/// Tasks that only one process can run at a time.
pub(super) struct Front {
    pub(super) control: Option<AbortOnDropHandle<()>>,
    pub(super) admin: Option<AbortOnDropHandle<()>>,
    pub(super) reloading: AbortOnDropHandle<()>,
}

impl Front {
    /// Done when all of it can be another's.
    async fn close(self) {
        for task in [self.control, self.admin, Some(self.reloading)].into_iter().flatten() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// The lock on the state directory, and the way to the process that has taken over, once one has.
#[derive(Clone)]
pub(super) struct Departure(Arc<Mutex<Left>>);

struct Left {
    state: PathBuf,
    lock: Option<StateLock>,
    leaving: Option<Leaving>,
    /// Tells others for as long as this process lives that it serves connections.
    mark: Option<state_lock::Leaving>,
}

impl Departure {
    /// A process that runs with this state directory.
    pub(super) fn new(state: PathBuf, lock: Option<StateLock>) -> Self {
        Self(Arc::new(Mutex::new(Left { state, lock, leaving: None, mark: None })))
    }

    /// The lock that another process has passed on.
    pub(super) fn adopt(&self, lock: Option<StateLock>) {
        self.left().lock = lock;
    }

    /// This is the process that others meet.
    pub(super) fn sign(&self) {
        if let Some(lock) = &self.left().lock {
            lock.sign();
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a process that takes over, leaves everything but the connections to it, and tells it from time to time
    /// what they move. Runs for as long as it is polled.
    pub(super) async fn wait(
        &self,
        mut takers: mpsc::Receiver<UnixStream>,
        handle: &Handle,
        manager: &ServiceManager,
        books: Option<&UsageWriter>,
        front: Front,
    ) {
        let mut leaving = loop {
            let Some(taker) = takers.recv().await else { return std::future::pending().await };
            match self.leave(taker, handle, manager, books).await {
                Ok(leaving) => break leaving,
                Err(error) => warn!(%error, "another process tried to take over and failed; this one keeps running"),
            }
        };
        manager.mute();
        front.close().await;
        // The other process holds it too.
        self.left().lock = None;
        if let Err(error) = block_in_place(|| leaving.gone()) {
            warn!(%error, "the process that has taken over has ended");
        }
        self.left().leaving = Some(leaving);
        handle.hand_over();
        let mut ticks = interval(TELL_EVERY);
        loop {
            ticks.tick().await;
            block_in_place(|| self.tell(handle));
        }
    }

    /// Tells it what members have moved here since the last time. Blocks for a moment.
    pub(super) fn tell(&self, handle: &Handle) {
        if let Some(leaving) = &mut self.left().leaving {
            // If it has ended there is no one to tell.
            let _ = leaving.tell(handle.people().moved());
        }
    }

    /// Leaves the listeners and the books, or goes on with both.
    async fn leave(
        &self,
        taker: UnixStream,
        handle: &Handle,
        manager: &ServiceManager,
        books: Option<&UsageWriter>,
    ) -> io::Result<Leaving> {
        if handle.is_draining() {
            return Err(io::Error::other("this process is about to exit"));
        }
        let (passed, watchdog) = (handle.pass()?, manager.watchdog());
        let (state, lock) = {
            let left = self.left();
            (left.state.clone(), left.lock.as_ref().map(StateLock::pass).transpose()?)
        };
        let offering = spawn_blocking(move || Leaving::offer(taker, passed, lock, watchdog));
        let leaving = offering.await.map_err(io::Error::other)??;
        let mark = block_in_place(|| state_lock::Leaving::mark(&state)).map_err(|error| {
            io::Error::other(format!("other processes could not see the connections here, because {UNMARKED}: {error}"))
        })?;
        self.left().mark = Some(mark);
        let whole = handle.judge().replay.share(Company::Leaving);
        let left = if whole { give_way(leaving, handle, books).await } else { Err(io::Error::other(UNSAVED)) };
        if left.is_err() {
            if let Some(books) = books {
                books.resume();
            }
            handle.judge().replay.share(Company::Staying);
            self.left().mark = None;
            keep_company(state, handle.clone());
        }
        left
    }
}

const UNMARKED: &str = "the file `leaving` in the state directory cannot be locked";
const UNSAVED: &str = "part of the replay cache is not on disk, and another process would accept those hellos again: \
                       make room for the file `replay` in the state directory first, or stop this process and start \
                       the other";

/// Leaves the books, then the listeners. Clients are accepted here until the other process has nothing left to do but that.
async fn give_way(mut leaving: Leaving, handle: &Handle, books: Option<&UsageWriter>) -> io::Result<Leaving> {
    if let Some(books) = books {
        block_in_place(|| books.pause(STEP))?;
    }
    let moved = handle.people().moved();
    let (mut leaving, progress) = spawn_blocking(move || leaving.yours(moved).map(|heard| (leaving, heard)))
        .await
        .map_err(io::Error::other)??;
    handle.pause().await;
    if progress == Progress::Taken {
        return Ok(leaving);
    }
    let (leaving, went) = spawn_blocking(move || {
        let went = leaving.go();
        (leaving, went)
    })
    .await
    .map_err(io::Error::other)?;
    match went {
        Ok(()) => Ok(leaving),
        Err(error) if is_late(&error) => after_all(leaving, handle).await,
        Err(error) => {
            handle.resume();
            Err(error)
        }
    }
}

/// Accepts beside the other process, which has been told to go, until it does.
async fn after_all(mut leaving: Leaving, handle: &Handle) -> io::Result<Leaving> {
    warn!("the process that takes over is slow to accept; clients are accepted here until it does");
    handle.resume();
    let leaving =
        spawn_blocking(move || leaving.taken().map(|()| leaving)).await.map_err(io::Error::other).flatten()?;
    handle.pause().await;
    Ok(leaving)
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
