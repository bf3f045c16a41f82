//! One source of values, as written: the file, the environment or the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::misuse::MisuseWritten;
use super::report::{Complaint, Origin};
use crate::auth::SecretText;

/// A value and where it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Origin,
}

impl<T> Written<T> {
    /// A value at a place.
    pub fn new(value: T, at: Origin) -> Self {
        Self { value, at }
    }
}

impl<T> fmt::Debug for Written<T> {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Values of one source, or of several laid over each other; nothing is checked but the form.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct Layer {
    pub state_dir: Option<Written<PathBuf>>,
    pub admin: Option<AdminWritten>,
    pub domain: Option<Written<String>>,
    pub names: Option<Vec<Written<String>>>,
    pub ad_tag: Option<Written<String>>,
    pub listen: Option<Vec<Written<String>>>,
    pub proxied: Option<ProxiedWritten>,
    pub users: Option<Vec<UserWritten>>,
    pub link_host: Option<Written<String>>,
    pub link_port: Option<Written<String>>,
    pub time_window: Option<Written<String>>,
    pub accept_names: Option<NamesWritten>,
    /// `site` or `HOST:PORT`; overrules what the file says about the kind of cover and its address.
    pub cover_choice: Option<Written<String>>,
    pub cover: Option<CoverWritten>,
    /// Whether a flag or a variable accepts a cover of grade C.
    pub accept_grade_c: bool,
    pub site: Option<SiteWritten>,
    pub dns: Option<DnsWritten>,
    pub routes: Vec<RouteWritten>,
    pub telegram: TelegramWritten,
    pub middle: MiddleWritten,
    pub idle: Option<Written<String>>,
    pub drain: Option<Written<String>>,
    pub handover: Option<Written<String>>,
    pub fillers: Option<Vec<Written<String>>>,
    pub end_unanswered: Option<Written<String>>,
    pub log_format: Option<Written<String>>,
    pub log_level: Option<Written<String>>,
    pub client_addresses: Option<Written<bool>>,
    pub misuse: MisuseWritten,
    pub sandbox: SandboxWritten,
    pub web: Option<WebWritten>,
}

/// One `[[users]]` section or one `NAME=SECRET`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct UserWritten {
    pub name: Option<Written<String>>,
    pub secret: Option<Written<String>>,
    pub secret_file: Option<Written<PathBuf>>,
    pub previous: PreviousWritten,
    pub limits: LimitsWritten,
    /// Whether the form of any of it is a mistake.
    pub broken: bool,
    pub at: Origin,
}

/// The secret before the present one: the keys `previous_…`.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct PreviousWritten {
    pub secret: Option<Written<String>>,
    pub secret_file: Option<Written<PathBuf>>,
    pub until: Option<Written<String>>,
}

/// Limits of a user, as written.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct LimitsWritten {
    pub enabled: Option<Written<bool>>,
    pub expires: Option<Written<String>>,
    pub quota: Option<Written<String>>,
    pub bandwidth_up: Option<Written<String>>,
    pub bandwidth_down: Option<Written<String>>,
    pub max_sessions: Option<Written<String>>,
    pub max_addresses: Option<Written<String>>,
    pub allow: Option<Vec<Written<String>>>,
    pub deny: Option<Vec<Written<String>>>,
    pub ad_tag: Option<Written<String>>,
    pub middle: Option<Written<String>>,
    pub domain: Option<Written<String>>,
    pub note: Option<Written<String>>,
}

/// The section `[sandbox]`.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct SandboxWritten {
    pub enabled: Option<Written<bool>>,
    pub read: Vec<Written<PathBuf>>,
}

/// The section `[web]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct WebWritten {
    pub enabled: Option<Written<bool>>,
    pub carrier: Option<Written<String>>,
    pub path: Option<Written<String>>,
    pub at: Origin,
}

/// The two shapes of `hello.accept_names`.
pub enum NamesWritten {
    /// `"any"`, or a slip.
    Word(Written<String>),
    /// Names.
    List(Vec<Written<String>>),
}

/// The section `[admin]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct AdminWritten {
    pub listen: Option<Written<String>>,
    pub certificate: Option<Written<PathBuf>>,
    pub key: Option<Written<PathBuf>>,
    pub hosts: Option<Vec<Written<String>>>,
    pub per_user_metrics: Option<Written<bool>>,
    pub tokens: Vec<TokenWritten>,
    pub at: Origin,
}

/// One `[[admin.tokens]]` section.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct TokenWritten {
    pub name: Option<Written<String>>,
    pub role: Option<Written<String>>,
    pub hash: Option<Written<String>>,
    pub at: Origin,
}

