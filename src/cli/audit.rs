//! `vizard audit`: tries on the operator's own proxy what a censor would try.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{Failure, Settings, health, load, output, run};
use crate::audit::compare::{AT_ONCE, Lineup, Plan, ROUNDS};
use crate::audit::cover::{self, Target, Unreachable};
use crate::audit::dice::Dice;
use crate::audit::line::PacketCapture;
use crate::audit::probe::{Pace, Subject};
use crate::audit::relay::{Fault, Relay};
use crate::audit::report::{Report, Verdict};
use crate::audit::run::{AuditGround, Choice, Entry};
use crate::audit::{html, run as audits};
use crate::config::{Config, Cover, Environment, User, units};
use crate::cover::remote::Remote;

/// Flags of `vizard audit`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address of the proxy, if not the first listener of the configuration
    #[arg(long, value_name = "ADDR:PORT")]
    proxy: Option<String>,
    /// Use the secret of this user instead of the first one's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Skip what takes over ten seconds, and measure less: one minute instead of four
    #[arg(long)]
    fast: bool,
    /// Only the probe of this name, or those whose names contain this, `*` standing for anything; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Repeat the run with this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Rounds in which a probe is played that showed a difference
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Number of hellos of each kind that to time instead of 300, or of 60 with --fast
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..=10_000))]
    samples: Option<u16>,
    /// Wait this many seconds for the ends of silent connections, which are left out otherwise
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle: Option<u64>,
    /// Write all that was found to this file as JSON; `-` is the standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with all that was found to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the names of the probes and do nothing else
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Longest wait of a quick probe for an end, in a fast run and otherwise.
const LIMITS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];

/// Number of probes that run at once against a server that may belong to someone else.
const GENTLY: usize = 16;

/// A number that names no data centre, so that Telegram is left alone even by a proxy that lets a probe in.
const NOWHERE: i16 = 9999;

/// Compares the proxy with its cover and says where they differ.
pub fn audit(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let samples = arguments.samples.map(usize::from);
    let idle = arguments.idle.map(Duration::from_secs);
    let choice = Choice { fast: arguments.fast, only: arguments.only.clone(), samples, idle };
    let list = choice.list();
    if list.is_empty() {
        return Err(Failure::usage("no probe has such a name", "see all names with `vizard audit --list`"));
    }
    if arguments.list {
        let lines = list.iter().map(|entry| format!("{:<28}{}", entry.class.label(), entry.name));
        output::print(lines.collect::<Vec<_>>().join("\n"));
        return Ok(());
    }
    let loaded = load(&arguments.settings.flags(), environment)?;
    let config = loaded.draft.settle(&mut rand::rng())?;
    let proxy = proxy(arguments, &config)?;
    run::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unusable(format!("cannot start: {error}"), "check the limit of threads"))?;
    let outcome = runtime.block_on(compare(arguments, &choice, &config, proxy, &list));
    runtime.shutdown_timeout(Duration::from_secs(1));
    hand_out(arguments, &outcome?)
}

fn unusable(message: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::usage(message, next)
}

/// Address of the proxy. Anything but a listener of this configuration has to be named.
fn proxy(arguments: &Arguments, config: &Config) -> Result<SocketAddr, Failure> {
    if let Some(text) = &arguments.proxy {
        return units::socket_address(text).map_err(|error| unusable(format!("--proxy: {error}"), error.fix()));
    }
    health::targets(&config.listen).into_iter().find(health::accepts).ok_or_else(|| {
        let next = "start it, or name where it listens with --proxy; this needs the same flags as `vizard run`";
        unusable("the proxy does not accept connections", next)
    })
}

fn user<'a>(arguments: &Arguments, config: &'a Config) -> Result<&'a User, Failure> {
    let wanted = |user: &&User| arguments.user.as_ref().is_none_or(|name| *name == user.name);
    config.users.iter().find(wanted).ok_or_else(|| {
        let names: Vec<_> = config.users.iter().map(|user| user.name.as_str()).collect();
        unusable("there is no such user", format!("name one of these: {}", names.join(", ")))
    })
}

/// Whether the cover's encrypted flight is one record, so that clients can be shown exactly that.
async fn one_record(config: &Config) -> bool {
    let Cover::Remote(settings) = &config.cover else { return true };
    let remote = Remote::new(settings.clone());
    let found = remote.resolve(&[]).await.is_ok();
    let cover = crate::cover::Cover::remote(remote, config.domain.clone(), None);
    found && cover.quick_scan().await.is_ok_and(|flight| flight.records == 1)
}

