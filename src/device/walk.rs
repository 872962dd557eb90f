//! A computation with a result that its submitter awaits.
//!
//! Invariant: dropping the future cancels the computation before its next slice.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Error, Handle, Owned, Step, Work};

/// A computation that the device runs slice by slice and whose result is awaited with [`Handle::run`].
pub trait Walk: Send + 'static {
    /// Result of the computation.
    type Output: Send + 'static;

    /// Runs one slice.
    fn advance(&mut self) -> Step;

    /// Returns the result after `advance` has returned [`Step::Done`]; called on the device thread.
    fn finish(self) -> Self::Output;

    /// Returns whether the result is there, after `advance` has returned [`Step::Pending`].
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns whether somebody waits for the result by now; asked of what was submitted with [`Handle::prepare`].
    fn is_awaited(&self) -> bool {
        false
    }

    /// Returns the memory that the computation needs while it runs, in bytes.
    fn bytes(&self) -> u64 {
        0
    }
}

/// Work item of a computation, with the channel for its result.
struct Reported<W: Walk> {
    /// The computation; `None` once it is finished.
    walk: Option<W>,
    /// The channel; `None` once it was used.
    reply: Option<oneshot::Sender<Result<W::Output, Error>>>,
}

impl<W: Walk> Reported<W> {
    fn reply(&mut self, result: Result<W::Output, Error>) {
        if let Some(reply) = self.reply.take() {
            // The receiver may have left in the meantime; then nobody wants the result.
            let _ = reply.send(result);
        }
    }
}

impl<W: Walk> Work for Reported<W> {
    fn advance(&mut self) -> Step {
        let progress = self.walk.as_mut().map_or(Step::Done, Walk::advance);
        if progress == Step::Done
            && let Some(walk) = self.walk.take()
        {
            let result = walk.finish();
            self.reply(Ok(result));
        }
        progress
    }

    fn is_cancelled(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn panicked(&mut self, message: &Arc<str>) {
        let message = message.clone();
        self.reply(Err(Error::Panicked { message }));
    }

    fn is_ready(&self) -> bool {
        self.walk.as_ref().is_none_or(Walk::is_ready)
    }

    fn is_awaited(&self) -> bool {
        self.walk.as_ref().is_some_and(Walk::is_awaited)
    }

    fn bytes(&self) -> u64 {
        self.walk.as_ref().map_or(0, Walk::bytes)
    }
}

impl Handle {
    /// Submits a computation that serves, and waits for its result. Dropping the future cancels it before its next slice.
    ///
    /// # Errors
    /// [`Error::Full`] at once, [`Error::Stopped`], or [`Error::Panicked`] with the message of the panic.
    pub async fn run<W: Walk>(&self, walk: W) -> Result<W::Output, Error> {
        result_of(walk, |work| self.submit(work)).await
    }

    /// Submits a computation for which no request waits, and waits for its result: serving goes first after every slice of it, until
    /// [`Walk::is_awaited`] says that one does. Dropping the future cancels it before its next slice.
    ///
    /// # Errors
    /// Same as [`Handle::run`].
    pub async fn prepare<W: Walk>(&self, walk: W) -> Result<W::Output, Error> {
        result_of(walk, |work| self.submit_ahead(work)).await
    }
}

impl Owned {
    /// Submits a computation that trains, and waits for its result. Dropping the future cancels it before its next slice.
    ///
    /// # Errors
    /// [`Error::Full`] at once, [`Error::Stopped`], or [`Error::Panicked`] with the message of the panic.
    pub async fn run<W: Walk>(&self, walk: W) -> Result<W::Output, Error> {
        result_of(walk, |work| self.submit(work)).await
    }
}

async fn result_of<W: Walk>(
    walk: W,
    submit: impl FnOnce(Box<dyn Work>) -> Result<(), Error>,
) -> Result<W::Output, Error> {
    let (reply, result) = oneshot::channel();
    let work = Reported {
        walk: Some(walk),
        reply: Some(reply),
    };
    submit(Box::new(work))?;
    // The sender is dropped without a result only when the device stops.
    result.await.unwrap_or(Err(Error::Stopped))
}
