//! Everything in one run: which probes, in which order, and what they amount to.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::captured::{Captured, tdesktop, tdlib};
use super::compare::{Finding, Plan, compare};
use super::corpus;
use super::latency::{self, Compared, Form};
use super::line::PacketCapture;
use super::look::{MeansOfSight, SceneOutcome, SceneSetup};
use super::passive::{self, Answer, Question};
use super::probe::{Class, Needs, Pace, Probe};
use super::report::{Coverage, Report};
use super::scene::Scene;

/// Selection of the probes and measurements to run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Leave out what takes over ten seconds, and measure less.
    pub fast: bool,
    /// Names, or parts of names with `*` for anything; empty for all.
    pub only: Vec<String>,
    /// Number of hellos of each kind to time, if not the usual number.
    pub samples: Option<usize>,
    /// Time for which silences are borne; `None` leaves them out.
    pub idle: Option<Duration>,
}

/// Means that this machine grants an audit.
#[derive(Clone, Debug)]
pub struct AuditGround {
    /// The line, or why it cannot be listened to.
    pub line: Result<PacketCapture, String>,
}

/// One thing that can be run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Access that an attacker needs to do the same.
    pub needs: Needs,
    /// Duration class; `None` for a measurement, which comes when all else is done.
    pub pace: Option<Pace>,
}

/// The part of its time limit that a quick probe takes on average.
const WAITING: f64 = 0.5;

/// Time after which most servers give up a silent visitor.
const TIME_OUT: Duration = Duration::from_secs(65);

