//! What the admin listener gets to see of the proxy, and how its wishes are carried out.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::doctor::name::leads;
use super::invitation::{Host, invitations, port};
use super::ways::Way;
use super::web::{self, WebObstacle};
use super::{Failure, health};
use crate::auth::{Member, MiddleUse, Secret, SecretText, UnixTime};
use crate::config::edit::{self, EditError, UserToAdd};
use crate::config::{self, Config, Environment, Flags, units};
use crate::cover::grade::{NameTarget, grade};
use crate::net::listen::Address;
use crate::ops::admin::control::{Changed, Control, Heard, Kind, Links, NewUser, Settings, Trouble};
use crate::ops::admin::desk::AdminState;
use crate::ops::admin::events::Events;
use crate::ops::admin::views::moment;
use crate::ops::admin::{self, Keys};
use crate::ops::alarms::Alarms;
use crate::ops::audit_log::AuditLog;
use crate::ops::counts::Counts;
use crate::ops::links::{Form, OwnAddress};
use crate::ops::metrics::Metrics;
use crate::ops::reload::{Applied, Queue, Refused, Removals, Source, Terms};
use crate::ops::snapshot::{CoverState, QuotaState, Replay, Snapshot, UserState};
use crate::server::handle::Handle;
use crate::server::sessions::Sessions;
use crate::server::{Purpose, fan_out};

/// Interval at which the cover's name is looked up.
const LOOK_UP: Duration = Duration::from_secs(60 * 60);

/// Default time for which a replaced secret stays good.
const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// AdminParts of the program that the admin listener needs.
pub struct AdminParts {
    /// The running server.
    pub handle: Handle,
    /// Counters.
    pub counts: Arc<Counts>,
    /// The latest events.
    pub events: Arc<Events>,
    /// Alarms that have sounded.
    pub alarms: Arc<Alarms>,
    /// Log of actions, if there is one.
    pub audit_log: Option<AuditLog>,
    /// Queue for requests to reload.
    pub queue: Queue,
    /// The tokens and the certificate, if there is a listener.
    pub keys: Option<Keys>,
    /// Flags and environment that the configuration is loaded from.
    pub origin: (Flags, Environment),
}

/// The tokens and the certificate of the admin listener, if one is configured.
pub fn keys(config: &Config) -> Result<Option<Keys>, Failure> {
    let keys = config.admin.as_ref().map(Keys::open).transpose();
    keys.map_err(|error| Failure::usage(error.to_string(), error.fix()))
}

/// Opens the admin listener if one is configured, and serves it until the value is dropped.
pub async fn open(config: &Config, parts: AdminParts) -> Result<Option<AbortOnDropHandle<()>>, Failure> {
    let (Some(settings), Some(keys)) = (&config.admin, parts.keys.clone()) else { return Ok(None) };
    let listener =
        admin::open(settings, keys.clone()).await.map_err(|error| Failure::new(error.to_string(), error.fix()))?;
    match listener.address() {
        Some(address) => info!(%address, tls = listener.is_secure(), "admin listener"),
        None => info!(place = %settings.place, "admin listener"),
    }
    let (counts, events) = (Arc::clone(&parts.counts), Arc::clone(&parts.events));
    let audit_log = parts.audit_log.clone();
    let started = parts.handle.status().since;
    let house = Arc::new(AdminBackend::new(parts));
    let looked = Arc::clone(&house);
    let metrics = Metrics::new(counts, Arc::new(move || looked.look()), started, settings.per_user_metrics);
    let desk = AdminState::new(house.clone(), keys, metrics, events, started, audit_log);
    Ok(Some(AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::join!(listener.serve(desk), Arc::clone(&house).keep_looking_up());
    }))))
}

/// The proxy, as the admin listener sees it.
struct AdminBackend {
    handle: Handle,
    counts: Arc<Counts>,
    alarms: Arc<Alarms>,
    queue: Queue,
    flags: Flags,
    environment: Environment,
    runtime: runtime::Handle,
    /// 0: not known yet, 1: the cover's name leads here, 2: it leads elsewhere.
    place: AtomicU8,
}

impl AdminBackend {
    fn new(parts: AdminParts) -> Self {
        let AdminParts { handle, counts, alarms, queue, origin: (flags, environment), .. } = parts;
        let (runtime, place) = (runtime::Handle::current(), AtomicU8::new(0));
        Self { handle, counts, alarms, queue, flags, environment, runtime, place }
    }

