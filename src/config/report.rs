//! Complaints about a configuration: where, what and how to fix it, drawn with a caret under the value.

use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::redact;

/// Place where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the configuration file, at these bytes.
    File(Range<usize>),
    /// On the command line or in the environment.
    Outside {
        /// Either of the two, in words.
        place: &'static str,
        /// Text to show of it: never a secret.
        shown: String,
        /// The part of `shown` that is the value.
        value: Range<usize>,
    },
}

impl Origin {
    /// A flag or a variable with its value, of which what may be a secret is hidden; `between` stands between the two.
    pub fn outside(place: &'static str, name: &str, between: char, value: &str) -> Self {
        let start = name.len() + between.len_utf8();
        let value: String = redact::plain(value).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let shown = format!("{name}{between}{value}");
        Self::Outside { place, value: start..shown.len(), shown }
    }

    fn order(&self) -> (u8, usize) {
        match self {
            Self::File(span) => (0, span.start),
            Self::Outside { .. } => (1, 0),
        }
    }
}

/// Whether something may stay as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but should be better.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Whether it may stay.
    pub severity: Severity,
    /// Description of the problem, in one sentence.
    pub what: String,
    /// Place of the problem, if it has one: what is missing is nowhere.
    pub at: Option<Origin>,
    /// A second place that has to do with it, and what it is.
    pub also: Option<(Origin, &'static str)>,
    /// Advice on what to do.
    pub fix: String,
}

impl Complaint {
    /// Something that has to change, at a place.
    pub fn new(at: &Origin, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { at: Some(at.clone()), ..Self::missing(what, fix) }
    }

    /// Something that has to be added.
    pub fn missing(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, what: what.into(), at: None, also: None, fix: fix.into() }
    }

    /// The same with a second place.
    pub fn and(self, origin: &Origin, label: &'static str) -> Self {
        Self { also: Some((origin.clone(), label)), ..self }
    }

    /// Whether it may stay.
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }

    /// The same, but it may stay.
    pub fn as_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }
}

/// All complaints about one configuration, in the order of the file, with what is needed to draw them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    path: String,
    /// The file with everything hidden that may be a secret.
    text: String,
    complaints: Vec<Complaint>,
}

impl Report {
    /// A report on the file at `path`. `text` is drawn as it is: hide secrets first.
    pub fn new(path: impl Into<String>, text: String, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.at.as_ref().map_or((2, 0), Origin::order));
        Self { path: path.into(), text, complaints }
    }

    /// The complaints.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// Each complaint as one sentence with its line, for a log or an answer. Like what is drawn it holds no secret.
    pub fn sentences(&self) -> Vec<String> {
        let lines = Lines::of(&self.text);
        let sentence = |complaint: &Complaint| {
            let place = match &complaint.at {
                Some(Origin::File(span)) => format!("line {}: ", lines.at(span.start) + 1),
                Some(Origin::Outside { place, .. }) => format!("{place}: "),
                None => String::new(),
            };
            format!("{place}{}; {}", complaint.what, complaint.fix)
        };
        self.complaints.iter().map(sentence).collect()
    }

    /// Number of complaints that have to be fixed.
    pub fn errors(&self) -> usize {
        self.complaints.iter().filter(|complaint| complaint.severity == Severity::Error).count()
    }

    /// The report for reading, in colours or without.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        // What has to be changed comes out whatever else there is.
        let (errors, warnings): (Vec<_>, Vec<_>) =
            self.complaints.iter().partition(|complaint| complaint.severity == Severity::Error);
        let chosen: Vec<&Complaint> = match self.complaints.len() > MOST {
            true => errors.into_iter().chain(warnings).take(MOST).collect(),
            false => self.complaints.iter().collect(),
        };
        let mut drawn: Vec<String> = chosen.iter().map(|complaint| renderer.render(&[self.group(complaint)])).collect();
        if chosen.len() < self.complaints.len() {
            drawn.push(format!("and {} more like these", self.complaints.len() - chosen.len()));
        }
        match drawn.is_empty() {
            true => String::new(),
            false => drawn.join("\n\n") + "\n",
        }
    }

    fn group<'a>(&'a self, complaint: &'a Complaint) -> Group<'a> {
        let level = match complaint.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = Group::with_title(level.primary_title(&complaint.what));
        self.snippets(complaint).into_iter().fold(group, Group::element).element(Level::HELP.message(&complaint.fix))
    }

    /// One snippet when both places are in the file, otherwise one for each.
    fn snippets<'a>(&'a self, complaint: &'a Complaint) -> Vec<Snippet<'a, Annotation<'a>>> {
        let also = complaint.also.as_ref();
        match (&complaint.at, also) {
            (Some(Origin::File(at)), Some((Origin::File(second), label))) => {
                let context = AnnotationKind::Context.span(self.clamp(second)).label(*label);
                vec![self.in_file(at).annotation(context)]
            }
            (at, also) => {
                let second = also.map(|(origin, _)| origin);
                at.iter().chain(second).map(|origin| self.snippet(origin)).collect()
            }
        }
    }

    fn snippet<'a>(&'a self, origin: &'a Origin) -> Snippet<'a, Annotation<'a>> {
        match origin {
            Origin::File(span) => self.in_file(span),
            Origin::Outside { place, shown, value } => {
                Snippet::source(shown).path(*place).annotation(AnnotationKind::Primary.span(value.clone()))
            }
        }
    }

    fn in_file(&self, span: &Range<usize>) -> Snippet<'_, Annotation<'_>> {
        Snippet::source(&self.text).path(&self.path).annotation(AnnotationKind::Primary.span(self.clamp(span)))
    }

    /// A parser may point behind the end or between the bytes of a character, a caret may not.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        start..self.text.ceil_char_boundary(span.end).max(start)
    }
}

/// Most complaints that are drawn: of thousands no one reads the rest, and each takes the whole file to draw.
const MOST: usize = 50;

/// Line index of a text.
pub struct Lines(Vec<usize>);

impl Lines {
    /// Those of this text.
    pub fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The number of the line in which this byte is, counted from 0.
    pub fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|end| *end < byte)
    }
}

/// Text of a user as part of a sentence: in backticks, on one line, not too long, with what may be a secret hidden.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let shown: String = redact::plain(text).chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let rest = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    format!("`{shown}{rest}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_be_are_moved_to_the_nearest_that_can() {
        for span in [2..3, 4..4, 0..999, 999..1000] {
            let complaint = Complaint::new(&Origin::File(span.clone()), "what", "fix");
            let report = Report::new("file.toml", "aéé = 1".into(), vec![complaint]);
            let clamped = report.clamp(&span);
            assert!(report.text.get(clamped.clone()).is_some(), "{clamped:?}");
            assert!(report.render(false).contains("--> file.toml:1:"));
        }
    }

    #[test]
    fn what_users_wrote_stays_on_one_short_line() {
        assert_eq!(quoted("a\n\u{1b}[31mb"), "`a\\n\\u{1b}[31mb`");
        assert!(quoted(&"x".repeat(500)).len() < 100);
    }
}
