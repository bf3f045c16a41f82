//! What an audit found, ordered by what a censor needs to see it.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::compare::Finding;
use super::latency::Latency;
use super::look::MeansOfSight;
use super::probe::{Class, Needs};

/// Extent of what one class looked at.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The class.
    pub class: Class,
    /// Number of probes and measurements.
    pub probes: usize,
    /// Number of conversations.
    pub samples: usize,
    /// By which means.
    pub means: BTreeSet<MeansOfSight>,
    /// Parts that were not looked at, with the reason.
    pub missing: Vec<String>,
}

/// Outcome of an audit.
#[derive(Clone, Debug)]
pub struct Report {
    /// Address of the proxy.
    pub proxy: String,
    /// Cover that it was compared with.
    pub cover: String,
    /// The name in the hellos.
    pub name: String,
    /// Name of the user whose secret was used.
    pub user: String,
    /// Repeats the run.
    pub seed: u64,
    /// Extent of what each class looked at.
    pub coverage: Vec<Coverage>,
    /// Differences by which the proxy can be told from its cover; the worst first.
    pub differences: Vec<Finding>,
    /// Known differences, each with a reason.
    pub known: Vec<Finding>,
    /// Seen once and not again, or on the cover and the relay as well.
    pub noise: Vec<Finding>,
    /// Measurements that found nothing wrong: name and result of each.
    pub measured: Vec<(String, String)>,
    /// Times of answers.
    pub latency: Vec<Latency>,
    /// Whether the proxy let hellos in that were signed with the secret, where that was asked.
    pub admitted: Option<bool>,
}

/// Overall result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No one can tell the proxy from its cover by any of this.
    Same,
    /// Someone can.
    Different,
    /// The proxy never let the user in, so half of the probes say nothing.
    NotAdmitted,
    /// Nothing of what was chosen could be looked at.
    Nothing,
}

/// Most differences that a summary shows.
const SHOWN: usize = 3;

impl Report {
    /// Number of probes.
    pub fn probes(&self) -> usize {
        self.coverage.iter().map(|coverage| coverage.probes).sum()
    }

    /// Overall result.
    pub fn verdict(&self) -> Verdict {
        match (self.differences.is_empty(), self.admitted) {
            (false, _) => Verdict::Different,
            (true, Some(false)) => Verdict::NotAdmitted,
            _ if self.probes() == 0 => Verdict::Nothing,
            (true, _) => Verdict::Same,
        }
    }

    /// Puts the findings into their order. Of those that need as much, one of each class comes before the second of
    /// any.
    pub fn sort(&mut self) {
        self.coverage.sort_by_key(|coverage| coverage.class);
        for findings in [&mut self.differences, &mut self.known, &mut self.noise] {
            findings.sort_by(|a, b| (a.needs, a.class, &a.probe).cmp(&(b.needs, b.class, &b.probe)));
        }
        let mut turns: Vec<(Needs, usize, Finding)> = Vec::new();
        for finding in self.differences.drain(..) {
            let like = |turn: &&(Needs, usize, Finding)| (turn.0, turn.2.class) == (finding.needs, finding.class);
            turns.push((finding.needs, turns.iter().filter(like).count(), finding));
        }
        turns.sort_by_key(|(needs, turn, _)| (*needs, *turn));
        self.differences = turns.into_iter().map(|(_, _, finding)| finding).collect();
    }

    /// The words that repeat one probe.
    pub fn repeat(&self, probe: &str) -> String {
        format!("vizard audit --only '{}' --seed {}", probe.replace('\'', "'\\''"), self.seed)
    }

    /// The result in a sentence.
    pub fn headline(&self) -> String {
        let (found, probes) = (self.differences.len(), self.probes());
        match self.verdict() {
            Verdict::Same => format!("None of {probes} probes tells the proxy from its cover.{}", self.not_looked_at()),
            Verdict::Different => {
                let tell = if found == 1 { "tells" } else { "tell" };
                format!("{found} of {probes} probes {tell} the proxy from its cover.{}", self.not_looked_at())
            }
            Verdict::Nothing => format!("Nothing was looked at.{}", self.not_looked_at()),
            Verdict::NotAdmitted => {
                format!(
                    "No hello with the secret of {} was accepted, so the probes with the secret say nothing.",
                    self.user
                )
            }
        }
    }

