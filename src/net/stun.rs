//! Asking a STUN server (RFC 8489) from which address it sees us.
//!
//! ```text
//! 0      2        4        8                20
//! ├ type ┼ length ┼ cookie ┼ transaction ───┼ attributes: type (2) ‖ length (2) ‖ value, filled up to a whole word
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

const REQUEST: u16 = 0x0001;
const RESPONSE: u16 = 0x0101;
const COOKIE: u32 = 0x2112_a442;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEAD: usize = 20;

/// Wait for the answer to each request (RFC 8489 §6.2.1), and number of requests.
const PATIENCE: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 3;

/// Asks the server for the address from which it sees this machine.
pub async fn ask(server: SocketAddr) -> io::Result<IpAddr> {
    let here: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((here, 0)).await?;
    socket.connect(server).await?;
    let transaction = rand::random();
    for _ in 0..ATTEMPTS {
        socket.send(&question(transaction)).await?;
        let mut bytes = [0; 1500];
        if let Ok(length) = timeout(PATIENCE, socket.recv(&mut bytes)).await
            && let Some(address) = answer(&bytes[..length?], transaction)
        {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn question(transaction: [u8; 12]) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..2].copy_from_slice(&REQUEST.to_be_bytes());
    bytes[4..8].copy_from_slice(&COOKIE.to_be_bytes());
    bytes[8..].copy_from_slice(&transaction);
    bytes
}

/// The address in a response to this transaction.
fn answer(bytes: &[u8], transaction: [u8; 12]) -> Option<IpAddr> {
    let (head, mut attributes) = bytes.split_first_chunk::<HEAD>()?;
    let genuine = head[..2] == RESPONSE.to_be_bytes() && head[4..8] == COOKIE.to_be_bytes() && head[8..] == transaction;
    while genuine && let Some(([a, b, c, d], rest)) = attributes.split_first_chunk::<4>() {
        let (kind, length) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        let value = rest.get(..length)?;
        if kind == XOR_MAPPED_ADDRESS {
            return unmasked(value, transaction);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// The address under its mask of cookie and transaction (RFC 8489 §14.2), which keeps meddling gateways off.
fn unmasked(value: &[u8], transaction: [u8; 12]) -> Option<IpAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction);
    match (head[1], address.len()) {
        (1, 4) => Some(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|at| address[at] ^ mask[at])).into()),
        (2, 16) => Some(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|at| address[at] ^ mask[at])).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::unhex;

    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    /// RFC 5769, 2.2 and 2.3, as far as their addresses.
    #[test]
    fn the_answers_of_the_published_vectors_are_read() {
        let software = "8022000b7465737420766563746f7220";
        let head = "0101003c2112a442b7e7a701bc34d686fa87dfae";
        for (attribute, expected) in [
            ("002000080001a147e112a643", "192.0.2.1"),
            ("002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9", "2001:db8:1234:5678:11:2233:4455:6677"),
        ] {
            let bytes = unhex(&[head, software, attribute].concat());
            assert_eq!(answer(&bytes, TRANSACTION), Some(expected.parse().unwrap()));
            assert_eq!(answer(&bytes, [0; 12]), None, "someone else's");
            (0..bytes.len()).for_each(|length| assert_eq!(answer(&bytes[..length], TRANSACTION), None));
        }
        assert_eq!(question(TRANSACTION)[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    }

    #[tokio::test]
    async fn a_lost_question_is_asked_again() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let asking = tokio::spawn(ask(address));
        let mut bytes = [0; 100];
        server.recv_from(&mut bytes).await.unwrap();
        let (_, from) = server.recv_from(&mut bytes).await.unwrap();
        let mut response = [&bytes[..HEAD], &unhex("002000080001a147e112a643")].concat();
        response[..4].copy_from_slice(&[1, 1, 0, 12]);
        server.send_to(&response, from).await.unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
