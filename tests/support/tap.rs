//! A visit to a cover by a real TLS client, with a note of every record that the cover sends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::browser;
use super::fake_tls::PATIENCE;
use super::origin::{NAME, Origin};

/// What a client says first once HTTP/2 was agreed on: the preface and its settings, all of them as they are by default.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A pause that shows that a server has said what it had to say.
const PAUSE: Duration = Duration::from_millis(500);

/// What Chrome lets a server send before it hears more: of one answer, and of a whole connection.
const STREAM_WINDOW: u32 = 6 << 20;
const CONNECTION_WINDOW: u32 = 15 << 20;

/// How much a client has taken when its line first is slower than the server.
pub const SLOW_FROM: usize = 64 << 10;

/// How long it then takes nothing; a server has filled all that lies between by then.
pub const SLOW_FOR: Duration = Duration::from_secs(1);

/// A client with less room than a server sends at once.
pub fn narrow(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_recv_buffer_size(64 << 10).expect("a socket option");
}

/// A visitor over TLS 1.3 whose handshake is over.
pub struct Visit {
    tls: TlsStream<Tap>,
    records: Arc<Mutex<Records>>,
    /// How many records the handshake took.
    handshake: usize,
}

impl Visit {
    /// Offers these protocols, as the hello of a client does.
    pub async fn start(origin: &Origin, server: SocketAddr, protocols: &[&str]) -> Self {
        let mut config = browser::config(origin, &TLS13);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(server).await.expect("someone listens");
        stream.set_nodelay(true).expect("a socket option");
        let records = Arc::<Mutex<Records>>::default();
        narrow(&stream);
        let tap = Tap { stream, records: records.clone(), taken: 0, pause: None };
        let name = ServerName::try_from(NAME).expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tap).await.expect("a handshake");
        let handshake = records.lock().expect("no panic while counting").sizes.len();
        Self { tls, records, handshake }
    }

    /// Sizes of the records that the server sends to a visitor who asks for nothing, tickets and settings, in the pieces that
    /// they were read in; and of those that answer the preface where the two have agreed on HTTP/2.
    pub async fn greeting(mut self) -> (Vec<Vec<usize>>, Vec<usize>) {
        self.listen().await;
        let pieces = self.records.lock().expect("no panic while counting").pieces.clone();
        let said = self.sizes().len();
        if self.tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.tls.write_all(PREFACE).await.expect("writes");
            self.listen().await;
        }
        // What ends the handshake was a piece of its own.
        let (mut at, mut behind) = (0, Vec::new());
        for piece in pieces {
            let from = at;
            at += piece.len();
            if from >= self.handshake {
                behind.push(piece);
            }
        }
        (behind, self.sizes().split_off(said))
    }

    async fn listen(&mut self) {
        let mut said = [0; 4096];
        while let Ok(count) = timeout(PAUSE, self.tls.read(&mut said)).await {
            assert_ne!(count.expect("no failure"), 0, "the server ended before it was asked for anything");
        }
    }

    /// Fetches a file over the protocol agreed on, as a browser at the end of a line that is slower than the server: all
    /// records behind the handshake. A connection of HTTP/1.1 ends with the answer, one of HTTP/2 is left open.
    pub async fn fetch(self, path: &str) -> Vec<usize> {
        let two = self.tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let fetch = async { if two { self.fetch_by_two(path).await } else { self.fetch_by_one(path).await } };
        timeout(PATIENCE, fetch).await.expect("an answer in time")
    }

    async fn fetch_by_one(mut self, path: &str) -> Vec<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
        self.tls.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        self.tls.read_to_end(&mut answer).await.expect("a close alert");
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..answer.len().min(100)]));
        self.sizes()
    }

    async fn fetch_by_two(self, path: &str) -> Vec<usize> {
        let Self { tls, records, handshake } = self;
        let executor = hyper_util::rt::TokioExecutor::new();
        let mut browser = hyper::client::conn::http2::Builder::new(executor);
        browser.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let client = browser.handshake(hyper_util::rt::TokioIo::new(tls)).await;
        let (mut sender, connection) = client.expect("settings");
        tokio::spawn(connection);
        let uri = format!("https://{NAME}{path}");
        let request = hyper::Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            frame.expect("a whole body");
        }
        sizes(&records, handshake)
    }

    fn sizes(&self) -> Vec<usize> {
        sizes(&self.records, self.handshake)
    }

    /// A visitor whose first request was answered, and who may go on.
    pub async fn at_rest(mut self) -> Resting {
        let two = self.tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let request = if two { head_by_two() } else { format!("HEAD / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").into_bytes() };
        self.tls.write_all(&request).await.expect("writes");
        self.listen().await;
        let Self { tls, records, .. } = self;
        let said = records.lock().expect("no panic while counting").sizes.len();
        Resting { stream: tls.into_inner().0, records, said }
    }
}

