//! What callers do with jobs: submit, look, cancel, watch.
//!
//! Invariant: every answer comes from the database; nothing here knows whether a runner of this process has the job.

mod preview;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::features;
use super::feed::{Feeds, Watcher};
use super::hints::Hints;
use super::memory::{self, Demand};
use super::selection::{self, Policy};
use super::state::Stop;
use super::{Config, Error, labelling, mirror, parent, plan};
use crate::ids::{DatasetId, JobId, RequestId, TaskId, TenantId};
use crate::metadata::{
    self, EventRecord, JobRecord, Jobs, MetadataStore, NewJob, Page, PageRequest, Topic,
};
use crate::model::{Backbone, Features, StepShape};
use crate::rng;
use crate::spec::{AdapterConfig, Digest, HyperParameters, Invalid, LabelKind, Split};
use crate::telemetry::Metrics;

/// Shortest time between two looks whether this process has a job.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// A job as its owner submits it, besides its task and data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Hyper-parameters as submitted.
    pub hyper_parameters: HyperParameters,
    /// Whether the version may serve by itself although its labels are not those of the version that serves.
    pub allow_label_change: bool,
    /// Priority among the tenant's waiting jobs.
    pub priority: i32,
    /// The version of the data set that the job reads; `None` for what it holds at the submission.
    pub dataset_version: Option<u32>,
}

impl From<HyperParameters> for Submission {
    fn from(hyper_parameters: HyperParameters) -> Self {
        Self {
            hyper_parameters,
            allow_label_change: false,
            priority: 0,
            dataset_version: None,
        }
    }
}

