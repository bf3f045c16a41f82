//! The sections about misuse: `[limits]`, `[lists]`, `[alarms]` and `[audit_log]`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::layer::Written;
use super::report::Complaint;
use super::resolve::{Resolver, defaults};
use super::units;
use crate::net::https;
use crate::ops::geo::{self, Country};
use crate::ops::{alarms, audit_log, lists};
use crate::server::limits::{self, Excess, Share};

/// Settings against misuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misuse {
    /// `[limits]`
    pub limits: limits::Settings,
    /// `[lists]`
    pub lists: lists::Settings,
    /// `[alarms]`
    pub alarms: alarms::Settings,
    /// `[audit_log]`; without one nothing is kept.
    pub audit_log: Option<audit_log::Settings>,
}

/// The sections as written.
#[derive(Default)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub struct MisuseWritten {
    pub connections: Option<Written<String>>,
    pub rate: Option<Written<String>>,
    pub address_connections: Option<Written<String>>,
    pub address_rate: Option<Written<String>>,
    pub network_connections: Option<Written<String>>,
    pub network_rate: Option<Written<String>>,
    pub excess: Option<Written<String>>,

    pub deny: Vec<Written<String>>,
    pub allow: Vec<Written<String>>,
    pub allow_only: Option<Written<bool>>,
    pub refresh: Option<Written<String>>,
    pub country_database: Option<Written<PathBuf>>,
    pub deny_countries: Option<Vec<Written<String>>>,
    pub allow_countries: Option<Vec<Written<String>>>,

    pub webhook: Option<Written<String>>,
    pub webhook_token_file: Option<Written<PathBuf>>,
    pub networks: Option<Written<String>>,
    pub replays: Option<Written<String>>,
    pub declines: Option<Written<String>>,
    pub failures: Option<Written<String>>,
    pub certificate_days: Option<Written<String>>,

    pub file: Option<Written<PathBuf>>,
    pub addresses: Option<Written<String>>,
    pub max_megabytes: Option<Written<String>>,
    pub max_age: Option<Written<String>>,
    pub keep_days: Option<Written<String>>,
}

