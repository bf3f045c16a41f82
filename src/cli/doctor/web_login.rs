//! A client of our own for WEB proxies: asks for the page as an app's browser does, begins a session by each of its carriers,
//! and asks a data centre what [`login`](super::login) asks it.
//!
//! ```text
//! page ─▶ session ─▶ OPEN and DATA ─▶ DATA ─▶ the answer ─▶ end of the session
//! ```
//!
//! At the proxy's own listeners it believes any certificate: which one browsers believe is judged apart from the way in.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::CryptoRng;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::Secret;
use crate::cli::ways::Way;
use crate::cover::scout::AnyCertificate;
use crate::crypto::Ctr;
use crate::telegram::DcId;
use crate::telegram::ping::{Odd, Question};
use crate::webproxy::capability::TEXT;
use crate::webproxy::frame::{self, HEAD, Kind, MAX_BATCH};
use crate::webproxy::session::Mode;
use crate::webproxy::{BasePath, Capability, Form, Host};
use crate::wire::obfuscated;
use crate::wire::packets::Framing;

/// Header fields that keep the page out of the frame in which an app may hold it.
const HARMFUL: [&str; 5] = [
    "x-frame-options",
    "cross-origin-opener-policy",
    "cross-origin-embedder-policy",
    "cross-origin-resource-policy",
    "set-cookie",
];

/// Reason why a login by WEB failed.
#[derive(Debug)]
pub enum WebLoginError {
    /// No connection, or no TLS on it.
    Unreachable(io::Error),
    /// It ended, or what came is no HTTP.
    Broken,
    /// The page was refused with this status: what answers does not know the secret, or does not let it in.
    NoPage(u16),
    /// The page lacks what its clients look for.
    OddPage,
    /// The page came with a field that apps do not bear.
    Field(&'static str),
    /// A call was answered with this status.
    Call(&'static str, u16),
    /// The stream was closed without an answer.
    Closed,
    /// The data centre's answer is none.
    Odd(Odd),
}

impl fmt::Display for WebLoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "no connection: {error}"),
            Self::Broken => f.write_str("the connection broke off"),
            Self::NoPage(status) => write!(f, "the request for the page was answered with {status}, as a stranger's"),
            Self::OddPage => f.write_str("what came is not the page that apps look for"),
            Self::Field(name) => write!(f, "the page came with the header field {name}, which apps do not bear"),
            Self::Call(what, status) => write!(f, "{what} was answered with {status}"),
            Self::Closed => f.write_str("let in, but the data centre did not answer"),
            Self::Odd(odd) => write!(f, "let in, but {odd}"),
        }
    }
}

impl WebLoginError {
    /// Advice on what to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Broken => "see whether the proxy still runs",
            Self::NoPage(_) => "restart the proxy, so that it knows this configuration; see whether the user may enter",
            Self::OddPage | Self::Call(..) => {
                "see whether a web server in front changes requests or answers: docs/web.md"
            }
            Self::Field(_) => "take the field out of the web server in front: docs/web.md",
            Self::Closed | Self::Odd(_) => "see the lines on Telegram and the log of the proxy",
        }
    }
}

/// Place where the site is reached.
#[derive(Clone, Debug)]
pub struct WebDoor {
    /// The way to it.
    pub way: Way,
    /// What is there.
    pub kind: DoorKind,
}

/// Listener that a login goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorKind {
    /// The proxy's own, with TLS.
    Own,
    /// The proxy's own for web servers in front, without TLS.
    Plain,
    /// That of the web server in front, where the name leads. Its certificate has to be one that browsers believe.
    Front,
}

/// Credentials for a login by WEB.
#[derive(Clone, Debug)]
pub struct WebVisitor {
    /// The user's key.
    pub secret: Secret,
    /// The site.
    pub host: Host,
    /// The path of the page.
    pub base: BasePath,
}

/// A login that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebLogin {
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// Time from the first packet to the answer.
    pub took: Duration,
}

