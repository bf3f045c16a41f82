//! Reaching Telegram.

pub mod dc;
pub mod ping;
pub mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;

pub use dc::DcId;
pub use upstream::{ReachError, Reached, Upstream};

/// Which data centres there are and how to choose among their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Addresses that replace the built-in ones, by the number as a client states it (negative: media).
    pub overrides: BTreeMap<DcId, Vec<SocketAddr>>,
    /// Which family is tried first.
    pub prefer: Family,
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
