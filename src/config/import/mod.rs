//! Configurations of other proxies: their users, secrets, names and ports, and what of them has no counterpart here.
//!
//! A format is read as data and never run. What is not taken over is said, so that nothing is lost unseen.

mod mtg;
mod mtprotoproxy;
mod mtproxy;
mod python;
mod telemt;
mod webproxy;

use std::path::PathBuf;
use std::{error, fmt};

use super::edit::Changes;
use super::starter::{Content, Person, WebStart};
use super::units;
use crate::auth::{Domain, SecretText};
use crate::wire::rpc::AdTag;

/// Proxy that a configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// mtg, version 2: TOML
    Mtg,
    /// telemt: TOML
    Telemt,
    /// mtprotoproxy: `config.py`, which is read and not run
    Mtprotoproxy,
    /// The official MTProxy: a systemd unit or a command line
    Mtproxy,
    /// The official relay of WEB proxies, tproxy-server: `config.json` or `profiles.json`
    Webproxy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mtg => "mtg",
            Self::Telemt => "telemt",
            Self::Mtprotoproxy => "mtprotoproxy",
            Self::Mtproxy => "the official MTProxy",
            Self::Webproxy => "the official relay of WEB proxies",
        })
    }
}

/// Settings that are taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// Users who may enter.
    pub people: Vec<Person>,
    /// The name that links carry.
    pub domain: Option<Domain>,
    /// Addresses on which clients are accepted.
    pub listen: Vec<String>,
    /// Host that links name as the server.
    pub link_host: Option<String>,
    /// The port in links.
    pub link_port: Option<u16>,
    /// Host and port that strangers are passed on to, if it is not where the domain leads.
    pub cover: Option<String>,
    /// The tag of a promoted channel.
    pub tag: Option<AdTag>,
    /// Files with further secrets, one on each line, which are to be read and given to [`Imported::add_secrets`].
    pub secret_files: Vec<PathBuf>,
    /// Files with the profiles of WEB proxies, which are to be read and given to [`Imported::add_profiles`].
    pub profile_files: Vec<PathBuf>,
    /// WEB proxies that the built-in site is to serve.
    pub web: Option<WebStart>,
    /// Content of the site.
    pub content: Option<Content>,
    /// Notes on what is different now or was left out, as sentences. They hold no secret.
    pub notes: Vec<String>,
}

/// Reason why nothing is taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// It is no known format.
    Unknown,
    /// It is not what the format says.
    NotOfTheFormat(Format),
    /// There is no secret in it that could be taken over.
    NoSecret(Format),
}

impl ImportError {
    /// Advice on what to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Unknown => "say whose it is: --from mtg, telemt, mtprotoproxy, mtproxy or webproxy",
            Self::NotOfTheFormat(_) => "see whether the file is the right one, and whose it is: --from",
            Self::NoSecret(_) => "set up again with `vizard init`, and write the secrets into the sections [[users]]",
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the file is in no known format"),
            Self::NotOfTheFormat(format) => write!(f, "the file is not a configuration of {format}"),
            Self::NoSecret(format) => write!(f, "the configuration of {format} has no secret that could be imported"),
        }
    }
}

impl error::Error for ImportError {}

/// Reads a configuration. Without a format it is told from the text.
pub fn import(text: &str, format: Option<Format>) -> Result<(Format, Imported), ImportError> {
    let format = format.or_else(|| recognise(text)).ok_or(ImportError::Unknown)?;
    let read = match format {
        Format::Mtg => mtg::read(text),
        Format::Telemt => telemt::read(text),
        Format::Mtprotoproxy => mtprotoproxy::read(text),
        Format::Mtproxy => mtproxy::read(text),
        Format::Webproxy => webproxy::read(text),
    };
    let imported = read.ok_or(ImportError::NotOfTheFormat(format))?;
    if imported.people.is_empty() && imported.secret_files.is_empty() && imported.profile_files.is_empty() {
        return Err(ImportError::NoSecret(format));
    }
    Ok((format, imported))
}

fn recognise(text: &str) -> Option<Format> {
    if webproxy::recognise(text) {
        return Some(Format::Webproxy);
    }
    if let Ok(table) = text.parse::<toml::Table>() {
        let has = |key: &str| table.contains_key(key);
        return match (has("access"), has("secret") || has("bind-to")) {
            (true, _) => Some(Format::Telemt),
            (false, true) => Some(Format::Mtg),
            (false, false) => None,
        };
    }
    if python::assignments(text).iter().any(|(name, _)| name == "USERS") {
        return Some(Format::Mtprotoproxy);
    }
    text.contains("mtproto-proxy").then_some(Format::Mtproxy)
}

