//! Tracks whether several tenants or classes of requests share the device at present, so that batches have to leave room for others: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O.

use std::time::Duration;

use crate::fair::Class;
use crate::ids::TenantId;

/// Time after its last request in which a tenant's next request is expected.
const WINDOW: Duration = Duration::from_secs(60);

/// The tenant and class of the last request, and the time when these last changed. Times count from any common origin.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    last: Option<(TenantId, Class)>,
    changed: Option<Duration>,
}

impl Sharing {
    /// Records a tenant's request at the time `now`.
    pub(in crate::engine) fn asked(&mut self, (tenant, class): (&TenantId, Class), now: Duration) {
        let is_same = |(own, last): &(TenantId, Class)| own == tenant && *last == class;
        if self.last.as_ref().is_some_and(is_same) {
            return;
        }
        if self.last.replace((tenant.clone(), class)).is_some() {
            self.changed = Some(now);
        }
    }

    /// Returns whether more than one tenant, or one tenant in both classes, sent requests within the last minute.
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
            sharing.asked((&flood, Class::Interactive), at(second));
            assert!(!sharing.is_shared(at(second)));
        }
        sharing.asked((&quiet, Class::Interactive), at(100));
        sharing.asked((&flood, Class::Interactive), at(101));
        for second in 101..161 {
            sharing.asked((&flood, Class::Interactive), at(second));
            assert!(sharing.is_shared(at(second)));
        }
        assert!(!sharing.is_shared(at(161)));
    }

    #[test]
    fn one_tenant_with_both_classes_shares_the_device_with_itself() {
        let tenant: TenantId = "a".parse().expect("a tenant");
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        sharing.asked((&tenant, Class::Batch), at(0));
        assert!(!sharing.is_shared(at(1)));
        sharing.asked((&tenant, Class::Interactive), at(2));
        assert!(sharing.is_shared(at(3)));
    }
}
