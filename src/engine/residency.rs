//! Adapter sets in memory within a budget of bytes: look-up, loading once, eviction, quarantine.
//!
//! Invariant: resident sets and those being warmed up never exceed the budget; a pinned set is never freed or overwritten; a set is quarantined only
//! after its warm-up failed twice in a row, without effect on others, and is not tried again until it is requested anew.

mod load;
mod proven;
mod room;
mod state;
mod turns;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

pub(super) use load::Loader;
use room::Room;
use state::{Slot, State};
use turns::Turns;

use super::warmup::{self, Awaited, Fault};
use super::{Error, ResidencyRecord};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::model::AdapterSet;
use crate::telemetry::Metrics;

/// Most loads at a time: each holds a file and a parsed set that do not count against the budget yet.
const LOADS: usize = 2;

/// Most sets at a time that are loaded before a request waits for them: while serving keeps the device busy their warm-ups take long, and each of them holds a
/// place in the device's queue and room in the budget.
const AHEAD: usize = 4;

/// Sets that wait for room while other loads go on take at most this part of the budget, unless it is only one.
const WAITING: u64 = 8;

/// Most loads of one tenant that wait for a turn because of requests that are admitted but not decoded.
const PREFETCHED: usize = 64;

/// Most shadow versions that are noted as not resident; the others are noted later.
const MISSED: usize = 64;

/// Adapter set in memory. A reference to it is a pin.
pub(super) struct Resident {
    /// Id of the load; every load has a different one.
    pub(super) id: u64,
    /// Version of the set.
    pub(super) version: VersionRef,
    /// Weights of the set.
    pub(super) set: Arc<AdapterSet>,
    /// Reservation of the set's bytes. It is freed after the weights, since fields are dropped in order.
    room: Room,
}

/// Reference to a resident set that keeps it from being freed.
pub(super) type Pin = Arc<Resident>;

/// Result of a load, for everybody who waits for it.
type Loading = watch::Receiver<Option<Result<Pin, Error>>>;

/// Table of adapter sets; clones share it.
#[derive(Clone)]
pub(super) struct Residency(Arc<Inner>);

struct Inner {
    budget: u64,
    loader: Loader,
    /// A plain mutex, because it is held for look-ups in memory and never across an await. A [`Resident`] is never dropped while it is held, since
    /// dropping its room takes the same mutex.
    state: Mutex<State>,
    /// Notified when room was freed, or a set became evictable.
    freed: Notify,
    /// Notified when a set came under suspicion.
    suspected: Notify,
    /// Turns of loads, fair by tenant.
    turns: Turns,
    /// Places of loads that no request waits for.
    ahead: Semaphore,
    metrics: Metrics,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For what a set is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// A request waits for the set, or will.
    Request,
    /// The set is to serve from then on; requests are answered without it until it is resident.
    Move,
    /// The set is welcome as long as nobody needs its room: it makes room first, and none is made for it.
    Spare,
}

/// Result of a look-up of a version.
enum Lookup {
    Pin(Pin),
    Refused(Error),
    Loading(Loading),
}

