//! Reading and writing sockets without the call that only says that there is nothing more.
//!
//! A read that gets less than there was room for has emptied the socket, and a write that could not place everything has
//! filled it. Either is remembered as "not ready", as if the socket had refused, so the next attempt waits for its word
//! instead of asking. A word that comes in between is not lost: only what was known before the attempt is forgotten.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::attempt;

/// Reads when there is something to be read. `read` returns how many bytes came and for how many there was room.
/// `Pending` only when the socket will wake the task.
pub fn poll_read(
    from: &TcpStream,
    context: &mut Context<'_>,
    mut read: impl FnMut() -> io::Result<(usize, usize)>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(context))?;
        if let Some(read) = once(from, Interest::READABLE, &mut read)? {
            return Poll::Ready(Ok(read));
        }
    }
}

/// Writes when there is room for some.
pub fn poll_write(to: &TcpStream, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    poll_write_with(to, context, || write(to, slices))
}

/// Writes when there is room for some, with `write`, which returns how many bytes went and how many were to go.
pub fn poll_write_with(
    to: &TcpStream,
    context: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<(usize, usize)>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(context))?;
        if let Some(written) = once(to, Interest::WRITABLE, &mut write)? {
            return Poll::Ready(Ok(written));
        }
    }
}

/// Writes as much as the socket takes now, which may be nothing.
pub fn write_now(to: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    if slices.iter().all(|slice| slice.is_empty()) {
        return Ok(0);
    }
    Ok(once(to, Interest::WRITABLE, || write(to, slices))?.unwrap_or(0))
}

fn write(to: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<(usize, usize)> {
    let written = match slices {
        [all] => rustix::net::send(to, all, SendFlags::NOSIGNAL)?,
        several => rustix::io::writev(to, several)?,
    };
    Ok((written, slices.iter().map(|slice| slice.len()).sum()))
}

/// One attempt, which returns how many bytes were moved and how many could have been; `None` if the socket was not ready.
fn once(
    stream: &TcpStream,
    interest: Interest,
    operation: impl FnOnce() -> io::Result<(usize, usize)>,
) -> io::Result<Option<usize>> {
    let mut outcome = None;
    let known = stream.try_io(interest, || {
        let (moved, possible) = operation()?;
        outcome = Some(moved);
        // Nothing read is the end of the stream, of which the socket would not tell again.
        if 0 < moved && moved < possible { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    attempt(known)?;
    Ok(outcome)
}
