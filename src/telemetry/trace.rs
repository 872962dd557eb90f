//! Traces: a span for each request and one for each of its stages, sent to an OpenTelemetry collector.
//!
//! Invariant: no span has a credential, a label, or the name or bytes of a video. A collector that is slow or away costs spans, never a request. Without a
//! collector, and for requests that are not sampled, a stage costs one look-up.

mod export;
mod stage;
mod w3c;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceId,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::Span;

use crate::blocking::blocking;

use export::Exporting;
pub use export::Unusable;
pub use stage::{Open, Stage, stage};
pub use w3c::Outgoing;

tokio::task_local! {
    /// The traced request whose future runs.
    static CURRENT: Arc<Request>;
}

/// Where spans are sent, and of how many requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// URL of a collector that takes OTLP over gRPC, for example `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Share of the requests without a parent that are traced, from 0 to 1; a request with a parent is traced when its parent is.
    pub ratio: f64,
}

/// Starts the traces of requests; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Exporting>>);

impl Traces {
    /// Starts to export spans; without a configuration there are none. Nothing is connected yet, so an address where nobody listens is no error.
    ///
    /// # Errors
    /// When the endpoint is not a URL that can be used.
    pub fn new(config: Option<&Config>) -> Result<Self, Unusable> {
        let exporting = config.map(Exporting::start).transpose()?;
        Ok(Self(exporting.map(Arc::new)))
    }

    /// Begins the trace of a request, as a part of its caller's when the headers name one.
    pub fn begin(&self, headers: &HeaderMap, method: &'static str) -> Trace {
        let parent = w3c::parent(headers);
        let Some(exporting) = &self.0 else {
            let id = parent.map(|parent| parent.trace_id());
            return Trace { id, request: None };
        };
        let request = Request::begin(exporting.clone(), parent, method);
        Trace {
            id: Some(request.parent.span().span_context().trace_id()),
            request: request.is_sampled().then(|| Arc::new(request)),
        }
    }

    /// Sends what has not been sent, and ends the export. Takes a few seconds at most.
    pub async fn finish(&self) {
        let Some(exporting) = self.0.clone() else {
            return;
        };
        // The exporter blocks its caller; a worker that cannot be started leaves the last spans unsent.
        let _ = blocking(move || exporting.finish()).await;
    }
}

/// The trace of one request.
#[derive(Debug, Clone)]
pub struct Trace {
    id: Option<TraceId>,
    /// The request, when its spans are recorded.
    request: Option<Arc<Request>>,
}

impl Trace {
    /// Returns the trace of a request that has none.
    pub fn none() -> Self {
        Self {
            id: None,
            request: None,
        }
    }

    /// Returns the trace of the running request, for work that goes on after its handler has returned, such as the answers of a stream.
    pub fn running() -> Self {
        Self {
            id: None,
            request: current(),
        }
    }

    /// Returns the trace for one of the numbered parts of a stream: that of the stream for the parts 0, 1, 2, 4, 8 and so on, and none for the others, so
    /// that a stream has few spans, however long it is.
    #[must_use]
    pub fn of_part(&self, number: u64) -> Self {
        let is_shown = number == 0 || number.is_power_of_two();
        let request = self.request.clone().filter(|_| is_shown);
        if let Some(request) = &request {
            request.lock().is_stream = true;
        }
        Self { id: None, request }
    }

    /// Returns the id of the trace, which the caller or this server gave it.
    pub fn id(&self) -> Option<impl fmt::Display + use<>> {
        self.id
    }

    /// Returns the id of the trace when its spans are recorded, so that it can be looked up in the collector.
    pub fn recorded(&self) -> Option<String> {
        self.request.as_ref().map(|request| request.trace_id())
    }

    /// Adds an attribute to the request's span, when it is recorded.
    pub fn note<V: Into<Value>>(&self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(request) = &self.request
            && let Some(span) = &mut request.lock().span
        {
            span.set_attribute(KeyValue::new(key, value()));
        }
    }

    /// Runs a future as a part of the request: what it calls finds the trace.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        match &self.request {
            Some(request) => CURRENT.scope(request.clone(), future).await,
            None => future.await,
        }
    }

    /// Calls a function as a part of the request, as [`Trace::scope`] runs a future.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.request {
            Some(request) => CURRENT.sync_scope(request.clone(), work),
            None => work(),
        }
    }

    /// Ends the request's span with a gRPC code; `is_fault` says that the server is at fault, not the caller.
    pub fn end(&self, code: &'static str, number: i64, is_fault: bool) {
        let Some(request) = &self.request else {
            return;
        };
        let now = Instant::now();
        let mut state = request.lock();
        let (span, answering) = (state.span.take(), state.answering.take());
        drop(state);
        let Some(mut span) = span else {
            return;
        };
        if let Some(began) = answering {
            request.record(Stage::Answer, (began, now), Vec::new(), None);
        }
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", number));
        if is_fault {
            span.set_status(Status::error(code));
        }
        span.end_with_timestamp(request.wall(now));
    }
}

