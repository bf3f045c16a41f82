//! What strangers see: the built-in site, the covers elsewhere that the proxy learns from, and the comparison of both.

#[path = "../support/mod.rs"]
mod support;

mod acme;
mod audit;
mod bulk;
mod camouflage;
mod ends;
mod forest;
mod memory;
mod oddities;
mod scout;
mod site;
mod texture;
