//! Loads one set: reads and verifies its file, parses it, reserves its bytes, and warms it up.
//!
//! Invariant: one load per version at a time; only the warm-up's forward pass runs on the device thread, and nothing slow runs on the async threads.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{Inner, Need, Pin, Resident};
use crate::blocking::blocking;
use crate::device;
use crate::engine::warmup::{self, Fault};
use crate::engine::{Error, Unavailable, Versions};
use crate::fair::Weights;
use crate::ids::VersionRef;
use crate::model::{self, AdapterSet, Backbone};

/// Components that a load uses.
pub(in crate::engine) struct Loader {
    /// Source of the sets' files.
    pub(in crate::engine) versions: Arc<dyn Versions>,
    /// Backbone that the sets must fit.
    pub(in crate::engine) backbone: Arc<Backbone>,
    /// Device on which sets are warmed up.
    pub(in crate::engine) device: device::Handle,
    /// Weights by which tenants share the turns of loads.
    pub(in crate::engine) weights: Arc<dyn Weights>,
}

/// Loads a set in the background and sends the result to everybody who waits. The set becomes resident even if nobody waits any more.
pub(super) fn spawn(
    inner: Arc<Inner>,
    (version, load, need): (VersionRef, u64, Need),
    sender: watch::Sender<Option<Result<Pin, Error>>>,
) {
    tokio::spawn(async move {
        let listing = Listing {
            inner,
            version,
            load,
            need,
            listed: false,
        };
        let result = listing.inner.load(&listing.version, need).await;
        let result = listing.list(result);
        sender.send_replace(Some(result));
    });
}

/// Slot of a load, freed when the load ends without a result.
struct Listing {
    inner: Arc<Inner>,
    version: VersionRef,
    /// Number of the load in its slot.
    load: u64,
    need: Need,
    listed: bool,
}

impl Listing {
    /// Stores the result of the load in its slot. When the task was deleted in the meantime the slot is gone, and the result is [`Error::NotFound`].
    fn list(mut self, result: Result<Pin, Error>) -> Result<Pin, Error> {
        self.listed = true;
        let mut state = self.inner.lock();
        if !state.is_loading(&self.version, self.load) {
            drop(state);
            return Err(Error::NotFound {
                version: self.version.clone(),
            });
        }
        let gone = match &result {
            Ok(pin) => {
                state.insert(pin.clone(), self.need);
                None
            }
            Err(Error::Quarantined { reason, .. }) => {
                state.refuse(&self.version, reason.clone(), false)
            }
            Err(Error::Damaged { reason, .. }) => state.refuse(&self.version, reason.clone(), true),
            Err(_) => state.slots.remove(&self.version),
        };
        drop(state);
        drop(gone);
        // The set can now be evicted, which another load may wait for.
        self.inner.freed.notify_waiters();
        result
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        if self.listed {
            return;
        }
        let mut state = self.inner.lock();
        let is_own = state.is_loading(&self.version, self.load);
        let gone = is_own.then(|| state.slots.remove(&self.version)).flatten();
        drop(state);
        drop(gone);
    }
}

impl Inner {
    async fn load(self: &Arc<Self>, version: &VersionRef, need: Need) -> Result<Pin, Error> {
        let begun = Instant::now();
        let result = self.bring(version, need).await;
        match &result {
            // The set was not needed.
            Err(Error::NoRoom { .. }) => {}
            Ok(_) => self
                .metrics
                .adapter_loaded(&version.tenant, begun.elapsed()),
            Err(error) => self
                .metrics
                .adapter_load_failed(&version.tenant, reason(error)),
        }
        result
    }

