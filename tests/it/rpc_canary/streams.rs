//! Streams of windows and live streams of a task with several versions: shadow versions see their windows, and a version that breaks costs none.

use super::*;
use crate::rpc_frames::{Live, by_frames, header, jpeg};
use crate::rpc_windows::told;

fn windows(video: &str) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        task: "tasks/shade".into(),
        source: Some(v1::classify_windows_request::Source::Video(video.into())),
        windows: Some(v1::WindowOptions {
            frame_step: 1,
            stride: Some(v1::window_options::Stride::StrideSteps(1)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-frameshift-key", key.parse().unwrap());
    request
}

/// Sends so many frames, each of which but the first ends a window. Returns the results of all windows.
async fn live(client: &Client, frames: u64) -> Vec<v1::TaskPredictions> {
    let mut live = Live::open(client, header("shade", by_frames(1, 1)))
        .await
        .unwrap();
    let mut results = Vec::new();
    for number in 0..frames {
        live.send(number * 100, jpeg(number)).await;
        if number > 0 {
            results.extend(live.window().await.results);
        }
    }
    let ended = live.end().await.unwrap();
    assert_eq!(ended.counts.windows, frames - 1);
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_watch_see_the_windows_of_streams() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = versions(&server, &client, &[0, 1, 0]).await;
    split(&client, &[], &[(2, 1000), (3, 1000)]).await;
    settled(&client).await;
    let shadows = async || task(&client).await.split.unwrap().shadows;
    let seen = |own: &v1::ServingShadow| own.compared + own.failed + own.dropped;
    let all_saw = async |windows: i64| {
        until(|| async { shadows().await.iter().all(|own| seen(own) == windows) }).await;
    };
    let stream = told(&client, windows(&video)).await.unwrap();
    assert_eq!(stream.windows.len(), 9);
    all_saw(9).await;
    let results = live(&client, 6).await;
    assert!(results.iter().all(|result| result.version == name(1)));
    all_saw(9 + 5).await;
    let [differs, agrees] = &shadows().await[..] else {
        panic!("two versions watch");
    };
    for own in [differs, agrees] {
        assert!(own.compared > 0 && own.failed == 0, "{own:?}");
    }
    assert_eq!((differs.agreed, agrees.agreed), (0, agrees.compared));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_without_a_key_share_the_versions_and_each_keeps_its_own() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    versions(&server, &client, &[0, 1]).await;
    split(&client, &[(1, 500), (2, 500)], &[]).await;
    settled(&client).await;
    let mut seen = BTreeMap::new();
    // Twenty streams have the same one of two versions once in half a million runs.
    for _ in 0..20 {
        let results = live(&client, 3).await;
        assert_eq!(results[0].version, results[1].version);
        *seen.entry(results[0].version.clone()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_breaks_costs_a_stream_no_window() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client, video) = broken(folder.path(), 2).await;
    // Of sixteen keys some belong to the version that is damaged; the first of these finds out.
    for key in 0..16 {
        let request = with_key(windows(&video), &format!("user-{key}"));
        let mut stream = client
            .classification()
            .classify_windows(request)
            .await
            .unwrap()
            .into_inner();
        let mut answered = 0;
        let mut summary = None;
        while let Some(message) = stream.message().await.unwrap() {
            use v1::classify_windows_response::Event;
            match message.event.unwrap() {
                Event::Window(window) => {
                    answered += 1;
                    assert_eq!(window.results[0].version, name(1));
                }
                Event::Failed(failed) => panic!("{failed:?}"),
                Event::Summary(own) => summary = Some(own),
            }
        }
        assert_eq!(answered, 9);
        assert_eq!(summary.unwrap().tasks[0].version, name(1));
    }
    let member = task(&client).await.split.unwrap().members[1].clone();
    assert_eq!(member.state, i32::from(v1::ServingState::Failed));
    server.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let (server, client, _) = broken(folder.path(), 1).await;
    for _ in 0..16 {
        for result in live(&client, 3).await {
            assert_eq!((result.version, result.error), (name(2), None));
        }
    }
    // Sixteen streams of their own keys all miss one of two versions once in sixty thousand runs.
    let member = task(&client).await.split.unwrap().members[0].clone();
    assert_eq!(member.state, i32::from(v1::ServingState::Failed));
    assert!(member.error.contains("damaged"), "{member:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_other_labels_is_passed_over_and_the_next_one_answers() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let video = versions(&server, &client, &[0]).await;
    publish_with(&server, &client, 1, &["dark", "light"]).await;
    publish(&server, &client, 1).await;
    // Of the keys that lose version 1, one in five hundred does not come to version 2 next.
    split(&client, &[(1, 500), (2, 499), (3, 1)], &[]).await;
    settled(&client).await;
    server.stop().await;
    std::fs::write(stored_version(folder.path(), 1), "damaged").unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let is_found = async || {
        let split = task(&client).await.split.unwrap();
        split.members[0].state == i32::from(v1::ServingState::Failed)
    };
    let mut last = None;
    for key in 0..16 {
        let request = with_key(windows(&video), &format!("user-{key}"));
        let stream = told(&client, request).await.unwrap();
        assert!(stream.failed.is_empty(), "{:?}", stream.failed);
        assert_eq!(stream.windows.len(), 9);
        last = Some(stream.windows[0].results[0].version.clone());
        if is_found().await {
            break;
        }
    }
    assert!(is_found().await, "no key was version 1's");
    // The stream that found out has the labels of version 1 in all of its windows.
    assert_eq!(last, Some(name(3)));
    server.stop().await;
}
