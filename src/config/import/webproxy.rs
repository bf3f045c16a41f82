//! The official relay of WEB proxies, tproxy-server: `config.json`, and `profiles.json` with the secrets.

use serde_json::{Map, Value};

use super::{Imported, named};
use crate::config::edit::Changes;
use crate::config::starter::{Content, WebStart};
use crate::webproxy::BasePath;
use crate::webproxy::session::Mode;

/// Keys of `config.json` that are taken over, or that say nothing that would be missed.
const KNOWN: &[&str] = &[
    "public_hostname",
    "base_path",
    "public_dir",
    "public_upstream",
    "profiles_file",
    "profiles",
    "token_key_file",
    "static_routes",
    "enable_pprof",
    "timeouts",
];

/// Keys that are left out, each with a key that is like it here.
const HINTS: &[(&str, &str)] = &[("listen", "site.http_listen"), ("admin_listen", "admin.listen")];

/// Carrier of a profile that names none.
const USUAL: Mode = Mode::Https;

/// Most connections of an app at once where a profile has no limit of its own.
const STREAMS: &str = "max_streams";

pub(super) fn recognise(text: &str) -> bool {
    let json: Option<Value> = serde_json::from_str(text).ok();
    json.is_some_and(|json| json.get("profiles").is_some() || json.get("public_hostname").is_some())
}

pub(super) fn read(text: &str) -> Option<Imported> {
    let Value::Object(top) = serde_json::from_str(text).ok()? else { return None };
    let mut it = Imported { web: Some(WebStart::default()), ..Imported::default() };
    let string = |key: &str| top.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(name) = string("public_hostname") {
        it.set_domain(name);
    }
    if let Some(path) = string("base_path") {
        match path.trim_matches('/').parse::<BasePath>() {
            Ok(path) => it.web.iter_mut().for_each(|web| web.path = path.clone()),
            Err(error) => it.note(format!("base_path was left out: {error}")),
        }
    }
    it.content = match (string("public_upstream"), string("public_dir")) {
        (Some(upstream), _) => Some(Content::Upstream(upstream.trim_end_matches('/').to_owned())),
        (None, Some(folder)) => Some(Content::Folder(folder.into())),
        (None, None) => None,
    };
    it.profile_files.extend(string("profiles_file").map(Into::into));
    add_profiles(&mut it, &top);
    for (key, value) in &top {
        match HINTS.iter().find(|(hinted, _)| hinted == key) {
            _ if KNOWN.contains(&key.as_str()) || value.is_null() || *value == Value::Bool(false) => {}
            Some((_, here)) => it.note(format!("{key} was left out: `{here}` is like it")),
            None => it.no_counterpart(key),
        }
    }
    Some(it)
}

impl Imported {
    /// Adds the users of a file of profiles. `None` if it is none.
    pub fn add_profiles(&mut self, text: &str) -> Option<()> {
        let Value::Object(top) = serde_json::from_str(text).ok()? else { return None };
        top.get("profiles")?;
        add_profiles(self, &top);
        Some(())
    }
}

fn add_profiles(it: &mut Imported, top: &Map<String, Value>) {
    let profiles = top.get("profiles").and_then(Value::as_array).into_iter().flatten();
    for profile in profiles.filter_map(Value::as_object) {
        let text = |key: &str| profile.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = if text("name").is_empty() { "user" } else { text("name") };
        let limits = limits(it, name, profile.get("limits").and_then(Value::as_object));
        let before = it.people.len();
        it.add(name, text("secret"), limits);
        if it.people.len() > before {
            set_carrier(it, name, text("carrier_mode"));
        }
    }
}

/// Takes over what a profile limits; streams are sessions here.
fn limits(it: &mut Imported, name: &str, limits: Option<&Map<String, Value>>) -> Changes {
    let number = |key: &str| limits?.get(key)?.as_u64().filter(|number| *number != 0);
    for key in limits.into_iter().flat_map(Map::keys).filter(|key| *key != STREAMS && number(key).is_some()) {
        it.note(format!("{key} of {} was left out: it has no counterpart here", named(name)));
    }
    let max_sessions = number(STREAMS).and_then(|streams| u32::try_from(streams).ok());
    Changes { max_sessions, ..Changes::default() }
}

/// One carrier is for all here: that of the first profile.
fn set_carrier(it: &mut Imported, name: &str, carrier: &str) {
    let carrier = if carrier.is_empty() { USUAL } else { carrier.parse().unwrap_or(USUAL) };
    let Some(web) = &mut it.web else { return };
    let chosen = *web.carrier.get_or_insert(carrier);
    if chosen != carrier {
        it.note(format!("{} had the carrier {carrier}; all users have {chosen} now", named(name)));
    }
}
