//! What the operator sees and sets while the proxy runs: links to hand out, the log, the way to reload, metrics and the
//! admin listener. Nothing here decides about a connection.

pub mod admin;
pub mod control;
pub mod counts;
pub mod files;
pub mod links;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod reload;
pub mod snapshot;
pub mod tally;
pub mod usage;
