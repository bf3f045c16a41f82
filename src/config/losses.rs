//! Users who could not enter any more after a reload, by mistake perhaps.

use std::collections::{BTreeMap, HashSet};

use super::User;
use crate::auth::{Domain, PastNames};

/// The users and the names of the site that hold now, the first one first.
pub(super) struct Standing<'c> {
    pub(super) users: &'c [User],
    pub(super) names: &'c [Domain],
}

impl Standing<'_> {
    fn name_of<'s>(&'s self, user: &'s User) -> Option<&'s Domain> {
        user.policy.domain.as_ref().or(self.names.first())
    }
}

/// Who would be lost.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Number of those who are left out.
    pub(super) removed: usize,
    /// Those who keep their secret and get another name of the site, while the old one lets them in no more: each had a link
    /// that works and would have one that does not.
    pub(super) cut_off: Vec<String>,
}

/// Who is lost from `old` to `new`. The user `named` is meant to be, and `past` has the names of both.
pub(super) fn losses(old: &Standing<'_>, new: &Standing<'_>, past: &PastNames, named: Option<&str>) -> Losses {
    let by_name: BTreeMap<&str, &User> = new.users.iter().map(|user| (user.name.as_str(), user)).collect();
    let ours: HashSet<&Domain> = new.names.iter().collect();
    let mut lost = Losses::default();
    for before in old.users {
        let Some(after) = by_name.get(before.name.as_str()) else {
            lost.removed += usize::from(named != Some(before.name.as_str()));
            continue;
        };
        let (Some(from), to) = (old.name_of(before), new.name_of(after)) else { continue };
        let is_shut = || ours.contains(from) || past.turn_away(Some(from.as_str().as_bytes()), new.names);
        if before.secret == after.secret && Some(from) != to && is_shut() {
            lost.cut_off.push(before.name.clone());
        }
    }
    lost
}

/// What is said of users who are cut off.
pub(super) fn cut_off(users: &[String]) -> String {
    let named = match users.len() {
        0..=NAMED => users.join(", "),
        count => format!("{} and {} more", users[..NAMED].join(", "), count - NAMED),
    };
    format!(
        "the links of {named} end: they get another name of the site and keep their secrets; write the old name with them, \
         `domain = \"NAME\"`, or move each with `vizard user change USER --domain NAME` and hand out the new links"
    )
}

/// Most users that are named in one sentence.
const NAMED: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    fn names(names: &[&str]) -> Vec<Domain> {
        names.iter().map(|name| format!("{name}.example").parse().unwrap()).collect()
    }

    /// A user of this name of the site, if it is one that stands there.
    fn user(name: &str, secret: u8, of: Option<&str>) -> User {
        let mut user = User::new(name, Secret::new([secret; 16]));
        user.policy.domain = of.map(|of| names(&[of]).remove(0));
        user
    }

    #[test]
    fn who_gets_another_name_with_the_old_secret_is_cut_off_where_the_old_name_is_shut() {
        let (alice, bob) = (user("alice", 1, None), user("bob", 2, Some("b")));
        let users = [alice.clone(), bob.clone()];
        let lost = |old: &[&str], new: &[&str], users: &[User], after: &[User]| {
            let (old, new) = (names(old), names(new));
            let past = PastNames::default().and(&old).and(&new);
            let lost = losses(&Standing { users, names: &old }, &Standing { users: after, names: &new }, &past, None);
            (lost.removed, lost.cut_off.join(" "))
        };
        let none = (0, String::new());
        let cut = |users: &str| (0, users.to_owned());
        assert_eq!(lost(&["a", "b"], &["b", "a"], &users, &users), cut("alice"));
        assert_eq!(lost(&["a", "b"], &["a", "b"], &users, &[alice.clone(), user("bob", 2, None)]), cut("bob"));
        assert_eq!(
            lost(&["a", "b"], &["a", "b"], &users, &[alice.clone(), user("bob", 3, None)]),
            none,
            "a new secret"
        );
        assert_eq!(lost(&["a", "b"], &["a"], &users, &[alice.clone(), user("bob", 2, None)]), cut("bob"));
        assert_eq!(lost(&["a", "b"], &["c"], &users[..1], &users[..1]), cut("alice"));
        assert_eq!(lost(&["a"], &["c"], &users[..1], &users[..1]), none, "the old name is a foreign one, which enters");
        assert_eq!(lost(&["a"], &["c", "a"], &users[..1], &users[..1]), cut("alice"));
        assert_eq!(lost(&["a", "b"], &["b", "a"], &users, &[user("alice", 1, Some("a")), bob]), none);
        assert_eq!(lost(&["a"], &["a"], &users[..1], &[]), (1, String::new()));
        assert!(cut_off(&["a".into(), "b".into()]).starts_with("the links of a, b end"));
    }
}
