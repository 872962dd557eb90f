//! What the engine asks and tells of tenants: whether one may have more at present, and what it was answered.

use std::fmt;

use crate::ids::{TaskId, TenantId};
use crate::spec::RateExceeded;

/// Rates and counts of the tenants' clip-frames. A clip of T frames that runs through one version is T clip-frames.
pub trait Account: Send + Sync + fmt::Debug {
    /// Takes clip-frames from what the tenant may have in a second.
    ///
    /// # Errors
    /// When the tenant has used that.
    fn charge(&self, tenant: &TenantId, frames: u64) -> Result<(), RateExceeded>;

    /// Takes clip-frames like [`Account::charge`], for who was refused them and waits: they do not count as asked for once more.
    ///
    /// # Errors
    /// When there are still none.
    fn charge_again(&self, tenant: &TenantId, frames: u64) -> Result<(), RateExceeded>;

    /// Gives back clip-frames that were taken and are not run.
    fn give_back(&self, tenant: &TenantId, frames: u64);

    /// Notes clip-frames that were answered, with a version of a task or with the bare backbone.
    fn answered(&self, tenant: &TenantId, task: Option<&TaskId>, frames: u64);
}

/// Clip-frames that were taken for something that has yet to get room: given back when it gets none, or is given up before.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    account: &'a dyn Account,
    tenant: &'a TenantId,
    frames: u64,
}

impl<'a> Taken<'a> {
    pub(super) fn new(account: &'a dyn Account, tenant: &'a TenantId, frames: u64) -> Self {
        Self {
            account,
            tenant,
            frames,
        }
    }

    /// Keeps what was taken: it will be run.
    pub(super) fn keep(mut self) {
        self.frames = 0;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.frames > 0 {
            self.account.give_back(self.tenant, self.frames);
        }
    }
}

/// An account without limits that counts nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Free;

impl Account for Free {
    fn charge(&self, _: &TenantId, _: u64) -> Result<(), RateExceeded> {
        Ok(())
    }

    fn charge_again(&self, _: &TenantId, _: u64) -> Result<(), RateExceeded> {
        Ok(())
    }

    fn give_back(&self, _: &TenantId, _: u64) {}

    fn answered(&self, _: &TenantId, _: Option<&TaskId>, _: u64) {}
}
