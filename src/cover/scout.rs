//! Visits a cover to learn what a watcher of its first flight cannot see: how many encrypted records it has.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::record::{self, Header, kind};

/// The encrypted part of a cover's first flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenFlight {
    /// How many records it came in.
    pub records: usize,
    /// Their payload in all, in bytes.
    pub payload: usize,
}

/// Performs a TLS 1.3 handshake as a visitor of the site `name`, and looks at what comes up to the server's Finished.
pub(super) async fn see_flight(mut cover: TcpStream, name: &str) -> io::Result<SeenFlight> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(visitor()?, name).map_err(io::Error::other)?;
    let mut flight = SeenFlight::default();
    while tls.is_handshaking() {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out)?;
        }
        cover.write_all(&out).await?;
        let mut header = [0; record::HEADER];
        cover.read_exact(&mut header).await?;
        let Header { kind, length, .. } = Header::decode(header);
        let mut whole = header.to_vec();
        whole.resize(record::HEADER + usize::from(length), 0);
        cover.read_exact(&mut whole[record::HEADER..]).await?;
        tls.read_tls(&mut &whole[..])?;
        tls.process_new_packets().map_err(io::Error::other)?;
        if kind == kind::APPLICATION_DATA {
            flight.records += 1;
            flight.payload += usize::from(length);
        }
    }
    Ok(flight)
}

fn visitor() -> io::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The visit sends and believes nothing, so whose certificate it is does not matter.
#[derive(Debug)]
pub(super) struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
