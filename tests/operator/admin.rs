//! The admin listener of the running program: numbers that add up, places that are refused, commands, and the page in a
//! browser.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::Login;
use crate::support::hello::{self, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::vizard::{Setup, Vizard};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use vizard::ops::admin::client::{Client, ClientError};
use vizard::ops::admin::token::{Role as TokenRole, TokenHash};
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(20);

fn token(role: TokenRole) -> String {
    format!("vizard_{role}_{}", "x".repeat(40))
}

/// A proxy with the built-in site, a user in the file, and an admin listener with a token for each role.
struct Stage {
    proxy: Vizard,
    dc: MockDc,
    state: TempDir,
    file: PathBuf,
    admin: String,
}

impl Stage {
    async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let dc = MockDc::start(Role::Echo).await;
        let file = state.path().join("vizard.toml");
        let secret = data_encoding::HEXLOWER.encode(&KEY);
        let mut text = format!(
            "# keep this\n[link]\nhost = \"proxy.example.com\"\nport = 443\n[[users]]\nname = \"alice\"\n\
             secret = \"{secret}\"\n[audit_log]\nfile = \"audit.log\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
        );
        for role in TokenRole::ALL {
            let hash = TokenHash::of(&token(role));
            text += &format!("[[admin.tokens]]\nname = \"the-{role}\"\nrole = \"{role}\"\nhash = \"{hash}\"\n");
        }
        fs::write(&file, text).unwrap();
        let setup = Setup::new(state.path(), "site").domain("www.example.com").dc(2, dc.addr);
        let setup = setup.arg("--config", file.display());
        let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
        let line: Value = serde_json::from_str(&proxy.logged("\"admin listener\"").await).unwrap();
        let admin = format!("http://{}", line["address"].as_str().unwrap());
        Self { proxy, dc, state, file, admin }
    }

    async fn get(&self, role: TokenRole, path: &str) -> Value {
        let client = Client::at(&self.admin, None, Some(Zeroizing::new(token(role)))).unwrap();
        client.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}; {:#?}", self.proxy.log()))
    }

    /// One request, whatever its answer is.
    async fn ask(&self, method: &str, path: &str, role: TokenRole, body: &str) -> (u16, String) {
        let address = self.admin.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            token(role),
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    async fn scrape(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.ask("GET", "/metrics", TokenRole::Metrics, "").await;
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with("# EOF\n") && !text.contains("127.0.0.1"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.into(), value.parse().unwrap()))
            .collect()
    }

    /// Scrapes until it is so.
    async fn until(&self, what: &str, enough: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let end = Instant::now() + PATIENCE;
        loop {
            let numbers = self.scrape().await;
            if enough(&numbers) {
                return numbers;
            }
            assert!(Instant::now() < end, "never {what}: {numbers:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Logs in as the login page does, and returns the cookie.
    async fn log_in(&self, token: &str) -> String {
        let (body, host) = (format!("token={token}"), self.admin.strip_prefix("http://").unwrap());
        let head = format!(
            "POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            self.admin,
            body.len()
        );
        let answer = said(TcpStream::connect(host).await.unwrap(), &head).await;
        let (_, cookie) = answer.split_once("set-cookie: ").unwrap_or_else(|| panic!("{answer}"));
        cookie.split(';').next().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str], role: TokenRole) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
        command.args(arguments).args(["--admin", &self.admin]).env("VIZARD_ADMIN_TOKEN", token(role));
        command.output().unwrap()
    }
}

/// What comes back for this request.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("an end").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn login(seed: u64) -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::new(u64::from(hello::now()) + seed))
}

