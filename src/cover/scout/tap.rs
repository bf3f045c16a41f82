//! A stream that notes the sizes of encrypted records.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Leg;
use crate::wire::record::{self, Header, kind};

/// Notes the sizes of encrypted records on their way in. No read goes beyond the end of a record, so what was noted is
/// what the reader has been given.
pub(super) struct Tap {
    leg: Leg,
    header: [u8; record::HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the payload that have not.
    left: usize,
    total: usize,
    /// Most bytes that may come.
    most: usize,
    log: Log,
}

/// Payload sizes of the records that have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u16>>>);

impl Log {
    /// All of them so far.
    pub(super) fn all(&self) -> MutexGuard<'_, Vec<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    /// A tap on this stream, which may bring so many bytes.
    pub(super) fn new(leg: Leg, most: usize) -> (Self, Log) {
        let log = Log::default();
        (Self { leg, header: [0; record::HEADER], have: 0, left: 0, total: 0, most, log: log.clone() }, log)
    }

    fn wanted(&self) -> usize {
        if self.have < record::HEADER { record::HEADER - self.have } else { self.left }
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.total += bytes.len();
        if self.total > self.most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sends more than it was asked for"));
        }
        if self.have < record::HEADER {
            self.header[self.have..self.have + bytes.len()].copy_from_slice(bytes);
            self.have += bytes.len();
            if self.have == record::HEADER {
                self.left = Header::decode(self.header).length.into();
            }
        } else {
            self.left -= bytes.len();
        }
        if self.have == record::HEADER && self.left == 0 {
            let Header { kind, length, .. } = Header::decode(self.header);
            if kind == kind::APPLICATION_DATA {
                self.log.all().push(length);
            }
            self.have = 0;
        }
        Ok(())
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wanted = this.wanted().min(buffer.remaining());
        let space = buffer.initialize_unfilled_to(wanted);
        let mut limited = ReadBuf::new(space);
        ready!(Pin::new(&mut this.leg).poll_read(context, &mut limited))?;
        let count = limited.filled().len();
        this.note(limited.filled())?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().leg).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().leg).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().leg).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_tap_notes_whole_encrypted_records_and_no_others() {
        let bytes = [&[22, 3, 3, 0, 2, 1, 2][..], &[23, 3, 3, 0, 3, 1, 2, 3], &[23, 3, 3, 0, 0], &[23, 3, 3, 0, 9, 1]];
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(&bytes.concat()).await.unwrap();
        drop(far);
        let (mut tap, log) = Tap::new(Box::new(near), 1000);
        let mut read = Vec::new();
        tap.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, bytes.concat());
        assert_eq!(*log.all(), [3, 0]);
    }

    #[tokio::test]
    async fn a_tap_ends_what_does_not_end_by_itself() {
        let endless: Leg = Box::new(tokio::io::join(tokio::io::repeat(23), tokio::io::sink()));
        let (mut tap, _) = Tap::new(endless, 100_000);
        let mut read = Vec::new();
        assert!(tap.read_to_end(&mut read).await.is_err());
        assert!(read.len() <= 100_000);
    }
}
