//! Bytes of the budget that are reserved for one set.
//!
//! Invariant: a reservation is returned exactly once, when it is dropped; reservations never exceed the budget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::Inner;
use crate::ids::TenantId;

/// Reserved bytes.
pub(super) struct Room {
    home: Weak<Inner>,
    tenant: TenantId,
    bytes: u64,
    /// Whether the set is warm and listed, so that eviction counts it there.
    listed: AtomicBool,
}

impl Room {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn home(&self) -> Option<Arc<Inner>> {
        self.home.upgrade()
    }

    /// Notes that the set is about to be listed as resident; called under the state's lock, with `reserved` of that state.
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
        // Under the lock, so that the newest sum is set last.
        inner.metrics.residency_bytes(&self.tenant, of_tenant);
        drop(state);
        inner.freed.notify_waiters();
    }
}

impl Inner {
    /// Waits for its turn, evicts the sets used longest ago, unpinned ones first, and waits until the evicted sets' pins are gone.
    ///
    /// `bytes` is at most the budget. This never deadlocks: the holder of a pin waits for the device only.
    pub(super) async fn make_room(self: &Arc<Self>, tenant: &TenantId, bytes: u64) -> Room {
        let _turn = self.room.lock().await;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on a notice is kept, so that none is lost between the check and the wait.
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
