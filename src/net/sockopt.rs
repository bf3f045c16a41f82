//! Best-effort socket options: a socket without them still works, so failures are not reported.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Time for which a peer may be silent before the kernel probes whether it is still there, which it then does every 75
/// seconds.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(300);

/// Time for which a peer may leave a probe or data unanswered (`TCP_USER_TIMEOUT`). The kernel takes this for the end
/// of its probes, too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sends what is written at once, as web servers do.
pub fn no_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// Returns the maximum segment size towards this peer, where the system tells it.
pub fn segment_size(stream: &TcpStream) -> Option<usize> {
    SockRef::from(stream).tcp_mss().ok().and_then(|size| size.try_into().ok())
}

/// Notices in the end that a peer has vanished: one that is silent is asked whether it is there, and one that does not
/// confirm what was sent is given up. Either takes ten minutes.
pub fn keep_alive(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER));
    let _ = socket.set_tcp_user_timeout(Some(PATIENCE));
}

/// Notices within half a minute that the peer has vanished of a connection on which nothing is sent.
pub fn notice_soon(stream: &TcpStream) {
    let seconds = Duration::from_secs;
    let soon = TcpKeepalive::new().with_time(seconds(15)).with_interval(seconds(5)).with_retries(3);
    let _ = SockRef::from(stream).set_tcp_keepalive(&soon);
}

/// Whether a connection is open and nothing has come over it that was not read. Asks the kernel, and not what the runtime
/// has heard of it so far.
pub fn is_at_rest(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Waits until the other side sends no more, or the connection is broken. What it has sent before stays to be read.
pub async fn peer_gone(stream: &TcpStream) {
    // Readiness stays as long as bytes wait, so the end behind them has to be looked for.
    const AGAIN: Duration = Duration::from_millis(200);
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(AGAIN).await,
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ways_of_vanishing_are_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        keep_alive(&stream);
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PATIENCE));
    }

    #[tokio::test]
    async fn whatever_comes_ends_the_rest_of_a_connection() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for manner in ["speaks", "ends", "breaks"] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            assert!(is_at_rest(&stream) && is_at_rest(&far));
            match manner {
                "speaks" => far.write_all(b"?").await.unwrap(),
                "ends" => far.shutdown().await.unwrap(),
                _ => {
                    far.set_zero_linger().unwrap();
                    drop(far);
                }
            }
            let noticed = async {
                while is_at_rest(&stream) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), noticed).await.expect(manner);
        }
    }

    #[tokio::test]
    async fn the_end_of_the_other_side_is_noticed_behind_what_it_has_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for sent in [&b""[..], b"some bytes that no one reads"] {
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (here, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut peer, sent).await.unwrap();
            let here = &here;
            assert!(tokio::time::timeout(Duration::from_millis(300), peer_gone(here)).await.is_err(), "it is there");
            drop(peer);
            tokio::time::timeout(Duration::from_secs(20), peer_gone(here)).await.unwrap();
            let mut read = vec![0; sent.len()];
            assert_eq!(here.try_read(&mut read).unwrap(), sent.len());
        }
    }
}
