//! Interface of the engine to the registry.
//!
//! Invariant: the bytes of a version were verified against its record.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::registry::{self, Registry};
use crate::spec::{AdapterConfig, Digest};

/// A version's file, and what is needed to parse it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Bytes of the safetensors file.
    pub bytes: Bytes,
    /// Shape of the version's adapters.
    pub adapter: AdapterConfig,
    /// Classes of the version's head.
    pub classes: usize,
    /// Digest of the backbone that the version was trained on.
    pub backbone: Digest,
}

/// Version that a task should serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Reference of the version.
    pub version: VersionRef,
    /// Whether the registry has recorded that the version cannot serve.
    pub failed: bool,
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

    /// Returns the version that a task should serve, whether it already does or not; `None` when there is none, and [`Unavailable::Missing`] when the
    /// task was deleted.
    async fn desired(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<Desired>, Unavailable>;

    /// Returns every version that is desired but does not serve yet.
    async fn pending(&self) -> Result<Vec<Desired>, Unavailable>;

    /// Makes a desired version, which is resident and warmed up, the serving one, if it is still desired. Returns whether it was.
    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable>;

    /// Records that a desired version cannot serve. Returns whether it was still desired.
    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable>;
}

#[async_trait]
impl Versions for Registry {
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable> {
        let loaded = Registry::load(self, version).await?;
        let manifest = &loaded.record.manifest;
        Ok(Stored {
            adapter: manifest.adapter,
            classes: manifest.labels.len(),
            backbone: manifest.backbone_digest,
            bytes: loaded.bytes,
        })
    }

    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.subscribe()
    }

    async fn desired(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<Desired>, Unavailable> {
        let task = self.get_task(tenant, task).await?;
        Ok(desired(
            (task.tenant, task.id),
            task.desired,
            task.serving_error.as_deref(),
        ))
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        let tasks = Registry::pending(self).await?;
        let desired = tasks.into_iter().filter_map(|task| {
            desired(
                (task.tenant, task.id),
                task.desired,
                task.serving_error.as_deref(),
            )
        });
        Ok(desired.collect())
    }

    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable> {
        Ok(self.serving_moved(version).await?)
    }

    async fn failed(&self, version: &VersionRef, why: &str) -> Result<bool, Unavailable> {
        Ok(self.serving_failed(version, why).await?)
    }
}

/// Returns the desired version of a task's record.
fn desired(
    (tenant, task): (TenantId, TaskId),
    version: Option<AdapterVersion>,
    error: Option<&str>,
) -> Option<Desired> {
    let version = VersionRef {
        tenant,
        task,
        version: version?,
    };
    Some(Desired {
        version,
        failed: error.is_some(),
    })
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
