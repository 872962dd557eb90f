//! Puts the caller into every request of the API. Health and reflection belong to no tenant.

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;

use super::stack::{Concern, Inner, answer};
use super::status;
use crate::ids::TenantId;
use crate::tenancy::{self, Caller, HEADER};

/// Identifies callers.
#[derive(Debug, Clone)]
pub(super) struct Tenants;

impl Concern for Tenants {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        if !knows_tenants(request.uri().path()) {
            return answer(next, request).await;
        }
        match caller(request.headers()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                answer(next, request).await
            }
            Err(error) => status::of_tenancy(&error).into_http(),
        }
    }
}

/// Whether the method of a path is the API's own, whose requests have a tenant.
pub(super) fn knows_tenants(path: &str) -> bool {
    path.starts_with("/frameshift.")
}

/// The caller of a request.
pub(super) fn caller(headers: &HeaderMap) -> Result<Caller, tenancy::Error> {
    tenancy::identify(headers.get_all(HEADER).iter().map(|value| value.as_bytes()))
}

/// The tenant of a request that came through the stack.
pub(super) fn tenant<T>(request: &tonic::Request<T>) -> Result<TenantId, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .map(|caller| caller.tenant.clone())
        .ok_or_else(|| status::internal("a request without a caller"))
}
