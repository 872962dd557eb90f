//! The tenants' limits and counts, as the engine, the device and the decoder see them.

use std::time::Duration;

use crate::engine::Account;
use crate::fair::Ledger;
use crate::ids::{TaskId, TenantId};
use crate::spec::RateExceeded;
use crate::tenancy::Tenants;

/// Limits and counts of tenants.
#[derive(Debug, Clone)]
pub(super) struct Accounts(pub(super) Tenants);

impl Account for Accounts {
    fn charge(&self, tenant: &TenantId, frames: u64) -> Result<(), RateExceeded> {
        self.0.charge(tenant, frames)
    }

    fn charge_again(&self, tenant: &TenantId, frames: u64) -> Result<(), RateExceeded> {
        self.0.charge_again(tenant, frames)
    }

    fn give_back(&self, tenant: &TenantId, frames: u64) {
        self.0.give_back(tenant, frames);
    }

    fn clips(&self, tenant: &TenantId) -> Option<usize> {
        let clips = self.0.at_once(tenant).clips;
        clips.map(|clips| usize::try_from(clips).unwrap_or(usize::MAX))
    }

    fn answered(&self, tenant: &TenantId, task: Option<&TaskId>, frames: u64) {
        self.0.answered(tenant, task, frames);
    }
}

impl Ledger for Accounts {
    fn computed(&self, tenant: &TenantId, task: Option<&TaskId>, time: Duration) {
        self.0.computed(tenant, task, time);
    }

    fn decoded(&self, tenant: &TenantId, time: Duration) {
        self.0.decoded(tenant, time);
    }
}
