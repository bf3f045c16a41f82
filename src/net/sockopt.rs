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

/// Notices in the end that a peer has vanished.
pub fn keep_alive(stream: &TcpStream) {
    let keep_alive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}
