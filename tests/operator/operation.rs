//! What an operator sees and sets: the log, the way to the cover, limits of the system, the end of idle sessions.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{End, Login, PATIENCE};
use crate::support::hello::{self, capture};
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::NAME;
use crate::support::vizard::{Setup, Vizard};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A proxy with the built-in site and the usual user, and the folder of its state.
async fn site(config: &str, arrange: impl FnOnce(Setup) -> Setup) -> (Vizard, TempDir) {
    let state = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup::new(state.path(), "site").usual(&KEY).arg("--config", written(&state, config).display());
    (start(arrange(setup)).await, state)
}

fn written(folder: &TempDir, config: &str) -> std::path::PathBuf {
    let file = folder.path().join("vizard.toml");
    std::fs::write(&file, config).expect("writes the configuration");
    file
}

async fn start(setup: Setup) -> Vizard {
    tokio::task::spawn_blocking(move || setup.start()).await.expect("the program starts")
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::new(u64::from(hello::now())))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cover_is_told_who_visits_if_it_asks() {
    for (version, header) in [("v1", &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11")]
    {
        let cover = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = cover.local_addr().unwrap();
        let state = tempfile::tempdir().unwrap();
        let config = format!("[cover]\nkind = \"remote\"\naddress = \"{address}\"\nproxy_protocol = \"{version}\"\n");
        let setup = Setup::bare(state.path()).usual(&KEY).arg("--config", written(&state, &config).display());
        // The proxy's own visits come first and in between; they say who they are too, and get nothing.
        let visited = async { introduced(&cover, header).await };
        let (proxy, _) = tokio::join!(start(setup), visited);
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let port = client.local_addr().unwrap().port();
        let ports = [port.to_be_bytes(), proxy.addr.port().to_be_bytes()].concat();
        let named = |seen: &[u8]| match version {
            "v1" => String::from_utf8_lossy(seen).contains(&format!(" {port} ")),
            _ => seen[16..28] == [&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat()[..],
        };
        let client_came = async { while !named(&introduced(&cover, header).await) {} };
        tokio::time::timeout(PATIENCE, client_came)
            .await
            .unwrap_or_else(|_| panic!("{version}: no word of the client"));
    }
}

/// What the next connection begins with, which is such a header.
async fn introduced(cover: &TcpListener, header: &[u8]) -> Vec<u8> {
    let (leg, _) = cover.accept().await.expect("a connection");
    let seen = first_bytes(leg, header.len() + 24).await;
    assert!(seen.starts_with(header), "{seen:?}");
    seen
}

async fn first_bytes(mut stream: TcpStream, enough: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < enough && !bytes.ends_with(b"hello") {
        assert!(stream.read_buf(&mut bytes).await.expect("it stays open") > 0, "{bytes:?}");
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_logged_with_its_error_and_without_an_address() {
    let (proxy, _state) = site("", |setup| setup).await;
    let mut login = login();
    hello::redate(&mut login.wire, hello::now(), hello::now() - 86_400);
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(&login.wire).await.unwrap();
    let line = proxy.logged("its clock is off").await;
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    let detail = entry["detail"].as_str().unwrap();
    let skew: i64 = detail.strip_prefix("by ").unwrap().strip_suffix(" s").unwrap().parse().unwrap();
    assert!((-86_410..=-86_390).contains(&skew), "{line}");
    let port = client.local_addr().unwrap().port().to_string();
    assert!(proxy.log().iter().all(|line| !line.contains(&port) && !line.contains("client\":")), "{:#?}", proxy.log());
}

/// Anybody who has recorded a hello can show it as often as a network carries it.
#[tokio::test(flavor = "multi_thread")]
async fn a_spent_hello_shown_again_and_again_is_summarised() {
    const TIMES: usize = 400;
    let (proxy, _state) = site("", |setup| setup).await;
    let login = login();
    let mut answered = [0; 1];
    for _ in 0..TIMES {
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        client.write_all(&login.wire).await.unwrap();
        let read = client.read_exact(&mut answered);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").unwrap();
    }
    let log = proxy.logged("\"reason\":\"replay\"").await;
    assert!(log.contains("declined after a valid digest") && log.contains("\"user\":\"alice\""), "{log}");
    let lines = proxy.log().iter().filter(|line| line.contains("declined after")).count();
    // One at once for each reason, and one if a minute went by.
    assert!(lines <= 3, "{lines} lines for {TIMES} hellos");
    let size: usize = proxy.log().iter().map(String::len).sum();
    assert!(size < 20_000, "{size} bytes");
    // What was counted is told before the end.
    proxy.signal(Signal::TERM);
    let rest = proxy.logged("\"count\":").await;
    assert!(rest.contains("declined after a valid digest"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_keeps_out_is_summarised_under_its_name() {
    const TIMES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("bad.netset");
    std::fs::write(&list, "127.0.0.0/8\n").unwrap();
    let (proxy, _state) = site(&format!("[lists]\ndeny = [\"{}\"]\n", list.display()), |setup| setup).await;
    let login = login();
    for _ in 0..TIMES {
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        client.write_all(&login.wire).await.unwrap();
        let read = client.read_u8();
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").unwrap();
    }
    let line = proxy.logged("rejected by a limit or a list").await;
    assert!(line.contains(&format!("on a deny list: {}", list.display())) && !line.contains("127.0.0.1"), "{line}");
    let lines = proxy.log().iter().filter(|line| line.contains("rejected by")).count();
    assert!(lines <= 3, "{lines} lines for {TIMES} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_logged_where_the_operator_asks_for_them() {
    let (proxy, _state) = site("[log]\nclient_addresses = true\nlevel = \"debug\"\n", |setup| setup).await;
    TcpStream::connect(proxy.addr).await.unwrap().write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert!(proxy.logged("\"reason\":\"form\"").await.contains("\"client\":\"127.0.0.1\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_ends_as_the_cover_ends_one() {
    let dc = MockDc::start(Role::Echo).await;
    let (proxy, _state) = site("[session]\nidle = \"1s\"\n", |setup| setup.dc(2, dc.addr)).await;
    let mut session = login().enter(proxy.addr).await.unwrap();
    session.echo(&[1; 40]).await.unwrap();
    assert_eq!(session.down.end().await, End::Fin);
    assert_eq!(session.down.sizes.last(), Some(&19), "a close alert comes last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_does_not_hide_behind_itself() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let state = tempfile::tempdir().unwrap();
    for (listen, cover) in
        [(format!("127.0.0.1:{port}"), format!("localhost:{port}")), (format!("[::]:{port}"), own(port))]
    {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"))
            .args(["run", "--domain", "example.com", "--listen", &listen, "--cover", &cover, "--state-dir"])
            .arg(state.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("itself"), "{listen} {cover}: {text}");
    }
}

/// What was known of it is in the state directory, as an earlier release of the cover would have left it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cover_that_has_changed_is_told_of() {
    const KNOWN: &str = "the cover was visited";
    let state = tempfile::tempdir().expect("a temporary folder");
    let setup = || Setup::new(state.path(), "site").usual(&KEY);
    let proxy = start(setup()).await;
    proxy.logged(KNOWN).await;
    assert!(!proxy.log().iter().any(|line| line.contains("the cover has changed")));
    proxy.terminate();
    let file = state.path().join("cover-profile.json");
    let known = std::fs::read_to_string(&file).unwrap();
    let other = known.replace("\"flight_records\": 1", "\"flight_records\": 3");
    assert_ne!(known, other);
    std::fs::write(&file, other).unwrap();
    let line = start(setup()).await.logged("the cover has changed").await;
    assert!(line.contains("records up to the Finished: 3, now 1"), "{line}");
}

/// A process that is stopped has its connections accepted by the kernel, as one that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn health_fails_while_the_proxy_hangs_whatever_its_cover_does() {
    // Bound but not listening, so that no one else answers there.
    let away = TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let away = away.local_addr().unwrap().to_string();
    for cover in ["site", &away] {
        let state = tempfile::tempdir().unwrap();
        let proxy = start(Setup::new(state.path(), cover).usual(&KEY)).await;
        let health = || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vizard"));
            command.args(["health", "--domain", NAME, "--listen", &proxy.addr.to_string(), "--cover", cover]);
            command.arg("--state-dir").arg(state.path());
            let output = tokio::task::block_in_place(|| command.output()).expect("the program runs");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(health().0, Some(0), "{cover}");
        proxy.signal(Signal::STOP);
        let (code, said) = health();
        assert!(code == Some(1) && said.contains("hangs") && said.contains("next: "), "{cover}: {said}");
        proxy.signal(Signal::CONT);
        assert_eq!(health().0, Some(0), "{cover}");
    }
}

/// An address of this machine that is not a loopback one, if there is any.
fn own(port: u16) -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let address = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).map(|address| address.ip());
    SocketAddr::new(address.unwrap_or([127, 0, 0, 1].into()), port).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let (proxy, _state) = site("", |setup| setup).await;
    let limits = std::fs::read_to_string(Path::new("/proc").join(proxy.id().to_string()).join("limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

/// What docs/architecture.md says of the memory of sessions rests on this.
#[tokio::test(flavor = "multi_thread")]
async fn huge_pages_are_refused() {
    let (proxy, _state) = site("", |setup| setup).await;
    let status = std::fs::read_to_string(Path::new("/proc").join(proxy.id().to_string()).join("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("THP_enabled")).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("0"), "{line}");
}
