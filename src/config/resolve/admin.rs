//! The section `[admin]`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::Resolver;
use crate::auth::{Domain, SecretText};
use crate::config::layer::{AdminWritten, TokenWritten, Written};
use crate::config::report::{Complaint, Origin};
use crate::ops::admin::token::MARK;
use crate::ops::admin::{AdminAddress, Refusal, Role, Settings, Token};

/// The socket in the state directory that is the default.
const SOCKET: &str = "admin";

const ROLES: &[(&str, Role)] =
    &[("metrics", Role::Metrics), ("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];

impl Resolver<'_> {
    pub(super) fn admin(&mut self, written: AdminWritten, state_dir: &Path) -> Option<Settings> {
        let at = written.listen.as_ref().map_or_else(|| written.at.clone(), |listen| listen.at.clone());
        let place = match written.listen {
            Some(text) => self.place(&text),
            None => self.socket(state_dir.join(SOCKET), &written.at),
        };
        let certificate_at = written.certificate.as_ref().map(|path| path.at.clone());
        let wants_tls = written.certificate.is_some() || written.key.is_some();
        let tls = self.certificate(written.certificate, written.key);
        let (tokens, whole) = self.tokens(written.tokens);
        let hosts = written.hosts.into_iter().flatten().filter_map(|host| self.host(host)).collect();
        let place = place?;
        if let (AdminAddress::Unix(_), Some(at)) = (&place, &certificate_at) {
            let fix = "remove `certificate` and `key`, or listen on an address";
            self.complaints.push(Complaint::new(at, "a Unix socket does not use TLS", fix));
        }
        let per_user_metrics = written.per_user_metrics.is_none_or(|written| written.value);
        let settings = Settings { place, tls, tokens, hosts, per_user_metrics };
        // What could not be read has been complained about, and is not missing.
        let settled = match settings.refusal() {
            Some(Refusal::PublicWithoutTls) => !wants_tls,
            Some(Refusal::NoToken) => whole && self.whole,
            None => false,
        };
        if let (true, Some(refusal)) = (settled, settings.refusal()) {
            self.complaints.push(Complaint::new(&at, refusal.error(), refusal.fix()));
        }
        Some(settings)
    }

    /// A name or an address, without a port.
    fn host(&mut self, written: Written<String>) -> Option<String> {
        let text = written.value.to_ascii_lowercase();
        let fine = text.parse::<IpAddr>().is_ok() || text.parse::<Domain>().is_ok();
        if !fine {
            let fix = "write the name alone, as in hosts = [\"panel.example.com\"]";
            self.complaints.push(Complaint::new(&written.at, "this is neither a host name nor an address", fix));
        }
        fine.then_some(text)
    }

    fn place(&mut self, text: &Written<String>) -> Option<AdminAddress> {
        match text.value.parse() {
            Ok(AdminAddress::Unix(path)) => {
                let path = self.path(Written::new(path, text.at.clone()));
                self.socket(path, &text.at)
            }
            Ok(place) => Some(place),
            Err(error) => {
                let fix = "write \"127.0.0.1:9443\" or \"unix:/run/vizard/admin\"";
                self.complaints.push(Complaint::new(&text.at, error.to_string(), fix));
                None
            }
        }
    }

    fn socket(&mut self, path: PathBuf, at: &Origin) -> Option<AdminAddress> {
        let place = format!("unix:{}", path.display()).parse().ok();
        if place.is_none() {
            let what = "the path of the admin socket is longer than the kernel allows";
            self.complaints.push(Complaint::new(at, what, "name a shorter one: listen = \"unix:/run/vizard/admin\""));
        }
        place
    }

    /// The tokens, and whether that is all of them.
    fn tokens(&mut self, written: Vec<TokenWritten>) -> (Vec<Token>, bool) {
        let (count, mut tokens) = (written.len(), Vec::<(Token, Origin)>::new());
        for token in written {
            let at = token.at.clone();
            let Some(token) = self.token(token) else { continue };
            if let Some((other, first)) =
                tokens.iter().find(|(other, _)| other.name == token.name || other.hash == token.hash)
            {
                let same = if other.name == token.name { "name" } else { "hash" };
                let complaint = Complaint::new(&at, format!("two tokens have the same {same}"), "give each its own");
                self.complaints.push(complaint.and(first, "first here"));
            }
            tokens.push((token, at));
        }
        let whole = tokens.len() == count;
        (tokens.into_iter().map(|(token, _)| token).collect(), whole)
    }

    fn token(&mut self, written: TokenWritten) -> Option<Token> {
        let TokenWritten { name, role, hash, at } = written;
        for (missing, key, fix) in [
            (name.is_none(), "name", "add a line like `name = \"grafana\"`"),
            (role.is_none(), "role", "add `role = \"metrics\"`, \"viewer\", \"operator\" or \"admin\""),
            (hash.is_none(), "hash", "add the hash that `vizard token ROLE` prints"),
        ] {
            if missing && self.whole {
                self.complaints.push(Complaint::new(&at, format!("this token has no {key}"), fix));
            }
        }
        let role = self.choice(role, ROLES);
        let name = name.and_then(|name| self.token_name(name));
        let hash = hash.and_then(|hash| self.hash(&hash));
        Some(Token { name: name?, role: role?, hash: hash? })
    }

    fn token_name(&mut self, name: Written<String>) -> Option<String> {
        let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        let value = &name.value;
        if value.is_empty() || value.chars().count() > 64 || !value.chars().all(fine) {
            let fix = "use 1 to 64 letters, digits, `-`, `_`, `.` and `@`";
            self.complaints.push(Complaint::new(&name.at, "this cannot be the name of a token", fix));
            return None;
        }
        if value.starts_with(MARK) || SecretText::parse(value).is_ok() {
            let what = "this name is a secret";
            self.complaints.push(Complaint::new(&name.at, what, "name the person who uses the token"));
            return None;
        }
        Some(name.value)
    }

    fn hash(&mut self, hash: &Written<String>) -> Option<crate::ops::admin::token::TokenHash> {
        let parsed = hash.value.parse();
        if let Err(error) = &parsed {
            let complaint = match hash.value.starts_with(MARK) {
                true => Complaint::new(&hash.at, "this is a token, not its hash", "write the hash that came with it"),
                false => Complaint::new(&hash.at, format!("{error}"), "write what `vizard token ROLE` prints"),
            };
            self.complaints.push(complaint);
        }
        parsed.ok()
    }
}
