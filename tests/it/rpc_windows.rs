//! Windows that slide over a video answer what requests for their frames answer, arrive in order, and go on where they were after any end.

mod ends;
mod kept;
mod sent;

use std::time::Duration;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_windows_response::Event;
use frameshift::proto::v1::window_options::Stride;
use frameshift::video::encode::{Encoder, Format};
use tonic::{Code, IntoRequest, Status};

use crate::reports::command::ask;
use crate::rpc_classify::counted;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{TestServer, classify, config, create_task, refused, serving, until, upload};

/// Pictures that all differ, and differ from place to place.
fn picture(number: u64) -> Vec<u8> {
    let mut stream = frameshift::rng::Stream::new(number, "picture");
    let words = (0..64 * 48 * 3 / 8).flat_map(|_| stream.bits().to_le_bytes());
    words.collect()
}

/// A video of these pictures, 10 a second.
fn film(pictures: impl IntoIterator<Item = u64>) -> Bytes {
    let mut encoder = Encoder::new(Format::Lossless, 64, 48, 10).unwrap();
    for number in pictures {
        encoder.push(&picture(number)).unwrap();
    }
    encoder.finish().unwrap().into()
}

/// A task that samples so, and serves.
async fn task(server: &TestServer, client: &Client, task: &str, sampling: v1::ClipSampling) {
    task_of(server, client, (task, 3), sampling).await;
}

/// A task of two frames and so many labels that the messages of some hundred windows fill what a client takes before it reads.
async fn talkative(server: &TestServer, client: &Client, task: &str) {
    task_of(server, client, (task, 500), sampling(2, 1, 1)).await;
}

/// All scores of all windows, which begin with every frame.
fn at_length(task: &str, video: &str) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        options: Some(v1::ClassifyOptions {
            top_k: 1000,
            ..Default::default()
        }),
        ..request(&[task], video, steps(1))
    }
}

async fn task_of(
    server: &TestServer,
    client: &Client,
    (task, labels): (&str, usize),
    sampling: v1::ClipSampling,
) {
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(sampling),
        ..into_task(task)
    };
    let bytes = file(&adapters(server.wiring.backbone.config(), labels));
    import(client, header, &bytes).await.unwrap();
    serving(client, task).await;
}

/// So many frames, so far from each other, in so many views.
fn sampling(num_frames: u32, sampling_rate: u32, num_spatial_views: u32) -> v1::ClipSampling {
    v1::ClipSampling {
        num_frames,
        sampling_rate,
        num_temporal_views: 1,
        num_spatial_views,
        ..Default::default()
    }
}

fn steps(steps: u32) -> v1::WindowOptions {
    v1::WindowOptions {
        stride: Some(Stride::StrideSteps(steps)),
        ..Default::default()
    }
}

fn tenths(tenths: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(tenths * 100).try_into().unwrap())
}

fn request(tasks: &[&str], video: &str, windows: v1::WindowOptions) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        tasks: tasks.iter().map(|task| format!("tasks/{task}")).collect(),
        source: Some(v1::classify_windows_request::Source::Video(video.into())),
        windows: Some(windows),
        ..Default::default()
    }
}

/// What a stream told, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) windows: Vec<v1::ClassifiedWindow>,
    pub(crate) failed: Vec<v1::FailedTask>,
    summary: Option<v1::WindowsSummary>,
}

pub(crate) async fn told(
    client: &Client,
    request: impl IntoRequest<v1::ClassifyWindowsRequest>,
) -> Result<Told, Status> {
    let mut stream = (client.classification().classify_windows(request).await?).into_inner();
    let mut told = Told::default();
    while let Some(message) = stream.message().await? {
        assert!(told.summary.is_none(), "the summary is the last message");
        match message.event.expect("an event") {
            Event::Window(window) => told.windows.push(window),
            Event::Failed(failed) => told.failed.push(failed),
            Event::Summary(summary) => told.summary = Some(summary),
        }
    }
    Ok(told)
}

fn indices(window: &v1::ClassifiedWindow) -> Vec<u32> {
    window.frames.iter().map(|frame| frame.index).collect()
}

