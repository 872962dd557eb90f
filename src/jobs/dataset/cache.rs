//! Decoded training videos in memory, within a budget that all jobs share.
//!
//! Invariant: a video in the cache holds every frame, so that whatever frames an epoch draws are bit-equal to a fresh decode of them; room is taken
//! before the bytes are kept and given back when the job ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::VideoId;

/// Most frames of a video that is kept: longer ones cost more to decode whole than their few wanted frames.
const FRAMES: u32 = 64;
/// A video may take this part of the budget at most.
const SHARE: u64 = 32;

/// Room for decoded videos, shared by all jobs.
#[derive(Debug)]
pub(in crate::jobs) struct Budget {
    total: u64,
    taken: AtomicU64,
}

impl Budget {
    pub(in crate::jobs) fn new(total: u64) -> Self {
        Self {
            total,
            taken: AtomicU64::new(0),
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let mut taken = self.taken.load(Ordering::SeqCst);
        while let Some(sum) = taken.checked_add(bytes).filter(|sum| *sum <= self.total) {
            let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
            match (self.taken).compare_exchange_weak(taken, sum, success, failure) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }
}

/// One job's decoded videos: planes `[3, n, S, S]` of all n frames.
#[derive(Debug)]
pub(super) struct Cache {
    budget: Arc<Budget>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    videos: HashMap<VideoId, Arc<[f32]>>,
    bytes: u64,
}

impl Cache {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            held: Mutex::default(),
        }
    }

    /// The planes of all frames, if they are here.
    pub(super) fn get(&self, video: VideoId) -> Option<Arc<[f32]>> {
        self.lock().videos.get(&video).cloned()
    }

    /// Takes room for a video of so many frames of `side`² pixels; `false` when it is too long or there is no room.
    pub(super) fn reserve(&self, frames: u32, side: usize) -> bool {
        let bytes = bytes(frames, side);
        if frames > FRAMES || bytes > self.budget.total / SHARE || !self.budget.take(bytes) {
            return false;
        }
        self.lock().bytes += bytes;
        true
    }

    /// Keeps a video for which room was taken.
    pub(super) fn insert(&self, video: VideoId, planes: Arc<[f32]>) {
        self.lock().videos.insert(video, planes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        // A map and a sum; each is whole after every single operation.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.budget.taken.fetch_sub(bytes, Ordering::SeqCst);
    }
}

fn bytes(frames: u32, side: usize) -> u64 {
    u64::from(frames) * 3 * (side * side) as u64 * 4
}

/// The frames `indices` of planes `[3, n, S, S]`, as `[3, T, S, S]`; `None` when one is not there.
pub(super) fn select(planes: &[f32], indices: &[u32], side: usize) -> Option<Arc<[f32]>> {
    let frame = side * side;
    let channel = planes.len() / 3;
    let mut picked = Vec::with_capacity(3 * indices.len() * frame);
    for plane in planes.chunks_exact(channel.max(1)) {
        for index in indices {
            let start = usize::try_from(*index).ok()? * frame;
            picked.extend_from_slice(plane.get(start..start + frame)?);
        }
    }
    Some(picked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_picked_from_every_channel() {
        let planes: Vec<f32> = (0..3 * 4 * 4).map(|i| i as f32).collect();
        let picked = select(&planes, &[3, 1, 1], 2).expect("in range");
        let firsts: Vec<f32> = picked.chunks(4).map(|frame| frame[0]).collect();
        assert_eq!(firsts, [12.0, 4.0, 4.0, 28.0, 20.0, 20.0, 44.0, 36.0, 36.0]);
        assert!(select(&planes, &[4], 2).is_none());
    }

    #[test]
    fn the_budget_holds_over_jobs_and_comes_back() {
        let budget = Arc::new(Budget::new(64 * bytes(4, 8)));
        let cache = Cache::new(Arc::clone(&budget));
        assert_eq!((0..100).filter(|_| cache.reserve(4, 8)).count(), 64);
        let other = Cache::new(Arc::clone(&budget));
        assert!(!other.reserve(1, 8));
        drop(cache);
        assert!(other.reserve(1, 8));
        assert!(!other.reserve(65, 8));
    }
}
