//! From a configuration to the parts of the running proxy, for the start and for every reload.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, fs, io, thread};

use tokio::sync::mpsc;
use tracing::warn;

use super::embedded::{CoverDraft, Draft};
use super::{Config, Listen, User};
use crate::auth::{Domain, Enrolment, PastNames, People, Rules, Secret, SecretTag, TimeWindow, UnixTime};
use crate::cover::grade::IOS_FLIGHT;
use crate::cover::remote::{Remote, Unusable};
use crate::cover::site::{self, Site, SiteError};
use crate::cover::{self, Cover};
use crate::net::https::Client;
use crate::net::listen::Address;
use crate::ops::admin::Keys;
use crate::ops::alarms::{self, Alarm, Alarms, Persistence};
use crate::ops::audit_log::AuditLog;
use crate::ops::lists::{self, Lists};
use crate::server::event::Observer;
use crate::server::handle::Handle;
use crate::server::{self, ListenerSpec, Purpose};
use crate::telegram::middle;
use crate::webproxy::{Host, service};

/// A part that could not be made.
#[derive(Debug)]
pub struct PartError {
    /// Description of the problem.
    pub what: String,
    /// Advice on what to do.
    pub fix: String,
    /// Whether it is a mistake in the configuration or in a file that it names, so that another try changes nothing.
    pub mistake: bool,
}

impl PartError {
    fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), mistake: false }
    }

    fn mistake(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { mistake: true, ..Self::new(what, fix) }
    }
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

impl std::error::Error for PartError {}

fn lists_error(error: lists::Unusable) -> PartError {
    PartError::mistake(error.to_string(), "correct the section [lists], then `vizard check`")
}

fn site_error(error: SiteError) -> PartError {
    PartError::mistake(error.to_string(), "correct the section [site], then `vizard check`")
}

/// Whether an attempt a moment later would fail as well.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory | ReadOnlyFilesystem)
}

/// Everything that a start with this configuration would open and that is there already, opened and closed again: files of
/// the site, of lists and of the admin listener. Changes nothing on this machine. Returns what would keep the start from
/// happening.
pub fn inspect(draft: &Draft) -> Vec<PartError> {
    let mut found = Vec::new();
    if let CoverDraft::Site { certificate, content, server_header, .. } = &draft.cover {
        let certificate = certificate.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        found.extend(site::inspect(certificate, content.as_ref(), server_header.as_deref()).err().map(site_error));
    }
    found.extend(lists(draft).err());
    let keys = draft.admin.as_ref().map(Keys::open).transpose();
    found.extend(keys.err().map(|error| PartError::mistake(error.to_string(), error.fix())));
    if let Some(log) = &draft.misuse.audit_log {
        let folder = log.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        found.extend(fs::read_dir(folder).err().map(|error| {
            let what = format!("the audit log cannot be written: {}: {error}", log.file.display());
            PartError::mistake(what, "name a file in a folder that is there in the section [audit_log]")
        }));
    }
    found
}

/// The lists of a configuration with what is in them, as far as that is on this machine.
pub fn lists(draft: &Draft) -> Result<lists::State, PartError> {
    lists::State::load(draft.misuse.lists.clone(), &draft.state_dir.join("lists")).map_err(lists_error)
}

/// Enrols exactly these users, of which running sessions hear; returns the judge's rules. Leaves expired secrets out.
/// `past` are the names that the site had, with those of this configuration ([`super::embedded::remember_names`]).
pub fn rules(config: &Config, people: &People, past: PastNames, now: UnixTime) -> Rules {
    let enrolment = |user: &User| Enrolment {
        name: user.name.clone(),
        policy: user.policy.clone(),
        secrets: secrets(user, now).map(|(secret, until)| (secret.clone(), until)).collect(),
    };
    let keyring = people.enrol(config.users.iter().map(enrolment)).over(config.all_names()).after(past);
    let names = config.accepted_names.clone().map(|further| [config.all_names(), further].concat());
    Rules { keyring, window: TimeWindow::new(config.time_window), names }
}

/// Tags of all valid secrets, whose entries the replay cache has to remember.
pub fn tags(config: &Config, now: UnixTime) -> Vec<SecretTag> {
    let secrets = config.users.iter().flat_map(|user| secrets(user, now));
    secrets.map(|(secret, _)| SecretTag::of(secret.bytes())).collect()
}

