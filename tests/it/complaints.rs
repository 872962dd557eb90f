//! What users of other servers with many adapters complain of, each as a test. Those that are elsewhere:
//!
//! - another tenant's adapters answer after a place in memory was reused:
//!   `engine::loading::a_place_in_memory_that_is_reused_never_answers_with_another_tenants_set`
//! - a task that was made anew under its old name serves its old weights: `rpc_loading::a_task_made_anew_under_its_old_name_serves_its_new_weights`
//! - loading one set stalls everybody: `engine::loading::a_load_that_hangs_stalls_nobody_who_is_resident`
//! - memory is counted in sets: `engine::loading::room_is_counted_in_bytes_not_in_sets`
//! - a request that timed out is computed all the same: `rpc_classify::a_late_call_never_reaches_the_device`
//! - one failing clip fails its batch: `engine::isolation::a_clip_without_finite_logits_fails_alone`
//! - nobody sees what is loaded: `rpc_loading::clients_see_which_sets_are_loaded_how_large_they_are_and_when_they_were_used`
//! - replicas disagree on what is loaded: `fleet::replicas_agree_on_what_serves_wherever_it_was_moved`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use frameshift::client::{Client, health};
use frameshift::proto::v1;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use tonic::Code;

use crate::rpc_classify::counted;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{
    TestServer, classify, clip, create_task, reason, refused, serving, soon, trained, until,
};

