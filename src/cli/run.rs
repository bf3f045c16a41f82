//! `vizard run`: builds the parts from the configuration and runs the server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use super::handover::{self, Departure, Front};
use super::{Failure, desk, greeting};
use crate::auth::{Judge, PastNames, ReplayMemory, SecretTag};
use crate::config::embedded;
use crate::config::parts::{self, Demand, Misuse, PartError};
use crate::config::reload::{Origin, Reloader};
use crate::config::{Config, Listen, Loaded, places};
use crate::net::listen::Address;
use crate::net::{holder, inherited};
use crate::ops::admin::events::Events;
use crate::ops::control::{Control, Open, Opened};
use crate::ops::counts::Counts;
use crate::ops::handover::Taking;
use crate::ops::logging;
use crate::ops::reload::Queue;
use crate::ops::sandbox::{self, Places, Wall, Walls};
use crate::ops::service_manager::ServiceManager;
use crate::ops::state_lock;
use crate::ops::usage::UsageWriter;
use crate::server::event::Observer;
use crate::server::handle::Handle;
use crate::server::{Bound, CannotListen, InheritedListener, Purpose, Server};
use crate::telegram::lists;

/// File in the state directory that remembers spent hellos.
pub(super) const REPLAY_FILE: &str = "replay";

/// Folder in the state directory for Telegram's lists.
pub(super) const LISTS_FOLDER: &str = "telegram";

/// Runs the proxy until SIGTERM or SIGINT, or until the last connection has ended after another process has taken over.
/// `origin` is what the configuration was loaded from, and is loaded from again.
pub(super) fn run(origin: Origin, loaded: Loaded, taking_over: Option<handover::Log>) -> Result<(), Failure> {
    let config = loaded.draft.settle(&mut rand::rng())?;
    // Before anything is tried that a mistake would end: once there were users, none is made up.
    embedded::note_users(&config)?;
    let format = logging::start(&config.log)
        .map_err(|error| Failure::new(format!("cannot start the log: {error}"), "this is a bug; please report it"))?;
    // Before anything is opened there. Who takes over is given the lock.
    let lock = if taking_over.is_some() { None } else { handover::lock(&config.state_dir)? };
    let departure = Departure::new(config.state_dir.clone(), lock);
    log_panics();
    raise_descriptor_limit();
    refuse_huge_pages();
    inherited::take_note();
    let open = shut_in(&config, loaded.path.as_deref(), &loaded.files);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .global_queue_interval(OVERFLOW)
        .thread_stack_size(STACK)
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}"), "check the limit of threads"))?;
    let misuse = Arc::new(Misuse::open(&config)?);
    let origin = origin.and(loaded.files, loaded.sets_nothing);
    let prepared = Prepared { origin, open, format, taking_over, departure: departure.clone() };
    let outcome = runtime.block_on(serve(config, prepared, Arc::clone(&misuse)));
    // A task that waits for a name to be resolved would hold the program back.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Ok(misuse) = Arc::try_unwrap(misuse) {
        misuse.close();
    }
    // To the last.
    drop(departure);
    outcome
}

/// Stack of a thread, of which only what is used takes memory. A reload that opens a site for several names uses more than
/// the usual 2 MiB where nothing is optimised.
const STACK: usize = 8 << 20;

/// After so many turns a thread looks at the queue that all threads share. That is where the oldest go when more sessions are
/// ready than a thread's own queue holds (256), and with tokio's own choice (several times as many turns) these waited longest:
/// the 99th percentile of 500 sessions was a sixth longer.
const OVERFLOW: u32 = 7;

/// Puts up the sandbox, if there shall be one, and says what it leaves open. There must be no second thread yet.
fn shut_in(config: &Config, file: Option<&Path>, read: &[PathBuf]) -> Option<Places> {
    if !config.sandbox.enabled {
        return None;
    }
    let open = places::open(config, file, read);
    let Walls { files, calls } = sandbox::enter(&open);
    match (&files, &calls) {
        (Wall::Missing(_), _) | (_, Wall::Missing(_)) => warn!(%files, %calls, "the sandbox has a gap"),
        _ => info!(%files, %calls, "sandbox"),
    }
    Some(open).filter(|_| !matches!(files, Wall::Missing(_)))
}

