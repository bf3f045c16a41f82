//! Visits with a handshake that is completed: what comes behind the first flight.

use std::io::{self, Write};
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Leg, SeenFlight, visitor};
use crate::wire::record::{self, Header, kind};

/// Most records of a flight, and most that are listened to behind it. Real servers send a tenth of this.
const MAX_RECORDS: usize = 64;

/// How long a cover is given to speak before it has heard the client's Finished, and afterwards: for the first record and
/// for each further one.
const BEFORE_FINISHED: Duration = Duration::from_millis(250);
const FIRST_AFTER: Duration = Duration::from_millis(1500);
const NEXT_AFTER: Duration = Duration::from_millis(400);

/// Connection preface and empty settings (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What a cover says of its own accord around the end of a handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) flight: SeenFlight,
    /// The certificates as shown, the site's own first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) before_finished: Vec<u16>,
    pub(super) after_finished: Vec<u16>,
    pub(super) after_finished_ms: u64,
}

/// Performs a TLS 1.3 handshake as a visitor of the site `name`, then listens: first before the client's Finished is
/// sent, then behind it. With the Finished goes what a browser says at once where HTTP/2 was agreed on, for the cover
/// answers that too.
pub(super) async fn listen(leg: &mut Leg, name: &str) -> io::Result<Heard> {
    let (mut tls, flight) = shake_hands(leg, name).await?;
    let chain = tls.peer_certificates().into_iter().flatten().map(|shown| shown.clone().into_owned()).collect();
    let (before_finished, _) = records_until_silence(leg, BEFORE_FINISHED, BEFORE_FINISHED).await?;
    if tls.alpn_protocol() == Some(b"h2") {
        tls.writer().write_all(HTTP2_PREFACE)?;
    }
    send(&mut tls, leg).await?;
    let finished = Instant::now();
    let (after_finished, first) = records_until_silence(leg, FIRST_AFTER, NEXT_AFTER).await?;
    let delay = first.map_or(Duration::ZERO, |first| first - finished);
    Ok(Heard { flight, chain, before_finished, after_finished, after_finished_ms: delay.as_millis() as u64 })
}

/// Up to the server's Finished; the client's own is not sent yet.
async fn shake_hands(leg: &mut Leg, name: &str) -> io::Result<(ClientConnection, SeenFlight)> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(visitor::config(&[b"h2", b"http/1.1"], visitor::MODERN)?, name)
        .map_err(io::Error::other)?;
    let mut flight = SeenFlight::default();
    for _ in 0..MAX_RECORDS {
        if !tls.is_handshaking() {
            return Ok((tls, flight));
        }
        send(&mut tls, leg).await?;
        let (kind, whole) = read_record(leg).await?;
        take_in(&mut tls, &whole)?;
        if kind == kind::APPLICATION_DATA {
            flight.records += 1;
            flight.payload += whole.len() - record::HEADER;
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the cover's handshake does not end"))
}

/// Hands a record to the handshake, which takes a part of a long one at a time.
fn take_in(tls: &mut ClientConnection, mut record: &[u8]) -> io::Result<()> {
    while !record.is_empty() {
        if tls.read_tls(&mut record)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(())
}

async fn send(tls: &mut ClientConnection, leg: &mut Leg) -> io::Result<()> {
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

/// Payload sizes of the encrypted records that come until nothing comes, and when the first of them was there. A cover
/// that ends the connection has said all it has to say.
async fn records_until_silence(
    leg: &mut Leg,
    first: Duration,
    next: Duration,
) -> io::Result<(Vec<u16>, Option<Instant>)> {
    let (mut sizes, mut began) = (Vec::new(), None);
    while sizes.len() < MAX_RECORDS {
        match timeout(if began.is_none() { first } else { next }, read_record(leg)).await {
            Ok(Ok((kind::APPLICATION_DATA, whole))) => {
                began.get_or_insert_with(Instant::now);
                sizes.push((whole.len() - record::HEADER) as u16);
            }
            Ok(Ok(_)) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the cover sent a record in the clear"));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    Ok((sizes, began))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::duplex;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server whose certificate has about so many bytes, in records of at most so many.
    fn server(bytes: usize, record: Option<usize>) -> TlsAcceptor {
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
                let heard = listen(&mut (Box::new(near) as Leg), "cover.example").await.unwrap();
                assert_eq!(heard.flight.records, if record.is_some() { 4 } else { 1 }, "{bytes} {record:?}");
                assert!(heard.flight.payload.abs_diff(bytes) < 900, "{bytes} {record:?}: {}", heard.flight.payload);
                assert!(!heard.after_finished.is_empty(), "tickets behind {bytes} {record:?}");
                drop(heard);
                serving.abort();
            }
        }
    }
}
