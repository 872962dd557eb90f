//! Start-time fair queueing: tenants share a server by weight, whatever they ask for and however much of it. Pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. No entry is lost or doubled, entries of a tenant keep their order, and a tenant without entries
//! gains nothing by waiting.

mod class;
mod ledger;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::ops::Bound::{Excluded, Unbounded};

use crate::ids::TenantId;

pub use class::{Class, RUN, Turns};
pub use ledger::{Ledger, NoLedger};

/// A point of the queue's virtual time: service in units of cost for each unit of weight, times [`UNIT`].
type Tag = u128;

/// Virtual time of one unit of cost at weight 1: a power of two so large that rounding the quotients of large weights never shows.
const UNIT: Tag = 1 << 32;

/// Most tenants without entries whose service is remembered. They gain by leaving only when more of them than that come and go within one busy period.
const REMEMBERED: usize = 256;

/// A tenant's share of the server, relative to the other tenants' weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The weight of a tenant for which nothing else was set.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// Creates a weight.
    pub fn new(weight: NonZeroU32) -> Self {
        Self(weight)
    }

    /// Returns the weight as a number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    fn number(self) -> u64 {
        self.0.get().into()
    }

    /// Virtual time that service of this cost takes.
    fn time_of(self, cost: u64) -> Tag {
        Tag::from(cost) * UNIT / Tag::from(self.number())
    }

    /// Cost that a tenant of this weight is served while one of `other` weight is served `cost`, rounded up.
    fn beside(self, cost: u64, other: Self) -> u64 {
        let own = u128::from(cost) * u128::from(self.0.get());
        u64::try_from(own.div_ceil(u128::from(other.0.get()))).unwrap_or(u64::MAX)
    }
}

/// Source of the tenants' weights, asked whenever a tenant gets an entry.
pub trait Weights: Send + Sync + std::fmt::Debug {
    /// Returns the weight of a tenant.
    fn of(&self, tenant: &TenantId) -> Weight;
}

/// Weights that are the same for every tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Equal;

impl Weights for Equal {
    fn of(&self, _: &TenantId) -> Weight {
        Weight::ONE
    }
}

/// What [`Queue::take`] does with the first entry of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Takes the entry; the tenant is charged its cost.
    Take,
    /// Leaves the entry where it is and goes on with the next tenant; the tenant keeps its place.
    Pass,
    /// Takes the entry out as one that nobody wants any more, without a charge, and goes on.
    Discard,
}

/// The time from a tenant's coming to its being forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay(u64);

/// An entry that was taken, and where its tenant was charged for it.
#[derive(Debug)]
pub struct Taken<T> {
    /// The tenant.
    pub tenant: TenantId,
    /// What the tenant had added.
    pub item: T,
    /// The stay of the tenant in which it was charged.
    pub stay: Stay,
}

/// Entries of all tenants that wait for one server.
///
/// Every tenant has a start tag: the virtual time at which its first entry may begin, S = max(V, F), with V the virtual time at which it came and F the
/// tag at which the tenant's last service ended, F = S + cost / weight. The entry with the smallest start tag is next; of equal ones, the oldest. Over
/// any time in which two tenants always have entries, their services divided by their weights differ by no more than one largest cost of each, divided
/// by its weight.
///
/// V is the start tag of the entry that was taken last, so that a tenant which comes is next. When that entry was the first of a tenant that had none
/// before, V moves on by its cost divided by the weights of all tenants with entries: so ever new tenants do not keep a waiting one from its turn.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: HashMap<TenantId, Lane<T>>,
    /// First entries, next one first.
    order: BTreeSet<Turn>,
    /// Tenants without entries whose last service ends in the future of the virtual time, and when it does.
    idle: BTreeSet<(Tag, TenantId)>,
    /// The virtual time, V.
    now: Tag,
    /// Sum of the weights of the tenants with entries.
    weights: u64,
    arrivals: u64,
    len: usize,
}

/// A tenant's entries.
#[derive(Debug)]
struct Lane<T> {
    stay: Stay,
    weight: Weight,
    /// Start tag of the first entry; without entries, the end of the last service.
    start: Tag,
    /// The virtual time at which the tenant came: no correction brings its start before that.
    came: Tag,
    /// Whether an entry was served since the tenant last had none.
    has_begun: bool,
    entries: VecDeque<Entry<T>>,
    /// Sum of the entries' costs.
    cost: u64,
}

#[derive(Debug)]
struct Entry<T> {
    arrival: u64,
    cost: u64,
    item: T,
}

/// Place of a tenant in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    start: Tag,
    /// Arrival of the first entry, which no other entry has.
    arrival: u64,
    tenant: TenantId,
}

