//! Classification and embedding of a video: versions → admission → decoding → engine → scores or features, on domain types.
//!
//! Invariant: room in the queue is reserved before anything is decoded, for all tasks of a request or for none; it is freed at once when the caller
//! leaves or the deadline passes; the database is not read for a known task.

mod answer;
mod clips;
mod embed;
mod error;
mod scores;

use std::sync::Arc;
use std::time::Instant;

pub use answer::{Answer, SampledFrame};
pub use embed::{Embedding, Subject, Wanted};
pub use error::Error;
pub use scores::Scores;

use clips::{Decoded, Samplings};
use futures::future::join_all;

use crate::engine;
use crate::fair::Class;
use crate::ids::{TaskId, TenantId, VersionRef, VideoId};
use crate::library::Library;
use crate::registry::{Essentials, Registry, Standing};
use crate::spec::{Digest, Normalization};
use crate::telemetry::Metrics;
use crate::video::{Decoder, Input};

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

/// The tenant that calls, how urgent its request is, and how long the answer is wanted.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// Time after which the answer is no longer wanted.
    pub deadline: Option<Instant>,
    /// How urgent the answer is.
    pub class: Class,
}

/// A task, and which of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Id of the task.
    pub task: TaskId,
    /// Version to use; the serving version when absent.
    pub version: Option<VersionRef>,
}

/// The version that a choice means, with what is known of it.
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

    /// Checks whether each choice can be answered, before the video has arrived.
    ///
    /// # Errors
    /// The errors of the answers of [`Serving::classify`] that do not depend on the video.
    pub async fn check(&self, caller: &Caller, choices: &[Choice]) -> Vec<Result<(), Error>> {
        let asked = self.versions(caller, choices).await;
        asked.into_iter().map(|asked| asked.map(drop)).collect()
    }

    /// Classifies a video with each choice. Returns their scores, in the order of the choices. The video is decoded once for each way of sampling.
    ///
    /// # Errors
    /// When the queue is full, the video is rejected, or the deadline passes. What concerns one choice alone, for example that its task or version is
    /// missing or cannot serve, is the error of its own answer.
    pub async fn classify(
        &self,
        caller: &Caller,
        choices: &[Choice],
        video: Video,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let asked = self.versions(caller, choices).await;
        let ready: Vec<&Asked> = asked.iter().flatten().collect();
        let answers = self.answers(caller, &ready, video).await?;
        for (asked, answer) in ready.iter().zip(&answers) {
            self.tell(asked, answer).await;
        }
        let mut answers = answers.into_iter();
        let merged = asked.into_iter().map(|asked| {
            asked?;
            answers.next().unwrap_or(Err(engine::Error::Stopped.into()))
        });
        Ok(merged.collect())
    }

    /// Returns the answers of versions that are known, in their order.
    async fn answers(
        &self,
        caller: &Caller,
        asked: &[&Asked],
        video: Video,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let samplings = Samplings::of(asked.iter().map(|asked| asked.essentials.sampling));
        let engine = &self.parts.engine;
        let permit = engine.admit_all_for(
            (&caller.tenant, caller.class),
            caller.deadline,
            &samplings.loads(),
        )?;
        let mut decoded = self.decoded(caller, video, &samplings).await?;
        let clips = |(asked, &sampling): (&&Asked, &usize)| engine::Clips {
            version: asked.version.clone(),
            clips: decoded[sampling].planes.clone(),
        };
        let versions = asked.iter().zip(&samplings.places).map(clips).collect();
        // The engine holds the planes from here on, and no longer than it needs them.
        decoded.iter_mut().for_each(|own| own.planes.clear());
        let answers = engine
            .classify_each(&permit, versions, caller.deadline)
            .await?;
        let answers = answers.into_iter().zip(asked).zip(&samplings.places);
        let scored = answers.map(|((answer, asked), &sampling)| {
            let decoded = &decoded[sampling];
            answer
                .map_err(Error::from)
                .and_then(|answer| scored(asked, answer, decoded))
        });
        Ok(scored.collect())
    }

    /// Returns the version of each choice.
    async fn versions(&self, caller: &Caller, choices: &[Choice]) -> Vec<Result<Asked, Error>> {
        let versions = choices
            .iter()
            .map(|choice| self.version(&caller.tenant, choice));
        join_all(versions).await
    }

    /// Returns the version in the choice, else the task's serving version.
    async fn version(&self, tenant: &TenantId, choice: &Choice) -> Result<Asked, Error> {
        let task = &choice.task;
        let registry = &self.parts.registry;
        let mut standing = None;
        let version = match &choice.version {
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
    async fn tell<T>(&self, asked: &Asked, answer: &Result<T, Error>) {
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
}

/// Returns the answer of a version from its clips' logits.
fn scored(asked: &Asked, answer: engine::Answer, decoded: &Decoded) -> Result<Answer, Error> {
    let (version, labels) = (asked.version.clone(), asked.essentials.labels.clone());
    let scores = Scores::of(&answer.logits).filter(|own| own.mean.len() == labels.len());
    let Some(scores) = scores else {
        let labels = labels.len();
        return Err(Error::Logits { version, labels });
    };
    Ok(Answer {
        version,
        labels,
        scores,
        frames: decoded.frames.clone(),
        decode: decoded.took,
        queue: answer.queue,
        device: answer.device,
    })
}
