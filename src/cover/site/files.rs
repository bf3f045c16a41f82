//! A folder as a site.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, RANGE};
use hyper::http::Extensions;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use tower::ServiceExt;
use tower_http::compression::Compression;
use tower_http::services::ServeDir;

use super::answer::{Body, BodyError, empty, html, page};
use super::conditional::{self, Wishes};
use super::error::SiteError;
use crate::base::summary::{self, Cause};

/// Files below a folder.
pub(super) struct Folder {
    path: PathBuf,
    files: ServeDir,
}

impl Folder {
    /// Checks that there is such a folder. What is in it may change at any time.
    pub(super) fn open(path: &Path) -> Result<Folder, SiteError> {
        let unreadable = |error| SiteError::Unreadable(path.to_owned(), error);
        if !fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Err(SiteError::NotAFolder(path.to_owned()));
        }
        fs::read_dir(path).map_err(unreadable)?;
        // tower-http takes paths as relative to the working folder, whatever becomes of it later.
        let path = path.canonicalize().map_err(unreadable)?;
        Ok(Folder { files: ServeDir::new(&path), path })
    }

    /// The file that a request asks for, or a page that says why not.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let mut wanted = Request::new(());
        *wanted.method_mut() = parts.method;
        *wanted.headers_mut() = parts.headers;
        if !names_a_file(parts.uri.path()) {
            return self.missing().await;
        }
        // A path alone: the address in the request line must not find its way into redirects.
        *wanted.uri_mut() = parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        let accepted = wanted.headers().clone();
        let response = match self.find(wanted).await {
            Ok(response) => response,
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return self.missing().await,
            Err(error) => {
                summary::note(Cause::warn("cannot read a file of the site"), || error.to_string());
                return page(StatusCode::INTERNAL_SERVER_ERROR);
            }
        };
        match response.status() {
            StatusCode::OK => compress(&accepted, response).await,
            StatusCode::NOT_FOUND => self.missing().await,
            _ => response,
        }
    }

    async fn find(&self, mut request: Request<()>) -> io::Result<Response<Body>> {
        let head = request.method() == Method::HEAD;
        let wishes = Wishes::take(request.headers_mut(), head);
        let mut response = self.look_up(&request).await?;
        if wishes.part_of_another(response.headers()) && request.headers_mut().remove(RANGE).is_some() {
            response = self.look_up(&request).await?;
        }
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT)
            && wishes.already_there(response.headers())
        {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = empty();
            for name in [CONTENT_LENGTH, CONTENT_TYPE, ACCEPT_RANGES, hyper::header::CONTENT_RANGE] {
                response.headers_mut().remove(name);
            }
        }
        Ok(response)
    }

    /// What the file service says, with tag and character set added.
    async fn look_up(&self, request: &Request<()>) -> io::Result<Response<Body>> {
        let mut files = self.files.clone();
        let mut response =
            files.try_call(request.clone()).await?.map(|body| body.map_err(BodyError::from).boxed_unsync());
        Ok(match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                if let Some(tag) = conditional::tag(response.headers()) {
                    response.headers_mut().insert(ETAG, tag);
                }
                name_charset(response.headers_mut());
                response
            }
            StatusCode::NOT_FOUND | StatusCode::NOT_MODIFIED => response,
            StatusCode::TEMPORARY_REDIRECT => explained(response, StatusCode::MOVED_PERMANENTLY),
            status => explained(response, status),
        })
    }

    /// The folder's own page for this, if it has one.
    async fn missing(&self) -> Response<Body> {
        match tokio::fs::read(self.path.join("404.html")).await {
            Ok(text) => html(StatusCode::NOT_FOUND, Bytes::from(text)),
            Err(_) => page(StatusCode::NOT_FOUND),
        }
    }
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

/// Keeps the headers of a refusal and gives it a page.
fn explained(response: Response<Body>, status: StatusCode) -> Response<Body> {
    let mut explained = page(status);
    for (name, value) in response.headers() {
        if name != CONTENT_LENGTH && name != CONTENT_TYPE {
            explained.headers_mut().insert(name, value.clone());
        }
    }
    explained
}

