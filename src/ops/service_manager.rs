//! What the service manager hears of the proxy (sd_notify(3)): that it is ready, reads its configuration, stops, how it is
//! doing, and that it is alive.
//!
//! Without a service manager all of it is nothing: then there is no `NOTIFY_SOCKET` in the environment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error};

use crate::server::handle::Handle;

/// Interval at which the state is told where there is no watchdog that asks for more.
const EVERY: Duration = Duration::from_secs(10);

/// Speaks to the service manager that started this process, if there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    there: bool,
    watchdog: Option<Duration>,
    hushed: AtomicBool,
}

impl ServiceManager {
    /// The one that the environment names. `watchdog` is how often it wants to hear of a process that this one takes over
    /// from; of processes that it did not start itself it does not say so.
    pub fn of_this_process(watchdog: Option<Duration>) -> Self {
        let there = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        let watchdog = sd_notify::watchdog_enabled().or(watchdog);
        Self(Arc::new(Inner { there, watchdog, hushed: false.into() }))
    }

    /// Returns the interval at which it wants to hear that the proxy is alive.
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.watchdog
    }

    /// Clients can come.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready, NotifyState::Status("ready")]);
    }

    /// Clients can come, and this is the process that matters from now on.
    pub fn took_over(&self) {
        let main = NotifyState::MainPid(std::process::id());
        self.tell(&[main, NotifyState::Ready, NotifyState::Status("has taken over")]);
    }

    /// From now on another process speaks.
    pub fn mute(&self) {
        self.0.hushed.store(true, Ordering::Release);
    }

    /// The configuration is being read again; [`ServiceManager::ready`] is to follow.
    pub fn reloading(&self) {
        let began = NotifyState::monotonic_usec_now().ok();
        self.tell(&[NotifyState::Reloading].into_iter().chain(began).collect::<Vec<_>>());
    }

    /// No more clients; what is going on has `grace` to end, and the manager shall wait for that.
    pub fn stopping(&self, grace: Duration) {
        let wait = u32::try_from((grace + EVERY).as_micros()).unwrap_or(u32::MAX);
        let status = NotifyState::Status("waiting for connections to end");
        self.tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(wait), status]);
    }

    /// Tells from time to time how the server is doing and, only if it is, that it is alive. Runs for as long as it is
    /// polled.
    pub async fn keep(&self, handle: &Handle) {
        if !self.0.there {
            return std::future::pending().await;
        }
        // Half of it, as sd_watchdog_enabled(3) wants it.
        let mut ticks = interval(self.0.watchdog.map_or(EVERY, |often| EVERY.min(often / 2)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let alive = handle.is_alive().await;
            if alive {
                let status = handle.status();
                let text = format!("{} connections, {} sessions", status.connections, status.sessions);
                self.tell(&[NotifyState::Watchdog, NotifyState::Status(&text)]);
            } else if !failing {
                error!("the proxy gives no sign of life; the service manager will restart it");
            }
            failing = !alive;
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if !self.0.there || self.0.hushed.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            debug!(%error, "the service manager does not listen");
        }
    }
}
