//! `vizard run`: builds the parts from the configuration and runs the server.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{Failure, desk, greeting};
use crate::auth::{Judge, People, ReplayMemory};
use crate::config::parts::{self, Demand, Misuse, PartError};
use crate::config::reload::{Origin, Reloader};
use crate::config::{Config, Listen, Loaded};
use crate::net::inherited;
use crate::net::listen::Address;
use crate::ops::admin::events::Events;
use crate::ops::control::Control;
use crate::ops::counts::Counts;
use crate::ops::logging;
use crate::ops::reload::Queue;
use crate::ops::service_manager::ServiceManager;
use crate::ops::usage::Books;
use crate::server::event::Observer;
use crate::server::{Bound, CannotListen, Purpose, Server};
use crate::telegram::lists;

/// File in the state directory that remembers spent hellos.
pub(super) const REPLAY_FILE: &str = "replay";

/// Folder in the state directory for Telegram's lists.
pub(super) const LISTS_FOLDER: &str = "telegram";

/// Runs the proxy until SIGTERM or SIGINT. `origin` is what the configuration was loaded from, and is loaded from again.
pub fn run(origin: Origin, loaded: Loaded) -> Result<(), Failure> {
    let config = loaded.draft.settle(&mut rand::rng())?;
    let format = logging::start(&config.log)
        .map_err(|error| Failure::new(format!("cannot start the log: {error}"), "this is a mistake in the program"))?;
    log_panics();
    raise_descriptor_limit();
    inherited::take_note();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}"), "see whether the machine is out of threads"))?;
    let misuse = Arc::new(Misuse::open(&config)?);
    let outcome = runtime.block_on(serve(config, origin.and(loaded.files), Arc::clone(&misuse), format));
    // A task that waits for a name to be resolved would hold the program back.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Ok(misuse) = Arc::try_unwrap(misuse) {
        misuse.close();
    }
    outcome
}

async fn serve(config: Config, origin: Origin, misuse: Arc<Misuse>, format: logging::Format) -> Result<(), Failure> {
    let (stop, manager) = (stop_on_signal()?, ServiceManager::of_this_process());
    // From now on it does not end the program, however early it comes.
    let hangup = signal(SignalKind::hangup()).map_err(unheard)?;
    let is_user = |name: &str| config.users.iter().any(|user| user.name == name);
    let (people, books) = Books::open(&config.state_dir, is_user, SystemTime::now().into());
    let judge = judge(&config, &people)?;
    let listeners = bind(&config)?;
    let addresses = listeners.addresses(Purpose::Cover);
    let ours = [&addresses[..], &listeners.addresses(Purpose::Proxied)].concat();
    let cover = parts::open_cover(&config, &ours, Demand::Start).await?;
    let (counts, events) = (Arc::new(Counts::default()), Arc::new(Events::default()));
    let mut observers = misuse.observers();
    if config.admin.is_some() {
        observers.extend([counts.clone() as Arc<dyn Observer>, events.clone()]);
    }
    let observer = Arc::new(observers);
    let barrier = Arc::clone(&misuse.lists) as _;
    let handle = Server::handle(parts::settings(&config), cover, judge, people, observer, barrier, stop.clone());
    info!(version = env!("CARGO_PKG_VERSION"), listen = ?ours, users = config.users.len(), "started");

    let (queue, requests) = Queue::new();
    let _control = control(&config.state_dir, &queue);
    greeting::greet(&config, &addresses, format);
    let keys = desk::keys(&config)?;
    let parts = desk::Parts {
        handle: handle.clone(),
        counts,
        events,
        alarms: Arc::clone(&misuse.alarms),
        audit_log: misuse.audit_log.clone(),
        queue: queue.clone(),
        keys: keys.clone(),
        origin: (origin.flags.clone(), origin.environment.clone()),
    };
    let _admin = desk::open(&config, parts).await?;
    let lists = lists::Keeper::open(config.state_dir.join(LISTS_FOLDER), handle.upstream().clone());
    let reloader =
        Reloader::new(origin, config, handle.clone(), Arc::clone(&misuse)).with_keys(keys).telling(manager.clone());
    let reloading = AbortOnDropHandle::new(tokio::spawn(reloader.run(queue, requests, hangup)));
    let stopping = async {
        stop.cancelled().await;
        manager.stopping(handle.settings().drain);
        std::future::pending().await
    };
    // Clients that come from now on wait in the listeners' queues, if at all.
    manager.ready();
    tokio::select! {
        () = handle.serve(listeners) => {}
        () = misuse.keep(&handle) => {}
        () = manager.keep(&handle) => {}
        () = stopping => {}
        () = lists.keep() => {}
    }
    drop(reloading);
    if let Some(books) = books {
        let _ = tokio::task::spawn_blocking(|| books.close()).await;
    }
    Ok(())
}

