//! The program: arguments in, exit code out.

use std::process::ExitCode;

/// The allocator of the figures in docs/architecture.md. With 9900 sessions the system's took a little more before they had
/// moved anything (3.22 against 3.08 KiB each) and a little less after (3.27 against 3.39), in one run of each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(vizard::cli::main(std::env::args_os()))
}
