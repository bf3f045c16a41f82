//! One process takes over from another under load: no one is refused, no one is cut off, and no hello enters twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, PATIENCE, Session, authentic, whole_flight};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::vizard::{Setup, Vizard, output_in_time};
use crate::support::{KEY, OTHER_KEY};
use data_encoding::HEXLOWER;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use vizard::ops::control;
use vizard::ops::state_lock::{NotLocked, StateLock};

struct Running {
    proxy: Vizard,
    setup: Setup,
    dc: MockDc,
    state: TempDir,
}

impl Running {
    async fn start(more: &str) -> Self {
        let (dc, state) = (MockDc::start(Role::Echo).await, tempfile::tempdir().expect("a temporary folder"));
        let file = state.path().join("vizard.toml");
        std::fs::write(&file, more).expect("writes the configuration");
        let setup = Setup::new(state.path(), "site").usual(&KEY).dc(2, dc.addr).arg("--config", file.display());
        let setup = setup.arg("--listen", format!("unix:{}", socket(&state).display()));
        let proxy = start(&setup).await;
        Self { proxy, setup, dc, state }
    }

    fn addr(&self) -> SocketAddr {
        self.proxy.addr
    }

    /// Another process, once it has taken over.
    async fn successor(&self) -> Vizard {
        start(&self.setup.clone().flag("--take-over")).await
    }
}

/// Another listener.
fn socket(state: &TempDir) -> PathBuf {
    state.path().join("clients.sock")
}

async fn start(setup: &Setup) -> Vizard {
    let setup = setup.clone();
    tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts")
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

/// Clients that come one after the other, each with a session of one packet, until told to stop. None may fail.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(proxy: SocketAddr, abreast: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..abreast {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut session = login().enter(proxy).await.expect("no one is refused");
                    session.echo(b"here I am").await.expect("no one is cut off");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, done, clients }
    }

    /// Waits until so many more have come and gone.
    async fn more(&self, count: usize) {
        let (wanted, end) = (self.done.load(Ordering::Relaxed) + count, Instant::now() + PATIENCE);
        while self.done.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < end, "the load stands still");
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        self.done.load(Ordering::Relaxed)
    }
}

/// Whether the flight over this connection is one for the client.
async fn is_answered(login: &Login, mut stream: TcpStream) -> bool {
    stream.write_all(&login.wire).await.expect("writes");
    let mut bytes = Vec::new();
    while whole_flight(&bytes).is_none() {
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("a flight in time");
        assert_ne!(read.expect("a flight"), 0, "the flight is cut after {} bytes", bytes.len());
    }
    authentic(&bytes, &login.key, &login.random)
}

