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

/// Number of times that probes are played again which were not alike: a starved machine does not starve the same ones
/// each time. What was different, or noisy, most of the times is so.
const AGAIN: usize = 2;

/// Plays every probe against all three targets, and those that were not alike again.
pub async fn compare(probes: Vec<Probe>, lineup: Lineup) -> Report {
    let first = compare_once(probes.clone(), lineup).await;
    let doubtful: Vec<String> = first.differences.iter().chain(&first.noise).map(|found| found.probe.clone()).collect();
    if doubtful.is_empty() {
        return first;
    }
    eprintln!("{} of {} probes are played again", doubtful.len(), probes.len());
    let again: Vec<Probe> = probes.iter().filter(|probe| doubtful.contains(&probe.name)).cloned().collect();
    let mut plays = vec![first];
    for _ in 0..AGAIN {
        plays.push(compare_once(again.clone(), lineup).await);
    }
    let most = |of: fn(&Comparison) -> &Vec<Finding>| -> Vec<Finding> {
        let all: Vec<&Finding> = plays.iter().flat_map(|play| of(play)).collect();
        let times = |name: &str| all.iter().filter(|found| found.probe == name).count();
        let first = |name: &String| all.iter().find(|found| found.probe == *name).copied().cloned();
        doubtful.iter().filter(|name| 2 * times(name) > plays.len()).filter_map(first).collect()
    };
    Report(Comparison {
        probes: probes.len(),
        differences: most(|play| &play.differences),
        noise: most(|play| &play.noise),
    })
}

/// Plays every probe against all three targets, while no other test loads the machine. Not for tests that have their turn.
pub async fn compare_once(probes: Vec<Probe>, lineup: Lineup) -> Report {
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
