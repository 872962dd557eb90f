//! Tests of the order of slices: tables, and properties over random arrivals.

mod preparing;

use proptest::prelude::*;

use super::*;

const NO_LIMIT: u64 = u64::MAX;
/// Time of a slice in the tables.
const SLICE: Duration = Duration::from_millis(10);

fn schedule<K: Copy + PartialEq>(training_share: u32, training_bytes: u64) -> Schedule<K> {
    Schedule::new(&Config {
        training_share,
        training_bytes,
        ..Config::default()
    })
}

/// Runs until the device is idle. Items 0 to 9 are training, others serving; each has `slices` slices, and the source gives `batches` one after
/// another.
fn script(schedule: &mut Schedule<u32>, slices: u32, mut batches: Vec<u32>) -> Vec<u32> {
    let mut left = std::collections::HashMap::new();
    let mut order = Vec::new();
    batches.reverse();
    schedule.wake();
    loop {
        match schedule.turn() {
            Turn::Idle => return order,
            Turn::Form => schedule.formed(batches.pop()),
            Turn::Run(key, _) => {
                order.push(key);
                let left = left.entry(key).or_insert(slices);
                *left -= 1;
                if *left == 0 {
                    schedule.gone(key, SLICE);
                } else {
                    schedule.ran(key, SLICE);
                }
            }
        }
    }
}

#[test]
fn training_works_take_turns_after_every_slice() {
    let mut schedule = schedule(0, NO_LIMIT);
    for key in [1, 2, 3] {
        schedule.push(key, Priority::Training, (0, None, Weight::ONE));
    }
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_batch_runs_back_to_back_and_before_training() {
    let mut schedule = schedule(0, NO_LIMIT);
    schedule.push(1, Priority::Training, (0, None, Weight::ONE));
    assert_eq!(
        script(&mut schedule, 2, vec![10, 11]),
        [10, 10, 11, 11, 1, 1]
    );
}

#[test]
fn training_that_waits_keeps_its_share_of_a_busy_device() {
    // A fifth: one slice for four of serving.
    let mut fifth = schedule(200, NO_LIMIT);
    fifth.push(1, Priority::Training, (0, None, Weight::ONE));
    let order = script(&mut fifth, 3, vec![10, 11, 12, 13]);
    assert_eq!(
        order,
        [10, 10, 10, 1, 11, 11, 11, 1, 12, 12, 12, 1, 13, 13, 13]
    );
}

#[test]
fn training_without_a_share_waits_until_serving_is_idle() {
    let mut none = schedule(0, NO_LIMIT);
    none.push(1, Priority::Training, (0, None, Weight::ONE));
    let order = script(&mut none, 2, vec![10, 11, 12]);
    assert_eq!(order, [10, 10, 11, 11, 12, 12, 1, 1]);
}

#[test]
fn a_share_is_neither_saved_up_nor_paid_back_for_times_in_which_one_side_was_idle() {
    let mut half = schedule(500, NO_LIMIT);
    // Serving had the device for long while nobody trained.
    script(&mut half, 50, vec![10]);
    half.push(1, Priority::Training, (0, None, Weight::ONE));
    assert_eq!(script(&mut half, 2, vec![11, 12]), [11, 11, 1, 1, 12, 12]);
    // Training had it for long while nobody asked.
    half.push(2, Priority::Training, (0, None, Weight::ONE));
    script(&mut half, 50, vec![]);
    half.push(3, Priority::Training, (0, None, Weight::ONE));
    assert_eq!(script(&mut half, 2, vec![13, 14]), [13, 13, 3, 3, 14, 14]);
}

#[test]
fn submitted_serving_works_and_the_source_alternate() {
    let mut schedule = schedule(0, NO_LIMIT);
    schedule.push(20, Priority::Serving, (0, None, Weight::ONE));
    schedule.push(21, Priority::Serving, (0, None, Weight::ONE));
    assert_eq!(
        script(&mut schedule, 1, vec![10, 11, 12]),
        [10, 20, 11, 21, 12]
    );
}

#[test]
fn training_beyond_the_memory_waits_in_order() {
    let mut schedule = schedule(0, 10);
    schedule.push(1, Priority::Training, (8, None, Weight::ONE));
    schedule.push(2, Priority::Training, (8, None, Weight::ONE));
    schedule.push(3, Priority::Training, (1, None, Weight::ONE));
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 1, 2, 3, 2, 3]);
}

