//! The whole stack around handlers that do what real ones should not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body::Frame;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::*;
use crate::shutdown;
use crate::tenancy::Caller;

const CLASSIFY: &str = "/frameshift.v1.ClassificationService/Classify";
const WATCH: &str = "/frameshift.v1.FineTuningService/WatchJob";

/// Sets its flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn request(path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn through<F>(
    metrics: &Metrics,
    drain: shutdown::Signal,
    request: Request<Body>,
    handler: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
) -> Response<Body>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let handler = tower::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let limits = budget::Limits::default();
    let shared = Shared {
        metrics: metrics.clone(),
        traces: crate::telemetry::Traces::default(),
        steps: drained::Steps {
            began: drain.clone(),
            refuses: drain,
            calls: TaskTracker::new(),
        },
        budget: budget::Budget::new(&limits),
        limits,
        callers: Callers::new(None, crate::rpc::Reflection::On, metrics.clone()),
    };
    let service = layers(shared).layer(handler);
    match service.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Reads a body to its end; the code in its trailers, or in the headers.
async fn finish(response: Response<Body>) -> Option<Code> {
    if let Some(code) = body::code(response.headers()) {
        return Some(code);
    }
    let mut body = response.into_body();
    let mut last = None;
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
    {
        let frame: Frame<bytes::Bytes> = frame.ok()?;
        last = frame.trailers_ref().and_then(body::code);
    }
    last
}

#[tokio::test]
async fn a_panic_becomes_internal_and_says_nothing_of_its_cause() {
    let (_drain, signal) = shutdown::channel();
    let metrics = Metrics::new();
    let response = through(&metrics, signal, request(CLASSIFY, &[]), |_| async {
        panic!("the password is 12345")
    })
    .await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("12345"));
    assert!(response.headers().contains_key(request_id::HEADER));
    let text = metrics.text();
    assert!(
        text.contains("INTERNAL") && text.contains(CLASSIFY),
        "{text}"
    );
}

#[tokio::test]
async fn a_panic_within_a_stream_ends_it_with_internal() {
    let (_drain, signal) = shutdown::channel();
    let response = through(&Metrics::new(), signal, request(WATCH, &[]), |_| async {
        Response::new(Body::new(Panics))
    })
    .await;
    assert_eq!(finish(response).await, Some(Code::Internal));
}

/// A body that panics when it is read.
struct Panics;

impl http_body::Body for Panics {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        panic!("as planned")
    }
}

/// A body that always has more to say.
struct Chatty;

impl http_body::Body for Chatty {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::from_static(b"more")))))
    }
}

