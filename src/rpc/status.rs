//! The only place where a domain error becomes a `tonic::Status`, with the details that clients act on.
//!
//! Invariant: every status has an `ErrorInfo` of domain `frameshift` with a stable reason. What is internal says so and nothing more: its cause goes
//! to the log, under the id that the caller finds in `x-request-id`.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::telemetry::Sparse;
use crate::{engine, exchange, jobs, library, metadata, registry, serving, store, tenancy, video};

/// Domain of every reason.
const DOMAIN: &str = "frameshift";
const INTERNAL: &str =
    "internal error; the server's log has its cause under this answer's x-request-id";

/// When to try again after a queue was full: about a batch.
const SOON: Duration = Duration::from_millis(200);
/// When to try again after something was unavailable.
const LATER: Duration = Duration::from_secs(2);
/// When to try again after a disk was full: somebody has to make room first.
const MUCH_LATER: Duration = Duration::from_secs(30);

/// A status in the making.
struct Refusal {
    code: Code,
    message: String,
    details: ErrorDetails,
}

impl Refusal {
    fn new(code: Code, reason: &'static str, message: impl fmt::Display) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, HashMap::new());
        Self {
            code,
            message: message.to_string(),
            details,
        }
    }

    fn field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        self.details.add_bad_request_violation(field, problem);
        self
    }

    fn quota(mut self, subject: impl Into<String>) -> Self {
        let description = self.message.clone();
        self.details
            .add_quota_failure_violation(subject, description);
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.details.set_retry_info(Some(after));
        self
    }

    fn status(self) -> Status {
        Status::with_error_details(self.code, self.message, self.details)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.status()
    }
}

/// A field of the request that is wrong.
pub(super) fn invalid(field: &str, problem: impl Into<String>) -> Status {
    bad(field, problem).status()
}

fn bad(field: &str, problem: impl Into<String>) -> Refusal {
    let problem = problem.into();
    Refusal::new(
        Code::InvalidArgument,
        "INVALID_FIELD",
        format_args!("{field}: {problem}"),
    )
    .field(field, problem)
}

/// Messages of a stream in the wrong order or of the wrong size.
pub(super) fn stream(problem: &str) -> Status {
    Refusal::new(Code::InvalidArgument, "INVALID_STREAM", problem)
        .field("payload", problem)
        .status()
}

/// A file that is larger than an upload may be.
pub(super) fn too_large(limit: u64) -> Status {
    let message = format_args!("the file has more than {limit} bytes, the limit of one upload");
    Refusal::new(Code::ResourceExhausted, "UPLOAD_TOO_LARGE", message)
        .quota("upload_bytes")
        .status()
}

/// A version of another backbone.
fn backbone_mismatch(error: impl fmt::Display) -> Status {
    Refusal::new(Code::FailedPrecondition, "BACKBONE_MISMATCH", error).status()
}

impl From<exchange::Error> for Status {
    fn from(error: exchange::Error) -> Self {
        use exchange::Error;
        match error {
            Error::Backbone { .. } => backbone_mismatch(&error),
            Error::Sha256Mismatch { .. } => {
                Refusal::new(Code::DataLoss, "SHA256_MISMATCH", &error).status()
            }
            Error::Unreadable(error) => {
                Refusal::new(Code::InvalidArgument, "ADAPTERS_UNREADABLE", &error)
                    .field("payload", error.to_string())
                    .status()
            }
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::Task(invalid) => {
                bad(&format!("task.{}", invalid.field), invalid.problem).status()
            }
            Error::Write(_) | Error::Read(_) | Error::Interrupted(_) => broken(&error),
            Error::Registry(error) => error.into(),
        }
    }
}

/// The caller's deadline passed.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the deadline passed before there was an answer";
    Refusal::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).status()
}

/// The server loads its backbone.
pub(super) fn not_ready() -> Status {
    let message = "the server is still loading its backbone";
    Refusal::new(Code::Unavailable, "NOT_READY", message)
        .retry(LATER)
        .status()
}

