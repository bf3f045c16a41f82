//! The other end of the admin listener, for commands.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::AdminAddress;
use super::views::Failure;

/// Time limit of a request.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest answer that is read.
const LONGEST: usize = 32 << 20;

/// Client of the admin listener, with its address and token.
pub struct Client {
    target: Target,
    token: Option<Zeroizing<String>>,
}

enum Target {
    Unix(PathBuf),
    Tcp { authority: String, host: String, port: u16, tls: Option<TlsConnector> },
}

/// Reason why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Not a URL of the admin listener.
    Url,
    /// The certificates to trust cannot be read.
    Trust(String),
    /// No one answers there.
    Unreachable(String),
    /// It was refused.
    Refused(StatusCode, Failure),
    /// The answer makes no sense.
    Answer(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("not the address of an admin listener"),
            Self::Trust(error) => write!(f, "the certificates to trust cannot be read: {error}"),
            Self::Unreachable(error) => write!(f, "the admin listener cannot be reached: {error}"),
            Self::Refused(_, failure) => f.write_str(&failure.error),
            Self::Answer(error) => write!(f, "the answer cannot be parsed: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Returns advice on what to do.
    pub fn fix(&self) -> String {
        match self {
            Self::Url => "write http://127.0.0.1:PORT, https://NAME:PORT or unix:/PATH".into(),
            Self::Trust(_) => "name a file of certificates with --ca".into(),
            Self::Unreachable(_) => "see whether the proxy runs, with a section [admin] in its configuration".into(),
            Self::Refused(StatusCode::UNAUTHORIZED, _) => {
                "give a token with --token-file or VIZARD_ADMIN_TOKEN; `vizard token ROLE` makes one".into()
            }
            Self::Refused(_, failure) => failure.next.clone(),
            Self::Answer(_) => "see whether both programs have the same version".into(),
        }
    }
}

impl Client {
    /// For a listener on this machine.
    pub fn local(place: &AdminAddress, token: Option<Zeroizing<String>>) -> Self {
        let target = match place {
            AdminAddress::Unix(path) => Target::Unix(path.clone()),
            AdminAddress::Tcp(address) => Target::Tcp {
                authority: address.to_string(),
                host: address.ip().to_string(),
                port: address.port(),
                tls: None,
            },
        };
        Self { target, token }
    }

    /// For the listener at a URL or at `unix:PATH`. `trusted` are certificates to trust in place of those that browsers
    /// do.
    pub fn at(url: &str, trusted: Option<&Path>, token: Option<Zeroizing<String>>) -> Result<Self, ClientError> {
        if let Ok(place @ AdminAddress::Unix(_)) = url.parse() {
            return Ok(Self::local(&place, token));
        }
        let uri: Uri = url.parse().map_err(|_| ClientError::Url)?;
        let host = uri.host().ok_or(ClientError::Url)?.trim_matches(['[', ']']).to_owned();
        let (tls, usual) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(connector(trusted)?), 443),
            _ => return Err(ClientError::Url),
        };
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let target = Target::Tcp { authority, host, port: uri.port_u16().unwrap_or(usual), tls };
        Ok(Self { target, token })
    }

    /// The place, for people.
    pub fn place(&self) -> String {
        match &self.target {
            Target::Unix(path) => format!("unix:{}", path.display()),
            Target::Tcp { authority, .. } => authority.clone(),
        }
    }

    /// Gets the resource at `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        timeout(PATIENCE, self.ask(path))
            .await
            .unwrap_or_else(|_| Err(ClientError::Unreachable("no answer in time".into())))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let gone = |error: std::io::Error| ClientError::Unreachable(error.to_string());
        match &self.target {
            Target::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(gone)?;
                self.exchange(stream, "localhost", path).await
            }
            Target::Tcp { authority, host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(gone)?;
                let Some(tls) = tls else { return self.exchange(stream, authority, path).await };
                let name = ServerName::try_from(host.clone()).map_err(|_| ClientError::Url)?;
                self.exchange(tls.connect(name, stream).await.map_err(gone)?, authority, path).await
            }
        }
    }

    async fn exchange<S, T>(&self, stream: S, authority: &str, path: &str) -> Result<T, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: DeserializeOwned,
    {
        let gone = |error: hyper::Error| ClientError::Unreachable(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        tokio::spawn(async move { _ = connection.await });
        // No HTML form can send this type; see `origin`.
        let mut request =
            Request::get(path).header(header::HOST, authority).header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", **token));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| ClientError::Url)?;
        let response = sender.send_request(request).await.map_err(gone)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| ClientError::Answer(error.to_string()))?.to_bytes();
        if !status.is_success() {
            let failure = serde_json::from_slice(&body).unwrap_or_else(|_| Failure {
                error: format!("refused: {status}"),
                next: "see the log of the proxy".into(),
            });
            return Err(ClientError::Refused(status, failure));
        }
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer(error.to_string()))
    }
}

fn connector(trusted: Option<&Path>) -> Result<TlsConnector, ClientError> {
    let mut roots = RootCertStore::empty();
    match trusted {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in certificates.map_err(|error| ClientError::Trust(error.to_string()))? {
                roots.add(certificate).map_err(|error| ClientError::Trust(error.to_string()))?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Trust(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
