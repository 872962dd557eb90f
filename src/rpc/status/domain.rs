//! Errors of the components between the API and the stores as statuses, every variant of each.
//!
//! Invariant: matched exhaustively, so that a new error has to be given a reason.

use std::fmt;

use tonic::Status;

use super::access::of_rate;
use super::stored::damaged;
use super::{
    LATER, QuotaUsed, Reason, Refusal, SOON, bad, broken, deadline_exceeded, draining, not_ready,
    of_invalid, of_quota, too_large,
};
use crate::serving::frames::Flaw;
use crate::{engine, exchange, jobs, library, registry, serving, video};

/// Returns the status for a version of another backbone.
fn backbone_mismatch(error: impl fmt::Display) -> Status {
    Refusal::new(Reason::BACKBONE_MISMATCH, error).status()
}

impl From<exchange::Error> for Status {
    fn from(error: exchange::Error) -> Self {
        use exchange::Error;
        match error {
            Error::Backbone { .. } => backbone_mismatch(&error),
            Error::Sha256Mismatch { .. } => Refusal::new(Reason::SHA256_MISMATCH, &error).status(),
            Error::Unreadable(error) => Refusal::new(Reason::ADAPTERS_UNREADABLE, &error)
                .field("payload", error.to_string())
                .status(),
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::Task(invalid) => {
                bad(&format!("task.{}", invalid.field), invalid.problem).status()
            }
            Error::Write(_) | Error::Read(_) | Error::Interrupted(_) => broken(&error),
            Error::Registry(error) => error.into(),
        }
    }
}

/// Returns the status of an error of the video path. A function, since both types are of other crates.
pub(super) fn of_video(error: &video::Error) -> Status {
    use video::Error;
    match error {
        Error::Rejected(rejection) => Refusal::new(Reason::of_video(rejection.reject), error)
            .metadata(rejection.metadata())
            .field("video", rejection.to_string())
            .status(),
        Error::QueueFull => Refusal::new(Reason::DECODER_QUEUE_FULL, error)
            .quota("decoder_queue")
            .retry(SOON)
            .status(),
        Error::Interrupted => Refusal::new(Reason::DECODER_INTERRUPTED, error)
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
        | Error::NoContainer => broken(error),
    }
}

impl From<engine::Error> for Status {
    fn from(error: engine::Error) -> Self {
        use engine::Error;
        match &error {
            Error::RateExceeded(exceeded) => of_rate(*exceeded),
            Error::QueueFull {
                limit: engine::Limit::Quota { limit, used },
                ..
            } => of_quota(
                Refusal::new(Reason::QUOTA_EXCEEDED, &error),
                QuotaUsed::new("admitted_clips", *limit as u64, *used as u64)
                    .setting("clips_per_tenant"),
            )
            .retry(SOON)
            .status(),
            Error::BeyondQuota { limit, .. } => of_quota(
                Refusal::new(Reason::QUOTA_EXCEEDED, &error),
                QuotaUsed::new("admitted_clips", *limit as u64, 0).setting("clips_per_tenant"),
            )
            .status(),
            Error::QueueFull { limit, .. } => Refusal::new(Reason::QUEUE_FULL, &error)
                .metadata(vec![("limit", limit.as_str().to_owned())])
                .quota("queue_clips")
                .retry(SOON)
                .status(),
            Error::Unreachable { wait, left } => Refusal::new(Reason::DEADLINE_UNREACHABLE, &error)
                .metadata(vec![("estimate_ms", wait.as_millis().to_string())])
                .quota("queue_clips")
                .retry(wait.saturating_sub(*left).max(SOON))
                .status(),
            Error::TooManyClips { .. } => Refusal::new(Reason::TOO_MANY_CLIPS, &error)
                .quota("queue_clips")
                .status(),
            Error::TooManyBytes { .. } => Refusal::new(Reason::TOO_MANY_CLIPS, &error)
                .quota("queue_memory")
                .status(),
            Error::OutOfMemory { .. } => Refusal::new(Reason::DEVICE_MEMORY_FULL, &error)
                .quota("device_memory")
                .retry(LATER)
                .status(),
            Error::DeadlineExceeded => deadline_exceeded(),
            Error::Quarantined { .. } => Refusal::new(Reason::VERSION_QUARANTINED, &error).status(),
            Error::Damaged { .. } => damaged(Reason::VERSION_DAMAGED, &error),
            Error::NotFound { .. } => Refusal::new(Reason::VERSION_NOT_FOUND, &error).status(),
            Error::Load { version, .. } | Error::NoRoom { version } => {
                tracing::warn!(cause = %error, "a version cannot be loaded");
                let message = format_args!("{version} cannot be loaded now");
                Refusal::new(Reason::VERSION_UNAVAILABLE, message)
                    .retry(LATER)
                    .status()
            }
            Error::TooLarge { .. } => Refusal::new(Reason::VERSION_TOO_LARGE, &error).status(),
            Error::NotReady => not_ready(),
            Error::Stopped => draining(),
            Error::Clip { .. } | Error::Failed { .. } | Error::Backbone { .. } => broken(&error),
        }
    }
}

