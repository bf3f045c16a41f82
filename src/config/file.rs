//! The file as written: every value optional, with its place in the file; unknown keys and wrong kinds are complaints.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{FREE_TABLES, KEYS, suggestion};
use super::layer::{
    AcmeWritten, AdminWritten, CoverWritten, DnsWritten, Layer, LimitsWritten, MiddleWritten, NamesWritten,
    PreviousWritten, ProxiedWritten, RouteWritten, SiteWritten, TelegramWritten, TokenWritten, UserWritten, WebWritten,
    Written,
};
use super::misuse::MisuseWritten;
use super::redact;
use super::report::{Complaint, Lines, Origin, quoted};

/// Values of a file, with all complaints about its form, and the text with secrets hidden.
pub struct Reading {
    /// The values that could be read.
    pub layer: Layer,
    /// Complaints about the form.
    pub complaints: Vec<Complaint>,
    /// Lines that are not TOML, counted from 0. If there are any, values that seem to be missing may have been lost.
    pub broken_lines: Vec<usize>,
    /// Whether it is known of each user that there is one, whatever may be wrong with the user.
    pub users_known: bool,
    /// The text for drawing carets under.
    pub shown: String,
}

/// Reads a whole file. Whatever the text is, it comes back with values, complaints or both.
pub fn read(text: &str) -> Reading {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    let layer = reader.layer(&document);
    let lines = Lines::of(text);
    let mut broken_lines: Vec<usize> = Vec::new();
    for error in errors.iter().take(MOST_SLIPS) {
        // One slip makes a parser stumble again and again; the first complaint about a line is the one to fix.
        let line = lines.at(error.span().unwrap_or_default().start);
        if !broken_lines.contains(&line) {
            broken_lines.push(line);
            reader.complaints.push(syntax(error));
        }
    }
    let users_known = broken_lines.is_empty() && !reader.users_lost;
    let Reader { complaints, secrets, .. } = reader;
    let shown = redact::redacted(text, secrets);
    Reading { layer, complaints, broken_lines, users_known, shown }
}

impl Reading {
    /// Takes out complaints about what was recovered from a broken line: it is a guess, and so are they.
    pub fn without_guesses(&self, text: &str, complaints: Vec<Complaint>) -> Vec<Complaint> {
        if self.broken_lines.is_empty() {
            return complaints;
        }
        let lines = Lines::of(text);
        let is_guess = |complaint: &Complaint| match &complaint.at {
            Some(Origin::File(span)) => {
                !complaint.what.starts_with(NOT_TOML) && self.broken_lines.contains(&lines.at(span.start))
            }
            _ => false,
        };
        complaints.into_iter().filter(|complaint| !is_guess(complaint)).collect()
    }
}

const BANDWIDTH: &str = "a rate in quotes: \"10Mbit\" or \"2MB\", for each second";

const NOT_TOML: &str = "this is not TOML";

fn syntax(error: &toml::de::Error) -> Complaint {
    let at = Origin::File(error.span().unwrap_or_default());
    let fix = match error.message() {
        message if message.contains("duplicate key") => "keep one of the two",
        message if message.contains("string values must be quoted") => "put the value into quotes: key = \"value\"",
        message if message.contains("array") => "a list that starts here or above is malformed: [\"…\", \"…\"]",
        _ => "write `key = value` lines and `[section]` headers; text stands in quotes",
    };
    Complaint::new(&at, format!("{NOT_TOML}: {}", error.message()), fix)
}

/// Most slips of the form that are told. A file that is something else altogether has one in every line.
const MOST_SLIPS: usize = 100;

type Table<'t, 'i> = &'t DeTable<'i>;
type Value<'t, 'i> = &'t Spanned<DeValue<'i>>;

#[derive(Default)]
struct Reader {
    complaints: Vec<Complaint>,
    /// Positions of secrets, or of what may have been meant as one.
    secrets: Vec<Range<usize>>,
    /// Whether something stands in the place of users that is none.
    users_lost: bool,
}

