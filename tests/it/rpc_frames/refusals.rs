//! Headers and messages of live streams that are refused, with their fields.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_makes_no_sense_is_refused_by_field() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "empty").await;
    let opened = Live::open(&client, header("empty", by_frames(1, 1))).await;
    refused(
        opened.map(drop),
        Code::FailedPrecondition,
        "NO_SERVING_VERSION",
    );
    let opened = Live::open(&client, header("missing", by_frames(1, 1))).await;
    refused(opened.map(drop), Code::NotFound, "TASK_NOT_FOUND");
    trained(&client, "shade").await;
    let good = || header("shade", by_frames(1, 1));
    let with = |change: &dyn Fn(&mut v1::ClassifyFramesHeader)| {
        let mut header = good();
        change(&mut header);
        header
    };
    for (header, field) in [
        (with(&|own| own.format = None), "header.format"),
        (with(&|own| own.pace = None), "header.pace"),
        (
            with(&|own| own.pace = Some(by_frames(0, 1))),
            "header.frames.step",
        ),
        (
            with(&|own| own.pace = Some(by_frames(1, 0))),
            "header.frames.stride",
        ),
        (
            with(&|own| own.pace = Some(by_time(0, 100, None))),
            "header.time.step",
        ),
        (
            with(&|own| own.pace = Some(by_time(100, 100, Some(1)))),
            "header.time.max_gap",
        ),
        (with(&|own| own.late_policy = 9), "header.late_policy"),
        (with(&|own| own.task = String::new()), "header.task"),
        (
            with(&|own| own.format = Some(raw(v1::PixelLayout::Unspecified, 8, 8))),
            "header.raw.layout",
        ),
        (
            with(&|own| own.format = Some(raw(v1::PixelLayout::Nv12, 7, 8))),
            "header.raw.width",
        ),
        (
            with(&|own| own.format = Some(raw(v1::PixelLayout::Rgb24, 70_000, 8))),
            "header.raw.width",
        ),
        (
            with(&|own| own.format = Some(raw(v1::PixelLayout::Rgb24, 60_000, 60_000))),
            "header.raw.width",
        ),
        (
            with(&|own| own.format = Some(Format::Jpeg(v1::JpegFrames { max_bytes: 9 << 20 }))),
            "header.jpeg.max_bytes",
        ),
    ] {
        let status = Live::open(&client, header).await.map(drop).unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD")
        );
        let details = tonic_types::StatusExt::get_error_details(&status);
        let bad = details.bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, field, "{status:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_header_and_a_frame_without_a_time_end_the_stream() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let good = || header("shade", by_frames(1, 1));
    let live = Live::open(&client, good()).await.unwrap();
    let again = v1::ClassifyFramesRequest {
        payload: Some(Payload::Header(good())),
    };
    live.feed.send(again).await.unwrap();
    refused(live.end().await, Code::InvalidArgument, "INVALID_STREAM");
    let live = Live::open(&client, good()).await.unwrap();
    let untimed = v1::LiveFrame {
        time: None,
        data: jpeg(1),
    };
    let untimed = v1::ClassifyFramesRequest {
        payload: Some(Payload::Frame(untimed)),
    };
    live.feed.send(untimed).await.unwrap();
    refused(live.end().await, Code::InvalidArgument, "INVALID_FIELD");
    server.stop().await;
}
