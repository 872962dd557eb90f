//! Classification: admission, batches that mix tasks, resident adapter sets, and swaps of serving versions.
//!
//! Invariant: a bad input, an expired request or a failing adapter set fails alone, never with its batch neighbours. Expired or abandoned requests
//! never reach the device.

mod account;
mod admission;
mod answers;
mod batcher;
mod error;
mod queue;
mod rate;
mod request;
mod residency;
mod spare;
mod swap;
mod versions;
mod warmup;
mod weights;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::device;
use crate::fair::{Class, Weights};
use crate::ids::{TenantId, VersionRef};
use crate::model::Backbone;
pub use crate::model::{Kept, Pictures};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Dropped;

use account::Taken;
pub use account::{Account, Free};
pub use admission::Permit;
use admission::{Admission, Demand};
pub use answers::{Answer, ClipFeatures, Clips, Features};
pub use error::{Error, Limit, RateExceeded, Unfit};
use queue::Queue;
pub use rate::{Origin, Rate};
use residency::Residency;
pub use spare::Spare;
pub use swap::Service;
pub use versions::{Desired, Role, Stored, Unavailable, Versions};

/// Longest time between two looks whether a tenant's rate has room for a stream that waits.
const LOOK: Duration = Duration::from_secs(1);

/// Limits of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most clips between admission and answer, over all tenants: bounds how long the last of them waits. A tenant that is alone may hold seven
    /// eighths, tenants that compete equal shares, of these clips and of [`Config::queue_bytes`].
    pub queue_clips: usize,
    /// Most bytes of the planes of the clips between admission and answer.
    pub queue_bytes: u64,
    /// Most clips in a batch.
    pub batch_clips: usize,
    /// Most frames in a batch, over its clips.
    pub batch_frames: usize,
    /// Most bytes of a batch's activations; a single clip always runs.
    pub batch_bytes: u64,
    /// Longest time that a batch should take while tenants share the device, which bounds how long a new request waits; a single clip always runs.
    pub batch_time: Duration,
    /// Most bytes of resident adapter sets.
    pub residency_bytes: u64,
    /// Interval at which desired versions are read from the registry, in addition to its change notices.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_clips: 256,
            queue_bytes: 1 << 30,
            batch_clips: 16,
            batch_frames: 256,
            batch_bytes: 1 << 30,
            batch_time: Duration::from_millis(100),
            residency_bytes: 1 << 30,
            poll: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Returns the most frames in a batch on this backbone, limited by their number and by the memory of their activations.
    fn frames_of_a_batch(&self, backbone: &Backbone) -> usize {
        let frames = self.batch_bytes / backbone.bytes_of(1).max(1);
        let frames = usize::try_from(frames).unwrap_or(usize::MAX);
        self.batch_frames.min(frames).max(1)
    }

    /// Returns the most bytes of pinned sets, by the size of their files: half of [`Config::residency_bytes`].
    pub fn pinned_bytes(&self) -> u64 {
        self.residency_bytes / 2
    }

    /// Returns the most bytes of planes of clips that wait or run, those of shadow versions included.
    pub fn clip_bytes(&self) -> u64 {
        self.queue_bytes.saturating_add(self.spare().bytes)
    }

    /// Returns the most bytes that classification takes on this backbone: planes of clips that wait or run, those of shadow versions included,
    /// activations and planes of the running batch (whose planes outlive the permits of callers that left), and adapter sets.
    pub fn bytes(&self, backbone: &Backbone) -> u64 {
        let frames = self.frames_of_a_batch(backbone).max(request::FRAMES);
        let planes = frames * backbone.config().frame_len() * size_of::<f32>();
        self.clip_bytes() + backbone.bytes_of(frames) + planes as u64 + self.residency_bytes
    }
}

/// Clips that a request will bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Number of clips.
    pub clips: usize,
    /// Frames of each clip.
    pub frames: usize,
    /// Number of versions that each clip runs through; they share its planes.
    pub readers: usize,
}

/// What a request asks of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Number of clips.
    pub clips: usize,
    /// Frames of each clip.
    pub frames: usize,
    /// How urgent the request is.
    pub class: Class,
    /// When the answer is no longer wanted.
    pub deadline: Option<Instant>,
}

impl Ask {
    /// Returns an interactive request without a deadline.
    pub fn new(clips: usize, frames: usize) -> Self {
        Self {
            clips,
            frames,
            class: Class::Interactive,
            deadline: None,
        }
    }

