//! The comparison of the audit, for the secret and the name of these tests.

use vizard::audit::compare::{self, AT_ONCE, Finding, Plan, ROUNDS};
pub use vizard::audit::compare::{Comparison, Lineup};
use vizard::audit::dice::Dice;
pub use vizard::audit::probe::Probe;
use vizard::audit::probe::Subject;

use super::KEY;
use super::origin::NAME;

/// A comparison that can be demanded to have found nothing.
#[derive(Debug)]
pub struct Report(Comparison);

impl std::ops::Deref for Report {
    type Target = Comparison;

    fn deref(&self) -> &Comparison {
        &self.0
    }
}

impl Report {
    /// Panics with every difference.
    pub fn expect_none(&self) {
        for Finding { probe, text, .. } in &self.noise {
            eprintln!("noise in {probe}:\n{text}");
        }
        let found: Vec<_> = self.differences.iter().map(|found| format!("{}:\n{}", found.probe, found.text)).collect();
        assert!(found.is_empty(), "{} of {} probes differ\n{}", found.len(), self.probes, found.join("\n"));
    }
}

/// Plays every probe against all three targets, while no other test loads the machine. Not for tests that have their turn.
pub async fn compare(probes: Vec<Probe>, lineup: Lineup) -> Report {
    let _quiet = super::quiet().await;
    let seed = Dice::unseen().number();
    eprintln!("seed {seed}");
    let subject = Subject { key: KEY, name: NAME.to_owned(), dc: 2 };
    let plan = Plan { subject, lineup, seed, rounds: ROUNDS, at_once: AT_ONCE };
    let expected = probes.len();
    let mut played = 0;
    let comparison = compare::compare(probes, &plan, |_| played += 1).await;
    assert_eq!(played, expected, "a probe panicked");
    Report(comparison)
}
