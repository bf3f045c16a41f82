//! Memory that this process may use: that of the machine, or as much of it as its control groups leave.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that this process may use; `None` if the system does not tell.
pub fn usable() -> Option<u64> {
    limit(|path| fs::read_to_string(path).ok())
}

fn limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    // A group without a limit says `max` or a number beyond all memory.
    let limits = groups.lines().flat_map(limit_files).filter_map(|file| read(&file)?.trim().parse().ok());
    machine.into_iter().chain(limits).min()
}

/// The memory of the machine, from the lines of `meminfo`.
fn total(text: &str) -> Option<u64> {
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Files with the limits of a group and of those above it, from a line `number:controllers:path`.
fn limit_files(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, name) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        some if some.split(',').any(|controller| controller == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let group = Path::new(path.trim_start_matches('/'));
    group.ancestors().map(|group| Path::new(root).join(group).join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        8000000 kB\nMemFree:         1 kB\n";

    fn limited(files: &[(&str, &str)]) -> Option<u64> {
        let find = |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path);
        limit(|path| find(path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn the_smallest_of_all_limits_holds() {
        let machine = 8_000_000 << 10;
        assert_eq!(limited(&[]), None);
        assert_eq!(limited(&[("/proc/meminfo", MEMINFO)]), Some(machine));
        let service = ("/proc/self/cgroup", "0::/system.slice/vizard.service\n");
        let own = "/sys/fs/cgroup/system.slice/vizard.service/memory.max";
        let above = "/sys/fs/cgroup/system.slice/memory.max";
        let meminfo = ("/proc/meminfo", MEMINFO);
        assert_eq!(limited(&[meminfo, service, (own, "max\n")]), Some(machine));
        assert_eq!(limited(&[meminfo, service, (own, "268435456\n")]), Some(1 << 28));
        assert_eq!(limited(&[meminfo, service, (own, "max\n"), (above, "1073741824\n")]), Some(1 << 30));
        let container = ("/proc/self/cgroup", "0::/\n");
        assert_eq!(limited(&[meminfo, container, ("/sys/fs/cgroup/memory.max", "1048576\n")]), Some(1 << 20));
        let older = ("/proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/y\nnonsense\n");
        let limit = "/sys/fs/cgroup/memory/docker/y/memory.limit_in_bytes";
        assert_eq!(limited(&[meminfo, older, (limit, "536870912\n")]), Some(1 << 29));
        assert_eq!(limited(&[meminfo, older, (limit, "9223372036854771712\n")]), Some(machine));
    }
}