    fn frames_of_all(self) -> u64 {
        (self.clips as u64).saturating_mul(self.frames as u64)
    }
}

/// One resident or quarantined adapter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidencyRecord {
    /// Version of the set.
    pub version: VersionRef,
    /// Bytes on the device; 0 when quarantined.
    pub bytes: u64,
    /// Time when a batch last used the set.
    pub last_used: SystemTime,
    /// Whether the set stays because its task is pinned.
    pub is_pinned: bool,
    /// Reason of the quarantine; `None` when the set is resident.
    pub quarantine: Option<Arc<str>>,
}

/// What is in use at a moment, of all tenants together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InUse {
    /// Clips between admission and answer.
    pub clips: usize,
    /// Most clips between admission and answer.
    pub clips_capacity: usize,
    /// Bytes of the planes of those clips.
    pub bytes: u64,
    /// Most bytes of the planes.
    pub bytes_capacity: u64,
    /// Frames of the clips that wait for a batch.
    pub waiting_frames: u64,
    /// Adapter sets in memory.
    pub sets: usize,
    /// Bytes of those sets, also of those that are being loaded.
    pub set_bytes: u64,
    /// How fast the device classifies; `None` before the warm-up.
    pub rate: Option<Rate>,
}

/// Components that the engine works with; `registry` is the source of versions.
pub struct Parts<V> {
    /// Source of tasks and versions.
    pub registry: V,
    /// Device that runs the batches.
    pub device: device::Handle,
    /// The one backbone.
    pub backbone: Arc<Backbone>,
    /// Metrics that the engine records.
    pub metrics: Metrics,
    /// Weights by which tenants share the device.
    pub weights: Arc<dyn Weights>,
    /// What keeps the tenants' rates, and counts what they were answered.
    pub account: Arc<dyn Account>,
}

/// Handle of the engine, which classifies clips; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
}

/// State that the handles and the service share.
struct Core {
    config: Config,
    backbone: Arc<Backbone>,
    device: device::Handle,
    admission: Admission,
    /// Room for work that nobody waits for.
    spare: Admission,
    queue: Arc<Queue>,
    residency: Residency,
    ready: watch::Sender<bool>,
    metrics: Metrics,
    account: Arc<dyn Account>,
    next_request: AtomicU64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("config", &self.core.config)
            .finish_non_exhaustive()
    }
}

/// Creates an engine and connects it to the device. It is ready once [`Service::run`] has warmed up the backbone.
pub fn new<V: Versions>(config: Config, parts: Parts<V>) -> (Handle, Service) {
    let versions: Arc<dyn Versions> = Arc::new(parts.registry);
    let queue = Arc::new(Queue::new(
        &config,
        &parts.backbone,
        Arc::clone(&parts.weights),
        parts.metrics.clone(),
    ));
    let model = Arc::new(parts.backbone.clone());
    let source = worker::Batches::new(queue.clone(), model);
    parts.device.set_source(Box::new(source));
    let loader = residency::Loader {
        versions: versions.clone(),
        backbone: parts.backbone.clone(),
        device: parts.device.clone(),
        weights: parts.weights,
    };
    let residency = Residency::new(config.residency_bytes, loader, parts.metrics.clone());
    let core = Arc::new(Core {
        admission: Admission::new(
            Demand {
                clips: config.queue_clips,
                bytes: config.queue_bytes,
            },
            Some(parts.metrics.clone()),
        ),
        spare: Admission::new(config.spare(), None),
        config,
        backbone: parts.backbone,
        device: parts.device,
        queue,
        residency,
        ready: watch::Sender::new(false),
        metrics: parts.metrics,
        account: parts.account,
        next_request: AtomicU64::new(0),
    });
    let service = Service::new(core.clone(), versions);
    (Handle { core }, service)
}

/// Frames of all clips, each as often as it runs.
fn frames_of(loads: &[Load]) -> u64 {
    let frames = |load: &Load| (load.clips * load.frames * load.readers) as u64;
    loads.iter().map(frames).sum()
}

