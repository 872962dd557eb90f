//! Tests of batches: a table for the order, and properties over random arrivals.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clip {
    id: u64,
    tenant: usize,
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
        request: id,
        frames: 8,
        group,
        dead: false,
    }
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
        batcher.push(&tenant(0), clip(id, 0, 0));
    }
    batcher.push(&tenant(1), clip(10, 1, 0));
    batcher.push(&tenant(2), clip(20, 2, 0));
    let first = batcher.form(LIMITS, |_| true);
    assert_eq!(ids(&first.batch), [0, 10, 20, 1]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [2, 3, 4, 5]);
}

#[test]
fn clips_of_a_set_are_neighbours() {
    let mut batcher = Batcher::new();
    for (id, group) in [(0, 2), (1, 1), (2, 2), (3, 1)] {
        batcher.push(&tenant(0), clip(id, 0, group));
    }
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [1, 3, 0, 2]);
}

#[test]
fn a_clip_beyond_the_cap_goes_alone() {
    let mut batcher = Batcher::new();
    let mut long = clip(0, 0, 0);
    long.frames = 1000;
    batcher.push(&tenant(0), long);
    batcher.push(&tenant(1), clip(1, 1, 0));
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [0]);
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [1]);
}

#[test]
fn a_removed_request_leaves_its_neighbours() {
    let mut batcher = Batcher::new();
    for id in 0..3 {
        batcher.push(&tenant(0), clip(id, 0, 0));
    }
    assert_eq!(ids(&batcher.remove(&tenant(0), 1)), [1]);
    assert!(batcher.remove(&tenant(1), 0).is_empty());
    assert_eq!(ids(&batcher.form(LIMITS, |_| true).batch), [0, 2]);
    assert_eq!(batcher.len(), 0);
}

const TENANTS: usize = 5;

#[derive(Debug, Clone)]
enum Event {
    Push {
        tenant: usize,
        clips: usize,
        frames: usize,
        group: u64,
        dead: bool,
    },
    Remove(u64),
    Form,
}

fn event() -> impl Strategy<Value = Event> {
    let push = (0..TENANTS, 1..4_usize, 1..80_usize, 0..4_u64, 0..6_u8);
    prop_oneof![
        4 => push.prop_map(|(tenant, clips, frames, group, dead)| Event::Push {
            tenant, clips, frames, group, dead: dead == 0,
        }),
        1 => (0..40_u64).prop_map(Event::Remove),
        2 => Just(Event::Form),
    ]
}

/// Clips that went in and came out, and for how many batches each tenant has been waiting.
#[derive(Default)]
struct World {
    batcher: Option<Batcher<Clip>>,
    pushed: Vec<Clip>,
    out: HashSet<u64>,
    last: HashMap<usize, u64>,
    waits: HashMap<usize, usize>,
    requests: u64,
}

impl World {
    fn batcher(&mut self) -> &mut Batcher<Clip> {
        self.batcher.get_or_insert_with(Batcher::new)
    }

    fn waiting(&self, tenant: usize) -> usize {
        let own = self.pushed.iter().filter(|clip| clip.tenant == tenant);
        own.filter(|clip| !self.out.contains(&clip.id)).count()
    }

    fn push(&mut self, clip: Clip) {
        self.batcher().push(&tenant(clip.tenant), clip.clone());
        self.pushed.push(clip);
    }

    fn remove(&mut self, request: u64) {
        let Some(owner) = self.pushed.iter().find(|clip| clip.request == request) else {
            return;
        };
        let owner = owner.tenant;
        for clip in self.batcher().remove(&tenant(owner), request) {
            assert_eq!(clip.request, request);
            assert!(self.out.insert(clip.id), "clip {} came out twice", clip.id);
        }
        if self.waiting(owner) == 0 {
            // The tenant's next clip is a new arrival, behind those that wait.
            self.waits.insert(owner, 0);
        }
    }

    fn form(&mut self) {
        let before: Vec<usize> = (0..TENANTS).filter(|t| self.waiting(*t) > 0).collect();
        let formed = self.batcher().form(LIMITS, |clip| !clip.dead);
        let frames: usize = formed.batch.iter().map(|clip| clip.frames).sum();
        assert!(formed.batch.len() <= LIMITS.clips, "over the cap of clips");
        assert!(
            frames <= LIMITS.frames || formed.batch.len() == 1,
            "over the cap of frames"
        );
        assert!(
            formed
                .batch
                .is_sorted_by_key(|clip| (clip.group, clip.frames))
        );
        assert!(
            formed.batch.iter().all(|clip| !clip.dead),
            "a dead clip in a batch"
        );
        assert!(
            formed.dropped.iter().all(|clip| clip.dead),
            "a live clip was dropped"
        );
        let mut taken: Vec<&Clip> = formed.batch.iter().collect();
        taken.sort_by_key(|clip| clip.id);
        for clip in &taken {
            let last = self.last.insert(clip.tenant, clip.id);
            assert!(last < Some(clip.id), "a tenant's clips out of order");
        }
        let served: HashSet<usize> = taken.iter().map(|clip| clip.tenant).collect();
        for clip in formed.batch.iter().chain(&formed.dropped) {
            assert!(self.out.insert(clip.id), "clip {} came out twice", clip.id);
        }
        for tenant in before {
            let waits = self.waits.entry(tenant).or_default();
            *waits = if served.contains(&tenant) {
                0
            } else {
                *waits + 1
            };
            if self.waiting(tenant) == 0 {
                self.waits.insert(tenant, 0);
            }
            assert!(self.waits[&tenant] < TENANTS, "tenant {tenant} starves");
        }
    }
}

proptest! {
    #[test]
    fn no_clip_is_lost_or_doubled_and_nobody_starves(events in prop::collection::vec(event(), 0..80)) {
        let mut world = World::default();
        for event in events {
            match event {
                Event::Push { tenant, clips, frames, group, dead } => {
                    let request = world.requests;
                    world.requests += 1;
                    for _ in 0..clips {
                        let id = world.pushed.len() as u64;
                        world.push(Clip { id, tenant, request, frames, group, dead });
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
