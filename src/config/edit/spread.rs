//! Which name of the site a new user gets: the one that has the fewest users.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table};

use super::set;
use crate::auth::{Domain, Secret, SecretText};

/// Names of the site with the number of their users.
#[derive(Debug)]
pub(super) struct NameSpread {
    /// The first is missing where the file does not have it.
    names: Vec<(Option<String>, usize)>,
}

impl NameSpread {
    /// What a file says; `None` if the site has one name.
    pub(super) fn of(document: &DocumentMut) -> Option<Self> {
        let text = |item: &str| item.trim().to_ascii_lowercase();
        let further = document.get("names").and_then(Item::as_array).into_iter().flat_map(Array::iter);
        let further: Vec<String> = further.filter_map(|name| name.as_str().map(text)).collect();
        if further.is_empty() {
            return None;
        }
        let first = document.get("domain").and_then(Item::as_str).map(text);
        let names = std::iter::once(first).chain(further.into_iter().map(Some)).map(|name| (name, 0)).collect();
        let mut spread = Self { names };
        let users = document.get("users").and_then(Item::as_array_of_tables).into_iter().flat_map(ArrayOfTables::iter);
        for user in users {
            spread.count(user);
        }
        Some(spread)
    }

    /// Counts one more user.
    pub(super) fn count(&mut self, user: &Table) {
        let at = name_of(user).and_then(|name| self.position(&name)).unwrap_or(0);
        self.names[at].1 += 1;
    }

    /// The name of the next user. A link that carries another site's name goes on working with the first one alone, where
    /// foreign names are looked for.
    pub(super) fn next(&mut self, wished: Option<&Domain>) -> Option<String> {
        let at = match wished {
            Some(name) => self.position(name.as_str()).unwrap_or(0),
            None => (0..self.names.len()).min_by_key(|at| self.names[*at].1).unwrap_or(0),
        };
        let (name, users) = self.names.get_mut(at)?;
        *users += 1;
        name.clone()
    }

    fn position(&self, wanted: &str) -> Option<usize> {
        self.names.iter().position(|(name, _)| name.as_deref() == Some(wanted))
    }
}

/// The name that stands with a user, or inside the secret.
pub(super) fn name_of(user: &Table) -> Option<String> {
    let text = |key| user.get(key).and_then(Item::as_str);
    if let Some(stated) = text("domain") {
        return Some(stated.trim().to_ascii_lowercase());
    }
    // Most are bare keys, which need not be read.
    let secret = text("secret").filter(|secret| secret.len() > 2 * Secret::LENGTH)?;
    Some(SecretText::parse(secret.trim()).ok()?.domain?.to_string())
}

/// Gives a user this secret in the place of all. Returns the file that it has to be written to, if it is to stand in one.
pub(super) fn renew(user: &mut Table, secret: &Secret) -> Option<String> {
    for key in ["previous_secret", "previous_secret_file", "previous_until"] {
        user.remove(key);
    }
    let file = user.get("secret_file").and_then(Item::as_str).map(str::to_owned);
    if file.is_none() {
        set(user, "secret", Some(secret.hex().into()));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "domain = \"a.example\"\nnames = [\"b.example\", \"C.example\"]\n";

    fn spread(text: &str) -> Option<NameSpread> {
        NameSpread::of(&text.parse().unwrap())
    }

    #[test]
    fn the_name_with_the_fewest_users_is_next_and_the_first_of_several() {
        assert!(spread("domain = \"a.example\"").is_none());
        let mut spread = spread(&format!("{HEAD}[[users]]\n[[users]]\ndomain = \"B.example\"\n[[users]]\n")).unwrap();
        let chosen: Vec<_> = std::iter::repeat_with(|| spread.next(None).unwrap()).take(6).collect();
        assert_eq!(chosen, ["c.example", "b.example", "c.example", "a.example", "b.example", "c.example"]);
    }

    #[test]
    fn a_link_keeps_its_name_and_a_foreign_one_gets_the_first() {
        let mut spread = spread(HEAD).unwrap();
        let mut next = |name: &str| spread.next(Some(&name.parse().unwrap())).unwrap();
        assert_eq!([next("c.example"), next("other.example")], ["c.example", "a.example"]);
        assert_eq!(spread.next(None).as_deref(), Some("b.example"));
    }

    #[test]
    fn names_inside_secrets_count() {
        let key = "ee000102030405060708090a0b0c0d0e0f622e6578616d706c65";
        let mut spread = spread(&format!("{HEAD}[[users]]\n[[users]]\nsecret = \"{key}\"\n")).unwrap();
        assert_eq!(spread.next(None).as_deref(), Some("c.example"));
    }

    #[test]
    fn a_first_name_from_elsewhere_is_not_written() {
        let mut spread = spread("names = [\"b.example\"]\n[[users]]\ndomain = \"b.example\"\n").unwrap();
        assert_eq!((spread.next(None), spread.next(None)), (None, None));
    }
}
