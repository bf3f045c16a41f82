//! A folder as a site, served as nginx serves one.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::conditional::{self, Condition, Share, Stamp};
use super::content::{Content, Piece};
use super::error::SiteError;
use super::message::{Head, Own, Reply, Request, Version};
use super::packed::{self, Packed};
use super::{date, kinds, page, target};
use crate::base::summary::{self, Cause};

/// Files below a folder.
pub(super) struct Folder {
    path: PathBuf,
    packed: Packed,
    /// Answers of several parts so far, by which each gets a boundary of its own.
    boundaries: AtomicU64,
}

/// A file that is there.
struct Found {
    file: Arc<File>,
    stamp: Stamp,
    key: packed::Key,
    kind: &'static str,
    /// All of it, if it is short.
    whole: Option<Bytes>,
}

/// Reason why there is none to send.
enum Missing {
    Status(u16),
    /// It is a folder, which is asked for with a slash at its end.
    Folder,
}

impl Folder {
    /// Checks that there is such a folder. What is in it may change at any time.
    pub(super) fn open(path: &Path) -> Result<Folder, SiteError> {
        let unreadable = |error| SiteError::Unreadable(path.to_owned(), error);
        if !fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Err(SiteError::NotAFolder(path.to_owned()));
        }
        fs::read_dir(path).map_err(unreadable)?;
        // The working folder may become another.
        let path = path.canonicalize().map_err(unreadable)?;
        Ok(Folder { path, packed: Packed::new(), boundaries: AtomicU64::new(0) })
    }

    /// The file that a request asks for, or a page that says why not.
    pub(super) async fn answer(&self, request: &Request) -> Reply {
        let path = &request.target.path[..];
        let reads = matches!(&request.method[..], b"GET" | b"HEAD" | b"POST");
        let missing = match () {
            () if is_hidden(path) => Missing::Status(403),
            () if !reads => Missing::Status(405),
            () => match self.find(path).await {
                Ok(_) if &request.method[..] == b"POST" => Missing::Status(405),
                Ok(found) => return self.send(request, found).await,
                Err(missing) => missing,
            },
        };
        match missing {
            Missing::Folder => redirect(request),
            Missing::Status(status) => self.explain(status, request).await,
        }
    }

    async fn find(&self, path: &[u8]) -> Result<Found, Missing> {
        let mut full = self.path.as_os_str().as_bytes().to_vec();
        full.extend_from_slice(path);
        let asks_for_folder = path.ends_with(b"/");
        let finding = tokio::task::spawn_blocking(move || match asks_for_folder {
            true => find_index(full),
            false => find_file(&full),
        });
        finding.await.unwrap_or(Err(Missing::Status(500)))
    }

    /// The whole file or what is wanted of it, compressed if that helps.
    async fn send(&self, request: &Request, found: Found) -> Reply {
        match conditional::weigh(&request.fields, &found.stamp) {
            Condition::Failed => return self.explain(412, request).await,
            Condition::NotModified => return not_modified(&found),
            Condition::Holds => {}
        }
        let mut own = Own {
            kind: Some(found.kind.into()),
            length: Some(found.stamp.length),
            modified: Some(date::text(found.stamp.modified)),
            more: vec![("ETag", found.stamp.tag())],
            ..Own::default()
        };
        if let Some(packed) = self.packed(request, &found, &mut own).await {
            return packed;
        }
        let length = found.stamp.length;
        let share = match request.version {
            Version::Http09 => Share::Whole,
            _ => conditional::share(&request.fields, &found.stamp),
        };
        let (status, pieces) = match share {
            Share::Beyond => return beyond(request, length),
            Share::Whole => {
                own.more.push(("Accept-Ranges", "bytes".to_owned()));
                let whole = found.whole.map(Piece::Bytes);
                (200, [whole.unwrap_or(Piece::Part { start: 0, end: length })].into())
            }
            Share::Parts(parts) => match parts[..] {
                [(start, end)] => {
                    own.length = Some(end - start);
                    own.more.push(("Content-Range", format!("bytes {start}-{}/{length}", end - 1)));
                    (206, [Piece::Part { start, end }].into())
                }
                _ => (206, self.multipart(&mut own, found.kind, &parts, length)),
            },
        };
        let content = Content::Pieces(pieces, Some(found.file));
        Reply { status, line: None, head: Head::Own(Box::new(own)), content, last: false }
    }

    /// Several parts in one answer.
    fn multipart(&self, own: &mut Own, kind: &str, parts: &[(u64, u64)], length: u64) -> VecDeque<Piece> {
        let boundary = format!("{:020}", self.boundaries.fetch_add(1, Ordering::Relaxed));
        let mut pieces = VecDeque::with_capacity(2 * parts.len() + 1);
        let mut size = 0;
        for (start, end) in parts {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {start}-{}/{length}\r\n\r\n",
                end - 1
            );
            size += head.len() as u64 + end - start;
            pieces.push_back(Piece::Bytes(head.into()));
            pieces.push_back(Piece::Part { start: *start, end: *end });
        }
        let tail = format!("\r\n--{boundary}--\r\n");
        own.length = Some(size + tail.len() as u64);
        own.kind = Some(format!("multipart/byteranges; boundary={boundary}").into());
        pieces.push_back(Piece::Bytes(tail.into()));
        pieces
    }

    /// The file in compressed form, if it is of a kind that becomes smaller and the client takes it so.
    async fn packed(&self, request: &Request, found: &Found, own: &mut Own) -> Option<Reply> {
        if !worth_packing(found.kind, found.stamp.length) {
            return None;
        }
        own.varies = true;
        if !accepts_gzip(request) {
            return None;
        }
        let bytes = match request.is_head() {
            true if found.stamp.length > packed::LARGEST => return None,
            true => Bytes::new(),
            false => self.packed.get(found.key, &found.file).await?,
        };
        let own = Own { more: vec![("ETag", format!("W/{}", found.stamp.tag()))], ..own.clone() };
        Some(compressed(200, own, bytes))
    }

    /// The folder's own page for a status if it has one, as `error_page` of nginx has it, else the usual one.
    pub(super) async fn explain(&self, status: u16, request: &Request) -> Reply {
        let name = format!("/{status}.html");
        let own_page = match status {
            403 | 404 => self.find(name.as_bytes()).await.ok(),
            _ => None,
        };
        let found = match own_page {
            Some(found) => found,
            None => return self.usual(status, request),
        };
        let mut own = Own {
            kind: Some(found.kind.into()),
            length: Some(found.stamp.length),
            more: vec![("ETag", found.stamp.tag())],
            ..Own::default()
        };
        if let Some(packed) = self.packed(request, &found, &mut own).await {
            return Reply { status, ..packed };
        }
        let pieces = [Piece::Part { start: 0, end: found.stamp.length }].into();
        let content = Content::Pieces(pieces, Some(found.file));
        Reply { status, line: None, head: Head::Own(Box::new(own)), content, last: false }
    }

    fn usual(&self, status: u16, request: &Request) -> Reply {
        let mut reply = page::page(status, &request.fields);
        if !matches!(status, 403 | 404) {
            return reply;
        }
        if let (Head::Own(own), Content::Pieces(pieces, _)) = (&mut reply.head, &reply.content)
            && worth_packing("text/html", own.length.unwrap_or(0))
        {
            own.varies = true;
            if accepts_gzip(request)
                && let Some(Piece::Bytes(text)) = pieces.front()
                && let Ok(packed) = packed::pack_bytes(text)
            {
                return compressed(status, (**own).clone(), packed.into());
            }
        }
        reply
    }
}

