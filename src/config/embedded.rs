//! What fills the gaps: a configuration that works before anybody has written one.
//!
//! Nothing ships with the program. A missing secret or name is made up on this machine at the first start and kept in
//! the state directory, so that links stay good.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{error, fmt};

use data_encoding::HEXLOWER;
use ipnet::IpNet;
use rand::CryptoRng;

use super::layer::Environment;
use super::misuse::Misuse;
use super::resolve::read_secret_file;
use super::{Config, Cover, LinkTarget, Listen, Log, MadeUp, Proxied, User, WebChoice};
use crate::auth::{Domain, MiddleUse, PastNames, SecretText};
use crate::auth::{DomainError, Secret};
use crate::base::files::{self, Access};
use crate::cover::site::Content;
use crate::cover::site::acme::{self, Authority};
use crate::cover::{remote, site};
use crate::ops::{admin, sandbox};
use crate::server::silence::SilenceScope;
use crate::telegram::{self, middle};
use crate::webproxy::service::TokenSeed;
use crate::wire::HelloClass;
use crate::wire::rpc::AdTag;

/// A valid configuration that may have gaps. Reading one changes nothing on this machine; [`Draft::settle`] does.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of Config")]
pub struct Draft {
    pub state_dir: PathBuf,
    pub admin: Option<admin::Settings>,
    pub listen: Listen,
    pub proxied: Proxied,
    /// May be empty: then a user is made up, unless there were users before.
    pub users: Vec<User>,
    /// May be missing: then a name is made up.
    pub domain: Option<Domain>,
    pub names: Vec<Domain>,
    pub accepted_names: Option<Vec<Domain>>,
    pub link: LinkTarget,
    pub time_window: Duration,
    pub cover: CoverDraft,
    pub web: Option<WebChoice>,
    pub telegram: telegram::Settings,
    pub ad_tag: Option<AdTag>,
    pub middle_use: MiddleUse,
    pub middle: middle::Settings,
    pub idle: Option<Duration>,
    pub drain: Duration,
    pub handover: Duration,
    pub fillers: Vec<HelloClass>,
    pub end_unanswered: SilenceScope,
    pub misuse: Misuse,
    pub sandbox: sandbox::Settings,
    pub log: Log,
}

/// A cover that may have gaps.
#[derive(Clone, Debug)]
pub enum CoverDraft {
    /// The built-in site.
    Site {
        /// Certificate and key; otherwise a self-signed one is made.
        certificate: Option<(PathBuf, PathBuf)>,
        /// Authority that issues a better one.
        acme: Option<Box<Authority>>,
        /// Content to serve; otherwise a small site is laid out.
        content: Option<Content>,
        /// See [`site::Settings::server_header`].
        server_header: Option<String>,
        /// See [`site::Settings::redirect_from`].
        redirect_from: Vec<SocketAddr>,
        /// See [`site::Settings::trusted_proxies`].
        trusted_proxies: Vec<IpNet>,
        /// See [`site::Settings::fronts`].
        fronts: site::FrontSettings,
    },
    /// A site elsewhere, which has no gaps.
    Remote(remote::Settings),
}

impl Default for CoverDraft {
    fn default() -> Self {
        Self::Site {
            certificate: None,
            acme: None,
            content: None,
            server_header: None,
            redirect_from: Vec::new(),
            trusted_proxies: Vec::new(),
            fronts: site::FrontSettings::default(),
        }
    }
}

impl Draft {
    /// The name that the user's link carries; `None` if it is still to be made up.
    pub fn name_of<'d>(&'d self, user: &'d User) -> Option<&'d Domain> {
        user.policy.domain.as_ref().or(self.domain.as_ref())
    }

    /// Fills the gaps out of the state directory, and first fills that with what it lacks.
    pub fn settle(self, random: &mut impl CryptoRng) -> Result<Config, StateError> {
        let folder = self.state_dir.clone();
        private_folder(&folder)?;
        let mut made_up = MadeUp::default();
        let users = match self.users.is_empty() && !had_users(&folder) {
            true => {
                made_up.user = true;
                vec![User::new(DEFAULT_USER, kept_secret(&folder, random)?)]
            }
            false => self.users,
        };
        let domain = match self.domain {
            Some(domain) => domain,
            None => {
                made_up.domain = true;
                kept_domain(&folder, random)?
            }
        };
        let names = [std::slice::from_ref(&domain), &self.names].concat();
        let cover = settle_cover(self.cover, &names, &folder, &mut made_up)?;
        let web_key = self.web.as_ref().map(|_| kept_key(&folder, random)).transpose()?;
        Ok(Config {
            state_dir: self.state_dir,
            admin: self.admin,
            listen: self.listen,
            proxied: self.proxied,
            users,
            domain,
            names: self.names,
            accepted_names: self.accepted_names,
            link: self.link,
            time_window: self.time_window,
            cover,
            web: self.web.zip(web_key),
            telegram: self.telegram,
            ad_tag: self.ad_tag,
            middle_use: self.middle_use,
            middle: self.middle,
            idle: self.idle,
            drain: self.drain,
            handover: self.handover,
            fillers: self.fillers,
            end_unanswered: self.end_unanswered,
            misuse: self.misuse,
            sandbox: self.sandbox,
            log: self.log,
            made_up,
        })
    }
}