/// The section `[proxy_protocol]`.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct ProxiedWritten {
    pub listen: Option<Vec<Written<String>>>,
    pub from: Option<Vec<Written<String>>>,
}

/// The section `[telegram]`.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct TelegramWritten {
    pub prefer: Option<Written<String>>,
    pub addresses: Vec<(Written<String>, Vec<Written<String>>)>,
    pub routes: Option<Vec<Written<String>>>,
    pub warm: Option<Written<String>>,
    pub refresh: Option<Written<bool>>,
    pub lists: Option<Written<String>>,
}

impl TelegramWritten {
    fn over(self, below: Self) -> Self {
        let mut addresses = below.addresses;
        addresses.retain(|(number, _)| !self.addresses.iter().any(|(ours, _)| ours.value == number.value));
        addresses.extend(self.addresses);
        Self {
            prefer: self.prefer.or(below.prefer),
            addresses,
            routes: self.routes.or(below.routes),
            warm: self.warm.or(below.warm),
            refresh: self.refresh.or(below.refresh),
            lists: self.lists.or(below.lists),
        }
    }
}

/// The section `[middle]`.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct MiddleWritten {
    pub secret_file: Option<Written<PathBuf>>,
    pub addresses: Vec<(Written<String>, Vec<Written<String>>)>,
    pub public_addresses: Vec<Written<String>>,
    pub stun: Option<Written<String>>,
    pub client_addresses: Option<Written<bool>>,
    pub sessions: Option<Written<String>>,
}

/// The section `[cover]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct CoverWritten {
    pub kind: Option<Written<String>>,
    pub address: Option<Written<String>>,
    pub proxy_protocol: Option<Written<String>>,
    pub route: Option<Written<String>>,
    pub private_addresses: Option<Written<bool>>,
    pub accept_grade_c: Option<Written<bool>>,
    pub at: Origin,
}

/// The section `[dns]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct DnsWritten {
    pub https: Option<Written<String>>,
    pub route: Option<Written<String>>,
    pub ca_file: Option<Written<PathBuf>>,
    pub at: Origin,
}

/// One `[[routes]]` section.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct RouteWritten {
    pub name: Option<Written<String>>,
    pub kind: Option<Written<String>>,
    pub address: Option<Written<String>>,
    pub method: Option<Written<String>>,
    pub user: Option<Written<String>>,
    pub password: Option<Written<String>>,
    pub password_file: Option<Written<PathBuf>>,
    pub link: Option<Written<String>>,
    pub link_file: Option<Written<PathBuf>>,
    pub source: Option<Written<String>>,
    pub interface: Option<Written<String>>,
    pub mark: Option<Written<String>>,
    pub order: Option<Written<String>>,
    pub weight: Option<Written<String>>,
    pub data_centres: Vec<Written<String>>,
    pub users: Vec<Written<String>>,
    pub at: Origin,
}

/// The section `[site]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct SiteWritten {
    pub acme: Option<AcmeWritten>,
    pub certificate: Option<Written<PathBuf>>,
    pub key: Option<Written<PathBuf>>,
    pub folder: Option<Written<PathBuf>>,
    pub upstream: Option<Written<String>>,
    pub server_header: Option<Written<String>>,
    pub redirect_from: Vec<Written<String>>,
    pub trusted_proxies: Vec<Written<String>>,
    pub visitor_header: Option<Written<String>>,
    pub http_listen: Option<Vec<Written<String>>>,
    pub at: Origin,
}

/// The section `[site.acme]`.
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct AcmeWritten {
    pub directory: Option<Written<String>>,
    pub staging: Option<Written<bool>>,
    pub email: Option<Written<String>>,
    pub challenge: Option<Written<String>>,
    pub ca_file: Option<Written<PathBuf>>,
    pub eab_key_id: Option<Written<String>>,
    pub eab_key_file: Option<Written<PathBuf>>,
    pub at: Origin,
}

