//! Table of the sets: the state of each, and the order of eviction.
//!
//! Invariant: pure bookkeeping under the residency's lock; what leaves the table is returned, so that the caller drops it after the lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::proven::Proven;
use super::{Loading, Need, Pin, Resident};
use crate::engine::warmup::Awaited;
use crate::engine::{Error, ResidencyRecord};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::telemetry;

/// Most quarantined sets that are remembered; beyond it the oldest is forgotten, and loaded again when it is requested.
const QUARANTINED: usize = 1024;

/// State of a version in the table.
pub(super) enum Slot {
    /// The version is being loaded. The number identifies the load, so that an abandoned load cannot replace the set of a later one.
    Loading(u64, Loading, Awaited),
    /// The set is in memory and warmed up.
    Resident(Entry),
    /// The version is quarantined.
    Quarantined(Refused),
}

/// A resident set, and the time of its last use.
pub(super) struct Entry {
    pub(super) pin: Pin,
    used: u64,
    last_used: SystemTime,
    exam: Exam,
}

/// Whether a resident set is suspected, because a clip failed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exam {
    /// The set is not suspected.
    None,
    /// A clip failed, and the set is to be warmed up again.
    Asked,
    /// The set is being warmed up again.
    Running,
}

/// A quarantined version.
pub(super) struct Refused {
    pub(super) reason: Arc<str>,
    /// Whether the version's file differs from what was published.
    pub(super) is_damaged: bool,
    at: u64,
    since: SystemTime,
}

/// States of all versions, and the bytes of their sets.
#[derive(Default)]
pub(super) struct State {
    pub(super) slots: HashMap<VersionRef, Slot>,
    /// Bytes of every set that is not freed yet, in the table or not.
    pub(super) live: u64,
    /// Bytes of sets that are being warmed up.
    pub(super) reserved: u64,
    /// Bytes of the sets that wait for room, in the order in which they began to.
    pub(super) claims: BTreeMap<u64, u64>,
    /// Bytes of those of them whose load has given its turn away.
    pub(super) waiting: u64,
    /// Versions whose sets make room for others only when there is no other way.
    pub(super) pinned: HashSet<VersionRef>,
    /// Versions that were looked for in vain by those that load nothing.
    pub(super) missed: HashSet<VersionRef>,
    /// Versions that need no warm-up when they are loaded again.
    pub(super) proven: Proven,
    tenants: HashMap<TenantId, u64>,
    clock: u64,
}

/// A resident set in the order in which sets make room: those that are kept last, those in use before them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Leaving {
    is_kept: bool,
    is_in_use: bool,
    used: u64,
    version: VersionRef,
    bytes: u64,
}

impl Entry {
    /// Records that the set is used at tick `used`.
    pub(super) fn touch(&mut self, used: u64) {
        self.used = used;
        self.last_used = telemetry::now();
    }

    fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }
}

impl Refused {
    /// Returns the error of a request for the version.
    pub(super) fn error(&self, version: &VersionRef) -> Error {
        let (version, reason) = (version.clone(), self.reason.clone());
        match self.is_damaged {
            true => Error::Damaged { version, reason },
            false => Error::Quarantined { version, reason },
        }
    }
}

impl State {
    /// Returns a number larger than all earlier ones.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Adds to a tenant's bytes. Returns the sum.
    pub(super) fn of_tenant(&mut self, tenant: &TenantId, bytes: i128) -> u64 {
        let sum = i128::from(self.tenants.get(tenant).copied().unwrap_or(0)) + bytes;
        let sum = u64::try_from(sum).unwrap_or(0);
        if sum == 0 {
            self.tenants.remove(tenant);
        } else {
            self.tenants.insert(tenant.clone(), sum);
        }
        sum
    }

    /// Adds a warmed-up set to the table. One that nobody needs is the first to make room, until it is used.
    pub(super) fn insert(&mut self, pin: Pin, need: Need) {
        pin.room.list(&mut self.reserved);
        let used = match need {
            Need::Request | Need::Move => self.tick(),
            Need::Spare => 0,
        };
        let entry = Entry {
            used,
            last_used: telemetry::now(),
            pin: pin.clone(),
            exam: Exam::None,
        };
        self.slots
            .insert(pin.version.clone(), Slot::Resident(entry));
    }

