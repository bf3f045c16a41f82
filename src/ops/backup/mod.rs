//! One file with everything that makes this proxy this proxy.
//!
//! [`archive`] is a tar file with a page that says where each part belongs; any `tar` opens it. [`seal`] encrypts it under
//! a passphrase. [`state`] gathers the state directory while a proxy may be writing to it.

pub mod archive;
pub mod seal;
pub mod state;
