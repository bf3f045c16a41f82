//! What the handlers share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;
use tracing::info;

use super::answer::refuse;
use super::control::{Control, Heard, Kind, Trouble};
use super::events::Events;
use super::guard::{Caller, Limits, Peer, too_often, unknown};
use super::keys::Keys;
use super::login::Logins;
use super::origin::Hosts;
use super::samples::Samples;
use super::token::Tokens;
use super::views::Health;
use crate::auth::UnixTime;
use crate::base::summary::{self, Cause};
use crate::ops::audit_log::{Action, AuditLog};
use crate::ops::metrics::Metrics;

/// State that the handlers share.
pub struct AdminState {
    /// The program.
    pub control: Arc<dyn Control>,
    /// The tokens that are accepted now, and the names of the listener.
    keys: Keys,
    /// Metrics for scraping.
    pub metrics: Metrics,
    /// The latest events.
    pub events: Arc<Events>,
    /// The last hour, for graphs.
    pub samples: Samples,
    /// Those who are logged in with a browser.
    pub logins: Logins,
    /// Start time of the proxy.
    pub started: UnixTime,
    /// Whether the listener speaks TLS.
    pub secure: bool,
    /// Places of those who wait for an event.
    pub waiting: Semaphore,
    audit_log: Option<AuditLog>,
    limits: Limits,
    heard: Mutex<Option<(Instant, Health)>>,
}

/// The desk, as every handler has it.
pub type Shared = Arc<AdminState>;

/// Requests at once that wait for an event; others are answered at once.
const MOST_WAITING: usize = 64;

/// Lifetime of the cached health check: frequent questions shall not become a crowd of visitors.
const FRESH: Duration = Duration::from_secs(5);

impl AdminState {
    /// A desk.
    pub fn new(
        control: Arc<dyn Control>,
        keys: Keys,
        metrics: Metrics,
        events: Arc<Events>,
        started: UnixTime,
        audit_log: Option<AuditLog>,
    ) -> Shared {
        Arc::new(Self {
            control,
            secure: keys.is_secure(),
            keys,
            metrics,
            events,
            samples: Samples::default(),
            logins: Logins::default(),
            started,
            audit_log,
            waiting: Semaphore::new(MOST_WAITING),
            limits: Limits::default(),
            heard: Mutex::default(),
        })
    }

    /// The tokens that are accepted now.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.keys.tokens().load_full()
    }

    /// The tokens and names, which can be replaced.
    #[cfg(test)]
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The names that browsers may know the listener by.
    pub fn hosts(&self) -> Arc<Hosts> {
        self.keys.hosts()
    }

    /// Whether the caller may still ask: time may have passed since the token was found.
    pub fn still_knows(&self, caller: &Caller) -> bool {
        caller.token.is_none() || self.tokens().knows(caller)
    }

    /// Whether one more request from there may be answered.
    pub fn may_ask(&self, peer: Peer) -> bool {
        self.limits.may_ask(peer)
    }

    /// Finds the owner of a token.
    pub fn log_in(&self, peer: Peer, text: &str) -> Result<Caller, Box<Response>> {
        let tokens = self.tokens();
        if let Some(token) = tokens.find(text) {
            return Ok(Caller { name: token.name.clone(), role: token.role, token: Some(token.hash) });
        }
        if !self.limits.may_fail(peer) {
            return Err(Box::new(too_often()));
        }
        const UNKNOWN: &str = "this token is not known";
        summary::note(Cause::info("an unknown token was used at the admin listener"), String::new);
        self.keep(Action { actor: NOBODY, role: None, action: "log in", on: "", error: Some(UNKNOWN) });
        Err(Box::new(unknown(UNKNOWN, "make one with `vizard token ROLE`")))
    }

    /// Does something that may block, and notes who wanted it and what came of it.
    pub async fn act<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &Caller,
        action: &'static str,
        on: &str,
        work: impl FnOnce(&dyn Control) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let desk = Arc::clone(self);
        let outcome = spawn_blocking(move || work(&*desk.control)).await.unwrap_or_else(|_| {
            Err(Trouble::new(Kind::Failed, "a bug in the program ended this", "see the log of the proxy"))
        });
        self.note(caller, action, on, outcome.as_ref().err().map(|trouble| trouble.error.as_str()));
        outcome
    }

    /// Notes who did what, in the log, among the events and in the audit log. The names of users stand there, secrets
    /// never.
    pub fn note(&self, caller: &Caller, action: &str, on: &str, error: Option<&str>) {
        let (by, role) = (caller.name.as_str(), caller.role.label());
        match error {
            None => info!(target: AUDIT, action, on, by, role, "done"),
            Some(error) => info!(target: AUDIT, action, on, by, role, error, "refused"),
        }
        self.keep(Action { actor: by, role: Some(role), action, on, error });
        let outcome = error.map_or_else(String::new, |error| format!(": {error}"));
        self.events.add("action", Some(by), format!("{action} {on}{outcome}"));
    }

    fn keep(&self, action: Action<'_>) {
        if let Some(log) = &self.audit_log {
            log.action(action);
        }
    }

    /// Whether a visitor is answered.
    pub async fn health(self: &Arc<Self>) -> Health {
        let mut heard = self.heard.lock().await;
        if let Some((at, health)) = &*heard
            && at.elapsed() < FRESH
        {
            return health.clone();
        }
        let desk = Arc::clone(self);
        let outcome = spawn_blocking(move || desk.control.ping()).await;
        let health = match outcome.unwrap_or_else(|_| Err("a bug in the program ended the connection".into())) {
            Ok(Heard::Cover) if self.control.counts().cover_fails() => {
                let detail = "a visitor got the cover's answer, but the last admitted client got no handshake of it";
                Health { serving: true, detail: detail.into() }
            }
            Ok(Heard::Cover) => Health { serving: true, detail: "a visitor got the cover's answer".into() },
            Ok(Heard::Close) => Health {
                serving: true,
                detail: "a visitor was closed without an answer: the cover is unreachable".into(),
            },
            Err(error) => Health { serving: false, detail: error },
        };
        *heard = Some((Instant::now(), health.clone()));
        health
    }
}

/// Name in the log for the sender of an unknown token. No token can have this name.
const NOBODY: &str = "(unknown)";

/// Target of what goes into the log of actions.
pub const AUDIT: &str = "audit";

/// An answer for a path that leads nowhere.
pub fn nowhere() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is nothing here", "see /openapi.json")
}
