//! What a cover site serves: a certificate, a page, a big file, and a place that takes uploads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, PublicKeyData};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::dice::Dice;

/// The name in most captured hellos, hence the name of the cover.
pub const NAME: &str = "mask.example.org";

/// What the page says.
pub const PAGE: &str = "<!doctype html><title>Kite club</title><p id=\"said\">Wind from the west on Sunday.</p>\n";

/// Size of the big file.
pub const BIG: usize = 100 << 20;

/// Files of a site in a folder that goes away with this value.
pub struct Origin {
    dir: TempDir,
    /// SHA-256 of the public key, in the base64 that Chromium wants.
    pub spki: String,
}

impl Origin {
    /// The key is RSA: an ECDSA signature changes its length from one handshake to the next, and with it a record.
    pub fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("certificate parameters");
        params.distinguished_name.push(DnType::CommonName, NAME);
        let certificate = params.self_signed(&key).expect("a certificate");
        let spki = BASE64.encode(&Sha256::digest(key.subject_public_key_info()));
        let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).expect("writes a file");
        write("cert.pem", certificate.pem().as_bytes());
        write("key.pem", key.serialize_pem().as_bytes());
        std::fs::create_dir(dir.path().join("www")).expect("a folder");
        write("www/index.html", PAGE.as_bytes());
        Self { dir, spki }
    }

    /// Adds the big file and gives its SHA-256.
    pub fn big_file(&self) -> String {
        let bytes = Dice::new(100).bytes(BIG);
        std::fs::write(self.folder().join("big.bin"), &bytes).expect("writes the big file");
        HEXLOWER.encode(&Sha256::digest(&bytes))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("www")
    }
}

/// A plain HTTP server behind the cover that answers an upload with its size and SHA-256.
pub struct Sink {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = hyper_util::rt::TokioIo::new(stream);
                let service = hyper::service::service_fn(weigh);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn weigh(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let mut body = request.into_body();
    let mut hash = Sha256::new();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            count += data.len();
            hash.update(data);
        }
    }
    Ok(Response::new(Full::from(format!("{count} {}", HEXLOWER.encode(&hash.finalize())))))
}
