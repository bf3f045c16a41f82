//! `vizard init`: from nothing, or from the configuration of another proxy, to a working link.
//!
//! ```text
//! flags, --import ─▶ Given ┐
//! this machine ────────────┼▶ interview ─▶ Starter ─▶ text ─▶ file ─▶ doctor ─▶ links ─▶ unit
//! a person, or proposals ──┘
//! ```

pub(super) mod ask;
mod interview;
mod machine;
mod several;
mod unit;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyper::Uri;

use self::ask::{Ask, Nobody, Person};
use self::interview::{Given, interview};
use self::machine::ThisMachine;
use self::unit::Service;
use super::doctor::{self, Check};
use super::link::{self, Look};
use super::{Failure, Settings, code, output, reload};
use crate::auth::Domain;
use crate::base::files::{self, Access};
use crate::config::import::{self, Format, ImportError, Imported};
use crate::config::starter::{Content, Cover};
use crate::config::{self, edit};
use crate::config::{Environment, Flags, LoadError, load_text, units};
use crate::cover::site::acme::{Authority, Challenge};

/// Flags of `vizard init`.
#[derive(clap::Args)]
pub struct Arguments {
    /// File to write; default: /etc/vizard/vizard.toml for root, otherwise vizard.toml here [environment: VIZARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for what must survive a restart, to be set in the file
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Domain name in links: best your own, which leads to this machine
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// A further name of the same site, over which users are spread; may be repeated
    #[arg(long, value_name = "NAME", requires = "domain")]
    name: Vec<String>,
    /// Site that strangers meet: the built-in site or a web server elsewhere
    #[arg(long, value_name = "site|HOST:PORT")]
    cover: Option<String>,
    /// PEM file of the certificate chain for the built-in site
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Have a self-signed certificate made, to try it out
    #[arg(long, conflicts_with = "certificate")]
    self_signed: bool,
    #[command(flatten)]
    acme: Acme,
    /// Folder with the pages of the built-in site
    #[arg(long, value_name = "DIR", conflicts_with = "upstream")]
    folder: Option<PathBuf>,
    /// Web server that the built-in site passes requests on to, e.g. http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Listen on this address; may be repeated; default: [::]:443 where possible
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Public address or name of this machine, for the links
    #[arg(long, value_name = "HOST")]
    link_host: Option<String>,
    /// A user to make a secret for; may be repeated; default: `first`, or those that are imported
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Take over the configuration of another proxy: mtg, telemt, mtprotoproxy, the official MTProxy or WEB relay
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Proxy that the configuration belongs to, where the file does not tell
    #[arg(long, value_name = "PROXY", requires = "import")]
    from: Option<Format>,
    /// Ask nothing, and use the suggestions where no flag is given; the default without a terminal
    #[arg(long)]
    yes: bool,
    /// Start over if there is a configuration; the old one is kept as FILE.old
    #[arg(long)]
    force: bool,
    /// Print the configuration, with its secrets, and write nothing
    #[arg(long)]
    print: bool,
    /// Do not check the result
    #[arg(long)]
    no_check: bool,
    /// Leave this check out; may be repeated
    #[arg(long, value_name = "CHECK", value_enum)]
    skip: Vec<Check>,
    /// Accept a cover whose first flight has several encrypted records, although one flow tells it from what clients
    /// get
    #[arg(long)]
    accept_grade_c: bool,
    /// Draw no QR code
    #[arg(long)]
    no_qr: bool,
    /// Write a unit of systemd, by default to /etc/systemd/system/vizard.service
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = unit::USUAL)]
    unit: Option<PathBuf>,
}

