//! `vizard doctor`: says whether this installation will work and be believed.
//!
//! Probes go out at once, each with a limit of time; what they bring back is judged by pure functions, one file for each
//! kind of question. Nothing is changed on this machine, and no secret is printed. docs/doctor.md tells what each line
//! means.
//!
//! ```text
//! configuration ─▶ Patient ─▶ probes ─▶ Facts ─▶ findings ─▶ text or JSON, exit code
//! ```

mod acme;
mod centres;
mod certificate;
mod clock;
mod cover;
mod finding;
mod front;
mod local;
mod login;
mod middle;
pub(super) mod name;
mod patient;
mod routes;
mod web;
mod web_login;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use indicatif::{MultiProgress, ProgressBar};

use self::clock::Skews;
use self::cover::{Asker, Seen};
pub(super) use self::finding::{Check, Verdict};
use self::finding::{Finding, Findings};
use self::front::{Held, LoggedIn};
use self::name::{Leads, Whose};
use self::patient::Patient;
use super::ways::{Way, reachable};
use super::{Failure, Settings, doubts, output};
use crate::auth::{Domain, UnixTime};
use crate::config::{self, Cover, Environment, Flags, LoadError, Loaded};
use crate::cover::chain::Chain;
use crate::cover::grade::{NameTarget, grade};
use crate::cover::profile::Profile;
use crate::cover::scout::Examined;
use crate::telegram::Upstream;

/// Flags of `vizard doctor`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Log in as this user only
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Leave this check out; may be repeated
    #[arg(long, value_name = "CHECK", value_enum)]
    skip: Vec<Check>,
    /// Print a JSON array instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Prints a line for everything that was examined, and returns the exit code: 0 fine, 1 warnings, 2 broken.
pub fn doctor(arguments: &Arguments, environment: &Environment) -> Result<u8, Failure> {
    let findings = findings(&arguments.settings.flags(), arguments.user.as_deref(), &arguments.skip, environment)?;
    output::print(if arguments.json { findings.json() } else { findings.text(output::is_colourful_terminal()) });
    Ok(findings.verdict().exit_code())
}

/// Examines the configuration, but for the checks to skip.
pub(super) fn findings(
    flags: &Flags,
    user: Option<&str>,
    skip: &[Check],
    environment: &Environment,
) -> Result<Findings, Failure> {
    let loaded = config::load(flags, environment);
    let mut found = vec![configuration(&loaded)];
    if let Ok(loaded) = loaded {
        let crowded = doubts::crowded_names(&loaded.draft);
        found.extend(crowded.map(|(what, next)| Finding::warning(Check::Configuration, what, next)));
        let (patient, trouble) = Patient::of(loaded.draft, user)?;
        found.extend(trouble);
        found.extend(examine(&patient, skip)?);
    }
    Ok(found.into_iter().filter(|finding| !skip.contains(&finding.check)).collect())
}

fn configuration(loaded: &Result<Loaded, LoadError>) -> Finding {
    const FIX: &str = "fix what is shown above; `vizard check` shows it again";
    match loaded {
        Err(LoadError::Complaints(report)) => {
            output::report(report);
            Finding::broken(Check::Configuration, counted(report.errors(), "mistake"), FIX)
        }
        Err(error) => Finding::broken(Check::Configuration, error.to_string(), "check the path and its permissions"),
        Ok(Loaded { warnings, path, .. }) => {
            output::report(warnings);
            let name = path.as_ref().map_or("flags and defaults".into(), |path| path.display().to_string());
            match warnings.complaints().len() {
                0 => Finding::ok(Check::Configuration, format!("{name} can be used")),
                count => {
                    let reason = format!("{name} can be used, with {}", counted(count, "warning"));
                    Finding::warning(Check::Configuration, reason, FIX)
                }
            }
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("one {what}") } else { format!("{count} {what}s") }
}

fn examine(patient: &Patient, skip: &[Check]) -> Result<Vec<Finding>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}"), "check the limit of threads"))?;
    let facts = runtime.block_on(Facts::gather(patient, skip));
    // A task that waits for a name to be resolved would hold the program back.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(facts.judge(patient))
}

/// Results of the probes; what was skipped or could not be asked is missing.
struct Facts {
    listeners: Vec<(SocketAddr, Held)>,
    others: Vec<(Way, Held)>,
    redirects: Vec<(SocketAddr, Held)>,
    logins: Vec<LoggedIn>,
    web: Vec<web::WebAsked>,
    /// Of each name of the site.
    leads: Vec<(Domain, Leads)>,
    cover: Option<Seen>,
    issue: Option<acme::Issue>,
    centres: Vec<centres::Asked>,
    middle: Option<middle::Asked>,
    routes: Vec<routes::Asked>,
    now: UnixTime,
}