async fn lives(session: &mut Session) {
    session.echo(&[7; 900]).await.expect("the session lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_one_takes_over_from_the_other() {
    let running = Running::start("").await;
    let mut resident = login().enter(running.addr()).await.unwrap();
    lives(&mut resident).await;
    let load = Load::start(running.addr(), 8);
    load.more(50).await;
    let mut chain = Vec::new();
    for _ in 0..3 {
        let next = running.successor().await;
        assert_eq!(next.addr, running.addr());
        load.more(50).await;
        lives(&mut resident).await;
        chain.push(next);
    }
    let count = load.end().await;
    assert!(count >= 200, "{count} came");
    lives(&mut resident).await;
    assert!(running.proxy.is_running() && running.dc.seen().len() > 200);
    // Its last session was the only thing that kept the first one.
    drop(resident);
    assert!(running.proxy.ended().await.success());
    UnixStream::connect(socket(&running.state)).await.unwrap();
    chain.into_iter().for_each(|proxy| _ = proxy.terminate());
    assert!(!socket(&running.state).exists(), "anyone who had it last has removed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_was_spent_at_one_is_spent_at_the_other() {
    let running = Running::start("").await;
    let (before, held) = (login(), login());
    before.enter(running.addr()).await.unwrap().echo(b"first").await.unwrap();
    // Accepted by the old process, which hears its hello only after the other has taken over.
    let waiting = TcpStream::connect(running.addr()).await.unwrap();
    let mut resident = login().enter(running.addr()).await.unwrap();
    lives(&mut resident).await;
    let next = running.successor().await;
    assert!(before.enter(next.addr).await.is_err(), "spent at the old one");
    held.enter(next.addr).await.unwrap().echo(b"first").await.unwrap();
    assert!(!is_answered(&held, waiting).await, "spent at the new one, and shown to the old one");
    lives(&mut resident).await;
    assert!(running.proxy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_start_takes_nothing_over() {
    let running = Running::start("").await;
    let load = Load::start(running.addr(), 4);
    load.more(10).await;
    std::fs::write(running.state.path().join("vizard.toml"), "lisen = 5\n").unwrap();
    let setup = running.setup.clone().flag("--take-over");
    let output = tokio::task::spawn_blocking(move || setup.output()).await.unwrap();
    assert!(!output.status.success());
    // One that has the listeners already, and only then finds that something is wrong.
    let file = running.state.path().join("vizard.toml");
    std::fs::write(&file, "").unwrap();
    let replay = running.state.path().join("replay");
    std::fs::rename(&replay, replay.with_extension("kept")).unwrap();
    std::fs::write(&replay, "not a memory of hellos").unwrap();
    let setup = running.setup.clone().flag("--take-over");
    let output = tokio::task::spawn_blocking(move || setup.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("replay"), "{said}");
    load.more(10).await;
    UnixStream::connect(socket(&running.state)).await.unwrap();
    std::fs::rename(replay.with_extension("kept"), &replay).unwrap();
    let _next = running.successor().await;
    load.more(10).await;
    load.end().await;
    let none = tempfile::tempdir().unwrap();
    let setup = Setup::new(none.path(), "site").usual(&KEY).flag("--take-over");
    let output = tokio::task::spawn_blocking(move || setup.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("no proxy runs"), "{said}");
}

/// A command for the proxy with this state directory, and what it says until its outputs are closed.
async fn command(name: &str, state: &Path, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.arg(name).args(["--state-dir".as_ref(), state.as_os_str()]).args(arguments);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let begun = Instant::now();
    let output = tokio::task::spawn_blocking(move || output_in_time(command)).await.expect("no panic");
    assert!(begun.elapsed() < PATIENCE, "something holds on to its outputs");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_proxy_in_one_state_directory_is_refused() {
    let running = Running::start("").await;
    let setup = Setup::new(running.state.path(), "site").usual(&KEY).dc(2, running.dc.addr);
    let output = tokio::task::spawn_blocking(move || setup.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("(process {})", running.proxy.id())) && said.contains("vizard upgrade"), "{said}");
    // Commands that only read do not mind.
    let file = running.state.path().join("vizard.toml");
    let given = ["--config", file.to_str().unwrap(), "--domain", crate::support::origin::NAME, "--secret", SECRET];
    for name in ["check", "link", "reload"] {
        let output = command(name, running.state.path(), &given).await;
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let mut session = login().enter(running.addr()).await.unwrap();
    lives(&mut session).await;
    // A process that was killed has no lock.
    let (old, again) = (running.proxy, running.setup.clone());
    old.kill();
    start(&again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_moment_of_an_upgrade_without_the_lock() {
    let running = Running::start("").await;
    let (state, stop) = (running.state.path().to_owned(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let trying = std::thread::spawn(move || {
        let mut tries = 0;
        while !stopped.load(Ordering::Relaxed) {
            assert!(matches!(StateLock::take(&state), Err(NotLocked::Held(_))));
            tries += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        tries
    });
    let mut old = running.proxy;
    for _ in 0..3 {
        let next = start(&running.setup.clone().flag("--take-over")).await;
        assert!(old.ended().await.success());
        old = next;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(trying.join().unwrap() > 100);
    let held = StateLock::take(running.state.path()).unwrap_err();
    assert!(matches!(held, NotLocked::Held(Some(process)) if process == old.id()), "{held:?}");
    assert_eq!(old.terminate().code(), Some(0));
    StateLock::take(running.state.path()).unwrap();
}

/// What another process would say at the control socket.
struct Taker(BufReader<UnixStream>);

impl Taker {
    async fn start(state: &Path) -> Self {
        let mut stream = UnixStream::connect(state.join("control")).await.unwrap();
        stream.write_all(b"take-over\n").await.unwrap();
        let mut taker = Self(BufReader::new(stream));
        assert!(taker.hears().await.contains("listeners"));
        taker
    }

    async fn says(&mut self, word: &str) {
        self.0.get_mut().write_all(format!("\"{word}\"\n").as_bytes()).await.unwrap();
    }

    async fn hears(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("an answer in time").unwrap();
        line
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stalls_while_it_takes_over_keeps_nobody_out() {
    let running = Running::start("").await;
    let waits = async |stage: &str| {
        let begun = Instant::now();
        login().enter(running.addr()).await.unwrap().echo(b"in time").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{stage}: {:?}", begun.elapsed());
    };
    let mut taker = Taker::start(running.state.path()).await;
    waits("offered").await;
    taker.says("ready").await;
    assert_eq!(taker.hears().await, "\"yours\"\n");
    waits("books left").await;
    taker.says("prepared").await;
    assert_eq!(taker.hears().await, "\"go\"\n");
    waits("told to go").await;
    drop(taker);
    running.proxy.logged("failed; this one keeps running").await;
    waits("gone").await;
    let next = running.successor().await;
    waits("taken over").await;
    assert!(running.proxy.ended().await.success() && next.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_after_an_upgrade_does_not_hide_what_the_other_process_spends() {
    let users = |more: &str| format!("[[users]]\nname = \"alice\"\nsecret = \"{}\"\n{more}", HEXLOWER.encode(&KEY));
    let (dc, state) = (MockDc::start(Role::Echo).await, tempfile::tempdir().unwrap());
    let file = state.path().join("vizard.toml");
    std::fs::write(&file, users("")).unwrap();
    let setup = Setup::new(state.path(), "site").domain(crate::support::origin::NAME).dc(2, dc.addr);
    let setup = setup.arg("--config", file.display());
    let old = start(&setup).await;
    let (waiting, held) = (TcpStream::connect(old.addr).await.unwrap(), login());
    let mut resident = login().enter(old.addr).await.unwrap();
    lives(&mut resident).await;
    let next = start(&setup.clone().flag("--take-over")).await;
    assert!(is_answered(&held, waiting).await, "the old process does not know its user any more");
    let bob = format!("[[users]]\nname = \"bob\"\nsecret = \"{}\"\n", HEXLOWER.encode(&OTHER_KEY));
    std::fs::write(&file, users(&bob)).unwrap();
    next.hangup();
    next.logged("bob").await;
    assert!(!is_answered(&held, TcpStream::connect(next.addr).await.unwrap()).await, "spent at the old one");
    lives(&mut resident).await;
    assert!(old.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_are_spent_in_common_with_every_process_that_still_leaves() {
    let running = Running::start("").await;
    let [waiting, last] =
        [TcpStream::connect(running.addr()).await.unwrap(), TcpStream::connect(running.addr()).await.unwrap()];
    let [held, late] = [login(), login()];
    let mut resident = login().enter(running.addr()).await.unwrap();
    lives(&mut resident).await;
    let second = running.successor().await;
    let third = running.successor().await;
    assert!(second.ended().await.success(), "nothing keeps it");
    third.logged("the process before this one has ended").await;
    assert!(is_answered(&held, waiting).await, "the first process still serves who came to it");
    assert!(!is_answered(&held, TcpStream::connect(third.addr).await.unwrap()).await, "spent at the first one");
    // So does one that is started after the others were killed.
    third.kill();
    let fourth = start(&running.setup).await;
    assert!(is_answered(&late, last).await);
    assert!(!is_answered(&late, TcpStream::connect(fourth.addr).await.unwrap()).await, "spent at the first one");
    lives(&mut resident).await;
    assert!(running.proxy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_starts_the_other_one() {
    let running = Running::start("").await;
    let state = running.state.path().to_owned();
    let who = move || control::ask_who(&state).expect("someone runs");
    let old = who();
    assert_eq!(old.process, running.proxy.id());
    let dc = format!("2={}", running.dc.addr);
    let arguments = ["--cover", "site", "--domain", crate::support::origin::NAME, "--secret", SECRET, "--dc", &dc];
    let arguments = [&arguments[..], &["--listen", "127.0.0.1:0"]].concat();

    let output = command("upgrade", running.state.path(), &[&arguments[..], &["--or-reload"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(who(), old, "it is the same program");

    let load = Load::start(running.addr(), 4);
    load.more(10).await;
    // Anyone who reads what it says hears the end of it, though the new process goes on.
    let output = command("upgrade", running.state.path(), &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("has taken over"), "{output:?}");
    let new = who();
    let _orphan = Orphan(new.process);
    assert!(new.process != old.process && said.contains(&new.process.to_string()), "{said}");
    load.more(10).await;
    // It writes its log where the other one did.
    running.proxy.logged("the process before this one has ended").await;
    load.end().await;
    assert!(running.proxy.ended().await.success());
}

/// A process that is no one's child; it is ended with this value.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Some(process) = self.0.try_into().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

const SECRET: &str = "alice=00112233445566778899aabbccddeeff";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_in_the_old_process_counts_in_the_new_one() {
    let running = Running::start("[session]\nhandover = \"1h\"\n[admin]\n").await;
    let mut resident = login().enter(running.addr()).await.unwrap();
    resident.echo(&[1; 20_000]).await.unwrap();
    let next = running.successor().await;
    let state = running.state.path().to_owned();
    let moved = move || vizard::ops::usage::read(&state).ok().and_then(|usage| usage.get("alice").map(|one| one.up));
    let (before, end) = (moved(), Instant::now() + PATIENCE);
    resident.echo(&[1; 90_000]).await.unwrap();
    while moved() < before.map(|up| up + 90_000).or(Some(110_000)) {
        assert!(Instant::now() < end, "{:?} of {before:?}", moved());
        tokio::task::yield_now().await;
    }
    assert!(next.is_running());
}
