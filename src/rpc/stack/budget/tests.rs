//! Clients that send half, slowly, too much or nothing, against the whole stack with a paused clock.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt};

use super::*;
use crate::rpc::auth::Callers;
use crate::rpc::stack::{Shared, drained, layers};
use crate::shutdown;
use crate::telemetry::metrics::Metrics;

const CLASSIFY: &str = "/frameshift.v1.ClassificationService/Classify";
const UPLOAD: &str = "/frameshift.v1.VideoService/UploadVideo";
const MIB: u64 = 1 << 20;

/// What a client sends, as it is fed.
struct Fed(mpsc::Receiver<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0
            .poll_recv(cx)
            .map(|data| Some(Ok(Frame::data(data?))))
    }
}

struct Bed {
    shared: Shared,
    drain: shutdown::Drain,
}

/// A call and the client's end of its body.
struct Call {
    feed: mpsc::Sender<Bytes>,
    answer: JoinHandle<Status>,
}

impl Bed {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits {
            message_memory: 128 * MIB,
            ..Limits::default()
        };
        change(&mut limits);
        let (drain, began) = shutdown::channel();
        let metrics = Metrics::new();
        let shared = Shared {
            callers: Callers::new(None, crate::rpc::Reflection::On, metrics.clone()),
            metrics,
            traces: crate::telemetry::Traces::default(),
            steps: drained::Steps {
                refuses: began.clone(),
                began,
                calls: TaskTracker::new(),
            },
            budget: Budget::new(&limits),
            limits,
        };
        Self { shared, drain }
    }

    fn held(&self) -> u64 {
        self.shared.budget.message_bytes()
    }

    /// A call whose handler takes a frame when it is told to, and all that come when nobody tells it.
    fn call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        turns: Option<mpsc::Receiver<()>>,
    ) -> Call {
        let (feed, fed) = mpsc::channel(1000);
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::new(Fed(fed))).unwrap();
        let turns = Arc::new(Mutex::new(turns));
        let handler = tower::service_fn(move |request: Request<Body>| {
            let turns = turns.lock().unwrap().take();
            async move { Ok::<_, std::convert::Infallible>(read(request.into_body(), turns).await) }
        });
        let service = layers(self.shared.clone()).layer(handler);
        let answer = tokio::spawn(async move {
            let Ok(response) = service.oneshot(request).await;
            Status::from_header_map(response.headers()).unwrap()
        });
        Call { feed, answer }
    }
}

async fn read(mut body: Body, mut turns: Option<mpsc::Receiver<()>>) -> Response<Body> {
    loop {
        if let Some(turns) = &mut turns {
            turns.recv().await;
        }
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(status)) => return status.into_http(),
            None => return Status::ok("").into_http(),
        }
    }
}

impl Call {
    async fn send(&self, bytes: impl Into<Bytes>) {
        self.feed.send(bytes.into()).await.unwrap();
    }

    /// Ends the body.
    async fn answer(self) -> (Code, String) {
        let Self { feed, answer } = self;
        drop(feed);
        seen(&answer.await.unwrap())
    }

    /// Waits for the answer while the body goes on.
    async fn refused(self) -> (Code, String) {
        seen(&self.answer.await.unwrap())
    }
}

fn seen(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    (status.code(), reason.unwrap_or_default())
}