impl WebVisitor {
    /// Carriers of the page behind a door, the one that it begins with first.
    pub async fn carriers(&self, door: &WebDoor) -> Result<Vec<Mode>, WebLoginError> {
        let mut client = HttpClient::open(door, &self.host).await?;
        Ok(match self.page(&mut client).await?.carrier {
            // What its own page falls back to.
            Mode::Websocket => vec![Mode::Websocket, Mode::Https],
            only => vec![only],
        })
    }

    /// Comes by this carrier and asks data centre `dc`. The caller limits the time.
    pub async fn log_in(
        &self,
        door: &WebDoor,
        carrier: Mode,
        dc: DcId,
        random: &mut impl CryptoRng,
    ) -> Result<WebLogin, WebLoginError> {
        let began = Instant::now();
        let mut client = HttpClient::open(door, &self.host).await?;
        let page = self.page(&mut client).await?;
        let token = self.begin(&mut client, &page.bootstrap).await?;
        let (mut talk, opening) = Talk::new(&self.secret, dc, random);
        let asked = match carrier {
            Mode::Https | Mode::HttpsLanes => {
                self.ask_by_requests(&mut client, &token, carrier, (&mut talk, opening)).await
            }
            Mode::Websocket | Mode::WebsocketLanes => {
                self.ask_by_socket(door, &token, carrier, (&mut talk, opening), random).await
            }
        };
        let login = WebLogin { http2: client.is_http2(), took: began.elapsed() };
        // A session that is left alone would stand for minutes.
        let _ = client.ask(Method::DELETE, self.path("session"), &bearer(&token), Bytes::new()).await;
        asked.map(|()| login)
    }

    fn path(&self, call: &str) -> String {
        format!("{}api/v1/{call}", self.base.prefix())
    }

    async fn page(&self, client: &mut HttpClient) -> Result<PageValues, WebLoginError> {
        let capability = Capability::new(self.secret.bytes(), Form::Plain, &self.host, &self.base).text();
        let target = format!("{}?bridge={capability}", self.base.prefix());
        let answer = client.ask(Method::GET, target, &[], Bytes::new()).await?;
        let text = String::from_utf8_lossy(answer.body());
        match (answer.status().as_u16(), PageValues::read(&text)) {
            (200, Some(values)) => check_fields(answer.headers()).map(|()| values),
            // Without web, or for a stranger, the site has pages of its own.
            (200, None) if !text.contains("bootstrap") => Err(WebLoginError::NoPage(200)),
            (200, None) => Err(WebLoginError::OddPage),
            (status, _) => Err(WebLoginError::NoPage(status)),
        }
    }

    async fn begin(&self, client: &mut HttpClient, bootstrap: &str) -> Result<String, WebLoginError> {
        let hello = Bytes::from_static(&frame::HELLO);
        let fields = [bearer(bootstrap), frames()].concat();
        let answer = client.ask(Method::POST, self.path("session"), &fields, hello).await?;
        let token = answer.headers().get("x-session-token").and_then(|token| token.to_str().ok());
        match token {
            Some(token) if answer.status() == 200 && answer.body()[..] == frame::WELCOME => Ok(token.to_owned()),
            _ => Err(WebLoginError::Call("the beginning of a session", answer.status().as_u16())),
        }
    }

    async fn ask_by_requests(
        &self,
        client: &mut HttpClient,
        token: &str,
        carrier: Mode,
        (talk, opening): (&mut Talk, Bytes),
    ) -> Result<(), WebLoginError> {
        let lane = (carrier == Mode::HttpsLanes).then(|| ("X-Lane-ID", STREAM.to_string()));
        let fields = |more: (&'static str, String)| {
            bearer(token).into_iter().chain(lane.clone()).chain([more]).collect::<Vec<_>>()
        };
        let up = [fields(("X-Up-Seq", "1".into())), frames().into()].concat();
        let answer = client.ask(Method::POST, self.path("up"), &up, opening).await?;
        if answer.status() != 204 {
            return Err(WebLoginError::Call("an uplink request", answer.status().as_u16()));
        }
        let mut cursor = "0".to_owned();
        loop {
            let down = fields(("X-Down-Cursor", cursor));
            let answer = client.ask(Method::POST, self.path("down"), &down, Bytes::new()).await?;
            if !matches!(answer.status().as_u16(), 200 | 204) {
                return Err(WebLoginError::Call("a downlink request", answer.status().as_u16()));
            }
            let next = answer.headers().get("x-down-cursor").and_then(|cursor| cursor.to_str().ok());
            cursor = next.ok_or(WebLoginError::OddPage)?.to_owned();
            if talk.hear(answer.body())? {
                return Ok(());
            }
        }
    }

