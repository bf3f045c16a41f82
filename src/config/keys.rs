//! Which keys there are, and what someone probably meant who wrote another.

use super::reference::REFERENCE;

/// The dotted path of every key that a file may have, as the [reference](super::reference) has them.
pub const KEYS: &[&str] = &{
    let mut paths = [""; REFERENCE.len()];
    let mut at = 0;
    while at < paths.len() {
        paths[at] = REFERENCE[at].path;
        at += 1;
    }
    paths
};

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
        return format!("`{name}` belongs in the section `[{owner}]`");
    }
    if KEYS.contains(&name) {
        return format!("`{name}` belongs at the top of the file, before the first section");
    }
    let mut known: Vec<_> = KEYS.iter().filter_map(|key| within(section, key)).map(|key| format!("`{key}`")).collect();
    known.sort_unstable();
    format!("remove it; known here: {}", known.join(", "))
}

/// The one of `candidates` that `text` was probably meant to be; none if two are equally near.
pub fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // Comparing is quadratic, and no one slips into a key this long.
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
        assert_eq!(suggestion("", "time_window"), "`time_window` belongs in the section `[hello]`");
        assert_eq!(
            suggestion("site", "state_dir"),
            "`state_dir` belongs at the top of the file, before the first section"
        );
        assert_eq!(
            suggestion("session", "colour"),
            "remove it; known here: `drain`, `end_unanswered`, `fillers`, `handover`, `idle`"
        );
    }

    #[test]
    fn every_section_is_a_key() {
        assert!(KEYS.iter().filter_map(|key| key.rsplit_once('.')).all(|(owner, _)| KEYS.contains(&owner)));
    }
}
