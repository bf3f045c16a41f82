//! An open folder, and what is done to the files in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, StatxAttributes, StatxFlags, fstat, fstatfs, linkat,
    mkdirat, openat, readlinkat, renameat, statx, unlinkat,
};
use rustix::io::Errno;

use super::{Access, Rights, read_all};

/// Links that one path may lead over, as in the kernel.
const MOST_LINKS: usize = 40;

/// A folder by its descriptor: it stays the same one, whatever becomes of its path.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    root: bool,
}

/// Links on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Those of root are followed; where root does not work, all are.
    Trusted,
    /// None is.
    Refused,
}

impl Folder {
    /// Opens a folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::start()?.walk(path, Links::Trusted, false)
    }

    /// Opens a folder, and makes it and those above it where they are missing, for their owner only.
    pub fn make(path: &Path) -> io::Result<Self> {
        Self::start()?.walk(path, Links::Trusted, true)
    }

    /// Opens a folder below this one. No link is followed, and nothing leads up.
    pub fn below(&self, place: &Path) -> io::Result<Self> {
        self.inner(place, false)
    }

    /// The same, and makes it where it is missing.
    pub fn make_below(&self, place: &Path) -> io::Result<Self> {
        self.inner(place, true)
    }

    fn inner(&self, place: &Path, make: bool) -> io::Result<Self> {
        match place.components().all(|part| matches!(part, Component::Normal(_))) {
            true => self.walk(place, Links::Refused, make),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of its folder")),
        }
    }

    /// The folder of a file and its name in it. A file that is a link stands where the link leads.
    pub fn of(path: &Path) -> io::Result<(Self, OsString)> {
        let (mut folder, mut name) = Self::named(path)?;
        for _ in 0..MOST_LINKS {
            let found = match folder.look_at(&name) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((folder, name)),
                Err(error) => return Err(error),
            };
            let stat = fstat(&found)?;
            // Links of the process itself lead to what is open, which has no path.
            if !FileType::from_raw_mode(stat.st_mode).is_symlink() || folder.is_proc() {
                return Ok((folder, name));
            }
            let target = folder.followed(&found, &stat)?;
            (folder, name) = (folder.walk(above(&target), Links::Trusted, false)?, last(&target)?);
        }
        Err(Errno::LOOP.into())
    }

    /// The folder of a path and its last part, be that a link.
    pub(super) fn named(path: &Path) -> io::Result<(Self, OsString)> {
        Ok((Self::open(above(path))?, last(path)?))
    }

    fn start() -> io::Result<Self> {
        let fd = openat(CWD, ".", FOLDER, Mode::empty())?;
        Ok(Self { fd, root: rustix::process::geteuid().is_root() })
    }

    fn walk(&self, path: &Path, links: Links, make: bool) -> io::Result<Self> {
        let mut at = Self { fd: self.fd.try_clone()?, root: self.root };
        let mut ahead: Vec<OsString> = parts(path);
        let mut followed = 0;
        while let Some(part) = ahead.pop() {
            if part == "/" {
                at.fd = openat(CWD, "/", FOLDER, Mode::empty())?;
                continue;
            }
            let next = match at.look_at(&part) {
                Err(error) if make && error.kind() == io::ErrorKind::NotFound => at.make_folder(&part)?,
                next => next?,
            };
            let stat = fstat(&next)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => at.fd = next,
                FileType::Symlink if links == Links::Trusted && followed < MOST_LINKS => {
                    followed += 1;
                    match at.is_proc() {
                        true => at.fd = openat(&at.fd, &part, FOLDER, Mode::empty())?,
                        false => ahead.extend(parts(&at.followed(&next, &stat)?)),
                    }
                }
                FileType::Symlink if links == Links::Trusted => return Err(Errno::LOOP.into()),
                FileType::Symlink => return Err(refused(&part, "is a link, which is not followed here")),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(at)
    }

    /// Target of a symbolic link, if it may be followed.
    fn followed(&self, link: &OwnedFd, stat: &Stat) -> io::Result<PathBuf> {
        let target = readlinkat(link, "", Vec::new())?;
        let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
        if self.root && stat.st_uid != 0 {
            let why =
                format!("is the target of a link that belongs to uid {}, which root does not follow", stat.st_uid);
            return Err(refused(target.as_os_str(), &why));
        }
        Ok(target)
    }

    /// A descriptor of what has this name, which can neither be read nor written; of a link itself.
    pub(super) fn look_at(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.fd, name, flags, Mode::empty())?)
    }

    fn is_proc(&self) -> bool {
        fstatfs(&self.fd).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC)
    }

    fn make_folder(&self, name: &OsStr) -> io::Result<OwnedFd> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.look_at(name),
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.fd, name, flags, Mode::empty())?;
        if self.root && fstat(&made)?.st_uid == 0 {
            Rights::in_folder(&fstat(&self.fd)?, 0o700, true).set(made.as_fd(), true)?;
        }
        self.look_at(name)
    }

    /// Opens a file of this folder; never through a link, except to what a process has open.
    ///
    /// Root reads no pipe and no device of another user: it could wait there for ever.
    pub fn open_file(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        if self.is_proc() {
            return Ok(openat(&self.fd, name, flags, Mode::empty())?.into());
        }
        let plain = match self.look_at(name).and_then(|found| Ok(fstat(&found)?)) {
            Ok(found) => {
                let plain = FileType::from_raw_mode(found.st_mode).is_file();
                if !plain && self.root && found.st_uid != 0 {
                    return Err(refused(name, "is no plain file and belongs to another user"));
                }
                plain
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let flags = flags | OFlags::NOFOLLOW | if plain { OFlags::NONBLOCK } else { OFlags::empty() };
        Ok(openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Opens a file of this folder, or makes it where there is none; of several that make it at once, one does.
    pub fn open_or_make(&self, name: &OsStr, flags: OFlags, access: Access) -> io::Result<File> {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            match self.open_file(name, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.open_file(name, flags | OFlags::CREATE | OFlags::EXCL) {
                // It has come in between.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(made) => {
                    self.rights(name, access)?.set(made.as_fd(), self.root)?;
                    return Ok(made);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The bytes of a plain file of this folder, at most `longest`. Root does not read a file of another owner that is here
    /// under a second name only, for that is how a file is borrowed from elsewhere.
    pub fn read(&self, name: &OsStr, longest: u64) -> io::Result<Vec<u8>> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        let (stat, here) = (fstat(&file)?, fstat(&self.fd)?);
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(refused(name, "is no plain file"));
        }
        if self.root && here.st_uid != 0 && stat.st_uid != here.st_uid && stat.st_nlink > 1 {
            return Err(refused(name, "is a second name of a file that belongs to another user"));
        }
        read_all(&file, longest)
    }

    /// Replaces a file of this folder, or makes it, as a whole. A link of this name is replaced, not followed.
    pub fn replace(&self, name: &OsStr, content: &[u8], access: Access) -> io::Result<()> {
        let rights = self.rights(name, access)?;
        let renamed = self.draft(content, rights).and_then(|draft| draft.replace(name));
        match renamed.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(code)) if MOUNTED.contains(&Errno::from_raw_os_error(code)) && self.is_mounted(name) => {
                self.overwrite(name, content, rights)
            }
            _ => renamed,
        }
    }

    /// Makes a file as a whole unless there is one; says whether it did.
    pub fn create(&self, name: &OsStr, content: &[u8], access: Access) -> io::Result<bool> {
        let draft = self.draft(content, self.rights(name, access)?)?;
        match linkat(&self.fd, &draft.name, &self.fd, name, AtFlags::empty()) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            // Some file systems have no links. A rename cannot lose the race, it can only win it twice.
            Err(_) => draft.replace(name).map(|()| true),
        }
    }

    fn rights(&self, name: &OsStr, access: Access) -> io::Result<Rights> {
        let new = |mode| -> io::Result<Rights> { Ok(Rights::in_folder(&fstat(&self.fd)?, mode, self.root)) };
        match access {
            Access::Private => new(0o600),
            Access::Public => new(0o644),
            Access::Kept => match self.look_at(name).and_then(|found| Ok(fstat(&found)?)) {
                Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => Ok(Rights::of_file(&found)),
                Ok(_) => Err(refused(name, "is no plain file")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => new(0o600),
                Err(error) => Err(error),
            },
        }
    }

    /// A synced file of a new random name with this content.
    fn draft(&self, content: &[u8], rights: Rights) -> io::Result<Draft<'_>> {
        // What cannot be parted from other files on their way, as a backup does, would be taken for state.
        let name = format!(".vizard.{:016x}.new", rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, &name, flags, Mode::from_raw_mode(0o600))?);
        let draft = Draft { folder: self, name };
        rights.set(file.as_fd(), self.root)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Waits for the lock on this folder, which holds until the file is dropped.
    pub fn lock(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = File::from(openat(&self.fd, ".", flags, Mode::empty())?);
        folder.lock()?;
        Ok(folder)
    }

    fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(&self.fd, ".", flags, Mode::empty()).and_then(rustix::fs::fsync) {
            // Not every file system has something to sync here, and not every folder may be read.
            Err(Errno::INVAL | Errno::NOTSUP | Errno::ACCESS) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Whether something is mounted under this name.
    fn is_mounted(&self, name: &OsStr) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        statx(&self.fd, name, flags, StatxFlags::BASIC_STATS)
            .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Writes into the file that is there. What it held is kept beside it if that can be, and is put back if the new
    /// content finds no room.
    fn overwrite(&self, name: &OsStr, content: &[u8], rights: Rights) -> io::Result<()> {
        let file = self.open_file(name, OFlags::RDWR)?;
        if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
            return Err(refused(name, "is no plain file"));
        }
        let mut old = Vec::new();
        (&file).read_to_end(&mut old)?;
        let mut kept = name.to_owned();
        kept.push(".old");
        match self.draft(&old, rights).and_then(|draft| draft.replace(&kept)) {
            // The folder of a container may be for reading only.
            Err(error) if !error.raw_os_error().is_some_and(|code| is_closed(Errno::from_raw_os_error(code))) => {
                return Err(error);
            }
            _ => {}
        }
        let write = |content: &[u8]| {
            file.write_all_at(content, 0)?;
            file.set_len(content.len() as u64)?;
            file.sync_all()
        };
        write(content).inspect_err(|_| _ = write(&old))
    }
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Errors of the kernel when a mounted file, or one in a folder that cannot be written to, is to be replaced.
const MOUNTED: [Errno; 5] = [Errno::BUSY, Errno::XDEV, Errno::ROFS, Errno::ACCESS, Errno::PERM];

fn is_closed(error: Errno) -> bool {
    matches!(error, Errno::ROFS | Errno::ACCESS | Errno::PERM)
}

/// A file on its way to another name. It goes unless it gets there.
struct Draft<'a> {
    folder: &'a Folder,
    name: String,
}

impl Draft<'_> {
    fn replace(self, name: &OsStr) -> io::Result<()> {
        renameat(&self.folder.fd, &self.name, &self.folder.fd, name)?;
        self.folder.sync()
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing of this name any more.
        let _ = unlinkat(&self.folder.fd, &self.name, AtFlags::empty());
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter(|part| !matches!(part, Component::CurDir));
    let mut parts: Vec<_> = parts.map(|part| part.as_os_str().to_owned()).collect();
    parts.reverse();
    parts
}

fn above(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn last(path: &Path) -> io::Result<OsString> {
    path.file_name().map(OsStr::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))
}

fn refused(name: &OsStr, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", name.to_string_lossy()))
}
