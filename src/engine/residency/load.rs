//! Loads one set: reads and verifies its file, parses it, reserves its bytes, and warms it up unless the version has passed a warm-up in this process.
//!
//! Invariant: one load per version at a time, and one that a request waits for never waits for those that none does; only the warm-up's forward pass runs on the device thread, and nothing slow runs on the async threads.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{SemaphorePermit, watch};

use super::{Inner, Need, Pin, Resident};
use crate::blocking::blocking;
use crate::device;
use crate::engine::warmup::{self, Awaited, Fault};
use crate::engine::{Error, Unavailable, Versions};
use crate::fair::Weights;
use crate::ids::VersionRef;
use crate::model::{self, AdapterSet, Backbone};
use crate::spec::Digest;

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
    /// Clips that sets are warmed up with.
    pub(in crate::engine) clips: Arc<warmup::Clips>,
}

/// A set that was read, and the clip for its warm-up unless the version has passed one with the same file.
struct Read {
    set: Arc<AdapterSet>,
    /// sha256 of the set's file.
    sha256: Digest,
    clip: Option<warmup::Frames>,
}

/// Loads a set in the background and sends the result to everybody who waits. The set becomes resident even if nobody waits any more.
pub(super) fn spawn(
    inner: Arc<Inner>,
    (version, load, (need, awaited)): (VersionRef, u64, (Need, Awaited)),
    sender: watch::Sender<Option<Result<Pin, Error>>>,
) {
    tokio::spawn(async move {
        let listing = Listing {
            inner,
            version,
            load,
            cause: Cause { need, awaited },
            listed: false,
        };
        let loaded = listing.inner.load(&listing.version, &listing.cause);
        let result = loaded.await;
        let result = listing.list(result);
        sender.send_replace(Some(result));
    });
}

/// For what a set is loaded, by now.
struct Cause {
    /// For what the load was begun.
    need: Need,
    /// Whether a request waits by now.
    awaited: Awaited,
}

impl Cause {
    fn need(&self) -> Need {
        match self.awaited.get() {
            true => Need::Request,
            false => self.need,
        }
    }
}

