//! A plain stream on one side, the same bytes in records on the other, as a client of fake TLS sends them: how a session
//! goes on through another proxy that wants a disguise.
//!
//! ```text
//! session ◀─ plain ─▶ near ═ pair of sockets ═ inner ◀─ this ─▶ outer ◀─ records ─▶ the other proxy
//! ```
//!
//! The session has a socket like any other, and back-pressure and half-close stay the kernel's. The price is a pair of
//! sockets and a task for each such session, and one more copy of what it moves.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::stream::{PIECE, with_buffer};
use super::unsent::WriteBacklog;
use super::uplink::Unwrap;
use super::{ready, shut};
use crate::wire::record::{CHANGE_CIPHER_SPEC, HEADER, Header};

/// Most payload of a record, as most clients have it.
const PAYLOAD: usize = 2878;

/// Most records that are made of one read.
const RECORDS: usize = 16;

/// Time for which the other proxy may be silent once the session has nothing more to send: whether it still has a
/// reader cannot be seen.
const LINGER: Duration = Duration::from_secs(60);

/// A socket for the plain side of `outer`, behind whose handshake nothing has been said, and what moves the bytes for
/// as long as it is polled.
pub fn wrap(outer: TcpStream) -> io::Result<(TcpStream, impl Future<Output = ()> + Send)> {
    let (near, inner) = UnixStream::pair()?;
    let (near, inner) = (adopt(near)?, adopt(inner)?);
    let up = Up { unsent: WriteBacklog::default(), open: true, opening: &CHANGE_CIPHER_SPEC };
    let down = Down { unsent: WriteBacklog::default(), open: true, records: Unwrap::new(0) };
    let mut wrapping = Wrapping { inner, outer, up, down, linger: None };
    Ok((near, async move { poll_fn(|context| wrapping.poll(context)).await }))
}

/// One socket is like another to what sessions do with them.
fn adopt(socket: UnixStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    TcpStream::from_std(OwnedFd::from(socket).into())
}

struct Wrapping {
    inner: TcpStream,
    outer: TcpStream,
    up: Up,
    down: Down,
    linger: Option<Pin<Box<Sleep>>>,
}

struct Up {
    unsent: WriteBacklog,
    open: bool,
    /// Bytes ahead of the first record.
    opening: &'static [u8],
}

struct Down {
    unsent: WriteBacklog,
    open: bool,
    records: Unwrap,
}

/// One side is gone, or says what no one should.
struct Broken;