fn find_file(path: &[u8]) -> Result<Found, Missing> {
    // A pipe without a writer must not be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(OsStr::from_bytes(path)).map_err(blame)?;
    let meta = file.metadata().map_err(blame)?;
    if meta.is_dir() {
        return Err(Missing::Folder);
    }
    if !meta.is_file() {
        return Err(Missing::Status(404));
    }
    let stamp = Stamp { modified: meta.mtime(), length: meta.len() };
    let whole = match stamp.length {
        0..=SHORT => {
            let mut bytes = vec![0; usize::try_from(stamp.length).unwrap_or(0)];
            file.read_exact_at(&mut bytes, 0).map_err(blame)?;
            Some(bytes.into())
        }
        _ => None,
    };
    let key = (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
    Ok(Found { file: Arc::new(file), stamp, key, kind: kinds::of(path), whole })
}

/// The page of a folder.
fn find_index(folder: Vec<u8>) -> Result<Found, Missing> {
    match find_file(&[&folder[..], b"index.html"].concat()) {
        Err(Missing::Status(404)) if Path::new(OsStr::from_bytes(&folder)).is_dir() => Err(Missing::Status(403)),
        found => found,
    }
}

fn blame(error: io::Error) -> Missing {
    Missing::Status(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => 404,
        // A path that no file system takes.
        io::ErrorKind::InvalidInput => 404,
        io::ErrorKind::PermissionDenied => 403,
        _ if error.raw_os_error() == Some(libc::ELOOP) => 403,
        _ => {
            summary::note(Cause::warn("cannot read a file of the site"), || error.to_string());
            500
        }
    })
}

/// Leads to the folder, with a slash.
fn redirect(request: &Request) -> Reply {
    let mut reply = page::page(301, &request.fields);
    if let Head::Own(own) = &mut reply.head {
        let mut location = escaped(&request.target.path) + "/";
        if let Some(query) = &request.target.query {
            location = format!("{location}?{}", String::from_utf8_lossy(query));
        }
        own.location = Some(match &request.host {
            Some(host) => format!("https://{host}{location}"),
            None => location,
        });
    }
    reply
}

