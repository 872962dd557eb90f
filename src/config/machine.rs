//! Resources of the machine: memory, of which defaults are a share, and open files.
//!
//! Invariant: a limit of the process's control group counts as a limit of the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Returns the memory that this process may use in bytes: that of the machine, or the limit of a control group when it is lower. `None` when the
/// system reports neither.
pub fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(total);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    });
    limits.chain(machine).min()
}

/// Returns `MemTotal` of `/proc/meminfo` in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

/// Returns the files that may hold a memory limit, for each group of `/proc/self/cgroup` and its ancestors.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|own| own == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(
            path.ancestors()
                .map(|group| Path::new(root).join(group).join(name)),
        );
    }
    files
}

/// Limits of open files, before and after they were raised. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// Limit that the process was started with.
    pub before: Option<u64>,
    /// Limit in force.
    pub now: Option<u64>,
}

/// Raises the limit of open files to the most that the system allows this process.
///
/// # Errors
/// When the system refuses; the limit is then unchanged.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(OpenFiles {
        before: current,
        now: maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has() {
        let meminfo = "MemFree:  1 kB\nMemTotal:       16384 kB\n";
        assert_eq!(total(meminfo), Some(16 << 20));
        assert_eq!(total("MemTotal: much\n"), None);
        let memory = memory().expect("Linux says it");
        assert!(memory > 64 << 20, "{memory}");
    }

    #[test]
    fn a_group_and_those_above_it_may_limit() {
        let files = limit_files("0::/a/b\n");
        let expected = ["a/b/", "a/", ""].map(|group| {
            let path = format!("/sys/fs/cgroup/{group}memory.max");
            PathBuf::from(path)
        });
        assert_eq!(files, expected);
        let files = limit_files("5:cpu,memory:/a\n4:pids:/a\n");
        let expected = ["a/", ""].map(|group| {
            let path = format!("/sys/fs/cgroup/memory/{group}memory.limit_in_bytes");
            PathBuf::from(path)
        });
        assert_eq!(files, expected);
    }

    #[test]
    fn open_files_are_raised_to_what_is_allowed() {
        let files = raise_open_files().unwrap();
        assert_eq!(files.now, getrlimit(Resource::Nofile).current);
        assert_eq!(files.now, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raise_open_files().unwrap().before, files.now);
    }
}
