//! Forms batches over tenants: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. No clip is lost or duplicated, the limits hold, the clips of a tenant stay in their order, and
//! a tenant with waiting clips is in at least one of every N batches, where N is the number of waiting tenants.

mod pace;
mod sharing;

use std::collections::VecDeque;

use crate::ids::TenantId;

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

/// Queue of waiting clips, with one lane per tenant.
#[derive(Debug)]
pub(super) struct Batcher<T> {
    /// Lanes of the tenants with waiting clips; the tenant served longest ago comes first.
    lanes: VecDeque<Lane<T>>,
    waiting: usize,
}

#[derive(Debug)]
struct Lane<T> {
    tenant: TenantId,
    clips: VecDeque<T>,
}

impl<T: Queued> Batcher<T> {
    pub(super) fn new() -> Self {
        Self {
            lanes: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Returns the number of waiting clips.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Appends a clip to its tenant's lane.
    pub(super) fn push(&mut self, tenant: &TenantId, clip: T) {
        self.waiting += 1;
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.tenant == *tenant) {
            return lane.clips.push_back(clip);
        }
        self.lanes.push_back(Lane {
            tenant: tenant.clone(),
            clips: VecDeque::from([clip]),
        });
    }

    /// Removes the waiting clips of a request and returns them.
    pub(super) fn remove(&mut self, tenant: &TenantId, request: u64) -> Vec<T> {
        let Some(at) = self.lanes.iter().position(|lane| lane.tenant == *tenant) else {
            return Vec::new();
        };
        let lane = &mut self.lanes[at];
        let (gone, kept): (Vec<T>, VecDeque<T>) = partition(&mut lane.clips, request);
        lane.clips = kept;
        if lane.clips.is_empty() {
            self.lanes.remove(at);
        }
        self.waiting -= gone.len();
        gone
    }

    /// Removes all waiting clips and returns them.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.lanes.drain(..).flat_map(|lane| lane.clips).collect()
    }

    /// Forms a batch: takes one clip of each tenant in turn, beginning with the tenant served longest ago. Clips that are not `alive` are dropped.
    pub(super) fn form(&mut self, limits: Limits, mut alive: impl FnMut(&T) -> bool) -> Formed<T> {
        let mut batch = Vec::new();
        let mut dropped = Vec::new();
        let mut frames = 0;
        let mut skipped = VecDeque::new();
        while batch.len() < limits.clips.max(1)
            && let Some(mut lane) = self.lanes.pop_front()
        {
            while let Some(dead) = lane.clips.pop_front_if(|clip| !alive(clip)) {
                dropped.push(dead);
            }
            let fits = |clip: &mut T| batch.is_empty() || frames + clip.frames() <= limits.frames;
            if let Some(clip) = lane.clips.pop_front_if(fits) {
                frames += clip.frames();
                batch.push(clip);
                if !lane.clips.is_empty() {
                    self.lanes.push_back(lane);
                }
            } else if !lane.clips.is_empty() {
                skipped.push_back(lane);
            }
        }
        // A tenant whose clip did not fit comes first next time, when an empty batch takes any clip.
        skipped.append(&mut self.lanes);
        self.lanes = skipped;
        self.waiting -= batch.len() + dropped.len();
        batch.sort_by_key(|clip| (clip.group(), clip.frames()));
        Formed { batch, dropped }
    }
}

fn partition<T: Queued>(clips: &mut VecDeque<T>, request: u64) -> (Vec<T>, VecDeque<T>) {
    let mut gone = Vec::new();
    let mut kept = VecDeque::new();
    for clip in clips.drain(..) {
        if clip.request() == request {
            gone.push(clip);
        } else {
            kept.push_back(clip);
        }
    }
    (gone, kept)
}

#[cfg(test)]
mod tests;
