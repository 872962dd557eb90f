//! The memory of a server under a flood of the largest requests that it accepts, beside the sum of the budgets that it printed at its start.
//!
//! Invariant: what is compared is the peak that the system recorded for the server's process, and the memory of its video workers at the same time.

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, stream};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

use super::bed::{Bed, tenant};
use super::{Args, Pair};
use crate::client::{self, CHUNK, Client, MAX_MESSAGE};
use crate::proto::v1;
use crate::tools::bench_serve::beside::Training;
use crate::tools::bench_serve::calls::import_as;
use crate::tools::bench_serve::host::{Host, describe};
use crate::tools::bench_serve::material::{Sets, Tenant};
use crate::tools::bench_serve::{Error, during};

/// Budgets that are small enough for a flood to fill.
const SETTINGS: [&str; 20] = [
    "--message-memory=128MiB",
    "--upload-memory=160MiB",
    "--queue-memory=256MiB",
    "--batch-memory=256MiB",
    "--adapter-memory=128MiB",
    "--host-adapter-memory=32MiB",
    "--live-memory=64MiB",
    "--step-memory=256MiB",
    "--spool-bytes=1GiB",
    "--job-runners=1",
    "--video-workers=2",
    "--video-memory=512MiB",
    "--connections=64",
    "--streams-per-tenant=64",
    "--uploads-per-tenant=64",
    "--jobs-per-tenant=4",
    "--drain-grace=0s",
    "--stream-idle=10s",
    "--log=warn",
    "--call-deadline=30s",
];
/// Deadline of a request of the flood.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// Time between two looks at the server's memory.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
/// Connections of the flood.
const CONNECTIONS: usize = 4;
/// Room for the other fields of the largest message.
const FIELDS: usize = 1 << 10;
/// Callers that send the largest messages, all at once.
const MESSAGES: usize = 8;
/// Callers that upload, and the chunks of each upload.
const UPLOADS: (usize, usize) = (12, 48);
/// Callers that import a set of about 14 MB.
const IMPORTS: usize = 2;
/// Callers that ask for as many frames of a clip as the usual protocol takes.
const CLIPS: usize = 8;
/// Streams of windows.
const WINDOWS: usize = 4;

/// The peak of the server's memory under the flood, and the sum of its budgets.
pub(super) async fn memory(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let host = Host::start(bed.split.clone(), &SETTINGS.map(str::to_owned)).await?;
    let outcome = flooded(args, bed, &host).await;
    host.stop().await?;
    Ok(vec![outcome?])
}

async fn flooded(args: &Args, bed: &Bed, host: &Host) -> Result<Pair, Error> {
    let (info, _) = describe(host.address()).await?;
    let budget: i64 = info.memory_budgets.iter().map(|part| part.bytes).sum();
    let mut owner = tenant(host, "bench-flood", &bed.sets, &bed.clips, 1).await?;
    let many_views = large_task(&owner, &bed.sets).await?;
    Training::prepare(&mut owner, &bed.sets).await?;
    let training = Training::start(&owner).await?;
    let span = args.span(0);
    let flood = Flood {
        clients: Tenant::connect(host.address(), &owner.name, CONNECTIONS)
            .await?
            .clients,
        video: owner.videos.first().cloned().unwrap_or_default(),
        task: owner.tasks.first().cloned().unwrap_or_default(),
        many_views,
        file: large_set(bed)?,
        zeros: vec![0; MAX_MESSAGE - FIELDS].into(),
        end: Instant::now() + span.warmup + span.measured,
    };
    let (errors, peak) = tokio::join!(flood.run(), peak(host, flood.end));
    training.stop().await?;
    answers(owner.client()?, &flood).await?;
    Ok(Pair {
        a: peak? as f64,
        b: budget as f64,
        errors,
    })
}

/// Makes a task of 16 frames in 10 × 3 views, which serves.
async fn large_task(owner: &Tenant, sets: &Sets) -> Result<String, Error> {
    let task = "tasks/bench-views".to_owned();
    let sampling = v1::ClipSampling {
        num_frames: 16,
        sampling_rate: 1,
        num_temporal_views: 10,
        num_spatial_views: 3,
        ..Default::default()
    };
    let client = owner.client()?;
    let version = import_as(client, &task, sampling, sets.file(0)?).await?;
    let serving = client::tasks::until_serving(client, &task, &version.name).await;
    serving.map_err(during("wait until a task serves"))?;
    Ok(task)
}

/// A set of about 14 MB, with adapters as wide as a server allows if need be.
fn large_set(bed: &Bed) -> Result<Bytes, Error> {
    const BYTES: u64 = 14_000_000;
    let of_width = 4 * u64::from(bed.backbone.layers) * (2 * u64::from(bed.backbone.width) + 5);
    let width = (BYTES / of_width.max(1)).clamp(1, 4096);
    bed.sets
        .with_width(u32::try_from(width).unwrap_or(4096))
        .file(1)
}

/// Looks at the memory of the server and its workers until the flood is over. Returns the most that was seen.
async fn peak(host: &Host, end: Instant) -> Result<u64, Error> {
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(host.peak_bytes()?);
        sleep(LOOK).await;
    }
    Ok(most.max(host.peak_bytes()?))
}

