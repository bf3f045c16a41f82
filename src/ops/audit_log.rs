//! The audit log: who was admitted, who was declined although a key was shown, and who did what through the admin
//! listener, with the reason and the time.
//!
//! One JSON object a line, in a file for its owner alone, which is begun again when it is long or old; files that are older
//! than the operator wants to keep are removed. Mere visitors are not in it: they are the public of a web site. Addresses
//! are not in it unless asked for, and then not whole.
//!
//! Two bounds keep a peer with a recorded hello from filling the disk or from pushing others out. The same user declined for
//! the same reason has one line at once and then one a minute with a `count`. And anyone who tells of something does not wait
//! for the disk: a thread of its own writes, and what comes faster than that is dropped and counted; what admins do waits
//! in a queue of its own, which no visitor can fill.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::Serialize;
use tracing::{error, info};

use super::nets::neighbourhood;
use crate::base::files;
use crate::base::summary::{self, Cause, Summary};
use crate::crypto::Mac;
use crate::server::event::{Event, Observer};

/// Settings of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub file: PathBuf,
    /// Form in which addresses are written.
    pub addresses: Addresses,
    /// The file is begun again when it has this many bytes,
    pub size: u64,
    /// and when it is this old.
    pub age: Duration,
    /// Files older than this are removed.
    pub keep: Duration,
}

/// Form in which a client's address is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Nothing.
    #[default]
    None,
    /// Its network: 24 bits of IPv4, 48 of IPv6.
    Truncated,
    /// A number that is the same for the same address until the key is another: after a day, and after a restart. The key
    /// is in memory only, so no one can try addresses afterwards.
    Hashed,
}

/// Lifetime of a key for addresses.
const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Lines that may wait for the disk: of visits, and of what admins do.
const WAITING: usize = 4096;

/// Interval of checks on the file's age when nothing is written, and longest wait of lines that are written together.
const LOOK: Duration = Duration::from_secs(60);

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

/// Action through the admin listener, done or refused. Holds no token and no secret.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// The name of the token.
    pub actor: &'a str,
    /// Its role, if the token is known.
    pub role: Option<&'static str>,
    /// Name of the action.
    pub action: &'a str,
    /// To which user or session; empty if to none.
    pub on: &'a str,
    /// Reason why it was not done.
    pub error: Option<&'a str>,
}

/// The log. Cheap to clone; the writer ends, everything written, with the last of them.
#[derive(Clone)]
pub struct AuditLog(Arc<Shared>);

struct Shared {
    waiting: Arc<Waiting>,
    addresses: Mutex<(Addresses, Key)>,
}

/// Lines on their way to the writer.
struct Waiting {
    queues: Mutex<Queues>,
    filled: Condvar,
    declines: Summary,
}

/// Each queue has its own bound; lines are written in the order in which they came.
struct Queues {
    actions: VecDeque<(u64, Line)>,
    visits: VecDeque<(u64, Line)>,
    room: usize,
    next: u64,
    dropped: u64,
    over: bool,
}

/// Kind of a line, which decides where it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Someone with a token did something.
    Action,
    /// Someone came who may be anybody.
    Visit,
}

/// Next step of the writer.
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Next {
    Write(Line),
    Look,
    End,
}

impl Waiting {
    fn new(room: usize) -> Self {
        let (actions, visits) = (VecDeque::new(), VecDeque::new());
        let queues = Mutex::new(Queues { actions, visits, room, next: 0, dropped: 0, over: false });
        Self { queues, filled: Condvar::new(), declines: Summary::default() }
    }

    fn put(&self, kind: Kind, line: Line) {
        let mut queues = self.lock();
        let (room, number) = (queues.room, queues.next);
        queues.next += 1;
        let queue = if kind == Kind::Action { &mut queues.actions } else { &mut queues.visits };
        if queue.len() < room {
            queue.push_back((number, line));
            self.filled.notify_one();
        } else {
            queues.dropped += 1;
        }
    }

    /// The next line, or what else is to be done after this time.
    fn take(&self, patience: Duration) -> Next {
        let idle = |queues: &mut Queues| queues.actions.is_empty() && queues.visits.is_empty() && !queues.over;
        let waited = self.filled.wait_timeout_while(self.lock(), patience, idle);
        let mut queues = waited.unwrap_or_else(PoisonError::into_inner).0;
        let number = |queue: &VecDeque<(u64, Line)>| queue.front().map_or(u64::MAX, |(number, _)| *number);
        let first = number(&queues.actions) < number(&queues.visits);
        let queue = if first { &mut queues.actions } else { &mut queues.visits };
        match queue.pop_front() {
            Some((_, line)) => Next::Write(line),
            None if queues.over => Next::End,
            None => Next::Look,
        }
    }

