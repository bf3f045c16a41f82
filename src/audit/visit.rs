//! A visit to a site by a real TLS client, with its records in hand: what a browser's connection looks like from outside.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, ClientConnection};
use tokio::time::{Duration, Instant};

use super::look::SceneSetup;
use super::talk::Conversation;
use crate::cover::scout::AnyCertificate;

/// First words of a client of HTTP/2: the preface and settings that are all as they are by default.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A visitor over TLS 1.3 whose handshake is over.
#[derive(Debug)]
pub struct TlsVisit {
    /// The conversation.
    pub talk: Conversation,
    tls: ClientConnection,
    /// Bytes of the reply that TLS has seen.
    taken: usize,
    /// Place behind all that had come when the handshake was over.
    pub handshake: usize,
    name: String,
}

impl TlsVisit {
    /// Shakes hands with `target`, offering these protocols; `None` if nothing comes of it.
    pub async fn start(target: std::net::SocketAddr, protocols: &[Vec<u8>], look: &SceneSetup<'_>) -> Option<Self> {
        let name = look.plan.subject.name.clone();
        let tls = ClientConnection::new(config(protocols)?, ServerName::try_from(name.clone()).ok()?).ok()?;
        let talk = Conversation::start(target, look.line, None).await?;
        let mut visit = Self { talk, tls, taken: 0, handshake: 0, name };
        let until = Instant::now() + look.plan.lineup.limit.max(Duration::from_secs(15));
        loop {
            // The last of these writes is the Finished.
            visit.handshake = visit.talk.reply.len();
            let out = visit.outgoing();
            if !out.is_empty() {
                visit.talk.send(&out).await;
            }
            if !visit.tls.is_handshaking() {
                return Some(visit);
            }
            if !visit.talk.hear(until).await || visit.take().is_none() {
                return None;
            }
        }
    }

    /// Whether HTTP/2 was agreed on.
    pub fn is_http2(&self) -> bool {
        self.tls.alpn_protocol() == Some(b"h2")
    }

    /// First words of a client of HTTP/2, sealed.
    pub fn preface(&mut self) -> Vec<u8> {
        self.seal(PREFACE)
    }

    /// A request for the front page in the protocol agreed on, sealed. With HTTP/2 the preface has to come before.
    pub fn request(&mut self) -> Vec<u8> {
        let request = match self.is_http2() {
            true => {
                // HEADERS that end the stream: GET, https, `/`, and the name.
                let length = u8::try_from(self.name.len()).unwrap_or(0).min(126);
                let mut head = vec![0, 0, 5 + length, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84, 0x41, length];
                head.extend(&self.name.as_bytes()[..length.into()]);
                head
            }
            false => format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.name).into_bytes(),
        };
        self.seal(&request)
    }

    /// Bytes as the records that carry them.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        use std::io::Write;
        // Into memory, which takes all of it.
        let _ = self.tls.writer().write_all(plain);
        self.outgoing()
    }

    /// Opens all that came since the last call; what cannot be opened is left out.
    pub fn opened(&mut self) -> Vec<u8> {
        use std::io::Read;
        let _ = self.take();
        let mut plain = Vec::new();
        let _ = self.tls.reader().read_to_end(&mut plain);
        plain
    }

    fn outgoing(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() && self.tls.write_tls(&mut out).is_ok_and(|count| count > 0) {}
        out
    }

    fn take(&mut self) -> Option<()> {
        while self.taken < self.talk.reply.len() {
            let mut rest = &self.talk.reply[self.taken..];
            self.taken += self.tls.read_tls(&mut rest).ok().filter(|count| *count > 0)?;
            self.tls.process_new_packets().ok()?;
        }
        Some(())
    }
}

fn config(protocols: &[Vec<u8>]) -> Option<Arc<ClientConfig>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // As clients of Telegram prefer it: sizes of tickets depend on the suite.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13]);
    // Only the form of the conversation counts.
    let builder = builder.ok()?.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = protocols.to_vec();
    // Each visit is a first one.
    config.resumption = rustls::client::Resumption::disabled();
    Some(Arc::new(config))
}
