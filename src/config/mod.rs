//! Settings of every layer, already valid.
//!
//! ```text
//! flags, environment, file ─▶ Layer ─▶ resolve ─▶ Draft ─▶ settle ─▶ Config
//!                               └──────────┴─▶ Report: all complaints at once
//! ```
//!
//! [`mod@file`] is the file as written. [`mod@resolve`] checks it together with the environment and the flags, and
//! reads but never writes. [`embedded`] fills the gaps, and for that may write to the state directory.

pub mod edit;
pub mod embedded;
pub mod file;
pub mod import;
pub mod keys;
pub mod layer;
mod losses;
pub mod misuse;
pub mod parts;
pub mod places;
pub mod redact;
pub mod reference;
pub mod reload;
pub mod report;
pub mod resolve;
pub mod starter;
pub mod units;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{error, fmt, fs, io};

pub use embedded::{Draft, StateError};
pub use layer::{Environment, Flags};
pub use report::Report;

use ipnet::IpNet;

use crate::auth::{Domain, MiddleUse, Policy, Secret, UnixTime};
use crate::cover::{remote, site};
use crate::net::listen::Address;
pub use crate::ops::logging::{Format as LogFormat, Settings as Log};
use crate::ops::{admin, sandbox};
use crate::server::silence::SilenceScope;
use crate::telegram::{self, middle};
use crate::webproxy::session::Mode;
use crate::webproxy::{BasePath, service};
use crate::wire::HelloClass;
use crate::wire::rpc::AdTag;

/// Everything that `vizard run` needs to know.
#[derive(Debug)]
pub struct Config {
    /// Folder for what must survive a restart. Exists.
    pub state_dir: PathBuf,
    /// The admin listener, if there shall be one.
    pub admin: Option<admin::Settings>,
    /// Addresses to accept clients on.
    pub listen: Listen,
    /// Addresses to accept clients on that another program hands on.
    pub proxied: Proxied,
    /// Users who may enter. Empty where all users were taken away: then no one enters.
    pub users: Vec<User>,
    /// The name in links, hence the name that clients put into their hellos.
    pub domain: Domain,
    /// Further names of the site, for users whose links carry them.
    pub names: Vec<Domain>,
    /// Further names that an authentic hello may carry; `None` accepts any. A hello without a name is always accepted.
    pub accepted_names: Option<Vec<Domain>>,
    /// Host and port that links name.
    pub link: LinkTarget,
    /// Tolerance for a client's clock, either way.
    pub time_window: Duration,
    /// The site that everyone else meets.
    pub cover: Cover,
    /// What the built-in site serves of WEB proxies, and the key of their tokens.
    pub web: Option<(WebChoice, service::TokenSeed)>,
    /// Data centres.
    pub telegram: telegram::Settings,
    /// The tag of those users who have none of their own.
    pub ad_tag: Option<AdTag>,
    /// Sessions without a tag that go through middle proxies, where a user has nothing else.
    pub middle_use: MiddleUse,
    /// Middle proxies, through which sessions with a tag go.
    pub middle: middle::Settings,
    /// A session without a byte in either direction for this long is ended; `None`: for as long as the cover bears it.
    pub idle: Option<Duration>,
    /// Time for which sessions may go on after SIGTERM.
    pub drain: Duration,
    /// Time for which sessions may go on after another process has taken over.
    pub handover: Duration,
    /// Classes of clients that get records of NOP frames behind their header, in place of the cover's session tickets.
    pub fillers: Vec<HelloClass>,
    /// Clients whose silence behind an answer ends their session.
    pub end_unanswered: SilenceScope,
    /// Settings against misuse.
    pub misuse: misuse::Misuse,
    /// The walls around the proxy.
    pub sandbox: sandbox::Settings,
    /// Logging.
    pub log: Log,
    /// Values that no one configured.
    pub made_up: MadeUp,
}

impl Config {
    /// All names of the site, the first one first.
    pub fn all_names(&self) -> Vec<Domain> {
        [std::slice::from_ref(&self.domain), &self.names].concat()
    }

    /// The name that the user's link carries.
    pub fn name_of<'c>(&'c self, user: &'c User) -> &'c Domain {
        user.policy.domain.as_ref().unwrap_or(&self.domain)
    }
}

