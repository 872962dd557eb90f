//! Times of frames: gaps, duplicates, times that go back, and frames that no window needs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_frames_that_windows_need_are_decoded_and_the_nearest_is_shown() {
    let server = TestServer::start().await;
    let (_client, live) = opened(&server, by_time(500, 500, None)).await;
    // 30 frames a second for three seconds.
    for number in 0..91 {
        live.send(number * 1000 / 30, jpeg(number)).await;
    }
    let ended = live.end().await.unwrap();
    let ends: Vec<_> = (ended.windows.iter())
        .map(|window| window.results[0].frames[1].index)
        .collect();
    assert_eq!(ends, [15, 30, 45, 60, 75, 90]);
    assert_eq!((ended.counts.received, ended.counts.used), (91, 7));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_frames_that_go_back_are_counted_and_not_used() {
    let server = TestServer::start().await;
    let (_client, live) = opened(&server, by_time(100, 100, None)).await;
    for time in [0, 100, 100, 50, 200, 200, 300] {
        live.send(time, jpeg(time)).await;
    }
    let ended = live.end().await.unwrap();
    assert_eq!((ended.counts.duplicates, ended.counts.late), (2, 1));
    assert_eq!((ended.windows.len(), ended.counts.used), (3, 4));
    let shown: Vec<_> = (ended.windows[2].results[0].frames.iter())
        .map(|frame| frame.index)
        .collect();
    assert_eq!(shown, [4, 6]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_begins_windows_anew_and_a_shorter_one_does_not() {
    let server = TestServer::start().await;
    let (_client, live) = opened(&server, by_time(100, 100, Some(400))).await;
    // 300 ms are bridged: several windows end with the frame at 500, of which the last one is answered. 600 ms are a gap.
    for time in [0, 100, 200, 500, 1100, 1200] {
        live.send(time, jpeg(time)).await;
    }
    let ended = live.end().await.unwrap();
    let numbers: Vec<_> = ended.windows.iter().map(|own| own.number).collect();
    assert_eq!(numbers, [0, 1, 4, 5]);
    let last = &ended.windows[3];
    assert_eq!(
        last.start.unwrap().seconds,
        1,
        "no frame from before the gap"
    );
    assert_eq!((ended.counts.gaps, ended.counts.windows_skipped), (1, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_begins_windows_anew() {
    let server = TestServer::start().await;
    let (_client, live) = opened(&server, by_time(100, 100, None)).await;
    for time in [3_600_000, 3_600_100] {
        live.send(time, jpeg(1)).await;
    }
    for number in 0..40 {
        live.send(number * 100, jpeg(number)).await;
    }
    let ended = live.end().await.unwrap();
    assert_eq!((ended.counts.clock_resets, ended.counts.late), (1, 31));
    // The frame that ends the row is the first of the new windows.
    let numbers: Vec<_> = ended.windows.iter().map(|own| own.number).collect();
    assert_eq!(numbers, (0..9).collect::<Vec<_>>());
    assert_eq!(ended.windows[1].start.unwrap().seconds, 3);
    server.stop().await;
}