#[test]
fn a_work_larger_than_the_memory_runs_alone() {
    let mut schedule = schedule(0, 10);
    schedule.push(1, Priority::Training, (100, None, Weight::ONE));
    schedule.push(2, Priority::Training, (100, None, Weight::ONE));
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 1, 2, 2]);
}

fn owner(name: &str) -> Owner {
    Some(name.parse().unwrap())
}

#[test]
fn owners_of_training_share_its_time_whatever_the_number_of_their_items() {
    let mut schedule = schedule(0, NO_LIMIT);
    for key in [1, 2, 3] {
        schedule.push(key, Priority::Training, (0, owner("many"), Weight::ONE));
    }
    schedule.push(4, Priority::Training, (0, owner("one"), Weight::ONE));
    let order = script(&mut schedule, 3, vec![]);
    assert_eq!(order, [1, 4, 2, 4, 3, 4, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn an_owner_whose_slices_take_longer_gets_fewer_of_them_and_saves_none_while_away() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    let run = |schedule: &mut Schedule<u32>, slices: u32| -> Vec<u32> {
        let mut order = Vec::new();
        for _ in 0..slices {
            let mut turn = schedule.turn();
            if turn == Turn::Form {
                schedule.formed(None);
                turn = schedule.turn();
            }
            let Turn::Run(key, Priority::Training) = turn else {
                panic!("training waits, and {turn:?} is next");
            };
            order.push(key);
            schedule.ran(key, SLICE * if key == 1 { 3 } else { 1 });
        }
        order
    };
    schedule.push(1, Priority::Training, (0, owner("slow"), Weight::ONE));
    assert_eq!(run(&mut schedule, 5), [1; 5]);
    // A newcomer is not behind for what was before it.
    schedule.push(2, Priority::Training, (0, owner("quick"), Weight::ONE));
    let order = run(&mut schedule, 40);
    let slow = order.iter().filter(|key| **key == 1).count();
    assert!((9..=11).contains(&slow), "{order:?}");
    // A step ends and the next one comes: what its owner had is not forgotten.
    schedule.gone(1, SLICE * 30);
    schedule.push(3, Priority::Training, (0, owner("slow"), Weight::ONE));
    let order = run(&mut schedule, 25);
    assert!(!order.contains(&3), "{order:?}");
    assert!(run(&mut schedule, 20).contains(&3));
}

#[test]
fn owners_of_training_with_weights_of_three_to_one_get_slices_of_three_to_one() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    let three = Weight::new(3.try_into().unwrap());
    for key in [1, 2] {
        schedule.push(key, Priority::Training, (0, owner("three"), three));
    }
    for key in [3, 4, 5] {
        schedule.push(key, Priority::Training, (0, owner("one"), Weight::ONE));
    }
    let mut slices = [0u32; 2];
    for _ in 0..4000 {
        let mut turn = schedule.turn();
        if turn == Turn::Form {
            schedule.formed(None);
            turn = schedule.turn();
        }
        let Turn::Run(key, Priority::Training) = turn else {
            panic!("training waits, and {turn:?} is next");
        };
        slices[usize::from(key > 2)] += 1;
        schedule.ran(key, SLICE);
    }
    assert_eq!(slices.iter().sum::<u32>(), 4000);
    assert!(slices[0].abs_diff(3000) <= 2, "{slices:?}");
}

/// Longest slice in milliseconds, and most slices of an item.
const LONGEST: u64 = 20;
const SLICES: u64 = 5;

#[derive(Debug, Clone)]
enum Event {
    Submit {
        serving: bool,
        bytes: u64,
        slices: u32,
    },
    Batch {
        slices: u32,
    },
    Slices(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<bool>(), 0..12_u64, 1..6_u32).prop_map(|(serving, bytes, slices)| Event::Submit {
            serving,
            bytes,
            slices
        }),
        (1..6_u32).prop_map(|slices| Event::Batch { slices }),
        (0..8_u32).prop_map(Event::Slices),
    ]
}

/// Model of the device, as the schedule sees it.
#[derive(Default)]
struct World {
    left: Vec<u32>,
    training: Vec<bool>,
    bytes: Vec<u64>,
    source: Vec<usize>,
    last: Option<usize>,
    /// Training's share in thousandths.
    share: u32,
    /// Times of both sides, in milliseconds, since one of them was last found not to want the device.
    served: u64,
    trained: u64,
    training_since: std::collections::HashMap<usize, u32>,
}

