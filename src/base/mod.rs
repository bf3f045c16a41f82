//! The ground floor: what several layers need and what knows nothing of a proxy.
//!
//! [`summary`] counts what peers cause, so that the log has a line a minute and not one per connection.

pub mod summary;
