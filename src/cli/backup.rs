//! `vizard backup` and `vizard restore`: everything that makes this proxy this proxy, in one file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::{Failure, Settings, handover, load, output, private, progress};
use crate::auth::UnixTime;
use crate::config::embedded::CoverDraft;
use crate::config::resolve::read_secret_file;
use crate::config::{self, Draft, Environment, Flags};
use crate::cover::site::Content;
use crate::ops::backup::archive::{Archive, Manifest};
use crate::ops::backup::seal::{self, SealError};
use crate::ops::backup::state::{self, Gathered};
use crate::ops::control;

/// Flags of `vizard backup`.
#[derive(clap::Args)]
pub struct Backup {
    /// File to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    lock: Lock,
    /// Encrypt it, and ask for a passphrase
    #[arg(long)]
    encrypt: bool,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Back up the state directory of a proxy that runs without a configuration file
    #[arg(long)]
    without_configuration: bool,
    #[command(flatten)]
    settings: Settings,
}

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
    /// State directory to fill; default: where it was [environment: VIZARD_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Only say what is in it, and where it would go
    #[arg(long)]
    list: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct Lock {
    /// Encrypt or open it with the passphrase in this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Writes the backup and says what is not in it.
pub fn backup(arguments: &Backup, environment: &Environment) -> Result<(), Failure> {
    if arguments.to.exists() && !arguments.force {
        return Err(exists(std::slice::from_ref(&arguments.to)));
    }
    let passphrase = match arguments.encrypt || arguments.lock.passphrase_file.is_some() {
        true => Some(arguments.lock.passphrase(true)?),
        false => None,
    };
    let loaded = load(&arguments.settings.flags(), environment)?;
    if loaded.path.is_none() && !arguments.without_configuration {
        return Err(Failure::usage(
            "there is no configuration file, so the backup would hold the state alone",
            "name the file: --config FILE; if the proxy runs without one, say so: --without-configuration",
        ));
    }
    let archive = progress::during("gathering", || gather(loaded.path, &loaded.files, &loaded.draft))?;
    let bytes = archive.pack().map_err(|error| Failure::new(error.to_string(), "make room in memory"))?;
    let bytes = match &passphrase {
        None => bytes,
        Some(passphrase) => {
            progress::during("encrypting", || seal::seal(passphrase.as_bytes(), bytes, &mut rand::rng()))?
        }
    };
    private::put(&arguments.to, &bytes).map_err(|error| cannot_write(&arguments.to, &error))?;
    let mut text = format!("{} is written, with {} bytes.\n", arguments.to.display(), bytes.len());
    text += &contents(&archive);
    if passphrase.is_none() {
        text +=
            "\nIt holds secrets, and whoever can read it holds them: keep it like a key, or encrypt it: --encrypt\n";
    }
    output::print(text.trim_end());
    Ok(())
}

fn gather(path: Option<PathBuf>, named: &[PathBuf], draft: &Draft) -> Result<Archive, Failure> {
    let unreadable = |path: &Path, error: io::Error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Failure::new(message, "be the user of the proxy or root")
    };
    let read = |path: &PathBuf| fs::read(path).map_err(|error| unreadable(path, error));
    let audit_log = draft.misuse.audit_log.as_ref().map(|log| log.file.clone());
    // Those that were begun anew have its name and more.
    let is_audit_log = |path: &Path| {
        audit_log.as_ref().is_some_and(|log| path.as_os_str().to_string_lossy().starts_with(&*log.to_string_lossy()))
    };
    let gathered = match state::gather(&draft.state_dir, is_audit_log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Gathered::default(),
        gathered => gathered.map_err(|error| unreadable(&draft.state_dir, error))?,
    };
    let now: UnixTime = SystemTime::now().into();
    let mut manifest = Manifest::new(now.0, whole(&draft.state_dir));
    manifest.config = path.as_deref().map(whole);
    manifest.files = named.iter().map(|path| whole(path)).collect();
    manifest.files.sort();
    manifest.files.dedup();
    manifest.left_out = [gathered.left_out, elsewhere(draft)].concat();
    Ok(Archive {
        config: path.as_ref().map(read).transpose()?,
        files: manifest.files.iter().map(read).collect::<Result<_, _>>()?,
        state: gathered.files,
        manifest,
    })
}

fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What belongs to the installation and is kept by others.
fn elsewhere(draft: &Draft) -> Vec<String> {
    let outside = |path: &&PathBuf| !path.starts_with(&draft.state_dir);
    let mut left_out = Vec::new();
    if let CoverDraft::Site { certificate, content, .. } = &draft.cover {
        let files = certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        left_out.extend(files.filter(outside).map(|path| format!("the certificate's file {}", path.display())));
        if let Some(Content::Folder(folder)) = content {
            left_out.extend(Some(folder).filter(outside).map(|path| format!("the pages in {}", path.display())));
        }
    }
    if let Some(log) = &draft.misuse.audit_log {
        left_out.push(format!("the audit log {}: it shall end when its time has come", log.file.display()));
    }
    left_out
}

fn contents(archive: &Archive) -> String {
    let Manifest { config, state_dir, files, left_out, .. } = &archive.manifest;
    let mut text = "In it are\n".to_owned();
    text += &config.as_ref().map(|path| format!("  - the configuration {}\n", path.display())).unwrap_or_default();
    files.iter().for_each(|path| text += &format!("  - {}\n", path.display()));
    text += &format!("  - {} files of {}\n", archive.state.len(), state_dir.display());
    if !left_out.is_empty() {
        text += "Not in it are\n";
        left_out.iter().for_each(|what| text += &format!("  - {what}\n"));
    }
    text
}

/// Puts everything back in its place. Nothing is written if something is in the way.
pub fn restore(arguments: &Restore, environment: &Environment) -> Result<(), Failure> {
    let archive = open(arguments)?;
    let plan = Plan::of(&archive, arguments, environment);
    if arguments.list {
        output::print(format!("{}It would go to\n{}", contents(&archive), plan.listed()).trim_end());
        return Ok(());
    }
    if control::is_held(&plan.state_dir) {
        return Err(Failure::new(
            format!("a proxy runs with the state directory {}", plan.state_dir.display()),
            "end it first, or name another folder: --state-dir DIR",
        ));
    }
    let in_the_way: Vec<PathBuf> =
        plan.files.iter().map(|(path, _)| path).filter(|path| fs::symlink_metadata(path).is_ok()).cloned().collect();
    if !in_the_way.is_empty() && !arguments.force {
        return Err(exists(&in_the_way));
    }
    private::folder(&plan.state_dir).map_err(|error| cannot_write(&plan.state_dir, &error))?;
    // No proxy starts there meanwhile.
    let _lock = handover::lock(&plan.state_dir)?;
    for (path, content) in &plan.files {
        let folder = path.parent().unwrap_or(Path::new("/"));
        private::folder(folder)
            .and_then(|()| private::put(path, content))
            .map_err(|error| cannot_write(path, &error))?;
    }
    let mut text = format!("{} files are back:\n{}", plan.files.len(), plan.listed());
    if !archive.manifest.left_out.is_empty() {
        text += "\nStill to be put back, for it was not in the backup\n";
        archive.manifest.left_out.iter().for_each(|what| text += &format!("  - {what}\n"));
    }
    text += "\nHellos that were spent after the backup are not known here: if somebody may have recorded them, give \
             everybody another secret: vizard user rotate --all\n";
    output::print(text.trim_end());
    after(&plan, environment);
    Ok(())
}

/// Says whether the configuration is one, and whether it means the folder that was filled.
fn after(plan: &Plan<'_>, environment: &Environment) {
    let Some(config) = &plan.config else { return };
    let flags = Flags { config: Some(config.clone()), ..Flags::default() };
    match config::load(&flags, environment) {
        Ok(loaded) if whole(&loaded.draft.state_dir) == plan.state_dir => {}
        Ok(loaded) => output::complain(format!(
            "next: this configuration means the state directory {}, and {} was filled: start it with --state-dir, or \
             correct `state_dir`",
            loaded.draft.state_dir.display(),
            plan.state_dir.display()
        )),
        Err(_) => output::complain(format!("next: see what `vizard check --config {}` says", config.display())),
    }
}