/// Submits, reads, cancels and watches jobs; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) metadata: Arc<dyn MetadataStore>,
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
    /// Waits until no runner of this process has had a job for so long.
    pub async fn idle_for(&self, span: Duration) {
        let mut looks = tokio::time::interval((span / 8).clamp(SHORTEST_LOOK, LONGEST_LOOK));
        let mut since = Instant::now();
        let mut taken = 0;
        loop {
            looks.tick().await;
            let (is_busy, now) = self.hints.activity();
            if is_busy || now != taken {
                (since, taken) = (Instant::now(), now);
            } else if since.elapsed() >= span {
                return;
            }
        }
    }

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
        wanted: impl Into<Submission>,
        request: Option<RequestId>,
    ) -> Result<JobRecord, Error> {
        let Submission {
            mut hyper_parameters,
            allow_label_change,
            priority,
            dataset_version,
        } = wanted.into();
        if !(-100..=100).contains(&priority) {
            let problem = format!("expected -100 to 100, got {priority}");
            return Err(Invalid::new("priority", problem).into());
        }
        plan::check(&hyper_parameters)?;
        mirror::check(&hyper_parameters)?;
        selection::check(hyper_parameters.selection.get_or_insert_default())?;
        let kind = self.label_kind(tenant, dataset).await?;
        labelling::complete(&mut hyper_parameters, kind)?;
        self.check_parent(tenant, (task, dataset), &hyper_parameters)
            .await?;
        let mut warning = None;
        let mut clip_frames = 1;
        let of = (tenant, task, (dataset, dataset_version));
        let demand = self.demand(of, &hyper_parameters);
        if let Some((demand, work)) = demand.await? {
            clip_frames = work;
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
            dataset_version,
            hyper_parameters,
            allow_label_change,
            priority,
            clip_frames,
            warning,
            limit: self.limit,
        };
        let record = self.metadata.submit_job(tenant, job, request).await?;
        self.hints.job_queued();
        self.hints.events_written(record.id);
        self.metadata.tell(Topic::Jobs);
        Ok(record)
    }

    /// Whether the labels of a data set exclude one another; of one that is not there they do, since submitting says that it is not.
    pub(super) async fn label_kind(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<LabelKind, Error> {
        let found = known(self.metadata.get_dataset(tenant, dataset).await)?;
        Ok(found.map_or(LabelKind::Single, |own| own.label_kind))
    }

    /// Checks the version that a job of a task on a data set is to continue.
    ///
    /// # Errors
    /// No such task or version; one that the task's jobs cannot continue on this data set.
    pub async fn check_parent(
        &self,
        tenant: &TenantId,
        (task, dataset): (&TaskId, &DatasetId),
        hyper: &HyperParameters,
    ) -> Result<(), Error> {
        let Some(number) = parent::number(hyper.parent)? else {
            return Ok(());
        };
        let adapter = self.metadata.get_task(tenant, task).await?.adapter;
        let version = self.metadata.get_version(tenant, task, number).await?;
        let own = (number, &version.manifest);
        let kind = self.label_kind(tenant, dataset).await?;
        Ok(parent::check(
            own,
            (&adapter, kind),
            self.backbone.digest(),
        )?)
    }

    /// What training will take, and how many frames of clips in all; `None` when it is not known, since the task or the data set is not there: submitting says so.
    async fn demand(
        &self,
        (tenant, task, dataset): (&TenantId, &TaskId, (&DatasetId, Option<u32>)),
        hyper: &HyperParameters,
    ) -> Result<Option<(Demand, u64)>, Error> {
        let task = known(self.metadata.get_task(tenant, task).await)?;
        let sizes = self.sizes(tenant, dataset).await?;
        let (Some(task), Some((clips, labels))) = (task, sizes) else {
            return Ok(None);
        };
        let frames = usize::from(task.sampling.num_frames.get());
        self.check_disk(&task.adapter, frames, clips)?;
        let demand = self.demand_of((&task.adapter, frames), labels, hyper);
        let plan = plan::Plan::new(hyper, clips, &task.adapter, 0)
            .with_labels(hyper, labels)
            .with_frames(frames);
        Ok(demand.map(|demand| (demand, plan.clip_frames())))
    }

    /// How many training examples a data set or a version of one has (of labels that do not exclude one another, at most that many), and how many labels;
    /// `None` when it is not there.
    async fn sizes(
        &self,
        tenant: &TenantId,
        (dataset, version): (&DatasetId, Option<u32>),
    ) -> Result<Option<(u64, usize)>, Error> {
        if version.is_some() {
            return match self.counted(tenant, (dataset, version), 0.0).await {
                Ok(counted) => Ok(Some((counted.clips, counted.labels))),
                Err(Error::Metadata(metadata::Error::NotFound { .. })) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let Some(dataset) = known(self.metadata.get_dataset(tenant, dataset).await)? else {
            return Ok(None);
        };
        // The counts are those of the first labels: when there are more, the job itself finds out.
        let counts = dataset.counts.iter();
        let trained = counts.clone().filter(|count| count.split == Split::Train);
        let used = counts.filter(|count| count.split != Split::Test);
        let labels: BTreeSet<&str> = used.map(|count| count.label.as_str()).collect();
        // An example of several labels is counted with each of them.
        let clips: u64 = trained.map(|count| count.examples).sum();
        Ok(Some((clips.min(dataset.examples), labels.len())))
    }

    /// Refuses a job without adapters whose frozen features take more of the disk than one job may.
    fn check_disk(
        &self,
        adapter: &AdapterConfig,
        frames: usize,
        clips: u64,
    ) -> Result<(), Invalid> {
        if !adapter.has_sites() {
            let width = Features::width(self.backbone.config(), adapter.head, frames);
            let width = width * features::draws(adapter.head);
            memory::check_features(clips, width, self.feature_bytes)?;
        }
        Ok(())
    }

    /// What the training of a set of so many labels on clips of so many frames takes; `None` for a task that does not fit the backbone, which may have
    /// changed since: that is the job's failure.
    fn demand_of(
        &self,
        (adapter, frames): (&AdapterConfig, usize),
        labels: usize,
        hyper: &HyperParameters,
    ) -> Option<Demand> {
        let of = (self.backbone.config(), self.backbone.precision());
        let sizes = StepShape::new(of, *adapter, labels.max(1), frames).ok()?;
        let sizes = sizes.at(self.backbone.place());
        let publish = Policy::new(hyper.selection.as_ref()).publish;
        Some(Demand::new(sizes, adapter.has_sites(), self.bytes).publishing(publish))
    }

    /// What sketches of the resident backbone are kept under, which jobs take of the videos of their data sets.
    pub fn sketches(&self) -> Digest {
        crate::library::sketches_of(self.backbone.digest())
    }

    /// Looks for jobs and events soon, since another process has queued or ended some.
    pub fn look(&self) {
        self.hints.look();
    }

    /// Whether a job was submitted with this request before: then submitting it again returns that job, whatever has become of what it names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_submitted(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
    ) -> Result<bool, Error> {
        let asked = |request| self.metadata.requested_job(tenant, request);
        was_made(request.map(asked)).await
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
        self.hints.stop(job, Stop::Cancel);
        self.hints.events_written(job);
        self.metadata.tell(Topic::Jobs);
        Ok(record)
    }

    /// Makes a job wait: its worker leaves a checkpoint and gives it back, and none takes it until it is resumed.
    ///
    /// # Errors
    /// When the tenant has no such job, or it has ended or published its version.
    pub async fn pause(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord, Error> {
        let record = self.metadata.pause_job(tenant, job, true).await?;
        self.hints.stop(job, Stop::Pause);
        self.hints.events_written(job);
        self.metadata.tell(Topic::Jobs);
        Ok(record)
    }

    /// Lets a paused job go on; one that is not paused stays as it is.
    ///
    /// # Errors
    /// Same as [`Self::pause`].
    pub async fn resume(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord, Error> {
        let record = self.metadata.pause_job(tenant, job, false).await?;
        self.hints.job_queued();
        self.hints.events_written(job);
        self.metadata.tell(Topic::Jobs);
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

/// Whether anything was found of what a request made before; nothing is where there is no request.
pub(super) async fn was_made<T>(
    found: Option<impl Future<Output = metadata::Result<Option<T>>>>,
) -> Result<bool, Error> {
    match found {
        Some(found) => Ok(found.await?.is_some()),
        None => Ok(false),
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
