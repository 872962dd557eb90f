//! Importing: a file's weights become an immutable version without a job.
//!
//! Invariant: as for a publication, write, then commit: the file is in the store, whole, before one transaction makes the version visible.

use std::collections::BTreeMap;

use super::{Registry, Result, manifest, may_have_changed};
use crate::faults;
use crate::ids::{RequestId, TaskId, TenantId};
use crate::metadata::{self, ImportStart, ImportTarget, NewTask, VersionManifest, VersionRecord};
use crate::spec::{Digest, Evaluation, Invalid, LabelSet};
use crate::store::{Key, layout};

/// What is imported.
#[derive(Debug, Clone)]
pub struct Import {
    /// What the version says; the digest of the tensors is filled in.
    pub manifest: VersionManifest,
    /// The tensors, as a safetensors file; its metadata is replaced by the manifest.
    pub tensors: Vec<u8>,
    /// The task, when it is to be made with the version.
    pub create: Option<NewTask>,
    /// When present, must be the task's.
    pub etag: Option<String>,
    /// For idempotency.
    pub request: Option<RequestId>,
    /// sha256 of the file that came in.
    pub sha256: Digest,
    /// The labels that the caller gave.
    pub labels: Option<LabelSet>,
}

/// The manifest in a file's metadata, as [`Registry::load`]'s files have it; `None` when it has none.
///
/// # Errors
/// When there is one and it is malformed, or says what no version can be.
pub fn manifest_of(
    metadata: &BTreeMap<String, String>,
) -> std::result::Result<Option<VersionManifest>, Invalid> {
    let wrong = |problem: String| Invalid::new("manifest", problem);
    let Some(parsed) = manifest::parse(metadata) else {
        return Ok(None);
    };
    let manifest = parsed.map_err(wrong)?;
    manifest.adapter.validate()?;
    manifest.sampling.validate()?;
    manifest.adapter.head.check(manifest.sampling.num_frames)?;
    let is_uuid = |text: &str| text.len() == 36 && text.parse::<crate::ids::JobId>().is_ok();
    if !manifest.job.is_empty() && !is_uuid(&manifest.job) {
        return Err(wrong("its job is no uuid".to_owned()));
    }
    let Evaluation {
        top1,
        top5,
        loss,
        confusion,
        independent,
        ..
    } = &manifest.evaluation;
    let labels = manifest.labels.len();
    let counted = confusion.is_sound(labels)
        && (independent.as_ref())
            .is_none_or(|own| manifest.labels.kind().is_multi() && own.is_sound(labels));
    if ![top1, top5, loss]
        .into_iter()
        .all(|number| number.is_finite())
        || !counted
    {
        return Err(wrong("its evaluation is malformed".to_owned()));
    }
    let calibration = manifest.calibration.as_ref();
    if calibration.is_some_and(|own| !own.is_sound()) {
        return Err(wrong("its calibration is malformed".to_owned()));
    }
    Ok(Some(manifest))
}

impl Registry {
    /// Makes a version of a file: it becomes visible and, with `auto_serve`, the task's desired one. Idempotent by `request`.
    ///
    /// # Errors
    /// No such task, [`crate::metadata::Error::EtagMismatch`]; [`super::Error::Malformed`] when `tensors` is no safetensors file; when the store or the
    /// database fails. Nothing is visible then, and a refusal leaves no file.
    pub async fn import(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        import: Import,
    ) -> Result<VersionRecord> {
        let metadata = &self.inner.metadata;
        let Import {
            manifest,
            tensors,
            create,
            etag,
            request,
            sha256,
            labels,
        } = import;
        let target = ImportTarget {
            task: task.clone(),
            create,
            etag,
            request,
            sha256,
            labels,
        };
        let start = metadata.reserve_import(tenant, &target).await?;
        let number = match start {
            ImportStart::Done(version) => return Ok(*version),
            ImportStart::Number(number) => number,
        };
        let to = (tenant, task, number);
        let version = self.store_version(to, manifest, tensors).await?;
        let key = layout::version(tenant, task, number, version.sha256);
        let mut notice = self.notice(tenant, task);
        let writing = self.inner.view.writing(tenant, task);
        let imported = match metadata.import_version(tenant, &target, version).await {
            Ok(imported) => imported,
            Err(error) => {
                notice.is_due = may_have_changed(&error);
                drop(writing);
                if is_refusal(&error) {
                    self.drop_unused(&key).await;
                }
                return Err(error.into());
            }
        };
        faults::point("after-commit");
        notice.is_due = imported.is_desired;
        drop(writing);
        drop(notice);
        if imported.version.version != number {
            // The same request was answered by another call meanwhile, with that call's file.
            self.drop_unused(&key).await;
        }
        Ok(imported.version)
    }

    /// Deletes a file that no version names; one that stays behind is an orphan for the collector.
    async fn drop_unused(&self, key: &Key) {
        if let Err(error) = self.inner.store.delete(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "cannot delete an unused object");
        }
    }
}

/// Whether the transaction was taken back on purpose: after any other error it may have made the version nevertheless.
fn is_refusal(error: &metadata::Error) -> bool {
    use metadata::Error;
    matches!(
        error,
        Error::QuotaExceeded { .. }
            | Error::EtagMismatch { .. }
            | Error::AlreadyExists { .. }
            | Error::NotFound { .. }
            | Error::RequestReused { .. }
            | Error::RequestSpent { .. }
    )
}
