//! How much memory this process may have, as far as the system says: what defaults are measured by.
//!
//! Invariant: best effort, read once; what cannot be read sets no bound.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Bytes that this process may have: the least of its own limits, its control groups' and the machine's. `None`: the system
/// does not say.
pub(crate) fn allowance() -> Option<usize> {
    static ALLOWANCE: OnceLock<Option<usize>> = OnceLock::new();
    *ALLOWANCE.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let groups = group_files(&read("/proc/self/cgroup"));
        let grouped = groups.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        of_process(&read("/proc/self/limits"))
            .into_iter()
            .chain(grouped.filter_map(|text| number(&text)))
            .chain(of_machine(&read("/proc/meminfo")))
            .min()
    })
}

/// So much of the memory that this process may have, and no more than `most`.
pub(crate) fn share(part: usize, most: usize) -> usize {
    allowance().map_or(most, |bytes| (bytes / part).min(most))
}

/// The soft limits of the process: of its data, of its addresses.
fn of_process(limits: &str) -> Option<usize> {
    let named = ["Max data size", "Max address space"];
    let soft = |line: &str| {
        let rest = named.iter().find_map(|name| line.strip_prefix(name))?;
        number(rest.split_whitespace().next()?)
    };
    limits.lines().filter_map(soft).min()
}

/// Where the limits of the control groups are, of both versions, from the innermost to the outermost.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        files.extend(inner.ancestors().map(|group| Path::new(mount).join(group).join(file)));
    }
    files
}

fn of_machine(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    number(line.trim().strip_suffix("kB")?)?.checked_mul(1024)
}

/// A number, unless it is a word for "no limit".
fn number(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_system_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             536870912            unlimited            bytes     \n\
                      Max stack size            8388608              unlimited            bytes     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(of_process(limits), Some(536_870_912));
        assert_eq!(of_process(&limits.replace("536870912", "unlimited")), None);
        assert_eq!(
            of_machine("MemTotal:       24689664 kB\nMemFree: 1 kB\n"),
            Some(24_689_664 << 10)
        );
        assert_eq!(number("max\n"), None);
        assert_eq!(number("268435456\n"), Some(268_435_456));
    }

    #[test]
    fn control_groups_are_found_up_to_the_outermost() {
        let files = group_files("12:cpu,cpuacct:/x\n5:memory:/a\n0::/a/b\n");
        let texts: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        let expected = [
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(texts, expected);
    }
}
