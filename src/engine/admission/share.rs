//! Decides who gets room in the queue, and whose limit is reached when there is none: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. What was granted never exceeds the capacity. A tenant that is alone may hold all but the reserve;
//! one that holds nothing finds the reserve, and one that holds little finds a part of half of it; and while a tenant below its share waits, nobody above theirs
//! gets more.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::Limit;
use crate::fair::Class;
use crate::ids::TenantId;

/// The reserve for tenants that hold nothing is the capacity divided by this, rounded up.
const RESERVE: usize = 8;
/// A tenant may hold the reserve divided by this and by the number of tenants that ask when others hold the rest of the queue, so that what it sends at once is
/// not refused beside them, and half of the reserve is left for those that hold nothing.
const LITTLE: usize = 2;
/// Time after a refusal in which a tenant counts as one that wants room: ten times the pause that RetryInfo asks for.
const WANTS: Duration = Duration::from_secs(2);
/// Most tenants without room that count as wanting some.
const WANTING: usize = 64;

/// Amounts that a request takes, or that the queue has in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::engine) struct Demand {
    /// Number of clips.
    pub(in crate::engine) clips: usize,
    /// Bytes that their planes take, which are in proportion to their frames.
    pub(in crate::engine) bytes: u64,
}

impl Demand {
    const NOTHING: Self = Self { clips: 0, bytes: 0 };

    fn plus(self, other: Self) -> Self {
        Self {
            clips: self.clips.saturating_add(other.clips),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            clips: self.clips.saturating_sub(other.clips),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Returns one of a number of equal parts, rounded down.
    fn part(self, of: usize) -> Self {
        Self {
            clips: self.clips / of.max(1),
            bytes: self.bytes / of.max(1) as u64,
        }
    }

    /// Returns all but one of a number of equal parts; that one is rounded up.
    fn without_part(self, of: usize) -> Self {
        Self {
            clips: self.clips - self.clips.div_ceil(of.max(1)),
            bytes: self.bytes - self.bytes.div_ceil(of.max(1) as u64),
        }
    }

    pub(in crate::engine) fn is_within(self, other: Self) -> bool {
        self.clips <= other.clips && self.bytes <= other.bytes
    }
}

/// What is held and wanted.
#[derive(Debug)]
pub(in crate::engine) struct Books {
    capacity: Demand,
    used: Demand,
    /// Part of `used` that requests of the batch class hold.
    batch: Demand,
    /// Tenants that hold something or want something.
    tenants: HashMap<TenantId, Account>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    held: Demand,
    /// What the tenant was refused last because others hold the queue, and when; times count from any common beginning.
    wanted: Option<(Demand, Duration)>,
}

impl Account {
    fn wants(&self, now: Duration) -> Option<Demand> {
        let (wanted, at) = self.wanted?;
        (now.saturating_sub(at) < WANTS).then_some(wanted)
    }
}

impl Books {
    pub(in crate::engine) fn new(capacity: Demand) -> Self {
        Self {
            capacity,
            used: Demand::NOTHING,
            batch: Demand::NOTHING,
            tenants: HashMap::new(),
        }
    }

    /// What all tenants hold.
    pub(in crate::engine) fn used(&self) -> Demand {
        self.used
    }

    /// What a tenant holds.
    pub(in crate::engine) fn held(&self, tenant: &TenantId) -> Demand {
        let account = self.tenants.get(tenant);
        account.map_or(Demand::NOTHING, |account| account.held)
    }

    /// Whether nobody holds anything.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.used == Demand::NOTHING
    }

    /// Grants the whole demand, or says whose limit refuses it.
    pub(in crate::engine) fn grant(
        &mut self,
        (tenant, class): (&TenantId, Class),
        demand: Demand,
        now: Duration,
    ) -> Result<(), Limit> {
        if let Some(limit) = self.refusal((tenant, class), demand, now) {
            if limit == Limit::Queue {
                self.want(tenant, demand, now);
            }
            return Err(limit);
        }
        let account = self.tenants.entry(tenant.clone()).or_default();
        account.held = account.held.plus(demand);
        account.wanted = None;
        self.used = self.used.plus(demand);
        if class == Class::Batch {
            self.batch = self.batch.plus(demand);
        }
        Ok(())
    }

    /// Takes back what was granted.
    pub(in crate::engine) fn release(
        &mut self,
        (tenant, class): (&TenantId, Class),
        demand: Demand,
    ) {
        self.used = self.used.minus(demand);
        if class == Class::Batch {
            self.batch = self.batch.minus(demand);
        }
        if let Some(account) = self.tenants.get_mut(tenant) {
            account.held = account.held.minus(demand);
            if account.held == Demand::NOTHING && account.wanted.is_none() {
                self.tenants.remove(tenant);
            }
        }
    }

    fn refusal(
        &self,
        (tenant, class): (&TenantId, Class),
        demand: Demand,
        now: Duration,
    ) -> Option<Limit> {
        let held = self.held(tenant);
        let after = self.used.plus(demand);
        let half = self.capacity.minus(self.capacity.part(2));
        let batch = self.batch.plus(demand);
        if class == Class::Batch && self.batch != Demand::NOTHING && !batch.is_within(half) {
            return Some(Limit::Batch);
        }
        if held == Demand::NOTHING {
            return (!after.is_within(self.capacity)).then_some(Limit::Queue);
        }
        let most = self.capacity.without_part(RESERVE);
        let asking = self.asking(tenant, now);
        let share = most.part(asking);
        let is_below_share = held.plus(demand).is_within(share);
        let reserve = self.capacity.minus(most);
        let little = reserve.part(LITTLE * asking);
        // The parts become smaller as tenants come, so all of those that were granted may be more than what they are parts of.
        let left = self.capacity.minus(reserve.part(LITTLE));
        let is_little = held.plus(demand).is_within(little) && after.is_within(left);
        if !after.is_within(most) && !is_little {
            return Some(match (is_below_share, self.used == held) {
                (true, _) => Limit::Queue,
                (false, true) => Limit::Reserve,
                (false, false) => Limit::Share,
            });
        }
        (!is_below_share && self.is_wanted_by_others(tenant, share, now)).then_some(Limit::Share)
    }

    /// Number of tenants that hold or want room, this one among them.
    fn asking(&self, tenant: &TenantId, now: Duration) -> usize {
        let asks = |(other, account): &(&TenantId, &Account)| {
            *other != tenant && (account.held != Demand::NOTHING || account.wants(now).is_some())
        };
        1 + self.tenants.iter().filter(asks).count()
    }

    /// Whether another tenant wants at most its share and does not have it.
    fn is_wanted_by_others(&self, tenant: &TenantId, share: Demand, now: Duration) -> bool {
        self.tenants.iter().any(|(other, account)| {
            let is_owed = |wanted: Demand| {
                account.held == Demand::NOTHING || account.held.plus(wanted).is_within(share)
            };
            other != tenant && account.wants(now).is_some_and(is_owed)
        })
    }

    /// Notes that a tenant was refused because others hold the queue.
    fn want(&mut self, tenant: &TenantId, demand: Demand, now: Duration) {
        let is_there = |account: &Account| account.held != Demand::NOTHING;
        self.tenants
            .retain(|_, account| is_there(account) || account.wants(now).is_some());
        let wanting = self.tenants.values().filter(|own| !is_there(own)).count();
        if wanting < WANTING || self.tenants.contains_key(tenant) {
            let account = self.tenants.entry(tenant.clone()).or_default();
            account.wanted = Some((demand, now));
        }
    }
}

#[cfg(test)]
mod tests;
