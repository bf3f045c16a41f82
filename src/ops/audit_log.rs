//! The audit log: who was admitted, who was declined although a key was shown, and who did what through the admin
//! listener, with the reason and the time.
//!
//! One JSON object a line, in a file for its owner alone, which is begun anew when it is long or old; files that are older
//! than the operator wants to keep are removed. Mere visitors are not in it: they are the public of a web site. Addresses
//! are not in it unless asked for, and then not whole.
//!
//! Whoever tells of something does not wait for the disk: a thread of its own writes, and what comes faster than that is
//! dropped and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::Serialize;
use tracing::{error, info, warn};

use super::nets::neighbourhood;
use crate::crypto::Mac;
use crate::server::event::{Event, Observer};

/// Settings of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub file: PathBuf,
    /// What is written of addresses.
    pub addresses: Addresses,
    /// The file is begun anew when it has this many bytes,
    pub size: u64,
    /// and when it is this old.
    pub age: Duration,
    /// Files older than this are removed.
    pub keep: Duration,
}

/// What is written of a client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Nothing.
    #[default]
    None,
    /// Its network: 24 bits of IPv4, 48 of IPv6.
    Truncated,
    /// A number that is the same for the same address until the key is another: after a day, and after a restart. The key
    /// is in memory only, so nobody can try addresses afterwards.
    Hashed,
}

/// How long a key for addresses lasts.
const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Lines that may wait for the disk.
const WAITING: usize = 4096;

/// How often the file's age is looked at when nothing is written, and how long lines may wait to be written together.
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
}

/// What somebody did through the admin listener, or was refused. Holds no token and no secret.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// The name of the token.
    pub actor: &'a str,
    /// Its role, if the token is known.
    pub role: Option<&'static str>,
    /// What was to be done.
    pub action: &'a str,
    /// To which user or session; empty if to none.
    pub on: &'a str,
    /// Why it was not done.
    pub error: Option<&'a str>,
}

/// The log. Cheap to clone; the writer ends, everything written, with the last of them.
#[derive(Clone)]
pub struct AuditLog(Arc<Shared>);

struct Shared {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
    addresses: Mutex<(Addresses, Key)>,
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
        let (lines, waiting) = sync_channel(WAITING);
        let dropped = Arc::default();
        let counter = Arc::clone(&dropped);
        let writer = thread::Builder::new().name("audit-log".into()).spawn(move || write(file, waiting, &counter))?;
        let addresses = Mutex::new((addresses, Key::new()));
        Ok((Self(Arc::new(Shared { lines, dropped, addresses })), writer))
    }

    /// How many lines found the queue full.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Somebody did something through the admin listener, or tried to.
    pub fn action(&self, Action { actor, role, action, on, error }: Action<'_>) {
        self.put(Line {
            actor: Some(actor.to_owned()),
            role,
            action: Some(action.to_owned()),
            on: (!on.is_empty()).then(|| on.to_owned()),
            error: error.map(str::to_owned),
            ..Line::new("action")
        });
    }

    fn put(&self, line: Line) {
        if let Err(TrySendError::Full(_)) = self.0.lines.try_send(line) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
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
            Event::Admitted { from, member, .. } => self.put(Line {
                user: Some(member.name().to_owned()),
                address: self.address(from.ip()),
                ..Line::new("admitted")
            }),
            Event::Declined { from, declined } => {
                let Some(member) = &declined.member else { return };
                self.put(Line {
                    user: Some(member.name().to_owned()),
                    reason: Some(declined.reason.to_string()),
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

/// Writes until nobody can send any more.
fn write(mut file: Rotating, lines: Receiver<Line>, dropped: &AtomicU64) {
    let (mut failing, mut told) = (false, 0);
    loop {
        let written = match lines.recv_timeout(LOOK) {
            Ok(line) => file.write(&line, SystemTime::now()),
            Err(RecvTimeoutError::Timeout) => file.tidy(SystemTime::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match &written {
            Err(error) if !failing => error!(%error, "the audit log cannot be written"),
            Ok(()) if failing => info!("the audit log is written again"),
            _ => {}
        }
        failing = written.is_err();
        let lost = dropped.load(Ordering::Relaxed);
        if lost > told {
            warn!(lost, "lines of the audit log came faster than the disk took them");
            told = lost;
        }
    }
}

/// The file, begun anew from time to time.
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
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The time of a file's first line.
fn first_time(path: &Path) -> Option<SystemTime> {
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(io::Read::take(File::open(path).ok()?, 4096)), &mut line).ok()?;
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
        log.observe(&Event::Admitted { from, member: &member, class, took: Duration::ZERO });
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
        let (lines, waiting) = sync_channel(2);
        let addresses = Mutex::new((Addresses::None, Key::new()));
        let log = AuditLog(Arc::new(Shared { lines, dropped: Arc::default(), addresses }));
        let action = Action { actor: "a", role: None, action: "b", on: "", error: None };
        (0..5).for_each(|_| log.action(action));
        assert_eq!(log.dropped(), 3);
        drop(waiting);
        log.action(action);
    }
}
