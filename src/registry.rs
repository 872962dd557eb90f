//! Tasks, their immutable versions, and which of them serves.
//!
//! Invariant: a version's file and its record agree and never change; a version whose bytes differ from those that were published is never handed
//! out; a desired version becomes the serving one by compare-and-swap only.

mod cache;
mod feed;
mod fitness;
mod import;
mod loading;
mod manifest;
mod pending;
mod proof;
mod publish;
mod split;
mod view;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use cache::Cache;
use loading::FORMS;
use tokio::sync::broadcast;
use view::View;

pub use fitness::Fitness;
pub use import::{Import, manifest_of};
pub use loading::{Form, Loaded};
pub use pending::{Desired, Role};
pub use publish::Publication;
pub use split::{Key, Split};
pub use view::{Essentials, Served, Standing, TASK_BYTES};

use crate::faults;
use crate::ids::{AdapterVersion, RequestId, TaskId, TenantId, VersionRef};
use crate::metadata::{
    self, MetadataStore, NewTask, Page, PageRequest, Plan, TaskRecord, TaskUpdate, VersionRecord,
    check_display_name,
};
use crate::spec::Invalid;
use crate::store::{self, Store, layout};
use crate::telemetry::replica;

/// Most announcements pending for a slow subscriber. It is told when it missed some and then calls [`Registry::pending`], so the number only has to
/// cover a burst of publications.
const ANNOUNCEMENTS: usize = 256;

/// Limits of the registry.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most bytes of versions' files that are kept in memory; larger files are not kept, and none at 0.
    pub cache_bytes: u64,
    /// Most bytes of versions' descriptions, chiefly their labels, that are kept in memory.
    pub view_bytes: u64,
    /// How long cached facts about tasks are used while the change feed cannot be read.
    pub stale_limit: Duration,
    /// Interval at which the change feed is read, besides the hints of this process.
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
        /// Name of the version, or of the task that it was to be published for.
        version: String,
        /// Fault in the file.
        problem: String,
    },
    /// A version's file and its record disagree.
    #[error("the file of {version} disagrees with its record on {field}")]
    Manifest {
        /// Reference of the version.
        version: VersionRef,
        /// Field on which they disagree.
        field: String,
    },
    /// An error of the records.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
    /// An error of the store; [`store::Error::Digest`] when a version's file is damaged.
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
                | Self::Store(
                    store::Error::Digest { .. }
                        | store::Error::Size { .. }
                        | store::Error::NotFound { .. }
                )
        )
    }
}

/// Result of a call to the registry.
pub type Result<T> = std::result::Result<T, Error>;

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
    /// Versions whose files were compared with their records.
    forms: Cache<VersionRef, Form>,
    view: View,
    /// Name of this process among those that share the records; `None` when it has them alone.
    replica: Option<String>,
    desired: broadcast::Sender<(TenantId, TaskId)>,
}

impl Registry {
    /// Creates a registry over its parts.
    pub fn new(config: Config, store: Store, metadata: Arc<dyn MetadataStore>) -> Self {
        Self::of_replica(config, store, metadata, &replica::name())
    }

    /// Creates the registry of a process with this name.
    pub fn of_replica(
        config: Config,
        store: Store,
        metadata: Arc<dyn MetadataStore>,
        name: &str,
    ) -> Self {
        let is_shared = !metadata.is_exclusive();
        Self {
            inner: Arc::new(Inner {
                store,
                metadata,
                cache: Cache::new(config.cache_bytes),
                forms: Cache::new(FORMS),
                view: View::new(&config),
                replica: is_shared.then(|| name.to_owned()),
                config,
                desired: broadcast::channel(ANNOUNCEMENTS).0,
            }),
        }
    }

    /// Creates a task; idempotent by `request`.
    ///
    /// # Errors
    /// When the tenant already has a task with that id, a field is out of range, or the database fails.
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

    /// Deletes a task and its versions, if `etag` is absent or current. The deletion is announced, so that the engine can stop serving it.
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

