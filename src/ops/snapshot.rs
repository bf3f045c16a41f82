//! What the running proxy is like at one moment: plain data, for metrics, pages and answers.

use std::collections::BTreeMap;

use crate::auth::UnixTime;
use crate::cover::grade::Graded;
use crate::cover::site::acme::Standing;
use crate::net::listen::Address;
use crate::server::fan_out::FanOut;
use crate::server::sessions::Moved;
use crate::telegram::{middle, routes};

/// The running proxy at one moment. Holds no secret and no client's address.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Addresses on which clients are accepted.
    pub listen: Vec<Address>,
    /// Sessions that go on.
    pub sessions: usize,
    /// Sessions of one client, by class of hello.
    pub fan_out: BTreeMap<&'static str, FanOut>,
    /// Traffic of sessions since the start.
    pub moved: Moved,
    /// Connections to data centres that stand ready.
    pub ready: usize,
    /// The ways to Telegram.
    pub routes: Vec<routes::Standing>,
    /// The memory of spent hellos.
    pub replay: Replay,
    /// The cover.
    pub cover: CoverState,
    /// Expiry of the certificate of the built-in site, if there is one and it can be read.
    pub certificate_ends: Option<UnixTime>,
    /// State of issuance by the authority, if there is one.
    pub acme: Option<Standing>,
    /// Those who may enter, in the order of the configuration.
    pub users: Vec<UserState>,
    /// Alarms that need attention.
    pub alarms: Vec<AlarmState>,
    /// State of the links to middle proxies.
    pub middle: middle::Standing,
    /// Whether the proxy accepts no more and waits for its sessions.
    pub draining: bool,
}

/// The memory of spent hellos.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replay {
    /// Hellos and headers in memory.
    pub entries: usize,
    /// Those that wait for the disk.
    pub unsaved: usize,
    /// Those that the disk refused and that nothing will write any more.
    pub dropped: u64,
    /// Whether the disk takes them.
    pub well: bool,
}

/// The cover.
#[derive(Clone, Debug, Default)]
pub struct CoverState {
    /// `site` or `remote`.
    pub kind: &'static str,
    /// The name that clients ask for.
    pub name: String,
    /// Grade that it gets from visits.
    pub graded: Option<Graded>,
    /// Number of rounds of visits that found it changed.
    pub changes: u64,
    /// Time of the last round of visits, if there was one.
    pub learnt: Option<UnixTime>,
}

/// A user.
#[derive(Clone, Debug, Default)]
pub struct UserState {
    /// The name.
    pub name: String,
    /// Note on the user.
    pub note: Option<String>,
    /// Label of the reason why the user may not enter at all, if there is one.
    pub shut: Option<&'static str>,
    /// End of access.
    pub expires: Option<UnixTime>,
    /// Sessions that go on.
    pub sessions: usize,
    /// Different networks that sessions come from now.
    pub addresses: usize,
    /// Bytes from the user's clients, ever.
    pub up: u64,
    /// Bytes to the user's clients, ever.
    pub down: u64,
    /// The quota and what is used of it.
    pub quota: Option<QuotaState>,
    /// Most sessions at once.
    pub max_sessions: Option<u64>,
    /// Most addresses at once.
    pub max_addresses: Option<u64>,
    /// Tag of a promoted channel, or `none`; nothing where the one of everybody counts.
    pub ad_tag: Option<String>,
    /// Sessions without a tag that go through middle proxies, where the user has others than everybody.
    pub middle: Option<&'static str>,
    /// Name of the site that the user's link carries, where it is not the first.
    pub domain: Option<String>,
}

/// A quota.
#[derive(Clone, Debug)]
pub struct QuotaState {
    /// Bytes that may be moved.
    pub bytes: u64,
    /// Bytes that were, in this period.
    pub used: u64,
    /// Which period that is.
    pub period: String,
    /// Beginning of the next period.
    pub resets: Option<UnixTime>,
}

/// Something that someone should look at.
#[derive(Clone, Debug)]
pub struct AlarmState {
    /// A short name of a closed set.
    pub name: &'static str,
    /// Number of times since the start.
    pub count: u64,
    /// Text, without secrets and addresses.
    pub text: String,
    /// Time at which it was last raised.
    pub last: Option<UnixTime>,
}
