//! What the doctor says: findings, and how they are printed.

use std::fmt;

use serde_json::json;

/// Kind of check. The order is that of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Check {
    /// The configuration can be used.
    Configuration,
    /// The state directory keeps what must survive a restart.
    State,
    /// There are descriptors for many connections.
    Files,
    /// The listeners can be bound, or the proxy holds them.
    Ports,
    /// Each user gets through to a data centre.
    Login,
    /// Apps can come by WEB proxy, where it is on, over each carrier.
    Web,
    /// This machine knows what time it is.
    Clock,
    /// The domain leads to this machine.
    Name,
    /// The certificate belongs to the domain and is valid.
    Certificate,
    /// The authority that issues the certificate does so.
    Acme,
    /// The cover hides the proxy well.
    Cover,
    /// The cover accepts a post-quantum key share.
    PostQuantum,
    /// The cover's first flight is one record, visit after visit.
    Records,
    /// The data centres answer.
    Telegram,
    /// Links to middle proxies come about, where someone has a tag.
    Middle,
    /// Each route leads to them.
    Routes,
}

impl Check {
    /// The name in the output and of `--skip`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::State => "state",
            Self::Files => "files",
            Self::Ports => "ports",
            Self::Login => "login",
            Self::Web => "web",
            Self::Clock => "clock",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::Acme => "acme",
            Self::Cover => "cover",
            Self::PostQuantum => "post-quantum",
            Self::Records => "records",
            Self::Telegram => "telegram",
            Self::Middle => "middle",
            Self::Routes => "routes",
        }
    }
}

/// Result of a check. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works, but someone may see or miss something.
    Warning,
    /// It does not work, or gives the proxy away.
    Broken,
}

impl Verdict {
    /// The word in the output.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }

    /// The exit code of a run of which this is the worst.
    pub fn exit_code(self) -> u8 {
        self as u8
    }

    fn symbol(self, colours: bool) -> String {
        let (symbol, colour) = match self {
            Self::Fine => ("✓", 32),
            Self::Warning => ("!", 33),
            Self::Broken => ("✗", 31),
        };
        let word = format!("{symbol} {:<7}", self.label());
        if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word }
    }
}

/// One line of the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind of check.
    pub check: Check,
    /// Result of the check.
    pub verdict: Verdict,
    /// Reason for the result.
    pub reason: String,
    /// Advice on what to do; none where all is well.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: Check, reason: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fine, reason: reason.into(), fix: None }
    }

    /// It should be better.
    pub fn warning(check: Check, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, reason: reason.into(), fix: Some(fix.into()) }
    }

    /// It has to be fixed.
    pub fn broken(check: Check, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Broken, ..Self::warning(check, reason, fix) }
    }

    fn text(&self, colours: bool) -> String {
        const INDENT: usize = 25;
        let fix = self.fix.as_ref().map(|fix| format!("\n{:INDENT$}fix: {fix}", "")).unwrap_or_default();
        format!("{} {:<14} {}{fix}", self.verdict.symbol(colours), self.check.label(), self.reason)
    }
}

/// All findings, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl FromIterator<Finding> for Findings {
    fn from_iter<I: IntoIterator<Item = Finding>>(findings: I) -> Self {
        let mut findings: Vec<Finding> = findings.into_iter().collect();
        findings.sort_by_key(|finding| finding.check);
        Self(findings)
    }
}

impl Findings {
    /// The worst verdict.
    pub fn verdict(&self) -> Verdict {
        self.0.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
    }

    /// One line for each, a second one for each fix, and a last one that sums up.
    pub fn text(&self, colours: bool) -> String {
        let count = |verdict| self.0.iter().filter(|finding| finding.verdict == verdict).count();
        let lines: String = self.0.iter().map(|finding| finding.text(colours) + "\n").collect();
        let end = match (count(Verdict::Broken), count(Verdict::Warning)) {
            (0, 0) => "everything is fine".to_owned(),
            (broken, warnings) => format!("{broken} broken, {warnings} with warnings"),
        };
        format!("{lines}\n{end}")
    }

    /// A JSON array with one object for each.
    pub fn json(&self) -> String {
        let object = |finding: &Finding| {
            let (check, verdict) = (finding.check.label(), finding.verdict.label());
            json!({ "check": check, "verdict": verdict, "reason": finding.reason, "fix": finding.fix })
        };
        serde_json::Value::Array(self.0.iter().map(object).collect()).to_string()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn labels_are_those_that_skip_takes() {
        for check in Check::value_variants() {
            assert_eq!(check.to_possible_value().unwrap().get_name(), check.label());
        }
    }

    #[test]
    fn the_worst_finding_is_the_exit_code() {
        let (ok, warning, broken) = (
            Finding::ok(Check::Files, "many"),
            Finding::warning(Check::Name, "far", "move"),
            Finding::broken(Check::Clock, "slow", "wind it"),
        );
        for (findings, code) in [
            (vec![], 0),
            (vec![ok.clone()], 0),
            (vec![warning.clone(), ok.clone()], 1),
            (vec![ok.clone(), broken.clone(), warning.clone()], 2),
        ] {
            assert_eq!(Findings::from_iter(findings).verdict().exit_code(), code);
        }
        let findings = Findings::from_iter([warning, broken, ok]);
        let text = findings.text(false);
        assert!(text.starts_with("✓ ok      files          many\n✗ broken  clock          slow\n"), "{text}");
        assert!(text.contains("fix: wind it") && text.ends_with("1 broken, 1 with warnings"), "{text}");
        assert!(findings.text(true).contains("\x1b[31m✗"));
        let json: serde_json::Value = serde_json::from_str(&findings.json()).unwrap();
        assert_eq!(json[1], json!({ "check": "clock", "verdict": "broken", "reason": "slow", "fix": "wind it" }));
        assert_eq!(json[0]["fix"], serde_json::Value::Null);
    }
}
