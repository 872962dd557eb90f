//! Parts of uploads that are on their way into the store, in this process.
//!
//! Invariant: of one tenant no more than a stated number are in memory at once, also when the streams that brought them are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::TenantId;

/// Most parts of a tenant: of 8 MiB each, they are half a GiB.
const PARTS: usize = 64;

/// Places for parts, by tenant. A tenant that has none on the way has no entry that counts.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<TenantId, Weak<Semaphore>>>);

/// A part's place among those of its tenant; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Waits for a place, in the order of the callers.
    pub(super) async fn enter(&self, tenant: &TenantId) -> Option<Place> {
        // Nothing closes it.
        let permit = self.of(tenant).acquire_owned().await.ok();
        permit.map(|_permit| Place { _permit })
    }

    /// A place, if there is one now.
    pub(super) fn try_enter(&self, tenant: &TenantId) -> Option<Place> {
        let permit = self.of(tenant).try_acquire_owned().ok();
        permit.map(|_permit| Place { _permit })
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut all = self.lock();
        if let Some(own) = all.get(tenant).and_then(Weak::upgrade) {
            return own;
        }
        // Those without holders are as new ones.
        all.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(PARTS));
        all.insert(tenant.clone(), Arc::downgrade(&own));
        own
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Weak<Semaphore>>> {
        // Held for a look-up in memory and never across an await; the map is whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_has_so_many_places_and_takes_none_of_anothers() {
        let places = Places::default();
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut held: Vec<Place> = Vec::new();
        while let Some(place) = places.try_enter(&a) {
            held.push(place);
            assert!(held.len() <= PARTS);
        }
        assert_eq!(held.len(), PARTS);
        assert!(places.try_enter(&b).is_some());
        let waiting = places.enter(&a);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        held.pop();
        // The one that waits comes before one that comes later.
        assert!(places.try_enter(&a).is_none());
        let place = waiting.await;
        assert!(place.is_some());
        drop((held, place));
        assert!(places.try_enter(&b).is_some());
        assert!(
            places.lock().len() <= 1,
            "tenants without parts are forgotten"
        );
    }
}
