//! The streams of a soak, and the task that several versions share: windows of a video, live streams, keys and shadow versions.

use std::collections::HashMap;
use std::time::Duration;

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_request::Source;
use frameshift::proto::v1::window_options::Stride;
use futures::stream;
use tonic::{Code, Status};

use super::bed::{SHADES, SHARED, SHARED_VARIANTS, TENANTS, request, variant_of};
use super::mix::{Asker, patient};
use super::tally::Doing;
use crate::rpc_frames::{by_frames, header, jpeg};
use crate::server::reason;

/// Frames of a live stream; each but the first ends a window.
const FRAMES: u64 = 5;
/// Frame steps from one window of a video to the next, so that a frame is shown by two windows.
const STRIDE: u32 = 1;
/// Windows of a video of the soak.
pub(super) const WINDOWS: usize = 9;

/// The bits of the windows of streams, by the indices of their frames.
pub(super) type Twins = HashMap<Vec<u32>, Vec<u32>>;

fn windows_of(task: &str, video: &str) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        task: format!("tasks/{task}"),
        source: Some(v1::classify_windows_request::Source::Video(video.into())),
        options: Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        }),
        windows: Some(v1::WindowOptions {
            frame_step: 1,
            stride: Some(Stride::StrideSteps(STRIDE)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The messages of a live stream.
fn frames_for(task: &str) -> Vec<v1::ClassifyFramesRequest> {
    use v1::classify_frames_request::Payload;
    let frame = |number| {
        let time = Duration::from_millis(100 * number);
        Payload::Frame(v1::LiveFrame {
            time: Some(time.try_into().unwrap()),
            data: jpeg(number),
        })
    };
    let first = Payload::Header(header(task, by_frames(1, 1)));
    let payloads = std::iter::once(first).chain((0..FRAMES).map(frame));
    let message = |payload| v1::ClassifyFramesRequest {
        payload: Some(payload),
    };
    payloads.map(message).collect()
}

fn indices(frames: &[v1::SampledFrame]) -> Vec<u32> {
    frames.iter().map(|frame| frame.index).collect()
}

fn bits(views: &[v1::ViewScores]) -> Vec<u32> {
    let scores = views.iter().flat_map(|view| &view.scores);
    scores.map(|score| score.to_bits()).collect()
}

/// What came of a stream: each window's frames and result, and how it ended.
struct Streamed {
    windows: Vec<(Vec<u32>, v1::TaskPredictions)>,
    failed: Vec<v1::TaskError>,
    end: Result<(), Status>,
}

async fn windows(client: &Client, task: &str, video: &str) -> Streamed {
    use v1::classify_windows_response::Event;
    let mut streamed = Streamed {
        windows: Vec::new(),
        failed: Vec::new(),
        end: Ok(()),
    };
    let asked = patient(windows_of(task, video));
    let mut stream = match client.classification().classify_windows(asked).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            streamed.end = Err(status);
            return streamed;
        }
    };
    loop {
        match stream.message().await {
            Ok(None) => return streamed,
            Ok(Some(message)) => match message.event.expect("an event") {
                Event::Window(window) => {
                    let frames = indices(&window.frames);
                    let results = window.results.into_iter();
                    streamed
                        .windows
                        .extend(results.map(|own| (frames.clone(), own)));
                }
                Event::Failed(failed) => streamed.failed.extend(failed.error),
                Event::Summary(summary) => {
                    assert_eq!(summary.windows, streamed.windows.len() as u64);
                }
            },
            Err(status) => {
                streamed.end = Err(status);
                return streamed;
            }
        }
    }
}

async fn live(client: &Client, task: &str) -> Streamed {
    use v1::classify_frames_response::Event;
    let mut streamed = Streamed {
        windows: Vec::new(),
        failed: Vec::new(),
        end: Ok(()),
    };
    let asked = patient(stream::iter(frames_for(task)));
    let mut stream = match client.classification().classify_frames(asked).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            streamed.end = Err(status);
            return streamed;
        }
    };
    loop {
        match stream.message().await {
            Ok(None) => return streamed,
            Ok(Some(message)) => {
                if let Some(Event::Window(window)) = message.event {
                    let results = window.results.into_iter();
                    let shown = results.map(|own| (indices(&own.frames), own));
                    for (frames, result) in shown {
                        match result.error {
                            Some(error) => streamed.failed.push(error),
                            None => streamed.windows.push((frames, result)),
                        }
                    }
                }
            }
            Err(status) => {
                streamed.end = Err(status);
                return streamed;
            }
        }
    }
}

/// What a task answers about the windows of a video and of a live stream when nobody else asks.
pub(super) async fn alone(client: &Client, task: &str, video: &str) -> (Twins, Twins) {
    let of = |streamed: Streamed, count: usize| -> Twins {
        streamed.end.expect("a twin");
        assert_eq!(streamed.windows.len(), count);
        let windows = streamed.windows.into_iter();
        let twins = windows.map(|(frames, result)| (frames, bits(&result.views)));
        twins.collect()
    };
    let windows = of(windows(client, task, video).await, WINDOWS);
    let live = of(live(client, task).await, FRAMES as usize - 1);
    assert_eq!((windows.len(), live.len()), (WINDOWS, FRAMES as usize - 1));
    (windows, live)
}