    /// Looks where the cover's name leads, from time to time and whenever it is another cover.
    async fn keep_looking_up(self: Arc<Self>) {
        let mut changes = self.handle.changes();
        loop {
            let (house, cover) = (Arc::clone(&self), self.handle.cover());
            let host = spawn_blocking(move || house.config().ok()?.link.host).await.ok().flatten();
            let here = leads(cover.name().as_str(), host.as_deref()).await.here();
            self.place.store(if here { 1 } else { 2 }, Ordering::Relaxed);
            if timeout(LOOK_UP, changes.changed()).await.is_ok() {
                self.place.store(0, Ordering::Relaxed);
            }
        }
    }

    fn place(&self) -> Option<NameTarget> {
        match self.place.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(NameTarget::Here),
            _ => Some(NameTarget::Elsewhere),
        }
    }

    /// Addresses on which clients are accepted, as far as they are TCP addresses.
    fn listeners(&self) -> Vec<SocketAddr> {
        self.open(Purpose::Cover).iter().filter_map(Address::tcp).collect()
    }

    /// Open listeners, with the addresses that the system gave.
    fn open(&self, purpose: Purpose) -> Vec<Address> {
        let open = self.handle.listeners().into_iter().filter(|one| one.wanted.purpose == purpose);
        open.map(|one| one.local.map_or(one.wanted.address, Address::from)).collect()
    }

    /// The configuration as its files have it now.
    fn config(&self) -> Result<Config, Trouble> {
        let failed = |error: String| {
            Trouble::new(Kind::Failed, format!("the configuration cannot be read: {error}"), "see `vizard check`")
        };
        let loaded = config::load(&self.flags, &self.environment).map_err(|error| match error {
            config::LoadError::Complaints(report) => failed(report.sentences().join("; ")),
            error => failed(error.to_string()),
        })?;
        loaded.draft.settle(&mut rand::rng()).map_err(|error| failed(error.to_string()))
    }

    /// The file that is to be changed.
    fn file(&self) -> Result<PathBuf, Trouble> {
        let fixed = |what: &str, next: &str| Err(Trouble::new(Kind::Conflict, what, next));
        if self.flags.name_users() || self.environment.names_users().is_some() {
            return fixed("the users come from flags or from variables", "write them into the configuration file");
        }
        match config::path(&self.flags, &self.environment) {
            Some(file) => Ok(file),
            None => fixed("the proxy runs without a configuration file", "start it with --config FILE"),
        }
    }

    fn reloaded(&self, terms: Terms) -> Result<Applied, Refused> {
        self.runtime.block_on(self.queue.reload_on(Source::Admin, terms))
    }

    /// Makes a change to the file and has it taken. What is refused leaves the files as they were. `removed` is the user who
    /// is taken away by the change.
    fn edit(
        &self,
        said: String,
        removed: Option<&str>,
        change: impl FnOnce(&Path) -> Result<(), EditError>,
    ) -> Result<Changed, Trouble> {
        let file = self.file()?;
        let before = FileSnapshot::of(&file, &self.flags, &self.environment);
        change(&file).map_err(refused)?;
        let after = before.now();
        let removals = removed.map_or(Removals::Few, |name| Removals::Named(name.to_owned()));
        match self.reloaded(Terms { whole: true, removals }) {
            Ok(Applied { restart, .. }) => Ok(Changed { changed: vec![said], restart }),
            Err(Refused { complaints, users: Some(_) }) => {
                let rest = format!("the rest of the configuration was not taken: {}", complaints.join("; "));
                Ok(Changed { changed: vec![said, rest], restart: Vec::new() })
            }
            Err(refused) => {
                before.put_back(&after);
                Err(not_taken(&refused))
            }
        }
    }
}

/// Files of the configuration as they were before a change.
struct FileSnapshot(Vec<(PathBuf, Option<String>)>);

impl FileSnapshot {
    /// The configuration file, and the files of secrets that it names.
    fn of(file: &Path, flags: &Flags, environment: &Environment) -> Self {
        // Only files of secrets are changed along with it, and to read all of it for their names takes time.
        let names_files = fs::read_to_string(file).is_ok_and(|text| text.contains("secret_file"));
        let loaded = names_files.then(|| config::load(flags, environment).ok()).flatten();
        let named = loaded.map(|loaded| loaded.files).unwrap_or_default();
        let files = std::iter::once(file.to_owned()).chain(named);
        Self(files.map(|path| (fs::read_to_string(&path).ok(), path)).map(|(text, path)| (path, text)).collect())
    }

