//! The only place where a domain error becomes a `tonic::Status`, with the details that clients act on.
//!
//! Invariant: every status has an `ErrorInfo` of domain `frameshift` with a stable reason. What is internal says so and nothing more: its cause goes
//! to the log, under the id that the caller finds in `x-request-id`.

mod access;
mod domain;
mod reason;
mod stored;
#[cfg(test)]
mod tests;
mod transport;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use reason::Reason;

pub(super) use access::{
    method_denied, of_credential, of_denied, of_tenancy, scope_missing, task_denied,
};
pub(super) use domain::{frames_unreadable, of_flaw};
pub(super) use transport::{
    broken_stream, explained, message_late, message_too_large, of_pool, reader_idle, stream_idle,
    too_many_streams,
};

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
    fn new(reason: Reason, message: impl fmt::Display) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason.name(), DOMAIN, HashMap::new());
        Self {
            code: reason.code(),
            message: message.to_string(),
            details,
        }
    }

    /// Returns the status with the code of whoever ended a stream.
    fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    fn field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        self.details.add_bad_request_violation(field, problem);
        self
    }

    /// Adds values for programs to the ErrorInfo.
    fn metadata(mut self, values: Vec<(&'static str, String)>) -> Self {
        if let Some(info) = self.details.error_info() {
            let (reason, domain) = (info.reason.clone(), info.domain.clone());
            let values = values.into_iter();
            let values = values.map(|(key, value)| (key.to_owned(), value));
            let values: HashMap<String, String> = values.collect();
            self.details.set_error_info(reason, domain, values);
        }
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

/// What a tenant's quota allows, and what of it is used.
struct QuotaUsed {
    quota: &'static str,
    limit: u64,
    used: u64,
    /// Setting of the server that is the limit of tenants without one of their own.
    setting: Option<&'static str>,
}

impl QuotaUsed {
    fn new(quota: &'static str, limit: u64, used: u64) -> Self {
        Self {
            quota,
            limit,
            used,
            setting: None,
        }
    }

    fn setting(mut self, setting: &'static str) -> Self {
        self.setting = Some(setting);
        self
    }
}

/// Adds a quota's name, limit, use and setting to a refusal. The subject of the `QuotaFailure` is the quota.
fn of_quota(refusal: Refusal, own: QuotaUsed) -> Refusal {
    let quota = own.quota;
    told_quota(refusal, own).quota(quota)
}

/// As [`of_quota`], for a refusal whose `QuotaFailure` names its setting.
fn of_setting(refusal: Refusal, own: QuotaUsed) -> Refusal {
    let subject = own.setting.unwrap_or(own.quota);
    told_quota(refusal, own).quota(subject)
}

fn told_quota(refusal: Refusal, own: QuotaUsed) -> Refusal {
    let mut values = vec![
        ("quota", own.quota.to_owned()),
        ("limit", own.limit.to_string()),
        ("used", own.used.to_string()),
    ];
    values.extend(own.setting.map(|setting| ("setting", setting.to_owned())));
    refusal.metadata(values)
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
    Refusal::new(Reason::INVALID_FIELD, format_args!("{field}: {problem}")).field(field, problem)
}

/// Messages of a stream in the wrong order or of the wrong size.
pub(super) fn stream(problem: &str) -> Status {
    Refusal::new(Reason::INVALID_STREAM, problem)
        .field("payload", problem)
        .status()
}

/// A file that is larger than an upload may be.
pub(super) fn too_large(limit: u64) -> Status {
    let message = format_args!("the file has more than {limit} bytes, the limit of one upload");
    Refusal::new(Reason::UPLOAD_TOO_LARGE, message)
        .quota("upload_bytes")
        .status()
}

/// The caller's deadline passed.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the deadline passed before there was an answer";
    Refusal::new(Reason::DEADLINE_EXCEEDED, message).status()
}

/// The server loads its backbone.
pub(super) fn not_ready() -> Status {
    let message = "the server is still loading its backbone";
    Refusal::new(Reason::NOT_READY, message)
        .retry(LATER)
        .status()
}

/// The server finishes what it has and takes nothing new.
pub(super) fn draining() -> Status {
    Refusal::new(Reason::DRAINING, "the server is draining")
        .retry(LATER)
        .status()
}

/// Something went wrong that no caller can mend.
pub(super) fn internal(cause: impl fmt::Display) -> Status {
    tracing::error!(%cause, "internal error");
    Refusal::new(Reason::INTERNAL, INTERNAL).status()
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

fn of_invalid(invalid: &crate::spec::Invalid) -> Status {
    bad(invalid.field, &invalid.problem).status()
}

/// Returns the status with a prefix to the fields of its violations, so that they name the whole path of a field inside a message.
pub(super) fn below(message: &'static str) -> impl Fn(Status) -> Status {
    move |status| {
        let mut details = status.get_error_details();
        let Some(bad) = details.bad_request().cloned() else {
            return status;
        };
        let mut text = status.message().to_owned();
        let paths = bad.field_violations.into_iter().map(|mut violation| {
            let path = format!("{message}.{}", violation.field);
            // The message of a single wrong field begins with it.
            if text.starts_with(&format!("{}: ", violation.field)) {
                text = format!("{message}.{text}");
            }
            violation.field = path;
            violation
        });
        let paths: Vec<_> = paths.collect();
        details.set_bad_request(paths);
        Status::with_error_details(status.code(), text, details)
    }
}
