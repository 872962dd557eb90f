//! The stages of windows of a video and of a live stream.

use std::time::Duration;

use super::*;
use crate::rpc_frames::{by_frames, header, jpeg};
use crate::server::upload;

const STAGES: [&str; 6] = ["admit", "decode", "load", "queue", "device", "answer"];

/// Asserts that so many windows have the spans of their stages, and that none of these is a failure.
fn has_stages(spans: &BTreeMap<String, Vec<Span>>, windows: usize) {
    for stage in STAGES {
        let own = &spans[stage];
        let least = match stage {
            // The stream is admitted once, and then each window.
            "admit" => windows + 1,
            // A part of a video holds the frames of several windows.
            "decode" => 1,
            _ => windows,
        };
        assert!(own.len() >= least, "{} of {stage}", own.len());
        let most = windows + 1;
        assert!(own.len() <= most, "{} of {stage}", own.len());
        for span in own {
            let code = span.status.as_ref().map_or(0, |status| status.code);
            assert_eq!(code, 0, "{stage}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn some_windows_of_a_stream_have_the_stages_of_a_request() {
    let (collector, url) = Collector::start().await;
    let server = traced(url, 0.0).await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let video = upload(&client, &clip(10)).await.unwrap().name;
    let traces = [(); 2].map(|()| uuid::Uuid::now_v7().simple().to_string());
    let windows = v1::ClassifyWindowsRequest {
        task: "tasks/shade".into(),
        source: Some(v1::classify_windows_request::Source::Video(video)),
        windows: Some(v1::WindowOptions {
            frame_step: 1,
            stride: Some(v1::window_options::Stride::StrideSteps(1)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let asked = part_of(&traces[0], windows);
    let stream = client.classification().classify_windows(asked).await;
    let mut stream = stream.unwrap().into_inner();
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 9 + 1);

    use v1::classify_frames_request::Payload;
    let message = |payload| v1::ClassifyFramesRequest {
        payload: Some(payload),
    };
    let first = message(Payload::Header(header("shade", by_frames(1, 1))));
    let frames = (0..7).map(|number| {
        let time = Duration::from_millis(100 * number);
        message(Payload::Frame(v1::LiveFrame {
            time: Some(time.try_into().unwrap()),
            data: jpeg(number),
        }))
    });
    let sent: Vec<_> = std::iter::once(first).chain(frames).collect();
    let asked = part_of(&traces[1], stream::iter(sent));
    let stream = client.classification().classify_frames(asked).await;
    let mut stream = stream.unwrap().into_inner();
    let mut windows = 0;
    while let Some(message) = stream.message().await.unwrap() {
        windows += usize::from(message.event.is_some());
    }
    assert_eq!(windows, 6);
    server.stop().await;
    // The windows 0, 1, 2, 4 and 8 of nine, and 0, 1, 2 and 4 of six.
    has_stages(&tree(&collector.of(&traces[0]), "ClassifyWindows"), 5);
    has_stages(&tree(&collector.of(&traces[1]), "ClassifyFrames"), 4);
}