impl Handle {
    /// Reserves room for an interactive request without a deadline, as [`Handle::admit_for`] does.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit(&self, tenant: &TenantId, clips: usize, frames: usize) -> Result<Permit, Error> {
        self.admit_for(tenant, Ask::new(clips, frames))
    }

    /// Reserves room for a request's clips, before anything is decoded. The room is freed when the permit is dropped.
    ///
    /// # Errors
    /// [`Error::QueueFull`] when there is no room now, [`Error::Unreachable`] when the queue is too long for the deadline, [`Error::DeadlineExceeded`],
    /// [`Error::TooManyClips`], [`Error::TooManyBytes`], [`Error::NotReady`], [`Error::Stopped`].
    pub fn admit_for(&self, tenant: &TenantId, ask: Ask) -> Result<Permit, Error> {
        let asks = (tenant, ask.class);
        self.admitted(asks, ask.deadline, self.demand(ask), ask.frames_of_all())
    }

    /// Reserves room for all clips of an interactive request without a deadline, as [`Handle::admit_all_for`] does.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit_all(&self, tenant: &TenantId, loads: &[Load]) -> Result<Permit, Error> {
        self.admit_all_for((tenant, Class::Interactive), None, loads)
    }

    /// Reserves room for all of a request's clips or for none of them, before anything is decoded.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn admit_all_for(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        loads: &[Load],
    ) -> Result<Permit, Error> {
        self.admitted(asks, deadline, self.demand_of_all(loads), frames_of(loads))
    }

    /// Returns what a request with several versions takes: those that read the same clips share their planes, but each clip runs once for each of them.
    fn demand_of_all(&self, loads: &[Load]) -> Demand {
        let frame = (size_of::<f32>() * self.core.backbone.config().frame_len()) as u64;
        let sum = |each: fn(&Load) -> usize| loads.iter().map(each).sum::<usize>();
        Demand {
            clips: sum(|load| load.clips * load.readers),
            bytes: frame.saturating_mul(sum(|load| load.clips * load.frames) as u64),
        }
    }

    fn admitted(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        demand: Demand,
        frames: u64,
    ) -> Result<Permit, Error> {
        let admitted = self.core.admission.admit(asks, demand);
        if admitted.is_ok() && !*self.core.ready.borrow() {
            return Err(Error::NotReady);
        }
        let admitted =
            admitted.and_then(|permit| self.reachable(asks, deadline, frames).map(|()| permit));
        let charge = || {
            self.core
                .account
                .charge(asks.0, frames)
                .map_err(Error::from)
        };
        let admitted = admitted.and_then(|permit| charge().map(|()| permit));
        let dropped = match &admitted {
            Err(Error::QueueFull { .. }) => Some(Dropped::QueueFull),
            Err(Error::RateExceeded(_)) => Some(Dropped::RateExceeded),
            Err(Error::Unreachable { .. }) => Some(Dropped::Unreachable),
            Err(Error::DeadlineExceeded) => Some(Dropped::Expired),
            Ok(_) | Err(_) => None,
        };
        if let Some(reason) = dropped {
            self.core.metrics.dropped(asks.0, reason);
        }
        admitted
    }

    /// Returns whether a request with these clips would be admitted at present, without a charge to the tenant's rate.
    ///
    /// # Errors
    /// Same as [`Handle::admit_for`].
    pub fn would_admit(&self, asks: (&TenantId, Class), loads: &[Load]) -> Result<(), Error> {
        let admitted = self.core.admission.admit(asks, self.demand_of_all(loads));
        admitted.map(drop)
    }

    /// Waits for room in the queue, for callers that go on rather than retry, such as streams; the deadline is the caller's own.
    ///
    /// # Errors
    /// [`Error::TooManyClips`], [`Error::TooManyBytes`], [`Error::NotReady`], [`Error::Stopped`].
    pub async fn reserve(&self, tenant: &TenantId, ask: Ask) -> Result<Permit, Error> {
        let asks = (tenant, ask.class);
        self.reserved(asks, self.demand(ask), ask.frames_of_all())
            .await
    }

    /// Waits for room for all of a request's clips, as [`Handle::reserve`] does.
    ///
    /// # Errors
    /// Same as [`Handle::reserve`].
    pub async fn reserve_all(
        &self,
        asks: (&TenantId, Class),
        loads: &[Load],
    ) -> Result<Permit, Error> {
        self.reserved(asks, self.demand_of_all(loads), frames_of(loads))
            .await
    }

    async fn reserved(
        &self,
        asks: (&TenantId, Class),
        demand: Demand,
        frames: u64,
    ) -> Result<Permit, Error> {
        let taken = self.charged(asks.0, frames).await?;
        let permit = self.core.admission.reserve(asks, demand).await?;
        match *self.core.ready.borrow() {
            true => {
                taken.keep();
                Ok(permit)
            }
            false => Err(Error::NotReady),
        }
    }

    /// Takes frames from the tenant's rate; waits until there are some. They go back when what is returned is dropped.
    async fn charged<'a>(&'a self, tenant: &'a TenantId, frames: u64) -> Result<Taken<'a>, Error> {
        let account = &*self.core.account;
        let mut over = match account.charge(tenant, frames) {
            Ok(()) => return Ok(Taken::new(account, tenant, frames)),
            Err(over) => over,
        };
        loop {
            // A limit of 0 allows none, however long somebody waits.
            let Some(wait) = over.wait else {
                return Err(over.into());
            };
            // The limit may be raised meanwhile.
            tokio::time::sleep(wait.min(LOOK)).await;
            match account.charge_again(tenant, frames) {
                Ok(()) => return Ok(Taken::new(account, tenant, frames)),
                Err(still) => over = still,
            }
        }
    }

    fn demand(&self, ask: Ask) -> Demand {
        let clip = size_of::<f32>() * self.core.backbone.config().frame_len();
        let bytes = (clip as u64).saturating_mul(ask.frames_of_all());
        Demand {
            clips: ask.clips,
            bytes,
        }
    }

    /// Checks that the deadline can be met, as far as the queue is known. Nobody is refused for an estimate while nothing waits.
    fn reachable(
        &self,
        asks: (&TenantId, Class),
        deadline: Option<Instant>,
        frames: u64,
    ) -> Result<(), Error> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        let queue = &self.core.queue;
        match queue.wait(asks, frames) {
            Some(wait) if wait > left => Err(Error::Unreachable { wait, left }),
            Some(_) | None => Ok(()),
        }
    }

    /// Starts to load the adapter sets that an admitted request will need, so that they load while its video is decoded.
    pub fn prefetch<'a>(&self, versions: impl IntoIterator<Item = &'a VersionRef>) {
        for version in versions {
            self.core.residency.prefetch(version);
        }
    }

    /// Returns the bytes of a frame's tokens that are kept for later batches; 0 where they are not, which is so on a GPU.
    pub fn kept_bytes(&self) -> u64 {
        let backbone = &self.core.backbone;
        let config = backbone.config();
        match backbone.place().is_host() {
            true => (config.tokens() * config.width * size_of::<f32>()) as u64,
            false => 0,
        }
    }

    /// Returns the tenant's adapter sets that are resident or quarantined.
    pub fn residency(&self, tenant: &TenantId) -> Vec<ResidencyRecord> {
        self.core.residency.records(tenant)
    }

    /// Returns the adapter sets of all tenants that are resident or quarantined.
    pub fn all_residency(&self) -> Vec<ResidencyRecord> {
        self.core.residency.all_records()
    }

    /// Returns whether a version's adapter set is resident.
    pub fn is_resident(&self, version: &VersionRef) -> bool {
        self.core.residency.is_resident(version)
    }

    /// Returns what is in use now.
    pub fn in_use(&self) -> InUse {
        let core = &self.core;
        let used = core.admission.used();
        let (waiting_frames, rate) = core.queue.state();
        let (sets, set_bytes) = core.residency.size();
        InUse {
            clips: used.clips,
            clips_capacity: core.config.queue_clips,
            bytes: used.bytes,
            bytes_capacity: core.config.queue_bytes,
            waiting_frames,
            sets,
            set_bytes,
            rate,
        }
    }

    /// Returns the most bytes of files of versions that one tenant may pin: half of what may be pinned in all.
    pub fn pin_limit(&self) -> u64 {
        self.core.config.pinned_bytes() / 2
    }

    /// Returns the reason why a version is quarantined; `None` when it is resident, loading, or was never requested.
    pub fn refusal(&self, version: &VersionRef) -> Option<Arc<str>> {
        self.core.residency.refusal(version)
    }

    /// Loads a quarantined version again, because it was requested anew.
    pub fn retry(&self, version: &VersionRef) {
        self.core.residency.reload(version);
    }

    /// Returns a watch of whether the backbone is loaded and warmed up; it turns false when a drain starts.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.core.ready.subscribe()
    }
}

#[cfg(test)]
mod tests;
