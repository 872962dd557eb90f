//! Errors of the object store, the registry, the library, jobs and exchange.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{SECRET, cause, check, digest, disk, version};
use crate::ids::VideoId;
use crate::spec::{Digest, Invalid};
use crate::video::Reject;
use crate::{exchange, jobs, library, metadata, registry, store};

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
            library::Error::Archive(library::ArchiveError::Damaged("it names no split")).into(),
            Code::Internal,
            "INTERNAL",
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
