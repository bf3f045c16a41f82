//! The owner's own web server behind the site, reached over plain HTTP/1.1.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::http::uri::{Authority, Scheme};
use hyper::upgrade::{self, OnUpgrade};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, sleep_until};

use super::answer::{Body, BodyError, Guest, Tunnel, empty, page};
use super::error::SiteError;
use super::forward;

/// Another web server that has the content.
pub(super) struct Upstream {
    authority: Authority,
    client: Client<HttpConnector, Body>,
}

impl Upstream {
    /// Checks the address. Whether somebody listens there is found out by each request.
    pub(super) fn open(uri: &Uri) -> Result<Upstream, SiteError> {
        let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path_and_query().is_none_or(|path| path == "/");
        let authority = uri.authority().filter(|name| plain && !name.host().is_empty() && !name.as_str().contains('@'));
        let authority = authority.ok_or_else(|| SiteError::BadUpstream(uri.clone()))?.clone();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_SIZE)
            .set_host(false)
            .build(connector);
        Ok(Upstream { authority, client })
    }

    /// Passes a request on and its answer back, both as they come.
    pub(super) async fn answer(&self, mut request: Request<Incoming>, guest: Guest) -> Response<Body> {
        let upgrade = forward::wants_upgrade(request.version(), request.headers());
        let client_side = upgrade.then(|| upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        forward::request(&mut parts, &self.authority, guest.peer.map(|peer| peer.ip()), upgrade);
        let progress = Progress::default();
        let request = Request::from_parts(parts, watched(body, progress.clone()));
        let response = tokio::select! {
            response = self.client.request(request) => response,
            () = progress.stalled() => return page(StatusCode::GATEWAY_TIMEOUT),
        };
        match response {
            Ok(response) => relay(response, client_side, &guest),
            Err(error) => {
                tracing::debug!(error = &error as &dyn Error, "upstream does not answer");
                page(blame(&error))
            }
        }
    }
}

/// The upstream's answer as the client gets it.
fn relay(mut response: Response<Incoming>, client_side: Option<OnUpgrade>, guest: &Guest) -> Response<Body> {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match client_side {
        Some(client_side) if switches => {
            let tunnel = tunnel(client_side, upgrade::on(&mut response));
            *guest.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        }
        // Nobody asked it to.
        None if switches => return page(StatusCode::BAD_GATEWAY),
        _ => {}
    }
    forward::response(response.headers_mut(), switches);
    // What we speak to the client is not what the upstream spoke to us.
    *response.version_mut() = Version::HTTP_11;
    response.map(|body| if switches { empty() } else { body.map_err(BodyError::from).boxed_unsync() })
}

/// Both directions of an upgraded connection, until each has ended.
fn tunnel(client: OnUpgrade, upstream: OnUpgrade) -> Tunnel {
    Box::pin(async move {
        if let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) {
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await;
        }
    })
}

/// A request body whose every piece is progress. An absent one stays absent, and does not become an empty chunked one.
fn watched(body: Incoming, progress: Progress) -> Body {
    if body.is_end_stream() {
        return empty();
    }
    body.inspect_frame(move |_| progress.note()).map_err(BodyError::from).boxed_unsync()
}

/// Down is 502, slow is 504.
fn blame(error: &(dyn Error + 'static)) -> StatusCode {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return StatusCode::GATEWAY_TIMEOUT;
        }
        cause = error.source();
    }
    StatusCode::BAD_GATEWAY
}

/// When something of the request last went up.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Comes back when the upstream has had the whole request for [`ANSWER`] and said nothing.
    async fn stalled(&self) {
        loop {
            let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + ANSWER;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// The upstream is on the same machine or next door.
const CONNECT: Duration = Duration::from_secs(10);

/// Longer than any long poll: browsers give up after five minutes.
const ANSWER: Duration = Duration::from_secs(600);

/// Shorter than what web servers keep an idle connection for.
const POOL_IDLE: Duration = Duration::from_secs(30);

const POOL_SIZE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_is_a_host_and_a_port() {
        for uri in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80/", "http://backend.internal:3000"] {
            assert!(Upstream::open(&uri.parse().unwrap()).is_ok(), "{uri}");
        }
        for uri in ["https://127.0.0.1", "127.0.0.1:80", "/x", "http://a/b", "http://u@a", "http://a/?q"] {
            assert!(Upstream::open(&uri.parse().unwrap()).is_err(), "{uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_puts_the_deadline_off() {
        let start = Instant::now();
        let progress = Progress::default();
        let late = progress.clone();
        tokio::join!(progress.stalled(), async move {
            tokio::time::sleep(Duration::from_secs(599)).await;
            late.note();
        });
        assert_eq!(start.elapsed(), Duration::from_secs(599) + ANSWER);
    }
}
