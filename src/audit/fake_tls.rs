//! A client up to the flight: signs a hello, and judges the answer as TDLib does.
//!
//! Written from the protocol and not from the code that it is to judge: the second opinion.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::hello::{self, Key, RANDOM};

/// Time limit for a server's first flight.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The record that a TLS 1.3 client sends for the sake of old middle boxes.
pub const CCS: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// End of the connection on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With FIN.
    Fin,
    /// With RST.
    Reset,
    /// It had not ended when the patience was spent.
    Open,
    /// It never took the connection.
    Unreachable,
}

/// The proxy's first answer.
#[derive(Clone, Debug)]
pub struct Flight {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Payload bytes of the ServerHello record.
    pub hello: usize,
    /// Payload bytes of the data record.
    pub data: usize,
}

/// Reason why a client rejects a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The first record is no ServerHello record.
    Head,
    /// The first record is not followed by CCS and the head of a data record.
    Middle,
    /// Bytes came after the flight, before the client had spoken.
    TooMuch,
    /// A read ended where Android reads a length that is not there yet.
    Torn,
    /// The authenticator is not that of this secret and hello: the cover itself has answered.
    Digest,
    /// No whole flight came.
    Ended(End),
}

/// Sends a signed hello in writes of `pieces` bytes, or in one if that is 0, and waits for a flight that a client
/// accepts.
pub async fn greet(
    proxy: SocketAddr,
    wire: &[u8],
    pieces: usize,
    key: &Key,
    random: &[u8],
) -> Result<(TcpStream, Flight), Refused> {
    let broken = |_| Refused::Ended(End::Reset);
    let mut stream = TcpStream::connect(proxy).await.map_err(|_| Refused::Ended(End::Unreachable))?;
    stream.set_nodelay(true).map_err(broken)?;
    let pieces = if pieces == 0 { wire.len().max(1) } else { pieces };
    for piece in wire.chunks(pieces) {
        stream.write_all(piece).await.map_err(broken)?;
    }
    let flight = read_flight(&mut stream, key, random).await?;
    Ok((stream, flight))
}

/// Reads a flight and judges it as TDLib does.
pub async fn read_flight(stream: &mut TcpStream, key: &Key, random: &[u8]) -> Result<Flight, Refused> {
    // A read takes what the spare capacity holds; it must not be us who tear the flight.
    let mut bytes = Vec::with_capacity(64 << 10);
    loop {
        match check_shape(&bytes)? {
            Some(flight) if bytes.len() == 16 + flight.hello + flight.data => {
                return if authentic(&bytes, key, random) { Ok(flight) } else { Err(Refused::Digest) };
            }
            Some(_) => return Err(Refused::TooMuch),
            None => more(stream, &mut bytes).await.map_err(Refused::Ended)?,
        }
        let first =
            bytes.get(3..5).map_or(usize::MAX - 16, |len| 5 + usize::from(u16::from_be_bytes([len[0], len[1]])));
        if (first..first + 11).contains(&bytes.len()) {
            return Err(Refused::Torn);
        }
    }
}

/// The lengths inside a flight, `None` while it is not whole.
fn check_shape(bytes: &[u8]) -> Result<Option<Flight>, Refused> {
    let Some(head) = bytes.get(..5) else { return Ok(None) };
    if head[..3] != [22, 3, 3] {
        return Err(Refused::Head);
    }
    let hello = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let Some(middle) = bytes.get(5 + hello..16 + hello) else { return Ok(None) };
    if middle[..9] != [20, 3, 3, 0, 1, 1, 23, 3, 3] {
        return Err(Refused::Middle);
    }
    let data = usize::from(u16::from_be_bytes([middle[9], middle[10]]));
    let whole = bytes.len() >= 16 + hello + data;
    Ok(whole.then(|| Flight { bytes: bytes.to_vec(), hello, data }))
}

/// Whether the server's random is the code over the client's random and the flight.
pub fn authentic(flight: &[u8], key: &Key, client_random: &[u8]) -> bool {
    let mut zeroed = flight.to_vec();
    let Some(random) = zeroed.get_mut(RANDOM) else { return false };
    random.fill(0);
    hello::mac(key, &[client_random, &zeroed])[..] == flight[RANDOM]
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), End> {
    match timeout(PATIENCE, stream.read_buf(bytes)).await {
        Err(_) => Err(End::Open),
        Ok(Ok(0)) => Err(End::Fin),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(End::Reset),
    }
}