const EXCESS: &[(&str, Excess)] = &[("pass", Excess::Pass), ("delay", Excess::Delay)];
const ADDRESSES: &[(&str, audit_log::Addresses)] = &[
    ("none", audit_log::Addresses::None),
    ("truncated", audit_log::Addresses::Truncated),
    ("hashed", audit_log::Addresses::Hashed),
];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Resolver<'_> {
    pub(super) fn misuse(&mut self, mut written: MisuseWritten) -> Misuse {
        Misuse {
            limits: self.limits(&mut written),
            lists: self.lists(&mut written),
            alarms: self.alarms(&mut written),
            audit_log: self.audit_log(written),
        }
    }

    fn limits(&mut self, written: &mut MisuseWritten) -> limits::Settings {
        limits::Settings {
            connections: self.value(written.connections.take(), units::some_count).map(|count| count.get() as usize),
            rate: self.value(written.rate.take(), units::some_count),
            address: Share {
                connections: self.value(written.address_connections.take(), units::some_count),
                rate: self.value(written.address_rate.take(), units::some_count),
            },
            network: Share {
                connections: self.value(written.network_connections.take(), units::some_count),
                rate: self.value(written.network_rate.take(), units::some_count),
            },
            excess: self.choice(written.excess.take(), EXCESS).unwrap_or_default(),
        }
    }

    fn lists(&mut self, written: &mut MisuseWritten) -> lists::Settings {
        let allow_only = written.allow_only.take();
        if let Some(only) = allow_only.as_ref().filter(|only| only.value && written.allow.is_empty() && self.whole) {
            let fix = "name lists: `allow = [\"allowed.netset\"]`";
            self.complaints.push(Complaint::new(&only.at, "without an allow list no client could connect", fix));
        }
        lists::Settings {
            deny: self.sources(std::mem::take(&mut written.deny)),
            allow: self.sources(std::mem::take(&mut written.allow)),
            allow_only: allow_only.is_some_and(|only| only.value),
            refresh: self.value(written.refresh.take(), units::interval).unwrap_or(defaults::LIST_REFRESH),
            countries: self.countries(written),
        }
    }

    fn sources(&mut self, written: Vec<Written<String>>) -> Vec<lists::Source> {
        let mut sources = Vec::new();
        for text in written {
            if !text.value.contains("://") {
                let path = Written::new(PathBuf::from(&text.value), text.at.clone());
                sources.extend(self.readable(path).map(lists::Source::File));
            } else if self.url(&text) {
                sources.push(lists::Source::Web(text.value));
            }
        }
        sources
    }

    pub(super) fn url(&mut self, text: &Written<String>) -> bool {
        let fit = text.value.parse::<Uri>().is_ok_and(|url| https::is_fit(&url));
        if !fit {
            let fix = "write \"https://HOST/PATH\"; plain http is for this machine only";
            self.complaints.push(Complaint::new(&text.at, "not a URL that can be used here", fix));
        }
        fit
    }

    fn countries(&mut self, written: &mut MisuseWritten) -> Option<geo::Settings> {
        let database = written.country_database.take();
        let (deny, allow) = (written.deny_countries.take(), written.allow_countries.take());
        let first = |list: &Option<Vec<Written<String>>>| list.as_ref().and_then(|list| list.first()).cloned();
        if let (Some(deny), Some(allow)) = (first(&deny), first(&allow)) {
            let what = "countries are either denied or allowed, not both";
            self.complaints.push(Complaint::new(&allow.at, what, "remove one").and(&deny.at, "the other one"));
        }
        let rule = match (first(&deny).or(first(&allow)), &database) {
            (Some(lonely), None) if self.whole => {
                let fix = "add `country_database = \"FILE.mmdb\"`: vizard comes with none";
                self.complaints.push(Complaint::new(&lonely.at, "rules for countries need a database", fix));
                return None;
            }
            (None, Some(database)) if self.whole => {
                let fix = "add `deny_countries = [\"XX\"]` or `allow_countries = [\"XX\"]`, or remove the line";
                self.complaints.push(Complaint::new(&database.at, "a database without a rule has no effect", fix));
                return None;
            }
            _ => match (deny, allow) {
                (Some(deny), _) => geo::Rule::Deny(self.country_codes(deny)),
                (None, Some(allow)) => geo::Rule::AllowOnly(self.country_codes(allow)),
                (None, None) => return None,
            },
        };
        Some(geo::Settings { database: self.readable(database?)?, rule })
    }

    fn country_codes(&mut self, written: Vec<Written<String>>) -> Vec<Country> {
        let mut codes = Vec::new();
        for code in written {
            match code.value.parse() {
                Ok(country) => codes.push(country),
                Err(()) => {
                    let fix = "write two letters, as in \"DE\"";
                    self.complaints.push(Complaint::new(&code.at, "not the code of a country", fix));
                }
            }
        }
        codes
    }

    fn alarms(&mut self, written: &mut MisuseWritten) -> alarms::Settings {
        let usual = alarms::Settings::default();
        let mut number =
            |text: &mut Option<Written<String>>| self.value(text.take(), units::some_count).map(NonZeroU32::get);
        let (networks, replays, declines, failures, days) = (
            number(&mut written.networks),
            number(&mut written.replays),
            number(&mut written.declines),
            number(&mut written.failures),
            number(&mut written.certificate_days),
        );
        let token = written.webhook_token_file.take();
        let webhook = written.webhook.take();
        if let (Some(token), None) = (&token, &webhook) {
            let fix = "add `webhook = \"https://…\"`, or remove the line";
            self.complaints.push(Complaint::new(&token.at, "there is no webhook for this token", fix));
        }
        let token = token.and_then(|file| self.webhook_token(&file));
        let webhook = webhook.filter(|url| self.url(url)).map(|url| alarms::Webhook { url: url.value, token });
        alarms::Settings {
            webhook,
            networks: networks.map_or(usual.networks, |count| count as usize),
            replays: replays.unwrap_or(usual.replays),
            declines: declines.map_or(usual.declines, u64::from),
            failures: failures.unwrap_or(usual.failures),
            certificate: days.map_or(usual.certificate, |days| DAY.saturating_mul(days)),
        }
    }

    fn webhook_token(&mut self, file: &Written<PathBuf>) -> Option<String> {
        let text = self.secret_file(file)?;
        let fine = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !fine {
            let fix = "write one line of letters, digits and signs into the file";
            self.complaints.push(Complaint::new(&file.at, "this file holds no token", fix));
        }
        fine.then_some(text)
    }

    fn audit_log(&mut self, written: MisuseWritten) -> Option<audit_log::Settings> {
        let addresses = self.choice(written.addresses.clone(), ADDRESSES).unwrap_or_default();
        let megabytes = self.value(written.max_megabytes.clone(), units::some_count).map(NonZeroU32::get);
        let age = self.value(written.max_age.clone(), units::interval);
        let keep = self.value(written.keep_days.clone(), units::some_count).map(NonZeroU32::get);
        let others = [written.addresses, written.max_megabytes, written.max_age, written.keep_days];
        let Some(file) = written.file else {
            if let Some(lonely) = others.into_iter().flatten().next().filter(|_| self.whole) {
                let fix = "add `file = \"audit.log\"` to this section";
                self.complaints.push(Complaint::new(&lonely.at, "the audit log has no file, so it is not kept", fix));
            }
            return None;
        };
        Some(audit_log::Settings {
            file: self.path(file),
            addresses,
            size: u64::from(megabytes.unwrap_or(defaults::AUDIT_MEGABYTES)) << 20,
            age: age.unwrap_or(DAY),
            keep: DAY.saturating_mul(keep.unwrap_or(defaults::AUDIT_DAYS)),
        })
    }
}
