//! `vizard backup`: everything that makes this proxy this proxy, in one file.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Failure, Settings, load, output, progress};
use crate::auth::UnixTime;
use crate::base::files::{self, Access};
use crate::config::embedded::CoverDraft;
use crate::config::resolve::read_secret_file;
use crate::config::{Draft, Environment};
use crate::cover::site::Content;
use crate::ops::backup::archive::{self, Archive, Manifest};
use crate::ops::backup::seal::{self, SealError};
use crate::ops::backup::state::{self, Gathered};

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

/// A passphrase for an archive.
#[derive(clap::Args)]
pub(super) struct Lock {
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
    files::replace_file(&arguments.to, &bytes, Access::Private).map_err(|error| cannot_write(&arguments.to, &error))?;
    let mut text = format!("{} is written ({} bytes).\n", arguments.to.display(), bytes.len());
    text += &contents(&archive);
    if passphrase.is_none() {
        text +=
            "\nIt contains secrets that anyone who can read it gets: keep it like a key, or encrypt it: --encrypt\n";
    }
    output::print(text.trim_end());
    Ok(())
}

fn gather(path: Option<PathBuf>, named: &[PathBuf], draft: &Draft) -> Result<Archive, Failure> {
    let unreadable = |path: &Path, error: io::Error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Failure::new(message, "run this as the user of the proxy or root")
    };
    let author = path.as_deref().map(owner).transpose().map_err(|error| unreadable(&draft.state_dir, error))?;
    let read = |path: &PathBuf| read(path, author).map_err(|error| unreadable(path, error));
    let audit_log = draft.misuse.audit_log.as_ref().map(|log| log.file.clone());
    // Those that were begun again have its name and more.
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

fn owner(path: &Path) -> io::Result<u32> {
    Ok(files::open_file(path, OFlags::RDONLY)?.metadata()?.uid())
}

/// Reads a file for root only if the user who wrote the configuration that names it could read it too.
fn read(path: &Path, author: Option<u32>) -> io::Result<Vec<u8>> {
    let file = files::open_file(path, OFlags::RDONLY)?;
    let found = file.metadata()?;
    let readable = |author| author == 0 || author == found.uid() || found.mode() & 0o004 != 0;
    if rustix::process::geteuid().is_root() && !author.is_none_or(readable) {
        let why = "it belongs to another user than the configuration that names it; give both to one user, or to root";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    files::read_all(&file, archive::LONGEST)
}

pub(super) fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Describes what belongs to the installation and is left out of the backup, as others keep it.
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
        left_out.push(format!("the audit log {}: its entries have to expire", log.file.display()));
    }
    left_out
}

pub(super) fn contents(archive: &Archive) -> String {
    let Manifest { config, state_dir, files, left_out, .. } = &archive.manifest;
    let mut text = "It contains\n".to_owned();
    text += &config.as_ref().map(|path| format!("  - the configuration {}\n", path.display())).unwrap_or_default();
    files.iter().for_each(|path| text += &format!("  - {}\n", path.display()));
    text += &format!("  - {} files of {}\n", archive.state.len(), state_dir.display());
    if !left_out.is_empty() {
        text += "It does not contain\n";
        left_out.iter().for_each(|what| text += &format!("  - {what}\n"));
    }
    text
}

impl Lock {
    /// The passphrase from the file, or from a person; `new` has it said twice.
    pub(super) fn passphrase(&self, new: bool) -> Result<Zeroizing<String>, Failure> {
        const SHORTEST: usize = 8;
        let passphrase = match &self.passphrase_file {
            Some(file) => read_secret_file(file).map(|(text, _)| Zeroizing::new(text)).map_err(|error| {
                Failure::usage(format!("the passphrase cannot be read: {error}"), "check the path of --passphrase-file")
            })?,
            None => asked(new)?,
        };
        if new && passphrase.chars().count() < SHORTEST {
            let message = format!("the passphrase has fewer than {SHORTEST} characters");
            return Err(Failure::usage(message, "use a longer one, best a generated one: `vizard secret` prints one"));
        }
        Ok(passphrase)
    }
}

fn asked(new: bool) -> Result<Zeroizing<String>, Failure> {
    let mut question = dialoguer::Password::new().with_prompt("Passphrase");
    if new {
        question = question.with_confirmation("Repeat it", "The two are different.");
    }
    question.interact().map(Zeroizing::new).map_err(|_| {
        Failure::usage("there is no terminal to ask for the passphrase", "name a file: --passphrase-file FILE")
    })
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let next = "name another place, or run this as the user of the proxy or root";
    Failure::new(format!("{} cannot be written: {error}", path.display()), next)
}

pub(super) fn exists(paths: &[PathBuf]) -> Failure {
    let first = paths.iter().map(|path| path.display().to_string()).next().unwrap_or_default();
    let more = match paths.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Failure::usage(format!("{first}{more} would be replaced"), "name another place, or add --force")
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self::usage(error.to_string(), "try another passphrase, or another copy of the file")
    }
}
