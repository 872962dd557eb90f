//! Adapter sets as files: a file becomes a version, and a version goes out as a file.
//!
//! Invariant: a file is read whole, checked and compared with its task, off the async threads, before a task or a version of it exists; a refused
//! import leaves nothing behind.

mod error;
mod import;

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

pub use error::Error;
pub use import::{Contents, ImportRequest, Serving, Target};

use crate::blocking::{blocking, giving_way};
use crate::ids::{TenantId, VersionRef};
use crate::metadata::VersionRecord;
use crate::model::{Backbone, exchange};
use crate::registry::Registry;
use crate::spec::Digest;

/// Result of an import or an export.
pub type Result<T> = std::result::Result<T, Error>;

/// What a version goes out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The stored file.
    Safetensors,
    /// What the reference's `load_model` and `torch.load(weights_only=True)` read.
    Pytorch,
}

/// A version that was made of a file.
#[derive(Debug, Clone)]
pub struct Made {
    /// Record of the version.
    pub record: VersionRecord,
    /// Objects of the file that hold no tensors and were not read, each with its key and class.
    pub passed_over: Vec<String>,
}

/// A version as a file.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The version's record.
    pub record: VersionRecord,
    /// The file.
    pub bytes: Bytes,
    /// sha256 of the file.
    pub sha256: Digest,
}

/// Imports and exports; cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    registry: Registry,
    backbone: Arc<Backbone>,
}

impl Exchange {
    /// An exchange over the registry, for sets of this backbone.
    pub fn new(registry: Registry, backbone: Arc<Backbone>) -> Self {
        Self { registry, backbone }
    }

    /// Looks at what can be refused before the file is there: the task, and the backbone that the caller says.
    ///
    /// # Errors
    /// [`Error::Backbone`]; no such task, unless it is to be made; when the database fails.
    pub async fn begin(&self, tenant: &TenantId, wanted: &ImportRequest) -> Result<Target> {
        import::begin(self, tenant, wanted).await
    }

    /// Makes a version of a file; idempotent by the request's id. What was passed over is said each time.
    ///
    /// # Errors
    /// When the file is not what was promised, cannot be read, is of another backbone or does not fit the task; when the etag is stale, or the store
    /// or the database fails. Nothing is visible then.
    pub async fn import(
        &self,
        tenant: &TenantId,
        wanted: ImportRequest,
        target: Target,
        contents: Contents,
    ) -> Result<Made> {
        let task = wanted.task.clone();
        let backbone = Arc::clone(&self.backbone);
        let import = move || import::prepare(&backbone, wanted, target, contents);
        let (import, passed_over) = giving_way(import).await??;
        if !passed_over.is_empty() {
            let passed_over = passed_over.join("; ");
            tracing::info!(%task, passed_over, "an import passes over objects of unknown classes");
        }
        let record = self.registry.import(tenant, &task, import).await?;
        Ok(Made {
            record,
            passed_over,
        })
    }

    /// A version as a file.
    ///
    /// # Errors
    /// No such version; when its file is damaged or the store or the database fails.
    pub async fn export(&self, version: &VersionRef, format: Format) -> Result<Exported> {
        // The records decide what may be exported, whatever is in memory.
        let loaded = self.registry.load_current(version).await?;
        let stored = loaded.bytes;
        let work = move || -> Result<_> {
            let bytes: Bytes = match format {
                Format::Safetensors => stored,
                Format::Pytorch => exchange::to_torch(&stored).map_err(Error::Write)?.into(),
            };
            let sha256 = Digest(Sha256::digest(&bytes).into());
            Ok((bytes, sha256))
        };
        let (bytes, sha256) = blocking(work).await??;
        Ok(Exported {
            record: (*loaded.record).clone(),
            bytes,
            sha256,
        })
    }
}