    async fn ask_by_socket(
        &self,
        door: &WebDoor,
        token: &str,
        carrier: Mode,
        (talk, opening): (&mut Talk, Bytes),
        random: &mut impl CryptoRng,
    ) -> Result<(), WebLoginError> {
        let protocol = match carrier {
            Mode::WebsocketLanes => format!("tproxy-lane-v1.{token}.{STREAM}"),
            _ => format!("tproxy-v1.{token}"),
        };
        let mut stream = connect(door, &self.host, &[b"http/1.1"]).await?.0;
        let key = BASE64.encode(&array::<16>(random));
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
            self.path("ws"),
            self.host
        );
        stream.write_all(request.as_bytes()).await.map_err(|_| WebLoginError::Broken)?;
        let mut bytes = BytesMut::new();
        let status = read_upgrade(&mut stream, &mut bytes).await?;
        if status != 101 {
            return Err(WebLoginError::Call("the opening of a WebSocket", status));
        }
        stream.write_all(&masked(&opening, array(random))).await.map_err(|_| WebLoginError::Broken)?;
        loop {
            while let Some((kind, payload)) = take_message(&mut bytes)? {
                match kind {
                    BINARY if talk.hear(&payload)? => return Ok(()),
                    CLOSE => return Err(WebLoginError::Closed),
                    _ => {}
                }
            }
            fill(&mut stream, &mut bytes).await?;
        }
    }
}

/// Fields of a request that are about its token.
fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {token}"))]
}

fn frames() -> [(&'static str, String); 1] {
    [("Content-Type", "application/octet-stream".to_owned())]
}

/// Number of the only stream.
const STREAM: u32 = 1;

/// What clients without a browser look for in a page.
struct PageValues {
    bootstrap: String,
    carrier: Mode,
}

impl PageValues {
    fn read(text: &str) -> Option<Self> {
        let after = |words: &str| text.split_once(words)?.1.split('"').next();
        let bootstrap = after("bootstrap=\"").filter(|token| token.len() == TEXT)?.to_owned();
        let carrier = after("carrierMode=\"")?.parse().ok()?;
        Some(Self { bootstrap, carrier })
    }
}

fn check_fields(fields: &HeaderMap) -> Result<(), WebLoginError> {
    let kind = fields.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("text/html") {
        return Err(WebLoginError::OddPage);
    }
    let harmful = HARMFUL.into_iter().find(|name| fields.contains_key(*name));
    harmful.map_or(Ok(()), |name| Err(WebLoginError::Field(name)))
}

/// One question to a data centre inside a stream.
struct Talk {
    question: Question,
    down: Ctr,
    /// What has come of the answer.
    plain: Vec<u8>,
}

impl Talk {
    /// The talk, and the batch that begins it.
    fn new(secret: &Secret, dc: DcId, random: &mut impl CryptoRng) -> (Self, Bytes) {
        let (header, mut up, down) =
            obfuscated::seal_for_proxy(dc.number(), Framing::Padded, secret.bytes(), || array(random));
        let question = Question::new(array(random));
        let mut packet = question.frame(SystemTime::now().into());
        up.apply(&mut packet);
        let data = [&header[..], &packet].concat();
        let opening = [frame::whole(Kind::Open, STREAM, &[]), frame::whole(Kind::Data, STREAM, &data)].concat();
        (Self { question, down: down.stream(), plain: Vec::new() }, opening.into())
    }

    /// Reads a batch, and says whether the answer has come whole.
    fn hear(&mut self, mut batch: &[u8]) -> Result<bool, WebLoginError> {
        while let Some((head, rest)) = batch.split_first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let (payload, rest) = rest.split_at_checked(length).ok_or(WebLoginError::Broken)?;
            batch = rest;
            match head[0] {
                kind if kind == Kind::Data as u8 => {
                    let start = self.plain.len();
                    self.plain.extend_from_slice(payload);
                    self.down.apply(&mut self.plain[start..]);
                }
                kind if kind == Kind::Close as u8 => return Err(WebLoginError::Closed),
                _ => {}
            }
        }
        Ok(self.question.answer(&self.plain).map_err(WebLoginError::Odd)?.is_some())
    }
}

