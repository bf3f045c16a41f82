//! The cover's first answer to one hello, watched as everybody on the way can watch it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Leg;
use crate::cover::profile::FlightShape;
use crate::wire::ServerHello;
use crate::wire::numbers::TLS13;
use crate::wire::record::{self, Header, kind};

/// Time limit for the first byte of an answer.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Silence after which a flight is taken for whole: when as many records came as were expected, and otherwise.
const SILENCE_EXPECTED: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_millis(400);

/// Most bytes of an answer that are looked at. A flight with a longest certificate chain has a third of them.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends a hello and looks at what comes until the cover waits for the client. `expected` is the number of encrypted
/// records after which it is likely to, if that is known.
pub(super) async fn watch(leg: &mut Leg, hello: &[u8], expected: Option<usize>) -> io::Result<FlightShape> {
    leg.write_all(hello).await?;
    leg.flush().await?;
    let mut answer = Answer::default();
    let mut patience = FIRST_BYTE;
    loop {
        match timeout(patience, answer.read(leg)).await {
            Ok(Ok(())) if answer.is_decided() => break,
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) if answer.is_complete() => break,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        let as_expected = expected.is_some_and(|expected| answer.records.len() >= expected);
        patience = if !answer.is_complete() {
            FIRST_BYTE
        } else if as_expected {
            SILENCE_EXPECTED
        } else {
            SILENCE
        };
    }
    answer.into_shape()
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    bytes: Vec<u8>,
    /// Bytes that are whole records, already looked at.
    scanned: usize,
    hello: Option<ServerHello>,
    /// Payload sizes of the encrypted records.
    records: Vec<u16>,
}

impl Answer {
    async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        if from.read_buf(&mut self.bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.scan()?;
        if self.bytes.len() > MAX_ANSWER { Err(odd("the cover's answer is too long")) } else { Ok(()) }
    }

    fn scan(&mut self) -> io::Result<()> {
        while let Some(header) = self.bytes[self.scanned..].first_chunk() {
            let Header { kind, length, .. } = Header::decode(*header);
            let start = self.scanned + record::HEADER;
            let Some(payload) = self.bytes.get(start..start + usize::from(length)) else { break };
            match kind {
                kind::HANDSHAKE if self.hello.is_none() => {
                    let (hello, _) = ServerHello::decode(payload).map_err(|_| odd("the cover sent no ServerHello"))?;
                    self.hello = Some(hello);
                }
                kind::APPLICATION_DATA if self.hello.is_some() => self.records.push(length),
                kind::HANDSHAKE | kind::CHANGE_CIPHER_SPEC if self.hello.is_some() => {}
                kind::ALERT => return Err(odd("the cover answered with an alert")),
                _ => return Err(odd("the cover did not answer with TLS")),
            }
            self.scanned = start + usize::from(length);
        }
        Ok(())
    }

    /// Whether all that will ever be asked of it is known: what follows is not encrypted, or follows another hello.
    fn is_decided(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.retry || hello.version != TLS13)
    }

    /// Whether it may be whole.
    fn is_complete(&self) -> bool {
        !self.records.is_empty() && self.scanned == self.bytes.len()
    }

    fn into_shape(self) -> io::Result<FlightShape> {
        let hello = self.hello.ok_or_else(|| odd("the cover sent no ServerHello"))?;
        Ok(FlightShape {
            version: hello.version,
            retry: hello.retry,
            cipher_suite: hello.cipher_suite,
            group: hello.group,
            extensions: hello.extensions,
            records: self.records,
            stable: true,
        })
    }
}

fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;
    use crate::fixtures::vector;

    /// What is seen when the cover sends these bytes and then waits.
    async fn seen(bytes: &[u8]) -> io::Result<FlightShape> {
        let (mut far, near) = duplex(1 << 20);
        far.write_all(bytes).await?;
        let mut leg: Leg = Box::new(near);
        watch(&mut leg, b"hello", Some(1)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_is_what_comes_before_the_silence() {
        let flight = vector("flightB", "bytes");
        let shape = seen(&flight).await.unwrap();
        assert_eq!((shape.version, shape.retry, shape.records.as_slice()), (TLS13, false, &[2048][..]));
        let another = [&flight[..], &[0x17, 3, 3, 0, 100], &[1; 100]].concat();
        assert_eq!(seen(&another).await.unwrap().records, [2048, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_flight_is_an_error() {
        let flight = vector("flightB", "bytes");
        let endless = [&flight[..], &[0x17, 3, 3, 0x40, 0], &vec![0; 1 << 19]].concat();
        for bytes in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n", &[21, 3, 3, 0, 2, 2, 40], &flight[..2000], &endless] {
            assert!(seen(bytes).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_server_is_known_at_its_hello() {
        let hello = [&[22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3][..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat();
        let shape = seen(&hello).await.unwrap();
        assert_eq!((shape.version, shape.cipher_suite, shape.records.len()), (0x0303, 0xc02f, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0..3268usize) {
            let mut answer = Answer { bytes: bytes.clone(), ..Answer::default() };
            let _ = answer.scan();
            let mut flight = vector("flightB", "bytes");
            flight.splice(at.min(flight.len()).., bytes);
            let mut answer = Answer { bytes: flight, ..Answer::default() };
            let _ = answer.scan();
        }
    }
}
