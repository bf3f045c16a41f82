//! One process takes the listeners over from another without a moment in which no one accepts.
//!
//! ```text
//!   new                                       old
//!    │ ── take-over ────────────────────────▶  │  over the control socket
//!    │ ◀─ listeners and lock, as descriptors   │  (SCM_RIGHTS); it goes on accepting
//!    │      reads what it needs                │
//!    │ ── ready ────────────────────────────▶  │
//!    │                                         │  shares the memory of spent hellos; writes and leaves the books
//!    │ ◀─ yours ─────────────────────────────  │
//!    │      opens the books                    │
//!    │ ── prepared ─────────────────────────▶  │
//!    │                                         │  accepts no one more: who comes waits in the listeners' queues
//!    │ ◀─ go ────────────────────────────────  │
//!    │  accepts                                │
//!    │ ── taken ────────────────────────────▶  │
//!    │                                         │  closes the control socket and the admin listener
//!    │                                         │  and lets go of the lock
//!    │ ◀─ gone ──────────────────────────────  │
//!    │  opens its own                          │
//!    │ ◀─ what users have moved ─────────────  │  every second, until its last connection has ended
//! ```
//!
//! Until `taken` the old process can go on as if nothing had happened, and does so when the new one ends or is silent. It
//! accepts all the time but between `go` and `taken`, where nothing is left to be done, and accepts again if that takes
//! longer than [`BRISK`]: clients never wait for a process that is stuck. The new one accepts no one before `go`.
//!
//! A process of a version that passes no lock on knows neither `prepared` nor `go`: it says `taken` when it accepts, and
//! hears nothing but `yours` before.
//!
//! Both ends block, and belong on threads that may.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control;
use super::state_lock::StateLock;
use crate::auth::Usage;
use crate::net::listen::Address;
use crate::server::{InheritedListener, ListenerSpec, Purpose};

/// Time limit for the new process to read all it needs; a remote cover is visited.
const READING: Duration = Duration::from_secs(120);

/// Time limit of any other step.
pub const STEP: Duration = Duration::from_secs(20);

/// Time limit of a step during which no connection is accepted.
pub const BRISK: Duration = Duration::from_secs(2);

/// Most sockets that go with one message (`SCM_MAX_FD`).
const MOST: usize = 253;

/// Longest line.
const LONGEST: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
struct Offer {
    watchdog_micros: Option<u64>,
    listeners: Vec<Offered>,
    /// Whether the lock on the state directory comes behind the listeners.
    #[serde(default)]
    lock: bool,
}

#[derive(Serialize, Deserialize)]
struct Offered {
    purpose: Errand,
    place: ListenerAddress,
    both: bool,
    sockets: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Errand {
    Cover,
    Proxied,
    Redirect,
    Front,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListenerAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Systemd(String),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ready,
    Yours,
    Prepared,
    Go,
    Taken,
    Gone,
}

/// Traffic by user: up, down, and in the present period.
type Moved = BTreeMap<String, (u64, u64, u64)>;

/// The process that takes over.
#[derive(Debug)]
pub struct Taking {
    lines: Lines,
    passed: Vec<InheritedListener>,
    lock: Option<StateLock>,
    /// Whether the other process waits for this one to be prepared.
    waits: bool,
    /// Watchdog interval of the service manager that started the process.
    pub watchdog: Option<Duration>,
}

impl Taking {
    /// Asks the proxy that runs with this state directory. Fails with `NotFound` or `ConnectionRefused` if none runs.
    pub fn ask(state: &Path) -> io::Result<Self> {
        let mut stream = control::connect(state)?;
        stream.set_read_timeout(Some(STEP))?;
        writeln!(stream, "{}", control::TAKE_OVER)?;
        let (offer, sockets) = receive(stream.try_clone()?)?;
        let offer: Offer = serde_json::from_slice(&offer)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the running proxy does not know how"))?;
        Ok(Self::begin(stream, offer, sockets))
    }

