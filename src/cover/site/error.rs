//! Why a site cannot be opened.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Reason why the site cannot be opened; the text names the file and what to do.
#[derive(Debug)]
pub enum SiteError {
    /// A file or folder cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file or folder cannot be made.
    Unwritable(PathBuf, io::Error),
    /// The certificate file holds no certificate.
    NoCertificate(PathBuf),
    /// The key file holds no private key.
    NoKey(PathBuf),
    /// A file is not valid PEM.
    NotPem(PathBuf),
    /// The first certificate of the file cannot be understood.
    BadCertificate(PathBuf),
    /// The private key is of a kind that TLS cannot use.
    BadKey(PathBuf),
    /// The key does not belong to the certificate.
    Mismatch {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// The content folder is something else.
    NotAFolder(PathBuf),
    /// The upstream is not of the form `http://host:port`.
    BadUpstream(hyper::Uri),
    /// The `Server` header has characters that a header cannot carry.
    BadServerHeader,
    /// A self-signed certificate cannot carry this name.
    BadDomain(String),
    /// A self-signed certificate cannot be made; says why.
    Made(String),
    /// The TLS library refused to start.
    Tls(rustls::Error),
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => {
                write!(f, "cannot read {}: {error}; correct the path or the permissions", path.display())
            }
            Self::Unwritable(path, error) => {
                write!(f, "cannot write {}: {error}; make its folder writable", path.display())
            }
            Self::NoCertificate(path) => {
                write!(f, "{} holds no certificate; it must be a PEM file with the whole chain", path.display())
            }
            Self::NoKey(path) => {
                write!(f, "{} holds no private key; it must be a PEM file with an unencrypted key", path.display())
            }
            Self::NotPem(path) => write!(f, "{} is not valid PEM; write the file again", path.display()),
            Self::BadCertificate(path) => {
                write!(f, "the first certificate in {} is damaged or of an unknown kind; get a new one", path.display())
            }
            Self::BadKey(path) => {
                write!(f, "the key in {} is of an unknown kind; use an ECDSA P-256 or an RSA key", path.display())
            }
            Self::Mismatch { certificate, key } => write!(
                f,
                "the key in {} does not belong to the certificate in {}; the certificate of the site itself must come \
                 first in its file, and both files must be from the same issue",
                key.display(),
                certificate.display()
            ),
            Self::NotAFolder(path) => write!(f, "{} is not a folder; name the folder with the pages", path.display()),
            Self::BadUpstream(uri) => {
                write!(f, "upstream \"{uri}\" is not of the form http://host:port, without a path")
            }
            Self::BadServerHeader => write!(f, "the server header may hold printable ASCII characters only"),
            Self::BadDomain(domain) => write!(f, "a certificate cannot be made for \"{domain}\"; use a domain name"),
            Self::Made(error) => write!(f, "a certificate cannot be made: {error}"),
            Self::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for SiteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Unwritable(_, error) => Some(error),
            Self::Tls(error) => Some(error),
            _ => None,
        }
    }
}
