//! The one thread pool of the numeric code: one thread per physical core, since two hardware threads of a core share its multipliers. In addition,
//! one thread for work outside the device's slices.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::OnceLock;

/// Sets the number of threads of the numeric code, before it first runs; `None` takes as many as this process has physical cores. Returns the number
/// in force, since a pool that already runs is not changed.
pub fn compute_threads(threads: Option<NonZeroUsize>) -> usize {
    let threads = threads.map_or_else(physical_cores, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("compute-{i}"));
    // An error means that the pool already runs; its size is what counts.
    let _ = pool.build_global();
    rayon::current_num_threads()
}

/// Runs a slice on the threads that compute. Its operations follow one another there; a thread outside of the pool would hand each of them over and wait for it,
/// which is some hundred changes of threads for a batch of one clip.
pub(crate) fn within<T: Send>(slice: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| slice())
}

thread_local! {
    /// Number of threads that compute slices, on the thread for work aside.
    static SLICES: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Returns the number of threads that compute the device's slices; the same for work aside, which plans slices that run later.
pub(crate) fn slice_threads() -> usize {
    SLICES.get().unwrap_or_else(rayon::current_num_threads)
}

/// How much nicer the thread for work aside is: where it has to share a core with the device's slices, it gets about a quarter of the core.
const NICER: i32 = 5;

/// Runs numeric work outside the device's slices, such as the packing of an adapter set, on a separate thread: it never takes a thread from serving, gives way
/// where it shares a core with it, and results do not depend on the number of threads. Calls take turns. The call blocks, so it must not be made from an async thread.
pub fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static ASIDE: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    let pool = ASIDE.get_or_init(|| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .start_handler(|_| give_way(NICER))
            .thread_name(|_| "aside".to_owned());
        pool.build().ok()
    });
    let threads = slice_threads();
    // If the separate thread could not be started, the caller's thread does the work.
    match pool {
        Some(pool) => pool.install(move || {
            SLICES.set(Some(threads));
            work()
        }),
        None => work(),
    }
}

/// Makes the calling thread give way to threads that were not made nicer. Nothing depends on it, so a failure does not matter. Only Linux counts niceness by
/// thread.
fn give_way(by: i32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(by);
    #[cfg(not(target_os = "linux"))]
    let _ = by;
}

/// Returns the number of physical cores that this process may use, at most its share of CPU time.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cores(Path::new("/sys/devices/system/cpu"), &allowed()).map_or(logical, |c| c.clamp(1, logical))
}

/// Returns the logical CPUs that this process may run on.
fn allowed() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Returns the number of distinct sets of sibling threads among these CPUs; `None` where the system does not report them.
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
    fn a_slice_computes_on_one_of_the_threads_and_its_panic_is_the_callers() {
        let (outside, inside) = (rayon::current_thread_index(), || {
            rayon::current_thread_index().zip(within(rayon::current_thread_index))
        });
        let (own, nested) = within(inside).unwrap();
        assert_eq!((outside, own), (None, nested));
        let panic = std::panic::catch_unwind(|| within(|| panic!("out of ink")));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"out of ink"));
    }

    #[test]
    fn work_aside_needs_no_thread_of_the_device() {
        use rayon::prelude::*;
        use std::sync::{Arc, Barrier, mpsc};
        use std::time::Duration;

        // Every thread of the common pool waits, as it would within a slice.
        let gate = Arc::new(Barrier::new(rayon::current_num_threads() + 1));
        let inside = Arc::clone(&gate);
        rayon::spawn_broadcast(move |_| {
            inside.wait();
        });
        let (sender, done) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let sum = aside(|| (0..1000_u64).into_par_iter().sum::<u64>());
            let _ = sender.send(sum);
        });
        let sum = done.recv_timeout(Duration::from_secs(60));
        gate.wait();
        assert_eq!(sum, Ok(499_500));
    }

    #[test]
    fn work_aside_plans_slices_for_the_threads_that_run_them() {
        for threads in [3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            let planned = pool.install(|| (slice_threads(), aside(slice_threads)));
            assert_eq!(planned, (threads, threads));
            // Work aside of work aside has the same slices in view.
            let nested = pool.install(|| aside(|| aside(slice_threads)));
            assert_eq!(nested, threads);
        }
        assert_eq!(slice_threads(), rayon::current_num_threads());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_aside_gives_way_and_its_caller_does_not() {
        let niceness = || rustix::process::nice(0).unwrap();
        let before = niceness();
        let aside = aside(niceness);
        assert_eq!(aside, (before + NICER).min(19));
        assert_eq!(niceness(), before);
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(physical_cores() >= 1);
    }
}
