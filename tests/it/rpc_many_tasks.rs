//! One request for several tasks: it answers what requests for each alone answer, decodes once for each sampling, and one task's failure is its own.

use frameshift::client::Client;
use frameshift::proto::v1;
use futures::stream;
use safetensors::SafeTensors;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::rpc_classify::counted;
use crate::rpc_versions::{adapters, exported, file, import, into_task};
use crate::server::{TestServer, classify, clip, create_task, refused, serving, trained, upload};

/// A request for all scores and views of a stored video by several tasks.
pub(crate) fn many(tasks: &[&str], video: &str) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        task: String::new(),
        tasks: tasks.iter().map(|task| format!("tasks/{task}")).collect(),
        options: Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        }),
        ..classify("", video)
    }
}

/// Answers of a request that succeeds.
async fn answered(client: &Client, request: v1::ClassifyRequest) -> v1::ClassifyResponse {
    let answer = client.classification().classify(request).await;
    answer.expect("an answer").into_inner()
}

/// A task with the adapters of `shade` and another sampling.
async fn imported(client: &Client, task: &str, sampling: v1::ClipSampling) {
    let version = "tasks/shade/versions/1";
    let format = v1::ExportFormat::Safetensors;
    let (_, bytes) = exported(client, version, format).await.unwrap();
    // Without its metadata the file says nothing of how its task samples.
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bytes = safetensors::serialize(file.tensors(), None).unwrap().into();
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(sampling),
        ..into_task(task)
    };
    import(client, header, &bytes).await.unwrap();
    serving(client, task).await;
}

