//! `vizard restore`: puts a backup back in its place.
//!
//! An archive says itself where its files belong, and one without a passphrase may have been changed by anybody who could
//! write to it. So files go into the state directory and the folder of the configuration, which the operator names, or
//! which are the usual ones, or which a passphrase vouches for. Every other place is confirmed by name.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::backup::{Lock, cannot_write, contents, exists, whole};
use super::init::ask::{Ask, Person};
use super::run::REPLAY_FILE;
use super::{Failure, handover, output, progress};
use crate::auth::ReplayMemory;
use crate::base::files::{self, Access, Folder};
use crate::config::embedded::default_state_dir;
use crate::config::{self, Environment, Flags};
use crate::ops::backup::archive::{self, Archive, Manifest};
use crate::ops::backup::seal;
use crate::ops::control;

/// Flags of `vizard restore`.
#[derive(clap::Args)]
pub struct Restore {
    /// File that `vizard backup` has written
    #[arg(value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    lock: Lock,
    /// Configuration file to write; default: where it was [environment: VIZARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory to restore; default: where it was [environment: VIZARD_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Write to this place too, which only the backup names; may be repeated
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,
    /// Only list what is in it, and where it would go
    #[arg(long)]
    list: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

impl Restore {
    fn given(&self, environment: &Environment) -> Given {
        let stated = |flag: &Option<PathBuf>, key| flag.clone().or_else(|| environment.path(key));
        Given {
            config: stated(&self.config, "VIZARD_CONFIG").map(|path| whole(&path)),
            state_dir: stated(&self.state_dir, "VIZARD_STATE_DIR").map(|path| whole(&path)),
        }
    }
}

/// Puts everything back in its place. Nothing is written if something is in the way.
pub fn restore(arguments: &Restore, environment: &Environment) -> Result<(), Failure> {
    let (archive, sealed) = open(arguments)?;
    let root = rustix::process::geteuid().is_root();
    let trust = match sealed {
        true => Trust::Archive,
        false => Trust::Usual {
            config: root.then(|| config::usual_path(environment)),
            state_dir: default_state_dir(environment, root),
        },
    };
    let plan = Plan::of(&archive, arguments.given(environment), &trust).map_err(|path| {
        let message = format!("the backup names {path:?}, which is not a valid path for a file");
        Failure::usage(message, "use another copy of the backup")
    })?;
    if !sealed {
        output::complain(UNSEALED);
    }
    if arguments.list {
        output::print(format!("{}It would go to\n{}", contents(&archive), plan.listed()).trim_end());
        return Ok(());
    }
    if control::is_held(&plan.state_dir) {
        return Err(Failure::new(
            format!("a proxy runs with the state directory {}", plan.state_dir.display()),
            "stop it first, or name another folder: --state-dir DIR",
        ));
    }
    let allowed: Vec<_> = arguments.allow.iter().map(|path| whole(path)).collect();
    let person = Person::is_there().then(Person::default);
    confirm(&plan.doubtful, &allowed, person.map(|person| Box::new(person) as Box<dyn Ask>))?;
    let paths = plan.parts.iter().map(Part::path);
    let in_the_way: Vec<PathBuf> = paths.filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    if !in_the_way.is_empty() && !arguments.force {
        return Err(exists(&in_the_way));
    }
    files::private_folder(&plan.state_dir).map_err(|error| cannot_write(&plan.state_dir, &error))?;
    // No proxy starts there meanwhile.
    let _lock = handover::lock(&plan.state_dir)?;
    for part in &plan.parts {
        part.write().map_err(|error| cannot_write(&part.path(), &error))?;
    }
    output::print(report(&archive, &plan).trim_end());
    after(&plan, environment);
    Ok(())
}

const UNSEALED: &str = "no passphrase protects this backup: it is not authenticated, and anyone who could write to the \
                        file may have changed what is in it and where it goes";

fn report(archive: &Archive, plan: &Plan<'_>) -> String {
    let mut text = format!("{} files restored:\n{}", plan.parts.len(), plan.listed());
    if !archive.manifest.left_out.is_empty() {
        text += "\nStill to be restored, because it was not in the backup\n";
        archive.manifest.left_out.iter().for_each(|what| text += &format!("  - {what}\n"));
    }
    text + "\nThe replay cache lacks hellos that were used after the backup, unless its file was still here: if it was \
            not, and they may have been recorded, give all users new secrets: vizard user rotate --all\n"
}

/// Says whether the configuration is one, and whether it means the folder that was filled.
fn after(plan: &Plan<'_>, environment: &Environment) {
    let Some(config) = &plan.config else { return };
    let flags = Flags { config: Some(config.clone()), ..Flags::default() };
    match config::load(&flags, environment) {
        Ok(loaded) if whole(&loaded.draft.state_dir) == plan.state_dir => {}
        Ok(loaded) => output::complain(format!(
            "next: this configuration uses the state directory {}, but {} was restored: start it with --state-dir, or \
             correct `state_dir`",
            loaded.draft.state_dir.display(),
            plan.state_dir.display()
        )),
        Err(_) => output::complain(format!("next: see what `vizard check --config {}` says", config.display())),
    }
}

/// The archive, and whether a passphrase vouches for it.
fn open(arguments: &Restore) -> Result<(Archive, bool), Failure> {
    let from = &arguments.from;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::usage(
            format!("{} cannot be used: {error}", from.display()),
            "name a file that `vizard backup` has made",
        )
    };
    let bytes = files::read_file(from, archive::LONGEST).map_err(|error| unusable(&error))?;
    let sealed = seal::is_sealed(&bytes);
    let bytes = match sealed {
        false => bytes,
        true => {
            let passphrase = arguments.lock.passphrase(false)?;
            progress::during("decrypting", || seal::open(passphrase.as_bytes(), &bytes))?
        }
    };
    Ok((Archive::unpack(&bytes).map_err(|error| unusable(&error))?, sealed))
}