/// Results of the work before there was a second thread.
struct Prepared {
    origin: Origin,
    /// Paths that the sandbox leaves open, if there is one.
    open: Option<Places>,
    format: logging::Format,
    /// To take over from a running proxy: where the log goes from then on.
    taking_over: Option<handover::Log>,
    departure: Departure,
}

async fn serve(config: Config, prepared: Prepared, misuse: Arc<Misuse>) -> Result<(), Failure> {
    let Prepared { mut origin, open, format, taking_over, departure } = prepared;
    let take_over = taking_over.is_some();
    origin.start();
    let stop = stop_on_signal()?;
    // From now on it does not end the program, however early it comes.
    let hangup = signal(SignalKind::hangup()).map_err(unheard)?;
    let mut taking = if take_over { Some(handover::ask(&config.state_dir).await?) } else { None };
    if let Some(taking) = &mut taking {
        // A version that passes none on has none.
        departure.adopt(taking.lock().map_or_else(|| handover::lock(&config.state_dir), |lock| Ok(Some(lock)))?);
    }
    let manager = ServiceManager::of_this_process(taking.as_ref().and_then(|taking| taking.watchdog));
    let listeners = bind(&config, taking.as_mut().map(Taking::passed).unwrap_or_default())?;
    let addresses = listeners.addresses(Purpose::Cover);
    let ours = [&addresses[..], &listeners.addresses(Purpose::Proxied)].concat();
    let cover = parts::open_cover(&config, &ours, Demand::Start).await?;
    let in_company = take_over || state_lock::has_leaving(&config.state_dir);
    let replay = spent(&config, in_company)?;
    if let Some(asked) = taking.take() {
        taking = Some(handover::ready(asked).await?);
    }
    let names: HashSet<&str> = config.users.iter().map(|user| user.name.as_str()).collect();
    let is_user = |name: &str| names.contains(name);
    let (people, books) = UsageWriter::open(&config.state_dir, is_user, SystemTime::now().into());
    let past = embedded::remember_names(&config.state_dir, &PastNames::default(), &config.all_names())?;
    let judge = Judge::new(parts::rules(&config, &people, past, SystemTime::now().into()), replay);
    let (counts, events) = (Arc::new(Counts::default()), Arc::new(Events::default()));
    let mut observers = misuse.observers();
    if config.admin.is_some() {
        observers.extend([counts.clone() as Arc<dyn Observer>, events.clone()]);
    }
    let observer = Arc::new(observers);
    let barrier = Arc::clone(&misuse.lists) as _;
    let handle = Server::handle(parts::settings(&config), cover, judge, people, observer, barrier, stop.clone());
    info!(version = env!("CARGO_PKG_VERSION"), listen = ?ours, users = config.users.len(), "started");
    if config.users.is_empty() {
        warn!("{}", embedded::NOBODY);
    }

    let accept = |listeners| {
        handle.open(listeners);
        let handle = handle.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { handle.serve().await }))
    };
    // Who takes over accepts first: the other process waits for that before it leaves what only one can have.
    let (mut serving, mut listeners) = (None, Some(listeners));
    if let Some(taking) = taking {
        let taking = handover::prepared(taking).await?;
        departure.sign();
        serving = listeners.take().map(accept);
        handover::taken(taking, &handle, &config.state_dir).await?;
        taking_over.into_iter().for_each(handover::Log::move_there);
    } else if in_company {
        handover::keep_company(config.state_dir.clone(), handle.clone());
    }
    let (queue, requests) = Queue::new();
    let (takers, taking_over) = mpsc::channel(1);
    let control = control(&config.state_dir, &queue, takers, opened(handle.clone(), Arc::clone(&counts)));
    greeting::greet(&config, &addresses, format, greeting::link_command(&origin.flags));
    let keys = desk::keys(&config)?;
    let parts = desk::AdminParts {
        handle: handle.clone(),
        counts,
        events,
        alarms: Arc::clone(&misuse.alarms),
        audit_log: misuse.audit_log.clone(),
        queue: queue.clone(),
        keys: keys.clone(),
        origin: (origin.flags.clone(), origin.environment.clone()),
    };
    let admin = match desk::open(&config, parts).await {
        Err(failure) if take_over => {
            error!(%failure, "there is no admin listener");
            None
        }
        opened => opened?,
    };
    let lists = lists::Keeper::open(config.state_dir.join(LISTS_FOLDER), handle.upstream().clone());
    let reloader = Reloader::new(origin, config, handle.clone(), Arc::clone(&misuse));
    let reloader = reloader.with_keys(keys).telling(manager.clone()).within(open);
    let reloading = AbortOnDropHandle::new(tokio::spawn(reloader.run(queue, requests, hangup)));
    let stopping = async {
        stop.cancelled().await;
        manager.stopping(handle.settings().drain);
        std::future::pending().await
    };
    // Clients that come from now on wait in the listeners' queues, if at all.
    if take_over {
        manager.took_over()
    } else {
        manager.ready()
    }
    let Some(serving) = serving.or_else(|| listeners.take().map(accept)) else { return Ok(()) };
    let front = Front { control, admin, reloading };
    // In this order: where nothing goes on, stopping and having stopped are one.
    tokio::select! {
        biased;
        () = stopping => {}
        _ = serving => {}
        () = misuse.keep(&handle) => {}
        () = manager.keep(&handle) => {}
        () = departure.wait(taking_over, &handle, &manager, books.as_ref(), front) => {}
        () = lists.keep() => {}
    }
    departure.tell(&handle);
    if let Some(books) = books {
        let _ = tokio::task::spawn_blocking(|| books.close()).await;
    }
    Ok(())
}

