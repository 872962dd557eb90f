//! What the engine asks and tells of tenants: whether one may have more at present, and what it was answered.

use std::sync::Arc;
use std::time::Duration;

use crate::fair::Ledger;
use crate::ids::{TaskId, TenantId};
use crate::spec::RateExceeded;

/// Rates and counts of the tenants' clip-frames, and the ledger of their device time. A clip of T frames that runs through one version is T clip-frames.
pub trait Account: Ledger {
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

    /// Most clips of the tenant between admission and answer; `None` for no limit of its own.
    fn clips(&self, tenant: &TenantId) -> Option<usize>;

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

/// Device time of a batch, which its tenants and tasks share by the frames of their clips. It is taken down when the bill is dropped.
pub(super) struct Bill {
    account: Arc<dyn Account>,
    shares: Vec<Portion>,
    time: Duration,
}

struct Portion {
    tenant: TenantId,
    task: Option<TaskId>,
    frames: u32,
}

impl Bill {
    /// Creates a bill for clips, each with its tenant, task and frames. Clips of one tenant and task are neighbours in a batch.
    pub(super) fn new<'a>(
        account: Arc<dyn Account>,
        clips: impl Iterator<Item = (&'a TenantId, Option<&'a TaskId>, usize)>,
    ) -> Self {
        let mut shares: Vec<Portion> = Vec::new();
        for (tenant, task, frames) in clips {
            let frames = u32::try_from(frames).unwrap_or(u32::MAX);
            match shares.last_mut() {
                Some(own) if own.tenant == *tenant && own.task.as_ref() == task => {
                    own.frames = own.frames.saturating_add(frames);
                }
                Some(_) | None => shares.push(Portion {
                    tenant: tenant.clone(),
                    task: task.cloned(),
                    frames,
                }),
            }
        }
        Self {
            account,
            shares,
            time: Duration::ZERO,
        }
    }

    /// Adds device time.
    pub(super) fn add(&mut self, time: Duration) {
        self.time = self.time.saturating_add(time);
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let frames = |own: &Portion| u64::from(own.frames);
        let all: u64 = self.shares.iter().map(frames).sum();
        for own in &self.shares {
            let part = frames(own) as f64 / all.max(1) as f64;
            let time = self.time.mul_f64(part);
            if !time.is_zero() {
                self.account.computed(&own.tenant, own.task.as_ref(), time);
            }
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

    fn clips(&self, _: &TenantId) -> Option<usize> {
        None
    }

    fn answered(&self, _: &TenantId, _: Option<&TaskId>, _: u64) {}
}

impl Ledger for Free {
    fn computed(&self, _: &TenantId, _: Option<&TaskId>, _: Duration) {}

    fn decoded(&self, _: &TenantId, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(String, Option<String>, Duration)>>);

    impl Account for Noted {
        fn charge(&self, _: &TenantId, _: u64) -> Result<(), RateExceeded> {
            Ok(())
        }

        fn charge_again(&self, _: &TenantId, _: u64) -> Result<(), RateExceeded> {
            Ok(())
        }

        fn give_back(&self, _: &TenantId, _: u64) {}

        fn clips(&self, _: &TenantId) -> Option<usize> {
            None
        }

        fn answered(&self, _: &TenantId, _: Option<&TaskId>, _: u64) {}
    }

    impl Ledger for Noted {
        fn computed(&self, tenant: &TenantId, task: Option<&TaskId>, time: Duration) {
            let task = task.map(ToString::to_string);
            let noted = (tenant.to_string(), task, time);
            self.0.lock().unwrap().push(noted);
        }

        fn decoded(&self, _: &TenantId, _: Duration) {}
    }

    #[test]
    fn a_batch_is_billed_by_the_frames_of_each_tenant_and_task() {
        let noted = Arc::new(Noted::default());
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let task: TaskId = "t".parse().unwrap();
        let clips = [
            (&a, Some(&task), 8),
            (&a, Some(&task), 4),
            (&b, Some(&task), 4),
            (&b, None, 16),
        ];
        let mut bill = Bill::new(noted.clone(), clips.into_iter());
        bill.add(Duration::from_millis(20));
        bill.add(Duration::from_millis(44));
        assert!(noted.0.lock().unwrap().is_empty());
        drop(bill);
        let name = || Some("t".to_owned());
        let expected = [("a", name(), 24), ("b", name(), 8), ("b", None, 32)]
            .map(|(tenant, task, millis)| (tenant.to_owned(), task, Duration::from_millis(millis)));
        assert_eq!(*noted.0.lock().unwrap(), expected);
        // What never ran costs nothing.
        drop(Bill::new(noted.clone(), clips.into_iter()));
        assert_eq!(noted.0.lock().unwrap().len(), 3);
    }
}