/// Three tasks of two samplings. Returns a video.
async fn three_tasks(client: &Client) -> String {
    let videos = trained(client, "shade").await;
    let two = v1::ClipSampling {
        num_frames: 2,
        ..Default::default()
    };
    imported(client, "copy", two).await;
    let views = v1::ClipSampling {
        num_frames: 3,
        sampling_rate: 1,
        num_temporal_views: 2,
        num_spatial_views: 3,
        ..Default::default()
    };
    imported(client, "views", views).await;
    videos[0].name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tasks_answer_to_the_bit_what_each_answers_alone_and_share_a_decoding() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = three_tasks(&client).await;
    let tasks = ["shade", "views", "copy"];
    let mut alone = Vec::new();
    for task in tasks {
        let request = v1::ClassifyRequest {
            tasks: Vec::new(),
            task: format!("tasks/{task}"),
            ..many(&[], &video)
        };
        alone.push(answered(&client, request).await);
    }
    let decoded = counted(&server, &["frameshift_decodes_total"]);
    let together = answered(&client, many(&tasks, &video)).await;
    let decodes = counted(&server, &["frameshift_decodes_total"]) - decoded;
    assert_eq!(decodes, 2, "one for each sampling");

    assert!(together.version.is_empty() && together.predictions.is_empty());
    assert_eq!(together.results.len(), tasks.len());
    for ((task, alone), result) in tasks.iter().zip(&alone).zip(&together.results) {
        assert_eq!(result.task, format!("tasks/{task}"));
        assert_eq!(result.error, None);
        assert_eq!(result.version, alone.version);
        assert_eq!(result.predictions, alone.predictions, "{task}");
        assert_eq!(result.views, alone.views, "{task}");
        assert_eq!(result.frames, alone.frames, "{task}");
        assert!(result.timings.is_some());
    }
    assert_eq!(together.results[1].views.len(), 6);
    let (own, copy) = (&together.results[0], &together.results[2]);
    assert_eq!(own.views, copy.views, "equal adapters, equal scores");
    assert_ne!(own.version, copy.version);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_video_is_answered_by_several_tasks_too() {
    use v1::classify_upload_request::Payload;
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = three_tasks(&client).await;
    let send = async |tasks: &[&str], bytes: Option<bytes::Bytes>| {
        let request = many(tasks, "");
        let header = Payload::Header(v1::ClassifyUploadHeader {
            task: String::new(),
            tasks: request.tasks,
            options: request.options,
        });
        let chunks = bytes.into_iter().map(Payload::Chunk);
        let messages: Vec<_> = std::iter::once(header)
            .chain(chunks)
            .map(|payload| v1::ClassifyUploadRequest {
                payload: Some(payload),
            })
            .collect();
        let answer = client
            .classification()
            .classify_upload(stream::iter(messages))
            .await;
        answer.map(tonic::Response::into_inner)
    };
    let tasks = ["copy", "shade"];
    let stored = answered(&client, many(&tasks, &video)).await;
    let streamed = send(&tasks, Some(clip(10))).await.unwrap();
    for (streamed, stored) in streamed.results.iter().zip(&stored.results) {
        assert_eq!(streamed.views, stored.views);
        assert_eq!(streamed.error, None);
    }
    // When nobody can answer, the video is not waited for.
    let nobody = send(&["never", "neither"], None).await.unwrap();
    let codes: Vec<i32> = (nobody.results.iter())
        .map(|result| result.error.as_ref().expect("an error").code)
        .collect();
    assert_eq!(codes, [Code::NotFound as i32; 2]);
    let empty = send(&["shade", "never"], None).await;
    refused(empty, Code::InvalidArgument, "VIDEO_EMPTY");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_answer_fails_alone() {
    let server = TestServer::start().await;
    let (client, other) = (server.client("acme").await, server.client("other").await);
    let video = three_tasks(&client).await;
    create_task(&client, "unserved").await;
    create_task(&other, "theirs").await;
    let bytes = file(&adapters(server.wiring.backbone.config(), 3));
    import(&other, into_task("theirs"), &bytes).await.unwrap();
    serving(&other, "theirs").await;

    let tasks = ["missing", "shade", "unserved", "theirs", "copy"];
    let answer = answered(&client, many(&tasks, &video)).await;
    let told: Vec<(i32, &str)> = (answer.results.iter())
        .map(|result| match &result.error {
            Some(error) => (error.code, error.reason.as_str()),
            None => (0, ""),
        })
        .collect();
    let none = (Code::NotFound as i32, "TASK_NOT_FOUND");
    let unserved = (Code::FailedPrecondition as i32, "NO_SERVING_VERSION");
    assert_eq!(told, [none, (0, ""), unserved, none, (0, "")]);
    for (result, name) in answer.results.iter().zip(tasks) {
        assert_eq!(result.task, format!("tasks/{name}"));
        assert_eq!(result.error.is_some(), result.predictions.is_empty());
    }
    let alone = answered(&client, many(&["shade"], &video)).await;
    assert_eq!(answer.results[1].predictions, alone.results[0].predictions);
    // What concerns the video concerns all of them.
    let gone = "videos/00000000-0000-7000-8000-000000000001";
    let call = client
        .classification()
        .classify(many(&["shade", "copy"], gone))
        .await;
    refused(call, Code::NotFound, "VIDEO_NOT_FOUND");
    let decoded = counted(&server, &["frameshift_decodes_total"]);
    let nobody = answered(&client, many(&["missing", "theirs"], &video)).await;
    assert!(nobody.results.iter().all(|result| result.error.is_some()));
    assert_eq!(counted(&server, &["frameshift_decodes_total"]), decoded);
    server.stop().await;
}

/// The fields that a refusal names.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    (violations.into_iter().flatten())
        .map(|violation| violation.field.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_tasks_that_makes_no_sense_is_refused() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let numbered: Vec<String> = (0..33).map(|number| format!("t{number}")).collect();
    let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
    let with = |change: fn(&mut v1::ClassifyRequest)| {
        let mut request = many(&["a", "b"], "videos/x");
        change(&mut request);
        request
    };
    for (request, field) in [
        (many(&numbered, "videos/x"), "tasks"),
        (many(&["a", "b", "a"], "videos/x"), "tasks[2]"),
        (many(&["a", "B!"], "videos/x"), "tasks[1]"),
        (with(|request| request.task = "tasks/a".into()), "tasks"),
        (with(|request| request.tasks.clear()), "task"),
        (
            with(|request| {
                let options = request.options.get_or_insert_default();
                options.version = "tasks/a/versions/1".into();
            }),
            "options.version",
        ),
    ] {
        let status = client.classification().classify(request).await;
        let status = status.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(fields(&status), [field], "{status:?}");
    }
    // Thirty-two are not too many: each of them is answered, here with why it cannot.
    let video = upload(&client, &clip(10)).await.unwrap().name;
    let answer = answered(&client, many(&numbered[..32], &video)).await;
    assert_eq!(answer.results.len(), 32);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_all_tasks_or_none_of_them_is_decoded() {
    let server = TestServer::start_with(|config| config.engine.queue_clips = 7).await;
    let client = server.client("acme").await;
    let video = three_tasks(&client).await;
    let decoded = counted(&server, &["frameshift_decodes_total"]);
    // One clip, one clip, and six views.
    let full = client
        .classification()
        .classify(many(&["shade", "copy", "views"], &video))
        .await;
    refused(full, Code::ResourceExhausted, "TOO_MANY_CLIPS");
    assert_eq!(counted(&server, &["frameshift_decodes_total"]), decoded);
    let answer = answered(&client, many(&["shade", "views"], &video)).await;
    assert!(answer.results.iter().all(|result| result.error.is_none()));
    // The room of an answered request is free again.
    let again = answered(&client, many(&["shade", "views"], &video)).await;
    assert_eq!(again.results[1].views, answer.results[1].views);
    server.stop().await;
}
