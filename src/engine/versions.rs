//! Interface of the engine to the registry.
//!
//! Invariant: the bytes of a version were verified against its record.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::registry::{self, Registry};
use crate::spec::{AdapterConfig, Digest};

pub use crate::registry::{Desired, Role};

/// A version's file, and what is needed to parse it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Bytes of the safetensors file.
    pub bytes: Bytes,
    /// sha256 of the file.
    pub sha256: Digest,
    /// Shape of the version's adapters.
    pub adapter: AdapterConfig,
    /// Classes of the version's head.
    pub classes: usize,
    /// Digest of the backbone that the version was trained on.
    pub backbone: Digest,
}

/// Reason why a version or a record is unavailable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The version or task does not exist.
    #[error("it does not exist")]
    Missing,
    /// The version is permanently damaged.
    #[error("{reason}")]
    Damaged {
        /// Description of the damage.
        reason: String,
    },
    /// The version or record is temporarily unavailable.
    #[error("{reason}")]
    Failed {
        /// Description of the failure.
        reason: String,
    },
}

/// Source of adapter versions, and of which of them should serve.
#[async_trait]
pub trait Versions: Send + Sync + 'static {
    /// Reads a version's file and verifies it.
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable>;

    /// Announces tasks whose desired version changed, or that were deleted. A hint only: [`Versions::pending`] is polled as well.
    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)>;

    /// Returns the versions that a task should serve, whether they already do or not, and [`Unavailable::Missing`] when the task was deleted.
    async fn desired(&self, tenant: &TenantId, task: &TaskId) -> Result<Vec<Desired>, Unavailable>;

    /// Returns every version that is desired but does not serve yet, or is still to be proved.
    async fn pending(&self) -> Result<Vec<Desired>, Unavailable>;

    /// Returns the versions that are to stay resident, with the bytes of their files, the first ones first.
    async fn pinned(&self) -> Result<Vec<(VersionRef, u64)>, Unavailable>;

    /// Returns the numbers of a task's versions, from the oldest to the newest, if it has any. A version with another number does not exist: it is of a task
    /// that was deleted, though another task has the name, or a failover of the database lost it, and its number may be given again.
    async fn numbers(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>, Unavailable>;

    /// Takes the proof of a version for this process, among those that share the records; `is_near`: it has another version of the task in memory. Returns
    /// whether this process is to load the version and to warm it up.
    async fn claim(&self, _version: &VersionRef, _is_near: bool) -> Result<bool, Unavailable> {
        Ok(true)
    }

    /// Leaves a proof to other processes.
    async fn release(&self, _version: &VersionRef) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Makes a desired version, which is resident and warmed up, the serving one, if it is still desired. Returns whether it was.
    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable>;

    /// Records that a desired version cannot serve. Returns whether it was still desired.
    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable>;

    /// Records that a member or shadow is proved, or why it cannot serve. Returns whether that was news.
    async fn noted(&self, version: &VersionRef, why: Option<&str>) -> Result<bool, Unavailable>;
}

#[async_trait]
impl Versions for Registry {
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable> {
        let (form, bytes) = self.load_weights(version).await?;
        Ok(Stored {
            sha256: form.sha256,
            adapter: form.adapter,
            classes: form.classes,
            backbone: form.backbone_digest,
            bytes,
        })
    }

    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.subscribe()
    }

    async fn desired(&self, tenant: &TenantId, task: &TaskId) -> Result<Vec<Desired>, Unavailable> {
        Ok(Registry::desired(self, tenant, task).await?)
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        Ok(Registry::pending(self).await?)
    }

    async fn pinned(&self) -> Result<Vec<(VersionRef, u64)>, Unavailable> {
        Ok(Registry::pinned(self).await?)
    }

    async fn numbers(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>, Unavailable> {
        Ok(self.version_range(tenant, task).await?)
    }

    async fn claim(&self, version: &VersionRef, is_near: bool) -> Result<bool, Unavailable> {
        Ok(self.claim_proof(version, is_near).await?)
    }

    async fn release(&self, version: &VersionRef) -> Result<(), Unavailable> {
        Ok(self.release_proof(version).await?)
    }

    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable> {
        Ok(self.serving_moved(version).await?)
    }

    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable> {
        Ok(self.serving_failed(version, why).await?)
    }

    async fn noted(&self, version: &VersionRef, why: Option<&str>) -> Result<bool, Unavailable> {
        Ok(self.note_member(version, why).await?)
    }
}

impl From<registry::Error> for Unavailable {
    fn from(error: registry::Error) -> Self {
        if error.is_missing() {
            Self::Missing
        } else if error.is_damaged() {
            Self::Damaged {
                reason: error.to_string(),
            }
        } else {
            Self::Failed {
                reason: error.to_string(),
            }
        }
    }
}
