//! Reservation of room in the queue, before anything is decoded.
//!
//! Invariant: permits never exceed the capacity, in clips or in bytes; [`share`] says who gets how much of it.

mod share;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Error, Limit};
use crate::fair::Class;
use crate::ids::TenantId;
use crate::telemetry::Metrics;
use share::Books;

pub(super) use share::Demand;

/// Issues permits up to a capacity.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Shared>);

struct Shared {
    capacity: Demand,
    /// A plain mutex, because it is held for a few additions and never across an await.
    state: Mutex<State>,
    returned: Notify,
    /// What the times of the books count from.
    begin: Instant,
    /// Where the clips that permits cover are shown; nowhere for permits of requests that nobody waits for.
    metrics: Option<Metrics>,
}

#[derive(Debug)]
struct State {
    books: Books,
    closed: bool,
}

/// Room in the queue for a request's clips; dropping the permit frees it.
pub struct Permit {
    shared: Arc<Shared>,
    tenant: TenantId,
    class: Class,
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
            .field("class", &self.class)
            .field("demand", &self.demand)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what permits cover. Called with the lock held, so that the last value shown is the current one.
    fn show(&self, state: &State) {
        if let Some(metrics) = &self.metrics {
            metrics.admission_used(state.books.used().clips);
        }
    }
}

impl Admission {
    pub(super) fn new(capacity: Demand, metrics: Option<Metrics>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.admission_capacity(capacity.clips);
        }
        Self(Arc::new(Shared {
            capacity,
            state: Mutex::new(State {
                books: Books::new(capacity),
                closed: false,
            }),
            returned: Notify::new(),
            begin: Instant::now(),
            metrics,
        }))
    }

    /// Grants room for the whole demand, or refuses at once.
    pub(super) fn admit(&self, asks: (&TenantId, Class), demand: Demand) -> Result<Permit, Error> {
        self.admit_within(asks, demand, None)
    }

    /// As [`Self::admit`], for a tenant that may hold no more than so many clips.
    pub(super) fn admit_within(
        &self,
        (tenant, class): (&TenantId, Class),
        demand: Demand,
        most: Option<usize>,
    ) -> Result<Permit, Error> {
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
        if let Some(limit) = most.filter(|most| clips > *most) {
            return Err(Error::BeyondQuota { clips, limit });
        }
        let now = shared.begin.elapsed();
        let mut state = shared.lock();
        if state.closed {
            return Err(Error::Stopped);
        }
        let used = state.books.held(tenant).clips;
        if let Some(limit) = most.filter(|most| clips > most.saturating_sub(used)) {
            let limit = Limit::Quota { limit, used };
            return Err(Error::QueueFull { clips, limit });
        }
        let granted = state.books.grant((tenant, class), demand, now);
        granted.map_err(|limit| Error::QueueFull { clips, limit })?;
        shared.show(&state);
        Ok(Permit {
            shared: shared.clone(),
            tenant: tenant.clone(),
            class,
            demand,
        })
    }

    /// Returns what all permits cover together.
    pub(super) fn used(&self) -> Demand {
        self.0.lock().books.used()
    }

    /// Waits for room rather than being refused for want of it; `most` says how many clips the tenant may hold, which may change meanwhile.
    pub(super) async fn reserve(
        &self,
        asks: (&TenantId, Class),
        demand: Demand,
        most: impl Fn() -> Option<usize>,
    ) -> Result<Permit, Error> {
        loop {
            // Created before the look, so that no return between the two is missed.
            let returned = self.0.returned.notified();
            match self.admit_within(asks, demand, most()) {
                Err(Error::QueueFull { .. }) => returned.await,
                answer => return answer,
            }
        }
    }

    /// Refuses every later request with [`Error::Stopped`].
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.returned.notify_waiters();
    }

    /// Waits until every permit has been returned.
    pub(super) async fn idle(&self) {
        loop {
            let returned = self.0.returned.notified();
            if self.0.lock().books.is_empty() {
                return;
            }
            returned.await;
        }
    }
}

