//! `vizard run`: builds the parts from the configuration and runs the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Failure, greeting};
use crate::auth::{Judge, Key, Keyring, Member, ReplayMemory, Rules, TimeWindow};
use crate::config::{self, Config, Listen};
use crate::cover::grade::IOS_FLIGHT;
use crate::cover::remote::{Remote, Unusable};
use crate::cover::{self, site::Site};
use crate::net::listen;
use crate::ops::logging;
use crate::server::{self, Server};

/// File in the state directory that remembers spent hellos.
pub(super) const REPLAY_FILE: &str = "replay";

/// Runs the proxy until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), Failure> {
    let format = logging::start(&config.log)
        .map_err(|error| Failure::new(format!("cannot start the log: {error}"), "this is a mistake in the program"))?;
    log_panics();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}"), "see whether the machine is out of threads"))?;
    let outcome = runtime.block_on(serve(&config, format));
    // A task that waits for a name to be resolved would hold the program back.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: &Config, format: logging::Format) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let judge = judge(config)?;
    let listeners = bind(&config.listen)?;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let cover = open_cover(config, &addresses).await?;
    let settings = server::Settings {
        telegram: config.telegram.clone(),
        idle: config.idle,
        drain: config.drain,
        fillers: config.fillers.clone(),
        log_addresses: config.log.client_addresses,
    };
    let server = Server::new(settings, cover, judge, Arc::new(Vec::new()));
    info!(version = env!("CARGO_PKG_VERSION"), listen = ?addresses, users = config.users.len(), "started");
    greeting::greet(config, &addresses, format);
    server.run(listeners, stop).await;
    Ok(())
}

/// Who may enter, and what has entered before.
fn judge(config: &Config) -> Result<Judge, Failure> {
    let keys = config.users.iter().map(|user| Key::new(Member::new(&user.name), user.secret.clone()));
    let keyring = Keyring::new(keys);
    let path = config.state_dir.join(REPLAY_FILE);
    let replay = match ReplayMemory::open(&path, &keyring.tags()) {
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
    let names = config.accepted_names.clone().map(|further| [vec![config.domain.clone()], further].concat());
    Ok(Judge::new(Rules { keyring, window: TimeWindow::new(config.time_window), names }, replay))
}

async fn open_cover(config: &Config, listeners: &[SocketAddr]) -> Result<cover::Cover, Failure> {
    match &config.cover {
        config::Cover::Site(settings) => {
            let site = Site::open(settings)
                .map_err(|error| Failure::new(error.to_string(), "correct the section [site], then `vizard check`"))?;
            let site = Arc::new(site);
            for listener in bind_all(&settings.redirect_from)? {
                let site = Arc::clone(&site);
                tokio::spawn(async move { site.redirect(listener).await });
            }
            Ok(cover::Cover::site(site, config.domain.clone(), Some(&config.state_dir)))
        }
        config::Cover::Remote(settings) => {
            let remote = Remote::new(settings.clone());
            let found = remote.resolve(listeners).await;
            let cover = cover::Cover::remote(remote, config.domain.clone(), Some(&config.state_dir));
            match found {
                Ok(()) => look_at(&cover).await,
                Err(Unusable::Ourselves) => {
                    return Err(Failure::new(
                        format!("the cover {}:{} is this proxy itself", settings.host, settings.port),
                        "name another web server with --cover, or use the built-in site: --cover site",
                    ));
                }
                Err(error) => warn!(%error, "going on, and trying again"),
            }
            Ok(cover)
        }
    }
}

/// Visits the cover and tells the operator what about it will be visible.
async fn look_at(cover: &cover::Cover) {
    match cover.glance().await {
        Ok(flight) => {
            if flight.records > 1 {
                warn!(
                    records = flight.records,
                    "the cover's first flight has several encrypted records, which are joined into one for clients: that is visible"
                );
            }
            if flight.payload > IOS_FLIGHT {
                warn!(bytes = flight.payload, "the cover's first flight is too long for Telegram on iOS");
            }
        }
        Err(error) => warn!(%error, "the cover could not be visited; going on, and trying again"),
    }
}

fn bind(listen: &Listen) -> Result<Vec<TcpListener>, Failure> {
    match listen {
        Listen::Given(addresses) => bind_all(addresses),
        Listen::Automatic => {
            let [first, second] = Listen::candidates();
            bind_all(&[first]).or_else(|_| bind_all(&[second]))
        }
    }
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Failure> {
    listen::bind_all(addresses).map_err(|(address, error)| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::AddrInUse => "end the program that listens there, or name another address with --listen",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 take root or CAP_NET_BIND_SERVICE; name another with --listen"
        }
        _ => "name an address of this machine with --listen",
    };
    Failure::new(format!("cannot listen on {address}: {error}"), next)
}

fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let unheard =
        |error: io::Error| Failure::new(format!("cannot wait for signals: {error}"), "start the program again");
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
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, limit = limit.current, "the limit of open files could not be raised");
    }
}