enum Task {
    Probe(Probe),
    Scene(Entry, Scene),
    Latency(Entry, &'static Captured, Compared),
    Passive(Entry, &'static Captured, Question),
}

/// The two clients whose hellos are measured: one with a post-quantum share, and one without.
fn measured() -> [&'static Captured; 2] {
    [tdlib(), tdesktop()]
}

impl Task {
    fn entry(&self) -> Entry {
        match self {
            Self::Probe(Probe { name, class, needs, pace, .. }) => {
                Entry { name: name.clone(), class: *class, needs: *needs, pace: Some(*pace) }
            }
            Self::Scene(entry, _) | Self::Latency(entry, _, _) | Self::Passive(entry, _, _) => entry.clone(),
        }
    }

    fn all() -> Vec<Self> {
        let entry = |name: String, class| Entry { name, class, needs: Needs::Watching, pace: None };
        let mut all: Vec<Self> = corpus::all().into_iter().map(Self::Probe).collect();
        for scene in Scene::all() {
            let entry = Entry { name: scene.name(), class: scene.class(), needs: scene.needs(), pace: None };
            all.push(Self::Scene(entry, scene));
        }
        for (client, form) in measured().into_iter().zip(Form::ALL) {
            let name = format!("latency of admitted against declined hellos of {}", client.client);
            all.push(Self::Latency(entry(name, Class::Latency), client, Compared::Proofs));
            let name = format!("time of usual hellos of {} against {}", client.client, form.label());
            let by_form = Entry { needs: Needs::Connection, ..entry(name, Class::Forms) };
            all.push(Self::Latency(by_form, client, Compared::Form(form)));
            if form == Form::ALL[0] {
                let name = format!("time of usual hellos of {} against those for a foreign name", client.client);
                let by_name = Entry { needs: Needs::Connection, ..entry(name, Class::Forms) };
                all.push(Self::Latency(by_name, client, Compared::Names));
            }
            for question in Question::ALL {
                let name = format!("flights to {}: {}", client.client, question.label());
                all.push(Self::Passive(entry(name, Class::Passive), client, question));
            }
        }
        all
    }
}

impl Choice {
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Task::all();
        let exact: Vec<&String> =
            self.only.iter().filter(|only| tasks.iter().any(|task| task.entry().name == **only)).collect();
        let wanted = |name: &str| {
            self.only.is_empty()
                || self.only.iter().any(|only| match exact.contains(&only) {
                    true => only == name,
                    false => fits(name, only),
                })
        };
        let keep: Vec<bool> = tasks.iter().map(|task| wanted(&task.entry().name)).collect();
        let mut keep = keep.into_iter();
        tasks.retain(|_| keep.next().unwrap_or(false));
        tasks.retain(|task| !self.fast || !matches!(task, Task::Probe(probe) if probe.pace == Pace::Patient));
        tasks
    }

    /// Lists what would be run.
    pub fn list(&self) -> Vec<Entry> {
        self.tasks().iter().map(Task::entry).collect()
    }

    /// About how long a run takes with this plan, if little has to be repeated.
    pub fn expected(&self, plan: &Plan) -> Duration {
        let list = self.list();
        let count = |pace| list.iter().filter(|entry| entry.pace == pace).count() as u32;
        let quick = plan.lineup.limit.mul_f64(WAITING) * count(Some(Pace::Quick)) / plan.at_once.max(1) as u32;
        let patient = if count(Some(Pace::Patient)) > 0 { TIME_OUT } else { Duration::ZERO };
        let flights = Duration::from_millis(600) * (2 * self.flights() / plan.at_once.max(1)) as u32;
        let times = Duration::from_millis(20) * self.samples() as u32;
        let measuring = if count(None) > 0 { flights + times } else { Duration::ZERO };
        let idle = self.idle.filter(|_| list.iter().any(|entry| entry.class == Class::Idle)).unwrap_or_default();
        (quick.max(patient) + measuring).max(idle)
    }

    fn samples(&self) -> usize {
        self.samples.unwrap_or(if self.fast { 60 } else { 300 })
    }

    fn conversations(&self) -> usize {
        if self.fast { 12 } else { 24 }
    }

    fn flights(&self) -> usize {
        if self.fast { 40 } else { 200 }
    }
}

/// Whether `name` contains the parts of `pattern` one after another.
fn fits(name: &str, pattern: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// Runs what was chosen, measurements last, so that nothing else is in their way. `tick` is called with the name of each that
/// is done; `report` says whom it is about.
pub async fn run(choice: &Choice, plan: &Plan, ground: &AuditGround, report: Report, tick: impl FnMut(&str)) -> Report {
    let (mut probes, mut scenes, mut times, mut questions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for task in choice.tasks() {
        match task {
            Task::Probe(probe) => probes.push(probe),
            Task::Scene(entry, scene) => scenes.push((entry, scene)),
            Task::Latency(entry, client, compared) => times.push((entry, client, compared)),
            Task::Passive(entry, client, question) => questions.push((entry, client, question)),
        }
    }
    let mut audit = AuditRun { choice, plan, ground, report, tick };
    let (silences, others): (Vec<_>, Vec<_>) = scenes.into_iter().partition(|(entry, _)| entry.class == Class::Idle);
    let silent = audit.begin(silences, None);
    audit.play(probes).await;
    let (quiet, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, scene)| scene.wants_quiet());
    let running = audit.begin(others, None);
    audit.finish(running).await;
    for scene in quiet {
        let running = audit.begin(vec![scene], Some(choice.conversations()));
        audit.finish(running).await;
    }
    audit.count(questions).await;
    audit.time(times).await;
    audit.finish(silent).await;
    audit.report.sort();
    audit.report
}

/// A run under way.
struct AuditRun<'a, T> {
    choice: &'a Choice,
    plan: &'a Plan,
    ground: &'a AuditGround,
    report: Report,
    tick: T,
}

impl<T: FnMut(&str)> AuditRun<'_, T> {
    async fn play(&mut self, probes: Vec<Probe>) {
        for probe in &probes {
            // The cover, the relay and the proxy.
            self.looked(probe.class, 3, MeansOfSight::Answers);
        }
        if self.choice.fast && probes.iter().any(|probe| probe.class == Class::Time) {
            self.missing(Class::Time, "whatever waits for a server's own time-outs: leave out --fast");
        }
        let comparison = compare(probes, self.plan, &mut self.tick).await;
        self.report.differences.extend(comparison.differences);
        self.report.noise.extend(comparison.noise);
    }

    /// Begins measurements side by side.
    fn begin(&self, scenes: Vec<(Entry, Scene)>, samples: Option<usize>) -> JoinSet<(Entry, SceneOutcome)> {
        let mut running = JoinSet::new();
        for (entry, scene) in scenes {
            let (plan, line, idle) = (self.plan.clone(), self.ground.line.clone().ok(), self.choice.idle);
            running.spawn(async move {
                let look = SceneSetup { plan: &plan, line: line.as_ref(), samples: samples.unwrap_or(1) };
                (entry, scene.measure(idle, &look).await)
            });
        }
        running
    }

