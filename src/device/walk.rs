//! A computation with a result, awaited by whoever submitted it.
//!
//! Invariant: dropping the future cancels the computation before its next slice.

use super::{Error, Handle, Priority, Progress};

/// A computation that the device runs slice by slice and whose result is awaited with [`Handle::run`].
pub trait Walk: Send + 'static {
    /// What it gives.
    type Output: Send + 'static;

    /// Runs one slice.
    fn advance(&mut self) -> Progress;

    /// The result, after `advance` said [`Progress::Done`]; still on the device thread.
    fn finish(self) -> Self::Output;

    /// Memory that it needs while it runs, in bytes.
    fn bytes(&self) -> u64 {
        0
    }
}

impl Handle {
    /// Submits a computation and waits for its result; dropping the future cancels it before its next slice.
    ///
    /// # Errors
    /// [`Error::Full`] at once, [`Error::Stopped`], or [`Error::Panicked`] with the panic's message.
    pub async fn run<W: Walk>(&self, _walk: W, _priority: Priority) -> Result<W::Output, Error> {
        todo!()
    }
}