/// Opens the control socket, without which the proxy runs as well.
fn control(
    state: &Path,
    queue: &Queue,
    takers: mpsc::Sender<UnixStream>,
    opened: Opened,
) -> Option<AbortOnDropHandle<()>> {
    match Control::open(state) {
        Ok(control) => Some(AbortOnDropHandle::new(tokio::spawn(control.serve(queue.clone(), takers, opened)))),
        Err(error) => {
            warn!(%error, "there is no control socket, so `vizard reload` will not work; SIGHUP does");
            None
        }
    }
}

/// Says where the server is entered.
fn opened(handle: Handle, counts: Arc<Counts>) -> Opened {
    Arc::new(move || {
        let open = |purpose| {
            let listeners = handle.listeners().into_iter().filter(|one| one.wanted.purpose == purpose);
            listeners.map(|one| one.local.map_or(one.wanted.address, Address::from).to_string()).collect()
        };
        let cover_fails = counts.cover_fails() && handle.cover().elsewhere().is_some();
        Open { clients: open(Purpose::Cover), proxied: open(Purpose::Proxied), cover_fails }
    })
}

/// Loads the replay cache; another process may be spending too if it is `shared`.
fn spent(config: &Config, shared: bool) -> Result<ReplayMemory, Failure> {
    remembered(&config.state_dir.join(REPLAY_FILE), &parts::tags(config, SystemTime::now().into()), shared)
}

