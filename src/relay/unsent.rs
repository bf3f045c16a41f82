//! Bytes that a socket did not take at once. While there are any, nothing more is read for that socket.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::kept::PendingBytes;
use super::ready::{self, write_now};

/// Bytes left to be written to a socket.
#[derive(Debug, Default)]
pub struct WriteBacklog {
    bytes: PendingBytes,
    done: usize,
}

impl From<&[u8]> for WriteBacklog {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: PendingBytes::from(bytes), done: 0 }
    }
}

impl WriteBacklog {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Memory for what is left.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the slices, in order, as far as the socket takes them now, and keeps the rest; returns how much it took.
    /// Must not be called while there is something left.
    pub fn write(&mut self, to: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = write_now(to, slices)?;
        let mut skip = taken;
        let rest = slices.iter().map(|slice| {
            let (sent, rest) = slice.split_at(skip.min(slice.len()));
            skip -= sent.len();
            rest
        });
        self.bytes = PendingBytes::of(&rest.collect::<SmallVec<[&[u8]; 8]>>());
        Ok(taken)
    }

    /// Puts more behind what is left.
    pub fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes = PendingBytes::of(&[&self.bytes, bytes]);
        }
    }

    /// Forgets what is left.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes what is left, tells how much the socket takes each time, and gives the memory back; ready when nothing is
    /// left.
    pub fn poll_write(
        &mut self,
        to: &TcpStream,
        context: &mut Context<'_>,
        mut taken: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        while self.done < self.bytes.len() {
            let now = ready!(ready::poll_write(to, context, &[IoSlice::new(&self.bytes[self.done..])]))?;
            self.done += now;
            taken(now);
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}
