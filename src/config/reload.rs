//! Which differences a running proxy can take, and taking them.
//!
//! Everything that can fail comes first and changes nothing: reading the files, opening a new cover, loading what was spent
//! under new keys, binding new listeners. Only then does anything change, in one step that cannot fail.
//!
//! Where something has failed, the users of the file hold all the same if they can be read: that someone may not enter any
//! more must not wait for a certificate. Files that take away the last user or more than half of them are refused as a whole
//! unless that is asked for: so looks a file that was cut short or is being written.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::embedded::{self, Draft};
use super::losses::{self, Losses, Standing, losses};
use super::parts::{self, Demand, Misuse};
use super::{Config, Cover, Environment, Flags, LoadError, Loaded, User, UsersAlone, places};
use crate::auth::{Domain, PastNames, SecretTag};
use crate::ops::admin::{self, Keys};
use crate::ops::files::{Files, Touched};
use crate::ops::lists;
use crate::ops::logging;
use crate::ops::reload::{Applied, Queue, Refused, Removals, Request, Source, Terms};
use crate::ops::sandbox::Places;
use crate::ops::service_manager::ServiceManager;
use crate::server::Purpose;
use crate::server::handle::{Change, Handle};

/// Source of a configuration.
pub struct Origin {
    /// The command line.
    pub flags: Flags,
    /// The environment.
    pub environment: Environment,
    read: Vec<PathBuf>,
    sets_nothing: bool,
    files: Files,
    touched: Touched,
}

impl Origin {
    /// Watches the file that these name. Call it before that is read, so that nothing is missed.
    pub fn watched(flags: Flags, environment: Environment) -> Self {
        let (mut files, touched) = Files::new();
        files.watch(super::path(&flags, &environment));
        Self { flags, environment, read: Vec::new(), sets_nothing: false, files, touched }
    }

    /// From now on what happens to it is noticed, and what has happened. Takes a thread.
    pub fn start(&mut self) {
        self.files.start();
    }

    /// These files were read besides, and the configuration's own may set nothing.
    pub fn and(self, read: Vec<PathBuf>, sets_nothing: bool) -> Self {
        Self { read, sets_nothing, ..self }
    }
}

/// Carries out the wishes of the queue on a running server.
pub struct Reloader {
    flags: Flags,
    environment: Environment,
    /// Configuration that holds now.
    config: Config,
    /// Files of the configuration besides those that it names itself.
    read: Vec<PathBuf>,
    /// Whether the file of what holds sets nothing.
    sets_nothing: bool,
    handle: Handle,
    misuse: Arc<Misuse>,
    /// Those of the admin listener, if there is one.
    keys: Option<Keys>,
    manager: ServiceManager,
    /// Paths that the sandbox leaves open, if there is one.
    open: Option<Places>,
    files: Files,
    touched: Touched,
}

impl Reloader {
    /// A reloader for a proxy that runs with `config`, which was loaded from these.
    pub fn new(origin: Origin, config: Config, handle: Handle, misuse: Arc<Misuse>) -> Self {
        let Origin { flags, environment, read, sets_nothing, files, touched } = origin;
        let (keys, manager, open) = (None, ServiceManager::default(), None);
        let mut reloader = Self {
            flags,
            environment,
            config,
            read,
            sets_nothing,
            handle,
            misuse,
            keys,
            manager,
            open,
            files,
            touched,
        };
        reloader.watch_also();
        reloader
    }

    /// Lets these, the tokens and the certificate of the admin listener, follow the configuration.
    pub fn with_keys(self, keys: Option<Keys>) -> Self {
        Self { keys, ..self }
    }

    /// Lets this one hear of each reload.
    pub fn telling(self, manager: ServiceManager) -> Self {
        Self { manager, ..self }
    }

    /// Tells it that only these places are open.
    pub fn within(self, open: Option<Places>) -> Self {
        Self { open, ..self }
    }

