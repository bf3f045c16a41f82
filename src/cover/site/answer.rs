//! From a request to its answer: what every answer has in common, whatever the site serves.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, SERVER};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::acme::Challenges;
use super::error::SiteError;
use super::files::Folder;
use super::redirect;
use super::upstream::Upstream;
use super::visit::Open;

/// Body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body broke off; only hyper looks at it, to cut the connection.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a connection goes on as after an upgrade.
pub(super) type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection that a request came over.
pub(super) struct Guest {
    /// Address of the client.
    pub(super) peer: Option<SocketAddr>,
    /// Filled when the connection is upgraded.
    pub(super) tunnel: Arc<Mutex<Option<Tunnel>>>,
}

/// Where answers come from.
pub(super) enum Source {
    Folder(Folder),
    Upstream(Box<Upstream>),
    Redirect(Arc<Challenges>),
}

/// Answers requests.
pub(super) struct Handler {
    source: Source,
    server: Option<HeaderValue>,
}

impl Handler {
    pub(super) fn new(source: Source, server: Option<HeaderValue>) -> Handler {
        Handler { source, server }
    }

    /// The answer to one request, which counts as open until its last byte has been taken.
    pub(super) async fn answer(&self, request: Request<Incoming>, guest: Guest, open: Open) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let mut response = match admissible(&request) {
            Ok(()) => self.fetch(request, guest).await,
            Err(status) => page(status),
        };
        match &self.server {
            Some(server) => response.headers_mut().insert(SERVER, server.clone()),
            None => response.headers_mut().remove(SERVER),
        };
        response.map(|body| match head {
            true => empty(),
            false => Watched { body, open }.boxed_unsync(),
        })
    }

    async fn fetch(&self, request: Request<Incoming>, guest: Guest) -> Response<Body> {
        match &self.source {
            Source::Folder(folder) => folder.answer(request).await,
            Source::Upstream(upstream) => upstream.answer(request, guest).await,
            Source::Redirect(challenges) => redirect::answer(&request, challenges),
        }
    }

    /// Whether a client that has said all it wants to say still gets its answer. A file is sent; a server behind us is
    /// told that its client has left, as nginx does.
    pub(super) fn answers_after_fin(&self) -> bool {
        !matches!(self.source, Source::Upstream(_))
    }
}

/// A body whose request is open for as long as it lives.
struct Watched {
    body: Body,
    open: Open,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.open.asked(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What no web server answers with content.
fn admissible<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    match request.headers().get_all(HOST).iter().count() {
        0 if request.version() == Version::HTTP_11 => Err(StatusCode::BAD_REQUEST),
        0 | 1 => Ok(()),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// Checks the configured `Server` header.
pub(super) fn server_header(value: &str) -> Result<HeaderValue, SiteError> {
    match HeaderValue::from_str(value) {
        Ok(header) if header.to_str().is_ok() && !value.is_empty() => Ok(header),
        _ => Err(SiteError::BadServerHeader),
    }
}

/// The plain page that goes with a status.
pub(super) fn page(status: StatusCode) -> Response<Body> {
    let title = format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default());
    html(status, format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n").into())
}

/// A page of our own.
pub(super) fn html(status: StatusCode, text: Bytes) -> Response<Body> {
    let length = text.len();
    let mut response = Response::new(Full::new(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// No body at all.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