fn open(arguments: &Restore) -> Result<Archive, Failure> {
    let from = &arguments.from;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::usage(
            format!("{} cannot be used: {error}", from.display()),
            "name a file that `vizard backup` has made",
        )
    };
    let bytes = fs::read(from).map_err(|error| unusable(&error))?;
    let bytes = match seal::is_sealed(&bytes) {
        false => bytes,
        true => {
            let passphrase = arguments.lock.passphrase(false)?;
            progress::during("decrypting", || seal::open(passphrase.as_bytes(), &bytes))?
        }
    };
    Archive::unpack(&bytes).map_err(|error| unusable(&error))
}

/// Where everything goes.
struct Plan<'a> {
    config: Option<PathBuf>,
    state_dir: PathBuf,
    files: Vec<(PathBuf, &'a [u8])>,
}

impl<'a> Plan<'a> {
    /// Files that stood beside the configuration stand beside it again, wherever that is.
    fn of(archive: &'a Archive, arguments: &Restore, environment: &Environment) -> Self {
        let Manifest { config: old, state_dir, files: named, .. } = &archive.manifest;
        let stated = arguments.config.clone().or_else(|| environment.path("VIZARD_CONFIG"));
        let config = old.clone().map(|old| stated.map_or(old, |stated| whole(&stated)));
        let stated = arguments.state_dir.clone().or_else(|| environment.path("VIZARD_STATE_DIR"));
        let state_dir = stated.map_or_else(|| state_dir.clone(), |stated| whole(&stated));
        let mut files = Vec::new();
        if let (Some(path), Some(content)) = (&config, &archive.config) {
            files.push((path.clone(), content.as_slice()));
        }
        let (from, to) = (old.as_deref().and_then(Path::parent), config.as_deref().and_then(Path::parent));
        for (path, content) in named.iter().zip(&archive.files) {
            let moved = from.zip(to).and_then(|(from, to)| Some(to.join(path.strip_prefix(from).ok()?)));
            files.push((moved.unwrap_or_else(|| path.clone()), content.as_slice()));
        }
        files.extend(archive.state.iter().map(|(place, content)| (state_dir.join(place), content.as_slice())));
        Self { config, state_dir, files }
    }

    fn listed(&self) -> String {
        let outside = self.files.iter().filter(|(path, _)| !path.starts_with(&self.state_dir));
        let mut text: String = outside.map(|(path, _)| format!("  - {}\n", path.display())).collect();
        text += &format!("  - {}\n", self.state_dir.display());
        text
    }
}

impl Lock {
    /// The passphrase from the file, or from a person; `new` has it said twice.
    fn passphrase(&self, new: bool) -> Result<Zeroizing<String>, Failure> {
        const SHORTEST: usize = 8;
        let passphrase = match &self.passphrase_file {
            Some(file) => read_secret_file(file).map(|(text, _)| Zeroizing::new(text)).map_err(|error| {
                Failure::usage(format!("the passphrase cannot be read: {error}"), "check the path of --passphrase-file")
            })?,
            None => asked(new)?,
        };
        if new && passphrase.chars().count() < SHORTEST {
            let message = format!("the passphrase has fewer than {SHORTEST} characters");
            return Err(Failure::usage(
                message,
                "take a longer one, best one that was made: `vizard secret` makes one",
            ));
        }
        Ok(passphrase)
    }
}

fn asked(new: bool) -> Result<Zeroizing<String>, Failure> {
    let mut question = dialoguer::Password::new().with_prompt("Passphrase");
    if new {
        question = question.with_confirmation("Once more", "That is not the same.");
    }
    question.interact().map(Zeroizing::new).map_err(|_| {
        Failure::usage("there is no terminal to ask for the passphrase", "name a file: --passphrase-file FILE")
    })
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let next = "name another place, or be the user of the proxy or root";
    Failure::new(format!("{} cannot be written: {error}", path.display()), next)
}

fn exists(paths: &[PathBuf]) -> Failure {
    let first = paths.iter().map(|path| path.display().to_string()).next().unwrap_or_default();
    let more = match paths.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Failure::usage(format!("{first}{more} would be replaced"), "name another place, or say so: --force")
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self::usage(error.to_string(), "try another passphrase, or another copy of the file")
    }
}
