//! Classification and embedding of a video: versions → admission → decoding → engine → scores or features, on domain types.
//!
//! Invariant: room in the queue is reserved before anything is decoded, for all tasks of a request or for none; it is freed at once when the caller
//! leaves or the deadline passes; the database is not read for a known task.

mod answer;
mod choosing;
mod clips;
mod comparisons;
mod embed;
mod error;
mod evaluate;
pub mod frames;
mod scores;
mod shadow;
mod shown;
mod tally;
pub mod windows;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use answer::{Answer, SampledFrame};
pub use comparisons::Comparison;
pub use embed::{Embedding, FeatureRequest, Subject};
pub use error::Error;
pub use evaluate::{Evaluated, Evaluator, Judged, Progress, Scope, Verdict};
pub use scores::Scores;
pub use tally::{Place, Sums, Tally};
pub use windows::Windows;

use choosing::cannot_serve;
use clips::Samplings;
use comparisons::Comparisons;
use futures::future::join_all;
use shown::Shown;

use crate::engine;
use crate::fair::Class;
use crate::ids::{TaskId, TenantId, VersionRef, VideoId};
use crate::library::Library;
use crate::registry::{Essentials, Key, Registry, Standing};
use crate::spec::{Digest, Normalization};
use crate::telemetry::Metrics;
use crate::telemetry::trace::{Open, Stage, stage};
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
#[derive(Debug, Clone)]
pub enum Video {
    /// A stored video of the tenant.
    Stored(VideoId),
    /// A video that was sent with the request.
    Given(Input),
}

/// Caller of a classification, with the priority and the deadline of its request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// Time after which the answer is no longer wanted.
    pub deadline: Option<Instant>,
    /// Priority class of the request.
    pub class: Class,
    /// Key that decides which version of a split answers; without one, the video decides.
    pub key: Option<Key>,
}

/// Choice of a task, and perhaps of one of its versions.
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
    role: Role,
    /// Whether the version was chosen among several.
    is_shared: bool,
    /// Shadow versions of the request.
    watching: Vec<VersionRef>,
}

/// Role of a version for the task that it answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The version was named.
    Named,
    /// The serving version, and its recorded standing.
    Main(Option<Standing>),
    /// Another version of the task's split.
    Member,
}

/// Classifies videos; cheap to clone.
#[derive(Clone)]
pub struct Serving {
    parts: Arc<Parts>,
    comparisons: Arc<Comparisons>,
    /// What streams of windows hold.
    memory: windows::Memory,
}

