//! Visits that read the site: the records of large answers, and the way a connection ends.

use std::io;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::ProtocolVersion;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::rhythm::rhythm;
use super::tap::{Log, Tap};
use super::{Leg, page, visitor};

/// Most requests of one visit, most bytes that are read of their answers, and what is large enough to stop looking.
const MOST_REQUESTS: usize = 8;
const MOST_BYTES: usize = 1 << 20;
const LARGE: usize = 2 * WINDOW;

/// Flow-control window of an HTTP/2 stream, after which the server has to wait for us. A browser allows it 6 MiB, and
/// then it is the browser's socket that makes it wait, or the browser: a server cannot tell which, and looks alike.
/// Whole buffers of servers fit in.
const WINDOW: usize = 256 << 10;

/// Flow-control window of a whole HTTP/2 connection, after which it would be the connection that has to wait; what
/// Chrome allows.
const CONNECTION_WINDOW: u32 = 15 << 20;

/// Longest head of an answer over HTTP/2.
const LONGEST_HEAD: u32 = 32 << 10;

/// Shortest answer from which the records in its midst can be told.
const SMALLEST: usize = 40 << 10;

/// Most bytes that one connection may bring, whatever they are: what is asked for, and as much in headers.
const MOST_RAW: usize = 2 * MOST_BYTES;

/// User-Agent of visitors; some sites turn away clients without one.
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64)";

/// Sizes of the records of a large answer: payloads of successive records, one round of them where they repeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bulk {
    /// While the visitor takes everything as it comes; empty if the cover has nothing large to offer.
    pub(super) flowing: Vec<u16>,
    /// Once the visitor has made it wait; empty if that was not seen.
    pub(super) stalled: Vec<u16>,
}

/// Reads the front page and what it leads to, as the protocol that the cover chooses, and looks at the largest answer.
pub(super) async fn bulk(leg: Leg, name: &str) -> io::Result<Bulk> {
    let (stream, log) = connect(leg, name, &[b"h2", b"http/1.1"], visitor::MODERN).await?;
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
    Ok(if largest.bytes < SMALLEST { Bulk::default() } else { largest.bulk() })
}

/// Result of a visit that asked for the front page and for the connection to be closed behind it.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// Payload size of the record that says that the connection ends; `None` if the cover closes without one.
    pub(super) alert: Option<u16>,
    /// The beginning of the answer.
    pub(super) head: Vec<u8>,
    /// The certificates as shown, the site's own first.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Asks for the front page and for the connection to be closed behind it.