    /// Carries out wishes, and asks by itself when `hangup` comes and when a file has changed. Runs for as long as it is polled.
    pub async fn run(mut self, queue: Queue, mut requests: mpsc::Receiver<Request>, mut hangup: Signal) {
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                // The outcome is in the log.
                let _ = queue.reload(Source::Signal).await;
            }
        });
        loop {
            tokio::select! {
                Some(request) = requests.recv() => {
                    let outcome = self.reload(request.source, request.terms).await;
                    let _ = request.answer.send(outcome);
                }
                Some(()) = self.touched.settled() => {
                    if self.files.changed() {
                        let _ = self.reload(Source::File, Terms { whole: true, ..Terms::default() }).await;
                    }
                }
                else => return,
            }
        }
    }

    /// Reads the configuration again and takes it, or leaves everything as it is, but perhaps for the users. The outcome is
    /// also in the log.
    async fn reload(&mut self, source: Source, terms: Terms) -> Result<Applied, Refused> {
        if !terms.whole {
            self.files.quiet().await;
        }
        // Before the files are read: what changes meanwhile is noticed afterwards.
        self.watch();
        self.manager.reloading();
        // Parts of the proxy are made and moved in there, which is much for the stack of a thread.
        let outcome = Box::pin(self.attempt(&terms.removals)).await;
        self.manager.ready();
        match &outcome {
            Ok(Applied { changed, restart, warnings }) => {
                info!(source = source.label(), changed = changed.join(", "), "the configuration was reloaded");
                if !restart.is_empty() {
                    warn!(keys = restart.join(", "), "these changes need a restart; until then the old values apply");
                }
                warnings.iter().for_each(|warning| warn!("{warning}"));
            }
            Err(refused) => {
                let users = refused.users.as_ref().map(|changed| changed.join(", ")).filter(|users| !users.is_empty());
                let complaints = refused.to_string();
                match users {
                    Some(users) => {
                        warn!(source = source.label(), complaints, users, "{ONLY_USERS}; see `vizard check`");
                    }
                    None => warn!(source = source.label(), complaints, "{NOTHING}; see `vizard check`"),
                }
                self.misuse.alarms.refused(refused.complaints.len());
            }
        }
        outcome
    }

    async fn attempt(&mut self, removals: &Removals) -> Result<Applied, Refused> {
        let (flags, environment, running) =
            (self.flags.clone(), self.environment.clone(), self.config.state_dir.clone());
        // Files are read and, for a site without content, written.
        let loading = tokio::task::spawn_blocking(move || settle(&flags, &environment, running));
        let Read { outcome, users } = loading.await.map_err(|panic| Refused::for_reason(panic.to_string()))?;
        match outcome {
            Ok(mut fresh) => {
                if fresh.sets_nothing && !self.sets_nothing && *removals != Removals::All {
                    return Err(Refused::for_reason(format!("the configuration file sets nothing; {MEANT}")));
                }
                let lost = self.refuse_losses(&fresh.config.users, &fresh.config.all_names(), removals)?;
                fresh.warnings.extend(Some(lost).filter(|lost| !lost.is_empty()).map(|lost| losses::cut_off(&lost)));
                let users = fresh.config.users.clone();
                match Box::pin(self.take(fresh)).await {
                    Ok(applied) => Ok(applied),
                    Err(refused) => Err(self.take_users(users, refused).await),
                }
            }
            Err(refused) => {
                let refused = self.explained(refused);
                let Some(UsersAlone { mut users, broken }) = users else { return Err(refused) };
                // With whom something is wrong stays as before.
                let before = |user: &&User| broken.binary_search(&user.name).is_ok();
                users.extend(self.config.users.iter().filter(before).cloned());
                self.refuse_losses(&users, &self.config.all_names(), removals).map_err(|losses| Refused {
                    complaints: [losses.complaints, refused.complaints.clone()].concat(),
                    users: None,
                })?;
                Err(self.take_users(users, refused).await)
            }
        }
    }

    /// Refuses what takes away the last user or more than half of them, or the links of so many, and was not asked for. Returns
    /// whose link is taken away.
    fn refuse_losses(&self, users: &[User], names: &[Domain], removals: &Removals) -> Result<Vec<String>, Refused> {
        // The one that was made up goes when the first is configured.
        if self.config.made_up.user || *removals == Removals::All {
            return Ok(Vec::new());
        }
        let named = match removals {
            Removals::Named(named) => Some(named.as_str()),
            _ => None,
        };
        let past = self.handle.judge().rules().keyring.past().and(names);
        let (old, had) = (&self.config.users, self.config.all_names());
        let Losses { removed, cut_off } =
            losses(&Standing { users: old, names: &had }, &Standing { users, names }, &past, named);
        let lost = removed + cut_off.len();
        if lost > 0 && (users.is_empty() || lost * 2 > old.len()) {
            let removed = (removed > 0).then(|| format!("{removed} of {} users would be taken away", old.len()));
            let cut_off = (!cut_off.is_empty()).then(|| losses::cut_off(&cut_off));
            let what: Vec<_> = removed.into_iter().chain(cut_off).collect();
            return Err(Refused::for_reason(format!("{}; {MEANT}", what.join("; "))));
        }
        Ok(cut_off)
    }

    /// Lets exactly these users enter, while the rest of the configuration was refused.
    async fn take_users(&mut self, users: Vec<User>, refused: Refused) -> Refused {
        let changed = user_differences(&self.config.users, &users);
        if changed.is_empty() {
            return Refused { users: Some(changed), ..refused };
        }
        let now = SystemTime::now().into();
        let before = std::mem::replace(&mut self.config.users, users);
        if let Err(unread) = self.learn(&parts::tags(&self.config, now)).await {
            self.config.users = before;
            return Refused { complaints: [refused.complaints, unread.complaints].concat(), users: None };
        }
        self.config.made_up.user = false;
        let past = self.handle.judge().rules().keyring.past().clone();
        self.handle.enrol(parts::rules(&self.config, self.handle.people(), past, now));
        self.note_users();
        Refused { users: Some(changed), ..refused }
    }

    /// Reads what was spent under those of these keys that are new.
    async fn learn(&self, tags: &[SecretTag]) -> Result<(), Refused> {
        let known: HashSet<_> = self.handle.judge().rules().keyring.tags().into_iter().collect();
        let new: Vec<_> = tags.iter().filter(|tag| !known.contains(tag)).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let judge = Arc::clone(self.handle.judge());
        tokio::task::spawn_blocking(move || judge.replay.learn(&new))
            .await
            .map_err(|panic| Refused::for_reason(panic.to_string()))?
            .map_err(|error| Refused::for_reason(format!("the replay cache for new users cannot be read: {error}")))?;
        Ok(())
    }

    /// Notes the names of the site before they hold.
    async fn remember_names(&self, config: &Config) -> Result<PastNames, Refused> {
        let (folder, names) = (self.config.state_dir.clone(), config.all_names());
        let known = self.handle.judge().rules().keyring.past().clone();
        tokio::task::spawn_blocking(move || embedded::remember_names(&folder, &known, &names))
            .await
            .map_err(|panic| Refused::for_reason(panic.to_string()))?
            .map_err(|error| Refused::for_reason(format!("{error}; {}", error.fix())))
    }

    fn note_users(&self) {
        if let Err(error) = embedded::note_users(&self.config) {
            warn!(%error, "a start without users would create one");
        }
        if self.config.users.is_empty() {
            warn!("{}", embedded::NOBODY);
        }
    }

    async fn take(&mut self, fresh: Fresh) -> Result<Applied, Refused> {
        let Fresh { config, read, other_state, warnings, sets_nothing } = fresh;
        self.stays_inside(&config, &read)?;

        let now = SystemTime::now().into();
        let mut changed = differences(&self.config, &config);
        let cover = Box::pin(self.cover(&config, &mut changed)).await?;
        let (lists, folder) = (config.misuse.lists.clone(), self.misuse.lists.folder().to_owned());
        let lists = tokio::task::spawn_blocking(move || lists::State::load(lists, &folder))
            .await
            .map_err(|panic| Refused::for_reason(panic.to_string()))?
            .map_err(|error| Refused::for_reason(error.to_string()))?;
        self.learn(&parts::tags(&config, now)).await?;

        let fresh = match (&self.keys, &config.admin) {
            (Some(keys), Some(admin)) => keys.read(admin),
            _ => Ok(None),
        };
        let fresh = fresh.map_err(|error| Refused::for_reason(format!("{error}; {}", error.fix())))?;
        let past = self.remember_names(&config).await?;
        // The last that can fail: a listener that is in the way of another may be closed for it.
        let wanted = parts::listeners(&config, self.automatic());
        let listeners = self.handle.bind(&wanted).await;
        let listeners =
            listeners.map_err(|error| Refused::for_reason(format!("{error}; name an address that is free")))?;

        self.misuse.lists.replace(lists);
        self.misuse.alarms.replace(config.misuse.alarms.clone());
        let rules = parts::rules(&config, self.handle.people(), past, now);
        self.handle.apply(Change { settings: parts::settings(&config), rules, cover, listeners });
        logging::set_level(config.log.level);
        if let (Some(keys), Some(admin)) = (&self.keys, &config.admin)
            && keys.replace(admin, fresh)
        {
            changed.push("admin.certificate".into());
        }
        let mut restart = differing(after_a_restart(&self.config, &config));
        if other_state {
            restart.push("state_dir".to_owned());
        }
        (self.config, self.read, self.sets_nothing) = (config, read, sets_nothing);
        self.note_users();
        self.watch_also();
        Ok(Applied { changed, restart, warnings })
    }

    /// Refuses what the sandbox would not let happen: it cannot be opened again from inside.
    fn stays_inside(&self, config: &Config, read: &[PathBuf]) -> Result<(), Refused> {
        let Some(open) = &self.open else { return Ok(()) };
        let file = super::path(&self.flags, &self.environment);
        let wanted = places::of(config, file.as_deref(), read);
        open.lack(&wanted).map_or(Ok(()), |path| {
            Err(Refused::for_reason(format!("{} is outside of the sandbox; {OUTSIDE}", path.display())))
        })
    }

    /// Adds a hint about the sandbox, from inside which a new path looks like a file that may not be read.
    fn explained(&self, mut refused: Refused) -> Refused {
        let denied = std::io::Error::from(rustix::io::Errno::ACCESS).to_string();
        if self.open.is_some() && refused.complaints.iter().any(|complaint| complaint.contains(&denied)) {
            refused.complaints.push(format!("the sandbox may be the reason; {OUTSIDE}"));
        }
        refused
    }

    /// The cover, if it is another; one that stays reads its certificate again.
    async fn cover(&self, config: &Config, changed: &mut Vec<String>) -> Result<Option<crate::cover::Cover>, Refused> {
        let refused = |what: String| Refused::for_reason(what);
        if same_cover(&self.config, config) {
            self.handle.cover().ask_for_certificate();
            match self.handle.cover().reload_certificate() {
                Ok(true) => {
                    changed.push("certificate".into());
                    // Its grade is that of the certificate that visitors are shown.
                    self.handle.cover().request_scan();
                }
                Ok(false) => {}
                Err(error) => return Err(refused(error.to_string())),
            }
            return Ok(None);
        }
        let listeners: Vec<SocketAddr> =
            self.handle.listeners().iter().filter_map(|listening| listening.local).collect();
        let cover = parts::open_cover(config, &listeners, Demand::Reload).await;
        cover.map(Some).map_err(|error| refused(error.to_string()))
    }

    /// The address that a proxy which chose for itself has chosen.
    fn automatic(&self) -> SocketAddr {
        let candidates = super::Listen::candidates();
        let open = self.handle.listeners();
        let clients = open.iter().filter(|open| open.wanted.purpose == Purpose::Cover);
        clients
            .filter_map(|open| open.wanted.address.tcp())
            .find(|address| candidates.contains(address))
            .unwrap_or(candidates[0])
    }

    /// Looks at the files as they are now, which makes them unchanged.
    fn watch(&mut self) {
        let files = self.watched();
        self.files.watch(files);
    }

    /// Adds files that were not watched before. They have just been read.
    fn watch_also(&mut self) {
        let files = self.watched();
        self.files.replace(files);
    }

    fn watched(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = super::path(&self.flags, &self.environment).into_iter().collect();
        files.extend(self.read.iter().cloned());
        // A certificate that an authority issued is written by this program itself, which knows of it.
        if let Cover::Site(site) = &self.config.cover {
            files.extend([site.certificate.clone(), site.key.clone()]);
        }
        let admin = self.config.admin.as_ref().and_then(|admin| admin.tls.clone());
        files.extend(admin.into_iter().flat_map(|(certificate, key)| [certificate, key]));
        files.extend(self.config.misuse.lists.files().map(Path::to_owned));
        files
    }
}