/// A path as a header carries it.
fn escaped(path: &[u8]) -> String {
    let plain = |byte: u8| (0x21..0x7f).contains(&byte) && !b"\"#%<>?\\^`{|}".contains(&byte);
    path.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn not_modified(found: &Found) -> Reply {
    let own = Own {
        modified: Some(date::text(found.stamp.modified)),
        more: vec![("ETag", found.stamp.tag())],
        ..Own::default()
    };
    Reply { status: 304, line: None, head: Head::Own(Box::new(own)), content: Content::empty(), last: false }
}

fn beyond(request: &Request, length: u64) -> Reply {
    let mut reply = page::page(416, &request.fields);
    if let Head::Own(own) = &mut reply.head {
        own.more.push(("Content-Range", format!("bytes */{length}")));
    }
    reply
}

/// An answer whose length no one knows before it is compressed, as it is where that happens for each again.
fn compressed(status: u16, mut own: Own, bytes: Bytes) -> Reply {
    own.length = None;
    own.more.push(("Content-Encoding", "gzip".to_owned()));
    let content = Content::bytes(bytes);
    Reply { status, line: None, head: Head::Own(Box::new(own)), content, last: false }
}

/// Whether the answer depends on what encodings the client takes.
fn worth_packing(kind: &str, length: u64) -> bool {
    length >= WORTH_PACKING && kinds::is_compressible(kind)
}

/// Whether the client takes gzip, and the protocol lets an answer have no length.
fn accepts_gzip(request: &Request) -> bool {
    let Some(accepted) = request.fields.text("accept-encoding") else { return false };
    request.version >= Version::Http11 && lists_gzip(&accepted.to_ascii_lowercase())
}

fn lists_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let weight = |part: &str| part.strip_prefix("q=").map(|weight| weight.trim().parse::<f32>().unwrap_or(0.0));
        parts.next() == Some("gzip") && parts.find_map(weight).is_none_or(|weight| weight > 0.0)
    })
}

/// The path of the file that the target of a request names, below the folder of the site; `None` if it names none that
/// is published.
pub fn published_path(target: &str) -> Option<Vec<u8>> {
    let path = target::resolve(Bytes::from(target.to_owned())).ok()?.path;
    (!is_hidden(&path)).then_some(path)
}

/// Whether the path leads to a hidden file, which no one means to publish; except `.well-known`.
fn is_hidden(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".") && name != b".well-known")
}

/// Makes `site/index.html` in `dir`, the page that every fresh web server shows, unless there is a folder `site`
/// already. Returns the folder.
pub fn default_folder(dir: &Path) -> io::Result<PathBuf> {
    let folder = dir.join("site");
    fs::create_dir_all(dir)?;
    match fs::create_dir(&folder) {
        Ok(()) => fs::write(folder.join("index.html"), FIRST_PAGE)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(error) => return Err(error),
    }
    Ok(folder)
}

/// Below this length nginx leaves a text as it is.
const WORTH_PACKING: u64 = 20;

/// A file that is read at once.
const SHORT: u64 = 8 << 10;

const FIRST_PAGE: &str = "<html><body><h1>It works!</h1></body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_no_files() {
        for path in ["/", "/a/b.c", "/.well-known/acme-challenge/x", "/a.", "/a/"] {
            assert!(!is_hidden(path.as_bytes()), "{path}");
        }
        for path in ["/.git/config", "/a/.env", "/.", "/..."] {
            assert!(is_hidden(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn encodings_are_weighed() {
        for accepted in ["gzip", "br, gzip", "deflate,gzip;q=0.5", "gzip; q=1.0"] {
            assert!(lists_gzip(accepted), "{accepted}");
        }
        for accepted in ["", "br", "gzip;q=0", "gzip;q=0.0, br", "x-gzip", "*"] {
            assert!(!lists_gzip(accepted), "{accepted}");
        }
    }

    #[test]
    fn default_folder_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let folder = default_folder(&state).unwrap();
        assert_eq!(fs::read_to_string(folder.join("index.html")).unwrap(), FIRST_PAGE);
        fs::remove_file(folder.join("index.html")).unwrap();
        default_folder(&state).unwrap();
        assert!(!folder.join("index.html").exists(), "a folder that is there is its owner's business");
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        assert!(default_folder(&state).is_err(), "a file of that name is no folder");
    }

    #[test]
    fn folder_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(Folder::open(&missing), Err(SiteError::Unreadable(path, _)) if path == missing));
        fs::write(&missing, "").unwrap();
        assert!(matches!(Folder::open(&missing), Err(SiteError::NotAFolder(path)) if path == missing));
    }
}
