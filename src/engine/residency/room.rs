//! Reservation of budget for one set.
//!
//! Invariant: a reservation is returned exactly once, when it is dropped; all reservations together never exceed the budget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::Inner;
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

impl Inner {
    /// Reserves `bytes` for a set: waits for its turn, evicts the sets used longest ago (unpinned ones first), and waits until their pins are gone.
    ///
    /// `bytes` is at most the budget. This never deadlocks, because the holder of a pin waits only for the device.
    pub(super) async fn make_room(self: &Arc<Self>, tenant: &TenantId, bytes: u64) -> Room {
        let _turn = self.room.lock().await;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on a notification is kept, so that none is lost between the check and the wait.
            freed.as_mut().enable();
            let evicted = {
                let mut state = self.lock();
                let evicted = state.evict(bytes, self.budget);
                if evicted.is_empty() && state.live + bytes <= self.budget {
                    state.live += bytes;
                    state.reserved += bytes;
                    let of_tenant = state.of_tenant(tenant, i128::from(bytes));
                    self.metrics.residency_bytes(tenant, of_tenant);
                    drop(state);
                    return Room {
                        home: Arc::downgrade(self),
                        tenant: tenant.clone(),
                        bytes,
                        listed: AtomicBool::new(false),
                    };
                }
                evicted
            };
            if evicted.is_empty() {
                freed.await;
            }
            for _ in evicted {
                self.metrics.adapter_evicted();
            }
        }
    }
}
