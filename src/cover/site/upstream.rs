//! The owner's own web server behind the site, reached over plain HTTP/1.
//!
//! What it answers is passed on as it is, header fields in its order and its case. Also what it answers to nonsense: a
//! visitor's nonsense never reaches it, since what one parser refuses another may take for two requests, but nonsense
//! of the same kind does.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::content::Content;
use super::error::SiteError;
use super::fault::Fault;
use super::forward::Visitor;
use super::framing::{Framing, Taken};
use super::message::{Fields, Head, Reply, Request, Upload};
use super::{answer_head, forward, page};

/// Another web server that has the content.
pub(super) struct Upstream {
    host: String,
    port: u16,
    pool: Arc<Pool>,
}

/// Connections that wait for their next request.
#[derive(Default)]
struct Pool(Mutex<Vec<(Instant, TcpStream)>>);

impl Upstream {
    /// Checks the address. Whether someone listens there is found out by each request.
    pub(super) fn open(uri: &Uri) -> Result<Upstream, SiteError> {
        let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path_and_query().is_none_or(|path| path == "/");
        let sound = |name: &&Authority| plain && !name.host().is_empty() && !name.as_str().contains('@');
        let authority = uri.authority().filter(sound).ok_or_else(|| SiteError::BadUpstream(uri.clone()))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(Upstream { host, port: authority.port_u16().unwrap_or(80), pool: Arc::default() })
    }

    /// Passes a request on and its answer back, both as they come.
    pub(super) async fn answer(&self, request: &Request, upload: Upload, peer: Option<Visitor<'_>>) -> Reply {
        let upgrade = forward::wants_websocket(request);
        let head = forward::request(request, peer, upgrade);
        let body = request.has_body().then_some((upload, request.length));
        // What has no body may be asked twice: a connection that waited may have ended in the meantime.
        if body.is_none()
            && let Some(stream) = self.pool.take()
            && let Ok(answer) = self.ask(stream, head.clone(), None).await
        {
            return self.relay(answer, request, upgrade);
        }
        let asked = async { self.ask(self.connect().await?, head, body).await };
        match asked.await {
            Ok(answer) => self.relay(answer, request, upgrade),
            Err(error) => {
                tracing::debug!(%error, "upstream does not answer");
                let slow = error.kind() == io::ErrorKind::TimedOut;
                page::page(if slow { 504 } else { 502 }, &request.fields)
            }
        }
    }

