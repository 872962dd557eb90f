//! What all runners of a process share, and how a job leaves it.
//!
//! Invariant: every job that ends here is counted once, and its checkpoints are dropped unless its record keeps them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::dataset::Budget;
use super::decoded::Decoded;
use super::failure::{Failure, Outage};
use super::features;
use super::hints::Hints;
use super::leases::Leases;
use super::patience::Patience;
use super::turns::Turns;
use super::{Config, Parts};
use crate::blocking::{blocking, blocking_io};
use crate::ids::{JobId, VideoId};
use crate::metadata::{self, CheckpointRecord, Ending, JobRecord, Lease, PROCESS_LOST, Release};
use crate::shutdown::Signal;
use crate::spec::JobState;
use crate::store::Key;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::LeaseKind;

/// Longest pause between two tries of a write that an outage prevents.
const LONGEST: Duration = Duration::from_secs(10);
/// Shortest time between two counts of the jobs that wait.
const COUNT: Duration = Duration::from_secs(10);

/// Videos that are looked up at a time.
const LOOKED_UP: usize = 500;

/// What all runners share.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) hints: Arc<Hints>,
    pub(super) parts: Parts,
    pub(super) budget: Arc<Budget>,
    /// Decoded frames on the disk; not set before the start, and without that option.
    decoded: OnceLock<Option<Arc<Decoded>>>,
    /// Frozen features that jobs compute now.
    pub(super) turns: Turns,
    pub(super) leases: Leases,
    pub(super) patience: Patience,
    /// When the waiting jobs were counted. Held for a look only, never across an await.
    counted: Mutex<Option<Instant>>,
    pub(super) drain: Signal,
}

/// What is written of a job that leaves its runner.
#[derive(Clone)]
enum Parting {
    Released(Release),
    Ended(Ending),
}

impl Context {
    pub(super) fn new(config: Config, hints: Arc<Hints>, parts: Parts, drain: Signal) -> Self {
        let is_exclusive = parts.metadata.is_exclusive();
        Self {
            budget: Arc::new(Budget::new(config.clip_cache_bytes)),
            decoded: OnceLock::new(),
            turns: Turns::default(),
            leases: Leases::new((!is_exclusive).then_some(config.lease)),
            patience: Patience::new(&config),
            counted: Mutex::new(None),
            config,
            hints,
            parts,
            drain,
        }
    }

    /// Puts back what this process before its start, or another one, lost, and counts who waits, from time to time.
    pub(super) async fn look_around(&self) -> metadata::Result<()> {
        self.put_back_lost().await?;
        if self.is_count_due() {
            self.count_waiting().await?;
        }
        Ok(())
    }

    /// Puts back the jobs whose worker was lost, and tidies up after those that ended thereby.
    pub(super) async fn put_back_lost(&self) -> metadata::Result<()> {
        let alive = self.leases.alive();
        let lost = self.parts.metadata.release_lost_jobs(&alive);
        for job in self.patience.records(lost).await? {
            self.ended(&job).await;
        }
        Ok(())
    }

    /// Counts the jobs that wait for a worker.
    pub(super) async fn count_waiting(&self) -> metadata::Result<()> {
        let count = self.parts.metadata.count_waiting_jobs();
        let waiting = self.patience.records(count).await?;
        self.parts.metrics.jobs_waiting(waiting);
        Ok(())
    }

