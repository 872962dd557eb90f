//! Errors of the engine.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::super::{SOON, of_denied};
use super::{SECRET, check, version};
use crate::spec::{Rate, RateExceeded};
use crate::{engine, tenancy};

#[test]
fn engine_errors() {
    use engine::Error;
    let why: Arc<str> = SECRET.into();
    check(vec![
        (
            Error::QueueFull {
                clips: 3,
                limit: engine::Limit::Share,
            }
            .into(),
            Code::ResourceExhausted,
            "QUEUE_FULL",
        ),
        (
            Error::RateExceeded(exceeded(Some(Duration::from_secs(1)))).into(),
            Code::ResourceExhausted,
            "RATE_EXCEEDED",
        ),
        (
            Error::Unreachable {
                wait: Duration::from_secs(9),
                left: Duration::from_secs(1),
            }
            .into(),
            Code::ResourceExhausted,
            "DEADLINE_UNREACHABLE",
        ),
        (
            Error::TooManyClips { clips: 3, limit: 2 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_CLIPS",
        ),
        (
            Error::BeyondQuota { clips: 3, limit: 2 }.into(),
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED",
        ),
        (
            Error::QueueFull {
                clips: 1,
                limit: crate::engine::Limit::Quota { limit: 2, used: 2 },
            }
            .into(),
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED",
        ),
        (
            Error::TooManyBytes { bytes: 9, limit: 8 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_CLIPS",
        ),
        (
            Error::Clip {
                clip: 0,
                values: 1,
                image_size: 2,
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::OutOfMemory { bytes: 5 }.into(),
            Code::ResourceExhausted,
            "DEVICE_MEMORY_FULL",
        ),
        (
            Error::DeadlineExceeded.into(),
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
        ),
        (
            Error::Quarantined {
                version: version(),
                reason: "NaN".into(),
            }
            .into(),
            Code::FailedPrecondition,
            "VERSION_QUARANTINED",
        ),
        (
            Error::Damaged {
                version: version(),
                reason: "its sha256 is another".into(),
            }
            .into(),
            Code::DataLoss,
            "VERSION_DAMAGED",
        ),
        (
            Error::NotFound { version: version() }.into(),
            Code::NotFound,
            "VERSION_NOT_FOUND",
        ),
        (
            Error::Load {
                version: version(),
                reason: Arc::clone(&why),
            }
            .into(),
            Code::Unavailable,
            "VERSION_UNAVAILABLE",
        ),
        (
            Error::NoRoom { version: version() }.into(),
            Code::Unavailable,
            "VERSION_UNAVAILABLE",
        ),
        (
            Error::TooLarge {
                version: version(),
                bytes: 2,
                budget: 1,
            }
            .into(),
            Code::FailedPrecondition,
            "VERSION_TOO_LARGE",
        ),
        (
            Error::Failed {
                version: version(),
                reason: Arc::clone(&why),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Backbone { reason: why }.into(),
            Code::Internal,
            "INTERNAL",
        ),
        (Error::NotReady.into(), Code::Unavailable, "NOT_READY"),
        (Error::Stopped.into(), Code::Unavailable, "DRAINING"),
    ]);
}

#[test]
fn a_refusal_of_the_queue_says_whose_limit_it_was_and_when_to_retry() {
    use engine::{Error, Limit};
    let facts = |error: Error| {
        let details = Status::from(error).get_error_details();
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        let info = details.error_info().cloned().unwrap();
        (info.metadata, retry.unwrap())
    };
    for limit in [Limit::Queue, Limit::Share, Limit::Reserve, Limit::Batch] {
        let (metadata, retry) = facts(Error::QueueFull { clips: 1, limit });
        assert_eq!(metadata["limit"], limit.as_str());
        assert_eq!(retry, SOON);
    }
    let seconds = Duration::from_secs;
    let (metadata, retry) = facts(Error::Unreachable {
        wait: seconds(9),
        left: seconds(2),
    });
    assert_eq!(
        (metadata["estimate_ms"].as_str(), retry),
        ("9000", seconds(7))
    );
}

fn exceeded(wait: Option<Duration>) -> RateExceeded {
    RateExceeded {
        rate: Rate::ClipFrames,
        limit: 100,
        wait,
    }
}

#[test]
fn a_refusal_by_a_limit_of_a_second_says_which_and_when_to_retry() {
    for wait in [None, Some(Duration::from_millis(300))] {
        let status = of_denied(tenancy::Denied::Rate(exceeded(wait)));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.metadata["quota"], "clip_frames_per_second");
        assert_eq!(info.metadata["limit"], "100");
        let violations = &details.quota_failure().unwrap().violations;
        assert_eq!(violations[0].subject, "clip_frames_per_second");
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(retry, wait);
    }
}
