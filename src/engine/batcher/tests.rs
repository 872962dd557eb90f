//! Tests of batches: a table for the order.

use super::*;

mod crowd;
mod flood;
mod properties;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clip {
    id: u64,
    tenant: usize,
    class: Class,
    request: u64,
    frames: usize,
    group: u64,
    dead: bool,
    is_light: bool,
}

impl Queued for Clip {
    fn request(&self) -> u64 {
        self.request
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn group(&self) -> u64 {
        self.group
    }

    fn is_light(&self) -> bool {
        self.is_light
    }
}

fn tenant(index: usize) -> TenantId {
    format!("t{index}").parse().unwrap()
}

fn clip(id: u64, tenant: usize, group: u64) -> Clip {
    Clip {
        id,
        tenant,
        class: Class::Interactive,
        request: id,
        frames: 8,
        group,
        dead: false,
        is_light: false,
    }
}

fn push(batcher: &mut Batcher<Clip>, clip: Clip) {
    batcher.push((&tenant(clip.tenant), Weight::ONE), clip.class, clip);
}

fn ids(clips: &[Clip]) -> Vec<u64> {
    clips.iter().map(|clip| clip.id).collect()
}

const LIMITS: Limits = Limits {
    clips: 4,
    frames: 64,
};

#[test]
fn tenants_share_a_batch_whatever_their_number_of_clips() {
    let mut batcher = Batcher::new();
    for id in 0..6 {
        push(&mut batcher, clip(id, 0, 0));
    }
    push(&mut batcher, clip(10, 1, 0));
    push(&mut batcher, clip(20, 2, 0));
    let first = batcher.form(LIMITS, |_| true);
    assert_eq!(ids(&first.batch), [0, 10, 20, 1]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [2, 3, 4, 5]);
}

#[test]
fn tenants_with_weights_of_three_to_one_get_frames_of_three_to_one() {
    let mut batcher = Batcher::new();
    let three = Weight::new(3.try_into().unwrap());
    let (mut next, mut taken) = (0, [0; 2]);
    let mut refill = |batcher: &mut Batcher<Clip>| {
        // Both always have clips.
        while batcher.len() < 400 {
            let owner = usize::from(next % 2 != 0);
            let weight = if owner == 0 { three } else { Weight::ONE };
            let own = clip(next, owner, 0);
            batcher.push((&tenant(owner), weight), own.class, own);
            next += 1;
        }
    };
    for _ in 0..60 {
        refill(&mut batcher);
        for clip in batcher.form(LIMITS, |_| true).batch {
            taken[clip.tenant] += clip.frames;
        }
    }
    let share = taken[0] as f64 / taken[1] as f64;
    assert!((share - 3.0).abs() <= 0.15, "{taken:?}");
}

#[test]
fn clips_that_nobody_waits_for_are_in_no_batch_of_requests() {
    let mut batcher = Batcher::new();
    batcher.push_spare((&tenant(0), Weight::ONE), clip(0, 0, 0));
    batcher.push_spare((&tenant(1), Weight::ONE), clip(1, 1, 0));
    push(&mut batcher, clip(2, 0, 0));
    assert_eq!(batcher.len(), 1);
    let ahead = batcher.ahead((&tenant(1), Weight::ONE), Class::Interactive, 8);
    assert_eq!(ahead, Some(16), "the request that waits, and its own");
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [2]);
    assert!(batcher.form(LIMITS, |_| true).batch.is_empty());
    let gone = batcher.remove(&tenant(1), 1);
    assert_eq!(ids(&gone), [1]);
    assert_eq!(ids(&batcher.form_spare(LIMITS, |_| true).batch), [0]);
    assert!(batcher.form_spare(LIMITS, |_| true).batch.is_empty());
}

#[test]
fn long_clips_cost_their_frames() {
    let mut batcher = Batcher::new();
    for id in 0..4 {
        let frames = 16;
        push(
            &mut batcher,
            Clip {
                frames,
                ..clip(id, 0, 0)
            },
        );
    }
    for id in 10..18 {
        push(&mut batcher, clip(id, 1, 0));
    }
    // Twice as many short clips as long ones, in every batch of 64 frames.
    let limits = Limits {
        clips: 6,
        frames: 64,
    };
    for _ in 0..2 {
        let formed = batcher.form(limits, |_| true);
        let long = formed.batch.iter().filter(|clip| clip.tenant == 0).count();
        assert_eq!((long, formed.batch.len()), (2, 6));
    }
}

