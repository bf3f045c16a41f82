//! The carriers `websocket` and `websocket-lanes`: frames in the messages of WebSockets.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::budget::BudgetShare;
use super::frame::MAX_BATCH;
use super::live::LiveSession;
use super::reply::refused;
use super::request;
use super::session::{Message, Session, SocketId};
use crate::cover::site::extension::ExtensionAnswer;
use crate::cover::site::socket::{DuplexStream, SocketHandler};
use crate::wire::websocket::{self, ClientMessage, FrameReader, ServerFrame};

/// The server asks whether the client is there when it has had nothing to say for so long.
const PING: Duration = Duration::from_secs(25);

/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(50);

/// Time for the client to take some of a message.
const SEND: Duration = Duration::from_secs(30);

/// Time for which a message may wait while nothing before it is passed on.
const BUSY: Duration = Duration::from_secs(30);

/// Bytes in a message to the app, as many as fill four records with the heads before them. What is in the socket cannot be
/// overtaken by what is more urgent.
const MESSAGE: usize = 4 * RECORD - RESUMABLE - websocket::LONGEST_HEAD;

/// Longest payload of a TLS record.
const RECORD: usize = 16 << 10;

/// Head of a batch where a socket may be resumed.
const RESUMABLE: usize = 8;

/// Least room that is made for what the client sends.
const READ: usize = 4 << 10;

/// Opens a socket of the session.
pub(super) fn open(live: Arc<LiveSession>, wanted: request::Socket, peer: SocketAddr, key: Vec<u8>) -> ExtensionAnswer {
    let protocol = wanted.protocol(live.token());
    let lane = match wanted {
        request::Socket::Lane(lane) => Some(lane),
        request::Socket::Plain | request::Socket::Resumable => None,
    };
    let opened = live.act(|session| session.open_socket(wanted, std::time::Instant::now()));
    let Ok(id) = opened else { return refused() };
    let fields = vec![
        ("Upgrade", "websocket".into()),
        ("Sec-WebSocket-Accept", websocket::accept(&key).into()),
        ("Sec-WebSocket-Protocol", protocol.into()),
    ];
    ExtensionAnswer::Socket { fields, socket: Box::new(OpenedSocket { live, id, lane, peer }) }
}

/// An open socket. The session learns of its end when this is dropped, however that comes.
struct OpenedSocket {
    live: Arc<LiveSession>,
    id: SocketId,
    /// The stream that it is for, if it is for one.
    lane: Option<u32>,
    peer: SocketAddr,
}

impl Drop for OpenedSocket {
    fn drop(&mut self) {
        self.live.act(|session| session.close_socket(self.id, std::time::Instant::now()));
    }
}

impl SocketHandler for OpenedSocket {
    fn run<'s>(
        self: Box<Self>,
        stream: &'s mut dyn DuplexStream,
        early: Bytes,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 's>> {
        Box::pin(async move {
            let (read, mut write) = split(stream);
            let (questions, asked) = mpsc::channel(QUESTIONS);
            // Either ends both. What cannot be read or written any more needs no words.
            let _ = tokio::select! {
                ended = self.read(read, early, questions) => ended,
                ended = self.write(&mut write, asked) => ended,
            };
            let _ = timeout(CLOSE, say_close(&mut write)).await;
        })
    }
}

/// Pings of the client that wait to be answered; more are not answered.
const QUESTIONS: usize = 4;

/// For the client to take the end.
const CLOSE: Duration = Duration::from_secs(2);

async fn say_close(write: &mut WriteHalf<&mut dyn DuplexStream>) -> io::Result<()> {
    let mut head = Vec::new();
    websocket::write_head(ServerFrame::Close, 2, &mut head);
    head.extend_from_slice(&NORMAL);
    write.write_all(&head).await?;
    write.flush().await
}

/// Code of an end that is no error.
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