impl Layer {
    /// The values of `self`, and those of `below` where `self` has none. Lists are not joined, except that data centres
    /// are taken one by one.
    pub fn over(self, below: Self) -> Self {
        Self {
            state_dir: self.state_dir.or(below.state_dir),
            admin: self.admin.or(below.admin),
            domain: self.domain.or(below.domain),
            names: self.names.or(below.names),
            ad_tag: self.ad_tag.or(below.ad_tag),
            listen: self.listen.or(below.listen),
            proxied: self.proxied.or(below.proxied),
            users: self.users.or(below.users),
            link_host: self.link_host.or(below.link_host),
            link_port: self.link_port.or(below.link_port),
            time_window: self.time_window.or(below.time_window),
            accept_names: self.accept_names.or(below.accept_names),
            cover_choice: self.cover_choice.or(below.cover_choice),
            cover: self.cover.or(below.cover),
            accept_grade_c: self.accept_grade_c || below.accept_grade_c,
            site: self.site.or(below.site),
            telegram: self.telegram.over(below.telegram),
            idle: self.idle.or(below.idle),
            drain: self.drain.or(below.drain),
            handover: self.handover.or(below.handover),
            fillers: self.fillers.or(below.fillers),
            end_unanswered: self.end_unanswered.or(below.end_unanswered),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
            client_addresses: self.client_addresses.or(below.client_addresses),
            // Only a file has these sections, and a file is below everything.
            middle: below.middle,
            misuse: below.misuse,
            sandbox: below.sandbox,
            web: below.web,
            dns: below.dns,
            routes: below.routes,
        }
    }
}

/// Values from the command line, not yet looked at.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the fields are the flags of `vizard run --help`")]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub listen: Vec<String>,
    pub domain: Option<String>,
    pub cover: Option<String>,
    pub accept_grade_c: bool,
    pub secrets: Vec<String>,
    pub secret_files: Vec<String>,
    pub data_centres: Vec<String>,
    pub log: Option<String>,
    pub link_host: Option<String>,
}

impl fmt::Debug for Flags {
    /// Without the secrets, and without what may have been meant as one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags")
            .field("config", &self.config)
            .field("state_dir", &self.state_dir)
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

impl Flags {
    /// Whether they name users, so that those of the file do not count.
    pub fn name_users(&self) -> bool {
        !self.secrets.is_empty() || !self.secret_files.is_empty()
    }

    /// The flags as a layer.
    pub fn layer(&self, complaints: &mut Vec<Complaint>) -> Layer {
        let flag =
            |name: &str, value: &str| Written::new(value.to_owned(), Origin::outside("command line", name, ' ', value));
        let one = |name: &str, value: &Option<String>| value.as_deref().map(|value| flag(name, value));
        Layer {
            state_dir: self.state_dir.clone().map(|path| {
                let at = Origin::outside("command line", "--state-dir", ' ', &path.to_string_lossy());
                Written::new(path, at)
            }),
            domain: one("--domain", &self.domain),
            listen: some(self.listen.iter().map(|value| flag("--listen", value)).collect()),
            users: some(self.users(complaints)),
            link_host: one("--link-host", &self.link_host),
            cover_choice: one("--cover", &self.cover),
            accept_grade_c: self.accept_grade_c,
            telegram: TelegramWritten {
                addresses: data_centres(self.data_centres.iter().map(|value| flag("--dc", value)), complaints),
                ..TelegramWritten::default()
            },
            log_format: one("--log", &self.log),
            ..Layer::default()
        }
    }

    fn users(&self, complaints: &mut Vec<Complaint>) -> Vec<UserWritten> {
        let users: Vec<_> = self.secrets.iter().map(|text| user("command line", "--secret", ' ', text)).collect();
        if let Some(first) = users.first() {
            let what = "other users of this machine can see this secret in the list of processes";
            let fix = "write it into a file, `--secret-file NAME=FILE`, or into the variable VIZARD_SECRET";
            complaints.push(Complaint::new(&first.at, what, fix).as_warning());
        }
        let files = self.secret_files.iter().map(|text| user_of_file("command line", "--secret-file", ' ', text));
        users.into_iter().chain(files).collect()
    }
}

/// Environment variables, as found when the program started.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl fmt::Debug for Environment {
    /// The names alone: any of the values may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// The value of a variable; empty counts as not set, as is usual in container files.
    pub fn value(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// The variable that names users, so that those of the file do not count.
    pub fn names_users(&self) -> Option<&'static str> {
        ["VIZARD_SECRET", "VIZARD_SECRET_FILE"].into_iter().find(|name| self.value(name).is_some())
    }

    /// The value of a variable as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The first path of a list as service managers write it.
    pub fn first_path(&self, name: &str) -> Option<PathBuf> {
        let list = self.value(name)?;
        Some(list.to_str().map_or_else(|| list.into(), |list| list.split(':').next().unwrap_or(list).into()))
    }

