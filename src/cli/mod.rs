//! Commands and their dispatch; the only place that knows clap.
//!
//! Every failure ends with the next step to take, and every outcome is one of three exit codes ([`exit_codes`]).

mod audit;
mod backup;
mod check;
mod desk;
mod doctor;
mod doubts;
mod generate;
pub mod greeting;
mod handover;
mod health;
mod init;
pub mod invitation;
mod link;
mod output;
mod progress;
mod reload;
mod remote;
mod restore;
pub mod run;
mod secret;
mod status;
mod teach;
mod token;
mod top;
mod upgrade;
mod user;
mod ways;
pub mod web;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::teach::exit_codes;
use crate::config::{self, Environment, Flags, LoadError, Loaded, StateError};

/// Runs the command that `arguments` name, the first being the program itself, and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let command = match parse(arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            print(&error);
            return if error.use_stderr() { code::UNUSABLE } else { code::FINE };
        }
    };
    match dispatch(command, &Environment::of_this_process()) {
        Ok(code) => code,
        Err(failure) => {
            output::complain(&failure);
            failure.code
        }
    }
}

/// Prints what is wrong with a command line. Someone may have written a secret where none is understood, and what is
/// printed may be kept in a log.
fn print(error: &clap::Error) {
    let text = error.render().to_string();
    match config::redact::plain(&text) {
        hidden if error.use_stderr() && hidden != text => output::complain(hidden.trim_end()),
        _ => _ = error.print(),
    }
}

