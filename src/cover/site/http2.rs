//! One connection of HTTP/2, with the settings, habits and deadlines of nginx.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::answer::Handler;
use super::bodies::Body;
use super::content::Content;
use super::extension::{self, SiteVisitor};
use super::fault::Fault;
use super::frames::{self, Lent, Shared};
use super::message::{Broken, Fields, Reply, Request, Version};
use super::{forward, request_head, target};

/// Serves until either side is done and gives the stream back for closing. The first request has to be there by `first`.
pub(super) async fn serve<T>(stream: T, guest: SiteVisitor, handler: Arc<Handler>, first: Instant) -> Option<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Shared::new(stream);
    let greeting = timeout_at(first, builder().handshake(Lent::new(&shared))).await;
    match greeting {
        Ok(Ok(connection)) => {
            visit(connection, &shared, &guest, &handler, first).await;
            shared.back()
        }
        Ok(Err(error)) => {
            let mut stream = shared.back()?;
            if !error.is_io() {
                let _ = timeout(FAREWELL, stream.write_all(frames::PROTOCOL_ERROR)).await;
            }
            Some(stream)
        }
        Err(_) => shared.back(),
    }
}

fn builder() -> server::Builder {
    let mut builder = server::Builder::new();
    // What is announced stands in `frames`; this is what is kept to.
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WHOLE_WINDOW)
        .max_frame_size(LONGEST_FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS_AHEAD)
        .max_local_error_reset_streams(Some(ERRORS));
    builder
}