/// Has each place confirmed that only the archive names: by its flag, or by a person.
fn confirm(doubtful: &[PathBuf], allowed: &[PathBuf], mut person: Option<Box<dyn Ask>>) -> Result<(), Failure> {
    let open: Vec<_> = doubtful.iter().filter(|path| !allowed.contains(path)).collect();
    if let Some(person) = &mut person {
        for path in open {
            let question = format!("Only the backup names {}. Write there?", path.display());
            if !person.yes(&question, false).unwrap_or(false) {
                return Err(Failure::usage(format!("nothing was written, {} was not allowed", path.display()), ALLOW));
            }
        }
        return Ok(());
    }
    if open.is_empty() {
        return Ok(());
    }
    let listed: String = open.iter().map(|path| format!("\n  - {}", path.display())).collect();
    Err(Failure::usage(format!("only the backup names these places:{listed}"), ALLOW))
}

const ALLOW: &str = "name other places with --config FILE and --state-dir DIR, or allow each with --allow PATH";

/// Places that the operator names, absolute.
#[derive(Clone, Default)]
struct Given {
    config: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

/// Places that need no question although the operator did not name them.
enum Trust {
    /// Those that the archive names for the configuration and the state: it is authentic.
    Archive,
    /// The usual ones.
    Usual { config: Option<PathBuf>, state_dir: Option<PathBuf> },
}

/// A file of the archive: below which folder it goes, and where there.
struct Part<'a> {
    base: PathBuf,
    place: PathBuf,
    content: &'a [u8],
    /// Whether it is the memory of spent hellos, of which nothing that is there may be forgotten.
    is_memory: bool,
}

impl<'a> Part<'a> {
    /// No link below the folder is followed, and none anywhere if the folder is none of those that files belong to.
    fn within(base: &Path, path: &Path, content: &'a [u8]) -> Self {
        let (base, place) = match path.strip_prefix(base) {
            Ok(place) => (base, place),
            Err(_) => (Path::new("/"), path.strip_prefix("/").unwrap_or(path)),
        };
        Self { base: base.to_owned(), place: place.to_owned(), content, is_memory: false }
    }

    fn path(&self) -> PathBuf {
        self.base.join(&self.place)
    }

