//! Numbers of data centres and the addresses that are built in (docs/protocol.md, "Data centres").

use std::fmt;
use std::str::FromStr;

/// A data centre as clients name it: 1 to 5 and 203 production, 10001 to 10003 test; negative: its media cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DcId(i16);

impl DcId {
    /// The number as it stands in an obfuscated2 header.
    pub fn new(number: i16) -> Self {
        Self(number)
    }

    /// The signed number.
    pub fn number(self) -> i16 {
        self.0
    }
}

impl fmt::Display for DcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DcId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
