//! Changes to the users of a configuration file, for commands and for the admin API.
//!
//! What people wrote stays as they wrote it: order, spaces and comments. A change that would leave the file with mistakes
//! is refused. The file is replaced in one step and keeps its mode; a lock on its folder keeps two changes apart.

pub(super) mod quick;
mod section;
mod spread;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::{error, fmt};

use jiff::Timestamp;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value, value};

use self::quick::{OneUser, QuickText};
use self::spread::NameSpread;
use super::report::{Complaint, Origin, Severity};
use super::resolve::read_secret_file;
use super::{Environment, Flags, LoadError, load_text};
use crate::auth::{Domain, Secret, SecretText, UnixTime};
use crate::base::files::{self, Access, Folder};

/// Changes to a user, for commands as for the admin API.
pub use crate::ops::admin::control::Settings as Changes;

/// Longest file that is changed; a hundred thousand users have less.
const LONGEST: u64 = 256 << 20;

/// Takes a limit away.
pub const NONE: &str = "none";

/// Reason why a file was not changed.
#[derive(Debug)]
pub enum EditError {
    /// A file cannot be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The file is no TOML.
    NotToml,
    /// The users do not stand in sections of their own.
    NoSections,
    /// There is no user of this name in the file.
    Unknown(String),
    /// There is one already.
    Exists(String),
    /// The section could not be told from what surrounds it.
    Tangled(String),
    /// The secret of this user cannot be read, so it cannot be kept for the time of the change.
    NoSecret(String),
    /// The file would have mistakes that it does not have now, as sentences. They hold no secret.
    Mistakes(Vec<String>),
    /// One of several new users cannot be added; they are counted from 1.
    Entry(usize, Box<Self>),
}

impl EditError {
    /// Advice on what to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the path, and that you may write to the file and its folder",
            Self::NotToml => "see the mistakes with `vizard check`, and fix them first",
            Self::NoSections => "write each user as a section `[[users]]` with its keys in lines of their own",
            Self::Unknown(_) => "`vizard user list` has the names; those of flags and variables are not in the file",
            Self::Exists(_) => "use another name, or change the existing user",
            Self::Tangled(_) => "remove the section in an editor",
            Self::NoSecret(_) => "see the mistakes with `vizard check`, and fix them first",
            Self::Mistakes(_) => "correct the values",
            Self::Entry(_, error) => error.fix(),
        }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::NotToml => f.write_str("the configuration file is not TOML"),
            Self::NoSections => f.write_str("the users are not written as sections `[[users]]`"),
            Self::Unknown(name) => write!(f, "there is no user {name} in the configuration file"),
            Self::Exists(name) => write!(f, "there is a user {name} already"),
            Self::Tangled(name) => write!(f, "the section of {name} cannot be separated from the text around it"),
            Self::NoSecret(name) => write!(f, "the secret of {name} cannot be read"),
            Self::Mistakes(mistakes) => f.write_str(&mistakes.join("\n")),
            Self::Entry(number, error) => write!(f, "entry {number}: {error}; nothing was added"),
        }
    }
}

impl error::Error for EditError {}

/// A user that is to be added.
#[derive(Clone, Debug)]
pub struct UserToAdd {
    /// The name.
    pub name: String,
    /// The key.
    pub secret: Secret,
    /// Name of a site that the key came with, in a link.
    pub domain: Option<Domain>,
}

impl UserToAdd {
    /// One with this key.
    pub fn new(name: impl Into<String>, secret: Secret) -> Self {
        Self::with(name, SecretText { secret, domain: None })
    }

    /// One with a key that was given.
    pub fn with(name: impl Into<String>, SecretText { secret, domain }: SecretText) -> Self {
        Self { name: name.into(), secret, domain }
    }
}

/// Adds a user.
pub fn add(file: &Path, new: UserToAdd, changes: &Changes) -> Result<(), EditError> {
    add_all(file, &[new], changes)
}

/// Adds users in one step, all of them with the same limits, or none if one cannot be added. Where the site has several
/// names and none is wished, each gets the one that its link had, else the one with the fewest users.
pub fn add_all(file: &Path, new: &[UserToAdd], changes: &Changes) -> Result<(), EditError> {
    let new: Vec<_> = new.iter().map(|new| (new, changes)).collect();
    match add_each(file, &new) {
        Err(EditError::Entry(_, error)) if new.len() == 1 => Err(*error),
        outcome => outcome,
    }
}

