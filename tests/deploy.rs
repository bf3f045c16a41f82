//! As a service: the units of docs/deploy, and what the service manager hears.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::vizard::Setup;
use support::{KEY, installed};
use tempfile::TempDir;

const ANALYZE: &str = "/usr/bin/systemd-analyze";
const PATIENCE: Duration = Duration::from_secs(30);

/// The units with the program of these tests, in a folder of their own.
fn units() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["vizard.service", "vizard.socket"] {
        let text = fs::read_to_string(Path::new("docs/deploy").join(name)).expect("a unit");
        let text = text.replace("/usr/bin/vizard", env!("CARGO_BIN_EXE_vizard"));
        fs::write(folder.path().join(name), text).expect("writes the unit");
    }
    folder
}

fn analyze(units: &TempDir, arguments: &[&str]) -> Output {
    Command::new(ANALYZE).args(arguments).current_dir(units.path()).output().expect("it runs")
}

#[test]
fn systemd_understands_the_units() {
    if !installed(ANALYZE) {
        return;
    }
    let units = units();
    let verify = || analyze(&units, &["verify", "--man=no", "./vizard.service", "./vizard.socket"]);
    let output = verify();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let service = units.path().join("vizard.service");
    let text = fs::read_to_string(&service).unwrap().replace("WatchdogSec", "WatchdogSecs");
    fs::write(&service, text).unwrap();
    assert!(!verify().stderr.is_empty(), "a slip is not seen");
}

#[test]
fn the_service_is_shut_in_as_tightly_as_promised() {
    if !installed(ANALYZE) {
        return;
    }
    let units = units();
    let exposure = |most: &str| analyze(&units, &["security", "--offline=true", most, "vizard.service"]);
    let output = exposure("--threshold=20");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!exposure("--threshold=1").status.success(), "any exposure would do");
}

/// What the program tells the service manager.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time limit");
        Self { socket, folder, heard: Vec::new() }
    }

    fn setup(&self, setup: Setup) -> Setup {
        setup.set("NOTIFY_SOCKET", self.folder.path().join("notify"))
    }

    /// The next message with this line in it.
    fn hears(&mut self, line: &str) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut message = [0; 4096];
        while Instant::now() < end {
            let Ok(length) = self.socket.recv(&mut message) else { continue };
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            self.heard.extend(lines.iter().cloned());
            if lines.iter().any(|one| one == line) {
                return lines;
            }
        }
        panic!("{line} never came; what came: {:#?}", self.heard);
    }
}

#[test]
fn the_service_manager_hears_what_the_proxy_does() {
    let state = tempfile::tempdir().unwrap();
    let mut manager = Manager::new();
    let setup = Setup::new(state.path(), "site").usual(&KEY).set("WATCHDOG_USEC", "400000");
    let proxy = manager.setup(setup).start();
    manager.hears("READY=1");
    for _ in 0..3 {
        let alive = manager.hears("WATCHDOG=1");
        assert!(alive.iter().any(|line| line == "STATUS=0 connections, 0 sessions"), "{alive:?}");
    }
    proxy.hangup();
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    manager.hears("READY=1");
    assert!(proxy.terminate().success());
    let stopping = manager.hears("STOPPING=1");
    assert!(stopping.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=20000000"), "{stopping:?}");
}
