//! Shows on a terminal what is being waited for, and nothing anywhere else.

use std::time::Duration;

use indicatif::ProgressBar;

/// Does the work while something moves behind `what`.
pub fn during<T>(what: impl Into<String>, work: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::new_spinner().with_message(what.into());
    bar.enable_steady_tick(Duration::from_millis(100));
    let outcome = work();
    bar.finish_and_clear();
    outcome
}
