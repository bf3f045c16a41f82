//! The doctor at the bedside of real parts: a running proxy, covers of each kind, data centres that answer or do not.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::command::vizard;
use crate::support::mock_dc::{MockDc, Role, refusing};
use crate::support::nginx::Nginx;
use crate::support::obfuscated::{Frame, Frames, Header, framed};
use crate::support::origin::{Origin, Sink};
use crate::support::vizard::{Setup, Vizard};
use crate::support::{KEY, OTHER_KEY, hello};
use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A name that leads to this machine wherever the tests run.
const NAME: &str = "localhost";

const CENTRES: [i16; 6] = [1, 2, 3, 4, 5, 203];

/// A data centre that takes the first step of a key exchange, with the clock that it is given.
struct KeyDc {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl KeyDc {
    async fn start(ahead: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, ahead));
            }
        });
        Self { addr, task }
    }
}

impl Drop for KeyDc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, ahead: i64) -> std::io::Result<()> {
    let mut wire = [0; 64];
    stream.read_exact(&mut wire).await?;
    let mut header = Header::open(wire, None);
    let mut frames = Frames::default();
    loop {
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        header.up.apply(&mut bytes[..count]);
        frames.push(&bytes[..count]);
        if let Some(Frame::Packet(question)) = frames.next() {
            assert_eq!(question[20..24], 0xbe7e_8ef1_u32.to_le_bytes(), "req_pq_multi");
            let seconds = (i64::from(hello::now()) + ahead) as u32;
            let mut packet = vec![0; 12];
            packet.extend(seconds.to_le_bytes());
            packet.extend(36u32.to_le_bytes());
            packet.extend(0x0516_2463_u32.to_le_bytes());
            packet.extend(&question[24..40]);
            packet.extend([9; 16]);
            let mut bytes = framed(&packet);
            header.down.apply(&mut bytes);
            stream.write_all(&bytes).await?;
        }
    }
}

