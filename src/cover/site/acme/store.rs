//! What is kept of an authority, in a folder of its own: the account, the certificate with its key, and how it went.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hyper::Uri;
use instant_acme::AccountCredentials;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Settings;
use super::plan::Memory;
use super::trouble::Trouble;
use crate::auth::UnixTime;
use crate::base::files::{self, Access};

/// The folder of one authority, seen for the certificate of one site, which has the first of its names.
pub(super) struct Store {
    folder: PathBuf,
    domain: String,
}

/// An account and the address that the authority was told.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) email: Option<String>,
    pub(super) credentials: AccountCredentials,
}

impl Store {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { folder: settings.folder.clone(), domain: settings.domain().to_owned() }
    }

    /// Certificate and key in one file, so that a crash never leaves half of a pair.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.domain))
    }

    /// The file of the memory.
    pub(super) fn remembered(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.domain))
    }

    /// The file of the account.
    pub(super) fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// Reads the memory of attempts; an empty one if there is none, or if it cannot be understood.
    pub(super) fn memory(&self) -> io::Result<Memory> {
        let text = read(&self.remembered())?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    pub(super) fn remember(&self, memory: &Memory) -> io::Result<()> {
        self.write(&self.remembered(), &serde_json::to_vec_pretty(memory)?)
    }

    /// The account, if there is one.
    pub(super) fn account(&self) -> Result<Option<Account>, Trouble> {
        let path = self.account_file();
        let text = read(&path).map_err(|error| Trouble::store(&path, &error))?;
        let account = text.map(|text| serde_json::from_slice(&text)).transpose();
        account.map_err(|_| Trouble::spoilt(&path))
    }

    pub(super) fn keep_account(&self, account: &Account) -> Result<(), Trouble> {
        let path = self.account_file();
        let text = serde_json::to_vec(account).map(Zeroizing::new).map_err(io::Error::from);
        text.and_then(|text| self.write(&path, &text)).map_err(|error| Trouble::store(&path, &error))
    }

    pub(super) fn forget_account(&self) {
        // Anyone who cannot remove it cannot write the next one either, and says so then.
        let _ = fs::remove_file(self.account_file());
    }

    /// Puts a certificate with its key into its place.
    pub(super) fn keep(&self, pem: &str) -> Result<(), Trouble> {
        let path = self.certificate();
        self.write(&path, pem.as_bytes()).map_err(|error| Trouble::store(&path, &error))
    }

    /// Takes the certificate that stands there under another first name and is good for the longest, where there is none under
    /// this one: names of a site may change their places. `good_until` says for how long the one in a file would do.
    pub(super) fn adopt(&self, good_until: impl Fn(&Path) -> Option<UnixTime>) -> io::Result<()> {
        // More than one folder has.
        const MOST: usize = 1000;
        if self.certificate().exists() {
            return Ok(());
        }
        let folder = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        let files = folder.take(MOST).filter_map(|entry| Some(entry.ok()?.path()));
        let good = files.filter(|path| path.extension().is_some_and(|kind| kind == "pem"));
        let best = good.filter_map(|path| Some((good_until(&path)?, path))).max();
        match best.map(|(_, path)| read(&path)).transpose()?.flatten() {
            Some(pem) => self.write(&self.certificate(), &pem),
            None => Ok(()),
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        files::private_folder(&self.folder)?;
        files::replace_file(path, content, Access::Private)
    }
}

fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // More than any of these files has.
    const LONGEST: u64 = 64 * 1024;
    let file = match files::open_file(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Name of the folder of an authority: its URL without what a file name should not have.
pub(super) fn label(directory: &Uri) -> String {
    let port = directory.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let text = format!("{}{port}{}", directory.host().unwrap_or_default(), directory.path().trim_end_matches('/'));
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    text.chars().map(plain).collect::<String>().trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store(folder: &Path) -> Store {
        Store { folder: folder.join("acme/x"), domain: "a.example".into() }
    }

    #[test]
    fn folders_are_named_after_the_authority() {
        for (url, name) in [
            (super::super::LETS_ENCRYPT, "acme-v02.api.letsencrypt.org_directory"),
            (super::super::LETS_ENCRYPT_STAGING, "acme-staging-v02.api.letsencrypt.org_directory"),
            ("https://127.0.0.1:14000/dir/", "127.0.0.1_14000_dir"),
            ("https://ca.example/a/../..", "ca.example_a_.._.."),
            ("https://[::1]:9/x", "___1__9_x"),
        ] {
            assert_eq!(label(&url.parse().unwrap()), name);
        }
    }

    #[test]
    fn what_is_kept_is_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert_eq!(store.memory().unwrap(), Memory::default());
        assert!(store.account().unwrap().is_none());
        let memory = Memory { failures: 3, last: Some(5), ..Memory::default() };
        store.remember(&memory).unwrap();
        store.keep("PEM").unwrap();
        assert_eq!(store.memory().unwrap(), memory);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&store.remembered()), mode(&store.certificate())], [0o600; 2]);
        assert_eq!([mode(&store.folder), mode(store.folder.parent().unwrap())], [0o700; 2]);
    }

    #[test]
    fn a_certificate_for_all_names_is_found_under_another_first_name() {
        let folder = tempfile::tempdir().unwrap();
        let authority = super::super::Authority::lets_encrypt(true);
        let settings = |names: &[&str]| Settings::new(authority.clone(), names, folder.path());
        let swapped = settings(&["a.example", "b.example"]);
        swapped.adopt();
        let made = folder.path().join("made");
        let (certificate, key) = crate::cover::site::self_signed(&["b.example", "a.example"], &made).unwrap();
        let pem = [fs::read(certificate).unwrap(), fs::read(key).unwrap()].concat();
        files::private_folder(&swapped.folder).unwrap();
        fs::write(settings(&["b.example"]).file(), &pem).unwrap();
        fs::write(settings(&["c.example"]).file(), "no certificate").unwrap();
        let lacking = settings(&["a.example", "d.example"]);
        lacking.adopt();
        assert!(!lacking.file().exists(), "it is not for all names");
        swapped.adopt();
        assert_eq!(fs::read(swapped.file()).unwrap(), pem);
        fs::write(swapped.file(), "another").unwrap();
        swapped.adopt();
        assert_eq!(fs::read(swapped.file()).unwrap(), b"another", "what is there stays");
    }

    #[test]
    fn a_spoilt_memory_is_none_and_a_spoilt_account_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.remember(&Memory::default()).unwrap();
        fs::write(store.remembered(), "{").unwrap();
        assert_eq!(store.memory().unwrap(), Memory::default());
        fs::write(store.account_file(), "{\"credentials\": \"mute\"}").unwrap();
        let trouble = store.account().err().unwrap();
        assert!(trouble.what.contains("account.json") && !trouble.what.contains("mute"), "{trouble:?}");
        store.forget_account();
        assert!(store.account().unwrap().is_none());
    }
}
