//! Lists of addresses that are not judged, or alone are: from files and from the web, and by country.
//!
//! A list that cannot be fetched or read leaves the last good one in force. What came from the web is also kept on disk,
//! so that a restart without a network begins with it. Anyone who is barred is a visitor of the cover.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{error, fmt};

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use hyper::Uri;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::geo::{self, Geo};
use super::nets::Nets;
use crate::base::files::{self, Access};
use crate::net::https::{Bounds, Client};
use crate::server::limits::IpFilter;

/// Settings of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Lists of addresses that are barred.
    pub deny: Vec<Source>,
    /// Lists of addresses that are not barred, whatever the other lists and the countries say.
    pub allow: Vec<Source>,
    /// Whether everybody is barred who is not on a list of `allow`.
    pub allow_only: bool,
    /// Interval at which lists from the web are fetched, give or take a tenth.
    pub refresh: Duration,
    /// Countries.
    pub countries: Option<geo::Settings>,
}

/// Source of a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The web; a URL that the client in `net::https` takes.
    Web(String),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Source {
    /// Without the path of a URL, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Web(url) => {
                let uri = url.parse::<Uri>().unwrap_or_default();
                write!(f, "{}://{}/…", uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default())
            }
        }
    }
}

/// Longest list, and longest time that fetching one may take.
const BOUNDS: Bounds = Bounds { size: 32 << 20, time: Duration::from_secs(120) };

/// Soonest that a list is asked for again after a failure; doubled with each failure, up to the usual interval.
const RETRY: Duration = Duration::from_secs(60);

/// A file of the settings that cannot be used.
#[derive(Debug)]
pub struct Unusable {
    file: PathBuf,
    why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl error::Error for Unusable {}

/// All lists, always in force.
pub struct Lists {
    state: ArcSwap<State>,
    folder: PathBuf,
    client: Client,
    /// The settings are others.
    changed: Notify,
    /// Held while the state is replaced.
    writing: Mutex<()>,
}

/// Lists with what is in them.
#[derive(Default)]
pub struct State {
    settings: Settings,
    nets: BTreeMap<Source, Arc<Nets>>,
    geo: Option<Arc<Geo>>,
}

impl Lists {
    /// Lists that keep in `folder` what they fetch.
    pub fn new(state: State, folder: PathBuf, client: Client) -> Self {
        let (state, changed) = (ArcSwap::from_pointee(state), Notify::new());
        Self { state, folder, client, changed, writing: Mutex::default() }
    }

    /// Other lists from now on. Those that are fetched are fetched soon.
    pub fn replace(&self, state: State) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(Arc::new(state));
        self.changed.notify_one();
    }

    /// The folder of what was fetched.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches lists from the web time and again, for as long as this is polled.
    pub async fn keep(&self) {
        loop {
            let settings = self.state.load().settings.clone();
            let fetching = async {
                let mut failures = 0u32;
                loop {
                    failures = if self.fetch_all(&settings).await { 0 } else { failures.saturating_add(1) };
                    sleep(pause(settings.refresh, failures, rand::random())).await;
                }
            };
            let any = settings.web().next().is_some();
            tokio::select! {
                () = fetching, if any => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Fetches every list; says whether all went well.
    async fn fetch_all(&self, settings: &Settings) -> bool {
        let mut well = true;
        for url in settings.web() {
            let source = Source::Web(url.to_owned());
            match self.fetch(url).await {
                Ok(nets) => self.put(source, nets),
                Err(why) => {
                    warn!(list = %source, why, "a list could not be fetched; the last good one stays in use");
                    well = false;
                }
            }
        }
        well
    }

    async fn fetch(&self, url: &str) -> Result<Nets, String> {
        let uri = url.parse::<Uri>().map_err(|error| error.to_string())?;
        let body = self.client.get(&uri, BOUNDS).await.map_err(|error| error.to_string())?;
        let place = kept(&self.folder, url);
        let reading = tokio::task::spawn_blocking(move || {
            let nets = read(&body).map_err(|error| error.to_string())?;
            if nets.is_empty() {
                return Err("there is no address in it".to_owned());
            }
            if let Err(error) = keep(&place, &body) {
                warn!(%error, "a list could not be kept on disk");
            }
            Ok(nets)
        });
        reading.await.map_err(|panic| panic.to_string())?
    }

    fn put(&self, source: Source, nets: Nets) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        if state.nets.get(&source).is_some_and(|known| **known == nets) || !state.settings.names(&source) {
            return;
        }
        info!(list = %source, ranges = nets.len(), "a list was fetched");
        let mut all = state.nets.clone();
        all.insert(source, Arc::new(nets));
        self.state.store(Arc::new(State { settings: state.settings.clone(), nets: all, geo: state.geo.clone() }));
    }
}

impl IpFilter for Lists {
    fn bars(&self, address: IpAddr) -> Option<&'static str> {
        self.state.load().bars(address)
    }

    fn list(&self, address: IpAddr) -> Option<String> {
        self.state.load().list(address)
    }
}

impl State {
    /// Reads all files, and what was fetched before from `folder`. Blocks.
    pub fn load(settings: Settings, folder: &Path) -> Result<Self, Unusable> {
        let mut nets = BTreeMap::new();
        for source in settings.deny.iter().chain(&settings.allow) {
            let found = match source {
                Source::File(path) => Some(read_file(path)?),
                Source::Web(url) => read_file(&kept(folder, url)).ok(),
            };
            if let Some(found) = found {
                nets.insert(source.clone(), Arc::new(found));
            }
        }
        let geo = match &settings.countries {
            Some(countries) => Some(Arc::new(Geo::open(countries).map_err(|error| Unusable {
                file: countries.database.clone(),
                why: format!("this is no database of countries: {error}"),
            })?)),
            None => None,
        };
        Ok(Self { settings, nets, geo })
    }