/// The same, each with its own limits. Fails with the first that cannot be added.
pub fn add_each(file: &Path, new: &[(&UserToAdd, &Changes)]) -> Result<(), EditError> {
    let listed: Vec<&str> = new.iter().map(|(new, _)| new.name.as_str()).collect();
    let distinct = listed.iter().collect::<HashSet<_>>().len() == listed.len();
    let add = |text: &str, _: &Path| {
        let make = |spread: Option<NameSpread>| tables(new, spread);
        if let Some(quick) = quick::with_users(text, &listed, make).filter(|_| distinct) {
            return Ok(EditedText::quick(quick, ()));
        }
        let mut document = parse(text)?;
        let mut known: HashSet<_> = names(&document)?.map(|(_, name)| name.to_owned()).collect();
        if let Some(at) = listed.iter().position(|name| !known.insert((*name).to_owned())) {
            return Err(EditError::Entry(at + 1, Box::new(EditError::Exists(listed[at].to_owned()))));
        }
        let spread = NameSpread::of(&document);
        let users = document.entry("users").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let users = users.as_array_of_tables_mut().ok_or(EditError::NoSections)?;
        tables(new, spread).into_iter().for_each(|table| users.push(table));
        Ok(EditedText { added: new.len(), ..EditedText::whole(document.to_string(), ()) })
    };
    edit_text(file, add, |()| Ok(()))
}

/// The sections of new users.
fn tables(new: &[(&UserToAdd, &Changes)], mut spread: Option<NameSpread>) -> ArrayOfTables {
    let mut tables = ArrayOfTables::new();
    for (UserToAdd { name, secret, domain }, changes) in new {
        let mut table = Table::new();
        table.decor_mut().set_prefix("\n");
        table.insert("name", value(name));
        table.insert("secret", value(secret.hex()));
        change_table(&mut table, changes);
        let mut free = spread.as_mut().filter(|_| changes.domain.is_none());
        if let Some(name) = free.as_mut().and_then(|spread| spread.next(domain.as_ref())) {
            table.insert("domain", value(name));
        }
        tables.push(table);
    }
    tables
}

/// Changes what a user may do. One who is moved to another name of the site gets a new secret, which is returned, and the old
/// ones end: under other names their hellos were not spent. `fresh` makes the secret.
pub fn change(
    file: &Path,
    name: &str,
    changes: &Changes,
    fresh: impl FnOnce() -> Secret,
) -> Result<Option<Secret>, EditError> {
    let changed = |table: &mut Table, site: &SiteOfUser<'_>| {
        let first = site.first_name.clone();
        let before = spread::name_of(table).or_else(|| first.clone());
        change_table(table, changes);
        if changes.domain.is_some() && !table.contains_key("secret_file") {
            // A secret with a name inside would contradict the new one.
            let bare = table.get("secret").and_then(Item::as_str).and_then(|text| SecretText::parse(text).ok());
            if let Some(text) = bare.filter(|text| text.domain.is_some()) {
                set(table, "secret", Some(text.secret.hex().into()));
            }
        }
        if spread::name_of(table).or(first) == before {
            return Ok(None);
        }
        let secret = fresh();
        let path = spread::renew(table, &secret).map(|written| site.folder.join(written));
        Ok(Some((secret, path)))
    };
    // Before the configuration says so: the old secret must not be good under the new name, not for a moment.
    let moved = edit_user(file, name, changed, |moved| match moved {
        Some((secret, Some(path))) => write(path, secret, Access::Kept),
        _ => Ok(()),
    })?;
    Ok(moved.map(|(secret, _)| secret))
}

/// Lets a user in again.
pub fn enable(file: &Path, name: &str) -> Result<(), EditError> {
    switch(file, name, true)
}

/// Keeps a user out.
pub fn disable(file: &Path, name: &str) -> Result<(), EditError> {
    switch(file, name, false)
}

fn switch(file: &Path, name: &str, enabled: bool) -> Result<(), EditError> {
    let switched = |table: &mut Table, _: &SiteOfUser<'_>| {
        change_table(table, &Changes { enabled: Some(enabled), ..Changes::default() });
        Ok(())
    };
    edit_user(file, name, switched, |()| Ok(()))
}

/// Gives a user another secret; the present one is good until then. A secret in a file of its own stays in one.
pub fn rotate(file: &Path, name: &str, secret: &Secret, until: UnixTime) -> Result<(), EditError> {
    let until = moment(until);
    let rotated = |table: &mut Table, site: &SiteOfUser<'_>| {
        let (path, embedded) = rotate_in(table, site.folder, name, secret, &until)?;
        keep_name(table, embedded.filter(|_| site.has_several_names));
        Ok(path)
    };
    let later = edit_user(file, name, rotated, |_| Ok(()))?;
    later.map_or(Ok(()), |path| write(&path, secret, Access::Kept))
}

fn moment(until: UnixTime) -> String {
    Timestamp::from_second(until.0).map_or_else(|_| until.0.to_string(), |until| until.to_string())
}