    /// Reads the numbers of a task's versions, from the oldest to the newest, if it has any. A version with a lower number was of a task that had the name
    /// before and was deleted; one with a higher number was lost by a failover of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn version_range(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>> {
        Ok(self.inner.metadata.version_range(tenant, task).await?)
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

    /// Makes a plan's versions the desired ones, if `etag` is current, and announces it.
    ///
    /// # Errors
    /// [`metadata::Error::EtagMismatch`], no such task or version, a plan that does not add up, or when the database fails.
    pub async fn set_serving(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        plan: &Plan,
        etag: &str,
    ) -> Result<TaskRecord> {
        plan.check()?;
        let metadata = &self.inner.metadata;
        let change = metadata.set_desired(tenant, task, plan, etag);
        self.announcing(tenant, task, change).await
    }

    /// Makes what served before the desired version, if `etag` is current, and announces it.
    ///
    /// # Errors
    /// [`metadata::Error::EtagMismatch`], [`metadata::Error::NothingBefore`], no such task, or when the database fails.
    pub async fn roll_back(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        etag: &str,
    ) -> Result<TaskRecord> {
        let metadata = &self.inner.metadata;
        let change = metadata.roll_back(tenant, task, etag);
        self.announcing(tenant, task, change).await
    }

    /// Drops everything in memory of a task that is gone.
    fn forget(&self, tenant: &TenantId, task: &TaskId) {
        self.inner.view.forget(tenant, task);
        let is_own = |version: &VersionRef| version.tenant == *tenant && version.task == *task;
        self.inner.cache.remove_all(is_own);
        self.inner.forms.remove_all(is_own);
    }

    /// Announces every task whose desired version changes from now on, and every task that is deleted. A subscriber that falls behind is told, and
    /// then calls [`Registry::pending`].
    pub fn subscribe(&self) -> broadcast::Receiver<(TenantId, TaskId)> {
        self.inner.desired.subscribe()
    }

    /// Makes the desired version, which is resident and warm, the serving one. Returns whether it was still the desired one.
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

    /// Records why the desired version cannot serve. Returns whether it was still the desired one.
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

    /// Records that a version of a task's split was proved, or why it cannot serve. Returns whether that is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_member(&self, version: &VersionRef, why: Option<&str>) -> Result<bool> {
        let VersionRef {
            tenant,
            task,
            version,
        } = version;
        let _writing = self.inner.view.writing(tenant, task);
        let metadata = &self.inner.metadata;
        Ok(metadata.note_member(tenant, task, *version, why).await?)
    }

    /// Changes which versions of a task are to be in memory, and announces it.
    async fn announcing(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        change: impl Future<Output = metadata::Result<TaskRecord>>,
    ) -> Result<TaskRecord> {
        let mut notice = self.notice(tenant, task);
        let _writing = self.inner.view.writing(tenant, task);
        let changed = change.await;
        notice.is_due = changed.as_ref().map_or_else(may_have_changed, |_| true);
        Ok(changed?)
    }

    /// The notice of a change that is about to be made.
    fn notice(&self, tenant: &TenantId, task: &TaskId) -> Notice<'_> {
        Notice {
            registry: self,
            task: (tenant.clone(), task.clone()),
            is_due: true,
        }
    }

    fn announce(&self, tenant: &TenantId, task: &TaskId) {
        // Nobody may be listening yet; they will learn it from `pending`.
        let _ = self.inner.desired.send((tenant.clone(), task.clone()));
    }
}

/// Announces a task when it is dropped, unless nothing has changed: a caller that leaves does not take the notice with it, since the records may have changed.
struct Notice<'a> {
    registry: &'a Registry,
    task: (TenantId, TaskId),
    is_due: bool,
}

impl Drop for Notice<'_> {
    fn drop(&mut self) {
        if self.is_due {
            self.registry.announce(&self.task.0, &self.task.1);
        }
    }
}

/// Whether a change may have been made although it failed.
fn may_have_changed(error: &metadata::Error) -> bool {
    matches!(error, metadata::Error::Unavailable(_))
}

#[cfg(test)]
mod tests;