impl<T> Lane<T> {
    fn turn(&self, tenant: &TenantId) -> Option<Turn> {
        let first = self.entries.front()?;
        Some(Turn {
            start: self.start,
            arrival: first.arrival,
            tenant: tenant.clone(),
        })
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            order: BTreeSet::new(),
            idle: BTreeSet::new(),
            now: 0,
            weights: 0,
            arrivals: 0,
            len: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of a tenant's entries.
    pub fn len_of(&self, tenant: &TenantId) -> usize {
        self.lanes.get(tenant).map_or(0, |lane| lane.entries.len())
    }

    /// A tenant's first entry.
    pub fn first_of(&self, tenant: &TenantId) -> Option<&T> {
        let first = self.lanes.get(tenant)?.entries.front()?;
        Some(&first.item)
    }

    /// Cost of the service that a tenant had before its turn, measured from the tenant that waits longest for its own; 0 for a tenant without entries.
    pub fn lead_of(&self, tenant: &TenantId) -> u64 {
        // The virtual time alone goes on with each tenant that comes, also while one waits.
        let first = self.order.first().map_or(self.now, |turn| turn.start);
        let first = first.min(self.now);
        let lane = self.lanes.get(tenant);
        let waiting = lane.filter(|lane| !lane.entries.is_empty());
        waiting.map_or(0, |lane| {
            let before = lane.start.saturating_sub(first);
            let cost = before.saturating_mul(Tag::from(lane.weight.number())) / UNIT;
            u64::try_from(cost).unwrap_or(u64::MAX)
        })
    }

    /// Adds an entry behind its tenant's others. A cost of 0 counts as 1. The weight replaces the one that the tenant came with before.
    pub fn push(&mut self, (tenant, weight): (&TenantId, Weight), cost: u64, item: T) {
        let cost = cost.max(1);
        let entry = Entry {
            arrival: self.arrivals,
            cost,
            item,
        };
        // No other entry has this number, so no other stay begins with it.
        let stay = Stay(self.arrivals);
        self.arrivals += 1;
        self.len += 1;
        let now = self.now;
        let lane = self.lanes.entry(tenant.clone()).or_insert_with(|| Lane {
            stay,
            weight,
            start: now,
            came: now,
            has_begun: false,
            entries: VecDeque::new(),
            cost: 0,
        });
        if lane.entries.is_empty() {
            self.idle.remove(&(lane.start, tenant.clone()));
            lane.start = lane.start.max(now);
            lane.came = now;
            lane.has_begun = false;
        } else {
            self.weights -= lane.weight.number();
        }
        lane.weight = weight;
        self.weights += weight.number();
        lane.cost = lane.cost.saturating_add(cost);
        lane.entries.push_back(entry);
        if lane.entries.len() == 1 {
            self.order.extend(lane.turn(tenant));
        }
    }

    /// Takes the first entry in the queue's order that `judge` takes, looking at the first entry of each tenant; what `judge` discards goes to
    /// `discarded`.
    pub fn take(
        &mut self,
        mut judge: impl FnMut(&T) -> Verdict,
        discarded: &mut Vec<T>,
    ) -> Option<Taken<T>> {
        let mut passed: Option<Turn> = None;
        loop {
            let begin = passed.as_ref().map_or(Unbounded, Excluded);
            let turn = self.order.range((begin, Unbounded)).next()?.clone();
            let first = self.lanes.get(&turn.tenant)?.entries.front()?;
            match judge(&first.item) {
                Verdict::Pass => passed = Some(turn),
                Verdict::Discard => {
                    discarded.extend(self.pop(&turn.tenant, false).map(|entry| entry.item));
                }
                Verdict::Take => return self.take_of(&turn.tenant),
            }
        }
    }

    /// Takes a tenant's first entry out of the queue's order; the tenant is charged for it, so that others go before it afterwards.
    pub fn take_of(&mut self, tenant: &TenantId) -> Option<Taken<T>> {
        let stay = self.lanes.get(tenant)?.stay;
        let entry = self.pop(tenant, true)?;
        Some(Taken {
            tenant: tenant.clone(),
            item: entry.item,
            stay,
        })
    }

    /// Takes out a tenant's first entry if it is `unwanted`, without a charge.
    pub fn discard_of(
        &mut self,
        tenant: &TenantId,
        unwanted: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        if !unwanted(self.first_of(tenant)?) {
            return None;
        }
        self.pop(tenant, false).map(|entry| entry.item)
    }

    /// Takes out a tenant's entries that are `unwanted`, without a charge.
    pub fn remove(&mut self, tenant: &TenantId, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(tenant) else {
            return Vec::new();
        };
        let before = lane.turn(tenant);
        let mut removed = Vec::new();
        let mut kept = VecDeque::with_capacity(lane.entries.len());
        for entry in lane.entries.drain(..) {
            if unwanted(&entry.item) {
                lane.cost -= entry.cost;
                removed.push(entry.item);
            } else {
                kept.push_back(entry);
            }
        }
        lane.entries = kept;
        self.len -= removed.len();
        if let (false, Some(before)) = (removed.is_empty(), before) {
            self.reorder(&before, tenant);
        }
        removed
    }

    /// Takes out everything, and forgets every tenant.
    pub fn clear(&mut self) -> Vec<T> {
        let arrivals = self.arrivals;
        let lanes = std::mem::take(self).lanes.into_values();
        self.arrivals = arrivals;
        let entries = lanes.flat_map(|lane| lane.entries);
        entries.map(|entry| entry.item).collect()
    }

    /// Corrects what a tenant was charged in one of its stays for an entry that was taken, once its true cost is known; `None` stands for no charge. A tenant
    /// that was forgotten meanwhile, because nobody else waited, owes nothing; when it has come again, what was charged too much before is not given back.
    pub fn settle(&mut self, tenant: &TenantId, (stay, charged): (Option<Stay>, u64), cost: u64) {
        let Some(lane) = self.lanes.get_mut(tenant) else {
            return;
        };
        let before = lane.turn(tenant);
        let owed = lane.start;
        let more = lane.weight.time_of(cost.max(1));
        let less = lane.weight.time_of(charged.max(1));
        // Nobody gets credit for the time before.
        let least = match stay == Some(lane.stay) {
            true => lane.came,
            false => owed,
        };
        lane.start = owed.saturating_add(more).saturating_sub(less).max(least);
        match before {
            Some(before) => self.reorder(&before, tenant),
            None => {
                self.idle.remove(&(owed, tenant.clone()));
                self.retire(tenant);
            }
        }
    }

    /// Notes that the server found nothing to do: the busy period is over, and what tenants owe each other is forgotten.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.lanes.clear();
            self.idle.clear();
            self.now = 0;
        }
    }

    /// Cost that is served up to the end of a new entry of this cost and tenant, when everybody gets their share and nothing else arrives.
    pub fn ahead(&self, (tenant, weight): (&TenantId, Weight), cost: u64) -> u64 {
        let own = self.lanes.get(tenant).map_or(0, |lane| lane.cost);
        let own = own.saturating_add(cost.max(1));
        let others = self.lanes.iter().filter(|(other, _)| *other != tenant);
        others.fold(own, |sum, (_, lane)| {
            sum.saturating_add(lane.cost.min(lane.weight.beside(own, weight)))
        })
    }

    /// Sum of the entries' costs.
    pub fn cost(&self) -> u64 {
        let costs = self.lanes.values().map(|lane| lane.cost);
        costs.fold(0, u64::saturating_add)
    }

    /// Takes out a tenant's first entry, and charges the tenant for it or not.
    fn pop(&mut self, tenant: &TenantId, is_charged: bool) -> Option<Entry<T>> {
        let lane = self.lanes.get_mut(tenant)?;
        let before = lane.turn(tenant)?;
        let entry = lane.entries.pop_front()?;
        lane.cost -= entry.cost;
        self.len -= 1;
        if is_charged {
            let first = self.order.first().map_or(lane.start, |turn| turn.start);
            self.now = self.now.max(first);
            if !lane.has_begun {
                let shared = Tag::from(entry.cost) * UNIT / Tag::from(self.weights.max(1));
                self.now = self.now.saturating_add(shared);
            }
            let time = lane.weight.time_of(entry.cost);
            lane.start = lane.start.saturating_add(time);
            lane.has_begun = true;
        }
        self.reorder(&before, tenant);
        Some(entry)
    }

    /// Puts a tenant that had entries, and whose entries or tag changed, into its place.
    fn reorder(&mut self, before: &Turn, tenant: &TenantId) {
        self.order.remove(before);
        let Some(lane) = self.lanes.get(tenant) else {
            return;
        };
        let turn = lane.turn(tenant);
        if turn.is_none() {
            self.weights -= lane.weight.number();
            return self.retire(tenant);
        }
        self.order.extend(turn);
        self.forget();
    }

    /// Remembers until when a tenant without entries has been served.
    fn retire(&mut self, tenant: &TenantId) {
        if let Some(lane) = self.lanes.get(tenant) {
            self.idle.insert((lane.start, tenant.clone()));
        }
        self.forget();
    }

    /// Forgets tenants whose last service has ended, and those who owe least when there are too many.
    fn forget(&mut self) {
        while let Some((end, tenant)) = self.idle.pop_first() {
            if end > self.now && self.idle.len() < REMEMBERED {
                self.idle.insert((end, tenant));
                return;
            }
            self.lanes.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests;
