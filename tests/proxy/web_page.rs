//! The bridge page in a real browser, with each kind of app around it.

use std::path::Path;
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use serde_json::Value;

use crate::support::KEY;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::NAME;
use crate::support::vizard::{Vizard, output_in_time};
use crate::web::{PATH, folder, python, serving};

const CHROMIUM: &str = "/usr/bin/chromium";

/// Whether there is a browser, and a Python to play the app with.
fn equipped() -> bool {
    let browser = Path::new(CHROMIUM).exists();
    assert!(browser || std::env::var_os("CI").is_none(), "there is no {CHROMIUM}");
    browser && python().is_some()
}

/// What the harness reports after it has moved bytes through the page and back.
async fn play(proxy: &Vizard, role: &str, path: &str, more: &[&str]) -> Value {
    let mut command = Command::new(python().expect("it was asked for before"));
    command.arg(folder().join("harness.py")).args(["--role", role, "--host", NAME, "--path", path]);
    command.args(["--secret", &HEXLOWER.encode(&KEY), "--address", &proxy.addr.to_string()]);
    command.args(more).args(["--megabytes", "0.4", "--streams", "3"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(|| output_in_time(command)).await.expect("no panic");
    let [said, errors] = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{role} {path:?} {more:?}: {said}{errors}\n{:#?}", proxy.log());
    serde_json::from_str(&said).expect("a report")
}

/// Whether the page has carried frames by requests.
fn has_asked(report: &Value) -> bool {
    let network = report["network"].as_object().expect("requests of the page");
    network.keys().any(|request| request.contains("api/v1/up"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_app_and_every_carrier_move_bytes_through_the_page() {
    if !equipped() {
        return;
    }
    let dc = MockDc::start(Role::Mirror).await;
    for (carrier, role, path) in [
        ("websocket", "desktop", ""),
        ("websocket-lanes", "loopback", PATH),
        ("https", "android64", PATH),
        ("https-lanes", "android", ""),
    ] {
        let (proxy, _origin, _state) = serving(carrier, &dc);
        let report = play(&proxy, role, path, &[]).await;
        assert_eq!(has_asked(&report), carrier.starts_with("https"), "{carrier}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_over_where_sockets_do_not_open_or_are_lost() {
    if !equipped() {
        return;
    }
    let dc = MockDc::start(Role::Mirror).await;
    let (proxy, _origin, _state) = serving("websocket", &dc);
    for (sockets, asks) in [("refused", true), ("lost", false), ("lost-again", true)] {
        let report = play(&proxy, "ios", "", &["--sockets", sockets]).await;
        assert_eq!(has_asked(&report), asks, "{sockets}: {report}");
        let states = report["status"].as_array().expect("what the app was told");
        assert!(states.ends_with(&["connected".into()]), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_told_of_every_wait() {
    if !equipped() {
        return;
    }
    let dc = MockDc::start(Role::Mirror).await;
    let (proxy, _origin, _state) = serving("https", &dc);
    let report = play(&proxy, "desktop", "", &["--lost-requests", "2"]).await;
    let expected = ["connecting", "reconnecting", "reconnecting", "connected"];
    assert_eq!(report["status"], serde_json::json!(expected), "an app gives more time for each: {report}");
}
