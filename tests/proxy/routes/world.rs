//! Real proxies on the way to Telegram, a relay that counts who takes it, and a server that knows where names lead.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::{aside, installed};

/// What proxies want to know, where they want to know something.
pub const USER: &str = "bridge";
pub const PASSWORD: &str = "correct horse";

/// A program that listens; it ends with this value.
pub struct Program {
    pub addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Program {
    /// A SOCKS5 proxy, with a password or open.
    pub async fn microsocks(password: bool) -> Option<Self> {
        Self::start("/usr/bin/microsocks", |_, addr| {
            let mut arguments = vec!["-i".into(), "127.0.0.1".into(), "-p".into(), addr.port().to_string()];
            if password {
                arguments.extend(["-u", USER, "-P", PASSWORD].map(String::from));
            }
            arguments
        })
        .await
    }

    /// A proxy for SOCKS5 and SOCKS4 with names.
    pub async fn dante() -> Option<Self> {
        Self::start("/usr/sbin/danted", |dir, addr| {
            let text = format!(
                "logoutput: {}\ninternal: 127.0.0.1 port = {}\nexternal: 127.0.0.1\nexternal: ::1\n\
                 socksmethod: none\nclientmethod: none\n\
                 client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
                 socks pass {{ from: 0.0.0.0/0 to: 0/0 protocol: tcp }}\n",
                dir.join("log").display(),
                addr.port()
            );
            with_file(dir, &text, &["-f"])
        })
        .await
    }

    /// An HTTP proxy, with a password or open.
    pub async fn tinyproxy(password: bool) -> Option<Self> {
        Self::start("/usr/bin/tinyproxy", |dir, addr| {
            // Its passwords have no spaces.
            let login =
                if password { format!("BasicAuth {USER} {}\n", PASSWORD.replace(' ', "")) } else { String::new() };
            let log = dir.join("log");
            let text =
                format!("Port {}\nListen 127.0.0.1\nTimeout 600\nLogFile \"{}\"\n{login}", addr.port(), log.display());
            with_file(dir, &text, &["-d", "-c"])
        })
        .await
    }

    /// A Shadowsocks server with this method.
    #[cfg(feature = "shadowsocks")]
    pub async fn shadowsocks(method: &str) -> Option<Self> {
        Self::start("/usr/bin/ss-server", |_, addr| {
            let port = addr.port().to_string();
            ["-s", "127.0.0.1", "-p", &port, "-k", PASSWORD, "-m", method, "-t", "600"].map(String::from).to_vec()
        })
        .await
    }

    /// The port is free when it is chosen, and someone else may take it before the program does.
    async fn start(program: &str, arguments: impl Fn(&Path, SocketAddr) -> Vec<String>) -> Option<Self> {
        if !installed(program) {
            return None;
        }
        for _ in 0..10 {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let addr = aside().local_addr().expect("an address");
            let mut command = Command::new(program);
            command.args(arguments(dir.path(), addr)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("it runs");
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && child.try_wait().expect("it is our child").is_none() {
                if TcpStream::connect(addr).await.is_ok() {
                    return Some(Self { addr, child, _dir: dir });
                }
                tokio::task::yield_now().await;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{program} did not start in ten attempts");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_file(dir: &Path, text: &str, flags: &[&str]) -> Vec<String> {
    let file = dir.join("configuration");
    std::fs::write(&file, text).expect("writes the configuration");
    let flags = flags.iter().copied().map(String::from);
    flags.chain([file.display().to_string()]).collect()
}

/// Leads to another address, and counts who comes.
pub struct Gate {
    pub addr: SocketAddr,
    came: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Gate {
    pub async fn to(target: SocketAddr) -> Self {
        Self::at("127.0.0.1:0", target).await.expect("a free port")
    }

    /// `None` if this machine has no such address.
    pub async fn at(addr: &str, target: SocketAddr) -> Option<Self> {
        let listener = TcpListener::bind(addr).await.ok()?;
        let addr = listener.local_addr().expect("an address");
        let came = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&came);
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Some(Self { addr, came, accepting })
    }

    /// How many have come.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    /// Refuses anyone who comes from now on. Those that have come stay.
    pub async fn shut(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A server for DNS over HTTPS that sends every name to 127.0.0.1.
pub struct Names {
    pub addr: SocketAddr,
    /// Its certificate, in PEM.
    pub certificate: String,
    task: JoinHandle<()>,
}

impl Names {
    pub async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.expect("a handshake");
                    let service = hyper::service::service_fn(answer);
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
        Self { addr, certificate: made.cert.pem(), task }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One address to a question for IPv4, and none to any other.
async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let mut message = request.into_body().collect().await?.to_bytes().to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    if message.ends_with(&[0, 1, 0, 1]) {
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 127, 0, 0, 1]);
    }
    Ok(Response::new(Full::from(message)))
}
