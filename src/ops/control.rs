//! The control socket: how commands on the same machine speak to the running proxy.
//!
//! A Unix socket in the state directory, for the proxy's own user and root. One line in, one line of JSON out.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::reload::{Applied, Queue, Refused, Removals, Source, Terms};
use crate::base::files;
use crate::base::summary::{self, Cause};
use crate::net::listen::accept_with;

/// Name of the socket in the state directory.
const FILE: &str = "control";

/// Request for a reload.
const RELOAD: &str = "reload";

/// The same, and all users may go.
const RELOAD_ALL: &str = "reload --allow-removals";

/// The same after a change to the file in one step, perhaps followed by a space and the name of the user who was removed.
const EDITED: &str = "edited";

/// Another process wants to take over; from then on it is [`super::handover`]'s.
pub(super) const TAKE_OVER: &str = "take-over";

/// Request for the identity of the running process.
const WHO: &str = "who";

/// Request for the listeners that are open.
const OPEN: &str = "open";

/// Longest line that is read as a wish.
const LONGEST: u64 = 1024;

/// Time limit for a peer's request once it has connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time limit of a command for the outcome: a new cover is visited first.
const OUTCOME: Duration = Duration::from_secs(120);

/// Longest answer that a command reads. What is wrong with a configuration can be much.
const LONGEST_ANSWER: usize = 16 << 20;

/// Time limit for an answer that is at hand.
const MOMENT: Duration = Duration::from_secs(1);

/// Answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Answer {
    /// It holds.
    Applied(Applied),
    /// Nothing has changed.
    Refused(Refused),
    /// This is who runs.
    Who(Identity),
    /// This is where it is entered.
    Open(Open),
}

/// Listeners that are open, with the addresses that the system gave, as the configuration would write them, and what
/// clients meet there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Addresses for direct connections of clients.
    pub clients: Vec<String>,
    /// Addresses for connections with a PROXY protocol header.
    pub proxied: Vec<String>,
    /// Whether a remote cover accepted the last admitted client and had no handshake for it.
    #[serde(default)]
    pub cover_fails: bool,
}

/// Says which listeners are open now.
pub type Opened = Arc<dyn Fn() -> Open + Send + Sync>;

/// A running proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Number of the process.
    pub process: u32,
    /// Version of the program.
    pub version: String,
    /// Device and number of the program's file, which differ when another was put in its place.
    pub program: Option<(u64, u64)>,
    /// Whether a service manager looks after it.
    pub managed: bool,
}

impl Identity {
    /// That of this process.
    pub fn of_this_process() -> Self {
        let program = fs::metadata("/proc/self/exe").ok().map(|found| (found.dev(), found.ino()));
        Self {
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            program,
            managed: std::env::var_os("NOTIFY_SOCKET").is_some(),
        }
    }
}

/// The socket of the running proxy. The file goes with this value.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket in the state directory. One that a dead process left is replaced, one that is answered is not.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let folder = fs::File::open(state)?;
        // A socket's address has room for some hundred bytes, a path may have more.
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(FILE);
        match UnixStream::connect(&short) {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another proxy uses this state directory")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(&short)?;
        files::set_mode(&path, 0o600)?;
        Ok(Self { listener, path })
    }

    /// Answers until dropped. Processes that want to take over are passed on to `takers`.
    pub async fn serve(self, queue: Queue, takers: mpsc::Sender<UnixStream>, open: Opened) {
        loop {
            let report = |error: &io::Error| {
                summary::note(Cause::warn("the control socket does not work"), || error.to_string())
            };
            let (stream, _) = accept_with(|| self.listener.accept(), report).await;
            tokio::spawn(converse(stream, queue.clone(), takers.clone(), Arc::clone(&open)));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: tokio::net::UnixStream, queue: Queue, takers: mpsc::Sender<UnixStream>, open: Opened) {
    let ours = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == ours || peer.uid() == 0 => {}
        _ => return debug!("a process of another user connected to the control socket"),
    }
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(LONGEST));
    let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await else { return };
    let line = line.trim_end();
    let answer = match (terms(line), line) {
        (Some(terms), _) => match queue.reload_on(Source::Command, terms).await {
            Ok(applied) => Answer::Applied(applied),
            Err(refused) => Answer::Refused(refused),
        },
        (None, WHO) => Answer::Who(Identity::of_this_process()),
        (None, OPEN) => Answer::Open(open()),
        (None, TAKE_OVER) => return pass_on(stream, &takers).await,
        _ => Answer::Refused(Refused::for_reason("this version of the proxy does not know the command")),
    };
    let text = serde_json::to_string(&answer).unwrap_or_default() + "\n";
    let _ = write.write_all(text.as_bytes()).await;
}

/// Parses the terms of a request to reload; `None` for any other request.
fn terms(line: &str) -> Option<Terms> {
    let removals = match (line, line.split_once(' ')) {
        (RELOAD, _) => return Some(Terms::default()),
        (RELOAD_ALL, _) => return Some(Terms { whole: false, removals: Removals::All }),
        (EDITED, _) => Removals::Few,
        (_, Some((EDITED, name))) => Removals::Named(name.to_owned()),
        _ => return None,
    };
    Some(Terms { whole: true, removals })
}

fn line_of(terms: &Terms) -> String {
    match (terms.whole, &terms.removals) {
        (_, Removals::All) => RELOAD_ALL.to_owned(),
        (_, Removals::Named(name)) => format!("{EDITED} {name}"),
        (true, Removals::Few) => EDITED.to_owned(),
        (false, Removals::Few) => RELOAD.to_owned(),
    }
}

