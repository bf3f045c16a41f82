//! What the operator sees: links to hand out, the log, metrics and the admin listener. Nothing here decides about a
//! connection.

pub mod admin;
pub mod counts;
pub mod links;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod snapshot;
pub mod tally;
