//! Which process proves a task's versions, where several share the records, and what the others answer with until they have the new version.
//!
//! Invariant: a version is loaded for its proof by one process at a time; a version that no longer serves answers only for a while, in a process that has
//! it in memory and not yet the one that serves.

use std::time::Duration;

use super::{Registry, Result};
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};

/// How long a process has to prove a version before another one tries.
const PROOF: Duration = Duration::from_secs(30);
/// How long the version before may answer at most, in a process that has not loaded the one that serves.
pub(super) const SWAP_GRACE: Duration = Duration::from_secs(30);

impl Registry {
    /// Takes the proof of a version's task for this process; `is_near`: it has a version of the task in memory. Returns whether it is to begin.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_proof(&self, version: &VersionRef, is_near: bool) -> Result<bool> {
        let Some(own) = &self.inner.replica else {
            return Ok(true);
        };
        let VersionRef { tenant, task, .. } = version;
        let metadata = &self.inner.metadata;
        Ok(metadata
            .claim_proof(tenant, task, own, is_near, PROOF)
            .await?)
    }

    /// Leaves a proof of this process to others.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_proof(&self, version: &VersionRef) -> Result<()> {
        let Some(own) = &self.inner.replica else {
            return Ok(());
        };
        let VersionRef { tenant, task, .. } = version;
        Ok(self.inner.metadata.release_proof(tenant, task, own).await?)
    }

    /// The version that served a task before the present one, while another process has just moved it.
    pub fn before(&self, tenant: &TenantId, task: &TaskId) -> Option<AdapterVersion> {
        self.inner.replica.as_ref()?;
        self.inner.view.before(&(tenant.clone(), task.clone()))
    }
}