/// Asks for a clip after the flood: a server that still answers gave back what the flood held.
async fn answers(client: &Client, flood: &Flood) -> Result<(), Error> {
    let request = flood.classify(&flood.task);
    let answer = client.classification().classify(request).await;
    answer
        .map(drop)
        .map_err(during("classify a clip after the flood"))
}

/// Everything that the callers of a flood send.
struct Flood {
    clients: Vec<Client>,
    video: String,
    task: String,
    many_views: String,
    file: Bytes,
    /// As many bytes as fit into a message.
    zeros: Bytes,
    end: Instant,
}

impl Flood {
    /// Runs all callers until the end. Returns the number of requests that failed as no refusal does.
    async fn run(&self) -> u64 {
        let mut callers: Vec<BoxFuture<'_, u64>> = Vec::new();
        let clients = || self.clients.iter().cycle();
        for client in clients().take(MESSAGES) {
            callers.push(self.again(|| self.message(client)).boxed());
        }
        for client in clients().take(UPLOADS.0) {
            callers.push(self.again(|| self.upload(client)).boxed());
        }
        for (number, client) in clients().take(IMPORTS).enumerate() {
            callers.push(self.again(move || self.import(client, number)).boxed());
        }
        for client in clients().take(CLIPS) {
            callers.push(self.again(|| self.views(client)).boxed());
        }
        for client in clients().take(WINDOWS) {
            callers.push(self.again(|| self.windows(client)).boxed());
        }
        join_all(callers).await.into_iter().sum()
    }

    /// Sends one request after the other until the end.
    async fn again<F>(&self, request: impl Fn() -> F) -> u64
    where
        F: Future<Output = Result<(), Status>>,
    {
        let mut wrong = 0;
        while Instant::now() < self.end {
            let answer = tokio::time::timeout_at(self.end + PATIENCE, request()).await;
            let is_wrong = |status: &Status| {
                matches!(
                    status.code(),
                    Code::Internal | Code::Unknown | Code::DataLoss
                )
            };
            match answer {
                Ok(Err(status)) if is_wrong(&status) => wrong += 1,
                Ok(_) => {}
                // It never ended.
                Err(_) => wrong += 1,
            }
        }
        wrong
    }

    fn classify(&self, task: &str) -> v1::ClassifyRequest {
        v1::ClassifyRequest {
            task: task.to_owned(),
            source: Some(v1::classify_request::Source::Video(self.video.clone())),
            ..Default::default()
        }
    }

    /// The largest message: a clip that comes with the request, and is none.
    async fn message(&self, client: &Client) -> Result<(), Status> {
        let content = self.zeros.clone();
        let request = v1::ClassifyRequest {
            source: Some(v1::classify_request::Source::Content(content)),
            ..self.classify(&self.task)
        };
        let answer = client.classification().classify(patient(request)).await;
        answer.map(drop)
    }

    /// An upload of many chunks, which are no video.
    async fn upload(&self, client: &Client) -> Result<(), Status> {
        use v1::upload_video_request::Payload;
        let header = Payload::Header(v1::UploadVideoHeader::default());
        let chunk = Payload::Chunk(self.zeros.slice(..CHUNK));
        let payloads = std::iter::once(header).chain(std::iter::repeat_n(chunk, UPLOADS.1));
        let messages = payloads.map(|payload| v1::UploadVideoRequest {
            payload: Some(payload),
        });
        let sent = patient(stream::iter(messages));
        client.videos().upload_video(sent).await.map(drop)
    }

    /// A large version of a task of its own.
    async fn import(&self, client: &Client, number: usize) -> Result<(), Status> {
        let task = format!("tasks/bench-import-{number}");
        let sampling = v1::ClipSampling {
            num_frames: 8,
            ..Default::default()
        };
        let imported = import_as(client, &task, sampling, self.file.clone()).await;
        if let Err(Error::Client { source, .. }) = imported {
            if let client::Error::Rpc(status) = *source {
                return Err(*status);
            }
            return Err(Status::unknown("no answer"));
        }
        Ok(())
    }

    /// As many views of a clip as the usual protocol takes.
    async fn views(&self, client: &Client) -> Result<(), Status> {
        let request = patient(self.classify(&self.many_views));
        client.classification().classify(request).await.map(drop)
    }

    /// All windows of a video, one frame apart.
    async fn windows(&self, client: &Client) -> Result<(), Status> {
        let request = v1::ClassifyWindowsRequest {
            task: self.task.clone(),
            source: Some(v1::classify_windows_request::Source::Video(
                self.video.clone(),
            )),
            windows: Some(v1::WindowOptions {
                frame_step: 1,
                stride: Some(v1::window_options::Stride::StrideSteps(1)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut calls = client.classification();
        let answer = calls.classify_windows(patient(request)).await?;
        let mut messages = answer.into_inner();
        while messages.message().await?.is_some() {}
        Ok(())
    }
}

/// A request with a deadline, so that a flood ends.
fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