/// Reason why the state directory could not be used.
#[derive(Debug)]
pub struct StateError {
    /// The file or folder.
    pub path: PathBuf,
    /// Kind of trouble.
    pub trouble: StateTrouble,
}

/// Kind of trouble with the state directory.
#[derive(Debug)]
pub enum StateTrouble {
    /// The system refused.
    Io(io::Error),
    /// A file that this program once wrote does not hold what it should.
    Content,
}

impl StateError {
    /// Advice on what to do.
    pub fn fix(&self) -> String {
        match &self.trouble {
            StateTrouble::Io(_) => "name a folder that this user may write to: `--state-dir DIR`".into(),
            StateTrouble::Content => {
                format!("put the file back, or remove {} and hand out new links", self.path.display())
            }
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.trouble {
            StateTrouble::Io(error) => write!(f, "the state directory cannot be used: {path}: {error}"),
            StateTrouble::Content => write!(f, "{path} does not contain what vizard wrote"),
        }
    }
}

impl error::Error for StateError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.trouble {
            StateTrouble::Io(error) => Some(error),
            StateTrouble::Content => None,
        }
    }
}

/// Default state directory: the service manager's choice, else the usual place.
pub fn default_state_dir(environment: &Environment, root: bool) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    if let Some(first) = environment.first_path("STATE_DIRECTORY") {
        return Some(first);
    }
    if root {
        return Some("/var/lib/vizard".into());
    }
    let given = environment.path("XDG_STATE_HOME").and_then(absolute);
    let home = || Some(environment.path("HOME").and_then(absolute)?.join(".local/state"));
    Some(given.or_else(home)?.join("vizard"))
}

/// The sentence about a proxy without users.
pub const NOBODY: &str = "no users are configured, so no client can connect: add one with `vizard user add NAME`";

/// File in the state directory which says that users were configured once. From then on none is made up: who takes
/// away the last user means that no one may enter.
const HAD_USERS: &str = "had-users";

/// Whether a proxy with this state directory has run with users of its configuration.
pub fn had_users(state_dir: &Path) -> bool {
    // In doubt a door stays shut.
    state_dir.join(HAD_USERS).try_exists().unwrap_or(true)
}

/// Notes that a proxy runs with users of its configuration.
pub fn note_users(config: &Config) -> Result<(), StateError> {
    if config.made_up.user || config.users.is_empty() || had_users(&config.state_dir) {
        return Ok(());
    }
    let path = config.state_dir.join(HAD_USERS);
    let text = b"Users were configured, so none is made up any more. Remove this file to change that.\n";
    files::create_file(&path, text, Access::Private).map(drop).map_err(|error| trouble(&path, error))
}

/// File in the state directory with the names that the site had, for what [`PastNames`] says.
const PAST_NAMES: &str = "names";

/// More than that file has.
const LONGEST_NAMES: u64 = 1 << 20;

/// Notes that a proxy serves these names, and returns all that it ever did. Call it before they hold. `known` is what is known
/// of them without the state directory.
pub fn remember_names(state_dir: &Path, known: &PastNames, names: &[Domain]) -> Result<PastNames, StateError> {
    let path = state_dir.join(PAST_NAMES);
    let text = match files::read_file(&path, LONGEST_NAMES) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(trouble(&path, error)),
    };
    let all = PastNames::parse(&format!("{text}\n{}", known.text())).and(names);
    if all != PastNames::parse(&text) {
        files::replace_file(&path, all.text().as_bytes(), Access::Private).map_err(|error| trouble(&path, error))?;
    }
    Ok(all)
}

/// Name of the user that is made up when none was ever configured.
pub const DEFAULT_USER: &str = "default";