/// Answers requests for as long as there are any, or a deadline has not come.
async fn visit<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<Lent<T>, Bytes>,
    shared: &Arc<Shared<T>>,
    guest: &SiteVisitor,
    handler: &Arc<Handler>,
    first: Instant,
) {
    let mut open = JoinSet::new();
    let mut idle_until = first;
    let (leaving, mut told) = (guest.leaving(), false);
    loop {
        let idle = open.is_empty().then_some(idle_until);
        let stuck = shared.blocked().map(|since| since + SEND);
        let soon = Instant::now() + SEND;
        let look = idle.into_iter().chain(stuck).min().unwrap_or(soon);
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (parts, body) = request.into_parts();
                    let turn = Turn { guest: guest.clone(), handler: Arc::clone(handler), respond };
                    open.spawn(turn.take(parts, body));
                }
                Some(Err(_)) | None => break,
            },
            Some(_) = open.join_next() => idle_until = Instant::now() + KEEP_ALIVE,
            () = leaving.cancelled(), if !told => {
                connection.graceful_shutdown();
                told = true;
            }
            () = sleep_until(look) => {
                let now = Instant::now();
                let stuck = shared.blocked().is_some_and(|since| since + SEND <= now);
                if stuck {
                    return;
                }
                if open.is_empty() && idle_until <= now {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    break;
                }
            }
        }
    }
    let _ = timeout(FAREWELL, poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// One request and its answer.
struct Turn {
    guest: SiteVisitor,
    handler: Arc<Handler>,
    respond: SendResponse<Bytes>,
}

impl Turn {
    async fn take(mut self, parts: Parts, body: RecvStream) {
        let silent = parts.method == hyper::Method::HEAD;
        let request = match read(parts, &body) {
            Ok(request) => request,
            Err(fault) => {
                let reply = self.handler.refuse(fault).await;
                self.reply(reply, silent).await;
                return;
            }
        };
        if let Some(claim) = self.guest.claim(&request) {
            return self.take_claimed(claim, request, body, silent).await;
        }
        if !self.handler.passes_on() {
            let reply = self.handler.answer(&request, mpsc::channel(1).1, &self.guest).await;
            self.reply(reply, silent).await;
            return;
        }
        let (sender, upload) = mpsc::channel(1);
        let (handler, guest) = (Arc::clone(&self.handler), self.guest.clone());
        let counted = request.has_body().then(|| handler.body());
        let answering = async {
            let reply = handler.answer(&request, upload, &guest).await;
            self.reply(reply, silent).await;
        };
        tokio::select! {
            () = answering => {}
            () = pump(body, counted, sender) => {}
        }
    }

    /// A request that the extension answers. A client that resets it ends it.
    async fn take_claimed(mut self, claim: extension::Claim, request: Request, body: RecvStream, silent: bool) {
        let (sender, upload) = mpsc::channel(1);
        let handler = Arc::clone(&self.handler);
        let counted = request.has_body().then(|| handler.taken_body());
        let reply = tokio::select! {
            reply = extension::answer(claim, upload) => reply,
            () = pump(body, counted, sender) => return,
            _ = poll_fn(|context| self.respond.poll_reset(context)) => return,
        };
        self.reply(reply, silent).await;
    }

    /// Sends an answer, each piece when there is room for it.
    async fn reply(&mut self, reply: Reply, silent: bool) {
        let Reply { status, head, mut content, .. } = reply;
        let bare = silent || matches!(status, 204 | 304) || content_is_over(&content);
        let answering = async {
            let fields = self.handler.fields(head, &[]);
            let Some(response) = response(status, fields) else { return Err(Reason::INTERNAL_ERROR) };
            let mut stream = self.respond.send_response(response, bare).map_err(|_| Reason::INTERNAL_ERROR)?;
            match bare {
                true => Ok(()),
                false => send(&mut stream, &mut content).await,
            }
        };
        if let Err(reason) = answering.await {
            // A reset overtakes what waits to be sent, and what came of the answer is not to be lost.
            tokio::time::sleep(BEFORE_RESET).await;
            self.respond.send_reset(reason);
        }
    }
}

fn content_is_over(content: &Content) -> bool {
    matches!(content, Content::Pieces(..)) && content.is_over()
}

async fn send(stream: &mut SendStream<Bytes>, content: &mut Content) -> Result<(), Reason> {
    loop {
        stream.reserve_capacity(BATCH);
        // h2 tells of room that grows, and not of what a short piece has left.
        if stream.capacity() == 0 {
            let room = timeout(SEND, poll_fn(|cx| stream.poll_capacity(cx))).await;
            let Ok(Some(Ok(_))) = room else { return Err(Reason::INTERNAL_ERROR) };
            continue;
        }
        let room = stream.capacity().min(BATCH);
        let next = content.next(room).await.map_err(|_| Reason::INTERNAL_ERROR)?;
        let over = next.is_none() || content.is_over();
        let mut piece = next.unwrap_or_default();
        // No peer takes less in a frame, and some take more.
        while piece.len() > FRAME {
            let frame = piece.split_to(FRAME);
            stream.send_data(frame, false).map_err(|_| Reason::INTERNAL_ERROR)?;
        }
        stream.send_data(piece, over).map_err(|_| Reason::INTERNAL_ERROR)?;
        if over {
            return Ok(());
        }
    }
}

/// Hands the body on as it comes; comes back if it breaks off.
async fn pump(mut body: RecvStream, mut counted: Option<Body<'_>>, sender: mpsc::Sender<Result<Bytes, Broken>>) {
    loop {
        let (began, patience) = (Instant::now(), counted.as_ref().map_or(Duration::MAX, Body::patience));
        let Ok(piece) = timeout(patience, body.data()).await else { break };
        match piece {
            Some(Ok(piece)) => {
                counted.iter_mut().for_each(|counted| counted.note(piece.len(), began.elapsed()));
                let _ = body.flow_control().release_capacity(piece.len());
                let _ = sender.send(Ok(piece)).await;
            }
            Some(Err(_)) => break,
            None => {
                drop((sender, counted));
                return std::future::pending().await;
            }
        }
    }
    let _ = sender.try_send(Err(Broken));
}

/// A request as the handler knows it.
fn read(parts: Parts, body: &RecvStream) -> Result<Request, Fault> {
    let Some(path) = parts.uri.path_and_query() else { return Err(Fault::BadRequest) };
    let target = target::resolve(Bytes::from(path.as_str().to_owned()))?;
    let named = parts.uri.authority().map(|authority| Bytes::from(authority.as_str().to_owned()));
    let mut fields = Fields::default();
    let asked = parts.headers.get("host").map(|host| Bytes::copy_from_slice(host.as_bytes()));
    let host_field = named.or(asked).ok_or(Fault::BadRequest)?;
    let host = Some(request_head::host(&host_field).ok_or(Fault::BadRequest)?);
    fields.push("host", host_field);
    let sound = |name: &HeaderName| name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    for (name, value) in &parts.headers {
        if sound(name) && name != "host" {
            fields.push(name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        }
    }
    let method = Bytes::from(parts.method.as_str().to_owned());
    if matches!(&method[..], b"TRACE" | b"CONNECT") {
        return Err(Fault::Method);
    }
    let told = fields.text("content-length").and_then(|length| length.parse().ok());
    let length = if body.is_end_stream() { Some(0) } else { told };
    Ok(Request { method, target, version: Version::Http2, host, fields, length })
}

/// Status and header, without what only HTTP/1 knows.
fn response(status: u16, mut fields: Fields) -> Option<Response<()>> {
    forward::keep_end_to_end(&mut fields);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in fields.0 {
        let name = HeaderName::from_bytes(&name).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some(response)
}

/// For the next request, and for the client to take a piece of an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const SEND: Duration = Duration::from_secs(60);

/// For what was answered to go out before the stream is reset.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// For the client to take our GOAWAY.
const FAREWELL: Duration = Duration::from_secs(5);

/// As nginx announces them.
const STREAMS: u32 = 128;
const WINDOW: u32 = 64 << 10;
const WHOLE_WINDOW: u32 = (1 << 31) - 1;

/// A window and what pads it: no one can send more, however large the frames that are allowed.
const LONGEST_FRAME: u32 = WINDOW + 512;

/// Largest header list that nginx reads.
const HEADERS: u32 = 32 << 10;

/// Bytes of a body that are handed on together, as nginx does by default: two records that are full and one with the rest.
/// `frames` divides them.
const BATCH: usize = 32 << 10;

/// Longest frame that is given to h2, the least that every peer takes (RFC 9113, section 4.2).
const FRAME: usize = 16 << 10;

/// Times the number of streams, this is what a client that does not read makes us keep.
const SEND_BUFFER: usize = BATCH;

/// Streams that were reset, and resets of streams that no one has looked at: more of them end the connection.
const RESETS: usize = 50;
const RESETS_AHEAD: usize = 20;
const ERRORS: usize = 1024;
