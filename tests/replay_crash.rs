//! The replay memory and two ends of its world: a process killed at any moment, and a file that cannot grow.
//!
//! Both need a process of their own, so each test starts this very program again and asks it for one helper "test",
//! which does nothing unless it is told of a file.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vizard::auth::{ReplayMemory, SecretTag};

const FILE: &str = "VIZARD_TEST_REPLAY_FILE";
/// What the spending child says of each hello that may be answered, so that other output is told apart.
const SPENT: &str = "spent ";

#[test]
fn a_killed_process_forgets_no_hello_that_was_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replay");
    for answers in [1, 2, 50, 1000, 5000] {
        let before = open(&path).len();
        let spent = spent_until_killed(&path, answers);
        assert!(spent.len() >= answers);
        let memory = open(&path);
        assert!(memory.len() >= before + spent.len());
        for number in spent {
            assert!(!memory.spend(tag(), &authenticator(number)), "hello {number} was answered twice");
        }
    }
}

#[test]
fn a_file_that_cannot_grow_stops_nobody_and_gets_everything_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replay");
    // The signal that comes with the limit would end the child; what is ignored stays ignored in a new program.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(env::current_exe().expect("this program"));
    let outcome = helper(&mut shell, "child_with_a_file_limit", &path).output().expect("sh");
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));

    assert_eq!(open(&path.with_extension("new")).len(), 1, "a file that could not even begin");
    let (memory, loaded) = ReplayMemory::open(&path, &[tag()]).expect("the file");
    assert_eq!((loaded.entries, loaded.damaged), (31, 1), "all are there, and the torn one in two pieces");
    assert!((0..31).all(|number| !memory.spend(tag(), &authenticator(number))));
}

#[test]
#[ignore = "a helper that other tests start"]
fn child_that_spends() {
    let Some(path) = env::var_os(FILE) else { return };
    let memory = open(Path::new(&path));
    let next = AtomicU64::new(memory.len() as u64);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if memory.spend(tag(), &authenticator(number)) {
                        // In one piece: what was said before the kill was said whole.
                        let line = format!("{SPENT}{number}\n");
                        io::stdout().lock().write_all(line.as_bytes()).expect("a listening parent");
                    }
                }
            });
        }
    });
}

#[test]
#[ignore = "a helper that other tests start"]
fn child_with_a_file_limit() {
    let Some(path) = env::var_os(FILE) else { return };
    let memory = open(Path::new(&path));
    let unlimited = getrlimit(Resource::Fsize);
    // Room for the header, ten records and seven bytes of the next.
    setrlimit(Resource::Fsize, Rlimit { current: Some(16 + 10 * 16 + 7), ..unlimited }).expect("a lower limit");
    assert!((0..30).all(|number| memory.spend(tag(), &authenticator(number))));
    assert!((0..30).all(|number| !memory.spend(tag(), &authenticator(number))));
    assert!(memory.sync().is_err());
    let health = memory.health();
    assert_eq!((health.unsaved, health.dropped), (20, 0));
    assert_eq!(health.error.expect("an error").kind(), io::ErrorKind::FileTooLarge);

    setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..unlimited }).expect("a lower limit");
    let late = open(&Path::new(&path).with_extension("new"));
    assert!(late.spend(tag(), &authenticator(0)));
    assert!(!late.health().is_well());

    setrlimit(Resource::Fsize, unlimited).expect("the old limit");
    late.sync().expect("a disk that takes everything");
    assert!(late.health().is_well());
    assert!(memory.spend(tag(), &authenticator(30)));
    assert!(memory.health().is_well(), "{:?}", memory.health());
    memory.sync().expect("a disk that takes everything");
}

/// What a child has said it spent by the time it was killed, which is after that many answers.
fn spent_until_killed(path: &Path, answers: usize) -> Vec<u64> {
    let mut program = Command::new(env::current_exe().expect("this program"));
    let mut child = helper(&mut program, "child_that_spends", path).stdout(Stdio::piped()).spawn().expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut lines = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix(SPENT)?.parse().ok());
    let mut spent: Vec<u64> = lines.by_ref().take(answers).collect();
    kill(&mut child);
    spent.extend(lines);
    spent
}

fn kill(child: &mut Child) {
    child.kill().expect("a child to kill");
    assert!(!child.wait().expect("its status").success());
}

/// The command, told to run that one helper on that file.
fn helper<'a>(command: &'a mut Command, name: &str, path: &Path) -> &'a mut Command {
    command.args(["--exact", name, "--ignored", "--nocapture"]).env(FILE, path)
}

fn open(path: &Path) -> ReplayMemory {
    ReplayMemory::open(path, &[tag()]).expect("a replay memory").0
}

fn tag() -> SecretTag {
    SecretTag::of(&[7; 16])
}

/// The first 28 bytes of a hello of that number: multiplied by an odd constant, so never the same for two numbers.
fn authenticator(number: u64) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes
}