/// Writes down the name of the site that went with an old secret.
fn keep_name(table: &mut Table, embedded: Option<Domain>) {
    if let Some(name) = embedded.filter(|_| !table.contains_key("domain")) {
        set(table, "domain", Some(name.as_str().into()));
    }
}

/// The same for every user of the file, in one step; returns their names. `fresh` makes the secrets.
pub fn rotate_all(file: &Path, until: UnixTime, mut fresh: impl FnMut() -> Secret) -> Result<Vec<String>, EditError> {
    rotate_those(file, until, |document| Ok(names(document)?.map(|(_, name)| (name.to_owned(), fresh())).collect()))
}

fn rotate_those(
    file: &Path,
    until: UnixTime,
    choose: impl FnOnce(&DocumentMut) -> Result<Vec<(String, Secret)>, EditError>,
) -> Result<Vec<String>, EditError> {
    let until = moment(until);
    let (mut later, mut names) = (Vec::new(), Vec::new());
    edit(file, |document, folder| {
        let (chosen, known) = (choose(document)?, positions(document)?);
        let spread = NameSpread::of(document).is_some();
        for (name, secret) in chosen {
            let index = known.get(&name).ok_or_else(|| EditError::Unknown(name.clone()))?;
            let table = user_at(document, *index, &name)?;
            let (path, embedded) = rotate_in(table, folder, &name, &secret, &until)?;
            // The name inside the old secret would go with it.
            keep_name(table, embedded.filter(|_| spread));
            later.extend(path.map(|path| (path, secret)));
            names.push(name);
        }
        Ok(())
    })?;
    // Not before the file knows the previous one: anyone who reads in between finds the same secret twice, which is fine.
    for (path, secret) in later {
        write(&path, &secret, Access::Kept)?;
    }
    Ok(names)
}

/// Returns the file that the new secret has still to be written to, if it is to stand in one, and the name of the site that
/// was inside the old one.
fn rotate_in(
    table: &mut Table,
    folder: &Path,
    name: &str,
    secret: &Secret,
    until: &str,
) -> Result<(Option<PathBuf>, Option<Domain>), EditError> {
    let unreadable = || EditError::NoSecret(name.to_owned());
    let read = |old: &str| SecretText::parse(old).map_err(|_| unreadable());
    let (old, later) =
        match (table.get("secret_file").and_then(Item::as_str), table.get("secret").and_then(Item::as_str)) {
            (Some(written), _) => {
                let (written, path) = (format!("{written}.previous"), folder.join(written));
                let (old, _) = read_secret_file(&path).map_err(|_| unreadable())?;
                let old = read(&old)?;
                write(&folder.join(&written), &old.secret, Access::Private)?;
                set(table, "previous_secret_file", Some(written.into()));
                set(table, "previous_secret", None);
                (old, Some(path))
            }
            (None, Some(old)) => {
                let old = read(old)?;
                set(table, "secret", Some(secret.hex().into()));
                set(table, "previous_secret", Some(old.secret.hex().into()));
                set(table, "previous_secret_file", None);
                (old, None)
            }
            (None, None) => return Err(unreadable()),
        };
    set(table, "previous_until", Some(until.into()));
    Ok((later, old.domain))
}

/// Takes a user out of the file, with the comments in the section and directly above it.
pub fn remove(file: &Path, name: &str) -> Result<(), EditError> {
    let without = |text: &str, _: &Path| {
        if let Some(quick) = OneUser::find(text, name).and_then(OneUser::removed) {
            return Ok(EditedText::quick(quick, ()));
        }
        let index = position(&parse(text)?, name)?;
        let shorter = section::without(text, index).ok_or_else(|| EditError::Tangled(name.to_owned()))?;
        Ok(EditedText::whole(shorter, ()))
    };
    edit_text(file, without, |()| Ok(()))
}

fn change_table(table: &mut Table, changes: &Changes) {
    let text = |text: &String| (text.trim() != NONE && !text.trim().is_empty()).then(|| Value::from(text.as_str()));
    let count = |count: &u32| (*count != 0).then(|| Value::from(i64::from(*count)));
    let list = |list: &Vec<String>| {
        let list: Vec<_> = list.iter().filter(|text| text.trim() != NONE).collect();
        (!list.is_empty()).then(|| Value::Array(Array::from_iter(list)))
    };
    if let Some(enabled) = changes.enabled {
        // Enabled is what a user is who does not say otherwise.
        set(table, "enabled", (!enabled || table.contains_key("enabled")).then(|| enabled.into()));
    }
    let changed = [
        ("expires", changes.expires.as_ref().map(text)),
        ("quota", changes.quota.as_ref().map(text)),
        ("bandwidth_up", changes.bandwidth_up.as_ref().map(text)),
        ("bandwidth_down", changes.bandwidth_down.as_ref().map(text)),
        ("max_sessions", changes.max_sessions.as_ref().map(count)),
        ("max_addresses", changes.max_addresses.as_ref().map(count)),
        ("allow", changes.allow.as_ref().map(list)),
        ("deny", changes.deny.as_ref().map(list)),
        // Here `none` is a value, and only nothing takes it away.
        ("ad_tag", changes.ad_tag.as_ref().map(|tag| (!tag.trim().is_empty()).then(|| Value::from(tag.trim())))),
        ("middle", changes.middle.as_ref().map(text)),
        ("domain", changes.domain.as_ref().map(text)),
        ("note", changes.note.as_ref().map(text)),
    ];
    for (key, changed) in changed {
        if let Some(changed) = changed {
            set(table, key, changed);
        }
    }
}

