//! Counts every request by method, code and tenant, and gives its log lines a span.

use std::time::Instant;

use http::{Request, Response};
use tonic::Code;
use tonic::body::Body;
use tracing::{Instrument, Span};

use super::body::{Watched, code};
use super::{Concern, Inner, answer, request_id};
use crate::rpc::{auth, methods};
use crate::telemetry::metrics::{Caller, Metrics};

/// Observes requests.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    metrics: Metrics,
}

impl Observed {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl Concern for Observed {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let began = Instant::now();
        let method = methods::known(request.uri().path()).unwrap_or(OTHER);
        let caller = caller(&request);
        let id = request.extensions().get::<request_id::Name>().cloned();
        let id = id.as_ref().map_or("", request_id::Name::as_str);
        let span = tracing::info_span!("request", id, method, tenant = %caller);
        let mut call = Call {
            metrics: self.metrics.clone(),
            caller,
            method,
            began,
            span: span.clone(),
            reported: false,
        };
        let response = answer(next, request).instrument(span).await;
        match code(response.headers()) {
            Some(code) => {
                call.report(code);
                response
            }
            None => response
                .map(|body| Body::new(Watched::reporting(body, move |code| call.report(code)))),
        }
    }
}

/// Who calls, for the count: a malformed tenant is refused further in, and methods that know no tenants belong to none.
fn caller(request: &Request<Body>) -> Caller {
    if !auth::knows_tenants(request.uri().path()) {
        return Caller::Nobody;
    }
    match auth::caller(request.headers()) {
        Ok(caller) => Caller::Tenant(caller.tenant),
        Err(_) => Caller::Malformed,
    }
}

/// A call that is counted when it ends; one whose caller leaves is dropped, and counts as CANCELLED.
struct Call {
    metrics: Metrics,
    caller: Caller,
    method: &'static str,
    began: Instant,
    span: Span,
    reported: bool,
}

impl Call {
    fn report(&mut self, code: Code) {
        self.reported = true;
        let took = self.began.elapsed();
        self.metrics
            .request(&self.caller, self.method, name(code), took);
        self.span
            .in_scope(|| tracing::debug!(code = name(code), ?took, "answered"));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.reported {
            self.report(Code::Cancelled);
        }
    }
}

/// What stands for every path that is no method of this server.
const OTHER: &str = "other";

/// A code as the specification spells it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
