//! What an audit found, ordered by what a censor needs to see it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::compare::Finding;
use super::latency::Latency;
use super::probe::{Class, Needs};

/// Outcome of an audit.
#[derive(Clone, Debug)]
pub struct Report {
    /// Address of the proxy.
    pub proxy: String,
    /// What it was compared with.
    pub cover: String,
    /// The name in the hellos.
    pub name: String,
    /// Whose secret was used.
    pub user: String,
    /// Repeats the run.
    pub seed: u64,
    /// How many probes each class had.
    pub tallies: Vec<(Class, usize)>,
    /// Where the proxy can be told from its cover; the worst first.
    pub differences: Vec<Finding>,
    /// What is known to differ with this cover, and lies with the cover.
    pub known: Vec<Finding>,
    /// Seen once and not again, or on the cover and the relay as well.
    pub noise: Vec<Finding>,
    /// What was measured, and found in order.
    pub measured: Vec<(String, String)>,
    /// Times of answers.
    pub latency: Vec<Latency>,
    /// Whether the proxy let hellos in that were signed with the secret, where that was asked.
    pub admitted: Option<bool>,
}

/// What an audit amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody can tell the proxy from its cover by any of this.
    Same,
    /// Somebody can.
    Different,
    /// The proxy never let the user in, so half of the probes say nothing.
    NotAdmitted,
}

/// How many differences a summary shows.
const SHOWN: usize = 3;

impl Report {
    /// How many probes there were.
    pub fn probes(&self) -> usize {
        self.tallies.iter().map(|(_, probes)| probes).sum()
    }

    /// What it amounts to.
    pub fn verdict(&self) -> Verdict {
        match (self.differences.is_empty(), self.admitted) {
            (false, _) => Verdict::Different,
            (true, Some(false)) => Verdict::NotAdmitted,
            (true, _) => Verdict::Same,
        }
    }

    /// Puts the findings into their order. Of those that need as much, one of each class comes before the second of
    /// any.
    pub fn sort(&mut self) {
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
            Verdict::Same => format!("None of {probes} probes tells you from your cover."),
            Verdict::Different => {
                let tell = if found == 1 { "tells" } else { "tell" };
                format!("{found} of {probes} probes {tell} you from your cover.")
            }
            Verdict::NotAdmitted => {
                format!(
                    "No hello with the secret of {} was let in, so the probes with the secret say nothing.",
                    self.user
                )
            }
        }
    }

    /// The whole for a person in a hurry.
    pub fn summary(&self) -> String {
        let mut text = format!("{} as {}, against {}\n\n{}\n", self.proxy, self.name, self.cover, self.headline());
        if self.verdict() == Verdict::Different && self.admitted == Some(false) {
            let _ = writeln!(text, "No hello with the secret of {} was let in: is this the right proxy?", self.user);
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
            let _ = write!(text, "\nknown, grade C: {}\n", finding.probe);
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
                writeln!(text, "\n{} probes wavered, as the cover or this machine does by itself.", self.noise.len());
        }
        text + &format!("seed {}", self.seed)
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
        };
        let measured = self.measured.iter().map(|(name, text)| json!({ "name": name, "found": text }));
        let classes = self.tallies.iter().map(|(class, probes)| json!({ "class": class.label(), "probes": probes }));
        json!({
            "verdict": verdict,
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
            tallies: vec![(Class::Shapes, 100), (Class::Names, 60)],
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
        assert!(summary.contains("5 of 160 probes tell you from your cover."), "{summary}");
        assert!(summary.contains("--only 'seen' --seed 7") && !summary.contains("--only 'secret'"), "{summary}");
    }

    #[test]
    fn verdicts_are_what_was_found() {
        assert_eq!(report(Vec::new()).verdict(), Verdict::Same);
        let different = report(vec![finding("x", Class::Names, Needs::Connection)]);
        assert_eq!(different.verdict(), Verdict::Different);
        assert!(different.headline().contains("1 of 160 probes tells"));
        let stranger = Report { admitted: Some(false), ..report(Vec::new()) };
        assert_eq!(stranger.verdict(), Verdict::NotAdmitted);
        assert_eq!(stranger.json()["verdict"], "not admitted");
    }

    #[test]
    fn names_with_quotes_are_repeated_as_one_word() {
        assert_eq!(report(Vec::new()).repeat("it's"), "vizard audit --only 'it'\\''s' --seed 7");
    }
}
