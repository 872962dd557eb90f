//! Errors of the store and of the database as statuses.
//!
//! Invariant: a temporary error says when to try again; what names a path, a disk or a statement goes to the log only.

use tonic::Status;

use super::{
    Chain, LATER, MUCH_LATER, QuotaUsed, Reason, Refusal, bad, broken, of_quota, of_setting,
};
use crate::telemetry::Sparse;
use crate::{metadata, store};

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        use store::Error;
        match &error {
            // A record names the object, so its absence is damage, not a caller's mistake.
            Error::NotFound { .. } => damaged(Reason::OBJECT_MISSING, &error),
            Error::Digest { .. } | Error::Size { .. } => damaged(Reason::OBJECT_DAMAGED, &error),
            Error::StorageFull { .. } => storage_full(&error),
            Error::Unavailable { .. } => {
                passing(&STORE, &error);
                let message = "the object store is unavailable";
                Refusal::new(Reason::STORE_UNAVAILABLE, message)
                    .retry(LATER)
                    .status()
            }
            Error::Locked { .. }
            | Error::Directory { .. }
            | Error::Key { .. }
            | Error::Bucket { .. }
            | Error::Backend { .. } => broken(&error),
        }
    }
}

/// Lines of the log that every refused call would repeat while a disk fails or is full.
static DATABASE: Sparse = Sparse::new();
static STORE: Sparse = Sparse::new();
static STORAGE: Sparse = Sparse::new();