    fn begin(stream: UnixStream, offer: Offer, sockets: Vec<OwnedFd>) -> Self {
        let mut sockets = sockets.into_iter();
        let passed = offer.listeners.into_iter().map(|listener| listener.with(&mut sockets)).collect();
        let lock = sockets.next().filter(|_| offer.lock).map(StateLock::adopt);
        let watchdog = offer.watchdog_micros.map(Duration::from_micros);
        Self { lines: Lines::new(stream), passed, lock, waits: offer.lock, watchdog }
    }

    /// The lock on the state directory; to be called once. None from a version that has none.
    pub fn lock(&mut self) -> Option<StateLock> {
        self.lock.take()
    }

    /// The listeners; to be called once.
    pub fn passed(&mut self) -> Vec<InheritedListener> {
        std::mem::take(&mut self.passed)
    }

    /// Everything is read; when this returns the other process has left the books.
    pub fn ready(&mut self) -> io::Result<()> {
        self.lines.say(&Word::Ready)?;
        self.lines.hear_word(Word::Yours, STEP)
    }

    /// All that is left to be done here is to accept; when this returns the other process accepts no one.
    pub fn prepared(&mut self) -> io::Result<()> {
        if !self.waits {
            return Ok(());
        }
        self.lines.say(&Word::Prepared)?;
        self.lines.hear_word(Word::Go, STEP)
    }

    /// Clients are accepted here; when this returns nothing is the other process's any more but its connections.
    pub fn taken(mut self) -> io::Result<Aftermath> {
        self.lines.say(&Word::Taken)?;
        match self.lines.hear_word(Word::Gone, STEP) {
            // It has ended rather suddenly, which comes to the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            outcome => outcome?,
        }
        Ok(Aftermath(self.lines))
    }
}

/// Reports from the previous process: the users' traffic there since the last report, until it has ended. Each step
/// blocks until there is one.
#[derive(Debug)]
pub struct Aftermath(Lines);

impl Iterator for Aftermath {
    type Item = BTreeMap<String, Usage>;

    fn next(&mut self) -> Option<Self::Item> {
        let moved: Moved = self.0.hear(None).ok()?;
        let usage = |(up, down, in_period)| Usage { up, down, in_period, since: None };
        Some(moved.into_iter().map(|(name, moved)| (name, usage(moved))).collect())
    }
}

/// Progress of the process that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits until no one is accepted here.
    Prepared,
    /// It accepts already: a version that does not wait.
    Taken,
}

/// The process that leaves.
#[derive(Debug)]
pub struct Leaving {
    lines: Lines,
    told: BTreeMap<String, Usage>,
}

impl Leaving {
    /// Passes the listeners on, and returns when the other process has read what it needs.
    pub fn offer(
        stream: UnixStream,
        passed: Vec<InheritedListener>,
        lock: Option<OwnedFd>,
        watchdog: Option<Duration>,
    ) -> io::Result<Self> {
        let watchdog_micros = watchdog.and_then(|watchdog| watchdog.as_micros().try_into().ok());
        let (listeners, sockets): (Vec<_>, Vec<_>) = passed.into_iter().map(Offered::of).unzip();
        let offer = serde_json::to_string(&Offer { watchdog_micros, listeners, lock: lock.is_some() })? + "\n";
        send(&stream, offer.as_bytes(), &sockets.into_iter().flatten().chain(lock).collect::<Vec<_>>())?;
        let mut lines = Lines::new(stream);
        lines.hear_word(Word::Ready, READING)?;
        Ok(Self { lines, told: BTreeMap::new() })
    }

    /// `moved` is what the other process will read in the books. Returns when that only has to accept.
    pub fn yours(&mut self, moved: BTreeMap<String, Usage>) -> io::Result<Progress> {
        self.told = moved;
        self.lines.say(&Word::Yours)?;
        match self.lines.hear(Some(STEP))? {
            Word::Prepared => Ok(Progress::Prepared),
            Word::Taken => Ok(Progress::Taken),
            _ => Err(out_of_step()),
        }
    }

    /// No one is accepted here. Fails with `WouldBlock` or `TimedOut` if the other process does not accept within
    /// [`BRISK`]; [`Leaving::taken`] goes on waiting.
    pub fn go(&mut self) -> io::Result<()> {
        self.lines.say(&Word::Go)?;
        self.lines.hear_word(Word::Taken, BRISK)
    }