async fn compare(
    arguments: &Arguments,
    choice: &Choice,
    config: &Config,
    proxy: SocketAddr,
    list: &[Entry],
) -> Result<Report, Failure> {
    let user = user(arguments, config)?;
    let (cover, described) = open(&config.cover).await?;
    if !health::accepts(&proxy) {
        return Err(unusable(format!("no one accepts connections at {proxy}"), "start the proxy, or correct --proxy"));
    }
    if cover.addr == proxy {
        return Err(unusable("the cover and the proxy are the same server", "name the proxy with --proxy"));
    }
    let relay = Relay::start(cover.addr, Fault::None).await;
    let relay = relay.map_err(|error| unusable(format!("cannot listen: {error}"), "check for free ports"))?;
    let limit = LIMITS[usize::from(!choice.fast)];
    let plan = Plan {
        subject: Subject { key: *user.secret.bytes(), name: config.name_of(user).to_string(), dc: NOWHERE },
        lineup: Lineup { cover: cover.addr, relay: relay.addr, proxy, limit, one_record: one_record(config).await },
        // Short enough to be typed.
        seed: arguments.seed.unwrap_or_else(|| Dice::unseen().number() % 1_000_000),
        rounds: arguments.rounds,
        at_once: if cover.addr.ip().is_loopback() { AT_ONCE } else { GENTLY },
    };
    let report = Report {
        proxy: proxy.to_string(),
        cover: described,
        name: plan.subject.name.clone(),
        user: user.name.clone(),
        seed: plan.seed,
        coverage: Vec::new(),
        differences: Vec::new(),
        known: Vec::new(),
        noise: Vec::new(),
        measured: Vec::new(),
        latency: Vec::new(),
        admitted: None,
    };
    let mut progress = Progress::begin(list, choice.expected(&plan));
    let ground = AuditGround { line: PacketCapture::open().map_err(no_line) };
    let report = audits::run(choice, &plan, &ground, report, |name| progress.done(name)).await;
    progress.bar.finish_and_clear();
    Ok(report)
}

fn no_line(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "run it as root, or with CAP_NET_RAW, to look at packets".to_owned(),
        _ => format!("this system does not show them: {error}"),
    }
}

/// Progress display; hidden if the output is no terminal.
struct Progress {
    bar: ProgressBar,
    /// Names of the probes that wait for a server's time-outs.
    patient: HashSet<String>,
    /// Number of other probes that have not been played yet.
    quick: usize,
}

impl Progress {
    fn begin(list: &[Entry], expected: Duration) -> Self {
        let bar = ProgressBar::new(list.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}  {elapsed} {prefix}  {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("of about {}", HumanDuration(expected)));
        bar.enable_steady_tick(Duration::from_millis(500));
        let of = |pace| list.iter().filter(move |entry| entry.pace == Some(pace));
        Self {
            bar,
            patient: of(Pace::Patient).map(|entry| entry.name.clone()).collect(),
            quick: of(Pace::Quick).count(),
        }
    }

    fn done(&mut self, name: &str) {
        self.bar.inc(1);
        let patient = self.patient.remove(name);
        if !patient {
            self.quick = self.quick.saturating_sub(1);
        }
        self.bar.set_message(match self.patient.len() {
            left @ 1.. if self.quick == 0 => format!("{left} wait for the server's own time-outs"),
            _ => name.to_owned(),
        });
    }
}

async fn open(cover: &Cover) -> Result<(Target, String), Failure> {
    match cover {
        Cover::Site(settings) => {
            let site = cover::site(settings).await.map_err(|error| no_cover("the built-in site", &error))?;
            Ok((site, "the built-in site".to_owned()))
        }
        Cover::Remote(settings) => {
            let described = format!("{}:{}", settings.host, settings.port);
            let remote = cover::remote(settings).await.map_err(|error| no_cover(&described, &error))?;
            Ok((remote, described))
        }
    }
}

fn no_cover(name: &str, error: &Unreachable) -> Failure {
    match error {
        Unreachable::Site(error) => unusable(error.to_string(), "correct the section [site], then `vizard check`"),
        Unreachable::Io(error) => {
            unusable(format!("{name} cannot be reached: {error}"), "start the cover, or correct its name")
        }
    }
}

fn hand_out(arguments: &Arguments, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &arguments.html {
        write(path, html::page(report))?;
    }
    match arguments.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            output::complain(report.summary());
            output::print(report.json());
        }
        Some(path) => {
            write(path, report.json().to_string())?;
            output::print(report.summary());
        }
        None => output::print(report.summary()),
    }
    match report.verdict() {
        Verdict::Same => Ok(()),
        Verdict::Different => Err(Failure::new(
            "the proxy can be told from its cover",
            "repeat one difference with the command after `again:` and the same flags, and report it",
        )),
        Verdict::Nothing => Err(unusable(report.headline(), "add the flags that the report names")),
        Verdict::NotAdmitted => Err(unusable(
            report.headline(),
            "compare the clocks, the secret and the name with those of the running proxy, or name another --user",
        )),
    }
}

fn write(path: &Path, text: String) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        unusable(
            format!("{} cannot be written: {error}", path.display()),
            "name a file in a folder that you may write to",
        )
    })
}
