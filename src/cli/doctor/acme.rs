//! How it stands with the authority that issues the site's certificate.

use std::io;
use std::net::SocketAddr;

use super::finding::{Check, Finding};
use crate::cover::site::acme::{Challenge, Memory, Settings};

/// Status of certificate issuance.
pub struct Issue {
    challenge: Challenge,
    host: String,
    /// Whether there is a certificate that it issued.
    issued: bool,
    memory: Result<Memory, io::ErrorKind>,
    /// Whether a listener has the port that the authority connects to; `None` where no one can tell.
    reachable: Option<bool>,
}

impl Issue {
    /// Looks at what is kept, and asks no one.
    pub fn look(settings: &Settings, listeners: &[SocketAddr], redirects: &[SocketAddr]) -> Self {
        let challenge = settings.authority.challenge;
        let asked = match challenge {
            Challenge::TlsAlpn01 => listeners,
            Challenge::Http01 => redirects,
        };
        Self {
            challenge,
            host: settings.host().to_owned(),
            issued: settings.file().exists(),
            memory: settings.memory().map_err(|error| error.kind()),
            // What another program hands on comes from a port of that.
            reachable: (!asked.is_empty()).then(|| asked.iter().any(|listener| listener.port() == challenge.port())),
        }
    }
}

/// Judges it.
pub fn issue(Issue { challenge, host, issued, memory, reachable }: &Issue) -> Vec<Finding> {
    let (port, way) = (challenge.port(), challenge.label());
    let gone = (*reachable == Some(false)).then(|| {
        Finding::warning(
            Check::Acme,
            format!("{host} connects to port {port} for {way}, and no listener has that port"),
            match challenge {
                Challenge::TlsAlpn01 => "listen on port 443, or pass that port on to this proxy",
                Challenge::Http01 => "add port 80 to site.redirect_from, or pass that port on to this proxy",
            },
        )
    });
    let outcome = match memory {
        Err(kind) => Finding::warning(
            Check::Acme,
            format!("the record of earlier requests to {host} cannot be read: {kind}"),
            "run the doctor as the user of the proxy",
        ),
        Ok(memory) if memory.failures > 0 => {
            let times =
                if memory.failures == 1 { "once".into() } else { format!("{} times in a row", memory.failures) };
            let why = memory.why.as_deref().unwrap_or("the reason is unknown");
            let fix = memory.fix.as_deref().unwrap_or("see the log of the proxy");
            match issued {
                true => Finding::warning(Check::Acme, format!("requests to {host} failed {times}: {why}"), fix),
                false => Finding::broken(
                    Check::Acme,
                    format!("requests to {host} failed {times}, and browsers warn of the certificate in use: {why}"),
                    fix,
                ),
            }
        }
        Ok(_) if *issued => Finding::ok(Check::Acme, format!("{host} issues the certificate ({way})")),
        Ok(_) => Finding::warning(
            Check::Acme,
            format!("no certificate was requested from {host} yet"),
            "start the proxy: it asks by itself, and logs the result",
        ),
    };
    gone.into_iter().chain([outcome]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::*;
    use super::*;

    #[test]
    fn issues() {
        let failed = |failures| Memory {
            failures,
            why: Some("the why".into()),
            fix: Some("the fix".into()),
            ..Memory::default()
        };
        for (issued, memory, reachable, expected) in [
            (true, Ok(failed(0)), Some(true), &[Fine][..]),
            (true, Ok(failed(0)), None, &[Fine]),
            (true, Ok(failed(0)), Some(false), &[Warning, Fine]),
            (false, Ok(failed(0)), Some(true), &[Warning]),
            (true, Ok(failed(2)), Some(true), &[Warning]),
            (false, Ok(failed(1)), Some(false), &[Warning, Broken]),
            (true, Err(io::ErrorKind::PermissionDenied), None, &[Warning]),
        ] {
            for challenge in [Challenge::TlsAlpn01, Challenge::Http01] {
                let seen = Issue { challenge, host: "ca.example".into(), issued, memory: memory.clone(), reachable };
                let found = issue(&seen);
                assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{found:?}");
            }
        }
        let seen = Issue {
            challenge: Challenge::TlsAlpn01,
            host: "ca.example".into(),
            issued: false,
            memory: Ok(failed(3)),
            reachable: None,
        };
        let found = &issue(&seen)[0];
        assert!(found.reason.contains("3 times") && found.reason.ends_with("the why"), "{found:?}");
        assert_eq!(found.fix.as_deref(), Some("the fix"));
    }
}
