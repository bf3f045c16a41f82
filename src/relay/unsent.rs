//! Bytes that a socket did not take at once. While there are any, nothing more is read for that socket.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::attempt;

/// What is left to be written.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    done: usize,
}

impl Unsent {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes the slices, in order, as far as the socket takes them now, and keeps the rest. Returns how many bytes it
    /// took. Must not be called while there is something left.
    pub fn write(&mut self, to: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = attempt(to.try_write_vectored(slices))?.unwrap_or(0);
        let mut skip = written;
        for slice in slices {
            self.bytes.extend_from_slice(&slice[skip.min(slice.len())..]);
            skip = skip.saturating_sub(slice.len());
        }
        Ok(written)
    }

    /// Puts more behind what is left.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes what is left, and gives its memory back; ready with how many bytes were written when nothing is left.
    pub fn poll_write(&mut self, to: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut total = 0;
        while self.done < self.bytes.len() {
            ready!(to.poll_write_ready(context))?;
            if let Some(written) = attempt(to.try_write(&self.bytes[self.done..]))? {
                self.done += written;
                total += written;
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(total))
    }
}
