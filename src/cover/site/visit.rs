//! One connection after its handshake: hyper, the deadlines of a usual web server, and a clean close.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::answer::{Guest, Handler, Tunnel};

/// The protocol that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// The one that TLS agreed on. Without an agreement it is the older one, as everywhere.
    pub(super) fn negotiated(alpn: Option<&[u8]>) -> Protocol {
        if alpn == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 }
    }
}

/// A connection that is ready for HTTP.
pub(super) struct Visit {
    pub(super) protocol: Protocol,
    pub(super) peer: Option<SocketAddr>,
    pub(super) handler: Arc<Handler>,
}

impl Visit {
    /// Serves until either side is done and gives the stream back for closing.
    pub(super) async fn drive<T>(self, stream: T) -> Option<T>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let clock = Arc::new(Clock::new(self.protocol));
        let stream = Arc::new(Mutex::new(stream));
        let io = TokioIo::new(Lent { stream: Arc::clone(&stream), clock: Arc::clone(&clock) });
        let tunnel = Arc::new(Mutex::new(None));
        let service = {
            let (clock, tunnel, handler) = (Arc::clone(&clock), Arc::clone(&tunnel), Arc::clone(&self.handler));
            service_fn(move |request: Request<Incoming>| {
                let guest = Guest { peer: self.peer, tunnel: Arc::clone(&tunnel) };
                let (handler, open) = (Arc::clone(&handler), clock.open());
                async move { Ok::<_, Infallible>(handler.answer(request, guest, open).await) }
            })
        };
        match self.protocol {
            Protocol::Http1 => {
                let mut connection = Box::pin(http1(&self.handler).serve_connection(io, service).with_upgrades());
                until_quiet(&mut connection, &clock).await;
            }
            Protocol::Http2 => {
                let mut connection = Box::pin(http2().serve_connection(io, service));
                if until_quiet(&mut connection, &clock).await == Ended::Quiet {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(FAREWELL, connection).await;
                }
            }
        }
        run_tunnel(&tunnel).await;
        Arc::into_inner(stream).map(|stream| stream.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Carries on with what the connection was upgraded to, if it was.
async fn run_tunnel(tunnel: &Mutex<Option<Tunnel>>) {
    let tunnel = lock(tunnel).take();
    if let Some(tunnel) = tunnel {
        tunnel.await;
    }
}

fn http1(handler: &Handler) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The clock below has the deadlines, and has them for HTTP/2 too.
    builder.header_read_timeout(None).title_case_headers(true).max_buf_size(HTTP1_BUFFER);
    builder.half_close(handler.answers_after_fin());
    builder
}

/// hyper's own guards stay: at most 20 streams reset before they were looked at, 1024 after.
fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(HTTP2_HEADERS);
    builder
}

/// Sends what is left and the FIN, for as long as the client takes it.
pub(super) async fn finish<S: AsyncWrite + Unpin>(stream: &mut S) {
    let _ = timeout(LINGER_QUIET, stream.shutdown()).await;
}

/// Closes a stream without a reset: sends FIN, then reads and forgets until the client has closed too, for at most half
/// a minute and five seconds of silence. A socket closed with unread bytes in it would answer with RST, which can
/// overtake and destroy what was sent last.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    finish(&mut stream).await;
    let forget = async {
        // Not within the future, which every connection carries from its start.
        let mut buffer = vec![0; 4096];
        while let Ok(Ok(1..)) = timeout(LINGER_QUIET, stream.read(&mut buffer)).await {}
    };
    let _ = timeout(LINGER_LONGEST, forget).await;
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The protocol came to its end.
    Done,
    /// The client let a deadline pass.
    Quiet,
}

/// Polls a connection until it is over or has been quiet for too long.
async fn until_quiet<F: Future + Unpin>(connection: &mut F, clock: &Clock) -> Ended {
    let mut timer = Box::pin(sleep_until(Instant::now() + KEEP_ALIVE));
    std::future::poll_fn(|cx| {
        if Pin::new(&mut *connection).poll(cx).is_ready() {
            return Poll::Ready(Ended::Done);
        }
        // Whatever brought the deadline closer was noticed in the poll above.
        if let Some(deadline) = clock.deadline().filter(|deadline| *deadline < timer.deadline()) {
            timer.as_mut().reset(deadline);
        }
        poll_deadline(timer.as_mut(), clock, cx)
    })
    .await
}

fn poll_deadline(mut timer: Pin<&mut Sleep>, clock: &Clock, cx: &mut Context<'_>) -> Poll<Ended> {
    while timer.as_mut().poll(cx).is_ready() {
        let now = Instant::now();
        match clock.deadline() {
            Some(deadline) if deadline <= now => return Poll::Ready(Ended::Quiet),
            Some(deadline) => timer.as_mut().reset(deadline),
            // Busy. No deadline can begin and end before this look.
            None => timer.as_mut().reset(now + HEADERS),
        }
    }
    Poll::Pending
}

