//! The program as its operator meets it: commands, configuration, administration, documents and deployment.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod backup;
mod cli;
mod config_files;
mod deploy;
mod doctor;
mod documents;
mod fuzz_corpora;
mod house;
mod operation;
mod setup;
mod vectors_covered;
mod web;