impl World {
    fn add(&mut self, training: bool, bytes: u64, slices: u32) -> usize {
        self.left.push(slices);
        self.training.push(training);
        self.bytes.push(bytes);
        self.left.len() - 1
    }

    /// Takes one turn. Returns `false` when the device is idle.
    fn turn(&mut self, schedule: &mut Schedule<usize>) -> bool {
        match schedule.turn() {
            Turn::Idle => {
                assert!(self.left.iter().all(|left| *left == 0), "idle beside work");
                return false;
            }
            Turn::Form => schedule.formed((!self.source.is_empty()).then(|| self.source.remove(0))),
            Turn::Run(key, priority) => self.slice(schedule, key, priority),
        }
        true
    }

    /// Milliseconds that training is short of its share, times a thousand less the share.
    fn owed(&self) -> i64 {
        (self.served * u64::from(self.share)) as i64
            - (self.trained * u64::from(1000 - self.share)) as i64
    }

    /// Counts a slice of `took` milliseconds, and asserts that both sides have their share as far as they want it.
    fn count(&mut self, schedule: &Schedule<usize>, key: usize, took: u64) {
        if !self.training[key] {
            if !schedule.training.is_empty() {
                self.served += took;
            }
        } else if schedule.is_free {
            let serving_waits = !self.source.is_empty() || !schedule.serving.is_empty();
            assert!(!serving_waits, "training took what serving waits for");
            (self.served, self.trained) = (0, 0);
        } else {
            self.trained += took;
        }
        let (share, rest) = (i64::from(self.share), i64::from(1000 - self.share));
        let longest_item = (LONGEST * SLICES) as i64;
        let short = "is short of its share";
        assert!(self.owed() <= longest_item * share, "training {short}");
        assert!(self.owed() >= -(LONGEST as i64) * rest, "serving {short}");
    }

    fn slice(&mut self, schedule: &mut Schedule<usize>, key: usize, priority: Priority) {
        assert_eq!(priority == Priority::Training, self.training[key]);
        assert!(self.left[key] > 0, "work {key} ran after its end");
        if let Some(last) = self.last
            && !self.training[last]
            && self.left[last] > 0
        {
            assert_eq!(last, key, "a serving work was interrupted");
        }
        self.left[key] -= 1;
        self.last = Some(key);
        if self.training[key] {
            let others = schedule.training.len() as u32;
            for (other, since) in &mut self.training_since {
                if *other != key {
                    *since += 1;
                    assert!(
                        *since <= others.max(1) * 40,
                        "training work {other} starves"
                    );
                }
            }
            self.training_since.insert(key, 0);
        }
        let took = 1 + (key as u64 * 7 + u64::from(self.left[key]) * 3) % LONGEST;
        self.count(schedule, key, took);
        let took = Duration::from_millis(took);
        if self.left[key] == 0 {
            self.training_since.remove(&key);
            schedule.gone(key, took);
        } else {
            schedule.ran(key, took);
        }
        if schedule.training.is_empty() && self.owed() > 0 {
            (self.served, self.trained) = (0, 0);
        }
        let together: u64 = schedule
            .training
            .iter()
            .map(|item| self.bytes[item.key])
            .sum();
        assert!(
            together <= 20 || schedule.training.len() == 1,
            "over the memory"
        );
    }
}

proptest! {
    #[test]
    fn every_work_runs_to_its_end_and_both_sides_have_their_share(
        share in prop_oneof![Just(0_u32), 1..=900_u32],
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut schedule = schedule(share, 20);
        let mut world = World { share, ..World::default() };
        for event in events {
            match event {
                Event::Submit { serving, bytes, slices } => {
                    let key = world.add(!serving, bytes, slices);
                    let priority = if serving { Priority::Serving } else { Priority::Training };
                    schedule.push(key, priority, (bytes, None, Weight::ONE));
                }
                Event::Batch { slices } => {
                    let key = world.add(false, 0, slices);
                    world.source.push(key);
                    schedule.wake();
                }
                Event::Slices(n) => for _ in 0..n {
                    world.turn(&mut schedule);
                },
            }
        }
        while world.turn(&mut schedule) {}
        prop_assert!(world.left.iter().all(|left| *left == 0), "a work never ended");
    }
}

