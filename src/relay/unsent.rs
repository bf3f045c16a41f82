//! Bytes that a socket did not take at once. While there are any, nothing more is read for that socket.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::attempt;

/// What is left to be written to a socket, and how much was.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    done: usize,
    written: u64,
}

impl Unsent {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes the socket has taken in all.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes the slices, in order, as far as the socket takes them now, and keeps the rest. Must not be called while
    /// there is something left.
    pub fn write(&mut self, to: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut skip = attempt(to.try_write_vectored(slices))?.unwrap_or(0);
        self.written += skip as u64;
        for slice in slices {
            self.bytes.extend_from_slice(&slice[skip.min(slice.len())..]);
            skip = skip.saturating_sub(slice.len());
        }
        Ok(())
    }

    /// Puts more behind what is left.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what is left.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
        self.done = 0;
    }

    /// Writes what is left, and gives its memory back; ready when nothing is left.
    pub fn poll_write(&mut self, to: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.done < self.bytes.len() {
            ready!(to.poll_write_ready(context))?;
            if let Some(written) = attempt(to.try_write(&self.bytes[self.done..]))? {
                self.done += written;
                self.written += written as u64;
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}
