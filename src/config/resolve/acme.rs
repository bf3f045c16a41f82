//! The section `[site.acme]`: a certificate from an authority.

use std::path::Path;

use hyper::Uri;

use super::Resolver;
use crate::auth::Domain;
use crate::config::layer::{AcmeWritten, Written};
use crate::config::report::{Complaint, Origin};
use crate::cover::site::acme::{Authority, Challenge, External, LETS_ENCRYPT, LETS_ENCRYPT_STAGING};
use crate::net::https;

/// Settings of the section `[site]` that stand beside it.
pub(super) struct Beside<'a> {
    pub(super) certificate: Option<&'a Origin>,
    pub(super) redirects: bool,
    pub(super) domain: Option<&'a (Domain, Origin)>,
}

/// The text of a section `[site.acme]` for a configuration file that is to be written: what differs from the usual.
pub fn section(authority: &Authority) -> String {
    let mut table = toml::Table::new();
    let mut say = |key: &str, value: Option<String>| value.map(|value| table.insert(key.into(), value.into()));
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let stated = ![LETS_ENCRYPT, LETS_ENCRYPT_STAGING].iter().any(|usual| authority.directory == **usual);
    say("directory", stated.then(|| authority.directory.to_string()));
    say("email", authority.email.clone());
    let challenge = authority.challenge;
    say("challenge", (challenge != Challenge::default()).then(|| challenge.label().to_owned()));
    say("ca_file", authority.roots.as_deref().map(path));
    say("eab_key_id", authority.external.as_ref().map(|external| external.id.clone()));
    say("eab_key_file", authority.external.as_ref().map(|external| path(&external.key_file)));
    if authority.directory == LETS_ENCRYPT_STAGING {
        table.insert("staging".into(), true.into());
    }
    format!("[site.acme]\n{table}")
}

impl Resolver<'_> {
    pub(super) fn acme(&mut self, written: AcmeWritten, beside: &Beside<'_>) -> Authority {
        if let Some(certificate) = beside.certificate {
            let complaint = Complaint::new(certificate, "the certificate is either a file or issued", "remove one");
            self.complaints.push(complaint.and(&written.at, "the other one"));
        }
        if beside.domain.is_none() && self.whole {
            let fix = "add `domain = \"NAME\"` to the top of the file: a domain that leads to this machine";
            self.complaints.push(Complaint::new(&written.at, "a certificate needs a domain", fix));
        }
        let at = written.challenge.as_ref().map(|challenge| challenge.at.clone());
        let challenge = self.choice(written.challenge, CHALLENGES).unwrap_or_default();
        if let (Challenge::Http01, Some(at), false) = (challenge, at, beside.redirects) {
            let what = "this challenge needs plain HTTP, and no listener speaks it";
            let fix = "add `redirect_from = [\"[::]:80\"]` to the section `[site]`";
            self.complaints.push(Complaint::new(&at, what, fix));
        }
        Authority {
            directory: self.directory(written.directory, written.staging),
            email: written.email.and_then(|email| self.email(&email)),
            challenge,
            roots: written.ca_file.and_then(|file| self.readable(file)),
            external: match (written.eab_key_id, written.eab_key_file) {
                (None, None) => None,
                (Some(id), Some(file)) => self.readable(file).map(|key_file| External { id: id.value, key_file }),
                (Some(Written { at, .. }), None) => self.lonely(&at, "eab_key_file = \"FILE\""),
                (None, Some(Written { at, .. })) => self.lonely(&at, "eab_key_id = \"ID\""),
            },
        }
    }

    fn directory(&mut self, directory: Option<Written<String>>, staging: Option<Written<bool>>) -> Uri {
        let staging = staging.filter(|staging| staging.value);
        if let (Some(directory), Some(staging)) = (&directory, &staging) {
            let what = "the authority is either the staging one or this one";
            self.complaints.push(Complaint::new(&directory.at, what, "remove one").and(&staging.at, "the other one"));
        }
        let usual = Authority::lets_encrypt(staging.is_some()).directory;
        let Some(directory) = directory else { return usual };
        let uri = directory.value.parse::<Uri>().ok().filter(https::is_fit);
        uri.unwrap_or_else(|| {
            let fix = "write the URL of an ACME directory: \"https://HOST/PATH\"";
            self.complaints.push(Complaint::new(&directory.at, "not an authority", fix));
            usual
        })
    }

    fn email(&mut self, written: &Written<String>) -> Option<String> {
        let text = &written.value;
        let plain = text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '<' | '>' | '"' | ':'));
        let whole = text.split_once('@').is_some_and(|(who, host)| !who.is_empty() && host.contains('.'));
        if !plain || !whole {
            let fix = "write one address like \"you@example.com\", or remove the line: none is needed";
            self.complaints.push(Complaint::new(&written.at, "not an email address", fix));
        }
        (plain && whole).then(|| text.clone())
    }

    fn lonely<T>(&mut self, at: &Origin, lacking: &str) -> Option<T> {
        if self.whole {
            let what = "an external account needs both its identifier and its key";
            self.complaints.push(Complaint::new(at, what, format!("add `{lacking}`")));
        }
        None
    }
}

const CHALLENGES: &[(&str, Challenge)] = &[("tls-alpn-01", Challenge::TlsAlpn01), ("http-01", Challenge::Http01)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded::CoverDraft;
    use crate::config::{Environment, Flags, load_text};

    #[test]
    fn a_section_that_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            std::fs::write(folder.path().join(name), "x").unwrap();
            folder.path().join(name)
        };
        let private = Authority {
            directory: Uri::from_static("https://ca.example.net/dir"),
            roots: Some(file("roots.pem")),
            external: Some(External { id: "kid-1".into(), key_file: file("eab.key") }),
            ..Authority::lets_encrypt(false)
        };
        let email = Some("o'neil@example.com".to_owned());
        for authority in [
            Authority::lets_encrypt(false),
            Authority { email, challenge: Challenge::Http01, ..Authority::lets_encrypt(true) },
            private,
        ] {
            let section = section(&authority);
            let text = format!("domain = \"www.example.com\"\n[site]\nredirect_from = [\"[::]:80\"]\n{section}");
            let environment = Environment::from_iter([("HOME", "/nowhere")]);
            let draft = load_text(&text, None, &Flags::default(), &environment).unwrap().draft;
            let CoverDraft::Site { acme: Some(read), .. } = draft.cover else { panic!("{section}") };
            assert_eq!(*read, authority, "{section}");
        }
        assert_eq!(section(&Authority::lets_encrypt(false)), "[site.acme]\n");
    }
}