fn at(numbers: &BTreeMap<String, f64>, name: &str) -> u64 {
    numbers.get(name).copied().unwrap_or_default() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_a_scrape_add_up_while_sessions_run_and_after() {
    let stage = Stage::start().await;
    const SESSIONS: u64 = 3;
    const ECHOES: u64 = 10;
    let mut sessions = Vec::new();
    for seed in 0..SESSIONS {
        sessions.push(login(seed).enter(stage.proxy.addr).await.unwrap());
    }
    for session in &mut sessions {
        for _ in 0..ECHOES {
            session.echo(&[7; 4096]).await.unwrap();
        }
    }
    // A replay and three strangers.
    let spent = login(0);
    let mut first = spent.enter(stage.proxy.addr).await.unwrap();
    first.echo(&[1; 64]).await.unwrap();
    let mut strangers = Vec::new();
    for bytes in [&spent.wire[..], b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stranger = TcpStream::connect(stage.proxy.addr).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        strangers.push(stranger);
    }
    let declined = |numbers: &BTreeMap<String, f64>, reason: &str| {
        at(numbers, &format!("vizard_declines_total{{reason=\"{reason}\",refusal=\"\"}}"))
    };
    let during = stage.until("all counted", |n| declined(n, "form") == 3 && declined(n, "replay") == 1).await;
    let admitted: f64 =
        during.iter().filter(|(name, _)| name.starts_with("vizard_admissions_total")).map(|(_, n)| n).sum();
    assert_eq!(admitted as u64, SESSIONS + 1);
    assert_eq!(at(&during, "vizard_connections_total"), SESSIONS + 1 + 4);
    assert_eq!(at(&during, "vizard_connections_open{state=\"session\"}"), SESSIONS + 1);
    assert_eq!(at(&during, "vizard_replay_entries"), 2 * (SESSIONS + 1), "a hello and a header each");
    assert_eq!(at(&during, "vizard_dc_dials_total{dc=\"2\"}"), SESSIONS + 1);
    assert_eq!(at(&during, "vizard_handshake_seconds_count"), SESSIONS + 1);
    // What comes in one piece with the header counts too.
    let moved = SESSIONS * ECHOES * 4096 + 64;
    for direction in ["up", "down"] {
        let bytes = at(&during, &format!("vizard_session_bytes_total{{direction=\"{direction}\"}}"));
        assert!((moved..moved * 11 / 10).contains(&bytes), "{direction}: {bytes} of {moved}");
    }

    drop((sessions, first, strangers));
    let open = |n: &BTreeMap<String, f64>| {
        at(n, "vizard_connections_open{state=\"session\"}") + at(n, "vizard_connections_open{state=\"visitor\"}")
    };
    let after = stage.until("all over", |n| open(n) == 0).await;
    let ends: f64 = after
        .iter()
        .filter(|(name, _)| name.starts_with("vizard_relay_ends_total{relay=\"session\""))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(ends as u64, SESSIONS + 1);
    for direction in ["up", "down"] {
        let total = format!("vizard_session_bytes_total{{direction=\"{direction}\"}}");
        let own = format!("vizard_user_bytes_total{{user=\"alice\",direction=\"{direction}\"}}");
        assert!(at(&after, &total) >= at(&during, &total), "a counter went back");
        assert_eq!(at(&after, &total), at(&after, &own), "{direction}: all of it was one user's");
    }

    // What the program says elsewhere is the same.
    let status = stage.get(TokenRole::Viewer, "/api/v1/status").await;
    assert_eq!(status["connections"]["admitted"], json!(SESSIONS + 1));
    assert_eq!(status["declines"], json!({"form": 3, "replay": 1}));
    let events = stage.get(TokenRole::Viewer, "/api/v1/events").await;
    let kinds = |kind: &str| events.as_array().unwrap().iter().filter(|entry| entry["kind"] == kind).count() as u64;
    assert_eq!((kinds("admitted"), kinds("declined"), kinds("session_over")), (SESSIONS + 1, 1, SESSIONS + 1));
    assert!(stage.dc.seen().len() as u64 >= SESSIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_on_the_dashboard_and_in_the_rules_is_scraped() {
    let stage = Stage::start().await;
    let mut session = login(1).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[1; 64]).await.unwrap();
    let mut stranger = TcpStream::connect(stage.proxy.addr).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stage.until("visited", |n| n.keys().any(|name| name.starts_with("vizard_cover_grade"))).await;
    let (_, text) = stage.ask("GET", "/metrics", TokenRole::Metrics, "").await;
    assert!(text.contains("\nvizard_cover_grade 2\n"), "a self-signed certificate caps the grade: {text}");
    let (_, status) = stage.ask("GET", "/api/v1/status", TokenRole::Viewer, "").await;
    assert!(status.contains("its certificate is not signed by an authority that browsers trust"), "{status}");
    check_with_promtool(&text);
    let described: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let known = |name: &str| {
        let parts = ["", "_total", "_info", "_bucket", "_count", "_sum"];
        described.iter().any(|family| parts.iter().any(|part| format!("{family}{part}") == name))
    };
    let mut found = 0;
    for file in ["grafana.json", "alerts.yaml", "../monitoring.md"] {
        let text = fs::read_to_string(Path::new("docs/monitoring").join(file)).unwrap();
        // Those of an authority are only there where it issues the certificate; the metrics' own tests hold them.
        for name in names(&text).iter().filter(|name| !name.starts_with("vizard_acme_")) {
            assert!(known(name), "{file} has {name}, which no scrape has: {described:#?}");
            found += 1;
        }
    }
    assert!(found > 60, "{found}");
    let page = fs::read_to_string("docs/monitoring.md").unwrap();
    for family in described.iter().filter(|family| family.starts_with("vizard_")) {
        assert!(page.contains(family), "docs/monitoring.md lacks {family}");
    }
}

/// Words that look like names of metrics.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mark = |word: &&str| word.starts_with("vizard_") || word.starts_with("process_");
    words.filter(mark).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_rules_can_be_loaded() {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string("docs/monitoring/grafana.json").unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let ids: std::collections::BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
    }
    if crate::support::installed(PROMTOOL) {
        let check = Command::new(PROMTOOL).args(["check", "rules", "docs/monitoring/alerts.yaml"]).output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success() && said.contains("rules found"), "{check:?}");
    }
}

