//! An authority on loopback: Pebble, the test server of Let's Encrypt, and the names that it looks up.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Uri;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use vizard::net::https::{Bounds, Client};

use crate::support::aside;

/// The program.
pub const PEBBLE: &str = "/usr/bin/pebble";

/// Where things are. Programs that cannot be given port 0 get one that no one is given by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub api: u16,
    pub management: u16,
    pub tls: u16,
    pub http: u16,
}

impl Ports {
    pub fn free() -> Self {
        // All at once, so that they differ.
        let held = [(); 4].map(|()| aside());
        let [api, management, tls, http] = held.map(|held| held.local_addr().expect("an address").port());
        Self { api, management, tls, http }
    }

    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.api)
    }
}

/// The certificates that Pebble itself is known by, in a folder that goes away with this value.
pub struct Trust {
    folder: TempDir,
}

impl Trust {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut authority = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (key, own) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let root = authority.self_signed(&key).expect("a certificate").pem();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&own, &Issuer::new(authority, key)).expect("a certificate").pem();
        for (name, text) in [("root.pem", root), ("cert.pem", leaf), ("key.pem", own.serialize_pem())] {
            std::fs::write(folder.path().join(name), text).expect("writes");
        }
        Self { folder }
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// A running authority; it ends with this value.
pub struct Pebble {
    child: Child,
    ports: Ports,
    root: String,
}

impl Pebble {
    pub async fn start(trust: &Trust, ports: Ports, names: &Names) -> Self {
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", ports.api),
            "managementListenAddress": format!("127.0.0.1:{}", ports.management),
            "certificate": trust.file("cert.pem"), "privateKey": trust.file("key.pem"),
            "tlsPort": ports.tls, "httpPort": ports.http,
        }});
        let file = trust.folder.path().join("pebble.json");
        std::fs::write(&file, config.to_string()).expect("writes");
        let mut command = Command::new(PEBBLE);
        command.arg("-strict").arg("-config").arg(file).arg("-dnsserver").arg(names.addr.to_string());
        // It waits at random before it looks, unless told otherwise; one nonce in twenty it refuses, as by default.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0").stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pebble runs");
        let pebble = Self { child, ports, root: trust.file("root.pem") };
        let end = Instant::now() + Duration::from_secs(30);
        // It opens them one after the other.
        for port in [ports.api, ports.management] {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(Instant::now() < end, "pebble never listens");
                tokio::task::yield_now().await;
            }
        }
        pebble
    }

    /// The root of what it issues.
    pub async fn root(&self) -> CertificateDer<'static> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(&self.root).expect("PEM")).expect("a root");
        let url: Uri = format!("https://127.0.0.1:{}/roots/0", self.ports.management).parse().expect("a URL");
        let bounds = Bounds { size: 1 << 16, time: Duration::from_secs(20) };
        let pem = Client::trusting(trusted).get(&url, bounds).await.expect("it shows its root");
        CertificateDer::from_pem_slice(&pem).expect("PEM")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name server for which every name leads to 127.0.0.1, or none does.
pub struct Names {
    addr: SocketAddr,
    known: Arc<AtomicBool>,
}

impl Names {
    pub fn serve() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = socket.local_addr().expect("an address");
        let known = Arc::new(AtomicBool::new(true));
        let knows = Arc::clone(&known);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], knows.load(Ordering::Relaxed)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { addr, known }
    }

    pub fn forget(&self) {
        self.known.store(false, Ordering::Relaxed);
    }
}

/// The answer to one question: an address to one for IPv4, nothing to others.
fn answer(query: &[u8], known: bool) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    let mut end = HEAD;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(HEAD..end + 5)?;
    let wants_address = question.ends_with(&[0, 0, 1, 0, 1]);
    let found = known && wants_address;
    let (code, count) = (if known { 0x80 } else { 0x83 }, u8::from(found));
    let mut answer = [&query[..2], &[0x81, code, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    if found {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