/// The server finishes what it has and takes nothing new.
pub(super) fn draining() -> Status {
    Refusal::new(Code::Unavailable, "DRAINING", "the server is draining")
        .retry(LATER)
        .status()
}

/// Something went wrong that no caller can mend.
pub(super) fn internal(cause: impl fmt::Display) -> Status {
    tracing::error!(%cause, "internal error");
    Refusal::new(Code::Internal, "INTERNAL", INTERNAL).status()
}

/// As [`internal`], with all that an error says.
fn broken(error: &(dyn std::error::Error + 'static)) -> Status {
    internal(Chain(error))
}

/// A handler panicked.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    internal(format_args!("a handler panicked: {}", text.unwrap_or("?")))
}

/// An error and its sources.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Who calls.
pub(super) fn of_tenancy(error: &tenancy::Error) -> Status {
    match error {
        tenancy::Error::Malformed(_) | tenancy::Error::Repeated(_) => {
            Refusal::new(Code::InvalidArgument, "TENANT_INVALID", error)
                .field(tenancy::HEADER, error.to_string())
                .status()
        }
    }
}

impl From<video::Error> for Status {
    fn from(error: video::Error) -> Self {
        use video::Error;
        match &error {
            Error::Rejected(reject) => Refusal::new(Code::InvalidArgument, reject.reason(), &error)
                .field("video", reject.to_string())
                .status(),
            Error::QueueFull => Refusal::new(Code::ResourceExhausted, "DECODER_QUEUE_FULL", &error)
                .quota("decoder_queue")
                .retry(SOON)
                .status(),
            Error::Interrupted => Refusal::new(Code::Unavailable, "DECODER_INTERRUPTED", &error)
                .retry(LATER)
                .status(),
            Error::Stopped => draining(),
            Error::InvalidRequest { .. }
            | Error::IndexOutOfRange { .. }
            | Error::WindowOutOfRange { .. }
            | Error::PicturesTooLarge { .. }
            | Error::Spawn { .. }
            | Error::System { .. }
            | Error::Unconfined { .. }
            | Error::NoContainer => broken(&error),
        }
    }
}

impl From<engine::Error> for Status {
    fn from(error: engine::Error) -> Self {
        use engine::Error;
        match &error {
            Error::QueueFull { .. } => Refusal::new(Code::ResourceExhausted, "QUEUE_FULL", &error)
                .quota("queue_clips")
                .retry(SOON)
                .status(),
            Error::TooManyClips { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_CLIPS", &error)
                    .quota("queue_clips")
                    .status()
            }
            Error::TooManyBytes { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_CLIPS", &error)
                    .quota("queue_memory")
                    .status()
            }
            Error::DeadlineExceeded => deadline_exceeded(),
            Error::Quarantined { .. } => {
                Refusal::new(Code::FailedPrecondition, "VERSION_QUARANTINED", &error).status()
            }
            Error::Damaged { .. } => damaged("VERSION_DAMAGED", &error),
            Error::NotFound { .. } => {
                Refusal::new(Code::NotFound, "VERSION_NOT_FOUND", &error).status()
            }
            Error::Load { version, .. } => {
                tracing::warn!(cause = %error, "a version cannot be loaded");
                let message = format_args!("{version} cannot be loaded now");
                Refusal::new(Code::Unavailable, "VERSION_UNAVAILABLE", message)
                    .retry(LATER)
                    .status()
            }
            Error::TooLarge { .. } => {
                Refusal::new(Code::FailedPrecondition, "VERSION_TOO_LARGE", &error).status()
            }
            Error::NotReady => not_ready(),
            Error::Stopped => draining(),
            Error::Clip { .. } | Error::Failed { .. } => broken(&error),
        }
    }
}

impl From<serving::Error> for Status {
    fn from(error: serving::Error) -> Self {
        use serving::Error;
        match error {
            Error::NoServingVersion { is_moving, .. } => {
                let refusal = Refusal::new(Code::FailedPrecondition, "NO_SERVING_VERSION", &error);
                match is_moving {
                    true => refusal.retry(SOON).status(),
                    false => refusal.status(),
                }
            }
            Error::Backbone { .. } => backbone_mismatch(&error),
            Error::Logits { .. } => broken(&error),
            Error::Registry(error) => error.into(),
            Error::Library(error) => error.into(),
            Error::Video(error) => error.into(),
            Error::Engine(error) => error.into(),
        }
    }
}

