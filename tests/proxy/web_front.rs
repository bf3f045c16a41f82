//! WEB proxies behind real web servers, which are set up as docs/web.md says.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tempfile::TempDir;

use crate::support::KEY;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::nginx::Nginx;
use crate::support::origin::{NAME, Origin, Sink};
use crate::support::vizard::{Setup, Vizard, output_in_time};
use crate::web::{folder, python};

const HAPROXY: &str = "/usr/sbin/haproxy";

/// The socket in the recipes.
const SOCKET: &str = "/run/vizard/site.sock";

/// The recipe of docs/web.md in a block of this language, with another socket.
fn recipe(language: &str, socket: &Path) -> String {
    let text = std::fs::read_to_string("docs/web.md").expect("the document");
    let block = text.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("a recipe");
    assert!(block.contains(SOCKET), "{block}");
    block.replace(SOCKET, &socket.display().to_string())
}

/// A proxy whose site is served at a socket in the file system too, with the files of `origin`.
fn serving(state: &Path, origin: &Origin, dc: &MockDc, (carrier, user): (&str, &str)) -> Vizard {
    let setup = Setup::site(state, origin).domain(NAME).dc(2, dc.addr);
    let file = origin.path().join("vizard.toml");
    let site = std::fs::read_to_string(&file).expect("the configuration");
    let listen = format!("http_listen = [\"unix:{}\"]\n", socket(origin).display());
    let web = format!("[web]\nenabled = true\ncarrier = \"{carrier}\"\n");
    let alice = format!("[[users]]\nname = \"alice\"\nsecret = \"{}\"\n{user}\n", HEXLOWER.encode(&KEY));
    std::fs::write(&file, site + &listen + &web + &alice).expect("writes the configuration");
    setup.start()
}

fn socket(origin: &Origin) -> std::path::PathBuf {
    origin.path().join("site.sock")
}

