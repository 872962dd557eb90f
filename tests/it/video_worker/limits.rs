//! Limits of decoding, each with the reason of its refusal.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_needs_too_much_memory_is_refused() {
    let mut config = config();
    // The libraries alone map about 200 MB.
    config.limits.memory = 300 << 20;
    let decoder = decoder(config).await;
    let a = tenant("a");
    let spec = PictureSpec {
        frames: NonZeroU16::new(40).expect("40"),
        sampling: Sampling::Uniform,
        rotation: RotationPolicy::Stored,
        order: FrameOrder::Display,
        color: ColorPolicy::Reference,
        bytes: 40 * 1280 * 720 * 3,
    };
    let result = decoder.pictures(&a, Lane::Batch, slow(), spec).await;
    let result = result.map(|pictures| pictures.probe);
    assert!(
        matches!(&result, Err(Error::Rejected(own)) if *own == Reject::Memory),
        "{result:?}"
    );
    decoder
        .probe(&a, Lane::Batch, small())
        .await
        .expect("a smaller one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_takes_too_long_is_refused() {
    let mut config = config();
    config.limits.wall = Duration::from_millis(30);
    let decoder = decoder(config).await;
    let result = decoder.probe(&tenant("a"), Lane::Batch, slow()).await;
    assert!(
        matches!(&result, Err(Error::Rejected(own)) if *own == Reject::WallTime),
        "{result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_takes_too_much_processor_time_is_refused() {
    let mut config = config();
    config.limits.cpu = Duration::from_millis(30);
    let decoder = decoder(config).await;
    let result = decoder.probe(&tenant("a"), Lane::Batch, slow()).await;
    assert!(
        matches!(&result, Err(Error::Rejected(own)) if *own == Reject::CpuTime),
        "{result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_refused_with_their_reason() {
    let video = video(Format::Mp4, 24, (160, 96));
    let refused = |change: fn(&mut frameshift::video::Limits), expected: Reject| {
        let (video, mut config) = (video.clone(), config());
        change(&mut config.limits);
        async move {
            let decoder = decoder(config).await;
            let result = decoder
                .probe(&tenant("a"), Lane::Batch, Input::Bytes(video))
                .await;
            assert!(
                matches!(result, Err(Error::Rejected(reject)) if reject == expected),
                "{result:?}"
            );
        }
    };
    refused(|limits| limits.bytes = 100, Reject::TooLarge).await;
    refused(|limits| limits.pixels = 160 * 95, Reject::TooManyPixels).await;
    refused(|limits| limits.packets = 23, Reject::TooManyPackets).await;
    refused(|limits| limits.frames = 23, Reject::TooManyFrames).await;
    refused(
        |limits| limits.duration = Duration::from_millis(900),
        Reject::TooLong,
    )
    .await;
    refused(|limits| limits.streams = 0, Reject::TooManyStreams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_video_are_refused_with_a_stable_reason() {
    let decoder = decoder(config()).await;
    let cases: [(&[u8], &str); 4] = [
        (b"", "VIDEO_EMPTY"),
        (b"not a video at all", "VIDEO_UNRECOGNISED"),
        (&[0; 65536], "VIDEO_UNRECOGNISED"),
        (
            b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
            "VIDEO_CONTAINER_NOT_ALLOWED",
        ),
    ];
    for (bytes, reason) in cases {
        let input = Input::Bytes(Bytes::from_static(bytes));
        match decoder.probe(&tenant("a"), Lane::Interactive, input).await {
            Err(Error::Rejected(reject)) => assert_eq!(reject.reason(), reason),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_there_is_named() {
    let decoder = decoder(config()).await;
    let spec = ClipSpec {
        sampling: Sampling::Indices(vec![0, 23, 24]),
        ..clip(3)
    };
    let result = decoder.clip(&tenant("a"), Lane::Batch, small(), spec).await;
    assert!(
        matches!(
            result,
            Err(Error::IndexOutOfRange {
                index: 24,
                frames: 24
            })
        ),
        "{:?}",
        result.map(|clip| clip.probe)
    );
}
