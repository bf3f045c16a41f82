//! Connections of the admin listener: TLS, how many, how long, how often.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::answer::refuse;
use super::desk::Shared;
use super::guard::{Peer, too_often};
use super::listen::{Listener, bind};
use super::{Keys, Place, Refusal, Settings, routes};

/// Connections at once.
const MOST: usize = 128;

/// How long a TLS handshake may take, the head of a request, and a whole request with its answer.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(15);
const WHOLE: Duration = Duration::from_secs(45);

/// How long a connection may live: those who do not read their answers shall not keep others out.
const CONNECTION: Duration = Duration::from_secs(10 * 60);

/// Pause after an error that would come again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Why the admin listener cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The settings are refused.
    Refused(Refusal),
    /// Certificate or key cannot be used.
    Tls(String),
    /// The place cannot be had.
    Bind(Place, io::Error),
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
    /// What to do.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.mend(),
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
        let places = Arc::new(Semaphore::new(MOST));
        let sampling = desk.samples.keep(&*desk.control);
        let accepting = self.accept(&desk, &router, &places);
        tokio::join!(sampling, accepting);
    }

    async fn accept(&self, desk: &Shared, router: &Router, places: &Arc<Semaphore>) {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
            let (router, desk, tls) = (router.clone(), desk.clone(), self.keys.acceptor());
            let accepted = match &self.listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| {
                    let peer = Peer::Tcp(from.ip());
                    tokio::spawn(async move {
                        serve_tcp(stream, tls, desk, router, peer).await;
                        drop(place);
                    });
                }),
                Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                    let uid = stream.peer_cred().map(|peer| peer.uid());
                    let owner = uid.is_ok_and(|uid| uid == own || uid == 0);
                    tokio::spawn(async move {
                        http(stream, desk, router, Peer::Unix { owner }).await;
                        drop(place);
                    });
                }),
            };
            if let Err(error) = accepted {
                warn!(%error, "the admin listener cannot accept connections");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve_tcp(stream: tokio::net::TcpStream, tls: Option<TlsAcceptor>, desk: Shared, router: Router, peer: Peer) {
    match tls {
        None => http(stream, desk, router, peer).await,
        Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, desk, router, peer).await,
            Ok(Err(error)) => debug!(%error, "no TLS on the admin listener"),
            Err(_) => debug!("no TLS on the admin listener in time"),
        },
    }
}

async fn http<S>(stream: S, desk: Shared, router: Router, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(desk.clone(), router.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection of the admin listener broke"),
        Err(_) => debug!("a connection of the admin listener lived too long"),
    }
}

async fn answer(
    desk: Shared,
    router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    if !desk.may_ask(peer) {
        return Ok(too_often());
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let Ok(answered) = timeout(WHOLE, router.oneshot(request)).await else {
        info!("a request to the admin listener took too long");
        return Ok(refuse(StatusCode::REQUEST_TIMEOUT, "this took too long", "try again").into_response());
    };
    answered
}
