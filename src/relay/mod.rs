//! Moving bytes: order, back-pressure, half-close, counts. Knows no configuration.
//!
//! [`uplink`] and [`downlink`] are the pure transforms of a session, [`stream`] moves a session's bytes through them and
//! [`packets`] its packets, [`splice`] copies untouched in both directions, [`wrap`] puts a stream into records for another
//! proxy, [`welcome`] says when what stands in for tickets leaves, [`sizing`] how data is cut into records, [`writes`] how
//! these are written, [`unanswered`] which clients are silent behind an answer, [`meter`] is what others see of a session, [`tariff`] what a session asks of others.

mod down;
pub mod downlink;
mod kept;
pub mod meter;
pub mod packets;
mod ready;
pub mod sizing;
pub mod splice;
pub mod stream;
pub mod tariff;
pub mod unanswered;
mod unsent;
pub mod uplink;
pub mod welcome;
pub mod wrap;
pub mod writes;

use std::io;

/// Outcome of a relay, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Cause of the end.
    pub by: End,
    /// Bytes that came from the client and were taken care of.
    pub up: u64,
    /// Bytes that left for the client.
    pub down: u64,
}

/// Cause of a relay's end. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Both sides had said all they wanted.
    Finished,
    /// The client's connection broke.
    ClientBroke,
    /// The far side's connection broke.
    FarBroke,
    /// The client sent something that is no record of application data.
    BadRecord,
    /// The client sent something that is no packet of its protocol, where packets are looked at.
    BadPacket,
    /// More was waiting for the client than may wait.
    Slow,
    /// Nothing moved for too long.
    Idle,
    /// The client had its answer and said nothing more, see [`unanswered`].
    Unanswered,
    /// The proxy ended it, see [`meter::Meter::end`].
    Closed,
}

impl End {
    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientBroke => "client_broke",
            Self::FarBroke => "far_broke",
            Self::BadRecord => "bad_record",
            Self::BadPacket => "bad_packet",
            Self::Slow => "slow",
            Self::Idle => "idle",
            Self::Unanswered => "unanswered",
            Self::Closed => "closed",
        }
    }
}

/// Ends our direction of a connection. A peer that is already gone is no news.
pub(crate) fn shut(stream: &tokio::net::TcpStream) {
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

/// Makes the coming close of this socket a reset.
pub(crate) fn reset_on_close(stream: &tokio::net::TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// `WouldBlock` as `None`: readiness was a false alarm.
pub(crate) fn attempt<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod testing {
    use tokio::net::TcpStream;

    /// Two ends of a connection: one for the relay, one for the test.
    pub fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (TcpStream::from_std(ours).unwrap(), peer)
    }
}
