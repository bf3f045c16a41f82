//! Names under which hellos may be unspent that a later configuration would let in.
//!
//! Where a site has several names, a hello is tried with the keys of one of them. One that carries another name than its
//! user has, or none, is a stranger's then and is not spent; so its copy must never become a member's:
//!
//! - A name that was once one of several is never a foreign one again: when it leaves `names`, hellos with it are tried with
//!   the keys of the first name, spent and declined.
//! - A name that was once a further one lets in none but its own when it becomes the first: with foreign names, and without
//!   one, its users' hellos were not spent.
//! - No key is good under two names of the site in its life: to move a user to another name makes a new one.
//!
//! A site of one name remembers nothing: all its hellos are tried with all keys.

use std::collections::BTreeMap;

use super::secret::Domain;

/// Most names that are remembered. When there are so many, all that are not the site's are taken for remembered ones.
const MOST: usize = 1000;

/// Names that this site had while it had several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastNames {
    /// Each with whether it was a further one.
    known: BTreeMap<Domain, bool>,
}

impl PastNames {
    /// The same with those that the site has now, the first one first.
    pub fn and(&self, names: &[Domain]) -> Self {
        let mut known = self.known.clone();
        for (place, name) in names.iter().enumerate().filter(|_| names.len() > 1) {
            if known.len() < MOST || known.contains_key(name) {
                *known.entry(name.clone()).or_default() |= place > 0;
            }
        }
        Self { known }
    }

    /// Reads what [`PastNames::text`] wrote; lines that are something else do not count.
    pub fn parse(text: &str) -> Self {
        let read = |line: &str| {
            let (kind, name) = line.trim().split_once(' ')?;
            let further = match kind {
                "first" => false,
                "further" => true,
                _ => return None,
            };
            Some((name.parse().ok()?, further))
        };
        let mut known = BTreeMap::new();
        for (name, further) in text.lines().filter_map(read).take(MOST) {
            *known.entry(name).or_default() |= further;
        }
        Self { known }
    }

    /// The same as lines of text.
    pub fn text(&self) -> String {
        let line =
            |(name, further): (&Domain, &bool)| format!("{} {name}\n", if *further { "further" } else { "first" });
        self.known.iter().map(line).collect()
    }

    /// Whether none may enter with a hello that carries this name, at a site that has these names now.
    pub fn turn_away(&self, name: Option<&[u8]>, names: &[Domain]) -> bool {
        let is = |known: &Domain| name.is_some_and(|name| known.is_asked_for(name));
        let Some(first) = names.first() else { return false };
        let all = self.known.get(first) == Some(&true) || self.known.len() >= MOST;
        let known = self.known.keys().filter(|known| is(known)).count() > 0;
        (all || known) && !names.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Domain> {
        names.iter().map(|name| format!("{name}.example").parse().unwrap()).collect()
    }

    /// Which of these may not enter: hellos with the names a, b and c, one with a foreign name, and one without.
    fn turned_away(past: &PastNames, now: &[&str]) -> String {
        let hellos = [("a", "a.example"), ("b", "B.example"), ("c", "c.example"), ("x", "x.example")];
        let now = names(now);
        let named =
            hellos.iter().filter(|(_, name)| past.turn_away(Some(name.as_bytes()), &now)).map(|(short, _)| *short);
        named.chain(past.turn_away(None, &now).then_some("-")).collect()
    }

    #[test]
    fn a_name_that_was_one_of_several_is_never_a_foreign_one_again() {
        let one = PastNames::default().and(&names(&["a"]));
        assert_eq!((turned_away(&one, &["a"]), turned_away(&one, &["c"])), (String::new(), String::new()));
        let past = one.and(&names(&["a", "b"]));
        for (now, expected) in [
            (&["a", "b"][..], ""),
            (&["a"], "b"),
            (&["a", "c"], "b"),
            (&["c"], "ab"),
            (&["b", "a"], "cx-"),
            (&["b"], "acx-"),
        ] {
            assert_eq!(turned_away(&past, now), expected, "{now:?}");
            assert_eq!(turned_away(&PastNames::parse(&past.text()), now), expected, "{now:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_bound_lets_none_in() {
        let many: Vec<String> = (0..2 * MOST).map(|number| format!("n{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let past = PastNames::default().and(&names(&many));
        assert_eq!(past.known.len(), MOST);
        assert_eq!(turned_away(&past, &["a"]), "bcx-");
        assert_eq!(PastNames::parse(&format!("{}nonsense\nfirst\nfirst -\n", past.text())), past);
    }
}