const PROMTOOL: &str = "/usr/bin/promtool";

/// Whether names, types and texts are what Prometheus wants. It checks the older format only, where the name of a counter
/// is that of its samples, and where there is no type for information.
fn check_with_promtool(metrics: &str) {
    if !crate::support::installed(PROMTOOL) {
        return;
    }
    let kinds: BTreeMap<&str, &str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut older = String::new();
    for line in metrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let line = match (&words[..], words.get(2).and_then(|name| kinds.get(name))) {
            (["#", what, name, rest], Some(&"counter")) => format!("# {what} {name}_total {rest}"),
            (["#", "TYPE", name, _], Some(&"info")) => format!("# TYPE {name}_info gauge"),
            (["#", what, name, rest], Some(&"info")) => format!("# {what} {name}_info {rest}"),
            _ => line.to_owned(),
        };
        older += &(line + "\n");
    }
    let mut command = Command::new(PROMTOOL);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(older.as_bytes()).unwrap();
    let check = promtool.wait_with_output().unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{check:?}\n{older}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_changed_in_the_file_and_in_the_running_proxy() {
    let stage = Stage::start().await;
    let mut session = login(1).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[1; 64]).await.unwrap();
    let ask = async |method: &str, path: &str, body: &str| stage.ask(method, path, TokenRole::Operator, body).await;

    let created =
        ask("POST", "/api/v1/users", r#"{"name": "bob", "settings": {"quota": "5GB/month", "note": "a friend"}}"#)
            .await;
    assert_eq!(created.0, 201, "{created:?}");
    assert_eq!(ask("POST", "/api/v1/users", r#"{"name": "bob"}"#).await.0, 409);
    assert_eq!(ask("POST", "/api/v1/users", r#"{"name": "b b"}"#).await.0, 422);
    assert_eq!(ask("PATCH", "/api/v1/users/bob", r#"{"expires": "soon"}"#).await.0, 422);
    let bob = stage.get(TokenRole::Viewer, "/api/v1/users/bob").await;
    assert_eq!(bob["quota"]["bytes"], json!(5_000_000_000_u64), "{bob}");
    let (_, link) = ask("GET", "/api/v1/users/bob/link", "").await;
    assert!(link.contains("proxy.example.com") && link.contains("tg://proxy?"), "{link}");
    let (_, rotated) = ask("POST", "/api/v1/users/bob/rotate", "{\"keep\": \"1h\"}").await;
    assert!(rotated.contains("new secret"), "{rotated}");
    assert_ne!(ask("GET", "/api/v1/users/bob/link", "").await.1, link);

    assert_eq!(ask("PATCH", "/api/v1/users/alice", r#"{"enabled": false}"#).await.0, 200);
    let alice = stage.get(TokenRole::Viewer, "/api/v1/users/alice").await;
    assert_eq!((&alice["enabled"], &alice["reason"]), (&json!(false), &json!("disabled")));
    session.down.end().await;
    assert!(login(2).enter(stage.proxy.addr).await.is_err(), "alice is a visitor now");
    assert_eq!(ask("PATCH", "/api/v1/users/alice", r#"{"enabled": true}"#).await.0, 200);
    let mut session = login(3).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[1; 64]).await.unwrap();
    let sessions = stage.get(TokenRole::Viewer, "/api/v1/sessions").await;
    let path = format!("/api/v1/sessions/{}", sessions[0]["id"]);
    assert_eq!(ask("DELETE", &path, "").await, (200, "{\"closed\":1}".into()));
    session.down.end().await;

    assert_eq!(ask("DELETE", "/api/v1/users/bob", "").await.0, 200);
    assert_eq!(ask("GET", "/api/v1/users/bob", "").await.0, 404);
    let file = fs::read_to_string(&stage.file).unwrap();
    assert!(file.starts_with("# keep this\n") && !file.contains("bob"), "{file}");
    assert_eq!(stage.ask("POST", "/api/v1/reload", TokenRole::Admin, "").await.0, 200);

    // Who did what is in the log, and no secret is.
    let log = stage.proxy.log().join("\n");
    for part in ["create user", "rotate secret", "see link", "close session", "remove user", "\"by\":\"the-operator\""]
    {
        assert!(log.contains(part), "{part} is not in the log");
    }
    let secrets = TokenRole::ALL.map(token);
    let secrets = secrets.iter().map(String::as_str).chain(["00112233445566778899aabbccddeeff"]);
    secrets.for_each(|secret| assert!(!log.contains(secret), "a secret is in the log"));
    assert_eq!(stage.ask("POST", "/api/v1/drain", TokenRole::Admin, "").await.0, 202);
    stage.proxy.logged("\"stopped\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_and_every_refusal_has_a_line_in_the_audit_log() {
    let stage = Stage::start().await;
    let steps = [
        ("POST", "/api/v1/users", TokenRole::Operator, r#"{"name": "bob"}"#, 201),
        ("GET", "/api/v1/users/bob/link", TokenRole::Operator, "", 200),
        ("POST", "/api/v1/users/bob/rotate", TokenRole::Operator, "{}", 200),
        ("PATCH", "/api/v1/users/bob", TokenRole::Operator, r#"{"expires": "soon"}"#, 422),
        ("DELETE", "/api/v1/users/nobody", TokenRole::Operator, "", 404),
        ("DELETE", "/api/v1/users/bob/sessions", TokenRole::Admin, "", 200),
        ("DELETE", "/api/v1/users/bob", TokenRole::Viewer, "", 403),
        ("POST", "/api/v1/reload", TokenRole::Operator, "", 403),
        ("GET", "/api/v1/status", TokenRole::Metrics, "", 403),
        ("GET", "/api/v1/status", TokenRole::Viewer, "", 200),
        ("POST", "/api/v1/reload", TokenRole::Admin, "", 200),
        ("POST", "/api/v1/drain", TokenRole::Admin, "", 202),
    ];
    let unknown = Client::at(&stage.admin, None, Some(Zeroizing::new("vizard_admin_wrong".into()))).unwrap();
    assert!(unknown.get::<Value>("/api/v1/status").await.is_err());
    for (method, path, role, body, status) in steps {
        let answer = stage.ask(method, path, role, body).await;
        assert_eq!(answer.0, status, "{method} {path}: {answer:?}");
    }
    let Stage { proxy, state, .. } = stage;
    proxy.logged("\"stopped\"").await;
    // Whatever it still writes is written when it has ended.
    tokio::task::spawn_blocking(move || proxy.terminate()).await.unwrap();
    let text = fs::read_to_string(state.path().join("audit.log")).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["event"], "action", "{line}");
        let outcome = if line["error"].is_null() { "done" } else { "refused" };
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}: {} {}, {outcome}", text("actor"), text("role"), text("action"), text("on"))
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    assert_eq!(
        lines,
        [
            "(unknown) -: log in -, refused",
            "the-operator operator: create user bob, done",
            "the-operator operator: see link bob, done",
            "the-operator operator: rotate secret bob, done",
            "the-operator operator: change user bob, refused",
            "the-operator operator: remove user nobody, refused",
            "the-admin admin: close sessions bob, done",
            "the-viewer viewer: DELETE /api/v1/users/{name} -, refused",
            "the-operator operator: POST /api/v1/reload -, refused",
            "the-metrics metrics: GET /api/v1/status -, refused",
            "the-admin admin: reload -, done",
            "the-admin admin: drain -, done",
        ]
    );
    let secrets = TokenRole::ALL.map(token).into_iter().chain(["vizard_admin_wrong".into()]);
    secrets.for_each(|secret| assert!(!text.contains(&secret), "a token is in the audit log: {text}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_show_what_the_listener_tells() {
    let stage = Stage::start().await;
    let mut session = login(1).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[1; 64]).await.unwrap();
    let out = stage.command(&["status"], TokenRole::Viewer);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("1 sessions") && text.contains("alice: active"), "{out:?}");
    let out = stage.command(&["status", "--json"], TokenRole::Viewer);
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(value["status"]["connections"]["sessions"], json!(1));
    let out = stage.command(&["status"], TokenRole::Metrics);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && text.contains("may not do this") && text.contains("next: "), "{text}");
    let out = stage.command(&["top"], TokenRole::Viewer);
    assert!(String::from_utf8_lossy(&out.stderr).contains("no terminal"), "{out:?}");
    let client = Client::at(&stage.admin, None, None).unwrap();
    assert!(matches!(client.get::<Value>("/api/v1/status").await, Err(ClientError::Refused(..))));
    let health: Value = client.get("/api/v1/health").await.unwrap();
    assert_eq!(health["serving"], json!(true));
    let ready: Value = client.get("/api/v1/readiness").await.unwrap();
    assert_eq!(ready["ready"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn top_draws_into_a_terminal_and_ends_with_q() {
    if !crate::support::installed("/usr/bin/tmux") {
        return;
    }
    let stage = Stage::start().await;
    let mut session = login(1).enter(stage.proxy.addr).await.unwrap();
    session.echo(&[1; 64]).await.unwrap();
    let socket = stage.state.path().join("tmux");
    let tmux = |arguments: &[&str]| {
        let output = Command::new("/usr/bin/tmux").arg("-S").arg(&socket).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let program = format!("{} top --admin {}", env!("CARGO_BIN_EXE_vizard"), stage.admin);
    let variable = format!("VIZARD_ADMIN_TOKEN={}", token(TokenRole::Viewer));
    tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "36", "-e", &variable, &program]);
    let end = Instant::now() + PATIENCE;
    loop {
        let screen = tmux(&["capture-pane", "-p"]);
        if screen.contains("alice") && screen.contains("1 sessions") && screen.contains("data centres") {
            break;
        }
        assert!(Instant::now() < end, "never drawn:\n{screen}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tmux(&["send-keys", "q"]);
    while !tmux(&["list-sessions"]).is_empty() {
        assert!(Instant::now() < end, "it goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_default_and_its_owner_needs_no_token() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("vizard.toml");
    fs::write(&file, "[admin]\n").unwrap();
    let setup = Setup::new(state.path(), "site").usual(&KEY).arg("--config", file.display());
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    proxy.logged("\"admin listener\"").await;
    let arguments = ["status", "--config", file.to_str().unwrap(), "--state-dir", state.path().to_str().unwrap()];
    let out = Command::new(env!("CARGO_BIN_EXE_vizard")).args(arguments).output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("0 sessions"), "{out:?}");
    let place = format!("unix:{}", state.path().join("admin").display());
    let client = Client::at(&place, None, None).unwrap();
    assert!(client.get::<Value>("/api/v1/status").await.is_ok());
    // Forwarded to a port, the socket is within reach of web pages, which see nothing and do nothing.
    for (head, status) in [
        ("GET /api/v1/users HTTP/1.1\r\nHost: evil.example:9443", 421),
        ("GET /api/v1/users HTTP/1.1\r\nHost: localhost:9443\r\nOrigin: https://evil.example", 403),
        ("POST /api/v1/drain HTTP/1.1\r\nHost: localhost:9443\r\nContent-Type: text/plain", 403),
        ("POST /api/v1/reload HTTP/1.1\r\nHost: localhost:9443\r\nContent-Type: application/json", 200),
    ] {
        let stream = UnixStream::connect(state.path().join("admin")).await.unwrap();
        let answer = said(stream, &format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
    }
    proxy.terminate();
    assert!(!state.path().join("admin").exists(), "the socket goes with the proxy");
}

#[test]
fn a_listener_that_gives_things_away_is_refused_at_the_start() {
    let state = tempfile::tempdir().unwrap();
    let hash = TokenHash::of("x");
    let token = format!("[[admin.tokens]]\nname = \"a\"\nrole = \"admin\"\nhash = \"{hash}\"\n");
    for (admin, reason) in [
        (format!("[admin]\nlisten = \"0.0.0.0:0\"\n{token}"), "without TLS"),
        ("[admin]\nlisten = \"127.0.0.1:0\"\n".into(), "no token"),
    ] {
        let file = state.path().join("vizard.toml");
        fs::write(&file, admin).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
        command.args(["run", "--listen", "127.0.0.1:0", "--config"]).arg(&file).arg("--state-dir").arg(state.path());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(reason) && text.contains("vizard.toml:"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_ends_with_the_token_that_it_was_made_with() {
    let stage = Stage::start().await;
    let cookie = stage.log_in(&token(TokenRole::Operator)).await;
    let host = stage.admin.strip_prefix("http://").unwrap();
    let page = async || {
        let request = format!("GET /users HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
        said(TcpStream::connect(host).await.unwrap(), &request).await
    };
    assert!(page().await.contains("alice"), "logged in");
    // The token has leaked: another one takes its place, with its name and role.
    let (old, new) = (TokenHash::of(&token(TokenRole::Operator)), TokenHash::of("vizard_another"));
    let text = fs::read_to_string(&stage.file).unwrap().replace(&old.to_string(), &new.to_string());
    fs::write(&stage.file, text).unwrap();
    assert_eq!(stage.ask("POST", "/api/v1/reload", TokenRole::Admin, "").await.0, 200);
    let answer = page().await;
    assert!(answer.contains("location: /login") && !answer.contains("alice"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_idle_lock_nobody_out() {
    let stage = Stage::start().await;
    let host = stage.admin.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(host).await.unwrap();
        // Nothing, half a head, half a body, and an answer that is not read.
        let part = match n % 4 {
            0 => String::new(),
            1 => format!("GET / HTTP/1.1\r\nHost: {host}\r\n"),
            2 => format!("POST /login HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\ntoken="),
            _ => format!("GET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        };
        stream.write_all(part.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let begun = Instant::now();
    let health = format!("GET /api/v1/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = said(TcpStream::connect(host).await.unwrap(), &health).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stage.ask("GET", "/api/v1/status", TokenRole::Viewer, "").await.0, 200);
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    drop(idle);
}

const CHROMIUM: &str = "/usr/bin/chromium";

/// What Chromium makes of a page, and everything it complained about. A screenshot is left in the target folder.
async fn browse(profile: &Path, url: &str, options: &[&str], picture: Option<&str>) -> (String, String) {
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["90", CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--enable-logging=stderr", "--hide-scrollbars"]).args(options);
    command.arg(format!("--user-data-dir={}", profile.display()));
    match picture {
        Some(name) => {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            command.arg(format!("--screenshot={}", file.display()))
        }
        None => command.args(["--virtual-time-budget=3000", "--dump-dom"]),
    };
    command.arg(url);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{url}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// A page of another site that sends a form to ours as soon as it is loaded.
fn foreign_form(folder: &Path, name: &str, action: &str, fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| format!("<input name=\"{name}\" value=\"{value}\">");
    let fields: String = fields.iter().map(field).collect();
    let page =
        format!("<form method=\"post\" action=\"{action}\">{fields}</form><script>document.forms[0].submit()</script>");
    let file = folder.join(name);
    fs::write(&file, page).unwrap();
    format!("file://{}", file.display())
}

/// Where a browser gets this cookie; cookies hold for every port of a host.
async fn give_cookie(cookie: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut browser, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = browser.read(&mut head).await;
            let cookie = format!("Set-Cookie: {cookie}; Path=/; SameSite=Strict; Max-Age=600\r\n");
            let answer = format!("HTTP/1.1 200 OK\r\n{cookie}Content-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = browser.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_in_a_browser() {
    if !crate::support::installed(CHROMIUM) {
        return;
    }
    let stage = Stage::start().await;
    for (name, settings) in [
        ("bob", r#"{"quota": "5GB/month", "note": "from the club", "expires": "2031-01-31"}"#),
        ("carol", r#"{"enabled": false}"#),
    ] {
        let body = format!("{{\"name\": \"{name}\", \"settings\": {settings}}}");
        assert_eq!(stage.ask("POST", "/api/v1/users", TokenRole::Operator, &body).await.0, 201);
    }
    let mut sessions = Vec::new();
    for seed in 0..4 {
        let mut session = login(seed).enter(stage.proxy.addr).await.unwrap();
        for _ in 0..20 {
            session.echo(&[seed as u8; 40_000]).await.unwrap();
        }
        sessions.push(session);
    }
    for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", &[0x16, 3, 1]] {
        TcpStream::connect(stage.proxy.addr).await.unwrap().write_all(request).await.unwrap();
    }
    stage.until("visited", |n| n.keys().any(|name| name.starts_with("vizard_cover_grade"))).await;

    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let (dom, _) = browse(&profile, &format!("{}/", stage.admin), &[], None).await;
    assert!(dom.contains("name=\"token\""), "a stranger sees the login: {dom}");
    // A form of another site logs no one in; one of the listener's own does.
    let operator = token(TokenRole::Operator);
    let action = format!("{}/login", stage.admin);
    let foreign = foreign_form(folder.path(), "login.html", &action, &[("token", &operator)]);
    let (dom, _) = browse(&profile, &foreign, &[], None).await;
    assert!(dom.contains("a page of another site"), "{dom}");
    let cookie = stage.log_in(&operator).await;
    browse(&profile, &give_cookie(cookie).await, &[], None).await;

    let wide = ["--window-size=1280,1180"];
    let dark = ["--window-size=1280,1180", "--blink-settings=preferredColorScheme=0"];
    let narrow = ["--window-size=500,1400"];
    for (path, has, options, picture) in [
        ("/", "Declined, by reason", &wide[..], "admin-overview.png"),
        ("/", "Declined, by reason", &dark[..], "admin-overview-dark.png"),
        ("/", "Declined, by reason", &narrow[..], "admin-overview-narrow.png"),
        ("/users", "from the club", &wide[..], "admin-users.png"),
        ("/users/alice", "QR code", &wide[..], "admin-user.png"),
        ("/users/alice", "QR code", &dark[..], "admin-user-dark.png"),
        ("/sessions", "padded-517", &wide[..], "admin-sessions.png"),
        ("/events", "session_over", &wide[..], "admin-events.png"),
    ] {
        if path == "/events" {
            sessions.clear();
            stage.until("over", |n| at(n, "vizard_connections_open{state=\"session\"}") == 0).await;
        }
        let url = format!("{}{path}", stage.admin);
        let (dom, complaints) = browse(&profile, &url, &[], None).await;
        let has = if path == "/sessions" { "alice" } else { has };
        assert!(dom.contains(has), "{path} lacks {has}: {dom}");
        assert!(!complaints.contains("Refused to") && !complaints.contains("Content Security Policy"), "{complaints}");
        browse(&profile, &url, options, Some(picture)).await;
    }

    // Anyone who lures the operator to another site can neither use the cookie nor guess the word.
    let action = format!("{}/users/alice/disable", stage.admin);
    let (dom, _) =
        browse(&profile, &foreign_form(folder.path(), "evil.html", &action, &[("csrf", "x")]), &[], None).await;
    assert!(!dom.contains("Overview"), "{dom}");
    let alice = stage.get(TokenRole::Viewer, "/api/v1/users/alice").await;
    assert_eq!(alice["enabled"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_get_names_of_the_site_and_are_moved_between_them() {
    let stage = Stage::start().await;
    let text = fs::read_to_string(&stage.file).unwrap();
    fs::write(&stage.file, format!("names = [\"two.example.com\"]\n{text}")).unwrap();
    let two = data_encoding::HEXLOWER.encode(b"two.example.com");
    let (status, answer) = stage.ask("POST", "/api/v1/users", TokenRole::Operator, "{\"name\": \"bob\"}").await;
    assert_eq!(status, 201, "{answer}");
    let link =
        async |user: &str| stage.ask("GET", &format!("/api/v1/users/{user}/link"), TokenRole::Operator, "").await.1;
    assert!(link("bob").await.contains(&two) && !link("alice").await.contains(&two));
    let domain = async || stage.get(TokenRole::Viewer, "/api/v1/users/bob").await["domain"].clone();
    assert_eq!(domain().await, "two.example.com");
    let to = |name: &str| json!({ "domain": name }).to_string();
    let change = async |body: String| stage.ask("PATCH", "/api/v1/users/bob", TokenRole::Operator, &body).await;
    let (status, answer) = change(to("none")).await;
    assert!(status == 200 && answer.contains("has a new secret and another link now"), "{answer}");
    assert!(domain().await.is_null() && !link("bob").await.contains(&two));
    let (status, answer) = change(to("three.example.com")).await;
    assert!(status == 422 && answer.contains("not one of the site"), "{status} {answer}");
    let (_, answer) = change(json!({ "note": "x" }).to_string()).await;
    assert!(!answer.contains("has a new link"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_users_are_added_in_one_call_or_none_and_the_wrong_one_is_named() {
    let stage = Stage::start().await;
    let before = fs::read_to_string(&stage.file).unwrap();
    let bulk =
        async |users: Value| stage.ask("POST", "/api/v1/bulk/users", TokenRole::Operator, &users.to_string()).await;
    let user = |number: usize| json!({ "name": format!("user{number}") });
    let secret = "0f".repeat(16);
    for (wrong, status, said) in [
        (json!({ "name": "alice" }), 409, "entry 21: there is a user alice already; nothing was added"),
        (json!({ "name": "user3" }), 409, "entry 21: there is a user user3 already"),
        (json!({ "name": "x", "settings": { "quota": "lots" } }), 422, "entry 21: not a quota"),
        (json!({ "name": "x", "secret": "short" }), 422, "entry 21: secret: "),
    ] {
        let users: Vec<Value> = (0..20).map(user).chain([wrong, user(20)]).collect();
        let (code, answer) = bulk(Value::Array(users)).await;
        assert!(code == status && answer.contains(said), "{code} {answer}");
        assert_eq!(fs::read_to_string(&stage.file).unwrap(), before);
    }
    assert_eq!(bulk(json!([])).await.0, 422);
    let mut users: Vec<Value> = (0..300).map(user).collect();
    users.push(json!({ "name": "last", "secret": secret, "settings": { "max_sessions": 40 } }));
    let (code, answer) = bulk(Value::Array(users)).await;
    assert!(code == 201 && answer.contains("301 users added") && !answer.contains(&secret), "{code} {answer}");
    let known = stage.get(TokenRole::Viewer, "/api/v1/users").await;
    assert_eq!(known.as_array().unwrap().len(), 302);
    assert_eq!(stage.get(TokenRole::Viewer, "/api/v1/users/last").await["max_sessions"], 40);
    let (_, link) = stage.ask("GET", "/api/v1/users/last/link", TokenRole::Operator, "").await;
    assert!(link.contains(&secret));
    let (code, _) = stage.ask("POST", "/api/v1/bulk/users", TokenRole::Viewer, "[]").await;
    assert_eq!(code, 403);
}