    /// Whether the waiting jobs were counted long enough ago: a count costs the more the more there are.
    fn is_count_due(&self) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = counted.is_none_or(|at| at.elapsed() >= COUNT);
        if is_due {
            *counted = Some(Instant::now());
        }
        is_due
    }

    /// Records that a job waits again.
    pub(super) async fn release(&self, lease: &Lease, why: Release) {
        self.part(lease, Parting::Released(why)).await;
    }

    /// Records that a job failed.
    pub(super) async fn fail(&self, lease: &Lease, reason: &str, why: &Failure) {
        tracing::info!(job = %lease.job, reason, "job failed");
        let ending = Ending::Failed {
            reason: reason.into(),
            message: why.to_string(),
        };
        self.end(lease, ending).await;
    }

    /// Records that a job ended.
    pub(super) async fn end(&self, lease: &Lease, ending: Ending) {
        self.part(lease, Parting::Ended(ending)).await;
    }

    /// Writes how a job left its runner; waits for the database until the drain.
    async fn part(&self, lease: &Lease, parting: Parting) {
        let drain = self.drain.clone();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match self.try_part(lease, parting.clone()).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::warn!(job = %lease.job, error = &error as &dyn std::error::Error, "cannot record how a job ended");
            if matches!(error, metadata::Error::LeaseLost { .. }) {
                self.parts.metrics.lease_lost(LeaseKind::Job);
            }
            if Outage::of_metadata(&error).is_none() || drain.is_draining() {
                // Its lease will run out, or the next start puts it back.
                return;
            }
            tokio::select! {
                () = drain.draining() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST);
        }
    }

    async fn try_part(&self, lease: &Lease, parting: Parting) -> metadata::Result<()> {
        match parting {
            Parting::Released(why) => {
                let release = self.parts.metadata.release_job(lease, why);
                self.patience.records(release).await?;
            }
            Parting::Ended(ending) => {
                let end = self.parts.metadata.end_job(lease, ending);
                let job = self.patience.records(end).await?;
                self.ended(&job).await;
            }
        }
        self.hints.events_written(lease.job);
        Ok(())
    }

    /// Tidies up after a job that ended.
    pub(super) async fn ended(&self, job: &JobRecord) {
        debug_assert!(job.state.is_final());
        self.parts.metrics.job_finished(&job.tenant, job.state);
        self.hints.events_written(job.id);
        self.clear_up(job).await;
    }

    /// Removes the files of jobs that were cancelled while they waited, which no runner had, until the drain.
    pub(super) async fn clear_up_cancelled(self: Arc<Self>) {
        let drain = self.drain.clone();
        loop {
            self.clear_up_left().await;
            tokio::select! {
                () = drain.draining() => return,
                () = self.hints.any_cancelled() => {}
            }
        }
    }

    /// Removes the files of jobs that were cancelled while they waited, since the last look.
    pub(super) async fn clear_up_left(&self) {
        for job in self.hints.cancelled() {
            self.clear_up(&job).await;
        }
    }

    /// Removes the files of a job that ended, which an earlier claim may have left.
    async fn clear_up(&self, job: &JobRecord) {
        let is_kept = job.reason.as_deref() == Some(PROCESS_LOST);
        for checkpoint in job.checkpoints().filter(|_| !is_kept) {
            self.drop_checkpoint(job.id, checkpoint).await;
        }
        for kind in features::Kind::ALL {
            let path = features::path(&self.parts.scratch, (&job.tenant, job.id), kind);
            self.drop_features(path).await;
        }
    }

    /// Deletes features that no job needs; a file that stays is found at the next start.
    async fn drop_features(&self, path: PathBuf) {
        let shown = path.display().to_string();
        match blocking(move || features::remove(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    path = shown,
                    error = &error as &dyn std::error::Error,
                    "cannot delete frozen features"
                );
            }
            Err(_) => tracing::warn!(path = shown, "cannot delete frozen features"),
        }
    }

    /// Deletes the features of jobs that have ended, or that nobody knows any more.
    pub(super) async fn sweep_features(&self) {
        let folder = self.parts.scratch.clone();
        let listed = move || {
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
            files.map(|file| file.path()).collect::<Vec<_>>()
        };
        for path in blocking(listed).await.unwrap_or_default() {
            let Some((tenant, job)) = features::owner(&path) else {
                continue;
            };
            let record = self.parts.metadata.get_job(&tenant, job);
            let is_needed = match self.patience.records(record).await {
                Ok(job) => !job.state.is_final(),
                Err(metadata::Error::NotFound { .. }) => false,
                Err(_) => true,
            };
            if !is_needed {
                self.drop_features(path).await;
            }
        }
    }

    /// Opens the folder of decoded frames. A disk that fails costs time only.
    pub(super) async fn open_decoded(&self) {
        let (folder, bytes) = (self.parts.decoded.clone(), self.config.clip_disk_bytes);
        let metrics = self.parts.metrics.clone();
        let opened = blocking_io(move || Decoded::open(&folder, bytes, metrics)).await;
        let decoded = opened.unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %self.parts.decoded.display(), "decoded frames cannot be kept on the disk");
            None
        });
        // It is opened once, before the first job.
        let _ = self.decoded.set(decoded.map(Arc::new));
    }

    /// Decoded frames on the disk, where they are kept.
    pub(super) fn decoded(&self) -> Option<Arc<Decoded>> {
        self.decoded.get().cloned().flatten()
    }

    /// Removes decoded frames of videos that were deleted, or whose tenants were erased.
    async fn sweep_decoded(&self) {
        let Some(decoded) = self.decoded() else {
            return;
        };
        for (tenant, videos) in decoded.videos() {
            let videos: Vec<VideoId> = videos.into_iter().collect();
            for some in videos.chunks(LOOKED_UP) {
                let read = self.parts.metadata.get_videos(&tenant, some);
                let known = match self.patience.records(read).await {
                    Ok(known) => known,
                    Err(metadata::Error::NotFound { .. }) => Vec::new(),
                    // The next sweep looks again.
                    Err(_) => return,
                };
                let mut gone: HashSet<VideoId> = some.iter().copied().collect();
                for record in known {
                    gone.remove(&record.id);
                }
                let (decoded, tenant) = (Arc::clone(&decoded), tenant.clone());
                if blocking(move || decoded.forget(&tenant, &gone))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }

    /// Sweeps features and decoded frames from time to time until the drain.
    pub(super) async fn keep_sweeping(self: Arc<Self>) {
        let drain = self.drain.clone();
        loop {
            tokio::select! {
                () = drain.draining() => return,
                () = tokio::time::sleep(self.config.sweep) => {
                    self.sweep_features().await;
                    self.sweep_decoded().await;
                }
            }
        }
    }

    /// Deletes a checkpoint that no record needs; one that stays is an orphan for the collector.
    pub(super) async fn drop_checkpoint(&self, job: JobId, checkpoint: &CheckpointRecord) {
        let dropped = match Key::parse(&checkpoint.key) {
            Ok(key) => {
                let delete = self.parts.store.delete(&key);
                self.patience
                    .objects("delete", &checkpoint.key, delete)
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = dropped {
            tracing::warn!(%job, error = &error as &dyn std::error::Error, "cannot delete a checkpoint");
        }
    }
}

/// Counts a job under the state that it is in here, for as long as it is here.
pub(super) struct Gauge {
    metrics: Metrics,
    state: JobState,
}

impl Gauge {
    pub(super) fn new(metrics: Metrics, state: JobState) -> Self {
        metrics.job_moved(None, Some(state));
        Self { metrics, state }
    }

    pub(super) fn moved(&mut self, to: JobState) {
        self.metrics.job_moved(Some(self.state), Some(to));
        self.state = to;
    }

    pub(super) fn state(&self) -> JobState {
        self.state
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.metrics.job_moved(Some(self.state), None);
    }
}