    async fn finish(&mut self, mut running: JoinSet<(Entry, SceneOutcome)>) {
        while let Some(done) = running.join_next().await {
            let Ok((entry, outcome)) = done else { continue };
            self.note(&entry, outcome);
        }
    }

    async fn count(&mut self, questions: Vec<(Entry, &'static Captured, Question)>) {
        for client in measured() {
            let asked: Vec<_> = questions.iter().filter(|(_, asked, _)| asked.file == client.file).collect();
            if asked.is_empty() {
                continue;
            }
            let flights = passive::collect(client, self.choice.flights(), self.plan).await;
            let admitted = 2 * flights.admitted > flights.count();
            self.report.admitted = Some(self.report.admitted.unwrap_or(true) && admitted);
            for (entry, _, question) in asked {
                let (samples, answer) = (2 * flights.count(), flights.answer(*question));
                self.note(entry, SceneOutcome { samples, means: MeansOfSight::Answers, answer });
            }
        }
    }

    async fn time(&mut self, times: Vec<(Entry, &'static Captured, Compared)>) {
        let samples = self.choice.samples();
        let look = SceneSetup { plan: self.plan, line: self.ground.line.as_ref().ok(), samples };
        for (entry, client, compared) in times {
            let answer = match latency::measure(&entry.name, compared, client, &look).await {
                Some(latency) => {
                    let text = latency.text();
                    let answer = if latency.separable() { Answer::Different(text) } else { Answer::Same(text) };
                    self.report.latency.push(latency);
                    answer
                }
                None => Answer::Different("a hello was not answered within 10 seconds".into()),
            };
            self.note(&entry, look.outcome(4 * samples, answer));
        }
    }

    fn note(&mut self, entry: &Entry, outcome: SceneOutcome) {
        let finding = |text| Finding { probe: entry.name.clone(), class: entry.class, needs: entry.needs, text };
        let looked = !matches!(outcome.answer, Answer::NotLooked(_));
        let report = &mut self.report;
        match outcome.answer {
            Answer::Same(text) => report.measured.push((entry.name.clone(), text)),
            Answer::Different(text) => report.differences.push(finding(text)),
            Answer::Known(text) => report.known.push(finding(text)),
            Answer::NotThere => report.measured.push((entry.name.clone(), "there is none".into())),
            Answer::NotLooked(why) => self.missing(entry.class, &format!("{}: {why}", entry.name)),
        }
        if looked {
            self.looked(entry.class, outcome.samples, outcome.means);
            if let (MeansOfSight::Reads, Err(why)) = (outcome.means, &self.ground.line) {
                let why = why.clone();
                self.missing(entry.class, &format!("packets: {why}"));
            }
        }
        (self.tick)(&entry.name);
    }

    fn coverage(&mut self, class: Class) -> &mut Coverage {
        let coverage = &mut self.report.coverage;
        let at = coverage.iter().position(|known| known.class == class).unwrap_or_else(|| {
            coverage.push(Coverage { class, probes: 0, samples: 0, means: BTreeSet::new(), missing: Vec::new() });
            coverage.len() - 1
        });
        &mut self.report.coverage[at]
    }

    fn looked(&mut self, class: Class, samples: usize, means: MeansOfSight) {
        let coverage = self.coverage(class);
        coverage.probes += 1;
        coverage.samples += samples;
        coverage.means.insert(means);
    }

    fn missing(&mut self, class: Class, why: &str) {
        let missing = &mut self.coverage(class).missing;
        if !missing.iter().any(|known| known == why) {
            missing.push(why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_go_before_parts_of_names() {
        let only = |pattern: &str| Choice { only: vec![pattern.to_owned()], ..Choice::default() }.list().len();
        assert_eq!(only("1 bytes, letter first, then Silence"), 1);
        assert!(only("bytes, letter first") > 20);
        assert_eq!(only("JARM"), 10);
        assert_eq!(only("JARM*middle"), 2);
        assert_eq!(only("no such probe"), 0);
    }

    #[test]
    fn fast_runs_leave_out_the_patient_ones() {
        let [fast, all] = [true, false].map(|fast| Choice { fast, ..Choice::default() }.list());
        assert!(fast.len() < all.len() && all.len() > 940);
        let slow = |list: &[Entry]| list.iter().any(|entry| entry.name.contains("as long as the server likes"));
        assert!(slow(&all) && !slow(&fast));
        assert!(Class::ALL.iter().all(|class| fast.iter().any(|entry| entry.class == *class)));
    }
}