impl From<serving::Error> for Status {
    fn from(error: serving::Error) -> Self {
        use serving::Error;
        match error {
            Error::NoServingVersion { is_moving, .. } => {
                let refusal = Refusal::new(Reason::NO_SERVING_VERSION, &error);
                match is_moving {
                    true => refusal.retry(SOON).status(),
                    false => refusal.status(),
                }
            }
            Error::Backbone { .. } => backbone_mismatch(&error),
            Error::Logits { .. } => broken(&error),
            Error::Resume => bad("resume_token", error.to_string()).status(),
            Error::Windows(invalid) => bad(invalid.field, invalid.problem).status(),
            Error::Sampling => Refusal::new(Reason::SAMPLING_DIFFERS, &error)
                .field("tasks", error.to_string())
                .status(),
            Error::TooManyWindowStreams => Refusal::new(Reason::TOO_MANY_WINDOW_STREAMS, &error)
                .quota("window_memory")
                .retry(LATER)
                .status(),
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::SamplingChanged { .. } => {
                Refusal::new(Reason::SAMPLING_CHANGED, &error).status()
            }
            Error::Registry(error) => error.into(),
            Error::Library(error) => error.into(),
            Error::Video(error) => of_video(&error),
            Error::Engine(error) => error.into(),
        }
    }
}

/// Returns the reason of a frame of a live stream that cannot be read.
pub(in crate::rpc) fn of_flaw(flaw: &Flaw) -> Reason {
    match flaw {
        Flaw::Rejected(rejection) => Reason::of_video(rejection.reject),
        Flaw::Size { .. } => Reason::FRAME_SIZE_MISMATCH,
        Flaw::TooLarge { .. } => Reason::FRAME_TOO_LARGE,
    }
}

/// Returns the status for a live stream with too many frames in a row that cannot be read.
pub(in crate::rpc) fn frames_unreadable(flaw: &Flaw) -> Status {
    let reason = of_flaw(flaw).name().to_owned();
    let message = format_args!("too many frames in a row cannot be read; the last: {flaw}");
    Refusal::new(Reason::FRAMES_UNREADABLE, message)
        .metadata(vec![("frame_reason", reason)])
        .field("frame.data", flaw.to_string())
        .status()
}

impl From<library::Error> for Status {
    fn from(error: library::Error) -> Self {
        use library::Error;
        match error {
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::TooLarge { limit } => too_large(limit),
            Error::Sha256Mismatch { .. } => Refusal::new(Reason::SHA256_MISMATCH, &error).status(),
            Error::Probe(error) => of_video(&error),
            Error::Damaged { damage, .. } => match damage {
                library::Damage::Missing => damaged(Reason::OBJECT_MISSING, &error),
                library::Damage::Size { .. } | library::Damage::Sha256 { .. } => {
                    damaged(Reason::OBJECT_DAMAGED, &error)
                }
            },
            Error::Interrupted => Refusal::new(Reason::UPLOAD_INTERRUPTED, &error)
                .retry(SOON)
                .status(),
            Error::Check(_) | Error::Archive(_) => broken(&error),
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
            Error::Malformed { .. } | Error::Manifest { .. } => {
                damaged(Reason::VERSION_DAMAGED, &error)
            }
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
            Error::TooManyWatchers { .. } => Refusal::new(Reason::TOO_MANY_WATCHERS, &error)
                .quota("watchers_per_tenant")
                .status(),
            Error::Metadata(error) => error.into(),
        }
    }
}
