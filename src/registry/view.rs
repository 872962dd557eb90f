//! The records that classification needs, in memory: which version serves a task, and what describes a version.
//!
//! Invariant: an answer is what the records said when the change feed was last read to its end, or newer, and that is no longer ago than the stale
//! limit; a change through this process is seen by every call after its answer. Memory is bounded.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::cache::{Cache, Ticket};
use super::loading::FORMS;
use super::proof::SWAP_GRACE;
use super::{Config, Error, Registry, Result, Split};
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef, VideoId};
use crate::metadata::{self, TaskRecord, VersionRecord, VideoRecord};
use crate::spec::{ClipSampling, Digest, LabelSet, Sureness};

/// Most tasks that are kept: some 300 bytes each.
const TASKS: u64 = 100_000;
/// Most videos whose records are kept: some 600 bytes each.
const VIDEOS: u64 = 20_000;
/// Bytes that the tasks and videos of the view, and the forms of versions, take at most.
pub const TASK_BYTES: u64 = 300 * TASKS + 600 * VIDEOS + 300 * FORMS;
/// How long the database may take to answer when there is nothing older to fall back on.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the database may take when the older answer would do.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// Tenant and task.
type Key = (TenantId, TaskId);

/// Which version serves a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The version that answers now.
    pub serving: Option<AdapterVersion>,
    /// Whether another version is desired and has not failed: it will serve soon.
    pub is_moving: bool,
    /// What the records say of a serving version that is also the desired one; `None` when another is desired.
    pub standing: Option<Standing>,
    /// How requests are shared out among versions; `None` when the serving one answers all of them.
    pub split: Option<Arc<Split>>,
}

/// What is on record about a serving version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known against the version.
    Good,
    /// The version could not be served.
    Failed,
}

/// What classification needs to know of a version.
#[derive(Debug, Clone, PartialEq)]
pub struct Essentials {
    /// Labels of the version: row i of the head is label i.
    pub labels: LabelSet,
    /// How clips are sampled.
    pub sampling: ClipSampling,
    /// Digest of the backbone that the version was trained on.
    pub backbone_digest: Digest,
    /// sha256 of the version's file.
    pub sha256: Digest,
    /// How sure its answers are.
    pub sureness: Sureness,
    /// Score of each label from which on it is selected; empty when labels exclude one another, and when nothing is known of labels that do not.
    pub thresholds: Arc<[f32]>,
}

#[derive(Debug, Clone)]
struct Known {
    served: Served,
    /// Whether nothing is known to have changed since it was read.
    is_fresh: bool,
    /// The version that served before, and when it was found to serve no longer.
    before: Option<(AdapterVersion, Instant)>,
    /// Which of the tasks that had the name one after the other it is.
    incarnation: Arc<str>,
}

/// What is kept of a version, and of which of the tasks that had its task's name it is.
#[derive(Debug, Clone)]
struct Described {
    essentials: Arc<Essentials>,
    incarnation: Arc<str>,
}

/// What tells a task from others that had its name: its etag without the revision.
fn incarnation(record: &TaskRecord) -> &str {
    let etag = record.etag.as_str();
    etag.rsplit_once('-').map_or(etag, |(own, _)| own)
}

impl Known {
    fn of(record: &TaskRecord, before: Option<(AdapterVersion, Instant)>) -> Self {
        Self {
            served: Served::of(record),
            is_fresh: true,
            before,
            incarnation: incarnation(record).into(),
        }
    }

    /// What served before, once the records are these.
    fn before_now(&self, record: &TaskRecord) -> Option<(AdapterVersion, Instant)> {
        if self.served.serving == record.serving {
            return self.before;
        }
        self.served.serving.map(|own| (own, Instant::now()))
    }
}

pub(super) struct View {
    tasks: Cache<Key, Known>,
    versions: Cache<VersionRef, Described>,
    videos: Cache<(TenantId, VideoId), Arc<VideoRecord>>,
    /// Tasks that this process is changing, and by how many calls. A plain mutex: held for a look-up, never across an await.
    writes: Mutex<HashMap<Key, usize>>,
    /// When the feed was last read to its end; before the first time nothing is answered from memory.
    confirmed: Mutex<Option<Instant>>,
    stale_limit: Duration,
    /// Notified when this process wrote something, so that the feed has news.
    pub(super) hint: Notify,
    /// Another process has changed something.
    pub(super) heard: Notify,
}

