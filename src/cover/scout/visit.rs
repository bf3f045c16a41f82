//! Visits with a handshake that is completed: what comes behind the first flight.

use std::io::{self, Write};
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Leg, SeenFlight, visitor};
use crate::cover::profile::GreetingShape;
use crate::wire::record::{self, Header, kind};

/// Most records of a flight, and most that are listened to behind it. Real servers send a tenth of this.
const MAX_RECORDS: usize = 64;

/// Time that a cover is given to speak before it has heard the client's Finished, and afterwards: for the first record
/// and for each further one.
const BEFORE_FINISHED: Duration = Duration::from_millis(250);
const FIRST_AFTER: Duration = Duration::from_millis(1500);
const NEXT_AFTER: Duration = Duration::from_millis(200);

/// The same once it has the preface of HTTP/2.
const FIRST_ANSWER: Duration = Duration::from_millis(1000);
const NEXT_ANSWER: Duration = Duration::from_millis(200);

/// Application protocols (ALPN) that a visitor offers: as most do, and as those do that know no HTTP/2.
pub(super) const HTTP2: &[&[u8]] = &[b"h2", b"http/1.1"];
pub(super) const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// Most bytes that are read at once; a record fits.
const ROOM: usize = 32 << 10;

/// Connection preface and empty settings (RFC 9113 §3.4).
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Messages that a cover sends of its own accord around the end of a handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) flight: SeenFlight,
    /// The certificates as shown, the site's own first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) before_finished: Vec<u16>,
    pub(super) greeting: GreetingShape,
    /// Time from the hello to the first record of the answer, in microseconds.
    pub(super) answered_us: u64,
}

/// Performs a TLS 1.3 handshake as a visitor of the site `name` who offers these protocols, then listens: first before the
/// client's Finished is sent, then behind it, and where HTTP/2 was agreed on once more behind its preface.
pub(super) async fn listen(leg: &mut Leg, name: &str, protocols: &[&[u8]]) -> io::Result<Heard> {
    let (mut tls, flight, answered) = shake_hands(leg, name, protocols).await?;
    let chain = tls.peer_certificates().into_iter().flatten().map(|shown| shown.clone().into_owned()).collect();
    let mut ear = Ear { leg, bytes: Vec::new(), within: false };
    let (before_finished, _) = ear.writes_until_silence(BEFORE_FINISHED, BEFORE_FINISHED).await?;
    let finished = ear.say(&mut tls).await?;
    let (writes, first) = ear.writes_until_silence(FIRST_AFTER, NEXT_AFTER).await?;
    let mut greeting = GreetingShape { writes, delay_us: micros(finished, first), ..GreetingShape::default() };
    if tls.alpn_protocol() == Some(b"h2") {
        tls.writer().write_all(HTTP2_PREFACE)?;
        // A cover that has left says nothing more, and has said all the same what it had to say.
        if let Ok(asked) = ear.say(&mut tls).await {
            let (answer, first) = ear.writes_until_silence(FIRST_ANSWER, NEXT_ANSWER).await?;
            (greeting.answer, greeting.answer_delay_us) = (answer.concat(), micros(asked, first));
        }
    }
    let answered_us = answered.as_micros() as u64;
    Ok(Heard { flight, chain, before_finished: before_finished.concat(), greeting, answered_us })
}

fn micros(from: Instant, to: Option<Instant>) -> u64 {
    to.map_or(0, |to| (to - from).as_micros() as u64)
}

/// Up to the server's Finished; the client's own is not sent yet. Also tells how long the first record took to come.
pub(super) async fn shake_hands(
    leg: &mut Leg,
    name: &str,
    protocols: &[&[u8]],
) -> io::Result<(ClientConnection, SeenFlight, Duration)> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut tls =
        ClientConnection::new(visitor::config(protocols, visitor::MODERN)?, name).map_err(io::Error::other)?;
    let (mut flight, mut answered) = (SeenFlight::default(), None);
    for _ in 0..MAX_RECORDS {
        if !tls.is_handshaking() {
            return Ok((tls, flight, answered.unwrap_or_default()));
        }
        send(&mut tls, leg).await?;
        let asked = Instant::now();
        let (kind, whole) = read_record(leg).await?;
        answered.get_or_insert(asked.elapsed());
        take_in(&mut tls, &whole)?;
        if kind == kind::APPLICATION_DATA {
            flight.records += 1;
            flight.payload += whole.len() - record::HEADER;
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the cover's handshake does not end"))
}

/// Hands a record to the handshake, which takes a part of a long one at a time.
pub(super) fn take_in(tls: &mut ClientConnection, mut record: &[u8]) -> io::Result<()> {
    while !record.is_empty() {
        if tls.read_tls(&mut record)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(())
}

pub(super) async fn send(tls: &mut ClientConnection, leg: &mut Leg) -> io::Result<()> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out)?;
    }
    leg.write_all(&out).await?;
    leg.flush().await
}

