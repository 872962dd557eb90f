//! Live streams through the whole server: what windows answer, what is left out, and how streams end.

mod limits;
mod pictures;
mod refusals;
mod times;

use std::time::Duration;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_frames_header::{Format, Pace};
use frameshift::proto::v1::classify_frames_request::Payload;
use frameshift::proto::v1::classify_frames_response::Event;
use frameshift::video::encode::{Encoder, Settings};
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::rpc_classify::counted;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{
    TestServer, classify, create_task, events, new_task, reason, refused, serving, soon, submit,
    trained, until, upload,
};

/// Side of the drawn pictures.
pub(crate) const SIDE: u32 = 48;

/// A stream and both of its ends.
pub(crate) struct Live {
    feed: mpsc::Sender<v1::ClassifyFramesRequest>,
    answers: Streaming<v1::ClassifyFramesResponse>,
}

/// What came of a stream.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) windows: Vec<v1::LiveWindow>,
    pub(crate) problems: Vec<v1::FrameProblem>,
    pub(crate) counts: v1::LiveCounts,
}

impl Live {
    /// Opens a stream.
    pub(crate) async fn open(
        client: &Client,
        header: v1::ClassifyFramesHeader,
    ) -> Result<Self, Status> {
        let (feed, frames) = mpsc::channel(16);
        let header = v1::ClassifyFramesRequest {
            payload: Some(Payload::Header(header)),
        };
        feed.send(header).await.unwrap();
        let mut service = client.classification();
        let answers = service.classify_frames(ReceiverStream::new(frames));
        let answers = answers.await?.into_inner();
        Ok(Self { feed, answers })
    }

    /// Sends a frame at a time in milliseconds.
    pub(crate) async fn send(&self, millis: u64, data: impl Into<Bytes>) {
        let time = prost_types::Duration::try_from(Duration::from_millis(millis));
        let frame = v1::LiveFrame {
            time: time.ok(),
            data: data.into(),
        };
        let message = v1::ClassifyFramesRequest {
            payload: Some(Payload::Frame(frame)),
        };
        // A stream that has ended is asked for its status.
        let _ = self.feed.send(message).await;
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<Option<v1::ClassifyFramesResponse>, Status> {
        soon(self.answers.message()).await
    }

    /// The next window.
    pub(crate) async fn window(&mut self) -> v1::LiveWindow {
        loop {
            let answer = self.answer().await.expect("the stream goes on");
            let answer = answer.expect("the stream goes on");
            if let Some(Event::Window(window)) = answer.event {
                return window;
            }
        }
    }

    /// Ends the frames and reads what is left.
    pub(crate) async fn end(self) -> Result<Ended, Status> {
        let Self { feed, mut answers } = self;
        drop(feed);
        let mut ended = Ended::default();
        while let Some(answer) = soon(answers.message()).await? {
            ended.counts = answer.counts.unwrap();
            match answer.event {
                Some(Event::Window(window)) => ended.windows.push(window),
                Some(Event::Problem(problem)) => ended.problems.push(problem),
                None => {
                    assert!(soon(answers.message()).await?.is_none(), "the last message");
                    break;
                }
            }
        }
        Ok(ended)
    }
}

/// A header for JPEGs, whose caller is held back rather than anything left out.
pub(crate) fn header(task: &str, pace: Pace) -> v1::ClassifyFramesHeader {
    v1::ClassifyFramesHeader {
        task: format!("tasks/{task}"),
        options: Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        }),
        format: Some(Format::Jpeg(v1::JpegFrames::default())),
        pace: Some(pace),
        late_policy: v1::LatePolicy::Wait.into(),
        ..Default::default()
    }
}

pub(crate) fn by_frames(step: u32, stride: u32) -> Pace {
    Pace::Frames(v1::FramePace { step, stride })
}

/// Distances in milliseconds.
pub(crate) fn by_time(step: u64, stride: u64, gap: Option<u64>) -> Pace {
    let time = |millis| prost_types::Duration::try_from(Duration::from_millis(millis)).ok();
    Pace::Time(v1::TimePace {
        step: time(step),
        stride: time(stride),
        max_gap: gap.and_then(time),
    })
}

/// Frames that are raw pixels.
pub(crate) fn raw(layout: v1::PixelLayout, width: u32, height: u32) -> Format {
    Format::Raw(v1::RawFrames {
        layout: layout.into(),
        width,
        height,
        range: v1::ColorRange::Unspecified.into(),
    })
}

/// A picture of RGB triples; each number gives another.
pub(crate) fn picture(number: u64) -> Vec<u8> {
    let mut random = frameshift::rng::Stream::new(number, "picture");
    let shade = (number * 23 % 200) as u8;
    (0..SIDE * SIDE * 3)
        .map(|_| shade + (random.bits() % 50) as u8)
        .collect()
}

