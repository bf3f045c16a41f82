//! Untouched copy in both directions between two sockets, moved by the kernel (splice(2)).
//!
//! Each direction lives by itself: a FIN is passed on as a FIN and leaves the other direction open, a reset of one side
//! resets the other. There is no idle limit and no cap. Without data in flight a direction owns no pipe and no buffer.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice as kernel_splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Closed, End, attempt, reset_on_close, shut};

/// Most bytes moved at once: what a pipe holds.
const PIPE: usize = 64 * 1024;

/// Idle pipes kept for reuse.
const SPARE_PIPES: usize = 64;

/// Copies between `client` and `far` until both have ended, or one is broken; then the other is reset.
pub async fn splice(client: TcpStream, far: TcpStream) -> Closed {
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let flows = async {
        tokio::try_join!(
            flow(&client, &far, &up, End::ClientBroke, End::FarBroke),
            flow(&far, &client, &down, End::FarBroke, End::ClientBroke)
        )
    };
    let by = tokio::select! {
        biased;
        done = flows => done.err().unwrap_or(End::Finished),
        // A direction that has ended, or waits for its receiver, would not notice that its sender was reset.
        _ = client.ready(Interest::ERROR) => End::ClientBroke,
        _ = far.ready(Interest::ERROR) => End::FarBroke,
    };
    match by {
        End::ClientBroke => reset_on_close(&far),
        End::FarBroke => reset_on_close(&client),
        _ => {}
    }
    Closed { by, up: up.into_inner(), down: down.into_inner() }
}

/// Moves one direction to its end and passes the end on.
async fn flow(from: &TcpStream, to: &TcpStream, moved: &AtomicU64, from_broke: End, to_broke: End) -> Result<(), End> {
    loop {
        from.readable().await.map_err(|_| from_broke)?;
        let Ok(pipe) = Pipe::borrow() else {
            if copy(from, to, moved, from_broke, to_broke).await? { continue } else { return Ok(()) }
        };
        let filled = from.try_io(Interest::READABLE, || pipe.fill(from));
        match attempt(filled).map_err(|_| from_broke)? {
            None => pipe.give_back(),
            Some(0) => {
                pipe.give_back();
                shut(to);
                return Ok(());
            }
            Some(mut left) => {
                moved.fetch_add(left as u64, Ordering::Relaxed);
                while left > 0 {
                    left -= to.async_io(Interest::WRITABLE, || pipe.drain(to, left)).await.map_err(|_| to_broke)?;
                }
                pipe.give_back();
            }
        }
    }
}

/// Moves one buffer's worth without a pipe, for when there are no descriptors left; says whether there may be more.
async fn copy(
    from: &TcpStream,
    to: &TcpStream,
    moved: &AtomicU64,
    from_broke: End,
    to_broke: End,
) -> Result<bool, End> {
    let mut buffer = Vec::with_capacity(PIPE);
    let Some(read) = attempt(from.try_read_buf(&mut buffer)).map_err(|_| from_broke)? else { return Ok(true) };
    moved.fetch_add(read as u64, Ordering::Relaxed);
    let mut left = &buffer[..];
    while !left.is_empty() {
        left = &left[to.async_io(Interest::WRITABLE, || to.try_write(left)).await.map_err(|_| to_broke)?..];
    }
    if read == 0 {
        shut(to);
    }
    Ok(read > 0)
}

/// A pipe to splice through. Dropped instead of given back, it takes what is in it along.
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
        Ok(kernel_splice(from, None, &self.write, None, PIPE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    fn drain(&self, to: &TcpStream, length: usize) -> io::Result<usize> {
        Ok(kernel_splice(&self.read, None, to, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }
}