impl Reader {
    fn layer(&mut self, document: &Spanned<DeTable<'_>>) -> Layer {
        let top = document.get_ref();
        self.refuse_unknown("", top);
        let mut layer = Layer {
            state_dir: self.path(top, "state_dir"),
            domain: self.text(top, "domain"),
            names: self.texts(top, "names"),
            ad_tag: self.text(top, "ad_tag"),
            listen: self.texts(top, "listen"),
            users: self.users(top),
            site: self.site(top),
            web: self.web(top),
            admin: self.admin(top),
            cover: self.cover(top),
            dns: self.dns(top),
            routes: self.routes(top),
            ..Layer::default()
        };
        self.sections(top, &mut layer);
        self.misuse(top, &mut layer.misuse);
        layer
    }

    fn sections(&mut self, top: Table<'_, '_>, layer: &mut Layer) {
        if let Some((link, _)) = self.section(top, "link") {
            layer.link_host = self.text(link, "host");
            layer.link_port = self.port(link, "port");
        }
        layer.proxied = self.section(top, "proxy_protocol").map(|(proxied, _)| ProxiedWritten {
            listen: self.texts(proxied, "listen"),
            from: self.texts(proxied, "from"),
        });
        if let Some((hello, _)) = self.section(top, "hello") {
            layer.time_window = self.duration(hello, "time_window");
            layer.accept_names = self.names(hello, "accept_names");
        }
        if let Some((telegram, _)) = self.section(top, "telegram") {
            layer.telegram = TelegramWritten {
                prefer: self.text(telegram, "prefer"),
                addresses: self.addresses(telegram, "telegram"),
                routes: self.texts(telegram, "routes"),
                warm: self.number(telegram, "warm"),
                refresh: self.switch(telegram, "refresh"),
                lists: self.text(telegram, "lists"),
            };
        }
        if let Some((middle, _)) = self.section(top, "middle") {
            layer.middle = MiddleWritten {
                secret_file: self.path(middle, "secret_file"),
                addresses: self.addresses(middle, "middle"),
                public_addresses: self.texts(middle, "public_addresses").unwrap_or_default(),
                stun: self.text(middle, "stun"),
                client_addresses: self.switch(middle, "client_addresses"),
                sessions: self.text(middle, "sessions"),
            };
        }
        if let Some((session, _)) = self.section(top, "session") {
            layer.idle = self.duration(session, "idle");
            layer.drain = self.duration(session, "drain");
            layer.handover = self.duration(session, "handover");
            layer.end_unanswered = self.text(session, "end_unanswered");
            // An empty list is one, too: no one gets any.
            layer.fillers = session.get("fillers").map(|value| self.text_list(value));
        }
        if let Some((sandbox, _)) = self.section(top, "sandbox") {
            layer.sandbox.enabled = self.switch(sandbox, "enabled");
            let read = self.texts(sandbox, "read").unwrap_or_default();
            layer.sandbox.read = read.into_iter().map(|text| Written::new(text.value.into(), text.at)).collect();
        }
        if let Some((log, _)) = self.section(top, "log") {
            layer.log_format = self.text(log, "format");
            layer.log_level = self.text(log, "level");
            layer.client_addresses = self.switch(log, "client_addresses");
        }
    }

    fn misuse(&mut self, top: Table<'_, '_>, misuse: &mut MisuseWritten) {
        if let Some((limits, _)) = self.section(top, "limits") {
            misuse.connections = self.number(limits, "connections");
            misuse.rate = self.number(limits, "rate");
            misuse.address_connections = self.number(limits, "address_connections");
            misuse.address_rate = self.number(limits, "address_rate");
            misuse.network_connections = self.number(limits, "network_connections");
            misuse.network_rate = self.number(limits, "network_rate");
            misuse.excess = self.text(limits, "excess");
        }
        if let Some((lists, _)) = self.section(top, "lists") {
            misuse.deny = self.texts(lists, "deny").unwrap_or_default();
            misuse.allow = self.texts(lists, "allow").unwrap_or_default();
            misuse.allow_only = self.switch(lists, "allow_only");
            misuse.refresh = self.duration(lists, "refresh");
            misuse.country_database = self.path(lists, "country_database");
            misuse.deny_countries = self.texts(lists, "deny_countries");
            misuse.allow_countries = self.texts(lists, "allow_countries");
        }
        if let Some((alarms, _)) = self.section(top, "alarms") {
            // The URL of a webhook is often a secret.
            alarms.iter().filter(|(key, _)| !key.get_ref().ends_with("_file")).for_each(|(_, value)| {
                if value.get_ref().is_str() {
                    self.secrets.push(value.span());
                }
            });
            misuse.webhook = self.text(alarms, "webhook");
            misuse.webhook_token_file = self.path(alarms, "webhook_token_file");
            misuse.networks = self.number(alarms, "networks");
            misuse.replays = self.number(alarms, "replays");
            misuse.declines = self.number(alarms, "declines");
            misuse.failures = self.number(alarms, "failures");
            misuse.certificate_days = self.number(alarms, "certificate_days");
        }
        if let Some((audit_log, _)) = self.section(top, "audit_log") {
            misuse.file = self.path(audit_log, "file");
            misuse.addresses = self.text(audit_log, "addresses");
            misuse.max_megabytes = self.number(audit_log, "max_megabytes");
            misuse.max_age = self.duration(audit_log, "max_age");
            misuse.keep_days = self.number(audit_log, "keep_days");
        }
    }