    /// Waits for the other process to accept after all.
    pub fn taken(&mut self) -> io::Result<()> {
        self.lines.hear_word(Word::Taken, READING)
    }

    /// Nothing is left here but connections.
    pub fn gone(&mut self) -> io::Result<()> {
        self.lines.say(&Word::Gone)
    }

    /// Tells what members have moved since the last time.
    pub fn tell(&mut self, moved: BTreeMap<String, Usage>) -> io::Result<()> {
        let news = |(name, usage): (&String, &Usage)| {
            let more = usage.beyond(self.told.get(name).copied().unwrap_or_default());
            (more.up + more.down + more.in_period > 0).then(|| (name.clone(), (more.up, more.down, more.in_period)))
        };
        let news: Moved = moved.iter().filter_map(news).collect();
        if !news.is_empty() {
            self.lines.say(&news)?;
        }
        self.told = moved;
        Ok(())
    }
}

impl Offered {
    fn of(passed: InheritedListener) -> (Self, Vec<OwnedFd>) {
        let InheritedListener { wanted: ListenerSpec { purpose, address }, both, sockets } = passed;
        let purpose = match purpose {
            Purpose::Cover => Errand::Cover,
            Purpose::Proxied => Errand::Proxied,
            Purpose::Redirect => Errand::Redirect,
            Purpose::Front => Errand::Front,
        };
        let place = match address {
            Address::Tcp(address) => ListenerAddress::Tcp(address),
            Address::Unix(path) => ListenerAddress::Unix(path),
            Address::Systemd(name) => ListenerAddress::Systemd(name),
        };
        (Self { purpose, place, both, sockets: sockets.len() }, sockets)
    }

    fn with(self, sockets: &mut impl Iterator<Item = OwnedFd>) -> InheritedListener {
        let purpose = match self.purpose {
            Errand::Cover => Purpose::Cover,
            Errand::Proxied => Purpose::Proxied,
            Errand::Redirect => Purpose::Redirect,
            Errand::Front => Purpose::Front,
        };
        let address = match self.place {
            ListenerAddress::Tcp(address) => Address::Tcp(address),
            ListenerAddress::Unix(path) => Address::Unix(path),
            ListenerAddress::Systemd(name) => Address::Systemd(name),
        };
        InheritedListener {
            wanted: ListenerSpec { purpose, address },
            both: self.both,
            sockets: sockets.take(self.sockets).collect(),
        }
    }
}

/// Values as lines of JSON.
#[derive(Debug)]
struct Lines(BufReader<UnixStream>);

impl Lines {
    fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    fn say(&mut self, value: &impl Serialize) -> io::Result<()> {
        let stream = self.0.get_mut();
        stream.set_write_timeout(Some(STEP))?;
        stream.write_all((serde_json::to_string(value)? + "\n").as_bytes())
    }

    fn hear<T: DeserializeOwned>(&mut self, patience: Option<Duration>) -> io::Result<T> {
        self.0.get_mut().set_read_timeout(patience)?;
        let mut line = String::new();
        if (&mut self.0).take(LONGEST).read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has ended"));
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn hear_word(&mut self, word: Word, patience: Duration) -> io::Result<()> {
        let heard: Word = self.hear(Some(patience))?;
        match heard == word {
            true => Ok(()),
            false => Err(out_of_step()),
        }
    }
}

fn out_of_step() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other process answers something else")
}

/// Sends the line, its first bytes together with the sockets.
fn send(mut stream: &UnixStream, line: &[u8], sockets: &[OwnedFd]) -> io::Result<()> {
    if sockets.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are too many listeners"));
    }
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let rights = SendAncillaryMessage::ScmRights(&sockets);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        control.push(rights);
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(&line[sent..])
}

