//! Plain values of a Python file: assignments at the left margin whose right side is a literal. Nothing is evaluated but
//! products of whole numbers, and nothing is run.

use std::iter::Peekable;
use std::str::Chars;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// A whole number.
    Number(i128),
    /// A text.
    Text(String),
    /// A list, tuple or set.
    List(Vec<Literal>),
    /// A dictionary.
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// The text, if it is one that is not empty.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Value of this key in a dictionary.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.entries().iter().rev().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }

    /// Keys and values of a dictionary.
    pub(super) fn entries(&self) -> &[(Self, Self)] {
        match self {
            Self::Dict(entries) => entries,
            _ => &[],
        }
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None | Self::Bool(false) => true,
            Self::Bool(true) | Self::Number(_) => false,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Dict(entries) => entries.is_empty(),
        }
    }
}

/// Names that are assigned to, in order, each with its value if that is plain.
pub(super) fn assignments(text: &str) -> Vec<(String, Option<Literal>)> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let rest = &text[start..];
        start += line.len();
        let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let behind = line[name.len()..].trim_start_matches([' ', '\t']);
        let assigns = behind.starts_with('=') && !behind.starts_with("==");
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !assigns {
            continue;
        }
        let Some((_, value)) = rest.split_once('=') else { continue };
        let mut reader = Reader { left: value.chars().peekable(), depth: 0 };
        found.push((name, reader.whole()));
    }
    found
}

/// Deepest nesting of brackets: more is no configuration.
const DEEPEST: u32 = 16;

struct Reader<'t> {
    left: Peekable<Chars<'t>>,
    depth: u32,
}

