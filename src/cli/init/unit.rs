//! The unit of systemd: that of docs/deploy, for this program and this configuration.

use std::io;
use std::path::Path;

/// Path at which administrators put units of their own.
pub const USUAL: &str = "/etc/systemd/system/vizard.service";

const TEMPLATE: &str = include_str!("../../../docs/deploy/vizard.service");
const PROGRAM: &str = "/usr/bin/vizard";
const CONFIG: &str = "/etc/vizard/vizard.toml";
const FOLDER: &str = "/etc/vizard";

/// State of the systemd service on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// It does not run here, or this user may not tell it anything.
    Elsewhere,
    /// It has no unit of this program.
    Wanted,
    /// It has one, from a package or from an administrator.
    There,
}

impl Service {
    /// Finds out.
    pub fn find() -> Self {
        let places = ["/etc", "/usr/lib", "/lib"].map(|above| Path::new(above).join("systemd/system/vizard.service"));
        let may = rustix::process::geteuid().is_root() && Path::new("/run/systemd/system").is_dir();
        match (may, places.iter().any(|unit| unit.exists())) {
            (false, _) => Self::Elsewhere,
            (true, false) => Self::Wanted,
            (true, true) => Self::There,
        }
    }
}

/// The text of the unit that runs this program with this configuration.
pub fn text(program: &Path, config: &Path) -> io::Result<String> {
    let folder = config.parent().unwrap_or(Path::new("/"));
    let lines = TEMPLATE.lines().skip_while(|line| line.starts_with('#')).skip_while(|line| line.is_empty());
    let mut text = String::new();
    for line in lines {
        text += &match line.split_once('=') {
            Some((key, value)) if key.starts_with("Exec") => {
                format!("{key}={}", value.replace(PROGRAM, &word(program)?).replace(CONFIG, &word(config)?))
            }
            Some((key @ "ReadWritePaths", value)) => format!("{key}={}", value.replace(FOLDER, &word(folder)?)),
            _ => line.to_owned(),
        };
        text.push('\n');
    }
    Ok(text)
}

/// A path as a word of a unit. One with other signs would have to be quoted in a different way in each place.
fn word(path: &Path) -> io::Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-_.+@".contains(c);
    match path.to_str() {
        Some(text) if text.starts_with('/') && text.chars().all(fits) => Ok(text.to_owned()),
        _ => Err(io::Error::other(format!("{} has characters that a systemd unit cannot have", path.display()))),
    }
}

/// Lists the commands that are needed before the unit works.
pub fn next(unit: &Path, config: &Path, user_is_there: bool) -> Vec<String> {
    let user = "useradd --system --home-dir /var/lib/vizard --shell /usr/sbin/nologin vizard".to_owned();
    let mut next = if user_is_there { Vec::new() } else { vec![user] };
    if let Some(folder) = config.parent() {
        next.push(format!("chown -R vizard:vizard {}", folder.display()));
    }
    if unit.parent() != Path::new(USUAL).parent() {
        next.push(format!("systemctl link {}", unit.display()));
    }
    next.push("systemctl daemon-reload".to_owned());
    next.push(ENABLE.to_owned());
    next
}

/// Has systemd start it, now and with the machine.
pub const ENABLE: &str = "systemctl enable --now vizard";

/// Whether the user of the unit is there, as far as the file of users tells.
pub fn user_is_there() -> bool {
    std::fs::read_to_string("/etc/passwd").is_ok_and(|users| users.lines().any(|line| line.starts_with("vizard:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_the_documents_is_written_for_this_program() {
        let same = text(Path::new(PROGRAM), Path::new(CONFIG)).unwrap();
        assert!(TEMPLATE.ends_with(&same) && same.starts_with("[Unit]"), "{same}");
        assert!(same.contains(PROGRAM) && same.contains(CONFIG) && same.contains(FOLDER), "{same}");
        let other = text(Path::new("/opt/vizard"), Path::new("/srv/proxy/mine.toml")).unwrap();
        assert!(other.contains("\nExecStart=/opt/vizard run --config /srv/proxy/mine.toml\n"), "{other}");
        assert!(
            other.contains("\nReadWritePaths=-/srv/proxy\n") && !other.contains("/etc/vizard/vizard.toml"),
            "{other}"
        );
        assert!(text(Path::new("/opt/a b/vizard"), Path::new(CONFIG)).is_err());
        assert!(text(Path::new(PROGRAM), Path::new("/srv/%h.toml")).is_err());
    }

    #[test]
    fn what_there_is_to_do_is_said() {
        let usual = next(Path::new(USUAL), Path::new(CONFIG), true);
        assert_eq!(
            usual,
            ["chown -R vizard:vizard /etc/vizard", "systemctl daemon-reload", "systemctl enable --now vizard"]
        );
        let other = next(Path::new("/srv/vizard.service"), Path::new(CONFIG), false);
        assert!(other[0].starts_with("useradd ") && other.contains(&"systemctl link /srv/vizard.service".to_owned()));
    }
}
