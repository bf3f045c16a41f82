//! The one queue for every wish to read the configuration again: a signal, a changed file, `vizard reload`, the admin API.
//!
//! Anyone who asks hears what came of it after it was carried out. What is carried out is not known here: the other end of
//! the queue is in `config::reload`.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Origin of a request to reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// SIGHUP.
    Signal,
    /// A file of the configuration has changed.
    File,
    /// `vizard reload`.
    Command,
    /// The admin API.
    Admin,
}

impl Source {
    /// A short name, for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
            Self::Command => "command",
            Self::Admin => "admin",
        }
    }
}

/// The configuration was read and holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Changes that are in effect, by key.
    pub changed: Vec<String>,
    /// Keys whose new value takes a restart; until then the old one holds.
    pub restart: Vec<String>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
}

/// The configuration was not taken, and everything is as it was, but perhaps for the users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// All that is wrong with it. Holds no secret.
    pub complaints: Vec<String>,
    /// The users of the file hold all the same; what is different about them. `None` if they do not.
    #[serde(default)]
    pub users: Option<Vec<String>>,
}

impl Refused {
    /// Refused for this.
    pub fn for_reason(complaint: impl Into<String>) -> Self {
        Self { complaints: vec![complaint.into()], users: None }
    }
}

/// Facts about a change that are known before the files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether the sender has written the file, in one step: there is no need to wait until it is whole.
    pub whole: bool,
    /// Users that may be taken away.
    pub removals: Removals,
}

/// Number of users that a reload may take away. A file that was cut short looks like one from which users were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Removals {
    /// Not the last, and not more than half of them.
    #[default]
    Few,
    /// Besides the few, this one.
    Named(String),
    /// As many as there are.
    All,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.complaints.join("; "))
    }
}

impl std::error::Error for Refused {}

/// The end of the queue where wishes go in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue(mpsc::Sender<Request>);

/// One wish.
#[derive(Debug)]
pub struct Request {
    /// Origin of the request.
    pub source: Source,
    /// Facts that are known about the change.
    pub terms: Terms,
    /// Channel for the outcome.
    pub answer: oneshot::Sender<Result<Applied, Refused>>,
}

/// Most requests in the queue; further senders wait. Each reads the whole configuration, so more are not needed.
const WAITING: usize = 16;

impl Queue {
    /// Both ends.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (wishes, requests) = mpsc::channel(WAITING);
        (Self(wishes), requests)
    }

    /// Asks for the configuration to be read again, and says what came of it.
    pub async fn reload(&self, source: Source) -> Result<Applied, Refused> {
        self.reload_on(source, Terms::default()).await
    }

    /// The same, with what is known of the change.
    pub async fn reload_on(&self, source: Source, terms: Terms) -> Result<Applied, Refused> {
        let gone = || Refused::for_reason("the proxy is shutting down");
        let (answer, outcome) = oneshot::channel();
        self.0.send(Request { source, terms, answer }).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}