/// Those that are good now.
fn secrets(user: &User, now: UnixTime) -> impl Iterator<Item = (&Secret, Option<UnixTime>)> {
    user.secrets().filter(move |(_, until)| until.is_none_or(|until| now < until))
}

/// Settings of the server itself.
pub fn settings(config: &Config) -> server::Settings {
    server::Settings {
        telegram: config.telegram.clone(),
        middle: middle(config),
        ad_tag: config.ad_tag,
        middle_use: config.middle_use,
        idle: config.idle,
        drain: config.drain,
        handover: config.handover,
        fillers: config.fillers.clone(),
        end_unanswered: config.end_unanswered,
        log_addresses: config.log.client_addresses,
        limits: config.misuse.limits.clone(),
        web: web(config),
        believed: config.proxied.from.clone(),
    }
}

/// Settings of WEB proxies, under the names of the site.
fn web(config: &Config) -> Option<service::Settings> {
    let (web, key) = config.web.as_ref()?;
    let host = |name: &Domain| {
        let host = Host::lowered(name.as_str());
        host.inspect_err(|error| warn!(%name, "WEB proxies are not served under a name that apps refuse: {error}")).ok()
    };
    let hosts = config.all_names().iter().filter_map(host).collect();
    Some(service::Settings { mode: web.carrier, hosts, base: web.path.clone(), key: key.clone() })
}

/// Settings for middle proxies, with what other sections say about the same things.
pub fn middle(config: &Config) -> middle::Settings {
    // Of a remote cover the name leads elsewhere, and a made-up name nowhere.
    let ours = matches!(config.cover, super::Cover::Site(_)) && !config.made_up.domain;
    let name = config.link.host.clone().or(ours.then(|| config.domain.to_string()));
    let mut settings = config.middle.clone();
    (settings.prefer, settings.own.name) = (config.telegram.prefer, name);
    settings
}

/// The listeners; `automatic` is what [`Listen::Automatic`] came to.
pub fn listeners(config: &Config, automatic: SocketAddr) -> Vec<ListenerSpec> {
    let clients = match &config.listen {
        Listen::Given(addresses) => addresses.clone(),
        Listen::Automatic => vec![automatic.into()],
    };
    let (redirects, fronts) = match &config.cover {
        super::Cover::Site(site) => (&site.redirect_from[..], &site.fronts.listen[..]),
        super::Cover::Remote(_) => (&[][..], &[][..]),
    };
    let wanted = |purpose| move |address| ListenerSpec { purpose, address };
    clients
        .into_iter()
        .map(wanted(Purpose::Cover))
        .chain(config.proxied.listen.iter().cloned().map(wanted(Purpose::Proxied)))
        .chain(redirects.iter().copied().map(Address::from).map(wanted(Purpose::Redirect)))
        .chain(fronts.iter().cloned().map(wanted(Purpose::Front)))
        .collect()
}