/// The fix for a place that was not named at the start.
const OUTSIDE: &str = "it is set up at the start for the paths that are configured then: restart the proxy";

const NOTHING: &str = "the configuration was rejected, and nothing has changed";
const ONLY_USERS: &str = "the configuration was rejected, except for the users, which are applied";

/// The end of every complaint about what may be a file that was cut short.
const MEANT: &str = "if that is intended: `vizard reload --allow-removals`";

/// Configuration that was read, as far as a running proxy can take it.
struct Fresh {
    config: Config,
    read: Vec<PathBuf>,
    /// Whether another state directory is wanted.
    other_state: bool,
    warnings: Vec<String>,
    sets_nothing: bool,
}

/// Result of reading.
struct Read {
    outcome: Result<Fresh, Refused>,
    /// The users where there is no more.
    users: Option<UsersAlone>,
}

/// Loads the configuration, with the state directory that is in use.
fn settle(flags: &Flags, environment: &Environment, running: PathBuf) -> Read {
    let (loaded, users) = super::load_or_users(flags, environment);
    let outcome = loaded
        .map_err(|error| match error {
            LoadError::Unreadable { .. } => Refused::for_reason(error.to_string()),
            LoadError::Complaints(report) => Refused { complaints: report.sentences(), users: None },
        })
        .and_then(|Loaded { draft, warnings, files, sets_nothing, .. }| {
            let other_state = draft.state_dir != running;
            let config = Draft { state_dir: running, ..draft }
                .settle(&mut rand::rng())
                .map_err(|error| Refused::for_reason(format!("{error}; {}", error.fix())))?;
            Ok(Fresh { config, read: files, other_state, warnings: warnings.sentences(), sets_nothing })
        });
    Read { outcome, users }
}

