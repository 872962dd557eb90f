//! Creates the components and starts their loops.
//!
//! Invariant: everything that serves or trains shares the one backbone, device and decoder that are created here.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use super::accounts::Accounts;
use super::loops::{Ends, Loops};
use super::presence::{Asked, Presence};
use super::{place, upkeep};
use crate::blocking::blocking;
use crate::config::{Backbone as Choice, Config};
use crate::fair::{Ledger, Weights};
use crate::library::{self, Library};
use crate::metadata::MetadataStore;
use crate::model::{Backbone, Place, load};
use crate::registry::Registry;
use crate::serving::{self, Resident, Serving};
use crate::shutdown::{self, Drain, Signal};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::replica;
use crate::tenancy::{Forget, Tenants};
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
    /// What is known of tenants and counted for them.
    pub tenants: Tenants,
    /// Name of this process among those that share the database.
    pub replica: String,
    /// What operators ask of this process.
    pub(super) asked: Asked,
}

/// Loops that drain together, and the signal that asks them to.
#[derive(Debug)]
pub(super) struct LoopSet {
    pub(super) loops: Loops,
    pub(super) signal: Signal,
}

impl LoopSet {
    /// No loop yet, and what asks all of them to drain.
    pub(super) fn new() -> (Drain, Self) {
        let (drain, signal) = shutdown::channel();
        let loops = Loops::new();
        (drain, Self { loops, signal })
    }

    /// Starts the loop of the jobs.
    fn train(&mut self, service: jobs::Service, parts: jobs::Parts) {
        let training = service.run(parts, self.signal.clone());
        self.loops.spawn("the jobs", Ends::Server, async move {
            training.await;
            Ok::<(), Error>(())
        });
    }
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
        config: &mut Config,
        (
            Stores {
                store,
                metadata,
                metrics,
            },
            tenants,
        ): (Stores, &Tenants),
        front: &mut LoopSet,
        back: &mut LoopSet,
    ) -> Result<Self, Error> {
        let accounts = Arc::new(Accounts(tenants.clone()));
        let shared = (
            Arc::new(tenants.clone()) as Arc<dyn Weights>,
            accounts.clone() as Arc<dyn Ledger>,
        );
        let decoder = Decoder::start_shared(config.video.clone(), shared).await?;
        let (backbone, place) = backbone(config).await?;
        let backbone = Arc::new(backbone);
        if !metadata.is_exclusive() {
            metadata.bind_backbone(backbone.digest());
        }
        let library = library(config, (&store, &metadata), &decoder);
        let replica = replica::name();
        let registry = Registry::of_replica(
            config.registry.clone(),
            store.clone(),
            Arc::clone(&metadata),
            &replica,
        );
        compared((&registry, &backbone, &metrics), &*metadata, back).await;
        let (device, device_service) = start_device(&place, config, (tenants, &metrics))?;
        let parts = engine::Parts {
            registry: registry.clone(),
            device: device.clone(),
            backbone: Arc::clone(&backbone),
            metrics: metrics.clone(),
            weights: Arc::new(tenants.clone()),
            account: accounts.clone(),
        };
        let (engine, engine_service) = engine::new(config.engine.clone(), parts);
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
            tenants: tenants.clone(),
            replica,
            asked: Asked::default(),
        };
        let presence = wiring.presence(config);
        match config.role.trains() {
            true => front.train(jobs_service, wiring.training(store, config)),
            false => {
                remove_decoded(&decoded(config)).await;
                let parts = wiring.training(store, config);
                look_after_jobs(jobs_service, parts, back);
            }
        }
        let signal = || back.signal.clone();
        let (device, engine) = (device_service.run(signal()), engine_service.run(signal()));
        back.loops.spawn("the device", Ends::Server, device);
        back.loops.spawn("the engine", Ends::Server, engine);
        wiring.tend(config, back);
        wiring.keep(back);
        let presence = presence.report(front.signal.clone(), back.signal.clone());
        back.loops.spawn("the presence", Ends::Itself, presence);
        Ok(wiring)
    }

    /// What this process says of itself to the others.
    fn presence(&self, config: &Config) -> Presence {
        Presence {
            name: self.replica.clone(),
            role: config.role,
            metadata: Arc::clone(&self.metadata),
            engine: self.engine.clone(),
            backbone: Arc::clone(&self.backbone),
            asked: self.asked.clone(),
        }
    }

    /// Starts the loops that keep what others use: they clean up, give memory back and follow the change feed.
    fn tend(&self, config: &Config, back: &mut LoopSet) {
        let signal = || back.signal.clone();
        let metrics = || self.metrics.clone();
        let own = (self.library.clone(), self.replica.clone());
        let janitor = upkeep::tidy(own, metrics(), signal());
        let own = (self.library.clone(), self.replica.clone());
        let collector = upkeep::collect(own, metrics(), config.collect_after, signal());
        let memory = upkeep::give_back(signal());
        let workers = upkeep::count_lost_workers(self.decoder.clone(), metrics(), signal());
        back.loops
            .spawn("the count of video workers", Ends::Itself, workers);
        let copies = upkeep::forget(self.library.clone(), signal());
        let feed = self.registry.clone().follow(metrics(), signal());
        let watched = (self.place.clone(), self.device.clone());
        let gauges = place::observe(watched, metrics(), signal());
        back.loops
            .spawn("the device's gauges", Ends::Itself, gauges);
        back.loops.spawn("the janitor", Ends::Itself, janitor);
        back.loops.spawn("the collector", Ends::Itself, collector);
        back.loops
            .spawn("the memory's upkeep", Ends::Itself, memory);
        back.loops.spawn("the cache's upkeep", Ends::Itself, copies);
        back.loops.spawn("the change feed", Ends::Server, feed);
    }

    /// Starts the loops of tenants: what this process knows of them, what they use, and the erasure of those that are to be forgotten.
    fn keep(&self, back: &mut LoopSet) {
        let tenants = &self.tenants;
        let signal = || back.signal.clone();
        let library = self.library.clone();
        let forget: Forget = Box::new(move |tenants| {
            let library = library.clone();
            Box::pin(async move {
                library.forget_tenants(&tenants).await;
            })
        });
        let feed = tenants.clone().follow(forget, signal());
        let books = tenants.clone().keep_books(signal());
        let eraser = upkeep::erase(
            (self.library.clone(), self.replica.clone()),
            self.metrics.clone(),
            signal(),
        );
        back.loops.spawn("the feed of tenants", Ends::Server, feed);
        back.loops.spawn("the counts of usage", Ends::Server, books);
        back.loops.spawn("the eraser", Ends::Itself, eraser);
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
            replica: self.replica.clone(),
            scratch: config.data_dir.join("features"),
            decoded: decoded(config),
        }
    }
}

