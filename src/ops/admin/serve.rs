//! Connections of the admin listener: TLS, places, how long, how often.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::debug;

use super::answer::refuse;
use super::desk::Shared;
use super::guard::{Peer, network, too_often};
use super::listen::{Listener, bind};
use super::origin::Here;
use super::places::{AdminPermit, Places};
use super::{Keys, LARGEST_BODY, Refusal, Settings, routes};
use crate::base::summary::{self, Cause};
use crate::net::listen::accept_with;

/// Time limits of a TLS handshake, the head of a request (and the silence before it), its body, and the work on it.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(15);
const BODY: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(45);

/// Longest lifetime of a connection: those who do not read their answers shall not keep others out.
const CONNECTION: Duration = Duration::from_secs(10 * 60);

/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Reason why the admin listener cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The settings are refused.
    Refused(Refusal),
    /// Certificate or key cannot be used.
    Tls(String),
    /// The place cannot be had.
    Bind(super::AdminAddress, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(refusal.error()),
            Self::Tls(error) => write!(f, "the admin listener cannot speak TLS: {error}"),
            Self::Bind(place, error) => write!(f, "the admin listener cannot listen on {place}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// Returns advice on what to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.fix(),
            Self::Tls(_) => "correct `certificate` and `key` in the section [admin]",
            Self::Bind(..) => "end the program that listens there, or change `listen` in the section [admin]",
        }
    }
}

/// A listener that is bound and can serve.
pub struct Open {
    listener: Listener,
    keys: Keys,
}

/// Binds the place. The keys have been opened with the same settings.
pub async fn open(settings: &Settings, keys: Keys) -> Result<Open, StartError> {
    if let Some(refusal) = settings.refusal() {
        return Err(StartError::Refused(refusal));
    }
    let listener = bind(&settings.place).await.map_err(|error| StartError::Bind(settings.place.clone(), error))?;
    Ok(Open { listener, keys })
}

impl Open {
    /// The TCP address, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.keys.is_secure()
    }

    /// Serves for as long as it is polled.
    pub async fn serve(self, desk: Shared) {
        let router = routes(desk.clone());
        let sampling = desk.samples.keep(&*desk.control);
        let accepting = self.accept(&desk, &router);
        tokio::join!(sampling, accepting);
    }

    async fn accept(&self, desk: &Shared, router: &Router) {
        let own = rustix::process::geteuid().as_raw();
        let places = Places::default();
        loop {
            let (router, desk) = (router.clone(), desk.clone());
            let report = |error: &io::Error| {
                let cause = Cause::warn("the admin listener cannot accept connections");
                summary::note(cause, || error.to_string());
            };
            match &self.listener {
                Listener::Tcp(listener) => {
                    let (stream, from) = accept_with(|| listener.accept(), report).await;
                    let Some(place) = places.take(Some(network(from.ip())), Instant::now()) else { continue };
                    let here = stream.local_addr().map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |here| here.ip());
                    let guest = Guest { desk, router, peer: Peer::Tcp(from.ip()), here: Here(here), place };
                    // As it is now, and not when this began to wait.
                    let tls = self.keys.acceptor();
                    tokio::spawn(async move { guest.serve_tcp(stream, tls).await });
                }
                Listener::Unix(listener, _) => {
                    let (stream, _) = accept_with(|| listener.accept(), report).await;
                    let Some(place) = places.take(None, Instant::now()) else { continue };
                    let uid = stream.peer_cred().map(|peer| peer.uid());
                    let owner = uid.is_ok_and(|uid| uid == own || uid == 0);
                    let here = Here(Ipv4Addr::LOCALHOST.into());
                    let guest = Guest { desk, router, peer: Peer::Unix { owner }, here, place };
                    tokio::spawn(async move { guest.http(stream).await });
                }
            }
        }
    }
}

/// A connection, and all that its requests need.
struct Guest {
    desk: Shared,
    router: Router,
    peer: Peer,
    here: Here,
    place: AdminPermit,
}

impl Guest {
    async fn serve_tcp(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let Some(acceptor) = tls else { return self.http(stream).await };
        let accepted = tokio::select! {
            accepted = timeout(HANDSHAKE, acceptor.accept(stream)) => accepted,
            () = self.place.given_up() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.http(stream).await,
            Ok(Err(error)) => debug!(%error, "no TLS on the admin listener"),
            Err(_) => debug!("no TLS on the admin listener in time"),
        }
    }

    async fn http<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let guest = Arc::new(self);
        let serving = Arc::clone(&guest);
        let service = service_fn(move |request| Arc::clone(&serving).answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = timeout(CONNECTION, connection) => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a connection of the admin listener broke"),
                Err(_) => debug!("a connection of the admin listener was open too long"),
            },
            () = guest.place.given_up() => debug!("an idle connection of the admin listener was closed for a new one"),
        }
    }

    /// Reads all of a request before anything is done about it: a peer that takes its time takes nothing else.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let for_health = request.uri().path() == "/api/v1/health";
        if !for_health && !self.desk.may_ask(self.peer) {
            return Ok(too_often());
        }
        let (parts, body) = request.into_parts();
        let whole = match timeout(BODY, Limited::new(body, LARGEST_BODY).collect()).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(_)) => return Ok(last(StatusCode::PAYLOAD_TOO_LARGE, "this is too long", "send at most 16 KiB")),
            Err(_) => return Ok(last(StatusCode::REQUEST_TIMEOUT, "the request did not come in time", "try again")),
        };
        let Some(_work) = self.place.work(for_health) else {
            return Ok(last(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being worked on", "try again"));
        };
        let mut request = Request::from_parts(parts, Body::from(whole));
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.here);
        let Ok(answered) = timeout(WHOLE, self.router.clone().oneshot(request)).await else {
            debug!("a request to the admin listener took too long");
            return Ok(last(StatusCode::REQUEST_TIMEOUT, "this took too long", "try again"));
        };
        answered
    }
}

/// A refusal that ends the connection.
fn last(status: StatusCode, error: &str, next: &str) -> Response<Body> {
    let mut response = refuse(status, error, next);
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
