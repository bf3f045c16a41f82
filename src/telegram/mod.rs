//! Reaching Telegram.

pub mod dc;
pub mod hop;
pub mod lists;
pub mod middle;
pub mod ping;
mod pool;
pub mod routes;
pub mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;

pub use dc::DcId;
pub use routes::Reached;
pub use upstream::{Need, ReachError, Upstream};

/// Which data centres there are and how to choose among their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses that replace the built-in ones, by the number as a client states it (negative: media).
    pub overrides: BTreeMap<DcId, Vec<SocketAddr>>,
    /// Which family is tried first.
    pub prefer: Family,
    /// The ways there; without any, they are reached directly.
    pub routes: Vec<routes::Route>,
    /// Most connections that stand ready for each data centre; with none, every session dials.
    pub warm: u8,
    /// Whether Telegram's lists are fetched.
    pub refresh: bool,
    /// URL of the lists, without their names.
    pub lists: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            overrides: BTreeMap::new(),
            prefer: Family::default(),
            routes: Vec::new(),
            warm: 8,
            refresh: true,
            lists: "https://core.telegram.org".into(),
        }
    }
}

/// Address family that is tried first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 first.
    #[default]
    Ipv4,
    /// IPv6 first.
    Ipv6,
}