fn remembered(path: &Path, tags: &[SecretTag], shared: bool) -> Result<ReplayMemory, Failure> {
    let open = if shared { ReplayMemory::open_shared } else { ReplayMemory::open };
    match open(path, tags) {
        Ok((memory, loaded)) => {
            info!(entries = loaded.entries, others = loaded.others, "replay cache loaded");
            if loaded.damaged > 0 {
                let copy = memory.kept_copy().map(|copy| copy.display().to_string());
                warn!(
                    damaged = loaded.damaged,
                    copy, "parts of the replay cache cannot be read and were skipped; check the disk for errors"
                );
            }
            Ok(memory)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Err(Failure::new(
                format!("{}: {error}", path.display()),
                "move the file away, or name another folder with --state-dir",
            ))
        }
        // Nothing was kept there, so nothing is forgotten by starting without.
        Err(error) if is_missing(path) => {
            error!(%error, path = %path.display(), "the replay cache cannot be kept on disk: a restart will lose it");
            Ok(ReplayMemory::volatile())
        }
        Err(error) => Err(Failure::new(
            format!("{}: the replay cache in this file cannot be read: {error}", path.display()),
            "check the disk for errors, and that this user may read and write the file; without it, recorded hellos \
             would be accepted",
        )),
    }
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Binds all listeners but those that were passed on; of those that the proxy may choose itself, the first that can be had.
fn bind(config: &Config, passed: Vec<InheritedListener>) -> Result<Bound, Failure> {
    let [first, second] = Listen::candidates();
    let chosen = |address: SocketAddr| passed.iter().any(|passed| passed.wanted.address == Address::Tcp(address));
    let bound = match &config.listen {
        Listen::Automatic if passed.is_empty() => Bound::new(&parts::listeners(config, first)).or_else(|refused| {
            let why = refusal(&refused.address, &refused.error);
            warn!("cannot listen on {}: {why}; trying {second} instead", refused.address);
            Bound::new(&parts::listeners(config, second))
        }),
        // What the other process has chosen stays.
        Listen::Automatic => {
            Bound::taken(&parts::listeners(config, if chosen(second) { second } else { first }), passed)
        }
        Listen::Given(_) => Bound::taken(&parts::listeners(config, first), passed),
    };
    bound.map_err(|CannotListen { address, error }| cannot_listen(&address, &error))
}

fn cannot_listen(address: &Address, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::NotFound if matches!(address, Address::Systemd(_)) => {
            "start vizard by a systemd socket unit with `FileDescriptorName=` of this name"
        }
        _ if matches!(address, Address::Unix(_)) => "name a path in a folder that this user may write to",
        io::ErrorKind::AddrInUse => "stop the program that listens there, or name another address with --listen",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; name another with --listen"
        }
        _ => "name an address of this machine with --listen",
    };
    Failure::new(format!("cannot listen on {address}: {}", refusal(address, error)), next)
}

/// The reason why an address cannot be had, with the process that has it if that can be found out.
fn refusal(address: &Address, error: &io::Error) -> String {
    match (error.kind(), address.tcp()) {
        (io::ErrorKind::AddrInUse, Some(tcp)) => match holder::of_port(tcp.port()) {
            Some(holder) => format!("the port is in use by {holder}"),
            None => format!(
                "the port is in use by another program, which `ss -ltnp 'sport = :{}'` names to root",
                tcp.port()
            ),
        },
        (io::ErrorKind::PermissionDenied, Some(tcp)) if tcp.port() < 1024 => {
            format!("this user has no right to port {}, which needs root or CAP_NET_BIND_SERVICE", tcp.port())
        }
        _ => error.to_string(),
    }
}

impl From<PartError> for Failure {
    fn from(error: PartError) -> Self {
        if error.mistake { Self::usage(error.what, error.fix) } else { Self::new(error.what, error.fix) }
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
        error!(place, message, "a bug in the program aborted a task; please report it");
    }));
}

/// Takes memory in the smallest pages. The allocator asks for pages of 2 MiB, which would be resident as a whole for every
/// few sessions that are left of many: 9900 of them had 3.1 instead of 2.5 KiB each after use.
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        debug!(%error, "memory comes in huge pages where the system has them");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spent_hellos_that_are_there_and_cannot_be_read_keep_the_proxy_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        for shared in [false, true] {
            // Where no file can be made, nothing was spent before.
            let memory = remembered(&folder.path().join("missing/replay"), &[], shared).unwrap();
            assert!(memory.is_empty());
            // As with a disk that is broken, something is there.
            let path = folder.path().join("replay");
            fs::create_dir_all(&path).unwrap();
            let failure = remembered(&path, &[], shared).unwrap_err().to_string();
            assert!(failure.contains(path.to_str().unwrap()) && failure.contains("cannot be read"), "{failure}");
        }
    }
}
