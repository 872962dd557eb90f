//! What the engine needs of the registry.
//!
//! Invariant: bytes come checked against the version's record.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::registry::{self, Registry};
use crate::spec::{AdapterConfig, Digest};

/// A version's file and what it takes to read it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The safetensors file.
    pub bytes: Bytes,
    /// Shape of its adapters.
    pub adapter: AdapterConfig,
    /// Rows of its head.
    pub classes: usize,
    /// The backbone that it was trained on.
    pub backbone: Digest,
}

/// A version that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Which.
    pub version: VersionRef,
    /// It cannot serve, and the registry knows.
    pub failed: bool,
}

/// Why a version or a record cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is no such version.
    #[error("it does not exist")]
    Missing,
    /// It will never be what was published.
    #[error("{reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// Not now.
    #[error("{reason}")]
    Failed {
        /// What failed.
        reason: String,
    },
}

/// Versions, and which of them are to serve.
#[async_trait]
pub trait Versions: Send + Sync + 'static {
    /// Reads a version's file, checked.
    async fn load(&self, version: &VersionRef) -> Result<Stored, Unavailable>;

    /// Announces tasks whose desired version changed, or that were deleted. Only a hint: [`Versions::pending`] is asked from time to time, too.
    fn changes(&self) -> broadcast::Receiver<(TenantId, TaskId)>;

    /// The version that is to serve a task, whether it does or not; `None` when there is none. [`Unavailable::Missing`] when the task was deleted.
    async fn desired(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<Desired>, Unavailable>;

    /// Every version that is desired and does not serve.
    async fn pending(&self) -> Result<Vec<Desired>, Unavailable>;

    /// A desired version is resident and warm: it serves from now on, if it still is the desired one. Says whether it was.
    async fn moved(&self, version: &VersionRef) -> Result<bool, Unavailable>;

    /// A desired version cannot serve. Says whether it still was the desired one.
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

/// What a task's record says of the version that is to serve it.
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
