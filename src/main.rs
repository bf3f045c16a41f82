//! The program: arguments in, exit code out.

use std::process::ExitCode;

/// Gives memory back that many short-lived connections have left scattered.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(vizard::cli::main(std::env::args_os()))
}
