//! Queue of clips that wait for the device, and the formation of batches from it.
//!
//! Invariant: a clip whose caller left or whose deadline passed is dropped here, no later than when a batch forms.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::batcher::{Batcher, Limits, Pace, Queued, Sharing};
use super::rate::{Rate, Rates};
use super::weights;
use super::{Config, Error};
use crate::fair::{Class, Weights};
use crate::ids::TenantId;
use crate::model::{Backbone, Pictures, Readout};
use crate::telemetry::Metrics;

/// A batch that nobody waits for takes at most the time of a batch of requests divided by this, unless a single clip takes longer.
const SPARE: usize = 4;

/// One clip (view) of a request.
pub(super) struct Clip {
    /// Tenant that the clip runs for.
    pub(super) tenant: TenantId,
    /// Id of the request.
    pub(super) request: u64,
    /// Index of the clip in the request.
    pub(super) place: usize,
    /// Pictures of the clip.
    pub(super) pictures: Pictures,
    /// Number of frames, T.
    pub(super) frames: usize,
    /// Adapter set, pinned for as long as the clip exists, or none.
    pub(super) weights: weights::Weights,
    /// What is wanted of the clip: logits or features.
    pub(super) readout: Readout,
    /// Time after which the answer is no longer wanted.
    pub(super) deadline: Option<Instant>,
    /// Whether its tenant asks for little beside others; the queue finds out.
    pub(super) is_light: bool,
    /// Time at which the clip entered the queue.
    pub(super) entered: Instant,
    /// Channel to the request, with room for one part per clip, so that sending never waits; closed when the caller leaves.
    pub(super) reply: mpsc::Sender<Part>,
}

/// Result of one clip, sent to its request.
pub(super) struct Part {
    /// Index of the clip in the request.
    pub(super) place: usize,
    /// Logits or features of the clip, or its error.
    pub(super) result: Result<Vec<f32>, Error>,
    /// Number of the batch that held the clip.
    pub(super) batch: u64,
    /// Time until that batch formed.
    pub(super) queued: Duration,
    /// Time that the batch took on the device.
    pub(super) device: Duration,
}

impl Clip {
    /// Returns whether the result is still wanted at the time `now`.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && self.deadline.is_none_or(|deadline| now < deadline)
    }

    /// Ends the clip with an error.
    pub(super) fn refuse(self, error: Error) {
        let part = Part {
            place: self.place,
            result: Err(error),
            batch: 0,
            queued: self.entered.elapsed(),
            device: Duration::ZERO,
        };
        let reply = self.reply.clone();
        // Whoever has the error finds the set without this pin.
        drop(self);
        // The channel cannot be full: it has room for every clip of the request, and each clip sends once. A closed channel has no reader.
        let _ = reply.try_send(part);
    }
}

impl Queued for Clip {
    fn request(&self) -> u64 {
        self.request
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn group(&self) -> u64 {
        self.weights.id()
    }

    fn is_light(&self) -> bool {
        self.is_light
    }
}

/// Waiting clips of all tenants.
pub(super) struct Queue {
    limits: Limits,
    /// A plain mutex, because it is held while clips are moved and never across an await; the device thread takes it only to form a batch.
    state: Mutex<State>,
    weights: Arc<dyn Weights>,
    metrics: Metrics,
}

struct State {
    batcher: Batcher<Clip>,
    /// Clips of a batch that failed; each runs alone, to find the one that fails.
    suspects: VecDeque<Clip>,
    /// Parts of batches for which the device had no room; they come first, since their clips have waited longest.
    again: VecDeque<Vec<Clip>>,
    batches: u64,
    /// Times of past batches.
    pace: Pace,
    /// Rates of the last minute's batches.
    rates: Rates,
    /// Whether several tenants or classes send requests.
    sharing: Sharing,
    /// Origin of the times in `sharing` and `rates`.
    begin: Instant,
    closed: bool,
}

impl Queue {
    pub(super) fn new(
        config: &Config,
        backbone: &Backbone,
        weights: Arc<dyn Weights>,
        metrics: Metrics,
    ) -> Self {
        Self {
            limits: Limits {
                clips: config.batch_clips,
                frames: config.frames_of_a_batch(backbone),
            },
            state: Mutex::new(State {
                batcher: Batcher::new(),
                suspects: VecDeque::new(),
                again: VecDeque::new(),
                batches: 0,
                pace: Pace::new(config.batch_time),
                rates: Rates::new(),
                sharing: Sharing::default(),
                begin: Instant::now(),
                closed: false,
            }),
            weights,
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request's clips. When the device has stopped they are dropped, which closes the request's channel.
    pub(super) fn push(&self, (tenant, class): (&TenantId, Class), clips: Vec<Clip>) {
        let weight = self.weights.of(tenant);
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return drop(clips);
        }
        let now = state.begin.elapsed();
        let frames = clips.iter().map(|clip| clip.frames as u64).sum();
        let asks = (tenant, weight);
        state.sharing.asked(asks, class, frames, now);
        let is_light =
            class == Class::Interactive && state.sharing.is_light(tenant, &state.pace, now);
        for clip in clips {
            let clip = Clip { is_light, ..clip };
            state.batcher.push(asks, class, clip);
        }
        self.metrics.queue_clips(state.batcher.len());
    }

    /// Adds clips that nobody waits for; they run when no request waits.
    pub(super) fn push_spare(&self, tenant: &TenantId, clips: Vec<Clip>) {
        let weight = self.weights.of(tenant);
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return drop(clips);
        }
        // The tenant does not count as one that shares the device, so that batches of requests stay as large as they are.
        for clip in clips {
            state.batcher.push_spare((tenant, weight), clip);
        }
    }