    /// Present contents of the files.
    fn now(&self) -> Vec<Option<String>> {
        self.0.iter().map(|(path, _)| fs::read_to_string(path).ok()).collect()
    }

    /// Writes back what has been changed since, unless someone else has changed it once more.
    fn put_back(self, after: &[Option<String>]) {
        for ((path, before), after) in self.0.into_iter().zip(after) {
            let Some(before) = before.filter(|before| Some(before) != after.as_ref()) else { continue };
            if fs::read_to_string(&path).ok() == *after
                && let Err(error) = edit::put_back(&path, &before)
            {
                warn!(%error, "a change that was refused could not be taken back");
            }
        }
    }
}

fn not_taken(refused: &Refused) -> Trouble {
    let error = format!("the configuration was not taken: {}", refused.complaints.join("; "));
    Trouble::new(Kind::Invalid, error, "correct the file; `vizard check` shows the places")
}

fn user(member: &Member, now: UnixTime) -> UserState {
    let (policy, usage) = (member.policy(), member.usage(now));
    let quota = policy.quota.map(|quota| {
        let start = quota.period.start(usage.since, now);
        QuotaState {
            bytes: quota.bytes,
            used: usage.in_period,
            period: quota.period.label().into(),
            resets: usage.since.and_then(|_| quota.period.end(start)),
        }
    });
    // From nowhere in particular, so networks do not count.
    let shut = match (policy.enabled, policy.expires.is_some_and(|end| now >= end), &quota) {
        (false, ..) => Some("disabled"),
        (_, true, _) => Some("expired"),
        (.., Some(quota)) if quota.used >= quota.bytes => Some("quota"),
        _ => None,
    };
    UserState {
        name: member.name().into(),
        note: policy.note.clone(),
        shut,
        expires: policy.expires,
        sessions: member.sessions() as usize,
        addresses: member.addresses(),
        up: usage.up,
        down: usage.down,
        quota,
        max_sessions: policy.max_sessions.map(Into::into),
        max_addresses: policy.max_addresses.map(Into::into),
        ad_tag: units::tagging_text(policy.ad_tag),
        middle: policy.middle.map(MiddleUse::label),
        domain: policy.domain.as_ref().map(ToString::to_string),
    }
}

impl Control for AdminBackend {
    fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    fn sessions(&self) -> &Arc<Sessions> {
        self.handle.sessions()
    }

    fn look(&self) -> Snapshot {
        let (status, judge) = (self.handle.status(), self.handle.judge());
        let (health, now) = (judge.replay.health(), SystemTime::now().into());
        let profile = &status.cover.profile;
        let visited = !profile.flights.is_empty();
        Snapshot {
            listen: [self.open(Purpose::Cover), self.open(Purpose::Proxied)].concat(),
            sessions: status.sessions,
            fan_out: fan_out::by_class(self.sessions().list().iter().map(|live| &**live)),
            moved: self.sessions().moved(),
            ready: self.handle.upstream().ready(),
            routes: self.handle.upstream().routes(),
            replay: Replay {
                entries: judge.replay.len(),
                unsaved: health.unsaved,
                dropped: health.dropped,
                well: health.is_well(),
            },
            cover: CoverState {
                kind: status.cover.kind,
                name: self.handle.cover().name().to_string(),
                graded: self.place().filter(|_| visited).map(|place| grade(profile, place, now)),
                changes: status.cover.changes,
                learnt: visited.then_some(UnixTime(profile.learnt)),
            },
            certificate_ends: status.cover.certificate_ends,
            acme: status.cover.acme,
            users: self.handle.people().list().iter().map(|member| user(member, now)).collect(),
            alarms: self.alarms.sounded(),
            middle: self.handle.middle().standing(),
            draining: status.draining,
        }
    }

    fn ping(&self) -> Result<Heard, String> {
        let ways = Way::all(&self.open(Purpose::Cover), &self.open(Purpose::Proxied));
        let cover = self.handle.cover();
        self.runtime
            .block_on(health::visit(&ways, cover.name(), cover.elsewhere(), None))
            .map(|said| if said.ends_with("answers") { Heard::Cover } else { Heard::Close })
    }

