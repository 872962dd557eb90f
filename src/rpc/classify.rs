//! ClassificationService: a video and a task give scores.
//!
//! Invariant: room in the queue is taken before anything is decoded; whoever leaves or is late gives it back at once.

use std::time::{Duration, Instant};

use tonic::{Request, Response, Status, Streaming};

use super::convert::names;
use super::convert::spec::of_duration;
use super::spool::Spool;
use super::stack::deadline::Deadline;
use super::uploads::{checked, next};
use super::{Api, Parts, status};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::metadata::VersionRecord;
use crate::proto::v1;
use crate::proto::v1::classification_service_server::ClassificationService;
use crate::spec::ClipSampling;
use crate::telemetry::metrics::Metrics;
use crate::video::{self, Clip, ClipSpec, Input, Lane};
use scores::Scores;

mod scores;

#[tonic::async_trait]
impl ClassificationService for Api {
    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_request::Source;
        let deadline = deadline(&request);
        let (parts, tenant, classify) = self.enter(request)?;
        let job = Wanted::new(&tenant, &classify.task, classify.options, deadline)?;
        let answer = match classify.source {
            Some(Source::Video(name)) => {
                let video = names::video(&name, "video")?;
                let open = async {
                    let (_, input) = parts.library.open_video(&tenant, video).await?;
                    Ok(input)
                };
                job.answer(parts, open).await?
            }
            Some(Source::Content(bytes)) => {
                job.answer(parts, async { Ok(Input::Bytes(bytes)) }).await?
            }
            None => return Err(status::invalid("source", "required: video or content")),
        };
        Ok(Response::new(answer))
    }

    async fn classify_upload(
        &self,
        request: Request<Streaming<v1::ClassifyUploadRequest>>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        use v1::classify_upload_request::Payload;
        let deadline = deadline(&request);
        let (parts, tenant, mut stream) = self.enter(request)?;
        let first = next(&mut stream).await?.and_then(|first| first.payload);
        let Some(Payload::Header(header)) = first else {
            return Err(status::stream("the first message has to be the header"));
        };
        let job = Wanted::new(&tenant, &header.task, header.options, deadline)?;
        // A wrong name is said before the video is sent; the version is read again when the video is there.
        job.version(parts).await?;
        let limit = parts.library.config().upload_bytes;
        let mut spool = Spool::new(&parts.pools, parts.spool.clone(), limit).await?;
        while let Some(message) = next(&mut stream).await? {
            let Some(Payload::Chunk(chunk)) = message.payload else {
                return Err(status::stream("chunks have to follow the header"));
            };
            spool.write(checked(chunk)?).await?;
        }
        let (input, _room) = spool.into_input();
        Ok(Response::new(job.answer(parts, async { Ok(input) }).await?))
    }
}

fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let deadline = request.extensions().get::<Deadline>();
    deadline.map(|Deadline(at)| at.into_std())
}

/// What a caller wants classified and how.
struct Wanted<'a> {
    tenant: &'a TenantId,
    task: TaskId,
    version: Option<VersionRef>,
    options: v1::ClassifyOptions,
    deadline: Option<Instant>,
}

impl<'a> Wanted<'a> {
    fn new(
        tenant: &'a TenantId,
        task: &str,
        options: Option<v1::ClassifyOptions>,
        deadline: Option<Instant>,
    ) -> Result<Self, Status> {
        let task = names::task(task, "task")?;
        let options = options.unwrap_or_default();
        let version = match options.version.as_str() {
            "" => None,
            name => Some(names::version_of(tenant, &task, name, "options.version")?),
        };
        Ok(Self {
            tenant,
            task,
            version,
            options,
            deadline,
        })
    }

    /// The version that is asked for, else the one that serves now.
    async fn version(&self, parts: &Parts) -> Result<(VersionRef, VersionRecord), Status> {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => {
                let task = parts.registry.get_task(self.tenant, &self.task).await?;
                VersionRef {
                    tenant: self.tenant.clone(),
                    version: task
                        .serving
                        .ok_or_else(|| status::no_serving_version(&self.task))?,
                    task: task.id,
                }
            }
        };
        let record = parts.registry.get_version(&version).await?;
        Ok((version, record))
    }

    async fn answer(
        &self,
        parts: &Parts,
        input: impl Future<Output = Result<Input, Status>>,
    ) -> Result<v1::ClassifyResponse, Status> {
        let (version, record) = self.version(parts).await?;
        let sampling = &record.manifest.sampling;
        let permit = (parts.engine).admit(
            self.tenant,
            sampling.views(),
            sampling.num_frames.get().into(),
        )?;

        let input = input.await?;
        let (clip, decode) = decode(parts, self.tenant, input, sampling).await?;

        let planes = clip.planes.clone();
        let engine = &parts.engine;
        let answer = engine
            .classify(permit, &version, planes, self.deadline)
            .await?;
        let scores = Scores::of(&answer.logits, &record.manifest.labels)?;
        Ok(v1::ClassifyResponse {
            version: version.to_string(),
            predictions: scores.best(self.options.top_k),
            views: match self.options.per_view {
                true => scores.views(),
                false => Vec::new(),
            },
            frames: frames(&clip),
            timings: Some(v1::Timings {
                decode: Some(of_duration(decode)),
                queue: Some(of_duration(answer.queue)),
                device: Some(of_duration(answer.device)),
            }),
        })
    }
}

/// Takes the clip out of a video. Returns it with the time that this took.
async fn decode(
    parts: &Parts,
    tenant: &TenantId,
    input: Input,
    sampling: &ClipSampling,
) -> Result<(Clip, Duration), Status> {
    let about = &parts.about;
    let spec = ClipSpec::of_task(sampling, about.image_size, about.normalization);
    let mut decoding = Decoding {
        metrics: &parts.metrics,
        began: Instant::now(),
        outcome: "cancelled",
    };
    let decoder = &parts.decoder;
    let clip = decoder.clip(tenant, Lane::Interactive, input, spec).await;
    decoding.outcome = match &clip {
        Ok(_) => "ok",
        Err(video::Error::Rejected(_)) => "rejected",
        Err(_) => "failed",
    };
    Ok((clip?, decoding.began.elapsed()))
}

/// Counts a decoding when it ends, also when its caller leaves.
struct Decoding<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Decoding<'_> {
    fn drop(&mut self) {
        self.metrics.decoded(self.outcome, self.began.elapsed());
    }
}

/// The frames of each temporal view in turn.
fn frames(clip: &Clip) -> Vec<v1::SampledFrame> {
    let probe = &clip.probe;
    let indices = clip.indices.iter().flatten();
    let pts = clip.pts.iter().flatten();
    indices
        .zip(pts)
        .map(|(&index, &pts)| {
            let since = pts.saturating_sub(probe.first_pts).max(0) as f64;
            let seconds = since * probe.time_base.value();
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            v1::SampledFrame {
                index,
                time: Some(of_duration(time)),
            }
        })
        .collect()
}
