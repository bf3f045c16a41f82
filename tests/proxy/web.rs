//! Telegram's WEB proxies from the built-in site: an independent client over every carrier, and everybody else, to whom the
//! site has to look as it does without them.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vizard::webproxy::{BasePath, Capability, Form};

use crate::support::KEY;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::{NAME, Origin};
use crate::support::vizard::{Setup, Vizard, output_in_time};

/// A path besides the root.
pub(crate) const PATH: &str = "pages/team";

const CARRIERS: [&str; 4] = ["https", "https-lanes", "websocket", "websocket-lanes"];

/// The interpreter of an environment with the client's libraries; made on first use, which takes a package index.
pub(crate) fn python() -> Option<&'static Path> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder");
        let script = folder().join("venv.sh");
        let made = Command::new("bash").arg(script).arg(target.join("webvenv")).output().expect("bash runs");
        let said = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        let whole = made.status.success();
        assert!(whole || std::env::var_os("CI").is_none(), "{}", String::from_utf8_lossy(&made.stderr));
        if !whole {
            eprintln!("skipped: no Python with the libraries of the client");
        }
        whole.then(|| said.into())
    };
    MADE.get_or_init(make).as_deref()
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webproxy")
}

/// A proxy whose site serves WEB over this carrier.
pub(crate) fn serving(carrier: &str, dc: &MockDc) -> (Vizard, Origin, tempfile::TempDir) {
    started(&format!("[web]\nenabled = true\ncarrier = \"{carrier}\"\npath = \"{PATH}\"\n"), dc)
}

fn started(section: &str, dc: &MockDc) -> (Vizard, Origin, tempfile::TempDir) {
    let (origin, state) = (Origin::make(), tempfile::tempdir().expect("a temporary folder"));
    let setup = Setup::site(state.path(), &origin).usual(&KEY).dc(2, dc.addr);
    let file = origin.path().join("vizard.toml");
    let config = std::fs::read_to_string(&file).expect("the configuration") + section;
    std::fs::write(file, config).expect("writes the configuration");
    (setup.start(), origin, state)
}

/// The client's arguments for its link.
struct Visit<'v> {
    proxy: &'v Vizard,
    http: &'static str,
    path: &'static str,
    padded: bool,
}

