//! A TCP connection to one of several addresses of which nothing is known beforehand.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::health::Health;
use super::race::race;

/// Connects to whichever address answers first, trying them in order. A dead address costs a moment, not a time-out.
///
/// Fails with the first attempt's error when all have failed, or with `TimedOut` after `patience`.
pub async fn dial(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    Ok(race(addresses, &Health::default(), patience, TcpStream::connect).await?.1)
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
