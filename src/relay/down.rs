//! The way from a data centre to its client.
//!
//! In the midst of bulk what is read is only looked at first. The records that the client's socket then takes a beginning
//! of are taken out of the data centre's socket, and of the last of them only as much as was taken: everything else is
//! taken back, as if it had never been read, and so is the beginning of a record whose rest has not come, unless the
//! client's socket has room for it. So a client that has stopped reading costs hardly more than one that rests, and where
//! a watcher sees that its socket was full, the records behind that place are cut as the cover would cut them then.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv, recvmsg};
use tokio::net::TcpStream;

use super::downlink::{Downlink, PartialSend};
use super::ready;
use super::stream::with_buffer;
use super::unsent::WriteBacklog;
use super::writes::Writes;
use super::{End, attempt};
use crate::wire::record::MAX_ENCRYPTED;

/// Most bytes that are read at once outside of bulk. As much of it as the client does not take waits with the session.
const LITTLE: usize = MAX_ENCRYPTED;

/// Size of a read from which on it is bulk.
const BULK: usize = 4096;

/// The two sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub client: &'a TcpStream,
    pub dc: &'a TcpStream,
}

/// A downlink and what is on its way.
#[derive(Debug)]
pub(super) struct Down {
    pub transform: Downlink,
    /// Whether the stream may go on; the last that is unsent ends it otherwise.
    pub open: bool,
    /// Whether a read has ever brought anything.
    pub heard: bool,
    /// Whether so much came at once that there may soon be more than the client takes.
    bulk: bool,
    /// Whether something was left in the data centre's socket, which will not tell of it again.
    more: bool,
    pub unsent: WriteBacklog,
    writes: Writes,
    /// Bytes still in the data centre's socket of the record that the client's socket took only a beginning of.
    unread: usize,
}

impl Down {
    pub fn new(transform: Downlink, writes: Writes) -> Self {
        let unsent = WriteBacklog::default();
        Self { transform, open: true, heard: false, bulk: false, more: false, unsent, writes, unread: 0 }
    }

    /// Whether a record that has begun is not yet with the client.
    pub fn is_behind(&self) -> bool {
        !self.unsent.is_empty() || self.unread > 0
    }

    /// Whether there is anything to read, as far as that is known; the task is woken when there is.
    pub fn has_more(&self, dc: &TcpStream, context: &mut Context<'_>) -> bool {
        self.more || dc.poll_read_ready(context).is_ready()
    }