fn settle_cover(cover: CoverDraft, names: &[Domain], folder: &Path, made: &mut MadeUp) -> Result<Cover, StateError> {
    let (certificate, acme, content, server_header, redirect_from, trusted_proxies, fronts) = match cover {
        CoverDraft::Remote(settings) => return Ok(Cover::Remote(settings)),
        CoverDraft::Site { certificate, acme, content, server_header, redirect_from, trusted_proxies, fronts } => {
            (certificate, acme, content, server_header, redirect_from, trusted_proxies, fronts)
        }
    };
    (made.certificate, made.content) = (certificate.is_none() && acme.is_none(), content.is_none());
    let names: Vec<&str> = names.iter().map(Domain::as_str).collect();
    let (certificate, key) = match certificate {
        Some(files) => files,
        // Also the one that is shown until an authority has issued the first.
        None => site::self_signed(&names, folder).map_err(|error| trouble(folder, io::Error::other(error)))?,
    };
    let content = match content {
        Some(content) => content,
        None => site::default_folder(folder).map(Content::Folder).map_err(|error| trouble(folder, error))?,
    };
    let acme = acme.map(|authority| Box::new(acme::Settings::new(*authority, &names, folder)));
    let site =
        site::Settings { certificate, key, acme, content, server_header, redirect_from, trusted_proxies, fronts };
    Ok(Cover::Site(site))
}

fn kept_secret(folder: &Path, random: &mut impl CryptoRng) -> Result<Secret, StateError> {
    let fresh = Secret::generate(random).hex();
    let path = folder.join("secret");
    let text = kept(&path, &fresh).map_err(|error| trouble(&path, error))?;
    let read = SecretText::parse(&text).map(|text| text.secret);
    read.map_err(|_| StateError { path, trouble: StateTrouble::Content })
}

/// Key that tokens of WEB proxies are made with: those of an earlier start are to be recognised.
fn kept_key(folder: &Path, random: &mut impl CryptoRng) -> Result<TokenSeed, StateError> {
    let mut fresh = [0; 32];
    random.fill_bytes(&mut fresh);
    let path = folder.join("web-key");
    let text = kept(&path, &HEXLOWER.encode(&fresh)).map_err(|error| trouble(&path, error))?;
    let key = HEXLOWER.decode(text.as_bytes()).ok().and_then(|key| key.try_into().ok());
    key.map(TokenSeed::new).ok_or(StateError { path, trouble: StateTrouble::Content })
}

fn kept_domain(folder: &Path, random: &mut impl CryptoRng) -> Result<Domain, StateError> {
    let fresh = full_host_name().unwrap_or_else(|| made_up_name(random));
    let path = folder.join("domain");
    let text = kept(&path, &fresh).map_err(|error| trouble(&path, error))?;
    text.parse().map_err(|_: DomainError| StateError { path, trouble: StateTrouble::Content })
}

/// A name like those that small sites have. It belongs to no one that is known, and nothing in it says who made it up.
fn made_up_name(random: &mut impl CryptoRng) -> String {
    let mut one_of = |list: &[&'static str]| list[random.next_u32() as usize % list.len()];
    let (first, second, ending) = (one_of(&FIRST_WORDS), one_of(&SECOND_WORDS), one_of(&ENDINGS));
    let between = one_of(&["", "", "-"]);
    format!("{first}{between}{second}.{ending}")
}

const FIRST_WORDS: [&str; 40] = [
    "alder", "amber", "arbor", "birch", "bright", "cedar", "clear", "copper", "coral", "dawn", "delta", "east", "elm",
    "ember", "fern", "fox", "glen", "granite", "green", "harbor", "hazel", "heron", "iron", "juniper", "lake",
    "linden", "maple", "meadow", "north", "oak", "otter", "pine", "quarry", "raven", "river", "rowan", "silver",
    "stone", "willow", "wren",
];

const SECOND_WORDS: [&str; 40] = [
    "bakery", "bay", "bikes", "books", "bridge", "brook", "cafe", "craft", "design", "dental", "farm", "field",
    "films", "garden", "gate", "grove", "guitars", "hill", "hostel", "house", "kitchen", "lab", "law", "media", "mill",
    "music", "notes", "path", "photo", "point", "press", "print", "road", "school", "shop", "studio", "tea", "travel",
    "wood", "works",
];

const ENDINGS: [&str; 6] = ["com", "net", "org", "info", "site", "online"];

/// The host name of this machine if it may be a name that the world knows.
pub fn full_host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    is_full_name(&name).then_some(name)
}

fn is_full_name(name: &str) -> bool {
    const LOCAL: [&str; 6] = ["local", "localdomain", "internal", "lan", "home", "arpa"];
    let local = name.rsplit('.').next().is_some_and(|last| LOCAL.contains(&last.to_ascii_lowercase().as_str()));
    name.contains('.') && !local && name.parse::<Domain>().is_ok()
}

fn trouble(path: &Path, error: io::Error) -> StateError {
    StateError { path: path.to_owned(), trouble: StateTrouble::Io(error) }
}