impl Reader<'_> {
    /// A value that ends with its line.
    fn whole(&mut self) -> Option<Literal> {
        let value = self.value()?;
        self.blanks();
        matches!(self.left.peek(), None | Some('\n' | '\r' | ';' | '#')).then_some(value)
    }

    /// Spaces, and within brackets also lines and comments.
    fn blanks(&mut self) {
        while let Some(next) = self.left.peek().copied() {
            match next {
                ' ' | '\t' | '\x0c' => {}
                '\n' | '\r' if self.depth > 0 => {}
                '#' if self.depth > 0 => {
                    while self.left.next_if(|c| *c != '\n').is_some() {}
                    continue;
                }
                _ => return,
            }
            self.left.next();
        }
    }

    fn value(&mut self) -> Option<Literal> {
        self.blanks();
        match *self.left.peek()? {
            '"' | '\'' => self.texts(),
            '[' => self.list('[', ']'),
            '(' => self.list('(', ')'),
            '{' => self.braces(),
            '-' | '0'..='9' => self.product(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Option<Literal> {
        let mut word = String::new();
        while let Some(c) = self.left.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            word.push(c);
        }
        match (word.as_str(), self.left.peek()) {
            ("None", _) => Some(Literal::None),
            ("True", _) => Some(Literal::Bool(true)),
            ("False", _) => Some(Literal::Bool(false)),
            ("r" | "u" | "b" | "R" | "U" | "B", Some('"' | '\'')) => self.texts(),
            _ => None,
        }
    }

    /// Texts that stand side by side are one.
    fn texts(&mut self) -> Option<Literal> {
        let mut text = self.text()?;
        loop {
            self.blanks();
            match self.left.peek() {
                Some('"' | '\'') => text += &self.text()?,
                _ => return Some(Literal::Text(text)),
            }
        }
    }

    /// Escapes but of quotes and backslashes are nothing that such a file needs.
    fn text(&mut self) -> Option<String> {
        let quote = self.left.next()?;
        let mut text = String::new();
        loop {
            match self.left.next()? {
                '\n' => return None,
                '\\' => match self.left.next()? {
                    escaped @ ('\\' | '"' | '\'') => text.push(escaped),
                    _ => return None,
                },
                c if c == quote => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn number(&mut self) -> Option<i128> {
        let minus = self.left.next_if_eq(&'-').is_some();
        let mut digits = String::new();
        while let Some(c) = self.left.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
            if c != '_' {
                digits.push(c);
            }
        }
        let number: i128 = match digits.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        };
        Some(if minus { number.checked_neg()? } else { number })
    }

    fn product(&mut self) -> Option<Literal> {
        let mut product = self.number()?;
        loop {
            self.blanks();
            if self.left.next_if_eq(&'*').is_none() {
                return Some(Literal::Number(product));
            }
            if self.left.next_if_eq(&'*').is_some() {
                self.blanks();
                let power = u32::try_from(self.number()?).ok()?;
                // Of a product only the last factor is raised; with one factor that is all.
                product = product.checked_pow(power).filter(|_| power <= 64)?;
                continue;
            }
            self.blanks();
            let mut factor = self.number()?;
            self.blanks();
            let mut ahead = self.left.clone();
            if ahead.next() == Some('*') && ahead.next() == Some('*') {
                self.left = ahead;
                self.blanks();
                let power = u32::try_from(self.number()?).ok()?;
                factor = factor.checked_pow(power).filter(|_| power <= 64)?;
            }
            product = product.checked_mul(factor)?;
        }
    }

    fn list(&mut self, open: char, close: char) -> Option<Literal> {
        self.enter(open)?;
        let mut list = Vec::new();
        while !self.leave(close) {
            list.push(self.value()?);
            self.comma(close)?;
        }
        Some(Literal::List(list))
    }

    fn braces(&mut self) -> Option<Literal> {
        self.enter('{')?;
        let (mut entries, mut set) = (Vec::new(), Vec::new());
        while !self.leave('}') {
            let key = self.value()?;
            self.blanks();
            match self.left.next_if_eq(&':') {
                Some(_) => entries.push((key, self.value()?)),
                None => set.push(key),
            }
            self.comma('}')?;
        }
        match (entries.is_empty(), set.is_empty()) {
            (_, true) => Some(Literal::Dict(entries)),
            (true, false) => Some(Literal::List(set)),
            (false, false) => None,
        }
    }

    fn enter(&mut self, open: char) -> Option<()> {
        self.left.next_if_eq(&open)?;
        self.depth += 1;
        (self.depth <= DEEPEST).then_some(())
    }

    fn leave(&mut self, close: char) -> bool {
        self.blanks();
        let left = self.left.next_if_eq(&close).is_some();
        if left {
            self.depth -= 1;
        }
        left
    }

    fn comma(&mut self, close: char) -> Option<()> {
        self.blanks();
        match *self.left.peek()? {
            ',' => _ = self.left.next(),
            c if c == close => {}
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Literal> {
        assignments(&format!("A = {text}\nB = 1\n")).into_iter().next().unwrap().1
    }

    fn text(text: &str) -> Literal {
        Literal::Text(text.into())
    }

    #[test]
    fn literals() {
        assert_eq!(value("None # nothing"), Some(Literal::None));
        assert_eq!(value("-1_000"), Some(Literal::Number(-1000)));
        assert_eq!(value("0x10 * 2"), Some(Literal::Number(32)));
        assert_eq!(value("10 * 1024**3"), Some(Literal::Number(10 << 30)));
        assert_eq!(value("2**10"), Some(Literal::Number(1024)));
        assert_eq!(value("'a' \"b\""), Some(text("ab")));
        assert_eq!(value("'it\\'s'"), Some(text("it's")));
        assert_eq!(value("[\n1, # one\n 'x',\n]"), Some(Literal::List(vec![Literal::Number(1), text("x")])));
        assert_eq!(value("{'a': {}, }"), Some(Literal::Dict(vec![(text("a"), Literal::Dict(Vec::new()))])));
        assert_eq!(value("('a',)"), Some(Literal::List(vec![text("a")])));
    }

    #[test]
    fn whatever_would_have_to_be_run_is_no_value() {
        for it in [
            "os.environ['A']",
            "1 if x else 2",
            "f'x'",
            "f()",
            "[f()]",
            "1 + 1",
            "'a' % 1",
            "[1",
            "{1: 2, 3}",
            "'a",
            "1.5",
            "9**9**9",
            "99999999999999999999999999999999999999999 * 9",
            "x",
        ] {
            assert_eq!(value(it), None, "{it}");
        }
        assert_eq!(value(&("[".repeat(40) + &"]".repeat(40))), None);
    }

    #[test]
    fn only_the_left_margin_assigns() {
        let found = assignments("A = 1\n  B = 2\nif A == 1:\n    C = 3\nD=4\nE == 5\nG: int = 1\n");
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "D"]);
    }
}
