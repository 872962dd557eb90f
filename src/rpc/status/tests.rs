//! Every variant of every domain error: its code, its reason, and that nothing internal leaks.
// Tables are long.
#![allow(clippy::too_many_lines)]

use super::*;
use crate::ids::{
    AdapterVersion, JobId, RequestId, TaskId, TenantId, UploadId, VersionRef, VideoId,
};
use crate::metadata::Kind;
use crate::serving::frames::Flaw;
use crate::spec::{Digest, Invalid, Scope, Scopes};
use crate::tenancy::admin;
use crate::video::Reject;
use crate::{engine, exchange, jobs, library, metadata, registry, serving, store, tenancy, video};
use std::io;
use std::sync::Arc;

const SECRET: &str = "secret-path";

fn cause() -> Box<dyn std::error::Error + Send + Sync> {
    SECRET.into()
}

fn disk() -> io::Error {
    io::Error::other(SECRET)
}

fn task() -> TaskId {
    "motion".parse().unwrap()
}

fn version() -> VersionRef {
    VersionRef {
        tenant: TenantId::anonymous(),
        task: task(),
        version: AdapterVersion::FIRST,
    }
}

fn digest() -> Digest {
    Digest([7; 32])
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every status has a reason");
    assert_eq!(info.domain, DOMAIN);
    info.reason.clone()
}

