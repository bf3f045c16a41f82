//! The carriers `websocket` and `websocket-lanes`: frames in the messages of WebSockets.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::frame::MAX_BATCH;
use super::live::LiveSession;
use super::reply::refused;
use super::request;
use super::session::{Message, SocketId};
use crate::cover::site::extension::ExtensionAnswer;
use crate::cover::site::socket::{DuplexStream, SocketHandler};
use crate::wire::websocket::{self, ClientMessage, FrameReader, ServerFrame};

/// The server asks whether the client is there when it has had nothing to say for so long.
const PING: Duration = Duration::from_secs(25);

/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(50);

/// Time for the client to take a message.
const SEND: Duration = Duration::from_secs(30);

/// Time for which a message may wait until the session can take it.
const BUSY: Duration = Duration::from_secs(30);

/// Bytes in a message to the app. What is in the socket cannot be overtaken by what is more urgent.
const MESSAGE: usize = 64 << 10;

/// Head of a batch where a socket may be resumed.
const RESUMABLE: usize = 8;

const READ: usize = 4 << 10;

/// Opens a socket of the session.
pub(super) fn open(live: Arc<LiveSession>, wanted: request::Socket, peer: SocketAddr, key: Vec<u8>) -> ExtensionAnswer {
    let protocol = wanted.protocol(live.token());
    let opened = live.act(|session| session.open_socket(wanted, std::time::Instant::now()));
    let Ok(id) = opened else { return refused() };
    let fields = vec![
        ("Upgrade", "websocket".into()),
        ("Sec-WebSocket-Accept", websocket::accept(&key).into()),
        ("Sec-WebSocket-Protocol", protocol.into()),
    ];
    ExtensionAnswer::Socket { fields, socket: Box::new(OpenedSocket { live, id, peer }) }
}

/// An open socket. The session learns of its end when this is dropped, however that comes.
struct OpenedSocket {
    live: Arc<LiveSession>,
    id: SocketId,
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
                    bytes.reserve(reader.wants(&bytes).max(READ));
                    let heard = timeout(SILENCE, read.read_buf(&mut bytes)).await;
                    if heard.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                        return Ok(());
                    }
                }
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Gives a message to the session, as soon as that can take it. Until then nothing is read.
    async fn apply(&self, message: Bytes) -> io::Result<()> {
        self.live.heard_from(self.peer);
        let give_up = Instant::now() + BUSY;
        loop {
            let mut changed = std::pin::pin!(self.live.changed());
            changed.as_mut().enable();
            let now = std::time::Instant::now();
            let batch = message.clone();
            let outcome = self.live.take(|session| session.message(self.id, batch, now));
            match outcome {
                Message::Busy => {}
                Message::Applied => {
                    self.live.tell();
                    return Ok(());
                }
                Message::Ended => {
                    self.live.tell();
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            timeout_at(give_up, changed).await.map_err(|_| io::ErrorKind::TimedOut)?;
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
            let mut changed = std::pin::pin!(self.live.changed());
            changed.as_mut().enable();
            let now = std::time::Instant::now();
            if let Some(batch) = self.live.take(|session| session.next_message(self.id, MESSAGE, now)) {
                send(write, ServerFrame::Binary, batch.into_parts()).await?;
                said = Instant::now();
                continue;
            }
            if self.live.ask(|session| session.socket_over(self.id)) {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
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
    let sending = async {
        write_parts(write, parts).await?;
        write.flush().await
    };
    timeout(SEND, sending).await.map_err(|_| io::ErrorKind::TimedOut)?
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
        let mut written = write.write_vectored(&slices[..count]).await?;
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
