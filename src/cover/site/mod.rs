//! The built-in cover: a web server that its owner would really use.
//!
//! [`Site`] terminates TLS for the owner's domain and serves a folder or another web server behind it. Anyone who is no
//! client of ours stays here for good, so nothing in this folder knows that it is a cover: it imitates nothing and has
//! no limit that a usual web server lacks.
//!
//! ```text
//! stream ─▶ tls ──▶ http1 | http2 (one connection, deadlines, close) ─▶ answer ─▶ files | upstream | redirect
//!           └ certificate (files on disk, read again when they change) ◀─ acme (an authority that issues them)
//! ```
//!
//! A server can be told by what it answers to oddities, by the order of its headers and by its error pages, and one that
//! only this program has would mark every installation. So a folder is served as nginx serves it, the web server that
//! small sites run, to the byte where that is possible (`tests/oddities.rs` compares the two); and what an upstream
//! answers is passed on as it is.
//!
//! Left out: several certificates chosen by name, OCSP stapling, 0-RTT and websockets over HTTP/2 (browsers open them
//! over HTTP/1.1 where the server does not offer more).

pub mod acme;
mod answer;
mod answer_head;
mod bodies;
mod certificate;
mod closing;
mod conditional;
mod content;
mod date;
mod error;
pub mod extension;
mod fault;
mod files;
mod forward;
mod frames;
mod framing;
mod fronts;
mod http1;
mod http2;
mod kinds;
mod message;
mod packed;
mod page;
mod redirect;
mod request_head;
mod request_line;
pub mod socket;
mod target;
mod tls;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use self::acme::{Answering, Challenges};
use self::answer::{Handler, Source};
use self::extension::{SiteExtension, SiteVisitor};
use self::files::Folder;
use self::fronts::{FrontPeer, Fronts};
use self::upstream::Upstream;
use crate::auth::UnixTime;
use crate::net::listen::Address;

pub use self::certificate::{is_self_signed, lacking, self_signed};
pub use self::closing::linger;
pub use self::error::SiteError;
pub use self::files::default_folder;
#[doc(hidden)]
pub use self::files::published_path;
pub use self::fronts::USUAL_FIELD;

/// Settings of the built-in site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM file of the certificate chain, the site's own certificate first; reloaded when it changes.
    pub certificate: PathBuf,
    /// PEM file of the private key that belongs to `certificate`; reloaded when it changes.
    pub key: PathBuf,
    /// An authority that issues better ones, which then take the place of these two.
    pub acme: Option<Box<acme::Settings>>,
    /// Content that the site serves.
    pub content: Content,
    /// Value of the `Server` response header; by default `nginx` with a folder, and the upstream's own with an upstream.
    pub server_header: Option<String>,
    /// Addresses on which plain HTTP is answered with a redirect to HTTPS; none by default.
    pub redirect_from: Vec<SocketAddr>,
    /// Networks of proxies that say truly where visitors come from; none by default.
    pub trusted_proxies: Vec<IpNet>,
    /// Web servers in front of it; none by default.
    pub fronts: FrontSettings,
}

/// Settings for web servers in front of the site, which speak TLS with visitors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontSettings {
    /// Addresses on which the whole site is served to them over plain HTTP.
    pub listen: Vec<Address>,
    /// Header field in which those of `trusted_proxies` name the visitor; `X-Forwarded-For` by default.
    pub field: Option<String>,
}

impl Settings {
    /// A site with this content and certificate, and all else as it is by default.
    pub fn new(certificate: PathBuf, key: PathBuf, content: Content) -> Self {
        Self {
            certificate,
            key,
            acme: None,
            content,
            server_header: None,
            redirect_from: Vec::new(),
            trusted_proxies: Vec::new(),
            fronts: FrontSettings::default(),
        }
    }
}

/// Content of the built-in site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Files below a folder.
    Folder(PathBuf),
    /// Another web server, reached over plain HTTP: `http://host:port`.
    Upstream(hyper::Uri),
}

/// The web server. One value serves all connections.
pub struct Site {
    tls: Arc<ServerConfig>,
    /// The same, with the protocol of a challenge; used only while one is pending.
    challenged: Arc<ServerConfig>,
    challenges: Arc<Challenges>,
    certificate: Arc<certificate::Watched>,
    acme: Option<acme::Keeper>,
    content: Arc<Handler>,
    redirect: Arc<Handler>,
    fronts: Arc<Fronts>,
}

impl Site {
    /// Reads certificate and content. Errors name the file and the fix.
    pub fn open(settings: &Settings) -> Result<Site, SiteError> {
        let issued = settings.acme.as_ref().map(|acme| {
            acme.adopt();
            acme.file()
        });
        let certificate = Arc::new(certificate::Watched::open(&settings.certificate, &settings.key, issued)?);
        let challenges = Arc::new(Challenges::default());
        let tls = tls::config(Arc::clone(&certificate) as _)?;
        let answering = Answering { certificate: Arc::clone(&certificate), challenges: Arc::clone(&challenges) };
        let server = settings.server_header.as_deref().map(answer::server_header).transpose()?;
        let source = match &settings.content {
            Content::Folder(folder) => Source::Folder(Folder::open(folder)?),
            Content::Upstream(uri) => Source::Upstream(Box::new(Upstream::open(uri)?)),
        };
        Ok(Site {
            challenged: tls::challenged(&tls, Arc::new(answering)),
            tls,
            acme: settings.acme.clone().map(|acme| acme::Keeper::new(*acme)),
            certificate,
            content: Arc::new(Handler::new(source, server.clone())),
            redirect: Arc::new(Handler::new(Source::Redirect(Arc::clone(&challenges)), server)),
            challenges,
            fronts: Arc::new(Fronts::new(settings.trusted_proxies.clone(), settings.fronts.field.as_deref())),
        })
    }

