//! The one place that prints.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use crate::config::Report;

/// Prints to the standard output. Someone who closed the pipe has seen enough, so errors are not ours to report.
pub fn print(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints to the standard error stream.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints the complaints of a report, if there are any.
pub fn report(report: &Report) {
    if !report.complaints().is_empty() {
        complain(report.render(is_colourful()));
    }
}

/// Whether someone looks at the standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether someone who wants colours looks at the standard output.
pub fn is_colourful_terminal() -> bool {
    is_terminal() && colours_are_welcome()
}

fn is_colourful() -> bool {
    io::stderr().is_terminal() && colours_are_welcome()
}

fn colours_are_welcome() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
