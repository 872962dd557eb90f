//! Where a job keeps the tokens of its frames after the frozen blocks below its adapters, from one epoch to the next.
//!
//! Invariant: a frame has one place, and its mirrored picture another one, for as long as the job runs, and room for its tokens was taken from the budget that all jobs share; no bit of the weights
//! depends on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Budget;
use crate::ids::VideoId;
use crate::model::Kept;

/// Places of one job.
#[derive(Debug)]
pub(in crate::jobs) struct Prefixes {
    budget: Arc<Budget>,
    /// Bytes of a frame's tokens.
    each: u64,
    // A plain mutex: it is held for look-ups in memory, never across an await.
    frames: Mutex<HashMap<(VideoId, u32, bool), Kept>>,
}

impl Prefixes {
    pub(in crate::jobs) fn new(budget: Arc<Budget>, each: u64) -> Self {
        Self {
            budget,
            each,
            frames: Mutex::default(),
        }
    }

    /// The places of some frames of a video, as they are or mirrored; none for those for which there is no room.
    pub(in crate::jobs) fn of(
        &self,
        video: VideoId,
        frames: &[u32],
        is_mirrored: bool,
    ) -> Vec<Option<Kept>> {
        // A map is whole after every single operation.
        let mut held = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |&frame: &u32| {
            if let Some(kept) = held.get(&(video, frame, is_mirrored)) {
                return Some(kept.clone());
            }
            self.budget.take(self.each).then(|| {
                let kept = Kept::default();
                held.insert((video, frame, is_mirrored), kept.clone());
                kept
            })
        };
        frames.iter().map(place).collect()
    }
}

impl Drop for Prefixes {
    fn drop(&mut self) {
        let frames = self.frames.get_mut();
        let count = frames.unwrap_or_else(PoisonError::into_inner).len() as u64;
        self.budget.give_back(count * self.each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_one_place_and_a_budget_that_is_full_gives_none() {
        let budget = Arc::new(Budget::new(3 * 100));
        let (one, other) = (VideoId::generate(), VideoId::generate());
        let prefixes = Prefixes::new(Arc::clone(&budget), 100);
        let count = |places: &[Option<Kept>]| places.iter().flatten().count();
        // The same frame twice is one place.
        assert_eq!(count(&prefixes.of(one, &[4, 9, 4], false)), 3);
        assert_eq!(count(&prefixes.of(other, &[4, 9], false)), 1);
        assert_eq!(count(&prefixes.of(one, &[4, 9], false)), 2);
        assert_eq!(count(&prefixes.of(one, &[4, 9], true)), 0);
        let next = Prefixes::new(budget, 100);
        assert_eq!(count(&next.of(one, &[0], true)), 0);
        drop(prefixes);
        assert_eq!(count(&next.of(one, &[0, 1, 2, 3], true)), 3);
    }
}
