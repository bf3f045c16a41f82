//! Fetches Telegram's lists now and then, and keeps the last good ones on disk.
//!
//! A list that cannot be fetched or understood leaves the last good one in force, each of the three by itself. Nothing is
//! fetched before someone needs it, and not in the first minute: a machine that has just started looks like any other.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::header::DATE;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{BadList, Clusters, LONGEST, Lists, ProxySecret, Version};
use crate::base::files::{self, Access};
use crate::base::told::Uptime;
use crate::net::https::{Bounds, Client};
use crate::telegram::upstream::{Need, Upstream};

/// Interval at which the lists are fetched, a tenth more or less.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Soonest that they are fetched again after a failure; doubled with each failure, up to [`EVERY`].
const RETRY: Duration = Duration::from_secs(60);

/// The first fetch is so long after the start, or up to two of these later.
const FIRST: Duration = Duration::from_secs(60);

const BOUNDS: Bounds = Bounds { size: LONGEST, time: Duration::from_secs(30) };

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Secret,
    Config(Version),
}

const ALL: [What; 3] = [What::Secret, What::Config(Version::V4), What::Config(Version::V6)];

/// Looks after the lists of an [`Upstream`].
pub struct Keeper {
    upstream: Upstream,
    folder: PathBuf,
    client: Client,
}

impl Keeper {
    /// A keeper that keeps in `folder` what it fetches. What is there already holds at once. Blocks.
    pub fn open(folder: PathBuf, upstream: Upstream) -> Self {
        upstream.publish(stored(&folder));
        let way = upstream.clone();
        let client = Client::default().reaching(move |addresses| {
            let way = way.clone();
            Box::pin(async move { way.fetch(&addresses).await })
        });
        Self { upstream, folder, client }
    }

    /// Fetches lists time and again, for as long as this is polled.
    pub async fn keep(&self) {
        let mut due = Instant::now() + FIRST + FIRST.mul_f64(2.0 * rand::random::<f64>());
        let mut failures = 0;
        loop {
            let changed = self.upstream.needs_changed();
            let need = if self.upstream.settings().refresh { self.upstream.need() } else { Need::Nothing };
            let hurry = failures == 0 && self.upstream.lists().borrow().secret.is_none();
            let Some(when) = next(need, hurry, due) else {
                changed.await;
                continue;
            };
            tokio::select! {
                () = sleep_until(when) => {}
                () = changed => continue,
            }
            failures = if self.fetch_all().await { 0 } else { failures + 1 };
            due = Instant::now() + pause(failures, rand::random());
        }
    }

    /// Fetches all three; says whether all went well.
    async fn fetch_all(&self) -> bool {
        let base = self.upstream.settings().lists.clone();
        let mut lists = Lists::clone(&self.upstream.lists().borrow());
        let mut well = true;
        for what in ALL {
            match self.fetch(&base, what).await {
                Ok(body) => match what.read(&body, &mut lists) {
                    Ok(()) => self.store(what, body).await,
                    Err(why) => well = refused(what, &why),
                },
                Err(why) => well = refused(what, &why),
            }
        }
        if self.upstream.publish(lists) {
            info!("Telegram's lists of middle proxies have changed");
        }
        well
    }

    async fn fetch(&self, base: &str, what: What) -> Result<Vec<u8>, String> {
        let url: Uri = format!("{}/{}", base.trim_end_matches('/'), what.name()).parse().map_err(|_| "no URL")?;
        let answer = self.client.fetch(&url, BOUNDS).await.map_err(|error| error.to_string())?;
        if let Some(date) = answer.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            self.upstream.told_time().hear(date, Uptime::now());
        }
        Ok(answer.into_body().to_vec())
    }

    async fn store(&self, what: What, body: Vec<u8>) {
        let path = self.folder.join(what.file());
        let storing = tokio::task::spawn_blocking(move || store(&path, &body));
        if let Err(error) = storing.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            warn!(%error, list = what.name(), "a list of Telegram's could not be kept on disk");
        }
    }
}

/// Tells the operator. `false`, for all did not go well.
fn refused(what: What, why: &dyn std::fmt::Display) -> bool {
    warn!(list = what.name(), %why, "a list of Telegram's could not be fetched; the last good one stays in use");
    false
}

