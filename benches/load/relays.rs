//! The yardsticks: relays that only move bytes. Each runs in a process of its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::{Interest, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use super::far::listen;

/// Bytes of one read, and of a pipe.
const CHUNK: usize = 64 << 10;

/// Passes every connection on to `to` until the process is ended.
pub async fn run(spliced: bool, to: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let listener = listen(([127, 0, 0, 1], 0).into())?;
    ready(listener.local_addr()?);
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            // A connection that breaks ends both sides, which is all there is to do about it.
            let _ = serve(client, to, spliced).await;
        });
    }
}

async fn serve(mut client: TcpStream, to: SocketAddr, spliced: bool) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut far = TcpStream::connect(to).await?;
    far.set_nodelay(true)?;
    if spliced {
        tokio::try_join!(pass(&client, &far), pass(&far, &client))?;
    } else {
        copy_bidirectional_with_sizes(&mut client, &mut far, CHUNK, CHUNK).await?;
    }
    Ok(())
}

async fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let (read, write): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    loop {
        let fill = || Ok(splice(from, None, &write, None, CHUNK, flags)?);
        let mut left = from.async_io(Interest::READABLE, fill).await?;
        if left == 0 {
            return socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write);
        }
        while left > 0 {
            let drain = || Ok(splice(&read, None, to, None, left, flags)?);
            left -= to.async_io(Interest::WRITABLE, drain).await?;
        }
    }
}
