//! What the operator sees and sets while the proxy runs: links to hand out, the log, alarms, the way to reload, metrics
//! and the admin listener. Of connections nothing is decided here but which addresses are not judged.

pub mod admin;
pub mod alarms;
pub mod audit_log;
pub mod backup;
pub mod control;
pub mod counts;
pub mod files;
pub mod geo;
pub mod handover;
pub mod links;
pub mod lists;
pub mod logging;
pub mod metrics;
pub mod nets;
pub mod process;
pub mod reload;
pub mod sandbox;
pub mod service_manager;
pub mod snapshot;
pub mod state_lock;
pub mod tally;
pub mod usage;
