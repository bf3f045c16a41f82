//! Best-effort socket options: a socket without them still works, so failures are not reported.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(300);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_PROBES: u32 = 5;

/// Sends what is written at once, as web servers do.
pub fn no_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// How many bytes a segment to this peer can have, where the system tells.
pub fn segment_size(stream: &TcpStream) -> Option<usize> {
    SockRef::from(stream).tcp_mss().ok().and_then(|size| size.try_into().ok())
}

/// Notices in the end that a peer has vanished: one that is silent is asked whether it is there, and one that does not
/// confirm what was sent is given up. Either takes ten minutes.
pub fn keep_alive(stream: &TcpStream) {
    let keep_alive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&keep_alive);
    let _ = socket.set_tcp_user_timeout(Some(KEEPALIVE_AFTER + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ways_of_vanishing_are_noticed_at_the_same_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        keep_alive(&stream);
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(600)));
    }
}
