//! A small Internet for one test (`world.sh`), and programs that run in it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a program may take to say that it is ready, or to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three places that reach one another, and nothing else: see `world.sh`. Whatever runs in them ends with this value.
pub struct World {
    holder: Child,
    /// The world lives until this closes, so it ends even if this very process is killed.
    stdin: Option<ChildStdin>,
    pid: String,
    folder: TempDir,
}

/// Where in the world a program runs.
#[derive(Clone, Copy)]
pub enum Place {
    /// Reaches nothing but `Proxy`.
    Client,
    /// 198.51.100.10 and 2001:db8:51::10, between the other two.
    Proxy,
    /// 203.0.113.2, 2001:db8:78::2, cover.example, and every address of Telegram's.
    Internet,
}

impl World {
    /// A new world. `None` with a note on the standard error if this machine cannot have one; where `CI` is set that is
    /// a failure.
    pub fn create() -> Option<Self> {
        let made = python().and_then(|_| Self::build());
        match made {
            Ok(world) => Some(world),
            Err(reason) if env::var_os("CI").is_some() => panic!("real Telegram software cannot be tested: {reason}"),
            Err(reason) => {
                let name = thread::current().name().unwrap_or_default().to_owned();
                // Past the test runner, which keeps what a passing test prints to itself.
                let _ = writeln!(io::stderr(), "skipped {name}: {reason}\n(see tests/run.sh for what it needs)");
                None
            }
        }
    }

    fn build() -> Result<Self, String> {
        let mut holder = script("world.sh")
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdin = holder.stdin.take();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim().strip_prefix("ready ") {
            Some(pid) => Ok(Self { holder, stdin, pid: pid.into(), folder: tempfile::tempdir().unwrap() }),
            None => {
                drop(stdin);
                let mut reason = String::new();
                let _ = holder.stderr.take().unwrap().read_to_string(&mut reason);
                let _ = holder.wait();
                Err(format!("no network namespaces: {}", reason.trim()))
            }
        }
    }

    /// A path of this name in a folder that is removed with the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that will run in a place. Its working directory is the root, so name files by their whole path.
    pub fn command(&self, place: Place, program: impl AsRef<OsStr>) -> Command {
        let name = match place {
            Place::Client => "client",
            Place::Proxy => "proxy",
            Place::Internet => "internet",
        };
        let mut command = script("world.sh");
        command.args(["exec", &self.pid, name]).arg(program).stdin(Stdio::null());
        command
    }

    /// The same for one of the Python scripts beside this file.
    pub fn python(&self, place: Place, name: &str) -> Command {
        let mut command = self.command(place, python().unwrap());
        command.arg(folder().join(name));
        command
    }

    /// A command of a client in Node, for one of the scripts beside this file.
    pub fn node(&self, name: &str) -> Command {
        let bin = python().unwrap().parent().unwrap();
        let mut command = self.command(Place::Client, bin.join("node"));
        command.arg(folder().join(name)).env("NODE_MODULES", bin.join("../mtcute/node_modules"));
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.holder.wait();
    }
}

/// A program that runs in the background. Everything that it writes is kept, and shown if the test fails.
pub struct Running {
    name: String,
    child: Child,
    said: Arc<Said>,
}

/// What a program wrote, line by line, as it comes.
#[derive(Default)]
struct Said {
    text: Mutex<Text>,
    grown: Condvar,
}

#[derive(Default)]
struct Text {
    lines: Vec<(Stream, String)>,
    /// How many of the two streams have ended.
    ended: usize,
}

/// Where a program wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The standard output.
    Out,
    /// The standard error.
    Err,
}

impl Running {
    /// Starts it.
    pub fn start(name: &str, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<Said>::default();
        said.listen(Stream::Out, child.stdout.take().unwrap());
        said.listen(Stream::Err, child.stderr.take().unwrap());
        Self { name: name.into(), child, said }
    }

    /// Waits for a line that `wanted` makes something of.
    pub fn wait_for<T>(&self, stream: Stream, wanted: impl Fn(&str) -> Option<T>) -> T {
        let found = self.said.until(|text| {
            let lines = text.lines.iter().filter(|line| line.0 == stream);
            lines.map(|line| wanted(&line.1)).find(Option::is_some).or((text.ended == 2).then_some(None))
        });
        found.flatten().unwrap_or_else(|| panic!("{} never said what was waited for", self.name))
    }

    /// Everything so far on one stream.
    pub fn said(&self, stream: Stream) -> String {
        let text = self.said.lock();
        text.lines.iter().filter(|line| line.0 == stream).fold(String::new(), |text, line| text + &line.1 + "\n")
    }

    /// Asks it to end and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        assert!(self.signal(Signal::TERM), "{} has ended already", self.name);
        let ended = self.said.until(|text| (text.ended == 2).then_some(()));
        assert!(ended.is_some(), "{} does not end", self.name);
        self.child.wait().unwrap()
    }

    /// Whether it was still there to be told. What was started is the door into the world, the program its only child.
    fn signal(&self, signal: Signal) -> bool {
        let door = self.child.id();
        let children = fs::read_to_string(format!("/proc/{door}/task/{door}/children")).unwrap_or_default();
        let pid = children.trim().parse().ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut text = format!("--- what {} said ---\n", self.name);
            for (stream, line) in self.said.lock().lines.iter() {
                let _ = writeln!(text, "{stream:?} {line}");
            }
            eprint!("{text}");
        }
        self.signal(Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Text> {
        // A test that failed while it held this still wants to show what was said.
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again whenever there is something new; `None` when patience is at its end.
    fn until<T>(&self, look: impl Fn(&Text) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match look(&text) {
                None if !left.is_zero() => {}
                found => return found,
            }
            text = self.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn listen(self: &Arc<Self>, stream: Stream, pipe: impl Read + Send + 'static) {
        let said = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                said.lock().lines.push((stream, line));
                said.grown.notify_all();
            }
            said.lock().ended += 1;
            said.grown.notify_all();
        });
    }
}

/// The interpreter of an environment with TDLib; made on first use, which takes a package index.
fn python() -> Result<&'static Path, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let made = script("venv.sh").arg(target.join("venv")).output().map_err(|error| error.to_string())?;
        match made.status.success() {
            true => Ok(String::from_utf8_lossy(&made.stdout).trim().into()),
            false => Err(format!("no Python with TDLib: {}", String::from_utf8_lossy(&made.stderr).trim())),
        }
    };
    MADE.get_or_init(make).as_deref().map_err(Clone::clone)
}

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(folder().join(name));
    command
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_clients")
}
