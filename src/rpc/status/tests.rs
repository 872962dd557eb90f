//! Every variant of every domain error: its code, its reason, and that nothing internal leaks.
// Tables are long.
#![allow(clippy::too_many_lines)]

mod decoding;
mod inference;
mod records;
mod stored;

use super::*;
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::serving::frames::Flaw;
use crate::spec::{Digest, Invalid, Scope, Scopes};
use crate::tenancy::admin;
use crate::video::Reject;
use crate::{metadata, serving, tenancy};
use std::io;

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
            of_tenancy(&tenancy::Error::Unchosen(2)),
            Code::InvalidArgument,
            "TENANT_INVALID",
        ),
        (
            of_credential(tenancy::Refused::Crowded),
            Code::ResourceExhausted,
            "TOO_MANY_CREDENTIALS",
        ),
        (
            of_credential(tenancy::Refused::IssuerAway),
            Code::Unavailable,
            "ISSUER_UNAVAILABLE",
        ),
        (
            of_credential(tenancy::Refused::Erased),
            Code::PermissionDenied,
            "TENANT_ERASED",
        ),
        (
            of_denied(tenancy::Denied::Suspended),
            Code::PermissionDenied,
            "TENANT_SUSPENDED",
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
        Refused::Token(tenancy::Flaw::Signature),
        Refused::Token(tenancy::Flaw::Expired),
        Refused::Unmapped,
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