/// Flags for a certificate from an authority.
#[derive(clap::Args)]
struct Acme {
    /// Have Let's Encrypt issue the certificate, which agrees to its terms (https://letsencrypt.org/repository/)
    #[arg(long, conflicts_with_all = ["certificate", "self_signed"])]
    acme: bool,
    /// Test it first with certificates that no browser trusts, which have generous limits
    #[arg(long, requires = "acme", conflicts_with = "acme_directory")]
    acme_staging: bool,
    /// Address that the authority may write to; none is needed
    #[arg(long, value_name = "ADDRESS", requires = "acme")]
    acme_email: Option<String>,
    /// Proof for the authority that the domain is yours: a handshake on port 443, or a page on port 80; default:
    /// whichever is possible
    #[arg(long, value_name = "CHALLENGE", requires = "acme", value_parser = challenge())]
    acme_challenge: Option<Challenge>,
    /// Another authority: the URL of its ACME directory
    #[arg(long, value_name = "URL", requires = "acme")]
    acme_directory: Option<Uri>,
    /// PEM file with the roots of a private authority's own certificate
    #[arg(long, value_name = "FILE", requires = "acme")]
    acme_ca_file: Option<PathBuf>,
}

impl Acme {
    fn given(&self) -> Option<interview::Acme> {
        let usual = Authority::lets_encrypt(self.acme_staging);
        let authority = Authority {
            directory: self.acme_directory.clone().unwrap_or_else(|| usual.directory.clone()),
            email: self.acme_email.clone(),
            roots: self.acme_ca_file.as_ref().map(whole),
            ..usual
        };
        self.acme.then_some(interview::Acme { authority, challenge: self.acme_challenge })
    }
}

fn challenge() -> impl TypedValueParser<Value = Challenge> {
    let labels = [Challenge::TlsAlpn01, Challenge::Http01].map(Challenge::label);
    PossibleValuesParser::new(labels).map(|label| match label == Challenge::Http01.label() {
        true => Challenge::Http01,
        false => Challenge::TlsAlpn01,
    })
}

/// Asks what no flag says, writes the configuration, examines it, and prints the links. Exit code 1 also says that it was
/// written and something is broken.
pub fn init(arguments: &Arguments, environment: &Environment) -> Result<u8, Failure> {
    let mut ask: Box<dyn Ask> = match !arguments.yes && Person::is_there() {
        true => Box::new(Person::default()),
        false => Box::new(Nobody),
    };
    let path = arguments.path(environment);
    let begins_anew = !arguments.print && may_begin(&path, arguments.force, ask.as_mut())?;
    if let Some(unit) = arguments.unit.as_ref().filter(|unit| unit.exists() && !arguments.force) {
        let next = "name another file: --unit FILE; or replace it: --force";
        return Err(Failure::usage(format!("{} exists already", unit.display()), next));
    }
    let given = arguments.given()?;
    given.imported.notes.iter().for_each(|note| ask.tell(&format!("- {note}.")));
    let mut starter = interview(given, &ThisMachine, ask.as_mut(), &mut rand::rng())?;
    if let Cover::Remote { accept_grade_c, .. } = &mut starter.cover {
        *accept_grade_c = arguments.accept_grade_c;
    }
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    let loaded = load_text(&starter.text(), Some(path.clone()), &flags, environment).map_err(not_written)?;
    if !arguments.print
        && !arguments.accept_grade_c
        && several::records(&loaded.draft).is_some_and(|records| records > 1)
    {
        several::confirm(ask.as_mut())?;
        if let Cover::Remote { accept_grade_c, .. } = &mut starter.cover {
            *accept_grade_c = true;
        }
    }
    let text = starter.text();
    if arguments.print {
        output::print(text.trim_end());
        return Ok(code::FINE);
    }
    if begins_anew {
        keep_old(&path)?;
    }
    let written = files::private_folder(path.parent().unwrap_or(Path::new("")))
        .and_then(|()| files::replace_file(&path, text.as_bytes(), Access::Private));
    written.map_err(|error| cannot_write(&path, &error))?;
    output::print(format!("{} is written.\n", path.display()));
    // A proxy that runs with this file takes it, with other users than before if that is what was wished.
    let taken = reload::after_new(&flags, environment).inspect_err(|failure| output::complain(format!("{failure}\n")));
    let settings = || Settings { config: Some(path.clone()), ..Settings::default() };
    let look = Look::default().without_qr(arguments.no_qr);
    // This makes what the first start would make, so that the doctor finds it.
    let links = link::text(&link::Arguments::all(look, settings()), environment);
    let broken = !arguments.no_check && !examine(&path, &arguments.skip, environment)?;
    match links {
        Ok(links) => output::print(format!("{links}\n")),
        Err(failure) => output::complain(format!("there is no link yet: {failure}\n")),
    }
    let start = start(arguments.unit.clone(), &path, ask.as_mut())?;
    output::print(format!("Start it:\n  {}", start.join("\n  ")));
    output::print(format!("Then check that it works: vizard doctor --config {}", shell(&path)));
    if broken {
        output::complain("next: fix what is broken above; the configuration is written anyway");
    }
    Ok(if broken || taken.is_err() { code::FAILED } else { code::FINE })
}

