//! `vizard reload`: has the running proxy read its configuration again.

use std::io;

use super::{Failure, Settings, code, output, progress};
use crate::config::{self, Environment, Flags};
use crate::ops::control::{self, Answer};
use crate::ops::reload::{Applied, Refused, Removals, Terms};

/// Flags of `vizard reload`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Apply the configuration even if the last user or more than half of them are missing from it
    #[arg(long)]
    allow_removals: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Asks the proxy that runs with this state directory, and tells the outcome. The exit code is its own for each.
pub fn reload(arguments: &Arguments, environment: &Environment) -> Result<u8, Failure> {
    let removals = if arguments.allow_removals { Removals::All } else { Removals::Few };
    reload_on(&arguments.settings.flags(), environment, &Terms { whole: false, removals })
}

/// The same for other commands.
pub(super) fn reload_on(flags: &Flags, environment: &Environment, terms: &Terms) -> Result<u8, Failure> {
    let state = config::state_dir(flags, environment)?;
    match progress::during("the proxy reads its configuration", || control::ask_to_reload(&state, terms)) {
        Ok(Answer::Applied(applied)) => {
            output::print(told(&applied));
            Ok(code::FINE)
        }
        Ok(Answer::Who(_) | Answer::Open(_)) => Err(Failure::new("the proxy did not understand", "see its log")),
        Ok(Answer::Refused(refused)) => {
            Err(Failure::new(refusal(&refused), "fix the mistakes above; `vizard check` shows where they are"))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(Failure::usage(
                format!("no proxy runs with the state directory {}", state.display()),
                "give the same --config or --state-dir as to `vizard run`",
            ))
        }
        Err(error) => Err(Failure::usage(
            format!("the proxy could not be asked: {error}"),
            "run this as its user or root, and see its log",
        )),
    }
}

/// Asks the proxy that runs with this configuration, if one does, to take a change to its file that was just made in one
/// step. Fails if the change does not hold afterwards. `removed` is the user who was taken away by it.
pub(super) fn after_edit(flags: &Flags, environment: &Environment, removed: Option<&str>) -> Result<(), Failure> {
    let removals = removed.map_or(Removals::Few, |name| Removals::Named(name.to_owned()));
    tell(flags, environment, Terms { whole: true, removals })
}

/// The same after the whole file was written again, with whatever users.
pub(super) fn after_new(flags: &Flags, environment: &Environment) -> Result<(), Failure> {
    tell(flags, environment, Terms { whole: true, removals: Removals::All })
}

fn tell(flags: &Flags, environment: &Environment, terms: Terms) -> Result<(), Failure> {
    const WRITTEN: &str = "the file is changed, but the running proxy has not applied it";
    let state = config::state_dir(flags, environment)?;
    match progress::during("the running proxy applies it", || control::ask_to_reload(&state, &terms)) {
        Ok(Answer::Applied(Applied { warnings, .. })) => {
            warnings.iter().for_each(|warning| output::complain(format!("warning: {warning}")));
            Ok(())
        }
        // Of everything else the operator hears, but what was asked for holds.
        Ok(Answer::Refused(refused)) if refused.users.is_some() => {
            output::complain(format!("warning: {}", refusal(&refused)));
            Ok(())
        }
        Ok(Answer::Refused(refused)) => {
            let next = "fix the mistakes above, then `vizard reload`";
            Err(Failure::new(format!("{WRITTEN}\n  {}", refused.complaints.join("\n  ")), next))
        }
        Ok(Answer::Who(_) | Answer::Open(_)) => Err(Failure::new(WRITTEN, "see its log, then `vizard reload`")),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(()),
        Err(error) => Err(Failure::new(
            format!("the file is changed, but the running proxy could not be asked whether it has applied it: {error}"),
            "run `vizard reload` as its user or root",
        )),
    }
}

fn refusal(refused: &Refused) -> String {
    let complaints = refused.complaints.join("\n  ");
    match refused.users.as_ref().filter(|users| !users.is_empty()) {
        None => format!("rejected, and nothing has changed\n  {complaints}"),
        Some(users) => format!("only the users have changed: {}\n  {complaints}", users.join(", ")),
    }
}

fn told(Applied { changed, restart, warnings }: &Applied) -> String {
    let mut text = match changed.is_empty() {
        true => "nothing has changed\n".to_owned(),
        false => format!("changed: {}\n", changed.join(", ")),
    };
    if !restart.is_empty() {
        text += &format!("needs a restart: {}\n", restart.join(", "));
    }
    warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
    text
}