/// Logs a temporary error, at a level that is seen once a minute.
fn passing(line: &Sparse, error: &(dyn std::error::Error + 'static)) {
    let cause = Chain(error);
    if line.is_due() {
        tracing::warn!(%cause, "calls are refused");
    } else {
        tracing::debug!(%cause, "a call is refused");
    }
}

/// A disk or quota of the server is full. Which one and where is the operator's business.
fn storage_full(error: &(dyn std::error::Error + 'static)) -> Status {
    passing(&STORAGE, error);
    let message = "the server's storage is full; deletions still work";
    Refusal::new(Reason::STORAGE_FULL, message)
        .quota("storage")
        .retry(MUCH_LATER)
        .status()
}

/// Stored bytes that are not what was stored.
pub(super) fn damaged(reason: Reason, error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(cause = %Chain(error), "stored bytes are damaged");
    Refusal::new(reason, error).status()
}

impl From<metadata::Error> for Status {
    fn from(error: metadata::Error) -> Self {
        use metadata::Error;
        match &error {
            Error::StorageFull(_) => return storage_full(&error),
            Error::NotFound { kind, .. } => Refusal::new(missing(*kind), &error),
            Error::VideosNotFound { videos } => {
                let refusal = Refusal::new(Reason::VIDEO_NOT_FOUND, &error);
                videos.iter().fold(refusal, |refusal, video| {
                    refusal.field(format!("videos/{video}"), "does not exist")
                })
            }
            Error::AlreadyExists { kind, .. } => match taken(*kind) {
                Some(reason) => Refusal::new(reason, &error),
                None => return broken(&error),
            },
            Error::InUse { kind, .. } => match in_use(*kind) {
                Some(reason) => Refusal::new(reason, &error),
                None => return broken(&error),
            },
            Error::EtagMismatch { .. } => {
                Refusal::new(Reason::ETAG_MISMATCH, &error).field("etag", error.to_string())
            }
            Error::TooMuchPinned { .. } => {
                Refusal::new(Reason::PINNED_MEMORY_FULL, &error).quota("adapter_memory")
            }
            Error::NothingBefore { .. } => Refusal::new(Reason::NOTHING_TO_ROLL_BACK, &error),
            Error::OffsetMismatch { .. } => Refusal::new(Reason::UPLOAD_OFFSET_MISMATCH, &error)
                .field("offset", error.to_string()),
            Error::UploadFinished { .. } => Refusal::new(Reason::UPLOAD_FINISHED, &error),
            Error::TooManyLabels { .. } => {
                Refusal::new(Reason::TOO_MANY_LABELS, &error).field("examples", error.to_string())
            }
            Error::LabelCount { .. } => {
                Refusal::new(Reason::INVALID_FIELD, &error).field("examples", error.to_string())
            }
            Error::UploadExpired { .. } => Refusal::new(Reason::UPLOAD_EXPIRED, &error),
            Error::TooManyUploads { .. } => {
                Refusal::new(Reason::TOO_MANY_UPLOADS, &error).quota("uploads_per_tenant")
            }
            Error::TooManyUploadBytes { limit, used } => {
                let used = QuotaUsed::new("open_upload_bytes", *limit, *used);
                let refusal = Refusal::new(Reason::TOO_MANY_UPLOAD_BYTES, &error);
                of_setting(refusal, used.setting("upload_bytes_per_tenant"))
            }
            Error::RequestReused { .. } => Refusal::new(Reason::REQUEST_ID_REUSED, &error)
                .field("request_id", error.to_string()),
            Error::RequestSpent { .. } => Refusal::new(Reason::REQUEST_RESULT_DELETED, &error),
            Error::TooManyJobs { .. } => {
                Refusal::new(Reason::TOO_MANY_JOBS, &error).quota("jobs_per_tenant")
            }
            Error::TooManySweeps { .. } => {
                Refusal::new(Reason::TOO_MANY_SWEEPS, &error).quota("sweeps_per_tenant")
            }
            Error::TooManyVersions { .. } => {
                Refusal::new(Reason::TOO_MANY_VERSIONS, &error).quota("versions_per_dataset")
            }
            Error::SweepFinished { .. } => Refusal::new(Reason::SWEEP_FINISHED, &error),
            Error::TenantChanged { .. } => {
                Refusal::new(Reason::ETAG_MISMATCH, &error).field("etag", error.to_string())
            }
            Error::QuotaExceeded {
                quota, limit, used, ..
            } => over_quota(*quota, (*limit, *used), &error),
            Error::TenantErased => Refusal::new(Reason::TENANT_ERASED, &error),
            Error::KeyEnded { .. } => Refusal::new(Reason::KEY_ENDED, &error),
            Error::JobFinished { .. } => Refusal::new(Reason::JOB_FINISHED, &error),
            Error::PageSize { size } => bad("page_size", format!("expected 0 to 1000, got {size}")),
            Error::PageToken => bad("page_token", "not from an answer of this listing"),
            Error::Unavailable(_) => {
                passing(&DATABASE, &error);
                Refusal::new(Reason::DATABASE_UNAVAILABLE, &error).retry(LATER)
            }
            Error::LeaseLost { .. } | Error::Corrupt { .. } | Error::Backend(_) => {
                return broken(&error);
            }
        }
        .status()
    }
}

fn over_quota(
    quota: metadata::Quota,
    (limit, used): (u64, u64),
    error: &metadata::Error,
) -> Refusal {
    let mut used = QuotaUsed::new(quota.name(), limit, used);
    if quota == metadata::Quota::Examples {
        used = used.setting("examples_per_tenant");
    }
    of_quota(Refusal::new(Reason::QUOTA_EXCEEDED, error), used)
}

fn missing(kind: metadata::Kind) -> Reason {
    use metadata::Kind;
    match kind {
        Kind::Video => Reason::VIDEO_NOT_FOUND,
        Kind::Upload => Reason::UPLOAD_NOT_FOUND,
        Kind::Dataset => Reason::DATASET_NOT_FOUND,
        Kind::DatasetVersion => Reason::DATASET_VERSION_NOT_FOUND,
        Kind::Snapshot => Reason::SNAPSHOT_NOT_FOUND,
        Kind::Task => Reason::TASK_NOT_FOUND,
        Kind::Version => Reason::VERSION_NOT_FOUND,
        Kind::Job => Reason::JOB_NOT_FOUND,
        Kind::Sweep => Reason::SWEEP_NOT_FOUND,
        Kind::Tenant => Reason::TENANT_NOT_FOUND,
        Kind::Key => Reason::KEY_NOT_FOUND,
        Kind::Replica => Reason::REPLICA_NOT_FOUND,
    }
}

/// Only what a caller names can be taken.
fn taken(kind: metadata::Kind) -> Option<Reason> {
    use metadata::Kind;
    match kind {
        Kind::Dataset => Some(Reason::DATASET_EXISTS),
        Kind::Task => Some(Reason::TASK_EXISTS),
        Kind::Tenant => Some(Reason::TENANT_EXISTS),
        Kind::Video
        | Kind::Upload
        | Kind::Snapshot
        | Kind::DatasetVersion
        | Kind::Version
        | Kind::Job
        | Kind::Sweep
        | Kind::Key
        | Kind::Replica => None,
    }
}

/// Only what a caller deletes can be in use.
fn in_use(kind: metadata::Kind) -> Option<Reason> {
    use metadata::Kind;
    match kind {
        Kind::Video => Some(Reason::VIDEO_IN_USE),
        Kind::Dataset => Some(Reason::DATASET_IN_USE),
        Kind::Task => Some(Reason::TASK_IN_USE),
        Kind::Upload
        | Kind::Snapshot
        | Kind::DatasetVersion
        | Kind::Version
        | Kind::Job
        | Kind::Sweep
        | Kind::Tenant
        | Kind::Key
        | Kind::Replica => None,
    }
}
