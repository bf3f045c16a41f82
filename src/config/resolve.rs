//! From values as written to a [`Draft`], with every complaint gathered on the way.

pub mod acme;
mod admin;
mod listeners;
mod middle;
mod routes;
mod telegram;
mod users;
mod web;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustix::fs::OFlags;

use super::embedded::{CoverDraft, Draft, default_state_dir};
use super::keys::nearest;
use super::layer::{CoverWritten, Environment, Layer, NamesWritten, SandboxWritten, SiteWritten, Written};
use super::report::{Complaint, Origin};
use super::units::{self, ValueError};
use super::{LinkTarget, Listen, Log, LogFormat};
use crate::auth::{Domain, DomainError, MiddleUse};
use crate::base::files;
use crate::cover::remote::{self, ProxyProtocol};
use crate::cover::site::Content;
use crate::net;
use crate::net::route::Dialer;
use crate::ops::sandbox;
use crate::server::silence::SilenceScope;
use crate::wire::HelloClass;
use routes::Ways;

/// Defaults of keys that are not written.
pub mod defaults {
    use std::time::Duration;

    use crate::wire::HelloClass;

    /// `hello.time_window`
    pub const TIME_WINDOW: Duration = Duration::from_secs(10 * 60);
    /// `session.drain`
    pub const DRAIN: Duration = Duration::from_secs(10);
    /// `session.handover`
    pub const HANDOVER: Duration = Duration::from_secs(10 * 60);
    /// `session.fillers`: the classes of the clients that were tried.
    pub const FILLERS: [HelloClass; 2] = [HelloClass::ChromeHybrid, HelloClass::Padded517];
    /// `log.level`
    pub const LEVEL: tracing::Level = tracing::Level::INFO;
    /// `lists.refresh`
    pub const LIST_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
    /// `audit_log.max_megabytes`
    pub const AUDIT_MEGABYTES: u32 = 64;
    /// `audit_log.keep_days`
    pub const AUDIT_DAYS: u32 = 30;
    /// Port of the cover when only a domain is written.
    pub const COVER_PORT: u16 = 443;
}

/// Checks `layer`. `folder` is where relative paths of the file start. `whole` says that the file could be read in
/// full: if not, what is missing or contradicts itself may be a consequence of that and is not complained about.
///
/// The draft is of use only if none of the complaints is an error.
pub fn resolve(
    layer: Layer,
    folder: &Path,
    environment: &Environment,
    whole: bool,
    complaints: Vec<Complaint>,
) -> Resolved {
    let mut resolver = Resolver { folder, whole, complaints, files: Vec::new() };
    let (draft, broken, nameless) = resolver.draft(layer, environment);
    Resolved { draft, broken, nameless, complaints: resolver.complaints, files: resolver.files }
}

/// Result of checking a layer.
pub struct Resolved {
    /// The configuration.
    pub draft: Draft,
    /// Names of users with whom something is wrong.
    pub broken: Vec<String>,
    /// Whether there is a user whose name could not be read.
    pub nameless: bool,
    /// Complaints about it.
    pub complaints: Vec<Complaint>,
    /// Files that were read on the way: secrets.
    pub files: Vec<PathBuf>,
}

pub(super) struct Resolver<'f> {
    folder: &'f Path,
    pub(super) whole: bool,
    pub(super) complaints: Vec<Complaint>,
    files: Vec<PathBuf>,
}

/// Most names of a site. Let's Encrypt puts no more into a certificate, and one with more would make first flights too long for
/// Telegram on iOS.
const MOST_NAMES: usize = 100;

/// Further names of the site.
#[derive(Debug, Default)]
struct SiteNames {
    /// Those that could be read.
    known: Vec<Domain>,
    /// The same with the first name, to be asked for each user.
    all: HashSet<Domain>,
    /// Whether these are all.
    whole: bool,
}

/// A TCP address to listen on and where it was written.
type ListenerAt = (SocketAddr, Origin);

