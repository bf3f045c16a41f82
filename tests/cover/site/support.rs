//! A running site, and clients for it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderName};
use hyper::http::request;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vizard::cover::site::{Content, Settings, Site, linger, self_signed};

/// The protocols that a client may choose.
pub const BOTH: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A site on a port of its own.
pub struct Host {
    pub dir: TempDir,
    pub site: Arc<Site>,
    address: SocketAddr,
}

impl Host {
    /// A site with a few files.
    pub async fn folder() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let settings = Host::settings(dir.path());
        Host::start(dir, settings).await
    }

    /// A site in front of another server.
    pub async fn upstream(address: SocketAddr) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::Upstream(format!("http://{address}").parse().unwrap());
        let settings = Settings { content, ..Host::settings(dir.path()) };
        Host::start(dir, settings).await
    }

    /// The same behind proxies in these networks.
    pub async fn behind(address: SocketAddr, proxies: &[&str]) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::Upstream(format!("http://{address}").parse().unwrap());
        let trusted_proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
        let settings = Settings { content, trusted_proxies, ..Host::settings(dir.path()) };
        Host::start(dir, settings).await
    }

    /// Settings for a folder that is filled here.
    pub fn settings(dir: &Path) -> Settings {
        let site = dir.join("site");
        for folder in ["sub", "empty", ".well-known", ".git"] {
            fs::create_dir_all(site.join(folder)).unwrap();
        }
        let files = [
            ("index.html", "<h1>Home</h1>\n"),
            ("sub/index.html", "<h1>Sub</h1>\n"),
            ("data.json", "{}"),
            ("with space.txt", "text"),
            (".well-known/proof", "proof"),
            (".hidden", "secret"),
            (".git/config", "secret"),
            ("../secret", "secret"),
        ];
        for (name, content) in files {
            fs::write(site.join(name), content).unwrap();
        }
        fs::write(site.join("big.css"), "p{color:#000}\n".repeat(4000).split_at(40_000).0).unwrap();
        fs::write(site.join("picture.png"), (0..5000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()).unwrap();
        issue(dir);
        Settings::new(dir.join("site.crt"), dir.join("site.key"), Content::Folder(site))
    }

    pub async fn start(dir: TempDir, settings: Settings) -> Host {
        let site = Arc::new(Site::open(&settings).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&site);
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let site = Arc::clone(&serving);
                tokio::spawn(async move {
                    if let Err((_, stream)) = site.serve(stream, Some(peer)).await {
                        linger(stream).await;
                    }
                });
            }
        });
        Host { dir, site, address }
    }

    /// Puts a new certificate and key in the place of the old ones.
    pub fn renew(&self) {
        issue(self.dir.path());
    }

    /// The certificate as its file has it.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.dir.path().join("site.crt")).unwrap()
    }

    pub async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn handshake<S>(&self, config: &Arc<ClientConfig>, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from("site.test").unwrap(), stream).await
    }

    pub async fn connect(&self, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
        self.handshake(config, self.stream().await).await.unwrap()
    }

    /// An HTTP client with one connection of its own.
    pub async fn client<B>(&self, alpn: &[u8]) -> Sender<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
        let stream = self.connect(&Arc::new(client(&versions, &[alpn]))).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let io = TokioIo::new(stream);
        if alpn == b"h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
    }

    /// What curl prints for a path, the last of its arguments.
    pub async fn curl(&self, arguments: &[&str]) -> Vec<u8> {
        let (path, options) = arguments.split_last().unwrap();
        let port = self.address.port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "60", "--noproxy", "*", "--cacert"]);
        curl.arg(self.dir.path().join("site.crt"));
        curl.args(["--resolve", &format!("site.test:{port}:127.0.0.1")]);
        curl.args(options).arg(format!("https://site.test:{port}{path}"));
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn issue(dir: &Path) {
    let fresh = tempfile::tempdir().unwrap();
    let (certificate, key) = self_signed(&["site.test"], fresh.path()).unwrap();
    fs::copy(certificate, dir.join("site.crt")).unwrap();
    fs::copy(key, dir.join("site.key")).unwrap();
}

/// A TLS client that takes any certificate, but only from who has its key.
pub fn client(versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One client connection of either protocol.
pub enum Sender<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Sender<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub async fn send(&mut self, request: request::Builder, body: B) -> Response<Incoming> {
        let mut request = request.body(body).unwrap();
        match self {
            Sender::Http1(sender) => {
                request.headers_mut().insert(HOST, "site.test".parse().unwrap());
                sender.send_request(request).await.unwrap()
            }
            Sender::Http2(sender) => {
                *request.uri_mut() = format!("https://site.test{}", request.uri()).parse().unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }
}

/// An answer that has arrived.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub async fn send(host: &Host, alpn: &[u8], request: request::Builder, body: &'static str) -> Answer {
    let response = host.client(alpn).await.send(request, Full::new(Bytes::from(body))).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

pub async fn get_with(host: &Host, alpn: &[u8], path: &str, headers: &[(HeaderName, &str)]) -> Answer {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    send(host, alpn, request, "").await
}

pub async fn get(host: &Host, alpn: &[u8], path: &str) -> Answer {
    get_with(host, alpn, path, &[]).await
}

/// The head of a request or of an answer, and nothing behind it.
pub async fn head<R: AsyncRead + Unpin>(stream: &mut R) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A request body that is sent piece by piece.
pub fn pieces() -> (mpsc::Sender<Bytes>, Pieces) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Pieces(receiver))
}

pub struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// An upstream that answers each request with its own body.
pub async fn serve_echo(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let echo = service_fn(|request: Request<Incoming>| async {
            Ok::<_, hyper::Error>(Response::new(request.into_body()))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo));
    }
}

/// nginx behind a port that the kernel chose: it listens on a socket file, and the test passes connections on.
pub struct Nginx {
    pub address: SocketAddr,
    process: Child,
    _dir: TempDir,
}

impl Nginx {
    pub async fn start() -> Nginx {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), vec![7; 3_000_000]).unwrap();
        let root = dir.path().display();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log stderr;
             events {{}}
             http {{
               access_log off;
               client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
               uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
               server {{
                 listen unix:{root}/socket;
                 root {root};
                 location = /who {{
                   return 200 '$http_host|$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_forwarded_host|$http_x_real_ip|$server_protocol';
                 }}
               }}
             }}"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(dir.path().join("nginx.conf"))
            .args(["-p", &root.to_string(), "-e", "stderr"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.path().join("socket");
        while UnixStream::connect(&socket).await.is_err() {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut nginx = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut stream, &mut nginx).await });
            }
        });
        Nginx { address, process, _dir: dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream that remembers what it read.
pub struct Tap {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub fn new(stream: TcpStream) -> Tap {
        Tap { stream, seen: Arc::default() }
    }

    pub fn seen(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.seen)
    }
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.seen.lock().unwrap().extend_from_slice(&buf.filled()[before..]);
        outcome
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Type and length of each TLS record.
pub fn records(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        records.push((*kind, length));
        bytes = &rest[length..];
    }
    records
}
