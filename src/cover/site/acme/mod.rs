//! A certificate from an authority that speaks ACME (RFC 8555): asked for, proved, kept and renewed.
//!
//! ```text
//!  plan (when) ─▶ Keeper ─▶ order (instant-acme over net::https) ─▶ store (state directory) ─▶ certificate
//!                             └ challenge: what the authority is shown when it comes to look
//! ```
//!
//! Until there is a certificate, and whenever a new one cannot be had, the site goes on with the one it has. The outcome
//! of every attempt is on disk before the next can begin, so a program that crashes and starts again does not ask the
//! authority again and again.
//!
//! A site with several names has one certificate for all of them. When it gets another name, the certificate at hand goes on
//! being shown, and one for all names is ordered at once.
//!
//! Left out: challenges by DNS, and renewal times that the authority suggests.

mod challenge;
mod http;
mod order;
mod plan;
mod store;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::Uri;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use self::store::Store;
use super::certificate::{self, Watched};
use crate::auth::UnixTime;

pub(super) use self::challenge::{Answering, Challenges, PROTOCOL};
pub use self::plan::{Memory, Validity};
pub use self::trouble::Trouble;

/// Directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Its twin for trying things out, whose certificates no browser trusts.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// The authority, and how it is dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// URL of its directory.
    pub directory: Uri,
    /// Address that it may write to about the account.
    pub email: Option<String>,
    /// Challenge that proves control of the name.
    pub challenge: Challenge,
    /// PEM file with the roots that its own certificate is checked against, in place of those that browsers trust.
    pub roots: Option<PathBuf>,
    /// An account there that the one made here is to belong to.
    pub external: Option<External>,
}

impl Authority {
    /// Let's Encrypt, or its twin for trying things out, with nothing but what it takes.
    pub fn lets_encrypt(staging: bool) -> Self {
        Self {
            directory: Uri::from_static(if staging { LETS_ENCRYPT_STAGING } else { LETS_ENCRYPT }),
            email: None,
            challenge: Challenge::default(),
            roots: None,
            external: None,
        }
    }
}

/// An account with the authority that was made in another way ("external account binding").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The identifier of its key.
    pub id: String,
    /// File with the key, in base64 as authorities hand it out.
    pub key_file: PathBuf,
}

/// Challenge that proves control of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Challenge {
    /// In a TLS handshake on port 443 (RFC 8737).
    #[default]
    TlsAlpn01,
    /// By a page over plain HTTP on port 80 (RFC 8555, 8.3).
    Http01,
}

impl Challenge {
    /// The name that it has everywhere.
    pub fn label(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }

    /// The port that the authority connects to.
    pub fn port(self) -> u16 {
        match self {
            Self::TlsAlpn01 => 443,
            Self::Http01 => 80,
        }
    }
}

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From whom.
    pub authority: Authority,
    /// For which names; the first one names the files.
    pub names: Vec<String>,
    /// Folder for account, certificates and memory.
    folder: PathBuf,
}

impl Settings {
    /// A certificate for all of these names, kept below the state directory: apart for each authority, so that one for
    /// trying things out is never taken for a real one.
    pub fn new(authority: Authority, names: &[&str], state: &Path) -> Self {
        let folder = state.join("acme").join(store::label(&authority.directory));
        Self { authority, names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), folder }
    }

    /// The first of the names.
    pub fn domain(&self) -> &str {
        self.names.first().map(String::as_str).unwrap_or_default()
    }

    /// The file with certificate and key, once there are any.
    pub fn file(&self) -> PathBuf {
        Store::new(self).certificate()
    }

    /// Sees to it that a certificate for all names that is there under another first name is found. One is ordered where that
    /// fails.
    pub(super) fn adopt(&self) {
        let now = now();
        let good_until = |path: &Path| certificate::good_until(path, &self.names).filter(|until| *until > now);
        if let Err(error) = Store::new(self).adopt(good_until) {
            warn!(%error, domain = self.domain(), "certificates that were issued before cannot be looked through");
        }
    }

    /// Memory of the last attempt.
    pub fn memory(&self) -> std::io::Result<Memory> {
        Store::new(self).memory()
    }

    /// The host of the authority.
    pub fn host(&self) -> &str {
        self.authority.directory.host().unwrap_or_default()
    }
}

/// Status of certificate issuance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Certificates that were issued since the start.
    pub issued: u64,
    /// Attempts since the start that failed.
    pub failed: u64,
    /// Attempts in a row that failed, earlier runs of the program included.
    pub failures: u32,
    /// Time when the authority is asked next.
    pub next: Option<UnixTime>,
}

/// Gets certificates and renews them.
pub(super) struct Keeper {
    settings: Settings,
    store: Store,
    asked: Notify,
    standing: Mutex<Standing>,
}

