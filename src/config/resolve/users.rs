//! The users: names, secrets, limits, and the domain that secrets may carry.

use std::collections::HashMap;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{Resolver, SiteNames, read_secret_file};
use crate::auth::{Domain, MiddleUse, Policy, Secret, SecretText, UnixTime};
use crate::config::layer::{LimitsWritten, PreviousWritten, UserWritten, Written};
use crate::config::report::{Complaint, Origin, quoted};
use crate::config::{User, units};

/// The users as far as they could be read.
#[derive(Clone, Debug, Default)]
pub struct UsersRead {
    /// Those that could.
    pub users: Vec<User>,
    /// Names of those with whom something is wrong; some of them are among the users as well.
    pub broken: Vec<String>,
    /// Whether there is one whose name could not be read.
    pub nameless: bool,
}

/// Names and secrets that have been given, and where first.
#[derive(Default)]
struct Taken {
    names: HashMap<String, Origin>,
    secrets: HashMap<[u8; 16], Origin>,
}

impl Resolver<'_> {
    /// The users, and the domain: the one that is stated, otherwise the one that the secrets carry. `names` are further names
    /// of the site that users may have.
    pub(super) fn users(
        &mut self,
        written: Vec<UserWritten>,
        stated: Option<(Domain, Origin)>,
        names: &SiteNames,
    ) -> (UsersRead, Option<(Domain, Origin)>) {
        let mut domain = stated;
        let (mut read, mut taken) = (UsersRead::default(), Taken::default());
        for user in written {
            let (before, broken, name) = (self.complaints.len(), user.broken, user.name.clone());
            let found = self.user(user, (&mut domain, names), &mut taken);
            let broken = broken || self.mistaken_since(before) || found.is_none();
            match (found, name) {
                (found, Some(name)) if broken => {
                    read.broken.push(name.value);
                    read.users.extend(found);
                }
                (Some(found), _) => read.users.push(found),
                (None, _) => read.nameless = true,
            }
        }
        (read, domain)
    }

    fn user(
        &mut self,
        mut user: UserWritten,
        (domain, names): (&mut Option<(Domain, Origin)>, &SiteNames),
        taken: &mut Taken,
    ) -> Option<User> {
        let name = self.user_name(&user);
        let stated = user.limits.domain.take();
        let policy = self.policy(user.limits);
        let previous = self.previous(user.previous);
        let (text, at) = self.secret(user.secret, user.secret_file, &user.at)?;
        let embedded = text.domain.map(|embedded| (embedded, at.clone()));
        let policy = Policy { domain: self.domain_of_user(stated, embedded, domain, names), ..policy };
        let name = name?;
        if let Some(first) = taken.names.insert(name.value.clone(), name.at.clone()) {
            let what = format!("two users have the name {}", quoted(&name.value));
            let complaint = Complaint::new(&name.at, what, "give each user a name of its own");
            self.complaints.push(complaint.and(&first, "first here"));
            taken.names.insert(name.value.clone(), first);
        }
        // Anyone who replaces a key in a file does that in two steps, and between them the two are the same.
        let previous = previous.filter(|(previous, _)| *previous != text.secret);
        let secrets = [Some(&text.secret), previous.as_ref().map(|(secret, _)| secret)];
        let shared = secrets.into_iter().flatten().find_map(|secret| taken.secrets.get(secret.bytes()));
        if let Some(first) = shared {
            let what = "two users have the same secret";
            let fix = "make another one with `vizard secret`, or remove a user";
            self.complaints.push(Complaint::new(&at, what, fix).and(first, "first here"));
        }
        for secret in secrets.into_iter().flatten() {
            taken.secrets.entry(*secret.bytes()).or_insert_with(|| at.clone());
        }
        Some(User { name: name.value, secret: text.secret, previous, policy })
    }

    /// The name of the site that the user's link carries: the one that is stated, otherwise the one inside the secret.
    fn domain_of_user(
        &mut self,
        stated: Option<Written<String>>,
        embedded: Option<(Domain, Origin)>,
        domain: &mut Option<(Domain, Origin)>,
        names: &SiteNames,
    ) -> Option<Domain> {
        let stated = stated.and_then(|written| Some((self.domain(&written)?, written.at)));
        match (stated, embedded) {
            (Some((stated, stated_at)), Some((embedded, at))) if stated != embedded => {
                let what = "the domain inside this secret is not the name that the user has";
                let next = format!("write the bare key of 32 digits, or `domain = \"{embedded}\"`");
                self.complaints.push(Complaint::new(&at, what, next).and(&stated_at, "the name of the user"));
                None
            }
            (Some((stated, at)), _) => {
                let is_first = domain.as_ref().is_some_and(|(first, _)| *first == stated);
                if !is_first && !names.all.contains(&stated) && names.whole {
                    let what = "this user has a name that is not one of the site";
                    let next = "add the name to `names` at the top of the file, or give the user another one";
                    self.complaints.push(Complaint::new(&at, what, next));
                }
                Some(stated)
            }
            (None, Some((embedded, _))) if names.all.contains(&embedded) => Some(embedded),
            (None, Some((embedded, at))) => {
                self.one_domain(embedded, &at, domain);
                None
            }
            (None, None) => None,
        }
    }

    /// The domain inside a secret is that of the proxy, or becomes it.
    fn one_domain(&mut self, embedded: Domain, at: &Origin, domain: &mut Option<(Domain, Origin)>) {
        match domain {
            Some((known, first)) if *known != embedded => {
                let what = "the domain inside this secret is not the domain of the proxy";
                let fix = format!("write the bare key of 32 digits, or the secret made for {}", quoted(known.as_str()));
                self.complaints.push(Complaint::new(at, what, fix).and(first, "the domain of the proxy"));
            }
            Some(_) => {}
            None => *domain = Some((embedded, at.clone())),
        }
    }

    /// Whether there is a mistake among the complaints behind this many.
    fn mistaken_since(&self, before: usize) -> bool {
        self.complaints[before..].iter().any(|complaint| !complaint.is_warning())
    }

    fn user_name(&mut self, user: &UserWritten) -> Option<Written<String>> {
        let Some(name) = &user.name else {
            let fix = match user.at {
                Origin::File(_) => "add a line like `name = \"alice\"`",
                Origin::Outside { .. } => "write NAME=SECRET",
            };
            self.complaints.push(Complaint::new(&user.at, "this user has no name", fix));
            return None;
        };
        let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if name.value.is_empty() || name.value.chars().count() > 64 || !name.value.chars().all(fine) {
            let fix = "use 1 to 64 letters, digits, `-`, `_`, `.` and `@`";
            self.complaints.push(Complaint::new(&name.at, "this cannot be the name of a user", fix));
            return None;
        }
        // Names appear in logs, and anyone who swapped the two would find the key there.
        if SecretText::parse(&name.value).is_ok() {
            let fix = "write the name first: NAME=SECRET, or `name` and `secret` in the file";
            self.complaints.push(Complaint::new(&name.at, "this name is a secret", fix));
            return None;
        }
        Some(name.clone())
    }

    fn secret(
        &mut self,
        secret: Option<Written<String>>,
        file: Option<Written<PathBuf>>,
        user: &Origin,
    ) -> Option<(SecretText, Origin)> {
        if secret.is_none() && file.is_none() {
            let fix = "add `secret = \"…\"` or `secret_file = \"…\"`; `vizard secret` makes a new one";
            self.complaints.push(Complaint::new(user, "this user has no secret", fix));
        }
        self.either(secret, file)
    }

    /// The secret that is written here or in a file, if there is one.
    fn either(
        &mut self,
        secret: Option<Written<String>>,
        file: Option<Written<PathBuf>>,
    ) -> Option<(SecretText, Origin)> {
        let (text, at) = match (secret, file) {
            (Some(secret), None) => (secret.value, secret.at),
            (None, Some(file)) => (self.secret_file(&file)?, file.at),
            (Some(secret), Some(file)) => {
                let what = "this user has both a secret and a file with a secret";
                let complaint = Complaint::new(&file.at, what, "keep one of the two");
                self.complaints.push(complaint.and(&secret.at, "the other one"));
                return None;
            }
            (None, None) => return None,
        };
        let parsed = SecretText::parse(text.trim());
        parsed
            .map_err(|error| self.complaints.push(Complaint::new(&at, error.to_string(), error.fix())))
            .ok()
            .map(|secret| (secret, at))
    }

    fn previous(&mut self, written: PreviousWritten) -> Option<(Secret, UnixTime)> {
        let PreviousWritten { secret, secret_file, until } = written;
        let place = secret.as_ref().map(|secret| &secret.at).or(secret_file.as_ref().map(|file| &file.at)).cloned();
        let missing = match (&place, &until) {
            (Some(at), None) => Some((at, "there is no end date for the previous secret")),
            (None, Some(until)) => Some((&until.at, "there is no previous secret that this belongs to")),
            _ => None,
        };
        if let Some((at, what)) = missing.filter(|_| self.whole) {
            let fix = "write both or none: `previous_secret = \"…\"` and `previous_until = \"2026-12-31\"`";
            self.complaints.push(Complaint::new(at, what, fix));
        }
        let secret = self.either(secret, secret_file);
        let until = self.value(until, units::moment);
        secret.map(|(text, _)| text.secret).zip(until)
    }

    fn policy(&mut self, written: LimitsWritten) -> Policy {
        Policy {
            enabled: written.enabled.is_none_or(|written| written.value),
            expires: self.value(written.expires, units::moment),
            quota: self.value(written.quota, units::quota),
            bandwidth_up: self.value(written.bandwidth_up, units::bandwidth),
            bandwidth_down: self.value(written.bandwidth_down, units::bandwidth),
            max_sessions: self.value(written.max_sessions, units::count),
            max_addresses: self.value(written.max_addresses, units::count),
            allow: self.networks(written.allow),
            deny: self.networks(written.deny),
            ad_tag: self.value(written.ad_tag, units::tagging).unwrap_or_default(),
            middle: self.choice(written.middle, &MiddleUse::NAMES),
            domain: None,
            note: written.note.map(|note| note.value),
        }
    }

    pub(super) fn networks(&mut self, written: Option<Vec<Written<String>>>) -> Vec<IpNet> {
        written.unwrap_or_default().iter().filter_map(|text| self.check(text, units::network)).collect()
    }

    pub(in crate::config) fn secret_file(&mut self, file: &Written<PathBuf>) -> Option<String> {
        let path = self.path(file.clone());
        self.files.push(path.clone());
        match read_secret_file(&path) {
            Ok((text, private)) => {
                if !private {
                    let fix = format!("chmod 600 {}", path.display());
                    let what = "others on this machine may read this file";
                    self.complaints.push(Complaint::new(&file.at, what, fix).as_warning());
                }
                Some(text)
            }
            Err(error) => {
                self.unusable(&file.at, "this file cannot be read", &error);
                None
            }
        }
    }
}
