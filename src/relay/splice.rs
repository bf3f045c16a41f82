//! Untouched copy in both directions between two sockets.
//!
//! Each direction lives by itself: a FIN is passed on as a FIN and leaves the other direction open, a reset of one side
//! resets the other. There is no idle limit and no cap. Without data under way a direction owns no pipe and no buffer.
//!
//! Little at a time is read and written, which takes the fewest calls. As soon as a read has filled its buffer the kernel
//! moves the bytes (splice(2)), until a direction runs dry on little.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ready;
use super::unsent::WriteBacklog;
use super::{Closed, End, reset_on_close, shut};

/// Capacity that is asked for a pipe, and the most bytes that are moved at once.
const PIPE: usize = 256 * 1024;

/// Idle pipes kept for reuse.
const SPARE_PIPES: usize = 64;

/// Most bytes that are read and written; more at once are spliced.
const SMALL: usize = 16 * 1024;

/// Most moves in one turn, so that a busy connection does not starve the others of its thread.
const TURNS: usize = 16;

/// Two sockets that are only to be joined.
#[derive(Debug)]
pub struct Splice {
    client: TcpStream,
    far: TcpStream,
    flows: Flows,
}

impl Splice {
    /// Joins the sockets, once this is run.
    pub fn new(client: TcpStream, far: TcpStream) -> Self {
        let flows = Flows { up: Flow::default(), down: Flow::default(), alive: Instant::now() };
        Self { client, far, flows }
    }

    /// Copies until both sides have ended, or one is broken; then the other is reset.
    // Borrows, so that the future has room for it only once.
    pub async fn run(&mut self) -> Closed {
        let Self { client, far, flows } = self;
        let by = {
            // A direction that has ended, or waits for its receiver, would not notice that its sender was reset.
            let mut client_broke = pin!(client.ready(Interest::ERROR));
            let mut far_broke = pin!(far.ready(Interest::ERROR));
            poll_fn(|context| {
                if let Poll::Ready(end) = flows.poll(client, far, context) {
                    return Poll::Ready(end);
                }
                if client_broke.as_mut().poll(context).is_ready() {
                    return Poll::Ready(End::ClientBroke);
                }
                far_broke.as_mut().poll(context).map(|_| End::FarBroke)
            })
            .await
        };
        match by {
            End::ClientBroke => {
                flows.up.hear_out(client, far);
                reset_on_close(far);
            }
            End::FarBroke => {
                flows.down.hear_out(far, client);
                if flows.down.open || flows.alive.elapsed() < AFTERMATH {
                    reset_on_close(client);
                }
            }
            _ => {}
        }
        Closed { by, up: flows.up.moved, down: flows.down.moved }
    }
}

/// Time after the last byte within which a far side that has ended can still answer it with a reset. A later one
/// answers our own keep-alive: the far side has forgotten the connection, and would say nothing to a client that says
/// nothing.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Flows {
    up: Flow,
    down: Flow,
    /// Time of the last traffic.
    alive: Instant,
}

