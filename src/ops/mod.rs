//! What the operator sees and sets while the proxy runs: links to hand out, the log, alarms, the way to reload. Of
//! connections nothing is decided here but which addresses are not judged.

pub mod alarms;
pub mod audit_log;
pub mod control;
pub mod files;
pub mod geo;
pub mod links;
pub mod lists;
pub mod logging;
pub mod nets;
pub mod reload;
pub mod usage;
