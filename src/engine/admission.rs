//! Room in the queue, given before anything is decoded.
//!
//! Invariant: permits never exceed the capacity, and a tenant never gets more than it leaves free for others, unless it has none.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Error;
use crate::ids::TenantId;

/// Gives permits.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Shared>);

struct Shared {
    capacity: usize,
    /// A plain mutex: held for a few additions, never across an await.
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    tenants: HashMap<TenantId, usize>,
    closed: bool,
}

/// Room for a request's clips; dropping it gives the room back.
pub struct Permit {
    shared: Arc<Shared>,
    tenant: TenantId,
    clips: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("tenant", &self.tenant)
            .field("clips", &self.clips)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a tenant that holds `held` of the `used` clips gets `clips` more. It may hold as many as stay free afterwards (the dynamic threshold
/// of shared-memory switches): one busy tenant gets half, two get a third each, and a newcomer always finds room.
fn fits(capacity: usize, used: usize, held: usize, clips: usize) -> bool {
    let after = used.saturating_add(clips);
    after <= capacity && (held == 0 || held + clips <= capacity - after)
}

impl Admission {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared {
            capacity: capacity.max(1),
            state: Mutex::default(),
            returned: Notify::new(),
        }))
    }

    /// Room for so many clips, at once or not at all.
    pub(super) fn admit(&self, tenant: &TenantId, clips: usize) -> Result<Permit, Error> {
        let shared = &self.0;
        let limit = shared.capacity;
        if clips > limit {
            return Err(Error::TooManyClips { clips, limit });
        }
        let mut state = shared.lock();
        if state.closed {
            return Err(Error::Stopped);
        }
        let held = state.tenants.get(tenant).copied().unwrap_or(0);
        if !fits(limit, state.used, held, clips) {
            return Err(Error::QueueFull { clips });
        }
        state.used += clips;
        state.tenants.insert(tenant.clone(), held + clips);
        Ok(Permit {
            shared: shared.clone(),
            tenant: tenant.clone(),
            clips,
        })
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Waits until every permit was given back.
    pub(super) async fn idle(&self) {
        loop {
            let returned = self.0.returned.notified();
            if self.0.lock().used == 0 {
                return;
            }
            returned.await;
        }
    }
}

impl Permit {
    /// Clips that it is for.
    pub fn clips(&self) -> usize {
        self.clips
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.used -= self.clips;
        if let Some(held) = state.tenants.get_mut(&self.tenant) {
            *held -= self.clips;
            if *held == 0 {
                state.tenants.remove(&self.tenant);
            }
        }
        drop(state);
        self.shared.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn a_busy_tenant_leaves_room_for_newcomers() {
        let admission = Admission::new(12);
        let flood = |name: &str| {
            let tenant = tenant(name);
            std::iter::from_fn(|| admission.admit(&tenant, 1).ok()).collect::<Vec<_>>()
        };
        let first = flood("a");
        assert_eq!(first.len(), 6);
        let second = flood("b");
        assert_eq!(second.len(), 3);
        let third = flood("c");
        assert_eq!(third.len(), 1);
        drop(first);
        assert!(admission.admit(&tenant("c"), 3).is_ok());
    }

    #[test]
    fn a_full_queue_and_an_impossible_request_differ() {
        let admission = Admission::new(4);
        let _held = admission.admit(&tenant("a"), 4).unwrap();
        let full = admission.admit(&tenant("b"), 1);
        assert!(matches!(full, Err(Error::QueueFull { clips: 1 })));
        let never = admission.admit(&tenant("b"), 5);
        assert!(matches!(
            never,
            Err(Error::TooManyClips { clips: 5, limit: 4 })
        ));
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_permit() {
        let admission = Admission::new(4);
        let held = admission.admit(&tenant("a"), 2).unwrap();
        admission.close();
        assert!(matches!(
            admission.admit(&tenant("a"), 1),
            Err(Error::Stopped)
        ));
        let mut idle = Box::pin(admission.idle());
        assert!(futures::poll!(idle.as_mut()).is_pending());
        drop(held);
        idle.await;
    }
}
