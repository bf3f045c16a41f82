//! Why there is no certificate, in words that name the fix.

use std::io;
use std::path::Path;

use instant_acme::{Error, Problem};

use super::{Challenge, Settings};

/// Reason why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Description of the problem.
    pub what: String,
    /// Advice on what to do.
    pub fix: String,
    /// Seconds before which the authority does not want to be asked again.
    pub(super) wait: Option<i64>,
}

const PASSES: &str = "nothing, if it is temporary: it is tried again";

impl Trouble {
    fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), wait: None }
    }

    /// A file of the state directory.
    pub(super) fn store(path: &Path, error: &io::Error) -> Self {
        Self::new(
            format!("{} cannot be used: {error}", path.display()),
            "make it readable and writable for the user of the proxy, and make room on the disk",
        )
    }

    /// A file that this program once wrote holds something else.
    pub(super) fn spoilt(path: &Path) -> Self {
        Self::new(
            format!("{} does not contain what vizard wrote", path.display()),
            "put it back from a backup, or remove it: then a new account is made",
        )
    }

    pub(super) fn roots(path: &Path) -> Self {
        let what = format!("{} holds no certificate that could be trusted", path.display());
        Self::new(what, "name a PEM file with the roots of the authority's own certificate: site.acme.ca_file")
    }

    pub(super) fn external(path: &Path) -> Self {
        let what = format!("{} holds no key in base64", path.display());
        Self::new(what, "write the key into it as the authority shows it: site.acme.eab_key_file")
    }

    pub(super) fn late() -> Self {
        Self::new("the authority has not finished within ten minutes", PASSES)
    }

    pub(super) fn unfit(why: &str) -> Self {
        let fix = "see whether site.acme.directory is the right authority; nothing else can be done here";
        Self::new(format!("what the authority issued cannot be used: {}", tamed(why)), fix)
    }

    /// The authority does not offer the challenge.
    pub(super) fn unoffered(challenge: Challenge) -> Self {
        let other = match challenge {
            Challenge::TlsAlpn01 => Challenge::Http01,
            Challenge::Http01 => Challenge::TlsAlpn01,
        };
        Self::new(
            format!("the authority does not offer {}", challenge.label()),
            format!("try site.acme.challenge = \"{}\"", other.label()),
        )
    }

    /// It did not say what is wrong.
    pub(super) fn unsaid(what: &str) -> Self {
        Self::new(format!("the authority only says that {what}"), PASSES)
    }

    /// Describes an error in talking to the authority. `refused` is how long it asked to wait.
    pub(super) fn of(error: &Error, settings: &Settings, refused: Option<i64>) -> Self {
        let host = settings.host();
        match error {
            Error::Api(problem) => Self::of_problem(problem, &settings.names.join(", "), settings, refused),
            Error::Timeout(_) => Self::new("the authority has not decided in time", PASSES),
            Error::Other(error) => Self::new(
                format!("{host} cannot be asked: {}", tamed(&error.to_string())),
                format!(
                    "see whether this machine reaches https://{host} (name servers, firewall, clock); the roots of a \
                     private authority are named in site.acme.ca_file"
                ),
            ),
            Error::Json(_) => Self::new(
                format!("{host} does not answer like an ACME server"),
                "name the URL of its directory: site.acme.directory",
            ),
            error => Self::new(tamed(&error.to_string()), PASSES),
        }
    }

    /// A problem document of the authority about this name, or these.
    pub(super) fn of_problem(problem: &Problem, domain: &str, settings: &Settings, refused: Option<i64>) -> Self {
        let challenge = settings.authority.challenge;
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
        let details = problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref());
        let detail = problem.detail.as_deref().into_iter().chain(details).collect::<Vec<_>>().join("; ");
        let detail = tamed(if detail.is_empty() { "no details" } else { &detail });
        // Some authorities have no better words for a name without an address and for a port where no one is.
        let kind = match kind {
            "malformed" if detail.contains("resolve") => "dns",
            "unauthorized" if detail.starts_with("Failed to connect") => "connection",
            kind => kind,
        };
        let (port, way) = (challenge.port(), challenge.label());
        let reach = match challenge {
            Challenge::TlsAlpn01 => "or use site.acme.challenge = \"http-01\" if something in front ends TLS",
            Challenge::Http01 => "and site.redirect_from must be what is reached there",
        };
        let (what, fix) = match kind {
            "dns" => (
                format!("the authority finds no address for {domain}"),
                format!(
                    "give {domain} an A record with the address of this machine (and AAAA only if IPv6 leads here \
                     too); others may take an hour to see a new one"
                ),
            ),
            "connection" | "tls" => (
                format!("the authority cannot reach {domain} on port {port} ({way})"),
                format!(
                    "let port {port} through the firewall to this proxy, for every A and AAAA record of {domain}, {reach}"
                ),
            ),
            "unauthorized" | "incorrectResponse" => (
                format!("another server answered for {domain} on port {port} ({way})"),
                format!("let every A and AAAA record of {domain} lead to this machine, {reach}"),
            ),
            "caa" => (
                format!("a CAA record of {domain}, or of a domain above it, forbids this authority"),
                "add the authority to the CAA records (for Let's Encrypt: 0 issue \"letsencrypt.org\"), or use another"
                    .to_owned(),
            ),
            "rateLimited" => (
                "the authority's limit is reached".to_owned(),
                "wait: it is tried again when the authority allows it; use site.acme.staging = true for tests"
                    .to_owned(),
            ),
            "rejectedIdentifier" | "unsupportedIdentifier" => (
                format!("the authority issues nothing for {domain}"),
                "use a domain of your own that is not one for tests".to_owned(),
            ),
            "externalAccountRequired" => (
                "the authority requires an external account".to_owned(),
                "set site.acme.eab_key_id and site.acme.eab_key_file to what the authority shows there".to_owned(),
            ),
            "invalidContact" | "unsupportedContact" => {
                ("the authority rejects the email address".to_owned(), "correct or remove site.acme.email".to_owned())
            }
            "userActionRequired" => (
                "the authority requires its new terms to be accepted".to_owned(),
                "read what it says, and visit the page that it names".to_owned(),
            ),
            _ => (format!("the authority refuses ({})", tamed(kind)), PASSES.to_owned()),
        };
        let wait = match kind {
            "rateLimited" => Some(refused.unwrap_or_default().max(LIMITED)),
            _ => refused,
        };
        Self { what: format!("{what}: {detail}"), fix, wait }
    }
}

