//! Another configuration for a running proxy: taken whole or not at all, and no session is lost over it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE, Session};
use crate::support::hello::{Key, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, OTHER_KEY};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vizard::ops::admin::client::Client;
use vizard::ops::admin::token::TokenHash;

/// A running proxy and its configuration file.
struct Running {
    proxy: Vizard,
    dc: MockDc,
    origin: Origin,
    state: TempDir,
}

const ALICE: (&str, Key) = ("alice", KEY);
const BOB: (&str, Key) = ("bob", OTHER_KEY);

impl Running {
    async fn start(users: &[(&str, Key)]) -> Self {
        Self::start_with("127.0.0.1:0", users, "").await
    }

    async fn start_with(listen: &str, users: &[(&str, Key)], more: &str) -> Self {
        let (dc, origin) = (MockDc::start(Role::Echo).await, Origin::make());
        let state = tempfile::tempdir().expect("a temporary folder");
        let file = origin.path().join("vizard.toml");
        std::fs::write(&file, text(&origin, &dc, listen, users, more)).expect("writes the configuration");
        let setup = Setup::file(state.path(), &file);
        let proxy = tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts");
        Self { proxy, dc, origin, state }
    }

    fn file(&self) -> PathBuf {
        self.origin.path().join("vizard.toml")
    }

    /// Writes the file as an editor does it, in one step.
    fn write(&self, listen: &str, users: &[(&str, Key)], more: &str) {
        self.write_text(&text(&self.origin, &self.dc, listen, users, more));
    }

    fn write_text(&self, text: &str) {
        let draft = self.state.path().join("draft");
        std::fs::write(&draft, text).expect("writes the configuration");
        std::fs::rename(&draft, self.file()).expect("replaces the configuration");
    }

    /// `vizard reload`
    async fn reload(&self) -> Output {
        reload(&self.file(), self.state.path()).await
    }

    async fn session(&self, key: Key, dice: u64) -> Session {
        login(key, dice).enter(self.proxy.addr).await.expect("a session")
    }
}

async fn reload(file: &Path, state: &Path) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.arg("reload").arg("--config").arg(file).arg("--state-dir").arg(state);
    tokio::task::spawn_blocking(move || command.output().expect("the program runs")).await.expect("no panic")
}

fn text(origin: &Origin, dc: &MockDc, listen: &str, users: &[(&str, Key)], more: &str) -> String {
    let path = |path: PathBuf| toml::Value::String(path.display().to_string());
    let (certificate, key, folder) = (path(origin.certificate()), path(origin.key()), path(origin.folder()));
    let users: String = users
        .iter()
        .map(|(name, key)| {
            format!("[[users]]\nname = \"{name}\"\nsecret = \"{}\"\n", data_encoding::HEXLOWER.encode(key))
        })
        .collect();
    format!(
        "domain = \"{NAME}\"\nlisten = [\"{listen}\"]\n{users}[site]\ncertificate = {certificate}\nkey = {key}\n\
         folder = {folder}\n[telegram.addresses]\n2 = [\"{}\"]\n{more}",
        dc.addr
    )
}

