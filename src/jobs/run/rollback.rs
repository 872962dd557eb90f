//! What a job does when its loss is no number: once, it goes back to its newest checkpoint that can be read and on at half the rate.
//!
//! Invariant: which step diverges follows from the seed, so that a job that is interrupted before its next checkpoint goes back the same way again.

use super::Run;
use super::prepare::{Prepared, fresh};
use crate::jobs::failure::Failure;

impl Run {
    /// Goes back after a step that diverged. Returns the steps that are done then.
    ///
    /// # Errors
    /// The failure itself when the rate was halved before.
    pub(super) async fn roll_back(
        &self,
        prepared: &Prepared,
        failure: Failure,
    ) -> Result<u64, Failure> {
        if prepared.trainer.lock()?.position().is_halved {
            return Err(failure);
        }
        let metadata = &self.context.parts.metadata;
        let (tenant, job) = (&self.lease.tenant, self.lease.job);
        let record = || async { Ok(metadata.get_job(tenant, job).await?) };
        let record = self.journal.patiently(record).await?;
        let earlier = match self.newest(&record, &prepared.origin).await? {
            Some(earlier) => earlier.trainer,
            None => fresh(&prepared.origin).await?,
        };
        let done = {
            let mut trainer = prepared.trainer.lock()?;
            trainer.roll_back(earlier);
            trainer.position().step
        };
        let text = format!("{failure}: training goes on after step {done} at half the rate");
        self.tell(true, text).await?;
        Ok(done)
    }
}
