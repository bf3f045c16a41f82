//! A part beside the site that takes some requests before the site answers them.
//!
//! A [`SiteExtension`] is shown the head of each request as soon as it has been read, before anything depends on it. What it
//! leaves is answered by the very code that answers without one. What it takes is its own: it gets the body as it comes, and
//! says status, header fields and content of the answer, to which nothing of the site is added; or it takes over the
//! connection of HTTP/1.1, or the stream of HTTP/2, as a socket.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::content::{Content, Piece};
use super::forward::Visitor;
use super::fronts::{FrontPeer, Fronts};
use super::message::{self, Broken, Fields, Head, Reply, Request, Upload, Version};
use super::socket::SocketHandler;

/// Takes requests, or leaves them to the site.
pub trait SiteExtension: Send + Sync {
    /// Takes this request, or `None` if it is one for the site. Asked once for each request, so it must be quick, and the
    /// time that it takes for those that it leaves must tell nothing.
    fn claim(&self, asked: &VisitorRequest<'_>) -> Option<Claim>;

    /// Cancelled when visitors are to come again, to another process: connections that wait for a request are closed then, and
    /// the others after their next answer, as nginx does when it is replaced. By default never.
    fn leaving(&self) -> CancellationToken {
        CancellationToken::new()
    }
}

/// The head of a request, as it is shown to a [`SiteExtension`].
#[derive(Clone, Copy)]
pub struct VisitorRequest<'r> {
    /// The method.
    pub method: &'r [u8],
    /// Path and query as they were sent, nothing resolved.
    pub target: &'r [u8],
    /// The header fields in their order. The authority of HTTP/2 is the first, as `host`.
    pub fields: &'r [(Bytes, Bytes)],
    /// Whether it came over HTTP/2.
    pub http2: bool,
    /// The length of the body; `None` if it is not told beforehand.
    pub length: Option<u64>,
    /// Whom it comes from, if that is known; behind a trusted web server that is whom this names.
    pub peer: Option<SocketAddr>,
}

impl<'r> VisitorRequest<'r> {
    /// All values of a header field.
    pub fn all(&self, name: &'r str) -> impl Iterator<Item = &'r [u8]> + use<'r> {
        message::values(self.fields, name)
    }
}

impl fmt::Debug for VisitorRequest<'_> {
    /// Without target and fields, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VisitorRequest")
            .field("http2", &self.http2)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A request that was taken: given its body, the answer. Dropped when the client has left.
pub type Claim = Box<dyn FnOnce(RequestBody) -> Answering + Send>;

/// An answer under way.
pub type Answering = Pin<Box<dyn Future<Output = ExtensionAnswer> + Send>>;

/// The body of a request that was taken, as it comes.
pub struct RequestBody(Upload);

impl RequestBody {
    pub(super) fn new(upload: Upload) -> Self {
        Self(upload)
    }

    /// A body that has come already.
    #[cfg(test)]
    pub(crate) fn of(bytes: Bytes) -> Self {
        let (sender, upload) = tokio::sync::mpsc::channel(1);
        let _ = sender.try_send(Ok(bytes));
        Self(upload)
    }

    /// A body, and what sends its pieces.
    #[cfg(test)]
    pub(crate) fn in_pieces() -> (impl Fn(Bytes) -> bool, Self) {
        let (pieces, upload) = tokio::sync::mpsc::channel(4096);
        (move |piece| pieces.try_send(Ok(piece)).is_ok(), Self(upload))
    }

    /// The next piece; `None` at the end. An error means that the body has broken off.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let piece = self.0.recv().await?;
        Some(piece.map_err(|Broken| io::ErrorKind::UnexpectedEof.into()))
    }

    /// The whole body, if it has no more than so many bytes; `None` if it has, or breaks off.
    pub async fn whole(mut self, most: usize) -> Option<Bytes> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece.ok()?;
            if first.len() + all.len() + piece.len() > most {
                return None;
            }
            // What comes in one piece is not copied.
            if first.is_empty() && all.is_empty() {
                first = piece;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&piece);
        }
        Some(if all.is_empty() { first } else { all.freeze() })
    }
}

