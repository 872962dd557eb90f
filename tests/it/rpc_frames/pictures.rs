//! Frames of live streams that are broken, too large, or of another size than those before.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_picture_is_named_and_counted_and_hurts_nobody() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let mut quiet = Live::open(&client, header("shade", by_frames(1, 1)))
        .await
        .unwrap();
    let live = Live::open(&client, header("shade", by_frames(1, 1)))
        .await
        .unwrap();
    let whole = jpeg(1);
    let mut bomb = whole.to_vec();
    let frame = bomb
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    for (number, bytes) in (0..).zip([
        whole.clone(),
        Bytes::from_static(b"this is not a picture"),
        whole.slice(..whole.len() / 2),
        bomb.into(),
        Bytes::new(),
        vec![0; (1 << 20) + 1].into(),
        jpeg(2),
    ]) {
        live.send(number, bytes).await;
    }
    let ended = live.end().await.unwrap();
    let problems: Vec<_> = (ended.problems.iter())
        .map(|own| (own.frame, own.reason.as_str()))
        .collect();
    // What is too large is found out when it comes, before what waits is looked at.
    let mut expected = [
        (1, "VIDEO_UNDECODABLE"),
        (2, "VIDEO_UNDECODABLE"),
        (3, "VIDEO_TOO_MANY_PIXELS"),
        (4, "VIDEO_EMPTY"),
        (5, "FRAME_TOO_LARGE"),
    ];
    let mut found = problems.clone();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((ended.counts.bad, ended.counts.used), (5, 2));
    // The nearest good one stands in for a bad one.
    let last = ended.windows.last().unwrap();
    let shown: Vec<u32> = last.results[0]
        .frames
        .iter()
        .map(|frame| frame.index)
        .collect();
    assert_eq!(shown, [6, 6]);

    let live = Live::open(&client, header("shade", by_frames(1, 1)))
        .await
        .unwrap();
    for number in 0..16 {
        live.send(number, Bytes::from_static(b"this is not a picture"))
            .await;
    }
    let ended = live.end().await;
    refused(ended, Code::InvalidArgument, "FRAMES_UNREADABLE");
    quiet.send(0, jpeg(1)).await;
    quiet.send(1, jpeg(2)).await;
    assert_eq!(quiet.window().await.number, 0);
    drop(quiet);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_may_change_in_mid_stream_for_jpegs_and_not_for_pixels() {
    let server = TestServer::start().await;
    let (client, live) = opened(&server, by_frames(1, 1)).await;
    for (number, bytes) in (0..).zip([jpeg(1), jpeg(2), wide_jpeg(), wide_jpeg(), jpeg(3)]) {
        live.send(number, bytes).await;
    }
    let ended = live.end().await.unwrap();
    assert_eq!((ended.windows.len(), ended.counts.size_changes), (4, 2));
    let mut header = header("shade", by_frames(1, 1));
    header.format = Some(raw(v1::PixelLayout::Nv12, 16, 8));
    let live = Live::open(&client, header).await.unwrap();
    for (number, bytes) in (0..).zip([192, 191, 192, 193]) {
        live.send(number, vec![90; bytes]).await;
    }
    let ended = live.end().await.unwrap();
    let reasons: Vec<_> = ended
        .problems
        .iter()
        .map(|own| own.reason.as_str())
        .collect();
    assert_eq!(reasons, ["FRAME_SIZE_MISMATCH"; 2]);
    assert_eq!(ended.windows.len(), 1);
    server.stop().await;
}
