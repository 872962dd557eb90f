//! Bytes that calls draw before they take memory or disk, and give back when they end.
//!
//! Invariant: the bytes that are drawn never exceed the pool; no call waits for longer than the pool's patience, so that calls which wait for each other all
//! end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::ids::TenantId;

/// Bytes of one permit of the semaphore: a request for permits is 32 bits wide, and files are larger than 4 GiB.
const UNIT: u64 = 1024;

/// Budget of bytes that calls share; clones share it, too.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    /// Setting that sizes the pool.
    setting: &'static str,
    bytes: u64,
    room: Arc<Semaphore>,
    /// Bytes of tenants that have shares by [`Pool::try_take_of`].
    tenants: Tenants,
    patience: Duration,
}

type Tenants = Arc<Mutex<HashMap<TenantId, u64>>>;

/// Bytes of a pool that count as a tenant's; dropping them gives them back.
#[derive(Debug)]
pub(super) struct OwnShare {
    _share: Share,
    tenants: Tenants,
    tenant: TenantId,
    bytes: u64,
}

impl Drop for OwnShare {
    fn drop(&mut self) {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = tenants.get_mut(&self.tenant) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

/// Bytes of a pool; dropping them gives them back.
#[derive(Debug)]
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
}

/// Error of a pool that has too few bytes left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes are wanted of `{setting}`, which has {bytes} in all")]
pub(super) struct Full {
    /// The setting that says how large the pool is.
    pub(super) setting: &'static str,
    /// Bytes of the whole pool.
    pub(super) bytes: u64,
    /// Bytes that the call asked for.
    pub(super) wanted: u64,
}

impl Full {
    /// Whether the pool is too small even when nothing is drawn from it.
    pub(super) fn is_final(&self) -> bool {
        units(self.wanted) > units(self.bytes)
    }
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

impl Pool {
    /// Creates a pool that nobody has drawn from.
    pub(super) fn new(setting: &'static str, bytes: u64, patience: Duration) -> Self {
        let room = usize::try_from(units(bytes)).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            setting,
            bytes,
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            tenants: Tenants::default(),
            patience,
        }
    }

    /// Bytes of the whole pool.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether half of the pool is free when a tenant draws these bytes, too, and half of what its shares may have by [`Pool::try_take_of`].
    pub(super) fn leaves_half(&self, tenant: &TenantId, bytes: u64) -> bool {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tenants.get(tenant).copied().unwrap_or(0);
        let free = self.room.available_permits() as u64;
        let is_free = units(bytes).saturating_add(units(self.bytes) / 2) <= free;
        is_free && own.saturating_add(bytes) <= self.bytes / 4
    }

    /// Returns the bytes that are handed out now.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        (units(self.bytes) - self.room.available_permits() as u64) * UNIT
    }

    fn full(&self, wanted: u64) -> Full {
        Full {
            setting: self.setting,
            bytes: self.bytes,
            wanted,
        }
    }

    /// So many bytes at once or not at all.
    pub(super) fn try_take(&self, bytes: u64) -> Result<Share, Full> {
        let full = self.full(bytes);
        let permits = u32::try_from(units(bytes)).map_err(|_| full)?;
        let permit = Arc::clone(&self.room).try_acquire_many_owned(permits);
        permit
            .map(|permit| Share { _permit: permit })
            .map_err(|_| full)
    }

    /// As [`Pool::try_take`], for a tenant: its first share may be all that is free, a further one only what leaves the tenant with at most half of the pool.
    pub(super) fn try_take_of(&self, tenant: &TenantId, bytes: u64) -> Result<OwnShare, Full> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tenants.get(tenant).copied().unwrap_or(0);
        let sum = own.saturating_add(bytes);
        if own > 0 && sum > self.bytes / 2 {
            return Err(self.full(bytes));
        }
        let share = self.try_take(bytes)?;
        tenants.insert(tenant.clone(), sum);
        Ok(OwnShare {
            _share: share,
            tenants: Arc::clone(&self.tenants),
            tenant: tenant.clone(),
            bytes,
        })
    }

    /// So many bytes, for which others may have to end first: in turn, and for no longer than the pool's patience.
    pub(super) async fn take(&self, bytes: u64) -> Result<Share, Full> {
        let full = self.full(bytes);
        if full.is_final() {
            return Err(full);
        }
        let permits = u32::try_from(units(bytes)).map_err(|_| full)?;
        let room = Arc::clone(&self.room).acquire_many_owned(permits);
        match tokio::time::timeout(self.patience, room).await {
            Ok(Ok(permit)) => Ok(Share { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(full),
        }
    }
}

/// The pools that files on their way draw from.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Memory of uploads, of files that are small enough for it, and of imports.
    pub(super) memory: Pool,
    /// Disk space of files that belong to one request.
    pub(super) spool: Pool,
    /// Memory of live streams.
    pub(super) live: Pool,
}

impl Pools {
    /// Pools of this size that nobody has drawn from.
    pub fn new(limits: &Limits) -> Self {
        Self {
            memory: Pool::new(
                "upload_memory",
                limits.upload_memory,
                limits.upload_patience,
            ),
            spool: Pool::new("spool_bytes", limits.spool_bytes, Duration::ZERO),
            live: Pool::new("live_memory", limits.live_memory, Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_more_than_there_is_or_waits_for_ever() {
        let pool = Pool::new("upload_memory", 10 << 20, Duration::from_secs(2));
        let first = pool.take(6 << 20).await.unwrap();
        assert_eq!(pool.used(), 6 << 20);
        let refused = pool.take(5 << 20).await.unwrap_err();
        assert!(!refused.is_final() && refused.to_string().contains("upload_memory"));
        assert!(pool.try_take(5 << 20).is_err());
        let (second, ()) = tokio::join!(pool.take(5 << 20), async { drop(first) });
        assert_eq!(pool.used(), 5 << 20);
        drop(second);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_tenants_further_shares_leave_it_with_half_of_the_pool() {
        let pool = Pool::new("live_memory", 10 << 20, Duration::ZERO);
        let (one, other): (TenantId, TenantId) = ("one".parse().unwrap(), "other".parse().unwrap());
        assert!(pool.leaves_half(&one, 2 << 20) && !pool.leaves_half(&one, 3 << 20));
        let first = pool.try_take_of(&one, 3 << 20).unwrap();
        assert!(pool.leaves_half(&other, 2 << 20) && !pool.leaves_half(&one, 1));
        let second = pool.try_take_of(&one, 2 << 20).unwrap();
        assert!(!pool.leaves_half(&other, 1));
        assert!(!pool.try_take_of(&one, 1).unwrap_err().is_final());
        let most = pool.try_take_of(&other, 5 << 20).unwrap();
        drop((first, second));
        assert_eq!(pool.used(), 5 << 20);
        assert!(pool.try_take_of(&other, 1).is_err());
        drop(most);
        assert!(pool.try_take_of(&one, 10 << 20).is_ok());
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_fits_is_refused_without_waiting() {
        let pool = Pool::new("upload_memory", 10 << 20, Duration::from_secs(2));
        let began = tokio::time::Instant::now();
        let refused = pool.take((10 << 20) + 1).await.unwrap_err();
        assert!(refused.is_final());
        assert!(pool.take(1 << 50).await.unwrap_err().is_final());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(pool.take(10 << 20).await.is_ok());
    }
}
