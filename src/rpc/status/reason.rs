//! The stable reasons of the API's errors, each with its code.
//!
//! Invariant: a refusal has a reason of this list or the cause of a refused video, and docs/errors.md has a row for each of them.

use tonic::Code;

use crate::video::Reject;

/// Why a call is refused, for programs: the reason of the status's `ErrorInfo`, and the status's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    name: &'static str,
    code: Code,
}

macro_rules! reasons {
    ($($name:ident = $code:ident;)*) => {
        impl Reason {
            $(pub(super) const $name: Self = Self { name: stringify!($name), code: Code::$code };)*

            /// Every reason but those of refused videos.
            const OWN: &[Self] = &[$(Self::$name),*];
        }
    };
}

reasons! {
    CANCELLED = Cancelled;
    STREAM_BROKEN = Unknown;
    ADAPTERS_UNREADABLE = InvalidArgument;
    FRAMES_UNREADABLE = InvalidArgument;
    FRAME_SIZE_MISMATCH = InvalidArgument;
    FRAME_TOO_LARGE = InvalidArgument;
    INVALID_FIELD = InvalidArgument;
    INVALID_STREAM = InvalidArgument;
    MESSAGE_UNREADABLE = InvalidArgument;
    REQUEST_ID_REUSED = InvalidArgument;
    SAMPLING_DIFFERS = InvalidArgument;
    TENANT_INVALID = InvalidArgument;
    TOO_MANY_LABELS = InvalidArgument;
    DEADLINE_EXCEEDED = DeadlineExceeded;
    MESSAGE_LATE = DeadlineExceeded;
    STREAM_IDLE = DeadlineExceeded;
    DATASET_NOT_FOUND = NotFound;
    DATASET_VERSION_NOT_FOUND = NotFound;
    JOB_NOT_FOUND = NotFound;
    KEY_NOT_FOUND = NotFound;
    REPLICA_NOT_FOUND = NotFound;
    SERVICE_UNKNOWN = NotFound;
    SNAPSHOT_NOT_FOUND = NotFound;
    SWEEP_NOT_FOUND = NotFound;
    TASK_NOT_FOUND = NotFound;
    TENANT_NOT_FOUND = NotFound;
    UPLOAD_EXPIRED = NotFound;
    UPLOAD_NOT_FOUND = NotFound;
    VERSION_NOT_FOUND = NotFound;
    VIDEO_NOT_FOUND = NotFound;
    DATASET_EXISTS = AlreadyExists;
    TASK_EXISTS = AlreadyExists;
    TENANT_EXISTS = AlreadyExists;
    METHOD_DENIED = PermissionDenied;
    SCOPE_MISSING = PermissionDenied;
    TASK_DENIED = PermissionDenied;
    TENANT_DENIED = PermissionDenied;
    TENANT_ERASED = PermissionDenied;
    TENANT_SUSPENDED = PermissionDenied;
    DEADLINE_UNREACHABLE = ResourceExhausted;
    DECODER_QUEUE_FULL = ResourceExhausted;
    DEVICE_MEMORY_FULL = ResourceExhausted;
    LIVE_MEMORY_FULL = ResourceExhausted;
    MESSAGE_MEMORY_FULL = ResourceExhausted;
    MESSAGE_TOO_LARGE = ResourceExhausted;
    PINNED_MEMORY_FULL = ResourceExhausted;
    QUEUE_FULL = ResourceExhausted;
    QUOTA_EXCEEDED = ResourceExhausted;
    RATE_EXCEEDED = ResourceExhausted;
    SPOOL_FULL = ResourceExhausted;
    STORAGE_FULL = ResourceExhausted;
    TOO_MANY_CLIPS = ResourceExhausted;
    TOO_MANY_CREDENTIALS = ResourceExhausted;
    TOO_MANY_JOBS = ResourceExhausted;
    TOO_MANY_STREAMS = ResourceExhausted;
    TOO_MANY_SWEEPS = ResourceExhausted;
    TOO_MANY_UPLOADS = ResourceExhausted;
    TOO_MANY_UPLOAD_BYTES = ResourceExhausted;
    TOO_MANY_VERSIONS = ResourceExhausted;
    TOO_MANY_WATCHERS = ResourceExhausted;
    TOO_MANY_WINDOW_STREAMS = ResourceExhausted;
    UPLOAD_MEMORY_FULL = ResourceExhausted;
    UPLOAD_TOO_LARGE = ResourceExhausted;
    BACKBONE_MISMATCH = FailedPrecondition;
    DATASET_IN_USE = FailedPrecondition;
    JOB_FINISHED = FailedPrecondition;
    KEY_ENDED = FailedPrecondition;
    NOTHING_TO_ROLL_BACK = FailedPrecondition;
    NO_SERVING_VERSION = FailedPrecondition;
    REQUEST_RESULT_DELETED = FailedPrecondition;
    SAMPLING_CHANGED = FailedPrecondition;
    SWEEP_FINISHED = FailedPrecondition;
    TASK_IN_USE = FailedPrecondition;
    UPLOAD_FINISHED = FailedPrecondition;
    VERSION_QUARANTINED = FailedPrecondition;
    VERSION_TOO_LARGE = FailedPrecondition;
    VIDEO_IN_USE = FailedPrecondition;
    ETAG_MISMATCH = Aborted;
    UPLOAD_OFFSET_MISMATCH = Aborted;
    COMPRESSION_UNSUPPORTED = Unimplemented;
    METHOD_UNKNOWN = Unimplemented;
    INTERNAL = Internal;
    DATABASE_UNAVAILABLE = Unavailable;
    DECODER_INTERRUPTED = Unavailable;
    DRAINING = Unavailable;
    ISSUER_UNAVAILABLE = Unavailable;
    NOT_READY = Unavailable;
    STORE_UNAVAILABLE = Unavailable;
    UPLOAD_INTERRUPTED = Unavailable;
    VERSION_UNAVAILABLE = Unavailable;
    CREDENTIAL_REFUSED = Unauthenticated;
    OBJECT_DAMAGED = DataLoss;
    OBJECT_MISSING = DataLoss;
    SHA256_MISMATCH = DataLoss;
    VERSION_DAMAGED = DataLoss;
}

impl Reason {
    /// Returns every reason that a status of the API may have.
    pub fn all() -> Vec<Self> {
        let videos = Reject::ALL.iter().map(|&reject| Self::of_video(reject));
        Self::OWN.iter().copied().chain(videos).collect()
    }

    /// Returns the name of the reason, which never changes its meaning.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Returns the code of a status with this reason. STREAM_BROKEN alone comes with other codes as well: those that end a stream from outside.
    pub fn code(self) -> Code {
        self.code
    }

    /// Returns the reason of a video that is refused.
    pub(super) fn of_video(reject: Reject) -> Self {
        Self {
            name: reject.reason(),
            code: Code::InvalidArgument,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_there_once() {
        let mut names: Vec<_> = Reason::all().into_iter().map(Reason::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
