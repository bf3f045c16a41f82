//! Settings of every layer, already valid. [`file`] is the file as written, [`resolve`] turns it, the environment and
//! the flags into a [`Config`] or into all complaints at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{Domain, Secret};
use crate::cover::{remote, site};
use crate::telegram;

/// Everything that `vizard run` needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the proxy keeps what must survive a restart.
    pub state_dir: PathBuf,
    /// Addresses to accept clients on.
    pub listen: Vec<SocketAddr>,
    /// Who may enter; never empty.
    pub users: Vec<User>,
    /// The name in links, hence the name that clients put into their hellos.
    pub domain: Domain,
    /// Further names that an authentic hello may carry; `None` accepts any. A hello without a name is always accepted.
    pub accepted_names: Option<Vec<Domain>>,
    /// What links name as the server.
    pub link: LinkTarget,
    /// How far a client's clock may be off, either way.
    pub time_window: Duration,
    /// The site that everyone else meets.
    pub cover: Cover,
    /// Data centres.
    pub telegram: telegram::Settings,
    /// A session without a byte in either direction for this long is ended.
    pub idle: Duration,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// Logging.
    pub log: Log,
}

/// A named secret.
#[derive(Clone, Debug)]
pub struct User {
    /// Name in logs and on the command line.
    pub name: String,
    /// The 16-byte key.
    pub secret: Secret,
}

/// Server and port in links; what is not stated is found out when a link is printed.
#[derive(Clone, Debug, Default)]
pub struct LinkTarget {
    /// Host name or address literal (IPv6 without brackets).
    pub host: Option<String>,
    /// Port, where it is not that of the first listener.
    pub port: Option<u16>,
}

/// The two kinds of cover.
#[derive(Clone, Debug)]
pub enum Cover {
    /// The built-in web server.
    Site(site::Settings),
    /// A web server elsewhere.
    Remote(remote::Settings),
}

/// Logging.
#[derive(Clone, Debug)]
pub struct Log {
    /// `None`: text on a terminal, JSON otherwise.
    pub format: Option<LogFormat>,
    /// Least severe level that is written.
    pub level: tracing::Level,
    /// Whether clients' addresses may appear in the log. Off by default.
    pub client_addresses: bool,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