    /// The classes that have not looked at all that they are there for, as the end of a sentence.
    fn not_looked_at(&self) -> String {
        let part = |coverage: &Coverage| match coverage.probes {
            0 => coverage.class.label().to_owned(),
            _ => format!("{} in part", coverage.class.label()),
        };
        let missing = self.coverage.iter().filter(|coverage| !coverage.missing.is_empty());
        match missing.map(part).collect::<Vec<_>>() {
            none if none.is_empty() => String::new(),
            some => format!(" Not looked at: {} (see below).", some.join(", ")),
        }
    }

    /// Lists what was looked at and what was not, class by class.
    fn scope(&self) -> String {
        let mut text = String::from("\nLooked at:\n");
        for Coverage { class, probes, samples, means, missing } in &self.coverage {
            if *probes > 0 {
                let means: Vec<_> = means.iter().map(|means| means.label()).collect();
                let (label, means) = (class.label(), means.join("; "));
                let _ = writeln!(text, "  {label}: {probes} probes, {samples} conversations, by {means}");
            }
            for missing in missing {
                let _ = writeln!(text, "  {}: not {missing}", class.label());
            }
        }
        text
    }

    /// The whole for a person in a hurry.
    pub fn summary(&self) -> String {
        let mut text = format!("{} as {}, against {}\n\n{}\n", self.proxy, self.name, self.cover, self.headline());
        if self.verdict() == Verdict::Different && self.admitted == Some(false) {
            let _ = writeln!(text, "No hello with the secret of {} was accepted: is this the right proxy?", self.user);
        }
        let shown = &self.differences[..self.differences.len().min(SHOWN)];
        if self.differences.len() > SHOWN {
            let _ = writeln!(text, "The three that matter most:");
        }
        for finding in shown {
            let _ = write!(text, "\n{} ({}, {})\n", finding.probe, finding.class.label(), finding.needs.label());
            for line in finding.text.lines() {
                let _ = writeln!(text, "  {}", clipped(line));
            }
            let _ = writeln!(text, "  again: {}", self.repeat(&finding.probe));
        }
        for finding in &self.known {
            let _ = write!(text, "\nknown: {}\n", finding.probe);
            for line in finding.text.lines() {
                let _ = writeln!(text, "  {}", clipped(line));
            }
        }
        if !self.measured.is_empty() {
            text += "\n";
        }
        for (name, found) in &self.measured {
            let _ = writeln!(text, "{name}: {found}");
        }
        if !self.noise.is_empty() {
            let _ =
                writeln!(text, "\n{} probes varied, as the cover or this machine does by itself.", self.noise.len());
        }
        text + &self.scope() + &format!("seed {}", self.seed)
    }

    /// The whole for a program.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "probe": finding.probe,
                "class": finding.class.label(),
                "needs": finding.needs.label(),
                "seen": finding.text.lines().collect::<Vec<_>>(),
                "repeat": self.repeat(&finding.probe),
            })
        };
        let all = |findings: &[Finding]| findings.iter().map(finding).collect::<Vec<_>>();
        let latency = |latency: &Latency| {
            let series = latency.series.iter().map(|series| json!({ "of": series.name, "millis": series.millis }));
            json!({
                "name": latency.name,
                "separable": latency.separable(),
                "distance": latency.ks.distance,
                "p": latency.ks.p,
                "measurements": latency.attempts,
                "series": series.collect::<Vec<_>>(),
            })
        };
        let verdict = match self.verdict() {
            Verdict::Same => "same",
            Verdict::Different => "different",
            Verdict::NotAdmitted => "not admitted",
            Verdict::Nothing => "nothing looked at",
        };
        let measured = self.measured.iter().map(|(name, text)| json!({ "name": name, "found": text }));
        let classes = self.coverage.iter().map(|coverage| {
            json!({
                "class": coverage.class.label(),
                "probes": coverage.probes,
                "conversations": coverage.samples,
                "means": coverage.means.iter().map(|means| means.label()).collect::<Vec<_>>(),
                "not_looked_at": coverage.missing,
            })
        });
        json!({
            "verdict": verdict,
            "headline": self.headline(),
            "proxy": self.proxy,
            "cover": self.cover,
            "name": self.name,
            "user": self.user,
            "seed": self.seed,
            "probes": self.probes(),
            "classes": classes.collect::<Vec<_>>(),
            "admitted": self.admitted,
            "differences": all(&self.differences),
            "known": all(&self.known),
            "noise": all(&self.noise),
            "measured": measured.collect::<Vec<_>>(),
            "latency": self.latency.iter().map(latency).collect::<Vec<_>>(),
        })
    }
}

