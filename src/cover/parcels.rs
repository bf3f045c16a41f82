//! A stream inside the process on which a reader can tell one write from the next, as it can on a wire.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Shorter writes are waited for. What is longer is bulk, where the end of a write does not matter.
const SMALL: usize = 4096;

/// State that the two ends share.
#[derive(Debug, Default)]
struct Between {
    /// Bytes that were written and not yet read.
    unread: usize,
    /// Whether the last write was a small one.
    small: bool,
    /// Whether the reader is gone.
    gone: bool,
    /// The writer, if it waits.
    writer: Option<Waker>,
}

/// The end of which nothing is asked but that it reads.
#[derive(Debug)]
pub(super) struct Near(DuplexStream, Arc<Mutex<Between>>);

/// The end whose small writes are read one by one: the next waits until the other end has read the last.
#[derive(Debug)]
pub(super) struct Far(DuplexStream, Arc<Mutex<Between>>);

/// Both ends of a stream with room for so many bytes each way.
pub(super) fn parcels(room: usize) -> (Near, Far) {
    let ((near, far), between) = (tokio::io::duplex(room), Arc::<Mutex<Between>>::default());
    (Near(near, Arc::clone(&between)), Far(far, between))
}

fn lock(between: &Mutex<Between>) -> MutexGuard<'_, Between> {
    between.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut between = lock(&self.1);
        between.gone = true;
        between.writer.take().into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        let mut between = lock(&self.1);
        between.unread = between.unread.saturating_sub(buffer.filled().len() - before);
        if between.unread == 0 {
            between.writer.take().into_iter().for_each(Waker::wake);
        }
        read
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl AsyncRead for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Far {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self(stream, between) = self.get_mut();
        // Held throughout, so that nothing is read before it is known to have been written.
        let mut between = lock(between);
        if between.unread > 0 && between.small && !between.gone {
            between.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let written = ready!(Pin::new(stream).poll_write_vectored(context, slices))?;
        between.unread += written;
        between.small = written < SMALL;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_writes_are_read_one_by_one_and_a_reader_that_leaves_ends_them() {
        let (mut near, mut far) = parcels(64 << 10);
        let writing = tokio::spawn(async move {
            for length in [3, 5, 2 * SMALL, SMALL, 7, 8, 9] {
                far.write_all(&vec![1; length]).await?;
            }
            io::Result::Ok(())
        });
        let mut sizes = Vec::new();
        let mut buffer = [0; 5 * SMALL];
        for _ in 0..4 {
            sizes.push(near.read(&mut buffer).await.unwrap());
        }
        assert_eq!(sizes[..2], [3, 5]);
        assert_eq!(sizes[2..].iter().sum::<usize>(), 3 * SMALL + 7 + 8);
        drop(near);
        assert!(writing.await.unwrap().is_err());
    }
}