/// Receives such a line, without its end.
fn receive(mut stream: UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut line = vec![0; 64 * 1024];
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut line)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = |message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    };
    let sockets: Vec<OwnedFd> = control.drain().filter_map(rights).flatten().collect();
    line.truncate(received.bytes);
    while !line.is_empty() && line.last() != Some(&b'\n') && (line.len() as u64) < LONGEST {
        let mut more = [0; 4096];
        match stream.read(&mut more)? {
            0 => break,
            count => line.extend_from_slice(&more[..count]),
        }
    }
    Ok((line, sockets))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// The end that takes over, once it was offered what there is.
    fn taking(stream: UnixStream) -> Taking {
        let (offer, sockets) = receive(stream.try_clone().unwrap()).unwrap();
        Taking::begin(stream, serde_json::from_slice(&offer).unwrap(), sockets)
    }

    fn usage(up: u64, in_period: u64) -> Usage {
        Usage { up, in_period, ..Usage::default() }
    }

    #[test]
    fn listeners_arrive_as_they_are_and_what_is_moved_afterwards_once() {
        let (old, new) = UnixStream::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let asked = || ListenerSpec {
            purpose: Purpose::Redirect,
            address: "127.0.0.1:0".parse::<SocketAddr>().unwrap().into(),
        };
        let passed = InheritedListener { wanted: asked(), both: true, sockets: vec![listener.into()] };
        let leaving = thread::spawn(move || {
            let lock = StateLock::take(&state).unwrap();
            let mut leaving =
                Leaving::offer(old, vec![passed], lock.pass().ok(), Some(Duration::from_secs(30))).unwrap();
            assert_eq!(leaving.yours([("alice".into(), usage(5, 5))].into()).unwrap(), Progress::Prepared);
            leaving.go().unwrap();
            drop(lock);
            leaving.gone().unwrap();
            leaving.tell([("alice".into(), usage(5, 5))].into()).unwrap();
            leaving.tell([("alice".into(), usage(8, 6)), ("bob".into(), usage(1, 1))].into()).unwrap();
        });
        let mut taking = taking(new);
        assert_eq!(taking.watchdog, Some(Duration::from_secs(30)));
        let passed = taking.passed().remove(0);
        assert_eq!((passed.wanted, passed.both), (asked(), true));
        let socket = TcpListener::from(passed.sockets.into_iter().next().unwrap());
        assert_eq!(socket.local_addr().unwrap(), local);
        let lock = taking.lock().unwrap();
        taking.ready().unwrap();
        taking.prepared().unwrap();
        let mut aftermath = taking.taken().unwrap();
        assert!(StateLock::take(folder.path()).is_err(), "it is held here now");
        drop(lock);
        StateLock::take(folder.path()).unwrap();
        let moved = aftermath.next().unwrap();
        assert_eq!(moved, [("alice".to_owned(), usage(3, 1)), ("bob".to_owned(), usage(1, 1))].into());
        leaving.join().unwrap();
        assert!(aftermath.next().is_none());
    }

    #[test]
    fn one_that_ends_has_not_taken_over() {
        let (old, new) = UnixStream::pair().unwrap();
        drop(new);
        assert!(Leaving::offer(old, Vec::new(), None, None).is_err());
        let (old, new) = UnixStream::pair().unwrap();
        let leaving = thread::spawn(move || {
            let mut leaving = Leaving::offer(old, Vec::new(), None, None).unwrap();
            leaving.yours(BTreeMap::new())
        });
        let mut taking = taking(new);
        taking.ready().unwrap();
        drop(taking);
        assert_eq!(leaving.join().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// One that comes from a version without a lock accepts as soon as the books are its own.
    #[test]
    fn versions_without_a_lock_are_understood() {
        let (old, new) = UnixStream::pair().unwrap();
        let leaving = thread::spawn(move || {
            let mut leaving = Leaving::offer(old, Vec::new(), None, None).unwrap();
            let progress = leaving.yours(BTreeMap::new()).unwrap();
            leaving.gone().unwrap();
            progress
        });
        let mut taking = taking(new);
        assert!(taking.lock().is_none());
        taking.ready().unwrap();
        taking.prepared().unwrap();
        taking.taken().unwrap();
        assert_eq!(leaving.join().unwrap(), Progress::Taken);
    }
}