/// A byte stream, in TLS or not.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection to the site, and whether HTTP/2 was agreed on.
async fn connect(door: &WebDoor, host: &Host, protocols: &[&[u8]]) -> Result<(Box<dyn Duplex>, bool), WebLoginError> {
    let stream: TcpStream = door.way.connect().await.map_err(WebLoginError::Unreachable)?;
    if door.kind == DoorKind::Plain {
        return Ok((Box::new(stream), false));
    }
    let unreachable = |error| WebLoginError::Unreachable(io::Error::other(error));
    let name = host.as_str().to_owned().try_into().map_err(unreachable)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| WebLoginError::Unreachable(io::Error::other(error)))?;
    let builder = match door.kind {
        DoorKind::Front => {
            builder.with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
        }
        DoorKind::Own | DoorKind::Plain => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(WebLoginError::Unreachable)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), http2))
}

/// Speaks HTTP over one connection.
struct HttpClient {
    requests: Requests,
    host: String,
    _driver: AbortOnDropHandle<()>,
}

enum Requests {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl HttpClient {
    async fn open(door: &WebDoor, host: &Host) -> Result<Self, WebLoginError> {
        let (stream, http2) = connect(door, host, &[b"h2", b"http/1.1"]).await?;
        let (io, host) = (TokioIo::new(stream), host.to_string());
        let broken = |_| WebLoginError::Broken;
        let (requests, driver) = match http2 {
            true => {
                let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
                (Requests::Http2(requests), tokio::spawn(async move { _ = connection.await }))
            }
            false => {
                let (requests, connection) = http1::handshake(io).await.map_err(broken)?;
                (Requests::Http1(requests), tokio::spawn(async move { _ = connection.await }))
            }
        };
        Ok(Self { requests, host, _driver: AbortOnDropHandle::new(driver) })
    }

    fn is_http2(&self) -> bool {
        matches!(self.requests, Requests::Http2(_))
    }

