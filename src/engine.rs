//! Classification: admission, batches that mix tasks, resident adapter sets, and swaps of serving versions.
//!
//! Invariant: a bad input, an expired request or a failing adapter set fails alone, never with its batch neighbours. Expired or abandoned requests
//! never reach the device.

mod account;
mod admission;
mod admitting;
mod answers;
mod batcher;
mod config;
mod error;
mod in_use;
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

use tokio::sync::watch;

use crate::device;
use crate::fair::Weights;
use crate::ids::VersionRef;
use crate::model::Backbone;
pub use crate::model::{Kept, Pictures};
use crate::telemetry::Metrics;

pub use account::{Account, Free};
pub use admission::Permit;
use admission::{Admission, Demand};
pub use admitting::{Ask, Load};
pub use answers::{Answer, ClipFeatures, Clips, Features};
pub use config::Config;
pub use error::{Error, Limit, RateExceeded, Unfit};
pub use in_use::{InUse, ResidencyRecord};
use queue::Queue;
pub use rate::{Origin, Rate};
use residency::Residency;
pub use spare::Spare;
pub use swap::Service;
pub use versions::{Desired, Role, Stored, Unavailable, Versions};

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
    let account = Arc::clone(&parts.account);
    let source = worker::Batches::new(queue.clone(), model, account);
    parts.device.set_source(Box::new(source));
    let loader = residency::Loader {
        versions: versions.clone(),
        backbone: parts.backbone.clone(),
        device: parts.device.clone(),
        weights: parts.weights,
        clips: Arc::default(),
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

impl Handle {
    /// Returns the bytes of a frame's tokens that are kept for later batches; 0 where none are kept ([`Backbone::keeps_tokens`]).
    pub fn kept_bytes(&self) -> u64 {
        let backbone = &self.core.backbone;
        let config = backbone.config();
        match backbone.keeps_tokens() {
            true => (config.tokens() * config.width * size_of::<f32>()) as u64,
            false => 0,
        }
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
