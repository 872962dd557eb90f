//! Tasks, their immutable versions, and which of them serves.
//!
//! Invariant: a version's file and its record say the same and never change; a version whose bytes are not those that were published is never
//! handed out; a desired version becomes the serving one by compare-and-swap only.

mod cache;
mod feed;
mod fitness;
mod import;
mod manifest;
mod publish;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache::Cache;
use manifest::Mismatch;
use tokio::sync::broadcast;
use view::View;

pub use fitness::Fitness;
pub use import::{Import, manifest_of};
pub use publish::Publication;
pub use view::{Essentials, Served, Standing};

use crate::faults;
use crate::ids::{RequestId, TaskId, TenantId, VersionRef};
use crate::metadata::{
    self, MetadataStore, NewTask, Page, PageRequest, TaskRecord, TaskUpdate, VersionRecord,
    check_display_name,
};
use crate::spec::Invalid;
use crate::store::{self, Store, layout};

/// Announcements that a slow subscriber may have pending. It is told when it missed some and then asks for [`Registry::pending`], so the number
/// only has to cover a burst of publications.
const ANNOUNCEMENTS: usize = 256;

/// What the registry may use.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of versions' files that are kept in memory; larger files are not kept.
    pub cache_bytes: u64,
    /// Bytes of what versions say of themselves, their labels above all, that are kept in memory.
    pub view_bytes: u64,
    /// How long what is known of tasks is answered without the change feed.
    pub stale_limit: Duration,
    /// How often the change feed is read, beside the hints of this process.
    pub feed_poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            view_bytes: 64 << 20,
            stale_limit: Duration::from_secs(15 * 60),
            feed_poll: Duration::from_secs(2),
        }
    }
}

/// Why the registry refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A version's file is not a safetensors file.
    #[error("the file of {version} is malformed: {problem}")]
    Malformed {
        /// Which version, or the task that it was to be published for.
        version: String,
        /// What is wrong.
        problem: String,
    },
    /// A version's file and its record do not say the same.
    #[error("the file of {version} disagrees with its record on {field}")]
    Manifest {
        /// Which.
        version: VersionRef,
        /// On what.
        field: String,
    },
    /// A record.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
    /// A blob; [`store::Error::Digest`] when a version's file is damaged.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether the tenant has no such task or version.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Metadata(metadata::Error::NotFound { .. }))
    }

    /// Whether a version's file is not, and never again will be, what was published.
    pub fn is_damaged(&self) -> bool {
        matches!(
            self,
            Self::Malformed { .. }
                | Self::Manifest { .. }
                | Self::Store(store::Error::Digest { .. } | store::Error::NotFound { .. })
        )
    }
}

/// Result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// A version's record and its file, which was checked against it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The record.
    pub record: Arc<VersionRecord>,
    /// The safetensors file.
    pub bytes: Bytes,
}

/// Tasks and versions. Clones are cheap.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    metadata: Arc<dyn MetadataStore>,
    cache: Cache<VersionRef, Loaded>,
    view: View,
    desired: broadcast::Sender<(TenantId, TaskId)>,
}