#[test]
fn while_a_result_is_on_its_way_the_next_batch_starts_and_no_third_one() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    schedule.wake();
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(Some(10));
    assert_eq!(schedule.turn(), Turn::Run(10, Priority::Serving));
    schedule.pending(10, SLICE);
    assert_eq!(schedule.parked(), [10]);
    assert_eq!(schedule.turn(), Turn::Form, "the next batch may form");
    schedule.formed(Some(11));
    assert_eq!(schedule.turn(), Turn::Run(11, Priority::Serving));
    schedule.pending(11, SLICE);
    // Two results are on their way: the older one is taken, whether it is there or not.
    assert_eq!(schedule.turn(), Turn::Run(10, Priority::Serving));
    schedule.gone(10, SLICE);
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(None);
    assert_eq!(
        schedule.turn(),
        Turn::Run(11, Priority::Serving),
        "nothing else is to be done"
    );
    schedule.gone(11, SLICE);
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(None);
    assert_eq!(schedule.turn(), Turn::Idle);
}

#[test]
fn a_result_that_is_there_is_taken_between_two_slices_of_the_next_batch() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    schedule.wake();
    schedule.formed(Some(10));
    schedule.pending(10, SLICE);
    schedule.formed(Some(11));
    assert_eq!(schedule.turn(), Turn::Run(11, Priority::Serving));
    schedule.ran(11, SLICE);
    schedule.ready(10);
    assert_eq!(schedule.turn(), Turn::Run(10, Priority::Serving));
    schedule.gone(10, SLICE);
    assert_eq!(schedule.turn(), Turn::Run(11, Priority::Serving));
}

#[test]
fn training_runs_while_a_result_is_on_its_way_and_yields_to_it() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    schedule.push(1, Priority::Training, (0, None, Weight::ONE));
    schedule.formed(Some(10));
    schedule.pending(10, SLICE);
    assert_eq!(schedule.turn(), Turn::Form);
    schedule.formed(None);
    assert_eq!(schedule.turn(), Turn::Run(1, Priority::Training));
    // A training item whose result is on its way takes its turns as before.
    schedule.pending(1, SLICE);
    schedule.ready(10);
    assert_eq!(schedule.turn(), Turn::Run(10, Priority::Serving));
}

#[test]
fn a_parked_item_that_has_more_to_do_goes_on_first() {
    let mut schedule = schedule::<u32>(0, NO_LIMIT);
    schedule.formed(Some(10));
    schedule.pending(10, SLICE);
    schedule.formed(Some(11));
    schedule.ready(10);
    schedule.ran(10, SLICE);
    assert_eq!(schedule.turn(), Turn::Run(10, Priority::Serving));
    schedule.gone(10, SLICE);
    assert_eq!(schedule.turn(), Turn::Run(11, Priority::Serving));
}

proptest! {
    /// Whatever order results arrive in: each batch is started once, taken once after it was parked, and at most two results are on their way when
    /// another one starts.
    #[test]
    fn no_result_is_lost_or_taken_twice(arrivals in prop::collection::vec((0_u32..4, any::<bool>()), 1..60)) {
        let mut schedule = schedule::<u32>(0, NO_LIMIT);
        let (mut next, mut pending, mut taken) = (0, Vec::new(), Vec::new());
        for (slices, arrives) in arrivals {
            schedule.wake();
            if arrives && let Some(key) = schedule.parked().last() {
                schedule.ready(*key);
            }
            match schedule.turn() {
                Turn::Form => {
                    prop_assert!(pending.len() <= AHEAD);
                    schedule.formed(Some(next));
                    next += 1;
                }
                Turn::Run(key, _) if pending.contains(&key) => {
                    pending.retain(|other| *other != key);
                    taken.push(key);
                    schedule.gone(key, SLICE);
                }
                Turn::Run(key, _) if slices == 0 => {
                    pending.push(key);
                    schedule.pending(key, SLICE);
                }
                Turn::Run(key, _) => schedule.ran(key, SLICE),
                Turn::Idle => prop_assert!(false, "the source was woken"),
            }
        }
        taken.sort_unstable();
        let once = taken.windows(2).all(|two| two[0] != two[1]);
        prop_assert!(once && taken.iter().all(|key| *key < next));
        prop_assert!(pending.len() <= AHEAD + 1);
    }
}
