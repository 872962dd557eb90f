//! Callers that are refused: by their credentials, scopes and tenants.
//!
//! Invariant: a refused credential has one text whatever is wrong with it; what is refused tells nothing of whether the thing exists.

use tonic::Status;

use super::{LATER, QuotaUsed, Reason, Refusal, SOON, broken, of_invalid, of_quota};
use crate::ids::TaskId;
use crate::spec::{RateExceeded, Scopes};
use crate::tenancy::{self, Denied, Refused, TooManyCalls, admin};

/// Converts an error about who calls.
pub(in crate::rpc) fn of_tenancy(error: &tenancy::Error) -> Status {
    use tenancy::Error;
    match error {
        Error::Malformed(_) | Error::Repeated(_) | Error::Unchosen(_) => {
            Refusal::new(Reason::TENANT_INVALID, error)
                .field(tenancy::HEADER, error.to_string())
                .status()
        }
        Error::Foreign => Refusal::new(Reason::TENANT_DENIED, error).status(),
    }
}

/// Converts the refusal of a credential.
pub(in crate::rpc) fn of_credential(refused: Refused) -> Status {
    match refused {
        Refused::Missing
        | Refused::Several
        | Refused::Malformed
        | Refused::Unknown
        | Refused::WrongSecret
        | Refused::Expired
        | Refused::Revoked
        | Refused::Token(_)
        | Refused::Unmapped => {
            let message = "the call needs a credential that is accepted: authorization: Bearer …";
            Refusal::new(Reason::CREDENTIAL_REFUSED, message).status()
        }
        Refused::Suspended => {
            Refusal::new(Reason::TENANT_SUSPENDED, "the caller's tenant is suspended").status()
        }
        Refused::Crowded => {
            let message = "too many credentials from this address were refused; unknown ones wait";
            Refusal::new(Reason::TOO_MANY_CREDENTIALS, message)
                .quota("refused_credentials_per_address")
                .retry(LATER)
                .status()
        }
        Refused::IssuerAway => {
            let message = "the issuer of the credential cannot be asked for its keys now";
            Refusal::new(Reason::ISSUER_UNAVAILABLE, message)
                .retry(LATER)
                .status()
        }
        Refused::Erased => of_denied(Denied::Erased),
        Refused::Unavailable(error) => error.into(),
    }
}

/// A call of a tenant that is not served now.
pub(in crate::rpc) fn of_denied(denied: Denied) -> Status {
    match denied {
        Denied::Erased => Refusal::new(Reason::TENANT_ERASED, denied).status(),
        Denied::Suspended => Refusal::new(Reason::TENANT_SUSPENDED, denied).status(),
        Denied::Rate(exceeded) => of_rate(exceeded),
        Denied::Calls(calls) => of_calls(calls),
    }
}

/// A tenant with as many calls under way as it may have.
fn of_calls(calls: TooManyCalls) -> Status {
    let used = QuotaUsed::new("concurrent_requests", calls.limit.into(), calls.used.into());
    let refusal = Refusal::new(Reason::QUOTA_EXCEEDED, calls);
    let refusal = of_quota(refusal, used.setting("requests_per_tenant"));
    match calls.limit {
        0 => refusal.status(),
        _ => refusal.retry(SOON).status(),
    }
}

/// A tenant that has used what it may in a second.
pub(super) fn of_rate(exceeded: RateExceeded) -> Status {
    let refusal = Refusal::new(Reason::RATE_EXCEEDED, exceeded)
        .metadata(vec![
            ("quota", exceeded.rate.name().to_owned()),
            ("limit", exceeded.limit.to_string()),
        ])
        .quota(exceeded.rate.name());
    match exceeded.wait {
        Some(wait) => refusal.retry(wait).status(),
        None => refusal.status(),
    }
}

/// Returns the status for a caller without any of the scopes of a method.
pub(in crate::rpc) fn scope_missing(scopes: Scopes) -> Status {
    let names: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
    let message = format_args!("the caller lacks the scope {}", names.join(" or "));
    Refusal::new(Reason::SCOPE_MISSING, message)
        .metadata(vec![("scopes", scopes.to_string())])
        .status()
}

/// Returns the status for a method that the caller may not call whatever its scopes are.
pub(in crate::rpc) fn method_denied(method: &str) -> Status {
    let message = format_args!("the caller may not call {method}");
    Refusal::new(Reason::METHOD_DENIED, message).status()
}

/// Returns the status for a task that is not on the list of the caller's key; `None` for the backbone alone.
pub(in crate::rpc) fn task_denied(task: Option<&TaskId>) -> Status {
    let what = task.map_or_else(
        || "the bare backbone".to_owned(),
        |task| format!("tasks/{task}"),
    );
    let message = format_args!("the caller's key is for certain tasks, {what} is none of them");
    Refusal::new(Reason::TASK_DENIED, message).status()
}

impl From<admin::Error> for Status {
    fn from(error: admin::Error) -> Self {
        use admin::Error;
        match error {
            Error::Invalid(invalid) => of_invalid(&invalid),
            Error::OtherTenant => Refusal::new(Reason::TENANT_DENIED, &error).status(),
            Error::TooWide(scopes) => Refusal::new(Reason::SCOPE_MISSING, &error)
                .metadata(vec![("scopes", scopes.to_string())])
                .status(),
            Error::NoRandomness(_) => broken(&error),
            Error::Metadata(error) => error.into(),
        }
    }
}