fn private_folder(path: &Path) -> Result<(), StateError> {
    files::private_folder(path).map_err(|error| trouble(path, error))
}

/// Reads the file `path`. If there is no such file, it holds `fresh` from now on, for its owner only; of several
/// processes that come first at once, one writes and all read the same. A crash leaves the whole file or none.
fn kept(path: &Path, fresh: &str) -> io::Result<String> {
    match read_secret_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found.map(|(text, _)| text),
    }
    files::create_file(path, format!("{fresh}\n").as_bytes(), Access::Private)?;
    read_secret_file(path).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn draft(folder: &Path) -> Draft {
        let flags = crate::config::Flags { state_dir: Some(folder.into()), ..Default::default() };
        crate::config::load(&flags, &Environment::default()).unwrap().draft
    }

    fn settle(folder: &Path, seed: u64) -> Config {
        draft(folder).settle(&mut StdRng::seed_from_u64(seed)).unwrap()
    }

    #[test]
    fn the_second_start_has_the_same_secret_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        let (first, second) = (settle(&state, 1), settle(&state, 2));
        assert!(first.users[0].secret == second.users[0].secret);
        assert_eq!(first.users[0].name, "default");
        assert_eq!(first.domain, second.domain);
        assert_eq!(first.made_up, MadeUp { user: true, domain: true, certificate: true, content: true });
    }

    #[test]
    fn the_user_that_is_made_up_never_comes_back_once_there_were_others() {
        let folder = tempfile::tempdir().unwrap();
        let made_up = settle(folder.path(), 1);
        note_users(&made_up).unwrap();
        assert!(made_up.made_up.user && settle(folder.path(), 2).users.len() == 1, "it is kept from start to start");
        let alice = User::new("alice", Secret::generate(&mut StdRng::seed_from_u64(3)));
        let configured = Draft { users: vec![alice], ..draft(folder.path()) };
        let configured = configured.settle(&mut StdRng::seed_from_u64(4)).unwrap();
        assert!(!configured.made_up.user);
        assert_eq!(settle(folder.path(), 5).users.len(), 1, "looking changes nothing");
        note_users(&configured).unwrap();
        note_users(&configured).unwrap();
        let after = settle(folder.path(), 6);
        assert!(after.users.is_empty() && !after.made_up.user);
    }

    #[test]
    fn only_the_owner_may_read_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        settle(&state, 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("secret"))), (0o700, 0o600));
        let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{left:?}");
    }

    #[test]
    fn of_many_first_starts_at_once_all_have_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let starts: Vec<_> = (0..16)
            .map(|seed| {
                let path = folder.path().to_owned();
                std::thread::spawn(move || kept_secret(&path, &mut StdRng::seed_from_u64(seed)).unwrap().hex())
            })
            .collect();
        let secrets: BTreeSet<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        assert_eq!(secrets.len(), 1);
    }

    #[test]
    fn a_spoilt_secret_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "00112233"] {
            fs::write(folder.path().join("secret"), text).unwrap();
            let error = draft(folder.path()).settle(&mut StdRng::seed_from_u64(1)).unwrap_err();
            assert!(matches!(error.trouble, StateTrouble::Content));
            assert!(!error.to_string().contains("00112233"));
            assert_eq!(fs::read_to_string(folder.path().join("secret")).unwrap(), text);
        }
    }

    #[test]
    fn the_state_directory_is_the_service_managers_then_the_usual_one() {
        let place = |pairs: &[(&str, &str)], root| {
            default_state_dir(&pairs.iter().copied().collect(), root).map(|path| path.to_string_lossy().into_owned())
        };
        let home = [("HOME", "/home/a"), ("XDG_STATE_HOME", "/s"), ("STATE_DIRECTORY", "/one:/two")];
        assert_eq!(place(&home, true).as_deref(), Some("/one"));
        assert_eq!(place(&home[..2], true).as_deref(), Some("/var/lib/vizard"));
        assert_eq!(place(&home[..2], false).as_deref(), Some("/s/vizard"));
        assert_eq!(place(&home[..1], false).as_deref(), Some("/home/a/.local/state/vizard"));
        assert_eq!(
            place(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")], false).as_deref(),
            Some("/h/.local/state/vizard")
        );
        assert_eq!(place(&[], false), None);
    }

    #[test]
    fn host_names_that_only_a_house_knows_are_not_used() {
        assert!(is_full_name("proxy.example.com"));
        for name in ["proxy", "localhost.localdomain", "mac.local", "ip-10-0-0-1.ec2.internal", "a..b", ""] {
            assert!(!is_full_name(name), "{name}");
        }
    }
}
