//! Properties of batches over random arrivals of clips of all lengths, also of tenants who ask for little.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::super::lead::LEAD;
use super::*;

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
        is_light: bool,
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
        any::<bool>(),
    );
    let push =
        push.prop_map(
            |(tenant, is_batch, clips, frames, group, dead, is_light)| Event::Push {
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
                is_light,
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
            self.is_full(class, &taken);
            self.follow(class, &taken);
        } else {
            let mut waiting = self.waiting();
            assert!(waiting.all(is_dead), "nothing runs while a clip waits");
        }
    }

    /// No clip waits that would have fitted into the batch.
    fn is_full(&self, class: Class, taken: &[Clip]) {
        let frames: usize = taken.iter().map(|clip| clip.frames).sum();
        let mut seen = HashSet::new();
        for clip in self.waiting() {
            let is_wanted = clip.class == class && !clip.dead;
            if is_wanted && seen.insert(clip.tenant) && taken.len() < LIMITS.clips {
                let with = frames + clip.frames;
                assert!(with > LIMITS.frames, "{clip:?} would have fitted");
            }
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
            // A largest clip of each, another for those who come and go, what fitted into a batch beside one that did not, and the lead of who asks for little.
            let bound = 3 * LONGEST + LIMITS.frames + LEAD as usize;
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
                Event::Push { tenant, class, clips, frames, group, dead, is_light } => {
                    let request = world.requests;
                    world.requests += 1;
                    for _ in 0..clips {
                        let id = world.pushed.len() as u64;
                        world.push(Clip { id, tenant, class, request, frames, group, dead, is_light });
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
