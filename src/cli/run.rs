//! `vizard run`: builds the parts from the configuration and runs the server.

use super::Failure;
use crate::config::Config;

/// Runs the proxy until it is told to stop.
pub fn run(_config: Config) -> Result<(), Failure> {
    Err(Failure::new("the server is not part of this build", "try `vizard check` or `vizard link`"))
}
