//! What visits to real covers teach.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::nginx::Nginx;
use crate::support::origin::{NAME, Origin, Sink};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use vizard::cover::Cover;
use vizard::cover::profile::Profile;
use vizard::cover::remote::{Remote, Settings};
use vizard::cover::scout::{Round, TooSoon};
use vizard::cover::site::{self, Content, Site};
use vizard::wire::numbers::group::X25519MLKEM768;

/// A site with a page that leads to something large.
fn origin() -> Origin {
    let origin = Origin::make();
    let page = "<!doctype html><p>Wind from the west.</p><a href=/nothing.html>x</a><img src=\"/wind.jpg\">";
    std::fs::write(origin.folder().join("index.html"), page).unwrap();
    std::fs::write(origin.folder().join("wind.jpg"), Dice::new(7).bytes(500_000)).unwrap();
    origin
}

async fn nginx(origin: &Origin) -> Option<(Nginx, Sink)> {
    let uploads = Sink::start().await;
    Some((Nginx::start(origin, uploads.addr).await?, uploads))
}

async fn remote(port: u16, state: Option<&Path>) -> Cover {
    let dialer = vizard::net::route::Dialer::default();
    let remote = Remote::new(Settings { host: "127.0.0.1".into(), port, dialer, ..Settings::default() });
    remote.resolve(&[]).await.unwrap();
    Cover::remote(remote, NAME.parse().unwrap(), state)
}

fn open_site(origin: &Origin) -> Arc<Site> {
    let content = Content::Folder(origin.folder());
    let settings = site::Settings::new(origin.certificate(), origin.key(), content);
    Arc::new(Site::open(&settings).unwrap())
}

fn built_in(origin: &Origin) -> Cover {
    Cover::site(open_site(origin), NAME.parse().unwrap(), None)
}

/// A round, although the last one was only a moment ago.
async fn look(cover: &Cover) -> Round {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    cover.look().await.unwrap()
}

const CLASSES: [&str; 4] = ["chrome", "chrome-hybrid", "padded-517", "safari-hybrid"];

fn classes(profile: &Profile) -> Vec<&str> {
    profile.flights.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_profile_of_an_nginx() {
    let origin = origin();
    let Some((nginx, _uploads)) = nginx(&origin).await else { return };
    let cover = remote(nginx.addr.port(), None).await;
    assert_eq!(cover.quick_scan().await.unwrap().records, 4);
    assert_eq!(cover.look().await, Ok(Round::default()));
    let profile = cover.profile();
    assert_eq!(classes(&profile), CLASSES);
    for (class, flight) in &profile.flights {
        assert_eq!((flight.version, flight.retry, flight.group), (0x0304, false, 29), "{class}");
        assert_eq!((flight.records.len(), flight.stable), (4, true), "{class}");
    }
    let visit = profile.visit.as_ref().unwrap();
    assert_eq!((visit.flight_records, &visit.before_finished[..]), (4, &[][..]));
    let [first, second, settings @ ..] = &visit.after_finished[..] else { panic!("{visit:?}") };
    assert!(first.abs_diff(*second) <= 16 && *first > 200, "two tickets: {visit:?}");
    assert!(!settings.is_empty(), "{visit:?}");
    assert_eq!(visit.bulk.iter().max(), Some(&16_401), "{visit:?}");
    assert_eq!(visit.close_alert, Some(19));
    assert_eq!(visit.ccs_limit, Some(32));
    assert_eq!(cover.look().await, Err(TooSoon));
}

#[tokio::test]
async fn the_profile_of_the_built_in_site() {
    let origin = origin();
    let cover = built_in(&origin);
    assert_eq!(cover.quick_scan().await.unwrap().records, 1);
    assert_eq!(cover.look().await, Ok(Round::default()));
    let profile = cover.profile();
    assert_eq!(classes(&profile), CLASSES);
    for (class, flight) in &profile.flights {
        let group = if class.ends_with("hybrid") { X25519MLKEM768 } else { 29 };
        assert_eq!((flight.version, flight.retry, flight.group), (0x0304, false, group), "{class}");
        assert_eq!((flight.records.len(), flight.stable), (1, true), "{class}");
    }
    let visit = profile.visit.as_ref().unwrap();
    assert_eq!((visit.flight_records, &visit.before_finished[..]), (1, &[][..]));
    assert!(!visit.after_finished.is_empty());
    assert!(!visit.bulk.is_empty());
    assert_eq!(visit.close_alert, Some(19));
    assert!(look(&cover).await.changes.is_empty());
    assert_eq!(cover.changes(), 0);
}

/// A port behind which the server can be changed, or taken away.
struct Switch {
    port: u16,
    behind: Arc<Mutex<Option<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Switch {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = Arc::new(Mutex::new(Some(server)));
        let chosen = Arc::clone(&behind);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(server) = *chosen.lock().unwrap() else { continue };
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { port, behind, task }
    }

    fn set(&self, server: Option<SocketAddr>) {
        *self.behind.lock().unwrap() = server;
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The built-in site on a port of its own.
async fn site_on_a_port(origin: &Origin) -> (SocketAddr, JoinHandle<()>) {
    let site = open_site(origin);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let site = Arc::clone(&site);
            tokio::spawn(async move { _ = site.serve(stream, Some(peer)).await });
        }
    });
    (addr, task)
}

#[tokio::test]
async fn a_profile_survives_a_cover_that_is_away_and_a_restart_and_changes_are_noticed() {
    let origin = origin();
    let Some((nginx, _uploads)) = nginx(&origin).await else { return };
    let (site, _task) = site_on_a_port(&origin).await;
    let state = tempfile::tempdir().unwrap();
    let switch = Switch::to(nginx.addr).await;
    let cover = remote(switch.port, Some(state.path())).await;
    cover.look().await.unwrap();
    let known = cover.profile();

    switch.set(None);
    let round = look(&cover).await;
    assert!(round.changes.is_empty() && !round.failures.is_empty(), "{round:?}");
    assert_eq!(cover.profile(), known);

    switch.set(Some(site));
    let cover = remote(switch.port, Some(state.path())).await;
    assert_eq!(cover.profile(), known);
    assert_eq!(cover.quick_scan().await.unwrap().records, 1);
    let round = cover.look().await.unwrap();
    assert!(round.changes.iter().any(|change| change == "records up to the Finished: 4, now 1"), "{round:?}");
    assert!(round.changes.iter().any(|change| change.starts_with("group for chrome-hybrid")), "{round:?}");
    assert_eq!(cover.changes(), 1);
    assert_eq!(remote(switch.port, Some(state.path())).await.profile(), cover.profile());

    let elsewhere = remote(nginx.addr.port(), Some(state.path())).await;
    assert_eq!(*elsewhere.profile(), Profile::default());
}
