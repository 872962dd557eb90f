//! What the engine answers about clips: logits of one version or of several at once, and features of a version or of the bare backbone.
//!
//! Invariant: nothing enters the queue that the permit does not cover.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::Demand;
use super::request::{Ran, VersionClips};
use super::{Error, Handle, Limit, Permit};
use crate::ids::{TaskId, VersionRef};
use crate::model::{Pictures, Readout};
use crate::telemetry::metrics::Dropped;

/// Clips to classify with one version.
#[derive(Debug, Clone)]
pub struct Clips {
    /// Version to use.
    pub version: VersionRef,
    /// Pictures of each clip; several versions and clips may share them.
    pub clips: Vec<Pictures>,
}

/// Logits of a request's clips.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One row per clip, in the request's order: row i of the head is label i of the version.
    pub logits: Vec<Vec<f32>>,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub queue: Duration,
    /// Sum of the times of the batches that held the clips.
    pub device: Duration,
}

/// Features of a request's clips.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Features of each clip, in the request's order.
    pub clips: Vec<ClipFeatures>,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub queue: Duration,
    /// Sum of the times of the batches that held the clips.
    pub device: Duration,
}

/// Features of one clip, each as wide as a token.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipFeatures {
    /// Features of the clip: the mean of its frames' class tokens, with the final norm unless that was to be left out.
    pub pooled: Vec<f32>,
    /// Features of each frame: its class token, with the final norm unless that was to be left out.
    pub frames: Vec<Vec<f32>>,
}

impl ClipFeatures {
    /// The parts of a row `[1 + T, width]`.
    fn of(row: &[f32], width: usize) -> Self {
        let mut rows = row.chunks_exact(width.max(1)).map(<[f32]>::to_vec);
        Self {
            pooled: rows.next().unwrap_or_default(),
            frames: rows.collect(),
        }
    }
}

impl From<Clips> for VersionClips {
    fn from(clips: Clips) -> Self {
        Self {
            version: Some(clips.version),
            readout: Readout::Logits,
            clips: clips.clips,
        }
    }
}

impl From<Ran> for Answer {
    fn from(ran: Ran) -> Self {
        Self {
            logits: ran.rows,
            queue: ran.queue,
            device: ran.device,
        }
    }
}

/// The room that clips take; buffers that several of them share count once.
fn demand_of(wanted: &[VersionClips]) -> Demand {
    let clips = wanted.iter().flat_map(|wanted| &wanted.clips);
    let mut known = HashSet::new();
    let buffers = clips.clone().flat_map(Pictures::buffers);
    let distinct = buffers.filter(|buffer| known.insert(buffer.as_ptr()));
    let bytes: usize = distinct.map(|buffer| size_of_val(&**buffer)).sum();
    Demand {
        clips: clips.count(),
        bytes: bytes as u64,
    }
}

impl Handle {
    /// Classifies clips with one version, and loads it when it is not resident. Dropping the future
    /// cancels the request: clips without a batch never reach the device.
    ///
    /// # Errors
    /// Every variant except `TooManyClips`, `TooManyBytes`, `Unreachable` and `NotReady`; [`Error::QueueFull`] when the clips exceed the permit.
    pub async fn classify(
        &self,
        permit: impl Borrow<Permit>,
        version: &VersionRef,
        clips: Vec<impl Into<Pictures>>,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let clips = Clips {
            version: version.clone(),
            clips: clips.into_iter().map(Into::into).collect(),
        };
        let answers = self.classify_each(permit.borrow(), vec![clips], deadline);
        answers.await?.pop().unwrap_or(Err(Error::Stopped))
    }

    /// Classifies with several versions at once; the answers come in the order of the versions. Clips that share frames wait for their batches side by
    /// side, and a batch computes what they have in common once.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`], and [`Error::QueueFull`] when the clips exceed the permit. What concerns one version is its own answer's
    /// error.
    pub async fn classify_each(
        &self,
        permit: &Permit,
        versions: Vec<Clips>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let wanted = versions.into_iter().map(VersionClips::from).collect();
        let ran = self.run(permit, wanted, deadline).await?;
        Ok(ran.into_iter().map(|ran| ran.map(Answer::from)).collect())
    }

    /// Computes features of clips with one version, or with the bare backbone: before the final norm or, which is what a head reads, after it.
    ///
    /// # Errors
    /// Same as [`Handle::classify`].
    pub async fn embed(
        &self,
        permit: &Permit,
        version: Option<&VersionRef>,
        final_norm: bool,
        clips: Vec<Arc<[f32]>>,
        deadline: Option<Instant>,
    ) -> Result<Features, Error> {
        let readout = match final_norm {
            true => Readout::Features,
            false => Readout::ClassTokens,
        };
        let wanted = VersionClips {
            version: version.cloned(),
            readout,
            clips: clips.into_iter().map(Pictures::from).collect(),
        };
        let mut ran = self.run(permit, vec![wanted], deadline).await?;
        let Ran {
            rows,
            queue,
            device,
            ..
        } = ran.pop().unwrap_or(Err(Error::Stopped))?;
        let width = self.core.backbone.config().width;
        let clips = rows.iter().map(|row| ClipFeatures::of(row, width));
        Ok(Features {
            clips: clips.collect(),
            queue,
            device,
        })
    }

    /// Runs clips until the deadline.
    async fn run(
        &self,
        permit: &Permit,
        wanted: Vec<VersionClips>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<Ran, Error>>, Error> {
        let demand = demand_of(&wanted);
        if !permit.covers(demand) {
            let clips = demand.clips;
            let limit = Limit::Permit;
            return Err(Error::QueueFull { clips, limit });
        }
        let readers = self.readers(&wanted);
        let ran = self.run_in_time(permit, wanted, deadline).await?;
        for (ran, (task, frames)) in ran.iter().zip(readers) {
            if ran.is_ok() {
                let account = &self.core.account;
                account.answered(permit.tenant(), task.as_ref(), frames);
            }
        }
        Ok(ran)
    }

    /// The task of each version and the frames of its clips.
    fn readers(&self, wanted: &[VersionClips]) -> Vec<(Option<TaskId>, u64)> {
        let frame = self.core.backbone.config().frame_len();
        let reader = |wanted: &VersionClips| {
            let frames = (wanted.clips.iter()).filter_map(|clip| clip.frames(frame));
            let task = wanted.version.as_ref().map(|version| version.task.clone());
            (task, frames.sum::<usize>() as u64)
        };
        wanted.iter().map(reader).collect()
    }

    async fn run_in_time(
        &self,
        permit: &Permit,
        wanted: Vec<VersionClips>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<Ran, Error>>, Error> {
        let (tenant, class) = (permit.tenant(), permit.class());
        let Some(at) = deadline else {
            return Ok(self.core.run((tenant, class), wanted, None).await);
        };
        let expired = || self.core.metrics.dropped(tenant, Dropped::Expired);
        let count = wanted.len();
        let running = self.core.run((tenant, class), wanted, deadline);
        let ran = match at <= Instant::now() {
            true => None,
            false => tokio::time::timeout_at(at.into(), running).await.ok(),
        };
        let Some(ran) = ran else {
            (0..count).for_each(|_| expired());
            return Err(Error::DeadlineExceeded);
        };
        let late = |ran: &&Result<Ran, Error>| matches!(ran, Err(Error::DeadlineExceeded));
        ran.iter().filter(late).for_each(|_| expired());
        Ok(ran)
    }
}