/// A value in the place of the old one, with the comment behind it; or none.
fn set(table: &mut Table, key: &str, new: Option<Value>) {
    let Some(mut new) = new else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => _ = table.insert(key, value(new)),
    }
}

fn user<'d>(document: &'d mut DocumentMut, name: &str) -> Result<&'d mut Table, EditError> {
    let index = position(document, name)?;
    user_at(document, index, name)
}

fn user_at<'d>(document: &'d mut DocumentMut, index: usize, name: &str) -> Result<&'d mut Table, EditError> {
    let unknown = || EditError::Unknown(name.to_owned());
    let users = document.get_mut("users").ok_or_else(unknown)?.as_array_of_tables_mut().ok_or(EditError::NoSections)?;
    users.get_mut(index).ok_or_else(unknown)
}

fn position(document: &DocumentMut, name: &str) -> Result<usize, EditError> {
    let found = names(document)?.find(|(_, found)| *found == name);
    found.map(|(index, _)| index).ok_or_else(|| EditError::Unknown(name.to_owned()))
}

/// Positions of the users, by name; the first of each name.
fn positions(document: &DocumentMut) -> Result<HashMap<String, usize>, EditError> {
    let mut known = HashMap::new();
    for (index, name) in names(document)? {
        known.entry(name.to_owned()).or_insert(index);
    }
    Ok(known)
}

/// Names of the users, each with its place.
fn names(document: &DocumentMut) -> Result<impl Iterator<Item = (usize, &str)>, EditError> {
    let users = match document.get("users") {
        Some(users) => Some(users.as_array_of_tables().ok_or(EditError::NoSections)?),
        None => None,
    };
    let users = users.into_iter().flat_map(ArrayOfTables::iter).enumerate();
    Ok(users.filter_map(|(index, user)| Some((index, user.get("name").and_then(Item::as_str)?))))
}

/// Writes back what a file held before a change.
pub fn put_back(file: &Path, text: &str) -> Result<(), EditError> {
    let failed = |error| EditError::File { path: file.to_owned(), error };
    let (folder, name) = Folder::of(file).map_err(failed)?;
    folder.replace(&name, text.as_bytes(), Access::Kept).map_err(failed)
}

/// Whether the text of a file is all comments.
pub fn sets_nothing(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|_| EditError::NotToml)
}

/// A text after a change.
struct EditedText<T> {
    text: String,
    /// A shorter text that has the same new mistakes, if it has any.
    check: Option<String>,
    /// Number of users that were added behind the others, where there may be several.
    added: usize,
    outcome: T,
}

impl<T> EditedText<T> {
    fn whole(text: String, outcome: T) -> Self {
        Self { text, check: None, added: 0, outcome }
    }

    fn quick(QuickText { text, check, added }: QuickText, outcome: T) -> Self {
        Self { text, check, added, outcome }
    }

    /// Fails if the text has mistakes that there were not before: with those of the first new user who has any, else with all.
    fn examine(&self, before: &str, file: &Path) -> Result<(), EditError> {
        if self.check.as_ref().is_some_and(|check| mistakes(check, file).is_empty()) {
            return Ok(());
        }
        let mut new = mistakes(&self.text, file);
        // To read a file of many users takes time, so the old one is read only if there is something to compare.
        if !new.is_empty() {
            let known: HashSet<String> = mistakes(before, file).into_iter().map(|(mistake, _)| mistake).collect();
            new.retain(|(mistake, _)| !known.contains(mistake));
        }
        if new.is_empty() {
            return Ok(());
        }
        let entry = |at: usize| section::count(&self.text[..at]).checked_sub(section::count(&self.text) - self.added);
        let entry = |at: Option<usize>| at.filter(|_| self.added > 0).and_then(entry).filter(|number| *number > 0);
        let first = new.iter().find_map(|(_, at)| entry(*at));
        let of_first = new.iter().filter(|(_, at)| first.is_none() || entry(*at) == first);
        let mistakes = EditError::Mistakes(of_first.map(|(mistake, _)| mistake.clone()).collect());
        Err(match first {
            Some(number) => EditError::Entry(number, Box::new(mistakes)),
            None => mistakes,
        })
    }
}