    fn write(&self) -> io::Result<()> {
        let none = || io::Error::from(io::ErrorKind::InvalidInput);
        let (inner, name) = self.place.parent().zip(self.place.file_name()).ok_or_else(none)?;
        let folder = Folder::make(&self.base)?.make_below(inner)?;
        let there = match self.is_memory.then(|| folder.read(name, archive::LONGEST)) {
            None => None,
            Some(Ok(there)) => ReplayMemory::joined(&there, self.content),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Some(Err(error)) => return Err(error),
        };
        folder.replace(name, there.as_deref().unwrap_or(self.content), Access::Private)
    }
}

/// Destinations of all files.
struct Plan<'a> {
    config: Option<PathBuf>,
    state_dir: PathBuf,
    parts: Vec<Part<'a>>,
    /// Places that only the archive names.
    doubtful: Vec<PathBuf>,
}

impl<'a> Plan<'a> {
    /// Files that stood beside the configuration stand beside it again, wherever that is. Fails with a path that cannot be
    /// one.
    fn of(archive: &'a Archive, given: Given, trust: &Trust) -> Result<Self, PathBuf> {
        let Manifest { config: old, state_dir: named_dir, files: named, .. } = &archive.manifest;
        let all = old.iter().chain([named_dir]).chain(named);
        all.clone().find(|path| !is_plain(path)).map_or(Ok(()), |path| Err(path.clone()))?;
        let mut doubtful = Vec::new();
        let mut place = |given: Option<PathBuf>, named: &PathBuf, usual: &dyn Fn() -> bool| {
            if given.is_none() && !usual() {
                doubtful.push(named.clone());
            }
            given.unwrap_or_else(|| named.clone())
        };
        let is = |usual: &Option<PathBuf>, named: &PathBuf| usual.as_ref() == Some(named);
        let config = old.as_ref().map(|old| {
            place(given.config, old, &|| match trust {
                Trust::Archive => true,
                Trust::Usual { config, .. } => is(config, old),
            })
        });
        let state_dir = place(given.state_dir, named_dir, &|| match trust {
            Trust::Archive => true,
            Trust::Usual { state_dir, .. } => is(state_dir, named_dir),
        });
        let mut parts = Vec::new();
        let (from, to) = (old.as_deref().and_then(Path::parent), config.as_deref().and_then(Path::parent));
        let home = to.unwrap_or(Path::new("/"));
        if let (Some(path), Some(content)) = (&config, &archive.config) {
            parts.push(Part::within(home, path, content));
        }
        for (path, content) in named.iter().zip(&archive.files) {
            let inner = from.and_then(|from| path.strip_prefix(from).ok()).filter(|_| to.is_some());
            let path = inner.map_or_else(|| path.clone(), |inner| home.join(inner));
            if !inner.is_some_and(|inner| is_harmless(home, inner)) && !path.starts_with(&state_dir) {
                doubtful.push(path.clone());
            }
            let base = if path.starts_with(&state_dir) { &state_dir } else { home };
            parts.push(Part::within(base, &path, content));
        }
        let state = archive.state.iter();
        parts.extend(state.map(|(place, content)| Part {
            is_memory: place == Path::new(REPLAY_FILE),
            ..Part::within(&state_dir, &state_dir.join(place), content)
        }));
        Ok(Self { config, state_dir, parts, doubtful })
    }

    fn listed(&self) -> String {
        let paths = self.parts.iter().map(Part::path).filter(|path| !path.starts_with(&self.state_dir));
        let mut text: String = paths.map(|path| format!("  - {}\n", path.display())).collect();
        text += &format!("  - {}\n", self.state_dir.display());
        text
    }
}

