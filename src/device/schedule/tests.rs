//! Tests of the order of slices: tables, and properties over random arrivals.

use proptest::prelude::*;

use super::*;

const NO_LIMIT: u64 = u64::MAX;

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
                    schedule.gone(key);
                } else {
                    schedule.ran(key);
                }
            }
        }
    }
}

#[test]
fn training_works_take_turns_after_every_slice() {
    let mut schedule = Schedule::new(4, NO_LIMIT);
    for key in [1, 2, 3] {
        schedule.push(key, Priority::Training, 0);
    }
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_batch_runs_back_to_back_and_before_training() {
    let mut schedule = Schedule::new(4, NO_LIMIT);
    schedule.push(1, Priority::Training, 0);
    assert_eq!(
        script(&mut schedule, 2, vec![10, 11]),
        [10, 10, 11, 11, 1, 1]
    );
}

#[test]
fn waiting_training_gets_a_slice_after_so_many_batches() {
    let mut schedule = Schedule::new(2, NO_LIMIT);
    schedule.push(1, Priority::Training, 0);
    let order = script(&mut schedule, 1, vec![10, 11, 12]);
    assert_eq!(order, [10, 11, 1, 12]);
}

#[test]
fn submitted_serving_works_and_the_source_alternate() {
    let mut schedule = Schedule::new(4, NO_LIMIT);
    schedule.push(20, Priority::Serving, 0);
    schedule.push(21, Priority::Serving, 0);
    assert_eq!(
        script(&mut schedule, 1, vec![10, 11, 12]),
        [10, 20, 11, 21, 12]
    );
}

#[test]
fn training_beyond_the_memory_waits_in_order() {
    let mut schedule = Schedule::new(4, 10);
    schedule.push(1, Priority::Training, 8);
    schedule.push(2, Priority::Training, 8);
    schedule.push(3, Priority::Training, 1);
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 1, 2, 3, 2, 3]);
}

#[test]
fn a_work_larger_than_the_memory_runs_alone() {
    let mut schedule = Schedule::new(4, 10);
    schedule.push(1, Priority::Training, 100);
    schedule.push(2, Priority::Training, 100);
    assert_eq!(script(&mut schedule, 2, vec![]), [1, 1, 2, 2]);
}

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
    serving_run: u32,
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
            Turn::Idle => return false,
            Turn::Form => schedule.formed((!self.source.is_empty()).then(|| self.source.remove(0))),
            Turn::Run(key, priority) => self.slice(schedule, key, priority),
        }
        true
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
            self.serving_run = 0;
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
        } else if self.left[key] == 0 && !schedule.training.is_empty() {
            self.serving_run += 1;
            assert!(self.serving_run <= 3, "training starves");
        }
        if self.left[key] == 0 {
            self.training_since.remove(&key);
            schedule.gone(key);
        } else {
            schedule.ran(key);
        }
        let together: u64 = schedule
            .training
            .iter()
            .map(|(key, _)| self.bytes[*key])
            .sum();
        assert!(
            together <= 20 || schedule.training.len() == 1,
            "over the memory"
        );
    }
}

proptest! {
    #[test]
    fn every_work_runs_to_its_end_and_nobody_starves(events in prop::collection::vec(event(), 0..60)) {
        let mut schedule = Schedule::new(3, 20);
        let mut world = World::default();
        for event in events {
            match event {
                Event::Submit { serving, bytes, slices } => {
                    let key = world.add(!serving, bytes, slices);
                    let priority = if serving { Priority::Serving } else { Priority::Training };
                    schedule.push(key, priority, bytes);
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
