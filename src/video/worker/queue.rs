//! Who is next: interactive requests before batch ones, and within a lane one tenant after the other. Pure.
//!
//! Invariant: no tenant and no lane waits for ever, and within a tenant and lane requests keep their order.

use std::collections::{HashMap, VecDeque};

use crate::ids::TenantId;
use crate::video::request::Lane;

/// A worker stays with a tenant for so many requests while others wait, since each change costs a new process.
const TURN: u32 = 8;
/// After so many interactive requests one of the batch lane is served, if one waits.
const INTERACTIVE_RUN: u32 = 16;

/// One lane's requests.
struct LaneQueue<T> {
    waiting: HashMap<TenantId, VecDeque<(u64, T)>>,
    /// Tenants that wait, next one first.
    order: VecDeque<TenantId>,
    length: usize,
}

/// Requests that wait.
pub(super) struct Queue<T> {
    interactive: LaneQueue<T>,
    batch: LaneQueue<T>,
    per_tenant: usize,
    capacity: usize,
    interactive_run: u32,
}

impl<T> LaneQueue<T> {
    fn new() -> Self {
        Self {
            waiting: HashMap::new(),
            order: VecDeque::new(),
            length: 0,
        }
    }

    fn pop(&mut self, turn: Option<(&TenantId, u32)>) -> Option<(TenantId, T)> {
        let stays = turn
            .filter(|(tenant, served)| *served < TURN && self.waiting.contains_key(*tenant))
            .map(|(tenant, _)| tenant.clone());
        // Whoever had its turn goes last, whether it stays or not.
        let tenant = stays.or_else(|| {
            let last = turn.map(|(tenant, _)| tenant);
            let next = (self.order.iter()).position(|tenant| Some(tenant) != last);
            self.order.get(next.unwrap_or(0)).cloned()
        })?;
        let requests = self.waiting.get_mut(&tenant)?;
        let (_, request) = requests.pop_front()?;
        let is_empty = requests.is_empty();
        self.length -= 1;
        self.order.retain(|own| *own != tenant);
        if is_empty {
            self.waiting.remove(&tenant);
        } else {
            self.order.push_back(tenant.clone());
        }
        Some((tenant, request))
    }

    fn remove(&mut self, id: u64) -> Option<T> {
        let (tenant, at) = self.waiting.iter().find_map(|(tenant, requests)| {
            let at = requests.iter().position(|(own, _)| *own == id)?;
            Some((tenant.clone(), at))
        })?;
        let requests = self.waiting.get_mut(&tenant)?;
        let (_, request) = requests.remove(at)?;
        self.length -= 1;
        if requests.is_empty() {
            self.waiting.remove(&tenant);
            self.order.retain(|own| *own != tenant);
        }
        Some(request)
    }
}

impl<T> Queue<T> {
    /// At most `capacity` requests in a lane, and at most `per_tenant` of one tenant.
    pub(super) fn new(per_tenant: usize, capacity: usize) -> Self {
        Self {
            interactive: LaneQueue::new(),
            batch: LaneQueue::new(),
            per_tenant,
            capacity,
            interactive_run: 0,
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneQueue<T> {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Batch => &mut self.batch,
        }
    }

    /// Adds a request, or gives it back when there is no room.
    pub(super) fn push(
        &mut self,
        (lane, tenant): (Lane, &TenantId),
        id: u64,
        request: T,
    ) -> Result<(), T> {
        let (capacity, per_tenant) = (self.capacity, self.per_tenant);
        let lane = self.lane(lane);
        let own = lane.waiting.get(tenant).map_or(0, VecDeque::len);
        if lane.length >= capacity || own >= per_tenant {
            return Err(request);
        }
        if own == 0 {
            lane.order.push_back(tenant.clone());
        }
        lane.waiting
            .entry(tenant.clone())
            .or_default()
            .push_back((id, request));
        lane.length += 1;
        Ok(())
    }

    /// Takes the next request for a worker, given whose turn it has and how many requests it has served in it.
    pub(super) fn pop(&mut self, turn: Option<(&TenantId, u32)>) -> Option<(TenantId, T)> {
        let is_batch_due = self.interactive_run >= INTERACTIVE_RUN;
        let lanes = if is_batch_due {
            [Lane::Batch, Lane::Interactive]
        } else {
            [Lane::Interactive, Lane::Batch]
        };
        for lane in lanes {
            if let Some(found) = self.lane(lane).pop(turn) {
                self.interactive_run = match lane {
                    Lane::Interactive => self.interactive_run.saturating_add(1),
                    Lane::Batch => 0,
                };
                return Some(found);
            }
        }
        None
    }

    /// Takes a request back.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        self.interactive
            .remove(id)
            .or_else(|| self.batch.remove(id))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.interactive.length + self.batch.length == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn queue(requests: &[(Lane, &str)]) -> Queue<u64> {
        let mut queue = Queue::new(100, 1000);
        for (id, (lane, name)) in (0..).zip(requests) {
            queue.push((*lane, &tenant(name)), id, id).unwrap();
        }
        queue
    }

    fn order(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(None).map(|(_, request)| request)).collect()
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
        assert_eq!(queue.pop(Some((&b, 1))).map(|found| found.1), Some(1));
        assert_eq!(queue.pop(Some((&b, TURN))).map(|found| found.1), Some(0));
        assert_eq!(queue.pop(Some((&b, TURN))).map(|found| found.1), Some(2));
    }

    #[test]
    fn batch_requests_do_not_starve() {
        let mut requests = vec![(Lane::Interactive, "a"); 40];
        requests.push((Lane::Batch, "b"));
        let mut queue = queue(&requests);
        let at = order(&mut queue).iter().position(|&id| id == 40);
        assert_eq!(at, Some(INTERACTIVE_RUN as usize));
    }

    #[test]
    fn one_tenant_cannot_take_every_place() {
        let mut queue = Queue::new(2, 3);
        let (a, b) = (tenant("a"), tenant("b"));
        assert!(queue.push((Lane::Batch, &a), 0, 0).is_ok());
        assert!(queue.push((Lane::Batch, &a), 1, 1).is_ok());
        assert_eq!(queue.push((Lane::Batch, &a), 2, 2), Err(2));
        assert!(queue.push((Lane::Batch, &b), 3, 3).is_ok());
        assert_eq!(queue.push((Lane::Batch, &b), 4, 4), Err(4));
        assert!(queue.push((Lane::Interactive, &b), 5, 5).is_ok());
        assert_eq!(queue.remove(1), Some(1));
        assert!(queue.push((Lane::Batch, &a), 6, 6).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 0..200)) {
            let mut queue = Queue::new(50, 100);
            let (mut inside, mut next) = (std::collections::BTreeSet::new(), 0);
            for (step, name, is_batch) in steps {
                let tenant = tenant(&format!("t{name}"));
                let lane = if is_batch { Lane::Batch } else { Lane::Interactive };
                match step {
                    0 | 1 => {
                        if queue.push((lane, &tenant), next, next).is_ok() {
                            inside.insert(next);
                        }
                        next += 1;
                    }
                    2 => {
                        let found = queue.pop(Some((&tenant, u32::from(name) * 4)));
                        prop_assert_eq!(found.is_none(), inside.is_empty());
                        if let Some((_, id)) = found {
                            prop_assert!(inside.remove(&id));
                        }
                    }
                    _ => {
                        let id = next / 2;
                        prop_assert_eq!(queue.remove(id).is_some(), inside.remove(&id));
                    }
                }
                prop_assert_eq!(queue.is_empty(), inside.is_empty());
            }
        }
    }
}
