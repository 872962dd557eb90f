//! One request's path through the engine, with one version or with several at once.
//!
//! Invariant: dropping the future drops its clips, except those that are already in a batch.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{Either, join_all};
use futures::poll;
use tokio::sync::mpsc;

use super::queue::{Clip, Part};
use super::residency::Pin;
use super::weights::Weights;
use super::{Core, Error};
use crate::fair::Class;
use crate::ids::{TenantId, VersionRef};
use crate::model::{Pictures, Readout};
use crate::telemetry::metrics::Dropped;
use crate::telemetry::trace::{Open, Stage, stage};

/// Most frames of one clip.
pub(super) const FRAMES: usize = 64;

impl Core {
    /// Pins the adapter sets, queues the clips and collects their results. The clips of the versions whose sets are resident enter the queue together;
    /// those of the others follow as their sets become ready, since a pin that waited for another set's load could keep that load from finding room.
    pub(super) async fn run(
        &self,
        asks: (&TenantId, Class),
        wanted: Vec<VersionClips>,
        deadline: Option<Instant>,
    ) -> Vec<Result<Ran, Error>> {
        let spans = &Mutex::new(Spans::new(wanted.len()));
        let mut queued = Vec::new();
        let mut loading = wanted.len();
        let mut versions = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let mut ready = Box::pin(self.ready(wanted));
            versions.push(match poll!(ready.as_mut()) {
                Poll::Ready(ready) => {
                    loading -= 1;
                    let pending = |ready| self.pending(asks.0, ready, deadline, &mut queued);
                    Either::Left(ready.map(pending))
                }
                Poll::Pending => Either::Right(ready),
            });
        }
        lock(spans).loading(loading);
        self.enqueue(asks, queued, spans);
        let answers = versions.into_iter().map(|version| async move {
            match version {
                Either::Left(pending) => pending?.answer().await,
                Either::Right(ready) => {
                    let ready = ready.await;
                    lock(spans).loaded();
                    let mut queued = Vec::new();
                    let pending = self.pending(asks.0, ready?, deadline, &mut queued);
                    self.enqueue(asks, queued, spans);
                    pending.answer().await
                }
            }
        });
        let answers = join_all(answers).await;
        lock(spans).ran(&answers);
        answers
    }

    /// Adds clips to the queue.
    fn enqueue(&self, asks: (&TenantId, Class), mut clips: Vec<Clip>, spans: &Mutex<Spans>) {
        if clips.is_empty() {
            return;
        }
        // Clips of the same planes are neighbours, so that one batch computes what they have in common.
        clips.sort_by_key(|clip| clip.place);
        lock(spans).queued(clips.len());
        self.queue.push(asks, clips);
        self.device.wake();
    }

    /// Checks clips that run through a set that is pinned.
    pub(super) fn pinned(
        &self,
        pin: Pin,
        readout: Readout,
        clips: Vec<Pictures>,
    ) -> Result<Ready, Error> {
        let frames = self.check(&clips)?;
        Ok(Ready {
            weights: Weights::Version(pin),
            readout,
            clips: clips.into_iter().zip(frames).collect(),
        })
    }

    /// Checks the clips and pins the set.
    async fn ready(&self, wanted: VersionClips) -> Result<Ready, Error> {
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
    pub(super) fn pending<'a>(
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
        let clip = |(place, (pictures, frames))| Clip {
            tenant: tenant.clone(),
            request,
            place,
            pictures,
            frames,
            weights: weights.clone(),
            readout,
            deadline,
            is_light: false,
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
            entered,
        }
    }

    /// Checks the clips. Returns the number of frames of each.
    fn check(&self, clips: &[Pictures]) -> Result<Vec<usize>, Error> {
        let config = self.backbone.config();
        let frames = |(clip, pictures): (usize, &Pictures)| {
            let frames = pictures.frames(config.frame_len());
            let fits = frames.filter(|frames| (1..=FRAMES).contains(frames));
            fits.ok_or_else(|| Error::Clip {
                clip,
                values: pictures.values(),
                image_size: config.image_size,
            })
        };
        clips.iter().enumerate().map(frames).collect()
    }
}

/// Clips of one version that are to be run together.
pub(super) struct VersionClips {
    /// Version to use; the bare backbone when absent.
    pub(super) version: Option<VersionRef>,
    /// What is wanted of each clip.
    pub(super) readout: Readout,
    /// Pictures of each clip.
    pub(super) clips: Vec<Pictures>,
}

