//! The built-in cover: a web server that its owner would really use.
//!
//! [`Site`] terminates TLS for the owner's domain and serves a folder or another web server behind it. Whoever is no
//! client of ours stays here for good, so nothing in this folder knows that it is a cover: it imitates nothing and has
//! no limit that a usual web server lacks.
//!
//! ```text
//! stream ─▶ tls ──▶ visit (one connection: hyper, deadlines, close) ─▶ answer ─▶ files | upstream | redirect
//!           └ certificate (files on disk, read again when they change)
//! ```
//!
//! Left out: several certificates chosen by name, OCSP stapling, 0-RTT, websockets over HTTP/2 (browsers open them over
//! HTTP/1.1 where the server does not offer more) and ranges of more than one part (answered with the whole file).

mod answer;
mod certificate;
mod conditional;
mod error;
mod files;
mod forward;
mod redirect;
mod tls;
mod upstream;
mod visit;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::answer::{Handler, Source};
use self::files::Folder;
use self::upstream::Upstream;
use self::visit::{Protocol, Visit};

pub use self::certificate::self_signed;
pub use self::error::SiteError;
pub use self::files::default_folder;
pub use self::visit::linger;

/// Settings of the built-in site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM file of the certificate chain, the site's own certificate first; reloaded when it changes.
    pub certificate: PathBuf,
    /// PEM file of the private key that belongs to `certificate`; reloaded when it changes.
    pub key: PathBuf,
    /// What the site serves.
    pub content: Content,
    /// Value of the `Server` response header; none is sent by default.
    pub server_header: Option<String>,
    /// Where to answer plain HTTP with a redirect to HTTPS; nowhere by default.
    pub redirect_from: Vec<SocketAddr>,
}

/// What the built-in site serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Files below a folder.
    Folder(PathBuf),
    /// Another web server, reached over plain HTTP: `http://host:port`.
    Upstream(hyper::Uri),
}

/// The web server. One value serves all connections.
pub struct Site {
    acceptor: TlsAcceptor,
    certificate: Arc<certificate::Watched>,
    content: Arc<Handler>,
    redirect: Arc<Handler>,
}

impl Site {
    /// Reads certificate and content. Errors name the file and the mend.
    pub fn open(settings: &Settings) -> Result<Site, SiteError> {
        let certificate = Arc::new(certificate::Watched::open(&settings.certificate, &settings.key)?);
        let server = settings.server_header.as_deref().map(answer::server_header).transpose()?;
        let source = match &settings.content {
            Content::Folder(folder) => Source::Folder(Folder::open(folder)?),
            Content::Upstream(uri) => Source::Upstream(Box::new(Upstream::open(uri)?)),
        };
        Ok(Site {
            acceptor: TlsAcceptor::from(tls::config(Arc::clone(&certificate) as _)?),
            certificate,
            content: Arc::new(Handler::new(source, server.clone())),
            redirect: Arc::new(Handler::new(Source::Redirect, server)),
        })
    }

    /// Serves one connection from its first byte to its last, and says `Ok` whatever happened after the handshake.
    ///
    /// A handshake that fails hands the stream back, the alert already written, and the caller closes it (see
    /// [`linger`]). Dropping the future ends the connection: no task of its own holds the stream.
    pub async fn serve<S>(&self, stream: S, peer: Option<SocketAddr>) -> Result<(), (io::Error, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Both parts are boxed, so that a connection that only sits there carries no more than a handshake.
        if let Some(visit) = Box::pin(self.greet(stream, peer)).await? {
            visit.await;
        }
        Ok(())
    }

    /// The handshake, and then what is to be done after it; `None` if the client took too long.
    async fn greet<S>(&self, stream: S, peer: Option<SocketAddr>) -> Result<Option<Whole>, (io::Error, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = timeout(HANDSHAKE, self.acceptor.accept(stream).into_fallible());
        let Ok(outcome) = handshake.await else { return Ok(None) };
        let stream = outcome?;
        let protocol = Protocol::negotiated(stream.get_ref().1.alpn_protocol());
        let visit = Visit { protocol, peer, handler: Arc::clone(&self.content) };
        Ok(Some(Box::pin(async move {
            if let Some(stream) = visit.drive(stream).await {
                tls::close(stream).await;
            }
        })))
    }

    /// Reads the certificate again now, and says whether it was a new one. A bad one leaves the previous in use.
    pub fn reload_certificate(&self) -> Result<bool, SiteError> {
        self.certificate.reload()
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn certificate_ends(&self) -> Option<i64> {
        self.certificate.ends()
    }

    /// Answers a client that speaks plain HTTP with redirects. Dropping the future ends the connection.
    pub async fn redirect(&self, stream: TcpStream, peer: SocketAddr) {
        redirect::serve(stream, peer, &self.redirect).await;
    }
}

/// A visit from the handshake to the close.
type Whole = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What nginx gives a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
