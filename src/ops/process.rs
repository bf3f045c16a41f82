//! What the kernel says of this process.

use std::fs;

/// Figures of this process; what cannot be read is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Bytes of memory that are in use.
    pub resident_bytes: Option<u64>,
    /// Bytes of memory that are reserved.
    pub virtual_bytes: Option<u64>,
    /// Processor time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Most open descriptors.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl Process {
    /// Those of this process, now.
    pub fn now() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        // Reading the folder takes one.
        let open_fds = fds.map(|count| count.saturating_sub(1));
        let max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self { open_fds, max_fds, ..Self::read(&read("status"), &read("stat"), TICKS) }
    }

    fn read(status: &str, stat: &str, ticks: f64) -> Self {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let number = |name: &str| line(name)?.split_whitespace().next()?.parse::<u64>().ok();
        // The second field is the name of the program, in brackets, which may hold anything.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let time = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Self {
            resident_bytes: number("VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: number("VmSize:").map(|kib| kib * 1024),
            cpu_seconds: time(11).zip(time(12)).map(|(user, system)| (user + system) / ticks),
            threads: number("Threads:"),
            ..Self::default()
        }
    }
}

/// Ticks in a second of `/proc/PID/stat`: 100 on every Linux that this program is built for.
const TICKS: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_whatever_the_program_is_called() {
        let status = "Name:\ta) b\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\nThreads:\t3\n";
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 1 2 3";
        let process = Process::read(status, stat, 100.0);
        assert_eq!(process.resident_bytes, Some(512 * 1024));
        assert_eq!(process.virtual_bytes, Some(2048 * 1024));
        assert_eq!(process.cpu_seconds, Some(2.0));
        assert_eq!(process.threads, Some(3));
        assert_eq!(Process::read("", "", 100.0), Process::default());
    }

    #[test]
    fn this_process_has_all_of_them() {
        let process = Process::now();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_some_and(|fds| fds > 2) && process.cpu_seconds.is_some(), "{process:?}");
    }
}
