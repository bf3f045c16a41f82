//! Changes to one user among very many, made on the text alone.
//!
//! To parse a file of 50 000 users for the sake of one takes longer than all the rest, and so does to check them all again. A
//! section can be found by its lines, as long as no line can be a part of a value that only looks like a header: where the
//! text has none of TOML's ways to hide one, every line that begins with a bracket is a header. It is parsed alone, and
//! checked together with everything that could contradict it: the rest of the file, and those users who may have its name
//! or one of its keys. Where any of this is in doubt there is no quick way, and the slow one decides.

use std::ops::Range;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table};

use super::section;
use super::spread::NameSpread;
use crate::auth::{Secret, SecretText};

/// Most users that are added on the text alone: each is looked for in all of it.
pub(super) const FEW: usize = 16;

/// What a change makes of a text, and a shorter text that has the same new mistakes, if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuickText {
    pub text: String,
    pub check: Option<String>,
    /// Number of users that were added.
    pub added: usize,
}

/// Sections `[[users]]` of a text.
#[derive(Debug)]
struct UserSections<'t> {
    text: &'t str,
    /// From the header to the end of the last line with a key.
    users: Vec<Range<usize>>,
    /// Everything above the first header.
    head: DocumentMut,
}

impl<'t> UserSections<'t> {
    /// The sections; `None` where they cannot be told by their lines, or where the name of the site may be inside a secret.
    fn of(text: &'t str) -> Option<Self> {
        if text.contains("\"\"\"") || text.contains("'''") || text.contains('\\') {
            return None;
        }
        let (mut users, mut head, mut at, mut open) = (Vec::<Range<usize>>::new(), None, 0, false);
        for line in text.split_inclusive('\n') {
            let end = at + line.len();
            if section::is_header(line) {
                head.get_or_insert(at);
                is_plain_header(line).then_some(())?;
                open = section::is_users(line);
                if open {
                    users.push(at..end);
                }
            } else if let Some(last) = users.last_mut().filter(|_| open)
                && !section::is_comment(line)
                && !section::is_blank(line)
            {
                last.end = end;
            }
            at = end;
        }
        let head: DocumentMut = text[..head?].parse().ok()?;
        let fits = head.get("domain").is_some_and(Item::is_str) && !head.contains_key("users") && !users.is_empty();
        fits.then_some(Self { text, users, head })
    }

    /// The section of a user; the first of them where several have the name.
    fn find(&self, name: &str) -> Option<(usize, DocumentMut)> {
        let near = self.users.iter().enumerate().filter(|(_, range)| self.text[(*range).clone()].contains(name));
        near.filter_map(|(index, range)| Some((index, self.text[range.clone()].parse::<DocumentMut>().ok()?)))
            .find(|(_, alone)| sole_user(alone).and_then(|user| user.get("name")?.as_str()) == Some(name))
    }

    /// The text with those sections alone that may have to do with these names and keys.
    fn alone(&self, names: &[&str], keys: &[String]) -> String {
        self.keeping(|_, section| {
            let lower = section.to_ascii_lowercase();
            let near = |key: &String| lower.contains(key.as_str());
            names.iter().any(|name| section.contains(name)) || keys.iter().any(near) || !has_bare_keys(section)
        })
    }

    /// The text with some of the sections.
    fn keeping(&self, keeps: impl Fn(usize, &str) -> bool) -> String {
        let (mut short, mut from) = (String::new(), 0);
        for (index, range) in self.users.iter().enumerate() {
            if !keeps(index, &self.text[range.clone()]) {
                short += &self.text[from..range.start];
                from = range.end;
            }
        }
        short + &self.text[from..]
    }
}

/// A text with no other users than these, if there is a quick way to all of them.
pub(in crate::config) fn of_users_alone(text: &str, names: &[&str]) -> Option<String> {
    let sections = UserSections::of(text).filter(|_| names.len() <= FEW)?;
    let kept = names.iter().map(|name| Some(sections.find(name)?.0)).collect::<Option<Vec<_>>>()?;
    Some(sections.keeping(|index, _| kept.contains(&index)))
}

/// Whether a line is a header as people write it: what is in quotes or is no name might be a value.
fn is_plain_header(line: &str) -> bool {
    let bare = line.split('#').next().unwrap_or_default().trim();
    let name = bare.trim_start_matches('[').trim_end_matches(']').trim();
    let fine = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
    let words = !["true", "false", "inf", "nan"].contains(&name) && !name.is_empty() && name.chars().all(fine);
    words && bare.ends_with(']') && (name == "users" || !name.starts_with("users."))
}

