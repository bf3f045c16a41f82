//! `vizard upgrade`: has a new process take over from the running proxy.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, Settings, load, output, progress, reload};
use crate::config::{self, Environment};
use crate::ops::control::{self, Identity};

/// How long the new process may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often it is looked whether it has taken over.
const AGAIN: Duration = Duration::from_millis(50);

/// Flags of `vizard upgrade`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Only have the configuration read again if the program is the one that runs
    #[arg(long)]
    or_reload: bool,
}

/// Starts this very program with the same flags, and returns when it has taken over.
pub fn upgrade(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let flags = arguments.settings.flags();
    // What the new process would complain of is better said here, where somebody reads it.
    let _ = load(&flags, environment)?;
    let state = config::state_dir(&flags, environment)?;
    let old = control::ask_who(&state).map_err(|error| unasked(&state, &error))?;
    let this = Identity::of_this_process();
    if arguments.or_reload && old.program == this.program {
        return reload::reload(&flags, environment).map(|_| ());
    }
    if old.managed && !this.managed {
        return Err(Failure::usage(
            "a service manager looks after the running proxy, and would not know of the new process",
            "let it do this: `systemctl reload vizard`",
        ));
    }
    if old.process == 1 {
        return Err(Failure::usage(
            "the running proxy is the first process here, and everything ends with it",
            "if this is a container, start another one of the new image",
        ));
    }
    let started = progress::during("another process takes over", || -> io::Result<Result<Identity, ExitStatus>> {
        let mut child = start()?;
        outcome(&mut child, &state)
    });
    match started {
        Ok(Ok(new)) => {
            let Identity { process, version, .. } = new;
            output::print(format!("{version} has taken over: process {process}, from process {}\n", old.process));
            Ok(())
        }
        Ok(Err(status)) => Err(Failure::new(
            format!("the new process has not taken over ({status}), and the old one goes on"),
            "see what it has said; `vizard check` looks at the configuration alone",
        )),
        Err(error) => Err(Failure::new(
            format!("the new process could not be started: {error}"),
            "see whether the program can be executed",
        )),
    }
}

/// The process that shall take over. It goes on after this one has ended, and its log goes where this one's would.
fn start() -> io::Result<Child> {
    let flags = std::env::args_os().skip(2).filter(|flag| flag != "--or-reload");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").args(flags).arg("--take-over").stdin(Stdio::null()).stdout(Stdio::null());
    // What a terminal sends to whom it thinks is in front is not meant for it.
    command.process_group(0).spawn()
}

/// Waits until it has taken over or has ended.
fn outcome(child: &mut Child, state: &Path) -> io::Result<Result<Identity, ExitStatus>> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Err(status));
        }
        match control::ask_who(state) {
            Ok(identity) if identity.process == child.id() => return Ok(Ok(identity)),
            _ if Instant::now() > end => {
                child.kill()?;
                return child.wait().map(Err);
            }
            _ => thread::sleep(AGAIN),
        }
    }
}

fn unasked(state: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::usage(
            format!("no proxy runs with the state directory {}", state.display()),
            "give the same --config or --state-dir as to `vizard run`",
        ),
        _ => Failure::usage(format!("the proxy could not be asked: {error}"), "be its user or root, and see its log"),
    }
}
