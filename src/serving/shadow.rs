//! Shadow versions: they are run on requests beside the version that answers, and compared with it.
//!
//! Invariant: the answer never waits for a shadow version, and never fails because of it. Work of shadow versions is dropped while requests wait.

use std::time::{Duration, Instant};

use super::comparisons::{Comparison, Outcome};
use super::{Answer, Asked, Error, Scores, Serving};
use crate::engine::{self, Pictures, Spare};
use crate::ids::{TaskId, TenantId, VersionRef};

/// How long a shadow version waits for a device that nobody needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A version that is to be run on clips beside the one that answers.
pub(super) struct Shadow {
    version: VersionRef,
    /// Room for the clips, which covers the pictures for as long as they are kept.
    room: Spare,
    views: Vec<Pictures>,
}

impl Serving {
    /// The shadow versions of a request or a window, as far as there is room for its clips.
    pub(super) fn shadows(&self, asked: &Asked, views: &[Pictures]) -> Vec<Shadow> {
        let num_frames = usize::from(asked.essentials.sampling.num_frames.get());
        let shadow = |version: &VersionRef| {
            let engine = &self.parts.engine;
            match engine.admit_spare(&version.tenant, views.len(), num_frames) {
                Ok(room) => Some(Shadow {
                    version: version.clone(),
                    room,
                    // The room is for pictures alone.
                    views: views.iter().map(Pictures::without_kept).collect(),
                }),
                Err(_) => {
                    self.compared(version, Outcome::Dropped);
                    None
                }
            }
        };
        asked.watching.iter().filter_map(shadow).collect()
    }

    /// Runs the shadow versions, in the background. Their number is bounded by their room in the queue.
    pub(super) fn watch(&self, shadows: Vec<Shadow>, answer: &Result<Answer, Error>) {
        let Ok(answer) = answer else {
            return;
        };
        let Some(&(best, _)) = answer.scores.best(1).first() else {
            return;
        };
        for shadow in shadows {
            let (serving, label) = (self.clone(), answer.labels.as_slice()[best].clone());
            let answer_device = answer.device;
            tokio::spawn(async move {
                let version = shadow.version.clone();
                let outcome = serving.shown(shadow, &label, answer_device).await;
                serving.compared(&version, outcome);
            });
        }
    }

    async fn shown(&self, shadow: Shadow, label: &str, answer_device: Duration) -> Outcome {
        let Shadow {
            version,
            room,
            views,
        } = shadow;
        let known = self.known(version.clone(), super::Role::Member).await;
        let Ok(asked) = known else {
            return Outcome::Failed;
        };
        let deadline = Instant::now() + PATIENCE;
        let engine = &self.parts.engine;
        let answer = engine.classify_spare(room, &version, views, deadline).await;
        let answer = answer.map_err(Error::from);
        self.tell(&asked, &answer).await;
        let labels = &asked.essentials.labels;
        match answer {
            Ok(answer) => {
                let scores = Scores::of(&answer.logits, labels.kind());
                let scores = scores.filter(|own| own.mean.len() == labels.len());
                let best = scores.and_then(|own| own.best(1).first().copied());
                let Some((best, _)) = best else {
                    return Outcome::Failed;
                };
                Outcome::Compared {
                    agreed: labels.as_slice()[best] == label,
                    device: answer.device,
                    answer_device,
                }
            }
            Err(Error::Engine(engine::Error::NoRoom { .. })) => Outcome::NotResident,
            Err(Error::Engine(
                engine::Error::DeadlineExceeded
                | engine::Error::QueueFull { .. }
                | engine::Error::Stopped,
            )) => Outcome::Dropped,
            Err(error) => {
                tracing::debug!(%version, %error, "a shadow version failed");
                Outcome::Failed
            }
        }
    }

    fn compared(&self, version: &VersionRef, outcome: Outcome) {
        self.parts.metrics.shadowed(version, outcome.as_str());
        if let Outcome::Compared {
            device,
            answer_device,
            ..
        } = outcome
        {
            self.parts
                .metrics
                .shadow_device(version, device, answer_device);
        }
        self.comparisons.add(version, outcome);
    }

    /// Outcomes of requests that a shadow version ran on, since its task's split was set through this process or the process started.
    pub fn comparison(&self, version: &VersionRef) -> Comparison {
        self.comparisons.of(version)
    }

    /// Starts the comparisons of a task over.
    pub fn forget_comparisons(&self, tenant: &TenantId, task: &TaskId) {
        self.comparisons.forget(tenant, task);
    }
}