async fn pass_on(stream: tokio::net::UnixStream, takers: &mpsc::Sender<UnixStream>) {
    let blocking = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
    match blocking {
        // The one before it is still being served.
        Ok(stream) => _ = takers.try_send(stream),
        Err(error) => warn!(%error, "another process cannot take over"),
    }
}

/// Whether a proxy runs with this state directory. Nothing is asked of it.
pub fn is_held(state: &Path) -> bool {
    connect(state).is_ok()
}

/// The other end of the socket of the proxy that runs with this state directory.
pub(super) fn connect(state: &Path) -> io::Result<UnixStream> {
    let folder = fs::File::open(state)?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(FILE))
}

/// Asks the proxy that runs with this state directory to reload, and waits for the outcome. Blocks.
///
/// Fails with `NotFound` or `ConnectionRefused` if none runs.
pub fn ask_to_reload(state: &Path, terms: &Terms) -> io::Result<Answer> {
    ask(state, &line_of(terms))
}

/// Asks who runs with this state directory. Blocks.
pub fn ask_who(state: &Path) -> io::Result<Identity> {
    match ask(state, WHO)? {
        Answer::Who(identity) => Ok(identity),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the running proxy does not say who it is")),
    }
}

/// Asks the proxy that runs with this state directory where it is entered. Blocks for a moment at most: one that hangs is no
/// reason to wait.
pub fn ask_open(state: &Path) -> io::Result<Open> {
    match ask_within(state, OPEN, MOMENT)? {
        Answer::Open(open) => Ok(open),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the running proxy does not say where it listens")),
    }
}

fn ask(state: &Path, wish: &str) -> io::Result<Answer> {
    ask_within(state, wish, OUTCOME)
}

fn ask_within(state: &Path, wish: &str, limit: Duration) -> io::Result<Answer> {
    let until = Instant::now() + limit;
    let mut stream = connect(state)?;
    stream.set_write_timeout(Some(limit))?;
    writeln!(stream, "{wish}")?;
    Ok(serde_json::from_slice(&read_line(stream, until)?)?)
}

/// Reads a line, of [`LONGEST_ANSWER`] bytes at most. `until` is the end of the whole, however slowly the bytes come.
fn read_line(mut stream: UnixStream, until: Instant) -> io::Result<Vec<u8>> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    while !line.ends_with(b"\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) if line.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy ended before it answered"));
            }
            Ok(0) => break,
            Ok(read) => line.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer of the proxy is too long"));
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wish_is_answered_with_its_outcome() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the address of a socket may be.
        let state = folder.path().join("long".repeat(40));
        fs::create_dir(&state).unwrap();
        assert_eq!(ask_to_reload(&state, &Terms::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let (queue, mut requests) = Queue::new();
        let control = Control::open(&state).unwrap();
        let opened =
            || Open { clients: vec!["192.0.2.1:443".into()], proxied: vec!["unix:/run/x".into()], cover_fails: true };
        assert!(Control::open(&state).is_err(), "another one has it");
        assert!(is_held(&state));
        assert_eq!(fs::metadata(state.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        let serving = tokio::spawn(control.serve(queue, mpsc::channel(1).0, Arc::new(opened)));
        let place = state.clone();
        assert_eq!(tokio::task::spawn_blocking(move || ask_open(&place).unwrap()).await.unwrap(), opened());
        let place = state.clone();
        let who = tokio::task::spawn_blocking(move || ask_who(&place).unwrap()).await.unwrap();
        assert_eq!(who, Identity::of_this_process());
        let outcomes =
            [Ok(Applied { changed: vec!["listen".into()], ..Applied::default() }), Err(Refused::for_reason("no"))];
        for outcome in outcomes {
            let place = state.clone();
            let asking = thread::spawn(move || ask_to_reload(&place, &Terms::default()).unwrap());
            let request = requests.recv().await.unwrap();
            assert_eq!(request.source, Source::Command);
            request.answer.send(outcome.clone()).unwrap();
            let answer = tokio::task::spawn_blocking(move || asking.join().unwrap()).await.unwrap();
            assert_eq!(answer, outcome.map_or_else(Answer::Refused, Answer::Applied));
        }
        serving.abort();
        let _ = serving.await;
        assert!(!state.join(FILE).exists() && !is_held(&state));
    }

    /// One that answers byte by byte, or without end, holds no command up.
    #[test]
    fn an_answer_is_bounded_in_time_and_length() {
        use io::ErrorKind::{InvalidData, TimedOut, WouldBlock};
        for (piece, pause, limit, kinds) in [
            (&b"x"[..], Duration::from_millis(10), Duration::from_millis(200), &[TimedOut, WouldBlock][..]),
            (&[b'x'; 1 << 16], Duration::ZERO, Duration::from_secs(60), &[InvalidData]),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let sending = thread::spawn(move || {
                while theirs.write_all(piece).is_ok() {
                    thread::sleep(pause);
                }
            });
            let error = read_line(ours, Instant::now() + limit).unwrap_err();
            assert!(kinds.contains(&error.kind()), "{error}");
            sending.join().unwrap();
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(FILE)).unwrap());
        assert_eq!(
            ask_to_reload(folder.path(), &Terms::default()).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        Control::open(folder.path()).unwrap();
    }
}
