//! Who is next: interactive requests before batch ones, and within a lane tenants by start-time fair queueing over the time that their videos take. Pure.
//!
//! Invariant: every tenant and lane gets its turn, and within a tenant and lane requests keep their order.

use std::sync::Arc;

use crate::fair::{self, Class, Stay, Turns, Verdict, Weights};
use crate::ids::TenantId;
use crate::request::Lane;

/// Interactive requests for which a worker stays with a tenant while others wait, since each change costs a new process.
const INTERACTIVE_TURN: u32 = 2;
/// The same for a tenant of whom no more than this many wait, as far as [`TURN`] allows: what it sent at once goes one after the other, and the others catch
/// up afterwards.
const FEW: u32 = 4;
/// Longest turn of more requests than others have, in milliseconds: whoever always has some more waiting keeps nobody for long.
const TURN: f64 = 200.0;
/// Mean time of an interactive request, in milliseconds, from which on a new process costs little beside it, so that a turn of others is one request.
const LONG: f64 = 20.0;
/// Requests of the batch lane for which a worker stays with a tenant while others wait.
const BATCH_TURN: u32 = 8;
/// Time of a request before any was measured, in milliseconds.
const FIRST_ESTIMATE: f64 = 50.0;
/// Weight of the past in the mean time of a request.
const MEMORY: f64 = 0.9;

/// Requests that wait.
pub(super) struct Queue<T> {
    interactive: fair::Queue<Waiting<T>>,
    batch: fair::Queue<Waiting<T>>,
    turns: Turns,
    per_tenant: usize,
    capacity: usize,
    weights: Arc<dyn Weights>,
    /// Mean time of a request, in milliseconds.
    estimate: f64,
    /// The same of interactive requests alone, whose turns depend on it.
    interactive_estimate: f64,
}

struct Waiting<T> {
    id: u64,
    /// What its tenant is charged when it leaves the queue.
    millis: u64,
    request: T,
}

/// A request that left the queue, and what its tenant was charged.
#[derive(Debug)]
pub(super) struct Handed<T> {
    pub(super) tenant: TenantId,
    pub(super) request: T,
    pub(super) charge: Charge,
}

/// What a tenant was charged for a request: an estimate, until its time is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    lane: Lane,
    stay: Option<Stay>,
    millis: u64,
}

impl Charge {
    /// A request that did not wait, for which nothing was charged.
    pub(super) fn none(lane: Lane) -> Self {
        Self {
            lane,
            stay: None,
            millis: 0,
        }
    }
}

