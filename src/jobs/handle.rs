//! What callers do with jobs: submit, look, cancel, watch.
//!
//! Invariant: every answer comes from the database; nothing here knows whether a runner of this process has the job.

mod preview;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures::{Stream, stream};
use uuid::Uuid;

use super::features;
use super::feed::{Feeds, Watcher};
use super::hints::Hints;
use super::memory::{self, Demand};
use super::{Config, Error, mirror, plan, selection};
use crate::ids::{DatasetId, JobId, RequestId, TaskId, TenantId};
use crate::metadata::{
    self, EventRecord, JobRecord, Jobs, MetadataStore, NewJob, Page, PageRequest,
};
use crate::model::{Backbone, Features, StepShape};
use crate::rng;
use crate::spec::{HyperParameters, Split};
use crate::telemetry::Metrics;

/// What a job is to do with its task.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// How to train.
    pub hyper_parameters: HyperParameters,
    /// Whether the version may serve by itself although its labels are not those of the version that serves.
    pub allow_label_change: bool,
}

impl From<HyperParameters> for Wanted {
    fn from(hyper_parameters: HyperParameters) -> Self {
        Self {
            hyper_parameters,
            allow_label_change: false,
        }
    }
}

/// Submits, reads, cancels and watches jobs; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    metadata: Arc<dyn MetadataStore>,
    hints: Arc<Hints>,
    feeds: Arc<Feeds>,
    backbone: Arc<Backbone>,
    metrics: Metrics,
    limit: u32,
    /// Bytes of memory that one job's training may take.
    bytes: u64,
    /// Bytes of disk that the frozen features of one job may take.
    feature_bytes: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(
        metadata: Arc<dyn MetadataStore>,
        hints: Arc<Hints>,
        backbone: Arc<Backbone>,
        metrics: Metrics,
        config: &Config,
    ) -> Self {
        let feeds = Feeds::new(Arc::clone(&hints), config.poll, config.watchers_per_tenant);
        Self {
            metadata,
            hints,
            feeds: Arc::new(feeds),
            backbone,
            metrics,
            limit: config.unfinished_per_tenant,
            bytes: config.step_bytes,
            feature_bytes: config.feature_bytes,
        }
    }

    /// Queues a job and returns at once. The seed is drawn here when none is given; the data set's snapshot is taken now.
    ///
    /// # Errors
    /// A hyper-parameter out of range, or a batch or frozen features that take more than a job may; no such task or data set; too many unfinished jobs.
    pub async fn submit(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        dataset: &DatasetId,
        wanted: impl Into<Wanted>,
        request: Option<RequestId>,
    ) -> Result<JobRecord, Error> {
        let Wanted {
            mut hyper_parameters,
            allow_label_change,
        } = wanted.into();
        plan::check(&hyper_parameters)?;
        mirror::check(&hyper_parameters)?;
        selection::check(hyper_parameters.selection.get_or_insert_default())?;
        let mut warning = None;
        if let Some(demand) = self.demand(tenant, task, dataset).await? {
            hyper_parameters.batch_size = demand.admitted(hyper_parameters.batch_size)?;
            if !demand.decodes() {
                warning = mirror::unused_by_probe(&hyper_parameters);
            }
        }
        // A repeated request has to ask for the same, so its seed follows from its id.
        let id = request.map_or_else(|| JobId::generate().uuid(), |request| request.uuid());
        hyper_parameters.seed.get_or_insert_with(|| draw_seed(id));
        let job = NewJob {
            task: task.clone(),
            dataset: dataset.clone(),
            hyper_parameters,
            allow_label_change,
            warning,
            limit: self.limit,
        };
        let record = self.metadata.submit_job(tenant, job, request).await?;
        self.hints.job_queued();
        self.hints.events_written(record.id);
        Ok(record)
    }

    /// What training will take; `None` when it is not known, since the task or the data set is not there: submitting says so.
    async fn demand(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        dataset: &DatasetId,
    ) -> Result<Option<Demand>, Error> {
        let task = known(self.metadata.get_task(tenant, task).await)?;
        let dataset = known(self.metadata.get_dataset(tenant, dataset).await)?;
        let (Some(task), Some(dataset)) = (task, dataset) else {
            return Ok(None);
        };
        if !task.adapter.has_sites() {
            // The counts of the first labels: when there are more, the job itself finds out.
            let trained = dataset
                .counts
                .iter()
                .filter(|count| count.split == Split::Train);
            let rows = trained.map(|count| count.examples).sum();
            let frames = usize::from(task.sampling.num_frames.get());
            let width = Features::width(self.backbone.config(), task.adapter.head, frames);
            let width = width * features::draws(task.adapter.head);
            memory::check_features(rows, width, self.feature_bytes)?;
        }
        let counts = dataset.counts.iter();
        let used = counts.filter(|count| count.split != Split::Test);
        let labels: BTreeSet<&str> = used.map(|count| count.label.as_str()).collect();
        let frames = usize::from(task.sampling.num_frames.get());
        let of = (self.backbone.config(), self.backbone.precision());
        // A task that does not fit the backbone, which may have changed since, is the job's failure.
        let sizes = StepShape::new(of, task.adapter, labels.len().max(1), frames).ok();
        Ok(sizes.map(|sizes| Demand::new(sizes, task.adapter.has_sites(), self.bytes)))
    }

    /// Reads a job.
    ///
    /// # Errors
    /// When the tenant has no such job.
    pub async fn get(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord, Error> {
        Ok(self.metadata.get_job(tenant, job).await?)
    }

    /// Lists a tenant's jobs, oldest first.
    ///
    /// # Errors
    /// When the page's token is not from this listing.
    pub async fn list(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<JobRecord>, Error> {
        Ok(self.metadata.list_jobs(tenant, page).await?)
    }

    /// Asks a job to stop: at once when it waits, else before its next slice on the device.
    ///
    /// # Errors
    /// When the tenant has no such job, or it has ended.
    pub async fn cancel(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord, Error> {
        let record = self.metadata.cancel_job(tenant, job).await?;
        if record.state.is_final() {
            // It waited, so that no runner counts it.
            self.metrics.job_finished(tenant, record.state);
            self.hints.cancelled_while_waiting(record.clone());
        }
        self.hints.cancel(job);
        self.hints.events_written(job);
        Ok(record)
    }

    /// A job's events after a sequence number (0 means all): those that are there, then new ones as they come. Ends when the job has ended.
    ///
    /// # Errors
    /// When the tenant has no such job or as many watchers as it may have; later, in the stream, when the database fails.
    pub async fn watch(
        &self,
        tenant: &TenantId,
        job: JobId,
        after: u64,
    ) -> Result<impl Stream<Item = Result<EventRecord, Error>> + Send + 'static + use<>, Error>
    {
        let jobs = Arc::clone(&self.metadata) as Arc<dyn Jobs>;
        let watcher = Watcher::new(jobs, &self.feeds, tenant, job, after).await?;
        Ok(stream::try_unfold(watcher, |mut watcher| async move {
            Ok(watcher.next().await?.map(|event| (event, watcher)))
        }))
    }
}

/// What was found, if it is there.
fn known<T>(found: metadata::Result<T>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(metadata::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A seed that nobody chose: the random bits of a new id. Below 2^53, so that programs that read whole numbers as doubles keep every digit.
fn draw_seed(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    rng::splitmix64(high ^ low.rotate_left(32)) >> 11
}
