//! Calls of each tenant that are not answered to their end, in this process.
//!
//! Invariant: a call that was let in counts until its place is dropped, so that racing calls never exceed a limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::TenantId;

/// Why a call is refused: the tenant has as many under way as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant has {used} calls under way on this server, and may have {limit}")]
pub struct TooManyCalls {
    /// Most calls under way.
    pub limit: u32,
    /// Calls that are under way.
    pub used: u32,
}

/// Calls that are under way, by tenant. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<Mutex<HashMap<TenantId, u32>>>);

/// A call's place among those of its tenant; dropping it gives it back.
#[derive(Debug)]
pub struct Underway {
    calls: Calls,
    tenant: TenantId,
}

impl Calls {
    /// Lets a call of a tenant in.
    pub(super) fn enter(
        &self,
        tenant: &TenantId,
        limit: Option<u32>,
    ) -> Result<Underway, TooManyCalls> {
        let mut calls = self.lock();
        let used = calls.get(tenant).copied().unwrap_or(0);
        if let Some(limit) = limit.filter(|limit| used >= *limit) {
            return Err(TooManyCalls { limit, used });
        }
        calls.insert(tenant.clone(), used.saturating_add(1));
        Ok(Underway {
            calls: self.clone(),
            tenant: tenant.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        // Held for a look-up in memory and never across an await; a count is whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        match calls.get_mut(&self.tenant) {
            Some(used) if *used > 1 => *used -= 1,
            // Without an entry a tenant costs nothing.
            Some(_) | None => drop(calls.remove(&self.tenant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_until_they_end_and_each_tenant_by_itself() {
        let calls = Calls::default();
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = calls.enter(&a, None).unwrap();
        let second = calls.enter(&a, Some(2)).unwrap();
        let refused = TooManyCalls { limit: 2, used: 2 };
        assert_eq!(calls.enter(&a, Some(2)).unwrap_err(), refused);
        let other = calls.enter(&b, Some(1)).unwrap();
        drop(first);
        let third = calls.enter(&a, Some(2)).unwrap();
        drop((second, third, other));
        assert!(calls.lock().is_empty());
        let none = TooManyCalls { limit: 0, used: 0 };
        assert_eq!(calls.enter(&a, Some(0)).unwrap_err(), none);
    }

    #[test]
    fn racing_calls_never_exceed_the_limit() {
        const LIMIT: u32 = 5;
        let calls = Calls::default();
        let a: TenantId = "a".parse().unwrap();
        let most = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if let Ok(_place) = calls.enter(&a, Some(LIMIT)) {
                            let used = calls.lock()[&a];
                            most.fetch_max(used, std::sync::atomic::Ordering::SeqCst);
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), LIMIT);
        assert!(calls.lock().is_empty());
    }
}
