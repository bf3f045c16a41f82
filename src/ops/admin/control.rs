//! What the admin listener may ask of the rest of the program, and what it gets told.
//!
//! The listener knows no configuration and no file. Anyone who builds the proxy implements [`Control`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ops::counts::Counts;
use crate::ops::links::WebLinks;
use crate::ops::snapshot::Snapshot;
use crate::server::sessions::Sessions;

/// The program behind the listener. Methods may block for as long as a file or a reload takes; they are called on
/// threads that may.
pub trait Control: Send + Sync + 'static {
    /// Returns the counters since the start.
    fn counts(&self) -> &Arc<Counts>;

    /// The sessions that are going on.
    fn sessions(&self) -> &Arc<Sessions>;

    /// The state at this moment. Must be quick.
    fn look(&self) -> Snapshot;

    /// Visits the proxy's own listener as anybody would, and says how that went.
    fn ping(&self) -> Result<Heard, String>;

    /// The links of a user: the secrets are in there.
    fn links(&self, user: &str) -> Result<Links, Trouble>;

    /// Adds a user.
    fn create(&self, user: &NewUser) -> Result<Changed, Trouble>;

    /// Adds several users in one step, or none if one cannot be added.
    fn create_all(&self, users: &[NewUser]) -> Result<Changed, Trouble>;

    /// Changes a user.
    fn change(&self, user: &str, settings: &Settings) -> Result<Changed, Trouble>;

    /// Gives a user another secret; the old one is good for this much longer, as a length of time like `24h`.
    fn rotate(&self, user: &str, keep: Option<&str>) -> Result<Changed, Trouble>;

    /// Takes a user out of the configuration, and ends the user's sessions.
    fn remove(&self, user: &str) -> Result<Changed, Trouble>;

    /// Reads the configuration again.
    fn reload(&self) -> Result<Changed, Trouble>;

    /// Accepts no more, and ends once the sessions have ended or the time for that is over.
    fn drain(&self);
}

/// Answer of the proxy to a visitor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// With a TLS handshake to its end: the cover answers through the proxy.
    Cover,
    /// It ended the connection without an answer: the proxy works, its cover does not.
    Close,
}

/// A user that shall be.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name: 1 to 64 letters, digits, `-`, `_`, `.` and `@`.
    pub name: String,
    /// A secret in any of its forms, or a link; missing: it is generated.
    #[serde(default)]
    pub secret: Option<String>,
    /// Settings of the user.
    #[serde(default)]
    pub settings: Settings,
}

impl fmt::Debug for NewUser {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser").field("name", &self.name).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Settings of a user, as the configuration has them. What is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether the user may enter.
    pub enabled: Option<bool>,
    /// A date or a time such as `2030-01-31`; `none`: never.
    pub expires: Option<String>,
    /// As in `50GB/month`; `none`: no quota.
    pub quota: Option<String>,
    /// As in `10Mbit`; `none`: no limit.
    pub bandwidth_up: Option<String>,
    /// As in `10Mbit`; `none`: no limit.
    pub bandwidth_down: Option<String>,
    /// Most sessions at once; 0: no limit.
    pub max_sessions: Option<u32>,
    /// Most addresses at once; 0: no limit.
    pub max_addresses: Option<u32>,
    /// Networks that the user may come from; an empty list: any.
    pub allow: Option<Vec<String>>,
    /// Networks that the user may not come from.
    pub deny: Option<Vec<String>>,
    /// Tag of a promoted channel, 32 hexadecimal digits; `none`: none for this user; empty: that of everybody.
    pub ad_tag: Option<String>,
    /// Sessions without a tag that go through middle proxies: `tagged`, `media` or `all`; `none`: as for everybody.
    pub middle: Option<String>,
    /// Name of the site that the user's link carries; `none`: the first. A new user without one gets the name that has the
    /// fewest users. Another name makes a new secret and another link.
    pub domain: Option<String>,
    /// Note on the user; empty: none.
    pub note: Option<String>,
}

/// The links of a user.
#[derive(Clone, Serialize, ToSchema)]
pub struct Links {
    /// User that the links belong to.
    pub user: String,
    /// `tg://proxy?…`
    pub tg: String,
    /// `https://t.me/proxy?…`
    pub web: String,
    /// The same key for the WEB proxy, where apps can come by one.
    pub webproxy: Option<WebLinks>,
    /// Reason why they cannot, though WEB proxies are switched on, with advice.
    pub no_webproxy: Option<String>,
}

/// The links hold the secret.
impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Result of a change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Changed {
    /// Changes that are in effect now, in words.
    pub changed: Vec<String>,
    /// Changes that take effect only after a restart.
    pub restart: Vec<String>,
}

/// Reason why something was not done, with advice on what to do next. Closed set of kinds: they become status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Kind of failure.
    pub kind: Kind,
    /// Description of the error. Holds no secret.
    pub error: String,
    /// Advice on what to do.
    pub next: String,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// There is no such thing.
    Missing,
    /// There is one already, or it cannot be done as things are.
    Conflict,
    /// Something failed that the caller cannot help.
    Failed,
}

impl Trouble {
    /// Of this kind.
    pub fn new(kind: Kind, error: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, error: error.into(), next: next.into() }
    }

    /// There is no user of this name. The name is not repeated: it may be a secret in the wrong place.
    pub fn no_user() -> Self {
        Self::new(Kind::Missing, "there is no user of this name", "see the list: GET /api/v1/users")
    }
}