/// Imports a file into a new task.
async fn into_new(
    client: &Client,
    task: &str,
    bytes: &bytes::Bytes,
) -> Result<v1::AdapterVersion, tonic::Status> {
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 2,
            ..Default::default()
        }),
        ..into_task(task)
    };
    import(client, header, bytes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_matches_no_module_is_refused_and_the_bare_backbone_never_answers_for_it() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let shape = server.wiring.backbone.config();
    let good = adapters(shape, 3);
    into_new(&client, "good", &file(&good))
        .await
        .expect("it fits");
    serving(&client, "good").await;
    let renamed = |change: &dyn Fn(&str) -> String| {
        let mut tensors = adapters(shape, 3);
        for tensor in &mut tensors {
            if !tensor.name.starts_with("fc.") {
                tensor.name = change(&tensor.name);
            }
        }
        file(&tensors)
    };
    let beyond = shape.layers + 5;
    let cases = [
        ("another-model", renamed(&|name| format!("encoder.{name}"))),
        (
            "another-place",
            renamed(&|name| name.replace("adapter_pre_mlp", "adapter_post_mlp")),
        ),
        (
            "beyond-the-blocks",
            renamed(&|name| name.replace("resblocks.0.", &format!("resblocks.{beyond}."))),
        ),
    ];
    for (task, bytes) in cases {
        let import = into_new(&client, task, &bytes).await;
        let status = import.expect_err(task);
        let refusals = [Code::InvalidArgument, Code::FailedPrecondition];
        assert!(refusals.contains(&status.code()), "{task}: {status:?}");
        // Nothing answers in its place.
        let request = classify(task, &videos[0].name);
        let answer = client.classification().classify(request).await;
        refused(answer, Code::NotFound, "TASK_NOT_FOUND");
    }
    // A head alone, for a task that has adapters.
    create_task(&client, "sites").await;
    let mut head = adapters(shape, 3);
    head.retain(|tensor| tensor.name.starts_with("fc."));
    let import = import(&client, into_task("sites"), &file(&head)).await;
    let status = import.expect_err("a head alone");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let request = classify("sites", &videos[0].name);
    let answer = client.classification().classify(request).await;
    refused(answer, Code::FailedPrecondition, "NO_SERVING_VERSION");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn far_beyond_capacity_nobody_waits_for_more_batches_than_the_queue_holds() {
    const CLIPS: usize = 8;
    const OFFERED: usize = 20 * CLIPS;
    let server = TestServer::start_with(|config| {
        config.engine.queue_clips = CLIPS;
        config.engine.batch_clips = 2;
    })
    .await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let before = server.settled().batches;
    let pause = server.wiring.device.pause();
    let mut calls: FuturesUnordered<_> = (0..OFFERED)
        .map(|_| {
            let mut calls = client.classification();
            let request = classify("shade", &videos[0].name);
            async move { calls.classify(request).await }
        })
        .collect();
    let mut admitted = OFFERED;
    // A tenant that is alone holds seven eighths of the queue: all others are refused before the device goes on.
    while calls.len() >= CLIPS {
        let refusal = calls.next().await.unwrap();
        let status = refusal.expect_err("the device stands still");
        assert_eq!(reason(&status), "QUEUE_FULL");
        admitted -= 1;
    }
    // What was admitted is decoded and waits.
    let engine = &server.wiring.engine;
    let waits = async {
        until(|| async {
            let now = engine.in_use();
            now.clips > 0 && now.waiting_frames == 2 * now.clips as u64
        })
        .await;
    };
    let refusals: Vec<_> = calls.by_ref().take_until(waits).collect().await;
    admitted -= refusals.len();
    drop(pause);
    let answers: Vec<_> = calls.collect().await;
    admitted -= answers.iter().filter(|answer| answer.is_err()).count();
    assert!((1..=CLIPS).contains(&admitted), "{admitted}");
    let batches = server.settled().batches - before;
    assert!(batches <= (CLIPS / 2) as u64, "{batches} batches");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_full_queue_is_busy_and_healthy() {
    let server = TestServer::start_with(|config| config.engine.queue_clips = 4).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let pause = server.wiring.device.pause();
    let mut waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut calls = client.classification();
            let request = classify("shade", &videos[0].name);
            tokio::spawn(async move { calls.classify(request).await })
        })
        .collect();
    let full = ["frameshift_requests_dropped_total", "queue_full"];
    until(|| async { counted(&server, &full) > 0 || server.wiring.engine.in_use().clips == 4 })
        .await;
    for _ in 0..20 {
        let request = classify("shade", &videos[0].name);
        let answer = client.classification().classify(request).await;
        refused(answer, Code::ResourceExhausted, "QUEUE_FULL");
        let is_serving = health::is_serving(&client).await.unwrap();
        assert!(is_serving, "whoever is busy is not to be restarted");
    }
    drop(pause);
    let answers = join_all(waiting.drain(..)).await;
    assert!(
        answers
            .iter()
            .any(|answer| answer.as_ref().unwrap().is_ok())
    );
    assert!(health::is_serving(&client).await.unwrap());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_never_says_that_it_does_not_know_a_task() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let answered: Arc<[AtomicUsize; 4]> = Arc::default();
    let askers = (0..4).map(|asker: usize| {
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        tokio::spawn(async move {
            soon(async {
                loop {
                    // The video comes with the call, because the test server's directory goes when its drain begins.
                    let request = v1::ClassifyRequest {
                        source: Some(v1::classify_request::Source::Content(clip(10))),
                        ..classify("shade", "")
                    };
                    match client.classification().classify(request).await {
                        Ok(_) => {
                            answered[asker].fetch_add(1, Ordering::Relaxed);
                        }
                        Err(status) => return status,
                    }
                }
            })
            .await
        })
    });
    let askers: Vec<_> = askers.collect();
    let counts = || answered.iter().map(|own| own.load(Ordering::Relaxed));
    until(|| async { counts().all(|own| own > 4) }).await;
    let drained = server.drain();
    for asker in askers {
        let status = asker.await.unwrap();
        // The connection may have been closed under the call, which has no reason.
        assert!(matches!(&*reason(&status), "DRAINING" | ""), "{status:?}");
        let unknown = [
            Code::NotFound,
            Code::FailedPrecondition,
            Code::InvalidArgument,
        ];
        assert!(!unknown.contains(&status.code()), "{status:?}");
    }
    drop(client);
    drained.await.unwrap().expect("the drain finishes");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_video_among_many_fails_alone() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let alone = client
        .classification()
        .classify(classify("shade", &videos[0].name))
        .await;
    let alone = alone.unwrap().into_inner().predictions;
    let pause = server.wiring.device.pause();
    let bad = |bytes: &'static [u8]| v1::ClassifyRequest {
        source: Some(v1::classify_request::Source::Content(bytes.into())),
        ..classify("shade", "")
    };
    let calls = (0..6).map(|number| {
        let mut calls = client.classification();
        let request = match number % 3 {
            0 => bad(b"this is not a video"),
            _ => classify("shade", &videos[0].name),
        };
        tokio::spawn(async move { calls.classify(request).await })
    });
    let calls: Vec<_> = calls.collect();
    until(|| async { counted(&server, &["frameshift_queue_clips "]) == 4 }).await;
    drop(pause);
    for (number, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap();
        match number % 3 {
            0 => refused(answer, Code::InvalidArgument, "VIDEO_UNRECOGNISED"),
            _ => assert_eq!(answer.unwrap().into_inner().predictions, alone),
        }
    }
    server.stop().await;
}