impl Facts {
    async fn gather(patient: &Patient, skip: &[Check]) -> Self {
        let progress = MultiProgress::new();
        let wants = |checks: &[Check]| checks.iter().any(|check| !skip.contains(check));
        let front = async {
            let (listeners, others) = match wants(&[Check::Ports, Check::Login, Check::Web]) {
                true => {
                    during(&progress, "ports", async {
                        (held(&patient.listeners, patient).await, held_elsewhere(patient).await)
                    })
                    .await
                }
                false => (Vec::new(), Vec::new()),
            };
            let ways = ways_in(&listeners, &others);
            let logins = match !ways.is_empty() && wants(&[Check::Login]) {
                true => during(&progress, "logins", front::log_in(&ways, &patient.visitors)).await,
                false => Vec::new(),
            };
            let web = match (&patient.web, patient.visitors.first()) {
                (Some(choice), Some(visitor)) if wants(&[Check::Web]) && (patient.running || !ways.is_empty()) => {
                    during(&progress, "WEB proxies", web::log_in(&patient.web_doors(&ways).await, visitor, choice))
                        .await
                }
                _ => Vec::new(),
            };
            (listeners, others, logins, web)
        };
        let redirects = async {
            match &patient.cover {
                Some(Cover::Site(site)) if wants(&[Check::Ports]) => held(&site.redirect_from, patient).await,
                _ => Vec::new(),
            }
        };
        let leads = async {
            match wants(&[Check::Name]) {
                true => during(&progress, "name", name::all_lead(&patient.names, patient.host.as_deref())).await,
                false => Vec::new(),
            }
        };
        let cover = async {
            let wanted = wants(&[Check::Cover, Check::Certificate, Check::PostQuantum, Check::Records]);
            let cover = patient.cover.as_ref().filter(|_| wanted && !patient.names.is_empty())?;
            let (listeners, visitors, host) = (&patient.listeners, &patient.visitors, patient.host.as_deref());
            let asker = Asker { listeners, visitors, host };
            Some(during(&progress, "cover", cover::look(cover, &patient.names, &asker)).await)
        };
        let issue = match &patient.cover {
            Some(Cover::Site(site)) if wants(&[Check::Acme]) => {
                site.acme.as_ref().map(|acme| acme::Issue::look(acme, &patient.listeners, &site.redirect_from))
            }
            _ => None,
        };
        let centres = async {
            // Where there are other ways, the direct one may well be closed.
            match wants(&[Check::Telegram]) && patient.telegram.routes.is_empty() {
                true => during(&progress, "data centres", centres::ask(&patient.telegram)).await,
                false => Vec::new(),
            }
        };
        let middle = async {
            let settings = patient.middle.as_ref().filter(|_| wants(&[Check::Middle]))?;
            let (upstream, published) = (Upstream::new(patient.telegram.clone()), patient.published());
            Some(during(&progress, "middle proxies", middle::ask(&upstream, settings, published.as_ref())).await)
        };
        let routes = async {
            match wants(&[Check::Routes]) && !patient.telegram.routes.is_empty() {
                true => during(&progress, "routes", routes::ask(&patient.telegram)).await,
                false => Vec::new(),
            }
        };
        let ((listeners, others, logins, web), redirects, leads, cover, centres, middle, routes) =
            tokio::join!(front, redirects, leads, cover, centres, middle, routes);
        let now = SystemTime::now().into();
        Self { listeners, others, redirects, logins, web, leads, cover, issue, centres, middle, routes, now }
    }

    fn judge(&self, patient: &Patient) -> Vec<Finding> {
        let mut found = patient.findings();
        found.push(local::files(local::soft_limit(), local::hard_limit()));
        found.extend(self.listeners.iter().map(|(listener, held)| match (held, barred(*listener, patient)) {
            (Held::Other, Some(why)) => front::barred_port(listener, &why),
            _ => front::port(*listener, *held, false),
        }));
        found.extend(self.others.iter().map(|(way, held)| front::port(way, *held, false)));
        found.extend(self.redirects.iter().map(|(listener, held)| front::port(*listener, *held, true)));
        match self.logins.is_empty() {
            true => {
                let in_use = self.listeners.iter().filter(|(_, held)| *held == Held::Other);
                let barred = in_use.filter_map(|(listener, _)| barred(*listener, patient)).next();
                found.push(front::no_login(patient.may_enter, patient.running, barred.as_deref()));
            }
            false => found.extend(front::logins(&self.logins, patient.may_enter)),
        }
        found.extend(patient.web_obstacle.map(web::blocked));
        found.extend(self.web.iter().map(web::login));
        found.extend(self.issue.iter().flat_map(acme::issue));
        found.extend(self.centres.iter().map(centres::centre));
        found.extend(self.middle.iter().flat_map(middle::middle));
        found.extend(self.routes.iter().map(|asked| routes::route(asked, self.routes.len() == 1)));
        found.push(clock::clock(self.skews(patient), patient.time_window));
        found.extend(self.judge_name(patient));
        found.extend(self.judge_cover(patient));
        found.extend(patient.cover_fails.then(cover::failing));
        found
    }

