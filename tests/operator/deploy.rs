//! As a service: the units of docs/deploy, what the service manager hears, and what the sandbox keeps out.

use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::support::browser::curl;
use crate::support::origin::Origin;
use crate::support::vizard::Setup;
use crate::support::{KEY, installed};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;
use vizard::ops::sandbox::{self, Places, Wall};

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

#[test]
fn the_firewall_is_one_to_nftables() {
    const NFT: &str = "/usr/sbin/nft";
    if !installed(NFT) {
        return;
    }
    // The user need not be there to see whether the rules are.
    let rules = fs::read_to_string("docs/deploy/nftables.conf").unwrap().replace("\"vizard\"", "\"root\"");
    let folder = tempfile::tempdir().unwrap();
    let check = |rules: &str| {
        let file = folder.path().join("nftables.conf");
        fs::write(&file, rules).unwrap();
        // The kernel is asked too, of which a namespace is enough.
        Command::new("unshare").args(["--map-root-user", "--net", NFT, "-c", "-f"]).arg(&file).output().unwrap()
    };
    let output = check(&rules);
    if String::from_utf8_lossy(&output.stderr).starts_with("unshare") {
        assert!(std::env::var_os("CI").is_none(), "{output:?}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert!(!check(&rules.replace("policy drop", "policy maybe")).status.success());
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

type Attempt<'a> = Box<dyn Fn() -> io::Result<()> + 'a>;

/// Names the room that the child is shut into.
const ROOM: &str = "VIZARD_TEST_SANDBOX";

#[test]
fn what_the_sandbox_keeps_out_is_out_of_reach() {
    let room = tempfile::tempdir().unwrap();
    for folder in ["read", "write", "outside"] {
        fs::create_dir(room.path().join(folder)).unwrap();
        fs::write(room.path().join(folder).join("file"), "text").unwrap();
    }
    let name = SocketAddr::from_abstract_name(room.path().as_os_str().as_encoded_bytes()).unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    let this = std::env::current_exe().unwrap();
    let child = ["--exact", "deploy::child_in_the_sandbox", "--ignored", "--test-threads=1"];
    let output = Command::new(this).args(child).env(ROOM, room.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "a helper that another test starts"]
fn child_in_the_sandbox() {
    let Some(room) = std::env::var_os(ROOM).map(PathBuf::from) else { return };
    let at = |path: &str| room.join(path);
    let call = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(room.as_os_str().as_encoded_bytes())?);
    let run = || Command::new("/bin/true").status();
    let parent = rustix::process::getppid().unwrap();
    let forbidden: Vec<(&str, Attempt<'_>)> = vec![
        ("read a file outside", Box::new(|| fs::read(at("outside/file")).map(drop))),
        ("read it through a link", Box::new(|| fs::read(at("write/link")).map(drop))),
        ("list a folder outside", Box::new(|| fs::read_dir(at("outside")).map(drop))),
        ("write a file outside", Box::new(|| fs::write(at("outside/new"), "x"))),
        ("change a file that may be read", Box::new(|| fs::write(at("read/file"), "x"))),
        ("make a file beside it", Box::new(|| fs::write(at("read/new"), "x"))),
        ("move a file to the outside", Box::new(|| fs::rename(at("write/file"), at("outside/moved")))),
        ("run a program", Box::new(|| run().map(drop))),
        ("reach someone's abstract socket", Box::new(|| call().map(drop))),
        ("signal another process", Box::new(|| Ok(rustix::process::test_kill_process(parent)?))),
        ("change the root", Box::new(|| Ok(rustix::process::chroot("/")?))),
        ("look at another process", Box::new(|| Ok(pidfd_open(parent, PidfdFlags::empty()).map(drop)?))),
        ("make a file of memory alone", Box::new(|| Ok(memfd_create("x", MemfdFlags::empty()).map(drop)?))),
        ("listen to the wire", Box::new(|| Ok(socket(AddressFamily::PACKET, SocketType::DGRAM, None).map(drop)?))),
    ];
    symlink(at("outside/file"), at("write/link")).unwrap();
    for (what, attempt) in &forbidden {
        let root = rustix::process::geteuid().is_root();
        assert!(attempt().is_ok() || !root, "{what}: not even without a sandbox");
    }
    fs::write(at("write/file"), "text").unwrap();

    let places = Places { read: [at("read")].into(), write: [at("write")].into() };
    let walls = sandbox::enter(&places);
    assert!(matches!(walls.calls, Wall::Whole), "{walls:?}");
    if matches!(walls.files, Wall::Missing(_)) {
        assert!(std::env::var_os("CI").is_none(), "{walls:?}");
        return;
    }
    for (what, attempt) in &forbidden {
        let error = attempt().expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
    }

    fs::read(at("read/file")).unwrap();
    fs::write(at("write/new"), "x").unwrap();
    fs::hard_link(at("write/new"), at("write/newer")).unwrap();
    fs::rename(at("write/new"), at("write/newer")).unwrap();
    UnixListener::bind(at("write/socket")).unwrap();
    let listener = TcpListener::bind("localhost:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || TcpStream::connect(address).unwrap()).join().unwrap();
    assert!(fs::read_to_string("/proc/self/status").unwrap().contains("Threads"));
}

/// The built-in site with a file that leads out of its folder, and what a visitor gets of it.
async fn page_from_outside(config: &str) -> Option<(String, Vec<String>)> {
    let origin = Origin::make();
    let outside = tempfile::tempdir().expect("it works");
    fs::write(outside.path().join("secret"), "what no one shall see").expect("it works");
    symlink(outside.path().join("secret"), origin.folder().join("link.txt")).expect("it works");
    let state = tempfile::tempdir().expect("it works");
    let setup = Setup::site(state.path(), &origin).usual(&KEY);
    let file = origin.path().join("vizard.toml");
    let text = fs::read_to_string(&file).expect("it works") + config;
    fs::write(&file, text.replace("OUTSIDE", &outside.path().display().to_string())).expect("it works");
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("it works");
    let page = curl(&origin, proxy.addr, "/link.txt", &[]).await?;
    let threads = fs::read_dir(format!("/proc/{}/task", proxy.id())).expect("it works");
    let status = |thread: io::Result<fs::DirEntry>| {
        fs::read_to_string(thread.expect("it works").path().join("status")).expect("it works")
    };
    Some((page, threads.map(status).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_shuts_itself_in_unless_told_otherwise() {
    const SECRET: &str = "what no one shall see";
    let Some((page, threads)) = page_from_outside("").await else { return };
    assert!(!page.contains(SECRET), "{page}");
    assert!(threads.len() > 2);
    for status in threads {
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
    let (page, _) = page_from_outside("[sandbox]\nread = [\"OUTSIDE\"]\n").await.unwrap();
    assert_eq!(page, SECRET);
    let (page, threads) = page_from_outside("[sandbox]\nenabled = false\n").await.unwrap();
    assert_eq!(page, SECRET);
    assert!(threads.iter().all(|status| status.contains("\nSeccomp:\t0\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_new_takes_a_restart() {
    let (state, folder, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&folder, &outside] {
        fs::write(folder.path().join("list"), "192.0.2.1\n").unwrap();
    }
    let file = folder.path().join("vizard.toml");
    let write = |list: &Path| {
        let text = format!("listen = [\"127.0.0.1:0\"]\n[lists]\ndeny = [\"{}\"]\n", list.display());
        fs::write(&file, text).unwrap();
    };
    write(&folder.path().join("list"));
    let setup = Setup::file(state.path(), &file);
    let start = || {
        tokio::task::spawn_blocking({
            let setup = setup.clone();
            move || setup.start()
        })
    };
    let reload = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
        let output =
            command.arg("reload").arg("--state-dir").arg(state.path()).arg("--config").arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let proxy = start().await.unwrap();
    // Another file where everything is open is fine.
    fs::copy(folder.path().join("list"), folder.path().join("other")).unwrap();
    write(&folder.path().join("other"));
    assert_eq!(reload().0, Some(0));
    write(&outside.path().join("list"));
    let (code, said) = reload();
    assert!(code == Some(1) && said.contains("sandbox") && said.contains("restart the proxy"), "{said}");
    proxy.terminate();
    let _proxy = start().await.unwrap();
    assert_eq!(reload().0, Some(0));
}