pub(super) async fn farewell(leg: Leg, name: &str) -> io::Result<Farewell> {
    let (mut stream, log) = connect(leg, name, &[b"http/1.1"], visitor::ANY).await?;
    let tls = stream.get_ref().1;
    let modern = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let mut farewell = Farewell::default();
    farewell.chain.extend(tls.peer_certificates().into_iter().flatten().map(|shown| shown.clone().into_owned()));
    let request =
        format!("GET / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buffer).await {
            // TLS calls an end without an alert an error.
            Ok(0) => {
                farewell.alert = log.all().last().copied().filter(|_| modern);
                return Ok(farewell);
            }
            Ok(read) => {
                let room = (LONGEST_HEAD as usize).saturating_sub(farewell.head.len());
                farewell.head.extend_from_slice(&buffer[..read.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(farewell),
            Err(error) => return Err(error),
        }
    }
}

type Stream = TlsStream<Tap>;

async fn connect(
    leg: Leg,
    name: &str,
    protocols: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> io::Result<(Stream, Log)> {
    let (tap, log) = Tap::new(leg, MOST_RAW);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(visitor::config(protocols, versions)?).connect(name, tap).await?;
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
    Http2(h2::client::SendRequest<Bytes>),
}

/// An answer as far as it was read.
#[derive(Debug, Default)]
struct Answer {
    bytes: usize,
    records: Vec<u16>,
    /// Number of records that came before the cover had to wait for us.
    flowing: Option<usize>,
    body: Vec<u8>,
    html: bool,
    location: Option<String>,
}

impl Answer {
    /// The same without its content.
    fn taken(self) -> Self {
        Self { body: Vec::new(), ..self }
    }

    fn bulk(&self) -> Bulk {
        let (flowing, stalled) = self.records.split_at(self.flowing.unwrap_or(self.records.len()));
        Bulk { flowing: rhythm(flowing), stalled: rhythm(stalled) }
    }
}

/// The content of an answer as it comes.
enum Body {
    Http1(Incoming),
    /// With the bytes that the cover has not been told to replace.
    Http2(h2::RecvStream, usize),
}

impl Body {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self {
                Self::Http1(body) => match body.frame().await?.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_)) => {}
                    Err(error) => return Some(Err(io::Error::other(error))),
                },
                Self::Http2(body, owed) => {
                    let data = body.data().await?.map_err(io::Error::other);
                    *owed += data.as_ref().map_or(0, Bytes::len);
                    return Some(data);
                }
            }
        }
    }

    /// Whether the cover has sent all that it may for now. If so, it is allowed as much again.
    fn lets_go_on(&mut self) -> io::Result<bool> {
        match self {
            Self::Http2(body, owed) if *owed >= WINDOW => {
                body.flow_control().release_capacity(std::mem::take(owed)).map_err(io::Error::other)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Reader {
    async fn start(stream: Stream, name: &str, log: Log) -> io::Result<Self> {
        let (sender, driver) = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut builder = h2::client::Builder::new();
            builder.enable_push(false).max_header_list_size(LONGEST_HEAD);
            builder.initial_window_size(WINDOW as u32).initial_connection_window_size(CONNECTION_WINDOW);
            let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
            (Sender::Http2(sender), tokio::spawn(async move { _ = connection.await }))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            (Sender::Http1(sender), tokio::spawn(async move { _ = connection.await }))
        };
        Ok(Self { sender, driver, name: name.to_owned(), log, requests: 0, bytes: 0 })
    }

    fn is_spent(&self) -> bool {
        self.requests >= MOST_REQUESTS || self.bytes >= MOST_BYTES
    }

    async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.requests += 1;
        let before = self.log.all().len();
        let response = self.send(path).await?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let mut answer = Answer {
            html: header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")),
            location: header(LOCATION).filter(|_| response.status().is_redirection()).map(str::to_owned),
            ..Answer::default()
        };
        let mut body = response.into_body();
        while let Some(data) = body.next().await {
            let data = data?;
            answer.bytes += data.len();
            self.bytes += data.len();
            if answer.html {
                answer.body.extend_from_slice(&data);
            }
            if self.bytes >= MOST_BYTES {
                break;
            }
            let so_far = self.log.all().len() - before;
            if body.lets_go_on()? {
                answer.flowing.get_or_insert(so_far);
            }
        }
        answer.records = self.log.all()[before..].to_vec();
        Ok(answer)
    }

    async fn send(&mut self, path: &str) -> io::Result<Response<Body>> {
        let request = Request::get(self.uri(path)?).header(USER_AGENT, AGENT);
        // Without a word on encodings, some servers take all of them for welcome.
        let request = request.header(ACCEPT, "*/*").header(ACCEPT_ENCODING, "identity");
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                let request = request.header(HOST, &self.name).body(Empty::new()).map_err(io::Error::other)?;
                let response = sender.send_request(request).await.map_err(io::Error::other)?;
                Ok(response.map(Body::Http1))
            }
            Sender::Http2(sender) => {
                let request = request.version(Version::HTTP_2).body(()).map_err(io::Error::other)?;
                let mut ready = sender.clone().ready().await.map_err(io::Error::other)?;
                let (response, _) = ready.send_request(request, true).map_err(io::Error::other)?;
                let response = response.await.map_err(io::Error::other)?;
                Ok(response.map(|body| Body::Http2(body, 0)))
            }
        }
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
