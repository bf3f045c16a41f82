//! Taking over from a running proxy, and being taken over from; [`crate::ops::handover`] has the steps.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use tokio::sync::mpsc;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::Failure;
use crate::ops::handover::{Leaving, Taking};
use crate::ops::service_manager::ServiceManager;
use crate::ops::usage::Books;
use crate::server::handle::Handle;

/// How often the other process hears what members have moved here.
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

/// Everything is read here; from now on the other process accepts nobody, and has left the books.
pub(super) async fn ready(mut taking: Taking) -> Result<Taking, Failure> {
    let said = spawn_blocking(move || taking.ready().map(|()| taking)).await;
    said.map_err(io::Error::other).flatten().map_err(|error| failed(&error))
}

/// Clients are accepted here. What the other process still has to say is listened to until it ends.
pub(super) async fn taken(taking: Taking, handle: &Handle) -> Result<(), Failure> {
    let said = spawn_blocking(move || taking.taken()).await.map_err(io::Error::other).flatten();
    let aftermath = said.map_err(|error| failed(&error))?;
    handle.own();
    let handle = handle.clone();
    // No task: the end of the program would wait for it.
    thread::spawn(move || {
        for moved in aftermath {
            let now = SystemTime::now().into();
            moved.into_iter().for_each(|(name, moved)| handle.people().add(&name, moved, now));
        }
        handle.judge().replay.share(false);
        info!("the process before this one has ended");
    });
    Ok(())
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(format!("the running proxy did not hand over: {error}"), "see its log; it goes on as before")
}

/// What only one process can have at a time.
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

/// The way to the process that has taken over, once one has.
#[derive(Clone, Default)]
pub(super) struct Departure(Arc<Mutex<Option<Leaving>>>);

impl Departure {
    /// Waits for a process that takes over, leaves everything but the connections to it, and tells it from time to time
    /// what they move. Runs for as long as it is polled.
    pub(super) async fn wait(
        &self,
        mut takers: mpsc::Receiver<UnixStream>,
        handle: &Handle,
        manager: &ServiceManager,
        books: Option<&Books>,
        front: Front,
    ) {
        let mut leaving = loop {
            let Some(taker) = takers.recv().await else { return std::future::pending().await };
            match leave(taker, handle, manager, books).await {
                Ok(leaving) => break leaving,
                Err(error) => warn!(%error, "another process wanted to take over and has not; everything goes on here"),
            }
        };
        manager.hush();
        front.close().await;
        if let Err(error) = block_in_place(|| leaving.gone()) {
            warn!(%error, "the process that has taken over has ended");
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaving);
        handle.hand_over();
        let mut ticks = interval(TELL_EVERY);
        loop {
            ticks.tick().await;
            block_in_place(|| self.tell(handle));
        }
    }

    /// Tells it what members have moved here since the last time. Blocks for a moment.
    pub(super) fn tell(&self, handle: &Handle) {
        if let Some(leaving) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // If it has ended there is nobody to tell.
            let _ = leaving.tell(handle.people().moved());
        }
    }
}

/// Leaves the listeners and the books, or goes on with both.
async fn leave(
    taker: UnixStream,
    handle: &Handle,
    manager: &ServiceManager,
    books: Option<&Books>,
) -> io::Result<Leaving> {
    if handle.is_draining() {
        return Err(io::Error::other("this one is about to end"));
    }
    let (passed, watchdog) = (handle.pass()?, manager.watchdog());
    let mut leaving =
        spawn_blocking(move || Leaving::offer(taker, passed, watchdog)).await.map_err(io::Error::other)??;
    handle.pause().await;
    if let Some(books) = books {
        block_in_place(|| books.pause());
    }
    let moved = handle.people().moved();
    let left = spawn_blocking(move || leaving.yours(moved).map(|()| leaving)).await.map_err(io::Error::other).flatten();
    if left.is_err() {
        if let Some(books) = books {
            books.resume();
        }
        handle.resume();
    }
    left
}