fn encoded(
    pictures: &[Vec<u8>],
    size: (u32, u32),
    encoder: &'static str,
    muxer: &'static str,
) -> Bytes {
    let settings = Settings::new(encoder, muxer);
    let mut encoder = Encoder::with(&settings, size.0, size.1, 10).unwrap();
    for picture in pictures {
        encoder.push(picture).unwrap();
    }
    encoder.finish().unwrap().into()
}

/// A picture as a JPEG.
pub(crate) fn jpeg(number: u64) -> Bytes {
    encoded(&[picture(number)], (SIDE, SIDE), "mjpeg", "mjpeg")
}

/// A JPEG of another size.
pub(crate) fn wide_jpeg() -> Bytes {
    let rgb: Vec<u8> = (0..64 * 32 * 3).map(|at| (at % 251) as u8).collect();
    encoded(&[rgb], (64, 32), "mjpeg", "mjpeg")
}

/// Scores of the first task of a window.
fn scores(window: &v1::LiveWindow) -> &[v1::ViewScores] {
    let result = &window.results[0];
    assert_eq!(result.error, None);
    &result.views
}

/// What Classify answers about a video, with its views' scores.
async fn classified(client: &Client, task: &str, video: &Bytes) -> v1::ClassifyResponse {
    let name = upload(client, video).await.unwrap().name;
    let mut request = classify(task, &name);
    request.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let answer = client.classification().classify(request).await;
    answer.unwrap().into_inner()
}

