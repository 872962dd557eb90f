//! Publishing: a job's weights become an immutable version.
//!
//! Invariant: write, then commit. The file is completely in the store before one transaction makes the version visible, ends its job and makes it the
//! desired version.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{Error, Registry, Result, manifest, may_have_changed};
use crate::blocking::giving_way;
use crate::faults;
use crate::ids::{AdapterVersion, TaskId, TenantId};
use crate::metadata::{
    CurvePoint, JobRecord, JobTimes, Lease, NewVersion, Published, TaskRecord, TrainingSummary,
    VersionManifest,
};
use crate::spec::{AdapterConfig, Calibration, Digest, Evaluation, Invalid, LabelSet, Precision};
use crate::store::layout;

/// The result of a job that is published.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Labels of the version: row i of the head is label i.
    pub labels: LabelSet,
    /// Shape of the set: the task's, or a head alone of a task whose jobs choose.
    pub adapter: AdapterConfig,
    /// Digest of the backbone that the version was trained on.
    pub backbone_digest: Digest,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Precision of training.
    pub precision: Precision,
    /// The version that training started from.
    pub parent: Option<AdapterVersion>,
    /// Metrics on the validation split.
    pub evaluation: Evaluation,
    /// What the validation split says about the scores, when it has examples enough.
    pub calibration: Option<Calibration>,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// Evaluations of the validation split while the job trained.
    pub validation_curve: Vec<CurvePoint>,
    /// Step after which the job had the weights.
    pub step: u64,
    /// Seed that was used.
    pub seed: u64,
    /// Training time without waiting and validation.
    pub training_time: Duration,
    /// Time that the job took besides its steps.
    pub times: JobTimes,
    /// Training clips that could no longer be decoded and were left out.
    pub skipped_clips: u64,
    /// Stable reason of an early end.
    pub reason: Option<String>,
    /// Whether the job goes on with its test split before it ends.
    pub has_test: bool,
    /// Bytes of a safetensors file with the tensors; its metadata is replaced by the version's manifest.
    pub tensors: Vec<u8>,
}

impl Registry {
    /// Publishes a PUBLISHING job's result: the version becomes visible, the job SUCCEEDED unless it goes on with its test split, and, with
    /// `auto_serve`, the version desired.
    ///
    /// # Errors
    /// [`crate::metadata::Error::LeaseLost`] when another worker holds the job by now; [`Error::Malformed`] when `tensors` is not a safetensors file;
    /// [`Error::Invalid`] when a metric is not a finite number; when the store or the database fails. Nothing is visible then.
    pub async fn publish(&self, lease: &Lease, publication: Publication) -> Result<Published> {
        publication.check()?;
        let metadata = &self.inner.metadata;
        let job = metadata.get_job(&lease.tenant, lease.job).await?;
        let task = metadata.get_task(&lease.tenant, &job.task).await?;
        let number = metadata.reserve_version(lease).await?;
        let (manifest, tensors, outcome) = publication.split(&job, &task);
        let to = (&lease.tenant, &task.id, number);
        let version = self.store_version(to, manifest, tensors).await?;
        let mut notice = self.notice(&lease.tenant, &task.id);
        let _writing = self.inner.view.writing(&lease.tenant, &task.id);
        let published = metadata.publish_version(lease, version, outcome).await;
        notice.is_due = published
            .as_ref()
            .map_or_else(may_have_changed, |own| own.is_desired);
        Ok(published?)
    }

    /// Puts a version's file into the store; nothing names it yet.
    pub(super) async fn store_version(
        &self,
        (tenant, task, number): (&TenantId, &TaskId, AdapterVersion),
        manifest: VersionManifest,
        tensors: Vec<u8>,
    ) -> Result<NewVersion> {
        let malformed = |problem| Error::Malformed {
            version: format!("tasks/{task}/versions/{number}"),
            problem,
        };
        let sealed = giving_way(move || seal(&tensors, manifest)).await;
        let (manifest, bytes, sha256) = sealed
            .map_err(|error| malformed(error.to_string()))?
            .map_err(malformed)?;
        let version = NewVersion {
            version: number,
            manifest,
            sha256,
            size_bytes: bytes.len() as u64,
        };
        // The key holds the content's digest: a worker that lost the job can only write the same bytes or another key.
        let key = layout::version(tenant, task, number, sha256);
        self.inner.store.put(&key, bytes.into()).await?;
        faults::point("publish");
        Ok(version)
    }
}

impl Publication {
    fn check(&self) -> Result<()> {
        let Evaluation {
            top1, top5, loss, ..
        } = self.evaluation;
        let map = self.evaluation.independent.as_ref().map(|own| own.map);
        let mut numbers = [top1, top5, loss]
            .into_iter()
            .chain(map)
            .chain(self.loss_curve.iter().copied());
        if numbers.all(f64::is_finite) {
            return Ok(());
        }
        Err(Invalid::new("evaluation", "a metric is not a finite number").into())
    }

    fn split(
        self,
        job: &JobRecord,
        task: &TaskRecord,
    ) -> (VersionManifest, Vec<u8>, TrainingSummary) {
        let manifest = VersionManifest {
            labels: self.labels,
            adapter: self.adapter,
            sampling: task.sampling,
            backbone_digest: self.backbone_digest,
            tensors_sha256: Digest([0; 32]),
            parameters: self.parameters,
            precision: self.precision,
            job: job.id.to_string(),
            dataset_digest: job.dataset_digest,
            parent: self.parent.map(AdapterVersion::get),
            evaluation: self.evaluation,
            calibration: self.calibration,
        };
        let outcome = TrainingSummary {
            reason: self.reason,
            loss_curve: self.loss_curve,
            validation_curve: self.validation_curve,
            step: self.step,
            seed: self.seed,
            training_micros: u64::try_from(self.training_time.as_micros()).unwrap_or(u64::MAX),
            times: self.times,
            skipped_clips: self.skipped_clips,
            has_test: self.has_test,
        };
        (manifest, self.tensors, outcome)
    }
}

/// A sealed file: its manifest, its bytes, their sha256.
type Sealed = (VersionManifest, Vec<u8>, Digest);

fn seal(tensors: &[u8], manifest: VersionManifest) -> std::result::Result<Sealed, String> {
    let (manifest, bytes) = manifest::seal(tensors, manifest)?;
    let sha256 = Digest(Sha256::digest(&bytes).into());
    Ok((manifest, bytes, sha256))
}
