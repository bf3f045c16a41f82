//! Visits that read the site: the records of large answers, and the way a connection ends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Leg, page, visit};
use crate::wire::record::{self, Header, kind};

/// Most requests of one visit, most bytes that are read of their answers, and what is large enough to stop looking.
const MOST_REQUESTS: usize = 8;
const MOST_BYTES: usize = 1 << 20;
const LARGE: usize = 384 << 10;

/// Shortest answer from which the records in its midst can be told.
const SMALLEST: usize = 40 << 10;

/// Most records of bulk data that are kept.
const MOST_BULK: usize = 256;

/// Most bytes that one connection may bring, whatever they are: what is asked for, and as much in headers.
const MOST_RAW: usize = 2 * MOST_BYTES;

/// What visitors say they are; some sites turn away who says nothing.
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64)";

/// Reads the front page and what it leads to, as the protocol that the cover chooses. Returns the payload sizes of
/// successive records in the midst of the largest answer; none if no answer is large.
pub(super) async fn bulk(leg: Leg, name: &str) -> io::Result<Vec<u16>> {
    let (stream, log) = connect(leg, name, &[b"h2", b"http/1.1"]).await?;
    let mut reader = Reader::start(stream, name, log).await?;
    let mut front = reader.get("/").await?;
    let mut base = "/".to_owned();
    if let Some(path) = front.location.as_deref().and_then(|to| page::path_on_site(to, name, "/")) {
        front = reader.get(&path).await?;
        base = path;
    }
    let links = if front.html { page::links(&front.body, name, &base) } else { Vec::new() };
    let mut largest = front.taken();
    for link in links {
        if largest.bytes >= LARGE || reader.is_spent() {
            break;
        }
        // A link that leads nowhere, or a server that has had enough, is no reason to forget what came before.
        let Ok(answer) = reader.get(&link).await else { break };
        if answer.bytes > largest.bytes {
            largest = answer.taken();
        }
    }
    Ok(if largest.bytes < SMALLEST { Vec::new() } else { midst(&largest.records) })
}

