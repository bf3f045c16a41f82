//! What the operator sees and sets while the proxy runs: links to hand out, the log, the way to reload. Nothing here
//! decides about a connection.

pub mod control;
pub mod files;
pub mod links;
pub mod logging;
pub mod reload;
pub mod usage;
