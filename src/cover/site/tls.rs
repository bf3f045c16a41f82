//! TLS as the site speaks it: 1.2 and 1.3, post-quantum first, tickets that need no memory.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use super::acme;
use super::closing;
use super::error::SiteError;

/// The configuration that all connections share.
pub(super) fn config(certificate: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, SiteError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(SiteError::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Keys change every six hours, and a certificate that changes does not make the tickets invalid. What the client
    // keeps we need not keep, so there is no second store for sessions.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(Tickets(aws_lc_rs::Ticketer::new().map_err(SiteError::Tls)?));
    Ok(Arc::new(config))
}

/// Tickets that are good for as long as those of nginx.
#[derive(Debug)]
struct Tickets(Arc<dyn ProducesTickets>);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

/// The same for the time in which an authority may come to look: one more protocol, behind those that everybody speaks.
/// Tickets are good with both.
pub(super) fn challenged(config: &ServerConfig, certificate: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols.push(acme::PROTOCOL.to_vec());
    config.cert_resolver = certificate;
    Arc::new(config)
}

/// Says goodbye: close alert, FIN, then waits for the client's own FIN.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: TlsStream<S>) {
    closing::finish(&mut stream).await;
    // What still arrives is only thrown away, so it is read below TLS, where damaged records cannot stop us.
    closing::linger(stream.into_inner().0).await;
}

/// Seconds, as `ssl_session_timeout` of nginx has it.
const TICKET_LIFETIME: u32 = 300;

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
