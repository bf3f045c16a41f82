//! Being the site.

pub mod remote;
pub mod site;
