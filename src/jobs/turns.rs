//! Turns at work that several jobs of a process want and one of them need do: the others wait, and find it done.
//!
//! Invariant: a job that waits holds nothing that the job before it needs; whoever gives up leaves its turn to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::ids::TenantId;
use crate::spec::Digest;

/// A work in progress, which nobody shares beyond its tenant.
type Key = (TenantId, Digest);

/// Works in progress, by what comes of them.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until no other job of the tenant does this work, and keeps others from it for as long as the turn is held.
    pub(super) async fn take(&self, tenant: &TenantId, what: Digest) -> OwnedMutexGuard<()> {
        self.of(tenant, what).lock_owned().await
    }

    /// As [`Self::take`], without waiting; `None` while another job of the tenant does this work.
    pub(super) fn try_take(&self, tenant: &TenantId, what: Digest) -> Option<OwnedMutexGuard<()>> {
        self.of(tenant, what).try_lock_owned().ok()
    }

    fn of(&self, tenant: &TenantId, what: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let key = (tenant.clone(), what);
        // A map, which is whole after every single operation; held for a look-up, never across an await.
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_job_of_a_tenant_works_and_the_next_follows() {
        let turns = Turns::default();
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        let turn = turns.take(&a, one).await;
        assert!(turns.take(&a, one).now_or_never().is_none());
        assert!(turns.try_take(&a, one).is_none());
        assert!(turns.try_take(&a, other).is_some());
        assert!(turns.take(&a, other).now_or_never().is_some());
        assert!(turns.take(&b, one).now_or_never().is_some());
        drop(turn);
        assert!(turns.try_take(&a, one).is_some());
        assert!(turns.take(&a, one).now_or_never().is_some());
        turns.take(&b, other).await;
        assert_eq!(
            turns.0.lock().unwrap().len(),
            1,
            "those before are forgotten"
        );
    }
}
