//! Reservation of budget for one set.
//!
//! Invariant: a reservation is returned exactly once, when it is dropped; all reservations together never exceed the budget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::state::State;
use super::turns::Turn;
use super::{Inner, WAITING};
use crate::ids::TenantId;

/// Reserved bytes of one set.
pub(super) struct Room {
    home: Weak<Inner>,
    tenant: TenantId,
    bytes: u64,
    /// Whether the set is warmed up and in the table, so that eviction counts its bytes there.
    listed: AtomicBool,
}

impl Room {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn home(&self) -> Option<Arc<Inner>> {
        self.home.upgrade()
    }

    /// Marks the set as listed in the table; called under the state's lock, with `reserved` of that state.
    pub(super) fn list(&self, reserved: &mut u64) {
        if !self.listed.swap(true, Ordering::Relaxed) {
            *reserved -= self.bytes;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(inner) = self.home.upgrade() else {
            return;
        };
        let mut state = inner.lock();
        state.live -= self.bytes;
        if !*self.listed.get_mut() {
            state.reserved -= self.bytes;
        }
        let of_tenant = state.of_tenant(&self.tenant, -i128::from(self.bytes));
        // Set under the lock, so that the newest sum is set last.
        inner.metrics.residency_bytes(&self.tenant, of_tenant);
        drop(state);
        inner.freed.notify_waiters();
    }
}

/// A set that waits for room; dropping the claim gives up.
struct Claim<'a> {
    inner: &'a Inner,
    number: u64,
    /// The turn of the set's load; `None` when others may load meanwhile.
    turn: Option<Turn>,
    bytes: u64,
}

impl<'a> Claim<'a> {
    fn new(inner: &'a Inner, bytes: u64, turn: Turn) -> Self {
        let mut state = inner.lock();
        let number = state.tick();
        state.claims.insert(number, bytes);
        // A load that waits for room keeps others from loading only when too much waits already.
        let is_alone = state.waiting == 0;
        let may_wait = is_alone || state.waiting + bytes <= inner.budget / WAITING;
        if may_wait {
            state.waiting += bytes;
        }
        drop(state);
        Self {
            inner,
            number,
            turn: (!may_wait).then_some(turn),
            bytes,
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.claims.remove(&self.number);
        if self.turn.is_none() {
            state.waiting -= self.bytes;
        }
        drop(state);
        // Others waited for what this one claimed.
        self.inner.freed.notify_waiters();
    }
}

impl Inner {
    /// Reserves `bytes` for a set: evicts the sets used longest ago (unpinned ones first), and waits until their pins are gone.
    ///
    /// Sets that wait are served in order, so that a stream of small ones does not starve a large one; but one that fits beside all those that wait
    /// longer, now and when they have their room, goes on at once. `bytes` is at most the budget. This never deadlocks, because the holder of a pin
    /// waits only for the device.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        tenant: &TenantId,
        bytes: u64,
        turn: Turn,
    ) -> Room {
        if let Some(room) = self.room_after(tenant, bytes, u64::MAX) {
            return room;
        }
        let claim = Claim::new(self, bytes, turn);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on a notification is kept, so that none is lost between the check and the wait.
            freed.as_mut().enable();
            if let Some(room) = self.room_after(tenant, bytes, claim.number) {
                return room;
            }
            freed.await;
        }
    }

    /// Reserves `bytes` beside what was claimed before, after evicting sets for it; `None` when their pins have still to go.
    fn room_after(self: &Arc<Self>, tenant: &TenantId, bytes: u64, claim: u64) -> Option<Room> {
        let (evicted, room) = {
            let mut state = self.lock();
            let needed = bytes + state.claimed_before(claim);
            if needed > self.budget {
                // A set that must wait for others in any case evicts nothing.
                return None;
            }
            let evicted = state.evict(needed, self.budget);
            // What was removed is freed below, so that its bytes count until then.
            let is_beside = evicted.is_empty() && state.kept() + needed <= self.budget;
            let room = is_beside.then(|| self.take_room(&mut state, tenant, bytes));
            (evicted, room.flatten())
        };
        if evicted.is_empty() {
            return room;
        }
        for _ in &evicted {
            self.metrics.adapter_evicted();
        }
        drop(evicted);
        let mut state = self.lock();
        let needed = bytes + state.claimed_before(claim);
        let is_beside = state.kept() + needed <= self.budget;
        is_beside
            .then(|| self.take_room(&mut state, tenant, bytes))
            .flatten()
    }

    /// Reserves `bytes` for a set if they are free now and nobody waits for room.
    pub(super) fn free_room(self: &Arc<Self>, tenant: &TenantId, bytes: u64) -> Option<Room> {
        let mut state = self.lock();
        match state.claims.is_empty() {
            true => self.take_room(&mut state, tenant, bytes),
            false => None,
        }
    }

    fn take_room(
        self: &Arc<Self>,
        state: &mut State,
        tenant: &TenantId,
        bytes: u64,
    ) -> Option<Room> {
        if state.live + bytes > self.budget {
            return None;
        }
        state.live += bytes;
        state.reserved += bytes;
        let of_tenant = state.of_tenant(tenant, i128::from(bytes));
        self.metrics.residency_bytes(tenant, of_tenant);
        Some(Room {
            home: Arc::downgrade(self),
            tenant: tenant.clone(),
            bytes,
            listed: AtomicBool::new(false),
        })
    }
}