fn is(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

fn head(flag: u8, length: u64) -> Bytes {
    let mut bytes = vec![flag];
    bytes.extend((length as u32).to_be_bytes());
    bytes.into()
}

fn message(bytes: usize) -> Bytes {
    let mut message = head(0, bytes as u64).to_vec();
    message.resize(5 + bytes, 7);
    message.into()
}

/// Lets everything run that can. The clock is paused, so no time is waited for.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn half_messages_take_no_more_than_the_budget_and_not_for_long() {
    let bed = Bed::new(|_| {});
    let mut calls = Vec::new();
    for _ in 0..24 {
        let call = bed.call(CLASSIFY, &[], None);
        call.send(head(0, 31 * MIB)).await;
        call.send(vec![0; 1 << 20]).await;
        calls.push(call);
    }
    settle().await;
    // As many as there is room for; the first that waits has what is left.
    assert!((4 * 31 * MIB..=128 * MIB).contains(&bed.held()));
    let began = Instant::now();
    let mut refusals = 0;
    let mut idle = 0;
    for call in calls {
        match call.refused().await {
            (Code::ResourceExhausted, reason) if reason == "MESSAGE_MEMORY_FULL" => refusals += 1,
            (Code::DeadlineExceeded, reason) if reason == "STREAM_IDLE" => idle += 1,
            other => panic!("{other:?}"),
        }
        assert!(bed.held() <= 128 * MIB);
    }
    assert_eq!((refusals, idle), (20, 4));
    assert!(
        began.elapsed() <= Duration::from_secs(31),
        "idle after 30 s"
    );
    assert_eq!(bed.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_gets_it_when_another_call_ends() {
    let bed = Bed::new(|limits| limits.message_memory = 64 * MIB);
    let first = bed.call(CLASSIFY, &[], None);
    first.send(head(0, 31 * MIB)).await;
    let second = bed.call(CLASSIFY, &[], None);
    second.send(head(0, 31 * MIB)).await;
    settle().await;
    let third = bed.call(CLASSIFY, &[], None);
    third.send(message(5 << 20)).await;
    settle().await;
    assert!(!third.answer.is_finished(), "the third one waits");
    assert_eq!(first.answer().await, is(Code::Ok, ""));
    assert_eq!(third.answer().await, is(Code::Ok, ""));
    second.answer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_unary_message_is_held_until_the_answer_and_a_chunk_until_the_next_one() {
    let bed = Bed::new(|_| {});
    for (path, after) in [(CLASSIFY, MIB), (UPLOAD, 0)] {
        let (turn, turns) = mpsc::channel(10);
        let call = bed.call(path, &[], Some(turns));
        call.send(message(1 << 20)).await;
        // The head, then the message.
        for _ in 0..2 {
            turn.send(()).await.unwrap();
            settle().await;
            assert_eq!(bed.held(), MIB, "{path}");
        }
        turn.send(()).await.unwrap();
        settle().await;
        assert_eq!(bed.held(), after, "{path}");
        assert_eq!(call.answer().await, is(Code::Ok, ""));
        assert_eq!(bed.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_is_refused_by_its_head() {
    let bed = Bed::new(|_| {});
    let call = bed.call(CLASSIFY, &[], None);
    call.send(head(0, 32 * MIB + 1)).await;
    let status = call.answer.await.unwrap();
    assert_eq!(
        seen(&status),
        is(Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    for part in ["33554433", "33554432", "ClassifyUpload"] {
        assert!(status.message().contains(part), "{status:?}");
    }
    assert_eq!(bed.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_compressed_message_draws_what_it_may_become() {
    let bed = Bed::new(|_| {});
    for (encoding, bytes, expected) in [
        ("gzip", 1024, 1033 * 1024),
        ("gzip", MIB, 33 * MIB),
        ("zstd", 1024, 1024 + 32 * MIB),
        ("zstd", 1, 33 * 1024),
    ] {
        let call = bed.call(CLASSIFY, &[("grpc-encoding", encoding)], None);
        call.send(head(1, bytes)).await;
        settle().await;
        assert_eq!(
            bed.held(),
            expected.next_multiple_of(1024),
            "{encoding} {bytes}"
        );
        call.answer.abort();
        settle().await;
        assert_eq!(bed.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_sends_nothing_ends() {
    let bed = Bed::new(|_| {});
    let silent = bed.call(UPLOAD, &[], None);
    let header_only = bed.call(UPLOAD, &[], None);
    header_only.send(message(10)).await;
    let began = Instant::now();
    let ended = is(Code::DeadlineExceeded, "STREAM_IDLE");
    assert_eq!(silent.refused().await, ended);
    assert_eq!(header_only.refused().await, ended);
    assert!(began.elapsed() <= Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_goes_on() {
    let bed = Bed::new(|_| {});
    let call = bed.call(UPLOAD, &[], None);
    for _ in 0..20 {
        call.send(message(1000)).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(call.answer().await, is(Code::Ok, ""));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_byte_by_byte_ends() {
    for path in [CLASSIFY, UPLOAD] {
        let bed = Bed::new(|_| {});
        let call = bed.call(path, &[], None);
        call.send(head(0, 31 * MIB)).await;
        let feed = call.feed.clone();
        let dripping = tokio::spawn(async move {
            while feed.send(vec![0].into()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        });
        let began = Instant::now();
        let (code, reason) = call.refused().await;
        assert_eq!(code, Code::DeadlineExceeded, "{reason}");
        assert!(began.elapsed() <= Duration::from_secs(130));
        assert_eq!(bed.held(), 0);
        dripping.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_only_so_many_streams() {
    let bed = Bed::new(|limits| limits.streams_per_tenant = 2);
    let acme = [("x-frameshift-tenant", "acme")];
    let first = bed.call(UPLOAD, &acme, None);
    let second = bed.call(UPLOAD, &acme, None);
    settle().await;
    let third = bed.call(UPLOAD, &acme, None);
    assert_eq!(
        third.refused().await,
        is(Code::ResourceExhausted, "TOO_MANY_STREAMS")
    );
    let other = bed.call(UPLOAD, &[("x-frameshift-tenant", "other")], None);
    assert_eq!(other.answer().await, is(Code::Ok, ""));
    assert_eq!(
        bed.call(CLASSIFY, &acme, None).answer().await,
        is(Code::Ok, "")
    );
    assert_eq!(first.answer().await, is(Code::Ok, ""));
    let again = bed.call(UPLOAD, &acme, None);
    assert_eq!(again.answer().await, is(Code::Ok, ""));
    second.answer.abort();
    settle().await;
    assert!(bed.shared.budget.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_idle_streams_soon_and_lets_busy_ones_finish() {
    let bed = Bed::new(|_| {});
    let idle = bed.call(UPLOAD, &[], None);
    let busy = bed.call(UPLOAD, &[], None);
    idle.send(message(10)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    bed.drain.start();
    let feeding = async {
        for _ in 0..10 {
            busy.send(message(1000)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        busy.answer().await
    };
    let ending = async {
        let end = idle.refused().await;
        (end, began.elapsed())
    };
    let (fed, (end, took)) = tokio::join!(feeding, ending);
    assert_eq!(fed, is(Code::Ok, ""));
    assert_eq!(end, is(Code::Unavailable, "DRAINING"));
    assert!(took < Duration::from_millis(1100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_without_a_deadline_has_the_servers() {
    let bed = Bed::new(|limits| limits.idle = Duration::from_secs(1000));
    let began = Instant::now();
    let unary = bed.call(CLASSIFY, &[], None);
    let stream = bed.call(UPLOAD, &[], None);
    let ended = is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(unary.refused().await, ended);
    let limits = Duration::from_secs(120)..Duration::from_secs(121);
    assert!(limits.contains(&began.elapsed()));
    assert_eq!(stream.answer().await, is(Code::Ok, ""));
}

#[tokio::test(start_paused = true)]
async fn one_connection_never_takes_everything() {
    let budget = Budget::new(&Limits {
        message_memory: 1024 * MIB,
        ..Limits::default()
    });
    assert_eq!(
        budget.peer(None, Metrics::new()).messages.bytes(),
        256 * MIB
    );
    let small = Budget::new(&Limits {
        message_memory: 1,
        ..Limits::default()
    });
    assert_eq!(small.peer(None, Metrics::new()).messages.bytes(), LARGEST);
    assert_eq!(small.messages.bytes(), LARGEST);
}
