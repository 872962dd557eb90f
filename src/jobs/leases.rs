//! The claims that this process holds, by its own steady clock.
//!
//! Invariant: a claim that is alive here is never taken for lost because the clock of the database jumped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::JobId;
use crate::metadata::Lease;

/// Claims of one process.
#[derive(Debug)]
pub(super) struct Leases {
    /// How long a claim holds without a sign of life; `None` when no other process could take it.
    length: Option<Duration>,
    /// Held for a look-up only, never across an await.
    held: Mutex<HashMap<(JobId, u64), (Lease, Instant)>>,
}

/// A claim that is held until this is dropped.
pub(super) struct Held<'a> {
    leases: &'a Leases,
    key: (JobId, u64),
}

impl Leases {
    pub(super) fn new(length: Option<Duration>) -> Self {
        Self {
            length,
            held: Mutex::new(HashMap::new()),
        }
    }

    /// Holds a claim that was just made.
    pub(super) fn hold(&self, lease: &Lease) -> Held<'_> {
        let key = (lease.job, lease.epoch);
        self.lock().insert(key, (lease.clone(), Instant::now()));
        Held { leases: self, key }
    }

    /// The claim was extended in the records now.
    pub(super) fn extended(&self, lease: &Lease) {
        if let Some((_, since)) = self.lock().get_mut(&(lease.job, lease.epoch)) {
            *since = Instant::now();
        }
    }

    /// Whether the claim will have run out after another `span`, for all that this process knows.
    pub(super) fn ends_within(&self, lease: &Lease, span: Duration) -> bool {
        let held = self.lock();
        let Some((_, since)) = held.get(&(lease.job, lease.epoch)) else {
            return true;
        };
        self.length
            .is_some_and(|length| since.elapsed() + span >= length)
    }

    /// Claims that hold.
    pub(super) fn alive(&self) -> Vec<Lease> {
        let holds = |since: &Instant| self.length.is_none_or(|length| since.elapsed() < length);
        self.lock()
            .values()
            .filter(|(_, since)| holds(since))
            .map(|(lease, _)| lease.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(JobId, u64), (Lease, Instant)>> {
        // A map is whole after every single operation.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;

    fn lease(epoch: u64) -> Lease {
        Lease {
            tenant: TenantId::anonymous(),
            job: JobId::generate(),
            epoch,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_alive_until_nothing_was_heard_of_it_for_its_length() {
        let leases = Leases::new(Some(Duration::from_secs(30)));
        let (a, b) = (lease(1), lease(2));
        let (_a, b_held) = (leases.hold(&a), leases.hold(&b));
        tokio::time::advance(Duration::from_secs(20)).await;
        leases.extended(&a);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(leases.alive(), std::slice::from_ref(&a));
        assert!(!leases.ends_within(&a, Duration::from_secs(10)));
        assert!(leases.ends_within(&a, Duration::from_secs(15)));
        drop(b_held);
        assert!(leases.ends_within(&b, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_nobody_else_can_take_never_runs_out() {
        let leases = Leases::new(None);
        let a = lease(1);
        let held = leases.hold(&a);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(leases.alive(), std::slice::from_ref(&a));
        assert!(!leases.ends_within(&a, Duration::from_secs(3600)));
        drop(held);
        assert!(leases.alive().is_empty());
    }
}
