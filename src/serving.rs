//! Classification of a video: version → admission → decoding → engine → scores, on domain types.
//!
//! Invariant: room in the queue is reserved before anything is decoded; it is freed at once when the caller leaves or the deadline passes; the
//! database is not read for a known task.

mod answer;
mod error;
mod scores;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use answer::{Answer, SampledFrame};
pub use error::Error;
pub use scores::Scores;

use crate::engine::{self, Ask};
use crate::fair::Class;
use crate::ids::{TaskId, TenantId, VersionRef, VideoId};
use crate::library::Library;
use crate::registry::{Essentials, Registry, Standing};
use crate::spec::{ClipSampling, Digest, Normalization};
use crate::telemetry::Metrics;
use crate::video::{self, Clip, ClipSpec, Decoder, Input, Lane};

/// The backbone's requirements on a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resident {
    /// Side of a frame, in pixels.
    pub image_size: u16,
    /// Mean and standard deviation of the channels.
    pub normalization: Normalization,
    /// Digest of the backbone.
    pub digest: Digest,
}

/// The components that serving calls.
pub struct Parts {
    /// Source of tasks and versions.
    pub registry: Registry,
    /// Source of stored videos.
    pub library: Library,
    /// Decoder of videos.
    pub decoder: Decoder,
    /// Engine: admission and batches.
    pub engine: engine::Handle,
    /// Metrics of classification.
    pub metrics: Metrics,
    /// The backbone's requirements on a clip.
    pub resident: Resident,
}

/// Source of the video to classify.
#[derive(Debug)]
pub enum Video {
    /// A stored video of the tenant.
    Stored(VideoId),
    /// A video that was sent with the request.
    Given(Input),
}

/// What to classify with: tenant, task, version and deadline.
#[derive(Debug, Clone)]
pub struct Question {
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// Task to classify with.
    pub task: TaskId,
    /// Version to use; the serving version when absent.
    pub version: Option<VersionRef>,
    /// Time after which the answer is no longer wanted.
    pub deadline: Option<Instant>,
    /// How urgent the answer is.
    pub class: Class,
}

/// The version that answers a question, with what is known of it.
struct Asked {
    version: VersionRef,
    essentials: Arc<Essentials>,
    /// Recorded standing of the version, when it is used because it serves.
    standing: Option<Standing>,
}

/// Classifies videos; cheap to clone.
#[derive(Clone)]
pub struct Serving {
    parts: Arc<Parts>,
}

impl Serving {
    /// Creates serving over its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Checks whether a question can be answered, before its video has arrived.
    ///
    /// # Errors
    /// The errors of [`Serving::classify`] that do not depend on the video.
    pub async fn check(&self, question: &Question) -> Result<(), Error> {
        self.version(question).await.map(drop)
    }

    /// Classifies a video. Returns its scores.
    ///
    /// # Errors
    /// When the task or version is missing or cannot serve, the queue is full, the video is rejected, or the deadline passes.
    pub async fn classify(&self, question: &Question, video: Video) -> Result<Answer, Error> {
        let asked = self.version(question).await?;
        let answer = self.answer(question, &asked, video).await;
        self.tell(&asked, &answer).await;
        answer
    }

    async fn answer(
        &self,
        question: &Question,
        asked: &Asked,
        video: Video,
    ) -> Result<Answer, Error> {
        let Asked {
            version,
            essentials,
            ..
        } = asked;
        let sampling = &essentials.sampling;
        let engine = &self.parts.engine;
        let ask = Ask {
            class: question.class,
            deadline: question.deadline,
            ..Ask::new(sampling.views(), sampling.num_frames.get().into())
        };
        let permit = engine.admit_for(&question.tenant, ask)?;

        let input = match video {
            Video::Given(input) => input,
            Video::Stored(id) => self.parts.library.open_video(&question.tenant, id).await?.1,
        };
        let (clip, decode) = self.decode(question, input, sampling).await?;
        let frames = answer::frames(&clip);
        let answer = engine
            .classify(permit, version, clip.planes, question.deadline)
            .await?;
        let labels = essentials.labels.clone();
        let scores = Scores::of(&answer.logits).filter(|own| own.mean.len() == labels.len());
        let Some(scores) = scores else {
            let (version, labels) = (version.clone(), labels.len());
            return Err(Error::Logits { version, labels });
        };
        Ok(Answer {
            version: version.clone(),
            labels,
            scores,
            frames,
            decode,
            queue: answer.queue,
            device: answer.device,
        })
    }

    /// Returns the version in the question, else the task's serving version.
    async fn version(&self, question: &Question) -> Result<Asked, Error> {
        let Question { tenant, task, .. } = question;
        let registry = &self.parts.registry;
        let mut standing = None;
        let version = match &question.version {
            Some(version) => version.clone(),
            None => {
                let served = registry.served(tenant, task).await?;
                let version = served.serving.ok_or_else(|| Error::NoServingVersion {
                    task: task.clone(),
                    is_moving: served.is_moving,
                })?;
                standing = served.standing;
                VersionRef {
                    tenant: tenant.clone(),
                    task: task.clone(),
                    version,
                }
            }
        };
        let essentials = registry.essentials(&version).await?;
        let (expected, got) = (self.parts.resident.digest, essentials.backbone_digest);
        if got != expected {
            return Err(Error::Backbone {
                version,
                expected,
                got,
            });
        }
        Ok(Asked {
            version,
            essentials,
            standing,
        })
    }

    /// Records that a serving version cannot serve, or can serve again, so that `GetTask` shows it.
    async fn tell(&self, asked: &Asked, answer: &Result<Answer, Error>) {
        use engine::Error::{Damaged, Quarantined};
        let version = &asked.version;
        let why = match (answer, asked.standing) {
            (
                Err(Error::Engine(error @ (Damaged { .. } | Quarantined { .. }))),
                Some(Standing::Good),
            ) => {
                tracing::warn!(tenant = %version.tenant, %version, %error, "a serving version cannot serve");
                Some(error.to_string())
            }
            (Ok(_), Some(Standing::Failed)) => None,
            _ => return,
        };
        let noted = self.parts.registry.note_serving(version, why.as_deref());
        if let Err(error) = noted.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%version, error, "cannot record whether a version serves");
        }
    }

    /// Decodes the clips of a video. Returns them with the time that decoding took.
    async fn decode(
        &self,
        question: &Question,
        input: Input,
        sampling: &ClipSampling,
    ) -> Result<(Clip, Duration), Error> {
        let Resident {
            image_size,
            normalization,
            ..
        } = self.parts.resident;
        let spec = ClipSpec::of_task(sampling, image_size, normalization);
        let mut decoding = Decoding {
            metrics: &self.parts.metrics,
            began: Instant::now(),
            outcome: "cancelled",
        };
        let decoder = &self.parts.decoder;
        let lane = match question.class {
            Class::Interactive => Lane::Interactive,
            Class::Batch => Lane::Batch,
        };
        let clip = decoder.clip(&question.tenant, lane, input, spec).await;
        decoding.outcome = match &clip {
            Ok(_) => "ok",
            Err(video::Error::Rejected(_)) => "rejected",
            Err(_) => "failed",
        };
        Ok((clip?, decoding.began.elapsed()))
    }
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