/// Results of the clips of one version.
pub(super) struct Ran {
    /// Logits or features, a row per clip, in order.
    pub(super) rows: Vec<Vec<f32>>,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub(super) queue: Duration,
    /// Sum of the times of the batches that held the clips.
    pub(super) device: Duration,
    /// The batches that held the clips.
    batches: Vec<InBatch>,
}

/// A batch that held clips of a request.
#[derive(Debug, Clone, Copy)]
struct InBatch {
    number: u64,
    formed: Instant,
    took: Duration,
}

/// Clips whose set is pinned.
pub(super) struct Ready {
    weights: Weights,
    readout: Readout,
    /// Each clip and the number of its frames.
    clips: Vec<(Pictures, usize)>,
}

/// Clips that are queued.
pub(super) struct Pending<'a> {
    waiting: Waiting<'a>,
    parts: mpsc::Receiver<Part>,
    count: usize,
    entered: Instant,
}

impl Pending<'_> {
    async fn answer(self) -> Result<Ran, Error> {
        let core = self.waiting.core;
        let answer = self.uncounted().await;
        if let Ok(answer) = &answer {
            core.metrics.queued(answer.queue);
        }
        answer
    }

    /// The results, without a count of the time in the queue.
    pub(super) async fn uncounted(mut self) -> Result<Ran, Error> {
        let answer = collect(self.parts, self.count, self.entered).await;
        self.waiting.finished = answer.is_ok();
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
async fn collect(
    mut parts: mpsc::Receiver<Part>,
    count: usize,
    entered: Instant,
) -> Result<Ran, Error> {
    let mut rows = vec![Vec::new(); count];
    let mut queue = Duration::ZERO;
    let mut device = Duration::ZERO;
    let mut batches: Vec<InBatch> = Vec::new();
    for _ in 0..count {
        // The senders are dropped without a result only when the device stops.
        let part = parts.recv().await.ok_or(Error::Stopped)?;
        let row = part.result?;
        if let Some(place) = rows.get_mut(part.place) {
            *place = row;
        }
        queue = queue.max(part.queued);
        // A request has a few batches, of which the last is most often the clip's.
        let mut known = batches.iter().rev();
        if known.all(|batch| batch.number != part.batch) {
            device += part.device;
            batches.push(InBatch {
                number: part.batch,
                formed: entered + part.queued,
                took: part.device,
            });
        }
    }
    Ok(Ran {
        rows,
        queue,
        device,
        batches,
    })
}

/// The spans of a request's loads, its time in the queue, and its batches. Its mutex is a plain one, because it is held for a few assignments and never
/// across an await.
struct Spans {
    load: Option<Open>,
    /// Sets that are not ready.
    loading: usize,
    queueing: Option<Open>,
    clips: usize,
}

fn lock(spans: &Mutex<Spans>) -> MutexGuard<'_, Spans> {
    spans.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spans {
    fn new(sets: usize) -> Self {
        let mut load = stage(Stage::Load);
        load.count("frameshift.sets", sets);
        Self {
            load: Some(load),
            loading: sets,
            queueing: None,
            clips: 0,
        }
    }

    /// So many sets are not ready yet. The last one ends the loads.
    fn loading(&mut self, sets: usize) {
        self.loading = sets;
        if let Some(load) = self.load.take_if(|_| sets == 0) {
            load.end(true);
        }
    }

    /// Notes that another set is ready, or has failed.
    fn loaded(&mut self) {
        self.loading(self.loading.saturating_sub(1));
    }

    /// Clips enter the queue.
    fn queued(&mut self, clips: usize) {
        self.queueing.get_or_insert_with(|| stage(Stage::Queue));
        self.clips += clips;
    }

    /// Ends the time in the queue with the last batch, and records the batches and the begin of the answer.
    fn ran(&mut self, answers: &[Result<Ran, Error>]) {
        let Some(mut queueing) = self.queueing.take() else {
            return;
        };
        queueing.count("frameshift.clips", self.clips);
        let ran = answers.iter().flatten();
        let batches = ran.flat_map(|ran| &ran.batches);
        let mut batches: Vec<InBatch> = batches.copied().collect();
        // Clips of several versions may have been in one batch.
        batches.sort_by_key(|batch| batch.number);
        batches.dedup_by_key(|batch| batch.number);
        let Some(last) = batches.iter().map(|batch| batch.formed).max() else {
            return queueing.end(false);
        };
        queueing.end_at(last);
        for batch in batches {
            let times = (batch.formed, batch.formed + batch.took);
            Stage::Device.was(times, &[("frameshift.batch", batch.number as usize)]);
        }
        Stage::answering();
    }
}
