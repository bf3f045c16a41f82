//! `vizard upgrade`: has a new process take over from the running proxy.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Failure, Settings, load, output, progress, reload};
use crate::config::{self, Environment};
use crate::ops::control::{self, Identity};
use crate::ops::reload::Terms;

/// Time limit for the new process.
const PATIENCE: Duration = Duration::from_secs(180);

/// Interval at which it is checked whether it has taken over.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Flags of `vizard upgrade`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Only reload the configuration if the program is the one that runs
    #[arg(long)]
    or_reload: bool,
    /// Only start the process that takes over, and print its number
    #[arg(long, hide = true)]
    only_start: bool,
    /// The process that is to be taken over from
    #[arg(long, hide = true, value_name = "PID")]
    from: Option<u32>,
}

/// Starts this very program with the same flags, and returns when it has taken over.
pub fn upgrade(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    if arguments.only_start {
        let new = start(arguments.from).map_err(|error| unstarted(&error))?;
        output::print(new.id());
        return Ok(());
    }
    let flags = arguments.settings.flags();
    // What the new process would complain of is better said here, where someone reads it.
    let _ = load(&flags, environment)?;
    let state = config::state_dir(&flags, environment)?;
    let old = control::ask_who(&state).map_err(|error| unasked(&state, &error))?;
    let this = Identity::of_this_process();
    if arguments.or_reload && old.program == this.program {
        return reload::reload_on(&flags, environment, &Terms::default()).map(|_| ());
    }
    if old.managed && !this.managed {
        return Err(Failure::usage(
            "a service manager controls the running proxy, and would not know of the new process",
            "let it do this: `systemctl reload vizard`",
        ));
    }
    if old.process == 1 {
        return Err(Failure::usage(
            "the running proxy is the first process here, and everything ends with it",
            "if this is a container, start another one of the new image",
        ));
    }
    let started = progress::during("another process takes over", || outcome(start_apart(old.process)?, &state));
    match started {
        Ok(Some(new)) => {
            let Identity { process, version, .. } = new;
            output::print(format!("{version} has taken over: process {process}, from process {}\n", old.process));
            Ok(())
        }
        Ok(None) => Err(Failure::new(
            "the new process has not taken over, and the old one keeps running",
            "see its messages; `vizard check` checks the configuration alone",
        )),
        Err(error) => Err(unstarted(&error)),
    }
}

/// The process that shall take over. It goes on after this one has ended, and its log goes where this one's would. Where
/// that is a pipe, whose reader waits for its end, the log goes where the log of the process before it does, once that is
/// taken over from.
fn start(from: Option<u32>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").args(flags()).arg("--take-over").stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(from) = from.filter(|_| is_pipe(std::io::stderr())) {
        command.arg("--log-of").arg(from.to_string());
    }
    // What a terminal sends to whom it thinks is in front is not meant for it.
    command.process_group(0).spawn()
}

/// The same by a process in between that has ended when this returns, so that the new one belongs to no one but the service
/// manager. That would wait for no other's child to end when it stops the service, but kill it at once.
fn start_apart(from: u32) -> io::Result<Pid> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("upgrade").args(flags()).arg("--only-start").arg(format!("--from={from}"));
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let said = command.output()?.stdout;
    let number = str::from_utf8(&said).ok().and_then(|said| said.trim().parse().ok());
    number.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("it has no number"))
}

/// Arguments of this process, but for those that only `upgrade` knows.
fn flags() -> impl Iterator<Item = OsString> {
    let ours = |flag: &OsString| {
        flag == "--or-reload" || flag == "--only-start" || flag.to_str().is_some_and(|flag| flag.starts_with("--from="))
    };
    std::env::args_os().skip(2).filter(move |flag| !ours(flag))
}

fn is_pipe(stream: impl AsFd) -> bool {
    fstat(stream).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo)
}

/// Waits until it has taken over; nothing if it has ended instead.
fn outcome(new: Pid, state: &Path) -> io::Result<Option<Identity>> {
    let handle = match pidfd_open(new, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        handle => handle?,
    };
    let end = Instant::now() + PATIENCE;
    loop {
        match control::ask_who(state) {
            Ok(identity) if identity.process == new.as_raw_nonzero().get().unsigned_abs() => return Ok(Some(identity)),
            _ if Instant::now() > end => {
                pidfd_send_signal(&handle, Signal::KILL)?;
                return Ok(None);
            }
            // It can be read from when the process has ended.
            _ if poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&AGAIN))? > 0 => return Ok(None),
            _ => {}
        }
    }
}

fn unstarted(error: &io::Error) -> Failure {
    Failure::new(format!("the new process could not be started: {error}"), "see whether the program can be executed")
}

fn unasked(state: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::usage(
            format!("no proxy runs with the state directory {}", state.display()),
            "give the same --config or --state-dir as to `vizard run`",
        ),
        _ => Failure::usage(
            format!("the proxy could not be asked: {error}"),
            "run this as its user or root, and see its log",
        ),
    }
}
