//! Creates the components and starts their loops.
//!
//! Invariant: everything that serves or trains shares the one backbone, device and decoder that are created here.

use std::sync::Arc;

use super::Error;
use super::loops::{Ends, Loops};
use super::{place, upkeep};
use crate::config::{Backbone as Choice, Config};
use crate::library::{self, Library};
use crate::metadata::MetadataStore;
use crate::model::{Backbone, Place, load};
use crate::registry::Registry;
use crate::serving::{self, Resident, Serving};
use crate::shutdown::Signal;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::replica;
use crate::video::Decoder;
use crate::{device, engine, jobs};

/// Handles of a running server's components: the API calls them, and tests and benches inspect them.
#[derive(Clone)]
pub struct Wiring {
    /// Library of videos and data sets.
    pub library: Library,
    /// Registry of tasks and versions.
    pub registry: Registry,
    /// Handle of the fine-tuning jobs.
    pub jobs: jobs::Handle,
    /// Classification, from the request to the scores.
    pub serving: Serving,
    /// Engine: admission, batches and resident adapter sets.
    pub engine: engine::Handle,
    /// Decoder of videos.
    pub decoder: Decoder,
    /// Device thread.
    pub device: device::Handle,
    /// Place that the backbone computes on.
    pub place: Place,
    /// The frozen backbone.
    pub backbone: Arc<Backbone>,
    /// Store of records.
    pub metadata: Arc<dyn MetadataStore>,
    /// Metrics of all components.
    pub metrics: Metrics,
}

/// Loops that drain together, and the signal that asks them to.
#[derive(Debug)]
pub(super) struct LoopSet {
    pub(super) loops: Loops,
    pub(super) signal: Signal,
}

/// Stores and metrics that all components share.
pub(super) struct Stores {
    pub(super) store: Store,
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) metrics: Metrics,
}

impl Wiring {
    /// Loads the backbone and starts all components behind the API. `front` drains before `back`, because jobs need the device for their last
    /// checkpoint.
    pub(super) async fn start(
        config: &Config,
        stores: Stores,
        front: &mut LoopSet,
        back: &mut LoopSet,
    ) -> Result<Self, Error> {
        let Stores {
            store,
            metadata,
            metrics,
        } = stores;
        let decoder = Decoder::start(config.video.clone()).await?;
        let (backbone, place) = backbone(config).await?;
        let backbone = Arc::new(backbone);
        if !metadata.is_exclusive() {
            metadata.bind_backbone(backbone.digest());
        }
        let library = Library::new(
            library::Config {
                upload_bytes: config.upload_limit,
                ..config.library.clone()
            },
            store.clone(),
            Arc::clone(&metadata),
            Arc::new(decoder.clone()),
        );
        let registry = Registry::new(
            config.registry.clone(),
            store.clone(),
            Arc::clone(&metadata),
        );
        compare(&registry, &backbone, &metrics).await;
        let health = Box::new(place::Watched(place.clone()));
        let (device, device_service) =
            device::start_on(health, config.device.clone(), metrics.clone())?;
        let (engine, engine_service) = engine::new(
            config.engine.clone(),
            engine::Parts {
                registry: registry.clone(),
                device: device.clone(),
                backbone: Arc::clone(&backbone),
                metrics: metrics.clone(),
            },
        );
        let (jobs, jobs_service) = jobs::new(
            config.jobs.clone(),
            Arc::clone(&metadata),
            metrics.clone(),
            &backbone,
        );
        let serving = Serving::new(serving::Parts {
            registry: registry.clone(),
            library: library.clone(),
            decoder: decoder.clone(),
            engine: engine.clone(),
            metrics: metrics.clone(),
            resident: resident(&backbone),
        });
        let wiring = Self {
            library,
            registry,
            jobs,
            serving,
            engine,
            decoder,
            device,
            place,
            backbone,
            metadata,
            metrics,
        };
        if config.role.trains() {
            let training = jobs_service.run(wiring.training(store, config), front.signal.clone());
            front.loops.spawn("the jobs", Ends::Server, async move {
                training.await;
                Ok::<(), Error>(())
            });
        }
        let signal = || back.signal.clone();
        let (device, engine) = (device_service.run(signal()), engine_service.run(signal()));
        back.loops.spawn("the device", Ends::Server, device);
        back.loops.spawn("the engine", Ends::Server, engine);
        wiring.tend(config, back);
        Ok(wiring)
    }

