//! The table of known keys.

/// Every key that a file may have, as a dotted path. Elements of an array of tables go by the name of the array.
pub const KEYS: &[&str] = &[
    "ad_tag",
    "admin",
    "admin.certificate",
    "admin.key",
    "admin.listen",
    "admin.per_user_metrics",
    "admin.tokens",
    "admin.tokens.hash",
    "admin.tokens.name",
    "admin.tokens.role",
    "alarms",
    "alarms.certificate_days",
    "alarms.declines",
    "alarms.failures",
    "alarms.networks",
    "alarms.replays",
    "alarms.webhook",
    "alarms.webhook_token_file",
    "audit_log",
    "audit_log.addresses",
    "audit_log.file",
    "audit_log.keep_days",
    "audit_log.max_age",
    "audit_log.max_megabytes",
    "cover",
    "cover.address",
    "cover.kind",
    "cover.proxy_protocol",
    "cover.route",
    "dns",
    "dns.ca_file",
    "dns.https",
    "dns.route",
    "domain",
    "hello",
    "hello.accept_names",
    "hello.time_window",
    "limits",
    "limits.address_connections",
    "limits.address_rate",
    "limits.connections",
    "limits.excess",
    "limits.network_connections",
    "limits.network_rate",
    "limits.rate",
    "link",
    "link.host",
    "link.port",
    "listen",
    "lists",
    "lists.allow",
    "lists.allow_countries",
    "lists.allow_only",
    "lists.country_database",
    "lists.deny",
    "lists.deny_countries",
    "lists.refresh",
    "log",
    "log.client_addresses",
    "log.format",
    "log.level",
    "middle",
    "middle.addresses",
    "middle.client_addresses",
    "middle.public_addresses",
    "middle.secret_file",
    "middle.stun",
    "proxy_protocol",
    "proxy_protocol.from",
    "proxy_protocol.listen",
    "routes",
    "routes.address",
    "routes.data_centres",
    "routes.interface",
    "routes.kind",
    "routes.link",
    "routes.link_file",
    "routes.mark",
    "routes.name",
    "routes.order",
    "routes.password",
    "routes.password_file",
    "routes.source",
    "routes.user",
    "routes.users",
    "routes.weight",
    "sandbox",
    "sandbox.enabled",
    "sandbox.read",
    "session",
    "session.drain",
    "session.fillers",
    "session.handover",
    "session.idle",
    "site",
    "site.acme",
    "site.acme.ca_file",
    "site.acme.challenge",
    "site.acme.directory",
    "site.acme.eab_key_file",
    "site.acme.eab_key_id",
    "site.acme.email",
    "site.acme.staging",
    "site.certificate",
    "site.folder",
    "site.key",
    "site.redirect_from",
    "site.server_header",
    "site.upstream",
    "state_dir",
    "telegram",
    "telegram.addresses",
    "telegram.lists",
    "telegram.prefer",
    "telegram.refresh",
    "telegram.routes",
    "telegram.warm",
    "users",
    "users.ad_tag",
    "users.allow",
    "users.bandwidth_down",
    "users.bandwidth_up",
    "users.deny",
    "users.enabled",
    "users.expires",
    "users.max_addresses",
    "users.max_sessions",
    "users.name",
    "users.note",
    "users.previous_secret",
    "users.previous_secret_file",
    "users.previous_until",
    "users.quota",
    "users.secret",
    "users.secret_file",
];

/// Keys with a table of names that are free.
pub const FREE_TABLES: &[&str] = &["middle.addresses", "telegram.addresses"];

/// The advice for a key that is not known in the section `section` (empty: top of the file).
pub fn suggestion(section: &str, name: &str) -> String {
    let siblings = KEYS.iter().filter_map(|key| within(section, key));
    if let Some(near) = nearest(name, siblings) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = KEYS.iter().find(|key| key.rsplit('.').next() == Some(name) && key.contains('.'));
    if let Some((owner, _)) = elsewhere.and_then(|key| key.rsplit_once('.')) {
        return format!("`{name}` belongs into the section `[{owner}]`");
    }
    if KEYS.contains(&name) {
        return format!("`{name}` belongs to the top of the file, before the first section");
    }
    let known: Vec<_> = KEYS.iter().filter_map(|key| within(section, key)).map(|key| format!("`{key}`")).collect();
    format!("remove it; known here: {}", known.join(", "))
}

/// The one of `candidates` that `text` was probably meant to be; none if two are equally near.
pub fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // Comparing is quadratic, and nobody slips into a key this long.
    if text.len() > 40 {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    let far = |candidate: &str| strsim::damerau_levenshtein(&text, candidate);
    let mut ranked: Vec<_> = candidates.map(|candidate| (far(candidate), candidate)).collect();
    ranked.sort_unstable();
    let (distance, best) = *ranked.first()?;
    let tied = ranked.get(1).is_some_and(|(second, _)| *second == distance);
    (!tied && distance <= best.len().div_ceil(3)).then_some(best)
}

/// The last part of `key` if `key` stands directly in `section`.
fn within(section: &str, key: &'static str) -> Option<&'static str> {
    match key.rsplit_once('.') {
        Some((owner, name)) if owner == section => Some(name),
        None if section.is_empty() => Some(key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_near_key_the_right_place_or_the_choice() {
        assert_eq!(suggestion("", "lisen"), "did you mean `listen`?");
        assert_eq!(suggestion("site", "server-header"), "did you mean `server_header`?");
        assert_eq!(suggestion("", "time_window"), "`time_window` belongs into the section `[hello]`");
        assert_eq!(
            suggestion("site", "state_dir"),
            "`state_dir` belongs to the top of the file, before the first section"
        );
        assert_eq!(suggestion("session", "colour"), "remove it; known here: `drain`, `fillers`, `handover`, `idle`");
    }

    #[test]
    fn the_table_is_sorted_and_every_section_is_a_key() {
        assert!(KEYS.is_sorted());
        assert!(KEYS.iter().filter_map(|key| key.rsplit_once('.')).all(|(owner, _)| KEYS.contains(&owner)));
    }
}