/// Parts of a running proxy that act against misuse.
pub struct Misuse {
    /// Lists of addresses that are not judged.
    pub lists: Arc<Lists>,
    /// Alarms for the operator.
    pub alarms: Arc<Alarms>,
    /// Log of admissions, if one is kept.
    pub audit_log: Option<AuditLog>,
    posting: Mutex<Option<mpsc::Receiver<Alarm>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Misuse {
    /// Reads lists and opens the audit log.
    pub fn open(config: &Config) -> Result<Self, PartError> {
        let folder = config.state_dir.join("lists");
        let state = lists::State::load(config.misuse.lists.clone(), &folder).map_err(lists_error)?;
        let (audit_log, writer) = match &config.misuse.audit_log {
            Some(settings) => {
                let opened = AuditLog::open(settings.clone()).map_err(|error| {
                    let what = format!("the audit log cannot be written: {}: {error}", settings.file.display());
                    let fix = "name a file that this user may write to in the section [audit_log]";
                    PartError { mistake: is_lasting(&error), ..PartError::new(what, fix) }
                })?;
                (Some(opened.0), Some(opened.1))
            }
            None => (None, None),
        };
        let (alarms, posting) = Alarms::new(config.misuse.alarms.clone());
        Ok(Self {
            lists: Arc::new(Lists::new(state, folder, Client::default())),
            alarms,
            audit_log,
            posting: Mutex::new(Some(posting)),
            writer: Mutex::new(writer),
        })
    }

    /// Those who want to hear what happens.
    pub fn observers(&self) -> Vec<Arc<dyn Observer>> {
        let audit_log = self.audit_log.clone().map(|log| Arc::new(log) as Arc<dyn Observer>);
        [Arc::clone(&self.alarms) as Arc<dyn Observer>].into_iter().chain(audit_log).collect()
    }

    /// Fetches lists, looks for alarms and posts them, for as long as this is polled. To be called once.
    pub async fn keep(&self, handle: &Handle) {
        let waiting = self.posting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let posting = async {
            if let Some(waiting) = waiting {
                alarms::post(&self.alarms, waiting, Client::default(), Persistence::default()).await;
            }
        };
        tokio::join!(self.lists.keep(), self.alarms.keep(handle), posting);
    }

    /// Waits a moment until the audit log is written. Blocks.
    pub fn close(self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        drop(self.audit_log);
        let Some(writer) = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner) else { return };
        let end = Instant::now() + PATIENCE;
        // Someone who still holds the log keeps the writer from ending.
        while !writer.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Requirement that a cover must meet before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// At the start a cover that is away for the moment is better than no proxy.
    Start,
    /// In a running proxy the cover that works is better than one that does not.
    Reload,
}

/// The cover of a proxy that listens on `listeners`.
pub async fn open_cover(config: &Config, listeners: &[SocketAddr], demand: Demand) -> Result<Cover, PartError> {
    match &config.cover {
        super::Cover::Site(settings) => {
            let site = Site::open(settings).map_err(site_error)?;
            let cover = Cover::site(Arc::new(site), config.domain.clone(), Some(&config.state_dir));
            let cover = cover.also_known_as(&config.names);
            look_at(&cover, demand, true).await?;
            Ok(cover)
        }
        super::Cover::Remote(settings) => {
            let remote = Remote::new(settings.clone());
            let found = remote.resolve(listeners).await;
            let cover = Cover::remote(remote, config.domain.clone(), Some(&config.state_dir));
            let cover = cover.also_known_as(&config.names);
            match found {
                Ok(()) => look_at(&cover, demand, settings.accept_grade_c).await?,
                Err(Unusable::Ourselves) => {
                    return Err(PartError::mistake(
                        format!("the cover {}:{} is this proxy itself", settings.host, settings.port),
                        "name another web server with --cover, or use the built-in site: --cover site",
                    ));
                }
                Err(error @ Unusable::Private(_)) => return Err(PartError::new(error.to_string(), PRIVATE)),
                Err(error) if demand == Demand::Reload => {
                    return Err(PartError::new(error.to_string(), "the cover in use is kept"));
                }
                Err(error) => warn!(%error, "going on, and trying again"),
            }
            Ok(cover)
        }
    }
}

/// The way out of a cover of grade C.
pub const SEVERAL: &str = "put the built-in site in front of your web server: --cover site with [site] upstream = \
                           \"http://127.0.0.1:8080\"; or accept it: --accept-grade-c, or accept_grade_c = true in [cover]";

/// The way out of a cover whose name leads inside.
const PRIVATE: &str = "write the address itself in place of the name; or allow it with private_addresses = true in \
                       [cover], if the owner of the name may expose your network to visitors";

/// Visits the cover before the first client comes, and tells the operator what about it will be visible.
async fn look_at(cover: &cover::Cover, demand: Demand, accepts_several: bool) -> Result<(), PartError> {
    match cover.quick_scan().await {
        Ok(flight) => {
            if flight.records > 1 && !accepts_several {
                let what = "the cover's first flight has several encrypted records (grade C), and clients get one: a single \
                            flow tells them apart";
                return Err(PartError::new(what, SEVERAL));
            }
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
        Err(error) if demand == Demand::Reload => {
            return Err(PartError::new(
                format!("the new cover could not be visited: {error}"),
                "the cover in use is kept; try again when the other one answers",
            ));
        }
        Err(error) => warn!(%error, "the cover could not be visited; going on, and trying again"),
    }
    Ok(())
}