impl Visit<'_> {
    async fn run(&self, action: &str, more: &[&str]) -> Output {
        let python = python().expect("it was asked for before");
        let secret = if self.padded { "dd".to_owned() } else { String::new() } + &HEXLOWER.encode(&KEY);
        let mut command = Command::new(python);
        command.arg(folder().join("webclient.py")).arg(action).args(["--host", NAME, "--secret", &secret]);
        command.args(["--address", &self.proxy.addr.to_string(), "--http", self.http]);
        if !self.path.is_empty() {
            command.args(["--path", self.path]);
        }
        // A browser opens WebSockets over HTTP/1.1 where the site offers no more.
        command.args(["--ws", "h1"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tokio::task::spawn_blocking(|| output_in_time(command)).await.expect("no panic")
    }

    async fn succeeds(&self, action: &str, more: &[&str]) {
        let output = self.run(action, more).await;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        let Self { http, path, padded, .. } = self;
        let log = self.proxy.log();
        let log = &log[log.len().saturating_sub(20)..];
        assert!(output.status.success(), "{action} {http} {path:?} {padded} {more:?}: {said:#?}\n{log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_answers_over_every_carrier() {
    if python().is_none() {
        return;
    }
    let dc = MockDc::start(Role::Keys).await;
    for carrier in CARRIERS {
        let (proxy, _origin, _state) = serving(carrier, &dc);
        for (http, path, padded) in [("h1", "", false), ("h2", PATH, false), ("h1", PATH, true), ("h2", "", true)] {
            let visit = Visit { proxy: &proxy, http, path, padded };
            // The last number of a stream is followed by the first.
            let more = ["--framing", "ef,ee,dd", "--streams", "6", "--repeat", "2", "--first-id", "16777210"];
            visit.succeeds("reqpq", &more).await;
        }
        Visit { proxy: &proxy, http: "h2", path: "", padded: false }.succeeds("reqpq", &["--pieces", "7"]).await;
    }
    let tags: std::collections::BTreeSet<_> = dc.seen().iter().map(|seen| seen.tag).collect();
    assert_eq!(tags.len(), 3, "every framing reached the data centre as it was: {tags:x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_arrives_whole_both_ways_over_every_carrier() {
    if python().is_none() {
        return;
    }
    let dc = MockDc::start(Role::Mirror).await;
    for (carrier, http) in CARRIERS.into_iter().zip(["h1", "h2", "h1", "h2"]) {
        let (proxy, _origin, _state) = serving(carrier, &dc);
        let visit = Visit { proxy: &proxy, http, path: "", padded: false };
        // More than the credit that a stream begins with.
        visit.succeeds("bulk", &["--streams", "2", "--megabytes", "5"]).await;
    }
}

/// A connection to the site.
type SiteConnection = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

/// Connects to the site, whose name this is.
fn connected(proxy: &Vizard, origin: &Origin) -> SiteConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(origin.certificate()).expect("a certificate")).expect("one that is read");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let name = NAME.try_into().expect("a name");
    let session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let stream = std::net::TcpStream::connect(proxy.addr).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    rustls::StreamOwned::new(session, stream)
}

/// Speaks HTTP/1.1 once, and reads to the end. The time is left out.
fn said((proxy, origin): (&Vizard, &Origin), request: &[u8]) -> String {
    let mut tls = connected(proxy, origin);
    tls.write_all(request).expect("it takes the request");
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    // The two sites were written at different times.
    let dated = |line: &&str| ["Date: ", "Last-Modified: ", "ETag: "].iter().any(|name| line.starts_with(name));
    text.lines().filter(|line| !dated(line)).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_process_that_is_replaced_begins_its_session_in_the_next() {
    let dc = MockDc::start(Role::Mute).await;
    let (origin, state) = (Origin::make(), tempfile::tempdir().expect("a temporary folder"));
    let setup = Setup::site(state.path(), &origin).usual(&KEY).dc(2, dc.addr);
    let file = origin.path().join("vizard.toml");
    let config = std::fs::read_to_string(&file).expect("the configuration") + "[web]\nenabled = true\n";
    std::fs::write(file, config).expect("writes the configuration");
    let old = setup.start();
    let capability = Capability::new(&KEY, Form::Plain, &NAME.parse().expect("a host"), &BasePath::default()).text();
    tokio::task::block_in_place(|| {
        let mut page = connected(&old, &origin);
        let request = format!("GET /?bridge={capability} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        page.write_all(request.as_bytes()).expect("it takes the request");
        let mut answer = Vec::new();
        while !answer.ends_with(b"</html>\n") {
            let mut some = [0; 4096];
            let read = page.read(&mut some).expect("the page");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..read]);
        }
        let text = String::from_utf8(answer).expect("a page");
        assert!(!text.contains("Connection: close"), "{text}");
        let bootstrap = &text.split("bootstrap=\"").nth(1).expect("a token")[..43];
        let new = setup.clone().flag("--take-over").start();
        // Kept open it would be the way of all that the page asks for, to a process that begins no session.
        assert_eq!(page.read(&mut [0; 64]).expect("an end"), 0, "the connection is closed");
        let create = format!(
            "POST /api/v1/session HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nAuthorization: Bearer {bootstrap}\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\n\x10\0\0\0\0\0\0\x01\x01"
        );
        let answer = said((&new, &origin), create.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("X-Session-Token: "), "{answer}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authentic_value_the_site_answers_as_without_web() {
    let dc = MockDc::start(Role::Mute).await;
    let (with, with_origin, _state) = serving("websocket", &dc);
    let (without, origin, _other_state) = started("", &dc);
    let forged = "A".repeat(43);
    let mut requests = Vec::new();
    for base in ["/".to_owned(), format!("/{PATH}/")] {
        for (method, rest, fields) in [
            ("GET", String::new(), String::new()),
            ("GET", format!("?bridge={forged}"), String::new()),
            ("HEAD", format!("?bridge={forged}"), String::new()),
            ("GET", "?bridge=".to_owned(), String::new()),
            ("POST", "api/v1/session".to_owned(), format!("Authorization: Bearer {forged}\r\nContent-Length: 9\r\n")),
            (
                "POST",
                "api/v1/up".to_owned(),
                format!("Authorization: Bearer {forged}\r\nX-Up-Seq: 1\r\nContent-Length: 9\r\n"),
            ),
            ("POST", "api/v1/down".to_owned(), format!("Authorization: Bearer {forged}\r\nX-Down-Cursor: 0\r\n")),
            ("DELETE", "api/v1/session".to_owned(), format!("Authorization: Bearer {forged}\r\n")),
            ("OPTIONS", "api/v1/session".to_owned(), String::new()),
            (
                "GET",
                "api/v1/ws".to_owned(),
                format!(
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                     AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: tproxy-v1.{forged}\r\n"
                ),
            ),
        ] {
            let body = if fields.contains("Content-Length: 9") { "\x10\0\0\0\0\0\0\x01\x01" } else { "" };
            requests.push(format!(
                "{method} {base}{rest} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n{fields}\r\n{body}"
            ));
        }
    }
    for request in requests {
        let ask = |proxy, origin| tokio::task::block_in_place(|| said((proxy, origin), request.as_bytes()));
        let (one, other) = (ask(&with, &with_origin), ask(&without, &origin));
        assert!(!one.is_empty() && one == other, "{request}: {one}\n{other}");
    }
}

/// A user with this key, and what else stands in the section.
fn user(name: &str, key: [u8; 16], more: &str) -> String {
    format!("\n[[users]]\nname = \"{name}\"\nsecret = \"{}\"\n{more}\n", HEXLOWER.encode(&key))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_user_and_are_refused_above_a_limit() {
    let Some(python) = python() else { return };
    let dc = MockDc::start(Role::Keys).await;
    for carrier in ["https", "websocket"] {
        let (origin, state) = (Origin::make(), tempfile::tempdir().expect("a temporary folder"));
        let setup = Setup::site(state.path(), &origin).domain(NAME).dc(2, dc.addr);
        let file = origin.path().join("vizard.toml");
        let rest = std::fs::read_to_string(&file).expect("the configuration")
            + &format!("[web]\nenabled = true\ncarrier = \"{carrier}\"\n")
            + &user("bob", [9; 16], "");
        let write = |more: &str| std::fs::write(&file, rest.clone() + &user("alice", KEY, more)).expect("writes it");
        write("max_sessions = 2");
        let proxy = setup.start();
        let mut command = Command::new(python);
        command.arg(folder().join("hold.py")).args(["--host", NAME, "--secret", &HEXLOWER.encode(&KEY)]);
        command.args(["--address", &proxy.addr.to_string(), "--streams", "3"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let first = tokio::task::block_in_place(|| lines.next());
        assert_eq!(first.as_deref(), Some("answered 2 refused 1"), "{carrier}: {:#?}", proxy.log());
        // What keeps a user out takes away what is inside, within the same time as anywhere.
        write("enabled = false");
        proxy.hangup();
        let asked = Instant::now();
        let second = tokio::task::block_in_place(|| lines.next());
        assert_eq!(second.as_deref(), Some("closed"), "{carrier}: {:#?}", proxy.log());
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        child.wait().expect("it ends");
        let visit = Visit { proxy: &proxy, http: "h1", path: "", padded: false };
        assert!(!visit.run("reqpq", &[]).await.status.success(), "no page for a user who may not enter");
    }
}