    /// The built-in site has the clock of this machine, which says nothing.
    fn skews(&self, patient: &Patient) -> Skews {
        let cover = match (&self.cover, &patient.cover) {
            (Some(Seen::Visited(learnt)), Some(Cover::Remote(_))) => learnt.ahead,
            _ => None,
        };
        let centres = self.centres.iter().flat_map(|(_, ways)| ways).filter_map(|(_, answer)| answer.as_ref().ok());
        let routes = self.routes.iter().filter_map(|(.., answer)| answer.as_ref().ok());
        Skews { cover, telegram: centres::ahead(centres.chain(routes), self.now.0) }
    }

    fn judge_name(&self, patient: &Patient) -> Vec<Finding> {
        let known = name::knows_itself(patient.host.as_deref());
        let judge = |(name, leads): &(Domain, Leads)| name::name(name.as_str(), patient.whose(), leads, known);
        self.leads.iter().map(judge).collect()
    }

    fn judge_cover(&self, patient: &Patient) -> Vec<Finding> {
        let Some(seen) = &self.cover else {
            return vec![Finding::warning(
                Check::Cover,
                "there is no cover to check yet",
                "start the proxy once, then run this again",
            )];
        };
        match seen {
            Seen::Ourselves => vec![cover::cover(&grade(&Profile::default(), NameTarget::Ourselves, self.now), None)],
            Seen::Unreachable(why) => {
                vec![cover::cover(&grade(&Profile::default(), self.place(patient), self.now), Some(why))]
            }
            Seen::Visited(learnt) => {
                let own = patient.whose() != Whose::Cover;
                let chain = Chain::read(&learnt.chain);
                let names: Vec<_> = patient.names.iter().map(Domain::as_str).collect();
                let mut found = certificate::certificate(chain.as_ref(), &names, own, self.now);
                found.extend(self.judge_visits(patient, learnt));
                found
            }
        }
    }

    fn judge_visits(&self, patient: &Patient, learnt: &Examined) -> [Finding; 3] {
        let stable = learnt.profile.flights.values().all(|flight| flight.stable);
        [
            cover::cover(&grade(&learnt.profile, self.place(patient), self.now), None),
            cover::post_quantum(&learnt.profile),
            cover::records(&learnt.counts, stable),
        ]
    }

    /// NameTarget of the cover. Without a lookup of its name, one's own site counts as here and any other as elsewhere.
    fn place(&self, patient: &Patient) -> NameTarget {
        let here = self.leads.first().map_or(patient.whose() == Whose::Own, |(_, leads)| leads.here());
        if here { NameTarget::Here } else { NameTarget::Elsewhere }
    }
}

async fn held(listeners: &[SocketAddr], patient: &Patient) -> Vec<(SocketAddr, Held)> {
    let mut all = Vec::new();
    for listener in listeners {
        all.push((*listener, front::held(*listener, &patient.visitors).await));
    }
    all
}

async fn held_elsewhere(patient: &Patient) -> Vec<(Way, Held)> {
    let mut all = Vec::new();
    for way in &patient.others {
        all.push((way.clone(), front::held_at(way, &patient.visitors).await));
    }
    all
}

/// The ways to the first listener that the proxy holds, those first that clients come to themselves.
fn ways_in(listeners: &[(SocketAddr, Held)], others: &[(Way, Held)]) -> Vec<Way> {
    let ours = listeners.iter().find(|(_, held)| *held == Held::Ours);
    match ours {
        Some((listener, _)) => Way::all(&[(*listener).into()], &[]),
        None => others.iter().find(|(_, held)| *held == Held::Ours).map(|(way, _)| way.clone()).into_iter().collect(),
    }
}

/// Reason why connections from this machine to this listener are not judged: they have the address that they go to.
fn barred(listener: SocketAddr, patient: &Patient) -> Option<String> {
    let lists = patient.lists.as_ref()?;
    reachable(listener).into_iter().find_map(|address| lists.told(address.ip()))
}

/// Shows on a terminal what is being waited for.
async fn during<T>(progress: &MultiProgress, what: &'static str, work: impl Future<Output = T>) -> T {
    let bar = progress.add(ProgressBar::new_spinner().with_message(what));
    bar.enable_steady_tick(Duration::from_millis(100));
    let outcome = work.await;
    bar.finish_and_clear();
    outcome
}