    async fn ask(
        &mut self,
        method: Method,
        target: String,
        fields: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Response<Bytes>, WebLoginError> {
        let mut request = match &self.requests {
            Requests::Http1(_) => Request::builder().uri(target).header("Host", &self.host),
            Requests::Http2(_) => Request::builder().uri(format!("https://{}{target}", self.host)),
        };
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.method(method).body(Full::new(body)).map_err(|_| WebLoginError::Broken)?;
        // Behind an answer the connection needs a moment until it takes the next request.
        let answer = match &mut self.requests {
            Requests::Http1(requests) => match requests.ready().await {
                Ok(()) => requests.send_request(request).await,
                Err(error) => Err(error),
            },
            Requests::Http2(requests) => match requests.ready().await {
                Ok(()) => requests.send_request(request).await,
                Err(error) => Err(error),
            },
        };
        let (parts, body) = answer.map_err(|_| WebLoginError::Broken)?.into_parts();
        let body = Limited::new(body, MAX_BATCH).collect().await.map_err(|_| WebLoginError::Broken)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// Reads the head of an answer to an upgrade and gives its status; what came behind it stays in `bytes`.
async fn read_upgrade(stream: &mut Box<dyn Duplex>, bytes: &mut BytesMut) -> Result<u16, WebLoginError> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = bytes.split_to(end + 4);
            let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
            return status.ok_or(WebLoginError::Broken);
        }
        fill(stream, bytes).await?;
    }
}

async fn fill(stream: &mut Box<dyn Duplex>, bytes: &mut BytesMut) -> Result<(), WebLoginError> {
    match stream.read_buf(bytes).await {
        Ok(1..) if bytes.len() <= 2 * MAX_BATCH => Ok(()),
        _ => Err(WebLoginError::Broken),
    }
}

/// A binary message of a client: one frame, masked.
fn masked(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0x80 | BINARY];
    match u8::try_from(payload.len()) {
        Ok(short @ ..126) => message.push(0x80 | short),
        _ => {
            message.push(0x80 | 126);
            message.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    message.extend_from_slice(&mask);
    message.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    message
}

/// Takes a server's frame from the front, which is whole and not masked.
fn take_message(bytes: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, WebLoginError> {
    let [first, second, ..] = bytes[..] else { return Ok(None) };
    let size = match second {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    if bytes.len() < size {
        return Ok(None);
    }
    let length = match size {
        2 => usize::from(second),
        _ => bytes[2..size].iter().fold(0, |length: usize, byte| length.wrapping_shl(8) | usize::from(*byte)),
    };
    if length > MAX_BATCH {
        return Err(WebLoginError::Broken);
    }
    if bytes.len() < size + length {
        return Ok(None);
    }
    let _ = bytes.split_to(size);
    Ok(Some((first & 0x0f, bytes.split_to(length))))
}

fn array<const N: usize>(random: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_read_by_what_its_clients_look_for() {
        let text = format!("const bootstrap=\"{}\", carrierMode=\"https-lanes\", batchLimit=5;", "A".repeat(43));
        let values = PageValues::read(&text).unwrap();
        assert_eq!((values.bootstrap.len(), values.carrier), (43, Mode::HttpsLanes));
        for wrong in ["", "bootstrap=\"AAA\", carrierMode=\"https\"", &text.replace("https-lanes", "pigeon")] {
            assert!(PageValues::read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn fields_that_apps_do_not_bear_are_named() {
        let fields = |list: &[(&'static str, &'static str)]| {
            let pairs = list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            check_fields(&HeaderMap::from_iter(pairs))
        };
        let html = ("content-type", "text/html; charset=utf-8");
        assert!(fields(&[html, ("strict-transport-security", "x")]).is_ok());
        assert!(matches!(fields(&[html, ("x-frame-options", "DENY")]), Err(WebLoginError::Field("x-frame-options"))));
        assert!(matches!(fields(&[("content-type", "text/plain")]), Err(WebLoginError::OddPage)));
    }

    #[test]
    fn frames_of_sockets_are_written_and_read() {
        for length in [1, 125, 126, 300] {
            let payload = vec![7; length];
            let message = masked(&payload, [1, 2, 3, 4]);
            let head = message.len() - length;
            assert_eq!(
                message[head..].iter().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b).collect::<Vec<_>>(),
                payload
            );
        }
        for (head, length) in
            [(vec![0x82, 3], 3), (vec![0x82, 126, 1, 0], 256), ([&[0x82, 127][..], &[0; 6], &[1, 0]].concat(), 256)]
        {
            let whole = [head, vec![9; length]].concat();
            for cut in 0..whole.len() {
                assert!(take_message(&mut BytesMut::from(&whole[..cut])).unwrap().is_none());
            }
            let (kind, payload) = take_message(&mut BytesMut::from(&whole[..])).unwrap().unwrap();
            assert_eq!((kind, payload.len()), (BINARY, length));
        }
        assert!(take_message(&mut BytesMut::from(&[0x82, 127, 255, 255, 255, 255, 0, 0, 0, 0][..])).is_err());
    }
}