    /// Lines for what was declined and only counted.
    fn summarise(&self) {
        for summary::Line { user, detail, count, .. } in self.declines.due() {
            let line = Line { user, reason: Some(detail), count: Some(count), ..Line::new("declined") };
            self.put(Kind::Visit, line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.waiting.summarise();
        self.waiting.lock().over = true;
        self.waiting.filled.notify_one();
    }
}

/// The key of hashed addresses.
struct Key {
    mac: Mac,
    since: Instant,
}

impl AuditLog {
    /// Opens the file and starts the writer; a file that cannot be written to is an error now and a warning later. The
    /// handle is done when the last line is on its way to the disk.
    pub fn open(settings: Settings) -> io::Result<(Self, thread::JoinHandle<()>)> {
        let addresses = settings.addresses;
        let file = Rotating::open(settings)?;
        let waiting = Arc::new(Waiting::new(WAITING));
        let lines = Arc::clone(&waiting);
        let writer = thread::Builder::new().name("audit-log".into()).spawn(move || write(file, &lines))?;
        let addresses = Mutex::new((addresses, Key::new()));
        Ok((Self(Arc::new(Shared { waiting, addresses })), writer))
    }

    /// Returns the number of lines that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.0.waiting.lock().dropped
    }

    /// Someone did something through the admin listener, or tried to.
    pub fn action(&self, Action { actor, role, action, on, error }: Action<'_>) {
        // Anybody who reaches the listener can show a token that is none.
        let kind = if role.is_some() { Kind::Action } else { Kind::Visit };
        let line = Line {
            actor: Some(actor.to_owned()),
            role,
            action: Some(action.to_owned()),
            on: (!on.is_empty()).then(|| on.to_owned()),
            error: error.map(str::to_owned),
            ..Line::new("action")
        };
        self.0.waiting.put(kind, line);
    }

    fn visit(&self, line: Line) {
        self.0.waiting.put(Kind::Visit, line);
    }

    fn address(&self, from: IpAddr) -> Option<String> {
        let (how, key) = &mut *self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        match how {
            Addresses::None => None,
            Addresses::Truncated => {
                let network = neighbourhood(from);
                Some(format!("{network}/{}", if network.is_ipv4() { 24 } else { 48 }))
            }
            Addresses::Hashed => Some(key.hash(from)),
        }
    }
}

impl Observer for AuditLog {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Admitted { from, member, .. } => self.visit(Line {
                user: Some(member.name().to_owned()),
                address: self.address(from.ip()),
                ..Line::new("admitted")
            }),
            Event::Declined { from, declined } => {
                let Some(member) = &declined.member else { return };
                let cause = Cause::info("declined").of(Some(member.name())).because(declined.reason.label());
                let Some(line) = self.0.waiting.declines.note(cause, || declined.reason.to_string()) else { return };
                self.visit(Line {
                    user: line.user,
                    reason: Some(line.detail),
                    address: self.address(from.ip()),
                    ..Line::new("declined")
                });
            }
            _ => {}
        }
    }
}

impl Line {
    fn new(event: &'static str) -> Self {
        let time = format!("{:.3}", Timestamp::now());
        Self {
            time,
            event,
            user: None,
            reason: None,
            address: None,
            actor: None,
            role: None,
            action: None,
            on: None,
            error: None,
            count: None,
        }
    }
}

impl Key {
    fn new() -> Self {
        Self { mac: Mac::new(&rand::random::<[u8; 32]>()), since: Instant::now() }
    }

    fn hash(&mut self, address: IpAddr) -> String {
        if self.since.elapsed() >= KEY_LIFE {
            *self = Self::new();
        }
        let whole = match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        HEXLOWER.encode(&self.mac.digest(&[&whole.octets()])[..8])
    }
}

/// Writes until no one can send any more.
fn write(mut file: Rotating, waiting: &Waiting) {
    let (mut failing, mut told, mut summarised) = (false, 0, Instant::now());
    loop {
        if summarised.elapsed() >= LOOK {
            summarised = Instant::now();
            waiting.summarise();
        }
        let written = match waiting.take(LOOK.saturating_sub(summarised.elapsed())) {
            Next::Write(line) => file.write(&line, SystemTime::now()),
            Next::Look => file.tidy(SystemTime::now()),
            Next::End => return,
        };
        match &written {
            Err(error) if !failing => error!(%error, "the audit log cannot be written"),
            Ok(()) if failing => info!("the audit log is written again"),
            _ => {}
        }
        failing = written.is_err();
        let lost = waiting.lock().dropped;
        if lost > told {
            summary::note(Cause::warn("lines of the audit log came faster than the disk took them"), || {
                format!("{lost} were lost")
            });
            told = lost;
        }
    }
}