impl Wrapping {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        /// Turns before others may have one.
        const TURNS: usize = 8;
        for _ in 0..TURNS {
            let Ok(moved) = self.step(context) else { return Poll::Ready(()) };
            if !self.up.open && !self.down.open && self.up.unsent.is_empty() && self.down.unsent.is_empty() {
                return Poll::Ready(());
            }
            if moved {
                self.linger = None;
                continue;
            }
            if self.up.open {
                return Poll::Pending;
            }
            return self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(context);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what can be moved now; says whether anything moved.
    fn step(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        let up = self.up.step(&self.inner, &self.outer, context)?;
        let down = self.down.step(&self.outer, &self.inner, context)?;
        Ok(up || down)
    }
}

impl Up {
    fn step(&mut self, inner: &TcpStream, outer: &TcpStream, context: &mut Context<'_>) -> Result<bool, Broken> {
        if !flush(&mut self.unsent, self.open, outer, context)? || !self.open {
            return Ok(false);
        }
        with_buffer(|buffer| {
            let read = ready::poll_read(inner, context, || {
                let mut room: SmallVec<[IoSliceMut<'_>; RECORDS]> = buffer
                    .chunks_mut(HEADER + PAYLOAD)
                    .take(RECORDS)
                    .map(|record| IoSliceMut::new(&mut record[HEADER..]))
                    .collect();
                Ok((rustix::io::readv(inner, &mut room)?, room.iter().map(|slice| slice.len()).sum()))
            });
            let read = match read {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => read.map_err(|_| Broken)?,
            };
            if read == 0 {
                self.open = false;
                shut(outer);
                return Ok(true);
            }
            let records = put_headers(buffer, read);
            let opening = std::mem::take(&mut self.opening);
            let slices = [IoSlice::new(opening), IoSlice::new(&buffer[..records])];
            self.unsent.write(outer, &slices[usize::from(opening.is_empty())..]).map_err(|_| Broken)?;
            Ok(true)
        })
    }
}

impl Down {
    fn step(&mut self, outer: &TcpStream, inner: &TcpStream, context: &mut Context<'_>) -> Result<bool, Broken> {
        if !flush(&mut self.unsent, self.open, inner, context)? || !self.open {
            return Ok(false);
        }
        with_buffer(|buffer| {
            let buffer = &mut buffer[..PIECE];
            let into = || ready::read(outer, buffer);
            let read = match ready::poll_read(outer, context, into) {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => read.map_err(|_| Broken)?,
            };
            if read == 0 {
                self.open = false;
                shut(inner);
                return Ok(true);
            }
            let (payload, outcome) = self.records.payload(&mut buffer[..read]);
            self.unsent.write(inner, &[IoSlice::new(payload)]).map_err(|_| Broken)?;
            outcome.map_err(|_| Broken)?;
            Ok(true)
        })
    }
}

/// Whether everything left over is gone. The end of an ended direction is told once it is.
fn flush(unsent: &mut WriteBacklog, open: bool, to: &TcpStream, context: &mut Context<'_>) -> Result<bool, Broken> {
    if unsent.is_empty() {
        return Ok(true);
    }
    match unsent.poll_write(to, context, |_| {}) {
        Poll::Pending => return Ok(false),
        Poll::Ready(outcome) => outcome.map_err(|_| Broken)?,
    }
    if !open {
        shut(to);
    }
    Ok(true)
}

/// Fills in the headers of `read` bytes that were read with gaps for them; returns how much is to be sent.
fn put_headers(buffer: &mut [u8], read: usize) -> usize {
    let (mut rest, mut end) = (read, 0);
    while rest > 0 {
        let payload = rest.min(PAYLOAD);
        buffer[end..end + HEADER].copy_from_slice(&Header::application_data(payload as u16).encode());
        end += HEADER + payload;
        rest -= payload;
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::testing::pair;
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_in_records_and_back() {
        let (outer, mut peer) = pair();
        let (mut near, moving) = wrap(outer).unwrap();
        let moving = tokio::spawn(moving);
        let sent: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let other = std::thread::spawn(move || {
            let mut wire = Vec::new();
            peer.read_to_end(&mut wire).unwrap();
            let mut rest = wire.strip_prefix(&CHANGE_CIPHER_SPEC).unwrap();
            let mut got = Vec::new();
            while let Some((head, after)) = rest.split_first_chunk() {
                let head = Header::decode(*head);
                let length = usize::from(head.length);
                assert_eq!(head, Header::application_data(head.length));
                assert!((1..=PAYLOAD).contains(&length));
                got.extend_from_slice(&after[..length]);
                rest = &after[length..];
            }
            assert!(got == expected);
            for record in got.chunks(1000) {
                peer.write_all(&Header::application_data(record.len() as u16).encode()).unwrap();
                peer.write_all(record).unwrap();
            }
        });
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut back = Vec::new();
        near.read_to_end(&mut back).await.unwrap();
        assert!(back == sent);
        other.join().unwrap();
        moving.await.unwrap();
    }

    #[tokio::test]
    async fn a_bad_record_and_a_session_that_is_gone_end_it() {
        for bad in [true, false] {
            let (outer, mut peer) = pair();
            let (mut near, moving) = wrap(outer).unwrap();
            let moving = tokio::spawn(moving);
            if bad {
                peer.write_all(&[21, 3, 3, 0, 2, 1, 0]).unwrap();
                assert_eq!(near.read(&mut [0; 9]).await.unwrap(), 0);
            } else {
                drop(near);
                peer.write_all(&[23, 3, 3, 0, 1, 9]).unwrap();
            }
            moving.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_says_nothing_more_is_left_in_the_end() {
        let (outer, _peer) = pair();
        let (near, moving) = wrap(outer).unwrap();
        drop(near);
        moving.await;
    }
}
