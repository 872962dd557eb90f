//! Tracks whether several tenants share the device at present, so that batches have to leave room for others: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O.

use std::time::Duration;

use crate::ids::TenantId;

/// Time after its last request in which a tenant's next request is expected.
const WINDOW: Duration = Duration::from_secs(60);

/// The last tenant that sent a request, and the time when that tenant last changed. Times count from any common origin.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    last: Option<TenantId>,
    changed: Option<Duration>,
}

impl Sharing {
    /// Records a tenant's request at the time `now`.
    pub(in crate::engine) fn asked(&mut self, tenant: &TenantId, now: Duration) {
        if self.last.as_ref() == Some(tenant) {
            return;
        }
        if self.last.replace(tenant.clone()).is_some() {
            self.changed = Some(now);
        }
    }

    /// Returns whether more than one tenant sent requests within the last minute.
    pub(in crate::engine) fn is_shared(&self, now: Duration) -> bool {
        self.changed
            .is_some_and(|changed| now.saturating_sub(changed) < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_shared_for_a_minute_after_another_tenant_asked() {
        let tenant = |name: &str| name.parse::<TenantId>().expect("a tenant");
        let (flood, quiet) = (tenant("flood"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        assert!(!sharing.is_shared(at(0)));
        for second in 0..100 {
            sharing.asked(&flood, at(second));
            assert!(!sharing.is_shared(at(second)));
        }
        sharing.asked(&quiet, at(100));
        sharing.asked(&flood, at(101));
        for second in 101..161 {
            sharing.asked(&flood, at(second));
            assert!(sharing.is_shared(at(second)));
        }
        assert!(!sharing.is_shared(at(161)));
    }
}
