//! The archive: a tar file.
//!
//! ```text
//! manifest.json     what this is, and where everything belongs
//! config.toml       the configuration file
//! files/0 …         files that it names: secrets
//! state/…           the state directory
//! ```

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The number of this format.
const FORMAT: u32 = 1;

const MANIFEST: &str = "manifest.json";
const CONFIG: &str = "config.toml";
const FILES: &str = "files";
const STATE: &str = "state";

/// Most bytes of an archive: it is held in memory, and a made-up one must not fill it. The memory of spent hellos is most of
/// a real one.
pub const LONGEST: u64 = 4 << 30;

/// Most files of an archive; a real one has a few dozen, or as many as there are users.
const MOST_FILES: usize = 500_000;

/// Longest manifest. It has some hundred bytes, and a path for each file with a secret.
const LONGEST_MANIFEST: u64 = 64 << 20;

/// Contents of an archive and their places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The number of the format.
    pub format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// Time of the backup, in seconds since 1970.
    pub made: i64,
    /// The configuration file, if there was one.
    pub config: Option<PathBuf>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Files that the configuration names, in the order of `files/`.
    pub files: Vec<PathBuf>,
    /// Parts of the installation that are not in here, as sentences.
    pub left_out: Vec<String>,
}

impl Manifest {
    /// Of this version of the program, with nothing in it yet.
    pub fn new(made: i64, state_dir: PathBuf) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made,
            config: None,
            state_dir,
            files: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

/// An archive in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Archive {
    /// Contents and their places.
    pub manifest: Manifest,
    /// Content of the configuration file, if there was one.
    pub config: Option<Vec<u8>>,
    /// Contents of the files that it names, in their order.
    pub files: Vec<Vec<u8>>,
    /// Files of the state directory by their place in it.
    pub state: Vec<(PathBuf, Vec<u8>)>,
}

impl Archive {
    /// As a tar file. Owners and times are no one's, so that the same content is the same file.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(io::Error::other)?;
        add(&mut tar, Path::new(MANIFEST), &manifest)?;
        if let Some(config) = &self.config {
            add(&mut tar, Path::new(CONFIG), config)?;
        }
        for (number, file) in self.files.iter().enumerate() {
            add(&mut tar, &Path::new(FILES).join(number.to_string()), file)?;
        }
        for (place, file) in &self.state {
            add(&mut tar, &Path::new(STATE).join(place), file)?;
        }
        tar.into_inner()
    }

    /// Reads a tar file. Whatever is not where it belongs is refused, for an archive may come from anywhere.
    pub fn unpack(bytes: &[u8]) -> io::Result<Self> {
        let (mut manifest, mut config, mut files, mut state) = (None, None, Vec::new(), Vec::new());
        let (mut left, mut count) = (LONGEST, 0);
        for entry in tar::Archive::new(bytes).entries()? {
            let mut entry = entry?;
            let place = entry.path()?.into_owned();
            if !entry.header().entry_type().is_file() || !is_plain(&place) {
                return Err(strange(&place));
            }
            count += 1;
            left = left.checked_sub(entry.size()).ok_or_else(|| too_much("bytes"))?;
            if count > MOST_FILES {
                return Err(too_much("files"));
            }
            if place == Path::new(MANIFEST) && entry.size() > LONGEST_MANIFEST {
                return Err(strange(&place));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let number: Option<usize> =
                place.strip_prefix(FILES).ok().and_then(Path::to_str).and_then(|number| number.parse().ok());
            match (place.to_str(), number, place.strip_prefix(STATE)) {
                (Some(MANIFEST), ..) => manifest = Some(serde_json::from_slice(&content)?),
                (Some(CONFIG), ..) => config = Some(content),
                (_, Some(number), _) if number == files.len() => files.push(content),
                (_, None, Ok(inner)) if inner.components().next().is_some() => state.push((inner.to_owned(), content)),
                _ => return Err(strange(&place)),
            }
        }
        let none = || io::Error::new(io::ErrorKind::InvalidData, "it is no backup of vizard");
        let manifest: Manifest = manifest.ok_or_else(none)?;
        if manifest.format != FORMAT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a newer version of vizard has made it"));
        }
        if manifest.files.len() != files.len() || manifest.config.is_some() != config.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "parts of it are missing"));
        }
        Ok(Self { manifest, config, files, state })
    }
}

fn add(tar: &mut tar::Builder<Vec<u8>>, place: &Path, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, place, content)
}

/// Whether a path leads nowhere but further down.
fn is_plain(place: &Path) -> bool {
    place.components().all(|part| matches!(part, Component::Normal(_)))
}

fn too_much(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it has more {what} than any backup"))
}

fn strange(place: &Path) -> io::Error {
    let message = format!("it contains something unexpected: {}", place.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        let mut manifest = Manifest::new(1_767_225_600, "/var/lib/vizard".into());
        manifest.config = Some("/etc/vizard/vizard.toml".into());
        manifest.files = vec!["/etc/vizard/a.secret".into(), "/etc/vizard/b.secret".into()];
        Archive {
            manifest,
            config: Some(b"domain = 'www.example.com'".to_vec()),
            files: vec![b"a".to_vec(), Vec::new()],
            state: vec![
                ("replay".into(), vec![7; 3000]),
                (format!("site/{}", "x".repeat(150)).into(), b"page".to_vec()),
            ],
        }
    }

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let bytes = archive().pack().unwrap();
        assert!(Archive::unpack(&bytes).unwrap() == archive());
        assert_eq!(archive().pack().unwrap(), bytes);
    }

    fn with(place: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        // As someone would write it who wants to get out.
        header.as_old_mut().name[..place.len()].copy_from_slice(place.as_bytes());
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, io::empty()).unwrap();
        add(&mut tar, Path::new(MANIFEST), &serde_json::to_vec(&Manifest::new(0, "/".into())).unwrap()).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn what_would_lead_elsewhere_is_refused() {
        use tar::EntryType;
        assert!(Archive::unpack(&with("state/a", EntryType::Regular)).is_ok());
        for (place, kind) in [
            ("state/../../etc/passwd", EntryType::Regular),
            ("/etc/passwd", EntryType::Regular),
            ("state/a", EntryType::Symlink),
            ("state/a", EntryType::Link),
            ("state/a", EntryType::Char),
            ("state", EntryType::Regular),
            ("files/1", EntryType::Regular),
            ("files/0/1", EntryType::Regular),
            ("other", EntryType::Regular),
        ] {
            assert!(Archive::unpack(&with(place, kind)).is_err(), "{place}");
        }
    }

    #[test]
    fn what_is_cut_or_something_else_is_refused() {
        let bytes = archive().pack().unwrap();
        for bytes in [&b""[..], b"hello", &bytes[..bytes.len() / 2], &vec![7; 4096]] {
            assert!(Archive::unpack(bytes).is_err());
        }
        let mut newer = archive();
        newer.manifest.format += 1;
        assert!(Archive::unpack(&newer.pack().unwrap()).err().unwrap().to_string().contains("newer"));
    }
}
