//! The files and folders that a running proxy needs, for the sandbox.
//!
//! **A new path**: whatever lies in the state directory is open already. A path that a setting names is to be added in
//! [`of`], or in [`open`] alone if it takes a restart anyway, to what is read or to what is written; one that is found by
//! other means does not work inside. The tests run the program with the sandbox on, so that what was forgotten is a test
//! that fails with "permission denied".

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Config, Cover};
use crate::cover::site::{self, Content};
use crate::net::listen::Address;
use crate::ops::admin::AdminAddress;
use crate::ops::sandbox::Places;

/// Paths that a running proxy with this configuration needs: at each reload, and whenever a certificate is issued, a
/// list is fetched or a new log is begun. `file` is the configuration file, `read` the files read with it.
pub fn open(config: &Config, file: Option<&Path>, read: &[PathBuf]) -> Places {
    let mut places = Wanted(of(config, file, read));
    if let (Some(_), Some(file)) = (&config.admin, file) {
        // It changes users and gives them other secrets, each of which is a file put in the place of another.
        std::iter::once(file).chain(read.iter().map(PathBuf::as_path)).for_each(|path| places.file_to_edit(path));
    }
    if let Some(AdminAddress::Unix(path)) = config.admin.as_ref().map(|admin| &admin.place) {
        places.beside_to_write(path);
    }
    if let Some(audit_log) = &config.misuse.audit_log {
        places.beside_to_write(&audit_log.file);
    }
    config.sandbox.read.iter().for_each(|path| places.tree(path));
    places.0
}

/// The same of what a running proxy takes over when it reads its configuration again.
pub fn of(config: &Config, file: Option<&Path>, read: &[PathBuf]) -> Places {
    let mut places = Wanted::default();
    places.folder_to_write(&config.state_dir);
    file.into_iter().chain(read.iter().map(PathBuf::as_path)).for_each(|path| places.file(path));
    let tls = config.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    tls.into_iter().flat_map(|(certificate, key)| [certificate, key]).for_each(|path| places.file(path));
    if let Cover::Site(site) = &config.cover {
        places.site(site);
    }
    config.misuse.lists.files().for_each(|path| places.file(path));
    for address in super::parts::listeners(config, ([0, 0, 0, 0], 0).into()).iter().map(|wanted| &wanted.address) {
        if let Address::Unix(path) = address {
            places.beside_to_write(path);
        }
    }
    places.0
}

#[derive(Default)]
struct Wanted(Places);

impl Wanted {
    fn site(&mut self, site: &site::Settings) {
        self.file(&site.certificate);
        self.file(&site.key);
        if let Content::Folder(folder) = &site.content {
            self.tree(folder);
        }
        if let Some(acme) = &site.acme {
            let key = acme.authority.external.as_ref().map(|external| &external.key_file);
            acme.authority.roots.iter().chain(key).for_each(|path| self.file(path));
        }
    }

    /// A file to be read, also after someone has put another in its place, be it by pointing a link elsewhere.
    fn file(&mut self, path: &Path) {
        for at in steps(path) {
            self.0.read.insert(folder_of(&at).unwrap_or(at));
        }
    }

    /// A folder, or a file that stays the same, to be read; also after a link to it points elsewhere close by.
    fn tree(&mut self, path: &Path) {
        let mut steps = steps(path);
        self.0.read.extend(steps.pop());
        self.0.read.extend(steps.iter().filter_map(|link| folder_of(link)));
    }

    fn folder_to_write(&mut self, path: &Path) {
        self.0.write.insert(resolved(path));
    }

    /// A file that may be changed if that does not take opening much else.
    fn file_to_edit(&mut self, path: &Path) {
        self.0.write.extend(steps(path).iter().filter_map(|at| folder_of(at)));
    }

    /// A file to be written beside others: drafts of it, or older ones.
    fn beside_to_write(&mut self, path: &Path) {
        for at in steps(path) {
            self.0.write.insert(at.parent().map_or_else(|| at.clone(), Path::to_owned));
        }
    }
}

/// The folder of a file, unless that holds much else: then the file alone, which must not be replaced.
fn folder_of(file: &Path) -> Option<PathBuf> {
    const BROAD: &[&str] =
        &["/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/usr/local", "/var", "/var/lib"];
    file.parent().filter(|folder| !BROAD.iter().any(|broad| *folder == Path::new(broad))).map(Path::to_owned)
}

/// The path, and where it leads if it is a link, and so on; each with a folder that is no link. What is not there is what
/// it says.
fn steps(path: &Path) -> Vec<PathBuf> {
    const MOST: usize = 16;
    let mut steps = vec![in_its_folder(path)];
    while let Some(to) = steps.last().and_then(|at| Some(at.parent()?.join(fs::read_link(at).ok()?))) {
        steps.push(in_its_folder(&to));
        if steps.len() == MOST {
            break;
        }
    }
    steps
}

fn in_its_folder(path: &Path) -> PathBuf {
    match (path.parent(), path.components().next_back()) {
        (Some(folder), Some(Component::Normal(name))) => resolved(folder).join(name),
        _ => resolved(path),
    }
}

/// Without links and dots as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn wanted(want: impl FnOnce(&mut Wanted)) -> Places {
        let mut wanted = Wanted::default();
        want(&mut wanted);
        wanted.0
    }

    #[test]
    fn a_file_may_be_replaced_wherever_links_to_it_lead() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for folder in ["live", "archive", "linked"] {
            fs::create_dir(home.join(folder)).unwrap();
        }
        fs::write(home.join("archive/chain3.pem"), "").unwrap();
        symlink("../archive/chain3.pem", home.join("live/chain.pem")).unwrap();
        symlink("../live/chain.pem", home.join("linked/chain.pem")).unwrap();
        let places = wanted(|wanted| wanted.file(&home.join("linked/./chain.pem")));
        assert_eq!(places.read, ["archive", "linked", "live"].map(|folder| home.join(folder)).into());
        assert!(places.write.is_empty());
    }

    #[test]
    fn a_folder_with_much_else_in_it_is_not_opened_for_one_file() {
        let places = wanted(|wanted| {
            wanted.file(Path::new("/etc/hostname"));
            wanted.file(Path::new("/etc/vizard/vizard.toml"));
        });
        assert_eq!(places.read, ["/etc/hostname", "/etc/vizard"].map(PathBuf::from).into());
    }

    #[test]
    fn the_folder_of_a_site_may_be_another_tomorrow() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("releases/1")).unwrap();
        symlink("releases/1", home.join("current")).unwrap();
        let places = wanted(|wanted| wanted.tree(&home.join("current")));
        assert_eq!(places.read, [home.clone(), home.join("releases/1")].into());
        let places = wanted(|wanted| wanted.tree(&home.join("releases/1")));
        assert_eq!(places.read, [home.join("releases/1")].into());
    }

    #[test]
    fn what_is_written_is_written_beside_others() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let places = wanted(|wanted| wanted.beside_to_write(&home.join("audit.log")));
        assert_eq!(places.write, [home].into());
    }
}