    /// Returns whether requests wait.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().batcher.len() > 0
    }

    /// Removes a request's clips. Returns whether there were any.
    pub(super) fn remove(&self, tenant: &TenantId, request: u64) -> bool {
        let mut state = self.lock();
        let gone = state.batcher.remove(tenant, request);
        self.metrics.queue_clips(state.batcher.len());
        drop(state);
        !gone.is_empty()
    }

    /// Adds the clips of a failed batch, which then run one by one.
    pub(super) fn suspect(&self, clips: Vec<Clip>) {
        self.lock().suspects.extend(clips);
    }

    /// Adds parts of a batch for which the device had no room; each runs as a batch of its own, before anything else.
    pub(super) fn again(&self, parts: [Vec<Clip>; 2]) {
        let mut state = self.lock();
        for part in parts.into_iter().rev() {
            state.again.push_front(part);
        }
    }

    /// Records the time `took` of a batch on the device, with its clips and frames.
    pub(super) fn ran(&self, (clips, frames): (usize, usize), took: Duration) {
        let mut state = self.lock();
        let now = state.begin.elapsed();
        state.pace.ran(frames, took);
        state.rates.ran((clips, frames), took, now);
    }

    /// Records how long one clip of one frame took at the warm-up.
    pub(super) fn warmed_up(&self, took: Duration) {
        self.lock().rates.warmed_up(took);
    }

    /// Returns the frames that wait for a batch, and how fast the device classifies.
    pub(super) fn state(&self) -> (u64, Option<Rate>) {
        let state = self.lock();
        (
            state.batcher.cost(),
            state.rates.rate(state.begin.elapsed()),
        )
    }

    /// Returns the time until a new request of `frames` frames would be through the device, by the mean time of a frame; `None` while that is
    /// unknown, or when nothing waits before it. A lower bound: the running batch is not counted, nor what is still decoded.
    pub(super) fn wait(
        &self,
        (tenant, class): (&TenantId, Class),
        frames: u64,
    ) -> Option<Duration> {
        let weight = self.weights.of(tenant);
        let state = self.lock();
        let ahead = state.batcher.ahead((tenant, weight), class, frames)?;
        let frame = state.pace.frame()?.as_secs_f64();
        // A wait that no duration holds is not known.
        Duration::try_from_secs_f64(frame * ahead as f64).ok()
    }

    /// Returns the metrics that count the batches.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Closes the queue because no more batches will be formed: waiting clips are dropped, which closes their requests' channels.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = state.batcher.clear();
        let suspects = std::mem::take(&mut state.suspects);
        let again = std::mem::take(&mut state.again);
        drop(state);
        drop((waiting, suspects, again));
    }

    /// Forms the next batch. Returns it with its number; `None` when no clip waits.
    pub(super) fn form(&self) -> Option<(Vec<Clip>, u64)> {
        let now = Instant::now();
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let mut batch = Vec::new();
        while batch.is_empty()
            && let Some(part) = state.again.pop_front()
        {
            let (wanted, unwanted): (Vec<_>, Vec<_>) =
                part.into_iter().partition(|clip| clip.is_wanted(now));
            batch = wanted;
            dropped.extend(unwanted);
        }
        while batch.is_empty()
            && let Some(clip) = state.suspects.pop_front()
        {
            match clip.is_wanted(now) {
                true => batch.push(clip),
                false => dropped.push(clip),
            }
        }
        if batch.is_empty() {
            let paced = state.sharing.limit(&state.pace, state.begin.elapsed());
            let limits = Limits {
                frames: self.limits.frames.min(paced),
                ..self.limits
            };
            let formed = state.batcher.form(limits, |clip| clip.is_wanted(now));
            batch = formed.batch;
            dropped.extend(formed.dropped);
        }
        if batch.is_empty() {
            let limits = Limits {
                frames: state.pace.limit().min(self.limits.frames) / SPARE,
                ..self.limits
            };
            let formed = state.batcher.form_spare(limits, |clip| clip.is_wanted(now));
            batch = formed.batch;
            dropped.extend(formed.dropped);
        }
        state.batches += 1;
        let number = state.batches;
        self.metrics.queue_clips(state.batcher.len());
        drop(state);
        for clip in dropped {
            clip.refuse(Error::DeadlineExceeded);
        }
        (!batch.is_empty()).then_some((batch, number))
    }
}
