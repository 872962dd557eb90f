//! Adapter sets in memory, by bytes: found, loaded once, evicted, quarantined.
//!
//! Invariant: live sets and those being warmed never exceed the budget; a pinned set is never freed or overwritten; a set is quarantined only after
//! its warm-up failed twice in a row, fails alone, and is not tried again until it is asked for anew.

mod load;
mod room;
mod state;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

pub(super) use load::Loader;
use room::Room;
use state::{Slot, State};

use super::warmup::{self, Fault};
use super::{Error, ResidencyRecord};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::model::AdapterSet;
use crate::telemetry::Metrics;

/// Loads at once: each holds a file and a parsed set that the budget does not know yet.
const LOADS: usize = 2;

/// A set in memory. Whoever holds one of these pins it.
pub(super) struct Resident {
    /// Different for every load.
    pub(super) id: u64,
    /// Which.
    pub(super) version: VersionRef,
    /// The weights.
    pub(super) set: Arc<AdapterSet>,
    /// Given back when the last pin is gone; after the weights, since fields drop in order.
    room: Room,
}

/// Keeps a set from being freed.
pub(super) type Pin = Arc<Resident>;

/// What a load led to, for all who wait for it.
type Loading = watch::Receiver<Option<Result<Pin, Error>>>;

/// The sets; clones share them.
#[derive(Clone)]
pub(super) struct Residency(Arc<Inner>);

struct Inner {
    budget: u64,
    loader: Loader,
    /// A plain mutex: held for look-ups in memory, never across an await. A [`Resident`] is never dropped under it, since its room takes it too.
    state: Mutex<State>,
    /// Room was given back, or a warmed set became evictable.
    freed: Notify,
    /// A set came under suspicion.
    suspected: Notify,
    /// Who waits for room next, in order: else a small set could overtake a large one for ever.
    room: tokio::sync::Mutex<()>,
    loads: Semaphore,
    metrics: Metrics,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a version that somebody asks for.
enum Lookup {
    Pin(Pin),
    Refused(Error),
    Loading(Loading),
}

impl Residency {
    pub(super) fn new(budget: u64, loader: Loader, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            budget,
            loader,
            state: Mutex::default(),
            freed: Notify::new(),
            suspected: Notify::new(),
            room: tokio::sync::Mutex::default(),
            loads: Semaphore::new(LOADS),
            metrics,
        }))
    }

    /// Pins a set, loading and warming it when it is not there. Dropping the future leaves the load to others.
    ///
    /// # Errors
    /// [`Error::Quarantined`], [`Error::Damaged`], [`Error::NotFound`], [`Error::Load`], [`Error::TooLarge`], [`Error::Stopped`].
    pub(super) async fn acquire(&self, version: &VersionRef) -> Result<Pin, Error> {
        let mut loading = match self.find(version) {
            Lookup::Pin(pin) => return Ok(pin),
            Lookup::Refused(error) => return Err(error),
            Lookup::Loading(loading) => loading,
        };
        let outcome = loading.wait_for(Option::is_some).await;
        // The sender is dropped without a word only when the runtime stops or the load panicked.
        outcome
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or(Err(Error::Stopped))
    }

    fn find(&self, version: &VersionRef) -> Lookup {
        let mut state = self.0.lock();
        let used = state.tick();
        match state.slots.get_mut(version) {
            Some(Slot::Resident(entry)) => {
                entry.touch(used);
                Lookup::Pin(entry.pin.clone())
            }
            Some(Slot::Loading(_, loading)) => Lookup::Loading(loading.clone()),
            Some(Slot::Quarantined(entry)) => {
                let (version, reason) = (version.clone(), entry.reason.clone());
                Lookup::Refused(if entry.is_damaged {
                    Error::Damaged { version, reason }
                } else {
                    Error::Quarantined { version, reason }
                })
            }
            None => {
                let (sender, loading) = watch::channel(None);
                let slot = Slot::Loading(used, loading.clone());
                state.slots.insert(version.clone(), slot);
                load::spawn(self.0.clone(), (version.clone(), used), sender);
                Lookup::Loading(loading)
            }
        }
    }

    /// Lets a quarantined set be tried again. Says whether it was quarantined.
    pub(super) fn retry(&self, version: &VersionRef) -> bool {
        let mut state = self.0.lock();
        let is_quarantined = matches!(state.slots.get(version), Some(Slot::Quarantined(_)));
        if is_quarantined {
            state.slots.remove(version);
        }
        is_quarantined
    }

    /// Lets a quarantined set be tried again and begins to load it.
    pub(super) fn reload(&self, version: &VersionRef) {
        if self.retry(version) {
            drop(self.find(version));
        }
    }

    /// Why a version is quarantined; `None` when it is not.
    pub(super) fn refusal(&self, version: &VersionRef) -> Option<Arc<str>> {
        match self.0.lock().slots.get(version) {
            Some(Slot::Quarantined(entry)) => Some(entry.reason.clone()),
            Some(Slot::Resident(_) | Slot::Loading(..)) | None => None,
        }
    }

    /// The tasks of which anything is here.
    pub(super) fn tasks(&self) -> HashSet<(TenantId, TaskId)> {
        let state = self.0.lock();
        let task = |version: &VersionRef| (version.tenant.clone(), version.task.clone());
        state.slots.keys().map(task).collect()
    }

    /// Waits until sets are under suspicion, and hands each out once, to be examined.
    pub(super) async fn suspects(&self) -> Vec<Pin> {
        loop {
            let suspects = self.0.lock().take_suspects();
            if !suspects.is_empty() {
                return suspects;
            }
            self.0.suspected.notified().await;
        }
    }

    /// Warms a set again after a clip failed with it: it is refused from now on when that fails, twice; else the clip alone was at fault.
    pub(super) async fn examine(&self, pin: Pin) {
        let Loader {
            device, backbone, ..
        } = &self.0.loader;
        match warmup::proven(device, backbone, &pin.set).await {
            Err(Fault::Unfit(reason)) => pin.quarantine(reason),
            Ok(()) | Err(Fault::Device(_)) => self.0.lock().acquit(&pin),
        }
    }

    /// Forgets a task that was deleted; batches that run keep their pins.
    pub(super) fn forget(&self, tenant: &TenantId, task: &TaskId) {
        let gone = self.0.lock().take_task(tenant, task);
        drop(gone);
    }

    /// The tenant's sets, by name.
    pub(super) fn records(&self, tenant: &TenantId) -> Vec<ResidencyRecord> {
        self.0.lock().records(tenant)
    }
}

impl Resident {
    /// Bytes of the weights.
    fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// A clip failed with the set, which is to be warmed again.
    pub(super) fn suspect(&self) {
        let Some(inner) = self.room.home() else {
            return;
        };
        inner.lock().suspect(self);
        inner.suspected.notify_one();
    }

    /// Refuses the set from now on.
    fn quarantine(&self, reason: Arc<str>) {
        let Some(inner) = self.room.home() else {
            return;
        };
        let gone = inner.lock().quarantine(self, reason.clone());
        drop(gone);
        tracing::warn!(tenant = %self.version.tenant, version = %self.version, %reason, "an adapter set is quarantined");
    }

    /// Why the set is refused by now.
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
