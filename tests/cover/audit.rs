//! `vizard audit` as its operator runs it: against a sound proxy, against wrong ones, and what it hands out.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::network::with_network;
use crate::support::nginx::Nginx;
use crate::support::origin::{NAME, Origin, Sink};
use crate::support::relay::{Fault, Relay};
use crate::support::stage::{BOTH, Kind, Stage};
use crate::support::{KEY, OTHER_KEY, turn};
use data_encoding::HEXLOWER;
use serde_json::Value;
use tokio::task::JoinSet;

/// Exit code, standard output and standard error stream of an audit.
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// The audit of a proxy whose cover is the built-in site of `origin`, unless the arguments name another.
async fn audit(origin: &Origin, state: &Path, proxy: SocketAddr, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["audit", "--state-dir"]).arg(state);
    if !arguments.contains(&"--cover") {
        command.args(["--cover", "site", "--config"]).arg(origin.path().join("vizard.toml"));
    }
    command.args(["--domain", NAME, "--proxy", &proxy.to_string()]);
    command.args(["--secret", &format!("alice={}", HEXLOWER.encode(&KEY))]);
    command.args(["--secret", &format!("nobody={}", HEXLOWER.encode(&OTHER_KEY))]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// What the log says when the cover's own habits are known.
const KNOWN: &str = "the cover was visited";

async fn site() -> Stage {
    Stage::start(Kind::Site).await.expect("the site needs nothing installed")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_site_is_not_told_from_itself() {
    let _turn = turn().await;
    let stage = site().await;
    let page = stage.state.path().join("audit.html");
    let arguments = ["--fast", "--samples", "300", "--json", "-", "--html", page.to_str().unwrap()];
    let outcome = audit(&stage.origin, stage.state.path(), stage.proxy.addr, &arguments).await;
    let found = outcome.json();
    assert_eq!((outcome.code, &found["differences"]), (0, &Value::Array(Vec::new())), "{}", outcome.err);
    assert!(found["probes"].as_u64().unwrap() > 900, "{}", found["probes"]);
    assert_eq!(found["classes"].as_array().unwrap().len(), 19);
    let idle = found["classes"].as_array().unwrap().iter().find(|class| class["class"] == "idle").unwrap();
    assert_eq!((&idle["probes"], idle["not_looked_at"].as_array().unwrap().len()), (&Value::from(0), 4));
    assert!(outcome.err.contains("Not looked at: time and closing in part, "), "{}", outcome.err);
    let known: Vec<_> =
        found["known"].as_array().unwrap().iter().map(|known| known["probe"].as_str().unwrap()).collect();
    // Where a client would be left waiting behind the ServerHello, its flight is cut elsewhere.
    assert_eq!(
        (&found["admitted"], known),
        (&Value::from(true), vec!["segments for an admitted client with a hello of tdlib"])
    );
    assert_eq!(found["latency"][0]["series"][3]["millis"].as_array().unwrap().len(), 300);
    assert!(outcome.err.contains("from its cover"), "{}", outcome.err);
    let page = std::fs::read_to_string(page).unwrap();
    well_formed(&page);
    assert_eq!(page.matches("<svg").count(), 20);
    assert!(!(page + &outcome.out + &outcome.err).contains(&HEXLOWER.encode(&KEY)), "a secret was printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_told_from_the_cover() {
    let stage = site().await;
    let sink = Sink::start().await;
    let Some(nginx) = Nginx::start(&Origin::make(), sink.addr).await else { return };
    let page = stage.state.path().join("audit.html");
    let only = ["--only", "JARM", "--only", "HTTP GET", "--only", "flights to tdlib", "--only", "tdlib and text"];
    let arguments = [&["--fast", "--seed", "7", "--html", page.to_str().unwrap()][..], &only].concat();
    let outcome = audit(&stage.origin, stage.state.path(), nginx.addr, &arguments).await;
    assert_eq!(outcome.code, 1, "{}{}", outcome.out, outcome.err);
    assert!(outcome.out.contains("probes tell the proxy from its cover"), "{}", outcome.out);
    assert!(outcome.out.contains("is this the right proxy?"), "{}", outcome.out);
    let worst = outcome.out.find("by watching").unwrap();
    assert!(outcome.out.find("with one connection").is_none_or(|other| worst < other), "{}", outcome.out);
    let page = std::fs::read_to_string(page).unwrap();
    well_formed(&page);
    // What nginx says to plain HTTP is a page, and must not become part of this one.
    assert!(page.contains("&lt;title&gt;400") && !page.contains("<title>400"), "{page}");
    let again = outcome.out.lines().find_map(|line| line.trim().strip_prefix("again: vizard audit --only '")).unwrap();
    let (name, seed) = again.split_once("' --seed ").unwrap();
    let arguments = ["--fast", "--only", name, "--seed", seed, "--json", "-"];
    let outcome = audit(&stage.origin, stage.state.path(), nginx.addr, &arguments).await;
    assert_eq!((outcome.code, &outcome.json()["differences"][0]["probe"]), (1, &Value::from(name)));
    assert_eq!(outcome.json()["probes"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_relays_are_told_from_the_cover() {
    let _turn = turn().await;
    let stage = site().await;
    let table = [
        (Fault::RefusesStrangers, "HTTP GET then Silence"),
        (Fault::ForgetsSession, "class tdlib-1.8.69-1.bin by Nobody then Silence"),
        (Fault::CutsFlight, "class tdlib-1.8.69-1.bin by Nobody then Fin"),
        (Fault::ForgetsSession, "flights to tdesktop: shapes"),
    ];
    for (fault, probe) in table {
        let relay = Relay::start(stage.proxy.addr, fault).await.unwrap();
        let arguments = ["--fast", "--only", probe, "--json", "-"];
        let outcome = audit(&stage.origin, stage.state.path(), relay.addr, &arguments).await;
        assert_eq!(outcome.code, 1, "{fault:?} was not found by {probe}: {}", outcome.err);
        assert_eq!(outcome.json()["differences"][0]["probe"], probe);
    }
}

/// Whole conversations, by the packets: what comes in which pieces and when, what is answered too early, how it ends, and how
/// long a silence is borne.
const SCENES: [&str; 12] = [
    "--only",
    "segments for",
    "--only",
    "held back",
    "--only",
    "greeting of",
    "--only",
    "ends of",
    "--only",
    "silence of",
    "--idle",
    "5",
];

/// Differences that are still there, by a part of the name: docs/what-cannot-be-hidden.md tells it.
const OPEN: [&str; 3] = ["greeting of", "ends of sessions", "silence of an admitted client"];

#[test]
fn conversations_are_not_told_from_those_with_the_cover() {
    with_network("audit::conversations_are_not_told_from_those_with_the_cover", &[], || async {
        let covers = BOTH.map(async |kind| {
            let stage = Stage::start(kind).await?;
            stage.proxy.logged(KNOWN).await;
            Some((kind, scenes_of(kind, &stage, stage.proxy.addr, &SCENES).await.json()))
        });
        let [one, other] = covers;
        let (one, other) = tokio::join!(one, other);
        for (kind, found) in [one, other].into_iter().flatten() {
            for class in found["classes"].as_array().unwrap() {
                let by_packets = ["segments", "greeting"].contains(&class["class"].as_str().unwrap());
                assert!(!by_packets || class["means"] == serde_json::json!(["packets"]), "{class}");
                assert_eq!(class["not_looked_at"], serde_json::json!([]), "{kind:?} {class}");
            }
            let new = |found: &&Value| !OPEN.iter().any(|open| found["probe"].as_str().unwrap().contains(open));
            let new: Vec<_> = found["differences"].as_array().unwrap().iter().filter(new).collect();
            assert!(new.is_empty(), "{kind:?} {new:#?}");
        }
    });
}

#[test]
fn faulty_conversations_are_told_from_those_with_the_cover() {
    with_network("audit::faulty_conversations_are_told_from_those_with_the_cover", &[], || async {
        let stage = Arc::new(site().await);
        stage.proxy.logged(KNOWN).await;
        let mut running = JoinSet::new();
        for (fault, probe) in [
            (Fault::TwoWrites, "segments for a stranger with a hello of tdlib"),
            (Fault::SpeaksEarly, "tdlib and 75 bytes of the first record, the rest held back"),
            (Fault::SpeaksEarly, "tdlib and a later record, its last byte held back"),
            (Fault::Late, "greeting of tdlib"),
            (Fault::AddsAlert, "ends of sessions of tdlib: the client's FIN"),
            (Fault::Bored, "silence of a visitor after a page"),
            (Fault::Bored, "silence of an admitted client"),
        ] {
            let stage = Arc::clone(&stage);
            running.spawn(async move {
                let relay = Relay::start(stage.proxy.addr, fault).await.unwrap();
                let found = scenes_of(Kind::Site, &stage, relay.addr, &["--only", probe, "--idle", "5"]).await.json();
                assert_eq!(found["differences"][0]["probe"], probe, "{fault:?} was not found: {found:#}");
            });
        }
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
    });
}

async fn scenes_of(kind: Kind, stage: &Stage, proxy: SocketAddr, arguments: &[&str]) -> Outcome {
    let (fast, cover) = (["--fast", "--json", "-"], stage.cover.to_string());
    let cover = if kind == Kind::Site { vec![] } else { vec!["--cover", &cover] };
    audit(&stage.origin, stage.state.path(), proxy, &[&fast[..], &cover, arguments].concat()).await
}

/// The probes of the table are played to these covers in `camouflage`; here it is the measurements.
#[tokio::test(flavor = "multi_thread")]
async fn several_records_of_a_remote_cover_are_all_that_is_measured_and_a_known_matter() {
    let _turn = turn().await;
    for kind in [Kind::Nginx, Kind::Node, Kind::Boring] {
        let Some(stage) = Stage::start(kind).await else { continue };
        measure_remote(kind, &stage).await;
    }
}

async fn measure_remote(kind: Kind, stage: &Stage) {
    // Until then the number of records is guessed by a silence.
    stage.proxy.logged("the cover was visited").await;
    let cover = stage.cover.to_string();
    let only = ["--only", "flights to", "--only", "latency of", "--only", "by Us then Silence", "--json", "-"];
    let arguments = [&["--fast", "--samples", "300", "--cover", &cover][..], &only].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["audit", "--domain", NAME, "--proxy", &stage.proxy.addr.to_string(), "--state-dir"]);
    command.arg(stage.state.path()).args(["--secret", &format!("alice={}", HEXLOWER.encode(&KEY))]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &found["verdict"]), (Some(0), &Value::from("same")), "{kind:?} {found:#}");
    let known: Vec<_> =
        found["known"].as_array().unwrap().iter().map(|known| known["probe"].as_str().unwrap()).collect();
    let records = ["flights to tdesktop: number of encrypted records", "flights to tdlib: number of encrypted records"];
    assert_eq!(known, if kind.one_record() { &[][..] } else { &records }, "{kind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_says_so() {
    let stage = site().await;
    let run = async |proxy, arguments: &[&str]| {
        let outcome = audit(&stage.origin, stage.state.path(), proxy, arguments).await;
        assert_eq!(outcome.code, 2, "{arguments:?}: {}{}", outcome.out, outcome.err);
        assert!(outcome.err.contains("next: "), "{}", outcome.err);
        outcome.err
    };
    assert!(run(stage.proxy.addr, &["--only", "no such probe"]).await.contains("--list"));
    assert!(run(stage.proxy.addr, &["--user", "carol"]).await.contains("alice"));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(run(gone, &["--fast"]).await.contains("no one accepts"));
    let unknown = ["--fast", "--only", "flights to tdlib: shapes", "--user", "nobody"];
    assert!(run(stage.proxy.addr, &unknown).await.contains("the secret of nobody"));
}

#[tokio::test]
async fn every_probe_is_listed_by_name() {
    let home = tempfile::tempdir().unwrap();
    let list = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
        let output = command.args(["audit", "--list"]).args(arguments).env("HOME", home.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = list(&[]);
    assert!(all.len() > 940 && all.len() > list(&["--fast"]).len(), "{}", all.len());
    let classes = [
        "hello shapes",
        "JARM",
        "names",
        "not TLS",
        "random bytes and lengths",
        "malformed records",
        "replay, clock and mutation",
        "recorded pairs",
        "second flight",
        "held bytes",
        "time and closing",
        "segments",
        "greeting",
        "ends",
        "idle",
        "latency",
        "form against form",
        "bridge",
        "passive flight statistics",
    ];
    for class in classes {
        assert!(all.iter().any(|line| line.starts_with(&format!("{class} "))), "{class}");
    }
    assert_eq!(list(&["--only", "JARM"]).len(), 10);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "listing changes nothing");
}

/// Every element that begins also ends, in its order.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>").expect("a document");
    for tag in body.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a whole tag");
        assert!(!text.contains('>'), "unescaped in {text}");
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name)),
            (_, true) => {}
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    for foreign in ["<script", "http://", "https://", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}