impl View {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            tasks: Cache::new(TASKS),
            versions: Cache::new(config.view_bytes),
            videos: Cache::new(VIDEOS),
            writes: Mutex::default(),
            confirmed: Mutex::default(),
            stale_limit: config.stale_limit,
            hint: Notify::new(),
            heard: Notify::new(),
        }
    }

    /// Notes that every change before this moment was read.
    pub(super) fn confirm(&self, at: Instant) {
        *lock(&self.confirmed) = Some(at);
    }

    /// How long ago the view was known to be true; `None` before the first time.
    pub(super) fn age(&self) -> Option<Duration> {
        lock(&self.confirmed).map(|at| at.elapsed())
    }

    fn is_within_limit(&self) -> bool {
        self.age().is_some_and(|age| age <= self.stale_limit)
    }

    fn is_written(&self, key: &Key) -> bool {
        lock(&self.writes).contains_key(key)
    }

    /// Begins a change of a task through this process: until it ends, the records are read.
    pub(super) fn writing(&self, tenant: &TenantId, task: &TaskId) -> Writing<'_> {
        let key = (tenant.clone(), task.clone());
        *lock(&self.writes).entry(key.clone()).or_default() += 1;
        Writing { view: self, key }
    }

    /// The version of a known task that serves, for all that is known; `None`: the task is not known.
    pub(super) fn serving(&self, key: &Key) -> Option<Option<AdapterVersion>> {
        self.tasks.get(key).map(|known| known.served.serving)
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.tasks.ticket()
    }

    /// Stores what was read since the ticket was taken; returns whether it is still the newest.
    pub(super) fn learn(&self, ticket: Ticket, record: &TaskRecord) -> bool {
        let key = (record.tenant.clone(), record.id.clone());
        let before = self.tasks.get(&key).and_then(|own| own.before_now(record));
        let known = Known::of(record, before);
        // A split with all its versions is about as large as a task.
        let weight = 1 + u64::from(known.served.split.is_some());
        self.tasks.insert(ticket, key, known, weight)
    }

    /// Whether another task had the name when it was read: it was deleted since, which the feed does not tell once the name is taken again.
    pub(super) fn is_another(&self, record: &TaskRecord) -> bool {
        let key = (record.tenant.clone(), record.id.clone());
        let known = self.tasks.get(&key);
        known.is_some_and(|own| *own.incarnation != *incarnation(record))
    }

    /// The version that served a task until a moment ago.
    pub(super) fn before(&self, key: &Key) -> Option<AdapterVersion> {
        let (version, since) = self.tasks.get(key)?.before?;
        (since.elapsed() <= SWAP_GRACE).then_some(version)
    }

    /// Notes that the task has changed: its records are read next time.
    pub(super) fn doubt(&self, key: &Key) {
        self.tasks.change(key, |known| known.is_fresh = false);
    }

    /// Removes a task that is gone.
    pub(super) fn forget(&self, tenant: &TenantId, task: &TaskId) {
        self.tasks.remove(&(tenant.clone(), task.clone()));
        self.versions
            .remove_all(|version| version.tenant == *tenant && version.task == *task);
    }

    /// Removes the videos of a tenant, some of which were deleted.
    pub(super) fn forget_videos(&self, tenant: &TenantId) {
        self.videos.remove_all(|(own, _)| own == tenant);
    }

    /// Removes everything, since none of it can be relied on. Returns the tasks that it knew.
    pub(super) fn clear(&self) -> Vec<Key> {
        self.videos.remove_all(|_| true);
        self.versions.remove_all(|_| true);
        self.tasks.remove_all(|_| true)
    }
}

/// A running change of a task through this process.
pub(super) struct Writing<'a> {
    view: &'a View,
    key: Key,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        // Doubt comes first: in between, the records are read for either reason.
        self.view.doubt(&self.key);
        let mut writes = lock(&self.view.writes);
        if let Some(count) = writes.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                writes.remove(&self.key);
            }
        }
        drop(writes);
        self.view.hint.notify_one();
    }
}

impl Served {
    fn of(record: &TaskRecord) -> Self {
        let has_error = record.serving_error.is_some();
        let is_desired = record.desired == record.serving;
        let standing = if has_error {
            Standing::Failed
        } else {
            Standing::Good
        };
        Self {
            serving: record.serving,
            is_moving: !is_desired && !has_error,
            standing: is_desired.then_some(standing),
            split: Split::of(record).map(Arc::new),
        }
    }
}

impl Essentials {
    fn of(record: VersionRecord) -> Self {
        let independent = record.manifest.evaluation.independent.as_ref();
        let labels = independent.map_or(&[][..], |own| &own.labels);
        Self {
            thresholds: labels.iter().map(|own| own.threshold as f32).collect(),
            labels: record.manifest.labels,
            sampling: record.manifest.sampling,
            backbone_digest: record.manifest.backbone_digest,
            sureness: record.manifest.calibration.as_ref().into(),
            sha256: record.sha256,
        }
    }

    /// Approximate bytes in memory.
    fn weight(&self) -> u64 {
        let labels = self.labels.as_slice().iter();
        let texts: usize = labels.map(|label| label.len() + size_of::<String>()).sum();
        let thresholds = size_of_val(&self.thresholds[..]);
        (texts + thresholds + size_of::<Self>() + 256) as u64
    }
}

