//! The frames of HTTP/2 that name their library, in the form of nginx.
//!
//! h2 announces its settings and explains its errors in ways of its own. This stands between it and TLS, looks at the
//! frames that leave, and changes three: the first settings and the window that goes with them become those of nginx,
//! and a GOAWAY says no more than its code.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A stream as h2 holds it. However h2 ends, the stream itself comes back to be closed with care.
pub(super) struct Lent<T> {
    shared: Arc<Shared<T>>,
    frames: Frames,
    /// Bytes that have yet to go out.
    outbox: Vec<u8>,
    sent: usize,
}

/// Part of a lent stream that its holder keeps.
pub(super) struct Shared<T> {
    stream: Mutex<T>,
    /// Since when the client has yet to take what was written.
    blocked: Mutex<Option<Instant>>,
}

impl<T> Shared<T> {
    pub(super) fn new(stream: T) -> Arc<Shared<T>> {
        Arc::new(Shared { stream: Mutex::new(stream), blocked: Mutex::new(None) })
    }

    /// Since when nothing of what was written has been taken.
    pub(super) fn blocked(&self) -> Option<Instant> {
        *lock(&self.blocked)
    }

    /// The stream, if no one else holds it.
    pub(super) fn back(self: Arc<Self>) -> Option<T> {
        let shared = Arc::into_inner(self)?;
        Some(shared.stream.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<R>(&self, outcome: Poll<R>) -> Poll<R> {
        let mut blocked = lock(&self.blocked);
        match outcome.is_pending() {
            true => _ = blocked.get_or_insert_with(Instant::now),
            false => *blocked = None,
        }
        outcome
    }
}

impl<T> Lent<T> {
    pub(super) fn new(shared: &Arc<Shared<T>>) -> Lent<T> {
        Lent { shared: Arc::clone(shared), frames: Frames::default(), outbox: Vec::new(), sent: 0 }
    }
}

impl<T: AsyncWrite + Unpin> Lent<T> {
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outbox.len() {
            let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_write(cx, &self.outbox[self.sent..]);
            self.sent += match ready!(self.shared.note(outcome))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => taken,
            };
        }
        self.outbox.clear();
        self.outbox.shrink_to(OUTBOX);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.shared.stream)).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_outbox(cx))?;
        let taken = &buf[..buf.len().min(OUTBOX)];
        let Lent { frames, outbox, .. } = &mut *self;
        frames.pass(taken, outbox);
        match self.poll_outbox(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(cx))?;
        let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_flush(cx);
        self.shared.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(cx))?;
        let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_shutdown(cx);
        self.shared.note(outcome)
    }
}

/// Position of the outgoing stream within its frames. Pure.
#[derive(Default)]
struct Frames {
    /// The head of the next frame, as far as it has come.
    head: Vec<u8>,
    /// Bytes of the present frame that pass, and then those that do not.
    pass: usize,
    drop: usize,
    /// Whether settings and window have been sent.
    greeted: bool,
    widened: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let passed;
            (passed, bytes) = bytes.split_at(self.pass.min(bytes.len()));
            out.extend_from_slice(passed);
            self.pass -= passed.len();
            let dropped = self.drop.min(bytes.len());
            if self.pass == 0 {
                bytes = &bytes[dropped..];
                self.drop -= dropped;
            }
            if self.pass > 0 || self.drop > 0 {
                return;
            }
            let wanted = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let Ok(head) = <[u8; HEAD]>::try_from(&self.head[..]) {
                self.head.clear();
                self.frame(head, out);
            }
        }
    }

    fn frame(&mut self, mut head: [u8; HEAD], out: &mut Vec<u8>) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let whole_connection = head[5..] == [0; 4];
        (self.pass, self.drop) = (length, 0);
        match head[3] {
            SETTINGS if !self.greeted => {
                self.greeted = true;
                out.extend_from_slice(GREETING);
                (self.pass, self.drop) = (0, length);
            }
            WINDOW_UPDATE if whole_connection && !self.widened => {
                self.widened = true;
                (self.pass, self.drop) = (0, length);
            }
            GOAWAY if length > GOAWAY_LENGTH => {
                (head[0], head[1], head[2]) = (0, 0, 8);
                (self.pass, self.drop) = (GOAWAY_LENGTH, length - GOAWAY_LENGTH);
                out.extend_from_slice(&head);
            }
            _ => out.extend_from_slice(&head),
        }
    }
}

/// Settings (128 streams, windows of 64 KiB, frames of any length) and the largest window for the connection.
const GREETING: &[u8] = &[
    0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 128, 0, 4, 0, 1, 0, 0, 0, 5, 0, 255, 255, 255, // SETTINGS
    0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0, // WINDOW_UPDATE
];

/// A GOAWAY that says that the client broke the protocol before it asked for anything.
pub(super) const PROTOCOL_ERROR: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const GOAWAY_LENGTH: usize = 8;

/// Most bytes taken from h2 at once.
const OUTBOX: usize = 16 << 10;

/// Nothing here is left half-done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, stream], payload].concat()
    }

    #[test]
    fn only_what_names_the_library_is_changed() {
        let data = frame(0, 1, b"some data");
        let acknowledged = frame(SETTINGS, 0, &[]);
        let input = [
            frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 200]),
            frame(WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
            frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            acknowledged.clone(),
            data.clone(),
            frame(WINDOW_UPDATE, 0, &[0, 0, 0, 2]),
            frame(GOAWAY, 0, b"\0\0\0\x01\0\0\0\x01too much"),
        ];
        let expected = [
            GREETING.to_vec(),
            frame(WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
            acknowledged,
            data,
            frame(WINDOW_UPDATE, 0, &[0, 0, 0, 2]),
            frame(GOAWAY, 0, b"\0\0\0\x01\0\0\0\x01"),
        ];
        for step in [1, 5, 1000] {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            input.concat().chunks(step).for_each(|piece| frames.pass(piece, &mut out));
            assert_eq!(out, expected.concat(), "in pieces of {step}");
        }
    }
}