/// A client with a task that serves, and a live stream for it.
async fn opened(server: &TestServer, pace: Pace) -> (Client, Live) {
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let live = Live::open(&client, header("shade", pace)).await;
    (client, live.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_get_the_scores_of_the_video_that_they_are() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let pictures: Vec<Vec<u8>> = (0..10).map(picture).collect();
    let lossless = encoded(&pictures, (SIDE, SIDE), "ffv1", "matroska");
    let motion = encoded(&pictures, (SIDE, SIDE), "mjpeg", "avi");
    let jpegs: Vec<Bytes> = (0..10).map(jpeg).collect();
    let raws: Vec<Bytes> = pictures.into_iter().map(Bytes::from).collect();
    let rgb24 = raw(v1::PixelLayout::Rgb24, SIDE, SIDE);
    for (video, frames, format) in [
        (lossless, raws, rgb24),
        (motion, jpegs, Format::Jpeg(v1::JpegFrames::default())),
    ] {
        let expected = classified(&client, "shade", &video).await;
        let shown: Vec<u32> = expected.frames.iter().map(|frame| frame.index).collect();
        assert_eq!(shown, [2, 6]);
        let mut header = header("shade", by_frames(4, 1));
        header.format = Some(format);
        let live = Live::open(&client, header).await.unwrap();
        for (number, frame) in (0..).zip(&frames) {
            live.send(number * 100, frame.clone()).await;
        }
        let ended = live.end().await.unwrap();
        assert_eq!(ended.windows.len(), 6);
        let window = &ended.windows[2];
        let result = &window.results[0];
        let shown: Vec<u32> = result.frames.iter().map(|frame| frame.index).collect();
        assert_eq!((window.number, shown), (2, vec![2, 6]));
        assert_eq!(
            (result.task.as_str(), &result.version),
            ("tasks/shade", &expected.version)
        );
        // To the bit.
        assert_eq!(result.views, expected.views);
        assert_eq!(result.predictions, expected.predictions);
        assert!(scores(window) != scores(&ended.windows[3]));
        let v1::LiveCounts {
            received,
            used,
            windows,
            windows_skipped,
            ..
        } = ended.counts;
        assert_eq!((received, used, windows, windows_skipped), (10, 10, 6, 0));
        assert_eq!(window.start.unwrap().nanos, 200_000_000);
        assert_eq!(window.end.unwrap().nanos, 600_000_000);
    }
    server.stop().await;
}

/// Trains a task with clips of so many frames on the data set of another.
async fn another(client: &Client, task: &str, frames: u32) {
    let mut request = new_task(task);
    if let Some(task) = &mut request.task {
        task.sampling = Some(v1::ClipSampling {
            num_frames: frames,
            ..Default::default()
        });
    }
    client.tasks().create_task(request).await.unwrap();
    let request = v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: "datasets/shade".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1),
            batch_size: Some(2),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(request).await.unwrap();
    events(client, &job.into_inner().name, 0).await;
    serving(client, task).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tasks_share_frames_and_answer_what_each_answers_alone() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    another(&client, "four", 4).await;
    let all = async |tasks: &[&str]| {
        let mut header = header("", by_frames(2, 3));
        header.task = String::new();
        header.tasks = tasks.iter().map(|task| format!("tasks/{task}")).collect();
        let live = Live::open(&client, header).await.unwrap();
        for number in 0..14 {
            live.send(number * 40, jpeg(number)).await;
        }
        live.end().await.unwrap()
    };
    let both = all(&["shade", "four"]).await;
    // Windows end with the frames 6, 9 and 12 for both.
    assert_eq!(both.windows.len(), 3);
    let four = all(&["four"]).await;
    let of = |ended: &Ended, task: usize| -> Vec<_> {
        let windows = ended.windows.iter();
        windows
            .map(|window| window.results[task].views.clone())
            .collect()
    };
    assert_eq!(of(&both, 1), of(&four, 0));
    let two = all(&["shade"]).await;
    // Alone, its windows end with the frames 2, 5, 8 and 11, so that none has the same frames.
    assert_eq!(two.windows.len(), 4);
    let live = Live::open(&client, header("shade", by_frames(2, 1)))
        .await
        .unwrap();
    for number in [4, 5, 6] {
        live.send(number * 40, jpeg(number)).await;
    }
    let alone = live.end().await.unwrap();
    assert_eq!(of(&both, 0)[0], of(&alone, 0)[0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_share_frames_answer_what_windows_without_common_frames_answer() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    // A head alone: what a frame gives below the last block is kept for all of its windows.
    let mut head = adapters(server.wiring.backbone.config(), 3);
    head.retain(|tensor| tensor.name.starts_with("fc."));
    let into = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 3,
            ..Default::default()
        }),
        ..into_task("probe")
    };
    import(&client, into, &file(&head)).await.unwrap();
    serving(&client, "probe").await;
    let windows = async |stride| {
        let live = Live::open(&client, header("probe", by_frames(1, stride)));
        let live = live.await.unwrap();
        for number in 0..9 {
            live.send(number * 100, jpeg(number)).await;
        }
        live.end().await.unwrap().windows
    };
    let resumed = || counted(&server, &["frameshift_frames_resumed_total "]);
    let apart = windows(3).await;
    assert_eq!((apart.len(), resumed()), (3, 0));
    let all = windows(1).await;
    assert_eq!(all.len(), 7);
    // At most two windows are in one batch, so that the third one shows a frame of an earlier batch.
    let keeps = server.wiring.backbone.keeps_tokens();
    assert_eq!(resumed() > 0, keeps, "frames that went on from kept tokens");
    for (number, window) in apart.iter().enumerate() {
        let same = &all[3 * number];
        assert_eq!(same.results[0].frames, window.results[0].frames);
        // To the bit.
        assert_eq!(scores(same), scores(window));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_streams_share_batches_and_each_gets_its_own_scores() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let open = async |number: u64| {
        let live = Live::open(&client, header("shade", by_frames(1, 1)))
            .await
            .unwrap();
        live.send(0, jpeg(number)).await;
        live.send(100, jpeg(number + 100)).await;
        live
    };
    let mut expected = Vec::new();
    for number in 0..16 {
        let mut live = open(number).await;
        expected.push(scores(&live.window().await).to_vec());
    }
    let before = counted(&server, &["frameshift_batch_clips_count"]);
    let pause = server.wiring.device.pause();
    let mut streams = join_all((0..16).map(open)).await;
    until(|| async { counted(&server, &["frameshift_queue_clips "]) == 16 }).await;
    drop(pause);
    for (live, expected) in streams.iter_mut().zip(&expected) {
        assert_eq!(scores(&live.window().await), expected);
    }
    let batches = counted(&server, &["frameshift_batch_clips_count"]) - before;
    assert!(batches <= 2, "{batches} batches for 16 windows");
    until(|| async { counted(&server, &["frameshift_live_streams "]) == 16 }).await;
    drop(streams);
    until(|| async { counted(&server, &["frameshift_live_streams "]) == 0 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_takes_effect_in_mid_stream_and_another_task_of_that_name_does_not_answer() {
    let server = TestServer::start().await;
    let (client, mut live) = opened(&server, by_frames(1, 1)).await;
    live.send(0, jpeg(0)).await;
    let mut next = 1;
    let mut answer = async || {
        live.send(next, jpeg(next)).await;
        next += 1;
        live.window().await.results.remove(0)
    };
    assert_eq!(answer().await.version, "tasks/shade/versions/1");
    let job = submit(&client, "shade", "shade").await;
    events(&client, &job.name, 0).await;
    until_serving(&client, "tasks/shade/versions/2").await;
    assert_eq!(answer().await.version, "tasks/shade/versions/2");

    let name = "tasks/shade".to_owned();
    let request = v1::DeleteTaskRequest {
        name,
        ..Default::default()
    };
    client.tasks().delete_task(request).await.unwrap();
    let reason_of = |result: v1::TaskPredictions| result.error.map(|error| error.reason);
    assert_eq!(reason_of(answer().await).as_deref(), Some("TASK_NOT_FOUND"));
    another(&client, "shade", 3).await;
    assert_eq!(
        reason_of(answer().await).as_deref(),
        Some("SAMPLING_CHANGED")
    );
    server.stop().await;
}

/// Waits until a version of the task serves.
async fn until_serving(client: &Client, version: &str) {
    until(|| async {
        let name = "tasks/shade".to_owned();
        let task = client.tasks().get_task(v1::GetTaskRequest { name }).await;
        task.unwrap().into_inner().serving_version == version
    })
    .await;
}