impl From<library::Error> for Status {
    fn from(error: library::Error) -> Self {
        use library::Error;
        match error {
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::TooLarge { limit } => too_large(limit),
            Error::Sha256Mismatch { .. } => {
                Refusal::new(Code::DataLoss, "SHA256_MISMATCH", &error).status()
            }
            Error::Probe(error) => error.into(),
            Error::Damaged { damage, .. } => match damage {
                library::Damage::Missing => damaged("OBJECT_MISSING", &error),
                library::Damage::Size { .. } | library::Damage::Sha256 { .. } => {
                    damaged("OBJECT_DAMAGED", &error)
                }
            },
            Error::Interrupted => Refusal::new(Code::Unavailable, "UPLOAD_INTERRUPTED", &error)
                .retry(SOON)
                .status(),
            Error::Metadata(error) => error.into(),
            Error::Store(error) => error.into(),
        }
    }
}

impl From<registry::Error> for Status {
    fn from(error: registry::Error) -> Self {
        use registry::Error;
        match error {
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::Malformed { .. } | Error::Manifest { .. } => damaged("VERSION_DAMAGED", &error),
            Error::Metadata(error) => error.into(),
            Error::Store(error) => error.into(),
        }
    }
}

impl From<jobs::Error> for Status {
    fn from(error: jobs::Error) -> Self {
        use jobs::Error;
        match error {
            Error::Invalid(invalid) => bad(
                &format!("hyper_parameters.{}", invalid.field),
                invalid.problem,
            )
            .status(),
            Error::TooManyWatchers { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", &error)
                    .quota("watchers_per_tenant")
                    .status()
            }
            Error::Metadata(error) => error.into(),
        }
    }
}

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        use store::Error;
        match &error {
            // A record names the object, so its absence is damage, not a caller's mistake.
            Error::NotFound { .. } => damaged("OBJECT_MISSING", &error),
            Error::Digest { .. } => damaged("OBJECT_DAMAGED", &error),
            Error::StorageFull { .. } => storage_full(&error),
            Error::Unavailable { .. } => {
                passing(&STORE, &error);
                let message = "the object store is unavailable";
                Refusal::new(Code::Unavailable, "STORE_UNAVAILABLE", message)
                    .retry(LATER)
                    .status()
            }
            Error::Locked { .. }
            | Error::Directory { .. }
            | Error::Key { .. }
            | Error::Backend { .. } => broken(&error),
        }
    }
}

/// Lines of the log that every refused call would repeat while a disk fails or is full.
static DATABASE: Sparse = Sparse::new();
static STORE: Sparse = Sparse::new();
static STORAGE: Sparse = Sparse::new();

/// Logs what passes by itself, loudly once a minute.
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
    Refusal::new(Code::ResourceExhausted, "STORAGE_FULL", message)
        .quota("storage")
        .retry(MUCH_LATER)
        .status()
}

/// Stored bytes that are not what was stored.
fn damaged(reason: &'static str, error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(cause = %Chain(error), "stored bytes are damaged");
    Refusal::new(Code::DataLoss, reason, error).status()
}

fn of_invalid(invalid: &crate::spec::Invalid) -> Status {
    bad(invalid.field, &invalid.problem).status()
}

