//! On which CPUs a server, its video decoders and the load generator run, so that one does not take the other's time.
//!
//! Invariant: only this process's threads, and those of the server that it started, are moved.

use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs of the server, and of everything else.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Split {
    /// CPUs of the server's own threads.
    pub(super) server: Vec<usize>,
    /// CPUs of the load generator and of the server's video decoders.
    pub(super) generator: Vec<usize>,
}

impl Split {
    /// The first CPU for the server and the second for the generator; none with fewer than two.
    pub(super) fn of(cpus: &[usize]) -> Option<Self> {
        match *cpus {
            [server, generator, ..] => Some(Self {
                server: vec![server],
                generator: vec![generator],
            }),
            _ => None,
        }
    }
}

/// CPUs that this thread may run on.
///
/// # Errors
/// When the system does not say.
pub(super) fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Moves a thread, or the calling one, to these CPUs.
///
/// # Errors
/// When the system refuses, for example because there is no such CPU.
pub(super) fn place(thread: Option<u32>, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        set.set(cpu);
    }
    let thread = match thread {
        None => None,
        Some(id) => {
            let id = Pid::from_raw(id.cast_signed());
            Some(id.ok_or(io::ErrorKind::InvalidInput)?)
        }
    };
    Ok(sched_setaffinity(thread, &set)?)
}

/// Does something on these CPUs: a process that it starts stays there, the calling thread comes back.
///
/// # Errors
/// When the system refuses.
pub(super) fn on<T>(cpus: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    place(None, cpus)?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Moves the processes that a process started, and theirs, to these CPUs. Processes that they start later follow them. A process that has ended
/// meanwhile needs no place.
pub(super) fn place_children(parent: u32, cpus: &[usize]) {
    let mut waiting = children(parent);
    while let Some(child) = waiting.pop() {
        for thread in threads(child) {
            let _ = place(Some(thread), cpus);
        }
        waiting.extend(children(child));
    }
}

fn threads(process: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn children(process: u32) -> Vec<u32> {
    let of_thread = |thread| {
        let path = format!("/proc/{process}/task/{thread}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        let children: Vec<u32> = text
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect();
        children
    };
    threads(process).into_iter().flat_map(of_thread).collect()
}

/// Memory of a process that is resident, in bytes; none when the process has ended.
pub(in crate::tools) fn resident_bytes(process: u32) -> Option<u64> {
    bytes_of(process, "VmRSS:")
}

/// Most memory of a process that was resident at any time, in bytes; none when the process has ended.
pub(super) fn peak_bytes(process: u32) -> Option<u64> {
    bytes_of(process, "VmHWM:")
}

/// Resident memory of the processes that a process started, and of theirs, in bytes. One that has just ended has none.
pub(super) fn resident_of_children(process: u32) -> u64 {
    let mut waiting = children(process);
    let mut bytes = 0;
    while let Some(child) = waiting.pop() {
        bytes += resident_bytes(child).unwrap_or(0);
        waiting.extend(children(child));
    }
    bytes
}

/// A size from the status of a process.
fn bytes_of(process: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_and_comes_back() {
        let before = allowed().unwrap();
        let last = *before.last().unwrap();
        assert_eq!(on(&[last], allowed).unwrap().unwrap(), [last]);
        assert_eq!(allowed().unwrap(), before);
        assert!(place(None, &[CpuSet::MAX_CPU]).is_err());
    }

    #[test]
    fn a_server_and_its_generator_share_no_cpu() {
        assert_eq!(Split::of(&[3]), None);
        let split = Split::of(&[1, 4, 5]).unwrap();
        assert_eq!((split.server, split.generator), (vec![1], vec![4]));
    }

    #[test]
    fn a_child_is_found_and_moved_and_has_memory() {
        let before = allowed().unwrap();
        let last = *before.last().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let me = std::process::id();
        assert!(children(me).contains(&child.id()));
        place_children(child.id(), &[last]);
        for thread in threads(child.id()) {
            place(Some(thread), &[last]).unwrap();
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        assert!(
            status.contains(&format!("Cpus_allowed_list:\t{last}\n")),
            "{status}"
        );
        assert!(resident_bytes(me).unwrap() > 1 << 20);
        assert!(peak_bytes(me) >= resident_bytes(me));
        assert!(resident_of_children(me) > 0);
        // Without an open input it ends by itself.
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
