//! Fair queueing: tables for the order, and properties over random arrivals, costs and weights.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn tenant(index: usize) -> TenantId {
    format!("t{index}").parse().unwrap()
}

fn weight(weight: u32) -> Weight {
    Weight::new(NonZeroU32::new(weight).unwrap())
}

/// Takes whatever is next.
fn next<T>(queue: &mut Queue<T>) -> Option<T> {
    queue
        .take(|_| Verdict::Take, &mut Vec::new())
        .map(|taken| taken.item)
}

/// Settles what a tenant was charged in its present stay.
fn settle<T>(queue: &mut Queue<T>, tenant: &TenantId, charged: u64, cost: u64) {
    let stay = queue.lanes.get(tenant).map(|lane| lane.stay);
    queue.settle(tenant, (stay, charged), cost);
}

fn order(queue: &mut Queue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| next(queue)).collect()
}

/// A queue of `(tenant, cost)`; items are numbered.
fn queue(entries: &[(usize, u64)]) -> Queue<u64> {
    let mut queue = Queue::default();
    for (item, (owner, cost)) in (0..).zip(entries) {
        queue.push((&tenant(*owner), Weight::ONE), *cost, item);
    }
    queue
}

#[test]
fn tenants_take_turns_by_cost_and_not_by_number() {
    let mut queue = queue(&[(0, 2), (0, 2), (0, 2), (1, 1), (1, 1), (1, 1), (1, 1)]);
    // Tags: 0 2 4 of the first tenant, 0 1 2 3 of the second; of equal ones the older entry is first.
    assert_eq!(order(&mut queue), [0, 3, 4, 1, 5, 6, 2]);
}

#[test]
fn a_weight_of_three_is_three_services_for_one() {
    let mut queue = Queue::default();
    for item in 0..40 {
        let heavy = item % 2;
        let share = weight(if heavy == 1 { 3 } else { 1 });
        queue.push((&tenant(heavy as usize), share), 5, item);
    }
    let first: Vec<u64> = order(&mut queue).into_iter().take(20).collect();
    assert_eq!(first.iter().filter(|item| *item % 2 == 1).count(), 15);
}

#[test]
fn a_newcomer_is_next_but_one_and_gets_nothing_for_the_past() {
    let mut queue = queue(&[(0, 1); 100]);
    for _ in 0..50 {
        next(&mut queue);
    }
    for item in 200..210 {
        queue.push((&tenant(1), Weight::ONE), 1, item);
    }
    let order: Vec<bool> = order(&mut queue).iter().map(|item| *item >= 200).collect();
    // It is next but one at most, and then they take turns.
    assert!(order[..2].contains(&true));
    for window in order[..20].windows(4) {
        let new = window.iter().filter(|is_new| **is_new).count();
        assert!((1..=3).contains(&new), "{order:?}");
    }
}

#[test]
fn leaving_and_coming_back_at_once_gains_nothing() {
    let mut queue = queue(&[(0, 1); 100]);
    let returning = tenant(1);
    let mut served = 0;
    for _ in 0..40 {
        if queue.len_of(&returning) == 0 {
            queue.push((&returning, Weight::ONE), 8, 1000);
        }
        served += usize::from(next(&mut queue) == Some(1000));
    }
    // One of its entries costs as much as eight of the others'.
    assert!((4..=6).contains(&served), "{served}");
}

#[test]
fn ever_new_tenants_do_not_keep_one_from_its_turn() {
    let mut queue = queue(&[(0, 1); 100]);
    let (mut strangers, mut served) = (0, 0);
    let mut is_there = false;
    for _ in 0..60 {
        if !is_there {
            strangers += 1;
            queue.push((&tenant(strangers), Weight::ONE), 1, 1000);
        }
        is_there = next(&mut queue) != Some(1000);
        served += usize::from(is_there);
    }
    assert!(served >= 15, "{served} of 60 beside {strangers}");
    assert!(queue.lanes.len() < 10);
}

#[test]
fn what_is_discarded_or_removed_is_not_charged() {
    let mut queue = queue(&[(0, 50), (0, 50), (0, 1), (1, 1), (1, 1)]);
    assert_eq!(queue.remove(&tenant(0), |item| *item == 1), [1]);
    let mut discarded = Vec::new();
    let judge = |item: &u64| match item {
        0 => Verdict::Discard,
        _ => Verdict::Take,
    };
    let taken = queue.take(judge, &mut discarded);
    assert_eq!(
        (taken.map(|taken| taken.item), discarded),
        (Some(2), vec![0])
    );
    assert_eq!(order(&mut queue), [3, 4]);
    assert!(queue.remove(&tenant(7), |_| true).is_empty());
}