impl Arguments {
    fn path(&self, environment: &Environment) -> PathBuf {
        let usual = || match rustix::process::geteuid().is_root() {
            true => config::usual_path(environment),
            false => PathBuf::from("vizard.toml"),
        };
        self.config.clone().or_else(|| environment.path("VIZARD_CONFIG")).unwrap_or_else(usual)
    }

    fn given(&self) -> Result<Given, Failure> {
        let wrong = |flag: &str, error: units::ValueError| Failure::usage(format!("{flag}: {error}"), error.fix());
        let domain = self.domain.as_deref().map(str::parse::<Domain>).transpose();
        let domain = domain.map_err(|error| Failure::usage(format!("--domain: {error}"), error.fix()))?;
        let names = self.name.iter().map(|name| name.parse::<Domain>()).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| Failure::usage(format!("--name: {error}"), error.fix()))?;
        let remote = self.cover.as_ref().filter(|cover| *cover != "site");
        if let Some(remote) = remote {
            units::host_and_port(remote).map_err(|error| wrong("--cover", error))?;
        }
        for listen in &self.listen {
            units::listener(listen).map_err(|error| wrong("--listen", error))?;
        }
        let link_host = self.link_host.as_deref().map(units::host).transpose();
        let content = match (&self.folder, &self.upstream) {
            (Some(folder), _) => Some(Content::Folder(whole(folder))),
            (None, Some(url)) => Some(Content::Upstream(url.clone())),
            (None, None) => None,
        };
        Ok(Given {
            state_dir: self.state_dir.as_ref().map(whole),
            domain,
            names,
            site: self.cover.as_deref() == Some("site"),
            remote: remote.cloned(),
            certificate: self.certificate.as_ref().map(whole).zip(self.key.as_ref().map(whole)),
            self_signed: self.self_signed,
            acme: self.acme.given(),
            content,
            listen: self.listen.clone(),
            link_host: link_host.map_err(|error| wrong("--link-host", error))?,
            users: self.user.clone(),
            imported: self.import.as_ref().map(|file| imported(file, self.from)).transpose()?.unwrap_or_default(),
        })
    }
}

/// A path that is good wherever the file is read from.
fn whole(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}

/// Reads the configuration of another proxy.
fn imported(file: &Path, format: Option<Format>) -> Result<Imported, Failure> {
    let unreadable = |path: &Path, error: io::Error| {
        Failure::usage(format!("{} cannot be read: {error}", path.display()), "check the path and its permissions")
    };
    let text = read(file).map_err(|error| unreadable(file, error))?;
    let (format, mut imported) = import::import(&text, format)?;
    for path in std::mem::take(&mut imported.secret_files) {
        let text = read(&path).map_err(|error| unreadable(&path, error))?;
        imported.add_secrets(&text);
    }
    for path in std::mem::take(&mut imported.profile_files) {
        // Where the service manager has put it, it is not found; beside the configuration it usually is.
        let beside = file.with_file_name(path.file_name().unwrap_or_default());
        let text = read(&path).or_else(|error| read(&beside).map_err(|_| error));
        let text = text.map_err(|error| unreadable(&path, error))?;
        imported.add_profiles(&text).ok_or(ImportError::NotOfTheFormat(format))?;
    }
    if imported.people.is_empty() {
        return Err(ImportError::NoSecret(format).into());
    }
    if imported.tag.is_some() {
        imported.notes.push(
            "the tag of the promoted channel was taken over: sessions go through Telegram's middle proxies, see \
             docs/promoted-channel.md"
                .into(),
        );
    }
    imported.notes.push(
        "hellos that were recorded on their way to the old server are not in the replay cache here, so a replay may \
         open a session; `vizard user rotate --all --keep 0s` makes new links and ends the old ones at once, without \
         --keep after a week"
            .into(),
    );
    let count = imported.people.len();
    output::complain(format!("From the configuration of {format}: {count} user{}.", if count == 1 { "" } else { "s" }));
    Ok(imported)
}