fn login(key: Key, dice: u64) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), key, &mut Dice::new(dice ^ u64::from(crate::support::hello::now())))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Echoes one packet after the other, whose bytes are compared, until told to stop; gives the session back.
async fn keep_busy(mut session: Session, mut stop: tokio::sync::watch::Receiver<bool>) -> (Session, usize) {
    let mut dice = Dice::new(5);
    let mut packets = 0;
    while !*stop.borrow_and_update() {
        session.echo(&dice.bytes(4000)).await.expect("the session lives");
        packets += 1;
    }
    (session, packets)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_lost_over_reloads_and_new_users_get_in() {
    let running = Running::start(&[ALICE]).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut busy = Vec::new();
    for dice in 0..8 {
        busy.push(tokio::spawn(keep_busy(running.session(KEY, dice).await, stopped.clone())));
    }
    assert!(login(OTHER_KEY, 20).enter(running.proxy.addr).await.is_err(), "bob is a stranger yet");
    for round in 0..5 {
        let more = format!("[session]\nidle = \"{}m\"\n", 40 + round);
        running.write("127.0.0.1:0", &[ALICE, BOB], &more);
        let output = running.reload().await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        // The file may have been noticed first.
        running.proxy.logged("session.idle").await;
        running.session(OTHER_KEY, 30 + round).await.echo(&[7; 40]).await.unwrap();
    }
    stop.send_replace(true);
    for task in busy {
        let (mut session, packets) = task.await.expect("the session was not lost");
        session.echo(&[1; 400]).await.unwrap();
        assert!(packets > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed() {
    let running = Running::start(&[ALICE]).await;
    running.write("127.0.0.1:0", &[ALICE, BOB], "");
    let line = running.proxy.logged("user bob added").await;
    assert!(line.contains("\"source\":\"file\""), "{line}");
    running.session(OTHER_KEY, 1).await.echo(&[7; 40]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signal_is_heard_and_the_level_of_the_log_changes() {
    let running = Running::start(&[ALICE]).await;
    assert!(!running.proxy.log().iter().any(|line| line.contains("DEBUG")));
    running.write("127.0.0.1:0", &[ALICE], "[log]\nlevel = \"debug\"\n");
    running.proxy.hangup();
    running.proxy.logged("log.level").await;
    running.session(KEY, 1).await;
    running.proxy.logged("\"level\":\"DEBUG\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why_without_the_secret() {
    let running = Running::start(&[ALICE]).await;
    let mut session = running.session(KEY, 1).await;
    let good = std::fs::read_to_string(running.file()).unwrap();
    let secret = data_encoding::HEXLOWER.encode(&OTHER_KEY);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = good.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let nowhere = running.origin.path().join("gone.pem");
    for (bad, why) in [
        (format!("lisen = 1\n{good}[hello]\ntime_window = \"never\"\n"), "lisen"),
        (format!("{good}[[users]]\nname = \"bob\"\nsecret = \"{secret}x\"\n"), "secret"),
        (elsewhere, "cannot listen"),
        (
            good.replace(&running.origin.certificate().display().to_string(), &nowhere.display().to_string()),
            "cannot be read",
        ),
        (good.replace("[site]", "[cover]\naddress = \"127.0.0.1:1\"\n[cover.x]"), "unknown key"),
    ] {
        running.write_text(&bad);
        let output = running.reload().await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(why), "{why}: {}", said(&output));
        assert!(!said(&output).contains(&secret));
        session.echo(&[1; 40]).await.unwrap();
        running.session(KEY, 2).await.echo(&[7; 40]).await.unwrap_or_else(|end| panic!("{why}: {end:?}"));
    }
    let refused = running.proxy.logged("rejected, and nothing has changed").await;
    assert!(refused.contains("lisen") && refused.contains("length of time"), "all complaints at once: {refused}");
    assert!(running.proxy.log().iter().all(|line| !line.contains(&secret)));
    running.write_text(&good);
    assert_eq!(running.reload().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_and_the_others_are_left_alone() {
    let running = Running::start(&[ALICE]).await;
    let mut old = running.session(KEY, 1).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let enter = async |at: SocketAddr, dice| login(KEY, dice).enter(at).await.unwrap().echo(&[7; 40]).await;

    running.write(&format!("127.0.0.1:0\", \"{free}"), &[ALICE], "");
    assert_eq!(running.reload().await.status.code(), Some(0));
    enter(running.proxy.addr, 2).await.unwrap();
    enter(free, 3).await.unwrap();

    running.write(&free.to_string(), &[ALICE], "");
    assert_eq!(running.reload().await.status.code(), Some(0));
    enter(free, 4).await.unwrap();
    old.echo(&[7; 40]).await.unwrap();
    let closed = async { while TcpStream::connect(running.proxy.addr).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("the first listener is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_makes_way_for_another_at_the_same_port() {
    let running = Running::start_with("[::]:0", &[ALICE], "").await;
    let port = running.proxy.addr.port();
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    let enter = async |dice| login(KEY, dice).enter(here).await.expect("a session");
    let mut old = enter(1).await;
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let beside = format!("{v6}\", \"{v4}");
    for (dice, listen) in [&v4, &v6, &beside, &v6, &v4].into_iter().enumerate() {
        running.write(listen, &[ALICE], "");
        let output = running.reload().await;
        assert_eq!(output.status.code(), Some(0), "{listen}: {}", said(&output));
        enter(2 + dice as u64).await.echo(&[7; 40]).await.unwrap_or_else(|end| panic!("{listen}: {end:?}"));
        old.echo(&[7; 40]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_made_way_in_vain_is_put_back() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let running = Running::start_with(&format!("127.0.0.2:{port}"), &[ALICE], "").await;
    let mut old = running.session(KEY, 1).await;
    // Both are in the way of this, and only one of them is ours.
    running.write(&format!("0.0.0.0:{port}"), &[ALICE], "");
    let output = running.reload().await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cannot listen"), "{}", said(&output));
    running.session(KEY, 2).await.echo(&[7; 40]).await.unwrap();
    old.echo(&[7; 40]).await.unwrap();
    drop(taken);
    assert_eq!(running.reload().await.status.code(), Some(0));
    running.session(KEY, 3).await.echo(&[7; 40]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_has_begun_is_not_cut_by_another_cover() {
    let running = Running::start(&[ALICE]).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = std::fs::read_to_string(running.file()).unwrap();
    let redirecting = good.replace("[site]", &format!("[site]\nredirect_from = [\"{free}\"]"));
    running.write_text(&redirecting);
    assert_eq!(running.reload().await.status.code(), Some(0));
    let mut browser = TcpStream::connect(free).await.unwrap();
    browser.write_all(b"GET /a HTTP/1.1\r\n").await.unwrap();
    for (text, shown) in [
        (redirecting.replace("[site]", "[site]\nserver_header = \"kite\""), "another cover"),
        (good.clone(), "no redirect any more"),
    ] {
        running.write_text(&text);
        let output = running.reload().await;
        assert_eq!(output.status.code(), Some(0), "{shown}: {}", said(&output));
    }
    browser.write_all(b"Host: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("Location: https://a.test/a\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_tells_of_the_cover_that_is_there_now() {
    let running = Running::start_with("127.0.0.1:0", &[ALICE], "[admin]\n").await;
    let elsewhere = Running::start(&[BOB]).await;
    let place = format!("unix:{}", running.state.path().join("admin").display());
    let admin = Client::at(&place, None, None).unwrap();
    let cover = async |of: &Client| {
        let status: Value = of.get("/api/v1/status").await.unwrap();
        ["kind", "name"].map(|key| status["cover"][key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(cover(&admin).await, ["site", NAME]);
    let text = std::fs::read_to_string(running.file()).unwrap();
    let (start, rest) = text.split_once("[site]").unwrap();
    let (_, end) = rest.split_once("[telegram").unwrap();
    let text = format!("{start}[cover]\naddress = \"{}\"\n[telegram{end}", elsewhere.proxy.addr);
    running.write_text(&text.replace(NAME, "other.example.org"));
    let output = running.reload().await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(cover(&admin).await, ["remote", "other.example.org"]);
    // That the remote cover is away is no fault of the proxy.
    elsewhere.proxy.kill();
    let health: Value = admin.get("/api/v1/health").await.unwrap();
    assert_eq!(health["serving"], true, "{health}");
    assert!(health["detail"].as_str().unwrap().contains("cover is unreachable"), "{health}");
}

/// A certificate for this machine, in files that the admin listener is to show.
fn own_certificate(certificate: &Path, key: &Path) -> String {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let made = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let made = made.self_signed(&pair).expect("a certificate");
    std::fs::write(key, pair.serialize_pem()).expect("writes the key");
    std::fs::write(certificate, made.pem()).expect("writes the certificate");
    made.pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_shows_a_new_certificate_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (certificate, key) = (path("admin.pem"), path("admin.key"));
    std::fs::write(path("first"), own_certificate(&certificate, &key)).unwrap();
    let (token, hash) = ("vizard_viewer_x", TokenHash::of("vizard_viewer_x"));
    let admin = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n[[admin.tokens]]\n\
         name = \"me\"\nrole = \"viewer\"\nhash = \"{hash}\"\n",
        certificate.display(),
        key.display()
    );
    let running = Running::start_with("127.0.0.1:0", &[ALICE], &admin).await;
    let line: Value = serde_json::from_str(&running.proxy.logged("\"admin listener\"").await).unwrap();
    let url = format!("https://{}", line["address"].as_str().unwrap());
    let trusting = async |name: &str| {
        let client = Client::at(&url, Some(&path(name)), Some(token.to_owned().into())).unwrap();
        let answered = client.get::<Value>("/api/v1/status").await;
        answered.inspect_err(|error| eprintln!("with the {name} certificate: {error}")).is_ok()
    };
    assert!(trusting("first").await);
    std::fs::write(path("second"), own_certificate(&certificate, &key)).unwrap();
    let output = running.reload().await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    running.proxy.logged("admin.certificate").await;
    assert!(trusting("second").await && !trusting("first").await);

    std::fs::write(&key, "nonsense").unwrap();
    let output = running.reload().await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cannot speak TLS"), "{}", said(&output));
    assert!(trusting("second").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_removed_users_end_as_the_cover_ends_them_and_others_go_on() {
    let running = Running::start(&[ALICE, BOB]).await;
    let (mut alice, mut bob) = (running.session(KEY, 1).await, running.session(OTHER_KEY, 2).await);
    alice.echo(&[7; 40]).await.unwrap();
    bob.echo(&[7; 40]).await.unwrap();
    running.write("127.0.0.1:0", &[BOB], "");
    assert_eq!(running.reload().await.status.code(), Some(0));
    let end = tokio::time::timeout(std::time::Duration::from_secs(5), alice.down.end()).await;
    assert_eq!(end, Ok(End::Fin));
    assert_eq!(alice.down.sizes.last(), Some(&19), "a close alert comes last");
    assert!(login(KEY, 3).enter(running.proxy.addr).await.is_err(), "alice is a stranger now");
    bob.echo(&[7; 40]).await.unwrap();
}

/// `vizard user …` on the file of the proxy.
async fn user(running: &Running, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.arg("user").args(arguments).arg("--config").arg(running.file());
    command.arg("--state-dir").arg(running.state.path());
    tokio::task::spawn_blocking(move || command.output().expect("the program runs")).await.expect("no panic")
}

/// Whatever else of the file cannot be taken: a mistake elsewhere, a listener, a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn users_hold_where_another_part_cannot_be_taken() {
    let running = Running::start(&[ALICE, BOB]).await;
    let good = std::fs::read_to_string(running.file()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for bad in [
        format!("lisen = 1\n{good}[hello]\ntime_window = \"never\"\n"),
        good.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string()),
        good.replace("certificate = ", "certificate = \"gone.pem\"#"),
        format!("{good}[[users]]\nname = \"carol\"\nsecret = \"x\"\nquota = 5\n"),
    ] {
        running.write_text(&bad);
        assert_eq!(running.reload().await.status.code(), Some(1));
        let mut session = running.session(OTHER_KEY, 1).await;
        session.echo(&[1; 40]).await.unwrap();
        let output = user(&running, &["disable", "bob"]).await;
        assert!(output.status.success() && said(&output).contains("warning: "), "{}", said(&output));
        let end = tokio::time::timeout(std::time::Duration::from_secs(5), session.down.end()).await;
        assert_eq!(end, Ok(End::Fin), "{bad}");
        assert!(login(OTHER_KEY, 2).enter(running.proxy.addr).await.is_err(), "{bad}");
        running.session(KEY, 3).await.echo(&[1; 40]).await.unwrap();
        let output = user(&running, &["enable", "bob"]).await;
        assert!(output.status.success(), "{}", said(&output));
        running.session(OTHER_KEY, 4).await.echo(&[1; 40]).await.unwrap();
    }
    let output = user(&running, &["remove", "bob"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(login(OTHER_KEY, 5).enter(running.proxy.addr).await.is_err());
    // What is not known to hold is no success.
    running.write_text("[[users]\n");
    let output = user(&running, &["disable", "alice"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lost_its_users_is_refused_unless_that_is_asked_for() {
    let carol = ("carol", [7; 16]);
    let running = Running::start(&[ALICE, BOB, carol]).await;
    let mut session = running.session(KEY, 1).await;
    let good = std::fs::read_to_string(running.file()).unwrap();
    let half = &good[..good.find("[[users]]\nname = \"bob\"").unwrap()];
    for (bad, why) in [("", "sets nothing"), ("# nothing\n", "sets nothing"), (half, "2 of 3 users")] {
        running.write_text(bad);
        let output = running.reload().await;
        assert!(output.status.code() == Some(1) && said(&output).contains("--allow-removals"), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
        session.echo(&[1; 40]).await.unwrap();
        running.session(OTHER_KEY, 2).await.echo(&[7; 40]).await.unwrap();
    }
    running.proxy.logged("\"alarm\":\"configuration refused\"").await;
    // One at a time they may go, the last by name.
    running.write_text(&good);
    assert_eq!(running.reload().await.status.code(), Some(0));
    for name in ["carol", "bob", "alice"] {
        let output = user(&running, &["remove", name]).await;
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    assert!(login(KEY, 4).enter(running.proxy.addr).await.is_err(), "no one enters");
    running.write_text(&good);
    assert_eq!(running.reload().await.status.code(), Some(0));
    running.session(KEY, 5).await.echo(&[7; 40]).await.unwrap();
    running.write("127.0.0.1:0", &[ALICE], "");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["reload", "--allow-removals", "--config"]).arg(running.file());
    command.arg("--state-dir").arg(running.state.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(login(OTHER_KEY, 6).enter(running.proxy.addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_file_is_written_waits_until_it_is_whole() {
    let running = Running::start(&[ALICE]).await;
    let mut session = running.session(KEY, 1).await;
    let good = std::fs::read_to_string(running.file()).unwrap();
    std::fs::write(running.file(), "").unwrap();
    running.proxy.hangup();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::write(running.file(), good + "[session]\nidle = \"50m\"\n").unwrap();
    let line = running.proxy.logged("session.idle").await;
    assert!(line.contains("\"source\":\"signal\""), "{line}");
    session.echo(&[1; 40]).await.unwrap();
    assert!(running.proxy.log().iter().all(|line| !line.contains("rejected, and nothing has changed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_was_spent_is_spent_for_a_user_who_comes_back() {
    let running = Running::start(&[ALICE, BOB]).await;
    let recorded = login(OTHER_KEY, 2);
    recorded.enter(running.proxy.addr).await.unwrap().echo(&[7; 40]).await.unwrap();
    for users in [&[ALICE][..], &[ALICE, BOB]] {
        running.write("127.0.0.1:0", users, "");
        assert_eq!(running.reload().await.status.code(), Some(0));
    }
    assert!(recorded.enter(running.proxy.addr).await.is_err());
    running.session(OTHER_KEY, 3).await.echo(&[7; 40]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_restart_is_said_and_flags_go_before_the_file() {
    let running = Running::start(&[ALICE]).await;
    let other = running.state.path().join("other");
    let good = std::fs::read_to_string(running.file()).unwrap();
    // It was started with flags for the state directory and the log.
    let file = format!("state_dir = \"{}\"\n{good}[log]\nformat = \"text\"\n", other.display());
    running.write_text(&(file + "[audit_log]\nfile = \"audit.log\"\n[session]\nidle = \"50m\"\n"));
    let output = running.reload().await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("needs a restart: audit_log\n"), "{}", said(&output));
    assert!(!other.exists() && !running.origin.path().join("audit.log").exists());
    running.proxy.logged("session.idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_ask_has_its_own_exit_code() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("vizard.toml");
    std::fs::write(&file, "nonsense").unwrap();
    let output = reload(&file, state.path()).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_at_once() {
    let running = Running::start(&[ALICE]).await;
    let other = Origin::make();
    for (from, to) in [(other.certificate(), running.origin.certificate()), (other.key(), running.origin.key())] {
        let draft = running.state.path().join("draft");
        std::fs::copy(from, &draft).unwrap();
        std::fs::rename(draft, to).unwrap();
    }
    assert_eq!(running.reload().await.status.code(), Some(0));
    let lines = running.proxy.log();
    assert!(lines.iter().any(|line| line.contains("certificate")), "{lines:#?}");
    running.session(KEY, 3).await.echo(&[7; 40]).await.unwrap();
}