    /// Serves one connection from its first byte to its last, and says `Ok` whatever happened after the handshake.
    ///
    /// A handshake that fails hands the stream back, the alert already written, and the caller closes it (see
    /// [`linger`]). Dropping the future ends the connection: no task of its own holds the stream. The guest may bring an
    /// [`extension::SiteExtension`], which is asked before the site.
    pub async fn serve<S>(&self, stream: S, guest: impl Into<SiteVisitor>) -> Result<(), (io::Error, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let guest = SiteVisitor { fronts: Arc::clone(&self.fronts), ..guest.into() };
        // Both parts are boxed, so that a connection that only sits there carries no more than a handshake.
        if let Some(visit) = Box::pin(self.greet(stream, guest)).await? {
            visit.await;
        }
        Ok(())
    }

    /// The handshake, and then what is to be done after it; `None` if the client took too long.
    async fn greet<S>(&self, stream: S, guest: SiteVisitor) -> Result<Option<Whole>, (io::Error, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = if self.challenges.in_handshakes() { &self.challenged } else { &self.tls };
        let first = Instant::now() + HANDSHAKE;
        let accepting = TlsAcceptor::from(Arc::clone(config)).accept(stream).into_fallible();
        let Ok(outcome) = timeout_at(first, accepting).await else { return Ok(None) };
        let stream = outcome?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if agreed == Some(acme::PROTOCOL) {
            // The authority has seen what it came for.
            return Ok(Some(Box::pin(tls::close(stream))));
        }
        let (newer, handler) = (agreed == Some(b"h2"), Arc::clone(&self.content));
        Ok(Some(Box::pin(async move {
            let stream = match newer {
                true => http2::serve(stream, guest, handler, first).await,
                // Without an agreement it is the older one, as everywhere.
                false => http1::serve(stream, guest, handler, first).await,
            };
            if let Some(stream) = stream {
                tls::close(stream).await;
            }
        })))
    }

    /// Serves a web server in front over plain HTTP, to the end: it speaks TLS with visitors. `local` says that it came by a
    /// socket in the file system. Others are not spoken to, but for this machine itself. Dropping the future ends the
    /// connection.
    pub async fn serve_front(
        &self,
        stream: TcpStream,
        (address, local): (SocketAddr, bool),
        extension: Option<Arc<dyn SiteExtension>>,
    ) {
        let peer = FrontPeer { address, local };
        if !peer.is_trusted(&self.fronts) && !address.ip().to_canonical().is_loopback() {
            return;
        }
        let guest = SiteVisitor { peer: Some(address), local, extension, fronts: Arc::clone(&self.fronts) };
        let first = Instant::now() + HANDSHAKE;
        if let Some(stream) = http1::serve(stream, guest, Arc::clone(&self.content), first).await {
            closing::linger(stream).await;
        }
    }

    /// Reads the certificate again now, and says whether it was a new one. A bad one leaves the previous in use.
    pub fn reload_certificate(&self) -> Result<bool, SiteError> {
        self.certificate.reload()
    }

    /// Returns the expiry of the certificate. One that only stands in for what an authority has still to issue has
    /// none.
    pub fn certificate_ends(&self) -> Option<UnixTime> {
        self.certificate.validity().map(|validity| validity.not_after)
    }

    /// Gets certificates from the authority, if there is one, for as long as this is polled; `changed` hears of each.
    pub async fn keep_certificate(&self, changed: impl Fn()) {
        match &self.acme {
            Some(keeper) => keeper.keep(&self.certificate, &self.challenges, changed).await,
            None => std::future::pending().await,
        }
    }

    /// Wishes that the authority is asked again soon, if it has refused before.
    pub fn ask_for_certificate(&self) {
        self.acme.iter().for_each(acme::Keeper::ask);
    }

    /// Returns the state of issuance by the authority, if there is one.
    pub fn acme(&self) -> Option<acme::Standing> {
        self.acme.as_ref().map(acme::Keeper::standing)
    }

    /// Answers a client that speaks plain HTTP with redirects. Dropping the future ends the connection.
    pub async fn redirect(&self, stream: TcpStream, peer: SocketAddr) {
        redirect::serve(stream, peer, &self.redirect).await;
    }
}

/// Opens what a site with these would open, and closes it again.
pub fn inspect(
    certificate: Option<(&Path, &Path)>,
    content: Option<&Content>,
    server_header: Option<&str>,
) -> Result<(), SiteError> {
    if let Some((certificate, key)) = certificate {
        certificate::Watched::open(certificate, key, None)?;
    }
    server_header.map(answer::server_header).transpose()?;
    match content {
        Some(Content::Folder(folder)) => Folder::open(folder).map(drop),
        Some(Content::Upstream(uri)) => Upstream::open(uri).map(drop),
        None => Ok(()),
    }
}

/// A visit from the handshake to the close.
type Whole = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Time that nginx gives a client for the handshake and the head of its first request.
const HANDSHAKE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
