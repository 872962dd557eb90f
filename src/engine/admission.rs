//! Reservation of room in the queue, before anything is decoded.
//!
//! Invariant: permits never exceed the capacity, in clips or in bytes, and a tenant that holds permits never gets more than it leaves free for
//! others.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Error;
use crate::ids::TenantId;

/// Issues permits up to a capacity.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Shared>);

/// Amount of clips and bytes: of a request, or of the whole queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Number of clips.
    pub(super) clips: usize,
    /// Bytes of the clips' planes.
    pub(super) bytes: u64,
}

impl Demand {
    fn plus(self, other: Self) -> Self {
        Self {
            clips: self.clips.saturating_add(other.clips),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            clips: self.clips - other.clips,
            bytes: self.bytes - other.bytes,
        }
    }

    fn is_within(self, other: Self) -> bool {
        self.clips <= other.clips && self.bytes <= other.bytes
    }
}

struct Shared {
    capacity: Demand,
    /// A plain mutex, because it is held for a few additions and never across an await.
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: Demand,
    tenants: HashMap<TenantId, Demand>,
    closed: bool,
}

/// Room in the queue for a request's clips; dropping the permit frees it.
pub struct Permit {
    shared: Arc<Shared>,
    tenant: TenantId,
    demand: Demand,
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
            .field("demand", &self.demand)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a tenant that holds `held` of the `used` amount may have `more`. It may hold as much as stays free afterwards (the dynamic
/// threshold of shared-memory switches): one busy tenant gets half, two get a third each, and a new tenant finds room.
fn fits(capacity: Demand, used: Demand, held: Demand, more: Demand) -> bool {
    let after = used.plus(more);
    after.is_within(capacity)
        && (held == Demand::default() || held.plus(more).is_within(capacity.minus(after)))
}

impl Admission {
    pub(super) fn new(capacity: Demand) -> Self {
        Self(Arc::new(Shared {
            capacity,
            state: Mutex::default(),
            returned: Notify::new(),
        }))
    }

    /// Grants room for the whole demand, or refuses at once.
    pub(super) fn admit(&self, tenant: &TenantId, demand: Demand) -> Result<Permit, Error> {
        let shared = &self.0;
        let (limit, Demand { clips, bytes }) = (shared.capacity, demand);
        if clips > limit.clips {
            let limit = limit.clips;
            return Err(Error::TooManyClips { clips, limit });
        }
        if bytes > limit.bytes {
            let limit = limit.bytes;
            return Err(Error::TooManyBytes { bytes, limit });
        }
        let mut state = shared.lock();
        if state.closed {
            return Err(Error::Stopped);
        }
        let held = state.tenants.get(tenant).copied().unwrap_or_default();
        if !fits(limit, state.used, held, demand) {
            return Err(Error::QueueFull { clips });
        }
        state.used = state.used.plus(demand);
        state.tenants.insert(tenant.clone(), held.plus(demand));
        Ok(Permit {
            shared: shared.clone(),
            tenant: tenant.clone(),
            demand,
        })
    }

    /// Refuses every later request with [`Error::Stopped`].
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Waits until every permit has been returned.
    pub(super) async fn idle(&self) {
        loop {
            let returned = self.0.returned.notified();
            if self.0.lock().used == Demand::default() {
                return;
            }
            returned.await;
        }
    }
}

impl Permit {
    /// Returns whether the permit covers a demand.
    pub(super) fn covers(&self, demand: Demand) -> bool {
        demand.is_within(self.demand)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.used = state.used.minus(self.demand);
        if let Some(held) = state.tenants.get_mut(&self.tenant) {
            *held = held.minus(self.demand);
            if *held == Demand::default() {
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

    /// Returns a demand of clips of ten bytes each.
    fn clips(clips: usize) -> Demand {
        Demand {
            clips,
            bytes: 10 * clips as u64,
        }
    }

    /// Takes as many permits as a tenant gets.
    fn flood(admission: &Admission, name: &str, each: Demand) -> Vec<Permit> {
        let tenant = tenant(name);
        std::iter::from_fn(|| admission.admit(&tenant, each).ok()).collect()
    }

    #[test]
    fn a_busy_tenant_leaves_room_for_newcomers() {
        let admission = Admission::new(clips(12));
        let flood = |name: &str| flood(&admission, name, clips(1));
        let first = flood("a");
        assert_eq!(first.len(), 6);
        let second = flood("b");
        assert_eq!(second.len(), 3);
        let third = flood("c");
        assert_eq!(third.len(), 1);
        drop(first);
        assert!(admission.admit(&tenant("c"), clips(3)).is_ok());
    }

    #[test]
    fn long_clips_are_fewer() {
        let capacity = Demand {
            clips: 1000,
            bytes: 120,
        };
        let admission = Admission::new(capacity);
        let long = Demand {
            clips: 1,
            bytes: 30,
        };
        let first = flood(&admission, "a", long);
        assert_eq!(first.len(), 2);
        let second = flood(&admission, "b", long);
        assert_eq!(second.len(), 1);
        assert_eq!(flood(&admission, "c", clips(1)).len(), 1);
        drop((first, second));
        let never = admission.admit(&tenant("a"), clips(13));
        let expected = (130, 120);
        assert!(
            matches!(never, Err(Error::TooManyBytes { bytes, limit }) if (bytes, limit) == expected)
        );
        assert!(admission.admit(&tenant("a"), clips(12)).is_ok());
    }

    #[test]
    fn a_full_queue_and_an_impossible_request_differ() {
        let admission = Admission::new(clips(4));
        let _held = admission.admit(&tenant("a"), clips(4)).unwrap();
        let full = admission.admit(&tenant("b"), clips(1));
        assert!(matches!(full, Err(Error::QueueFull { clips: 1 })));
        let never = admission.admit(&tenant("b"), clips(5));
        assert!(matches!(
            never,
            Err(Error::TooManyClips { clips: 5, limit: 4 })
        ));
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_permit() {
        let admission = Admission::new(clips(4));
        let held = admission.admit(&tenant("a"), clips(2)).unwrap();
        admission.close();
        assert!(matches!(
            admission.admit(&tenant("a"), clips(1)),
            Err(Error::Stopped)
        ));
        let mut idle = Box::pin(admission.idle());
        assert!(futures::poll!(idle.as_mut()).is_pending());
        drop(held);
        idle.await;
    }
}