impl Permit {
    /// Returns the tenant that holds the permit.
    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns whether the permit covers a demand.
    pub(super) fn covers(&self, demand: Demand) -> bool {
        demand.is_within(self.demand)
    }

    /// Returns the class of the request that was admitted.
    pub(super) fn class(&self) -> Class {
        self.class
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let holder = (&self.tenant, self.class);
        state.books.release(holder, self.demand);
        self.shared.show(&state);
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

    fn admit(admission: &Admission, name: &str, demand: Demand) -> Result<Permit, Error> {
        admission.admit((&tenant(name), Class::Interactive), demand)
    }

    #[test]
    fn a_full_queue_and_an_impossible_request_differ() {
        let admission = Admission::new(clips(4), None);
        let _held = admit(&admission, "a", clips(4)).unwrap();
        let full = admit(&admission, "b", clips(1));
        let limit = Limit::Queue;
        assert!(
            matches!(full, Err(Error::QueueFull { clips: 1, limit: own }) if own == limit),
            "{full:?}"
        );
        let never = admit(&admission, "b", clips(5));
        assert!(matches!(
            never,
            Err(Error::TooManyClips { clips: 5, limit: 4 })
        ));
        let long = Demand {
            clips: 1,
            bytes: 41,
        };
        let never = admit(&admission, "b", long);
        assert!(matches!(
            never,
            Err(Error::TooManyBytes {
                bytes: 41,
                limit: 40
            })
        ));
    }

    #[tokio::test]
    async fn who_may_wait_gets_room_as_soon_as_it_is_returned() {
        let admission = Admission::new(clips(4), None);
        let held = admit(&admission, "a", clips(4)).unwrap();
        let (b, c) = (tenant("b"), tenant("c"));
        let mut waiting = Box::pin(admission.reserve((&b, Class::Batch), clips(2), || None));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(held);
        let permit = waiting.await.unwrap();
        assert_eq!(permit.class(), Class::Batch);
        let mut waiting = Box::pin(admission.reserve((&c, Class::Interactive), clips(3), || None));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        admission.close();
        let refused = waiting.await;
        assert!(matches!(refused, Err(Error::Stopped)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_tenant_holds_no_more_clips_than_its_own_limit() {
        let admission = Admission::new(clips(8), None);
        let (a, b) = (tenant("a"), tenant("b"));
        let asks = |own| (own, Class::Interactive);
        let held = admission.admit_within(asks(&a), clips(2), Some(3)).unwrap();
        let full = admission.admit_within(asks(&a), clips(2), Some(3));
        let limit = Limit::Quota { limit: 3, used: 2 };
        assert!(
            matches!(full, Err(Error::QueueFull { clips: 2, limit: own }) if own == limit),
            "{full:?}"
        );
        let never = admission.admit_within(asks(&a), clips(4), Some(3));
        assert!(
            matches!(never, Err(Error::BeyondQuota { clips: 4, limit: 3 })),
            "{never:?}"
        );
        let _other = admission.admit_within(asks(&b), clips(3), Some(3)).unwrap();
        let most = || Some(3);
        let mut waiting = Box::pin(admission.reserve(asks(&a), clips(2), most));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(held);
        drop(waiting.await.unwrap());
        // A limit below what is held refuses more, and takes nothing away.
        let _held = admission.admit_within(asks(&a), clips(3), None).unwrap();
        let full = admission.admit_within(asks(&a), clips(1), Some(1));
        let limit = Limit::Quota { limit: 1, used: 3 };
        assert!(
            matches!(full, Err(Error::QueueFull { limit: own, .. }) if own == limit),
            "{full:?}"
        );
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_permit() {
        let admission = Admission::new(clips(4), None);
        let held = admit(&admission, "a", clips(2)).unwrap();
        admission.close();
        let late = admit(&admission, "a", clips(1));
        assert!(matches!(late, Err(Error::Stopped)));
        let mut idle = Box::pin(admission.idle());
        assert!(futures::poll!(idle.as_mut()).is_pending());
        drop(held);
        idle.await;
    }
}