impl<T> Queue<T> {
    /// At most `capacity` requests in a lane, and at most `per_tenant` of one tenant.
    pub(super) fn new(per_tenant: usize, capacity: usize, weights: Arc<dyn Weights>) -> Self {
        Self {
            interactive: fair::Queue::default(),
            batch: fair::Queue::default(),
            turns: Turns::default(),
            per_tenant,
            capacity,
            weights,
            estimate: FIRST_ESTIMATE,
            interactive_estimate: FIRST_ESTIMATE,
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut fair::Queue<Waiting<T>> {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Batch => &mut self.batch,
        }
    }

    /// Milliseconds that a request probably takes.
    fn millis(&self) -> u64 {
        // Casting saturates. Nothing is free, so that a request is charged what its entry costs.
        (self.estimate.ceil() as u64).max(1)
    }

    /// Adds a request, or gives it back when there is no room.
    pub(super) fn push(
        &mut self,
        (lane, tenant): (Lane, &TenantId),
        id: u64,
        request: T,
    ) -> Result<(), T> {
        let (capacity, per_tenant, millis) = (self.capacity, self.per_tenant, self.millis());
        let weight = self.weights.of(tenant);
        let queue = self.lane(lane);
        if queue.len() >= capacity || queue.len_of(tenant) >= per_tenant {
            return Err(request);
        }
        let waiting = Waiting {
            id,
            millis,
            request,
        };
        queue.push((tenant, weight), millis, waiting);
        Ok(())
    }

    /// Interactive requests for which a worker stays with a tenant while others wait, and those for which it stays with one of whom few wait.
    fn interactive_turn(&self) -> (u32, u32) {
        let mean = self.interactive_estimate;
        let longest = match mean >= LONG {
            true => 1,
            false => INTERACTIVE_TURN,
        };
        // Casting saturates.
        (longest, ((TURN / mean) as u32).clamp(longest, FEW))
    }

    /// Takes the next request for a worker, given whose turn it has and how many requests it has served in it.
    pub(super) fn pop(&mut self, turn: Option<(&TenantId, u32)>) -> Option<Handed<T>> {
        let (interactive, interactive_few) = self.interactive_turn();
        for class in self.turns.order() {
            let (lane, few, longest) = match class {
                Class::Interactive => (Lane::Interactive, interactive_few, interactive),
                Class::Batch => (Lane::Batch, BATCH_TURN, BATCH_TURN),
            };
            let queue = self.lane(lane);
            let stays = turn.filter(|(tenant, served)| match queue.len_of(tenant) {
                0 => false,
                waiting if waiting <= FEW as usize => *served < few,
                _ => *served < longest,
            });
            let next = match stays {
                Some((tenant, _)) => queue.take_of(tenant),
                None => queue.take(|_| Verdict::Take, &mut Vec::new()),
            };
            let Some(next) = next else {
                queue.rest();
                continue;
            };
            self.turns.had(class, !self.batch.is_empty());
            return Some(Handed {
                tenant: next.tenant,
                request: next.item.request,
                charge: Charge {
                    lane,
                    stay: Some(next.stay),
                    millis: next.item.millis,
                },
            });
        }
        None
    }

    /// Notes how long a request took, in place of what its tenant was charged.
    pub(super) fn settle(&mut self, tenant: &TenantId, charge: Charge, millis: u64) {
        let mean = |before: f64| MEMORY * before + (1.0 - MEMORY) * millis as f64;
        self.estimate = mean(self.estimate);
        if charge.lane == Lane::Interactive {
            self.interactive_estimate = mean(self.interactive_estimate);
        }
        let charged = (charge.stay, charge.millis);
        self.lane(charge.lane).settle(tenant, charged, millis);
    }

    /// Takes a tenant's request back.
    pub(super) fn remove(&mut self, tenant: &TenantId, id: u64) -> Option<T> {
        let is_it = |own: &Waiting<T>| own.id == id;
        let mut found = self.interactive.remove(tenant, is_it);
        found.extend(self.batch.remove(tenant, is_it));
        found.pop().map(|own| own.request)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.batch.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fair::{Equal, Weight};

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn queue(requests: &[(Lane, &str)]) -> Queue<u64> {
        let mut queue = Queue::new(100, 1000, Arc::new(Equal));
        for (id, (lane, name)) in (0..).zip(requests) {
            queue.push((*lane, &tenant(name)), id, id).unwrap();
        }
        queue
    }

    fn order(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(None).map(|handed| handed.request)).collect()
    }

    /// Weights of which one tenant has three times as much as others.
    #[derive(Debug)]
    struct ThreeFor(TenantId);

    impl Weights for ThreeFor {
        fn of(&self, tenant: &TenantId) -> Weight {
            match *tenant == self.0 {
                true => Weight::new(3.try_into().unwrap()),
                false => Weight::ONE,
            }
        }
    }

    #[test]
    fn tenants_with_weights_of_three_to_one_get_time_of_three_to_one() {
        let tenants: [TenantId; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
        let mut queue = Queue::new(100, 1000, Arc::new(ThreeFor(tenants[0].clone())));
        let (mut millis, mut turn) = ([0; 2], None);
        let mut id = 0;
        for _ in 0..2000 {
            for tenant in &tenants {
                while queue.interactive.len_of(tenant) < 10 {
                    queue.push((Lane::Interactive, tenant), id, id).unwrap();
                    id += 1;
                }
            }
            let stays: Option<(&TenantId, u32)> = turn.as_ref().map(|(own, served)| (own, *served));
            let handed = queue.pop(stays).unwrap();
            let owner = usize::from(handed.tenant == tenants[1]);
            // The heavier tenant's videos take longer, so that it gets fewer of them in its time.
            let took = if owner == 0 { 40 } else { 10 };
            millis[owner] += took;
            queue.settle(&handed.tenant, handed.charge, took);
            turn = Some(match turn.take() {
                Some((own, served)) if own == handed.tenant => (own, served + 1),
                _ => (handed.tenant, 1),
            });
        }
        let share = millis[0] as f64 / millis[1] as f64;
        assert!((share - 3.0).abs() <= 0.15, "{millis:?}");
    }

    #[test]
    fn tenants_take_turns_and_interactive_goes_first() {
        use Lane::{Batch, Interactive};
        let mut queue = queue(&[
            (Batch, "a"),
            (Interactive, "a"),
            (Interactive, "a"),
            (Interactive, "b"),
            (Batch, "b"),
        ]);
        assert_eq!(order(&mut queue), [1, 3, 2, 0, 4]);
    }

    #[test]
    fn a_worker_stays_with_its_tenant_for_one_turn() {
        let mut queue = queue(&[(Lane::Batch, "a"), (Lane::Batch, "b"), (Lane::Batch, "b")]);
        let b = tenant("b");
        let mut next = |served| queue.pop(Some((&b, served))).map(|handed| handed.request);
        assert_eq!(next(1), Some(1));
        assert_eq!(next(BATCH_TURN), Some(0));
        assert_eq!(next(BATCH_TURN), Some(2));
    }

    #[test]
    fn long_videos_count_as_long() {
        let mut queue = Queue::new(100, 1000, Arc::new(Equal));
        let (long, short) = (tenant("a"), tenant("b"));
        for id in 0..60 {
            let owner = if id % 2 == 0 { &long } else { &short };
            queue.push((Lane::Interactive, owner), id, id).unwrap();
        }
        let mut counts = [0, 0];
        for _ in 0..30 {
            let handed = queue.pop(None).unwrap();
            let is_long = handed.tenant == long;
            counts[usize::from(is_long)] += 1;
            queue.settle(
                &handed.tenant,
                handed.charge,
                if is_long { 400 } else { 100 },
            );
        }
        // Four short ones for a long one.
        let [short, long] = counts;
        assert!((4..=8).contains(&long) && short >= 22, "{long} and {short}");
    }

    #[test]
    fn a_quiet_tenant_waits_for_one_turn_of_a_busy_one() {
        // A turn is one request when requests take long, since a new process is little beside them.
        for (millis, longest) in [(5, INTERACTIVE_TURN), (100, 1)] {
            let mut queue = queue(&[(Lane::Interactive, "a"); 100]);
            let (a, b) = (tenant("a"), tenant("b"));
            for served in 1..50 {
                let handed = queue.pop(Some((&a, served))).unwrap();
                queue.settle(&a, handed.charge, millis);
            }
            queue.push((Lane::Interactive, &b), 100, 100).unwrap();
            let order: Vec<u64> = (1..=longest)
                .filter_map(|served| queue.pop(Some((&a, served))))
                .map(|handed| handed.request)
                .collect();
            assert_eq!(order.last(), Some(&100), "{millis} ms: {order:?}");
        }
    }

    #[test]
    fn a_busy_tenant_of_whom_few_wait_keeps_a_worker_for_a_short_time() {
        for (millis, turn) in [(5, FEW), (80, 2), (5000, 1)] {
            let mut queue = queue(&[(Lane::Interactive, "a"); 50]);
            let (a, b) = (tenant("a"), tenant("b"));
            for served in 1..=50 - FEW {
                let handed = queue.pop(Some((&a, served))).unwrap();
                queue.settle(&a, handed.charge, millis);
            }
            queue.push((Lane::Interactive, &b), 50, 50).unwrap();
            let order: Vec<u64> = (1..=turn)
                .filter_map(|served| queue.pop(Some((&a, served))))
                .map(|handed| handed.request)
                .collect();
            assert_eq!(order.last(), Some(&50), "{millis} ms: {order:?}");
            assert_eq!(order.len(), turn as usize);
        }
    }

    #[test]
    fn turns_of_interactive_requests_do_not_depend_on_those_of_the_batch_lane() {
        let mut queue = queue(&[]);
        let a = tenant("a");
        for _ in 0..60 {
            queue.settle(&a, Charge::none(Lane::Interactive), 5);
            queue.settle(&a, Charge::none(Lane::Batch), 5000);
        }
        assert_eq!(queue.interactive_turn(), (INTERACTIVE_TURN, FEW));
        for _ in 0..60 {
            queue.settle(&a, Charge::none(Lane::Interactive), 5000);
            queue.settle(&a, Charge::none(Lane::Batch), 5);
        }
        assert_eq!(queue.interactive_turn(), (1, 1));
    }

    #[test]
    fn what_a_quiet_tenant_sent_at_once_goes_one_after_the_other_and_a_busy_one_catches_up() {
        let mut queue = queue(&[(Lane::Interactive, "a"); 100]);
        let (a, b) = (tenant("a"), tenant("b"));
        queue.pop(None).unwrap();
        let push = |queue: &mut Queue<u64>, id| {
            queue.push((Lane::Interactive, &b), id, id).unwrap();
        };
        (200..203).for_each(|id| push(&mut queue, id));
        let mut turn: Option<(TenantId, u32)> = Some((a, INTERACTIVE_TURN));
        let mut order = Vec::new();
        for _ in 0..7 {
            let stays = turn.as_ref().map(|(own, served)| (own, *served));
            let handed = queue.pop(stays).unwrap();
            order.push(handed.request >= 200);
            turn = Some(match turn.take() {
                Some((own, served)) if own == handed.tenant => (own, served + 1),
                _ => (handed.tenant, 1),
            });
        }
        assert_eq!(order, [false, true, true, true, false, false, false]);
        // One who always has some more waiting gets no more than its half.
        let mut served = 0;
        for id in 300..340 {
            push(&mut queue, id);
            let stays = turn.as_ref().map(|(own, served)| (own, *served));
            let handed = queue.pop(stays).unwrap();
            served += u32::from(handed.tenant == b);
            turn = Some(match turn.take() {
                Some((own, served)) if own == handed.tenant => (own, served + 1),
                _ => (handed.tenant, 1),
            });
        }
        assert!((14..=22).contains(&served), "{served} of 40");
    }

    #[test]
    fn batch_requests_do_not_starve() {
        let mut requests = vec![(Lane::Interactive, "a"); 40];
        requests.push((Lane::Batch, "b"));
        let mut queue = queue(&requests);
        let at = order(&mut queue).iter().position(|&id| id == 40);
        assert_eq!(at, Some(fair::RUN as usize));
    }

    #[test]
    fn one_tenant_cannot_take_every_place() {
        let mut queue = Queue::new(2, 3, Arc::new(Equal));
        let (a, b) = (tenant("a"), tenant("b"));
        assert!(queue.push((Lane::Batch, &a), 0, 0).is_ok());
        assert!(queue.push((Lane::Batch, &a), 1, 1).is_ok());
        assert_eq!(queue.push((Lane::Batch, &a), 2, 2), Err(2));
        assert!(queue.push((Lane::Batch, &b), 3, 3).is_ok());
        assert_eq!(queue.push((Lane::Batch, &b), 4, 4), Err(4));
        assert!(queue.push((Lane::Interactive, &b), 5, 5).is_ok());
        assert_eq!(queue.remove(&b, 1), None);
        assert_eq!(queue.remove(&a, 1), Some(1));
        assert!(queue.push((Lane::Batch, &a), 6, 6).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 0..200)) {
            let mut queue = Queue::new(50, 100, Arc::new(Equal));
            let mut owners = std::collections::HashMap::new();
            let (mut inside, mut next) = (std::collections::BTreeSet::new(), 0);
            for (step, name, is_batch) in steps {
                let tenant = tenant(&format!("t{name}"));
                let lane = if is_batch { Lane::Batch } else { Lane::Interactive };
                match step {
                    0 | 1 => {
                        if queue.push((lane, &tenant), next, next).is_ok() {
                            inside.insert(next);
                            owners.insert(next, tenant);
                        }
                        next += 1;
                    }
                    2 => {
                        let found = queue.pop(Some((&tenant, u32::from(name) * 4)));
                        prop_assert_eq!(found.is_none(), inside.is_empty());
                        if let Some(handed) = found {
                            prop_assert!(inside.remove(&handed.request));
                            owners.remove(&handed.request);
                            queue.settle(&handed.tenant, handed.charge, u64::from(name) * 90);
                        }
                    }
                    _ => {
                        let id = next / 2;
                        let owner = owners.remove(&id).unwrap_or(tenant);
                        prop_assert_eq!(queue.remove(&owner, id).is_some(), inside.remove(&id));
                    }
                }
                prop_assert_eq!(queue.is_empty(), inside.is_empty());
            }
        }
    }
}
