//! What a process has used, from the proc file system.

use std::fs;
use std::io;
use std::time::Duration;

use super::wire::broken;

/// A process to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Meter(pub u32);

impl Meter {
    /// CPU time of all its threads that still run, to the nanosecond.
    pub fn cpu(self) -> io::Result<Duration> {
        Ok(self.threads()?.into_iter().sum())
    }

    /// CPU time of each of its threads.
    pub fn threads(self) -> io::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end while this goes on.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            times.push(running(&text));
        }
        Ok(times)
    }

    /// Resident memory in KiB.
    pub fn resident(self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
            .ok_or_else(|| broken("no Rss in smaps"))
    }

    /// How many descriptors are open.
    pub fn descriptors(self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0))?.count())
    }
}

/// CPU time of the thread that asks.
pub fn this_thread() -> io::Result<Duration> {
    Ok(running(&fs::read_to_string("/proc/thread-self/schedstat")?))
}

fn running(schedstat: &str) -> Duration {
    Duration::from_nanos(schedstat.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default())
}
