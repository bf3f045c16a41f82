//! The program under test as its operator runs it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::process::{Pid, Signal, kill_process};

use super::hello::Key;
use super::origin::{NAME, Origin};

/// How long the program may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to start the program.
#[derive(Clone, Debug)]
pub struct Setup {
    args: Vec<String>,
    environment: Vec<(String, OsString)>,
}

impl Setup {
    fn run() -> Self {
        // What is tried with a web server of several records is its bytes, not its grade.
        Self { args: vec!["run".to_owned()], environment: vec![("VIZARD_ACCEPT_GRADE_C".to_owned(), "true".into())] }
    }

    /// `cover` is `site` or an address.
    pub fn new(state: &Path, cover: &str) -> Self {
        Self::bare(state).arg("--cover", cover)
    }

    /// The cover stands in a configuration file.
    pub fn bare(state: &Path) -> Self {
        Self::run().arg("--state-dir", state.display()).arg("--listen", "127.0.0.1:0").arg("--log", "json")
    }

    /// All but the state directory stands in a configuration file.
    pub fn file(state: &Path, file: &Path) -> Self {
        Self::run().arg("--state-dir", state.display()).arg("--config", file.display()).arg("--log", "json")
    }

    /// The built-in site with the files of `origin`.
    pub fn site(state: &Path, origin: &Origin) -> Self {
        let file = origin.path().join("vizard.toml");
        let text = |path: &Path| toml::Value::String(path.display().to_string());
        let (certificate, key, folder) = (origin.certificate(), origin.key(), origin.folder());
        let (certificate, key, folder) = (text(&certificate), text(&key), text(&folder));
        let config = format!("[site]\ncertificate = {certificate}\nkey = {key}\nfolder = {folder}\n");
        std::fs::write(&file, config).expect("writes the configuration");
        Self::new(state, "site").arg("--config", file.display())
    }

    pub fn arg(mut self, name: &str, value: impl ToString) -> Self {
        self.args.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// Sets a variable of its environment.
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub fn flag(mut self, name: &str) -> Self {
        self.args.push(name.to_owned());
        self
    }

    pub fn domain(self, name: &str) -> Self {
        self.arg("--domain", name)
    }

    pub fn user(self, name: &str, key: &Key) -> Self {
        self.arg("--secret", format!("{name}={}", HEXLOWER.encode(key)))
    }

    pub fn dc(self, id: i16, addr: SocketAddr) -> Self {
        self.arg("--dc", format!("{id}={addr}"))
    }

    /// One user and the usual name.
    pub fn usual(self, key: &Key) -> Self {
        self.domain(NAME).user("alice", key)
    }

    /// Lets the program end by itself; it is killed if it does not.
    pub fn output(&self) -> Output {
        output_in_time(self.command())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
        command.args(&self.args).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the program and waits until it says that it accepts connections.
    pub fn start(&self) -> Vizard {
        let mut child = self.command().spawn().expect("the program runs");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (tell, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let keep = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                keep.lock().expect("no panic while logging").push(line);
            }
        });
        let mut vizard = Vizard { addr: ([127, 0, 0, 1], 0).into(), child, log };
        vizard.addr = vizard.ready(&lines);
        // Whatever it prints later must have a reader, or it would meet a closed pipe.
        thread::spawn(move || lines.iter().for_each(drop));
        vizard
    }
}

/// What the command says until all its outputs are closed. The command is killed if that takes too long.
pub fn output_in_time(mut command: Command) -> Output {
    let child = command.spawn().expect("the program runs");
    let pid = Pid::from_child(&child);
    let (done, waiting) = mpsc::channel::<()>();
    let watching = thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("the program ends");
    drop(done);
    watching.join().expect("no panic");
    output
}

/// The running program; it is killed with this value.
pub struct Vizard {
    pub addr: SocketAddr,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Vizard {
    fn ready(&self, lines: &mpsc::Receiver<String>) -> SocketAddr {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("never ready; its log: {:#?}", self.log()));
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if let Some(addr) = line["listen"][0].as_str() {
                return addr.parse().expect("an address");
            }
        }
    }

    /// Number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line of the log that has this in it, as soon as it is written.
    pub async fn logged(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(part)) {
                return line;
            }
            tokio::task::yield_now().await;
        }
        panic!("{part:?} is not in the log: {:#?}", self.log());
    }

    /// Everything written to the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while logging").clone()
    }

    /// SIGHUP.
    pub fn hangup(&self) {
        self.signal(Signal::HUP);
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// The way it ends by itself.
    pub async fn ended(self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.wait()).await.expect("it ends")
    }

    /// SIGTERM, then the way it ended.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn wait(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            thread::yield_now();
        }
        panic!("still running after {PATIENCE:?}");
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Vizard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
