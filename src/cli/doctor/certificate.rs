//! The certificate that visitors of the cover are shown.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::finding::{Check, Finding};
use crate::auth::UnixTime;

/// What a chain of certificates says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Names that the site's own certificate is for.
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
    /// Whether it is signed by itself.
    self_signed: bool,
    /// Whether each certificate is followed by that of its issuer, and the first is not alone.
    linked: bool,
}

impl Chain {
    /// Reads a chain, the site's own certificate first; `None` if a part of it is no certificate.
    pub fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let parsed: Option<Vec<X509Certificate<'_>>> =
            chain.iter().map(|der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)).collect();
        let parsed = parsed?;
        let own = parsed.first()?;
        let linked = parsed.windows(2).all(|pair| pair[0].issuer() == pair[1].subject());
        let names = own.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        Some(Self {
            names: names.into_iter().flatten().filter_map(dns_name).collect(),
            not_before: own.validity().not_before.timestamp(),
            not_after: own.validity().not_after.timestamp(),
            self_signed: own.issuer() == own.subject(),
            linked: linked && parsed.len() > 1,
        })
    }
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

/// Judges the chain of a site named `domain`, of which `own` says whether it is the operator's own.
pub fn certificate(chain: Option<&Chain>, domain: &str, own: bool, now: UnixTime) -> Vec<Finding> {
    const DAY: i64 = 86_400;
    const SOON: i64 = 21;
    let broken = |reason: String, mend: &str| Finding::broken(Check::Certificate, reason, mend);
    let warning = |reason: String, mend: &str| Finding::warning(Check::Certificate, reason, mend);
    // Somebody else's certificate is not ours to mend, but a cover that nobody would believe is a poor one.
    let judged = |reason: String, mend: &str| {
        if own { broken(reason, mend) } else { warning(reason, "choose a cover whose certificate is in order") }
    };
    let Some(chain) = chain else {
        return vec![broken(
            "what the cover shows is no certificate".into(),
            "put the right file into site.certificate",
        )];
    };
    let days = (chain.not_after - now.0).div_euclid(DAY);
    let named = chain.names.iter().any(|name| covers(name, domain));
    let found = [
        (chain.not_after <= now.0).then(|| judged(format!("it expired {} days ago", -days), "renew it now")),
        (chain.not_before > now.0)
            .then(|| judged("it is not valid yet".into(), "see the line on the clock, or wait until it is")),
        (chain.not_after > now.0 && days < SOON)
            .then(|| warning(format!("it expires in {days} days"), "see why it was not renewed")),
        (!named).then(|| {
            judged(
                format!("it is for {}, not for {domain}", shown(&chain.names)),
                "get a certificate for the domain, or name the right domain: --domain NAME",
            )
        }),
        chain.self_signed.then(|| {
            warning(
                "it is self-signed, and browsers warn of it".into(),
                "let an authority issue one, with a section [site.acme], or name the files of your own in [site]",
            )
        }),
        (!chain.self_signed && !chain.linked).then(|| {
            warning(
                "the chain is incomplete or out of order".into(),
                "use the file with the full chain, the site's own certificate first",
            )
        }),
    ];
    let found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        return vec![Finding::ok(Check::Certificate, format!("it is for {domain} and valid for {days} days more"))];
    }
    found
}

fn shown(names: &[String]) -> String {
    const MOST: usize = 3;
    match names {
        [] => "no name".into(),
        names if names.len() > MOST => format!("{} and {} more", names[..MOST].join(", "), names.len() - MOST),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    const NOW: UnixTime = UnixTime(1_767_225_600);
    const DAY: i64 = 86_400;

    fn chain(days: i64) -> Chain {
        Chain {
            names: vec!["example.com".into(), "*.example.com".into()],
            not_before: NOW.0 - DAY,
            not_after: NOW.0 + days * DAY,
            self_signed: false,
            linked: true,
        }
    }

    #[test]
    fn certificates() {
        let other = || Chain { names: vec!["example.net".into()], ..chain(60) };
        for (chain, own, expected) in [
            (chain(60), true, &[Fine][..]),
            (chain(21), true, &[Fine]),
            (chain(20), true, &[Warning]),
            (chain(0), true, &[Broken]),
            (chain(-5), true, &[Broken]),
            (chain(-5), false, &[Warning]),
            (Chain { not_before: NOW.0 + 1, ..chain(60) }, true, &[Broken]),
            (Chain { self_signed: true, linked: false, ..chain(60) }, true, &[Warning]),
            (Chain { linked: false, ..chain(60) }, true, &[Warning]),
            (other(), true, &[Broken]),
            (other(), false, &[Warning]),
            (Chain { self_signed: true, ..other() }, true, &[Broken, Warning]),
        ] {
            let found = certificate(Some(&chain), "example.com", own, NOW);
            assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{found:?}");
        }
        assert_eq!(certificate(None, "example.com", true, NOW)[0].verdict, Broken);
    }

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
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["Example.com".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&key).unwrap().der().clone();
        let read = Chain::read(std::slice::from_ref(&der)).unwrap();
        assert_eq!((read.names, read.not_after, read.self_signed), (vec!["example.com".into()], 1_893_456_000, true));
        assert_eq!(Chain::read(&[der, CertificateDer::from(vec![0x30, 0])]), None);
        assert_eq!(Chain::read(&[]), None);
    }
}