/// Whether these arguments, the first being the program itself, make a command; otherwise why not. For tests of
/// documents; nothing is run.
pub fn understands(arguments: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    match parse(arguments) {
        Ok(_) => Ok(()),
        Err(error) if !error.use_stderr() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    Arguments::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

/// The whole command line.
fn command() -> clap::Command {
    teach::taught(Arguments::command())
}

fn dispatch(command: Command, environment: &Environment) -> Result<u8, Failure> {
    let outcome = match command {
        Command::Run(Run { settings, take_over, log_of }) => {
            let origin = config::reload::Origin::watched(settings.flags(), environment.clone());
            let loaded = load(&settings.flags(), environment)?;
            run::run(origin, loaded, take_over.then(|| handover::Log::of(log_of)))
        }
        Command::Init(arguments) => return init::init(&arguments, environment),
        Command::Generate(arguments) => generate::generate(&arguments),
        Command::Check(settings) => check::check(&settings.flags(), environment),
        Command::Secret(arguments) => secret::secret(&arguments, &mut rand::rng()),
        Command::Link(arguments) => link::link(&arguments, environment),
        Command::Audit(arguments) => audit::audit(&arguments, environment),
        Command::Health(settings) => health::health(&settings.flags(), environment),
        Command::User(arguments) => user::user(arguments, environment),
        Command::Backup(arguments) => backup::backup(&arguments, environment),
        Command::Restore(arguments) => restore::restore(&arguments, environment),
        Command::Upgrade(arguments) => upgrade::upgrade(&arguments, environment),
        Command::Reload(arguments) => return reload::reload(&arguments, environment),
        Command::Token(arguments) => token::token(&arguments, &mut rand::rng()),
        Command::Status(arguments) => status::status(&arguments, environment),
        Command::Top(arguments) => top::top(&arguments, environment),
        Command::Doctor(arguments) => return doctor::doctor(&arguments, environment),
    };
    outcome.map(|()| code::FINE)
}

/// Loads the configuration and shows its warnings.
fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, Failure> {
    let loaded = config::load(flags, environment)?;
    output::report(&loaded.warnings);
    Ok(loaded)
}

/// A Telegram proxy that no one can tell from a web site
#[derive(Parser)]
#[command(name = "vizard", version, disable_help_subcommand = true, max_term_width = 100, after_help = TEACH)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const TEACH: &str = "\
First link in a minute:
  vizard run                        try it out: makes a secret and a small site, prints the link
  vizard init                       set it up: asks a few questions, writes the configuration, prints the link
  vizard run --domain example.com   hide behind that site
  vizard check --config FILE        see every mistake of a configuration at once

Every setting can be written in a file; docs/vizard.example.toml has them all. `vizard COMMAND --help` has examples.

Exit codes:
  0  success
  1  failure, or something is wrong: the messages above say what it is and what to do about it
  2  wrong usage, or the configuration cannot be used; `vizard COMMAND --help` has each command's own";

#[derive(Subcommand)]
enum Command {
    /// Set up: ask a few questions, write the configuration, check it, print the link
    ///
    /// Suggests an answer to every question, and skips those that a flag answers. Without a terminal, or with --yes,
    /// the suggestions are used. Imports the configuration of another proxy with --import.
    Init(init::Arguments),
    /// Run the proxy
    ///
    /// Without any configuration it makes a secret, keeps it in the state directory, serves a built-in site, and prints
    /// the link to hand out. Flags override environment variables, and those override the file.
    Run(Run),
    /// Check a configuration and print every mistake
    ///
    /// Changes nothing, neither here nor in a running proxy.
    Check(Settings),
    /// Make a new secret
    Secret(secret::Arguments),
    /// Print the links to hand out, with a QR code
    Link(link::Arguments),
    /// Probe the running proxy as a censor would, and compare it with its cover
    ///
    /// Runs some hundreds of named probes against the proxy, its cover and a bare relay in front of the cover. Does not
    /// contact Telegram.
    Audit(audit::Arguments),
    /// Check that the proxy is serving (for the health check of a container)
    ///
    /// Connects to the first listener of the configuration as a visitor and waits for an answer, a few seconds at most.
    Health(Settings),
    /// Manage users: add, list, show, change, enable, disable, rotate, remove, link
    ///
    /// Changes are written into the configuration file, with its comments kept, and a running proxy applies them by
    /// itself. A user who is rejected sees the cover, as everybody else does.
    User(user::Arguments),
    /// Write configuration, secrets, usage and the replay cache into one file
    ///
    /// The proxy may keep running. Files that belong to others, such as certificates and pages, are not included but
    /// listed. With --encrypt or --passphrase-file it is encrypted.
    Backup(backup::Backup),
    /// Restore what `vizard backup` has written
    ///
    /// Refuses while a proxy runs there, or if files would be replaced without --force. Restore only backups that you
    /// have made: a backup itself says where its files go.
    Restore(restore::Restore),
    /// Make the running proxy reload its configuration
    ///
    /// Asks the proxy that uses the state directory, and prints the result. Changes to users apply even if the rest is
    /// rejected.
    Reload(reload::Arguments),
    /// Replace the running proxy with a new process, without refusing a connection
    ///
    /// The new process runs the program of this command, so install the new version first; it reads the configuration
    /// and takes over the listeners, and the old one exits when its sessions have ended. Use the flags of `vizard run`.
    /// Under systemd: `systemctl reload vizard`.
    Upgrade(upgrade::Arguments),
    /// Make a token for the admin listener
    ///
    /// Prints the token, once, and the lines for the configuration, which hold its hash.
    Token(token::Arguments),
    /// Show what the running proxy is doing
    Status(status::Arguments),
    /// Watch what the running proxy is doing
    ///
    /// A view for the terminal, refreshed every two seconds. `q` quits.
    Top(top::Arguments),
    /// Check that this installation works and passes for a web site
    ///
    /// Checks configuration, ports, clock, name, certificate, cover, data centres and each user's login, and changes
    /// nothing.
    Doctor(doctor::Arguments),
    /// Make manual pages, completions and the schema of configuration files, for packages and editors
    #[command(hide = true)]
    Generate(generate::Arguments),
}

/// Flags of `vizard run`.
#[derive(Args)]
struct Run {
    #[command(flatten)]
    settings: Settings,
    /// Take over from the proxy that runs with this state directory; what `vizard upgrade` does
    #[arg(long)]
    take_over: bool,
    /// After the take-over, write the log where this process does
    #[arg(long, hide = true, value_name = "PID", requires = "take_over")]
    log_of: Option<u32>,
}

/// Flags of every command that needs the configuration.
#[derive(Default, Args)]
struct Settings {
    /// Configuration file [environment: VIZARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for what must survive a restart [environment: VIZARD_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Listen on this address, e.g. [::]:443; may be repeated [environment: VIZARD_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Domain name in links; its site is the cover unless --cover names another [environment: VIZARD_DOMAIN]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Site that strangers meet: the built-in site or a web server elsewhere [environment: VIZARD_COVER]
    #[arg(long, value_name = "site|HOST:PORT")]
    cover: Option<String>,
    /// Use a cover whose first flight has several encrypted records [environment: VIZARD_ACCEPT_GRADE_C=true]
    #[arg(long)]
    accept_grade_c: bool,
    /// A user and the key, which other users of this machine can see here; may be repeated [environment: VIZARD_SECRET]
    #[arg(long, value_name = "NAME=HEX32")]
    secret: Vec<String>,
    /// A user and a file with the key; may be repeated [environment: VIZARD_SECRET_FILE]
    #[arg(long, value_name = "NAME=FILE")]
    secret_file: Vec<String>,
    /// Address of a data centre instead of the built-in ones; may be repeated
    #[arg(long, value_name = "N=ADDR:PORT", allow_hyphen_values = true)]
    dc: Vec<String>,
    /// Format of the log [environment: VIZARD_LOG]
    #[arg(long, value_name = "text|json")]
    log: Option<String>,
    /// Host name or address that links name [environment: VIZARD_LINK_HOST]
    #[arg(long, value_name = "HOST")]
    link_host: Option<String>,
}

impl Settings {
    /// Values stay text here, so that mistakes in flags and in the file are reported together.
    fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            listen: self.listen.clone(),
            domain: self.domain.clone(),
            cover: self.cover.clone(),
            accept_grade_c: self.accept_grade_c,
            secrets: self.secret.clone(),
            secret_files: self.secret_file.clone(),
            data_centres: self.dc.clone(),
            log: self.log.clone(),
            link_host: self.link_host.clone(),
        }
    }
}

/// Exit codes.
mod code {
    pub const FINE: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const UNUSABLE: u8 = 2;
}

/// Reason why a command could not do its work, and what to do next.
#[derive(Debug)]
pub struct Failure {
    message: String,
    next: String,
    code: u8,
}

impl Failure {
    /// A command that could not do its work: exit code 1.
    pub fn new(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { message: message.into(), next: next.into(), code: code::FAILED }
    }

    /// A command that was not told what it needs, in its flags or in the configuration: exit code 2.
    pub fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: code::UNUSABLE, ..Self::new(message, next) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\nnext: {}", self.message, self.next)
    }
}

impl std::error::Error for Failure {}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unreadable { .. } => {
                Self::usage(error.to_string(), "check the path and its permissions, or name another: --config FILE")
            }
            LoadError::Complaints(report) => {
                output::report(&report);
                let message = match report.errors() {
                    1 => "the configuration has a mistake".into(),
                    errors => format!("the configuration has {errors} mistakes"),
                };
                Self::usage(message, "fix what is shown above, then try `vizard check` with the same flags")
            }
        }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(error.to_string(), error.fix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