/// Returns the id of the running request's trace when its spans are recorded.
pub(super) fn current_id() -> Option<String> {
    current().map(|request| request.trace_id())
}

/// Returns the traced request whose future runs.
fn current() -> Option<Arc<Request>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// A request that is traced.
#[derive(Debug)]
struct Request {
    exporting: Arc<Exporting>,
    /// Context with the request's span as the parent of its stages.
    parent: Context,
    /// The same moment on both clocks: all times of the trace are counted from it, so that its spans never overlap because the wall clock was set.
    began: (SystemTime, Instant),
    /// A plain mutex, because it is held for a few assignments and never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Span of the request, until it ends.
    span: Option<Span>,
    /// When the engine's last result had come; not of a stream, whose parts have answers of their own.
    answering: Option<Instant>,
    is_stream: bool,
}

impl Request {
    fn begin(exporting: Arc<Exporting>, parent: Option<SpanContext>, method: &'static str) -> Self {
        let began = (super::now(), Instant::now());
        let path = method.trim_start_matches('/');
        let (service, name) = path.split_once('/').unwrap_or((path, ""));
        let builder = SpanBuilder::from_name(path)
            .with_kind(SpanKind::Server)
            .with_start_time(began.0)
            .with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", name),
            ]);
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = exporting.tracer.build_with_context(builder, &context);
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        Self {
            exporting,
            parent,
            began,
            state: Mutex::new(State {
                span: Some(span),
                answering: None,
                is_stream: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_sampled(&self) -> bool {
        self.parent.span().span_context().is_sampled()
    }

    fn trace_id(&self) -> String {
        self.parent.span().span_context().trace_id().to_string()
    }

    /// Returns the wall-clock time of a moment of this request.
    fn wall(&self, at: Instant) -> SystemTime {
        let (wall, began) = self.began;
        match at.checked_duration_since(began) {
            Some(later) => wall + later,
            None => wall - began.saturating_duration_since(at).min(LONGEST),
        }
    }

    /// Sends the span of a stage that is over.
    fn record(
        &self,
        stage: Stage,
        (began, ended): (Instant, Instant),
        attributes: Vec<KeyValue>,
        failure: Option<&'static str>,
    ) {
        let builder = SpanBuilder::from_name(stage.name())
            .with_kind(SpanKind::Internal)
            .with_start_time(self.wall(began))
            .with_attributes(attributes);
        let tracer = &self.exporting.tracer;
        let mut span = tracer.build_with_context(builder, &self.parent);
        if let Some(failure) = failure {
            span.set_status(Status::error(failure));
        }
        span.end_with_timestamp(self.wall(ended));
    }
}

/// Most time before a request's begin that a span of it may begin: a stage never does, so this only keeps the subtraction in range.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[tokio::test]
    async fn without_a_collector_the_callers_trace_id_is_known_and_nothing_is_recorded() {
        let traces = Traces::new(None).unwrap();
        let mut headers = HeaderMap::new();
        assert!(traces.begin(&headers, "/a.B/C").id().is_none());
        headers.insert("traceparent", HeaderValue::from_static(PARENT));
        let trace = traces.begin(&headers, "/a.B/C");
        let id = trace.id().map(|id| id.to_string());
        assert_eq!(id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(trace.recorded(), None);
        trace.scope(async { assert!(current().is_none()) }).await;
        traces.finish().await;
    }

    #[tokio::test]
    async fn a_request_is_sampled_as_its_parent_is_else_by_the_ratio() {
        // Nobody listens there: the spans of this test are lost, and it does not wait for them.
        let traces = |ratio| {
            let endpoint = "http://127.0.0.1:1".to_owned();
            Traces::new(Some(&Config { endpoint, ratio })).unwrap()
        };
        let is_sampled = |traces: &Traces, parent: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(parent) = parent {
                headers.insert("traceparent", HeaderValue::from_static(parent));
            }
            let trace = traces.begin(&headers, "/a.B/C");
            assert!(trace.id().is_some());
            trace.recorded().is_some()
        };
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        for (ratio, alone) in [(0.0, false), (1.0, true)] {
            let traces = traces(ratio);
            assert_eq!(is_sampled(&traces, None), alone, "{ratio}");
            assert!(is_sampled(&traces, Some(PARENT)), "{ratio}");
            assert!(!is_sampled(&traces, Some(unsampled)), "{ratio}");
        }
        let traces = traces(0.25);
        let sampled = (0..4000).filter(|_| is_sampled(&traces, None)).count();
        // Five standard deviations on either side.
        assert!((860..=1140).contains(&sampled), "{sampled} of 4000");
    }
}
