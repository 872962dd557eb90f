//! Windows of videos that are sent in chunks.

use futures::stream;
use v1::classify_windows_upload_request::Payload;

use super::*;
use crate::server::noise;

/// The messages of a call: the header, then the video in small chunks.
fn messages(
    header: v1::ClassifyWindowsUploadHeader,
    video: &Bytes,
) -> Vec<v1::ClassifyWindowsUploadRequest> {
    let chunks = video.chunks(1000).map(|chunk| video.slice_ref(chunk));
    let payloads = std::iter::once(Payload::Header(header)).chain(chunks.map(Payload::Chunk));
    let message = |payload| v1::ClassifyWindowsUploadRequest {
        payload: Some(payload),
    };
    payloads.map(message).collect()
}

async fn sent(
    client: &Client,
    messages: Vec<v1::ClassifyWindowsUploadRequest>,
) -> Result<Vec<Event>, Status> {
    let mut rpc = client.classification();
    let mut stream = rpc
        .classify_windows_upload(stream::iter(messages))
        .await?
        .into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.message().await? {
        events.push(message.event.expect("an event"));
    }
    Ok(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_in_chunks_has_the_windows_of_a_stored_one_and_leaves_nothing() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(4, 2, 1)).await;
    task(&server, &client, "wide", sampling(3, 1, 3)).await;
    let content = film(0..23);
    let video = upload(&client, &content).await.unwrap().name;
    let tasks = ["narrow", "wide"];
    let header = v1::ClassifyWindowsUploadHeader {
        tasks: tasks.iter().map(|task| format!("tasks/{task}")).collect(),
        windows: Some(steps(1)),
        ..Default::default()
    };
    let events = sent(&client, messages(header.clone(), &content)).await;
    let mut events = events.unwrap();
    let stored = told(&client, request(&tasks, &video, steps(1)))
        .await
        .unwrap();
    assert_eq!(events.pop(), stored.summary.map(Event::Summary));
    let scores = |window: &v1::ClassifiedWindow| {
        let results = window.results.iter();
        let results = results.map(|own| (own.task.clone(), own.predictions.clone()));
        (window.frames.clone(), results.collect::<Vec<_>>())
    };
    assert_eq!(events.len(), stored.windows.len());
    for (event, window) in events.iter().zip(&stored.windows) {
        let Event::Window(own) = event else {
            panic!("{event:?}");
        };
        assert_eq!(scores(own), scores(window));
    }
    // What makes no sense is said before the video comes, with the field of the header.
    let wrong = v1::ClassifyWindowsUploadHeader {
        windows: Some(steps(0)),
        ..header.clone()
    };
    let status = sent(&client, messages(wrong, &content)).await.unwrap_err();
    assert!(
        status.message().starts_with("header.windows.stride_steps"),
        "{status:?}"
    );
    let missing = v1::ClassifyWindowsUploadHeader {
        task: "tasks/none".into(),
        tasks: Vec::new(),
        ..header.clone()
    };
    let refusal = sent(&client, messages(missing, &Bytes::new())).await;
    refused(refusal, Code::NotFound, "TASK_NOT_FOUND");
    let refusal = sent(&client, messages(header, &Bytes::from_static(b"no video"))).await;
    refused(refusal, Code::InvalidArgument, "VIDEO_UNRECOGNISED");
    let refusal = sent(&client, Vec::new()).await;
    refused(refusal, Code::InvalidArgument, "INVALID_STREAM");
    until(|| async { counted(&server, &["frameshift_queue_clips"]) == 0 }).await;
    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert_eq!(listed.unwrap().into_inner().videos.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sends_a_file_that_no_message_holds() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    task(&server, &client, "spread", sampling(3, 0, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mkv");
    std::fs::write(&path, noise(180)).unwrap();
    assert!(path.metadata().unwrap().len() > 32 << 20);
    let path = path.to_str().unwrap();
    let words = ["classify", "--windows", "--task", "spread", path];
    let ran = ask(&server, &words).await.ends(0);
    assert!(
        ran.err.contains("one of every 4 frames (--frame-step)"),
        "{ran:?}"
    );
    assert!(ran.out.contains("windows of 180 frames"), "{ran:?}");
    server.stop().await;
}
