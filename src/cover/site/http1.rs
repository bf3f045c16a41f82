//! One connection of HTTP/1, with the habits and deadlines of nginx.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, copy_bidirectional, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answer::Handler;
use super::bodies::Body;
use super::content::Content;
use super::extension::{self, SiteVisitor};
use super::fault::Fault;
use super::framing::{Framing, Taken};
use super::message::{Broken, Fields, Head, Reply, Upload, Version, reason};
use super::request_head::{HeadReader, Whole};
use super::socket::SocketHandler;

/// Serves until either side is done and gives the stream back for closing. The first head has to be there by `first`.
pub(super) async fn serve<T>(stream: T, guest: SiteVisitor, handler: Arc<Handler>, first: Instant) -> Option<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = split(stream);
    let mut reader = Reader { half: read, bytes: BytesMut::new(), framing: Framing::Over };
    let mut writer = Writer(write);
    let tunnel = visit(&mut reader, &mut writer, &guest, &handler, first).await;
    let (early, mut stream) = (reader.bytes.freeze(), reader.half.unsplit(writer.0));
    match tunnel {
        Some(Tunnel::Upstream { stream: far, said }) => pass(&mut stream, early, *far, said).await,
        Some(Tunnel::Taken(socket)) => socket.run(&mut stream, early).await,
        None => {}
    }
    Some(stream)
}

/// Another protocol, and who speaks it.
enum Tunnel {
    /// Another server, which has said this already.
    Upstream { stream: Box<TcpStream>, said: Bytes },
    /// An extension.
    Taken(Box<dyn SocketHandler>),
}

/// Carries both directions of what the connection was upgraded to, until each has ended.
async fn pass<T: AsyncRead + AsyncWrite + Unpin>(client: &mut T, early: Bytes, mut far: TcpStream, said: Bytes) {
    if far.write_all(&early).await.is_ok() && client.write_all(&said).await.is_ok() {
        let _ = client.flush().await;
        let _ = copy_bidirectional(client, &mut far).await;
    }
}

async fn visit<T: AsyncRead + AsyncWrite>(
    reader: &mut Reader<T>,
    writer: &mut Writer<T>,
    guest: &SiteVisitor,
    handler: &Arc<Handler>,
    first: Instant,
) -> Option<Tunnel> {
    let leaving = guest.leaving();
    for served in 0..REQUESTS {
        let head = match served {
            0 => reader.head(first).await,
            _ => reader.next_head(&leaving).await,
        };
        match head {
            Ok(whole) => {
                let turn = Turn { whole, guest, handler, leaving: &leaving, last: served + 1 == REQUESTS };
                match turn.take(reader, writer).await {
                    After::Next => {}
                    After::Close => return None,
                    After::Tunnel(tunnel) => return Some(tunnel),
                }
            }
            Err(Ended::Refused { fault, silent, version }) => {
                let reply = Reply { last: true, ..handler.refuse(fault).await };
                let shape = Shape { version, silent, stays: false, leaving };
                let _ = writer.reply(reply, handler, &shape).await;
                return None;
            }
            Err(Ended::Closed) => return None,
        }
    }
    None
}

/// Next step on the connection after a request.
enum After {
    Next,
    Close,
    Tunnel(Tunnel),
}

/// Reason why no request head was received.
enum Ended {
    Closed,
    Refused { fault: Fault, silent: bool, version: Version },
}

/// One request and its answer.
struct Turn<'h> {
    whole: Whole,
    guest: &'h SiteVisitor,
    handler: &'h Arc<Handler>,
    /// Cancelled when the connection is to be closed.
    leaving: &'h CancellationToken,
    /// Whether the connection has served long enough.
    last: bool,
}

