//! The record of an erasure.

use super::Timestamp;
use crate::ids::TenantId;

/// How far the erasure of a tenant is. The record stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureRecord {
    /// Tenant that is erased.
    pub tenant: TenantId,
    /// Who asked for it.
    pub principal: String,
    /// Time when it began.
    pub begin_time: Timestamp,
    /// Time when it ended; `None` while it goes on.
    pub end_time: Option<Timestamp>,
    /// Rows that were removed.
    pub rows: u64,
    /// Objects that were deleted.
    pub objects: u64,
    /// Bytes of those objects.
    pub bytes: u64,
}

/// What one step of an erasure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// Rows were removed, so many.
    Rows(u64),
    /// Workers still have jobs of the tenant, and have been asked to stop.
    Waits,
    /// No row is left but those that tell other processes.
    Nothing,
}
