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

/// Bytes in a message to the app. What is in the socket cannot be overtaken by what is more urgent.
const MESSAGE: usize = 64 << 10;

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

/// Sends one frame, its parts as they are.
async fn send(write: &mut WriteHalf<&mut dyn DuplexStream>, kind: ServerFrame, parts: Vec<Bytes>) -> io::Result<()> {
    let mut head = Vec::with_capacity(websocket::LONGEST_HEAD);
    websocket::write_head(kind, parts.iter().map(Bytes::len).sum(), &mut head);
    let mut parts = VecDeque::from(parts);
    parts.push_front(head.into());
    write_parts(write, parts).await?;
    timeout(SEND, write.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Writes these in as few writes as can be, so that no part makes a record of its own.
async fn write_parts(write: &mut (impl AsyncWrite + Unpin), mut parts: VecDeque<Bytes>) -> io::Result<()> {
    const SLICES: usize = 32;
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
