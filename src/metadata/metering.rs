//! The use cases of what tenants used.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    FleetDemand, Page, PageRequest, Result, TenantDemand, UsageBatch, UsageQuery, UsageRecord,
};

/// What tenants used, by hours, and what they ask of each process now.
#[async_trait]
pub trait Metering {
    /// Adds a batch of counts. Returns whether it was added: one that was added before is not added again.
    async fn record_usage(&self, batch: &UsageBatch) -> Result<bool>;
    /// Says what tenants with limits of a second asked of this process within the last window, and hears what they asked of each process that has spoken
    /// within the last three.
    async fn exchange_demands(
        &self,
        process: &str,
        own: &[TenantDemand],
        window: Duration,
    ) -> Result<Vec<FleetDemand>>;
    /// Notes how many bytes tenants store, of some of those for which that was not done in this hour. Returns how many; 0 when none is left.
    async fn note_stored_bytes(&self) -> Result<u64>;
    /// Lists what tenants used, in the order of time, tenant and task.
    async fn list_usage(&self, ask: &UsageQuery, page: &PageRequest) -> Result<Page<UsageRecord>>;
    /// Forgets some of what was used so long ago. Returns how many rows; 0 when none is left.
    async fn forget_usage(&self, age: Duration) -> Result<u64>;
}