impl Turn<'_> {
    async fn take<T: AsyncRead + AsyncWrite>(self, reader: &mut Reader<T>, writer: &mut Writer<T>) -> After {
        let Whole { request, stays, expects } = self.whole;
        reader.framing = Framing::of(request.length);
        let stays = stays && !self.last;
        let leaving = self.leaving.clone();
        let shape = Shape { version: request.version, silent: request.is_head(), stays, leaving };
        let claim = self.guest.claim(&request);
        if (claim.is_some() || self.handler.passes_on())
            && expects
            && request.has_body()
            && writer.say_continue().await.is_err()
        {
            return After::Close;
        }
        if let Some(claim) = claim {
            let (answer, body) = (|upload| extension::answer(claim, upload), self.handler.taken_body());
            return exchange(answer, body, shape, self.handler, (reader, writer)).await;
        }
        if self.handler.passes_on() {
            let answer = |upload| self.handler.answer(&request, upload, self.guest);
            return exchange(answer, self.handler.body(), shape, self.handler, (reader, writer)).await;
        }
        let mut reply = self.handler.answer(&request, mpsc::channel(1).1, self.guest).await;
        let has_content = matches!(reply.status, 200 | 206 | 304 | 412 | 416);
        if has_content && expects && writer.say_continue().await.is_err() {
            return After::Close;
        }
        if reader.skip_what_came().is_err() {
            if has_content {
                reply = self.handler.refuse(Fault::BadRequest).await;
            }
            reply.last = true;
        }
        // nginx says that it goes on, and does not.
        let failed = reply.status == 412;
        match writer.reply(reply, self.handler, &shape).await {
            Ok(_) if failed => After::Close,
            Ok(sent) => after(sent, reader).await,
            Err(_) => After::Close,
        }
    }
}