    fn users(&mut self, top: Table<'_, '_>) -> Option<Vec<UserWritten>> {
        let value = top.get("users")?;
        let DeValue::Array(elements) = value.get_ref() else {
            self.hide_texts(value);
            self.wrong_kind(value, "`[[users]]` sections");
            self.users_lost = true;
            return None;
        };
        Some(elements.iter().filter_map(|element| self.user(element)).collect())
    }

    fn user(&mut self, element: Value<'_, '_>) -> Option<UserWritten> {
        let Some(table) = element.get_ref().as_table() else {
            self.hide_texts(element);
            self.wrong_kind(element, "`[[users]]` sections");
            self.users_lost = true;
            return None;
        };
        let before = self.complaints.len();
        // A slip in the key must not show the secret behind it.
        let secret = |key: &str| matches!(key, "secret" | "previous_secret");
        let harmless = |key: &str| !secret(key) && KEYS.contains(&format!("users.{key}").as_str());
        for (_, value) in table.iter().filter(|(key, _)| !harmless(key.get_ref())) {
            self.hide_texts(value);
        }
        self.refuse_unknown("users", table);
        let user = UserWritten {
            name: self.text(table, "name"),
            secret: self.text(table, "secret"),
            secret_file: self.path(table, "secret_file"),
            previous: PreviousWritten {
                secret: self.text(table, "previous_secret"),
                secret_file: self.path(table, "previous_secret_file"),
                until: self.moment(table, "previous_until"),
            },
            limits: LimitsWritten {
                enabled: self.switch(table, "enabled"),
                expires: self.moment(table, "expires"),
                quota: self.text_for(table, "quota", "a quota in quotes: \"50GB/month\""),
                bandwidth_up: self.text_for(table, "bandwidth_up", BANDWIDTH),
                bandwidth_down: self.text_for(table, "bandwidth_down", BANDWIDTH),
                max_sessions: self.number(table, "max_sessions"),
                max_addresses: self.number(table, "max_addresses"),
                allow: self.texts(table, "allow"),
                deny: self.texts(table, "deny"),
                ad_tag: self.text(table, "ad_tag"),
                middle: self.text(table, "middle"),
                domain: self.text(table, "domain"),
                note: self.text(table, "note"),
            },
            broken: false,
            at: Origin::File(element.span()),
        };
        Some(UserWritten { broken: self.complaints.len() > before, ..user })
    }

    fn admin(&mut self, top: Table<'_, '_>) -> Option<AdminWritten> {
        let (admin, at) = self.section(top, "admin")?;
        Some(AdminWritten {
            listen: self.text(admin, "listen"),
            certificate: self.path(admin, "certificate"),
            key: self.path(admin, "key"),
            hosts: self.texts(admin, "hosts"),
            per_user_metrics: self.switch(admin, "per_user_metrics"),
            tokens: self.tokens(admin),
            at,
        })
    }

