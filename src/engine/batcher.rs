//! Forms batches over tenants: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. No clip is lost or duplicated, the limits hold, the clips of a tenant and class stay in their
//! order, tenants share the device by [`fair::Queue`], and the batch class goes last but never starves ([`Turns`]).

mod lead;
mod pace;
mod sharing;

use crate::fair::{self, Class, Turns, Verdict, Weight};
use crate::ids::TenantId;

use lead::Lead;
pub(super) use pace::Pace;
pub(super) use sharing::Sharing;

/// What the batcher needs to know of a clip.
pub(super) trait Queued {
    /// Returns the id of the clip's request.
    fn request(&self) -> u64;

    /// Returns the number of frames of the clip, which is its cost, since all frames have the same number of tokens.
    fn frames(&self) -> usize;

    /// Returns the key of the clip's adapter set; clips with the same key are adjacent in the batch.
    fn group(&self) -> u64;

    /// Returns whether its tenant asked for little, beside others who ask for more, when the clip came.
    fn is_light(&self) -> bool {
        false
    }
}

/// Limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most clips of a batch.
    pub(super) clips: usize,
    /// Most frames of a batch, unless a single clip has more.
    pub(super) frames: usize,
}

/// A batch, and the clips that were dropped while it formed.
#[derive(Debug)]
pub(super) struct Formed<T> {
    /// Clips of the batch, sorted by group, then by frames; otherwise in order of arrival.
    pub(super) batch: Vec<T>,
    /// Clips for which `alive` returned false.
    pub(super) dropped: Vec<T>,
}

/// Queue of the waiting clips of all tenants. Within a class the tenants share the device by start-time fair queueing over their clips' frames; a
/// batch holds clips of one class, so that an interactive clip waits for at most one batch of the other class, which is the running one.
#[derive(Debug)]
pub(super) struct Batcher<T> {
    interactive: fair::Queue<T>,
    batch: fair::Queue<T>,
    /// Clips that nobody waits for; they are no clips of a class, and have a batch of their own when nothing else waits.
    spare: fair::Queue<T>,
    turns: Turns,
    /// Interactive tenants who ask for little.
    lead: Lead,
}

impl<T: Queued> Batcher<T> {
    pub(super) fn new() -> Self {
        Self {
            interactive: fair::Queue::default(),
            batch: fair::Queue::default(),
            spare: fair::Queue::default(),
            turns: Turns::default(),
            lead: Lead::default(),
        }
    }

    fn lane(&self, class: Class) -> &fair::Queue<T> {
        match class {
            Class::Interactive => &self.interactive,
            Class::Batch => &self.batch,
        }
    }

