//! Tests of batches: a table for the order, and properties over random arrivals.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

mod flood;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clip {
    id: u64,
    tenant: usize,
    class: Class,
    request: u64,
    frames: usize,
    group: u64,
    dead: bool,
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

const TENANTS: usize = 5;

/// Frames of the longest clip.
const LONGEST: usize = 79;

#[derive(Debug, Clone)]
enum Event {
    Push {
        tenant: usize,
        class: Class,
        clips: usize,
        frames: usize,
        group: u64,
        dead: bool,
    },
    Remove(u64),
    Form,
}

fn event() -> impl Strategy<Value = Event> {
    let push = (
        0..TENANTS,
        any::<bool>(),
        1..4_usize,
        1..=LONGEST,
        0..4_u64,
        0..6_u8,
    );
    let push = push.prop_map(
        |(tenant, is_batch, clips, frames, group, dead)| Event::Push {
            tenant,
            class: if is_batch {
                Class::Batch
            } else {
                Class::Interactive
            },
            clips,
            frames,
            group,
            dead: dead == 0,
        },
    );
    prop_oneof![
        4 => push,
        1 => (0..40_u64).prop_map(Event::Remove),
        2 => Just(Event::Form),
    ]
}

/// A tenant and a class: the clips of one lane.
type Lane = (usize, Class);

fn lane(clip: &Clip) -> Lane {
    (clip.tenant, clip.class)
}

/// Clips that went in and came out, and the frames that others got while a lane waits.
#[derive(Default)]
struct World {
    batcher: Option<Batcher<Clip>>,
    pushed: Vec<Clip>,
    out: HashSet<u64>,
    last: HashMap<Lane, u64>,
    /// Frames of each other tenant of the class since the lane's last service, or since it began to wait.
    others: HashMap<Lane, HashMap<usize, usize>>,
    /// Interactive batches in a row while the batch class waited.
    run: u32,
    requests: u64,
}

impl World {
    fn batcher(&mut self) -> &mut Batcher<Clip> {
        self.batcher.get_or_insert_with(Batcher::new)
    }

    fn waiting(&self) -> impl Iterator<Item = &Clip> {
        self.pushed
            .iter()
            .filter(|clip| !self.out.contains(&clip.id))
    }

    fn push(&mut self, clip: Clip) {
        push(self.batcher(), clip.clone());
        self.others.entry(lane(&clip)).or_default();
        self.pushed.push(clip);
    }

    fn came_out(&mut self, id: u64) {
        assert!(self.out.insert(id), "clip {id} came out twice");
        // Who waits for nothing more begins anew with the next clip.
        let waiting: HashSet<Lane> = self.waiting().map(lane).collect();
        self.others.retain(|own, _| waiting.contains(own));
    }

    fn remove(&mut self, request: u64) {
        let Some(owner) = self.pushed.iter().find(|clip| clip.request == request) else {
            return;
        };
        let owner = owner.tenant;
        for clip in self.batcher().remove(&tenant(owner), request) {
            assert_eq!(clip.request, request);
            self.came_out(clip.id);
        }
    }

    fn form(&mut self) {
        let formed = self.batcher().form(LIMITS, |clip| !clip.dead);
        let frames: usize = formed.batch.iter().map(|clip| clip.frames).sum();
        assert!(formed.batch.len() <= LIMITS.clips, "over the cap of clips");
        assert!(
            frames <= LIMITS.frames || formed.batch.len() == 1,
            "over the cap of frames"
        );
        let sorted = |clip: &Clip| (clip.group, clip.frames);
        assert!(formed.batch.is_sorted_by_key(sorted));
        let is_dead = |clip: &Clip| clip.dead;
        assert!(!formed.batch.iter().any(is_dead), "a dead clip in a batch");
        assert!(
            formed.dropped.iter().all(is_dead),
            "a live clip was dropped"
        );
        let mut taken = formed.batch.clone();
        taken.sort_by_key(|clip| clip.id);
        for clip in &taken {
            let last = self.last.insert(lane(clip), clip.id);
            assert!(last < Some(clip.id), "a tenant's clips out of order");
        }
        for clip in formed.batch.iter().chain(&formed.dropped) {
            self.came_out(clip.id);
        }
        if let Some(class) = taken.first().map(|clip| clip.class) {
            self.follow(class, &taken);
        }
    }

    /// The classes keep their order, and nobody gets much more than one that waits.
    fn follow(&mut self, class: Class, taken: &[Clip]) {
        assert!(
            taken.iter().all(|clip| clip.class == class),
            "a mixed batch"
        );
        let waits = |class| self.waiting().any(|clip| clip.class == class && !clip.dead);
        let (interactive_waits, batch_waits) = (waits(Class::Interactive), waits(Class::Batch));
        if class == Class::Batch {
            assert!(self.run >= fair::RUN || !interactive_waits);
            self.run = 0;
        } else {
            let is_batch_there = self.waiting().any(|clip| clip.class == Class::Batch);
            self.run = if is_batch_there { self.run + 1 } else { 0 };
            assert!(
                self.run <= fair::RUN || !batch_waits,
                "the batch class starves"
            );
        }
        for clip in taken {
            self.others.entry(lane(clip)).and_modify(HashMap::clear);
        }
        let served: HashSet<usize> = taken.iter().map(|clip| clip.tenant).collect();
        for ((owner, of), others) in &mut self.others {
            if *of != class || served.contains(owner) {
                continue;
            }
            for clip in taken {
                *others.entry(clip.tenant).or_default() += clip.frames;
            }
            // A largest clip of each, another for those who come and go, and what fitted into a batch beside one that did not.
            let bound = 3 * LONGEST + LIMITS.frames;
            assert!(
                others.values().all(|frames| *frames <= bound),
                "{owner} starves"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_clip_is_lost_or_doubled_and_nobody_starves(events in prop::collection::vec(event(), 0..80)) {
        let mut world = World::default();
        for event in events {
            match event {
                Event::Push { tenant, class, clips, frames, group, dead } => {
                    let request = world.requests;
                    world.requests += 1;
                    for _ in 0..clips {
                        let id = world.pushed.len() as u64;
                        world.push(Clip { id, tenant, class, request, frames, group, dead });
                    }
                }
                Event::Remove(request) => world.remove(request),
                Event::Form => world.form(),
            }
        }
        while world.batcher().len() > 0 {
            world.form();
        }
        prop_assert_eq!(world.out.len(), world.pushed.len(), "a clip was lost");
    }
}