/// Shortest wait where a limit is reached, in seconds.
const LIMITED: i64 = 60 * 60;

/// Text of someone else's on one line, and not too long.
fn tamed(text: &str) -> String {
    const LONGEST: usize = 400;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let short: String = text.chars().take(LONGEST).map(plain).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, LETS_ENCRYPT};
    use super::*;

    fn settings(challenge: Challenge) -> Settings {
        let directory = LETS_ENCRYPT.parse().unwrap();
        let authority = Authority { directory, email: None, challenge, roots: None, external: None };
        Settings::new(authority, &["www.example.com"], Path::new("/state"))
    }

    fn problem(kind: &str, detail: &str) -> Problem {
        let json = serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_problem_names_its_mend() {
        for (kind, challenge, what, fix) in [
            ("dns", Challenge::TlsAlpn01, "no address for www.example.com", "A record"),
            ("connection", Challenge::TlsAlpn01, "port 443", "firewall"),
            ("connection", Challenge::Http01, "port 80", "site.redirect_from"),
            ("tls", Challenge::TlsAlpn01, "port 443", "http-01"),
            ("unauthorized", Challenge::TlsAlpn01, "another server answered", "lead to this machine"),
            ("caa", Challenge::TlsAlpn01, "CAA", "letsencrypt.org"),
            ("rateLimited", Challenge::TlsAlpn01, "limit", "staging"),
            ("rejectedIdentifier", Challenge::TlsAlpn01, "nothing for www.example.com", "your own"),
            ("externalAccountRequired", Challenge::TlsAlpn01, "external account", "eab_key_id"),
            ("invalidContact", Challenge::TlsAlpn01, "address", "site.acme.email"),
            ("serverInternal", Challenge::TlsAlpn01, "serverInternal", "tried again"),
        ] {
            let trouble =
                Trouble::of_problem(&problem(kind, "the detail"), "www.example.com", &settings(challenge), None);
            assert!(trouble.what.contains(what) && trouble.what.ends_with(": the detail"), "{kind}: {trouble:?}");
            assert!(trouble.fix.contains(fix), "{kind}: {trouble:?}");
            assert_eq!(trouble.wait, (kind == "rateLimited").then_some(3600), "{kind}");
        }
    }

    #[test]
    fn the_authority_says_how_long_to_wait() {
        let settings = settings(Challenge::TlsAlpn01);
        let wait = |kind, refused| Trouble::of_problem(&problem(kind, ""), "www.example.com", &settings, refused).wait;
        assert_eq!(wait("rateLimited", Some(7200)), Some(7200));
        assert_eq!(wait("rateLimited", Some(5)), Some(3600));
        assert_eq!(wait("serverInternal", Some(600)), Some(600));
    }

    #[test]
    fn what_others_write_stays_on_one_line() {
        let long = format!("a\r\nb\u{1b}[31m{}", "x".repeat(9000));
        let trouble =
            Trouble::of_problem(&problem("caa", &long), "www.example.com", &settings(Challenge::TlsAlpn01), None);
        assert!(!trouble.what.contains(char::is_control) && trouble.what.len() < 600, "{trouble:?}");
    }
}