    /// Returns the reason why an address is barred, if it is.
    pub fn bars(&self, address: IpAddr) -> Option<&'static str> {
        if self.lists_contain(&self.settings.allow, address) {
            return None;
        }
        match () {
            () if self.settings.allow_only => Some("not on an allow list"),
            () if self.lists_contain(&self.settings.deny, address) => Some("on a deny list"),
            () if self.geo.as_ref().is_some_and(|geo| geo.bars(address)) => Some("country"),
            () => None,
        }
    }

    /// The list that an address is barred by: the first that has it, or the database of countries; `None` where it is
    /// barred for being on none.
    pub fn list(&self, address: IpAddr) -> Option<String> {
        let has = |source: &&Source| self.nets.get(*source).is_some_and(|nets| nets.contains(address));
        match self.bars(address)? {
            "not on an allow list" => None,
            "country" => self.settings.countries.as_ref().map(|countries| countries.database.display().to_string()),
            _ => self.settings.deny.iter().find(has).map(ToString::to_string),
        }
    }

    /// Describes why an address is barred and by which list; `None` if it is not.
    pub fn told(&self, address: IpAddr) -> Option<String> {
        let by = self.bars(address)?;
        Some(self.list(address).map_or_else(|| by.to_owned(), |list| format!("{by}: {list}")))
    }

    fn lists_contain(&self, sources: &[Source], address: IpAddr) -> bool {
        sources.iter().any(|source| self.nets.get(source).is_some_and(|nets| nets.contains(address)))
    }
}

impl Settings {
    fn web(&self) -> impl Iterator<Item = &str> {
        self.deny.iter().chain(&self.allow).filter_map(|source| match source {
            Source::Web(url) => Some(url.as_str()),
            Source::File(_) => None,
        })
    }

    fn names(&self, source: &Source) -> bool {
        self.deny.contains(source) || self.allow.contains(source)
    }

    /// The files that these settings name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let lists = self.deny.iter().chain(&self.allow).filter_map(|source| match source {
            Source::File(path) => Some(path.as_path()),
            Source::Web(_) => None,
        });
        lists.chain(self.countries.as_ref().map(|countries| countries.database.as_path()))
    }
}

/// Until the lists are fetched again: `refresh`, a tenth more or less as `dice` falls; sooner after failures.
fn pause(refresh: Duration, failures: u32, dice: u16) -> Duration {
    let usual = match failures {
        0 => refresh,
        _ => refresh.min(RETRY.saturating_mul(1 << failures.min(10).saturating_sub(1))),
    };
    usual.mul_f64(0.9 + 0.2 * f64::from(dice) / f64::from(u16::MAX))
}

fn read_file(path: &Path) -> Result<Nets, Unusable> {
    let unusable = |why: String| Unusable { file: path.to_owned(), why };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, BOUNDS.size as u64 + 1), &mut bytes))
        .map_err(|error| unusable(format!("the list cannot be read: {error}")))?;
    if bytes.len() > BOUNDS.size {
        return Err(unusable("the list is too long".into()));
    }
    read(&bytes).map_err(|error| unusable(error.to_string()))
}

fn read(bytes: &[u8]) -> Result<Nets, super::nets::BadList> {
    Nets::read(&String::from_utf8_lossy(bytes)).map(|(nets, _)| nets)
}