impl Imported {
    /// Says something about what was read.
    fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// Adds a user, under a name that can be had; says so if that is another one, or if the secret is none.
    fn add(&mut self, name: &str, secret: &str, limits: Changes) {
        let Ok(SecretText { secret, domain }) = SecretText::parse(secret.trim()) else {
            return self.note(format!("the secret of {} is invalid, so the user was left out", named(name)));
        };
        let fitting = self.free_name(name);
        if fitting != name {
            self.note(format!("{} was renamed to {fitting}", named(name)));
        }
        // Kept with the user in case it becomes a further name of the site.
        let domain_of_user = domain.as_ref().map(ToString::to_string).or(limits.domain.clone());
        let limits = Changes { domain: domain_of_user, ..limits };
        self.domain = self.domain.take().or(domain);
        self.people.push(Person { name: fitting, secret, limits });
    }

    /// Adds the users of a file that has a secret on each line or between commas; `#` begins a comment.
    pub fn add_secrets(&mut self, text: &str) {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let words = lines.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace()));
        for secret in words.filter(|word| !word.is_empty()) {
            let name = format!("user{}", self.people.len() + 1);
            self.add(&name, secret, Changes::default());
        }
    }

    fn free_name(&self, name: &str) -> String {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        let mut fitting: String = name.chars().map(|c| if good(c) { c } else { '-' }).take(60).collect();
        // A name without a letter or digit says nothing, and one of hyphens would be taken for a flag.
        if !fitting.contains(|c: char| c.is_ascii_alphanumeric()) {
            fitting = "user".into();
        }
        let taken = |name: &str| self.people.iter().any(|person| person.name == name);
        if !taken(&fitting) {
            return fitting;
        }
        (2_usize..).map(|number| format!("{fitting}{number}")).find(|name| !taken(name)).unwrap_or(fitting)
    }

    fn set_domain(&mut self, text: &str) {
        match text.parse() {
            Ok(domain) => self.domain = Some(domain),
            Err(error) => self.note(format!("the domain was left out: {error}")),
        }
    }

    fn set_tag(&mut self, text: &str) {
        match units::ad_tag(text) {
            Ok(tag) => self.tag = Some(tag),
            Err(error) => self.note(format!("the tag was left out: {error}")),
        }
    }

    fn set_cover(&mut self, host: &str, port: u16) {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match units::host_and_port(&address) {
            Ok(_) => self.cover = Some(address),
            Err(error) => self.note(format!("the address of the site was left out: {error}")),
        }
    }

    /// Accepts clients at these addresses; the two that mean all become one.
    fn set_listen(&mut self, addresses: &[&str], port: u16) {
        let everywhere = |address: &&&str| matches!(**address, "0.0.0.0" | "::" | "");
        let all = addresses.is_empty() || addresses.iter().any(|address| matches!(*address, "::" | ""));
        if all {
            self.listen.push(format!("[::]:{port}"));
        }
        for address in addresses.iter().filter(|address| !all || !everywhere(address)) {
            let text = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            match units::socket_address(&text) {
                Ok(_) => self.listen.push(text),
                Err(error) => self.note(format!("an address to listen on was left out: {error}")),
            }
        }
    }

    fn set_link_host(&mut self, text: &str) {
        match units::host(text) {
            Ok(host) => self.link_host = Some(host),
            Err(error) => self.note(format!("the host of the links was left out: {error}")),
        }
    }

    /// The quota in bytes; what is too small to be one is left out.
    fn quota(&mut self, name: &str, bytes: u64) -> Option<String> {
        let text = units::size_text(bytes);
        if units::quota(&text).is_err() {
            self.note(format!("the quota of {} is too small and was left out", named(name)));
            return None;
        }
        Some(text)
    }

    /// Notes that plain or `dd` links were in use, which have no counterpart.
    fn only_tls(&mut self, what: &str) {
        self.note(format!(
            "{what} has no counterpart: vizard takes links with TLS (`ee`) only, so hand out new links to those who had \
             others; their keys stay the same"
        ));
    }

    fn no_counterpart(&mut self, key: &str) {
        self.note(format!("{key} was left out: it has no counterpart here"));
    }
}

/// A name as it may be shown. Someone may have mixed up names and secrets.
fn named(name: &str) -> String {
    if SecretText::parse(name).is_ok() { "a user".into() } else { format!("`{}`", name.escape_debug()) }
}