/// The file, begun again from time to time.
struct Rotating {
    settings: Settings,
    file: File,
    length: u64,
    since: SystemTime,
}

impl Rotating {
    fn open(settings: Settings) -> io::Result<Self> {
        let file = append(&settings.file)?;
        let found = file.metadata()?;
        // A file that an earlier run began goes on, with the age that it has.
        let since = match found.len() {
            0 => SystemTime::now(),
            _ => first_time(&settings.file).or_else(|| found.modified().ok()).unwrap_or(SystemTime::now()),
        };
        let mut rotating = Self { settings, file, length: found.len(), since };
        rotating.tidy(SystemTime::now())?;
        Ok(rotating)
    }

    fn write(&mut self, line: &Line, now: SystemTime) -> io::Result<()> {
        self.rotate_if_due(now)?;
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.length += text.len() as u64;
        Ok(())
    }

    fn tidy(&mut self, now: SystemTime) -> io::Result<()> {
        self.rotate_if_due(now)?;
        self.remove_old(now)
    }

    fn rotate_if_due(&mut self, now: SystemTime) -> io::Result<()> {
        let old = now.duration_since(self.since).is_ok_and(|age| age >= self.settings.age);
        if self.length == 0 || (self.length < self.settings.size && !old) {
            return Ok(());
        }
        let stamp = Timestamp::try_from(now).map_err(io::Error::other)?.strftime("%Y%m%dT%H%M%S");
        let unused = (0..).map(|n: u32| match n {
            0 => self.beside(&stamp.to_string()),
            n => self.beside(&format!("{stamp}-{n}")),
        });
        let place = unused.into_iter().find(|path| !path.exists()).unwrap_or_default();
        fs::rename(&self.settings.file, place)?;
        self.file = append(&self.settings.file)?;
        (self.length, self.since) = (0, now);
        self.remove_old(now)
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.settings.file.with_added_extension(end)
    }

