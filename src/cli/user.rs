//! `vizard user`: who may enter, how much, and until when. Changes go into the configuration file, which a running proxy
//! reads again by itself.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::link::{self, Look};
use super::reload::after_edit;
use super::{Failure, Settings, load, output};
use crate::auth::{Domain, MiddleUse, Policy, Secret, SecretText, UnixTime, Usage, link_part};
use crate::config::edit::{self, Changes, EditError, UserToAdd};
use crate::config::embedded::{NOBODY, had_users};
use crate::config::report::quoted;
use crate::config::resolve::read_secret_file;
use crate::config::{self, Draft, Environment, Flags, User, units};
use crate::ops::usage;

/// Default time for which a replaced secret stays good.
const KEEP: &str = "7d";

/// Flags of `vizard user`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    wish: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Add a user, or with --from many, and print the new secret and the link
    Add {
        /// The name: letters, digits, `-`, `_`, `.` and `@`
        #[arg(required_unless_present = "from", conflicts_with = "from")]
        name: Option<String>,
        /// Add all users in this file, one NAME or NAME=SECRET a line, in one step; `-` is the standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["secret", "secret_file"])]
        from: Option<PathBuf>,
        /// Take this secret instead of a new one, which other users of this machine can see here
        #[arg(long, value_name = "HEX32", conflicts_with = "secret_file")]
        secret: Option<String>,
        /// Take the secret in this file; `-` is the standard input
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Change what a user may do
    Change {
        /// The name
        name: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// List all users with their limits and traffic
    List {
        /// Print a JSON array instead
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Show one user
    Show {
        /// The name
        name: String,
        /// Print a JSON object instead
        #[arg(long)]
        json: bool,
        /// Print the secret too
        #[arg(long)]
        secret: bool,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Enable a user again
    Enable {
        /// The name
        name: String,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Disable a user, who gets the cover from now on
    Disable {
        /// The name
        name: String,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Give a user, or with --all every user, a new secret, and print it with the link; the old one stays valid for a
    /// while
    Rotate {
        /// The name
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// All users in the configuration file
        #[arg(long)]
        all: bool,
        /// Time for which the old secret stays valid; 0s ends it at once
        #[arg(long, value_name = "TIME", default_value = KEEP)]
        keep: String,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Remove a user
    Remove {
        /// The name
        name: String,
        #[command(flatten)]
        place: ConfigFile,
    },
    /// Print the link of a user, with a QR code
    Link {
        /// The name
        name: String,
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        place: ConfigFile,
    },
}

/// Paths of the configuration and the state.
#[derive(clap::Args)]
struct ConfigFile {
    /// Configuration file [environment: VIZARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for what must survive a restart [environment: VIZARD_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Limits of a user. `none` takes a limit away.
#[derive(clap::Args)]
struct Limits {
    /// Expiry date, e.g. 2026-12-31 or 2026-12-31T18:00:00Z
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
    /// Quota, e.g. 50GB/month, 500MB/calendar day, 1TB
    #[arg(long, value_name = "SIZE[/PERIOD]")]
    quota: Option<String>,
    /// Bandwidth from the client, e.g. 10Mbit
    #[arg(long, value_name = "RATE")]
    bandwidth_up: Option<String>,
    /// Bandwidth to the client, e.g. 10Mbit
    #[arg(long, value_name = "RATE")]
    bandwidth_down: Option<String>,
    /// Most sessions at once; a client opens 13 to 18; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    max_sessions: Option<u32>,
    /// From how many addresses at once; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    max_addresses: Option<u32>,
    /// A network that the user may come from; may be repeated
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// A network that the user may not come from; may be repeated
    #[arg(long, value_name = "NETWORK")]
    deny: Vec<String>,
    /// Tag of a promoted channel, from @MTProxybot; `none` for none, "" for the one of everybody
    #[arg(long, value_name = "TAG")]
    ad_tag: Option<String>,
    /// Sessions without a tag that go through middle proxies: `tagged`, `media` or `all`; `none` for those of everybody
    #[arg(long, value_name = "SESSIONS")]
    middle: Option<String>,
    /// Name of the site that the link carries, `domain` or one of `names`; another one makes another link
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Note to remember
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl From<Limits> for Changes {
    fn from(limits: Limits) -> Self {
        let list = |list: Vec<String>| (!list.is_empty()).then_some(list);
        Self {
            enabled: None,
            expires: limits.expires,
            quota: limits.quota,
            bandwidth_up: limits.bandwidth_up,
            bandwidth_down: limits.bandwidth_down,
            max_sessions: limits.max_sessions,
            max_addresses: limits.max_addresses,
            allow: list(limits.allow),
            deny: list(limits.deny),
            ad_tag: limits.ad_tag,
            middle: limits.middle,
            domain: limits.domain,
            note: limits.note,
        }
    }
}

impl ConfigFile {
    fn flags(&self) -> Flags {
        Flags { config: self.config.clone(), state_dir: self.state_dir.clone(), ..Flags::default() }
    }

    fn settings(&self) -> Settings {
        Settings { config: self.config.clone(), state_dir: self.state_dir.clone(), ..Settings::default() }
    }

    /// The file that is to be changed.
    fn file(&self, environment: &Environment) -> Result<PathBuf, Failure> {
        if let Some(name) = environment.names_users() {
            let message = format!("{name} names the users, so those in the file are ignored");
            return Err(Failure::usage(message, "remove the variable, and write its users into the file"));
        }
        config::path(&self.flags(), environment).ok_or_else(|| {
            Failure::usage("there is no configuration file to write to", "name it: --config FILE (it may be empty)")
        })
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        let next = error.fix();
        match error {
            EditError::Unknown(_) | EditError::Exists(_) | EditError::Entry(..) => Self::usage(error.to_string(), next),
            error => Self::new(error.to_string(), next),
        }
    }
}

/// Does what is wished.
pub fn user(arguments: Arguments, environment: &Environment) -> Result<(), Failure> {
    match arguments.wish {
        Subcommand::Add { from: Some(file), limits, place, .. } => {
            add_from(&file, &limits.into(), &place, environment)?
        }
        Subcommand::Add { name, secret, secret_file, limits, place, .. } => {
            let new = UserToAdd::with(name.unwrap_or_default(), given_secret(secret, secret_file.as_deref())?);
            edit::add(&place.file(environment)?, new.clone(), &limits.into())?;
            after_edit(&place.flags(), environment, None)?;
            output::print(format!("added {}\nsecret: {}", new.name, new.secret.hex()));
            foreign_links(std::slice::from_ref(&new), &place, environment);
            show_links(&[new.name], &place, environment);
        }
        Subcommand::Change { name, limits, place } => {
            let fresh = || Secret::generate(&mut rand::rng());
            let moved = edit::change(&place.file(environment)?, &name, &limits.into(), fresh)?;
            after_edit(&place.flags(), environment, None)?;
            output::print(format!("changed {name}"));
            if let Some(secret) = moved {
                output::print(
                    "the secret and the link are new, for no secret is good under two names of the site; the old ones do not \
                     work any more, so hand this link out:",
                );
                output::print(format!("secret: {}", secret.hex()));
                show_links(&[name], &place, environment);
            }
        }
        Subcommand::List { json, place } => list(json, &place, environment)?,
        Subcommand::Show { name, json, secret, place } => show(&name, json, secret, &place, environment)?,
        Subcommand::Enable { name, place } => {
            edit::enable(&place.file(environment)?, &name)?;
            after_edit(&place.flags(), environment, None)?;
            output::print(format!("{name} is enabled again"));
        }
        Subcommand::Disable { name, place } => {
            edit::disable(&place.file(environment)?, &name)?;
            after_edit(&place.flags(), environment, None)?;
            output::print(format!("{name} is disabled"));
        }
        Subcommand::Rotate { name, keep, place, .. } => {
            let keep = units::duration(&keep)
                .or_else(|error| days(&keep).ok_or(error))
                .map_err(|error| Failure::usage(format!("--keep: {error}"), error.fix()))?;
            let until = UnixTime(now().0.saturating_add(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX)));
            match name {
                Some(name) => rotate(&name, until, &place, environment)?,
                None => rotate_all(until, &place, environment)?,
            }
        }
        Subcommand::Remove { name, place } => {
            edit::remove(&place.file(environment)?, &name)?;
            after_edit(&place.flags(), environment, Some(&name))?;
            output::print(format!("removed {name}"));
        }
        Subcommand::Link { name, look, place } => {
            link::link(&link::Arguments::of(&[name], look, place.settings()), environment)?;
        }
    }
    Ok(())
}

/// The secret that was given, or a new one.
fn given_secret(text: Option<String>, file: Option<&Path>) -> Result<SecretText, Failure> {
    let unreadable = |error: io::Error| {
        Failure::usage(format!("the secret cannot be read: {error}"), "check the path and its permissions")
    };
    let text = match (text, file) {
        (Some(text), _) => {
            output::complain(
                "warning: other users of this machine can see this secret in the list of processes; next time write it \
                 into a file: --secret-file FILE",
            );
            text
        }
        (None, Some(file)) if file == Path::new("-") => {
            let mut line = String::new();
            io::stdin().lock().take(LONGEST).read_line(&mut line).map_err(unreadable)?;
            line
        }
        (None, Some(file)) => read_secret_file(file).map_err(unreadable)?.0,
        (None, None) => return Ok(SecretText { secret: Secret::generate(&mut rand::rng()), domain: None }),
    };
    SecretText::parse(text.trim()).map_err(|error| Failure::usage(error.to_string(), error.fix()))
}

/// Longest line that is read as a secret.
const LONGEST: u64 = 4096;

fn rotate(name: &str, until: UnixTime, place: &ConfigFile, environment: &Environment) -> Result<(), Failure> {
    let secret = Secret::generate(&mut rand::rng());
    edit::rotate(&place.file(environment)?, name, &secret, until)?;
    after_edit(&place.flags(), environment, None)?;
    output::print(format!("{name} has a new secret; the old one is good until {}", moment(until)));
    output::print(format!("secret: {}", secret.hex()));
    show_links(&[name.to_owned()], place, environment);
    Ok(())
}

fn rotate_all(until: UnixTime, place: &ConfigFile, environment: &Environment) -> Result<(), Failure> {
    let names = edit::rotate_all(&place.file(environment)?, until, || Secret::generate(&mut rand::rng()))?;
    if names.is_empty() {
        let state = config::state_dir(&place.flags(), environment)?;
        let next = format!("stop the proxy, remove {}, and start it again", state.join("secret").display());
        return Err(Failure::usage("there are no users in the configuration file: the secret is generated", next));
    }
    after_edit(&place.flags(), environment, None)?;
    output::print(format!("new secrets: {}; the old ones are good until {}\n", names.join(", "), moment(until)));
    show_links(&names, place, environment);
    Ok(())
}

/// Links are for convenience: that there is no address for them yet is no failure of what was done. Many are no pictures.
fn show_links(names: &[String], place: &ConfigFile, environment: &Environment) {
    let look = Look::default().without_qr(names.len() > PICTURES);
    if link::link(&link::Arguments::of(names, look, place.settings()), environment).is_err() {
        output::print("the link is printed by `vizard link` where the whole configuration is known");
    }
}

/// Most links that are drawn as QR codes where they were not asked for.
const PICTURES: usize = 5;

fn add_from(file: &Path, limits: &Changes, place: &ConfigFile, environment: &Environment) -> Result<(), Failure> {
    let shown = file.display();
    let read = match file == Path::new("-") {
        true => io::read_to_string(io::stdin().lock().take(LONGEST_LIST + 1)),
        false => std::fs::File::open(file).and_then(|file| io::read_to_string(file.take(LONGEST_LIST + 1))),
    };
    let text =
        read.map_err(|error| Failure::usage(format!("{shown}: {error}"), "check the path and its permissions"))?;
    if text.len() as u64 > LONGEST_LIST {
        let error = format!("{shown} is longer than {} MiB; nothing was added", LONGEST_LIST >> 20);
        return Err(Failure::usage(error, "split the list"));
    }
    let new = new_users(text.trim_start_matches('\u{feff}')).map_err(|(line, error)| {
        Failure::usage(format!("{shown}, line {line}: {error}"), "write NAME or NAME=SECRET; nothing was added")
    })?;
    if new.is_empty() {
        return Err(Failure::usage(format!("{shown} has no names"), "write one NAME or NAME=SECRET a line"));
    }
    edit::add_all(&place.file(environment)?, &new, limits)?;
    after_edit(&place.flags(), environment, None)?;
    output::print(format!("added {} users\n", new.len()));
    foreign_links(&new, place, environment);
    let names: Vec<_> = new.into_iter().map(|new| new.name).collect();
    show_links(&names, place, environment);
    Ok(())
}

/// Longest list of new users that is read.
const LONGEST_LIST: u64 = 64 << 20;

/// The users of a list, with new secrets for those that have none, or the number of a line and what is wrong with it.
fn new_users(text: &str) -> Result<Vec<UserToAdd>, (usize, String)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| match line.split_once('=') {
            // A whole link has such signs of its own.
            _ if link_part(line, "secret").is_some() => Err((number, "this link has no name before it".to_owned())),
            None => Ok(UserToAdd::new(line, Secret::generate(&mut rand::rng()))),
            Some((name, secret)) => SecretText::parse(secret.trim())
                .map(|text| UserToAdd::with(name.trim(), text))
                .map_err(|error| (number, error.to_string())),
        })
        .collect()
}

/// Tells whose given links carry another name than they have here.
fn foreign_links(new: &[UserToAdd], place: &ConfigFile, environment: &Environment) {
    if new.iter().all(|new| new.domain.is_none()) {
        return;
    }
    let Ok(draft) = config::load(&place.flags(), environment).map(|loaded| loaded.draft) else { return };
    let here: HashMap<&str, Option<&Domain>> =
        draft.users.iter().map(|user| (user.name.as_str(), draft.name_of(user))).collect();
    let mut foreign: BTreeMap<&Domain, Vec<&str>> = BTreeMap::new();
    for UserToAdd { name, domain, .. } in new {
        if let Some(domain) = domain.as_ref().filter(|domain| here.get(name.as_str()) != Some(&Some(domain))) {
            foreign.entry(domain).or_default().push(name);
        }
    }
    for (domain, users) in foreign {
        let users = match users.len() {
            0..=NAMED => users.join(", "),
            count => format!("{} and {} more", users[..NAMED].join(", "), count - NAMED),
        };
        output::complain(format!(
            "warning: the given link of {users} carries {domain}, which is not the name that the user has here: hand out the new \
             link; with the old one apps enter only as far as hello.accept_names lets them, and never if {domain} is or was \
             one of this site's names"
        ));
    }
}

/// Most users that are named in one sentence.
const NAMED: usize = 5;

/// A number of days, which lengths of time with a fixed number of seconds do not have.
fn days(text: &str) -> Option<Duration> {
    let days: u32 = text.trim().strip_suffix('d')?.trim().parse().ok()?;
    (days <= 3650).then(|| Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

fn list(as_json: bool, place: &ConfigFile, environment: &Environment) -> Result<(), Failure> {
    let (draft, known) = people(place, environment)?;
    let now = now();
    let rows = draft.users.iter().map(|user| (user, usage_of(user, &known, now)));
    if as_json {
        output::print(Value::Array(rows.map(|(user, usage)| object(user, usage, now)).collect()));
        return Ok(());
    }
    let mut table = vec![["USER", "STATE", "USED", "QUOTA", "EXPIRES", "NOTE"].map(str::to_owned)];
    for (user, usage) in rows {
        table.push([
            user.name.clone(),
            state(&user.policy, usage, now).to_owned(),
            size(usage.in_period),
            user.policy.quota.map_or_else(dash, units::quota_text),
            user.policy.expires.map_or_else(dash, moment),
            user.policy.note.clone().unwrap_or_default(),
        ]);
    }
    if table.len() == 1 {
        output::print(match had_users(&draft.state_dir) {
            true => NOBODY,
            false => "there are no users: `vizard run` creates one, `default`, with a secret of its own",
        });
        return Ok(());
    }
    output::print(columns(&table));
    Ok(())
}

fn show(name: &str, as_json: bool, secret: bool, place: &ConfigFile, environment: &Environment) -> Result<(), Failure> {
    let (draft, known) = people(place, environment)?;
    let user = draft.users.iter().find(|user| user.name == name).ok_or_else(|| {
        Failure::usage(format!("there is no user {}", quoted(name)), "`vizard user list` has the names")
    })?;
    let now = now();
    let usage = usage_of(user, &known, now);
    if as_json {
        let mut object = object(user, usage, now);
        if secret {
            object["secret"] = user.secret.hex().into();
            object["previous_secret"] = user.previous.as_ref().map(|(secret, _)| secret.hex()).into();
        }
        output::print(object);
        return Ok(());
    }
    let Policy { expires, quota, bandwidth_up, bandwidth_down, max_sessions, max_addresses, .. } = user.policy;
    let rate = |rate: Option<u64>| rate.map(|rate| format!("{} in a second", units::size_text(rate)));
    let count = |count: Option<u32>| count.map(|count| count.to_string());
    let networks = |list: &[ipnet::IpNet]| {
        (!list.is_empty()).then(|| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    };
    let rows = [
        ("name", Some(user.name.clone())),
        ("state", Some(state(&user.policy, usage, now).to_owned())),
        ("secret", secret.then(|| user.secret.hex())),
        ("previous secret until", user.previous.as_ref().map(|(_, until)| moment(*until))),
        ("expires", expires.map(moment)),
        ("quota", quota.map(units::quota_text)),
        ("quota used", quota.map(|_| size(usage.in_period))),
        ("period since", quota.and(usage.since).map(moment)),
        ("period ends", quota.and_then(|quota| quota.period.end(usage.since?)).map(moment)),
        ("bandwidth up", rate(bandwidth_up)),
        ("bandwidth down", rate(bandwidth_down)),
        ("most sessions", count(max_sessions)),
        ("most addresses", count(max_addresses)),
        ("allowed networks", networks(&user.policy.allow)),
        ("denied networks", networks(&user.policy.deny)),
        ("promoted channel", units::tagging_text(user.policy.ad_tag)),
        ("through middle proxies", user.policy.middle.map(|sessions| sessions.label().to_owned())),
        ("name of the site", draft.name_of(user).map(ToString::to_string)),
        ("traffic up", Some(size(usage.up))),
        ("traffic down", Some(size(usage.down))),
        ("note", user.policy.note.clone()),
    ];
    let rows: Vec<_> = rows.into_iter().filter_map(|(key, value)| Some([key.to_owned(), value?])).collect();
    output::print(columns(&rows));
    Ok(())
}

/// The configuration, and what is written of everybody.
fn people(place: &ConfigFile, environment: &Environment) -> Result<(Draft, BTreeMap<String, Usage>), Failure> {
    let draft = load(&place.flags(), environment)?.draft;
    let known = usage::read(&draft.state_dir).unwrap_or_else(|error| {
        output::complain(format!("warning: the traffic of users cannot be read: {error}"));
        Default::default()
    });
    Ok((draft, known))
}

fn usage_of(user: &User, known: &BTreeMap<String, Usage>, now: UnixTime) -> Usage {
    known.get(&user.name).copied().unwrap_or_default().seen(&user.policy, now)
}

fn state(policy: &Policy, usage: Usage, now: UnixTime) -> &'static str {
    match policy {
        Policy { enabled: false, .. } => "disabled",
        Policy { expires: Some(end), .. } if now >= *end => "expired",
        Policy { quota: Some(quota), .. } if usage.in_period >= quota.bytes => "over quota",
        _ => "enabled",
    }
}

fn object(user: &User, usage: Usage, now: UnixTime) -> Value {
    let policy = &user.policy;
    let networks = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "name": user.name,
        "state": state(policy, usage, now),
        "enabled": policy.enabled,
        "expires": policy.expires.map(moment),
        "quota": policy.quota.map(|quota| json!({ "bytes": quota.bytes, "period": quota.period.label() })),
        "bandwidth_up": policy.bandwidth_up,
        "bandwidth_down": policy.bandwidth_down,
        "max_sessions": policy.max_sessions,
        "max_addresses": policy.max_addresses,
        "allow": networks(&policy.allow),
        "deny": networks(&policy.deny),
        "ad_tag": units::tagging_text(policy.ad_tag),
        "middle": policy.middle.map(MiddleUse::label),
        "domain": policy.domain.as_ref().map(ToString::to_string),
        "note": policy.note,
        "previous_until": user.previous.as_ref().map(|(_, until)| moment(*until)),
        "usage": {
            "up": usage.up,
            "down": usage.down,
            "in_period": usage.in_period,
            "since": usage.since.map(moment),
        },
    })
}

fn now() -> UnixTime {
    SystemTime::now().into()
}

fn moment(time: UnixTime) -> String {
    Timestamp::from_second(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

fn dash() -> String {
    "-".into()
}

/// A size for people, rounded.
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().si().to_string()
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
