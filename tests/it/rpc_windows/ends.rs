//! How streams of windows end: by their reader, a drain, a deadline; and what the command prints of them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_does_not_read_stops_the_decoding_and_one_who_leaves_ends_it() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    talkative(&server, &client, "narrow").await;
    let video = upload(&client, &film((0..1500).map(|number| number % 7)))
        .await
        .unwrap()
        .name;
    let stream = client
        .classification()
        .classify_windows(at_length("narrow", &video))
        .await;
    let mut stream = stream.unwrap().into_inner();
    stream.message().await.unwrap().expect("a window");
    let decoded = || counted(&server, &["frameshift_window_frames_total"]);
    let mut before = 0;
    // It comes to a stop by itself.
    until(|| {
        let now = decoded();
        let is_still = now == before && now > 0;
        before = now;
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            is_still
        }
    })
    .await;
    let stopped = decoded();
    assert!(stopped < 1500, "{stopped} frames");
    // Who reads on gets the rest.
    for _ in 0..500 {
        stream.message().await.unwrap().expect("a window");
    }
    drop(stream);
    until(|| async { counted(&server, &["frameshift_decodes_total", "cancelled"]) == 1 }).await;
    assert!(decoded() < 1500);
    until(|| async { counted(&server, &["frameshift_queue_clips"]) == 0 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_stream_and_the_next_server_goes_on_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    talkative(&server, &client, "narrow").await;
    let video = upload(&client, &film((0..1500).map(|number| number % 7)))
        .await
        .unwrap()
        .name;
    let wanted = at_length("narrow", &video);
    let stream = client
        .classification()
        .classify_windows(wanted.clone())
        .await;
    let mut stream = stream.unwrap().into_inner();
    let mut windows = Vec::new();
    for _ in 0..20 {
        let message = stream.message().await.unwrap().expect("a window");
        if let Some(Event::Window(window)) = message.event {
            windows.push(window);
        }
    }
    let ended = server.drain();
    let status = loop {
        match stream.message().await {
            Ok(Some(message)) => {
                if let Some(Event::Window(window)) = message.event {
                    windows.push(window);
                }
            }
            Ok(None) => panic!("the stream ended as if it were complete"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(status), Code::Unavailable, "DRAINING");
    drop((stream, client));
    ended.await.unwrap().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    serving(&client, "narrow").await;
    let mut rest = wanted;
    let windows_of_rest = rest.windows.get_or_insert_default();
    windows_of_rest.after_time = windows.last().unwrap().start_time;
    let rest = told(&client, rest).await.unwrap();
    windows.extend(rest.windows);
    assert_eq!(begins(&windows), (0..1499).collect::<Vec<u32>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stream_in_the_middle() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(2, 1, 1)).await;
    let video = upload(&client, &film((0..400).map(|number| number % 7)))
        .await
        .unwrap()
        .name;
    let paused = server.wiring.device.pause();
    let mut wanted = tonic::Request::new(request(&["narrow"], &video, steps(1)));
    wanted.set_timeout(Duration::from_millis(400));
    let stream = client.classification().classify_windows(wanted).await;
    let status = match stream {
        Ok(stream) => stream
            .into_inner()
            .message()
            .await
            .expect_err("nothing runs"),
        Err(status) => status,
    };
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    drop(paused);
    until(|| async { counted(&server, &["frameshift_queue_clips"]) == 0 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_windows_and_segments_and_goes_on_after_one() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    task(&server, &client, "narrow", sampling(4, 1, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mkv");
    std::fs::write(&path, film(0..12)).unwrap();
    let path = path.to_str().unwrap();
    let words = [
        "classify",
        "--windows",
        "--task",
        "narrow",
        "--window-stride",
        "2",
    ];
    let text = ask(&server, &[&words[..], &[path]].concat()).await.ends(0);
    assert!(text.out.contains("0.400 –     0.700"), "{text:#?}");
    assert!(
        text.out.contains("5 windows of 12 frames, 1.100 s"),
        "{text:#?}"
    );
    let more = ["--enter", "0.01", "--json", "--resume-after", "0.2", path];
    let json = ask(&server, &[&words[..], &more].concat()).await;
    let lines = json.ends(0).json();
    let begins: Vec<f64> = (lines.iter())
        .filter(|line| line["type"] == "window")
        .map(|line| line["start_seconds"].as_f64().unwrap())
        .collect();
    assert_eq!(begins, [0.4, 0.6, 0.8]);
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["type"], &last["windows"]),
        (&"windows".into(), &3.into())
    );
    // With such a threshold each label is high everywhere.
    let segments = last["tasks"][0]["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 3);
    for segment in segments {
        assert_eq!(segment["start_seconds"], 0.4);
        assert_eq!(segment["end_seconds"], 1.1);
        assert_eq!(segment["windows"], 3);
    }
    let both = [&words[..], &["--resume-after", "0.2", path, path]].concat();
    ask(&server, &both).await.ends(64);
    let alone = ["classify", "--task", "narrow", "--window-stride", "2", path];
    ask(&server, &alone).await.ends(64);
    // A task that spreads its frames says no step; the command takes one and says which.
    task(&server, &client, "spread", sampling(3, 0, 1)).await;
    let words = ["classify", "--windows", "--task", "spread", path];
    let ran = ask(&server, &words).await.ends(0);
    assert!(
        ran.err.contains("one of every 4 frames (--frame-step)"),
        "{ran:?}"
    );
    assert!(ran.out.contains("windows of 12 frames"), "{ran:?}");
    server.stop().await;
}