    /// The variables as a layer.
    pub fn layer(&self, complaints: &mut Vec<Complaint>) -> Layer {
        let mut text = |name: &str| {
            let text = self.value(name)?.to_str();
            if text.is_none() {
                let at = Origin::outside(PLACE, name, '=', "…");
                complaints.push(Complaint::new(&at, "the value is not UTF-8", "write plain text"));
            }
            text.map(|text| Written::new(text.to_owned(), Origin::outside(PLACE, name, '=', text)))
        };
        let parts =
            |list: Written<String>| list.value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        Layer {
            state_dir: self.path("VIZARD_STATE_DIR").map(|path| {
                let at = Origin::outside(PLACE, "VIZARD_STATE_DIR", '=', &path.to_string_lossy());
                Written::new(path, at)
            }),
            domain: text("VIZARD_DOMAIN"),
            listen: text("VIZARD_LISTEN").map(|list| {
                let at = list.at.clone();
                parts(list).into_iter().map(|part| Written::new(part, at.clone())).collect()
            }),
            users: some(
                [("VIZARD_SECRET", user as Reading), ("VIZARD_SECRET_FILE", user_of_file)]
                    .into_iter()
                    .filter_map(|(name, read)| Some((name, read, parts(text(name)?))))
                    .flat_map(|(name, read, parts)| parts.into_iter().map(move |part| read(PLACE, name, '=', &part)))
                    .collect(),
            ),
            cover_choice: text("VIZARD_COVER"),
            accept_grade_c: self.value("VIZARD_ACCEPT_GRADE_C").is_some_and(|value| value == "true" || value == "1"),
            log_format: text("VIZARD_LOG"),
            link_host: text("VIZARD_LINK_HOST"),
            ..Layer::default()
        }
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

const PLACE: &str = "environment";

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Reads one user out of a flag or a variable: place, name, what stands between, and the text.
type Reading = fn(&'static str, &str, char, &str) -> UserWritten;

/// `NAME=FILE`, with the secret in the file.
fn user_of_file(place: &'static str, variable: &str, between: char, text: &str) -> UserWritten {
    // Someone may have written the secret where its file is asked for.
    let secret = text.splitn(2, '=').chain([text]).any(|part| SecretText::parse(part).is_ok());
    let at = Origin::outside(place, variable, between, if secret { "(hidden)" } else { text });
    let (name, file) = match text.split_once('=') {
        Some((name, file)) => (Some(Written::new(name.to_owned(), at.clone())), file),
        None => (None, text),
    };
    UserWritten {
        name,
        secret: None,
        secret_file: Some(Written::new(file.into(), at.clone())),
        previous: PreviousWritten::default(),
        limits: LimitsWritten::default(),
        broken: false,
        at,
    }
}

/// `NAME=SECRET`, of which only the name is ever shown. What has no `=` may be a secret as a whole.
fn user(place: &'static str, variable: &str, between: char, text: &str) -> UserWritten {
    // Padding of base64 ends in `=` as well, so the first one counts, and something must be right of it.
    let (name, secret) = match text.split_once('=') {
        // A whole link has such signs of its own.
        _ if SecretText::parse(text).is_ok() => (None, text),
        Some((name, secret)) if !secret.trim_matches('=').is_empty() => (Some(name), secret),
        _ => (None, text),
    };
    // The two may have been swapped.
    let shown = match name.filter(|name| SecretText::parse(name).is_err()) {
        Some(name) => format!("{name}=(hidden)"),
        None => "(hidden)".into(),
    };
    let at = Origin::outside(place, variable, between, &shown);
    UserWritten {
        name: name.map(|name| Written::new(name.to_owned(), at.clone())),
        secret: Some(Written::new(secret.to_owned(), at.clone())),
        secret_file: None,
        previous: PreviousWritten::default(),
        limits: LimitsWritten::default(),
        broken: false,
        at,
    }
}

/// `N=ADDR:PORT`, gathered by number.
fn data_centres(
    texts: impl Iterator<Item = Written<String>>,
    complaints: &mut Vec<Complaint>,
) -> Vec<(Written<String>, Vec<Written<String>>)> {
    let mut gathered: Vec<(Written<String>, Vec<Written<String>>)> = Vec::new();
    for text in texts {
        let Some((number, address)) = text.value.split_once('=') else {
            let fix = "write number and address: --dc 2=192.0.2.1:443";
            complaints.push(Complaint::new(&text.at, "not a data centre with an address", fix));
            continue;
        };
        let address = Written::new(address.to_owned(), text.at.clone());
        match gathered.iter_mut().find(|(known, _)| known.value == number) {
            Some((_, addresses)) => addresses.push(address),
            None => gathered.push((Written::new(number.to_owned(), text.at.clone()), vec![address])),
        }
    }
    gathered
}
