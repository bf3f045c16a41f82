//! mtprotoproxy: `config.py`, of which only plain values are looked at.

use super::Imported;
use super::python::{Literal, assignments};
use crate::config::edit::Changes;

/// Keys that are taken over, or that work here without being asked for.
const KNOWN: &[&str] = &[
    "PORT",
    "USERS",
    "MODES",
    "TLS_DOMAIN",
    "AD_TAG",
    "MASK",
    "MASK_HOST",
    "MASK_PORT",
    "MY_DOMAIN",
    "LISTEN_ADDR_IPV4",
    "LISTEN_ADDR_IPV6",
    "USER_MAX_TCP_CONNS",
    "USER_EXPIRATIONS",
    "USER_DATA_QUOTA",
    "TLS_ONLY",
    "SECURE_ONLY",
    "FAST_MODE",
    "USE_MIDDLE_PROXY",
    "REPLAY_CHECK_LEN",
];

/// Keys that are left out, each with a key that is like it here.
const HINTS: &[(&str, &str)] = &[
    ("PREFER_IPV6", "telegram.prefer"),
    ("PROXY_PROTOCOL", "proxy_protocol.listen"),
    ("LISTEN_UNIX_SOCK", "listen"),
    ("METRICS_PORT", "admin.listen"),
    ("IGNORE_TIME_SKEW", "hello.time_window"),
];

/// The name that mtprotoproxy takes where none is written.
const USUAL_DOMAIN: &str = "www.google.com";

pub(super) fn read(text: &str) -> Option<Imported> {
    let found = assignments(text);
    if found.is_empty() {
        return None;
    }
    let mut it = Imported::default();
    let value = |name: &str| found.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.as_ref());
    let string = |name: &str| value(name).and_then(Literal::text);
    let port = |name: &str| value(name).and_then(Literal::number).and_then(|port| u16::try_from(port).ok());

    for (name, secret) in value("USERS").map(Literal::entries).unwrap_or_default() {
        let name = name.text().unwrap_or_default();
        let limit = |section: &str| value(section).and_then(|users| users.get(name));
        let count = limit("USER_MAX_TCP_CONNS").and_then(Literal::number).and_then(|count| u32::try_from(count).ok());
        let quota = limit("USER_DATA_QUOTA").and_then(Literal::number).and_then(|bytes| it.quota(name, bytes));
        let expires = limit("USER_EXPIRATIONS").and_then(Literal::text).and_then(beginning_of_day);
        let limits = Changes { expires, quota, max_sessions: count.filter(|count| *count != 0), ..Changes::default() };
        it.add(name, secret.text().unwrap_or_default(), limits);
    }
    it.set_domain(string("TLS_DOMAIN").unwrap_or(USUAL_DOMAIN));
    if let Some(tag) = string("AD_TAG") {
        it.set_tag(tag);
    }
    if let Some(host) = string("MY_DOMAIN") {
        it.set_link_host(host);
    }
    let addresses: Vec<&str> = [string("LISTEN_ADDR_IPV4"), string("LISTEN_ADDR_IPV6")].into_iter().flatten().collect();
    it.set_listen(&addresses, port("PORT").unwrap_or(443));
    let domain = it.domain.as_ref().map(ToString::to_string);
    match (string("MASK_HOST").map(str::to_owned), domain, port("MASK_PORT")) {
        (Some(host), _, port) => it.set_cover(&host, port.unwrap_or(443)),
        (None, Some(domain), Some(port)) if port != 443 => it.set_cover(&domain, port),
        _ => {}
    }
    let on = |mode: &str| value("MODES").and_then(|modes| modes.get(mode)) == Some(&Literal::Bool(true));
    for mode in ["classic", "secure"] {
        if on(mode) {
            it.only_tls(&format!("the mode `{mode}`"));
        }
    }
    for (name, value) in &found {
        match (value, HINTS.iter().find(|(hinted, _)| hinted == name)) {
            (None, _) => it.note(format!("{name} was left out: it is not a plain value, and the file is not executed")),
            (Some(value), _) if KNOWN.contains(&name.as_str()) || value.is_empty() => {}
            (_, Some((_, here))) => it.note(format!("{name} was left out: use `{here}` instead")),
            (_, None) => it.no_counterpart(name),
        }
    }
    Some(it)
}

/// `31/12/2030`, from whose beginning the user may not enter.
fn beginning_of_day(text: &str) -> Option<String> {
    let mut parts = text.split('/');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let written = format!("{year}-{month:0>2}-{day:0>2}T00:00:00Z");
    crate::config::units::moment(&written).is_ok().then_some(written)
}
