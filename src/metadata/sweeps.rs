//! Searches over many jobs.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Page, PageRequest, Result, SweepRecord, SweepSpec, SweepSummary, SweepUpdate, Timestamp,
};
use crate::ids::{RequestId, SweepId, TenantId};

/// Sweeps, for their owners and for whoever moves them on.
#[async_trait]
pub trait Sweeps {
    /// Records a sweep under way. [`super::Error::TooManySweeps`] when the tenant has as many as it may have.
    async fn submit_sweep(
        &self,
        tenant: &TenantId,
        spec: SweepSpec,
        limit: u32,
        request: Option<RequestId>,
    ) -> Result<SweepRecord>;
    /// The sweep that a request made; `None` when there is no such request.
    async fn requested_sweep(
        &self,
        tenant: &TenantId,
        request: RequestId,
    ) -> Result<Option<SweepId>>;
    /// Reads a sweep.
    async fn get_sweep(&self, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord>;
    /// Lists sweeps, oldest first.
    async fn list_sweeps(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<SweepSummary>>;
    /// Asks a sweep to stop. [`super::Error::SweepFinished`] when it has ended.
    async fn cancel_sweep(&self, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord>;
    /// Sweeps of all tenants under way that are for the process's backbone, oldest first: those after one, or the first ones, at most `limit`.
    async fn open_sweeps(
        &self,
        after: Option<(Timestamp, SweepId)>,
        limit: u32,
    ) -> Result<Vec<SweepRecord>>;
    /// Changes a sweep under way that has this revision. Returns whether it still had it; if not, nothing changes.
    async fn move_sweep(&self, sweep: &SweepRecord, update: SweepUpdate) -> Result<bool>;
    /// Forgets sweeps that ended so long ago. Returns how many.
    async fn forget_sweeps(&self, age: Duration) -> Result<u64>;
}