impl From<metadata::Error> for Status {
    fn from(error: metadata::Error) -> Self {
        use metadata::Error;
        match &error {
            Error::StorageFull(_) => return storage_full(&error),
            Error::NotFound { kind, .. } => Refusal::new(Code::NotFound, missing(*kind), &error),
            Error::VideosNotFound { videos } => {
                let refusal = Refusal::new(Code::NotFound, "VIDEO_NOT_FOUND", &error);
                videos.iter().fold(refusal, |refusal, video| {
                    refusal.field(format!("videos/{video}"), "does not exist")
                })
            }
            Error::AlreadyExists { kind, .. } => {
                Refusal::new(Code::AlreadyExists, taken(*kind), &error)
            }
            Error::InUse { kind, .. } => {
                Refusal::new(Code::FailedPrecondition, in_use(*kind), &error)
            }
            Error::EtagMismatch { .. } => Refusal::new(Code::Aborted, "ETAG_MISMATCH", &error)
                .field("etag", error.to_string()),
            Error::OffsetMismatch { .. } => {
                Refusal::new(Code::Aborted, "UPLOAD_OFFSET_MISMATCH", &error)
                    .field("offset", error.to_string())
            }
            Error::UploadFinished { .. } => {
                Refusal::new(Code::FailedPrecondition, "UPLOAD_FINISHED", &error)
            }
            Error::TooManyLabels { .. } => {
                Refusal::new(Code::InvalidArgument, "TOO_MANY_LABELS", &error)
                    .field("examples", error.to_string())
            }
            Error::UploadExpired { .. } => Refusal::new(Code::NotFound, "UPLOAD_EXPIRED", &error),
            Error::TooManyUploads { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_UPLOADS", &error)
                    .quota("uploads_per_tenant")
            }
            Error::TooManyUploadBytes { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_UPLOAD_BYTES", &error)
                    .quota("upload_bytes_per_tenant")
            }
            Error::RequestReused { .. } => {
                Refusal::new(Code::InvalidArgument, "REQUEST_ID_REUSED", &error)
                    .field("request_id", error.to_string())
            }
            Error::TooManyJobs { .. } => {
                Refusal::new(Code::ResourceExhausted, "TOO_MANY_JOBS", &error)
                    .quota("jobs_per_tenant")
            }
            Error::JobFinished { .. } => {
                Refusal::new(Code::FailedPrecondition, "JOB_FINISHED", &error)
            }
            Error::PageSize { .. } => bad("page_size", error.to_string()),
            Error::PageToken => bad("page_token", error.to_string()),
            Error::Unavailable(_) => {
                passing(&DATABASE, &error);
                Refusal::new(Code::Unavailable, "DATABASE_UNAVAILABLE", &error).retry(LATER)
            }
            Error::LeaseLost { .. } | Error::Corrupt { .. } | Error::Backend(_) => {
                return broken(&error);
            }
        }
        .status()
    }
}

fn missing(kind: metadata::Kind) -> &'static str {
    use metadata::Kind;
    match kind {
        Kind::Video => "VIDEO_NOT_FOUND",
        Kind::Upload => "UPLOAD_NOT_FOUND",
        Kind::Dataset => "DATASET_NOT_FOUND",
        Kind::Snapshot => "SNAPSHOT_NOT_FOUND",
        Kind::Task => "TASK_NOT_FOUND",
        Kind::Version => "VERSION_NOT_FOUND",
        Kind::Job => "JOB_NOT_FOUND",
    }
}

fn taken(kind: metadata::Kind) -> &'static str {
    use metadata::Kind;
    match kind {
        Kind::Video => "VIDEO_EXISTS",
        Kind::Upload => "UPLOAD_EXISTS",
        Kind::Dataset => "DATASET_EXISTS",
        Kind::Snapshot => "SNAPSHOT_EXISTS",
        Kind::Task => "TASK_EXISTS",
        Kind::Version => "VERSION_EXISTS",
        Kind::Job => "JOB_EXISTS",
    }
}

fn in_use(kind: metadata::Kind) -> &'static str {
    use metadata::Kind;
    match kind {
        Kind::Video => "VIDEO_IN_USE",
        Kind::Upload => "UPLOAD_IN_USE",
        Kind::Dataset => "DATASET_IN_USE",
        Kind::Snapshot => "SNAPSHOT_IN_USE",
        Kind::Task => "TASK_IN_USE",
        Kind::Version => "VERSION_IN_USE",
        Kind::Job => "JOB_IN_USE",
    }
}

mod transport;

pub(super) use transport::{
    broken_stream, explained, message_late, message_too_large, of_pool, stream_idle,
    too_many_streams,
};

#[cfg(test)]
mod tests;