/// What a change of one user depends on.
struct SiteOfUser<'f> {
    folder: &'f Path,
    /// The name of the site that users have who have none of their own.
    first_name: Option<String>,
    has_several_names: bool,
}

fn edit(file: &Path, change: impl FnOnce(&mut DocumentMut, &Path) -> Result<(), EditError>) -> Result<(), EditError> {
    let change = |text: &str, folder: &Path| {
        let mut document = parse(text)?;
        change(&mut document, folder)?;
        Ok(EditedText::whole(document.to_string(), ()))
    };
    edit_text(file, change, |()| Ok(()))
}

/// Changes the section of one user; `ready` is done once it is known that nothing is wrong with the change, and before it is
/// written.
fn edit_user<T>(
    file: &Path,
    name: &str,
    change: impl FnOnce(&mut Table, &SiteOfUser<'_>) -> Result<T, EditError>,
    ready: impl FnOnce(&T) -> Result<(), EditError>,
) -> Result<T, EditError> {
    let change = |text: &str, folder: &Path| {
        if let Some(mut one) = OneUser::find(text, name) {
            let site = SiteOfUser { folder, first_name: one.first_name(), has_several_names: one.has_several_names() };
            let outcome = change(one.table().ok_or(EditError::NoSections)?, &site)?;
            return Ok(EditedText::quick(one.changed(), outcome));
        }
        let mut document = parse(text)?;
        let first_name = document.get("domain").and_then(Item::as_str).map(str::to_ascii_lowercase);
        let site = SiteOfUser { folder, first_name, has_several_names: NameSpread::of(&document).is_some() };
        let outcome = change(user(&mut document, name)?, &site)?;
        Ok(EditedText::whole(document.to_string(), outcome))
    };
    edit_text(file, change, ready)
}

/// Puts a secret into a file of its own.
fn write(path: &Path, secret: &Secret, access: Access) -> Result<(), EditError> {
    let written = files::replace_file(path, format!("{}\n", secret.hex()).as_bytes(), access);
    written.map_err(|error| EditError::File { path: path.to_owned(), error })
}

fn edit_text<T>(
    file: &Path,
    change: impl FnOnce(&str, &Path) -> Result<EditedText<T>, EditError>,
    ready: impl FnOnce(&T) -> Result<(), EditError>,
) -> Result<T, EditError> {
    let failed = |error| EditError::File { path: file.to_owned(), error };
    // A link to the file shall go on leading to it.
    let (folder, name) = Folder::of(file).map_err(failed)?;
    // The file itself is about to be another one.
    let _lock = folder.lock().map_err(failed)?;
    let text = folder.read(&name, LONGEST).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|_| EditError::NotToml)?;
    // Relative paths start where the file was named, be it a link.
    let edited = change(&text, file.parent().unwrap_or(Path::new("")))?;
    edited.examine(&text, file)?;
    ready(&edited.outcome)?;
    folder.replace(&name, edited.text.as_bytes(), Access::Kept).map_err(failed)?;
    Ok(edited.outcome)
}

