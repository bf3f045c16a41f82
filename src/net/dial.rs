//! Connecting to one of several addresses: staggered attempts, the first success wins (RFC 8305 §5).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one attempt has before the next begins beside it (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to whichever address answers first, trying them in order. A dead address costs the stagger, not a time-out.
///
/// Fails with the first attempt's error when all have failed, or with `TimedOut` after `patience`.
pub async fn dial(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    timeout(patience, race(addresses)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    let Some(first) = waiting.next() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    };
    if waiting.len() == 0 {
        return TcpStream::connect(first).await;
    }
    let mut failure = None;
    let mut attempts = JoinSet::new();
    attempts.spawn(TcpStream::connect(first));
    loop {
        let next_may_begin = if waiting.len() > 0 { STAGGER } else { Duration::MAX };
        match timeout(next_may_begin, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => _ = failure.get_or_insert(error),
            Ok(Some(Err(join))) => _ = failure.get_or_insert(io::Error::other(join)),
            Ok(None) if waiting.len() == 0 => return Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
            Ok(None) | Err(_) => {}
        }
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_refusing_address_does_not_keep_the_next_from_being_tried() {
        let refusing = {
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let answering = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = answering.local_addr().unwrap();
        let stream = dial(&[refusing, address], Duration::from_secs(5)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        let error = dial(&[refusing, refusing], Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(dial(&[], Duration::from_secs(5)).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
