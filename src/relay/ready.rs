//! Reading and writing sockets without the call that only says that there is nothing more.
//!
//! A read that gets less than there was room for has emptied the socket, and a write that could not place everything has
//! filled it. Either is remembered as "not ready", as if the socket had refused, so the next attempt waits for its word
//! instead of asking. A word that comes in between is not lost: only what was known before the attempt is forgotten.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv};
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

/// Reads into one slice, as [`poll_read`] wants it.
pub fn read(from: &TcpStream, into: &mut [u8]) -> io::Result<(usize, usize)> {
    let room = into.len();
    // Not `read`, which passes more layers of the kernel: a thirtieth of what a message costs.
    Ok((recv(from, into, RecvFlags::empty())?.0, room))
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

/// Whether the socket calls itself writable, which it does while a third of what it may hold is free. If not, it will tell
/// when it is.
pub fn has_room(to: &TcpStream) -> bool {
    let asked = || {
        let mut socket = [PollFd::new(to, PollFlags::OUT)];
        match poll(&mut socket, Some(&Timespec::default()))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    };
    to.try_io(Interest::WRITABLE, asked).is_ok()
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::sync::mpsc;
    use std::task::Waker;

    use super::super::testing::pair;
    use super::*;

    #[tokio::test]
    async fn a_socket_without_room_is_waited_for() {
        let (ours, mut peer) = pair();
        ours.writable().await.unwrap();
        // Each piece is taken whole, so that no attempt has found the socket full.
        let mut sent = 0;
        while has_room(&ours) {
            sent += ours.try_write(&[7; 1024]).unwrap();
        }
        assert!(now(|context| ours.poll_write_ready(context)).is_pending());
        let reader = std::thread::spawn(move || {
            peer.read_exact(&mut vec![0; sent]).unwrap();
            peer
        });
        ours.writable().await.unwrap();
        assert!(has_room(&ours));
        drop(reader.join().unwrap());
    }

    /// Reads into this many bytes, and counts the attempt.
    fn reading<'a>(
        from: &'a TcpStream,
        room: usize,
        calls: &'a mut usize,
    ) -> impl FnMut() -> io::Result<(usize, usize)> + 'a {
        move || {
            *calls += 1;
            Ok((rustix::io::read(from, &mut vec![0; room][..])?, room))
        }
    }

    /// Asks once, whatever may be woken.
    fn now<T>(ask: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        ask(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_short_read_is_not_asked_for_more_until_there_is_word() {
        let (ours, mut peer) = pair();
        let mut calls = 0;
        peer.write_all(b"four").unwrap();
        ours.readable().await.unwrap();
        let read = |room, calls: &mut usize| now(|context| poll_read(&ours, context, reading(&ours, room, calls)));
        // What fits exactly may not have been all.
        assert!(matches!(read(3, &mut calls), Poll::Ready(Ok(3))));
        assert!(matches!(read(3, &mut calls), Poll::Ready(Ok(1))));
        assert!(read(3, &mut calls).is_pending());
        assert_eq!(calls, 2);
        peer.write_all(b"more").unwrap();
        let more = poll_fn(|context| poll_read(&ours, context, reading(&ours, 9, &mut calls))).await;
        assert_eq!((more.unwrap(), calls), (4, 3));
    }

    #[tokio::test]
    async fn the_end_is_told_as_often_as_it_is_asked_for() {
        let (ours, mut peer) = pair();
        let mut calls = 0;
        peer.write_all(b"last").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        for expected in [4, 0, 0] {
            let read = poll_fn(|context| poll_read(&ours, context, reading(&ours, 9, &mut calls))).await;
            assert_eq!(read.unwrap(), expected);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn word_that_comes_during_a_short_read_is_kept() {
        let ((ours, mut peer), (marker, mut marked)) = (pair(), pair());
        let (tell, told) = mpsc::channel();
        tokio::spawn(async move {
            marker.readable().await.unwrap();
            tell.send(()).unwrap();
        });
        peer.write_all(b"four").unwrap();
        ours.readable().await.unwrap();
        // Behind the read and ahead of what is concluded from it more comes, and the runtime hears of it: of this socket
        // before the other, as the kernel tells it.
        let read = || -> io::Result<(usize, usize)> {
            let read = rustix::io::read(&ours, &mut [0; 9])?;
            peer.write_all(b"more!").unwrap();
            marked.write_all(b"x").unwrap();
            told.recv().unwrap();
            Ok((read, 9))
        };
        assert!(matches!(now(|context| poll_read(&ours, context, read)), Poll::Ready(Ok(4))));
        let mut calls = 0;
        let more = now(|context| poll_read(&ours, context, reading(&ours, 9, &mut calls)));
        assert!(matches!(more, Poll::Ready(Ok(5))), "{more:?}");
    }

    #[tokio::test]
    async fn a_full_socket_is_not_asked_to_take_more_until_its_peer_has_read() {
        let (ours, mut peer) = pair();
        let bytes = vec![7; 1 << 20];
        ours.writable().await.unwrap();
        // To the brim, as far as the runtime has heard.
        let mut sent = 0;
        while let Poll::Ready(taken) = now(|context| poll_write(&ours, context, &[IoSlice::new(&bytes)])) {
            sent += taken.unwrap();
        }
        let mut calls = 0;
        let again = now(|context| {
            poll_write_with(&ours, context, || {
                calls += 1;
                write(&ours, &[IoSlice::new(&bytes)])
            })
        });
        assert!(again.is_pending() && calls == 0);
        assert_eq!(write_now(&ours, &[IoSlice::new(&bytes)]).unwrap(), 0);
        assert!(!has_room(&ours));
        let reader = std::thread::spawn(move || {
            peer.read_exact(&mut vec![0; sent]).unwrap();
            peer
        });
        let taken = poll_fn(|context| poll_write(&ours, context, &[IoSlice::new(&bytes)])).await;
        assert!(taken.unwrap() > 0);
        drop(reader.join().unwrap());
    }
}