    /// Passes on what is left of a record that has begun, and tells how much the client's socket takes each time; ready
    /// when nothing is left.
    pub fn poll_rest(
        &mut self,
        Ends { client, dc }: Ends<'_>,
        context: &mut Context<'_>,
        taken: &mut impl FnMut(usize),
    ) -> Poll<Result<(), End>> {
        ready!(self.unsent.poll_write(client, context, &mut *taken)).map_err(|_| End::ClientBroke)?;
        while self.unread > 0 {
            ready!(client.poll_write_ready(context)).map_err(|_| End::ClientBroke)?;
            let sent = with_buffer(|buffer| {
                let bytes = &mut buffer[..self.unread];
                let (_, here) = recv(dc, &mut *bytes, RecvFlags::PEEK).map_err(|_| End::FarBroke)?;
                if here == 0 {
                    return Err(End::FarBroke);
                }
                self.transform.repeat(&mut bytes[..here], self.unread);
                let sent = ready::write_now(client, &[IoSlice::new(&bytes[..here])]).map_err(|_| End::ClientBroke)?;
                discard(dc, &mut bytes[..sent])?;
                Ok(sent)
            })?;
            self.unread -= sent;
            taken(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads at most so much and passes it on; nothing is read where nothing may be. Tells how much the client's socket
    /// takes, and returns how much was read, some of which may have been taken back: 0 at the end of the stream, `None`
    /// if there was nothing. `charge` is told what is not read again.
    ///
    /// Nothing that has begun may be left, and the client's socket must not be known to be full.
    pub fn pass(
        &mut self,
        Ends { client, dc }: Ends<'_>,
        context: &mut Context<'_>,
        most: Option<usize>,
        filler: fn() -> u8,
        mut taken: impl FnMut(usize),
        mut charge: impl FnMut(usize),
    ) -> Result<Option<usize>, End> {
        with_buffer(|buffer| {
            let look = self.bulk;
            let read = match most {
                Some(most) => self.read(dc, context, if look { most } else { most.min(LITTLE) }, buffer)?,
                None => None,
            };
            if read.is_none() && self.transform.is_waiting() {
                self.transform.room(buffer);
            }
            let arrived = read.unwrap_or(0);
            // With nothing more to be read for now, what was kept for a larger record goes out as it is.
            if arrived == 0 && !self.transform.is_waiting() {
                return Ok(read);
            }
            let (length, before) = if look {
                let (length, before) = self.transform.frame_for_now(buffer, arrived, filler);
                (length, Some(before))
            } else {
                (self.transform.frame(buffer, arrived, filler), None)
            };
            let write = |records: &[u8]| ready::write_now(client, &[IoSlice::new(records)]);
            let sent = self.writes.write(&buffer[..length], write).map_err(|_| End::ClientBroke)?;
            taken(sent);
            let mut begun = PartialSend { length, read: arrived, last: 0 };
            if let Some(before) = before
                && (sent < length || self.transform.keeps() && !ready::has_room(client))
            {
                begun = self.transform.take_back(before, &buffer[..length], sent);
            }
            if sent < length {
                self.transform.client_is_slow();
            }
            self.unread = begun.last.min(begun.length - sent);
            self.unsent.append(&buffer[sent..begun.length - self.unread]);
            if look {
                discard(dc, &mut buffer[..begun.read - self.unread])?;
            }
            if read.is_some() {
                self.more = begun.read < arrived;
                charge(begun.read);
            }
            Ok(read)
        })
    }

    /// Reads at most so much into where the transform wants it; in bulk it is only looked at.
    fn read(
        &mut self,
        dc: &TcpStream,
        context: &mut Context<'_>,
        most: usize,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, End> {
        let (look, mut all) = (self.bulk, 0);
        let mut read = || {
            let mut room = self.transform.room_for(most, buffer);
            all = room.iter().map(|slice| slice.len()).sum();
            let flags = if look { RecvFlags::PEEK } else { RecvFlags::empty() };
            let read = match &mut room[..] {
                [all] => recv(dc, &mut **all, flags)?.0,
                several => recvmsg(dc, several, &mut Default::default(), flags)?.bytes,
            };
            Ok((read, all))
        };
        let known = if self.more { attempt(read()).map_err(|_| End::FarBroke)? } else { None };
        let read = match known {
            Some((read, _)) => read,
            None => match ready::poll_read(dc, context, read) {
                Poll::Pending => return Ok(None),
                Poll::Ready(read) => read.map_err(|_| End::FarBroke)?,
            },
        };
        self.heard |= read > 0;
        self.bulk = read == all || read >= BULK;
        Ok(Some(read))
    }

    /// Takes what is unread out of the data centre's socket, which is to be closed.
    pub fn collect(&mut self, dc: &TcpStream) {
        let behind = std::mem::take(&mut self.unread);
        let mut bytes = vec![0; behind];
        if let Ok(read) = rustix::io::read(dc, &mut bytes[..]) {
            self.transform.repeat(&mut bytes[..read], behind);
            self.unsent.append(&bytes[..read]);
        }
    }
}

/// Takes so many bytes, which were looked at already, out of a socket.
fn discard(from: &TcpStream, bytes: &mut [u8]) -> Result<(), End> {
    if !bytes.is_empty() {
        recv(from, bytes, RecvFlags::TRUNC).map_err(|_| End::FarBroke)?;
    }
    Ok(())
}