    /// Starts the loops that keep what others use: they clean up, give memory back and follow the change feed.
    fn tend(&self, config: &Config, back: &mut LoopSet) {
        let signal = || back.signal.clone();
        let metrics = || self.metrics.clone();
        let replica = replica::name();
        let own = (self.library.clone(), replica.clone());
        let janitor = upkeep::tidy(own, metrics(), signal());
        let own = (self.library.clone(), replica);
        let collector = upkeep::collect(own, config.collect_after, signal());
        let memory = upkeep::give_back(signal());
        let feed = self.registry.clone().follow(metrics(), signal());
        let gauges = place::observe(self.place.clone(), metrics(), signal());
        back.loops
            .spawn("the device's gauges", Ends::Itself, gauges);
        back.loops.spawn("the janitor", Ends::Itself, janitor);
        back.loops.spawn("the collector", Ends::Itself, collector);
        back.loops
            .spawn("the memory's upkeep", Ends::Itself, memory);
        back.loops.spawn("the change feed", Ends::Server, feed);
    }

    fn training(&self, store: Store, config: &Config) -> jobs::Parts {
        jobs::Parts {
            metadata: Arc::clone(&self.metadata),
            store,
            library: self.library.clone(),
            registry: self.registry.clone(),
            decoder: self.decoder.clone(),
            device: self.device.clone(),
            backbone: Arc::clone(&self.backbone),
            metrics: self.metrics.clone(),
            scratch: config.data_dir.join("features"),
        }
    }
}

/// Warns about tasks whose serving version belongs to another backbone.
async fn compare(registry: &Registry, backbone: &Backbone, metrics: &Metrics) {
    match registry.compare_backbones(backbone.digest()).await {
        Ok(fitness) => {
            metrics.unservable_tasks(fitness.unservable);
            if fitness.unservable > 0 {
                let others: Vec<String> = fitness
                    .backbones
                    .iter()
                    .map(|digest| digest.to_string())
                    .collect();
                tracing::warn!(
                    resident = %backbone.digest(),
                    "{} of {} tasks were trained on backbone {} and cannot be served on this one",
                    fitness.unservable,
                    fitness.tasks,
                    others.join(", "),
                );
            }
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot compare the backbones of the tasks");
        }
    }
}

/// Returns what the backbone requires of a clip.
fn resident(backbone: &Backbone) -> Resident {
    let shape = backbone.config();
    Resident {
        image_size: u16::try_from(shape.image_size).unwrap_or(u16::MAX),
        normalization: shape.normalization,
        digest: backbone.digest(),
    }
}

/// Loads the backbone's weights on a blocking thread, to the device that computes.
async fn backbone(config: &Config) -> Result<(Backbone, Place), Error> {
    let place = place::open(config.accelerator).await?;
    let (choice, overrides) = (config.backbone.clone(), config.backbone_override.clone());
    let (device, precision) = (config.accelerator, config.precision);
    let name = match &choice {
        Choice::Builtin => "builtin".to_owned(),
        Choice::Path(path) => path.display().to_string(),
    };
    let load = move || {
        let failed = |source| Error::Backbone {
            name: name.clone(),
            source: Box::new(source),
        };
        let plan = match &choice {
            Choice::Builtin => load::builtin(&overrides),
            Choice::Path(path) => load::plan(path, &overrides),
        };
        let plan = plan.map_err(failed)?;
        let (place, precision) = place::checked((device, place), plan.config(), precision)?;
        let backbone = Backbone::from_plan_on(&plan, precision, &place).map_err(failed)?;
        Ok((backbone, place))
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded,
        Err(error) => Err(Error::Stopped {
            what: "loading the backbone",
            why: error.to_string(),
        }),
    }
}
