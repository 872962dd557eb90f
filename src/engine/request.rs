//! One request's path through the engine.
//!
//! Invariant: dropping the future drops its clips, except those that are already in a batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::queue::{Clip, Part};
use super::residency::Pin;
use super::{Answer, Core, Error};
use crate::fair::Class;
use crate::ids::{TenantId, VersionRef};
use crate::telemetry::metrics::Dropped;

/// Most frames of one clip.
pub(super) const FRAMES: usize = 64;

impl Core {
    /// Pins the adapter set, queues the clips and collects their logits.
    pub(super) async fn classify(
        &self,
        (version, class): (&VersionRef, Class),
        clips: Vec<Arc<[f32]>>,
        deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        let frames = self.check(&clips)?;
        let pin = self.residency.acquire(version).await?;
        let count = clips.len();
        // One part per clip, so that the device thread never waits for a reader.
        let (reply, parts) = mpsc::channel(count.max(1));
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let entered = Instant::now();
        let place_of = |(place, (planes, frames))| Clip {
            request,
            place,
            planes,
            frames,
            pin: Pin::clone(&pin),
            deadline,
            entered,
            reply: reply.clone(),
        };
        let clips = clips.into_iter().zip(frames).enumerate();
        let clips: Vec<Clip> = clips.map(place_of).collect();
        drop(reply);
        let mut waiting = Waiting {
            core: self,
            tenant: &version.tenant,
            request,
            deadline,
            finished: false,
        };
        self.queue.push((&version.tenant, class), clips);
        self.device.wake();
        let answer = collect(parts, count).await;
        waiting.finished = answer.is_ok();
        if let Ok(answer) = &answer {
            self.metrics.queued(answer.queue);
        }
        answer
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
async fn collect(mut parts: mpsc::Receiver<Part>, count: usize) -> Result<Answer, Error> {
    let mut logits = vec![Vec::new(); count];
    let mut queue = Duration::ZERO;
    let mut device = Duration::ZERO;
    let mut batches = HashSet::new();
    for _ in 0..count {
        // The senders are dropped without a result only when the device stops.
        let part = parts.recv().await.ok_or(Error::Stopped)?;
        let row = part.result?;
        if let Some(place) = logits.get_mut(part.place) {
            *place = row;
        }
        queue = queue.max(part.queued);
        if batches.insert(part.batch) {
            device += part.device;
        }
    }
    Ok(Answer {
        logits,
        queue,
        device,
    })
}