/// Addresses to accept clients on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On every one of these; empty if all clients are handed on by another program.
    Given(Vec<Address>),
    /// On the first of [`Listen::candidates`] that this user may bind.
    Automatic,
}

impl Listen {
    /// Addresses that [`Listen::Automatic`] tries in turn: port 443, then 8443, each on every address of both families.
    pub fn candidates() -> [SocketAddr; 2] {
        [443, 8443].map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// The TCP addresses among them; of an automatic one all that it tries.
    pub fn tcp(&self) -> Vec<SocketAddr> {
        match self {
            Self::Given(addresses) => addresses.iter().filter_map(Address::tcp).collect(),
            Self::Automatic => Self::candidates().to_vec(),
        }
    }
}

/// Clients that come through another program, which names them in a PROXY protocol header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Addresses to listen on.
    pub listen: Vec<Address>,
    /// Networks whose headers are believed.
    pub from: Vec<IpNet>,
}

/// A named secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name in logs and on the command line.
    pub name: String,
    /// The 16-byte key.
    pub secret: Secret,
    /// The key before it, and until when it is good.
    pub previous: Option<(Secret, UnixTime)>,
    /// Limits of the user.
    pub policy: Policy,
}

impl User {
    /// One who may do everything.
    pub fn new(name: impl Into<String>, secret: Secret) -> Self {
        Self { name: name.into(), secret, previous: None, policy: Policy::default() }
    }

    /// The keys that open the door for the user, each with its end if it has one.
    pub fn secrets(&self) -> impl Iterator<Item = (&Secret, Option<UnixTime>)> {
        let previous = self.previous.iter().map(|(secret, until)| (secret, Some(*until)));
        std::iter::once((&self.secret, None)).chain(previous)
    }
}

/// Server and port in links; what is not stated is found out when a link is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTarget {
    /// Host name or address literal (IPv6 without brackets).
    pub host: Option<String>,
    /// Port, where it is not that of the first listener.
    pub port: Option<u16>,
}

/// The two kinds of cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The built-in web server.
    Site(site::Settings),
    /// A web server elsewhere.
    Remote(remote::Settings),
}

/// What the built-in site serves of Telegram's WEB proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebChoice {
    /// The carrier that pages are made for.
    pub carrier: Mode,
    /// The path besides the root; empty for none.
    pub path: BasePath,
}

/// Values that the program made up because no one configured them: good for trying out, not for real use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MadeUp {
    /// The only user.
    pub user: bool,
    /// The domain.
    pub domain: bool,
    /// The certificate of the built-in site: self-signed.
    pub certificate: bool,
    /// The pages of the built-in site.
    pub content: bool,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub draft: Draft,
    /// Warnings about what should be better.
    pub warnings: Report,
    /// The file, if there was one.
    pub path: Option<PathBuf>,
    /// Further files that were read on the way: secrets.
    pub files: Vec<PathBuf>,
    /// Whether the file sets nothing at all.
    pub sets_nothing: bool,
}

/// The users of a configuration that cannot be taken, as far as they are known.
#[derive(Clone, Debug)]
pub struct UsersAlone {
    /// Those with whom nothing is wrong.
    pub users: Vec<User>,
    /// Names of the others, who are there as well.
    pub broken: Vec<String>,
}

/// Reason why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The values are not in order.
    Complaints(Report),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(f, "the configuration file {} cannot be read: {error}", path.display())
            }
            Self::Complaints(report) => f.write_str(&report.render(false)),
        }
    }
}

impl error::Error for LoadError {}

/// Loads the configuration: flags over environment over the file that one of them names.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, LoadError> {
    let (path, text) = file_and_text(flags, environment)?;
    load_text(&text, path, flags, environment)
}

/// The same, in which the users but these may be missing: there may be very many.
pub fn load_for(users: &[String], flags: &Flags, environment: &Environment) -> Result<Loaded, LoadError> {
    let (path, text) = file_and_text(flags, environment)?;
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let few = edit::quick::of_users_alone(&text, &names).filter(|_| !names.is_empty());
    // What names other users has a mistake now.
    let loaded = few.and_then(|few| load_text(&few, path.clone(), flags, environment).ok());
    loaded.map_or_else(|| load_text(&text, path, flags, environment), Ok)
}

