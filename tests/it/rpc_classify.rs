//! Classification: the three ways to send a video agree, and what comes too late, too much or is given up never reaches the device.

use frameshift::client::Client;
use frameshift::proto::v1;
use futures::stream::{self, FuturesUnordered, StreamExt};
use prost::Message;
use tonic::Code;

use crate::server::{TestServer, classify, clip, create_task, reason, refused, trained, until};

/// How often a metric's line with these parts was counted.
pub(crate) fn counted(server: &TestServer, parts: &[&str]) -> u64 {
    let text = server.wiring.metrics.text();
    text.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

async fn by_upload(client: &Client, task: &str, bytes: &[u8]) -> v1::ClassifyResponse {
    use v1::classify_upload_request::Payload;
    let header = v1::ClassifyUploadHeader {
        task: format!("tasks/{task}"),
        options: None,
        ..Default::default()
    };
    let mut messages = vec![Payload::Header(header)];
    messages.extend(
        bytes
            .chunks(1000)
            .map(|chunk| Payload::Chunk(chunk.to_vec().into())),
    );
    let messages = messages
        .into_iter()
        .map(|payload| v1::ClassifyUploadRequest {
            payload: Some(payload),
        });
    let messages: Vec<_> = messages.collect();
    let answer = client
        .classification()
        .classify_upload(stream::iter(messages))
        .await;
    answer.unwrap().into_inner()
}

/// The answer to a request that is answered.
async fn classified(client: &Client, request: v1::ClassifyRequest) -> v1::ClassifyResponse {
    let answer = client.classification().classify(request).await;
    answer.expect("an answer").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_an_inline_and_a_streamed_video_get_the_same_scores() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;

    let mut request = classify("shade", &videos[0].name);
    request.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let stored = classified(&client, request).await;
    assert_eq!(stored.version, "tasks/shade/versions/1");
    assert_eq!(stored.predictions.len(), 2);
    let sum: f32 = stored
        .predictions
        .iter()
        .map(|prediction| prediction.score)
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert!(stored.predictions[0].score >= stored.predictions[1].score);
    assert_eq!((stored.views.len(), stored.frames.len()), (1, 2));
    assert!(stored.frames[0].index < stored.frames[1].index);
    let timings = stored.timings.unwrap();
    assert!(timings.decode.is_some() && timings.queue.is_some() && timings.device.is_some());

    let inline = v1::ClassifyRequest {
        task: "tasks/shade".into(),
        source: Some(v1::classify_request::Source::Content(clip(10))),
        options: None,
        ..Default::default()
    };
    let inline = classified(&client, inline).await;
    assert_eq!(inline.predictions, stored.predictions);
    let streamed = by_upload(&client, "shade", &clip(10)).await;
    assert_eq!(streamed.predictions, stored.predictions);
    let mut unhurried = classify("shade", &videos[0].name);
    unhurried.options = Some(v1::ClassifyOptions {
        priority: v1::Priority::Batch.into(),
        ..Default::default()
    });
    let unhurried = client.classification().classify(unhurried).await;
    assert_eq!(
        unhurried.unwrap().into_inner().predictions,
        stored.predictions
    );

    let job = client
        .fine_tuning()
        .list_jobs(v1::ListJobsRequest::default())
        .await
        .unwrap();
    let name = job.into_inner().jobs[0].name.clone();
    let job = client
        .fine_tuning()
        .get_job(v1::GetJobRequest { name })
        .await
        .unwrap();
    let evaluation = job.into_inner().result.unwrap().evaluation.unwrap();
    assert_eq!((evaluation.examples, evaluation.labels.len()), (2, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_classified_says_why() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "empty").await;
    let calls = || client.classification();
    let content = |bytes: &'static [u8], task: &str| v1::ClassifyRequest {
        task: format!("tasks/{task}"),
        source: Some(v1::classify_request::Source::Content(bytes.into())),
        options: None,
        ..Default::default()
    };
    let unserved = calls().classify(content(b"x", "empty")).await;
    refused(unserved, Code::FailedPrecondition, "NO_SERVING_VERSION");
    let missing = calls().classify(content(b"x", "missing")).await;
    refused(missing, Code::NotFound, "TASK_NOT_FOUND");

    trained(&client, "shade").await;
    let garbage = calls()
        .classify(content(b"this is not a video", "shade"))
        .await;
    refused(garbage, Code::InvalidArgument, "VIDEO_UNRECOGNISED");
    let nothing = calls().classify(content(b"", "shade")).await;
    refused(nothing, Code::InvalidArgument, "VIDEO_EMPTY");
    let mut foreign = content(b"x", "shade");
    foreign.options = Some(v1::ClassifyOptions {
        version: "tasks/empty/versions/1".into(),
        ..Default::default()
    });
    refused(
        calls().classify(foreign).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    let mut unknown = content(b"x", "shade");
    unknown.options = Some(v1::ClassifyOptions {
        priority: 99,
        ..Default::default()
    });
    let unknown = calls().classify(unknown).await;
    refused(unknown, Code::InvalidArgument, "INVALID_FIELD");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_at_once_before_decoding_and_what_is_in_flight_finishes() {
    const CALLS: usize = 24;
    let server = TestServer::start_with(|config| config.engine.queue_clips = 4).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let decoded = counted(&server, &["frameshift_decodes_total"]);

    let pause = server.wiring.device.pause();
    let mut calls: FuturesUnordered<_> = (0..CALLS)
        .map(|_| {
            let mut calls = client.classification();
            let request = classify("shade", &videos[0].name);
            async move { calls.classify(request).await }
        })
        .collect();
    // Nothing can be answered while the device stands still, so whatever ends now was refused.
    let mut refusals = 0;
    while calls.len() > 4 {
        let status = calls
            .next()
            .await
            .unwrap()
            .expect_err("the device is paused");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "QUEUE_FULL")
        );
        refusals += 1;
    }
    drop(pause);
    let mut answers = 0;
    while let Some(result) = calls.next().await {
        match result {
            Ok(_) => answers += 1,
            Err(status) => {
                assert_eq!(reason(&status), "QUEUE_FULL");
                refusals += 1;
            }
        }
    }
    assert!((1..=4).contains(&answers), "{answers}");
    assert_eq!(answers + refusals, CALLS);
    let decodes = counted(&server, &["frameshift_decodes_total"]) - decoded;
    assert_eq!(decodes, answers as u64, "a refused call was decoded");
    server.stop().await;
}

/// Calls with a deadline that only the server keeps: tonic's client has a timer of its own, which ends a call as CANCELLED.
async fn classify_within(
    server: &TestServer,
    timeout: &str,
    request: &v1::ClassifyRequest,
) -> Code {
    let socket = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let head = http::Request::post("http://server/frameshift.v1.ClassificationService/Classify")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-frameshift-tenant", "acme")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (answer, mut body) = client
        .ready()
        .await
        .unwrap()
        .send_request(head, false)
        .unwrap();
    let message = request.encode_to_vec();
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    body.send_data(frame.into(), true).unwrap();
    let answer = answer.await.unwrap();
    Code::from_bytes(answer.headers()["grpc-status"].as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_call_never_reaches_the_device() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let before = server.settled().batches;
    let pause = server.wiring.device.pause();
    let request = classify("shade", &videos[0].name);
    let code = classify_within(&server, "50m", &request).await;
    assert_eq!(code, Code::DeadlineExceeded);
    // A request is counted when its body has ended, which the caller may see first.
    let late = ["requests_total", "/Classify\"", "DEADLINE_EXCEEDED"];
    until(|| async { counted(&server, &late) == 1 }).await;
    drop(pause);
    let next = client
        .classification()
        .classify(classify("shade", &videos[0].name))
        .await;
    next.expect("the next call is answered");
    assert_eq!(server.settled().batches, before + 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_never_reaches_the_device() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let before = server.settled().batches;
    let pause = server.wiring.device.pause();
    let mut calls = client.classification();
    let request = classify("shade", &videos[0].name);
    let call = tokio::spawn(async move { calls.classify(request).await });
    until(|| async { counted(&server, &["frameshift_queue_clips"]) == 1 }).await;
    call.abort();
    until(|| async { counted(&server, &["frameshift_queue_clips"]) == 0 }).await;
    drop(pause);
    let next = client
        .classification()
        .classify(classify("shade", &videos[0].name))
        .await;
    next.expect("the next call is answered");
    assert_eq!(server.settled().batches, before + 1);
    server.stop().await;
}