/// The folder of decoded frames.
fn decoded(config: &Config) -> PathBuf {
    config.data_dir.join("decoded")
}

/// Removes decoded frames that an earlier process left, which trained: this one does not look for those of tenants that are erased.
async fn remove_decoded(folder: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(folder).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.display(), "decoded frames of an earlier process cannot be removed");
    }
}

/// The library of videos and data sets.
fn library(
    config: &Config,
    (store, metadata): (&Store, &Arc<dyn MetadataStore>),
    decoder: &Decoder,
) -> Library {
    Library::new(
        library::Config {
            upload_bytes: config.upload_limit,
            ..config.library.clone()
        },
        store.clone(),
        Arc::clone(metadata),
        Arc::new(decoder.clone()),
    )
}

/// Starts the device, on which tenants share training by their weights.
fn start_device(
    place: &Place,
    config: &Config,
    (tenants, metrics): (&Tenants, &Metrics),
) -> Result<(device::Handle, device::Service), Error> {
    let health = Box::new(place::Watched(place.clone()));
    let started = device::start_on(health, config.device.clone(), metrics.clone())?;
    started.0.share_by(Arc::new(tenants.clone()));
    started.0.account_to(Arc::new(Accounts(tenants.clone())));
    Ok(started)
}

/// Compares the backbones of the tasks, beside serving where servers share the records: they note nothing of other backbones, so none waits for a look at all tasks.
async fn compared(
    (registry, backbone, metrics): (&Registry, &Arc<Backbone>, &Metrics),
    metadata: &dyn MetadataStore,
    back: &mut LoopSet,
) {
    let comparison = compare(registry.clone(), Arc::clone(backbone), metrics.clone());
    if metadata.is_exclusive() {
        return comparison.await;
    }
    let drain = back.signal.clone();
    let compared = async move {
        tokio::select! {
            () = drain.draining() => {}
            () = comparison => {}
        }
        Ok::<(), Infallible>(())
    };
    back.loops
        .spawn("the comparison of backbones", Ends::Itself, compared);
}

/// Looks after jobs in a process that works on none.
fn look_after_jobs(service: jobs::Service, parts: jobs::Parts, back: &mut LoopSet) {
    let caretaker = service.caretaker(parts, back.signal.clone());
    let looks = upkeep::look_after_jobs(caretaker, back.signal.clone());
    back.loops.spawn("the upkeep of jobs", Ends::Itself, looks);
}

/// Warns about tasks whose serving version belongs to another backbone.
async fn compare(registry: Registry, backbone: Arc<Backbone>, metrics: Metrics) {
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

/// Loads the backbone's weights on a blocking thread, to the device that computes, whose memory decides what the configuration leaves open.
async fn backbone(config: &mut Config) -> Result<(Backbone, Place), Error> {
    let place = place::open(config.accelerator).await?;
    let (choice, overrides) = (config.backbone.clone(), config.backbone_override.clone());
    let (device, precision) = (config.accelerator, config.precision);
    let wanted = config.backbone_digest;
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
        let found = backbone.digest();
        match wanted.filter(|wanted| *wanted != found) {
            Some(expected) => Err(Error::OtherBackbone {
                name: name.clone(),
                expected,
                found,
            }),
            None => Ok((backbone, place)),
        }
    };
    let loaded = blocking(load).await;
    let (backbone, place) = loaded.map_err(|error| Error::Stopped {
        what: "loading the backbone",
        why: error.to_string(),
    })??;
    if let Some(memory) = place.memory() {
        config.compute_in(memory.total);
    }
    Ok((backbone, place))
}
