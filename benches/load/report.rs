//! What was measured, for people and for machines.

use std::fmt::Write;

use serde::Serialize;

/// One quantity of one contestant, a value for each round.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub scenario: String,
    /// Who did it.
    pub contestant: String,
    /// What was measured.
    pub metric: &'static str,
    /// Its value in each round.
    pub values: Vec<f64>,
}

/// Whether a goal was met.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Number of the goal.
    pub goal: u8,
    /// What was compared.
    pub what: String,
    /// The proxy's value, or its ratio to the yardstick's.
    pub value: f64,
    /// What it may be at most or must be at least.
    pub limit: f64,
    /// Whether the limit is a lower one.
    pub at_least: bool,
    /// Whether it holds.
    pub met: bool,
}

/// Everything of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where, when and with what.
    pub about: Vec<(&'static str, String)>,
    /// Measurements.
    pub rows: Vec<Row>,
    /// Comparisons with the goals.
    pub checks: Vec<Check>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

impl Report {
    /// Adds a value to its row.
    pub fn add(&mut self, scenario: &str, contestant: &str, metric: &'static str, value: f64) {
        let same = |row: &&mut Row| (&*row.scenario, &*row.contestant, row.metric) == (scenario, contestant, metric);
        match self.rows.iter_mut().find(same) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row {
                scenario: scenario.to_owned(),
                contestant: contestant.to_owned(),
                metric,
                values: vec![value],
            }),
        }
    }

    /// The median over the rounds.
    pub fn median(&self, scenario: &str, contestant: &str, metric: &str) -> Option<f64> {
        let same = |row: &&Row| (&*row.scenario, &*row.contestant, row.metric) == (scenario, contestant, metric);
        self.rows.iter().find(same).map(|row| median(&row.values))
    }

    /// A median as a ratio to the yardstick's.
    pub fn ratio(&self, scenario: &str, metric: &str, [ours, theirs]: [&str; 2]) -> Option<f64> {
        Some(self.median(scenario, ours, metric)? / self.median(scenario, theirs, metric)?)
    }

    /// Compares such a ratio with its limit.
    pub fn check_ratio(&mut self, goal: u8, scenario: &str, metric: &'static str, pair: [&str; 2], limit: Limit) {
        let Some(ratio) = self.ratio(scenario, metric, pair) else {
            return self.left_out.push(format!("goal {goal}: no ratio of {metric} in {scenario}"));
        };
        self.check(goal, format!("{scenario}: {metric}, {} / {}", pair[0], pair[1]), ratio, limit);
    }

    /// Compares a value with its limit.
    pub fn check(&mut self, goal: u8, what: String, value: f64, limit: Limit) {
        let (limit, at_least) = match limit {
            Limit::AtMost(limit) => (limit, false),
            Limit::AtLeast(limit) => (limit, true),
        };
        let met = if at_least { value >= limit } else { value <= limit };
        self.checks.push(Check { goal, what, value, limit, at_least, met });
    }

    /// As tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (what, value) in &self.about {
            let _ = writeln!(text, "{what}: {value}");
        }
        let mut last = None;
        // What was done at different times stands together.
        let first = |row: &Row| self.rows.iter().position(|other| other.scenario == row.scenario);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| first(row));
        for row in rows {
            if last != Some(&row.scenario) {
                let _ = writeln!(text, "\n{}", row.scenario);
                last = Some(&row.scenario);
            }
            let (low, high) =
                row.values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
            let spread =
                if row.values.len() > 1 { format!("   ({} to {})", short(low), short(high)) } else { String::new() };
            let _ = writeln!(
                text,
                "  {:<10} {:<28} {:>10}{spread}",
                row.contestant,
                row.metric,
                short(median(&row.values))
            );
        }
        if !self.checks.is_empty() {
            let _ = writeln!(text, "\ngoals");
        }
        for check in &self.checks {
            let (word, sign) = (if check.met { "met" } else { "MISSED" }, if check.at_least { ">=" } else { "<=" });
            let (value, limit) = (short(check.value), short(check.limit));
            let _ = writeln!(text, "  {} {word:<7}{value:>9} {sign} {limit:<7} {}", check.goal, check.what);
        }
        for line in &self.left_out {
            let _ = writeln!(text, "left out: {line}");
        }
        text
    }
}

/// On which side of a number a value has to be.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

/// The middle value, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    vizard::audit::latency::median(values)
}

/// The value that this part of all values do not exceed.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Three digits or so, whatever the size.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
