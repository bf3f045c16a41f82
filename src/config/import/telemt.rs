//! telemt: named users with limits.

use toml::{Table, Value};

use super::{Imported, leaves};
use crate::config::edit::Changes;
use crate::config::units;

/// Keys that are taken over, or that work here without being asked for.
const KNOWN: &[&str] = &[
    "general.ad_tag",
    "general.links.public_host",
    "general.links.public_port",
    "server.port",
    "server.listeners",
    "server.listen_addr_ipv4",
    "server.listen_addr_ipv6",
    "censorship.tls_domain",
    "censorship.tls_domains",
    "censorship.mask_host",
    "censorship.mask_port",
    "censorship.mask",
    "censorship.tls_emulation",
    "censorship.tls_front_dir",
    "censorship.fake_cert_len",
    "general.links.show",
    "general.modes.tls",
    "general.fast_mode",
    "general.log_level",
    "show_link",
];

/// Sections that are taken over as a whole.
const SECTIONS: &[&str] = &[
    "access.users.",
    "access.user_max_tcp_conns.",
    "access.user_expirations.",
    "access.user_data_quota.",
    "access.user_max_unique_ips.",
    "access.user_enabled.",
    "access.user_ad_tags.",
];

/// Keys that are left out, each with a key that is like it here.
const HINTS: &[(&str, &str)] = &[
    ("server.proxy_protocol", "proxy_protocol.listen"),
    ("server.listen_unix_sock", "listen"),
    ("server.metrics_port", "admin.listen"),
    ("server.metrics_listen", "admin.listen"),
    ("server.api.listen", "admin.listen"),
    ("server.max_connections", "limits.connections"),
    ("censorship.mask_proxy_protocol", "cover.proxy_protocol"),
    ("network.prefer", "telegram.prefer"),
    ("access.ignore_time_skew", "hello.time_window"),
];

pub(super) fn read(text: &str) -> Option<Imported> {
    let table: Table = text.parse().ok()?;
    let mut it = Imported::default();
    let at = |path: &str| find(&table, path);
    let string = |path: &str| at(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let number = |path: &str| at(path).and_then(Value::as_integer);
    let port = |path: &str| number(path).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);

    if let Some(users) = at("access.users").and_then(Value::as_table) {
        for (name, secret) in users {
            let limits = limits(&mut it, name, &table);
            it.add(name, secret.as_str().unwrap_or_default(), limits);
        }
    }
    if let Some(domain) = string("censorship.tls_domain") {
        it.set_domain(domain);
    }
    for further in
        at("censorship.tls_domains").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    {
        it.note(format!(
            "links with the domain {} work while hello.accept_names lets any name in and it is none of `names`; new ones have the \
             first, so hand them out",
            further.escape_debug()
        ));
    }
    if let Some(tag) = string("general.ad_tag") {
        it.set_tag(tag);
    }
    if let Some(host) = string("general.links.public_host") {
        it.set_link_host(host);
    }
    it.link_port = port("general.links.public_port");
    let listeners = at("server.listeners").and_then(Value::as_array).into_iter().flatten();
    let mut addresses: Vec<&str> = listeners.filter_map(|listener| listener.get("ip")?.as_str()).collect();
    if addresses.is_empty() {
        addresses.extend([string("server.listen_addr_ipv4"), string("server.listen_addr_ipv6")].into_iter().flatten());
    }
    it.set_listen(&addresses, port("server.port").unwrap_or(443));
    let mask_port = port("censorship.mask_port");
    let domain = it.domain.as_ref().map(ToString::to_string);
    match (string("censorship.mask_host").map(str::to_owned), domain, mask_port) {
        (Some(host), _, port) => it.set_cover(&host, port.unwrap_or(443)),
        (None, Some(domain), Some(port)) if port != 443 => it.set_cover(&domain, port),
        _ => {}
    }
    for mode in ["classic", "secure"] {
        let key = format!("general.modes.{mode}");
        if at(&key).and_then(Value::as_bool) == Some(true) {
            it.only_tls(&key);
        }
    }
    for (key, value) in leaves(&table) {
        let known = KNOWN.contains(&key.as_str()) || SECTIONS.iter().any(|section| key.starts_with(section));
        let empty = match value {
            Value::Boolean(on) => !on,
            Value::Array(list) => list.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if known || empty || key.starts_with("general.modes.") {
            continue;
        }
        match HINTS.iter().find(|(hinted, _)| *hinted == key) {
            Some((_, here)) => it.note(format!("{key} was left out: use `{here}` instead")),
            None => it.no_counterpart(&key),
        }
    }
    Some(it)
}

fn find<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    let (owner, key) = path.rsplit_once('.').map_or((None, path), |(owner, key)| (Some(owner), key));
    match owner {
        None => table.get(key),
        Some(owner) => find(table, owner)?.as_table()?.get(key),
    }
}

fn limits(it: &mut Imported, name: &str, table: &Table) -> Changes {
    let of = |section: &str| find(table, section).and_then(Value::as_table).and_then(|users| users.get(name));
    let count = |section: &str| of(section).and_then(Value::as_integer).and_then(|count| u32::try_from(count).ok());
    let quota = of("access.user_data_quota").and_then(Value::as_integer).and_then(|bytes| u64::try_from(bytes).ok());
    let expires = match of("access.user_expirations") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Datetime(moment)) => Some(moment.to_string()),
        _ => None,
    };
    Changes {
        enabled: of("access.user_enabled").and_then(Value::as_bool).filter(|enabled| !enabled),
        expires: expires.filter(|text| units::moment(text).is_ok()),
        quota: quota.and_then(|bytes| it.quota(name, bytes)),
        max_sessions: count("access.user_max_tcp_conns").filter(|count| *count != 0),
        max_addresses: count("access.user_max_unique_ips").filter(|count| *count != 0),
        ad_tag: of("access.user_ad_tags")
            .and_then(Value::as_str)
            .filter(|tag| units::ad_tag(tag).is_ok())
            .map(Into::into),
        ..Changes::default()
    }
}