    fn lane_mut(&mut self, class: Class) -> &mut fair::Queue<T> {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Batch => &mut self.batch,
        }
    }

    /// Returns the number of waiting clips, without those that nobody waits for.
    pub(super) fn len(&self) -> usize {
        self.interactive.len() + self.batch.len()
    }

    /// Returns the frames of all waiting clips.
    pub(super) fn cost(&self) -> u64 {
        self.interactive.cost().saturating_add(self.batch.cost())
    }

    /// Appends a clip to its tenant's lane of the class.
    pub(super) fn push(&mut self, asks: (&TenantId, Weight), class: Class, clip: T) {
        let cost = clip.frames() as u64;
        if class == Class::Interactive && clip.is_light() {
            self.lead.came(asks.0);
        }
        self.lane_mut(class).push(asks, cost, clip);
    }

    /// Appends a clip that nobody waits for.
    pub(super) fn push_spare(&mut self, asks: (&TenantId, Weight), clip: T) {
        let cost = clip.frames() as u64;
        self.spare.push(asks, cost, clip);
    }

    /// Removes the waiting clips of a request and returns them.
    pub(super) fn remove(&mut self, tenant: &TenantId, request: u64) -> Vec<T> {
        let is_of = |clip: &T| clip.request() == request;
        let mut gone = self.interactive.remove(tenant, is_of);
        gone.extend(self.batch.remove(tenant, is_of));
        gone.extend(self.spare.remove(tenant, is_of));
        gone
    }

    /// Removes all waiting clips and returns them.
    pub(super) fn clear(&mut self) -> Vec<T> {
        let mut gone = self.interactive.clear();
        gone.extend(self.batch.clear());
        gone.extend(self.spare.clear());
        gone
    }

    /// Returns the frames that are classified up to the end of a new request of `frames` frames, if no other comes; `None` when nothing waits that
    /// would be classified before.
    pub(super) fn ahead(
        &self,
        asks: (&TenantId, Weight),
        class: Class,
        frames: u64,
    ) -> Option<u64> {
        let before = match class {
            // The batch class waits meanwhile, but for its rare turns.
            Class::Interactive => 0,
            Class::Batch => self.interactive.cost(),
        };
        let lane = self.lane(class);
        if before == 0 && lane.is_empty() {
            return None;
        }
        let own = lane.ahead(asks, frames);
        Some(own.saturating_add(before))
    }

    /// Forms a batch of the class whose turn it is: takes the first clip of the tenant that has had least for its weight, again and again. Clips that
    /// are not `alive` are dropped.
    pub(super) fn form(&mut self, limits: Limits, mut alive: impl FnMut(&T) -> bool) -> Formed<T> {
        let mut formed = Formed {
            batch: Vec::new(),
            dropped: Vec::new(),
        };
        for class in self.turns.order() {
            let lane = match class {
                Class::Interactive => (&mut self.interactive, Some(&mut self.lead)),
                Class::Batch => (&mut self.batch, None),
            };
            fill(lane, limits, &mut alive, &mut formed);
            if !formed.batch.is_empty() {
                self.turns.had(class, !self.batch.is_empty());
                break;
            }
            // Nothing of this class waits, so its tenants start without a history.
            self.lane_mut(class).rest();
        }
        formed
            .batch
            .sort_by_key(|clip| (clip.group(), clip.frames()));
        formed
    }
}

impl<T: Queued> Batcher<T> {
    /// Forms a batch of clips that nobody waits for, like [`Batcher::form`].
    pub(super) fn form_spare(
        &mut self,
        limits: Limits,
        mut alive: impl FnMut(&T) -> bool,
    ) -> Formed<T> {
        let mut formed = Formed {
            batch: Vec::new(),
            dropped: Vec::new(),
        };
        let lane = (&mut self.spare, None);
        fill(lane, limits, &mut alive, &mut formed);
        formed
            .batch
            .sort_by_key(|clip| (clip.group(), clip.frames()));
        formed
    }
}

/// Moves clips into a batch until it is full. A clip that does not fit stays its tenant's first, and an empty batch takes any clip, so that it waits for
/// one batch at most.
fn fill<T: Queued>(
    (lane, mut lead): (&mut fair::Queue<T>, Option<&mut Lead>),
    limits: Limits,
    alive: &mut impl FnMut(&T) -> bool,
    formed: &mut Formed<T>,
) {
    let mut frames = 0;
    while formed.batch.len() < limits.clips.max(1) {
        let is_first = formed.batch.is_empty();
        let fits = |clip: &T| is_first || frames + clip.frames() <= limits.frames;
        let dropped = &mut formed.dropped;
        let before = lead.as_mut();
        let before = before.and_then(|lead| lead.take(lane, &mut *alive, fits, dropped));
        let in_turn = || {
            let judge = |clip: &T| {
                if !alive(clip) {
                    Verdict::Discard
                } else if fits(clip) {
                    Verdict::Take
                } else {
                    Verdict::Pass
                }
            };
            lane.take(judge, dropped).map(|taken| taken.item)
        };
        let Some(clip) = before.or_else(in_turn) else {
            return;
        };
        frames += clip.frames();
        formed.batch.push(clip);
    }
}

#[cfg(test)]
mod tests;