impl Flows {
    fn poll(&mut self, client: &TcpStream, far: &TcpStream, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS {
            let up = self.up.step(client, far, context).map_err(|broke| broke.name(End::ClientBroke, End::FarBroke));
            let down =
                self.down.step(far, client, context).map_err(|broke| broke.name(End::FarBroke, End::ClientBroke));
            match (up, down) {
                (Err(end), _) | (_, Err(end)) => return Poll::Ready(end),
                (Ok(up), Ok(down)) if up || down => self.alive = Instant::now(),
                _ if self.up.is_over() && self.down.is_over() => return Poll::Ready(End::Finished),
                _ => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The side of a flow that broke.
#[derive(Clone, Copy, Debug)]
enum Broke {
    Sender,
    Receiver,
}

impl Broke {
    fn name(self, sender: End, receiver: End) -> End {
        match self {
            Self::Sender => sender,
            Self::Receiver => receiver,
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Flow {
    held: Held,
    /// Whether there is more at once than is worth reading.
    bulk: bool,
    open: bool,
    moved: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Self { held: Held::Nothing, bulk: false, open: true, moved: 0 }
    }
}

/// Bytes that have left the sender and not yet reached the receiver.
#[derive(Debug)]
enum Held {
    Nothing,
    /// So many bytes in a pipe.
    Pipe(Pipe, usize),
    Bytes(WriteBacklog),
}

impl Flow {
    fn is_over(&self) -> bool {
        !self.open && matches!(self.held, Held::Nothing)
    }

    /// Moves what can be moved now, and passes the end on; says whether anything happened.
    fn step(&mut self, from: &TcpStream, to: &TcpStream, context: &mut Context<'_>) -> Result<bool, Broke> {
        if !matches!(self.held, Held::Nothing) {
            return self.deliver(to, context).map_err(|_| Broke::Receiver);
        }
        if !self.open {
            return Ok(false);
        }
        let fetched = if self.bulk { self.fetch_spliced(from, context) } else { None };
        let fetched = match fetched {
            Some(fetched) => fetched.map_err(|_| Broke::Sender)?,
            None => self.fetch_copied(from, to, context)?,
        };
        if fetched == Some(0) {
            self.open = false;
            shut(to);
        }
        self.moved += fetched.unwrap_or(0) as u64;
        if let Some(1..) = fetched
            && !matches!(self.held, Held::Nothing)
        {
            self.deliver(to, context).map_err(|_| Broke::Receiver)?;
        }
        Ok(fetched.is_some())
    }

    /// Hands what is held to the receiver, as far as it takes it now; says whether it took any.
    fn deliver(&mut self, to: &TcpStream, context: &mut Context<'_>) -> io::Result<bool> {
        let mut taken = 0;
        match &mut self.held {
            Held::Nothing => {}
            Held::Bytes(unsent) => {
                let outcome = unsent.poll_write(to, context, |bytes| taken += bytes);
                if let Poll::Ready(outcome) = outcome {
                    self.held = Held::Nothing;
                    outcome?;
                }
            }
            Held::Pipe(pipe, left) => {
                while *left > 0 {
                    let Poll::Ready(now) = ready::poll_write_with(to, context, || Ok((pipe.drain(to, *left)?, *left)))
                    else {
                        return Ok(taken > 0);
                    };
                    let now = now?;
                    taken += now;
                    *left -= now;
                }
                if let Held::Pipe(pipe, _) = std::mem::replace(&mut self.held, Held::Nothing) {
                    pipe.give_back();
                }
            }
        }
        Ok(taken > 0)
    }

    /// Passes on what a sender that broke had said before, as far as the receiver takes it at once. A sender can be known to
    /// be broken from an attempt to write to it, before there was word that it could be read.
    fn hear_out(&mut self, from: &TcpStream, to: &TcpStream) {
        let mut context = Context::from_waker(Waker::noop());
        while self.deliver(to, &mut context).is_ok() && matches!(self.held, Held::Nothing) {
            let read = with_buffer(|buffer| {
                let read = rustix::io::read(from, &mut *buffer).unwrap_or(0);
                self.held = Held::Bytes(WriteBacklog::from(&buffer[..read]));
                read
            });
            if read == 0 {
                break;
            }
            self.moved += read as u64;
        }
    }

    /// Fills a pipe; `None` within the outcome if there is nothing for now, and instead of one if there is no pipe.
    fn fetch_spliced(&mut self, from: &TcpStream, context: &mut Context<'_>) -> Option<io::Result<Option<usize>>> {
        let pipe = Pipe::borrow().ok()?;
        // However little came, a pipe may have had no room for more pieces: only the socket itself knows that it is empty.
        let filled = ready::poll_read(from, context, || pipe.fill(from).map(|filled| (filled, filled)));
        Some(match filled {
            Poll::Ready(Ok(filled)) if filled > 0 => {
                self.bulk = filled > SMALL;
                self.held = Held::Pipe(pipe, filled);
                Ok(Some(filled))
            }
            Poll::Ready(outcome) => {
                pipe.give_back();
                outcome.map(Some)
            }
            Poll::Pending => {
                pipe.give_back();
                Ok(None)
            }
        })
    }

    /// Reads, and writes at once what the receiver takes.
    fn fetch_copied(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        context: &mut Context<'_>,
    ) -> Result<Option<usize>, Broke> {
        with_buffer(|buffer| {
            let read = || ready::read(from, buffer);
            let Poll::Ready(read) = ready::poll_read(from, context, read) else { return Ok(None) };
            let read = read.map_err(|_| Broke::Sender)?;
            self.bulk = read == SMALL;
            let mut unsent = WriteBacklog::default();
            unsent.write(to, &[IoSlice::new(&buffer[..read])]).map_err(|_| Broke::Receiver)?;
            if !unsent.is_empty() {
                self.held = Held::Bytes(unsent);
            }
            Ok(Some(read))
        })
    }
}

/// Lends the thread's buffer for the length of a call.
fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SMALL].into_boxed_slice());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// A pipe to splice through. Dropped instead of given back, it takes what is in it along.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

static SPARE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

impl Pipe {
    fn borrow() -> io::Result<Self> {
        if let Some(pipe) = SPARE.lock().ok().and_then(|mut spare| spare.pop()) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Anyone who has used up what the system allows to a user works with smaller ones.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Ok(Self { read, write })
    }

    /// Keeps an empty pipe for the next who needs one.
    fn give_back(self) {
        if let Ok(mut spare) = SPARE.lock()
            && spare.len() < SPARE_PIPES
        {
            spare.push(self);
        }
    }

    fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, PIPE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    fn drain(&self, to: &TcpStream, length: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::testing::pair;
    use super::*;

    fn reset(stream: std::net::TcpStream) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    #[tokio::test]
    async fn what_a_side_said_before_it_broke_is_heard() {
        let (client, mut visitor) = pair();
        let (far, mut cover) = pair();
        visitor.write_all(b"more").unwrap();
        // The runtime has word of the client only; that the cover broke shows when the client's bytes are written to it.
        client.readable().await.unwrap();
        cover.write_all(b"last words").unwrap();
        reset(cover);
        let closed = Splice::new(client, far).run().await;
        assert_eq!((closed.by, closed.down), (End::FarBroke, 10));
        let mut heard = [0; 11];
        assert_eq!(visitor.read(&mut heard).unwrap(), 10);
        assert_eq!(visitor.read(&mut heard).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    /// Bytes of which no two places in a row of many are alike.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length as u32).map(|number| (number.wrapping_mul(0x9e37_79b9) >> 23) as u8).collect()
    }

    /// Steps until something has moved.
    async fn step(flow: &mut Flow, from: &TcpStream, to: &TcpStream) {
        poll_fn(|context| match flow.step(from, to, context) {
            Ok(true) => Poll::Ready(()),
            Ok(false) => Poll::Pending,
            Err(broke) => panic!("{broke:?}"),
        })
        .await;
    }

    #[tokio::test]
    async fn much_is_spliced_and_little_is_copied_again() {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let mut flow = Flow::default();
        let all = pattern(3 * SMALL + 300);
        let mut rest = &all[..];
        // How much comes, and whether the flow takes the next for bulk.
        let lengths = [(100, false), (SMALL, true), (SMALL + 1, true), (SMALL, false), (98, false), (101, false)];
        for (length, bulk) in lengths {
            let (piece, later) = rest.split_at(length);
            rest = later;
            sender.write_all(piece).unwrap();
            while from.peek(&mut vec![0; length]).await.unwrap() < length {}
            let before = flow.moved;
            while flow.moved < before + length as u64 || !matches!(flow.held, Held::Nothing) {
                step(&mut flow, &from, &to).await;
            }
            assert_eq!(flow.bulk, bulk, "behind {length}");
            let mut got = vec![0; length];
            receiver.read_exact(&mut got).unwrap();
            assert!(got == piece);
        }
        assert!(rest.is_empty());
        drop(sender);
        step(&mut flow, &from, &to).await;
        assert!(flow.is_over() && flow.moved == all.len() as u64);
        assert_eq!(receiver.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn bulk_and_small_talk_arrive_whole_in_both_directions() {
        let ((client, visitor), (far, cover)) = (pair(), pair());
        let all = pattern(24 << 20);
        // Bulk that its receiver is slow to read, and then little pieces, one after the other.
        let talk = |mut sender: std::net::TcpStream, mut receiver: std::net::TcpStream| {
            let sent = all.clone();
            std::thread::spawn(move || {
                let writer = std::thread::spawn(move || {
                    let (bulk, small) = sent.split_at(sent.len() - 1000);
                    sender.write_all(bulk).unwrap();
                    small.chunks(7).for_each(|piece| sender.write_all(piece).unwrap());
                    sender.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                let mut piece = vec![0; 5000];
                while let count @ 1.. = receiver.read(&mut piece).unwrap() {
                    got.extend_from_slice(&piece[..count]);
                }
                writer.join().unwrap();
                got
            })
        };
        let up = talk(visitor.try_clone().unwrap(), cover.try_clone().unwrap());
        let down = talk(cover, visitor);
        let closed = Splice::new(client, far).run().await;
        let length = all.len() as u64;
        assert_eq!(closed, Closed { by: End::Finished, up: length, down: length });
        assert!(up.join().unwrap() == all && down.join().unwrap() == all);
    }
}