/// Whether all keys of a section stand there bare, so that one could be seen in it.
fn has_bare_keys(section: &str) -> bool {
    let keys = section.lines().map(str::trim_start).filter(|line| {
        let line = line.strip_prefix("previous_").unwrap_or(line);
        line.starts_with("secret")
    });
    let mut any = false;
    let all = keys.map(|line| line.split_once('=')).all(|parts| {
        any = true;
        let Some((name, value)) = parts else { return false };
        let value = value.trim_start().get(1..).and_then(|rest| rest.split(['"', '\'']).next()).unwrap_or_default();
        !name.contains("file") && !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    any && all
}

fn sole_user(document: &DocumentMut) -> Option<&Table> {
    let users = document.get("users")?.as_array_of_tables()?;
    users.get(0).filter(|_| users.len() == 1 && document.len() == 1)
}

/// The keys of a user, as they would be seen in the sections of others; `None` where one cannot be read here.
fn keys(user: &Table) -> Option<Vec<String>> {
    if user.contains_key("secret_file") || user.contains_key("previous_secret_file") {
        return None;
    }
    let texts = ["secret", "previous_secret"].into_iter().filter_map(|key| user.get(key));
    texts.map(|text| Some(SecretText::parse(text.as_str()?.trim()).ok()?.secret.hex())).collect()
}

/// The section of one user, parsed alone.
#[derive(Debug)]
pub(super) struct OneUser<'t> {
    sections: UserSections<'t>,
    index: usize,
    alone: DocumentMut,
    name: &'t str,
}

impl<'t> OneUser<'t> {
    /// The section of this user, if there is a quick way to it.
    pub fn find(text: &'t str, name: &'t str) -> Option<Self> {
        let sections = UserSections::of(text)?;
        let (index, alone) = sections.find(name)?;
        keys(sole_user(&alone)?)?;
        Some(Self { sections, index, alone, name })
    }

    /// The name of the site that users have who have none of their own.
    pub fn first_name(&self) -> Option<String> {
        self.sections.head.get("domain").and_then(Item::as_str).map(str::to_ascii_lowercase)
    }

    /// Whether the site has several names.
    pub fn has_several_names(&self) -> bool {
        self.sections.head.get("names").and_then(Item::as_array).is_some_and(|names| !Array::is_empty(names))
    }

    /// The section, to be changed.
    pub fn table(&mut self) -> Option<&mut Table> {
        self.alone.get_mut("users")?.as_array_of_tables_mut()?.get_mut(0)
    }

    /// The text with the section as it is now.
    pub fn changed(self) -> QuickText {
        let keys = sole_user(&self.alone).and_then(keys);
        let range = &self.sections.users[self.index];
        let text = self.sections.text;
        let text = [&text[..range.start], &self.alone.to_string(), &text[range.end..]].concat();
        // What was written may have hidden the lines.
        let check = UserSections::of(&text).zip(keys).map(|(sections, keys)| sections.alone(&[self.name], &keys));
        QuickText { text, check, added: 0 }
    }

    /// The text without the section.
    pub fn removed(self) -> Option<QuickText> {
        let text = section::cut(self.sections.text, self.index)?;
        // The last of the sections takes the way along.
        let check = UserSections::of(&text).map(|sections| sections.alone(&[], &[]));
        Some(QuickText { text, check, added: 0 })
    }
}

/// Adds sections behind the last one, if there is a quick way and none of their users is there. `make` gets the names of the
/// site with their users, if it has several.
pub(super) fn with_users(
    text: &str,
    names: &[&str],
    make: impl FnOnce(Option<NameSpread>) -> ArrayOfTables,
) -> Option<QuickText> {
    let sections = UserSections::of(text).filter(|_| names.len() <= FEW)?;
    if names.iter().any(|name| name.is_empty() || sections.find(name).is_some()) {
        return None;
    }
    let new = make(spread(&sections)?.0);
    let keys = new.iter().map(keys).collect::<Option<Vec<_>>>()?.concat();
    let end = sections.users.last()?.end;
    let mut document = DocumentMut::new();
    document.insert("users", Item::ArrayOfTables(new));
    let (before, behind) = text.split_at(end);
    let gap = if before.ends_with('\n') { "" } else { "\n" };
    let text = [before, gap, &document.to_string(), behind].concat();
    let check = UserSections::of(&text).map(|sections| sections.alone(names, &keys));
    Some(QuickText { text, check, added: names.len() })
}

/// The names of the site with their users, if it has several; nothing at all where that cannot be said.
fn spread(sections: &UserSections<'_>) -> Option<(Option<NameSpread>,)> {
    let Some(mut spread) = NameSpread::of(&sections.head) else { return Some((None,)) };
    for range in &sections.users {
        let section = &sections.text[range.clone()];
        // Most have a bare key and no name.
        if section.contains("domain") || longest_word(section) > 2 * Secret::LENGTH {
            let alone: DocumentMut = section.parse().ok()?;
            spread.count(sole_user(&alone)?);
        } else {
            spread.count(&Table::new());
        }
    }
    Some((Some(spread),))
}

fn longest_word(section: &str) -> usize {
    section.split(['"', '\'', ' ', '\n']).map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "domain = \"a.example\" # it\n\n# Family.\n";

    fn user(name: &str, byte: u8, more: &str) -> String {
        format!("[[users]]\nname = \"{name}\"\nsecret = \"{}\"\n{more}", Secret::new([byte; 16]).hex())
    }

    #[test]
    fn one_section_is_changed_and_checked_without_most_others() {
        let (alice, bob) = (user("alice", 1, "# hers\nnote = \"x\" # y\n"), user("bob", 2, ""));
        let text = [HEAD, &alice, "\n# His.\n", &bob, "\n[log]\nlevel = \"debug\"\n"].concat();
        let mut one = OneUser::find(&text, "alice").unwrap();
        assert!(one.first_name().as_deref() == Some("a.example") && !one.has_several_names());
        one.table().unwrap().insert("max_sessions", toml_edit::value(40));
        let changed = one.changed();
        let new = alice.clone() + "max_sessions = 40\n";
        assert_eq!(changed.text, text.replace(&alice, &new));
        assert_eq!(changed.check.unwrap(), text.replace(&alice, &new).replace(&bob, ""));
        let removed = OneUser::find(&text, "bob").unwrap().removed().unwrap();
        assert_eq!(removed.text, text.replace(&format!("# His.\n{bob}\n"), ""));
        assert!(OneUser::find(&text, "carol").is_none());
        assert_eq!(of_users_alone(&text, &["bob"]), Some(text.replace(&alice, "")));
        assert_eq!(of_users_alone(&text, &["bob", "carol"]), None);
    }

    #[test]
    fn who_may_contradict_a_new_user_is_there_when_it_is_checked() {
        let key = "01".repeat(16);
        for (other, kept) in [
            (user("bob", 2, ""), false),
            (user("bob", 1, ""), true),
            (user("bob", 2, "").replace("02", "AB").replace("AB", "cD"), false),
            (format!("[[users]]\nname = 'bob'\nsecret = 'ee{}612e6578616d706c65'\n", key.to_uppercase()), true),
            (user("bob", 2, &format!("previous_secret = \"{key}\"\n")), true),
            ("[[users]]\nname = 'bob'\nsecret_file = 'bob.secret'\n".to_owned(), true),
            ("[[users]]\nname = 'bob'\nsecret = '7gEBAQEBAQEBAQEBAQEBAQE'\n".to_owned(), true),
            ("[[users]]\nname = 'bob'\n".to_owned(), true),
            ("[[users]]\nsecret = '02020202020202020202020202020202'\nname = 'carol'\n".to_owned(), true),
        ] {
            let text = [HEAD, &user("alice", 9, ""), &other].concat();
            let make = |spread: Option<NameSpread>| {
                assert!(spread.is_none());
                let new = user("carol", 1, "").parse::<DocumentMut>().unwrap();
                new["users"].as_array_of_tables().unwrap().clone()
            };
            let Some(added) = with_users(&text, &["carol"], make) else {
                assert!(other.contains("carol"), "{other}");
                continue;
            };
            assert_eq!(added.text, text.clone() + &user("carol", 1, ""));
            let check = added.check.unwrap();
            assert_eq!((check.contains("bob"), check.contains("alice")), (kept, false), "{other}");
        }
    }

    #[test]
    fn where_a_line_may_be_something_else_there_is_no_quick_way() {
        let alice = user("alice", 1, "");
        assert!(OneUser::find(&[HEAD, &alice].concat(), "alice").is_some());
        for odd in [
            "note = \"\"\"\n[[users]]\n\"\"\"\n",
            "note = '''\n[log]\n'''\n",
            "note = \"\\u0061\"\n",
            "allow = [\n[\"192.0.2.1\"]]\n",
            "allow = [\n[1]]\n",
            "[users.more]\n",
            "[[\"users\"]]\nname = \"b\"\n",
            "secret_file = \"x\"\n",
        ] {
            assert!(OneUser::find(&[HEAD, &alice, odd].concat(), "alice").is_none(), "{odd}");
        }
        for head in ["", "names = [\"b.example\"]\n", "users = []\ndomain = \"a.example\"\n", "domain = \n"] {
            assert!(OneUser::find(&[head, &alice].concat(), "alice").is_none(), "{head}");
        }
    }

    #[test]
    fn names_of_the_site_are_counted_as_in_a_parsed_file() {
        let embedded = format!("[[users]]\nname = 'e'\nsecret = \"ee{}622e6578616d706c65\"\n", "05".repeat(16));
        let text = "domain = \"a.example\"\nnames = [\"b.example\", \"c.example\"]\n".to_owned()
            + &user("f", 1, "domain = \"C.example\"\n")
            + &embedded
            + &user("g", 2, "");
        let quick = spread(&UserSections::of(&text).unwrap()).unwrap().0.unwrap();
        let slow = NameSpread::of(&text.parse().unwrap()).unwrap();
        assert_eq!(format!("{quick:?}"), format!("{slow:?}"));
    }
}