    fn tokens(&mut self, admin: Table<'_, '_>) -> Vec<TokenWritten> {
        let Some(value) = admin.get("tokens") else { return Vec::new() };
        let tables = value.get_ref().as_array().map(|elements| elements.iter().collect::<Vec<_>>());
        let Some(elements) = tables.filter(|all| all.iter().all(|one| one.get_ref().as_table().is_some())) else {
            self.hide_texts(value);
            self.wrong_kind(value, "`[[admin.tokens]]` sections");
            return Vec::new();
        };
        elements.into_iter().filter_map(|element| self.token(element)).collect()
    }

    fn token(&mut self, element: Value<'_, '_>) -> Option<TokenWritten> {
        let table = element.get_ref().as_table()?;
        // Someone may have put the token in the place of its hash, or slipped in the key.
        for (_, value) in table.iter().filter(|(key, _)| !matches!(key.get_ref().as_ref(), "name" | "role")) {
            self.hide_texts(value);
        }
        self.refuse_unknown("admin.tokens", table);
        Some(TokenWritten {
            name: self.text(table, "name"),
            role: self.text(table, "role"),
            hash: self.text(table, "hash"),
            at: Origin::File(element.span()),
        })
    }

    fn cover(&mut self, top: Table<'_, '_>) -> Option<CoverWritten> {
        let (cover, at) = self.section(top, "cover")?;
        Some(CoverWritten {
            kind: self.text(cover, "kind"),
            address: self.text(cover, "address"),
            proxy_protocol: self.text(cover, "proxy_protocol"),
            route: self.text(cover, "route"),
            private_addresses: self.switch(cover, "private_addresses"),
            accept_grade_c: self.switch(cover, "accept_grade_c"),
            at,
        })
    }

    fn dns(&mut self, top: Table<'_, '_>) -> Option<DnsWritten> {
        let (dns, at) = self.section(top, "dns")?;
        let (https, route) = (self.text(dns, "https"), self.text(dns, "route"));
        Some(DnsWritten { https, route, ca_file: self.path(dns, "ca_file"), at })
    }

    fn routes(&mut self, top: Table<'_, '_>) -> Vec<RouteWritten> {
        let Some(value) = top.get("routes") else { return Vec::new() };
        let tables = value.get_ref().as_array().map(|elements| elements.iter().collect::<Vec<_>>());
        let Some(elements) = tables.filter(|all| all.iter().all(|one| one.get_ref().as_table().is_some())) else {
            self.hide_texts(value);
            self.wrong_kind(value, "`[[routes]]` sections");
            return Vec::new();
        };
        elements.into_iter().filter_map(|element| self.route(element)).collect()
    }

    fn route(&mut self, element: Value<'_, '_>) -> Option<RouteWritten> {
        let table = element.get_ref().as_table()?;
        // A slip in the key must not show the password behind it, nor may the secret in a link be shown.
        let secret = |key: &str| matches!(key, "password" | "link");
        let harmless = |key: &str| !secret(key) && KEYS.contains(&format!("routes.{key}").as_str());
        for (_, value) in table.iter().filter(|(key, _)| !harmless(key.get_ref())) {
            self.hide_texts(value);
        }
        self.refuse_unknown("routes", table);
        Some(RouteWritten {
            name: self.text(table, "name"),
            kind: self.text(table, "kind"),
            address: self.text(table, "address"),
            method: self.text(table, "method"),
            user: self.text(table, "user"),
            password: self.text(table, "password"),
            password_file: self.path(table, "password_file"),
            link: self.text(table, "link"),
            link_file: self.path(table, "link_file"),
            source: self.text(table, "source"),
            interface: self.text(table, "interface"),
            mark: self.number(table, "mark"),
            order: self.number(table, "order"),
            weight: self.number(table, "weight"),
            data_centres: self.numbers(table, "data_centres"),
            users: self.texts(table, "users").unwrap_or_default(),
            at: Origin::File(element.span()),
        })
    }

    fn site(&mut self, top: Table<'_, '_>) -> Option<SiteWritten> {
        let (site, at) = self.section(top, "site")?;
        Some(SiteWritten {
            acme: self.acme(site),
            certificate: self.path(site, "certificate"),
            key: self.path(site, "key"),
            folder: self.path(site, "folder"),
            upstream: self.text(site, "upstream"),
            server_header: self.text(site, "server_header"),
            redirect_from: self.texts(site, "redirect_from").unwrap_or_default(),
            trusted_proxies: self.texts(site, "trusted_proxies").unwrap_or_default(),
            visitor_header: self.text(site, "visitor_header"),
            http_listen: self.texts(site, "http_listen"),
            at,
        })
    }