/// Whether a path is absolute and leads nowhere but down.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a file beside the configuration may go there without a question: not where others keep what a system or an
/// account depends on, which is in hidden places and in folders at the root such as `/etc`.
fn is_harmless(home: &Path, inner: &Path) -> bool {
    let hidden = inner.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."));
    !hidden && home.components().count() > 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::SecretTag;

    fn archive(config: Option<&str>, state_dir: &str, files: &[&str]) -> Archive {
        let mut manifest = Manifest::new(0, state_dir.into());
        manifest.config = config.map(PathBuf::from);
        manifest.files = files.iter().map(PathBuf::from).collect();
        Archive {
            manifest,
            config: config.map(|_| b"config".to_vec()),
            files: files.iter().map(|file| file.as_bytes().to_vec()).collect(),
            state: vec![("deep/replay".into(), b"replay".to_vec())],
        }
    }

    fn usual() -> Trust {
        Trust::Usual { config: Some("/etc/vizard/vizard.toml".into()), state_dir: Some("/var/lib/vizard".into()) }
    }

    fn doubtful(archive: &Archive, given: Given, trust: &Trust) -> Vec<String> {
        let plan = Plan::of(archive, given, trust).ok().unwrap();
        plan.doubtful.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn only_the_archives_own_places_are_asked_about() {
        let none = Given::default;
        let normal = archive(Some("/etc/vizard/vizard.toml"), "/var/lib/vizard", &["/etc/vizard/keys/a.secret"]);
        assert!(doubtful(&normal, none(), &usual()).is_empty());
        let foreign = archive(Some("/srv/x/v.toml"), "/root/.ssh", &["/srv/x/a", "/srv/x/.b", "/root/.bashrc"]);
        let asked = ["/srv/x/v.toml", "/root/.ssh", "/srv/x/.b", "/root/.bashrc"];
        assert_eq!(doubtful(&foreign, none(), &usual()), asked);
        assert_eq!(doubtful(&foreign, none(), &Trust::Archive), asked[2..], "other places are asked about always");
        let given = Given { config: Some("/etc/v.toml".into()), state_dir: Some("/home/a/state".into()) };
        assert_eq!(doubtful(&foreign, given.clone(), &usual()), ["/etc/a", "/etc/.b", "/root/.bashrc"]);
        let inside = archive(Some("/srv/x/v.toml"), "/home/a/state", &["/home/a/state/own.secret"]);
        assert!(doubtful(&inside, given, &usual()).is_empty());
    }

    #[test]
    fn a_path_that_leads_up_is_no_place() {
        for (config, state, file) in [
            ("/etc/vizard/../passwd", "/var", "/etc/a"),
            ("/etc/v.toml", "var", "/etc/a"),
            ("/etc/v.toml", "/var", "/etc/vizard/../passwd"),
            ("/etc/v.toml", "/var", "a"),
        ] {
            let archive = archive(Some(config), state, &[file]);
            assert!(Plan::of(&archive, Given::default(), &Trust::Archive).is_err(), "{config} {state} {file}");
        }
    }

    #[test]
    fn without_a_person_each_place_needs_its_flag() {
        let doubtful = [PathBuf::from("/a"), PathBuf::from("/b")];
        let failure = confirm(&doubtful, &doubtful[..1], None).err().unwrap().to_string();
        assert!(failure.contains("/b") && !failure.contains("- /a") && failure.contains("--allow"), "{failure}");
        assert!(confirm(&doubtful, &doubtful, None).is_ok());
    }

    #[test]
    fn what_was_spent_since_the_backup_stays_spent_where_it_is_still_known() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(REPLAY_FILE);
        let (memory, _) = ReplayMemory::open(&path, &[SecretTag::NONE]).unwrap();
        assert!(memory.spend(SecretTag::NONE, &[1; 28]));
        let mut archive = archive(None, home.path().to_str().unwrap(), &[]);
        archive.state = vec![(REPLAY_FILE.into(), fs::read(&path).unwrap())];
        assert!(memory.spend(SecretTag::NONE, &[2; 28]));
        drop(memory);
        // What was lost is back, and what is there is not replaced.
        for there in [2, 0] {
            let plan = Plan::of(&archive, Given::default(), &Trust::Archive).ok().unwrap();
            plan.parts.iter().for_each(|part| part.write().unwrap());
            let loaded = ReplayMemory::examine(&path, &[SecretTag::NONE]).unwrap();
            assert_eq!((loaded.entries, loaded.damaged), (there.max(1), 0));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn links_in_the_way_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (state, outside) = (home.path().join("state"), home.path().join("outside"));
        fs::create_dir_all(&state).unwrap();
        fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, state.join("deep")).unwrap();
        let archive = archive(None, state.to_str().unwrap(), &[]);
        let plan = Plan::of(&archive, Given::default(), &Trust::Archive).ok().unwrap();
        assert!(plan.parts[0].write().is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        fs::remove_file(state.join("deep")).unwrap();
        plan.parts[0].write().unwrap();
        assert_eq!(fs::read(state.join("deep/replay")).unwrap(), b"replay");
    }
}
