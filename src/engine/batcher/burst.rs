//! Lets the clips of a tenant who asks for little go one after the other when several of them came together: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. The tenant is charged for each clip, so that the others catch up with it afterwards; a turn is
//! longer than one clip by [`FRAMES`] at most.

use super::Queued;
use crate::fair;
use crate::ids::TenantId;

/// Frames of the clips in a turn: four clips of eight frames, more than come together when somebody asks for a fifth of what the device can do.
const FRAMES: usize = 32;
/// Most clips of its tenant that wait while a turn lasts: who sends more than that at once does not ask for little.
const FEW: usize = 4;

/// The turn of a tenant who asks for little.
#[derive(Debug)]
pub(super) struct Burst {
    tenant: TenantId,
    /// Frames that are left of the turn.
    left: usize,
}

impl Burst {
    /// A turn that begins with a clip that was taken; none when its tenant does not ask for little.
    pub(super) fn begin<T: Queued>(taken: &fair::Taken<T>, lane: &fair::Queue<T>) -> Option<Self> {
        let is_little = taken.item.is_light() && lane.len_of(&taken.tenant) <= FEW;
        is_little.then(|| Self {
            tenant: taken.tenant.clone(),
            left: FRAMES.saturating_sub(taken.item.frames()),
        })
    }

    /// The tenant, as long as its first clip is within the turn and `is_wanted`.
    pub(super) fn owner<T: Queued>(
        &self,
        lane: &fair::Queue<T>,
        is_wanted: impl FnOnce(&T) -> bool,
    ) -> Option<&TenantId> {
        let first = lane.first_of(&self.tenant)?;
        let is_little = first.is_light() && lane.len_of(&self.tenant) <= FEW;
        let goes_on = is_little && first.frames() <= self.left && is_wanted(first);
        goes_on.then_some(&self.tenant)
    }

    /// Whether the turn is this tenant's.
    pub(super) fn is_of(&self, tenant: &TenantId) -> bool {
        self.tenant == *tenant
    }

    /// Notes that a clip of the turn was taken.
    pub(super) fn took(&mut self, frames: usize) {
        self.left = self.left.saturating_sub(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batcher, Limits};
    use super::*;
    use crate::fair::{Class, Weight};

    /// A clip of eight frames: its tenant, whether that asks for little, and whether somebody wants it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Clip(usize, bool, bool);

    impl Queued for Clip {
        fn request(&self) -> u64 {
            0
        }

        fn frames(&self) -> usize {
            8
        }

        fn group(&self) -> u64 {
            0
        }

        fn is_light(&self) -> bool {
            self.1
        }
    }

    const ONE: Limits = Limits {
        clips: 1,
        frames: 64,
    };

    fn push(batcher: &mut Batcher<Clip>, clip: Clip) {
        let tenant = format!("t{}", clip.0).parse().unwrap();
        batcher.push((&tenant, Weight::ONE), Class::Interactive, clip);
    }

    /// The tenants of the next batches of so many clips.
    fn next(batcher: &mut Batcher<Clip>, limits: Limits, count: usize) -> Vec<usize> {
        let batches = (0..count).flat_map(|_| batcher.form(limits, |clip| clip.2).batch);
        batches.map(|clip| clip.0).collect()
    }

    /// Tenant 0 waits with many clips, and tenant 1 comes with some.
    fn beside_a_flood(light: bool, count: usize) -> Batcher<Clip> {
        let mut batcher = Batcher::new();
        (0..100).for_each(|_| push(&mut batcher, Clip(0, false, true)));
        assert_eq!(next(&mut batcher, ONE, 1), [0]);
        (0..count).for_each(|_| push(&mut batcher, Clip(1, light, true)));
        batcher
    }

    #[test]
    fn clips_that_came_together_go_one_after_the_other_and_the_flood_catches_up() {
        let mut batcher = beside_a_flood(true, 3);
        assert_eq!(next(&mut batcher, ONE, 7), [0, 1, 1, 1, 0, 0, 0]);
        let mut batcher = beside_a_flood(false, 3);
        assert_eq!(next(&mut batcher, ONE, 7), [0, 1, 0, 1, 0, 1, 0]);
        // In larger batches, too.
        let mut batcher = beside_a_flood(true, 3);
        let limits = Limits { clips: 4, ..ONE };
        let mut first = next(&mut batcher, limits, 1);
        first.sort_unstable();
        assert_eq!(first, [0, 1, 1, 1]);
    }

    #[test]
    fn a_turn_is_short_and_is_charged() {
        let mut batcher = beside_a_flood(true, FEW);
        let mut order = Vec::new();
        for _ in 0..80 {
            let own = next(&mut batcher, ONE, 1);
            if own == [1] {
                push(&mut batcher, Clip(1, true, true));
            }
            order.extend(own);
        }
        let runs: Vec<usize> = order.chunk_by(|a, b| a == b).map(<[usize]>::len).collect();
        let longest = runs.iter().max();
        assert!(longest <= Some(&(FRAMES / 8 + 1)), "{order:?}");
        let light = order.iter().filter(|owner| **owner == 1).count();
        assert!((36..=44).contains(&light), "{light} of 80");
    }

    #[test]
    fn a_batch_of_the_other_class_does_not_end_a_turn() {
        for before in 0..20 {
            let mut batcher = Batcher::new();
            (0..100).for_each(|_| push(&mut batcher, Clip(0, false, true)));
            let other = "t2".parse().unwrap();
            for _ in 0..3 {
                batcher.push((&other, Weight::ONE), Class::Batch, Clip(2, false, true));
            }
            next(&mut batcher, ONE, before);
            (0..3).for_each(|_| push(&mut batcher, Clip(1, true, true)));
            let mut order = next(&mut batcher, ONE, 10);
            order.retain(|owner| *owner != 2);
            let mut runs = order.chunk_by(|a, b| a == b);
            assert!(runs.any(|run| run == [1, 1, 1]), "{before}: {order:?}");
        }
    }

    #[test]
    fn who_sends_many_at_once_has_no_turn() {
        let mut batcher = beside_a_flood(true, 40);
        assert_eq!(next(&mut batcher, ONE, 7), [0, 1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn a_clip_that_nobody_wants_ends_the_turn_and_is_dropped() {
        let mut batcher = beside_a_flood(true, 1);
        push(&mut batcher, Clip(1, true, false));
        push(&mut batcher, Clip(1, true, true));
        let mut dropped = 0;
        let mut order = Vec::new();
        for _ in 0..4 {
            let formed = batcher.form(ONE, |clip| clip.2);
            dropped += formed.dropped.len();
            order.extend(formed.batch.iter().map(|clip| clip.0));
        }
        assert_eq!(dropped, 1);
        assert_eq!(order.iter().filter(|owner| **owner == 1).count(), 2);
    }
}
