//! Source of the answers: a person at a terminal, or none, and then the proposals hold.

use std::io::{self, IsTerminal};

use dialoguer::theme::ColorfulTheme;
use dialoguer::{Confirm, Input, Select};

use crate::cli::output;

/// Check of an answer, which fails with what is wrong.
pub type Check<'c> = &'c dyn Fn(&str) -> Result<(), String>;

/// Answers questions.
pub trait Ask {
    /// Whether someone is there: proposals for a person may ask for more.
    fn is_person(&self) -> bool;
    /// Says something on the way.
    fn tell(&mut self, text: &str);
    /// One of several, by number.
    fn choose(&mut self, question: &str, items: &[&str], usual: usize) -> io::Result<usize>;
    /// A text that passes the check.
    fn text(&mut self, question: &str, usual: &str, check: Check<'_>) -> io::Result<String>;
    /// Yes or no.
    fn yes(&mut self, question: &str, usual: bool) -> io::Result<bool>;
}

/// A person at a terminal.
#[derive(Default)]
pub struct Person {
    theme: ColorfulTheme,
}

impl Person {
    /// Whether there may be one.
    pub fn is_there() -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

impl Ask for Person {
    fn is_person(&self) -> bool {
        true
    }

    fn tell(&mut self, text: &str) {
        output::complain(text);
    }

    fn choose(&mut self, question: &str, items: &[&str], usual: usize) -> io::Result<usize> {
        let select = Select::with_theme(&self.theme).with_prompt(question).items(items).default(usual);
        select.interact().map_err(io::Error::from)
    }

    fn text(&mut self, question: &str, usual: &str, check: Check<'_>) -> io::Result<String> {
        let mut input = Input::with_theme(&self.theme).with_prompt(question);
        if !usual.is_empty() {
            input = input.default(usual.to_owned());
        }
        let answer: String = input.validate_with(|text: &String| check(text.trim())).interact_text()?;
        Ok(answer.trim().to_owned())
    }

    fn yes(&mut self, question: &str, usual: bool) -> io::Result<bool> {
        Ok(Confirm::with_theme(&self.theme).with_prompt(question).default(usual).interact()?)
    }
}

/// No one: every proposal is taken.
pub struct Nobody;

impl Ask for Nobody {
    fn is_person(&self) -> bool {
        false
    }

    fn tell(&mut self, text: &str) {
        output::complain(text);
    }

    fn choose(&mut self, _: &str, _: &[&str], usual: usize) -> io::Result<usize> {
        Ok(usual)
    }

    fn text(&mut self, _: &str, usual: &str, _: Check<'_>) -> io::Result<String> {
        Ok(usual.to_owned())
    }

    fn yes(&mut self, _: &str, usual: bool) -> io::Result<bool> {
        Ok(usual)
    }
}