async fn read_record(leg: &mut Leg) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; record::HEADER];
    leg.read_exact(&mut header).await?;
    let Header { kind, length, .. } = Header::decode(header);
    let mut whole = header.to_vec();
    whole.resize(record::HEADER + usize::from(length), 0);
    leg.read_exact(&mut whole[record::HEADER..]).await?;
    Ok((kind, whole))
}

/// Hears a cover's records in the writes that they come in.
struct Ear<'l> {
    leg: &'l mut Leg,
    /// Bytes of a record that has not come whole.
    bytes: Vec<u8>,
    /// Whether the next record belongs to the same write as the last.
    within: bool,
}

impl Ear<'_> {
    /// Sends what there is to be sent, and says when that was.
    async fn say(&mut self, tls: &mut ClientConnection) -> io::Result<Instant> {
        send(tls, self.leg).await?;
        self.within = false;
        Ok(Instant::now())
    }

    /// Payload sizes of the encrypted records that come until nothing comes, in the pieces that were read at once, and when
    /// the first of them was there. A cover that ends the connection has said all it has to say.
    async fn writes_until_silence(
        &mut self,
        first: Duration,
        next: Duration,
    ) -> io::Result<(Vec<Vec<u16>>, Option<Instant>)> {
        let (mut writes, mut began) = (Vec::<Vec<u16>>::new(), None);
        while writes.iter().map(Vec::len).sum::<usize>() < MAX_RECORDS {
            // A piece that did not fit would be taken for two writes, or two for one.
            self.bytes.reserve(ROOM);
            match timeout(if began.is_none() { first } else { next }, self.leg.read_buf(&mut self.bytes)).await {
                Ok(Ok(1..)) => {
                    began.get_or_insert_with(Instant::now);
                    let sizes = self.take_records()?;
                    match writes.last_mut().filter(|_| self.within) {
                        Some(write) => write.extend(sizes),
                        None => writes.push(sizes),
                    }
                    // A write that is cut on its way is cut within a record.
                    self.within = !self.bytes.is_empty();
                }
                Ok(Ok(0)) | Err(_) => break,
                Ok(Err(error)) => return Err(error),
            }
        }
        writes.retain(|write| !write.is_empty());
        Ok((writes, began))
    }

    /// Takes out the records that are whole.
    fn take_records(&mut self) -> io::Result<Vec<u16>> {
        let mut sizes = Vec::new();
        while let Some(header) = self.bytes.first_chunk() {
            let Header { kind, length, .. } = Header::decode(*header);
            if kind != kind::APPLICATION_DATA {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sent a record in the clear"));
            }
            let whole = record::HEADER + usize::from(length);
            if self.bytes.len() < whole {
                break;
            }
            self.bytes.drain(..whole);
            sizes.push(length);
        }
        Ok(sizes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::duplex;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server whose certificate has about so many bytes, in records of at most so many.
    pub(in crate::cover::scout) fn server(bytes: usize, record: Option<usize>) -> TlsAcceptor {
        let names = (0..bytes / 62).map(|number| format!("{number:048}.example.com"));
        let params = CertificateParams::new(["cover.example".to_owned()].into_iter().chain(names).collect::<Vec<_>>());
        let key = KeyPair::generate().unwrap();
        let certificate = params.unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.max_fragment_size = record;
        TlsAcceptor::from(Arc::new(config))
    }

    #[tokio::test(start_paused = true)]
    async fn flights_of_any_length_are_heard_in_one_record_and_in_four() {
        for bytes in [3000, 5000, 9000, 12_000, 15_700] {
            for record in [None, Some(bytes / 4 + 200)] {
                let (near, far) = duplex(1 << 16);
                let acceptor = server(bytes, record);
                let serving = tokio::spawn(async move {
                    let mut stream = acceptor.accept(far).await.unwrap();
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
                let heard = listen(&mut (Box::new(near) as Leg), "cover.example", HTTP2).await.unwrap();
                assert_eq!(heard.flight.records, if record.is_some() { 4 } else { 1 }, "{bytes} {record:?}");
                assert!(heard.flight.payload.abs_diff(bytes) < 900, "{bytes} {record:?}: {}", heard.flight.payload);
                assert!(!heard.greeting.writes.is_empty(), "tickets behind {bytes} {record:?}");
                drop(heard);
                serving.abort();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_told_apart_and_what_is_cut_within_a_record_is_one() {
        let record = |length: u8| [&[0x17, 3, 3, 0, length][..], &vec![1; length.into()]].concat();
        let (mut far, near) = duplex(1 << 16);
        tokio::spawn(async move {
            let long = record(70);
            for piece in [&record(40)[..], &[record(50), record(60)].concat(), &long[..9], &long[9..]] {
                far.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            far.read_to_end(&mut Vec::new()).await
        });
        let mut leg: Leg = Box::new(near);
        let mut ear = Ear { leg: &mut leg, bytes: Vec::new(), within: false };
        let (writes, _) = ear.writes_until_silence(FIRST_AFTER, NEXT_AFTER).await.unwrap();
        assert_eq!(writes, [vec![40], vec![50, 60], vec![70]]);
    }
}