    fn links(&self, user: &str) -> Result<Links, Trouble> {
        let (config, listeners) = (self.config()?, self.listeners());
        let host = Host::choose(&config, &listeners, OwnAddress::find).ok_or_else(|| {
            Trouble::new(Kind::Failed, "this machine has no address to put into a link", "set `host` in [link]")
        })?;
        let port = port(&config, &listeners);
        let all = invitations(&config, &host, port, Form::Hex);
        let found = all.into_iter().find(|one| one.user == user).ok_or_else(Trouble::no_user)?;
        let no_webproxy = web::obstacle(&config, port).map(WebObstacle::sentence);
        Ok(Links { user: found.user, tg: found.tg, web: found.web, webproxy: found.webproxy, no_webproxy })
    }

    fn create(&self, user: &NewUser) -> Result<Changed, Trouble> {
        let new = to_add(user)?;
        self.edit(format!("user {} added", user.name), None, |file| edit::add(file, new, &user.settings))
    }

    fn create_all(&self, users: &[NewUser]) -> Result<Changed, Trouble> {
        if users.is_empty() {
            return Err(Trouble::new(Kind::Invalid, "there are no users in the list", "send [{\"name\": \"…\"}, …]"));
        }
        let entry = |(index, user)| {
            let entry = |trouble: Trouble| {
                let error = format!("entry {}: {}; nothing was added", index + 1, trouble.error);
                Trouble { error, ..trouble }
            };
            to_add(user).map_err(entry)
        };
        let new: Vec<UserToAdd> = users.iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        let with_settings: Vec<_> = new.iter().zip(users.iter().map(|user| &user.settings)).collect();
        let said = format!("{} users added", users.len());
        self.edit(said, None, |file| edit::add_each(file, &with_settings))
    }

    fn change(&self, user: &str, settings: &Settings) -> Result<Changed, Trouble> {
        let mut moved = None;
        let outcome = self.edit(format!("user {user} changed"), None, |file| {
            moved = edit::change(file, user, settings, || Secret::generate(&mut rand::rng()))?;
            Ok(())
        });
        let said = format!(
            "user {user} has a new secret and another link now, and the old ones do not work any more: hand it out"
        );
        outcome.map(|mut changed| {
            changed.changed.extend(moved.map(|_| said));
            changed
        })
    }

    fn rotate(&self, user: &str, keep: Option<&str>) -> Result<Changed, Trouble> {
        let keep = match keep {
            None => KEEP,
            Some(text) => units::duration(text)
                .map_err(|error| Trouble::new(Kind::Invalid, format!("keep: {error}"), error.fix()))?,
        };
        let now = UnixTime::from(SystemTime::now()).0;
        let until = UnixTime(now.saturating_add(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX)));
        let said = format!("user {user} has a new secret; the old one is good until {}", moment(until));
        self.edit(said, None, |file| edit::rotate(file, user, &Secret::generate(&mut rand::rng()), until))
    }

    fn remove(&self, user: &str) -> Result<Changed, Trouble> {
        self.edit(format!("user {user} removed"), Some(user), |file| edit::remove(file, user))
    }

    fn reload(&self) -> Result<Changed, Trouble> {
        match self.reloaded(Terms::default()) {
            Ok(Applied { changed, restart, .. }) => Ok(Changed { changed, restart }),
            Err(refused) => Err(not_taken(&refused)),
        }
    }

    fn drain(&self) {
        self.handle.drain();
    }
}

/// A new user with the secret that was given, or a new one.
fn to_add(user: &NewUser) -> Result<UserToAdd, Trouble> {
    let secret = match &user.secret {
        Some(text) => SecretText::parse(text.trim())
            .map_err(|error| Trouble::new(Kind::Invalid, format!("secret: {error}"), error.fix()))?,
        None => SecretText { secret: Secret::generate(&mut rand::rng()), domain: None },
    };
    Ok(UserToAdd::with(user.name.clone(), secret))
}

/// Error for a file that was not changed, for a client that does not see the file.
fn refused(error: EditError) -> Trouble {
    let cause = match &error {
        EditError::Entry(_, cause) => &**cause,
        error => error,
    };
    let kind = match cause {
        EditError::Unknown(_) => return Trouble::no_user(),
        EditError::Exists(_) => Kind::Conflict,
        EditError::Mistakes(_) => Kind::Invalid,
        EditError::File { .. } => Kind::Failed,
        EditError::NotToml | EditError::NoSections | EditError::Tangled(_) | EditError::NoSecret(_) => Kind::Conflict,
        EditError::Entry(..) => Kind::Conflict,
    };
    Trouble::new(kind, error.to_string(), error.fix())
}
