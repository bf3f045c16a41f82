//! The program as a command that ends by itself.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program with nothing from outside but a home directory.
pub fn vizard(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(arguments).env_clear().env("HOME", home).env("STATE_DIRECTORY", home.join("state")).current_dir(home);
    command.stdin(Stdio::null());
    command
}

/// Its exit code and what it says, to the standard output and to the standard error.
pub fn run(home: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = vizard(home, arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

pub fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