fn read(path: &Path) -> io::Result<String> {
    // A wrong path may lead to a device without an end.
    const LONGEST: u64 = 4 << 20;
    io::read_to_string(io::Read::take(fs::File::open(path)?, LONGEST))
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        Self::usage(error.to_string(), error.fix())
    }
}

/// Whether there is a configuration that is to be moved away.
fn may_begin(path: &Path, force: bool, ask: &mut dyn Ask) -> Result<bool, Failure> {
    if fs::symlink_metadata(path).is_err() || sets_nothing(path) {
        return Ok(false);
    }
    let question = format!("{} exists already. Start over, and keep it as {}?", path.display(), old(path).display());
    if force || ask.yes(&question, false).unwrap_or(false) {
        return Ok(true);
    }
    Err(Failure::usage(
        format!("{} exists already", path.display()),
        "name another file: --config FILE; or start over, which keeps the old one beside it: --force",
    ))
}

/// Whether this is a file of comments, as packages bring one: there is nothing in it to keep.
fn sets_nothing(path: &Path) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    is_file && read(path).is_ok_and(|text| edit::sets_nothing(&text))
}

fn old(path: &Path) -> PathBuf {
    path.with_file_name(format!("{}.old", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn keep_old(path: &Path) -> Result<(), Failure> {
    fs::rename(path, old(path)).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{} cannot be written: {error}", path.display()), "name another file: --config FILE")
}

fn not_written(error: LoadError) -> Failure {
    if let LoadError::Complaints(report) = &error {
        output::report(report);
    }
    Failure::new("nothing was written: the configuration would have mistakes", "give other flags or answers")
}

/// Says what the doctor finds, and whether nothing is broken. No one can log in before the start.
fn examine(path: &Path, skip: &[Check], environment: &Environment) -> Result<bool, Failure> {
    let flags = Flags { config: Some(path.to_owned()), ..Flags::default() };
    let skip = [&[Check::Login], skip].concat();
    let findings = doctor::findings(&flags, None, &skip, environment)?;
    output::print(findings.text(output::is_colourful_terminal()) + "\n");
    Ok(findings.verdict() != doctor::Verdict::Broken)
}

/// Writes the unit of systemd, if it is wished. Returns the commands that start the proxy.
fn start(wished: Option<PathBuf>, config: &Path, ask: &mut dyn Ask) -> Result<Vec<String>, Failure> {
    let question = format!("Write {}, so that systemd runs it, sandboxed as docs/hardening.md says?", unit::USUAL);
    let unit = match (wished, Service::find()) {
        (Some(unit), _) => unit,
        (None, Service::Wanted) if ask.is_person() && ask.yes(&question, true).unwrap_or(false) => unit::USUAL.into(),
        (None, Service::There) => return Ok(vec![unit::ENABLE.to_owned()]),
        (None, _) => return Ok(vec![format!("vizard run --config {}", shell(config))]),
    };
    let (unit, config) = (whole(&unit), whole(&config.to_owned()));
    let text = std::env::current_exe().and_then(|program| unit::text(&program, &config));
    text.and_then(|text| files::replace_file(&unit, text.as_bytes(), Access::Public)).map_err(|error| {
        let next = "the configuration is written; name another file: --unit FILE --force";
        Failure::new(format!("{} cannot be written: {error}", unit.display()), next)
    })?;
    output::print(format!("{} is written.", unit.display()));
    Ok(unit::next(&unit, &config, unit::user_is_there()))
}

/// A path as it can stand in a command.
fn shell(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}