/// First frames of windows.
fn begins(windows: &[v1::ClassifiedWindow]) -> Vec<u32> {
    windows
        .iter()
        .map(|window| window.frames[0].index)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_answers_to_the_bit_what_a_request_for_its_frames_answers() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(4, 2, 1)).await;
    task(&server, &client, "wide", sampling(3, 1, 3)).await;
    let video = upload(&client, &film(0..23)).await.unwrap().name;
    let mut wanted = request(&["narrow", "wide"], &video, steps(1));
    wanted.options = Some(v1::ClassifyOptions {
        per_view: true,
        top_k: 100,
        ..Default::default()
    });
    let decoded = counted(&server, &["frameshift_decodes_total"]);
    let told = told(&client, wanted.clone()).await.unwrap();
    assert_eq!(counted(&server, &["frameshift_decodes_total"]) - decoded, 1);
    assert_eq!(counted(&server, &["frameshift_window_frames_total"]), 23);
    for (name, frames, step, views) in [("narrow", 4, 2, 1), ("wide", 3, 1, 3)] {
        let task = format!("tasks/{name}");
        let own = told
            .windows
            .iter()
            .filter(|own| own.results[0].task == task);
        let own: Vec<_> = own.cloned().collect();
        // The stride is one step of the task with the smaller one: each frame begins a window that fits.
        let reach = (frames - 1) * step;
        assert_eq!(begins(&own), (0..23 - reach).collect::<Vec<u32>>());
        for window in own.iter().step_by(3) {
            let begin = window.frames[0].index;
            let expected: Vec<u32> = (0..frames).map(|frame| begin + frame * step).collect();
            assert_eq!(indices(window), expected);
            assert_eq!(window.start_time, tenths(begin.into()));
            assert_eq!(window.end_time, tenths((begin + reach).into()));
            // A video of just these pictures, of which a request takes just these frames.
            let part = film((begin..=begin + reach).map(u64::from));
            let part = upload(&client, &part).await.unwrap().name;
            let mut alone = classify(name, &part);
            alone.options.clone_from(&wanted.options);
            let alone = client.classification().classify(alone).await.unwrap();
            let alone = alone.into_inner();
            let [result] = window.results.as_slice() else {
                panic!("one task has windows of these frames");
            };
            assert_eq!(alone.frames.len() as u32, frames);
            assert_eq!(result.version, alone.version);
            assert_eq!(result.views.len(), views);
            assert_eq!(result.views, alone.views);
            assert_eq!(result.predictions, alone.predictions);
        }
    }
    let summary = told.summary.expect("a summary");
    assert_eq!(summary.windows, told.windows.len() as u64);
    assert_eq!(
        (summary.video_frames, summary.video_duration),
        (23, tenths(22))
    );
    let tasks: Vec<&str> = summary.tasks.iter().map(|own| own.task.as_str()).collect();
    assert_eq!(tasks, ["tasks/narrow", "tasks/wide"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_with_a_stride_of_one_frame_are_the_temporal_views_of_a_request() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let ten = v1::ClipSampling {
        num_temporal_views: 10,
        ..sampling(4, 1, 1)
    };
    task(&server, &client, "dense", ten).await;
    let content = film(0..13);
    let video = upload(&client, &content).await.unwrap().name;
    let mut wanted = request(&["dense"], &video, steps(1));
    wanted.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let told_stored = told(&client, wanted.clone()).await.unwrap();
    let mut whole = classify("dense", &video);
    whole.options.clone_from(&wanted.options);
    let whole = client.classification().classify(whole).await.unwrap();
    let whole = whole.into_inner();
    let windows = told_stored.windows.iter();
    let views: Vec<_> = windows.map(|own| own.results[0].views[0].clone()).collect();
    assert_eq!(views, whole.views);
    assert_eq!(views.len(), 10);
    // A sent video is the same as a stored one.
    wanted.source = Some(v1::classify_windows_request::Source::Content(content));
    let told_sent = told(&client, wanted).await.unwrap();
    let scores = |told: &Told| -> Vec<_> {
        let results = told
            .windows
            .iter()
            .map(|own| own.results[0].predictions.clone());
        results.collect()
    };
    assert_eq!(scores(&told_sent), scores(&told_stored));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_and_ends_where_it_should() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(4, 1, 1)).await;
    let video = upload(&client, &film(0..40)).await.unwrap().name;
    let timed = v1::WindowOptions {
        stride: Some(Stride::StrideTime(tenths(5).unwrap())),
        start_time: tenths(2),
        end_time: tenths(30),
        ..Default::default()
    };
    let told_of = async |windows| {
        let told = told(&client, request(&["narrow"], &video, windows))
            .await
            .unwrap();
        told.windows
    };
    let all = told_of(timed).await;
    assert_eq!(begins(&all), [2, 7, 12, 17, 22]);
    let rest = told_of(v1::WindowOptions {
        after_time: all[1].start_time,
        ..timed
    });
    let rest = rest.await;
    assert_eq!(begins(&rest), [12, 17, 22]);
    assert!(rest.iter().zip(&all[2..]).all(|(one, other)| {
        one.results[0].predictions == other.results[0].predictions && one.frames == other.frames
    }));
    // Half of a window without a stride; and frames further apart than the task's own.
    let apart = v1::WindowOptions {
        frame_step: 5,
        ..Default::default()
    };
    let all = told_of(apart).await;
    assert_eq!(begins(&all), [0, 10, 20]);
    assert_eq!(indices(&all[2]), [20, 25, 30, 35]);
    // What is over stays over.
    let none = told_of(v1::WindowOptions {
        after_time: all[2].start_time,
        ..apart
    });
    assert!(none.await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_is_shorter_than_a_window_has_one_as_a_request_has() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(4, 4, 1)).await;
    let video = upload(&client, &film(0..7)).await.unwrap().name;
    let told = told(&client, request(&["narrow"], &video, steps(1)))
        .await
        .unwrap();
    let [window] = told.windows.as_slice() else {
        panic!("{} windows", told.windows.len());
    };
    assert_eq!(indices(window), [0, 4, 6, 6]);
    let alone = client
        .classification()
        .classify(classify("narrow", &video))
        .await;
    let alone = alone.unwrap().into_inner();
    assert_eq!(window.frames, alone.frames);
    assert_eq!(window.results[0].predictions, alone.predictions);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_that_fails_ends_only_its_own_results() {
    let server = TestServer::start().await;
    let (client, other) = (server.client("acme").await, server.client("other").await);
    task(&server, &client, "narrow", sampling(4, 1, 1)).await;
    task(&server, &other, "theirs", sampling(4, 1, 1)).await;
    create_task(&client, "unserved").await;
    let stored = v1::ClipSampling {
        rotation: v1::RotationPolicy::Stored.into(),
        ..sampling(4, 1, 1)
    };
    task(&server, &client, "stored", stored).await;
    let video = upload(&client, &film(0..12)).await.unwrap().name;
    let names = ["theirs", "narrow", "unserved", "stored"];
    let told_many = told(&client, request(&names, &video, steps(2)))
        .await
        .unwrap();
    assert_eq!(begins(&told_many.windows), [0, 2, 4, 6, 8]);
    let mut failed: Vec<(&str, &str)> = (told_many.failed.iter())
        .map(|own| {
            (
                own.task.as_str(),
                own.error.as_ref().unwrap().reason.as_str(),
            )
        })
        .collect();
    failed.sort_unstable();
    let expected = [
        ("tasks/stored", "SAMPLING_DIFFERS"),
        ("tasks/theirs", "TASK_NOT_FOUND"),
        ("tasks/unserved", "NO_SERVING_VERSION"),
    ];
    assert_eq!(failed, expected);
    // When nobody answers, nothing is decoded, and the video need not be there.
    let gone = "videos/00000000-0000-7000-8000-000000000001";
    let nobody = told(&client, request(&["unserved", "theirs"], gone, steps(1)));
    let nobody = nobody.await.unwrap();
    assert_eq!(
        (nobody.failed.len(), nobody.summary.unwrap().windows),
        (2, 0)
    );
    // The only task's error is the call's.
    let mut only = request(&[], &video, steps(1));
    only.task = "tasks/unserved".into();
    let refusal = told(&client, only.clone()).await;
    refused(refusal, Code::FailedPrecondition, "NO_SERVING_VERSION");
    only.task = "tasks/narrow".into();
    only.source = Some(v1::classify_windows_request::Source::Video(gone.into()));
    refused(told(&client, only).await, Code::NotFound, "VIDEO_NOT_FOUND");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_make_no_sense_are_refused() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    task(&server, &client, "narrow", sampling(4, 1, 1)).await;
    task(
        &server,
        &client,
        "spread",
        v1::ClipSampling {
            num_frames: 4,
            ..Default::default()
        },
    )
    .await;
    let video = upload(&client, &film(0..12)).await.unwrap().name;
    let windows = v1::WindowOptions::default();
    let ended = v1::WindowOptions {
        start_time: tenths(9),
        end_time: tenths(9),
        ..windows
    };
    let long = v1::WindowOptions {
        frame_step: 216_000,
        ..steps(1)
    };
    let quick = v1::WindowOptions {
        stride: Some(Stride::StrideTime(prost_types::Duration::default())),
        ..windows
    };
    for (task, windows, field) in [
        ("spread", windows, "windows.frame_step"),
        ("narrow", ended, "windows.end_time"),
        ("narrow", quick, "windows.stride_time"),
        ("narrow", steps(0), "windows.stride_steps"),
    ] {
        let status = told(&client, request(&[task], &video, windows))
            .await
            .expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(
            status.message().contains(field) || format!("{status:?}").contains(field),
            "{status:?}"
        );
    }
    // Windows of a stride that is as long as they are hold few frames, however long they are.
    let told_long = told(&client, request(&["narrow"], &video, long))
        .await
        .unwrap();
    assert_eq!(begins(&told_long.windows), [0]);
    let spread = v1::WindowOptions {
        frame_step: 2,
        ..windows
    };
    let told_spread = told(&client, request(&["spread"], &video, spread))
        .await
        .unwrap();
    assert_eq!(begins(&told_spread.windows), [0, 4]);
    server.stop().await;
}