impl Asker<'_> {
    /// Checks the windows of a stream, and counts them. Windows that were classified but did not come may have been counted by the server.
    fn checked_windows(&self, doing: Doing, task: usize, of: &Twins, streamed: Streamed) {
        let tally = &self.soak.tally;
        let mut twins = 0_u64;
        for (frames, result) in &streamed.windows {
            assert_eq!(result.version, format!("tasks/t{task}/versions/1"));
            // A frame whose worker was killed is stood in for by its neighbour, which makes another window.
            if let Some(twin) = of.get(frames) {
                let what = format!("{doing:?} of {}'s t{task}", TENANTS[self.tenant]);
                assert_eq!(&bits(&result.views), twin, "{what}, {frames:?}");
                twins += 1;
            } else {
                assert_eq!(doing, Doing::Live, "{frames:?}");
            }
        }
        // A version that could not be loaded while the store failed.
        let away = i32::from(Code::Unavailable);
        assert!(
            streamed.failed.iter().all(|error| error.code == away),
            "{:?}",
            streamed.failed
        );
        let seen = streamed.windows.len() as u64;
        if doing == Doing::Windows && streamed.end.is_ok() && streamed.failed.is_empty() {
            assert_eq!(streamed.windows.len(), of.len(), "a window is missing");
        }
        match streamed.end {
            Ok(()) if twins > 0 => tally.was_right(doing, seen),
            Ok(()) => {
                tally.count(doing, "no window with a twin".into());
                tally.were_classified(seen);
            }
            Err(status) => {
                tally.was_refused(doing, &status, false);
                tally.were_classified(seen);
            }
        }
        tally.may_be_classified((of.len() as u64).saturating_sub(seen));
    }

    pub(super) async fn windows(&self, task: usize, video: usize) {
        let bed = &self.soak.bed;
        let name = &bed.videos[self.tenant][video];
        let streamed = windows(&self.client, &format!("t{task}"), name).await;
        let (twins, _) = bed.streams(variant_of(self.tenant, task), video);
        self.checked_windows(Doing::Windows, task, twins, streamed);
    }

    pub(super) async fn live(&self, task: usize) {
        let streamed = live(&self.client, &format!("t{task}")).await;
        let (_, twins) = self.soak.bed.streams(variant_of(self.tenant, task), 0);
        self.checked_windows(Doing::Live, task, twins, streamed);
    }

    /// Opens a stream and leaves it at once, or after a moment.
    pub(super) async fn leaves(&self, task: usize, video: usize, millis: u64) {
        let name = &self.soak.bed.videos[self.tenant][video];
        let streaming = async {
            match video % 2 {
                0 => windows(&self.client, &format!("t{task}"), name).await,
                _ => live(&self.client, &format!("t{task}")).await,
            }
        };
        let ended = tokio::time::timeout(Duration::from_millis(millis), streaming).await;
        let most = (WINDOWS as u64).max(FRAMES - 1);
        match ended {
            Err(_) => self.soak.tally.was_given_up(most),
            Ok(streamed) => {
                let (windows, live) = self.soak.bed.streams(variant_of(self.tenant, task), video);
                match video % 2 {
                    0 => self.checked_windows(Doing::Windows, task, windows, streamed),
                    _ => self.checked_windows(Doing::Live, task, live, streamed),
                }
            }
        }
    }

    /// Asks for the task that several versions share: each key stays with its version, whose twin answers.
    pub(super) async fn shared(&self, key: u64, video: usize) {
        let name = self.soak.bed.videos[self.tenant][video].clone();
        let mut request = patient(request(SHARED, Source::Video(name)));
        let key = format!("user-{key}");
        let metadata = request.metadata_mut();
        metadata.insert("x-frameshift-key", key.parse().unwrap());
        let answer = self.client.classification().classify(request).await;
        let tally = &self.soak.tally;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return tally.was_refused(Doing::Shared, &status, false),
        };
        let versions = [1, 2].map(|own| format!("tasks/{SHARED}/versions/{own}"));
        let which = versions.iter().position(|own| *own == answer.version);
        let which = which.expect("no shadow version answers");
        let twin = self.soak.bed.twin(SHARED_VARIANTS[which], video);
        twin.check(&answer.views, &answer.version);
        assert_eq!(tally.key(&key, which), which, "{key} moved");
        tally.was_right(Doing::Shared, 1);
    }
}

/// Uploads videos beyond what a tenant may store: the one too many is refused, and deleting makes room.
pub(super) async fn quotas(soak: std::sync::Arc<super::Soak>) {
    use super::bed::{QUOTA, QUOTA_TENANT};
    let client = soak.bed.server.client(QUOTA_TENANT).await;
    let mut kept: Vec<String> = Vec::new();
    let mut number = 0;
    while soak.goes_on() {
        number += 1;
        let shade = number % SHADES.len();
        match crate::server::upload(&client, &soak.bed.clips[shade]).await {
            Ok(video) => {
                kept.push(video.name);
                assert!(kept.len() <= QUOTA, "more than the tenant may store");
                soak.tally.beside("stored");
            }
            Err(status) if reason(&status) == "QUOTA_EXCEEDED" => {
                assert_eq!(kept.len(), QUOTA);
                soak.tally.beside("refused for the quota");
                for name in kept.drain(..) {
                    let request = v1::DeleteVideoRequest {
                        name,
                        ..Default::default()
                    };
                    client
                        .videos()
                        .delete_video(request)
                        .await
                        .expect("deleted");
                }
            }
            // The store failed.
            Err(status) => {
                let may_be = [Code::Unavailable, Code::ResourceExhausted];
                assert!(may_be.contains(&status.code()), "{status:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for name in kept {
        let request = v1::DeleteVideoRequest {
            name,
            ..Default::default()
        };
        client
            .videos()
            .delete_video(request)
            .await
            .expect("deleted");
    }
}