impl OpenedSocket {
    /// Reads messages until the client ends the socket, or has to be rid of.
    async fn read(
        &self,
        mut read: ReadHalf<&mut dyn DuplexStream>,
        early: Bytes,
        questions: mpsc::Sender<Bytes>,
    ) -> io::Result<()> {
        let mut reader = FrameReader::new(MAX_BATCH + RESUMABLE);
        let mut bytes = BytesMut::from(early);
        let mut memory = self.live.memory();
        loop {
            match reader.read(&mut bytes) {
                Ok(Some(ClientMessage::Message(message))) => self.apply(message).await?,
                Ok(Some(ClientMessage::Ping(payload))) => _ = questions.try_send(payload),
                Ok(Some(ClientMessage::Pong)) => {}
                Ok(Some(ClientMessage::Close)) => return Ok(()),
                Ok(None) => {
                    if bytes.is_empty() {
                        // A socket that only waits owns no large buffer.
                        bytes = BytesMut::new();
                    }
                    let wants = reader.wants(&bytes).max(READ);
                    self.grow(&mut memory, reader.held() + bytes.len() + wants).await?;
                    bytes.reserve(wants);
                    // No more than that: small messages behind a long one must not keep its memory.
                    let mut room = (&mut bytes).limit(wants);
                    let heard = timeout(SILENCE, read.read_buf(&mut room)).await;
                    if heard.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                        return Ok(());
                    }
                }
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Takes memory for what is to be received, as soon as there is some. Until then nothing is read.
    async fn grow(&self, memory: &mut BudgetShare, bytes: usize) -> io::Result<()> {
        let give_up = Instant::now() + BUSY;
        while !memory.try_set(bytes) {
            let freed = self.live.budget_freed();
            if Instant::now() >= give_up {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            freed.await;
        }
        Ok(())
    }

    /// Gives a message to the session, as soon as that can take it. Until then nothing is read.
    async fn apply(&self, message: Bytes) -> io::Result<()> {
        self.live.heard_from(self.peer);
        let (mut passed, mut since) = (self.live.ask(Session::passed), Instant::now());
        loop {
            let (mut changed, freed) = (self.live.changed(None), self.live.budget_freed());
            let now = std::time::Instant::now();
            let batch = message.clone();
            let outcome = self.live.take(|session| session.message(self.id, batch, now));
            match outcome {
                Message::Busy => {}
                Message::Applied => {
                    self.tell();
                    return Ok(());
                }
                Message::Ended => {
                    self.tell();
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            // A user whose bandwidth is limited may well have to wait for long, as long as it goes on.
            let by_now = self.live.ask(Session::passed);
            if by_now != passed {
                (passed, since) = (by_now, Instant::now());
            } else if since.elapsed() > BUSY {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::select! {
                () = changed.wait() => {}
                () = freed => {}
            }
        }
    }

    /// Tells those whom a message of this socket concerns.
    fn tell(&self) {
        match self.lane {
            Some(lane) => self.live.tell_lane(lane),
            None => self.live.tell(),
        }
    }

    /// Sends what there is for the app, until the session says that the socket is over.
    async fn write(
        &self,
        write: &mut WriteHalf<&mut dyn DuplexStream>,
        mut asked: mpsc::Receiver<Bytes>,
    ) -> io::Result<()> {
        let mut said = Instant::now();
        loop {
            let now = std::time::Instant::now();
            if let Some(batch) = self.live.take(|session| session.next_message(self.id, MESSAGE, now)) {
                send(write, ServerFrame::Binary, batch.into_parts()).await?;
                said = Instant::now();
                continue;
            }
            if self.live.ask(|session| session.socket_over(self.id)) {
                return Ok(());
            }
            let mut changed = self.live.changed(self.lane);
            // What has come since is seen by asking again.
            if self.live.ask(|session| session.socket_has_downlink(self.id) || session.socket_over(self.id)) {
                continue;
            }
            tokio::select! {
                () = changed.wait() => {}
                Some(payload) = asked.recv() => send(write, ServerFrame::Pong, vec![payload]).await?,
                () = sleep_until(said + PING) => {
                    send(write, ServerFrame::Ping, Vec::new()).await?;
                    said = Instant::now();
                }
            }
        }
    }
}

/// Sends one frame, its long parts as they are.
async fn send(write: &mut WriteHalf<&mut dyn DuplexStream>, kind: ServerFrame, parts: Vec<Bytes>) -> io::Result<()> {
    let mut head = Vec::with_capacity(websocket::LONGEST_HEAD);
    websocket::write_head(kind, parts.iter().map(Bytes::len).sum(), &mut head);
    write_parts(write, joined(head, parts)).await?;
    timeout(SEND, write.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Joins a head and the parts behind it where they are short; what fits in one record becomes one piece. So a message goes in
/// one write, and neither its head nor a short frame in it shows as a record.
fn joined(head: Vec<u8>, parts: Vec<Bytes>) -> VecDeque<Bytes> {
    let whole = head.len() + parts.iter().map(Bytes::len).sum::<usize>() <= RECORD;
    let (mut all, mut short) = (VecDeque::new(), head);
    for part in parts {
        if whole || part.len() <= SHORT {
            short.extend_from_slice(&part);
        } else {
            all.extend([Bytes::from(std::mem::take(&mut short)), part]);
        }
    }
    all.push_back(short.into());
    all
}

/// Longest part that is copied to be joined with others.
const SHORT: usize = 4 << 10;

/// Writes these in as few writes as can be, so that no part makes a record of its own.
async fn write_parts(write: &mut (impl AsyncWrite + Unpin), mut parts: VecDeque<Bytes>) -> io::Result<()> {
    // As many as the longest message has: long parts, and what is joined between them.
    const SLICES: usize = 2 * (4 * RECORD / SHORT) + 1;
    loop {
        while parts.front().is_some_and(Bytes::is_empty) {
            parts.pop_front();
        }
        if parts.is_empty() {
            return Ok(());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = parts.len().min(SLICES);
        slices.iter_mut().zip(&parts).for_each(|(slice, part)| *slice = IoSlice::new(part));
        let writing = timeout(SEND, write.write_vectored(&slices[..count]));
        let mut written = writing.await.map_err(|_| io::ErrorKind::TimedOut)??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        for part in &mut parts {
            let taken = written.min(part.len());
            part.advance(taken);
            written -= taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustls::{ClientConfig, ServerConfig};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::duplex;
    use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

    use super::*;
    use crate::auth::{Key, Member, Secret, SecretTag};
    use crate::cover::scout::AnyCertificate;
    use crate::cover::site;
    use crate::webproxy::budget::Budget;
    use crate::webproxy::live::{SessionOrigin, StreamBackend, WebStream};
    use crate::webproxy::session::{Limits, Mode};
    use crate::webproxy::token::{TokenKey, TokenKind};

    type Wire = tokio::io::DuplexStream;

    /// Both ends of a TLS connection, and what the server has put on the wire.
    async fn connection() -> (server::TlsStream<Wire>, client::TlsStream<Wire>, Arc<Mutex<Vec<u8>>>) {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = site::self_signed(&["site.test"], folder.path()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let server = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let client = builder.with_safe_default_protocol_versions().unwrap().dangerous();
        let any = Arc::new(AnyCertificate);
        let client = client.with_custom_certificate_verifier(any).with_no_client_auth();
        let ((theirs, tapped_theirs), (ours, tapped_ours)) = (duplex(1 << 20), duplex(1 << 20));
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut from_client, mut to_client) = split(tapped_theirs);
        let (mut from_server, mut to_server) = split(tapped_ours);
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let tap = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut piece = BytesMut::new();
            while from_server.read_buf(&mut piece).await.is_ok_and(|read| read > 0) {
                tap.lock().unwrap().extend_from_slice(&piece);
                to_client.write_all_buf(&mut piece).await.unwrap();
            }
        });
        let name = "site.test".try_into().unwrap();
        let (connector, acceptor) = (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)));
        let (client, server) = tokio::join!(connector.connect(name, theirs), acceptor.accept(ours));
        (server.unwrap(), client.unwrap(), seen)
    }

    /// Lengths of the records on a wire, without what their protection adds.
    fn records(mut wire: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let [23, 3, 3, high, low, rest @ ..] = wire {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            lengths.push(length - 17);
            wire = &rest[length..];
        }
        assert!(wire.is_empty(), "{wire:x?}");
        lengths
    }

    #[tokio::test]
    async fn a_message_makes_no_more_records_than_its_bytes_need() {
        let (mut server, mut client, seen) = connection().await;
        let (_read, mut write) = split(&mut server as &mut dyn DuplexStream);
        let small = |count: usize| (0..count).map(|_| Bytes::from_static(b"a short frame")).collect::<Vec<_>>();
        let long = vec![Bytes::from(vec![0; RESUMABLE]), Bytes::from(vec![1; MESSAGE])];
        let mixed = (0..7).flat_map(|_| [Bytes::from_static(b"head"), vec![0; 9000].into()]).collect();
        // What comes first goes along with tickets.
        for (parts, expected) in
            [(small(1), None), (small(1), Some(1)), (small(200), Some(1)), (long, Some(4)), (mixed, Some(4))]
        {
            let before = seen.lock().unwrap().len();
            let mut head = Vec::new();
            let payload = parts.iter().map(Bytes::len).sum();
            websocket::write_head(ServerFrame::Binary, payload, &mut head);
            send(&mut write, ServerFrame::Binary, parts).await.unwrap();
            client.read_exact(&mut vec![0; head.len() + payload]).await.unwrap();
            if let Some(expected) = expected {
                let records = records(&seen.lock().unwrap()[before..]);
                assert_eq!(records.len(), expected, "{records:?}");
                assert_eq!(records.iter().sum::<usize>(), head.len() + payload);
            }
        }
    }

    /// Takes no stream.
    struct Closed;

    impl StreamBackend for Closed {
        fn open(&self, _: WebStream) {}
    }

    #[tokio::test]
    async fn a_message_is_counted_while_it_comes() {
        let (budget, now) = (Arc::new(Budget::new(16 << 20)), std::time::Instant::now());
        let session = Session::new(Mode::Websocket, Limits::default(), budget.key(SecretTag::NONE), now);
        let tokens = TokenKey::new(&[1; 32]);
        let token = tokens.issue(TokenKind::Session, [1; 16]);
        let page = tokens.issue(TokenKind::Bootstrap, [1; 16]);
        let key = Arc::new(Key::new(Member::new("alice"), Secret::new([1; 16])));
        let peer = ([192, 0, 2, 1], 1).into();
        let live = LiveSession::new(session, SessionOrigin { token, page, key, place: 0, peer }, Arc::new(Closed));
        let id = live.act(|session| session.open_socket(request::Socket::Plain, now)).unwrap();
        let (mut theirs, mut ours) = duplex(4096);
        let socket = Box::new(OpenedSocket { live, id, lane: None, peer });
        let serving = tokio::spawn(async move { socket.run(&mut ours, Bytes::new()).await });
        // The head of a megabyte, of which nothing follows.
        theirs.write_all(&[&[0x82, 0xff][..], &(1u64 << 20).to_be_bytes(), &[0; 4]].concat()).await.unwrap();
        let counted = async {
            while budget.used() < 1 << 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), counted).await.expect("its memory is counted");
        drop(theirs);
        timeout(Duration::from_secs(20), serving).await.unwrap().unwrap();
        assert_eq!(budget.used(), 0);
    }
}
