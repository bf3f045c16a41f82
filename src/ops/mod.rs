//! What the operator sees: links to hand out and the log. Nothing here decides about a connection.

pub mod links;
pub mod logging;
