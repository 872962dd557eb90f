//! Counts every request by method, code and tenant, traces it, and gives its log lines a span with the ids of the request and of its trace.

use std::time::Instant;

use http::{Request, Response};
use tonic::Code;
use tonic::body::Body;
use tracing::{Instrument, Span};

use super::body::{Watched, code};
use super::{Concern, Inner, answer, request_id};
use crate::rpc::auth::Seen;
use crate::rpc::{auth, methods};
use crate::telemetry::Traces;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// Observes requests.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    metrics: Metrics,
    traces: Traces,
}

impl Observed {
    pub(super) fn new(metrics: Metrics, traces: Traces) -> Self {
        Self { metrics, traces }
    }
}

impl Concern for Observed {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        let began = Instant::now();
        let method = methods::known(request.uri().path()).unwrap_or(OTHER);
        let seen = Seen::default();
        request.extensions_mut().insert(seen.clone());
        let id = request.extensions().get::<request_id::Name>().cloned();
        let id = id.as_ref().map_or("", request_id::Name::as_str);
        // Probes of health come every few seconds; nobody looks for their traces.
        let trace = match auth::knows_tenants(request.uri().path()) {
            true => self.traces.begin(request.headers(), method),
            false => Trace::none(),
        };
        trace.note("frameshift.request_id", || id.to_owned());
        let (tenant, trace_id) = (
            tracing::field::Empty,
            trace.id().map(tracing::field::display),
        );
        let span = tracing::info_span!("request", id, method, tenant, trace_id);
        let mut call = Call {
            metrics: self.metrics.clone(),
            seen,
            method,
            began,
            span: span.clone(),
            trace: trace.clone(),
            reported: false,
        };
        let response = trace.scope(answer(next, request)).instrument(span).await;
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

/// A call that is counted when it ends; one whose caller leaves is dropped, and counts as CANCELLED.
struct Call {
    metrics: Metrics,
    seen: Seen,
    method: &'static str,
    began: Instant,
    span: Span,
    trace: Trace,
    reported: bool,
}

impl Call {
    fn report(&mut self, code: Code) {
        self.reported = true;
        let took = self.began.elapsed();
        let (caller, trace) = (self.seen.caller(), &self.trace);
        self.metrics
            .request(&caller, self.method, name(code), took, trace.recorded());
        trace.note("frameshift.tenant", || caller.to_string());
        trace.end(name(code), i32::from(code).into(), is_fault(code));
        self.span.in_scope(|| {
            self.seen.audit(self.method, name(code));
            tracing::debug!(code = name(code), ?took, "answered");
        });
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

/// Whether a code says that the server is at fault, as OpenTelemetry's conventions have it.
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(
        code,
        Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss
    )
}

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
