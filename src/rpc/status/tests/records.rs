//! Errors of the metadata store.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{cause, check, reason, task};
use crate::ids::{JobId, RequestId, SweepId, TenantId, UploadId, VideoId};
use crate::metadata::{self, Kind};

#[test]
fn metadata_errors() {
    use metadata::Error;
    let name = || "x".to_owned();
    let mut cases: Vec<(Status, Code, &str)> = vec![
        (
            Error::VideosNotFound {
                videos: vec![VideoId::generate(), VideoId::generate()],
            }
            .into(),
            Code::NotFound,
            "VIDEO_NOT_FOUND",
        ),
        (
            Error::TooManyLabels {
                dataset: "many".parse().unwrap(),
                labels: 20_001,
                limit: 20_000,
            }
            .into(),
            Code::InvalidArgument,
            "TOO_MANY_LABELS",
        ),
        (
            Error::LabelCount {
                dataset: "one".parse().unwrap(),
                video: VideoId::generate(),
                labels: 2,
            }
            .into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            Error::NothingBefore {
                task: "t".parse().unwrap(),
            }
            .into(),
            Code::FailedPrecondition,
            "NOTHING_TO_ROLL_BACK",
        ),
        (
            Error::TooMuchPinned { bytes: 2, limit: 1 }.into(),
            Code::ResourceExhausted,
            "PINNED_MEMORY_FULL",
        ),
        (
            Error::EtagMismatch {
                task: task(),
                etag: "7".into(),
            }
            .into(),
            Code::Aborted,
            "ETAG_MISMATCH",
        ),
        (
            Error::OffsetMismatch {
                upload: UploadId::generate(),
                committed: 8,
                offset: 9,
            }
            .into(),
            Code::Aborted,
            "UPLOAD_OFFSET_MISMATCH",
        ),
        (
            Error::UploadFinished {
                upload: UploadId::generate(),
            }
            .into(),
            Code::FailedPrecondition,
            "UPLOAD_FINISHED",
        ),
        (
            Error::UploadExpired {
                upload: UploadId::generate(),
            }
            .into(),
            Code::NotFound,
            "UPLOAD_EXPIRED",
        ),
        (
            Error::TooManyUploads { limit: 3 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_UPLOADS",
        ),
        (
            Error::TooManyUploadBytes { limit: 3, used: 2 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_UPLOAD_BYTES",
        ),
        (
            Error::RequestReused {
                request: RequestId::generate(),
                method: "CreateTask",
                differs: vec!["task_id".into()],
            }
            .into(),
            Code::InvalidArgument,
            "REQUEST_ID_REUSED",
        ),
        (
            Error::RequestSpent {
                request: RequestId::generate(),
                kind: Kind::Task,
                name: name(),
            }
            .into(),
            Code::FailedPrecondition,
            "REQUEST_RESULT_DELETED",
        ),
        (
            Error::TooManyJobs { limit: 3 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_JOBS",
        ),
        (
            Error::TooManySweeps { limit: 4 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_SWEEPS",
        ),
        (
            Error::TooManyVersions { limit: 100 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_VERSIONS",
        ),
        (
            Error::SweepFinished {
                sweep: SweepId::generate(),
            }
            .into(),
            Code::FailedPrecondition,
            "SWEEP_FINISHED",
        ),
        (
            Error::TenantErased.into(),
            Code::PermissionDenied,
            "TENANT_ERASED",
        ),
        (
            Error::TenantChanged {
                tenant: TenantId::anonymous(),
                etag: "1".into(),
            }
            .into(),
            Code::Aborted,
            "ETAG_MISMATCH",
        ),
        (
            Error::QuotaExceeded {
                quota: metadata::Quota::Bytes,
                limit: 7,
                used: 5,
                more: 3,
            }
            .into(),
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED",
        ),
        (
            Error::KeyEnded {
                key: "k".parse().unwrap(),
            }
            .into(),
            Code::FailedPrecondition,
            "KEY_ENDED",
        ),
        (
            Error::JobFinished {
                job: JobId::generate(),
            }
            .into(),
            Code::FailedPrecondition,
            "JOB_FINISHED",
        ),
        (
            Error::LeaseLost {
                job: JobId::generate(),
                epoch: 2,
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::PageSize { size: -1 }.into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            Error::PageToken.into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            Error::Corrupt {
                column: "state",
                source: cause(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Unavailable(cause()).into(),
            Code::Unavailable,
            "DATABASE_UNAVAILABLE",
        ),
        (
            Error::StorageFull(cause()).into(),
            Code::ResourceExhausted,
            "STORAGE_FULL",
        ),
        (Error::Backend(cause()).into(), Code::Internal, "INTERNAL"),
    ];
    let kinds = [
        (Kind::Video, "VIDEO"),
        (Kind::Upload, "UPLOAD"),
        (Kind::Dataset, "DATASET"),
        (Kind::Snapshot, "SNAPSHOT"),
        (Kind::Task, "TASK"),
        (Kind::Version, "VERSION"),
        (Kind::Job, "JOB"),
        (Kind::Sweep, "SWEEP"),
        (Kind::DatasetVersion, "DATASET_VERSION"),
        (Kind::Tenant, "TENANT"),
        (Kind::Key, "KEY"),
        (Kind::Replica, "REPLICA"),
    ];
    for (kind, prefix) in kinds {
        let not_found = Error::NotFound { kind, name: name() };
        assert_eq!(reason(&not_found.into()), format!("{prefix}_NOT_FOUND"));
        let exists = Error::AlreadyExists { kind, name: name() };
        let own = match kind {
            Kind::Dataset | Kind::Task | Kind::Tenant => format!("{prefix}_EXISTS"),
            Kind::Video
            | Kind::Upload
            | Kind::Snapshot
            | Kind::Version
            | Kind::Job
            | Kind::Sweep
            | Kind::DatasetVersion
            | Kind::Key
            | Kind::Replica => "INTERNAL".to_owned(),
        };
        assert_eq!(reason(&exists.into()), own);
        let in_use = Error::InUse {
            kind,
            name: name(),
            user_kind: Kind::Job,
            user: name(),
        };
        let own = match kind {
            Kind::Video | Kind::Dataset | Kind::Task => format!("{prefix}_IN_USE"),
            Kind::Upload
            | Kind::Snapshot
            | Kind::Version
            | Kind::Job
            | Kind::Sweep
            | Kind::DatasetVersion
            | Kind::Tenant
            | Kind::Key
            | Kind::Replica => "INTERNAL".to_owned(),
        };
        assert_eq!(reason(&in_use.into()), own);
    }
    let name = name();
    let kind = Kind::Task;
    cases.push((
        Error::NotFound { kind, name }.into(),
        Code::NotFound,
        "TASK_NOT_FOUND",
    ));
    check(cases);
}

#[test]
fn every_missing_video_is_named() {
    let videos = vec![VideoId::generate(), VideoId::generate()];
    let error = metadata::Error::VideosNotFound {
        videos: videos.clone(),
    };
    let details = Status::from(error).get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let named: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    let expected: Vec<String> = videos.iter().map(|id| format!("videos/{id}")).collect();
    assert_eq!(named, expected);
}