/// Passes a request on: its body goes up while the answer comes down, and a client that leaves ends both.
async fn exchange<T: AsyncRead + AsyncWrite, A: Future<Output = Reply>>(
    answer: impl FnOnce(Upload) -> A,
    body: Body<'_>,
    shape: Shape,
    handler: &Arc<Handler>,
    (reader, writer): (&mut Reader<T>, &mut Writer<T>),
) -> After {
    let (sender, upload) = mpsc::channel(1);
    let answering = async {
        let reply = answer(upload).await;
        writer.reply(reply, handler, &shape).await
    };
    let outcome = {
        let mut answering = pin!(answering);
        let mut pumping = pin!(reader.pump(sender, body));
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = answering.as_mut().poll(cx) {
                return Poll::Ready(outcome.ok());
            }
            match pumping.as_mut().poll(cx) {
                Poll::Ready(Gone) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    };
    match outcome {
        Some(sent) => after(sent, reader).await,
        None => After::Close,
    }
}

/// An answer has gone out; what is left of the request's body is waited for, also before a close: a socket closed with
/// unread bytes would reset what was sent last.
async fn after<T: AsyncRead + AsyncWrite>(sent: Sent, reader: &mut Reader<T>) -> After {
    if let Sent::Tunnel(tunnel) = sent {
        return After::Tunnel(tunnel);
    }
    match (reader.skip_the_rest().await, sent) {
        (Ok(()), Sent::Stays) => After::Next,
        _ => After::Close,
    }
}

/// State of the connection after an answer.
enum Sent {
    Stays,
    Closes,
    Tunnel(Tunnel),
}

/// The client has left, or has let a deadline pass.
struct Gone;

/// Form of an answer besides its content.
struct Shape {
    version: Version,
    /// Without a body.
    silent: bool,
    /// Whether the connection stays open, if it is not to be closed.
    stays: bool,
    leaving: CancellationToken,
}

/// The client's half.
struct Reader<T> {
    half: ReadHalf<T>,
    bytes: BytesMut,
    /// Of the body that is under way.
    framing: Framing,
}

impl<T: AsyncRead + AsyncWrite> Reader<T> {
    /// Reads once; zero at the end.
    async fn fill(&mut self, most: usize) -> io::Result<usize> {
        self.bytes.reserve(most);
        self.half.read_buf(&mut self.bytes).await
    }

    /// The head of another request, which may be long in coming.
    async fn next_head(&mut self, leaving: &CancellationToken) -> Result<Whole, Ended> {
        if self.bytes.is_empty() {
            // A connection that only waits owns no buffer but a small one.
            self.bytes = BytesMut::new();
            tokio::select! {
                biased;
                read = timeout(KEEP_ALIVE, self.fill(FIRST_READ)) => match read {
                    Ok(Ok(1..)) => {}
                    _ => return Err(Ended::Closed),
                },
                () = leaving.cancelled() => return Err(Ended::Closed),
            }
        }
        self.head(Instant::now() + HEADERS).await
    }

    async fn head(&mut self, deadline: Instant) -> Result<Whole, Ended> {
        let mut head = HeadReader::default();
        loop {
            match head.read(&mut self.bytes) {
                Ok(Some(whole)) => return Ok(whole),
                Ok(None) => {}
                Err(fault) => {
                    let silent = head.method(&self.bytes) == b"HEAD";
                    let version = if fault == Fault::OldMethod { Version::Http09 } else { Version::Http10 };
                    return Err(Ended::Refused { fault, silent, version });
                }
            }
            let most = if self.bytes.is_empty() { FIRST_READ } else { NEXT_READ };
            match timeout_at(deadline, self.fill(most)).await {
                Ok(Ok(1..)) => {}
                _ => return Err(Ended::Closed),
            }
        }
    }

    /// Throws away what has come of the body already.
    fn skip_what_came(&mut self) -> Result<(), Broken> {
        loop {
            match self.framing.take(&mut self.bytes, usize::MAX) {
                Ok(Taken::Piece(_)) => {}
                Ok(Taken::End | Taken::More) => return Ok(()),
                Err(broken) => {
                    // Where it ends cannot be known any more.
                    self.framing = Framing::Over;
                    return Err(broken);
                }
            }
        }
    }

    /// Throws away the rest of the body, if it comes soon.
    async fn skip_the_rest(&mut self) -> Result<(), Broken> {
        let deadline = Instant::now() + LINGER;
        loop {
            self.skip_what_came()?;
            if self.framing.is_over() {
                return Ok(());
            }
            let patience = deadline.min(Instant::now() + LINGER_QUIET);
            match timeout_at(patience, self.fill(NEXT_READ)).await {
                Ok(Ok(1..)) => {}
                _ => return Err(Broken),
            }
        }
    }

    /// Hands the body on as it comes, then watches whether the client leaves.
    async fn pump(&mut self, body: mpsc::Sender<Result<Bytes, Broken>>, counted: Body<'_>) -> Gone {
        let mut body = Some((body, counted));
        loop {
            match self.framing.take(&mut self.bytes, usize::MAX) {
                Ok(Taken::Piece(piece)) => {
                    if let Some((body, _)) = &body {
                        // An upstream that has heard enough does not hinder the rest of the body.
                        let _ = body.send(Ok(piece)).await;
                    }
                    continue;
                }
                Ok(Taken::End) => body = None,
                Ok(Taken::More) => {}
                Err(broken) => {
                    if let Some((body, _)) = &body {
                        let _ = body.send(Err(broken)).await;
                    }
                    return Gone;
                }
            }
            if body.is_none() && self.bytes.len() >= AHEAD {
                // The next requests wait where they are.
                std::future::pending::<()>().await;
            }
            let (began, reading) = (Instant::now(), self.fill(NEXT_READ));
            let read = match &mut body {
                Some((_, counted)) => {
                    let read = timeout(counted.patience(), reading).await.unwrap_or(Ok(0));
                    counted.note(*read.as_ref().unwrap_or(&0), began.elapsed());
                    read
                }
                None => reading.await,
            };
            match read {
                Ok(1..) => {}
                _ => {
                    if let Some((body, _)) = &body {
                        let _ = body.try_send(Err(Broken));
                    }
                    return Gone;
                }
            }
        }
    }
}

/// The other half.
struct Writer<T>(WriteHalf<T>);

impl<T: AsyncRead + AsyncWrite> Writer<T> {
    async fn say_continue(&mut self) -> io::Result<()> {
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        self.flush().await
    }

    /// Writes an answer to its end; gives back what the connection goes on as, if that is something else.
    async fn reply(&mut self, reply: Reply, handler: &Handler, shape: &Shape) -> io::Result<Sent> {
        let Reply { status, line, head, content, last } = reply;
        let bare = shape.silent || matches!(status, 100..=199 | 204 | 304);
        let upgrades = matches!(content, Content::Tunnel(..) | Content::Taken(_));
        let framed = bare || has_length(&head);
        let chunked = !framed && shape.version == Version::Http11;
        let stays = shape.stays && !last && !shape.leaving.is_cancelled() && (framed || chunked);
        let mut framing = Vec::with_capacity(2);
        if chunked || (bare && announces_chunks(&head)) {
            framing.push(("Transfer-Encoding", "chunked"));
        }
        framing.push((
            "Connection",
            if upgrades {
                "upgrade"
            } else if stays {
                "keep-alive"
            } else {
                "close"
            },
        ));
        let mut start = Vec::new();
        if shape.version != Version::Http09 {
            start = head_text(status, line.as_deref(), &handler.fields(head, &framing));
        }
        let tunnel = match content {
            Content::Tunnel(stream, said) => Ok(Tunnel::Upstream { stream, said }),
            Content::Taken(socket) => Ok(Tunnel::Taken(socket)),
            content => Err(content),
        };
        let mut content = match tunnel {
            Ok(tunnel) => {
                self.write(&start).await?;
                self.flush().await?;
                return Ok(Sent::Tunnel(tunnel));
            }
            Err(content) => content,
        };
        if bare {
            self.write(&start).await?;
        } else {
            self.body(start, &mut content, chunked).await?;
        }
        self.flush().await?;
        Ok(if stays { Sent::Stays } else { Sent::Closes })
    }

    /// Head and body, in writes as large as a record of TLS, the first with both.
    async fn body(&mut self, start: Vec<u8>, content: &mut Content, chunked: bool) -> io::Result<()> {
        let mut pending = start;
        loop {
            let frame = if chunked { CHUNK_FRAME } else { 0 };
            let room = RECORD.saturating_sub(pending.len() + frame).max(FIRST_READ);
            let slow = matches!(content, Content::Theirs(_)) && !pending.is_empty();
            let piece = match slow {
                // What another server has said is not kept back until it says more.
                true => match at_once(content.next(room)).await {
                    Some(piece) => piece?,
                    None => {
                        self.write(&pending).await?;
                        self.flush().await?;
                        pending.clear();
                        continue;
                    }
                },
                false => content.next(room).await?,
            };
            let Some(piece) = piece else { break };
            if chunked {
                pending.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            }
            pending.extend_from_slice(&piece);
            if chunked {
                pending.extend_from_slice(b"\r\n");
            }
            if content.is_over() {
                break;
            }
            self.write(&pending).await?;
            pending.clear();
        }
        if chunked {
            pending.extend_from_slice(b"0\r\n\r\n");
        }
        self.write(&pending).await
    }

    /// Waits for what was written before, of which TLS else takes a part of a record once it keeps much.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.flush().await?;
        while !bytes.is_empty() {
            let written = timeout(SEND, self.0.write(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        timeout(SEND, self.0.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// Returns the output of a future if it is ready at once. A future that is not must lose nothing by being dropped.
async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn has_length(head: &Head) -> bool {
    match head {
        Head::Own(own) => own.length.is_some(),
        Head::Theirs(fields) | Head::Exact(fields) => fields.get("content-length").is_some(),
    }
}

fn announces_chunks(head: &Head) -> bool {
    matches!(head, Head::Theirs(fields) if fields.get("transfer-encoding").is_some())
}

fn head_text(status: u16, theirs: Option<&[u8]>, fields: &Fields) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    match theirs {
        Some(line) => text.extend_from_slice(line),
        None => text.extend_from_slice(format!("HTTP/1.1 {status} {}", reason(status)).as_bytes()),
    }
    text.extend_from_slice(b"\r\n");
    for (name, value) in &fields.0 {
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Requests of one connection, as nginx has it.
const REQUESTS: usize = 1000;

/// For the head of a request, from its first byte.
const HEADERS: Duration = Duration::from_secs(60);

/// For the client to take a piece of an answer.
const SEND: Duration = Duration::from_secs(60);

/// Between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// For the rest of a body that no one asked for, and between two pieces of it.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_QUIET: Duration = Duration::from_secs(5);

const FIRST_READ: usize = 1 << 10;
const NEXT_READ: usize = 8 << 10;

/// Most bytes of pipelined requests that are read before their turn.
const AHEAD: usize = 16 << 10;

/// Largest payload of a TLS record.
const RECORD: usize = 16 << 10;

/// Room for what frames a chunk.
const CHUNK_FRAME: usize = 16;
