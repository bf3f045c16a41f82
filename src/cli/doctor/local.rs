//! What can be seen without leaving the machine: the state directory and the limit of open files.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::finding::{Check, Finding};
use crate::auth::{ReplayMemory, SecretTag};

/// State of the state directory.
#[derive(Debug)]
pub struct State {
    /// Properties of the folder; an error if there is none.
    folder: Result<Folder, io::ErrorKind>,
    /// Items that the first start has still to make.
    missing: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Folder {
    is_folder: bool,
    mode: u32,
    /// Whether someone else's files these are, seen from this user.
    foreign: bool,
    writable: bool,
    free: u64,
    replay: Replay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    None,
    Loads { damaged: usize },
    Refused(io::ErrorKind),
}

/// Looks at the state directory and changes nothing in it.
pub fn look_at_state(folder: &Path, missing: Vec<String>, tags: &[SecretTag]) -> State {
    State { folder: look_at_folder(folder, tags).map_err(|error| error.kind()), missing }
}

fn look_at_folder(path: &Path, tags: &[SecretTag]) -> io::Result<Folder> {
    let meta = fs::metadata(path)?;
    Ok(Folder {
        is_folder: meta.is_dir(),
        mode: meta.permissions().mode() & 0o777,
        foreign: meta.uid() != rustix::process::geteuid().as_raw(),
        writable: access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        free: statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize)),
        replay: look_at_replay(&path.join(super::super::run::REPLAY_FILE), tags),
    })
}

/// An empty or missing file is left for the proxy to begin.
fn look_at_replay(path: &Path, tags: &[SecretTag]) -> Replay {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > 0 => {}
        Ok(_) => return Replay::None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Replay::None,
        Err(error) => return Replay::Refused(error.kind()),
    }
    match ReplayMemory::examine(path, tags) {
        Ok(loaded) => Replay::Loads { damaged: loaded.damaged },
        Err(error) => Replay::Refused(error.kind()),
    }
}

/// Judges the state directory.
pub fn state(path: &Path, state: &State) -> Vec<Finding> {
    const FULL: u64 = 1 << 20;
    const SCARCE: u64 = 64 << 20;
    let path = path.display();
    let broken = |reason: String, fix: &str| Finding::broken(Check::State, reason, fix);
    let warning = |reason: String, fix: &str| Finding::warning(Check::State, reason, fix);
    let folder = match state.folder {
        Ok(folder) => folder,
        Err(io::ErrorKind::NotFound) => {
            return vec![warning(
                format!("{path} does not exist; the first start creates it"),
                "start the proxy once, as the user that it will run as",
            )];
        }
        Err(kind) => return vec![broken(format!("{path}: {kind}"), "name another folder with --state-dir")],
    };
    let found = [
        (!folder.is_folder)
            .then(|| broken(format!("{path} is no folder"), "move it away, or name another folder with --state-dir")),
        (!folder.writable).then(|| {
            broken(
                format!("{path} cannot be written to by this user"),
                "run the doctor as the user of the proxy, or chown it",
            )
        }),
        (folder.mode & 0o077 != 0).then(|| {
            warning(format!("other users can read {path} (mode {:03o})", folder.mode), "chmod 700 the folder")
        }),
        (folder.free < FULL).then(|| broken(format!("the disk of {path} is full"), "make room")),
        (FULL..SCARCE)
            .contains(&folder.free)
            .then(|| warning(format!("the disk of {path} has {} MiB left", folder.free >> 20), "make room")),
        match folder.replay {
            Replay::None | Replay::Loads { damaged: 0 } => None,
            Replay::Loads { damaged } => Some(warning(
                format!("{damaged} parts of the replay cache in {path} are damaged and are skipped"),
                "check the disk for errors",
            )),
            Replay::Refused(kind) => Some(broken(
                format!("the replay cache in {path} cannot be used: {kind}"),
                "move the file `replay` away, or make it readable for the proxy",
            )),
        },
        (!state.missing.is_empty()).then(|| {
            warning(
                format!("the first start still has to create: {}", state.missing.join(", ")),
                "start the proxy once, then run this again",
            )
        }),
    ];
    let found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        let owner = if folder.foreign { ", of another user" } else { "" };
        return vec![Finding::ok(Check::State, format!("{path} is writable and private{owner}"))];
    }
    found
}