fn differing(keys: Vec<(&str, bool)>) -> Vec<String> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

/// Lists the keys that a running proxy cannot take, besides another state directory, and whether they differ.
fn after_a_restart(old: &Config, new: &Config) -> Vec<(&'static str, bool)> {
    vec![
        ("admin", without_keys(old) != without_keys(new)),
        ("audit_log", old.misuse.audit_log != new.misuse.audit_log),
        ("sandbox", old.sandbox != new.sandbox),
        ("log.format", old.log.format != new.log.format),
    ]
}

/// Lists the keys that a running proxy can take, and whether they differ; users are looked at one by one.
fn at_once(old: &Config, new: &Config) -> Vec<(&'static str, bool)> {
    vec![
        ("listen", old.listen != new.listen),
        ("proxy_protocol", old.proxied != new.proxied),
        (
            "admin.tokens",
            old.admin.as_ref().map(|admin| &admin.tokens) != new.admin.as_ref().map(|admin| &admin.tokens),
        ),
        ("admin.hosts", old.admin.as_ref().map(|admin| &admin.hosts) != new.admin.as_ref().map(|admin| &admin.hosts)),
        ("domain", old.domain != new.domain),
        ("names", old.names != new.names),
        ("hello.accept_names", old.accepted_names != new.accepted_names),
        ("hello.time_window", old.time_window != new.time_window),
        ("link", old.link != new.link),
        ("cover", old.cover != new.cover),
        ("web", old.web != new.web),
        ("telegram", old.telegram != new.telegram),
        ("ad_tag", old.ad_tag != new.ad_tag),
        ("middle.sessions", old.middle_use != new.middle_use),
        ("middle", old.middle != new.middle),
        ("session.idle", old.idle != new.idle),
        ("session.drain", old.drain != new.drain),
        ("session.handover", old.handover != new.handover),
        ("session.fillers", old.fillers != new.fillers),
        ("session.end_unanswered", old.end_unanswered != new.end_unanswered),
        ("limits", old.misuse.limits != new.misuse.limits),
        ("lists", old.misuse.lists != new.misuse.lists),
        ("alarms", old.misuse.alarms != new.misuse.alarms),
        ("log.level", old.log.level != new.log.level),
        ("log.client_addresses", old.log.client_addresses != new.log.client_addresses),
    ]
}

