//! The certificate that visitors of the cover are shown.

use super::finding::{Check, Finding};
use crate::auth::UnixTime;
use crate::cover::chain::Chain;
use crate::cover::grade::list;

/// Judges the chain of a site with these names, of which `own` says whether it is the operator's own.
pub fn certificate(chain: Option<&Chain>, names: &[&str], own: bool, now: UnixTime) -> Vec<Finding> {
    const DAY: i64 = 86_400;
    const SOON: i64 = 21;
    let broken = |reason: String, fix: &str| Finding::broken(Check::Certificate, reason, fix);
    let warning = |reason: String, fix: &str| Finding::warning(Check::Certificate, reason, fix);
    // Someone else's certificate is not ours to fix, but a cover that no one would believe is a poor one.
    let judged = |reason: String, fix: &str| {
        if own { broken(reason, fix) } else { warning(reason, "choose a cover whose certificate is valid") }
    };
    let Some(chain) = chain else {
        return vec![broken(
            "the cover sends something that is no certificate".into(),
            "set site.certificate to the right file",
        )];
    };
    let lacks = chain.lacking(names.iter().copied());
    let days = (chain.not_after - now.0).div_euclid(DAY);
    let found = [
        (chain.not_after <= now.0).then(|| judged(format!("it expired {} days ago", -days), "renew it now")),
        (chain.not_before > now.0)
            .then(|| judged("it is not valid yet".into(), "see the result for the clock, or wait until it is")),
        (chain.not_after > now.0 && days < SOON)
            .then(|| warning(format!("it expires in {days} days"), "find out why it was not renewed")),
        (!lacks.is_empty()).then(|| {
            let next = match names {
                [_] => "get a certificate for the domain, or name the right domain: --domain NAME",
                _ => "get one certificate for all names of the site, or take the names out of `names`",
            };
            judged(format!("it is for {}, not for {}", list(&chain.names), list(&lacks)), next)
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
        (!chain.self_signed && chain.linked && !chain.trusted).then(|| {
            warning(
                "it is not signed by an authority that browsers trust".into(),
                "let an authority issue one that browsers trust, with a section [site.acme]",
            )
        }),
    ];
    let found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        let names = list(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        return vec![Finding::ok(Check::Certificate, format!("it is for {names} and valid for {days} days more"))];
    }
    found
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
            trusted: true,
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
            (Chain { self_signed: true, linked: false, trusted: false, ..chain(60) }, true, &[Warning]),
            (Chain { linked: false, trusted: false, ..chain(60) }, true, &[Warning]),
            (Chain { trusted: false, ..chain(60) }, true, &[Warning]),
            (other(), true, &[Broken]),
            (other(), false, &[Warning]),
            (Chain { self_signed: true, ..other() }, true, &[Broken, Warning]),
        ] {
            let found = certificate(Some(&chain), &["example.com"], own, NOW);
            assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{found:?}");
        }
        assert_eq!(certificate(None, &["example.com"], true, NOW)[0].verdict, Broken);
        let names = ["example.com", "b.example", "www.example.com", "c.example"];
        let found = certificate(Some(&chain(60)), &names, true, NOW);
        assert!(found.len() == 1 && found[0].reason.ends_with("not for b.example, c.example"), "{found:?}");
    }
}