impl Keeper {
    pub(super) fn new(settings: Settings) -> Self {
        let store = Store::new(&settings);
        Self { settings, store, asked: Notify::new(), standing: Mutex::default() }
    }

    /// Keeps `certificate` fresh for as long as this is polled; `changed` is called when it is another.
    pub(super) async fn keep(&self, certificate: &Watched, challenges: &Arc<Challenges>, changed: impl Fn()) {
        let (mut jitter, mut asked, mut told) = (rand::random(), false, None);
        loop {
            let now = now();
            let (memory, unreadable) = match self.store.memory() {
                Ok(memory) => (memory, None),
                Err(error) => (Memory::default(), Some(error)),
            };
            if let Some(error) = unreadable {
                // Without a memory a crash would be followed by another order, and another.
                self.complain(&Trouble::store(&self.store.remembered(), &error), UnixTime(now.0 + RECHECK));
                sleep(secs(RECHECK)).await;
                continue;
            }
            let memory = memory.about(&self.settings.names);
            let due = plan::due(self.validity(certificate), &memory, jitter, asked, now);
            self.note(|standing| (standing.failures, standing.next) = (memory.failures, Some(due)));
            if due > now {
                if told != Some(due) {
                    told = Some(due);
                    info!(domain = self.settings.domain(), next = %shown(due), "the certificate authority is asked later");
                }
                tokio::select! {
                    () = sleep(secs((due.0 - now.0).min(RECHECK))) => {}
                    () = self.asked.notified() => asked = true,
                }
                continue;
            }
            (jitter, asked, told) = (rand::random(), false, None);
            if self.attempt(memory, certificate, challenges, jitter).await {
                changed();
            }
        }
    }

    /// From when to when the certificate is good; nothing while it lacks a name.
    fn validity(&self, certificate: &Watched) -> Option<Validity> {
        certificate.validity().filter(|_| certificate.is_for(&self.settings.names))
    }

    /// Someone wishes that it is tried again soon.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One order from beginning to end. Says whether there is a new certificate.
    async fn attempt(&self, memory: Memory, certificate: &Watched, challenges: &Arc<Challenges>, jitter: f64) -> bool {
        let begun = memory.begun(now());
        let outcome = match self.store.remember(&begun) {
            Err(error) => Err(Trouble::store(&self.store.remembered(), &error)),
            Ok(()) => {
                let (names, authority) = (self.settings.names.join(", "), self.settings.host());
                info!(
                    names,
                    authority,
                    challenge = self.settings.authority.challenge.label(),
                    "a certificate is ordered"
                );
                let order = Box::pin(order::obtain(&self.settings, &self.store, challenges));
                timeout(PATIENCE, order).await.unwrap_or_else(|_| Err(Trouble::late()))
            }
        };
        let outcome = outcome.and_then(|pem| self.store.keep(&pem).and_then(|()| self.take(certificate)));
        match outcome {
            Ok(()) => {
                if let Err(error) = self.store.remember(&begun.succeeded()) {
                    warn!(%error, file = %self.store.remembered().display(), "the success cannot be recorded");
                }
                self.note(|standing| standing.issued += 1);
                let until = certificate.validity().map(|validity| shown(validity.not_after));
                info!(domain = self.settings.domain(), until, "a certificate was issued and is in use");
                true
            }
            Err(trouble) => {
                let failed = begun.failed(&trouble, now());
                let kept = self.store.remember(&failed);
                let next = plan::due(self.validity(certificate), &failed, jitter, false, now());
                self.complain(&trouble, next);
                if kept.is_err() {
                    // The disk does not take what must survive a crash, so nothing is begun for a while.
                    sleep(secs(RECHECK)).await;
                }
                false
            }
        }
    }

    fn take(&self, certificate: &Watched) -> Result<(), Trouble> {
        certificate.reload().map(drop).map_err(|error| Trouble::unfit(&error.to_string()))
    }

    fn complain(&self, trouble: &Trouble, next: UnixTime) {
        self.note(|standing| standing.failed += 1);
        error!(
            domain = self.settings.domain(),
            authority = self.settings.host(),
            why = %trouble.what,
            fix = %trouble.fix,
            next = %shown(next),
            "no certificate was issued; the site keeps the current one"
        );
    }

    fn note(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Longest an order may take.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Seconds after which it is looked again at what is due: a machine may sleep, and files may be put back.
const RECHECK: i64 = 60 * 60;

fn secs(seconds: i64) -> Duration {
    // A second more than nothing, so that a wrong clock cannot make this a busy loop.
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1))
}

fn now() -> UnixTime {
    SystemTime::now().into()
}

/// A time for people.
fn shown(time: UnixTime) -> String {
    jiff::Timestamp::from_second(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}