impl Residency {
    pub(super) fn new(budget: u64, loader: Loader, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            budget,
            state: Mutex::default(),
            freed: Notify::new(),
            suspected: Notify::new(),
            turns: Turns::new(LOADS, Arc::clone(&loader.weights)),
            ahead: Semaphore::new(AHEAD),
            loader,
            metrics,
        }))
    }

    /// Returns a pin of a set, after loading and warming it up when it is not resident. Dropping the future does not stop the load.
    ///
    /// # Errors
    /// [`Error::Quarantined`], [`Error::Damaged`], [`Error::NotFound`], [`Error::Load`], [`Error::TooLarge`], [`Error::Stopped`].
    pub(super) async fn acquire(&self, version: &VersionRef) -> Result<Pin, Error> {
        self.needed(version, Need::Request).await
    }

    /// Same as [`Residency::acquire`], but for a set that no request waits for: its load and its warm-up give way to requests until one does.
    ///
    /// # Errors
    /// Same as [`Residency::acquire`].
    pub(super) async fn acquire_ahead(&self, version: &VersionRef) -> Result<Pin, Error> {
        self.needed(version, Need::Move).await
    }

    async fn needed(&self, version: &VersionRef, need: Need) -> Result<Pin, Error> {
        loop {
            match self.outcome(version, need).await {
                // The load that was waited for was one for room to spare. The next one is not.
                Err(Error::NoRoom { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// Starts to load a set that a request will need, unless it is resident, is being loaded, or too many of the tenant's loads wait already. It counts as
    /// a use, so that the set is still there when the request comes.
    pub(super) fn prefetch(&self, version: &VersionRef) {
        if self.0.turns.waiting(&version.tenant) < PREFETCHED {
            drop(self.find(version, Need::Request));
        }
    }

    /// Starts to load a set that requests are answered without until it is resident. It counts as a use.
    pub(super) fn prefetch_ahead(&self, version: &VersionRef) {
        drop(self.find(version, Need::Move));
    }

    /// Same as [`Residency::acquire`], but loads the set only into room that is free, and does not count as a use: the set stays the first to make room.
    ///
    /// # Errors
    /// Same as [`Residency::acquire`]; [`Error::NoRoom`].
    pub(super) async fn acquire_spare(&self, version: &VersionRef) -> Result<Pin, Error> {
        self.outcome(version, Need::Spare).await
    }

    /// Returns a pin of a set if it is resident, like [`Residency::acquire_spare`]. One that is neither
    /// resident nor being loaded is noted, see [`Residency::missed`].
    ///
    /// # Errors
    /// [`Error::Quarantined`], [`Error::Damaged`], [`Error::NoRoom`].
    pub(super) fn spare(&self, version: &VersionRef) -> Result<Pin, Error> {
        let mut state = self.0.lock();
        let is_loading = match state.slots.get(version) {
            Some(Slot::Resident(entry)) => return Ok(entry.pin.clone()),
            Some(Slot::Quarantined(entry)) => return Err(entry.error(version)),
            Some(Slot::Loading(..)) => true,
            None => false,
        };
        if !is_loading && state.missed.len() < MISSED {
            state.missed.insert(version.clone());
        }
        Err(Error::NoRoom {
            version: version.clone(),
        })
    }

    /// Keeps these sets from making room for others, in place of those before. Returns those that are not in the table.
    pub(super) fn keep(&self, kept: HashSet<VersionRef>) -> Vec<VersionRef> {
        let mut state = self.0.lock();
        let missing = kept.iter().filter(|own| !state.slots.contains_key(*own));
        let missing = missing.cloned().collect();
        state.pinned = kept;
        missing
    }

    /// Returns the versions that [`Residency::spare`] did not find, each once, to be loaded if there is room by now.
    pub(super) fn missed(&self) -> HashSet<VersionRef> {
        std::mem::take(&mut self.0.lock().missed)
    }

    async fn outcome(&self, version: &VersionRef, need: Need) -> Result<Pin, Error> {
        let mut loading = match self.find(version, need) {
            Lookup::Pin(pin) => return Ok(pin),
            Lookup::Refused(error) => return Err(error),
            Lookup::Loading(loading) => loading,
        };
        let outcome = loading.wait_for(Option::is_some).await;
        // The sender is dropped without a result only when the runtime stops or the load panicked.
        outcome
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or(Err(Error::Stopped))
    }

    fn find(&self, version: &VersionRef, need: Need) -> Lookup {
        let mut state = self.0.lock();
        let used = state.tick();
        match state.slots.get_mut(version) {
            Some(Slot::Resident(entry)) => {
                if need != Need::Spare {
                    entry.touch(used);
                }
                Lookup::Pin(entry.pin.clone())
            }
            Some(Slot::Loading(_, loading, awaited)) => {
                if need == Need::Request {
                    awaited.set();
                }
                Lookup::Loading(loading.clone())
            }
            Some(Slot::Quarantined(entry)) => Lookup::Refused(entry.error(version)),
            None => {
                let (sender, loading) = watch::channel(None);
                let awaited = Awaited::new(need == Need::Request);
                let slot = Slot::Loading(used, loading.clone(), awaited.clone());
                state.slots.insert(version.clone(), slot);
                let of = (version.clone(), used, (need, awaited));
                load::spawn(self.0.clone(), of, sender);
                Lookup::Loading(loading)
            }
        }
    }

    /// Lifts the quarantine of a set. Returns whether it was quarantined.
    pub(super) fn retry(&self, version: &VersionRef) -> bool {
        let mut state = self.0.lock();
        let is_quarantined = matches!(state.slots.get(version), Some(Slot::Quarantined(_)));
        if is_quarantined {
            state.slots.remove(version);
        }
        is_quarantined
    }

    /// Lifts the quarantine of a set and starts to load it.
    pub(super) fn reload(&self, version: &VersionRef) {
        if self.retry(version) {
            drop(self.find(version, Need::Request));
        }
    }

    /// Returns the reason why a version is quarantined; `None` when it is not.
    pub(super) fn refusal(&self, version: &VersionRef) -> Option<Arc<str>> {
        match self.0.lock().slots.get(version) {
            Some(Slot::Quarantined(entry)) => Some(entry.reason.clone()),
            Some(Slot::Resident(_) | Slot::Loading(..)) | None => None,
        }
    }

    /// Returns whether another version of the task is resident.
    pub(super) fn is_near(&self, version: &VersionRef) -> bool {
        let state = self.0.lock();
        state.slots.iter().any(|(own, slot)| {
            let is_sibling = own.tenant == version.tenant && own.task == version.task;
            is_sibling && own != version && matches!(slot, Slot::Resident(_))
        })
    }

    /// Returns whether a version is not in the table, while another version of its task is resident.
    pub(super) fn is_behind(&self, version: &VersionRef) -> bool {
        let is_known = self.0.lock().slots.contains_key(version);
        !is_known && self.is_near(version)
    }

    /// Returns whether a version is resident.
    pub(super) fn is_resident(&self, version: &VersionRef) -> bool {
        matches!(self.0.lock().slots.get(version), Some(Slot::Resident(_)))
    }

    /// Returns the tasks of all sets in the table.
    pub(super) fn tasks(&self) -> HashSet<(TenantId, TaskId)> {
        let state = self.0.lock();
        let task = |version: &VersionRef| (version.tenant.clone(), version.task.clone());
        state.slots.keys().map(task).collect()
    }

    /// Waits until sets are under suspicion. Returns each of them once, to be examined.
    pub(super) async fn suspects(&self) -> Vec<Pin> {
        loop {
            let suspects = self.0.lock().take_suspects();
            if !suspects.is_empty() {
                return suspects;
            }
            self.0.suspected.notified().await;
        }
    }

    /// Warms up a suspected set again after a clip failed with it. If that fails twice the set is quarantined; otherwise the clip was at fault.
    pub(super) async fn examine(&self, pin: Pin) {
        let Loader {
            device,
            backbone,
            clips,
            ..
        } = &self.0.loader;
        match warmup::proven_again(device, (backbone, clips), &pin.set).await {
            Err(Fault::Unfit(reason)) => pin.quarantine(reason),
            Ok(()) | Err(Fault::Device(_) | Fault::OutOfMemory { .. } | Fault::Refused(_)) => {
                self.0.lock().acquit(&pin)
            }
        }
    }

    /// Removes the sets of a deleted task; running batches keep their pins.
    pub(super) fn forget(&self, tenant: &TenantId, task: &TaskId) {
        let gone = self.0.lock().take_task(tenant, task);
        drop(gone);
    }

    /// Returns the versions of a task that are in the table.
    pub(super) fn of_task(&self, tenant: &TenantId, task: &TaskId) -> Vec<VersionRef> {
        self.0.lock().of_task(tenant, task)
    }

    /// Removes the set of a version that is gone; running batches keep their pins.
    pub(super) fn remove(&self, version: &VersionRef) {
        let gone = self.0.lock().slots.remove(version);
        drop(gone);
    }

    /// Returns the number of resident sets, and the bytes of all sets that are not freed yet.
    pub(super) fn size(&self) -> (usize, u64) {
        let state = self.0.lock();
        let is_resident = |slot: &&Slot| matches!(slot, Slot::Resident(_));
        let sets = state.slots.values().filter(is_resident).count();
        (sets, state.live)
    }

    /// Returns the records of the tenant's sets, sorted by version.
    pub(super) fn records(&self, tenant: &TenantId) -> Vec<ResidencyRecord> {
        self.0.lock().records(Some(tenant))
    }

    /// Returns the records of all sets, sorted by version.
    pub(super) fn all_records(&self) -> Vec<ResidencyRecord> {
        self.0.lock().records(None)
    }
}

impl Resident {
    /// Returns the bytes of the weights.
    fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// Puts the set under suspicion after a clip failed with it, so that it is warmed up again.
    pub(super) fn suspect(&self) {
        let Some(inner) = self.room.home() else {
            return;
        };
        inner.lock().suspect(self);
        inner.suspected.notify_one();
    }

    /// Quarantines the set.
    fn quarantine(&self, reason: Arc<str>) {
        let Some(inner) = self.room.home() else {
            return;
        };
        let gone = inner.lock().quarantine(self, reason.clone());
        drop(gone);
        tracing::warn!(tenant = %self.version.tenant, version = %self.version, %reason, "an adapter set is quarantined");
    }

    /// Returns the reason why the set is quarantined by now; `None` when it is not.
    pub(super) fn refused(&self) -> Option<Arc<str>> {
        let inner = self.room.home()?;
        let state = inner.lock();
        match state.slots.get(&self.version) {
            Some(Slot::Quarantined(entry)) => Some(entry.reason.clone()),
            Some(Slot::Resident(_) | Slot::Loading(..)) | None => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
