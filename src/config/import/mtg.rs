//! mtg, version 2: one secret with its domain inside.

use toml::{Table, Value};

use super::{Imported, leaves};
use crate::config::edit::Changes;
use crate::config::embedded::DEFAULT_USER;

/// Keys that are taken over, or that say nothing that would be missed.
const KNOWN: &[&str] = &[
    "secret",
    "bind-to",
    "domain-fronting-port",
    "domain-fronting-ip",
    "domain-fronting.port",
    "domain-fronting.ip",
    "domain-fronting.host",
    "cloak-port",
    "public-ipv4",
    "public-ipv6",
    "network.public-ip.ipv4",
    "network.public-ip.ipv6",
    "debug",
    "auto-update",
    "tcp-buffer",
    "network.doh-ip",
    "network.dns",
];

/// Keys that are left out, each with a key that is like it here.
const HINTS: &[(&str, &str)] = &[
    ("concurrency", "limits.connections"),
    ("prefer-ip", "telegram.prefer"),
    ("tolerate-time-skewness", "hello.time_window"),
    ("defense.time.allow-skewness", "hello.time_window"),
    ("defense.blocklist.urls", "lists.deny"),
    ("defense.allowlist.urls", "lists.allow"),
    ("network.timeout.idle", "session.idle"),
    ("stats.prometheus.bind-to", "admin.listen"),
    ("proxy-protocol-listener", "proxy_protocol.listen"),
    ("domain-fronting.proxy-protocol", "cover.proxy_protocol"),
];

/// Sections that are kept in mind here without being asked to.
const SPOKEN_FOR: &[&str] = &["defense.anti-replay.", "probes."];

pub(super) fn read(text: &str) -> Option<Imported> {
    let table: Table = text.parse().ok()?;
    let mut it = Imported::default();
    let leaves = leaves(&table);
    let value =
        |keys: &[&str]| keys.iter().find_map(|key| leaves.iter().find(|(known, _)| known == key)).map(|it| it.1);
    let string = |keys: &[&str]| value(keys).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(secret) = string(&["secret"]) {
        it.add(DEFAULT_USER, secret, Changes::default());
    }
    if let Some(listen) = string(&["bind-to"]) {
        let listen = if listen.starts_with(':') { format!("[::]{listen}") } else { listen.to_owned() };
        match crate::config::units::socket_address(&listen) {
            Ok(_) => it.listen.push(listen),
            Err(error) => it.note(format!("bind-to was left out: {error}")),
        }
    }
    if let Some(host) = string(&["public-ipv4", "network.public-ip.ipv4", "public-ipv6", "network.public-ip.ipv6"]) {
        it.set_link_host(host);
    }
    let port = value(&["domain-fronting-port", "domain-fronting.port", "cloak-port"]).and_then(Value::as_integer);
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let place = string(&["domain-fronting-ip", "domain-fronting.ip", "domain-fronting.host"]);
    let domain = it.domain.as_ref().map(ToString::to_string);
    match (place.map(str::to_owned), domain) {
        (Some(place), _) => it.set_cover(&place, port),
        (None, Some(domain)) if port != 443 => it.set_cover(&domain, port),
        _ => {}
    }
    for (key, value) in &leaves {
        let known = KNOWN.contains(&key.as_str()) || SPOKEN_FOR.iter().any(|section| key.starts_with(section));
        if known || is_idle(key, value, &table) {
            continue;
        }
        match HINTS.iter().find(|(hinted, _)| hinted == key) {
            Some((_, here)) => it.note(format!("{key} was left out: use `{here}` instead")),
            None => it.no_counterpart(key),
        }
    }
    Some(it)
}

/// Whether a value does nothing: it is empty, or in a section that is switched off.
fn is_idle(key: &str, value: &Value, table: &Table) -> bool {
    let empty = match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Boolean(on) => !on,
        _ => false,
    };
    let mut section = Some(table);
    let mut off = false;
    let parts: Vec<&str> = key.split('.').collect();
    for part in &parts[..parts.len().saturating_sub(1)] {
        section = section.and_then(|section| section.get(*part)).and_then(Value::as_table);
        off |= section.and_then(|section| section.get("enabled")).and_then(Value::as_bool) == Some(false);
    }
    empty || off || parts.last() == Some(&"enabled")
}