/// The limit of open files as this process has it, which `run` raises as far as it may.
pub fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// The limit that a process starts with.
pub fn soft_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Judges the limits of open files; `None` is no limit.
pub fn files(soft: Option<u64>, hard: Option<u64>) -> Finding {
    const PER_CONNECTION: u64 = 2;
    const ENOUGH: u64 = 8192;
    const LEAST: u64 = 256;
    const FIX: &str = "raise it: `LimitNOFILE=65536` in a systemd unit, `--ulimit nofile=65536` for a container";
    let shown = |limit: Option<u64>| limit.map_or("none".into(), |limit| limit.to_string());
    let Some(limit) = hard else { return Finding::ok(Check::Files, "there is no limit of open files") };
    let reason = format!(
        "{limit} open files (soft limit {}, which is raised at the start) serve about {} clients at once",
        shown(soft),
        limit.saturating_sub(64) / PER_CONNECTION
    );
    match limit {
        ..LEAST => Finding::broken(Check::Files, reason, FIX),
        LEAST..ENOUGH => Finding::warning(Check::Files, reason, FIX),
        _ => Finding::ok(Check::Files, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict::{self, *};
    use super::*;

    const GOOD: Folder =
        Folder { is_folder: true, mode: 0o700, foreign: false, writable: true, free: 1 << 40, replay: Replay::None };

    #[test]
    fn state_directories() {
        let invalid = io::ErrorKind::InvalidData;
        for (folder, expected) in [
            (Ok(GOOD), &[Fine][..]),
            (Ok(Folder { foreign: true, ..GOOD }), &[Fine]),
            (Ok(Folder { replay: Replay::Loads { damaged: 0 }, ..GOOD }), &[Fine]),
            (Ok(Folder { replay: Replay::Loads { damaged: 2 }, ..GOOD }), &[Warning]),
            (Ok(Folder { replay: Replay::Refused(invalid), ..GOOD }), &[Broken]),
            (Ok(Folder { mode: 0o750, ..GOOD }), &[Warning]),
            (Ok(Folder { writable: false, mode: 0o755, ..GOOD }), &[Broken, Warning]),
            (Ok(Folder { is_folder: false, ..GOOD }), &[Broken]),
            (Ok(Folder { free: 0, ..GOOD }), &[Broken]),
            (Ok(Folder { free: 20 << 20, ..GOOD }), &[Warning]),
            (Err(io::ErrorKind::NotFound), &[Warning]),
            (Err(io::ErrorKind::PermissionDenied), &[Broken]),
        ] as [(Result<Folder, io::ErrorKind>, &[Verdict]); 12]
        {
            let found = state(Path::new("/s"), &State { folder, missing: Vec::new() });
            assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{found:?}");
        }
        let found = state(Path::new("/s"), &State { folder: Ok(GOOD), missing: vec!["a secret".into()] });
        assert!(found[0].verdict == Warning && found[0].reason.contains("a secret"), "{found:?}");
    }

    #[test]
    fn limits_of_files() {
        for (hard, expected) in
            [(None, Fine), (Some(8192), Fine), (Some(8191), Warning), (Some(256), Warning), (Some(255), Broken)]
        {
            assert_eq!(files(Some(1024), hard).verdict, expected, "{hard:?}");
        }
    }

    #[test]
    fn a_look_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let seen = look_at_state(folder.path(), Vec::new(), &[]);
        assert_eq!(seen.folder.unwrap().replay, Replay::None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("replay"), "something else entirely").unwrap();
        let seen = look_at_state(folder.path(), Vec::new(), &[]);
        assert_eq!(seen.folder.unwrap().replay, Replay::Refused(io::ErrorKind::InvalidData));
        let damaged = b"vizard replay !\n";
        fs::write(folder.path().join("replay"), damaged).unwrap();
        let seen = look_at_state(folder.path(), Vec::new(), &[]);
        assert_eq!(seen.folder.unwrap().replay, Replay::Loads { damaged: 1 });
        assert_eq!(fs::read(folder.path().join("replay")).unwrap(), damaged);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
