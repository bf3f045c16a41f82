//! Real visitors: curl, Chromium and a rustls client.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fake_tls::End;
use super::origin::{NAME, Origin};

const CURL: &str = "/usr/bin/curl";
const CHROMIUM: &str = "/usr/bin/chromium";

/// Runs curl against the name at `server`; `None` where curl is not installed.
pub async fn curl(origin: &Origin, server: SocketAddr, path: &str, options: &[&str]) -> Option<String> {
    if !super::installed(CURL) {
        return None;
    }
    let mut command = Command::new(CURL);
    command.args(["-sS", "--max-time", "120", "--resolve", &format!("{NAME}:{}:127.0.0.1", server.port())]);
    command.arg("--cacert").arg(origin.certificate()).args(options);
    command.arg(format!("https://{NAME}:{}{path}", server.port()));
    let output = run(command).await;
    assert!(output.status.success(), "curl {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What Chromium makes of the page; `None` where it is not installed.
pub async fn chromium(origin: &Origin, server: SocketAddr, profile: &Path) -> Option<String> {
    if !super::installed(CHROMIUM) {
        return None;
    }
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["90", CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-dev-shm-usage", "--no-proxy-server"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--ignore-certificate-errors-spki-list={}", origin.spki));
    command.arg(format!("--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND"));
    command.arg("--dump-dom").arg(format!("https://{NAME}:{}/", server.port())).env("HOME", profile);
    let output = run(command).await;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn run(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output());
    running.await.expect("no panic in a child").expect("the command runs")
}

/// A TLS client that trusts the certificate of `origin` and keeps its tickets.
pub struct Visitor {
    config: Arc<ClientConfig>,
}

impl Visitor {
    pub fn new(origin: &Origin, version: &'static SupportedProtocolVersion) -> Self {
        Self { config: Arc::new(config(origin, version)) }
    }

    /// Loads `/`, stays on the line for `stay`, and tells how the handshake went, the answer, the end and its time.
    pub async fn load(&self, server: SocketAddr, stay: Duration) -> (HandshakeKind, String, End, Duration) {
        let stream = TcpStream::connect(server).await.expect("someone listens");
        let name = ServerName::try_from(NAME).expect("a name");
        let mut tls = TlsConnector::from(self.config.clone()).connect(name, stream).await.expect("a handshake");
        let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        tls.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        while !answer.ends_with(b"</p>\n") {
            assert_ne!(tls.read_buf(&mut answer).await.expect("an answer"), 0, "the server ended within its answer");
        }
        let start = Instant::now();
        let end = match tokio::time::timeout(stay, tls.read_u8()).await {
            Err(_) => End::Open,
            // rustls tells a FIN without a close alert from one behind it.
            Ok(Err(error)) if error.to_string().contains("close_notify") => End::Reset,
            Ok(_) => End::Fin,
        };
        let kind = tls.get_ref().1.handshake_kind().expect("a finished handshake");
        (kind, String::from_utf8_lossy(&answer).into_owned(), end, start.elapsed())
    }
}

/// Trusts the certificate of `origin`, and prefers the cipher that browsers and clients of ours prefer.
pub fn config(origin: &Origin, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(origin.certificate()).expect("a certificate")).expect("a root");
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
    builder.expect("a version").with_root_certificates(roots).with_no_client_auth()
}