impl Serving {
    /// Creates serving over its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            comparisons: Arc::default(),
            memory: windows::Memory::default(),
        }
    }

    /// Checks whether each choice can be answered, before the video has arrived.
    ///
    /// # Errors
    /// The errors of the answers of [`Serving::classify`] that do not depend on the video.
    pub async fn check(&self, caller: &Caller, choices: &[Choice]) -> Vec<Result<(), Error>> {
        let asked = self.versions(caller, choices, None).await;
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
        let admission = stage(Stage::Admit);
        let key = self.key(caller, choices, &video).await;
        let asked = self.versions(caller, choices, key).await;
        let ready: Vec<&Asked> = asked.iter().flatten().collect();
        let again = video.clone();
        let mut answers = self.answers(caller, &ready, video, admission).await?;
        let mended = self.mend(caller, key, &ready, (again, answers.as_mut_slice()));
        mended.await;
        let mut answers = answers.into_iter();
        let merged = asked.into_iter().map(|asked| {
            asked?;
            answers.next().unwrap_or(Err(engine::Error::Stopped.into()))
        });
        Ok(merged.collect())
    }

    /// Records which versions cannot serve, and has others of their splits answer instead.
    async fn mend(
        &self,
        caller: &Caller,
        key: Option<Key>,
        asked: &[&Asked],
        (video, answers): (Video, &mut [Result<Answer, Error>]),
    ) {
        let mut failed: Vec<(usize, Vec<VersionRef>)> = Vec::new();
        for (place, (asked, answer)) in asked.iter().zip(&*answers).enumerate() {
            self.tell(asked, answer).await;
            if asked.is_shared && cannot_serve(answer) {
                failed.push((place, vec![asked.version.clone()]));
            }
        }
        while !failed.is_empty() {
            let admission = stage(Stage::Admit);
            let others = self.others(caller, key, &failed).await;
            let ready: Vec<&Asked> = others.iter().map(|(_, asked)| asked).collect();
            // Boxed, so that calls whose versions all serve do not carry it.
            let again = Box::pin(self.answers(caller, &ready, video.clone(), admission));
            let Ok(again) = again.await else {
                // The first errors stand.
                return;
            };
            let mut still = Vec::new();
            for ((place, asked), answer) in others.iter().zip(again) {
                self.tell(asked, &answer).await;
                if cannot_serve(&answer) {
                    let before = failed.iter().find(|(own, _)| own == place);
                    let mut refused = before.map_or_else(Vec::new, |(_, own)| own.clone());
                    refused.push(asked.version.clone());
                    still.push((*place, refused));
                }
                answers[*place] = answer;
            }
            failed = still;
        }
    }

    /// Asks for room for the clips of a request, with which the stage of admission ends.
    fn admitted(
        &self,
        caller: &Caller,
        samplings: &Samplings,
        admission: Open,
    ) -> Result<engine::Permit, engine::Error> {
        let permit = self.parts.engine.admit_all_for(
            (&caller.tenant, caller.class),
            caller.deadline,
            &samplings.loads(),
        );
        admission.end(permit.is_ok());
        permit
    }

    /// Returns the answers of versions that are known, in their order.
    async fn answers(
        &self,
        caller: &Caller,
        asked: &[&Asked],
        video: Video,
        admission: Open,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        if asked.is_empty() {
            admission.end(false);
            return Ok(Vec::new());
        }
        let samplings = Samplings::of(asked.iter().map(|asked| asked.essentials.sampling));
        let permit = self.admitted(caller, &samplings, admission)?;
        let engine = &self.parts.engine;
        engine.prefetch(asked.iter().map(|asked| &asked.version));
        let mut decoded = self.decoded(caller, video, &samplings).await?;
        let planes = decoded
            .iter_mut()
            .map(|own| std::mem::take(&mut own.planes));
        let planes: Vec<_> = planes.collect();
        let shown = asked.iter().zip(&samplings.places);
        let shown = shown.map(|(&asked, &sampling)| Shown {
            asked,
            views: (planes[sampling].iter().cloned())
                .map(engine::Pictures::from)
                .collect(),
            frames: &decoded[sampling].frames,
            decode: decoded[sampling].took,
        });
        let shown = shown.collect();
        drop(planes);
        self.run(&permit, caller.deadline, shown).await
    }

    /// Returns the version of each choice.
    async fn versions(
        &self,
        caller: &Caller,
        choices: &[Choice],
        key: Option<Key>,
    ) -> Vec<Result<Asked, Error>> {
        let tenant = &caller.tenant;
        let versions = choices
            .iter()
            .map(|choice| self.version_for(tenant, choice, key));
        join_all(versions).await
    }

    /// Returns the version in the choice, else the task's serving version.
    async fn version(&self, tenant: &TenantId, choice: &Choice) -> Result<Asked, Error> {
        self.version_for(tenant, choice, None).await
    }

    /// Returns the version in the choice, else the one that a key decides among those that serve the task.
    async fn version_for(
        &self,
        tenant: &TenantId,
        choice: &Choice,
        key: Option<Key>,
    ) -> Result<Asked, Error> {
        match &choice.version {
            Some(version) => self.known(version.clone(), Role::Named).await,
            None => self.chosen(tenant, &choice.task, key, &[]).await,
        }
    }

    /// Returns what is known of a version that fits the backbone.
    async fn known(&self, version: VersionRef, role: Role) -> Result<Asked, Error> {
        let essentials = self.parts.registry.essentials(&version).await?;
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
            role,
            is_shared: false,
            watching: Vec::new(),
        })
    }

    /// Records that a version that is to serve cannot, or can serve again, so that `GetTask` shows it.
    async fn tell<T>(&self, asked: &Asked, answer: &Result<T, Error>) {
        let (version, registry) = (&asked.version, &self.parts.registry);
        let why = match (answer, asked.role) {
            (Err(error), Role::Main(Some(Standing::Good)) | Role::Member)
                if cannot_serve(answer) =>
            {
                tracing::warn!(tenant = %version.tenant, %version, %error, "a serving version cannot serve");
                Some(error.to_string())
            }
            (Ok(_), Role::Main(Some(Standing::Failed))) => None,
            _ => return,
        };
        let noted = match asked.role {
            Role::Member => registry.note_member(version, why.as_deref()).await,
            Role::Named | Role::Main(_) => registry.note_serving(version, why.as_deref()).await,
        };
        if let Err(error) = noted {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%version, error, "cannot record whether a version serves");
        }
    }
}

/// Returns the answer of a version from its clips' logits.
fn scored(
    asked: &Asked,
    answer: engine::Answer,
    (frames, decode): (&[SampledFrame], Duration),
) -> Result<Answer, Error> {
    let (version, labels) = (asked.version.clone(), asked.essentials.labels.clone());
    let scores = Scores::of(&answer.logits, labels.kind());
    let scores = scores.filter(|own| own.mean.len() == labels.len());
    let Some(scores) = scores else {
        let labels = labels.len();
        return Err(Error::Logits { version, labels });
    };
    Ok(Answer {
        version,
        labels,
        scores,
        sureness: asked.essentials.sureness,
        thresholds: Arc::clone(&asked.essentials.thresholds),
        frames: frames.to_vec(),
        decode,
        queue: answer.queue,
        device: answer.device,
    })
}
