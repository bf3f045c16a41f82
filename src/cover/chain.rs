//! The certificates that visitors of a cover are shown, read and judged as a browser would.

use std::sync::LazyLock;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::auth::UnixTime;

/// Certificates as shown in a handshake, the site's own first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Names that the site's own certificate is for.
    pub names: Vec<String>,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid.
    pub not_after: i64,
    /// Whether it is signed by itself.
    pub self_signed: bool,
    /// Whether each certificate is followed by that of its issuer, and the first is not alone.
    pub linked: bool,
    /// Whether an authority that browsers know has signed it, whatever its names and the time are.
    pub trusted: bool,
}

/// A chain as it bears on the grade of a cover of one name: small enough to be kept with what else is known of the cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// From when the certificate is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid.
    pub not_after: i64,
    /// Whether an authority that browsers know has signed it.
    pub trusted: bool,
    /// Names of the cover that it is not for.
    #[serde(default)]
    pub lacks: Vec<String>,
}

/// Authorities that browsers know.
static AUTHORITIES: LazyLock<RootCertStore> =
    LazyLock::new(|| RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });

impl Chain {
    /// Reads a chain, the site's own certificate first; `None` if a part of it is no certificate.
    pub fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        Self::read_trusting(chain, &AUTHORITIES)
    }

    fn read_trusting(chain: &[CertificateDer<'_>], authorities: &RootCertStore) -> Option<Self> {
        let parsed: Option<Vec<X509Certificate<'_>>> =
            chain.iter().map(|der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)).collect();
        let parsed = parsed?;
        let own = parsed.first()?;
        let linked = parsed.windows(2).all(|pair| pair[0].issuer() == pair[1].subject());
        let names = own.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let not_after = own.validity().not_after.timestamp();
        Some(Self {
            names: names.into_iter().flatten().filter_map(dns_name).collect(),
            not_before: own.validity().not_before.timestamp(),
            not_after,
            self_signed: own.issuer() == own.subject(),
            linked: linked && parsed.len() > 1,
            trusted: is_trusted(chain, authorities, not_after),
        })
    }

    /// Whether one of the names covers `domain`.
    pub fn is_for(&self, domain: &str) -> bool {
        self.names.iter().any(|name| covers(name, domain))
    }

    /// The names among these that it is not for.
    pub fn lacking<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
        names.into_iter().filter(|name| !self.is_for(name)).map(str::to_owned).collect()
    }

    /// The chain as that of the site with these names.
    pub fn shown(&self, names: &[&str]) -> Shown {
        let Self { not_before, not_after, trusted, .. } = *self;
        Shown { not_before, not_after, trusted, lacks: self.lacking(names.iter().copied()) }
    }
}

impl Shown {
    /// What was shown as the chain of the site with these names; `None` if nothing was. No browser believes one that it cannot
    /// read.
    pub fn of(chain: &[CertificateDer<'_>], names: &[&str]) -> Option<Self> {
        let lacks = || names.iter().map(|name| (*name).to_owned()).collect();
        let unreadable = || Self { not_before: 0, not_after: i64::MAX, trusted: false, lacks: lacks() };
        let shown = || Chain::read(chain).map_or_else(unreadable, |chain| chain.shown(names));
        (!chain.is_empty()).then(shown)
    }

    /// Whether the certificate is past its end at `now`.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.not_after <= now.0
    }

    /// Whether the certificate is before its beginning at `now`.
    pub fn is_early(&self, now: UnixTime) -> bool {
        self.not_before > now.0
    }
}

/// Whether the chain leads to an authority. Asked for the last second of the certificate's own life: that it is over, or
/// has not begun, is another fault with another remedy.
fn is_trusted(chain: &[CertificateDer<'_>], authorities: &RootCertStore, not_after: i64) -> bool {
    let Some((own, between)) = chain.split_first() else { return false };
    let at = Duration::from_secs(u64::try_from(not_after.saturating_sub(1)).unwrap_or_default());
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    ParsedCertificate::try_from(own)
        .and_then(|own| {
            let at = rustls::pki_types::UnixTime::since_unix_epoch(at);
            verify_server_cert_signed_by_trust_anchor(&own, authorities, between, at, algorithms)
        })
        .is_ok()
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Whether a certificate's name covers `domain`; a star stands for one whole first label.
fn covers(name: &str, domain: &str) -> bool {
    let rest = |text: &str| text.split_once('.').map(|(_, rest)| rest.to_owned());
    match name.strip_prefix("*.") {
        Some(parent) => rest(domain).is_some_and(|rest| rest == parent),
        None => name == domain,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_star_is_one_label() {
        for (name, domain, expected) in [
            ("example.com", "example.com", true),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.com", "example.com", true),
            ("example.com", "www.example.com", false),
        ] {
            assert_eq!(covers(name, domain), expected, "{name} {domain}");
        }
    }

    #[test]
    fn a_real_certificate_is_read() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["Example.com".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&key).unwrap().der().clone();
        let read = Chain::read(std::slice::from_ref(&der)).unwrap();
        assert_eq!((&read.names[..], read.not_after), (&["example.com".to_owned()][..], 1_893_456_000));
        assert!(read.self_signed && !read.trusted && !read.linked);
        assert_eq!(read.shown(&["example.com"]), Shown { lacks: Vec::new(), ..read.shown(&["example.net"]) });
        let names = ["example.com", "example.net", "www.example.com", "a.example.net"];
        assert_eq!(read.shown(&names).lacks, read.lacking(names));
        assert_eq!(Shown::of(std::slice::from_ref(&der), &["example.com"]), Some(read.shown(&["example.com"])));
        let spoiled = [der, CertificateDer::from(vec![0x30, 0])];
        assert_eq!((Chain::read(&spoiled), Chain::read(&[])), (None, None));
        assert!(
            Shown::of(&spoiled, &["example.com"]).is_some_and(|shown| !shown.trusted && shown.lacks == ["example.com"])
        );
        assert_eq!(Shown::of(&[], &["example.com"]), None);
    }

    #[test]
    fn only_an_authority_that_is_known_makes_a_certificate_trusted() {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().der().clone(), Issuer::new(params, key))
        };
        let ((known, issuer), (_, other)) = (authority("known"), authority("other"));
        let mut authorities = RootCertStore::empty();
        authorities.add(known).unwrap();
        let signed = |issuer: &Issuer<'_, KeyPair>, end: i32| {
            let mut params = CertificateParams::new(["example.com".to_owned()]).unwrap();
            params.not_after = date_time_ymd(end, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
        };
        let read = |der| Chain::read_trusting(&[der], &authorities).unwrap();
        let (good, over, unknown) =
            (read(signed(&issuer, 2040)), read(signed(&issuer, 2001)), read(signed(&other, 2040)));
        assert!(good.trusted && over.trusted && !unknown.trusted && !unknown.self_signed);
        let now = UnixTime(1_767_225_600);
        assert!(!good.shown(&["example.com"]).is_expired(now) && over.shown(&["example.com"]).is_expired(now));
        assert!(
            !good.shown(&["example.com"]).is_early(now) && good.shown(&["example.com"]).is_early(UnixTime(-1 << 40))
        );
    }
}
