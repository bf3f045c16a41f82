//! `vizard reload`: has the running proxy read its configuration again.

use std::io;

use super::{Failure, code, output, progress};
use crate::config::{self, Environment, Flags};
use crate::ops::control::{self, Answer};
use crate::ops::reload::Applied;

/// Asks the proxy that runs with this state directory, and tells the outcome. The exit code is its own for each.
pub fn reload(flags: &Flags, environment: &Environment) -> Result<u8, Failure> {
    let state = config::state_dir(flags, environment)?;
    match progress::during("the proxy reads its configuration", || control::ask_to_reload(&state)) {
        Ok(Answer::Applied(applied)) => {
            output::print(told(&applied));
            Ok(code::FINE)
        }
        Ok(Answer::Who(_)) => Err(Failure::new("the proxy did not understand", "see its log")),
        Ok(Answer::Refused(refused)) => Err(Failure::new(
            format!("refused, and nothing has changed\n  {}", refused.complaints.join("\n  ")),
            "mend what is said above; `vizard check` shows the places",
        )),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(Failure::usage(
                format!("no proxy runs with the state directory {}", state.display()),
                "give the same --config or --state-dir as to `vizard run`",
            ))
        }
        Err(error) => Err(Failure::usage(
            format!("the proxy could not be asked: {error}"),
            "be its user or root, and see its log",
        )),
    }
}

fn told(Applied { changed, restart, warnings }: &Applied) -> String {
    let mut text = match changed.is_empty() {
        true => "nothing has changed\n".to_owned(),
        false => format!("changed: {}\n", changed.join(", ")),
    };
    if !restart.is_empty() {
        text += &format!("takes a restart: {}\n", restart.join(", "));
    }
    warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
    text
}