/// Lists what is wrong with a text, with the places, which move.
fn mistakes(text: &str, file: &Path) -> Vec<(String, Option<usize>)> {
    // What the environment adds is not the file's fault.
    let environment = Environment::from_iter([("VIZARD_STATE_DIR", "/")]);
    match load_text(text, Some(file.to_owned()), &Flags::default(), &environment) {
        Err(LoadError::Complaints(report)) => {
            let errors = report.complaints().iter().filter(|complaint| complaint.severity == Severity::Error);
            let place = |complaint: &Complaint| match &complaint.at {
                Some(Origin::File(place)) => Some(place.start),
                _ => None,
            };
            errors.map(|complaint| (format!("{}; {}", complaint.what, complaint.fix), place(complaint))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FILE: &str = "\
# My proxy.

domain = \"www.example.com\"   # the name

# The family.
[[users]]
name = \"alice\"  # me
secret = \"00112233445566778899aabbccddeeff\" # do not show
quota = \"5GB/month\"   # enough

# Bob from next door.
[[users]]
name   =   'bob'
secret_file = \"bob.secret\"
# may come back
enabled = false

# What follows is none of theirs.
[log]
level = \"debug\"
";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vizard.toml");
        fs::write(&path, FILE).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        fs::write(folder.path().join("bob.secret"), "11112233445566778899aabbccddeeff\n").unwrap();
        (folder, path)
    }

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 16])
    }

    /// Where no secret is made.
    fn none() -> Secret {
        panic!("a secret was made")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_change_leaves_everything_else_as_it_was() {
        let (_folder, path) = folder();
        let changes = Changes { quota: Some("7GB/day".into()), max_sessions: Some(40), ..Changes::default() };
        change(&path, "alice", &changes, none).unwrap();
        let expected = FILE.replace("\"5GB/month\"   # enough\n", "\"7GB/day\"   # enough\nmax_sessions = 40\n");
        assert_eq!(text(&path), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let changes = Changes { quota: Some("none".into()), max_sessions: Some(0), ..Changes::default() };
        change(&path, "alice", &changes, none).unwrap();
        assert_eq!(text(&path), FILE.replace("quota = \"5GB/month\"   # enough\n", ""));
        enable(&path, "bob").unwrap();
        assert!(text(&path).contains("# may come back\nenabled = true\n"));
        disable(&path, "alice").unwrap();
        assert!(text(&path).contains("enabled = false\n\n# Bob"));
    }

    #[test]
    fn one_who_is_added_stands_behind_the_others() {
        let (_folder, path) = folder();
        let changes = Changes { allow: Some(vec!["192.0.2.0/24".into()]), ..Changes::default() };
        add(&path, UserToAdd::new("carol", secret(0x22)), &changes).unwrap();
        let section = "\n[[users]]\nname = \"carol\"\nsecret = \"22222222222222222222222222222222\"\nallow = [\"192.0.2.0/24\"]\n";
        let expected = FILE.replace("enabled = false\n", &format!("enabled = false\n{section}"));
        assert_eq!(text(&path), expected);
        assert!(matches!(add(&path, UserToAdd::new("carol", secret(0x33)), &changes), Err(EditError::Exists(_))));
        fs::write(&path, "").unwrap();
        add(&path, UserToAdd::new("carol", secret(0x22)), &Changes::default()).unwrap();
        assert!(text(&path).contains("[[users]]\nname = \"carol\"\n"));
    }

    const SPREAD: &str = "\
domain = \"a.example\"
names = [\"b.example\"]

[[users]]
name = \"alice\"
secret = \"00112233445566778899aabbccddeeff\"
";

    /// Names of the site that stand with the users.
    fn domains(path: &Path) -> Vec<Option<String>> {
        let document = parse(&text(path)).unwrap();
        let users = document["users"].as_array_of_tables().unwrap();
        users.iter().map(|user| Some(user.get("domain")?.as_str()?.to_owned())).collect()
    }

    #[test]
    fn new_users_are_spread_over_the_names_of_the_site_unless_told() {
        let (_folder, path) = folder();
        fs::write(&path, SPREAD).unwrap();
        let new = |number: u8| UserToAdd::new(format!("user{number}"), secret(number));
        add_all(&path, &[new(1), new(2), new(3)], &Changes::default()).unwrap();
        let link = format!("tg://proxy?server=x&port=1&secret=ee{}622e6578616d706c65", "04".repeat(16));
        add(&path, UserToAdd::with("user4", SecretText::parse(&link).unwrap()), &Changes::default()).unwrap();
        add(&path, new(5), &Changes { domain: Some("a.example".into()), ..Changes::default() }).unwrap();
        let expected = [None, Some("b"), Some("a"), Some("b"), Some("b"), Some("a")];
        assert_eq!(domains(&path), expected.map(|name| name.map(|name| format!("{name}.example"))));
        let foreign = Changes { domain: Some("c.example".into()), ..Changes::default() };
        let Err(EditError::Mistakes(mistakes)) = add(&path, new(6), &foreign) else { panic!("it was taken") };
        assert!(mistakes[0].contains("not one of the site"), "{mistakes:?}");
    }

    #[test]
    fn a_user_who_is_moved_has_a_new_secret_alone_and_one_who_is_not_has_the_old_one() {
        let (folder, path) = folder();
        fs::write(&path, SPREAD).unwrap();
        let to = |name: &str| Changes { domain: Some(name.into()), ..Changes::default() };
        rotate(&path, "alice", &secret(0x20), UnixTime(4_000_000_000)).unwrap();
        for (name, moved, stands) in [
            ("a.example", None, Some("a.example")),
            ("B.example", Some(secret(0x21)), Some("B.example")),
            ("b.example", None, Some("b.example")),
            ("none", Some(secret(0x22)), None),
        ] {
            let fresh = || moved.clone().unwrap();
            assert_eq!(change(&path, "alice", &to(name), fresh).unwrap(), moved, "{name}");
            assert_eq!(domains(&path)[0].as_deref(), stands);
            let holds = |secret: &Secret| text(&path).contains(&format!("secret = \"{}\"", secret.hex()));
            assert!(moved.as_ref().is_none_or(holds), "{}", text(&path));
            assert_eq!(text(&path).contains("previous_"), name == "a.example", "{}", text(&path));
        }
        let note = Changes { note: Some("x".into()), ..Changes::default() };
        assert!(change(&path, "alice", &note, none).unwrap().is_none());
        let inside = format!("ee{}622e6578616d706c65", "07".repeat(16));
        fs::write(&path, SPREAD.replace("00112233445566778899aabbccddeeff", &inside)).unwrap();
        assert!(change(&path, "alice", &to("a.example"), || secret(0x23)).unwrap().is_some());
        assert!(text(&path).contains(&format!("\"{}\"", "23".repeat(16))), "{}", text(&path));
        let own = folder.path().join("alice.secret");
        fs::write(&own, "07".repeat(16)).unwrap();
        let in_a_file = "secret_file = \"alice.secret\"";
        fs::write(&path, SPREAD.replace("secret = \"00112233445566778899aabbccddeeff\"", in_a_file)).unwrap();
        let wrong = change(&path, "alice", &to("c.example"), || secret(0x24));
        assert!(matches!(wrong, Err(EditError::Mistakes(_))) && text(&own) == "07".repeat(16), "nothing was changed");
        change(&path, "alice", &to("b.example"), || secret(0x25)).unwrap();
        assert_eq!(text(&own), format!("{}\n", "25".repeat(16)));
    }

    #[test]
    fn a_new_secret_leaves_a_user_with_the_name_that_was_inside_the_old_one() {
        let (folder, path) = folder();
        let inside = format!("ee{}622e6578616d706c65", "07".repeat(16));
        for written in [format!("secret = \"{inside}\""), "secret_file = \"alice.secret\"".to_owned()] {
            fs::write(folder.path().join("alice.secret"), &inside).unwrap();
            fs::write(&path, SPREAD.replace("secret = \"00112233445566778899aabbccddeeff\"", &written)).unwrap();
            rotate(&path, "alice", &secret(8), UnixTime(1_767_225_600)).unwrap();
            assert_eq!(domains(&path), [Some("b.example".to_owned())], "{written}");
        }
    }

    #[test]
    fn many_are_added_and_rotated_in_one_step_or_not_at_all() {
        const MANY: usize = 100;
        let (_folder, path) = folder();
        let new = |from: usize, count: usize| -> Vec<_> {
            let of = |number: usize| Secret::new((number as u128 + 1).to_be_bytes());
            (from..from + count).map(|number| UserToAdd::new(format!("user{number}"), of(number))).collect()
        };
        let before = text(&path);
        for known in ["bob", "user7"] {
            let twice = [new(0, 10), vec![UserToAdd::new(known, secret(0x44))]].concat();
            let Err(EditError::Entry(11, error)) = add_all(&path, &twice, &Changes::default()) else {
                panic!("{known} was added")
            };
            assert!(matches!(*error, EditError::Exists(name) if name == known));
            assert_eq!(text(&path), before);
        }
        add_all(&path, &new(0, MANY), &Changes::default()).unwrap();
        let mut fresh = 0_u128;
        let names = rotate_all(&path, UnixTime(4_000_000_000), || {
            fresh += 1;
            Secret::new((fresh << 64).to_be_bytes())
        });
        assert_eq!(names.unwrap().len(), MANY + 2);
        let text = text(&path);
        let last =
            format!("name = \"user{}\"\nsecret = \"{}\"\n", MANY - 1, Secret::new((fresh << 64).to_be_bytes()).hex());
        assert!(text.contains(&last) && text.matches("previous_secret = ").count() == MANY + 1, "{text}");
    }

    #[test]
    fn the_first_of_several_that_cannot_be_added_is_named_and_none_is_added() {
        let (_folder, path) = folder();
        let new: Vec<_> = (1..40).map(|byte| UserToAdd::new(format!("user{byte}"), secret(byte))).collect();
        let wrong = Changes { quota: Some("lots".into()), ..Changes::default() };
        for (first, last) in [(3, 9), (20, 39), (1, 1)] {
            // Few are added on the text alone, many are not.
            for count in [last, 39] {
                let changes =
                    |number| if number == first || number == last { wrong.clone() } else { Changes::default() };
                let changes: Vec<_> = (1..=count).map(changes).collect();
                let both: Vec<_> = new.iter().zip(&changes).collect();
                let Err(EditError::Entry(number, error)) = add_each(&path, &both) else { panic!("they were added") };
                assert!(number == first && error.to_string().contains("not a quota"), "{number}: {error}");
            }
        }
        // A secret that another has is a mistake of the later one.
        let mut same = new.clone();
        same[7].secret = secret(4);
        let none = Changes::default();
        let both: Vec<_> = same.iter().map(|new| (new, &none)).collect();
        let Err(EditError::Entry(8, error)) = add_each(&path, &both) else { panic!("they were added") };
        assert!(error.to_string().contains("the same secret"), "{error}");
        assert_eq!(text(&path), FILE);
        let both: Vec<_> = new.iter().map(|new| (new, &none)).collect();
        add_each(&path, &both).unwrap();
        assert_eq!(text(&path).matches("[[users]]").count(), 41);
    }

    #[test]
    fn one_who_is_removed_takes_the_comments_along_that_are_about_nobody_else() {
        let (_folder, path) = folder();
        remove(&path, "bob").unwrap();
        let start = FILE.find("# Bob").unwrap();
        let end = FILE.find("# What follows").unwrap();
        assert_eq!(text(&path), [&FILE[..start], &FILE[end..]].concat());
        remove(&path, "alice").unwrap();
        let start = FILE.find("# The family").unwrap();
        assert_eq!(text(&path), [&FILE[..start], &FILE[end..]].concat());
        assert!(matches!(remove(&path, "alice"), Err(EditError::Unknown(_))));
        let tangled = "[[users]]\nname = \"a\"\nsecret = '00112233445566778899aabbccddeeff'\nnote = '''\n[[users]]\n'''\n\n[[users]]\nname = \"b\"\nsecret = '11112233445566778899aabbccddeeff'\n";
        fs::write(&path, tangled).unwrap();
        assert!(matches!(remove(&path, "b"), Err(EditError::Tangled(_))));
        assert_eq!(text(&path), tangled);
    }

    #[test]
    fn a_secret_that_is_replaced_stays_good_for_a_while_where_it_stood() {
        let (folder, path) = folder();
        let until = UnixTime(1_767_225_600);
        rotate(&path, "alice", &secret(0x22), until).unwrap();
        let alice = "secret = \"22222222222222222222222222222222\" # do not show\n";
        let previous =
            "previous_secret = \"00112233445566778899aabbccddeeff\"\nprevious_until = \"2026-01-01T00:00:00Z\"\n";
        assert!(text(&path).contains(alice) && text(&path).contains(previous), "{}", text(&path));
        rotate(&path, "bob", &secret(0x33), until).unwrap();
        assert!(text(&path).contains("previous_secret_file = \"bob.secret.previous\"\n"));
        assert_eq!(text(&folder.path().join("bob.secret")), format!("{}\n", "33".repeat(16)));
        let kept = folder.path().join("bob.secret.previous");
        assert_eq!(text(&kept), "11112233445566778899aabbccddeeff\n");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        rotate(&path, "alice", &secret(0x44), until).unwrap();
        assert!(text(&path).contains("previous_secret = \"22222222222222222222222222222222\"\n"));
        assert!(!text(&path).contains("001122"));
        let mut bytes = 0x50..;
        assert_eq!(rotate_all(&path, until, || secret(bytes.next().unwrap())).unwrap(), ["alice", "bob"]);
        assert!(text(&path).contains(&format!("secret = \"{}\" # do not show", "50".repeat(16))), "{}", text(&path));
        assert_eq!(text(&folder.path().join("bob.secret")), format!("{}\n", "51".repeat(16)));
        assert_eq!(text(&kept), format!("{}\n", "33".repeat(16)));
        fs::write(&path, "").unwrap();
        assert!(rotate_all(&path, until, || secret(1)).unwrap().is_empty());
    }

    #[test]
    fn a_change_that_would_be_a_mistake_is_refused_and_old_mistakes_are_not_in_the_way() {
        let (_folder, path) = folder();
        let changes = Changes { quota: Some("lots".into()), ..Changes::default() };
        let Err(EditError::Mistakes(mistakes)) = change(&path, "alice", &changes, none) else { panic!("it was taken") };
        assert!(mistakes.len() == 1 && mistakes[0].contains("not a quota"), "{mistakes:?}");
        assert!(matches!(
            add(&path, UserToAdd::new("a b", secret(5)), &Changes::default()),
            Err(EditError::Mistakes(_))
        ));
        let same = SecretText::parse("00112233445566778899aabbccddeeff").unwrap().secret;
        let Err(error) = add(&path, UserToAdd::new("carol", same), &Changes::default()) else { panic!("it was taken") };
        assert!(!error.to_string().contains("112233"), "{error}");
        assert_eq!(text(&path), FILE);
        fs::write(&path, FILE.replace("debug", "loud")).unwrap();
        disable(&path, "alice").unwrap();
        assert!(text(&path).contains("loud"));
        fs::write(&path, "users = [{ name = \"a\", secret = \"00112233445566778899aabbccddeeff\" }]").unwrap();
        assert!(matches!(disable(&path, "a"), Err(EditError::NoSections)));
    }

    #[test]
    fn a_link_stays_a_link_and_nothing_is_left_beside_it() {
        let (folder, path) = folder();
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        disable(&link, "alice").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && text(&path).contains("enabled = false\n\n# Bob"));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