impl Resolver<'_> {
    fn draft(&mut self, layer: Layer, environment: &Environment) -> (Draft, Vec<String>, bool) {
        let (tagged, untagged) = (tagged(&layer), untagged(&layer));
        let state_dir = self.state_dir(layer.state_dir, environment);
        let given = layer.listen.is_some() || layer.proxied.as_ref().is_some_and(|proxied| proxied.listen.is_some());
        let (listen, proxied, listeners) = self.listeners(layer.listen, layer.proxied);
        let has_first = layer.domain.is_some();
        let stated = layer.domain.and_then(|domain| self.domain(&domain).map(|name| (name, domain.at)));
        let further = self.site_names(layer.names.unwrap_or_default(), stated.as_ref(), has_first);
        let (read, domain) = self.users(layer.users.unwrap_or_default(), stated, &further);
        let users::UsersRead { users, broken, nameless } = read;
        let ways = self.ways(layer.routes, &users);
        let (ways, names) = self.dns(layer.dns, ways);
        let cover = self.cover(
            (layer.cover_choice, layer.accept_grade_c),
            layer.cover,
            layer.site,
            domain.as_ref(),
            &listeners,
            (&ways, &names),
        );
        let telegram = self.telegram(layer.telegram, &ways);
        self.unused(&ways);
        match (tagged, untagged) {
            (Some(tag), _) if self.whole => self.tag_beside(&telegram.routes, &tag),
            (None, Some(wish)) if self.whole => self.middle_beside(&telegram.routes, &wish),
            _ => {}
        }
        let draft = Draft {
            admin: layer.admin.and_then(|admin| self.admin(admin, &state_dir)),
            state_dir,
            listen: if given { Listen::Given(listen) } else { Listen::Automatic },
            proxied,
            users,
            domain: domain.map(|(name, _)| name),
            names: further.known,
            accepted_names: self.names(layer.accept_names),
            link: LinkTarget {
                host: self.value(layer.link_host, units::host),
                port: self.value(layer.link_port, units::port),
            },
            time_window: self.value(layer.time_window, units::some_duration).unwrap_or(defaults::TIME_WINDOW),
            web: self.web(layer.web),
            cover,
            telegram,
            ad_tag: self.value(layer.ad_tag, units::ad_tag),
            middle_use: self.choice(layer.middle.sessions.clone(), &MiddleUse::NAMES).unwrap_or_default(),
            middle: self.middle(layer.middle),
            idle: self.value(layer.idle, units::some_duration),
            drain: self.value(layer.drain, units::duration).unwrap_or(defaults::DRAIN),
            handover: self.value(layer.handover, units::duration).unwrap_or(defaults::HANDOVER),
            fillers: self.fillers(layer.fillers),
            end_unanswered: self.choice(layer.end_unanswered, SILENCE_SCOPES).unwrap_or_default(),
            misuse: self.misuse(layer.misuse),
            sandbox: self.sandbox(layer.sandbox),
            log: Log {
                format: self.choice(layer.log_format, FORMATS),
                level: self.choice(layer.log_level, LEVELS).unwrap_or(defaults::LEVEL),
                client_addresses: layer.client_addresses.is_some_and(|written| written.value),
            },
        };
        (draft, broken, nameless)
    }

    fn state_dir(&mut self, written: Option<Written<PathBuf>>, environment: &Environment) -> PathBuf {
        let stated = written.map(|path| self.path(path));
        let found = stated.or_else(|| default_state_dir(environment, rustix::process::geteuid().is_root()));
        found.unwrap_or_else(|| {
            let fix = "name one with `--state-dir DIR` or `state_dir = \"DIR\"`";
            self.complaints.push(Complaint::missing("there is no state directory: HOME is not set", fix));
            PathBuf::new()
        })
    }

    /// Further names of the site. `has_first`: one stands there, be it a mistaken one.
    fn site_names(
        &mut self,
        written: Vec<Written<String>>,
        domain: Option<&(Domain, Origin)>,
        has_first: bool,
    ) -> SiteNames {
        let mut known: HashMap<Domain, Origin> = domain.cloned().into_iter().collect();
        let mut names = SiteNames { whole: self.whole && has_first == domain.is_some(), ..SiteNames::default() };
        if let (Some(first), false, true) = (written.first(), has_first, self.whole) {
            let next = "write the first one as `domain = \"NAME\"` at the top of the file";
            self.complaints.push(Complaint::new(
                &first.at,
                "there are further names of the site and no first one",
                next,
            ));
        }
        if let Some(more) = written.get(MOST_NAMES - 1) {
            let what = format!("a site has at most {MOST_NAMES} names: authorities put no more into one certificate");
            self.complaints.push(Complaint::new(&more.at, what, "leave some out"));
        }
        for name in written {
            let at = name.at.clone();
            let Some(name) = self.domain(&name) else {
                names.whole = false;
                continue;
            };
            match known.get(&name) {
                Some(first) => {
                    let complaint = Complaint::new(&at, "this name of the site is listed twice", "remove one");
                    self.complaints.push(complaint.and(first, "the other one"));
                }
                None => {
                    known.insert(name.clone(), at);
                    names.known.push(name);
                }
            }
        }
        names.all = known.into_keys().collect();
        names
    }

    fn names(&mut self, written: Option<NamesWritten>) -> Option<Vec<Domain>> {
        match written? {
            NamesWritten::List(names) => Some(names.iter().filter_map(|name| self.domain(name)).collect()),
            NamesWritten::Word(word) if word.value == "any" => None,
            NamesWritten::Word(word) => {
                let fix = "write \"any\" or a list of names: [\"www.example.com\"]";
                self.complaints.push(Complaint::new(&word.at, "not a list of names", fix));
                None
            }
        }
    }

    fn fillers(&mut self, written: Option<Vec<Written<String>>>) -> Vec<HelloClass> {
        let Some(written) = written else { return defaults::FILLERS.to_vec() };
        let choices = HelloClass::ALL.map(|class| (class.label(), class));
        written.into_iter().filter_map(|class| self.choice(Some(class), &choices)).collect()
    }

    fn cover(
        &mut self,
        (choice, accepted): (Option<Written<String>>, bool),
        cover: Option<CoverWritten>,
        site: Option<SiteWritten>,
        domain: Option<&(Domain, Origin)>,
        listen: &[ListenerAt],
        (ways, names): (&Ways, &net::resolve::Resolver),
    ) -> CoverDraft {
        let overruled = choice.is_some();
        let cover_at = cover.as_ref().map(|cover| cover.at.clone());
        let is_on = |switch: &Option<Written<bool>>| switch.as_ref().is_some_and(|switch| switch.value);
        let private = cover.as_ref().is_some_and(|cover| is_on(&cover.private_addresses));
        let accept_grade_c = accepted || cover.as_ref().is_some_and(|cover| is_on(&cover.accept_grade_c));
        let (mut kind, mut address, proxy_protocol, route) = match cover {
            Some(cover) => (cover.kind, cover.address, cover.proxy_protocol, cover.route),
            None => (None, None, None, None),
        };
        let dialer = route.as_ref().and_then(|route| self.cover_dialer(route, ways));
        if let Some(choice) = choice {
            let remote = choice.value != "site";
            kind = Some(Written::new(if remote { "remote" } else { "site" }.into(), choice.at.clone()));
            address = remote.then_some(choice);
        }
        let kind = kind.and_then(|kind| self.choice(Some(kind.clone()), KINDS).map(|value| (value, kind.at)));
        let remote = match &kind {
            Some((kind, _)) => *kind == Kind::Remote,
            None => address.is_some() || (site.is_none() && domain.is_some()),
        };
        if self.whole && !overruled {
            let of_remote = [address.as_ref(), proxy_protocol.as_ref(), route.as_ref()];
            self.mixed_covers(remote, of_remote, site.as_ref());
        }
        if remote {
            let at = kind.map(|(_, at)| at).or(cover_at);
            let remote = self.remote(address, proxy_protocol, domain, listen, at);
            let dialer = dialer.unwrap_or_else(|| Dialer::default().asking(names));
            return CoverDraft::Remote(remote::Settings { dialer, private, accept_grade_c, ..remote });
        }
        self.site(site, domain, listen)
    }

    fn mixed_covers(&mut self, remote: bool, of_remote: [Option<&Written<String>>; 3], site: Option<&SiteWritten>) {
        if let (true, Some(site)) = (remote, site) {
            let fix = "remove the section, or write `kind = \"site\"` into `[cover]`";
            self.complaints.push(Complaint::new(&site.at, "the cover is remote, so this section has no effect", fix));
        }
        for key in of_remote.into_iter().flatten().filter(|_| !remote) {
            let fix = "remove the line, or write `kind = \"remote\"` into `[cover]`";
            self.complaints.push(Complaint::new(&key.at, "the cover is the built-in site, so this has no effect", fix));
        }
    }

    fn remote(
        &mut self,
        address: Option<Written<String>>,
        proxy_protocol: Option<Written<String>>,
        domain: Option<&(Domain, Origin)>,
        listen: &[ListenerAt],
        at: Option<Origin>,
    ) -> remote::Settings {
        let place = address.as_ref().map(|address| address.at.clone()).or(at);
        if domain.is_none() && self.whole {
            let what = "a remote cover needs a domain: the name under which it is known";
            let complaint =
                Complaint::missing(what, "add `domain = \"NAME\"` to the top of the file, or `--domain NAME`");
            self.complaints.push(Complaint { at: place.clone(), ..complaint });
        }
        let target = match &address {
            Some(text) => self.check(text, units::host_and_port),
            None => domain.map(|(domain, _)| (domain.to_string(), defaults::COVER_PORT)),
        };
        let (host, port) = target.unwrap_or_default();
        if let Some(place) = place {
            self.refuse_loop(&host, port, &place, listen);
        }
        let proxy_protocol = self.choice(proxy_protocol, PROXY_PROTOCOLS);
        remote::Settings { host, port, proxy_protocol, ..remote::Settings::default() }
    }

    /// A cover that is the proxy itself would answer every visitor with another visitor.
    fn refuse_loop(&mut self, host: &str, port: u16, at: &Origin, listen: &[ListenerAt]) {
        let target = match (host.parse::<IpAddr>(), host == "localhost") {
            (Ok(address), _) => address,
            (Err(_), true) => IpAddr::from([127, 0, 0, 1]),
            (Err(_), false) => return,
        };
        let target = SocketAddr::new(target, port);
        let automatic = Listen::candidates()[0];
        let fix = "name the web server itself; if it has this port, let one of the two listen on another";
        let complaint = Complaint::new(at, "this is the proxy itself", fix);
        match listen.iter().find(|(listener, _)| remote::leads_to_us(target, &[*listener])) {
            Some((_, listener)) => self.complaints.push(complaint.and(listener, "the proxy listens here")),
            None if listen.is_empty() && remote::leads_to_us(target, &[automatic]) => self.complaints.push(complaint),
            None => {}
        }
    }

    fn site(
        &mut self,
        site: Option<SiteWritten>,
        domain: Option<&(Domain, Origin)>,
        listen: &[ListenerAt],
    ) -> CoverDraft {
        let Some(site) = site else { return CoverDraft::default() };
        if let (Some(_), Some(upstream)) = (&site.folder, &site.upstream) {
            let complaint = Complaint::new(&upstream.at, "the site is either a folder or an upstream", "remove one");
            self.complaints.push(match &site.folder {
                Some(folder) => complaint.and(&folder.at, "the other one"),
                None => complaint,
            });
        }
        let beside = acme::Beside {
            certificate: site.certificate.as_ref().or(site.key.as_ref()).map(|file| &file.at),
            redirects: !site.redirect_from.is_empty(),
            domain,
        };
        CoverDraft::Site {
            acme: site.acme.map(|acme| Box::new(self.acme(acme, &beside))),
            certificate: self.certificate(site.certificate, site.key),
            content: match (site.folder, site.upstream) {
                (Some(folder), _) => self.folder(folder).map(Content::Folder),
                (None, Some(upstream)) => self.upstream(&upstream, listen).map(Content::Upstream),
                (None, None) => None,
            },
            server_header: site.server_header.and_then(|header| self.server_header(header)),
            redirect_from: self.redirects(site.redirect_from, listen),
            fronts: self.fronts(site.http_listen, site.visitor_header, (listen, &site.trusted_proxies)),
            trusted_proxies: self.networks(Some(site.trusted_proxies)),
        }
    }

    fn certificate(
        &mut self,
        certificate: Option<Written<PathBuf>>,
        key: Option<Written<PathBuf>>,
    ) -> Option<(PathBuf, PathBuf)> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => self.readable(certificate).zip(self.readable(key)),
            (None, None) => None,
            (certificate, key) => {
                let (given, lacking) =
                    if certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
                if let Some(lonely) = certificate.or(key).filter(|_| self.whole) {
                    let what = format!("there is a {given} without a {lacking}");
                    self.complaints.push(Complaint::new(&lonely.at, what, format!("add `{lacking} = \"FILE\"`")));
                }
                None
            }
        }
    }

    pub(super) fn readable(&mut self, written: Written<PathBuf>) -> Option<PathBuf> {
        let at = written.at.clone();
        let path = self.path(written);
        match fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(found) if found.is_file() => return Some(path),
            Ok(_) => self.unusable(&at, "this is no file", &""),
            Err(error) => self.unusable(&at, "this file cannot be read", &error),
        }
        None
    }

    fn sandbox(&mut self, written: SandboxWritten) -> sandbox::Settings {
        let enabled = written.enabled.is_none_or(|enabled| enabled.value);
        let read = written.read.into_iter().filter_map(|path| {
            let (at, path) = (path.at.clone(), self.path(path));
            let found = fs::metadata(&path);
            found.map_err(|error| self.unusable(&at, "this is not there", &error)).ok().map(|_| path)
        });
        sandbox::Settings { enabled, read: read.collect() }
    }

    fn folder(&mut self, written: Written<PathBuf>) -> Option<PathBuf> {
        let at = written.at.clone();
        let path = self.path(written);
        match fs::read_dir(&path) {
            Ok(_) => return Some(path),
            Err(error) => self.unusable(&at, "this folder cannot be read", &error),
        }
        None
    }

    fn unusable(&mut self, at: &Origin, what: &str, error: &dyn fmt::Display) {
        let error = error.to_string();
        let what = if error.is_empty() { what.to_owned() } else { format!("{what}: {error}") };
        let fix = "check the path and its permissions; relative paths start at the folder of the configuration file";
        self.complaints.push(Complaint::new(at, what, fix));
    }

    fn upstream(&mut self, written: &Written<String>, listen: &[ListenerAt]) -> Option<hyper::Uri> {
        let uri = written.value.parse::<hyper::Uri>().ok();
        let plain = |uri: &hyper::Uri| {
            let port = uri.port().is_none_or(|port| port.as_u16() != 0);
            let host = uri.host().is_some_and(|host| units::host(host).is_ok());
            let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            uri.scheme_str() == Some("http")
                && host
                && port
                && !user
                && matches!(uri.path(), "" | "/")
                && uri.query().is_none()
        };
        let Some(uri) = uri.filter(plain) else {
            let fix = "write \"http://HOST:PORT\": plain HTTP, without a path; vizard does the TLS itself";
            self.complaints.push(Complaint::new(&written.at, "not an upstream", fix));
            return None;
        };
        let host = units::host(uri.host().unwrap_or_default()).unwrap_or_default();
        self.refuse_loop(&host, uri.port_u16().unwrap_or(80), &written.at, listen);
        Some(uri)
    }

    fn server_header(&mut self, written: Written<String>) -> Option<String> {
        let fine = !written.value.is_empty() && written.value.bytes().all(|b| matches!(b, 0x20..=0x7e));
        if !fine {
            let fix = "write plain ASCII like \"nginx\", or remove the line: then no such header is sent";
            self.complaints.push(Complaint::new(&written.at, "this is not a valid header value", fix));
        }
        fine.then_some(written.value)
    }

    fn domain(&mut self, written: &Written<String>) -> Option<Domain> {
        let complain = |error: DomainError| Complaint::new(&written.at, error.to_string(), error.fix());
        written.value.parse().map_err(|error| self.complaints.push(complain(error))).ok()
    }

    pub(super) fn value<T>(
        &mut self,
        written: Option<Written<String>>,
        read: fn(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        self.check(&written?, read)
    }

    fn check<T>(&mut self, written: &Written<String>, read: fn(&str) -> Result<T, ValueError>) -> Option<T> {
        let complain = |error: ValueError| Complaint::new(&written.at, error.to_string(), error.fix());
        read(&written.value).map_err(|error| self.complaints.push(complain(error))).ok()
    }

    pub(super) fn choice<T: Copy>(&mut self, written: Option<Written<String>>, choices: &[(&str, T)]) -> Option<T> {
        let written = written?;
        let chosen = choices.iter().find(|(name, _)| *name == written.value);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let fix = match nearest(&written.value, choices.iter().map(|(name, _)| *name)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write {}", names.join(" or ")),
            };
            self.complaints.push(Complaint::new(&written.at, "this is not one of the choices", fix));
        }
        chosen.map(|(_, value)| *value)
    }

    /// Paths of the file start at its folder, all others where the program was started.
    pub(super) fn path(&self, written: Written<PathBuf>) -> PathBuf {
        match written.at {
            Origin::File(_) => self.folder.join(written.value),
            Origin::Outside { .. } => written.value,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Site,
    Remote,
}

const KINDS: &[(&str, Kind)] = &[("site", Kind::Site), ("remote", Kind::Remote)];
const PROXY_PROTOCOLS: &[(&str, ProxyProtocol)] = &[("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
const SILENCE_SCOPES: &[(&str, SilenceScope)] =
    &[("off", SilenceScope::Off), ("apple", SilenceScope::Apple), ("all", SilenceScope::All)];
const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const LEVELS: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// The text of a small file, and whether only its owner may read it.
pub fn read_secret_file(path: &Path) -> io::Result<(String, bool)> {
    // Longer than any secret; a wrong path may well lead to a device without an end.
    const LONGEST: u64 = 4096;
    let file = files::open_file(path, OFlags::RDONLY)?;
    let private = file.metadata()?.permissions().mode() & 0o077 == 0;
    let text = io::read_to_string(io::Read::take(file, LONGEST))?;
    Ok((text.trim().to_owned(), private))
}

/// Place where the first wish for middle proxies without a tag is written, if one is.
fn untagged(layer: &Layer) -> Option<Origin> {
    let users = layer.users.iter().flatten().filter_map(|user| user.limits.middle.as_ref());
    let mut wishes = layer.middle.sessions.iter().chain(users);
    wishes.find(|wish| wish.value != MiddleUse::Tagged.label()).map(|wish| wish.at.clone())
}

/// Place where the first tag for a promoted channel is written, if one is.
fn tagged(layer: &Layer) -> Option<Origin> {
    let users = layer.users.iter().flatten().filter_map(|user| user.limits.ad_tag.as_ref());
    let tags = layer.ad_tag.iter().chain(users.filter(|tag| tag.value.trim() != "none"));
    tags.map(|tag| tag.at.clone()).next()
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, Flags, load_text_or_users};

    #[test]
    fn a_mistake_in_the_first_name_of_the_site_is_none_of_its_users() {
        let text = "domain = \"a b\"\nnames = [\"b.example\"]\n[[users]]\nname = \"alice\"\ndomain = \"a.example\"\n\
                    secret = \"000102030405060708090a0b0c0d0e0f\"\nenabled = false\n";
        let environment = Environment::from_iter([("VIZARD_STATE_DIR", "/")]);
        let (loaded, users) = load_text_or_users(text, None, &Flags::default(), &environment);
        let (report, users) = (loaded.err().unwrap().to_string(), users.unwrap());
        assert!(!report.contains("no first one") && !report.contains("not one of the site"), "{report}");
        assert!(users.broken.is_empty() && !users.users[0].policy.enabled, "who is kept out is kept out at once");
    }
}