/// The preface and `HEAD /`.
fn head_by_two() -> Vec<u8> {
    let fields = [&[0x02, 4][..], b"HEAD", &[0x87, 0x84, 0x01, NAME.len() as u8], NAME.as_bytes()].concat();
    [PREFACE, &[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1], &fields].concat()
}

/// A visitor who asks for nothing more; what comes is not decrypted.
pub struct Resting {
    stream: Tap,
    records: Arc<Mutex<Records>>,
    /// How many records had come.
    said: usize,
}

impl Resting {
    /// Ends its side without a word of TLS.
    pub async fn fin(&mut self) {
        self.stream.stream.shutdown().await.expect("a socket that is open");
    }

    /// Sends a record that the server cannot decrypt.
    pub async fn bad_record(&mut self) {
        let record = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
        self.stream.stream.write_all(&record).await.expect("a socket that is open");
    }

    /// Sizes of the records up to the end, and whether that was a FIN.
    pub async fn end(&mut self) -> (Vec<usize>, bool) {
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("an end in time");
        (self.records.lock().expect("no panic while counting").sizes[self.said..].to_vec(), end.is_ok())
    }

    /// Whether what is sent behind the end is answered with a reset.
    pub async fn meets_reset(self) -> bool {
        meets_reset(self.stream.stream).await
    }
}

/// Whether what is sent on a connection that the other side has ended is answered with a reset, within a second.
pub async fn meets_reset(mut stream: TcpStream) -> bool {
    for _ in 0..10 {
        if stream.write_all(&[23]).await.is_err() {
            return true;
        }
        sleep(Duration::from_millis(100)).await;
    }
    false
}

fn sizes(records: &Mutex<Records>, handshake: usize) -> Vec<usize> {
    records.lock().expect("no panic while counting").sizes[handshake..].to_vec()
}

/// Payload sizes of records as their bytes come.
#[derive(Default)]
struct Records {
    head: Vec<u8>,
    /// Bytes of the present record that are still to come.
    left: usize,
    sizes: Vec<usize>,
    /// The same for each read that had the beginning of one.
    pieces: Vec<Vec<usize>>,
}

impl Records {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { 5 - self.head.len() };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= now.len();
                continue;
            }
            self.head.extend(now);
            if self.head.len() == 5 {
                self.left = usize::from(u16::from_be_bytes([self.head[3], self.head[4]]));
                self.sizes.push(self.left);
                self.head.clear();
            }
        }
    }
}

/// A stream that counts the records in what is read from it.
struct Tap {
    stream: TcpStream,
    records: Arc<Mutex<Records>>,
    /// Bytes so far.
    taken: usize,
    /// What it waits for before it takes more.
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken >= SLOW_FROM {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(SLOW_FOR)));
            ready!(pause.as_mut().poll(cx));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        self.taken += into.filled().len() - before;
        let mut records = self.records.lock().expect("no panic while counting");
        let known = records.sizes.len();
        records.push(&into.filled()[before..]);
        let piece = records.sizes[known..].to_vec();
        records.pieces.extend((!piece.is_empty()).then_some(piece));
        drop(records);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
