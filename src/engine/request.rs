//! One request's path through the engine, with one version or with several at once.
//!
//! Invariant: dropping the future drops its clips, except those that are already in a batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::mpsc;

use super::queue::{Clip, Part};
use super::weights::Weights;
use super::{Core, Error};
use crate::fair::Class;
use crate::ids::{TenantId, VersionRef};
use crate::model::Readout;
use crate::telemetry::metrics::Dropped;

/// Most frames of one clip.
pub(super) const FRAMES: usize = 64;

impl Core {
    /// Pins the adapter sets, queues the clips of all versions at once and collects their results.
    pub(super) async fn run(
        &self,
        (tenant, class): (&TenantId, Class),
        wanted: Vec<Wanted>,
        deadline: Option<Instant>,
    ) -> Vec<Result<Ran, Error>> {
        let ready = join_all(wanted.into_iter().map(|wanted| self.ready(wanted))).await;
        let mut queued = Vec::new();
        let pending: Vec<Result<Pending<'_>, Error>> = ready
            .into_iter()
            .map(|ready| Ok(self.pending(tenant, ready?, deadline, &mut queued)))
            .collect();
        // Clips of the same planes are neighbours, so that one batch computes what they have in common.
        queued.sort_by_key(|clip: &Clip| clip.place);
        if !queued.is_empty() {
            self.queue.push((tenant, class), queued);
            self.device.wake();
        }
        let answers = pending.into_iter();
        join_all(answers.map(|pending| async move { pending?.answer().await })).await
    }

    /// Checks the clips and pins the set.
    async fn ready(&self, wanted: Wanted) -> Result<Ready, Error> {
        let frames = self.check(&wanted.clips)?;
        let weights = match &wanted.version {
            Some(version) => Weights::Version(self.residency.acquire(version).await?),
            None => Weights::bare(&self.backbone)?,
        };
        Ok(Ready {
            weights,
            readout: wanted.readout,
            clips: wanted.clips.into_iter().zip(frames).collect(),
        })
    }

    /// Makes the clips that are queued, and what waits for them.
    fn pending<'a>(
        &'a self,
        tenant: &'a TenantId,
        ready: Ready,
        deadline: Option<Instant>,
        queued: &mut Vec<Clip>,
    ) -> Pending<'a> {
        let Ready {
            weights,
            readout,
            clips,
        } = ready;
        let count = clips.len();
        // One part per clip, so that the device thread never waits for a reader.
        let (reply, parts) = mpsc::channel(count.max(1));
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let entered = Instant::now();
        let clip = |(place, (planes, frames))| Clip {
            request,
            place,
            planes,
            frames,
            weights: weights.clone(),
            readout,
            deadline,
            entered,
            reply: reply.clone(),
        };
        queued.extend(clips.into_iter().enumerate().map(clip));
        let waiting = Waiting {
            core: self,
            tenant,
            request,
            deadline,
            finished: false,
        };
        Pending {
            waiting,
            parts,
            count,
        }
    }

    /// Checks the clips. Returns the number of frames of each.
    fn check(&self, clips: &[Arc<[f32]>]) -> Result<Vec<usize>, Error> {
        let config = self.backbone.config();
        let frame = config.frame_len();
        let frames = |(clip, planes): (usize, &Arc<[f32]>)| {
            let values = planes.len();
            let frames = values / frame;
            if values % frame != 0 || !(1..=FRAMES).contains(&frames) {
                return Err(Error::Clip {
                    clip,
                    values,
                    image_size: config.image_size,
                });
            }
            Ok(frames)
        };
        clips.iter().enumerate().map(frames).collect()
    }
}

/// Clips of one version that are to be run together.
pub(super) struct Wanted {
    /// Version to use; the bare backbone when absent.
    pub(super) version: Option<VersionRef>,
    /// What is wanted of each clip.
    pub(super) readout: Readout,
    /// Normalised planes `[3, T, S, S]` of each clip.
    pub(super) clips: Vec<Arc<[f32]>>,
}

/// Results of the clips of one version.
pub(super) struct Ran {
    /// One row per clip, in order.
    pub(super) rows: Vec<Vec<f32>>,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub(super) queue: Duration,
    /// Sum of the times of the batches that held the clips.
    pub(super) device: Duration,
}

/// Clips whose set is pinned.
struct Ready {
    weights: Weights,
    readout: Readout,
    /// The planes and the frames of each clip.
    clips: Vec<(Arc<[f32]>, usize)>,
}

/// Clips that are queued.
struct Pending<'a> {
    waiting: Waiting<'a>,
    parts: mpsc::Receiver<Part>,
    count: usize,
}

impl Pending<'_> {
    async fn answer(mut self) -> Result<Ran, Error> {
        let answer = collect(self.parts, self.count).await;
        self.waiting.finished = answer.is_ok();
        if let Ok(answer) = &answer {
            self.waiting.core.metrics.queued(answer.queue);
        }
        answer
    }
}

/// Removes a request's clips from the queue when its future ends early.
struct Waiting<'a> {
    core: &'a Core,
    tenant: &'a TenantId,
    request: u64,
    deadline: Option<Instant>,
    finished: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.finished || !self.core.queue.remove(self.tenant, self.request) {
            return;
        }
        // An expired request is counted where its error is created.
        if self
            .deadline
            .is_none_or(|deadline| Instant::now() < deadline)
        {
            self.core.metrics.dropped(self.tenant, Dropped::Cancelled);
        }
    }
}

/// Collects the results of all clips; the first error ends the request.
async fn collect(mut parts: mpsc::Receiver<Part>, count: usize) -> Result<Ran, Error> {
    let mut rows = vec![Vec::new(); count];
    let mut queue = Duration::ZERO;
    let mut device = Duration::ZERO;
    let mut batches = HashSet::new();
    for _ in 0..count {
        // The senders are dropped without a result only when the device stops.
        let part = parts.recv().await.ok_or(Error::Stopped)?;
        let row = part.result?;
        if let Some(place) = rows.get_mut(part.place) {
            *place = row;
        }
        queue = queue.max(part.queued);
        if batches.insert(part.batch) {
            device += part.device;
        }
    }
    Ok(Ran {
        rows,
        queue,
        device,
    })
}
