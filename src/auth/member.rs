//! Those who may enter.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::window::UnixTime;

/// One who may enter, whatever number of keys that takes. Lives on when the configuration is read again, so that what
/// is known of a member outlasts every change.
#[derive(Debug)]
pub struct Member {
    name: String,
}

impl Member {
    /// A member of this name, without any limit.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into() })
    }

    /// The name, for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the member may enter now, from this address.
    pub fn admit(self: &Arc<Self>, _from: IpAddr, _now: UnixTime) -> Result<Permit, Refusal> {
        Ok(Permit { member: Arc::clone(self) })
    }
}

/// A member's place inside; dropped, it is given back.
#[derive(Debug)]
pub struct Permit {
    member: Arc<Member>,
}

impl Permit {
    /// Whose place it is.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

/// Why a member may not enter now. A closed set: it is also the name in logs and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The operator has switched the member off.
    Disabled,
}

impl Refusal {
    /// A short name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
