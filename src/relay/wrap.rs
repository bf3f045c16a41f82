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
use std::io::{self, IoSlice};
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
use crate::wire::record::{CHANGE_CIPHER_SPEC, HEADER, Header, MIN_ENCRYPTED};

/// Payload of a record as long as most clients make it. Only behind one of these may a record follow that is shorter than
/// any of TLS 1.3 (docs/protocol.md, "Records afterwards"), so what is sent together ends with one where it can.
const PAYLOAD: usize = 2878;

/// Most records that are made of one read, which holds more than the sockets in between: reads then end where writes did.
const RECORDS: usize = 80;

/// Time for which fewer bytes than a record of TLS 1.3 has are kept back, for more to join them.
const JOINING: Duration = Duration::from_millis(100);

/// Time for which the other proxy may be silent once the session has nothing more to send: whether it still has a
/// reader cannot be seen.
const LINGER: Duration = Duration::from_secs(60);

/// A socket for the plain side of `outer`, behind whose handshake nothing has been said, and what moves the bytes for
/// as long as it is polled.
pub fn wrap(outer: TcpStream) -> io::Result<(TcpStream, impl Future<Output = ()> + Send)> {
    let (near, inner) = UnixStream::pair()?;
    let (near, inner) = (adopt(near)?, adopt(inner)?);
    let up = Up { unsent: WriteBacklog::default(), open: true, opening: &CHANGE_CIPHER_SPEC, short: Short::default() };
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
    short: Short,
}

/// Bytes that are too few for a record, and the time at which they are sent nevertheless.
#[derive(Default)]
struct Short {
    bytes: SmallVec<[u8; MIN_ENCRYPTED]>,
    until: Option<Pin<Box<Sleep>>>,
}

impl Short {
    /// Keeps these back.
    fn keep(&mut self, bytes: &[u8]) {
        self.bytes = SmallVec::from_slice(bytes);
        self.until.get_or_insert_with(|| Box::pin(sleep(JOINING)));
    }

    /// Whether bytes have been kept back for as long as they may be.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready())
    }

    /// Moves what was kept to the beginning of `buffer`; returns its length.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let bytes = std::mem::take(&mut self.bytes);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        bytes.len()
    }
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
            let kept = self.short.bytes.len();
            let room = &mut buffer[kept..RECORDS * PAYLOAD];
            let read = match ready::poll_read(inner, context, || ready::read(inner, room)) {
                Poll::Pending if self.short.is_due(context) => None,
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => Some(read.map_err(|_| Broken)?),
            };
            let length = self.short.take(buffer) + read.unwrap_or_default();
            match read {
                Some(1..) if length < MIN_ENCRYPTED => {
                    self.short.keep(&buffer[..length]);
                    return Ok(true);
                }
                _ => self.short.until = None,
            }
            self.send(&buffer[..length], outer)?;
            if read == Some(0) {
                self.open = false;
                if self.unsent.is_empty() {
                    shut(outer);
                }
            }
            Ok(true)
        })
    }

    /// Sends these bytes in records, behind what comes before the first one.
    fn send(&mut self, bytes: &[u8], outer: &TcpStream) -> Result<(), Broken> {
        if bytes.is_empty() {
            return Ok(());
        }
        let opening = std::mem::take(&mut self.opening);
        let lengths = record_lengths(bytes.len());
        let heads: SmallVec<[[u8; HEADER]; RECORDS]> =
            lengths.iter().map(|length| Header::application_data(*length as u16).encode()).collect();
        let mut slices: SmallVec<[IoSlice<'_>; 2 * RECORDS + 1]> = SmallVec::new();
        if !opening.is_empty() {
            slices.push(IoSlice::new(opening));
        }
        let mut rest = bytes;
        for (head, length) in heads.iter().zip(&lengths) {
            let (payload, after) = rest.split_at(*length);
            slices.extend([IoSlice::new(head), IoSlice::new(payload)]);
            rest = after;
        }
        self.unsent.write(outer, &slices).map(drop).map_err(|_| Broken)
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

/// Divides so many bytes into records: long ones, with the remainder in front. A remainder too short for a record joins
/// the first.
fn record_lengths(bytes: usize) -> SmallVec<[usize; RECORDS]> {
    let (whole, remainder) = (bytes / PAYLOAD, bytes % PAYLOAD);
    let mut lengths = SmallVec::new();
    if remainder >= MIN_ENCRYPTED || whole == 0 {
        lengths.push(remainder);
    }
    lengths.extend(std::iter::repeat_n(PAYLOAD, whole));
    if let Some(first) = lengths.first_mut()
        && remainder < MIN_ENCRYPTED
        && whole > 0
    {
        *first += remainder;
    }
    lengths
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
                assert!((MIN_ENCRYPTED..PAYLOAD + MIN_ENCRYPTED).contains(&length));
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

    #[test]
    fn what_is_sent_together_ends_with_a_long_record_and_none_is_too_short() {
        for bytes in 1..RECORDS * PAYLOAD {
            let lengths = record_lengths(bytes);
            assert!(lengths.iter().sum::<usize>() == bytes && lengths.len() <= RECORDS, "{bytes}: {lengths:?}");
            assert!(bytes < PAYLOAD || lengths.iter().all(|length| *length >= MIN_ENCRYPTED), "{bytes}: {lengths:?}");
            assert!(bytes < PAYLOAD || lengths.last() >= Some(&PAYLOAD), "{bytes}: {lengths:?}");
        }
    }

    /// The other proxy ends a session at a record that TLS 1.3 does not have in the midst of a frame.
    #[tokio::test(start_paused = true)]
    async fn few_bytes_wait_for_more_and_not_for_long() {
        let (outer, mut peer) = pair();
        let (mut near, moving) = wrap(outer).unwrap();
        let moving = tokio::spawn(moving);
        let reading = std::thread::spawn(move || {
            let mut wire = Vec::new();
            peer.read_to_end(&mut wire).unwrap();
            wire
        });
        near.write_all(&[1; 5]).await.unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        near.write_all(&[2; 60]).await.unwrap();
        tokio::time::sleep(2 * JOINING).await;
        near.write_all(&[3; 4]).await.unwrap();
        tokio::time::sleep(2 * JOINING).await;
        near.shutdown().await.unwrap();
        moving.await.unwrap();
        let wire = reading.join().unwrap();
        let payload: Vec<u8> = [&[23, 3, 3, 0, 65][..], &[1; 5], &[2; 60], &[23, 3, 3, 0, 4], &[3; 4]].concat();
        assert_eq!(wire.strip_prefix(&CHANGE_CIPHER_SPEC).unwrap(), payload);
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