impl What {
    /// The last part of the URL.
    fn name(self) -> &'static str {
        match self {
            Self::Secret => "getProxySecret",
            Self::Config(Version::V4) => "getProxyConfig",
            Self::Config(Version::V6) => "getProxyConfigV6",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Secret => "proxy-secret",
            Self::Config(Version::V4) => "proxy-config",
            Self::Config(Version::V6) => "proxy-config-v6",
        }
    }

    /// Puts it in its place among `lists`, if it is good.
    fn read(self, body: &[u8], lists: &mut Lists) -> Result<(), BadList> {
        match self {
            Self::Secret => lists.secret = Some(ProxySecret::new(body)?),
            Self::Config(Version::V4) => lists.v4 = Clusters::parse(body, Version::V4)?,
            Self::Config(Version::V6) => lists.v6 = Clusters::parse(body, Version::V6)?,
        }
        Ok(())
    }
}

/// Returns the time of the next fetch, if there is to be one. The planned time is overruled by a need that nothing on
/// disk meets.
fn next(need: Need, hurry: bool, due: Instant) -> Option<Instant> {
    match need {
        Need::Nothing => None,
        Need::Soon if hurry => Some(due.min(Instant::now())),
        Need::Sometime | Need::Soon => Some(due),
    }
}

/// Until the lists are fetched again, as `dice` falls.
fn pause(failures: u32, dice: u16) -> Duration {
    let usual = match failures {
        0 => EVERY,
        _ => EVERY.min(RETRY.saturating_mul(1 << failures.min(10).saturating_sub(1))),
    };
    usual.mul_f64(0.9 + 0.2 * f64::from(dice) / f64::from(u16::MAX))
}