#[test]
fn what_does_not_fit_keeps_its_place() {
    let mut queue = queue(&[(0, 9), (1, 1), (1, 1), (2, 1)]);
    let fits = |item: &u64| match item {
        0 => Verdict::Pass,
        _ => Verdict::Take,
    };
    for expected in [1, 3, 2] {
        let taken = queue.take(fits, &mut Vec::new());
        assert_eq!(taken.map(|taken| taken.item), Some(expected));
    }
    assert!(queue.take(fits, &mut Vec::new()).is_none());
    queue.push((&tenant(1), Weight::ONE), 1, 4);
    assert_eq!(order(&mut queue), [0, 4]);
}

#[test]
fn a_true_cost_replaces_the_estimate() {
    let mut queue = queue(&[(0, 1), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(next(&mut queue), Some(0));
    settle(&mut queue, &tenant(0), 1, 3);
    assert_eq!(order(&mut queue), [3, 4, 5, 1, 6, 2]);
    // Too much was charged: the difference comes back, but no credit for the time before.
    let mut queue = super::tests::queue(&[(0, 9), (0, 1), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(next(&mut queue), Some(0));
    settle(&mut queue, &tenant(0), 9, 1);
    assert_eq!(order(&mut queue), [2, 1, 3, 4]);
    settle(&mut queue, &tenant(5), 1, 100);
}

#[test]
fn what_was_charged_before_a_tenant_was_forgotten_is_not_given_back() {
    let mut queue = queue(&[(0, 1000)]);
    let first = queue.take_of(&tenant(0)).unwrap();
    queue.rest();
    // The tenant comes again while its first entry is still served, and another one comes beside it.
    for (owner, item) in [(0, 1), (0, 2), (1, 3), (1, 4)] {
        queue.push((&tenant(owner), Weight::ONE), 1000, item);
    }
    assert_eq!(next(&mut queue), Some(1));
    queue.settle(&tenant(0), (Some(first.stay), 1000), 10);
    assert_eq!(queue.lanes[&tenant(0)].start, 1000 * UNIT);
    assert_eq!(order(&mut queue), [3, 2, 4]);
}

#[test]
fn an_estimate_that_was_too_high_is_given_back_to_whoever_is_first() {
    // Both tenants' entries take 3; 10 is what is charged before that is known.
    let mut queue: Queue<u64> = Queue::default();
    let mut served = [0u32; 2];
    for index in [0, 1] {
        let weight = weight([3, 1][index]);
        (0..400).for_each(|item| queue.push((&tenant(index), weight), 10, item));
    }
    for _ in 0..400 {
        let taken = queue.take(|_| Verdict::Take, &mut Vec::new()).unwrap();
        let owner = taken.tenant;
        settle(&mut queue, &owner, 10, 3);
        served[usize::from(owner == tenant(1))] += 1;
        // Some take longer than they were thought to, of the lighter tenant alone.
        if owner == tenant(1) {
            settle(&mut queue, &owner, 3, 6);
        }
    }
    // The lighter one gets half of what it would have if its entries were as short as the other's.
    let share = f64::from(served[0]) / f64::from(served[1]);
    assert!((share - 6.0).abs() <= 0.3, "{served:?}");
}

#[test]
fn an_estimate_counts_what_is_served_before() {
    let mut queue = queue(&[(0, 10), (0, 10), (1, 4), (2, 100)]);
    let quiet = tenant(9);
    // Beside each of the others it gets as much as they do.
    assert_eq!(queue.ahead((&quiet, Weight::ONE), 5), 5 + 5 + 4 + 5);
    assert_eq!(queue.ahead((&quiet, weight(5)), 5), 5 + 1 + 1 + 1);
    assert_eq!(queue.ahead((&tenant(0), Weight::ONE), 5), 25 + 4 + 25);
    assert_eq!(queue.cost(), 124);
    assert_eq!(queue.clear().len(), 4);
    assert_eq!(queue.ahead((&quiet, Weight::ONE), 5), 5);
}

#[test]
fn tenants_without_entries_are_forgotten() {
    let mut queue = Queue::default();
    for index in 0..10 * REMEMBERED {
        queue.push((&tenant(index), Weight::ONE), 1 + index as u64 % 7, 0);
    }
    while next(&mut queue).is_some() {
        assert!(queue.lanes.len() <= queue.len() + REMEMBERED);
        assert_eq!(queue.order.len() + queue.idle.len(), queue.lanes.len());
    }
    queue.rest();
    assert!(queue.lanes.is_empty() && queue.idle.is_empty() && queue.order.is_empty());
}

const TENANTS: usize = 5;

#[derive(Debug, Clone)]
enum Event {
    Push { tenant: usize, cost: u64 },
    Take { passes: u64 },
    TakeOf(usize),
    Remove(usize, u64),
    Settle(usize, u64, u64),
    Rest,
}

fn event() -> impl Strategy<Value = Event> {
    let settle = (0..TENANTS, 0..40_u64, 0..40_u64);
    prop_oneof![
        6 => (0..TENANTS, 0..30_u64).prop_map(|(tenant, cost)| Event::Push { tenant, cost }),
        4 => (2..6_u64).prop_map(|passes| Event::Take { passes }),
        1 => (0..TENANTS).prop_map(Event::TakeOf),
        1 => (0..TENANTS, 2..6_u64).prop_map(|(tenant, part)| Event::Remove(tenant, part)),
        1 => settle.prop_map(|(tenant, charged, cost)| Event::Settle(tenant, charged, cost)),
        1 => Just(Event::Rest),
    ]
}

/// What is in the queue and what came out of it, in order.
#[derive(Default)]
struct World {
    queue: Queue<(usize, u64)>,
    waiting: HashMap<usize, VecDeque<u64>>,
    pushed: u64,
    out: HashSet<u64>,
}

impl World {
    fn came_out(&mut self, (owner, id): (usize, u64)) {
        assert!(self.out.insert(id), "{id} came out twice");
        let waiting = self.waiting.get_mut(&owner).expect("a known tenant");
        let first = waiting.pop_front();
        assert_eq!(first, Some(id), "a tenant's entries out of order");
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Push {
                tenant: owner,
                cost,
            } => {
                let id = self.pushed;
                self.pushed += 1;
                let share = weight(1 + owner as u32);
                self.queue.push((&tenant(owner), share), cost, (owner, id));
                self.waiting.entry(owner).or_default().push_back(id);
            }
            Event::Take { passes } => {
                let mut discarded = Vec::new();
                let judge = |(_, id): &(usize, u64)| match id % passes {
                    0 => Verdict::Pass,
                    1 => Verdict::Discard,
                    _ => Verdict::Take,
                };
                let taken = self.queue.take(judge, &mut discarded);
                for entry in discarded {
                    self.came_out(entry);
                }
                if let Some(taken) = taken {
                    assert_eq!(taken.tenant, tenant(taken.item.0));
                    self.came_out(taken.item);
                }
            }
            Event::TakeOf(owner) => {
                if let Some(taken) = self.queue.take_of(&tenant(owner)) {
                    self.came_out(taken.item);
                }
            }
            Event::Remove(owner, part) => {
                let removed = self.queue.remove(&tenant(owner), |(_, id)| id % part == 0);
                for (own, id) in removed {
                    assert_eq!((own, id % part), (owner, 0));
                    assert!(self.out.insert(id), "{id} came out twice");
                }
                let waiting = self.waiting.entry(owner).or_default();
                waiting.retain(|id| id % part != 0);
            }
            Event::Settle(owner, charged, cost) => {
                settle(&mut self.queue, &tenant(owner), charged, cost);
            }
            Event::Rest => self.queue.rest(),
        }
        self.check();
    }

    /// The queue's books agree with each other, and hold nothing of tenants that have nothing.
    fn check(&self) {
        let waiting: usize = self.waiting.values().map(VecDeque::len).sum();
        assert_eq!(self.queue.len(), waiting);
        let busy = self.waiting.iter().filter(|(_, own)| !own.is_empty());
        let weights: u64 = busy.clone().map(|(owner, _)| 1 + *owner as u64).sum();
        assert_eq!(self.queue.weights, weights);
        let busy = busy.count();
        assert_eq!(self.queue.order.len(), busy);
        assert_eq!(self.queue.lanes.len(), busy + self.queue.idle.len());
        assert!(self.queue.idle.len() <= REMEMBERED);
        for (end, idle) in &self.queue.idle {
            assert!(*end > self.queue.now, "{idle} owes nothing");
        }
        for turn in &self.queue.order {
            assert_eq!(self.queue.lanes[&turn.tenant].start, turn.start);
        }
        let costs = self.queue.lanes.values();
        for lane in costs {
            let sum: u64 = lane.entries.iter().map(|entry| entry.cost).sum();
            assert_eq!(lane.cost, sum);
        }
    }
}

/// Service of each tenant in each step while all of them always have entries.
fn backlogged(weights: &[u32], costs: &[u64], steps: usize) -> Vec<(usize, u64)> {
    let mut queue = Queue::default();
    let mut next_cost = costs.iter().copied().cycle();
    let mut push = |queue: &mut Queue<(usize, u64)>, owner: usize| {
        let cost = next_cost.next().unwrap();
        queue.push(
            (&tenant(owner), weight(weights[owner])),
            cost,
            (owner, cost),
        );
    };
    for owner in (0..weights.len()).chain(0..weights.len()) {
        push(&mut queue, owner);
    }
    let step = |_| {
        let (owner, cost) = next(&mut queue).unwrap();
        push(&mut queue, owner);
        (owner, cost)
    };
    (0..steps).map(step).collect()
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled_and_tenants_keep_their_order(
        events in prop::collection::vec(event(), 0..120)
    ) {
        let mut world = World::default();
        for event in &events {
            world.apply(event);
        }
        while let Some(entry) = next(&mut world.queue) {
            world.came_out(entry);
        }
        prop_assert_eq!(world.out.len() as u64, world.pushed, "an entry was lost");
    }

    #[test]
    fn services_of_backlogged_tenants_differ_by_a_largest_cost_of_each(
        weights in prop::collection::vec(1..10_u32, 2..6),
        costs in prop::collection::vec(1..64_u64, 1..40),
        from in 0..100_usize,
    ) {
        let served = backlogged(&weights, &costs, 200);
        let largest = costs.iter().copied().max().unwrap() as f64;
        let mut sums = vec![0.0; weights.len()];
        for (owner, cost) in &served[from..] {
            sums[*owner] += *cost as f64 / f64::from(weights[*owner]);
            for (a, heavy) in weights.iter().enumerate() {
                for (b, light) in weights.iter().enumerate() {
                    let bound = largest / f64::from(*heavy) + largest / f64::from(*light);
                    prop_assert!((sums[a] - sums[b]).abs() <= bound + 1e-6);
                }
            }
        }
    }

    #[test]
    fn nobody_gets_more_than_the_share_and_one_largest_cost(
        weights in prop::collection::vec(1..10_u32, 2..6),
        costs in prop::collection::vec(1..64_u64, 1..40),
        equal in any::<bool>(),
    ) {
        let weights = if equal { vec![1; weights.len()] } else { weights };
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let largest = costs.iter().copied().max().unwrap() as f64;
        let mut sums = vec![0.0; weights.len()];
        let mut all = 0.0;
        for (owner, cost) in backlogged(&weights, &costs, 200) {
            sums[owner] += cost as f64;
            all += cost as f64;
            for (own, sum) in weights.iter().zip(&sums) {
                let ahead = sum - all * f64::from(*own) / total;
                prop_assert!(ahead <= largest + 1e-6);
                prop_assert!(!equal || ahead >= -largest - 1e-6);
            }
        }
    }

    #[test]
    fn a_tenant_that_was_away_gets_no_credit(away in 1..300_usize, cost in 1..64_u64) {
        // Two tenants are served all the time, and a third comes after a while.
        let mut queue = Queue::default();
        let push = |queue: &mut Queue<usize>, owner: usize| {
            queue.push((&tenant(owner), Weight::ONE), cost, owner);
        };
        for owner in [0, 1, 0, 1] {
            push(&mut queue, owner);
        }
        for _ in 0..away {
            let owner = next(&mut queue).unwrap();
            push(&mut queue, owner);
        }
        push(&mut queue, 2);
        push(&mut queue, 2);
        let mut served = [0_i32; 3];
        for _ in 0..60 {
            let owner = next(&mut queue).unwrap();
            push(&mut queue, owner);
            served[owner] += 1;
            let gap = served.iter().max().unwrap() - served.iter().min().unwrap();
            prop_assert!(gap <= 2, "{served:?}");
        }
    }
}
