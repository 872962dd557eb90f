//! Tracks whether several tenants or classes of requests share the device at present, so that batches have to leave room for others, and whether one of
//! them asks for so little that it should hardly notice the others: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O; bounded: at most [`TENANTS`] tenants are looked at.

use std::collections::HashMap;
use std::time::Duration;

use crate::fair::Class;
use crate::ids::TenantId;

/// Time after its last request in which a tenant's next request is expected.
const WINDOW: Duration = Duration::from_secs(60);

/// Time after its last request in which a tenant that asks for little is cared for.
const QUIET: Duration = Duration::from_secs(10);
/// Most tenants that are looked at.
const TENANTS: usize = 256;
/// Weight of a request among those before it.
const NEWS: f64 = 1.0 / 8.0;

/// The tenant and class of the last request, and the time when these last changed. Times count from any common origin.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    last: Option<(TenantId, Class)>,
    changed: Option<Duration>,
    /// Tenants with interactive requests.
    lately: HashMap<TenantId, Lately>,
    /// The last request of the batch class.
    batch: Option<Duration>,
}

/// The last interactive requests of a tenant.
#[derive(Debug, Clone, Copy)]
struct Lately {
    /// Share of the requests that came when nothing of the tenant waited.
    light: f64,
    asked: Duration,
}

impl Lately {
    fn is_light(self) -> bool {
        self.light > 0.5
    }
}

impl Sharing {
    /// Records a tenant's request at the time `now`; `is_first` says that nothing of the tenant and class waited.
    pub(in crate::engine) fn asked(
        &mut self,
        (tenant, class): (&TenantId, Class),
        is_first: bool,
        now: Duration,
    ) {
        match class {
            Class::Interactive => self.look(tenant, is_first, now),
            Class::Batch => self.batch = Some(now),
        }
        let is_same = |(own, last): &(TenantId, Class)| own == tenant && *last == class;
        if self.last.as_ref().is_some_and(is_same) {
            return;
        }
        if self.last.replace((tenant.clone(), class)).is_some() {
            self.changed = Some(now);
        }
    }

    fn look(&mut self, tenant: &TenantId, is_first: bool, now: Duration) {
        let is_known = self.lately.contains_key(tenant);
        if !is_known && self.lately.len() >= TENANTS {
            self.lately.retain(|_, own| is_near(own.asked, now));
            if self.lately.len() >= TENANTS {
                return;
            }
        }
        let begin = Lately {
            light: 0.5,
            asked: now,
        };
        let own = self.lately.entry(tenant.clone()).or_insert(begin);
        own.light += NEWS * (f64::from(u8::from(is_first)) - own.light);
        own.asked = now;
    }

    /// Returns whether a tenant asked lately, beside others, whose interactive requests mostly find nothing of its own waiting: it asks for less than its
    /// share, and waits for the batches of others alone.
    pub(in crate::engine) fn has_light(&self, now: Duration) -> bool {
        let near = self.lately.values().filter(|own| is_near(own.asked, now));
        let (count, light) = near.fold((0, false), |(count, light), own| {
            (count + 1, light || own.is_light())
        });
        let is_beside = count > 1 || self.batch.is_some_and(|asked| is_near(asked, now));
        light && is_beside
    }

    /// Returns whether a tenant is one that [`Sharing::has_light`] finds.
    pub(in crate::engine) fn is_light(&self, tenant: &TenantId, now: Duration) -> bool {
        let own = self.lately.get(tenant);
        own.is_some_and(|own| own.is_light() && is_near(own.asked, now)) && self.has_light(now)
    }

    /// Returns whether more than one tenant, or one tenant in both classes, sent requests within the last minute.
    pub(in crate::engine) fn is_shared(&self, now: Duration) -> bool {
        self.changed
            .is_some_and(|changed| now.saturating_sub(changed) < WINDOW)
    }
}

fn is_near(asked: Duration, now: Duration) -> bool {
    now.saturating_sub(asked) < QUIET
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
            sharing.asked((&flood, Class::Interactive), false, at(second));
            assert!(!sharing.is_shared(at(second)));
        }
        sharing.asked((&quiet, Class::Interactive), true, at(100));
        sharing.asked((&flood, Class::Interactive), false, at(101));
        for second in 101..161 {
            sharing.asked((&flood, Class::Interactive), false, at(second));
            assert!(sharing.is_shared(at(second)));
        }
        assert!(!sharing.is_shared(at(161)));
    }

    #[test]
    fn one_tenant_with_both_classes_shares_the_device_with_itself() {
        let tenant: TenantId = "a".parse().expect("a tenant");
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        sharing.asked((&tenant, Class::Batch), true, at(0));
        assert!(!sharing.is_shared(at(1)));
        sharing.asked((&tenant, Class::Interactive), true, at(2));
        assert!(sharing.is_shared(at(3)));
    }

    #[test]
    fn a_tenant_that_finds_nothing_of_its_own_waiting_is_light_until_it_is_silent() {
        let tenant = |name: &str| name.parse::<TenantId>().expect("a tenant");
        let (one, other, quiet) = (tenant("one"), tenant("other"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_millis;
        // Two tenants with many callers find some of their own waiting, but for the first one.
        for millis in 0..1000 {
            for own in [&one, &other] {
                let is_first = millis % 50 == 0;
                sharing.asked((own, Class::Interactive), is_first, at(millis));
            }
            assert!(!sharing.has_light(at(millis)) || millis == 0);
        }
        sharing.asked((&quiet, Class::Batch), true, at(1000));
        assert!(!sharing.has_light(at(1000)));
        sharing.asked((&quiet, Class::Interactive), true, at(1000));
        sharing.asked((&one, Class::Interactive), false, at(1000));
        assert!(sharing.has_light(at(1000)) && sharing.has_light(at(10_999)));
        assert!(!sharing.has_light(at(11_000)));
        // As many tenants as there may be: those who have left make room.
        for number in 0..2 * TENANTS {
            let own = tenant(&format!("t{number}"));
            sharing.asked((&own, Class::Interactive), true, at(20_000));
        }
        assert_eq!(sharing.lately.len(), TENANTS);
        sharing.asked((&quiet, Class::Interactive), true, at(40_000));
        assert_eq!(sharing.lately.len(), 1);
    }

    #[test]
    fn a_tenant_that_is_alone_waits_for_nobody_and_beside_the_batch_class_for_that() {
        let tenant = |name: &str| name.parse::<TenantId>().expect("a tenant");
        let (one, quiet) = (tenant("one"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        sharing.asked((&quiet, Class::Interactive), true, at(1));
        assert!(!sharing.has_light(at(1)) && !sharing.is_light(&quiet, at(1)));
        sharing.asked((&one, Class::Batch), true, at(2));
        assert!(sharing.is_light(&quiet, at(2)) && !sharing.is_light(&one, at(2)));
        assert!(!sharing.is_light(&quiet, at(12)));
    }
}
