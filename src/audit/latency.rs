//! Time of the first answer: a hello that is admitted must not be answered sooner or later than one that is not.

use std::time::Duration;

use tokio::time::sleep;

use super::captured::Captured;
use super::compare::Plan;
use super::dice::Dice;
use super::hello;
use super::probe::first_byte;
use super::stats::{Ks, LEVEL, kolmogorov_smirnov};

/// One kind of answer.
#[derive(Clone, Debug)]
pub struct Series {
    /// What was asked, and whom.
    pub name: &'static str,
    /// Milliseconds from the hello to the first byte.
    pub millis: Vec<f64>,
}

/// Measured times of one client's hello.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Name of the measurement.
    pub name: String,
    /// The cover, the bare relay, the proxy when it declines, the proxy when it admits.
    pub series: [Series; 4],
    /// Comparison of the last two.
    pub ks: Ks,
    /// How many measurements were made: one that shows a difference is repeated.
    pub attempts: u32,
}

/// How often the two are to differ before they do: chance makes one of a hundred measurements differ.
const ATTEMPTS: u32 = 3;

/// Between two hellos, so that what a server still does for one that is gone does not slow down the next. Else a kind
/// would be measured by the kinds that come before it, which are never the same as itself.
const PAUSE: Duration = Duration::from_millis(2);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Latency {
    /// Whether admitted and declined hellos can be told apart.
    pub fn separable(&self) -> bool {
        self.ks.p < LEVEL
    }

    /// What was found, in a line.
    pub fn text(&self) -> String {
        let [cover, relay, declined, admitted] = self.series.each_ref().map(|series| median(&series.millis));
        let p = if self.ks.p < 0.0001 { "< 0.0001".to_owned() } else { format!("= {:.4}", self.ks.p) };
        format!(
            "declined {declined:.2} ms, admitted {admitted:.2} ms (cover {cover:.2} ms, bare relay {relay:.2} ms); \
             {} samples each, distance {:.3}, p {p}, {} measurements",
            self.series[3].millis.len(),
            self.ks.distance,
            self.attempts
        )
    }
}

/// The middle value, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures all four in turns; `None` if one of them does not answer.
pub async fn measure(name: &str, client: &Captured, samples: usize, plan: &Plan) -> Option<Latency> {
    let mut attempts = 1;
    loop {
        let series = sample(client, samples, plan).await?;
        let ks = kolmogorov_smirnov(&series[2].millis, &series[3].millis);
        let latency = Latency { name: name.to_owned(), series, ks, attempts };
        if !latency.separable() || attempts == ATTEMPTS {
            return Some(latency);
        }
        attempts += 1;
    }
}

async fn sample(client: &Captured, samples: usize, plan: &Plan) -> Option<[Series; 4]> {
    let names = ["cover", "bare relay", "proxy, declined", "proxy, admitted"];
    let targets = [plan.lineup.cover, plan.lineup.relay, plan.lineup.proxy, plan.lineup.proxy];
    let mut series = names.map(|name| Series { name, millis: Vec::with_capacity(samples) });
    let mut dice = Dice::unseen();
    for _ in 0..samples {
        let mut order = [0, 1, 2, 3];
        dice.shuffle(&mut order);
        for which in order {
            let mut record = client.parts_for(&plan.subject.name).fresh(&mut dice).record();
            // The bytes are of one kind everywhere; only the proxy can see that some of them are signed.
            if which == 3 {
                hello::sign(&mut record, &plan.subject.key, hello::now());
            }
            sleep(PAUSE).await;
            let took = first_byte(&record, targets[which], PATIENCE).await?;
            series[which].millis.push(took.as_secs_f64() * 1000.0);
        }
    }
    Some(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!((median(&[]), median(&[3.0, 1.0, 2.0])), (0.0, 2.0));
    }
}
