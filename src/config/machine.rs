//! What the machine has: memory, of which defaults are a share, and open files.
//!
//! Invariant: a limit of the process's control group counts as the machine's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory that this process may use, in bytes: the machine's, or less where a control group limits it. `None` when the system does not say.
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

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

/// The files that may hold a limit, of each group of `/proc/self/cgroup` and those above it.
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

/// How many files this process may have open, before and after it asked for more. None is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit that the process began with.
    pub before: Option<u64>,
    /// The limit that holds now.
    pub now: Option<u64>,
}

/// Raises the limit of open files to the most that the system allows this process.
///
/// # Errors
/// When the system refuses; then the limit stays.
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