    /// A file's age is that of its last line.
    fn remove_old(&self, now: SystemTime) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.settings.file.parent(), self.settings.file.file_name()) else {
            return Ok(());
        };
        let start = [name.as_encoded_bytes(), b"."].concat();
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for entry in fs::read_dir(folder)?.flatten() {
            let name = entry.file_name();
            let Some(end) = name.as_encoded_bytes().strip_prefix(&start[..]) else { continue };
            let ours = end.len() >= 15 && end.iter().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'-'));
            let age = entry.metadata().and_then(|found| found.modified()).map(|time| now.duration_since(time));
            if ours && matches!(age, Ok(Ok(age)) if age >= self.settings.keep) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    files::open_file(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

/// The time of a file's first line.
fn first_time(path: &Path) -> Option<SystemTime> {
    let mut line = String::new();
    let file = files::open_file(path, OFlags::RDONLY).ok()?;
    io::BufRead::read_line(&mut io::BufReader::new(io::Read::take(file, 4096)), &mut line).ok()?;
    let value: serde_json::Value = serde_json::from_str(&line).ok()?;
    value["time"].as_str()?.parse::<Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::{Declined, Member, Reason};
    use crate::wire::HelloClass;

    const DAY: Duration = Duration::from_secs(86_400);

    fn settings(folder: &Path) -> Settings {
        let file = folder.join("audit.log");
        Settings { file, addresses: Addresses::None, size: 1 << 20, age: DAY, keep: 7 * DAY }
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What is in the file after one admission, one decline of a user, one of a stranger, and one action.
    fn written(addresses: Addresses) -> Vec<serde_json::Value> {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { addresses, ..settings(folder.path()) };
        let (log, writer) = AuditLog::open(settings.clone()).unwrap();
        let member = Member::new("alice");
        let from = "[::ffff:192.0.2.77]:5".parse().unwrap();
        let class = HelloClass::ALL[0];
        log.observe(&Event::Admitted { from, member: &member, class, took: Duration::ZERO, by_cover: true });
        let declined = Declined { reason: Reason::Replay, member: Some(member) };
        log.observe(&Event::Declined { from, declined: &declined });
        log.observe(&Event::Declined { from, declined: &Reason::Digest.into() });
        log.action(Action { actor: "ops", role: Some("operator"), action: "disable user", on: "alice", error: None });
        drop(log);
        writer.join().unwrap();
        assert_eq!(fs::metadata(&settings.file).unwrap().permissions().mode() & 0o777, 0o600);
        lines(&settings.file)
    }

    #[test]
    fn users_are_in_it_and_strangers_are_not() {
        let lines = written(Addresses::None);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!((&lines[0]["event"], &lines[0]["user"]), (&"admitted".into(), &"alice".into()));
        assert_eq!((&lines[1]["event"], &lines[1]["reason"]), (&"declined".into(), &"replay".into()));
        assert_eq!((&lines[2]["actor"], &lines[2]["action"]), (&"ops".into(), &"disable user".into()));
        assert_eq!((&lines[2]["on"], &lines[2]["error"]), (&"alice".into(), &serde_json::Value::Null));
        assert!(lines.iter().all(|line| line["address"].is_null() && !line.to_string().contains("192.0")));
        assert!(lines[0]["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }

    #[test]
    fn addresses_are_never_whole() {
        let truncated = written(Addresses::Truncated);
        assert_eq!(truncated[0]["address"], "192.0.2.0/24");
        let hashed = written(Addresses::Hashed);
        assert_eq!(hashed[0]["address"], hashed[1]["address"]);
        assert_eq!(hashed[0]["address"].as_str().unwrap().len(), 16);
        assert_ne!(hashed[0]["address"], written(Addresses::Hashed)[0]["address"], "another run, another key");
    }

    #[test]
    fn a_long_or_old_file_is_begun_anew_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { size: 80, ..settings(folder.path()) };
        let mut file = Rotating::open(settings.clone()).unwrap();
        let now = SystemTime::now();
        for _ in 0..6 {
            file.write(&Line::new("admitted"), now).unwrap();
        }
        let count = || fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((count(), lines(&settings.file).len()), (3, 2), "two lines make more than 80 bytes, and one less");
        drop(file);

        let mut file = Rotating::open(Settings { size: 1 << 20, ..settings.clone() }).unwrap();
        file.write(&Line::new("admitted"), now).unwrap();
        assert_eq!(lines(&settings.file).len(), 3, "it goes on");
        // The file is a little younger than `now`.
        file.write(&Line::new("admitted"), now + DAY + Duration::from_secs(2)).unwrap();
        assert_eq!((count(), lines(&settings.file).len()), (4, 1));
        fs::write(folder.path().join("audit.log.notes"), "mine").unwrap();
        file.tidy(now + 8 * DAY).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn what_the_disk_does_not_take_is_dropped_and_counted() {
        let log = unwritten(2);
        let action = Action { actor: "a", role: Some("admin"), action: "b", on: "", error: None };
        (0..5).for_each(|_| log.action(action));
        assert_eq!(log.dropped(), 3);
    }

    /// A log whose writer never comes.
    fn unwritten(room: usize) -> AuditLog {
        let addresses = Mutex::new((Addresses::None, Key::new()));
        AuditLog(Arc::new(Shared { waiting: Arc::new(Waiting::new(room)), addresses }))
    }

    #[test]
    fn a_flood_of_visitors_drops_nothing_that_admins_did() {
        let log = unwritten(8);
        let (from, class) = (([192, 0, 2, 77], 5).into(), HelloClass::ALL[0]);
        let member = Member::new("alice");
        for _ in 0..100 {
            log.observe(&Event::Admitted { from, member: &member, class, took: Duration::ZERO, by_cover: true });
            log.action(Action { actor: "(unknown)", role: None, action: "log in", on: "", error: Some("x") });
        }
        log.action(Action { actor: "ops", role: Some("admin"), action: "drain", on: "", error: None });
        assert_eq!(log.dropped(), 192);
        let taken = std::iter::from_fn(|| match log.0.waiting.take(Duration::ZERO) {
            Next::Write(line) => Some(line.action.unwrap_or_default()),
            Next::Look | Next::End => None,
        });
        assert_eq!(taken.last().as_deref(), Some("drain"));
    }

    #[test]
    fn a_recorded_hello_that_comes_again_and_again_has_two_lines_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let (log, writer) = AuditLog::open(settings.clone()).unwrap();
        let (from, member) = (([192, 0, 2, 77], 5).into(), Some(Member::new("alice")));
        for skew in 0..5000 {
            for reason in [Reason::Replay, Reason::Time(skew)] {
                let declined = Declined { reason, member: member.clone() };
                log.observe(&Event::Declined { from, declined: &declined });
            }
        }
        drop(log);
        writer.join().unwrap();
        let lines = lines(&settings.file);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2..].iter().all(|line| line["count"] == 4999 && line["user"] == "alice"), "{lines:?}");
    }
}
