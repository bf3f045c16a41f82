//! The ground floor: what several layers need and what knows nothing of a proxy.
//!
//! [`files`] reads and writes files where less trusted users may have prepared the folder. [`summary`] counts what peers
//! cause, so that the log has a line a minute and not one per connection. [`told`] keeps the time that another machine said.
//! [`memory`] tells how much of it there is.

pub mod files;
pub mod memory;
pub mod summary;
pub mod told;
