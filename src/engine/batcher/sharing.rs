//! Whether tenants share the device at the time, so that a batch has to leave room for the other one: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O.

use std::time::Duration;

use crate::ids::TenantId;

/// How long after its last request a tenant is expected back.
const WINDOW: Duration = Duration::from_secs(60);

/// Who asked last, and when that was another tenant than before; times count from any common beginning.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    last: Option<TenantId>,
    changed: Option<Duration>,
}

impl Sharing {
    /// Notes a tenant's request.
    pub(in crate::engine) fn asked(&mut self, tenant: &TenantId, now: Duration) {
        if self.last.as_ref() == Some(tenant) {
            return;
        }
        if self.last.replace(tenant.clone()).is_some() {
            self.changed = Some(now);
        }
    }

    /// Whether more than one tenant asked lately.
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
