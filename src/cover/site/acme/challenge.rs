//! What the authority is shown when it comes to look whether the name is ours, and only then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::Method;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use crate::cover::site::certificate::Watched;

/// The protocol that the authority offers in its hello, and nothing else beside it (RFC 8737).
pub(crate) const PROTOCOL: &[u8] = b"acme-tls/1";

/// Path that it asks for over plain HTTP (RFC 8555, 8.3).
const PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are pending: one for each name of an order.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    pending: Mutex<Vec<Arc<Pending>>>,
    /// Whether there is one for TLS; asked by every connection.
    by_tls: AtomicBool,
}

#[derive(Debug)]
enum Pending {
    Tls { domain: String, certificate: Arc<CertifiedKey> },
    Http { token: String, answer: String },
}

impl Challenges {
    /// From now on TLS clients that offer nothing but the protocol of this challenge are shown it.
    pub(crate) fn by_tls(self: &Arc<Self>, domain: &str, digest: &[u8]) -> Option<Shown> {
        let certificate = Arc::new(certificate(domain, digest)?);
        Some(self.show(Pending::Tls { domain: domain.to_owned(), certificate }))
    }

    /// From now on requests for this token are answered.
    pub(super) fn by_http(self: &Arc<Self>, token: &str, answer: &str) -> Shown {
        self.show(Pending::Http { token: token.to_owned(), answer: answer.to_owned() })
    }

    fn show(self: &Arc<Self>, pending: Pending) -> Shown {
        let pending = Arc::new(pending);
        self.change(|all| all.push(Arc::clone(&pending)));
        Shown { among: Arc::clone(self), pending }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Pending>>)) {
        let mut pending = self.pending();
        change(&mut pending);
        let by_tls = pending.iter().any(|one| matches!(**one, Pending::Tls { .. }));
        self.by_tls.store(by_tls, Ordering::Release);
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Arc<Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether handshakes may be the authority's.
    pub(crate) fn in_handshakes(&self) -> bool {
        self.by_tls.load(Ordering::Acquire)
    }

    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.pending().iter().find_map(|pending| match &**pending {
            Pending::Tls { domain, certificate } if domain.eq_ignore_ascii_case(name) => Some(Arc::clone(certificate)),
            _ => None,
        })
    }

    /// Answer to this request, if it is the authority's.
    pub(crate) fn page(&self, method: &Method, path: &str) -> Option<String> {
        let asked = path.strip_prefix(PATH).filter(|_| *method == Method::GET || *method == Method::HEAD)?;
        self.pending().iter().find_map(|pending| match &**pending {
            Pending::Http { token, answer } if token == asked => Some(answer.clone()),
            _ => None,
        })
    }
}

/// A challenge that is pending for as long as this lives.
#[must_use]
pub(crate) struct Shown {
    among: Arc<Challenges>,
    pending: Arc<Pending>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.among.change(|all| all.retain(|one| !Arc::ptr_eq(one, &self.pending)));
    }
}

/// The site's certificate for everybody, and that of the challenge for the authority.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) certificate: Arc<Watched>,
    pub(crate) challenges: Arc<Challenges>,
}

impl ResolvesServerCert for Answering {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offers_it_alone =
            hello.alpn().is_some_and(|mut offered| offered.next() == Some(PROTOCOL) && offered.next().is_none());
        match offers_it_alone {
            true => self.challenges.certificate(hello.server_name()?),
            false => self.certificate.resolve(hello),
        }
    }
}

/// A certificate for the name with the digest in it.
fn certificate(domain: &str, digest: &[u8]) -> Option<CertifiedKey> {
    // The extension holds a SHA-256; the library panics at anything else.
    if digest.len() != 32 {
        return None;
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).ok()?;
    let mut params = CertificateParams::new([domain.to_owned()]).ok()?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let chain = vec![params.self_signed(&key).ok()?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    // The library's own check of the pair would stumble over the extension, which is critical.
    Some(CertifiedKey::new(chain, any_ecdsa_type(&key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_that_is_pending_is_answered_and_only_while_it_is() {
        let challenges = Arc::new(Challenges::default());
        let get = |path: &str| challenges.page(&Method::GET, path);
        assert_eq!(get("/.well-known/acme-challenge/abc"), None);
        let shown = challenges.by_http("abc", "abc.thumb");
        assert_eq!(get("/.well-known/acme-challenge/abc").as_deref(), Some("abc.thumb"));
        assert!(challenges.page(&Method::HEAD, "/.well-known/acme-challenge/abc").is_some());
        assert!(!challenges.in_handshakes());
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/abcd", "/abc", "/"] {
            assert_eq!(get(path), None, "{path}");
        }
        assert_eq!(challenges.page(&Method::POST, "/.well-known/acme-challenge/abc"), None);
        drop(shown);
        assert_eq!(get("/.well-known/acme-challenge/abc"), None);
    }

    #[test]
    fn the_certificate_of_a_challenge_is_for_its_name_only() {
        let challenges = Arc::new(Challenges::default());
        let shown = challenges.by_tls("a.example", &[7; 32]).unwrap();
        assert!(challenges.in_handshakes());
        let found = challenges.certificate("A.example").unwrap();
        let (_, read) = x509_parser::parse_x509_certificate(&found.cert[0]).unwrap();
        let identifier = read.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(identifier.critical && identifier.value == [&[4, 32][..], &[7; 32]].concat());
        assert!(challenges.certificate("b.example").is_none());
        let other = challenges.by_tls("b.example", &[8; 32]).unwrap();
        assert!(challenges.certificate("a.example").is_some() && challenges.certificate("b.example").is_some());
        drop(other);
        assert!(challenges.in_handshakes() && challenges.certificate("b.example").is_none());
        drop(shown);
        assert!(!challenges.in_handshakes() && challenges.certificate("a.example").is_none());
        assert!(challenges.by_tls("a.example", &[7; 31]).is_none());
    }
}