/// The answer to a request that was taken.
pub enum ExtensionAnswer {
    /// Status, header fields and content. The length of the content is added, where there may be one.
    Reply {
        /// The status.
        status: u16,
        /// The header fields.
        fields: Vec<(&'static str, Cow<'static, str>)>,
        /// The content in pieces, none of them empty.
        content: Vec<Bytes>,
    },
    /// The connection becomes a socket: `101` and these fields over HTTP/1.1, `200` over HTTP/2.
    Socket {
        /// The header fields.
        fields: Vec<(&'static str, Cow<'static, str>)>,
        /// Part that goes on with it.
        socket: Box<dyn SocketHandler>,
    },
}

/// Visitor of a site, and the extension that is asked before it.
#[derive(Clone, Default)]
pub struct SiteVisitor {
    /// The address, if it is known.
    pub peer: Option<SocketAddr>,
    /// The extension that is asked for the requests of this visit, if there is one.
    pub extension: Option<Arc<dyn SiteExtension>>,
    /// Whether it has come by a socket in the file system.
    pub(super) local: bool,
    /// Web servers in front of the site.
    pub(super) fronts: Arc<Fronts>,
}

impl From<Option<SocketAddr>> for SiteVisitor {
    /// A guest of the site alone.
    fn from(peer: Option<SocketAddr>) -> Self {
        Self { peer, ..Self::default() }
    }
}

impl SiteVisitor {
    /// A guest for whom this extension is asked before the site.
    pub fn new(peer: SocketAddr, extension: Option<Arc<dyn SiteExtension>>) -> Self {
        Self { extension, ..Some(peer).into() }
    }

    fn end(&self) -> Option<FrontPeer> {
        self.peer.map(|address| FrontPeer { address, local: self.local })
    }

    /// The other end of the connection, as an upstream is told of it.
    pub(super) fn told(&self) -> Option<Visitor<'_>> {
        self.end().map(|peer| Visitor {
            address: peer.address.ip().to_canonical(),
            proxies: peer.is_trusted(&self.fronts).then_some(&*self.fronts),
        })
    }

    /// Cancelled when the visitor is to come again.
    pub(super) fn leaving(&self) -> CancellationToken {
        self.extension.as_ref().map_or_else(CancellationToken::new, |extension| extension.leaving())
    }

    /// Asks the extension for a request.
    pub(super) fn claim(&self, request: &Request) -> Option<Claim> {
        self.extension.as_ref()?.claim(&VisitorRequest {
            method: &request.method,
            target: &request.target.raw,
            fields: &request.fields.0,
            http2: request.version == Version::Http2,
            length: request.length,
            peer: self.end().map(|peer| peer.visitor(&self.fronts, &request.fields.0)),
        })
    }
}

impl fmt::Debug for SiteVisitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteVisitor").field("extended", &self.extension.is_some()).finish_non_exhaustive()
    }
}

/// Has a request answered that was taken.
pub(super) async fn answer(claim: Claim, body: Upload) -> Reply {
    match claim(RequestBody::new(body)).await {
        ExtensionAnswer::Reply { status, fields, content } => {
            let mut head = exact(fields);
            if !matches!(status, 100..=199 | 204 | 304) {
                let length: usize = content.iter().map(Bytes::len).sum();
                head.push("Content-Length", length.to_string());
            }
            let pieces = content.into_iter().map(Piece::Bytes).collect();
            Reply { status, line: None, head: Head::Exact(head), content: Content::Pieces(pieces, None), last: false }
        }
        ExtensionAnswer::Socket { fields, socket } => Reply {
            status: 101,
            line: None,
            head: Head::Exact(exact(fields)),
            content: Content::Taken(socket),
            last: false,
        },
    }
}

fn exact(fields: Vec<(&'static str, Cow<'static, str>)>) -> Fields {
    let mut exact = Fields(Vec::with_capacity(fields.len() + 2));
    for (name, value) in fields {
        match value {
            Cow::Borrowed(value) => exact.push(name, value),
            Cow::Owned(value) => exact.push(name, value),
        }
    }
    exact
}