/// A running HAProxy; it ends with this value.
struct Haproxy {
    addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Haproxy {
    /// `None` where it is not installed.
    async fn start(origin: &Origin) -> Option<Self> {
        if !crate::support::installed(HAPROXY) {
            return None;
        }
        for _ in 0..10 {
            if let Some(haproxy) = Self::attempt(origin).await {
                return Some(haproxy);
            }
        }
        panic!("HAProxy did not start in ten attempts");
    }

    async fn attempt(origin: &Origin) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let addr = crate::support::aside().local_addr().expect("an address");
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("a file");
        let pem = dir.path().join("site.pem");
        std::fs::write(&pem, read(origin.certificate()) + &read(origin.key())).expect("writes the certificate");
        let text = recipe("haproxy", &socket(origin))
            .replace("bind :443", &format!("bind {addr}"))
            .replace("/etc/haproxy/site.pem", &pem.display().to_string());
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("writes the configuration");
        let mut command = Command::new(HAPROXY);
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut haproxy = Self { addr, child: command.spawn().expect("HAProxy runs"), _dir: dir };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if haproxy.child.try_wait().expect("it is our child").is_some() {
                return None;
            }
            if tokio::net::TcpStream::connect(addr).await.is_ok() {
                return Some(haproxy);
            }
            tokio::task::yield_now().await;
        }
        None
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the independent client do this at the address of a web server.
async fn visit(proxy: &Vizard, addr: SocketAddr, http: &str, action: &[&str]) {
    let mut command = Command::new(python().expect("it was asked for before"));
    command.arg(folder().join("webclient.py")).arg(action[0]).args([
        "--host",
        NAME,
        "--secret",
        &HEXLOWER.encode(&KEY),
    ]);
    command.args(["--address", &addr.to_string(), "--http", http, "--ws", "h1"]).args(&action[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(|| output_in_time(command)).await.expect("no panic");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{http} {action:?}: {said:#?}\n{:#?}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_carrier_passes_nginx_and_haproxy_as_the_recipes_set_them_up() {
    if python().is_none() {
        return;
    }
    let (origin, uploads) = (Origin::make(), Sink::start().await);
    // As nginx comes, it takes bodies of 1 MiB.
    let site = format!("client_max_body_size 1m; {}", recipe("nginx", &socket(&origin)));
    let nginx = Nginx::start_with(&origin, uploads.addr, &site).await;
    let haproxy = Haproxy::start(&origin).await;
    let (Some(nginx), Some(haproxy)) = (nginx, haproxy) else { return };
    let dc = MockDc::start(Role::Keys).await;
    for (carrier, http) in [("https", "h1"), ("https-lanes", "h2"), ("websocket", "h2"), ("websocket-lanes", "h1")] {
        let state = tempfile::tempdir().expect("a temporary folder");
        let proxy = serving(state.path(), &origin, &dc, (carrier, ""));
        for addr in [nginx.addr, haproxy.addr] {
            visit(&proxy, addr, http, &["reqpq", "--streams", "3"]).await;
        }
    }
    // Bodies beyond what web servers take by default.
    let (state, mirror) = (tempfile::tempdir().expect("a temporary folder"), MockDc::start(Role::Mirror).await);
    let proxy = serving(state.path(), &origin, &mirror, ("https", ""));
    for addr in [nginx.addr, haproxy.addr] {
        visit(&proxy, addr, "h2", &["bulk", "--streams", "1", "--megabytes", "3"]).await;
    }
}

/// The request of a page of alice's, with these fields.
fn request(fields: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).expect("a key of any length");
    mac.update(format!("tdesktop-web-proxy-bridge-v1\n{NAME}").as_bytes());
    let capability = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
    format!("GET /?bridge={capability} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n{fields}\r\n")
}

/// The first line of what is answered, to its end.
fn status(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_visitor_is_whom_the_web_server_names_and_not_who_it_says_it_is() {
    let (origin, uploads) = (Origin::make(), Sink::start().await);
    let dc = MockDc::start(Role::Mute).await;
    let state = tempfile::tempdir().expect("a temporary folder");
    let proxy = serving(state.path(), &origin, &dc, ("https", "allow = [\"198.51.100.0/24\"]"));
    let ask = |fields: &str| {
        let stream = UnixStream::connect(socket(&origin)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        tokio::task::block_in_place(|| status(stream, &request(fields)))
    };
    let (good, bad) = ("HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found");
    for (fields, expected) in [
        ("X-Forwarded-For: 198.51.100.7\r\n", good),
        ("X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n", good),
        ("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 198.51.100.7\r\n", good),
        ("X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n", bad),
        ("X-Real-IP: 198.51.100.7\r\n", bad),
        ("", bad),
    ] {
        assert_eq!(ask(fields), expected, "{fields}");
    }
    // The proxy's own TLS listener believes no one who is not named.
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        <rustls_pki_types::CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_file(origin.certificate());
    roots.add(certificate.expect("a certificate")).expect("one that is read");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = std::sync::Arc::new(builder.expect("versions").with_root_certificates(roots).with_no_client_auth());
    let over_tls = |addr: SocketAddr| {
        let name = NAME.try_into().expect("a name");
        let mut session = rustls::ClientConnection::new(std::sync::Arc::clone(&config), name).expect("a session");
        let mut stream = std::net::TcpStream::connect(addr).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let stream = rustls::Stream::new(&mut session, &mut stream);
        tokio::task::block_in_place(|| status(stream, &request("X-Forwarded-For: 198.51.100.7\r\n")))
    };
    assert_eq!(over_tls(proxy.addr), bad);
    // A real web server appends whom it sees: this machine.
    if let Some(nginx) = Nginx::start_with(&origin, uploads.addr, &recipe("nginx", &socket(&origin))).await {
        assert_eq!(over_tls(nginx.addr), bad);
    }
    if let Some(haproxy) = Haproxy::start(&origin).await {
        assert_eq!(over_tls(haproxy.addr), bad);
    }
}