/// Asks for the front page and for the connection to be closed behind it. Returns the payload size of the record that
/// says so, or `None` if the cover closes without one.
pub(super) async fn close_alert(leg: Leg, name: &str) -> io::Result<Option<u16>> {
    let (mut stream, log) = connect(leg, name, &[b"http/1.1"]).await?;
    let request =
        format!("GET / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buffer).await {
            // TLS calls an end without an alert an error.
            Ok(0) => return Ok(lock(&log).last().copied()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The records behind the slow start that some servers have, before the last ones that end the answer.
fn midst(records: &[u16]) -> Vec<u16> {
    let from = (records.len() / 4).max(1);
    let to = records.len().saturating_sub(2);
    records.get(from..to).unwrap_or_default().iter().copied().take(MOST_BULK).collect()
}

type Log = Arc<Mutex<Vec<u16>>>;
type Stream = TlsStream<Tap>;

async fn connect(leg: Leg, name: &str, protocols: &[&[u8]]) -> io::Result<(Stream, Log)> {
    let log = Log::default();
    let tap = Tap { leg, header: [0; record::HEADER], have: 0, left: 0, total: 0, log: Arc::clone(&log) };
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(visit::config(protocols)?).connect(name, tap).await?;
    Ok((stream, log))
}

/// One connection on which requests are made, one after the other.
struct Reader {
    sender: Sender,
    driver: JoinHandle<()>,
    name: String,
    log: Log,
    requests: usize,
    bytes: usize,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// An answer as far as it was read.
#[derive(Debug, Default)]
struct Answer {
    bytes: usize,
    records: Vec<u16>,
    body: Vec<u8>,
    html: bool,
    location: Option<String>,
}

impl Answer {
    /// The same without its content.
    fn taken(self) -> Self {
        Self { body: Vec::new(), ..self }
    }
}

impl Reader {
    async fn start(stream: Stream, name: &str, log: Log) -> io::Result<Self> {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let (sender, driver) = if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
            (Sender::Http2(sender), tokio::spawn(async move { _ = connection.await }))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            (Sender::Http1(sender), tokio::spawn(async move { _ = connection.await }))
        };
        Ok(Self { sender, driver, name: name.to_owned(), log, requests: 0, bytes: 0 })
    }

    fn is_spent(&self) -> bool {
        self.requests >= MOST_REQUESTS || self.bytes >= MOST_BYTES
    }

    async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.requests += 1;
        let before = lock(&self.log).len();
        let response = self.send(path).await?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let mut answer = Answer {
            html: header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")),
            location: header(LOCATION).filter(|_| response.status().is_redirection()).map(str::to_owned),
            ..Answer::default()
        };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            answer.bytes += data.len();
            self.bytes += data.len();
            if answer.html {
                answer.body.extend_from_slice(&data);
            }
            if self.bytes >= MOST_BYTES {
                break;
            }
        }
        answer.records = lock(&self.log)[before..].to_vec();
        Ok(answer)
    }

    async fn send(&mut self, path: &str) -> io::Result<Response<Incoming>> {
        let request = Request::get(self.uri(path)?).header(USER_AGENT, AGENT);
        // Without a word on encodings, some servers take all of them for welcome.
        let request = request.header(ACCEPT, "*/*").header(ACCEPT_ENCODING, "identity");
        let sent = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                let request = request.header(HOST, &self.name).body(Empty::new()).map_err(io::Error::other)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                let request = request.version(Version::HTTP_2).body(Empty::new()).map_err(io::Error::other)?;
                sender.send_request(request).await
            }
        };
        sent.map_err(io::Error::other)
    }

    fn uri(&self, path: &str) -> io::Result<Uri> {
        match self.sender {
            Sender::Http1(_) => Uri::try_from(path),
            Sender::Http2(_) => Uri::try_from(format!("https://{}{path}", self.name)),
        }
        .map_err(io::Error::other)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Notes the sizes of encrypted records on their way in. No read goes beyond the end of a record, so what was noted is
/// what the reader has been given.
struct Tap {
    leg: Leg,
    header: [u8; record::HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the payload that have not.
    left: usize,
    total: usize,
    log: Log,
}

impl Tap {
    fn wanted(&self) -> usize {
        if self.have < record::HEADER { record::HEADER - self.have } else { self.left }
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.total += bytes.len();
        if self.total > MOST_RAW {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sends more than it was asked for"));
        }
        if self.have < record::HEADER {
            self.header[self.have..self.have + bytes.len()].copy_from_slice(bytes);
            self.have += bytes.len();
            if self.have == record::HEADER {
                self.left = Header::decode(self.header).length.into();
            }
        } else {
            self.left -= bytes.len();
        }
        if self.have == record::HEADER && self.left == 0 {
            let Header { kind, length, .. } = Header::decode(self.header);
            if kind == kind::APPLICATION_DATA {
                lock(&self.log).push(length);
            }
            self.have = 0;
        }
        Ok(())
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wanted = this.wanted().min(buffer.remaining());
        let space = buffer.initialize_unfilled_to(wanted);
        let mut limited = ReadBuf::new(space);
        ready!(Pin::new(&mut this.leg).poll_read(context, &mut limited))?;
        let count = limited.filled().len();
        this.note(limited.filled())?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().leg).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().leg).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().leg).poll_shutdown(context)
    }
}

fn lock(log: &Log) -> MutexGuard<'_, Vec<u16>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_midst_leaves_out_beginning_and_end() {
        assert_eq!(midst(&[100, 1, 1, 2, 3, 4, 5, 6, 7, 9, 50, 19]), [2, 3, 4, 5, 6, 7, 9]);
        for short in [&[][..], &[1], &[1, 2], &[1, 2, 3]] {
            assert!(midst(short).is_empty());
        }
    }

    #[tokio::test]
    async fn a_tap_notes_whole_encrypted_records_and_no_others() {
        let bytes = [&[22, 3, 3, 0, 2, 1, 2][..], &[23, 3, 3, 0, 3, 1, 2, 3], &[23, 3, 3, 0, 0], &[23, 3, 3, 0, 9, 1]];
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(&bytes.concat()).await.unwrap();
        drop(far);
        let log = Log::default();
        let mut tap = Tap { leg: Box::new(near), header: [0; 5], have: 0, left: 0, total: 0, log: Arc::clone(&log) };
        let mut read = Vec::new();
        tap.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, bytes.concat());
        assert_eq!(*lock(&log), [3, 0]);
    }

    #[tokio::test]
    async fn a_tap_ends_what_does_not_end_by_itself() {
        let log = Log::default();
        let endless: Leg = Box::new(tokio::io::join(tokio::io::repeat(23), tokio::io::sink()));
        let mut tap = Tap { leg: endless, header: [0; 5], have: 0, left: 0, total: 0, log };
        let mut read = Vec::new();
        assert!(tap.read_to_end(&mut read).await.is_err());
        assert!(read.len() <= MOST_RAW);
    }
}