    fn web(&mut self, top: Table<'_, '_>) -> Option<WebWritten> {
        let (web, at) = self.section(top, "web")?;
        Some(WebWritten {
            enabled: self.switch(web, "enabled"),
            carrier: self.text(web, "carrier"),
            path: self.text(web, "path"),
            at,
        })
    }

    fn acme(&mut self, site: Table<'_, '_>) -> Option<AcmeWritten> {
        let (key, value) = site.get_key_value("acme")?;
        let Some(acme) = value.get_ref().as_table() else {
            self.wrong_kind(value, "a `[site.acme]` section");
            return None;
        };
        self.refuse_unknown("site.acme", acme);
        Some(AcmeWritten {
            directory: self.text(acme, "directory"),
            staging: self.switch(acme, "staging"),
            email: self.text(acme, "email"),
            challenge: self.text(acme, "challenge"),
            ca_file: self.path(acme, "ca_file"),
            eab_key_id: self.text(acme, "eab_key_id"),
            eab_key_file: self.path(acme, "eab_key_file"),
            at: Origin::File(key.span()),
        })
    }

    fn addresses(&mut self, owner: Table<'_, '_>, name: &str) -> Vec<(Written<String>, Vec<Written<String>>)> {
        let Some(value) = owner.get("addresses") else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(value, &format!("a `[{name}.addresses]` section"));
            return Vec::new();
        };
        let entry = |(key, value): (&Spanned<_>, Value<'_, '_>)| {
            let number = Written::new(ToString::to_string(key.get_ref()), Origin::File(key.span()));
            (number, self.text_list(value))
        };
        table.iter().map(entry).collect()
    }

    fn names(&mut self, table: Table<'_, '_>, key: &str) -> Option<NamesWritten> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(NamesWritten::Word(written(text.to_string(), value))),
            DeValue::Array(_) => Some(NamesWritten::List(self.text_list(value))),
            _ => {
                self.wrong_kind(value, "\"any\" or a list of names");
                None
            }
        }
    }

    fn section<'t, 'i>(&mut self, top: Table<'t, 'i>, name: &str) -> Option<(Table<'t, 'i>, Origin)> {
        let (key, value) = top.get_key_value(name)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(value, &format!("a `[{name}]` section"));
            return None;
        };
        self.refuse_unknown(name, table);
        Some((table, Origin::File(key.span())))
    }

    fn text(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<String>> {
        self.text_for(table, key, "text in quotes")
    }

    fn duration(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<String>> {
        self.text_for(table, key, "a length of time with its unit in quotes: \"30s\", \"10m\", \"2h\"")
    }

    fn text_for(&mut self, table: Table<'_, '_>, key: &str, wanted: &str) -> Option<Written<String>> {
        let value = table.get(key)?;
        let text = value.get_ref().as_str().map(|text| written(text.to_owned(), value));
        if text.is_none() {
            self.wrong_kind(value, wanted);
        }
        text
    }

    fn path(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<PathBuf>> {
        self.text(table, key).map(|text| Written::new(PathBuf::from(text.value), text.at))
    }

    fn texts(&mut self, table: Table<'_, '_>, key: &str) -> Option<Vec<Written<String>>> {
        let value = table.get(key)?;
        if matches!(value.get_ref(), DeValue::Array(array) if array.is_empty()) {
            let at = Origin::File(value.span());
            self.complaints.push(Complaint::new(&at, "the list is empty", "remove the key or name at least one"));
        }
        Some(self.text_list(value))
    }

    fn text_list(&mut self, value: Value<'_, '_>) -> Vec<Written<String>> {
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_kind(value, "a list of texts: [\"…\", \"…\"]");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for element in elements {
            match element.get_ref().as_str() {
                Some(text) => texts.push(written(text.to_owned(), element)),
                None => self.wrong_kind(element, "text in quotes"),
            }
        }
        texts
    }

    fn numbers(&mut self, table: Table<'_, '_>, key: &str) -> Vec<Written<String>> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let Some(elements) = value.get_ref().as_array().filter(|elements| !elements.is_empty()) else {
            self.wrong_kind(value, "a list of numbers: [2, 4]");
            return Vec::new();
        };
        let mut numbers = Vec::new();
        for element in elements {
            match element.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => {
                    numbers.push(written(number.as_str().to_owned(), element));
                }
                _ => self.wrong_kind(element, "a number without quotes"),
            }
        }
        numbers
    }

    fn port(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<String>> {
        self.number(table, key)
    }

    /// A date or a time, which TOML has a kind of its own for.
    fn moment(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<String>> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::Datetime(time) => Some(written(time.to_string(), value)),
            _ => self.text_for(table, key, "a date or a time: \"2026-12-31\""),
        }
    }

    fn number(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<String>> {
        let value = table.get(key)?;
        match value.get_ref() {
            // Whether it fits is not a question of form; a radix is nothing that a port or a limit comes in.
            DeValue::Integer(number) if number.radix() == 10 => Some(written(number.as_str().to_owned(), value)),
            _ => {
                self.wrong_kind(value, "a number without quotes");
                None
            }
        }
    }

    fn switch(&mut self, table: Table<'_, '_>, key: &str) -> Option<Written<bool>> {
        let value = table.get(key)?;
        let switch = value.get_ref().as_bool().map(|switch| written(switch, value));
        if switch.is_none() {
            self.wrong_kind(value, "`true` or `false`");
        }
        switch
    }

    fn wrong_kind(&mut self, value: Value<'_, '_>, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a yes or no",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a section",
        };
        let at = Origin::File(value.span());
        self.complaints.push(Complaint::new(&at, format!("{found} is not allowed here"), format!("write {wanted}")));
    }

    fn refuse_unknown(&mut self, section: &str, table: Table<'_, '_>) {
        debug_assert!(!FREE_TABLES.contains(&section));
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            // A quoted key with a dot in it looks like a path and is none.
            if name.contains('.') || !KEYS.contains(&path.as_str()) {
                let what = format!("unknown key {}", quoted(name));
                self.complaints.push(Complaint::new(&Origin::File(key.span()), what, suggestion(section, name)));
            }
        }
    }

    fn hide_texts(&mut self, value: Value<'_, '_>) {
        match value.get_ref() {
            DeValue::Array(elements) => elements.iter().for_each(|element| self.hide_texts(element)),
            DeValue::Table(table) => table.iter().for_each(|(_, value)| self.hide_texts(value)),
            _ => self.secrets.push(value.span()),
        }
    }
}

