//! How live streams end and what bounds them: silence, drains, deadlines, slow service, slow readers, limits.

use super::*;

fn live_frames(server: &TestServer) -> u64 {
    counted(server, &["frameshift_live_frames_total{"])
}

/// A header that leaves frames out rather than holding its caller back.
fn hurried(task: &str, pace: Pace) -> v1::ClassifyFramesHeader {
    v1::ClassifyFramesHeader {
        late_policy: v1::LatePolicy::SkipToLive.into(),
        ..header(task, pace)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_stream_with_a_clear_status() {
    let server = TestServer::start_with(|config| {
        config.rpc.limits.idle = Duration::from_secs(1);
    })
    .await;
    let (_client, mut live) = opened(&server, by_frames(1, 1)).await;
    live.send(0, jpeg(1)).await;
    live.send(1, jpeg(2)).await;
    // On a machine that is busy for a second the end may come before the window.
    let ended = loop {
        match live.answer().await {
            Ok(answer) => assert!(answer.is_some(), "the stream ended without a status"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    refused(ended, Code::DeadlineExceeded, "STREAM_IDLE");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_streams_and_says_so() {
    let server = TestServer::start().await;
    let (client, mut live) = opened(&server, by_frames(1, 1)).await;
    live.send(0, jpeg(1)).await;
    live.send(1, jpeg(2)).await;
    assert_eq!(live.window().await.number, 0);
    let drained = server.drain();
    let ended = live.answer().await;
    refused(ended, Code::Unavailable, "DRAINING");
    drop((live, client));
    soon(drained).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stream() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let (feed, frames) = mpsc::channel(4);
    let payload = Some(Payload::Header(header("shade", by_frames(1, 1))));
    feed.send(v1::ClassifyFramesRequest { payload })
        .await
        .unwrap();
    let mut request = tonic::Request::new(ReceiverStream::new(frames));
    request.set_timeout(Duration::from_millis(400));
    // The deadline may pass before the stream is open.
    let ended = match client.classification().classify_frames(request).await {
        Ok(answers) => soon(answers.into_inner().message()).await.unwrap_err(),
        Err(status) => status,
    };
    assert!(
        matches!(ended.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{ended:?}"
    );
    until(|| async { counted(&server, &["frameshift_live_streams "]) == 0 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_device_costs_windows_and_not_the_stream() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let mut live = Live::open(&client, hurried("shade", by_frames(1, 1)))
        .await
        .unwrap();
    let pause = server.wiring.device.pause();
    for number in 0..12 {
        live.send(number, jpeg(number)).await;
        // One after the other, so that no frame waits.
        until(|| async { live_frames(&server) == number + 1 }).await;
    }
    // Two windows are on their way; the others are left out.
    let skipped = || counted(&server, &["frameshift_live_windows_total", "busy"]);
    until(|| async { skipped() == 9 }).await;
    drop(pause);
    assert_eq!(live.window().await.number, 0);
    assert_eq!(live.window().await.number, 1);
    live.send(12, jpeg(12)).await;
    let window = live.window().await;
    assert_eq!(window.number, 11);
    let counts = live.end().await.unwrap().counts;
    assert_eq!((counts.received, counts.dropped), (13, 0));
    assert_eq!((counts.windows, counts.windows_skipped), (3, 9));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_costs_windows_and_not_the_stream() {
    let server = TestServer::start_with(|config| config.engine.queue_clips = 4).await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let pause = server.wiring.device.pause();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let live = Live::open(&client, hurried("shade", by_frames(1, 1)))
            .await
            .unwrap();
        live.send(0, jpeg(1)).await;
        live.send(1, jpeg(2)).await;
        streams.push(live);
    }
    // A tenant that is alone may hold three of four places.
    let full = || counted(&server, &["frameshift_live_windows_total", "queue_full"]);
    until(|| async { full() == 1 }).await;
    drop(pause);
    // Each stream's next window finds room.
    until(|| async { counted(&server, &["frameshift_queue_clips "]) == 0 }).await;
    for mut live in streams {
        live.send(2, jpeg(3)).await;
        live.window().await;
        let ended = live.end().await.unwrap();
        assert_eq!(ended.counts.windows + ended.counts.windows_skipped, 2);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_the_answers_and_frames_are_read_all_the_same() {
    const FRAMES: u64 = 1500;
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let mut header = hurried("shade", by_frames(1, 1));
    header.format = Some(raw(v1::PixelLayout::Rgb24, 8, 8));
    let live = Live::open(&client, header).await.unwrap();
    for number in 0..FRAMES {
        live.send(number, vec![number as u8; 192]).await;
    }
    until(|| async { live_frames(&server) == FRAMES }).await;
    let counts = live.end().await.unwrap().counts;
    assert_eq!(counts.received, FRAMES);
    assert_eq!(counts.used + counts.dropped, FRAMES);
    assert_eq!(counts.windows + counts.windows_skipped, counts.used - 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_have_limits_of_their_own() {
    let server = TestServer::start_with(|config| {
        config.rpc.limits.live_streams_per_tenant = 1;
        config.rpc.limits.streams_per_tenant = 1;
        config.rpc.limits.live_memory = 6 << 20;
    })
    .await;
    let (client, other) = (server.client("acme").await, server.client("other").await);
    trained(&client, "shade").await;
    trained(&other, "shade").await;
    let open = |client: &Client| {
        let client = client.clone();
        async move { Live::open(&client, header("shade", by_frames(1, 1))).await }
    };
    let live = open(&client).await.unwrap();
    let second = open(&client).await;
    refused(
        second.map(drop),
        Code::ResourceExhausted,
        "TOO_MANY_STREAMS",
    );
    // A stream for pictures of 1 MiB takes more than four, so that there is no room for another tenant's.
    let second = open(&other).await;
    refused(
        second.map(drop),
        Code::ResourceExhausted,
        "LIVE_MEMORY_FULL",
    );
    let clip = crate::server::clip(99);
    upload(&client, &clip)
        .await
        .expect("uploads are counted apart");
    drop(live);
    until(|| async { open(&other).await.is_ok() }).await;
    server.stop().await;
}