/// A web server on rustls whose clock is off; it ends with this value.
struct Clockwork {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Clockwork {
    async fn start(ahead: i64) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let _ = stream.read(&mut [0; 1024]).await?;
                    let date = jiff::Timestamp::from_second(i64::from(hello::now()) + ahead).unwrap();
                    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
                    stream.write_all(format!("HTTP/1.1 200 OK\r\nDate: {date}\r\n\r\n").as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { addr, task }
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the doctor says of an installation.
struct Said {
    code: i32,
    lines: Vec<Value>,
    text: String,
}

impl Said {
    /// Verdict and reason of each line of a check.
    fn of(&self, check: &str) -> Vec<(&str, &str)> {
        let lines = self.lines.iter().filter(|line| line["check"] == check);
        lines.map(|line| (line["verdict"].as_str().unwrap(), line["reason"].as_str().unwrap())).collect()
    }

    /// The only line of a check.
    fn the(&self, check: &str) -> (&str, &str) {
        let lines = self.of(check);
        assert_eq!(lines.len(), 1, "{check} in {}", self.text);
        lines[0]
    }
}

/// An installation that is to be examined.
struct Bed {
    state: TempDir,
    centres: Vec<(i16, SocketAddr)>,
    _dc: KeyDc,
}

impl Bed {
    async fn make(ahead: i64) -> Self {
        let dc = KeyDc::start(ahead).await;
        let centres = CENTRES.iter().map(|number| (*number, dc.addr)).collect();
        Self { state: tempfile::tempdir().unwrap(), centres, _dc: dc }
    }

    fn with_centre(mut self, number: i16, addr: SocketAddr) -> Self {
        self.centres.retain(|(known, _)| *known != number);
        self.centres.push((number, addr));
        self
    }

    async fn start(&self, cover: &str) -> Vizard {
        let setup = Setup::new(self.state.path(), cover).domain(NAME).user("alice", &KEY);
        let setup = self.centres.iter().fold(setup, |setup, (number, addr)| setup.dc(*number, *addr));
        tokio::task::spawn_blocking(move || setup.start()).await.unwrap()
    }

    async fn doctor(&self, listen: SocketAddr, cover: &str, more: &[&str]) -> Said {
        let mut arguments: Vec<String> =
            ["doctor", "--json", "--domain", NAME, "--cover", cover].map(Into::into).into();
        arguments.extend(["--state-dir".into(), self.state.path().display().to_string()]);
        arguments.extend(["--listen".into(), listen.to_string()]);
        arguments.extend(self.centres.iter().map(|(number, addr)| format!("--dc={number}={addr}")));
        if !more.contains(&"--secret") {
            arguments.extend(["--secret".into(), format!("alice={}", HEXLOWER.encode(&KEY))]);
        }
        arguments.extend(more.iter().map(ToString::to_string));
        let Output { status, stdout, stderr } = run(arguments, self.state.path()).await;
        let text = String::from_utf8(stdout).unwrap();
        let errors = String::from_utf8(stderr).unwrap();
        assert!(!format!("{text}{errors}").contains(&HEXLOWER.encode(&KEY)), "a secret in {text}{errors}");
        let lines = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}{errors}"));
        Said { code: status.code().unwrap(), lines, text }
    }
}

async fn run(arguments: Vec<String>, home: &Path) -> Output {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = vizard(home, &arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_proxy_with_the_built_in_site_is_well_but_for_its_certificate() {
    let bed = Bed::make(0).await;
    let proxy = bed.start("site").await;
    let said = bed.doctor(proxy.addr, "site", &["--skip", "files"]).await;
    assert_eq!(said.code, 1, "{}", said.text);
    for check in ["ports", "login", "clock", "name", "post-quantum", "records"] {
        assert_eq!(said.the(check).0, "ok", "{check} in {}", said.text);
    }
    assert_eq!(said.the("configuration").0, "warning", "of a secret in the list of processes: {}", said.text);
    assert!(said.of("telegram").iter().all(|(verdict, _)| *verdict == "ok") && said.of("telegram").len() == 6);
    assert!(said.the("ports").1.contains("in use by the running proxy"), "{}", said.text);
    assert!(said.the("login").1.starts_with("alice: "), "{}", said.text);
    let (verdict, reason) = said.the("cover");
    assert!(
        verdict == "warning" && reason == "grade C: its certificate is not signed by an authority that browsers trust",
        "{}",
        said.text
    );
    let (verdict, reason) = said.the("certificate");
    assert!(verdict == "warning" && reason.contains("self-signed"), "{}", said.text);
    assert!(said.of("files").is_empty(), "it was skipped");
}

/// What is said of WEB proxies by the doctor of a proxy whose file has this section, while it runs with that one.
async fn said_of_web(bed: &Bed, runs: &str, examined: &str) -> Said {
    let file = bed.state.path().join("web.toml");
    std::fs::write(&file, runs).unwrap();
    let setup = Setup::new(bed.state.path(), "site").domain("www.site.test").user("alice", &KEY);
    let setup = bed.centres.iter().fold(setup, |setup, (number, addr)| setup.dc(*number, *addr));
    let setup = setup.arg("--config", file.display());
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    if runs.contains("[web]") && !runs.contains("http_listen") {
        let said = "no app can come by WEB proxy: the certificate is self-signed";
        proxy.logged(said).await;
        let log = proxy.log();
        assert_eq!(log.iter().filter(|line| line.contains(said)).count(), 1, "once: {log:#?}");
        let secret = HEXLOWER.encode(&KEY);
        assert!(log.iter().all(|line| !line.contains(&secret) && !line.contains("tg://")), "{log:#?}");
    }
    // The proxy takes a change of its own file.
    let file = bed.state.path().join("examined.toml");
    std::fs::write(&file, examined).unwrap();
    let mut arguments: Vec<String> =
        ["doctor", "--json", "--domain", "www.site.test", "--cover", "site"].map(Into::into).into();
    arguments.extend(["--state-dir".into(), bed.state.path().display().to_string()]);
    arguments.extend(["--listen".into(), proxy.addr.to_string(), "--config".into(), file.display().to_string()]);
    arguments.extend(["--secret".into(), format!("alice={}", HEXLOWER.encode(&KEY))]);
    let skipped = ["name", "cover", "certificate", "post-quantum", "records", "telegram", "files"];
    arguments.extend(skipped.iter().flat_map(|check| ["--skip".into(), (*check).to_string()]));
    let Output { status, stdout, stderr } = run(arguments, bed.state.path()).await;
    let text = String::from_utf8(stdout).unwrap();
    assert!(!text.contains(&HEXLOWER.encode(&KEY)), "a secret in {text}");
    let lines = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&stderr)));
    Said { code: status.code().unwrap(), lines, text }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_logs_in_by_web_over_every_carrier() {
    let bed = Bed::make(0).await;
    for (carrier, over) in [
        ("https", &["https", "https"][..]),
        ("https-lanes", &["https-lanes", "https-lanes"]),
        ("websocket", &["websocket", "https", "websocket"]),
        ("websocket-lanes", &["websocket-lanes", "websocket-lanes"]),
    ] {
        let section = format!("[web]\nenabled = true\ncarrier = \"{carrier}\"\npath = \"pages/team\"\n");
        let said = said_of_web(&bed, &section, &section).await;
        let lines = said.of("web");
        let (blocked, logins) = lines.split_first().unwrap();
        assert!(blocked.0 == "warning" && blocked.1.contains("self-signed"), "{}", said.text);
        assert_eq!(logins.len(), over.len(), "{}", said.text);
        for ((verdict, reason), over) in logins.iter().zip(over) {
            let through = reason.starts_with(&format!("alice: WEB over {over}")) && reason.contains("data centre 2");
            assert!(*verdict == "ok" && through, "{}", said.text);
        }
        assert!(logins.last().unwrap().1.contains(" at /pages/team/"), "{}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_does_not_serve_web_is_told_from_one_that_does() {
    let bed = Bed::make(0).await;
    let said = said_of_web(&bed, "", "[web]\nenabled = true\n").await;
    let lines = said.of("web");
    assert!(lines.len() == 2 && lines[1].0 == "broken" && lines[1].1.contains("as a stranger's"), "{}", said.text);
    assert_eq!(said_of_web(&bed, "", "").await.of("web"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_for_web_servers_in_front_is_logged_in_at_too() {
    let bed = Bed::make(0).await;
    let socket = bed.state.path().join("site.sock");
    let file =
        format!("[site]\nhttp_listen = [\"unix:{}\"]\n[web]\nenabled = true\ncarrier = \"https\"\n", socket.display());
    let said = said_of_web(&bed, &file, &file).await;
    // The web server in front has the certificate and the port, so nothing keeps apps out.
    let lines = said.of("web");
    assert!(lines.len() >= 2 && lines.iter().take(2).all(|(verdict, _)| *verdict == "ok"), "{}", said.text);
    assert!(lines[0].1.starts_with("alice: WEB over https: to data centre 2"), "{}", said.text);
    assert!(lines[1].1.starts_with("alice: WEB over https, by plain HTTP: to data centre 2"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_the_running_proxy_does_not_know_cannot_log_in() {
    let bed = Bed::make(0).await;
    let proxy = bed.start("site").await;
    let (alice, bob) = (format!("alice={}", HEXLOWER.encode(&KEY)), format!("bob={}", HEXLOWER.encode(&OTHER_KEY)));
    let both = ["--secret", &alice, "--secret", &bob];
    let said = bed.doctor(proxy.addr, "site", &both).await;
    assert_eq!(said.code, 2);
    let logins = said.of("login");
    assert!(logins.len() == 2 && logins[0].0 == "ok" && logins[1].0 == "broken", "{}", said.text);
    let said = bed.doctor(proxy.addr, "site", &[&both[..], &["--user", "alice"]].concat()).await;
    assert_eq!(said.the("login").0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_centre_that_is_down_or_is_none_is_named() {
    let impostor = MockDc::start(Role::Echo).await;
    let bed = Bed::make(0).await.with_centre(4, refusing().await).with_centre(5, impostor.addr);
    let said = bed.doctor(refusing().await, "site", &[]).await;
    assert_eq!(said.code, 2);
    let broken: Vec<_> = said.of("telegram").into_iter().filter(|(verdict, _)| *verdict == "broken").collect();
    assert_eq!(broken.len(), 2, "{}", said.text);
    assert!(broken[0].1.starts_with("data centre 4: no connection"), "{}", said.text);
    assert!(broken[1].1.starts_with("data centre 5: what answers is no data centre"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_run_is_no_reason_to_stop() {
    let bed = Bed::make(0).await;
    let said = bed.doctor(refusing().await, "site", &[]).await;
    assert!(said.the("ports").0 == "ok" && said.the("ports").1.contains("can be bound"), "{}", said.text);
    assert!(said.the("login").0 == "warning" && said.the("login").1.contains("does not run"), "{}", said.text);
    assert!(said.the("cover").1.contains("no cover to check"), "the first start makes its certificate: {}", said.text);
    assert_eq!(std::fs::read_dir(bed.state.path()).unwrap().count(), 0, "the doctor makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_on_the_port_is_found_out() {
    let bed = Bed::make(0).await;
    let other = Clockwork::start(0).await;
    let said = bed.doctor(other.addr, "site", &[]).await;
    assert!(said.the("ports").0 == "broken" && said.the("ports").1.contains("another program"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_off_are_told_apart() {
    const DAY: i64 = 86_400;
    let cover = Clockwork::start(DAY).await;
    let address = cover.addr.to_string();
    let (right, wrong) = (Bed::make(0).await, Bed::make(-DAY).await);
    let alone = right.doctor(refusing().await, &address, &["--skip", "telegram"]).await;
    assert!(alone.the("clock").0 == "broken" && alone.the("clock").1.contains("behind the cover"), "{}", alone.text);
    let both = right.doctor(refusing().await, &address, &[]).await;
    assert!(both.the("clock").0 == "warning" && both.the("clock").1.contains("cover's clock"), "{}", both.text);
    let telegram = wrong.doctor(refusing().await, "site", &[]).await;
    assert!(telegram.the("clock").0 == "broken", "{}", telegram.text);
    assert!(telegram.the("clock").1.contains("ahead of Telegram"), "{}", telegram.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_is_graded_c_with_the_reasons() {
    let uploads = Sink::start().await;
    let Some(nginx) = Nginx::start(&Origin::make(), uploads.addr).await else { return };
    let bed = Bed::make(0).await;
    let proxy = bed.start(&nginx.addr.to_string()).await;
    let said = bed.doctor(proxy.addr, &nginx.addr.to_string(), &[]).await;
    let (verdict, reason) = said.the("cover");
    assert!(verdict == "warning" && reason.starts_with("grade C: "), "{}", said.text);
    assert!(reason.contains("encrypted records") && reason.contains("post-quantum"), "{}", said.text);
    assert!(reason.contains("its certificate is not for "), "{}", said.text);
    assert_eq!([said.the("post-quantum").0, said.the("records").0, said.the("login").0], ["warning", "warning", "ok"]);
    assert!(said.of("certificate").iter().any(|(_, reason)| reason.contains("not for localhost")), "{}", said.text);
    assert_eq!(said.code, 1, "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cover_of_several_records_is_taken_only_if_that_is_accepted() {
    let uploads = Sink::start().await;
    let Some(nginx) = Nginx::start(&Origin::make(), uploads.addr).await else { return };
    let home = tempfile::tempdir().unwrap();
    let cover = nginx.addr.to_string();
    let start = Setup::new(&home.path().join("state"), &cover).usual(&KEY).set("VIZARD_ACCEPT_GRADE_C", "");
    let refused = tokio::task::spawn_blocking(move || start.output()).await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("several encrypted records"), "{said}");
    assert!(said.contains("upstream") && said.contains("--accept-grade-c"), "{said}");
    let accepted = Setup::new(&home.path().join("state"), &cover).usual(&KEY).set("VIZARD_ACCEPT_GRADE_C", "");
    drop(tokio::task::spawn_blocking(move || accepted.flag("--accept-grade-c").start()).await.unwrap());

    let file = home.path().join("vizard.toml");
    let init = |more: &[&str]| {
        let arguments = ["init", "--yes", "--no-check", "--domain", "localhost", "--cover", &cover, "--config"];
        let mut all: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        all.push(file.display().to_string());
        all.extend(more.iter().map(|text| (*text).to_owned()));
        all
    };
    let output = run(init(&[]), home.path()).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--upstream") && !file.exists(), "{said}");
    let output = run(init(&["--accept-grade-c"]), home.path()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(&file).unwrap().contains("accept_grade_c = true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cover_that_is_away_or_is_the_proxy_has_grade_d() {
    let bed = Bed::make(0).await;
    let away = bed.doctor(refusing().await, &refusing().await.to_string(), &[]).await;
    assert_eq!((away.code, away.the("cover").0), (2, "broken"));
    assert!(away.the("cover").1.starts_with("grade D: it cannot be reached"), "{}", away.text);

    // A loop that the configuration shows is refused there.
    let own = refusing().await;
    let by_name = format!("localhost:{}", own.port());
    let itself = bed.doctor(SocketAddr::from(([0, 0, 0, 0], own.port())), &by_name, &[]).await;
    assert_eq!((itself.code, itself.the("configuration").0), (2, "broken"));

    // One that it does not show is found by a login: what lets our users in is the proxy.
    let proxy = bed.start("site").await;
    let relayed = bed.doctor(refusing().await, &proxy.addr.to_string(), &[]).await;
    assert!(relayed.the("cover").1.starts_with("grade D: it is this proxy itself"), "{}", relayed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistaken_configuration_is_the_only_line() {
    let bed = Bed::make(0).await;
    let said = bed.doctor(refusing().await, "nonsense:0:0", &[]).await;
    assert_eq!((said.code, said.lines.len(), said.the("configuration").0), (2, 1, "broken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn words_for_people_come_without_colours_into_a_pipe() {
    let home = tempfile::tempdir().unwrap();
    let everything = ["ports", "login", "clock", "name", "certificate", "cover", "post-quantum", "records", "telegram"];
    let skips = everything.iter().flat_map(|check| ["--skip".to_owned(), check.to_string()]);
    let arguments: Vec<String> = ["doctor", "--cover", "site"].map(Into::into).into_iter().chain(skips).collect();
    let output = run(arguments, home.path()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("✓ ok      configuration") && text.contains("fix: "), "{text}");
    assert!(!text.contains('\x1b') && output.stderr.is_empty(), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let unknown = run(["doctor", "--skip", "weather"].map(Into::into).into(), home.path()).await;
    assert_eq!(unknown.status.code(), Some(2));
}

/// A configuration file in the state directory of the bed, with the usual user and these lines first.
fn written(bed: &Bed, lines: &str) -> PathBuf {
    let file = bed.state.path().join("vizard.toml");
    let centres: Vec<String> = bed.centres.iter().map(|(number, addr)| format!("{number} = [\"{addr}\"]\n")).collect();
    let secret = HEXLOWER.encode(&KEY);
    let rest =
        format!("[telegram.addresses]\n{}[[users]]\nname = \"alice\"\nsecret = \"{secret}\"\n", centres.concat());
    std::fs::write(&file, format!("{lines}{rest}")).unwrap();
    file
}

/// Says what a command says, with the configuration file and the state directory of the bed.
async fn command(bed: &Bed, file: &Path, arguments: &[&str]) -> (i32, String) {
    let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    all.extend(["--config".into(), file.display().to_string()]);
    all.extend(["--state-dir".into(), bed.state.path().display().to_string()]);
    let Output { status, stdout, stderr } = run(all, bed.state.path()).await;
    let said = [String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap()].concat();
    (status.code().unwrap(), said)
}

async fn started(bed: &Bed, file: &Path) -> Vizard {
    let setup = Setup::file(bed.state.path(), file);
    tokio::task::spawn_blocking(move || setup.start()).await.unwrap()
}

/// A proxy that says nothing of where clients come to it; it is killed with this value.
struct Silent(Child);

impl Silent {
    fn start(bed: &Bed, file: &Path) -> Self {
        let (file, state) = (file.to_str().unwrap(), bed.state.path());
        let mut command = vizard(state, &["run", "--config", file, "--state-dir", state.to_str().unwrap()]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_only_a_front_reaches_is_found_and_logged_in_to() {
    let (begun, bed) = (Instant::now(), Bed::make(0).await);
    let front = "[proxy_protocol]\nlisten = [\"127.0.0.1:0\"]\n";
    let file = written(&bed, &format!("domain = \"{NAME}\"\n{front}[cover]\nkind = \"site\"\n"));
    let _proxy = Silent::start(&bed, &file);
    let address = loop {
        let (_, said) = command(&bed, &file, &["check"]).await;
        // The control socket answers a moment before the listeners are open.
        let open = said.split_once("runs    on ").and_then(|(_, rest)| rest.split_once(" (behind"));
        if let Some((address, _)) = open {
            break address.to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it never runs: {said}");
    };
    let (_, said) = command(&bed, &file, &["doctor", "--skip", "files"]).await;
    assert!(said.contains(&format!("{address} is in use by the running proxy")), "{said}");
    assert!(said.contains("alice: through the front"), "{said}");
    let (code, said) = command(&bed, &file, &["health"]).await;
    assert!(code == 0 && said.contains(&format!("{address} answers")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_name_the_port_that_the_running_proxy_has() {
    let bed = Bed::make(0).await;
    let file = written(&bed, &format!("listen = [\"127.0.0.1:0\"]\ndomain = \"{NAME}\"\n"));
    let (code, said) = command(&bed, &file, &["link", "--host", "192.0.2.1"]).await;
    assert!(code == 1 && said.contains("the port is chosen when the proxy starts"), "{said}");
    let proxy = started(&bed, &file).await;
    let (code, said) = command(&bed, &file, &["link", "--host", "192.0.2.1"]).await;
    assert!(code == 0 && said.contains(&format!("port={}&", proxy.addr.port())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_bars_this_machine_is_named() {
    let bed = Bed::make(0).await;
    let list = bed.state.path().join("wide.netset");
    std::fs::write(&list, "127.0.0.0/8\n").unwrap();
    let lists = format!("[lists]\ndeny = [\"{}\"]\n", list.display());
    let file = written(&bed, &format!("listen = [\"127.0.0.1:0\"]\ndomain = \"{NAME}\"\n{lists}"));
    let _proxy = started(&bed, &file).await;
    let (_, said) = command(&bed, &file, &["doctor", "--skip", "files"]).await;
    let barred = format!("this address is blocked, on a deny list: {}", list.display());
    assert!(said.contains(&barred) && !said.contains("in use by another program"), "{said}");
    let (code, said) = command(&bed, &file, &["check"]).await;
    assert!(code == 0 && said.contains("127.0.0.0/8 would be rejected"), "{said}");
}