    /// Gets the upstream's own answer to a request with this fault.
    pub(super) async fn refuse(&self, fault: Fault) -> Reply {
        let asked = async { self.ask(self.connect().await?, nonsense(fault), None).await };
        match timeout(CONNECT, asked).await {
            Ok(Ok(answer)) if answer.head.status >= 200 => {
                let reply = relayed(answer, false, false, None);
                Reply { last: true, ..reply }
            }
            _ => page::refusal(fault, &Fields::default()),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&self, stream: TcpStream, head: Vec<u8>, body: Option<(Upload, Option<u64>)>) -> io::Result<Answer> {
        let (read, write) = stream.into_split();
        let progress = Progress::default();
        let sending = Box::pin(send(write, head, body, progress.clone()));
        let mut wire = Wire { read, bytes: BytesMut::new(), sending: Sending::Going(sending) };
        tokio::select! {
            head = wire.head() => Ok(Answer { head: head?, wire }),
            () = progress.stalled() => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn relay(&self, answer: Answer, request: &Request, upgrade: bool) -> Reply {
        let switches = answer.head.status == 101;
        // No one asked it to, or not to this.
        if switches && !(upgrade && forward::is_websocket(&answer.head.fields)) {
            return page::page(502, &request.fields);
        }
        relayed(answer, switches, request.is_head(), Some(Arc::clone(&self.pool)))
    }
}

/// An answer whose head has come.
struct Answer {
    head: answer_head::AnswerHead,
    wire: Wire,
}

/// The upstream's answer as the client gets it.
fn relayed(answer: Answer, switches: bool, silent: bool, pool: Option<Arc<Pool>>) -> Reply {
    let Answer { head, mut wire } = answer;
    let (status, line) = (head.status, Some(head.line.clone()));
    let framing = head.framing(silent);
    let keeps = head.keeps();
    let mut fields = head.fields;
    forward::response(&mut fields, switches);
    if framing == Framing::UntilEnd || matches!(framing, Framing::Chunked(_)) {
        // Of two lengths the one that is kept to counts.
        fields.0.retain(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"));
    }
    let early = wire.bytes.split().freeze();
    let content = match (switches, wire) {
        (true, Wire { read, sending: Sending::Done(Some(write)), .. }) => match read.reunite(write) {
            Ok(stream) => Content::Tunnel(Box::new(stream), early),
            Err(_) => return page::page(502, &Fields::default()),
        },
        (true, _) => return page::page(502, &Fields::default()),
        (false, mut wire) => {
            wire.bytes = BytesMut::from(&early[..]);
            Content::Theirs(Box::new(Coming { wire: Some(wire), framing, pool: pool.filter(|_| keeps) }))
        }
    };
    Reply { status, line, head: Head::Theirs(fields), content, last: false }
}

/// The body of the upstream's answer.
pub(super) struct Coming {
    wire: Option<Wire>,
    framing: Framing,
    /// Pool that takes the connection back when it may be used again.
    pool: Option<Arc<Pool>>,
}

impl Coming {
    /// At most so much more; `None` at the end. What has come is not lost if this is given up.
    pub(super) async fn next(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let Some(wire) = &mut self.wire else { return Ok(None) };
        loop {
            match self.framing.take(&mut wire.bytes, most).map_err(|_| io::ErrorKind::InvalidData)? {
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::More => {}
            }
            if wire.fill().await? == 0 {
                let ended = self.framing == Framing::UntilEnd;
                self.framing = Framing::Over;
                return if ended { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.framing.is_over()
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let (true, Some(pool), Some(wire)) = (self.framing.is_over(), &self.pool, self.wire.take())
            && wire.bytes.is_empty()
            && let Sending::Done(Some(write)) = wire.sending
            && let Ok(stream) = wire.read.reunite(write)
        {
            pool.put(stream);
        }
    }
}

/// A connection to the upstream: what is sent goes on while the answer is read.
struct Wire {
    read: OwnedReadHalf,
    bytes: BytesMut,
    sending: Sending,
}

enum Sending {
    Going(Pin<Box<dyn Future<Output = io::Result<OwnedWriteHalf>> + Send>>),
    /// With the half that was written to, unless it broke.
    Done(Option<OwnedWriteHalf>),
}

impl Wire {
    /// Reads once, and sends on meanwhile.
    async fn fill(&mut self) -> io::Result<usize> {
        self.bytes.reserve(READ);
        let Wire { read, bytes, sending } = self;
        let mut reading = std::pin::pin!(read.read_buf(bytes));
        std::future::poll_fn(|cx| {
            if let Sending::Going(going) = sending
                && let Poll::Ready(outcome) = going.as_mut().poll(cx)
            {
                // An upstream that does not want the rest may have answered all the same.
                *sending = Sending::Done(outcome.ok());
            }
            reading.as_mut().poll(cx)
        })
        .await
    }

    /// The head of the answer, after those that only announce it.
    async fn head(&mut self) -> io::Result<answer_head::AnswerHead> {
        loop {
            match answer_head::read(&mut self.bytes)? {
                Some(head) if head.status >= 200 || head.status == 101 => return Ok(head),
                Some(_) => continue,
                None => {}
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Sends a request to its end.
async fn send(
    mut write: OwnedWriteHalf,
    head: Vec<u8>,
    body: Option<(Upload, Option<u64>)>,
    progress: Progress,
) -> io::Result<OwnedWriteHalf> {
    write.write_all(&head).await?;
    let Some((mut upload, length)) = body else { return Ok(write) };
    while let Some(piece) = upload.recv().await {
        // Cut short here as it was there.
        let piece = piece.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        if piece.is_empty() {
            continue;
        }
        if length.is_none() {
            write.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        }
        write.write_all(&piece).await?;
        if length.is_none() {
            write.write_all(b"\r\n").await?;
        }
        progress.note();
    }
    if length.is_none() {
        write.write_all(b"0\r\n\r\n").await?;
    }
    progress.note();
    Ok(write)
}

impl Pool {
    fn take(&self) -> Option<TcpStream> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|(since, _)| now.duration_since(*since) < POOL_IDLE);
        while let Some((_, stream)) = idle.pop() {
            // One that can be read from has ended, or says something that no one asked for.
            let quiet = matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if quiet {
                return Some(stream);
            }
        }
        None
    }

    fn put(&self, stream: TcpStream) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL_SIZE {
            idle.push((Instant::now(), stream));
        }
    }
}

/// Time at which a part of the request was last sent to the upstream.
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

/// A request with this fault and nothing of a visitor's.
fn nonsense(fault: Fault) -> Vec<u8> {
    let long = |length| "a".repeat(length);
    match fault {
        Fault::OldMethod => b"POST /\r\n".to_vec(),
        Fault::BadRequest => b"{ / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        Fault::Version => b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_vec(),
        Fault::Method => b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        Fault::Coding => b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: nonsense\r\n\r\n".to_vec(),
        Fault::LongLine => format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", long(40_000)).into_bytes(),
        Fault::LongHeader => format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", long(60_000)).into_bytes(),
    }
}

/// The upstream is on the same machine or next door.
const CONNECT: Duration = Duration::from_secs(10);

/// Longer than any long poll: browsers give up after five minutes.
const ANSWER: Duration = Duration::from_secs(600);

/// Shorter than what web servers keep an idle connection for; Node keeps one for five seconds.
const POOL_IDLE: Duration = Duration::from_secs(4);

const POOL_SIZE: usize = 64;

const READ: usize = 16 << 10;

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
