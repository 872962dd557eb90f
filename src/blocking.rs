//! Work that blocks or computes for long, off the async threads.
//!
//! Invariant: work that has begun runs to its end, even when its caller leaves.

use std::io;

use tokio::runtime::Handle;
use tokio::task::{JoinError, spawn_blocking};

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
    spawn_blocking(work).await.map_err(Unfinished)
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
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
