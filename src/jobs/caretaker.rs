//! What a process that works on no job does for jobs: it counts those that wait, puts back those whose worker was lost, and tidies up after those that end.
//!
//! Invariant: of several processes that look at once, one puts a job back or ends it, and that one tidies up.

use super::context::Context;
use crate::metadata;

/// Looks after jobs without a runner.
pub struct Caretaker(Context);

impl Caretaker {
    pub(super) fn new(context: Context) -> Self {
        Self(context)
    }

    /// Looks once. Where the database belongs to this process alone, jobs that another one left are not touched: the next process that trains puts them back, and
    /// whether it finds any tells it if a job ended the process before it.
    ///
    /// # Errors
    /// When the database does not answer; the next look does what is left.
    pub async fn look(&self) -> metadata::Result<()> {
        self.0.clear_up_left().await;
        self.0.count_waiting().await?;
        match self.0.parts.metadata.is_exclusive() {
            true => Ok(()),
            false => self.0.put_back_lost().await,
        }
    }
}
