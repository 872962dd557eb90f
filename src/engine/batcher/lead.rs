//! Lets the clips of tenants who ask for little go before those of the others: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. The tenant is charged for each clip, and goes first only while it has had no more than [`LEAD`] frames
//! and a clip before its turn, so that the others keep their shares whatever a tenant asks for.

use std::collections::VecDeque;

use super::Queued;
use crate::fair;
use crate::ids::TenantId;

/// Frames that a tenant may have had before its turn and still go first: eight clips of eight frames, more than come together when somebody asks for a fifth
/// of what the device can do.
pub(super) const LEAD: u64 = 64;
/// Most clips of a tenant that goes first that wait: who sends more than that at once does not ask for little.
const FEW: usize = 8;

/// Tenants whose clips may go first.
#[derive(Debug, Default)]
pub(super) struct Lead {
    /// Tenants with clips that came while the tenant asked for little; the one that went longest ago is the first. Those whose clips are gone are dropped as
    /// they are met.
    tenants: VecDeque<TenantId>,
}

impl Lead {
    /// Notes that a clip of a tenant who asks for little came.
    pub(super) fn came(&mut self, tenant: &TenantId) {
        if !self.tenants.contains(tenant) {
            self.tenants.push_back(tenant.clone());
        }
    }

    /// Takes the first clip of a tenant that may go first, if it `fits`; clips of such tenants that are not `alive` go to `dropped`.
    pub(super) fn take<T: Queued>(
        &mut self,
        lane: &mut fair::Queue<T>,
        mut alive: impl FnMut(&T) -> bool,
        fits: impl Fn(&T) -> bool,
        dropped: &mut Vec<T>,
    ) -> Option<T> {
        let mut place = 0;
        while let Some(tenant) = self.tenants.get(place) {
            while let Some(gone) = lane.discard_of(tenant, |clip| !alive(clip)) {
                dropped.push(gone);
            }
            let Some(first) = lane.first_of(tenant) else {
                self.tenants.remove(place);
                continue;
            };
            let is_little = first.is_light() && lane.len_of(tenant) <= FEW;
            if is_little && lane.lead_of(tenant) <= LEAD && fits(first) {
                let taken = lane.take_of(tenant);
                let served = self.tenants.remove(place);
                // Who is passed over keeps its place, and so is the first of the next batch, which any clip fits.
                self.tenants.extend(served);
                return taken.map(|taken| taken.item);
            }
            place += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batcher, Limits};
    use super::*;
    use crate::fair::{Class, Weight};

    /// A clip of eight frames, or of twice as many for tenant 3: its tenant, whether that asks for little, and whether somebody wants it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Clip(usize, bool, bool);

    impl Queued for Clip {
        fn request(&self) -> u64 {
            0
        }

        fn frames(&self) -> usize {
            if self.0 == 3 { 16 } else { 8 }
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
    fn clips_that_came_together_go_one_after_the_other() {
        let mut batcher = beside_a_flood(true, 3);
        assert_eq!(next(&mut batcher, ONE, 7), [1, 1, 1, 0, 0, 0, 0]);
        let mut batcher = beside_a_flood(false, 3);
        let order = next(&mut batcher, ONE, 7);
        assert!(!order.windows(2).any(|two| two == [1, 1]), "{order:?}");
        // In larger batches, too.
        let mut batcher = beside_a_flood(true, 3);
        let limits = Limits { clips: 4, ..ONE };
        let mut first = next(&mut batcher, limits, 1);
        first.sort_unstable();
        assert_eq!(first, [0, 1, 1, 1]);
    }

    #[test]
    fn one_that_went_first_goes_first_again_soon_after() {
        let mut batcher = beside_a_flood(true, 2);
        assert_eq!(next(&mut batcher, ONE, 3), [1, 1, 0]);
        push(&mut batcher, Clip(1, true, true));
        assert_eq!(next(&mut batcher, ONE, 2), [1, 0]);
    }

    #[test]
    fn a_lead_is_short_and_is_charged() {
        let mut batcher = beside_a_flood(true, 4);
        let mut order = Vec::new();
        for _ in 0..200 {
            let own = next(&mut batcher, ONE, 1);
            if own == [1] {
                push(&mut batcher, Clip(1, true, true));
            } else {
                push(&mut batcher, Clip(0, false, true));
            }
            order.extend(own);
        }
        let light = order.iter().filter(|owner| **owner == 1).count();
        let ahead = LEAD as usize / 8 + 2;
        assert!((100..=100 + ahead).contains(&light), "{light} of 200");
        let last: Vec<&[usize]> = order[100..].chunk_by(|a, b| a == b).collect();
        assert!(last.iter().all(|run| run.len() <= 2), "{order:?}");
    }

    #[test]
    fn tenants_who_ask_for_little_go_in_turn() {
        let mut batcher = beside_a_flood(true, 2);
        (0..2).for_each(|_| push(&mut batcher, Clip(2, true, true)));
        assert_eq!(next(&mut batcher, ONE, 5), [1, 2, 1, 2, 0]);
    }

    #[test]
    fn a_clip_that_did_not_fit_is_the_first_of_the_next_batch() {
        let mut batcher = beside_a_flood(true, 1);
        for tenant in [3, 2, 4, 5, 6] {
            push(&mut batcher, Clip(tenant, true, true));
        }
        let limits = Limits {
            clips: 16,
            frames: 16,
        };
        // Who was served comes again one batch later.
        let (mut served, mut long) = (Vec::new(), Vec::new());
        for number in 0..400 {
            let batch = next(&mut batcher, limits, 1);
            if batch.contains(&3) {
                long.push(number);
            }
            let again = std::mem::replace(&mut served, batch);
            for tenant in again {
                push(&mut batcher, Clip(tenant, tenant != 0, true));
            }
        }
        let mut gaps = long.windows(2).map(|two| two[1] - two[0]);
        assert!(
            gaps.all(|gap| gap <= 8) && long.len() >= 400 / 8,
            "{long:?}"
        );
    }

    #[test]
    fn a_batch_of_the_other_class_takes_no_lead() {
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
            assert_eq!(order[..3], [1, 1, 1], "{before}: {order:?}");
        }
    }

    #[test]
    fn who_sends_many_at_once_does_not_go_first() {
        let mut batcher = beside_a_flood(true, 40);
        let order = next(&mut batcher, ONE, 7);
        let light = order.iter().filter(|owner| **owner == 1).count();
        assert!((3..=4).contains(&light), "{order:?}");
    }

    #[test]
    fn a_clip_that_nobody_wants_is_dropped_and_the_next_one_goes() {
        let mut batcher = beside_a_flood(true, 1);
        push(&mut batcher, Clip(1, true, false));
        push(&mut batcher, Clip(1, true, true));
        let mut dropped = 0;
        let mut order = Vec::new();
        for _ in 0..3 {
            let formed = batcher.form(ONE, |clip| clip.2);
            dropped += formed.dropped.len();
            order.extend(formed.batch.iter().map(|clip| clip.0));
        }
        assert_eq!((dropped, order), (1, vec![1, 1, 0]));
    }
}