/// Knows since when a connection waits for its client, and for what.
struct Clock(Mutex<Activity>);

struct Activity {
    protocol: Protocol,
    /// Requests that are not answered to the last byte.
    open: usize,
    /// Start of the present wait for a request.
    since: Instant,
    /// How long that wait may last.
    patience: Duration,
    /// When the first byte of a request's head came, while the rest is still missing.
    head: Option<Instant>,
    /// Since when the client has yet to take what was written.
    blocked: Option<Instant>,
    /// Open requests with a piece of an answer that the client has yet to make room for.
    offered: usize,
    /// When a piece of an answer was last asked for: there was room for it.
    asked: Instant,
}

impl Clock {
    fn new(protocol: Protocol) -> Clock {
        let since = Instant::now();
        Clock(Mutex::new(Activity {
            protocol,
            open: 0,
            since,
            patience: HEADERS,
            head: None,
            blocked: None,
            offered: 0,
            asked: since,
        }))
    }

    /// Bytes have come. HTTP/2 has frames that ask for nothing, so there only a whole request counts.
    fn heard(&self) {
        let mut activity = lock(&self.0);
        if activity.protocol == Protocol::Http1 && activity.open == 0 && activity.head.is_none() {
            activity.head = Some(Instant::now());
        }
    }

    /// A request has come; it is open until the guard is dropped.
    fn open(self: &Arc<Self>) -> Open {
        let mut activity = lock(&self.0);
        activity.open += 1;
        activity.head = None;
        Open { clock: Arc::clone(self), offered: false }
    }

    /// Bytes have been offered to the client, and it took them or not. The end of an answer may sit in buffers long after
    /// the request was dealt with, and a slow client may take its time with that as with the rest.
    fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let mut activity = lock(&self.0);
        if outcome.is_pending() {
            activity.blocked.get_or_insert_with(Instant::now);
        } else if activity.blocked.take().is_some() {
            activity.since = Instant::now();
        }
        outcome
    }

    /// When the client will have been quiet for too long, or will have taken nothing for too long; never while it waits
    /// for an answer.
    fn deadline(&self) -> Option<Instant> {
        let activity = lock(&self.0);
        match (activity.blocked, activity.head) {
            (Some(since), _) => Some(since + SEND),
            // HTTP/2 has a word of its own for how much a client takes.
            _ if activity.open > 0 && activity.open == activity.offered => Some(activity.asked + SEND),
            _ if activity.open > 0 => None,
            (_, Some(head)) => Some(head + HEADERS),
            _ => Some(activity.since + activity.patience),
        }
    }
}

/// An open request.
pub(super) struct Open {
    clock: Arc<Clock>,
    offered: bool,
}

impl Open {
    /// A piece of the answer was asked for, and there was one or there is none yet.
    pub(super) fn asked(&mut self, there: bool) {
        let mut activity = lock(&self.clock.0);
        activity.asked = Instant::now();
        activity.offered = activity.offered + usize::from(there) - usize::from(self.offered);
        self.offered = there;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut activity = lock(&self.clock.0);
        activity.open -= 1;
        activity.offered -= usize::from(self.offered);
        activity.since = Instant::now();
        activity.patience = KEEP_ALIVE;
    }
}

/// The stream as hyper holds it. However hyper ends, the stream itself comes back to be closed with care.
struct Lent<T> {
    stream: Arc<Mutex<T>>,
    clock: Arc<Clock>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut *lock(&self.stream)).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.clock.heard();
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.clock.wrote(Pin::new(&mut *lock(&self.stream)).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.clock.wrote(Pin::new(&mut *lock(&self.stream)).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.stream).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.clock.wrote(Pin::new(&mut *lock(&self.stream)).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.clock.wrote(Pin::new(&mut *lock(&self.stream)).poll_shutdown(cx))
    }
}

/// Nothing here is left half-done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the head of a request, and for the first byte of the first one.
const HEADERS: Duration = Duration::from_secs(60);

/// For the client to take a piece of an answer, as nginx has it between two writes. Here a piece is what TLS has room for,
/// 64 KiB, and there what the kernel wants to be free before it asks for more.
const SEND: Duration = Duration::from_secs(60);

/// Between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// For an HTTP/2 client to take our GOAWAY.
const FAREWELL: Duration = Duration::from_secs(5);

const LINGER_QUIET: Duration = Duration::from_secs(5);
const LINGER_LONGEST: Duration = Duration::from_secs(30);

/// Bounds the head of a request and what one connection keeps in memory.
const HTTP1_BUFFER: usize = 64 << 10;

/// As nginx has it.
const HTTP2_STREAMS: u32 = 128;

/// Times the number of streams, this is what a client that never reads can make us keep. hyper's default is 400 KiB.
const HTTP2_SEND_BUFFER: usize = 64 << 10;

/// Room for the cookies of a grown site.
const HTTP2_HEADERS: u32 = 32 << 10;