/// Slot of a load, freed when the load ends without a result.
struct Listing {
    inner: Arc<Inner>,
    version: VersionRef,
    /// Number of the load in its slot.
    load: u64,
    cause: Cause,
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
        let mut is_suspected = false;
        let gone = match &result {
            Ok(pin) => {
                state.insert(pin.clone(), self.cause.need());
                // A clip that still used an earlier set of the version may have failed since the load began, and there was no set to suspect.
                is_suspected = !state.proven.knows(&self.version);
                if is_suspected {
                    state.suspect(pin);
                }
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
        if is_suspected {
            self.inner.suspected.notify_one();
        }
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
    async fn load(self: &Arc<Self>, version: &VersionRef, cause: &Cause) -> Result<Pin, Error> {
        let begun = Instant::now();
        let result = self.bring(version, cause).await;
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

    async fn bring(self: &Arc<Self>, version: &VersionRef, cause: &Cause) -> Result<Pin, Error> {
        let no_room = || Error::NoRoom {
            version: version.clone(),
        };
        let _place = self.place(cause).await;
        let turn = match cause.need() {
            Need::Request | Need::Move => self.turns.wait(&version.tenant).await?,
            Need::Spare => self.turns.free().ok_or_else(no_room)?,
        };
        let Read { set, sha256, clip } = self.read(version).await?;
        let bytes = set.bytes();
        if bytes > self.budget {
            return Err(Error::TooLarge {
                version: version.clone(),
                bytes,
                budget: self.budget,
            });
        }
        let room = match cause.need() {
            Need::Request | Need::Move => self.make_room(&version.tenant, bytes, turn).await,
            Need::Spare => {
                // The turn ends with the file and before the warm-up, for which others would wait.
                let _turn = turn;
                self.free_room(&version.tenant, bytes).ok_or_else(no_room)?
            }
        };
        if let Some(clip) = clip {
            self.prove((version, sha256), &set, &clip, &cause.awaited)
                .await?;
        }
        let id = self.lock().tick();
        Ok(Arc::new(Resident {
            id,
            version: version.clone(),
            set,
            room,
        }))
    }

    /// Waits for a place among the loads that no request waits for, until one does.
    async fn place(&self, Cause { need, awaited }: &Cause) -> Option<SemaphorePermit<'_>> {
        if *need == Need::Request {
            return None;
        }
        tokio::select! {
            biased;
            () = awaited.changed() => None,
            place = self.ahead.acquire() => place.ok(),
        }
    }

    /// Warms up a set of the file of this sha256.
    async fn prove(
        &self,
        (version, sha256): (&VersionRef, Digest),
        set: &Arc<AdapterSet>,
        clip: &warmup::Frames,
        awaited: &Awaited,
    ) -> Result<(), Error> {
        let Loader {
            device, backbone, ..
        } = &self.loader;
        match warmup::proven(device, backbone, set, clip, awaited).await {
            Ok(()) => {
                self.lock().proven.add(version, sha256);
                Ok(())
            }
            Err(Fault::Unfit(reason)) => Err(unfit(version, reason)),
            Err(Fault::Device(device::Error::Stopped)) => Err(Error::Stopped),
            Err(Fault::Device(error)) => Err(failed(version, error.to_string())),
            Err(Fault::OutOfMemory { bytes }) => Err(Error::OutOfMemory { bytes }),
            Err(Fault::Refused(reason)) => Err(failed(version, reason.to_string())),
        }
    }

    async fn read(&self, version: &VersionRef) -> Result<Read, Error> {
        let Loader {
            versions,
            backbone,
            clips,
            ..
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
        let (backbone, clips) = (Arc::clone(backbone), Arc::clone(clips));
        let is_proven = self.lock().proven.has(version, stored.sha256);
        let parse = move || {
            let (adapter, classes) = (stored.adapter, stored.classes);
            let set = AdapterSet::read_beside(&stored.bytes, &backbone, adapter, classes)?;
            Ok(Read {
                clip: (!is_proven).then(|| clips.of(&backbone, &set)),
                sha256: stored.sha256,
                set: Arc::new(set),
            })
        };
        // Parsing is not part of a device slice, so it must not take threads from serving.
        match blocking(|| model::aside(parse)).await {
            Ok(Ok(read)) => Ok(read),
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
        | Error::BeyondQuota { .. }
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

#[cfg(test)]
mod tests {
    use super::super::state::Slot;
    use super::super::tests::listed;
    use super::*;
    use crate::engine::tests::{backbone, residency, set, version};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_set_that_lost_its_proof_while_it_was_loaded_is_examined() {
        let (device, _) = device::start(device::Config::default(), Metrics::new()).unwrap();
        let residency = residency(100, device);
        for (name, is_suspected) in [("a", false), ("b", true)] {
            let wanted = version(name);
            let pin = listed(&residency, &wanted, set(&backbone(8)), 10).await;
            let inner = residency.0.clone();
            let mut state = inner.lock();
            state.proven.add(&wanted, Digest([1; 32]));
            let load = state.tick();
            let slot = Slot::Loading(load, watch::channel(None).1, Awaited::new(true));
            let evicted = state.slots.insert(wanted.clone(), slot);
            if is_suspected {
                // A clip of a batch that still has the evicted set fails.
                state.suspect(&pin);
            }
            drop(state);
            drop(evicted);
            let listing = Listing {
                inner,
                version: wanted,
                load,
                cause: Cause {
                    need: Need::Request,
                    awaited: Awaited::new(true),
                },
                listed: false,
            };
            let loaded = listing.list(Ok(pin));
            assert!(loaded.is_ok(), "{name}");
            let suspects = residency.0.lock().take_suspects();
            assert_eq!(suspects.len(), usize::from(is_suspected), "{name}");
        }
    }
}