/// The file for what is fetched from `url`.
fn kept(folder: &Path, url: &str) -> PathBuf {
    let name = HEXLOWER.encode(&Sha256::digest(url.as_bytes())[..16]);
    folder.join(name).with_extension("netset")
}

/// Writes the file whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    files::replace_file(path, bytes, Access::Private)
}

/// Returns the time at which a list was last fetched, if it ever was.
pub fn fetched(folder: &Path, url: &str) -> Option<SystemTime> {
    fs::metadata(kept(folder, url)).and_then(|found| found.modified()).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A server that gives each of these in turn, the last for ever.
    async fn server(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/list.netset", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for n in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut head).await.unwrap() > 0);
                }
                let answer = &answers[n.min(answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn the_last_good_list_stays_whatever_the_server_says_and_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("lists");
        let page = ok(&"<p>gone</p>\n".repeat(20));
        let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned();
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n198.51.100.1\n".to_owned();
        let url =
            server(vec![ok("# a netset\n192.0.2.0/24\n"), page, busy, ok(""), cut, ok("198.51.100.0/24\n")]).await;
        let settings =
            Settings { deny: vec![Source::Web(url.clone())], refresh: Duration::from_secs(1), ..Settings::default() };
        let lists = Lists::new(State::load(settings.clone(), &place).unwrap(), place.clone(), Client::default());
        assert_eq!(lists.bars(at("192.0.2.7")), None, "nothing is known yet");
        assert!(lists.fetch_all(&settings).await);
        assert_eq!(lists.bars(at("192.0.2.7")), Some("on a deny list"));
        for why in ["a page", "busy", "empty", "cut short"] {
            assert!(!lists.fetch_all(&settings).await, "{why}");
            assert_eq!(lists.bars(at("192.0.2.7")), Some("on a deny list"), "{why}");
            let again = State::load(settings.clone(), &place).unwrap();
            assert_eq!(again.bars(at("192.0.2.7")), Some("on a deny list"), "{why}");
        }
        assert!(fetched(&place, &url).is_some());
        assert!(lists.fetch_all(&settings).await);
        assert_eq!((lists.bars(at("192.0.2.7")), lists.bars(at("198.51.100.1"))), (None, Some("on a deny list")));
    }

    #[test]
    fn allow_goes_before_deny_and_may_be_all_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Source::File(path)
        };
        let mut settings = Settings {
            deny: vec![file("deny", "192.0.2.0/24\n")],
            allow: vec![file("allow", "192.0.2.9\n203.0.113.1\n")],
            ..Settings::default()
        };
        let state = State::load(settings.clone(), folder.path()).unwrap();
        assert_eq!(
            ["192.0.2.1", "192.0.2.9", "198.51.100.1"].map(|it| state.bars(at(it)).is_some()),
            [true, false, false]
        );
        settings.allow_only = true;
        let state = State::load(settings.clone(), folder.path()).unwrap();
        assert_eq!(
            ["192.0.2.1", "192.0.2.9", "198.51.100.1"].map(|it| state.bars(at(it)).is_some()),
            [true, false, true]
        );
        settings.deny.push(Source::File(folder.path().join("gone")));
        assert!(State::load(settings, folder.path()).is_err());
    }

    #[test]
    fn countries_come_last_and_a_bad_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("country.mmdb");
        let rule = geo::Rule::Deny(vec!["AA".parse().unwrap()]);
        let settings =
            Settings { countries: Some(geo::Settings { database: database.clone(), rule }), ..Settings::default() };
        fs::write(&database, "nothing of the kind").unwrap();
        assert!(State::load(settings.clone(), folder.path()).is_err());
        fs::write(&database, geo::tests::database(&[("192.0.2.0/24", "AA")])).unwrap();
        let state = State::load(settings, folder.path()).unwrap();
        assert_eq!((state.bars(at("192.0.2.1")), state.bars(at("192.0.3.1"))), (Some("country"), None));
    }

    #[test]
    fn failures_are_made_good_sooner_but_not_at_once() {
        let day = Duration::from_secs(86_400);
        assert_eq!(pause(day, 0, 0), day.mul_f64(0.9));
        assert!(pause(day, 1, u16::MAX) <= RETRY.mul_f64(1.2) && pause(day, 1, 0) >= RETRY.mul_f64(0.8));
        assert!(pause(day, u32::MAX, u16::MAX) <= day.mul_f64(1.11));
    }

    #[test]
    fn a_url_is_named_without_what_may_be_a_key() {
        assert_eq!(Source::Web("https://example.com/key/list".into()).to_string(), "https://example.com/…");
    }
}