/// Reads the lists that were kept in this folder and are valid. Blocks.
pub fn stored(folder: &Path) -> Lists {
    let mut lists = Lists::default();
    for what in ALL {
        let path = folder.join(what.file());
        match files::read_file(&path, LONGEST as u64 + 1) {
            Ok(body) => {
                if let Err(error) = what.read(&body, &mut lists) {
                    warn!(path = %path.display(), %error, "what was kept of Telegram's lists cannot be used");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(path = %path.display(), %error, "what was kept of Telegram's lists cannot be read"),
        }
    }
    lists
}

/// Writes the file whole or not at all, for its owner only.
fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    files::replace_file(path, bytes, Access::Private)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::net::resolve::Resolver;
    use crate::net::route::{self, Dialer, LocalEnd};
    use crate::telegram::routes::{Route, Way};
    use crate::telegram::{DcId, Settings};

    const CONFIG: &str = "default 2;\nproxy_for 2 192.0.2.2:8888;\nproxy_for 203 192.0.2.203:443;\n";
    const CONFIG_V6: &str = "proxy_for 2 [2001:db8::2]:8888;\n";

    /// A web server on this machine with these three bodies; a missing one is answered with 503.
    struct Web {
        base: String,
        bodies: Arc<Mutex<[Option<Vec<u8>>; 3]>>,
        asked: Arc<Mutex<Vec<String>>>,
        _serving: AbortOnDropHandle<()>,
    }

    impl Web {
        async fn start(bodies: [Option<Vec<u8>>; 3]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (bodies, asked) = (Arc::new(Mutex::new(bodies)), Arc::<Mutex<Vec<String>>>::default());
            let (given, heard) = (Arc::clone(&bodies), Arc::clone(&asked));
            let serving = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
                    }
                    let line = String::from_utf8(head).unwrap().split("\r\n").next().unwrap().to_owned();
                    let which = ALL.iter().position(|what| line == format!("GET /{} HTTP/1.1", what.name())).unwrap();
                    heard.lock().unwrap().push(line);
                    let body = given.lock().unwrap()[which].clone();
                    let status = if body.is_some() { "200 OK" } else { "503 Busy" };
                    let body = body.unwrap_or_default();
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                }
            });
            Self { base, bodies, asked, _serving: AbortOnDropHandle::new(serving) }
        }

        fn settings(&self) -> Settings {
            Settings { lists: self.base.clone(), ..Settings::default() }
        }

        fn set(&self, which: usize, body: Option<&[u8]>) {
            self.bodies.lock().unwrap()[which] = body.map(<[u8]>::to_vec);
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    fn all() -> [Option<Vec<u8>>; 3] {
        [Some(vec![0xab; 128]), Some(CONFIG.into()), Some(CONFIG_V6.into())]
    }

    fn now(upstream: &Upstream) -> Lists {
        Lists::clone(&upstream.lists().borrow())
    }

    #[tokio::test]
    async fn the_last_good_list_stays_each_by_itself_and_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("telegram");
        let web = Web::start(all()).await;
        let upstream = Upstream::new(web.settings());
        let keeper = Keeper::open(place.clone(), upstream.clone());
        assert_eq!(now(&upstream), Lists::default());
        let mut news = upstream.lists();
        assert!(keeper.fetch_all().await);
        assert!(news.has_changed().unwrap());
        let first = Lists::clone(&news.borrow_and_update());
        assert_eq!(first.secret.as_ref().unwrap().bytes(), [0xab; 128]);
        assert_eq!(first.cluster(DcId::new(2)).len(), 2);

        web.set(0, Some(b"<html>none</html>                           "));
        web.set(1, None);
        web.set(2, Some(b"proxy_for 2 [2001:db8::3]:8888;"));
        assert!(!keeper.fetch_all().await);
        let second = now(&upstream);
        assert_eq!((&second.secret, &second.v4), (&first.secret, &first.v4));
        assert_eq!(second.v6.of(DcId::new(2)), ["[2001:db8::3]:8888".parse().unwrap()]);

        let again = Upstream::new(web.settings());
        Keeper::open(place.clone(), again.clone());
        assert_eq!(now(&again), second);
        for what in ALL {
            let mode = fs::metadata(place.join(what.file())).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{what:?}");
        }
        fs::write(place.join("proxy-config"), "proxy_for 2 192.0").unwrap();
        let spoilt = Upstream::new(web.settings());
        Keeper::open(place, spoilt.clone());
        assert_eq!(now(&spoilt), Lists { v4: Clusters::default(), ..second });
    }

    #[tokio::test]
    async fn nothing_is_fetched_unless_it_is_needed_and_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let web = Web::start(all()).await;
        let upstream = Upstream::new(Settings { refresh: false, ..web.settings() });
        let keeper = Keeper::open(folder.path().into(), upstream.clone());
        let keeping = AbortOnDropHandle::new(tokio::spawn(async move { keeper.keep().await }));
        upstream.want_lists(Need::Soon);
        tokio::task::yield_now().await;
        assert_eq!(web.asked(), 0);
        let mut news = upstream.lists();
        upstream.replace(web.settings());
        tokio::time::timeout(Duration::from_secs(10), news.changed()).await.unwrap().unwrap();
        assert_eq!(web.asked(), 3);
        drop(keeping);
    }

    #[tokio::test]
    async fn lists_come_over_the_routes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let leave = LocalEnd { source: Some([127, 0, 0, 9].into()), ..LocalEnd::default() };
        let dialer = Dialer::new(route::Route { leave, ..route::Route::default() }, Resolver::default());
        let routes = vec![Route { way: Way::Straight(dialer), ..Route::default() }];
        let upstream = Upstream::new(Settings { routes, ..Settings::default() });
        let keeper = Keeper::open(PathBuf::new(), upstream);
        let fetching = keeper.fetch(&base, What::Secret);
        let (_, accepted) = tokio::join!(fetching, async {
            let (stream, peer) = listener.accept().await.unwrap();
            drop(stream);
            peer
        });
        assert_eq!(accepted.ip().to_string(), "127.0.0.9");
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_wait_waits_for_the_first_fetch() {
        let due = Instant::now() + FIRST;
        assert_eq!(next(Need::Nothing, true, due), None);
        assert_eq!(next(Need::Sometime, true, due), Some(due));
        assert_eq!(next(Need::Soon, false, due), Some(due), "there are older lists");
        assert_eq!(next(Need::Soon, true, due), Some(Instant::now()));
    }

    #[test]
    fn failures_are_made_good_sooner_but_not_at_once() {
        assert_eq!(pause(0, 0), EVERY.mul_f64(0.9));
        assert!(pause(0, u16::MAX) <= EVERY.mul_f64(1.11));
        assert!(pause(1, u16::MAX) <= RETRY.mul_f64(1.2) && pause(1, 0) >= RETRY.mul_f64(0.8));
        assert!(pause(u32::MAX, u16::MAX) <= EVERY.mul_f64(1.11));
    }
}