/// The same, and of a configuration with mistakes the users, if it is known who they are.
pub fn load_or_users(flags: &Flags, environment: &Environment) -> (Result<Loaded, LoadError>, Option<UsersAlone>) {
    match file_and_text(flags, environment) {
        Ok((path, text)) => load_text_or_users(&text, path, flags, environment),
        Err(error) => (Err(error), None),
    }
}

/// The state directory alone, whatever else may be wrong with the configuration.
pub fn state_dir(flags: &Flags, environment: &Environment) -> Result<PathBuf, LoadError> {
    let (path, text) = file_and_text(flags, environment)?;
    let text = edit::quick::of_users_alone(&text, &[]).unwrap_or(text);
    let resolved = resolved(&text, path.as_deref(), flags, environment).1;
    Ok(resolved.draft.state_dir)
}

/// The configuration file of every command: the one that flags or environment name, else the usual one if it is there.
pub fn path(flags: &Flags, environment: &Environment) -> Option<PathBuf> {
    let usual = || Some(usual_path(environment)).filter(|path| may_be_there(path));
    flags.config.clone().or_else(|| environment.path("VIZARD_CONFIG")).or_else(usual)
}

/// Default path of the configuration: in the service manager's folder, else in the usual one.
pub fn usual_path(environment: &Environment) -> PathBuf {
    let folder = environment.first_path("CONFIGURATION_DIRECTORY").unwrap_or_else(|| "/etc/vizard".into());
    folder.join("vizard.toml")
}

/// Whether there is such a file, also where this user may not look: the made-up configuration in the place of one that
/// cannot be read would be another proxy.
fn may_be_there(path: &Path) -> bool {
    path.try_exists().unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn file_and_text(flags: &Flags, environment: &Environment) -> Result<(Option<PathBuf>, String), LoadError> {
    let path = path(flags, environment);
    let text = match &path {
        Some(path) => read(path).map_err(|error| LoadError::Unreadable { path: path.clone(), error })?,
        None => String::new(),
    };
    Ok((path, text))
}

/// The same with the text of the file in hand; `path` gives relative paths their start and complaints a place.
pub fn load_text(
    text: &str,
    path: Option<PathBuf>,
    flags: &Flags,
    environment: &Environment,
) -> Result<Loaded, LoadError> {
    load_text_or_users(text, path, flags, environment).0
}

fn load_text_or_users(
    text: &str,
    path: Option<PathBuf>,
    flags: &Flags,
    environment: &Environment,
) -> (Result<Loaded, LoadError>, Option<UsersAlone>) {
    let (reading, resolved) = resolved(text, path.as_deref(), flags, environment);
    let resolve::Resolved { draft, mut broken, nameless, complaints, files } = resolved;
    let complaints = reading.without_guesses(text, complaints);
    let name = path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let report = Report::new(name, reading.shown, complaints);
    if report.errors() == 0 {
        let sets_nothing = path.is_some() && edit::sets_nothing(text);
        return (Ok(Loaded { draft, warnings: report, path, files, sets_nothing }), None);
    }
    broken.sort_unstable();
    let fine = |user: &User| broken.binary_search(&user.name).is_err();
    let users = draft.users.into_iter().filter(fine).collect();
    let alone = (reading.users_known && !nameless).then_some(UsersAlone { users, broken });
    (Err(LoadError::Complaints(report)), alone)
}

fn resolved(
    text: &str,
    path: Option<&Path>,
    flags: &Flags,
    environment: &Environment,
) -> (file::Reading, resolve::Resolved) {
    let mut reading = file::read(text);
    let mut complaints = std::mem::take(&mut reading.complaints);
    let layer =
        flags.layer(&mut complaints).over(environment.layer(&mut complaints)).over(std::mem::take(&mut reading.layer));
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let whole = reading.broken_lines.is_empty();
    let resolved = resolve::resolve(layer, folder, environment, whole, complaints);
    (reading, resolved)
}

fn read(path: &Path) -> io::Result<String> {
    // A wrong path may lead to a device without an end. A file that is cut short would be another configuration.
    const LONGEST: u64 = 64 << 20;
    let text = io::read_to_string(io::Read::take(fs::File::open(path)?, LONGEST + 1))?;
    match text.len() as u64 > LONGEST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 64 MiB")),
        false => Ok(text),
    }
}