fn written<T>(value: T, place: Value<'_, '_>) -> Written<T> {
    Written::new(value, Origin::File(place.span()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn secrets_are_hidden_however_the_file_is_broken() {
        let cases = [
            format!("[[users]]\nsecret = \"{SECRET}\""),
            format!("[[users]]\nsecret = {SECRET}"),
            "[[users]]\nsercet = \"ABEiM0RVZneImaq7zN3u_w\"".into(),
            "users = [{ name = \"a\", secret = \"ABEiM0RVZneImaq7zN3u_w\" }]".into(),
            "users = \"ABEiM0RVZneImaq7zN3u_w\"".into(),
            "[[users]]\nsecret = ABEiM0RVZneImaq7zN3u_w".into(),
            "[[users]\nsecret = \"ABEiM0RVZneImaq7zN3u_w".into(),
            "[[users]]\nsecret = '''\nABEiM0RVZneImaq7zN3u_w'''".into(),
            format!("listen = [\"{SECRET}\"]"),
        ];
        for text in cases {
            let shown = read(&text).shown;
            assert!(!shown.contains("112233") && !shown.contains("ABEiM0"), "{shown}");
            assert_eq!(shown.len(), text.len());
            assert_eq!(shown.lines().count(), text.lines().count());
        }
    }

    #[test]
    fn broken_lines_do_not_hide_other_complaints() {
        let reading = read("lisen = 1\ndomain = \nstate_dir = 5\n");
        assert_eq!(reading.broken_lines, [1]);
        let lines: Vec<_> = reading.complaints.iter().map(|complaint| complaint.what.as_str()).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
    }
}