/// Whether the path may name a file of the site. Hidden files are none, except `.well-known`; and what the file system
/// could not hold is not worth asking for.
pub fn names_a_file(path: &str) -> bool {
    // The only escapes that matter here; the file service decodes once too, and then looks at each name by itself.
    let path = path.replace("%2E", ".").replace("%2e", ".").replace("%2F", "/").replace("%2f", "/");
    path.split('/').all(|name| {
        let length = name.len() - 2 * name.matches('%').count().min(name.len() / 3);
        length <= LONGEST_NAME && (!name.starts_with('.') || name == ".well-known")
    })
}

/// Nearly every text of today is UTF-8, and a browser that is not told so shows it as something else.
fn name_charset(headers: &mut HeaderMap) {
    let Some(Ok(kind)) = headers.get(CONTENT_TYPE).map(HeaderValue::to_str) else { return };
    if kind.starts_with("text/")
        && !kind.contains("charset")
        && let Ok(kind) = HeaderValue::try_from(format!("{kind}; charset=utf-8"))
    {
        headers.insert(CONTENT_TYPE, kind);
    }
}

/// Compresses an answer if that helps and the client can read it.
async fn compress(accepted: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let mut request = Request::new(());
    *request.headers_mut() = accepted.clone();
    // The service is called once, but the layer wants it to be one that could be called again.
    let mut response = Some(response);
    let service = tower::service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(response.take().unwrap_or_else(|| page(StatusCode::OK))))
    });
    let compressed = Compression::new(service).compress_when(worth_compressing).oneshot(request).await;
    let mut response = match compressed {
        Ok(response) => response.map(|body| body.map_err(BodyError::from).boxed_unsync()),
        Err(never) => match never {},
    };
    if response.headers().contains_key(CONTENT_ENCODING)
        && let Some(tag) = response.headers().get(ETAG).and_then(conditional::weak)
    {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn worth_compressing(status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text(CONTENT_TYPE).split(';').next().unwrap_or_default();
    let length: u64 = text(CONTENT_LENGTH).parse().unwrap_or_default();
    status == StatusCode::OK && length >= WORTH_COMPRESSING && compressible(kind)
}

fn compressible(kind: &str) -> bool {
    kind.starts_with("text/") || kind.ends_with("+xml") || kind.ends_with("+json") || COMPRESSIBLE.contains(&kind)
}

const COMPRESSIBLE: [&str; 7] = [
    "application/javascript",
    "application/json",
    "application/wasm",
    "application/xml",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
];

/// Below this size a compressed file fills as many packets as before.
const WORTH_COMPRESSING: u64 = 860;

const LONGEST_NAME: usize = 255;

const FIRST_PAGE: &str = "<html><body><h1>It works!</h1></body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_no_files() {
        let files = ["/", "/a/b.c", "/a//b", "/.well-known/acme-challenge/x", "/a%2eb", "/a.", "/%252e%252e/x", "/a/"];
        for path in files {
            assert!(names_a_file(path), "{path}");
        }
        let none = [
            "/.git/config",
            "/a/.env",
            "/..",
            "/a/../b",
            "/%2e%2e/x",
            "/..%2fx",
            "/a%2F.b",
            "/.well-known2",
            "/%2Egit",
        ];
        for path in none {
            assert!(!names_a_file(path), "{path}");
        }
        assert!(names_a_file(&format!("/{}", "a".repeat(255))));
        assert!(names_a_file(&format!("/{}", "%61".repeat(255))));
        assert!(!names_a_file(&format!("/{}", "a".repeat(256))));
    }

    #[test]
    fn text_is_named_utf_8() {
        let named = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            name_charset(&mut headers);
            headers[CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        assert_eq!(named("text/html"), "text/html; charset=utf-8");
        assert_eq!(named("text/html; charset=koi8-r"), "text/html; charset=koi8-r");
        assert_eq!(named("image/png"), "image/png");
    }

    #[test]
    fn pictures_are_not_compressed() {
        for kind in ["text/css", "image/svg+xml", "application/json", "application/manifest+json"] {
            assert!(compressible(kind), "{kind}");
        }
        for kind in ["image/png", "video/mp4", "application/zip", "font/woff2", "application/octet-stream"] {
            assert!(!compressible(kind), "{kind}");
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
