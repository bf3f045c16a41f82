//! The built-in cover: a web server that its owner would really use.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of the built-in site.
#[derive(Clone, Debug)]
pub struct Settings {
    /// PEM files of the certificate chain and the private key, reloaded when they change.
    pub certificate: PathBuf,
    /// PEM file of the private key that belongs to `certificate`.
    pub key: PathBuf,
    /// What the site serves.
    pub content: Content,
    /// Value of the `Server` response header; none is sent by default.
    pub server_header: Option<String>,
    /// Where to answer plain HTTP with a redirect to HTTPS; nowhere by default.
    pub redirect_from: Vec<SocketAddr>,
}

/// What the built-in site serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Files below a folder.
    Folder(PathBuf),
    /// Another web server, reached over plain HTTP: `http://host:port`.
    Upstream(hyper::Uri),
}

/// Stand-in: a self-signed certificate for `domain` and its key in `dir`.
pub fn self_signed(_domain: &str, dir: &std::path::Path) -> std::io::Result<(PathBuf, PathBuf)> {
    Ok((dir.join("certificate.pem"), dir.join("key.pem")))
}

/// Stand-in: a folder with a small site in `dir`.
pub fn default_folder(dir: &std::path::Path) -> std::io::Result<PathBuf> {
    Ok(dir.join("site"))
}