/// Reads a body to its end, whatever it says, at one frame a millisecond.
async fn finish_slowly(response: Response<Body>) -> Option<Code> {
    let mut body = response.into_body();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let frame =
            std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await;
        let frame: Frame<bytes::Bytes> = frame?.ok()?;
        if let Some(code) = frame.trailers_ref().and_then(body::code) {
            return Some(code);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_more_is_stopped_by_its_deadline_and_by_a_drain() {
    let (drain, signal) = shutdown::channel();
    let chat = |headers: &[(&str, &str)]| {
        let request = request(WATCH, headers);
        let signal = signal.clone();
        async move {
            through(&Metrics::new(), signal, request, |_| async {
                Response::new(Body::new(Chatty))
            })
            .await
        }
    };
    let began = Instant::now();
    let late = chat(&[("grpc-timeout", "2S")]).await;
    assert_eq!(finish_slowly(late).await, Some(Code::DeadlineExceeded));
    assert!(began.elapsed() < Duration::from_millis(2100));
    let drained = chat(&[]).await;
    drain.start();
    assert_eq!(finish_slowly(drained).await, Some(Code::Unavailable));
    assert!(began.elapsed() < Duration::from_millis(2200));
}

/// A body that never ends.
struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_handler_is_dropped_at_its_deadline() {
    let (_drain, signal) = shutdown::channel();
    let metrics = Metrics::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let began = Instant::now();
    let response = through(
        &metrics,
        signal,
        request(CLASSIFY, &[("grpc-timeout", "50m")]),
        move |_| {
            let guard = Dropped(Arc::clone(&flag));
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        },
    )
    .await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_millis(60));
    assert!(dropped.load(Ordering::SeqCst));
    assert!(metrics.text().contains("DEADLINE_EXCEEDED"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline() {
    let (_drain, signal) = shutdown::channel();
    let request = request(WATCH, &[("grpc-timeout", "2S")]);
    let response = through(&Metrics::new(), signal, request, |_| async {
        Response::new(Body::new(Endless))
    })
    .await;
    assert_eq!(finish(response).await, Some(Code::DeadlineExceeded));
}

#[tokio::test]
async fn calls_that_arrive_in_a_drains_grace_are_served_and_endless_streams_end() {
    let (drain, began) = shutdown::channel();
    let (refuse, refuses) = shutdown::channel();
    let limits = budget::Limits::default();
    let calls = TaskTracker::new();
    let metrics = Metrics::new();
    let shared = Shared {
        metrics: metrics.clone(),
        traces: crate::telemetry::Traces::default(),
        steps: drained::Steps {
            began,
            refuses,
            calls: calls.clone(),
        },
        budget: budget::Budget::new(&limits),
        limits,
        callers: Callers::new(None, crate::rpc::Reflection::On, metrics.clone()),
    };
    let call = |path: &'static str, body: fn() -> Response<Body>| {
        let handler = tower::service_fn(move |_| async move { Ok::<_, Infallible>(body()) });
        let service = layers(shared.clone()).layer(handler);
        async move {
            let Ok(response) = service.oneshot(request(path, &[])).await;
            response
        }
    };
    let watching = call(WATCH, || Response::new(Body::new(Endless))).await;
    assert_eq!(calls.len(), 1);
    drain.start();
    assert_eq!(finish(watching).await, Some(Code::Unavailable));
    assert_eq!(calls.len(), 0, "the call is over with its answer's body");
    let served = call(CLASSIFY, || Status::ok("").into_http()).await;
    assert_eq!(finish(served).await, Some(Code::Ok));
    refuse.start();
    let refused = call(CLASSIFY, || Status::ok("").into_http()).await;
    assert_eq!(finish(refused).await, Some(Code::Unavailable));
}

#[tokio::test]
async fn a_drain_ends_endless_streams_and_refuses_new_calls() {
    let (drain, signal) = shutdown::channel();
    let metrics = Metrics::new();
    let watching = through(&metrics, signal.clone(), request(WATCH, &[]), |_| async {
        Response::new(Body::new(Endless))
    })
    .await;
    drain.start();
    assert_eq!(finish(watching).await, Some(Code::Unavailable));
    let refused = through(
        &metrics,
        signal.clone(),
        request(CLASSIFY, &[]),
        |_| async { Response::new(Body::empty()) },
    )
    .await;
    assert_eq!(finish(refused).await, Some(Code::Unavailable));
    let health = request("/grpc.health.v1.Health/Check", &[]);
    let asked = through(&metrics, signal, health, |_| async {
        Status::ok("").into_http()
    })
    .await;
    assert_eq!(finish(asked).await, Some(Code::Ok));
}

#[tokio::test]
async fn a_call_has_the_tenant_of_its_header_and_the_id_of_its_caller() {
    let (_drain, signal) = shutdown::channel();
    let headers = [("x-frameshift-tenant", "acme"), ("x-request-id", "mine-7")];
    let request = request(CLASSIFY, &headers);
    let response = through(&Metrics::new(), signal, request, |request| async move {
        let caller = request.extensions().get::<Caller>().unwrap();
        Status::ok(caller.tenant.as_ref().unwrap().as_str()).into_http()
    })
    .await;
    assert_eq!(response.headers()[request_id::HEADER], "mine-7");
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.message(), "acme");
}

#[tokio::test]
async fn a_malformed_tenant_never_reaches_a_handler() {
    let (_drain, signal) = shutdown::channel();
    let request = request(CLASSIFY, &[("x-frameshift-tenant", "../other")]);
    let response = through(&Metrics::new(), signal, request, |_| async {
        panic!("the handler was called")
    })
    .await;
    assert_eq!(finish(response).await, Some(Code::InvalidArgument));
}

#[tokio::test]
async fn a_body_that_is_dropped_early_counts_as_cancelled() {
    let (_drain, signal) = shutdown::channel();
    let metrics = Metrics::new();
    let response = through(&metrics, signal, request(WATCH, &[]), |_| async {
        Response::new(Body::new(Endless))
    })
    .await;
    drop(response);
    assert!(metrics.text().contains("CANCELLED"), "{}", metrics.text());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_leaves_counts_as_cancelled() {
    let (_drain, signal) = shutdown::channel();
    let metrics = Metrics::new();
    let call = through(&metrics, signal, request(CLASSIFY, &[]), |_| {
        std::future::pending()
    });
    let left = tokio::time::timeout(Duration::from_secs(1), call).await;
    assert!(left.is_err());
    assert!(metrics.text().contains("CANCELLED"), "{}", metrics.text());
}

/// A body of small frames, which counts those that were read; after them it ends, or says nothing more.
struct Small {
    left: usize,
    ends: bool,
    read: Arc<AtomicUsize>,
    _dropped: Dropped,
}

impl http_body::Body for Small {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.read.fetch_add(1, Ordering::SeqCst);
                Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::from_static(b"small")))))
            }
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_call_says_is_read_on_for_a_while() {
    let (_drain, signal) = shutdown::channel();
    let metrics = Metrics::default();
    let case = async |frames, ends, wait| {
        let (read, gone) = (Arc::default(), Arc::<AtomicBool>::default());
        let body = Small {
            left: frames,
            ends,
            read: Arc::clone(&read),
            _dropped: Dropped(Arc::clone(&gone)),
        };
        let request = request(CLASSIFY, &[("x-frameshift-tenant", "not a tenant")]);
        let request = request.map(|_| Body::new(body));
        let response = through(&metrics, signal.clone(), request, |_| async {
            unreachable!("it is refused")
        });
        assert_eq!(finish(response.await).await, Some(Code::InvalidArgument));
        tokio::time::sleep(wait).await;
        (read.load(Ordering::SeqCst), gone.load(Ordering::SeqCst))
    };
    let short = Duration::from_millis(1);
    assert_eq!(case(1_000, true, short).await, (1_000, true));
    assert_eq!(case(3, false, short).await, (3, false), "more may come");
    assert_eq!(case(3, false, Duration::from_secs(2)).await, (3, true));
    // 64 KiB, and the frame that was too much.
    assert_eq!(case(100_000, true, short).await, (13_108, true));
}