/// Opens the control socket, without which the proxy runs as well.
fn control(state: &Path, queue: &Queue) -> Option<AbortOnDropHandle<()>> {
    match Control::open(state) {
        Ok(control) => Some(AbortOnDropHandle::new(tokio::spawn(control.serve(queue.clone())))),
        Err(error) => {
            warn!(%error, "there is no control socket, so `vizard reload` will not work; SIGHUP does");
            None
        }
    }
}

/// Who may enter, and what has entered before.
fn judge(config: &Config, people: &People) -> Result<Judge, Failure> {
    let rules = parts::rules(config, people, SystemTime::now().into());
    let path = config.state_dir.join(REPLAY_FILE);
    let replay = match ReplayMemory::open(&path, &rules.keyring.tags()) {
        Ok((memory, loaded)) => {
            info!(entries = loaded.entries, others = loaded.others, "spent hellos loaded");
            if loaded.damaged > 0 {
                warn!(damaged = loaded.damaged, "parts of the file of spent hellos cannot be read and were skipped");
            }
            memory
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            return Err(Failure::new(
                format!("{}: {error}", path.display()),
                "move the file away, or name another folder with --state-dir",
            ));
        }
        Err(error) => {
            error!(%error, path = %path.display(), "spent hellos cannot be kept on disk: a restart will forget them");
            ReplayMemory::volatile()
        }
    };
    Ok(Judge::new(rules, replay))
}

/// Binds all listeners; of those that the proxy may choose itself, the first that can be had.
fn bind(config: &Config) -> Result<Bound, Failure> {
    let [first, second] = Listen::candidates();
    let bound = match (Bound::new(&parts::listeners(config, first)), &config.listen) {
        (Err(_), Listen::Automatic) => Bound::new(&parts::listeners(config, second)),
        (bound, _) => bound,
    };
    bound.map_err(|CannotListen { address, error }| cannot_listen(&address, &error))
}

fn cannot_listen(address: &Address, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::NotFound if matches!(address, Address::Systemd(_)) => {
            "start vizard by a systemd socket unit with `FileDescriptorName=` of this name"
        }
        _ if matches!(address, Address::Unix(_)) => "name a path in a folder that this user may write to",
        io::ErrorKind::AddrInUse => "end the program that listens there, or name another address with --listen",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 take root or CAP_NET_BIND_SERVICE; name another with --listen"
        }
        _ => "name an address of this machine with --listen",
    };
    Failure::new(format!("cannot listen on {address}: {error}"), next)
}

impl From<PartError> for Failure {
    fn from(error: PartError) -> Self {
        Self::new(error.what, error.mend)
    }
}

fn unheard(error: io::Error) -> Failure {
    Failure::new(format!("cannot wait for signals: {error}"), "start the program again")
}

fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

/// A panic ends the one connection it happens in; the operator should hear of it in the log, in the log's format.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or_default();
        error!(place, message, "a mistake in the program ended what it was doing; please report it");
    }));
}

/// Every connection takes two descriptors; the usual soft limit of 1024 would be the end of the five hundredth.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Also asking in vain may be forbidden.
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, limit = limit.current, "the limit of open files could not be raised");
    }
}