impl Registry {
    /// A registry over its parts.
    pub fn new(config: Config, store: Store, metadata: Arc<dyn MetadataStore>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                metadata,
                cache: Cache::new(config.cache_bytes),
                view: View::new(&config),
                config,
                desired: broadcast::channel(ANNOUNCEMENTS).0,
            }),
        }
    }

    /// Creates a task; idempotent by `request`.
    ///
    /// # Errors
    /// When the tenant has one of that id, a field is out of range, or the database fails.
    pub async fn create_task(
        &self,
        tenant: &TenantId,
        task: NewTask,
        request: Option<RequestId>,
    ) -> Result<TaskRecord> {
        check_display_name(&task.display_name)?;
        task.adapter.validate()?;
        task.sampling.validate()?;
        let _writing = self.inner.view.writing(tenant, &task.id);
        let metadata = &self.inner.metadata;
        Ok(metadata.create_task(tenant, task, request).await?)
    }

    /// Reads a task.
    ///
    /// # Errors
    /// When the tenant has no such task, or the database fails.
    pub async fn get_task(&self, tenant: &TenantId, task: &TaskId) -> Result<TaskRecord> {
        Ok(self.inner.metadata.get_task(tenant, task).await?)
    }

    /// Lists tasks by id.
    ///
    /// # Errors
    /// When the page token is not from this listing, or the database fails.
    pub async fn list_tasks(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<TaskRecord>> {
        Ok(self.inner.metadata.list_tasks(tenant, page).await?)
    }

    /// Changes a task, if `etag` is absent or current.
    ///
    /// # Errors
    /// [`metadata::Error::EtagMismatch`], a display name that is too long, or when the database fails.
    pub async fn update_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        update: TaskUpdate,
        etag: Option<&str>,
    ) -> Result<TaskRecord> {
        if let Some(name) = &update.display_name {
            check_display_name(name)?;
        }
        let _writing = self.inner.view.writing(tenant, task);
        let metadata = &self.inner.metadata;
        Ok(metadata.update_task(tenant, task, update, etag).await?)
    }

    /// Deletes a task and its versions, if `etag` is absent or current. It is announced, so that whoever serves it can stop.
    ///
    /// # Errors
    /// [`metadata::Error::InUse`] when an unfinished job trains it, [`metadata::Error::EtagMismatch`], or when the database fails.
    pub async fn delete_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        etag: Option<&str>,
    ) -> Result<()> {
        let writing = self.inner.view.writing(tenant, task);
        let versions = self.inner.metadata.delete_task(tenant, task, etag).await?;
        self.forget(tenant, task);
        drop(writing);
        self.announce(tenant, task);
        for version in versions {
            let key = layout::version(tenant, task, version.version, version.sha256);
            // The records are gone, so the call has succeeded; a blob that stays behind is an orphan for the collector.
            if let Err(error) = self.inner.store.delete(&key).await {
                tracing::warn!(%key, error = &error as &dyn std::error::Error, "cannot delete an unused object");
            }
        }
        Ok(())
    }

    /// Reads a version.
    ///
    /// # Errors
    /// When the tenant has no such version, or the database fails.
    pub async fn get_version(&self, version: &VersionRef) -> Result<VersionRecord> {
        let VersionRef {
            tenant,
            task,
            version,
        } = version;
        let metadata = &self.inner.metadata;
        Ok(metadata.get_version(tenant, task, *version).await?)
    }

    /// Lists a task's versions, oldest first.
    ///
    /// # Errors
    /// When the tenant has no such task, the page token is not from this listing, or the database fails.
    pub async fn list_versions(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        page: &PageRequest,
    ) -> Result<Page<VersionRecord>> {
        Ok(self
            .inner
            .metadata
            .list_versions(tenant, task, page)
            .await?)
    }

    /// Asks for a version to serve, if `etag` is current, and announces it.
    ///
    /// # Errors
    /// [`metadata::Error::EtagMismatch`], no such task or version, or when the database fails.
    pub async fn set_serving(&self, version: &VersionRef, etag: &str) -> Result<TaskRecord> {
        let _writing = self.inner.view.writing(&version.tenant, &version.task);
        let metadata = &self.inner.metadata;
        let task = metadata
            .set_desired(&version.tenant, &version.task, version.version, etag)
            .await?;
        self.announce(&version.tenant, &version.task);
        Ok(task)
    }

    /// Reads a version's file and checks it against its record.
    ///
    /// # Errors
    /// [`store::Error::Digest`] when the file is damaged, [`Error::Manifest`] when it says something else than the record; no such version.
    pub async fn load(&self, version: &VersionRef) -> Result<Loaded> {
        match self.inner.cache.get(version) {
            Some(loaded) => Ok(loaded),
            None => self.read(version).await,
        }
    }

    /// As [`Registry::load`], but the record is asked even when the file is in memory: for a caller who may see only what is there now.
    ///
    /// # Errors
    /// As [`Registry::load`].
    pub async fn load_current(&self, version: &VersionRef) -> Result<Loaded> {
        match self.inner.cache.get(version) {
            Some(loaded) => {
                self.get_version(version).await?;
                Ok(loaded)
            }
            None => self.read(version).await,
        }
    }

    async fn read(&self, version: &VersionRef) -> Result<Loaded> {
        let ticket = self.inner.cache.ticket();
        let record = self.get_version(version).await?;
        let key = layout::version(
            &version.tenant,
            &version.task,
            version.version,
            record.sha256,
        );
        let bytes = match self.inner.store.get_verified(&key, record.sha256).await {
            Ok(bytes) => bytes,
            Err(missing @ store::Error::NotFound { .. }) => {
                // The version may have been deleted between its record and its file, which is no damage.
                self.get_version(version).await?;
                return Err(missing.into());
            }
            Err(error) => return Err(error.into()),
        };
        let loaded = Loaded {
            record: Arc::new(record),
            bytes,
        };
        self.check(version, loaded.clone()).await?;
        let size = loaded.bytes.len() as u64;
        self.inner
            .cache
            .insert(ticket, version.clone(), loaded.clone(), size);
        Ok(loaded)
    }

    /// Checks a file against its record, off the async threads: a manifest can be a megabyte.
    async fn check(&self, version: &VersionRef, loaded: Loaded) -> Result<()> {
        let work = move || manifest::check(&loaded.bytes, &loaded.record.manifest);
        let checked = tokio::task::spawn_blocking(work).await;
        // A check that broke off is a check that failed.
        let checked = checked.unwrap_or_else(|error| Err(Mismatch::Malformed(error.to_string())));
        checked.map_err(|mismatch| match mismatch {
            Mismatch::Malformed(problem) => Error::Malformed {
                version: version.to_string(),
                problem,
            },
            Mismatch::Field(field) => Error::Manifest {
                version: version.clone(),
                field,
            },
        })
    }

    /// Drops what is in memory of a task that is gone.
    fn forget(&self, tenant: &TenantId, task: &TaskId) {
        self.inner.view.forget(tenant, task);
        self.inner
            .cache
            .remove_all(|version| version.tenant == *tenant && version.task == *task);
    }

    /// Announces every task whose desired version changes from now on, and every task that is deleted. A subscriber that falls behind is told, and
    /// then asks for [`Registry::pending`].
    pub fn subscribe(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.inner.desired.subscribe()
    }

    /// Tasks of all tenants whose desired version is not the serving one: what is to be done at start. Those with a `serving_error` were tried.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pending(&self) -> Result<Vec<TaskRecord>> {
        Ok(self.inner.metadata.pending_tasks().await?)
    }

    /// Makes the desired version, which is resident and warm, the serving one. Returns whether it still was the desired one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn serving_moved(&self, version: &VersionRef) -> Result<bool> {
        let _writing = self.inner.view.writing(&version.tenant, &version.task);
        let metadata = &self.inner.metadata;
        let moved = metadata
            .move_serving(&version.tenant, &version.task, version.version)
            .await?;
        if moved {
            faults::point("alias-moved");
        }
        Ok(moved)
    }

    /// Says why the desired version cannot serve. Returns whether it still was the desired one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn serving_failed(&self, version: &VersionRef, why: &str) -> Result<bool> {
        let _writing = self.inner.view.writing(&version.tenant, &version.task);
        let metadata = &self.inner.metadata;
        Ok(metadata
            .serving_failed(&version.tenant, &version.task, version.version, why)
            .await?)
    }

    fn announce(&self, tenant: &TenantId, task: &TaskId) {
        // Nobody may be listening yet: then `pending` tells.
        let _ = self.inner.desired.send((tenant.clone(), task.clone()));
    }
}