    async fn bring(self: &Arc<Self>, version: &VersionRef, need: Need) -> Result<Pin, Error> {
        let no_room = || Error::NoRoom {
            version: version.clone(),
        };
        let turn = match need {
            Need::Request => self.turns.wait(&version.tenant).await?,
            Need::Spare => self.turns.free().ok_or_else(no_room)?,
        };
        let set = self.read(version).await?;
        let bytes = set.bytes();
        if bytes > self.budget {
            return Err(Error::TooLarge {
                version: version.clone(),
                bytes,
                budget: self.budget,
            });
        }
        let room = match need {
            Need::Request => self.make_room(&version.tenant, bytes, turn).await,
            Need::Spare => self.free_room(&version.tenant, bytes).ok_or_else(no_room)?,
        };
        let Loader {
            device, backbone, ..
        } = &self.loader;
        match warmup::proven(device, backbone, &set).await {
            Ok(()) => {}
            Err(Fault::Unfit(reason)) => return Err(unfit(version, reason)),
            Err(Fault::Device(device::Error::Stopped)) => return Err(Error::Stopped),
            Err(Fault::Device(error)) => return Err(failed(version, error.to_string())),
            Err(Fault::OutOfMemory { bytes }) => return Err(Error::OutOfMemory { bytes }),
            Err(Fault::Refused(reason)) => return Err(failed(version, reason.to_string())),
        }
        let id = self.lock().tick();
        Ok(Arc::new(Resident {
            id,
            version: version.clone(),
            set,
            room,
        }))
    }

    async fn read(&self, version: &VersionRef) -> Result<Arc<AdapterSet>, Error> {
        let Loader {
            versions, backbone, ..
        } = &self.loader;
        let stored = versions.load(version).await.map_err(|error| match error {
            Unavailable::Missing => Error::NotFound {
                version: version.clone(),
            },
            Unavailable::Damaged { reason } => Error::Damaged {
                version: version.clone(),
                reason: reason.into(),
            },
            Unavailable::Failed { reason } => failed(version, reason),
        })?;
        if stored.backbone != backbone.digest() {
            let reason = format!(
                "it was trained on backbone {}, not on {}",
                stored.backbone,
                backbone.digest()
            );
            return Err(unfit(version, reason.into()));
        }
        let backbone = Arc::clone(backbone);
        let parse = move || {
            let (adapter, classes) = (stored.adapter, stored.classes);
            let config = backbone.config();
            let set = AdapterSet::from_safetensors(&stored.bytes, config, adapter, classes)?;
            set.beside(&backbone)
        };
        // Parsing is not part of a device slice, so it must not take threads from serving.
        match blocking(|| model::aside(parse)).await {
            Ok(Ok(set)) => Ok(Arc::new(set)),
            // Only the file says whether the set is at fault.
            Ok(Err(model::Error::OutOfMemory { bytes })) => Err(Error::OutOfMemory { bytes }),
            Ok(Err(model::Error::DeviceLost(_))) => Err(Error::Stopped),
            Ok(Err(error @ model::Error::DeviceRefused(_))) => {
                Err(failed(version, error.to_string()))
            }
            Ok(Err(error)) => Err(unfit(version, error.to_string().into())),
            Err(error) => Err(failed(version, error.to_string())),
        }
    }
}

fn unfit(version: &VersionRef, reason: Arc<str>) -> Error {
    Error::Quarantined {
        version: version.clone(),
        reason,
    }
}

fn failed(version: &VersionRef, reason: String) -> Error {
    Error::Load {
        version: version.clone(),
        reason: reason.into(),
    }
}

/// Returns the label of an error in the metrics.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Quarantined { .. } => "unfit",
        Error::Damaged { .. } => "damaged",
        Error::NotFound { .. } => "missing",
        Error::TooLarge { .. } => "too_large",
        Error::NoRoom { .. }
        | Error::QueueFull { .. }
        | Error::RateExceeded(_)
        | Error::Unreachable { .. }
        | Error::TooManyClips { .. }
        | Error::TooManyBytes { .. }
        | Error::Clip { .. }
        | Error::DeadlineExceeded
        | Error::Load { .. }
        | Error::Failed { .. }
        | Error::Backbone { .. }
        | Error::NotReady
        | Error::Stopped => "unavailable",
        Error::OutOfMemory { .. } => "no_memory",
    }
}
