//! Plays probes against the cover, against a bare relay in front of the cover, and against the proxy; what the proxy
//! shows must be what one of the other two shows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::dice::Dice;
use super::probe::{Class, Needs, Pace, Probe, Subject, play};
use super::transcript::Transcript;

/// The three targets, and how long a prober waits for an end.
#[derive(Clone, Copy, Debug)]
pub struct Lineup {
    /// The cover itself.
    pub cover: SocketAddr,
    /// The bare relay in front of it: its extra hop is not the proxy's fault.
    pub relay: SocketAddr,
    /// The proxy.
    pub proxy: SocketAddr,
    /// Longest wait of a quick probe for the end of its connection.
    pub limit: Duration,
    /// The cover sends its encrypted flight as one record, so nothing is joined, neither by the proxy nor here.
    pub one_record: bool,
}

/// Parameters of a comparison.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom the probes are about.
    pub subject: Subject,
    /// The targets.
    pub lineup: Lineup,
    /// Fixes every script and the order of everything.
    pub seed: u64,
    /// Rounds that a probe is played in if its first transcripts were not alike.
    pub rounds: u64,
    /// Number of probes that run at once. Each talks to three targets.
    pub at_once: usize,
}

/// Default for [`Plan::rounds`].
pub const ROUNDS: u64 = 5;

/// Default for [`Plan::at_once`].
pub const AT_ONCE: usize = 64;

/// Longest wait of a patient probe for an end: the usual time-outs of web servers are 60 and 75 seconds.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Outcome of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Number of probes that were played.
    pub probes: usize,
    /// The proxy did what neither cover nor relay ever did, and did it again.
    pub differences: Vec<Finding>,
    /// Everything else that was not alike on all three at the first attempt.
    pub noise: Vec<Finding>,
}

/// A probe whose transcripts were not alike.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Name of the probe.
    pub probe: String,
    /// Its class.
    pub class: Class,
    /// Access that an attacker needs to see the difference.
    pub needs: Needs,
    /// Description of the difference, in several lines.
    pub text: String,
}

/// Plays every probe against all three targets, and calls `tick` with the name of each that is done.
pub async fn compare(probes: Vec<Probe>, plan: &Plan, mut tick: impl FnMut(&str)) -> Comparison {
    let mut comparison = Comparison { probes: probes.len(), ..Comparison::default() };
    let permits = Arc::new(Semaphore::new(plan.at_once.max(1)));
    let plan = Arc::new(plan.clone());
    let mut running = JoinSet::new();
    for probe in interleaved(probes, plan.seed) {
        let (permits, plan) = (permits.clone(), plan.clone());
        running.spawn(async move {
            // Those that mostly wait take no place from the others.
            let _permit = match probe.pace {
                Pace::Quick => permits.acquire_owned().await.ok(),
                Pace::Patient => None,
            };
            let verdict = judge(&probe, &plan).await;
            (probe, verdict)
        });
    }
    while let Some(done) = running.join_next().await {
        let Ok((probe, verdict)) = done else { continue };
        tick(&probe.name);
        let finding = |text| Finding { probe: probe.name.clone(), class: probe.class, needs: probe.needs, text };
        match verdict {
            Verdict::Same => {}
            Verdict::Noise(text) => comparison.noise.push(finding(text)),
            Verdict::Different(text) => comparison.differences.push(finding(text)),
        }
    }
    comparison
}

/// Patient ones first, since they take longest; all others in random order.
fn interleaved(mut probes: Vec<Probe>, seed: u64) -> Vec<Probe> {
    Dice::new(seed).shuffle(&mut probes);
    probes.sort_by_key(|probe| probe.pace == Pace::Quick);
    probes
}

/// The seed of one probe: a run of this probe alone draws what a run of all has drawn.
fn seed_of(seed: u64, probe: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(probe).finalize();
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

enum Verdict {
    Same,
    Noise(String),
    Different(String),
}

async fn judge(probe: &Probe, plan: &Plan) -> Verdict {
    let seed = seed_of(plan.seed, &probe.name);
    let mut honest: Vec<Transcript> = Vec::new();
    let mut suspect: Vec<Transcript> = Vec::new();
    // What takes a minute and more is repeated all at once: waiting is no work.
    let mut ahead = VecDeque::new();
    for round in 0..plan.rounds.max(1) {
        if round == 1 && probe.pace == Pace::Patient {
            ahead = (1..plan.rounds).map(|round| begin(probe, plan, seed.wrapping_add(round))).collect();
        }
        let begun = ahead.pop_front().unwrap_or_else(|| begin(probe, plan, seed.wrapping_add(round)));
        let [cover, relay, proxy] = finish(begun).await;
        if round == 0 && cover.same(&relay) && cover.same(&proxy) {
            return Verdict::Same;
        }
        honest.extend([cover, relay]);
        suspect.push(proxy);
    }
    let strange = |proxy: &&Transcript| !honest.iter().any(|known| known.same(proxy));
    let odd: Vec<_> = suspect.iter().filter(strange).collect();
    let shown = odd.first().copied().unwrap_or(&suspect[0]);
    let (odd, rounds) = (odd.len(), suspect.len());
    let text = format!("{odd} of {rounds} rounds\ncover {}\nrelay {}\nproxy {shown}", honest[0], honest[1]);
    // One stray may be the machine's fault. Where cover and relay never waver, two are the proxy's.
    let steady = honest.iter().all(|known| known.same(&honest[0]));
    let bearable = if steady { usize::from(rounds > 1) } else { rounds / 2 };
    if odd > bearable { Verdict::Different(text) } else { Verdict::Noise(text) }
}

/// A probe under way at each target, by the target's number.
type Begun = [(usize, JoinHandle<Transcript>); 3];

/// All three at once, begun in random order, so that they share whatever the machine is busy with.
fn begin(probe: &Probe, plan: &Plan, seed: u64) -> Begun {
    let mut script = probe.script(seed, &plan.subject);
    script.join &= !plan.lineup.one_record;
    let script = Arc::new(script);
    let targets = [plan.lineup.cover, plan.lineup.relay, plan.lineup.proxy];
    let limit = if probe.pace == Pace::Patient { PATIENCE } else { plan.lineup.limit };
    let mut order = [0, 1, 2];
    Dice::new(seed).shuffle(&mut order);
    order.map(|target| {
        let script = script.clone();
        (target, tokio::spawn(async move { play(&script, targets[target], limit).await }))
    })
}

async fn finish(begun: Begun) -> [Transcript; 3] {
    let mut seen = [(); 3].map(|()| Transcript::unreachable());
    for (target, task) in begun {
        if let Ok(transcript) = task.await {
            seen[target] = transcript;
        }
    }
    seen
}