    /// Bytes that sets claim which began to wait for room before this claim.
    pub(super) fn claimed_before(&self, claim: u64) -> u64 {
        self.claims.range(..claim).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of the sets in the table and of those that are being warmed up: what is left when all removed sets are gone.
    pub(super) fn kept(&self) -> u64 {
        let resident = self.slots.values().map(|slot| match slot {
            Slot::Resident(entry) => entry.pin.bytes(),
            Slot::Loading(..) | Slot::Quarantined(_) => 0,
        });
        resident.sum::<u64>() + self.reserved
    }

    /// Removes sets until `bytes` more would fit once the pins of the removed sets are gone. Returns the removed sets.
    pub(super) fn evict(&mut self, bytes: u64, budget: u64) -> Vec<Pin> {
        if self.kept() + bytes <= budget {
            return Vec::new();
        }
        let mut listed = Vec::new();
        for (version, slot) in &self.slots {
            if let Slot::Resident(entry) = slot {
                listed.push(Leaving {
                    is_kept: self.pinned.contains(version),
                    is_in_use: entry.is_pinned(),
                    used: entry.used,
                    version: version.clone(),
                    bytes: entry.pin.bytes(),
                });
            }
        }
        listed.sort();
        let mut total: u64 = listed.iter().map(|own| own.bytes).sum::<u64>() + self.reserved;
        let kept = listed.iter().filter(|own| own.is_kept);
        // A set that does not fit beside those that are kept takes their room: it would never find room.
        let is_too_large = kept.map(|own| own.bytes).sum::<u64>() + bytes > budget;
        let mut evicted = Vec::new();
        for own in listed {
            if total + bytes <= budget || (own.is_kept && !is_too_large) {
                break;
            }
            if let Some(Slot::Resident(entry)) = self.slots.remove(&own.version) {
                total -= own.bytes;
                evicted.push(entry.pin);
            }
        }
        evicted
    }

    /// Quarantines a version. Returns its previous state.
    pub(super) fn refuse(
        &mut self,
        version: &VersionRef,
        reason: Arc<str>,
        is_damaged: bool,
    ) -> Option<Slot> {
        let at = self.tick();
        self.proven.remove(version);
        let refused = self.slots.iter().filter_map(|(version, slot)| match slot {
            Slot::Quarantined(entry) => Some((entry.at, version)),
            Slot::Loading(..) | Slot::Resident(_) => None,
        });
        let refused: Vec<_> = refused.collect();
        if refused.len() >= QUARANTINED
            && let Some(oldest) = refused.iter().min().map(|(_, version)| (*version).clone())
        {
            self.slots.remove(&oldest);
        }
        let entry = Refused {
            reason,
            is_damaged,
            at,
            since: telemetry::now(),
        };
        self.slots.insert(version.clone(), Slot::Quarantined(entry))
    }

    /// Quarantines a set, if it is still the one in the table. Returns the previous state.
    pub(super) fn quarantine(&mut self, set: &Resident, reason: Arc<str>) -> Option<Slot> {
        match self.slots.get(&set.version) {
            Some(Slot::Resident(entry)) if entry.pin.id == set.id => {
                self.refuse(&set.version, reason, false)
            }
            Some(Slot::Resident(_) | Slot::Loading(..) | Slot::Quarantined(_)) | None => None,
        }
    }

    /// Returns whether the load of this number still owns the version's slot.
    pub(super) fn is_loading(&self, version: &VersionRef, load: u64) -> bool {
        matches!(self.slots.get(version), Some(Slot::Loading(own, ..)) if *own == load)
    }

    /// Marks a set as suspected, if it is still the one in the table.
    pub(super) fn suspect(&mut self, set: &Resident) {
        self.proven.remove(&set.version);
        if let Some(entry) = self.entry(set)
            && entry.exam == Exam::None
        {
            entry.exam = Exam::Asked;
        }
    }

    /// Returns the sets that are to be warmed up again, each once.
    pub(super) fn take_suspects(&mut self) -> Vec<Pin> {
        let asked = self.slots.values_mut().filter_map(|slot| match slot {
            Slot::Resident(entry) if entry.exam == Exam::Asked => {
                entry.exam = Exam::Running;
                Some(entry.pin.clone())
            }
            Slot::Resident(_) | Slot::Loading(..) | Slot::Quarantined(_) => None,
        });
        asked.collect()
    }

    /// Lifts the suspicion from a set that has passed a warm-up, or whose warm-up failed through no fault of the set.
    pub(super) fn acquit(&mut self, set: &Resident) {
        if let Some(entry) = self.entry(set) {
            entry.exam = Exam::None;
        }
    }

    fn entry(&mut self, set: &Resident) -> Option<&mut Entry> {
        match self.slots.get_mut(&set.version) {
            Some(Slot::Resident(entry)) if entry.pin.id == set.id => Some(entry),
            Some(Slot::Resident(_) | Slot::Loading(..) | Slot::Quarantined(_)) | None => None,
        }
    }

    /// Returns the versions of a task in the table.
    pub(super) fn of_task(&self, tenant: &TenantId, task: &TaskId) -> Vec<VersionRef> {
        let versions = self.slots.keys();
        let own = versions.filter(|version| version.tenant == *tenant && version.task == *task);
        own.cloned().collect()
    }

    /// Removes all sets of a task and returns them; a load in progress finds its slot gone and adds nothing.
    pub(super) fn take_task(&mut self, tenant: &TenantId, task: &TaskId) -> Vec<Slot> {
        let own = self.of_task(tenant, task);
        own.iter()
            .filter_map(|version| self.slots.remove(version))
            .collect()
    }

    /// Returns the records of a tenant's sets, sorted by version.
    pub(super) fn records(&self, tenant: Option<&TenantId>) -> Vec<ResidencyRecord> {
        let own = self
            .slots
            .iter()
            .filter(|(version, _)| tenant.is_none_or(|own| version.tenant == *own));
        let mut records: Vec<ResidencyRecord> = own
            .filter_map(|(version, slot)| match slot {
                Slot::Loading(..) => None,
                Slot::Resident(entry) => Some(ResidencyRecord {
                    version: version.clone(),
                    bytes: entry.pin.bytes(),
                    last_used: entry.last_used,
                    is_pinned: self.pinned.contains(version),
                    quarantine: None,
                }),
                Slot::Quarantined(entry) => Some(ResidencyRecord {
                    version: version.clone(),
                    bytes: 0,
                    last_used: entry.since,
                    is_pinned: false,
                    quarantine: Some(entry.reason.clone()),
                }),
            })
            .collect();
        records.sort_by(|a, b| a.version.cmp(&b.version));
        records
    }
}
