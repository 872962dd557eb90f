//! The use cases of erasing a tenant.

use std::time::Duration;

use async_trait::async_trait;

use super::{Actor, Erased, ErasureRecord, Result};
use crate::ids::TenantId;

/// Erasure of tenants. Once it has begun, nothing of the tenant can be created any more, and it cannot be taken back.
#[async_trait]
pub trait Erasures {
    /// Begins to erase a tenant, unless that was done before; its waiting jobs are ended and the others asked to. A tenant that nobody created and that
    /// stores nothing is [`super::Error::NotFound`].
    async fn begin_erasure(&self, tenant: &TenantId, actor: &Actor) -> Result<ErasureRecord>;
    /// Reads how far an erasure is.
    async fn get_erasure(&self, tenant: &TenantId) -> Result<ErasureRecord>;
    /// Tenants whose erasure has not ended.
    async fn unfinished_erasures(&self) -> Result<Vec<TenantId>>;
    /// Removes some of a tenant's rows, in one short transaction; wherever it is cut, the next call goes on.
    async fn erase_some(&self, tenant: &TenantId) -> Result<Erased>;
    /// Counts objects that were deleted.
    async fn note_erased(&self, tenant: &TenantId, objects: u64, bytes: u64) -> Result<()>;
    /// Ends an erasure of which nothing is left, `pause` after that was noticed first, so that other processes have heard of it: what tells them goes last.
    /// Returns whether it has ended.
    async fn settle_erasure(&self, tenant: &TenantId, pause: Duration) -> Result<bool>;
}
