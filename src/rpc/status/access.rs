//! Callers that are refused: by their credentials, scopes and tenants.
//!
//! Invariant: a refused credential has one text whatever is wrong with it; what is refused tells nothing of whether the thing exists.

use tonic::Status;

use super::{Reason, Refusal, broken, of_invalid};
use crate::ids::TaskId;
use crate::spec::Scopes;
use crate::tenancy::{self, Refused, admin};

/// Who calls.
pub(in crate::rpc) fn of_tenancy(error: &tenancy::Error) -> Status {
    use tenancy::Error;
    match error {
        Error::Malformed(_) | Error::Repeated(_) => Refusal::new(Reason::TENANT_INVALID, error)
            .field(tenancy::HEADER, error.to_string())
            .status(),
        Error::Foreign => Refusal::new(Reason::TENANT_DENIED, error).status(),
    }
}

/// A credential that is not accepted.
pub(in crate::rpc) fn of_credential(refused: Refused) -> Status {
    match refused {
        Refused::Missing
        | Refused::Several
        | Refused::Malformed
        | Refused::Unknown
        | Refused::WrongSecret
        | Refused::Expired
        | Refused::Revoked => {
            let message = "the call needs a credential that is accepted: authorization: Bearer …";
            Refusal::new(Reason::CREDENTIAL_REFUSED, message).status()
        }
        Refused::Suspended => {
            Refusal::new(Reason::TENANT_SUSPENDED, "the caller's tenant is suspended").status()
        }
        Refused::Unavailable(error) => error.into(),
    }
}

/// A caller without any of the scopes of a method.
pub(in crate::rpc) fn scope_missing(scopes: Scopes) -> Status {
    let names: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
    let message = format_args!("the caller lacks the scope {}", names.join(" or "));
    Refusal::new(Reason::SCOPE_MISSING, message)
        .metadata(vec![("scopes", scopes.to_string())])
        .status()
}

/// A method that the caller may not call whatever its scopes are.
pub(in crate::rpc) fn method_denied(method: &str) -> Status {
    let message = format_args!("the caller may not call {method}");
    Refusal::new(Reason::METHOD_DENIED, message).status()
}

/// A task that is not on the list of the caller's key; `None` for the backbone alone.
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