impl Registry {
    /// The version that serves a task: from memory when the task is known, else from the records. While the database is unavailable, the known answer
    /// is given until the stale limit.
    ///
    /// # Errors
    /// When the tenant has no such task; when the database fails and the task is not known well enough.
    pub async fn served(&self, tenant: &TenantId, task: &TaskId) -> Result<Served> {
        self.known(tenant, task).await.map(|known| known.served)
    }

    /// What is known of a task, read from the records where memory does not have it.
    async fn known(&self, tenant: &TenantId, task: &TaskId) -> Result<Known> {
        let view = &self.inner.view;
        let key = (tenant.clone(), task.clone());
        let known = view.tasks.get(&key).filter(|_| view.is_within_limit());
        if let Some(known) = &known
            && known.is_fresh
            && !view.is_written(&key)
        {
            return Ok(known.clone());
        }
        let ticket = view.ticket();
        let read = self.inner.metadata.get_task(tenant, task);
        match asked(known.is_some(), read).await {
            Ok(record) => {
                if view.is_another(&record) {
                    self.forget(tenant, task);
                    // The feed will find nothing new.
                    self.announce(tenant, task);
                }
                view.learn(ticket, &record);
                Ok(Known::of(&record, None))
            }
            Err(error) => known.filter(|_| !error.is_missing()).ok_or(error),
        }
    }

    /// Has the task known whose version is handed out, so that the feed tells when another task has taken its name. Until then a failure only delays that.
    pub(super) async fn follow_task(&self, version: &VersionRef) {
        if let Err(error) = self.known(&version.tenant, &version.task).await {
            tracing::debug!(%version, %error, "the task of a version is not followed");
        }
    }

    /// What classification needs to know of a version; answered like [`Registry::served`].
    ///
    /// # Errors
    /// When the tenant has no such version; when the database fails and the version is not known well enough.
    pub async fn essentials(&self, version: &VersionRef) -> Result<Arc<Essentials>> {
        let view = &self.inner.view;
        let VersionRef { tenant, task, .. } = version;
        // A version that is in memory may be of a task that was deleted: a call that names its version asks for no task otherwise.
        let owner = match self.known(tenant, task).await {
            Ok(task) => Ok(Some(task.incarnation)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        };
        let known = view.versions.get(version);
        let known = known.filter(|own| match &owner {
            Ok(owner) => owner.as_ref() == Some(&own.incarnation),
            Err(_) => true,
        });
        let known = known.filter(|_| view.is_within_limit());
        if let Some(known) = &known
            && !view.is_written(&(tenant.clone(), task.clone()))
        {
            return Ok(Arc::clone(&known.essentials));
        }
        let owner = match (owner, &known) {
            (Err(error), None) => return Err(error),
            (owner, _) => owner.ok().flatten(),
        };
        let ticket = view.versions.ticket();
        let read = self
            .inner
            .metadata
            .get_version(tenant, task, version.version);
        match asked(known.is_some(), read).await {
            Ok(record) => {
                let essentials = Arc::new(Essentials::of(record));
                if let Some(incarnation) = owner {
                    let (essentials, weight) = (Arc::clone(&essentials), essentials.weight());
                    let described = Described {
                        essentials,
                        incarnation,
                    };
                    view.versions
                        .insert(ticket, version.clone(), described, weight);
                }
                Ok(essentials)
            }
            Err(error) => {
                let known = known.filter(|_| !error.is_missing());
                known.map(|own| own.essentials).ok_or(error)
            }
        }
    }
}

impl Registry {
    /// The record of a video; answered like [`Registry::served`].
    ///
    /// # Errors
    /// When the tenant has no such video; when the database fails and the video is not known well enough.
    pub async fn video(&self, tenant: &TenantId, video: VideoId) -> Result<Arc<VideoRecord>> {
        let view = &self.inner.view;
        let key = (tenant.clone(), video);
        let known = view.videos.get(&key).filter(|_| view.is_within_limit());
        if let Some(known) = known {
            return Ok(known);
        }
        let ticket = view.videos.ticket();
        let record = asked(false, self.inner.metadata.get_video(tenant, video)).await?;
        let record = Arc::new(record);
        view.videos.insert(ticket, key, Arc::clone(&record), 1);
        Ok(record)
    }

    /// Drops the record of a video that this process has deleted, before the deletion is answered.
    pub fn video_deleted(&self, tenant: &TenantId, video: VideoId) {
        self.inner.view.videos.remove(&(tenant.clone(), video));
        self.inner.view.hint.notify_one();
    }
}

/// Runs a read with a time limit, so that a caller of a silent database gets an error.
pub(super) async fn asked<T>(
    has_other: bool,
    read: impl Future<Output = metadata::Result<T>>,
) -> Result<T> {
    let patience = if has_other { IMPATIENCE } else { PATIENCE };
    match tokio::time::timeout(patience, read).await {
        Ok(read) => Ok(read?),
        Err(late) => Err(Error::Metadata(metadata::Error::Unavailable(late.into()))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change leaves the value whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