/// A line that fits beside others.
fn clipped(line: &str) -> String {
    const LONGEST: usize = 400;
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::audit::latency::{Compared, Series};
    use crate::audit::stats::Ks;

    pub fn finding(probe: &str, class: Class, needs: Needs) -> Finding {
        Finding { probe: probe.into(), class, needs, text: "1 of 1 rounds\ncover <a>\nproxy & nothing".into() }
    }

    fn coverage(class: Class, probes: usize, missing: &[&str]) -> Coverage {
        let missing = missing.iter().map(|why| (*why).to_owned()).collect();
        Coverage { class, probes, samples: 3 * probes, means: [MeansOfSight::Answers].into(), missing }
    }

    pub fn report(differences: Vec<Finding>) -> Report {
        let series = ["cover", "bare relay", "declined", "admitted"];
        let series = series.map(|name| Series { name, millis: vec![1.0, 1.5, 2.0, 9.0] });
        let ks = Ks { distance: 0.1, p: 0.5 };
        Report {
            proxy: "127.0.0.1:443".into(),
            cover: "the built-in <site>".into(),
            name: "www.example.org".into(),
            user: "alice".into(),
            seed: 7,
            coverage: vec![coverage(Class::Shapes, 100, &[]), coverage(Class::Names, 60, &[])],
            differences,
            known: Vec::new(),
            noise: Vec::new(),
            measured: vec![("flights".into(), "a & b".into())],
            latency: vec![Latency { name: "latency".into(), compared: Compared::Proofs, series, ks, attempts: 1 }],
            admitted: Some(true),
        }
    }

    #[test]
    fn what_needs_least_comes_first_and_classes_take_turns() {
        let mut report = report(vec![
            finding("secret", Class::Shapes, Needs::Secret),
            finding("b", Class::NotTls, Needs::Connection),
            finding("a", Class::NotTls, Needs::Connection),
            finding("late", Class::Time, Needs::Connection),
            finding("seen", Class::Passive, Needs::Watching),
        ]);
        report.sort();
        let order: Vec<_> = report.differences.iter().map(|finding| finding.probe.as_str()).collect();
        assert_eq!(order, ["seen", "a", "late", "b", "secret"]);
        let summary = report.summary();
        assert!(summary.contains("5 of 160 probes tell the proxy from its cover."), "{summary}");
        assert!(summary.contains("--only 'seen' --seed 7") && !summary.contains("--only 'secret'"), "{summary}");
    }

    #[test]
    fn verdicts_are_what_was_found() {
        assert_eq!(report(Vec::new()).verdict(), Verdict::Same);
        let different = report(vec![finding("x", Class::Names, Needs::Connection)]);
        assert_eq!(different.verdict(), Verdict::Different);
        assert!(different.headline().contains("1 of 160 probes tells"));
        let nothing = Report { coverage: vec![coverage(Class::Idle, 0, &["without --idle"])], ..report(Vec::new()) };
        assert_eq!(nothing.verdict(), Verdict::Nothing);
        assert_eq!(nothing.headline(), "Nothing was looked at. Not looked at: idle (see below).");
        let stranger = Report { admitted: Some(false), ..report(Vec::new()) };
        assert_eq!(stranger.verdict(), Verdict::NotAdmitted);
        assert_eq!(stranger.json()["verdict"], "not admitted");
    }

    #[test]
    fn a_verdict_claims_no_more_than_was_looked_at() {
        let mut report = report(Vec::new());
        assert_eq!(report.headline(), "None of 160 probes tells the proxy from its cover.");
        report.coverage.push(coverage(Class::Idle, 0, &["silence of a client: it takes long"]));
        report.coverage.push(coverage(Class::Segments, 6, &["packets: may not listen"]));
        let headline = report.headline();
        assert_eq!(
            headline,
            "None of 166 probes tells the proxy from its cover. Not looked at: idle, segments in part (see below)."
        );
        let summary = report.summary();
        assert!(summary.contains("  idle: not silence of a client: it takes long\n"), "{summary}");
        assert!(summary.contains("  segments: 6 probes, 18 conversations, by answers\n"), "{summary}");
        assert_eq!(report.json()["classes"][3]["not_looked_at"][0], "packets: may not listen");
    }

    #[test]
    fn names_with_quotes_are_repeated_as_one_word() {
        assert_eq!(report(Vec::new()).repeat("it's"), "vizard audit --only 'it'\\''s' --seed 7");
    }
}