/// Every value of a table that is no table itself, by its dotted key.
fn leaves(table: &toml::Table) -> Vec<(String, &toml::Value)> {
    fn walk<'v>(owner: &str, value: &'v toml::Value, found: &mut Vec<(String, &'v toml::Value)>) {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
                let key = if owner.is_empty() { key.clone() } else { format!("{owner}.{key}") };
                walk(&key, value, found);
            }),
            _ => found.push((owner.to_owned(), value)),
        }
    }
    let mut found = Vec::new();
    for (key, value) in table {
        walk(key, value, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webproxy::session::Mode;

    fn fixture(name: &str) -> String {
        std::fs::read_to_string(format!("fixtures/import/{name}")).unwrap()
    }

    fn read(name: &str) -> (Format, Imported) {
        import(&fixture(name), None).unwrap()
    }

    fn said(imported: &Imported, part: &str) -> bool {
        imported.notes.iter().any(|note| note.contains(part))
    }

    fn names(imported: &Imported) -> Vec<&str> {
        imported.people.iter().map(|person| person.name.as_str()).collect()
    }

    const ALICE: &str = "000102030405060708090a0b0c0d0e0f";
    const BOB: &str = "101112131415161718191a1b1c1d1e1f";
    const TAG: AdTag = AdTag([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

    #[test]
    fn mtg() {
        let (format, it) = read("mtg.toml");
        assert_eq!(format, Format::Mtg);
        assert_eq!((names(&it), it.people[0].secret.hex().as_str()), (vec!["default"], ALICE));
        assert_eq!(it.domain.as_ref().unwrap().as_str(), "www.example.com");
        assert_eq!(
            (it.listen.as_slice(), it.link_host.as_deref()),
            (&["0.0.0.0:3128".to_owned()][..], Some("203.0.113.7"))
        );
        assert_eq!(it.cover.as_deref(), Some("www.example.com:8443"));
        for part in ["concurrency", "limits.connections", "network.proxies", "defense.blocklist.urls", "lists.deny"] {
            assert!(said(&it, part), "{part}: {:#?}", it.notes);
        }
        assert!(!said(&it, "stats.prometheus"), "what is switched off is no loss: {:#?}", it.notes);
    }

    #[test]
    fn telemt() {
        let (format, it) = read("telemt.toml");
        assert_eq!(format, Format::Telemt);
        assert_eq!(names(&it), ["alice", "bob-next-door"]);
        assert_eq!((it.people[0].secret.hex().as_str(), it.people[1].secret.hex().as_str()), (ALICE, BOB));
        let limits = &it.people[0].limits;
        assert_eq!((limits.max_sessions, limits.max_addresses), (Some(100), Some(3)));
        assert_eq!(limits.ad_tag.as_deref(), Some("100f0e0d0c0b0a090807060504030201"));
        assert_eq!(limits.expires.as_deref(), Some("2078-01-01T00:00:00Z"));
        assert_eq!(limits.quota.as_deref(), Some("10737418240B"));
        assert_eq!(it.people[1].limits, Changes::default());
        assert_eq!(it.domain.as_ref().unwrap().as_str(), "www.example.com");
        assert_eq!(it.listen, ["[::]:8443"]);
        assert_eq!((it.link_host.as_deref(), it.link_port), (Some("proxy.example.com"), Some(443)));
        assert_eq!(it.cover.as_deref(), Some("192.0.2.1:443"));
        assert_eq!(it.tag, Some(TAG));
        for part in [
            "secret of `broken` is invalid",
            "renamed to bob-next-door",
            "quota of `bob next door`",
            "general.modes.secure",
            "server.proxy_protocol",
            "cdn.example.com",
        ] {
            assert!(said(&it, part), "{part}: {:#?}", it.notes);
        }
    }

    #[test]
    fn mtprotoproxy_is_read_and_not_run() {
        let (format, it) = read("config.py");
        assert_eq!(format, Format::Mtprotoproxy);
        assert_eq!(names(&it), ["alice", "bob"]);
        assert_eq!((it.people[0].secret.hex().as_str(), it.people[1].secret.hex().as_str()), (ALICE, BOB));
        let limits = &it.people[0].limits;
        assert_eq!((limits.max_sessions, limits.quota.as_deref()), (Some(100), Some("10737418240B")));
        assert_eq!(limits.expires.as_deref(), Some("2030-12-31T00:00:00Z"));
        assert_eq!(it.domain.as_ref().unwrap().as_str(), "www.example.com");
        assert_eq!(
            (it.listen.as_slice(), it.cover.as_deref()),
            (&["192.0.2.10:443".to_owned()][..], Some("192.0.2.1:443"))
        );
        assert_eq!(it.tag, Some(TAG));
        for part in ["METRICS_PORT", "SECRET_OF_CAROL", "TO_CLT_BUFSIZE"] {
            assert!(said(&it, part), "{part}: {:#?}", it.notes);
        }
    }

    #[test]
    fn the_official_proxy() {
        let (format, it) = read("mtproxy.service");
        assert_eq!(format, Format::Mtproxy);
        assert_eq!(names(&it), ["user1", "user2"]);
        assert_eq!((it.people[0].secret.hex().as_str(), it.people[1].secret.hex().as_str()), (ALICE, BOB));
        assert_eq!(it.listen, ["[::]:443", "[::]:8443"]);
        assert_eq!(it.domain.as_ref().unwrap().as_str(), "www.example.com");
        assert_eq!((it.tag, it.link_host.as_deref()), (Some(TAG), Some("203.0.113.7")));
        assert!(said(&it, "cdn.example.com") && !said(&it, "-u"), "{:#?}", it.notes);
    }

    #[test]
    fn the_official_relay_of_web_proxies() {
        let (format, mut it) = read("relay.json");
        assert_eq!((format, it.people.len()), (Format::Webproxy, 0));
        assert_eq!(it.profile_files, [PathBuf::from("/run/credentials/tproxy-server.service/profiles.json")]);
        assert_eq!(it.domain.as_ref().unwrap().as_str(), "www.example.com");
        assert_eq!(it.content, Some(Content::Upstream("http://127.0.0.1:3000".into())));
        assert_eq!(it.add_profiles(&fixture("profiles.json")), Some(()));
        assert_eq!(names(&it), ["alice", "user"]);
        assert_eq!((it.people[0].secret.hex().as_str(), it.people[1].secret.hex().as_str()), (ALICE, BOB));
        assert_eq!(it.people[0].limits.max_sessions, Some(64));
        let web = it.web.as_ref().unwrap();
        assert_eq!((web.path.as_str(), web.carrier), ("dobry-cola-super-app", Some(Mode::WebsocketLanes)));
        for part in
            ["`broken`", "carrier https", "site.http_listen", "admin.listen", "limits", "max_streams_per_session"]
        {
            assert!(said(&it, part), "{part}: {:#?}", it.notes);
        }
        assert!(!said(&it, "timeouts") && !said(&it, "pprof"), "{:#?}", it.notes);
        // The profiles alone, too.
        let (format, alone) = read("profiles.json");
        assert_eq!((format, alone.people.len(), alone.domain), (Format::Webproxy, 2, None));
        assert_eq!(it.add_profiles("{}"), None);
    }

    #[test]
    fn a_command_line_without_tls_and_with_a_file_of_secrets() {
        let line = "mtproto-proxy -H 443 --mtproto-secret-file /etc/secrets.txt --aes-pwd a b -M 1 --http-stats";
        let (_, mut it) = import(line, None).unwrap();
        assert_eq!(it.secret_files, [PathBuf::from("/etc/secrets.txt")]);
        it.add_secrets(&format!("# those\n{ALICE}, {BOB} # both\n"));
        assert_eq!(names(&it), ["user1", "user2"]);
        assert!(said(&it, "`ee`") && it.domain.is_none(), "{:#?}", it.notes);
    }

    #[test]
    fn what_is_none_of_them_is_told() {
        for (text, format, error) in [
            ("hello", None, ImportError::Unknown),
            ("", None, ImportError::Unknown),
            ("a = 1", None, ImportError::Unknown),
            ("= 1", Some(Format::Mtg), ImportError::NotOfTheFormat(Format::Mtg)),
            ("bind-to = '0.0.0.0:1'", None, ImportError::NoSecret(Format::Mtg)),
            ("secret = 'nonsense'", None, ImportError::NoSecret(Format::Mtg)),
            ("USERS = {}", None, ImportError::Unknown),
            ("USERS = {}", Some(Format::Mtprotoproxy), ImportError::NoSecret(Format::Mtprotoproxy)),
            ("ls -l", Some(Format::Mtproxy), ImportError::NotOfTheFormat(Format::Mtproxy)),
        ] {
            let found = import(text, format).unwrap_err();
            // An empty Python dictionary is an empty TOML table too.
            assert!(found == error, "{text}: {found:?}");
            assert!(!found.fix().is_empty());
        }
    }

    #[test]
    fn no_note_tells_a_secret() {
        let text = format!("[access.users]\n{ALICE} = 'alice'\nalice = '{ALICE}'\n");
        let (_, it) = import(&text, None).unwrap();
        assert!(it.notes.len() == 1 && !it.notes[0].contains("0001"), "{:?}", it.notes);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*", format in proptest::sample::select(&FORMATS[..])) {
            let _ = import(&text, Some(format));
            let _ = import(&text, None);
        }

        #[test]
        fn a_spoilt_file_never_panics(name in proptest::sample::select(&FILES[..]), at in 0..2000_usize, put in "\\PC{0,3}") {
            let text = fixture(name);
            let at = text.floor_char_boundary(at.min(text.len()));
            let _ = import(&format!("{}{put}{}", &text[..at], &text[at..]), None);
            let _ = import(&text[..at], None);
        }
    }

    const FORMATS: [Format; 5] = [Format::Mtg, Format::Telemt, Format::Mtprotoproxy, Format::Mtproxy, Format::Webproxy];
    const FILES: [&str; 6] = ["mtg.toml", "telemt.toml", "config.py", "mtproxy.service", "relay.json", "profiles.json"];
}