#[test]
fn a_quiet_tenant_is_in_the_next_batch_however_small() {
    for clips in [1, 4] {
        let limits = Limits { clips, ..LIMITS };
        let mut batcher = Batcher::new();
        for id in 0..100 {
            push(&mut batcher, clip(id, 0, 0));
        }
        for id in 100..110 {
            for _ in 0..2 {
                batcher.form(limits, |_| true);
            }
            push(&mut batcher, clip(id, 1, 0));
            let next = batcher.form(limits, |_| true);
            assert!(ids(&next.batch).contains(&id), "{next:?}");
        }
    }
}

#[test]
fn the_batch_class_waits_for_every_interactive_clip_and_shares_no_batch_with_one() {
    let mut batcher = Batcher::new();
    let class = Class::Batch;
    for id in 0..6 {
        push(
            &mut batcher,
            Clip {
                class,
                ..clip(id, 0, 0)
            },
        );
    }
    for id in 10..15 {
        push(&mut batcher, clip(id, 1 + id as usize % 2, 0));
    }
    assert_eq!(batcher.form(LIMITS, |_| true).batch.len(), 4);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [14]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [0, 1, 2, 3]);
    push(&mut batcher, clip(20, 1, 0));
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [20]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [4, 5]);
}

#[test]
fn the_batch_class_does_not_starve() {
    let mut batcher = Batcher::new();
    let class = Class::Batch;
    push(
        &mut batcher,
        Clip {
            class,
            ..clip(0, 0, 0)
        },
    );
    for id in 1..200 {
        push(&mut batcher, clip(id, 1, 0));
    }
    let is_batch = |clip: &Clip| clip.class == Class::Batch;
    let at = (0..40).position(|_| batcher.form(LIMITS, |_| true).batch.iter().all(is_batch));
    assert_eq!(at, Some(fair::RUN as usize));
}

#[test]
fn an_estimate_counts_what_goes_first() {
    let mut batcher = Batcher::new();
    let (quiet, interactive) = (tenant(9), Class::Interactive);
    assert_eq!(batcher.ahead((&quiet, Weight::ONE), interactive, 8), None);
    let class = Class::Batch;
    push(
        &mut batcher,
        Clip {
            class,
            ..clip(0, 0, 0)
        },
    );
    // The batch class waits for interactive clips, not the other way round.
    assert_eq!(batcher.ahead((&quiet, Weight::ONE), interactive, 8), None);
    assert_eq!(batcher.ahead((&quiet, Weight::ONE), class, 8), Some(16));
    for id in 1..5 {
        push(&mut batcher, clip(id, 1, 0));
    }
    assert_eq!(
        batcher.ahead((&quiet, Weight::ONE), interactive, 8),
        Some(16)
    );
    assert_eq!(
        batcher.ahead((&tenant(1), Weight::ONE), interactive, 8),
        Some(40)
    );
    assert_eq!(batcher.ahead((&quiet, Weight::ONE), class, 8), Some(48));
}

#[test]
fn clips_of_a_set_are_neighbours() {
    let mut batcher = Batcher::new();
    for (id, group) in [(0, 2), (1, 1), (2, 2), (3, 1)] {
        push(&mut batcher, clip(id, 0, group));
    }
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [1, 3, 0, 2]);
}

#[test]
fn a_clip_beyond_the_cap_goes_alone() {
    let mut batcher = Batcher::new();
    let mut long = clip(0, 0, 0);
    long.frames = 1000;
    push(&mut batcher, long);
    push(&mut batcher, clip(1, 1, 0));
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [0]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [1]);
}

#[test]
fn a_removed_request_leaves_its_neighbours() {
    let mut batcher = Batcher::new();
    for id in 0..3 {
        push(&mut batcher, clip(id, 0, 0));
    }
    assert_eq!(ids(&batcher.remove(&tenant(0), 1)), [1]);
    assert!(batcher.remove(&tenant(1), 0).is_empty());
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [0, 2]);
    assert_eq!(batcher.len(), 0);
}
