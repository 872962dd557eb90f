//! Erases tenants: their rows, then their objects, until nothing of them is left but the record of it.
//!
//! Invariant: every step is small and leaves a state in which the next one goes on, in this process or in another; a tenant counts as erased only after a
//! pass over rows and objects that found nothing.

use std::collections::HashSet;
use std::time::Duration;

use super::{Library, Result};
use crate::faults;
use crate::ids::TenantId;
use crate::metadata::Erased;

/// Time between the first pass that finds nothing and the end, where other processes share the records: each has read the change feed by then.
const PAUSE: Duration = Duration::from_secs(10);
/// The same where no other process does: this one has read the feed by then, and an object that was being stored at the first pass is found by the next one.
const QUIET: Duration = Duration::from_secs(5);

impl Library {
    /// Returns whether there is a tenant whose erasure has not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_erasing(&self) -> Result<bool> {
        Ok(!self.inner.metadata.unfinished_erasures().await?.is_empty())
    }

    /// Goes on with every erasure that has not ended, as far as it can now. Returns the tenants that were erased thereby.
    ///
    /// # Errors
    /// When the database or the store fails for one of them, after the others had their turns; what was removed stays removed.
    pub async fn erase(&self) -> Result<Vec<TenantId>> {
        let (mut ended, mut failed) = (Vec::new(), None);
        for tenant in self.inner.metadata.unfinished_erasures().await? {
            match self.erase_tenant(&tenant).await {
                Ok(true) => ended.push(tenant),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(ended),
        }
    }

    /// Removes what there is of a tenant. Returns whether its erasure has ended.
    async fn erase_tenant(&self, tenant: &TenantId) -> Result<bool> {
        let (store, metadata) = (&self.inner.store, &self.inner.metadata);
        loop {
            match metadata.erase_some(tenant).await? {
                Erased::Rows(_) => faults::point("erasure-rows"),
                // A worker has a job of the tenant, and has been asked to stop.
                Erased::Waits => return Ok(false),
                Erased::Nothing => break,
            }
        }
        loop {
            let (objects, bytes) = store.erase_some(tenant).await?;
            if objects == 0 {
                break;
            }
            faults::point("erasure-objects");
            metadata.note_erased(tenant, objects, bytes).await?;
        }
        store.forget_tenants(&HashSet::from([tenant.clone()])).await;
        let pause = match metadata.is_exclusive() {
            true => QUIET,
            false => PAUSE,
        };
        let has_ended = metadata.settle_erasure(tenant, pause).await?;
        if has_ended {
            faults::point("erasure-ended");
        }
        Ok(has_ended)
    }

    /// Drops what this process keeps of these tenants' objects on a local disk. Returns the number of copies.
    pub async fn forget_tenants(&self, tenants: &HashSet<TenantId>) -> usize {
        self.inner.store.forget_tenants(tenants).await
    }
}
