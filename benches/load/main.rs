//! The load tool: what moving bytes through the proxy costs, beside what it costs others.
//!
//! ```text
//! cargo bench --bench load -- goals              all eight goals, with tables and a verdict
//! cargo bench --bench load -- goals 1 2          some of them
//! cargo bench --bench load -- --help             the single scenarios, and other people's proxies
//! cargo test --bench load                        a little of everything, for its correctness
//! ```
//!
//! Clients and far ends live in this process. Every relay and proxy has a process of its own, whose CPU time, memory and
//! descriptors are read from the proc file system. All payload is checked on arrival. docs/performance.md explains the
//! figures.

#![allow(clippy::print_stdout, reason = "the output of a program")]

mod contestants;
mod far;
mod goals;
mod link;
mod meter;
mod options;
mod pattern;
mod relays;
mod report;
mod scenarios;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vizard::cover::site::{Content, Settings};

use contestants::Stage;
use goals::{Plan, Run};
use options::Options;
use report::Report;

/// What it is called among the tests.
const TEST: &str = "load_tool";

/// Descriptors that 10 000 sessions take here and in a relay with two pipes for each.
const DESCRIPTORS: u64 = 100_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    raise_descriptor_limit();
    if let [_, process, role, argument] = &words[..]
        && process == "process"
    {
        return runtime.block_on(be(role, argument)).map_or_else(|error| complain(&error), |()| ExitCode::SUCCESS);
    }
    let benches = words.iter().any(|word| word == "--bench");
    let known = words.iter().skip(1).any(|word| Options::is_command(word) || word == "--help");
    // Run among the tests it gets no command, and perhaps words that name tests, of which it is one.
    let names: Vec<&String> = words.iter().skip(1).filter(|word| !word.starts_with('-')).collect();
    if !benches && !known && !names.is_empty() && !names.iter().any(|name| TEST.contains(&**name)) {
        println!("0 passed, 0 failed, 1 skipped");
        return ExitCode::SUCCESS;
    }
    let options = match benches || known {
        true => Options::parse_from(words.iter().filter(|word| *word != "--bench")),
        false => Options::quick(),
    };
    match runtime.block_on(run(&options)) {
        Ok(met) if met || options.quick => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => complain(&error),
    }
}

fn complain(error: &io::Error) -> ExitCode {
    eprintln!("the run failed: {error}");
    ExitCode::from(2)
}

/// A relay or a site in a process of its own, until it is killed.
async fn be(role: &str, argument: &str) -> io::Result<()> {
    let ready = |addr: SocketAddr| println!("ready {addr}");
    match role {
        "site" => {
            let folder = Path::new(argument);
            let content = Content::Folder(folder.join("www"));
            let settings = Settings::new(folder.join("cert.pem"), folder.join("key.pem"), content);
            let target = vizard::audit::cover::site(&settings).await;
            let target = target.map_err(|error| wire::broken(format!("{error:?}")))?;
            ready(target.addr);
            std::future::pending().await
        }
        role => relays::run(role == "splice", argument.parse().map_err(io::Error::other)?, ready).await,
    }
}

/// Runs what was asked for; says whether every goal was met.
async fn run(options: &Options) -> io::Result<bool> {
    let plan = options.plan();
    let stage = Stage::new(options.proxy(), options.hello()?, options.dc_listen, options.site_listen)?;
    let mut report = Report { about: about(options, &plan), ..Report::default() };
    let mut run = Run { stage: &stage, plan: &plan, report: &mut report, target: options.target()? };
    for goal in options.what.goals() {
        eprintln!("goal {goal} …");
        run.goal(goal).await.map_err(|error| with_complaints(&error))?;
    }
    let complaints = far::complaints();
    if !complaints.is_empty() {
        return Err(wire::broken(format!("the far end: {}", complaints.join("; "))));
    }
    if options.quick {
        // So little says nothing about the goals.
        report.checks.clear();
    }
    print!("{}", report.text());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report).map_err(io::Error::other)?)?;
    }
    if options.quick {
        println!("1 passed, 0 failed");
    }
    Ok(report.checks.iter().all(|check| check.met))
}

/// The far end may know more than the client whose connection it ended.
fn with_complaints(error: &io::Error) -> io::Error {
    let complaints = far::complaints();
    if complaints.is_empty() {
        wire::broken(error.to_string())
    } else {
        wire::broken(format!("{error}; the far end: {}", complaints.join("; ")))
    }
}

fn about(options: &Options, plan: &Plan) -> Vec<(&'static str, String)> {
    let system = rustix::system::uname();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let seconds = vizard::audit::hello::now();
    let date = jiff::Timestamp::from_second(seconds.into()).map_or_else(|_| String::new(), |time| time.to_string());
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    vec![
        ("command", format!("cargo bench --bench load -- {}", words.join(" "))),
        ("date", date),
        ("machine", format!("{cores} cores, {}", cpu.trim_start_matches([' ', '\t', ':']))),
        ("kernel", system.release().to_string_lossy().into_owned()),
        (
            "vizard",
            format!("{} ({})", env!("CARGO_PKG_VERSION"), options.proxy().file_name().unwrap_or_default().display()),
        ),
        ("rounds", plan.rounds.to_string()),
    ]
}

/// As far as the system lets us; children inherit it.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(DESCRIPTORS.max(limit.maximum.unwrap_or(DESCRIPTORS)));
    if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
