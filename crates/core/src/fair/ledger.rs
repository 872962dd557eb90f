//! Where the time that tenants' work takes is written down.

use std::fmt::Debug;
use std::time::Duration;

use crate::ids::{TaskId, TenantId};

/// Takes down the time that work for tenants takes. Called from the threads that do the work, so it must be quick.
pub trait Ledger: Debug + Send + Sync {
    /// Takes down time of the device, for a task or for none.
    fn computed(&self, tenant: &TenantId, task: Option<&TaskId>, time: Duration);

    /// Takes down processor time of a process that decodes.
    fn decoded(&self, tenant: &TenantId, time: Duration);
}

/// A ledger in which nothing is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn computed(&self, _: &TenantId, _: Option<&TaskId>, _: Duration) {}

    fn decoded(&self, _: &TenantId, _: Duration) {}
}
