//! The file that a profile outlives the program in.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::files::{self, Access};
use crate::cover::profile::Profile;

/// Which cover a profile is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// Host of a remote cover; empty for the built-in site.
    pub host: String,
    /// Its port; 0 for the built-in site.
    pub port: u16,
    /// The name under which it is visited.
    pub domain: String,
}

/// Name of the file in the state directory.
const FILE: &str = "cover-profile.json";

/// Longest file that is read. A real one has a few kilobytes.
const LONGEST: u64 = 1 << 20;

/// A place for the profile of one cover.
#[derive(Clone, Debug)]
pub(super) struct Store {
    path: PathBuf,
    whose: Whose,
}

#[derive(Serialize, Deserialize)]
struct Kept<P> {
    cover: Whose,
    profile: P,
}

impl Store {
    pub(super) fn new(folder: &Path, whose: Whose) -> Self {
        Self { path: folder.join(FILE), whose }
    }

    /// Loads the profile that was kept of this cover; `None` if there is none, or that of another.
    pub(super) fn load(&self) -> io::Result<Option<Profile>> {
        let text = match files::read_file(&self.path, LONGEST) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let kept: Kept<Profile> = serde_json::from_slice(&text)?;
        Ok((kept.cover == self.whose).then_some(kept.profile))
    }

    /// Replaces what was kept in one step, so that a crash leaves the old or the new.
    pub(super) fn save(&self, profile: &Profile) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&Kept { cover: self.whose.clone(), profile })?;
        files::replace_file(&self.path, &text, Access::Private)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn whose(host: &str) -> Whose {
        Whose { host: host.into(), port: 443, domain: "example.com".into() }
    }

    #[test]
    fn a_profile_comes_back_for_the_cover_that_it_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), whose("a"));
        assert_eq!(store.load().unwrap(), None);
        for learnt in [1, 2] {
            let profile = Profile { learnt, ..Profile::default() };
            store.save(&profile).unwrap();
            assert_eq!(store.load().unwrap(), Some(profile));
        }
        assert_eq!(Store::new(folder.path(), whose("b")).load().unwrap(), None);
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_something_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), whose("a"));
        for text in ["", "{}", "[1]", "{\"cover\":{\"host\":\"a\",\"port\":443,\"domain\":\"example.com\"}}"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(store.load().is_err(), "{text}");
        }
    }
}
