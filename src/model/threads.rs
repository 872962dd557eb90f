//! The one pool of threads of the numeric code: as many as there are physical cores, since two threads of a core share its multipliers.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

/// Sets the number of threads of the numeric code, before it runs for the first time; as many as this process has physical cores when `None`.
/// Returns how many there are now: a pool that already runs stays as it is.
pub fn compute_threads(threads: Option<NonZeroUsize>) -> usize {
    let threads = threads.map_or_else(physical_cores, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("compute-{i}"));
    // An error says that the pool runs already; its size is what counts.
    let _ = pool.build_global();
    rayon::current_num_threads()
}

/// Physical cores that this process may use, but not more than its share of CPU time allows.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cores(Path::new("/sys/devices/system/cpu"), &allowed()).map_or(logical, |c| c.clamp(1, logical))
}

/// Logical CPUs that this process may run on.
fn allowed() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Different sets of sibling threads among these CPUs; `None` where the system does not say.
fn cores(system: &Path, cpus: &[usize]) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for cpu in cpus {
        let siblings = system.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        cores.insert(std::fs::read_to_string(siblings).ok()?);
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_of_a_core_count_once() {
        let system = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,2\n"), (1, "1,3\n"), (2, "0,2\n"), (3, "1,3\n")] {
            let folder = system.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("thread_siblings_list"), siblings).unwrap();
        }
        assert_eq!(cores(system.path(), &[0, 1, 2, 3]), Some(2));
        assert_eq!(cores(system.path(), &[0, 2]), Some(1));
        assert_eq!(cores(system.path(), &[0, 4]), None);
        assert_eq!(cores(system.path(), &[]), None);
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(physical_cores() >= 1);
    }
}
