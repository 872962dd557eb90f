//! Work that blocks or computes for long, off the async threads, and the end of the runtime whose threads do it.
//!
//! Invariant: work that has begun runs to its end, even when its caller leaves. Only the end of the process does not wait for it without a limit.

use std::any::type_name;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinError, spawn_blocking};

/// Work that runs on blocking threads at this moment, of all runtimes of the process: how many times, by the closure's path. Only the end of a runtime
/// reads it, whose blocking threads have no other place in common.
static RUNNING: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

/// Entry of work in [`RUNNING`] until it is dropped.
struct Running(&'static str);

impl Running {
    fn all() -> MutexGuard<'static, BTreeMap<&'static str, usize>> {
        // Every change is one count, so that a panic leaves none half made.
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(name: &'static str) -> Self {
        *Self::all().entry(name).or_default() += 1;
        Self(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = Self::all();
        if let Some(count) = all.get_mut(self.0) {
            *count -= 1;
            if *count == 0 {
                all.remove(self.0);
            }
        }
    }
}

/// Returns the work with its entry among what runs.
fn entered<F: FnOnce() -> T, T>(work: F) -> impl FnOnce() -> T {
    move || {
        let _running = Running::begin(type_name::<F>());
        work()
    }
}

/// Error of work on a blocking thread that panicked, or did not begin because the runtime ended.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unfinished(JoinError);

impl From<Unfinished> for io::Error {
    fn from(error: Unfinished) -> Self {
        Self::other(error)
    }
}

/// Runs work on a blocking thread. Returns what it returned.
///
/// # Errors
/// [`Unfinished`] when it panicked, or the runtime ended before it began.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    spawn_blocking(entered(work)).await.map_err(Unfinished)
}

/// Runs work that computes and for which nobody waits by the millisecond, such as the checks and digests of an import: it gives way to classification where
/// both share a core. It runs on threads of its own, since a thread cannot take back that it is nicer; a few at a time, the others wait.
///
/// # Errors
/// Same as [`blocking`].
pub async fn giving_way<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    blocking(move || match nicer() {
        Some(pool) => pool.install(work),
        // Where the threads could not be started, the blocking thread does the work.
        None => work(),
    })
    .await
}

/// How much nicer threads are that give way: where one shares a core with classification, it gets about a tenth of the core.
const NICER: i32 = 10;
/// Threads that give way. Each may be busy for seconds with a file of gigabytes.
const THREADS: usize = 4;

/// Returns the threads that give way.
fn nicer() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let start = || {
        let pool = ThreadPoolBuilder::new()
            .num_threads(THREADS)
            .start_handler(|_| {
                // Only Linux counts niceness by thread. Nothing depends on it, so a failure does not matter.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::nice(NICER);
            })
            .thread_name(|_| "giving-way".to_owned());
        pool.build().ok()
    };
    POOL.get_or_init(start).as_ref()
}

/// Runs work with files on a blocking thread. A panic is an error like those of the work.
///
/// # Errors
/// What the work returned, or [`Unfinished`] as its source.
pub async fn blocking_io<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    blocking(work).await?
}

/// Starts work on a blocking thread and does not wait for it. A thread without a runtime does the work itself.
pub fn in_background(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(entered(work))),
        Err(_) => work(),
    }
}

/// How long the end of a command waits for what other threads have begun.
pub const LAST_WORK: Duration = Duration::from_secs(5);

/// Runs the work of a command on a runtime of its own, whose end waits for at most [`LAST_WORK`].
///
/// # Errors
/// When the runtime's threads cannot be started.
pub fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(work);
    end(runtime, LAST_WORK);
    Ok(outcome)
}

/// Ends a runtime: waits until its threads have ended, at most for `patience`, and says on standard error which work still runs then. Returns whether all ended.
/// Dropping a runtime instead waits without a limit for work that has begun, such as a driver or a disk that does not answer.
fn end(runtime: Runtime, patience: Duration) -> bool {
    let began = Instant::now();
    runtime.shutdown_timeout(patience);
    if began.elapsed() < patience {
        return true;
    }
    // What libraries run on blocking threads has no entry.
    let running: Vec<&str> = Running::all().keys().copied().collect();
    // No log and no thread: the first event of a thread, and its start, wait for the C library's loader, which may be what does not answer.
    let _ = writeln!(
        io::stderr(),
        "frameshift: work on other threads was still running after {} s and is not waited for any longer: {}",
        patience.as_secs(),
        running.join(", ")
    );
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_gives_way_is_nicer_and_blocking_threads_stay_as_they_were() {
        let niceness = || rustix::process::nice(0).expect("Linux tells");
        let before = niceness();
        assert_eq!(
            giving_way(niceness).await.expect("ran"),
            (before + NICER).min(19)
        );
        assert_eq!(blocking(niceness).await.expect("ran"), before);
        let fail = || -> u32 { panic!("out of ink") };
        let error = giving_way(fail).await.expect_err("a panic");
        let error = io::Error::from(error);
        assert!(error.to_string().contains("out of ink"), "{error}");
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_that_says_so() {
        let fail = || -> io::Result<u32> { panic!("out of paper") };
        let error = blocking(fail).await.expect_err("a panic");
        assert!(error.to_string().contains("out of paper"), "{error}");
        let error = blocking_io(fail).await.expect_err("a panic");
        assert!(error.to_string().contains("out of paper"), "{error}");
        let missing = blocking_io(|| std::fs::read("/no such file")).await;
        let error = missing.expect_err("no file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(blocking_io(|| Ok(7)).await.expect("a number"), 7);
    }

    #[test]
    fn the_end_of_a_runtime_does_not_wait_for_ever_for_work_that_does_not_end() {
        let named = |name: &str| Running::all().keys().any(|own| own.contains(name));
        let (open, gate) = std::sync::mpsc::sync_channel::<()>(0);
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        let runtime = Runtime::new().expect("a runtime");
        runtime.spawn(blocking(move || {
            begun.send(()).expect("the test waits");
            // Nothing comes: the gate opens when its other side is dropped.
            let _ = gate.recv();
        }));
        begins.recv().expect("it begins");
        assert!(!end(runtime, Duration::from_millis(50)));
        assert!(named("the_end_of_a_runtime_does_not_wait_for_ever"));
        drop(open);

        // Work that ends is waited for.
        let runtime = Runtime::new().expect("a runtime");
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let (begun, begins) = std::sync::mpsc::sync_channel(0);
        runtime.spawn(blocking(move || {
            begun.send(()).expect("the test waits");
            done.send(()).expect("room for one");
        }));
        begins.recv().expect("it begins");
        assert!(end(runtime, Duration::from_secs(60)));
        is_done.try_recv().expect("it has ended");
    }
}
