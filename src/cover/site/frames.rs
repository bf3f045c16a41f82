//! The frames of HTTP/2 that name their library, in the form of nginx.
//!
//! h2 announces its settings and explains its errors in ways of its own. This stands between it and TLS, looks at the
//! frames that leave, and changes four: the first settings and the window that goes with them become those of nginx, a
//! GOAWAY says no more than its code, and frames of data are no longer than nginx makes them. What leaves fills records
//! of TLS, and the head of an answer has one of its own.

use std::collections::VecDeque;
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
    /// Bytes that have yet to go out, and how many of them have gone.
    outbox: Outbox,
    sent: usize,
    /// Whether a flush has been put off since the last write.
    put_off: bool,
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
        Lent {
            shared: Arc::clone(shared),
            frames: Frames::default(),
            outbox: Outbox::default(),
            sent: 0,
            put_off: false,
        }
    }
}

impl<T: AsyncWrite + Unpin> Lent<T> {
    /// Writes what is due: all records that are full, and the last one if all is.
    fn poll_outbox(&mut self, all: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(end) = self.outbox.record(self.sent, all) {
            // TLS keeps what the socket does not take, and above a limit of its own takes a part of a record.
            let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_flush(cx);
            ready!(self.shared.note(outcome))?;
            let record = &self.outbox.bytes[self.sent..end];
            let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_write(cx, record);
            self.sent += match ready!(self.shared.note(outcome))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => taken,
            };
        }
        self.outbox.forget(self.sent);
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
        ready!(self.poll_outbox(false, cx))?;
        let taken = &buf[..buf.len().min(RECORD)];
        let Lent { frames, outbox, put_off, .. } = &mut *self;
        *put_off = false;
        frames.pass(taken, outbox);
        // What does not fill a record waits for a flush, which follows when there is no more to write.
        match self.poll_outbox(false, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken.len())),
        }
    }

    /// h2 flushes behind each long frame of data, though another may stand behind it, and once more when none does.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frames.long && !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_outbox(true, cx))?;
        let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_flush(cx);
        self.shared.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(true, cx))?;
        let outcome = Pin::new(&mut *lock(&self.shared.stream)).poll_shutdown(cx);
        self.shared.note(outcome)
    }
}

/// Bytes on their way to TLS, and where records end that are not full.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    ends: VecDeque<usize>,
}

impl Outbox {
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends a record here.
    fn end_record(&mut self) {
        self.ends.push_back(self.bytes.len());
    }

    /// Returns the end of the record that begins at `start`; `None` if it is not to be sent yet: one that is not full is
    /// the last, and is sent if all is.
    fn record(&self, start: usize, all: bool) -> Option<usize> {
        let marked = self.ends.iter().copied().find(|end| *end > start);
        let end = marked.unwrap_or(self.bytes.len()).min(start + RECORD);
        let due = end > start && (all || marked.is_some() || end == start + RECORD);
        due.then_some(end)
    }

    /// Forgets the first bytes, which have been sent.
    fn forget(&mut self, sent: usize) {
        self.bytes.drain(..sent);
        self.bytes.shrink_to(RECORD);
        self.ends.retain(|end| *end > sent);
        self.ends.iter_mut().for_each(|end| *end -= sent);
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
    /// Head of the data that follows in a frame of its own, and its length.
    rest: Option<([u8; HEAD], usize)>,
    /// Whether the record ends with the present frame.
    last: bool,
    /// Whether the present frame is a long one of data, behind which the stream goes on.
    long: bool,
    /// Whether settings and window have been sent.
    greeted: bool,
    widened: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Outbox) {
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
            if std::mem::take(&mut self.last) {
                out.end_record();
            }
            if let Some((head, length)) = self.rest.take() {
                self.data(head, length, out);
                continue;
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

    fn frame(&mut self, mut head: [u8; HEAD], out: &mut Outbox) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let whole_connection = head[5..] == [0; 4];
        (self.pass, self.drop) = (length, 0);
        self.long = head[3] == DATA && length > LONGEST_DATA && head[4] & END_STREAM == 0;
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
            DATA => self.data(head, length, out),
            HEADERS => {
                self.last = true;
                out.extend_from_slice(&head);
            }
            _ => out.extend_from_slice(&head),
        }
    }

    /// A frame of data of this length, or the first that it is divided into. h2 pads none.
    fn data(&mut self, head: [u8; HEAD], length: usize, out: &mut Outbox) {
        let now = length.min(LONGEST_DATA);
        let mut first = head;
        [first[0], first[1], first[2]] = [(now >> 16) as u8, (now >> 8) as u8, now as u8];
        if now < length {
            first[4] &= !END_STREAM;
            self.rest = Some((head, length - now));
        }
        self.pass = now;
        out.extend_from_slice(&first);
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
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const GOAWAY_LENGTH: usize = 8;

/// Most bytes of data in a frame of nginx.
const LONGEST_DATA: usize = 8 << 10;

/// Largest payload of a TLS record.
const RECORD: usize = 16 << 10;

/// Nothing here is left half-done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

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
            let (mut frames, mut out) = (Frames::default(), Outbox::default());
            input.concat().chunks(step).for_each(|piece| frames.pass(piece, &mut out));
            assert_eq!(out.bytes, expected.concat(), "in pieces of {step}");
        }
    }

    fn long(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn data_leaves_in_the_frames_of_nginx_and_only_the_last_one_ends_the_stream() {
        let data: Vec<u8> = (0..20_000).map(|n| n as u8).collect();
        let input = [long(DATA, 0, &data[..16_384]), long(DATA, END_STREAM, &data)].concat();
        let expected = [
            long(DATA, 0, &data[..8192]),
            long(DATA, 0, &data[8192..16_384]),
            long(DATA, 0, &data[..8192]),
            long(DATA, 0, &data[8192..16_384]),
            long(DATA, END_STREAM, &data[16_384..]),
        ];
        for step in [1, 7, 9000, 100_000] {
            let (mut frames, mut out) = (Frames::default(), Outbox::default());
            input.chunks(step).for_each(|piece| frames.pass(piece, &mut out));
            assert!(out.bytes == expected.concat(), "in pieces of {step}");
        }
    }

    /// The lengths of what is written to it.
    #[derive(Default)]
    struct Sizes(Vec<usize>);

    impl AsyncWrite for Sizes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The lengths of what reaches TLS of these writes and of flushes behind them.
    async fn records(writes: &[Vec<u8>]) -> Vec<usize> {
        let shared = Shared::new(Sizes::default());
        let mut lent = Lent::new(&shared);
        for write in writes {
            lent.write_all(write).await.unwrap();
        }
        lent.flush().await.unwrap();
        lent.flush().await.unwrap();
        drop(lent);
        shared.back().unwrap().0
    }

    #[tokio::test]
    async fn records_are_full_and_the_head_of_an_answer_has_its_own() {
        let mut writes = vec![long(HEADERS, 4, &[7; 100])];
        writes.extend(
            [long(DATA, 0, &[0; 16_384]), long(DATA, 0, &[0; 16_384])].concat().chunks(1033).map(<[u8]>::to_vec),
        );
        assert_eq!(records(&writes).await, [109, 16_384, 16_384, 36]);
        let short = [long(HEADERS, 4, &[7; 100]), long(DATA, END_STREAM, &[0; 5])];
        assert_eq!(records(&short).await, [109, 14]);
    }
}
