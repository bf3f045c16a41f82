//! Everything in one run: which probes, in which order, and what they amount to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::captured::{Captured, tdesktop, tdlib};
use super::compare::{Finding, Plan, compare};
use super::corpus;
use super::latency::{self, Compared, Form};
use super::passive::{self, Answer, Question};
use super::probe::{Class, Needs, Pace, Probe};
use super::report::Report;

/// What is to be run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Leave out what takes over ten seconds, and measure less.
    pub fast: bool,
    /// Names, or parts of names with `*` for anything; empty for all.
    pub only: Vec<String>,
    /// How many hellos of each kind are timed, if not the usual number.
    pub samples: Option<usize>,
}

/// One thing that can be run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// What somebody needs to do the same.
    pub needs: Needs,
    /// How long it takes; `None` for a measurement, which comes when all else is done.
    pub pace: Option<Pace>,
}

/// The part of its time limit that a quick probe takes on average.
const WAITING: f64 = 0.5;

/// How long most servers wait before they give a silent visitor up.
const TIME_OUT: Duration = Duration::from_secs(65);

enum Task {
    Probe(Probe),
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
            Self::Latency(entry, _, _) | Self::Passive(entry, _, _) => entry.clone(),
        }
    }

    fn all() -> Vec<Self> {
        let entry = |name: String, class| Entry { name, class, needs: Needs::Watching, pace: None };
        let mut all: Vec<Self> = corpus::all().into_iter().map(Self::Probe).collect();
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

    /// What would be run.
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
        quick.max(patient) + measuring
    }

    fn samples(&self) -> usize {
        self.samples.unwrap_or(if self.fast { 60 } else { 300 })
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

/// Runs what was chosen, measurements last and one by one, so that nothing else is in their way. `tick` is called with
/// the name of each that is done; `report` says whom it is about.
pub async fn run(choice: &Choice, plan: &Plan, mut report: Report, mut tick: impl FnMut(&str)) -> Report {
    let mut tallies: BTreeMap<Class, usize> = BTreeMap::new();
    let (mut probes, mut times, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    for task in choice.tasks() {
        *tallies.entry(task.entry().class).or_default() += 1;
        match task {
            Task::Probe(probe) => probes.push(probe),
            Task::Latency(entry, client, compared) => times.push((entry, client, compared)),
            Task::Passive(entry, client, question) => questions.push((entry, client, question)),
        }
    }
    report.tallies = tallies.into_iter().collect();
    let comparison = compare(probes, plan, &mut tick).await;
    report.differences = comparison.differences;
    report.noise = comparison.noise;
    for client in measured() {
        let asked: Vec<_> = questions.iter().filter(|(_, asked, _)| asked.file == client.file).collect();
        if asked.is_empty() {
            continue;
        }
        let flights = passive::collect(client, choice.flights(), plan).await;
        report.admitted = Some(report.admitted.unwrap_or(true) && 2 * flights.admitted > flights.count());
        for (entry, _, question) in asked {
            note(&mut report, entry, flights.answer(*question));
            tick(&entry.name);
        }
    }
    for (entry, client, compared) in times {
        match latency::measure(&entry.name, compared, client, choice.samples(), plan).await {
            Some(latency) => {
                let text = latency.text();
                let answer = if latency.separable() { Answer::Different(text) } else { Answer::Same(text) };
                note(&mut report, &entry, answer);
                report.latency.push(latency);
            }
            None => note(&mut report, &entry, Answer::Different("a hello was not answered within 10 seconds".into())),
        }
        tick(&entry.name);
    }
    report.sort();
    report
}

fn note(report: &mut Report, entry: &Entry, answer: Answer) {
    let finding = |text| Finding { probe: entry.name.clone(), class: entry.class, needs: entry.needs, text };
    match answer {
        Answer::Same(text) => report.measured.push((entry.name.clone(), text)),
        Answer::Different(text) => report.differences.push(finding(text)),
        Answer::Known(text) => report.known.push(finding(text)),
        Answer::NotThere => report.measured.push((entry.name.clone(), "there are none".into())),
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