fn check(cases: Vec<(Status, Code, &str)>) {
    for (status, code, expected) in cases {
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(reason(&status), expected);
        assert!(!status.message().contains(SECRET), "{status:?}");
        assert!(!String::from_utf8_lossy(status.details()).contains(SECRET));
        if code == Code::Internal {
            assert_eq!(status.message(), INTERNAL);
        }
        if code == Code::Unavailable || expected == "STORAGE_FULL" {
            assert!(status.get_error_details().retry_info().is_some());
        }
        if code == Code::InvalidArgument {
            assert!(status.get_error_details().bad_request().is_some());
        }
        if code == Code::ResourceExhausted {
            assert!(status.get_error_details().quota_failure().is_some());
        }
    }
}

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
            Error::TooManyUploadBytes { limit: 3 }.into(),
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
        (Kind::Tenant, "TENANT"),
        (Kind::Key, "KEY"),
    ];
    for (kind, prefix) in kinds {
        let not_found = Error::NotFound { kind, name: name() };
        assert_eq!(reason(&not_found.into()), format!("{prefix}_NOT_FOUND"));
        let exists = Error::AlreadyExists { kind, name: name() };
        let own = match kind {
            Kind::Dataset | Kind::Task | Kind::Tenant => format!("{prefix}_EXISTS"),
            Kind::Video | Kind::Upload | Kind::Snapshot | Kind::Version | Kind::Job | Kind::Key => {
                "INTERNAL".to_owned()
            }
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
            | Kind::Tenant
            | Kind::Key => "INTERNAL".to_owned(),
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
fn store_and_registry_errors() {
    let key = || "tenant/object".to_owned();
    let damaged = || store::Error::Digest {
        key: key(),
        expected: digest(),
        found: digest(),
    };
    check(vec![
        (
            store::Error::NotFound { key: key() }.into(),
            Code::DataLoss,
            "OBJECT_MISSING",
        ),
        (damaged().into(), Code::DataLoss, "OBJECT_DAMAGED"),
        (
            store::Error::Size {
                key: key(),
                expected: 2,
                found: 1,
            }
            .into(),
            Code::DataLoss,
            "OBJECT_DAMAGED",
        ),
        (
            store::Error::Bucket {
                url: SECRET.into(),
                source: cause(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            store::Error::Locked {
                directory: SECRET.into(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            store::Error::Directory {
                directory: SECRET.into(),
                source: disk(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            store::Error::Key {
                text: SECRET.into(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            store::Error::StorageFull {
                action: "write",
                key: SECRET.into(),
                source: cause(),
            }
            .into(),
            Code::ResourceExhausted,
            "STORAGE_FULL",
        ),
        (
            store::Error::Unavailable {
                action: "read",
                key: SECRET.into(),
                source: cause(),
            }
            .into(),
            Code::Unavailable,
            "STORE_UNAVAILABLE",
        ),
        (
            store::Error::Backend {
                action: "read",
                key: SECRET.into(),
                source: cause(),
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (
            registry::Error::Invalid(Invalid::new("adapter_width", "too wide")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            registry::Error::Malformed {
                version: "v".into(),
                problem: "p".into(),
            }
            .into(),
            Code::DataLoss,
            "VERSION_DAMAGED",
        ),
        (
            registry::Error::Manifest {
                version: version(),
                field: "labels".into(),
            }
            .into(),
            Code::DataLoss,
            "VERSION_DAMAGED",
        ),
        (
            registry::Error::Metadata(metadata::Error::PageToken).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            registry::Error::Store(damaged()).into(),
            Code::DataLoss,
            "OBJECT_DAMAGED",
        ),
    ]);
}

#[test]
fn library_and_jobs_errors() {
    check(vec![
        (
            library::Error::Invalid(Invalid::new("display_name", "too long")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            library::Error::Damaged {
                video: VideoId::generate(),
                damage: library::Damage::Missing,
            }
            .into(),
            Code::DataLoss,
            "OBJECT_MISSING",
        ),
        (
            library::Error::Damaged {
                video: VideoId::generate(),
                damage: library::Damage::Size {
                    expected: 2,
                    found: 1,
                },
            }
            .into(),
            Code::DataLoss,
            "OBJECT_DAMAGED",
        ),
        (
            library::Error::TooLarge { limit: 5 }.into(),
            Code::ResourceExhausted,
            "UPLOAD_TOO_LARGE",
        ),
        (
            library::Error::Sha256Mismatch {
                expected: digest(),
                found: digest(),
            }
            .into(),
            Code::DataLoss,
            "SHA256_MISMATCH",
        ),
        (
            library::Error::Interrupted.into(),
            Code::Unavailable,
            "UPLOAD_INTERRUPTED",
        ),
        (
            library::Error::Probe(Reject::NoFrames.into()).into(),
            Code::InvalidArgument,
            "VIDEO_NO_FRAMES",
        ),
        (
            library::Error::Metadata(metadata::Error::PageToken).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            library::Error::Store(store::Error::NotFound { key: "k".into() }).into(),
            Code::DataLoss,
            "OBJECT_MISSING",
        ),
        (
            jobs::Error::Invalid(Invalid::new("epochs", "too many")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            jobs::Error::TooManyWatchers { limit: 1 }.into(),
            Code::ResourceExhausted,
            "TOO_MANY_WATCHERS",
        ),
        (
            jobs::Error::Metadata(metadata::Error::TooManyJobs { limit: 1 }).into(),
            Code::ResourceExhausted,
            "TOO_MANY_JOBS",
        ),
    ]);
    let status: Status = jobs::Error::Invalid(Invalid::new("epochs", "too many")).into();
    let details = status.get_error_details();
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "hyper_parameters.epochs");
}

#[test]
fn video_errors() {
    use video::Error;
    let mut cases: Vec<(Error, Code, &str)> = vec![
        (
            Error::QueueFull,
            Code::ResourceExhausted,
            "DECODER_QUEUE_FULL",
        ),
        (Error::Interrupted, Code::Unavailable, "DECODER_INTERRUPTED"),
        (Error::Stopped, Code::Unavailable, "DRAINING"),
        (
            Error::IndexOutOfRange {
                index: 9,
                frames: 2,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::WindowOutOfRange {
                index: 9,
                windows: 2,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::InvalidRequest {
                field: "views",
                problem: SECRET.into(),
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::PicturesTooLarge { bytes: 1 },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Spawn {
                program: SECRET.into(),
                source: Arc::new(disk()),
            },
            Code::Internal,
            "INTERNAL",
        ),
        (
            Error::Unconfined {
                layers: video::Layers::PLAIN,
            },
            Code::Internal,
            "INTERNAL",
        ),
        (Error::NoContainer, Code::Internal, "INTERNAL"),
        (
            Error::System {
                action: "fork",
                source: Arc::new(disk()),
            },
            Code::Internal,
            "INTERNAL",
        ),
    ];
    for &reject in Reject::ALL {
        cases.push((Error::from(reject), Code::InvalidArgument, reject.reason()));
    }
    let told = |(error, code, reason)| (domain::of_video(&error), code, reason);
    check(cases.into_iter().map(told).collect());
}

#[test]
fn a_refused_video_says_for_programs_what_was_found_and_what_is_allowed() {
    let limit = video::Limit {
        setting: "video_streams",
        value: 16,
        unit: "streams",
    };
    let rejection = video::Rejection {
        reject: Reject::TooManyStreams,
        evidence: video::Evidence::Count(19),
        limit: Some(limit),
    };
    let status = domain::of_video(&video::Error::Rejected(rejection));
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "VIDEO_TOO_MANY_STREAMS");
    for (key, value) in [
        ("found", "19"),
        ("limit", "16"),
        ("setting", "video_streams"),
    ] {
        assert_eq!(info.metadata.get(key).map(String::as_str), Some(value));
    }
    let violations = &details.bad_request().unwrap().field_violations;
    assert!(violations[0].description.contains("it has 19 streams"));
}

#[test]
fn exchange_errors() {
    use crate::model::exchange::Error as Unreadable;
    use exchange::Error;
    check(vec![
        (
            Error::Backbone {
                expected: digest(),
                got: Digest([8; 32]),
            }
            .into(),
            Code::FailedPrecondition,
            "BACKBONE_MISMATCH",
        ),
        (
            Error::Sha256Mismatch {
                expected: digest(),
                got: Digest([8; 32]),
            }
            .into(),
            Code::DataLoss,
            "SHA256_MISMATCH",
        ),
        (
            Error::Unreadable(Unreadable::NoHead("fc.weight")).into(),
            Code::InvalidArgument,
            "ADAPTERS_UNREADABLE",
        ),
        (
            Error::Invalid(Invalid::new("payload", "other shape")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (Error::Read(disk()).into(), Code::Internal, "INTERNAL"),
    ]);
}

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

#[test]
fn what_the_server_says_itself() {
    let malformed = tenancy::identify([b"A B".as_slice()]).unwrap_err();
    check(vec![
        (
            of_tenancy(&malformed),
            Code::InvalidArgument,
            "TENANT_INVALID",
        ),
        (
            of_tenancy(&tenancy::Error::Foreign),
            Code::PermissionDenied,
            "TENANT_DENIED",
        ),
        (
            of_credential(tenancy::Refused::Suspended),
            Code::PermissionDenied,
            "TENANT_SUSPENDED",
        ),
        (
            of_credential(tenancy::Refused::Unavailable(metadata::Error::Unavailable(
                cause(),
            ))),
            Code::Unavailable,
            "DATABASE_UNAVAILABLE",
        ),
        (
            scope_missing(Scopes::of(&[Scope::Read])),
            Code::PermissionDenied,
            "SCOPE_MISSING",
        ),
        (
            method_denied("/a/b"),
            Code::PermissionDenied,
            "METHOD_DENIED",
        ),
        (
            task_denied(Some(&task())),
            Code::PermissionDenied,
            "TASK_DENIED",
        ),
        (task_denied(None), Code::PermissionDenied, "TASK_DENIED"),
        (
            admin::Error::OtherTenant.into(),
            Code::PermissionDenied,
            "TENANT_DENIED",
        ),
        (
            admin::Error::TooWide(Scopes::of(&[Scope::Serve])).into(),
            Code::PermissionDenied,
            "SCOPE_MISSING",
        ),
        (
            admin::Error::Invalid(Invalid::new("scopes", "none")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            of_tenancy(&tenancy::Error::Repeated(2)),
            Code::InvalidArgument,
            "TENANT_INVALID",
        ),
        (
            invalid("name", "required"),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (stream("no header"), Code::InvalidArgument, "INVALID_STREAM"),
        (
            broken_stream(Status::cancelled("gone")),
            Code::Cancelled,
            "CANCELLED",
        ),
        (
            serving::Error::NoServingVersion {
                task: task(),
                is_moving: false,
            }
            .into(),
            Code::FailedPrecondition,
            "NO_SERVING_VERSION",
        ),
        (
            serving::Error::Backbone {
                version: version(),
                expected: digest(),
                got: Digest([8; 32]),
            }
            .into(),
            Code::FailedPrecondition,
            "BACKBONE_MISMATCH",
        ),
        (
            serving::Error::Invalid(Invalid::new("time.step", "expected 1 ms to 1 h")).into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            serving::Error::Resume.into(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            serving::Error::SamplingChanged { version: version() }.into(),
            Code::FailedPrecondition,
            "SAMPLING_CHANGED",
        ),
        (
            frames_unreadable(&Flaw::Rejected(Reject::Undecodable.into())),
            Code::InvalidArgument,
            "FRAMES_UNREADABLE",
        ),
        (
            serving::Error::Logits {
                version: version(),
                labels: 2,
            }
            .into(),
            Code::Internal,
            "INTERNAL",
        ),
        (too_large(1), Code::ResourceExhausted, "UPLOAD_TOO_LARGE"),
        (
            deadline_exceeded(),
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
        ),
        (not_ready(), Code::Unavailable, "NOT_READY"),
        (draining(), Code::Unavailable, "DRAINING"),
        (internal(SECRET), Code::Internal, "INTERNAL"),
        (panicked(&SECRET), Code::Internal, "INTERNAL"),
        (panicked(&SECRET.to_owned()), Code::Internal, "INTERNAL"),
    ]);
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

#[test]
fn a_refused_credential_has_one_answer_whatever_is_wrong_with_it() {
    use tenancy::Refused;
    let refusals = [
        Refused::Missing,
        Refused::Several,
        Refused::Malformed,
        Refused::Unknown,
        Refused::WrongSecret,
        Refused::Expired,
        Refused::Revoked,
    ];
    let told: Vec<_> = refusals
        .into_iter()
        .map(|refused| {
            let status = of_credential(refused);
            (
                status.code(),
                status.message().to_owned(),
                status.details().to_vec(),
            )
        })
        .collect();
    assert_eq!(told[0].0, Code::Unauthenticated);
    assert!(told.iter().all(|answer| *answer == told[0]), "{told:?}");
}

#[test]
fn flaws_of_frames_have_the_reasons_of_videos_or_their_own() {
    for (flaw, expected) in [
        (
            Flaw::Rejected(Reject::TooManyPixels.into()),
            "VIDEO_TOO_MANY_PIXELS",
        ),
        (
            Flaw::Size {
                expected: 12,
                got: 11,
            },
            "FRAME_SIZE_MISMATCH",
        ),
        (Flaw::TooLarge { limit: 1, got: 2 }, "FRAME_TOO_LARGE"),
    ] {
        assert_eq!(of_flaw(&flaw).name(), expected);
    }
}
