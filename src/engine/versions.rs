//! What the engine needs of the registry.
//!
//! Invariant: bytes come checked against the version's record.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::ids::{TaskId, TenantId, VersionRef};
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

/// A version that was asked for and does not serve yet.
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

    /// Whether the tenant has the task.
    async fn exists(&self, tenant: &TenantId, task: &TaskId) -> Result<bool, Unavailable>;

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

    async fn exists(&self, tenant: &TenantId, task: &TaskId) -> Result<bool, Unavailable> {
        match self.get_task(tenant, task).await.map_err(Unavailable::from) {
            Ok(_) => Ok(true),
            Err(Unavailable::Missing) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pending(&self) -> Result<Vec<Desired>, Unavailable> {
        let tasks = Registry::pending(self).await?;
        let desired = tasks.into_iter().filter_map(|task| {
            Some(Desired {
                failed: task.serving_error.is_some(),
                version: VersionRef {
                    version: task.desired?,
                    tenant: task.tenant,
                    task: task.id,
                },
            })
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