/// The keys of which the values differ and hold at once; users by name.
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut changed = differing(at_once(old, new));
    changed.extend(user_differences(&old.users, &new.users));
    changed
}

/// The users that differ, by name.
fn user_differences(old: &[User], new: &[User]) -> Vec<String> {
    let by_name = |users: &'_ [User]| -> BTreeMap<String, usize> {
        users.iter().enumerate().map(|(place, user)| (user.name.clone(), place)).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let difference = |name: &String| {
        let what = match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) if old[*before] == new[*after] => return None,
            (Some(_), Some(_)) => "changed",
            (None, _) => "added",
            (_, None) => "removed",
        };
        Some(format!("user {name} {what}"))
    };
    names.into_iter().filter_map(difference).collect()
}

/// The admin listener without what can be replaced while it runs; of the certificate only whether there is one.
fn without_keys(config: &Config) -> Option<admin::Settings> {
    let tls = |admin: &admin::Settings| admin.tls.is_some().then(Default::default);
    config.admin.clone().map(|admin| admin::Settings {
        tls: tls(&admin),
        tokens: Vec::new(),
        hosts: Vec::new(),
        ..admin
    })
}

/// Whether visitors of the two meet the very same.
fn same_cover(old: &Config, new: &Config) -> bool {
    old.all_names() == new.all_names()
        && match (&old.cover, &new.cover) {
            // Redirects and web servers in front are listeners, and the certificate is read again without a new site.
            (Cover::Site(old), Cover::Site(new)) => {
                let (redirect_from, listen) = (old.redirect_from.clone(), old.fronts.listen.clone());
                let fronts = crate::cover::site::FrontSettings { listen, ..new.fronts.clone() };
                *old == crate::cover::site::Settings { redirect_from, fronts, ..new.clone() }
            }
            (old, new) => old == new,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use crate::config::reference::{AppliesWhen, REFERENCE};

    #[test]
    fn every_key_is_compared_where_the_reference_says_when_it_holds() {
        let state = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("VIZARD_STATE_DIR", state.path().to_str().unwrap())]);
        let loaded = load_text("", None, &Flags::default(), &environment).unwrap();
        let config = loaded.draft.settle(&mut rand::rng()).unwrap();
        let names = |keys: Vec<(&'static str, bool)>| keys.into_iter().map(|(key, _)| key);
        let later: Vec<_> = names(after_a_restart(&config, &config)).chain(["state_dir"]).collect();
        // Users and the files of certificates are compared elsewhere; the others are parts of the cover and of the ways to
        // Telegram.
        let elsewhere = ["users", "admin.certificate", "admin.key", "site", "routes", "dns"];
        let now: Vec<_> = names(at_once(&config, &config)).chain(elsewhere).collect();
        let within = |keys: &[&str], path: &str| {
            keys.iter().any(|key| path == *key || path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
        };
        for key in REFERENCE.iter().filter(|key| !key.kind.is_section()) {
            match key.holds {
                AppliesWhen::Restart => assert!(within(&later, key.path) && !within(&now, key.path), "{}", key.path),
                _ => assert!(within(&now, key.path), "{} is not compared", key.path),
            }
        }
    }
}
