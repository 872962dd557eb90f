//! Turns a configuration into a running server: binds first, wires the handles, owns the drain order.
//!
//! Invariant: an address is announced only when it is bound and the data directory is this process's own; health says SERVING only when the backbone
//! is loaded and warm. Drain order: health → new calls → calls in flight and jobs (to their checkpoints) → engine and device → stores.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Backbone as Choice, Config};
use crate::device;
use crate::engine;
use crate::jobs;
use crate::library::{self, Library};
use crate::metadata::{self, MetadataStore, Sqlite};
use crate::model::{self, Backbone};
use crate::registry::{self, Registry};
use crate::rpc::{self, Api, Health};
use crate::shutdown;
use crate::store::{self, DirectoryLock, Store};
use crate::telemetry::metrics::Metrics;
use crate::video::{self, Decoder};

mod about;
mod bind;
mod loops;

pub use about::Summary;
use bind::Listeners;
use loops::{Ends, Loops};

/// Why the server could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The address file cannot be written.
    #[error("cannot write the address file {}: {source}", path.display())]
    AddressFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database.
    #[error("cannot open the database")]
    Metadata(#[from] metadata::Error),
    /// The backbone cannot be loaded.
    #[error("cannot load the backbone {name}")]
    Backbone {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: model::load::Error,
    },
    /// The video workers do not start.
    #[error("cannot start the video workers")]
    Video(#[from] video::Error),
    /// The device does not start.
    #[error("cannot start the device")]
    Device(#[from] device::Error),
    /// The API does not serve.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// Something that the server cannot be without has ended.
    #[error("{what} ended unexpectedly")]
    Stopped {
        /// What.
        what: &'static str,
    },
    /// Requests or jobs were still under way when the drain's time was over.
    #[error("the drain was not over after {seconds} s: {what} had not finished")]
    DrainTimeout {
        /// How long it waited.
        seconds: u64,
        /// What was still under way.
        what: String,
    },
}

/// A server that is bound and answers NOT_SERVING.
pub struct Bound {
    config: Config,
    listeners: Listeners,
    metrics: Metrics,
    health: Health,
    api: Api,
    front: shutdown::Drain,
    front_signal: shutdown::Signal,
    loops: Loops,
    lock: DirectoryLock,
    store: Store,
    metadata: Arc<dyn MetadataStore>,
}

/// A server that serves.
pub struct App {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    summary: Summary,
    parts: Wiring,
    health: Health,
    front: shutdown::Drain,
    back: shutdown::Drain,
    /// What drains first: the API and the jobs.
    front_loops: Loops,
    /// What they need to finish: the engine and the device.
    back_loops: Loops,
    drain_timeout: std::time::Duration,
    /// Held until everything that writes has ended.
    _lock: DirectoryLock,
}

/// The handles of a running server, for tests and benches that look behind the API.
#[derive(Clone)]
pub struct Wiring {
    /// The device.
    pub device: device::Handle,
    /// The backbone.
    pub backbone: Arc<Backbone>,
    /// Classification.
    pub engine: engine::Handle,
    /// Tasks and versions.
    pub registry: Registry,
    /// Records.
    pub metadata: Arc<dyn MetadataStore>,
    /// Counters.
    pub metrics: Metrics,
}

/// Sets the number of threads of the numeric code, before it runs for the first time.
pub fn compute_threads(threads: Option<NonZeroUsize>) {
    let Some(threads) = threads else { return };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
    if let Err(error) = pool.build_global() {
        tracing::warn!(%error, "the number of compute threads stays as it is");
    }
}

impl App {
    /// Binds, takes the data directory, and begins to answer NOT_SERVING.
    ///
    /// # Errors
    /// When an address, the data directory or the database cannot be had.
    pub async fn bind(config: Config) -> Result<Bound, Error> {
        let listeners = Listeners::bind(&config).await?;
        let lock = DirectoryLock::acquire(&config.data_dir)?;
        let store = Store::open(&config.data_dir.join("objects"))?;
        let path = config.data_dir.join("metadata.sqlite");
        let metadata = Sqlite::open(metadata::Config { path }).await?;
        listeners.announce(config.address_file.as_deref())?;

        let (front, front_signal) = shutdown::channel();
        Ok(Bound {
            metrics: Metrics::new(),
            health: Health::new().await,
            api: Api::new(),
            front,
            front_signal,
            loops: Loops::new(),
            lock,
            store,
            metadata: Arc::new(metadata),
            listeners,
            config,
        }
        .serve())
    }

    /// Binds, loads and serves.
    ///
    /// # Errors
    /// As [`App::bind`] and [`Bound::load`].
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::bind(config).await?.load().await
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// What it chose.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What is behind the API.
    pub fn wiring(&self) -> &Wiring {
        &self.parts
    }

    /// Runs until the signal, then drains.
    ///
    /// # Errors
    /// When something that the server needs ends before, or the drain takes too long.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> Result<(), Error> {
        let ended = tokio::select! {
            () = signal => None,
            what = self.front_loops.fatal() => Some(what),
            what = self.back_loops.fatal() => Some(what),
        };
        let drained = self.drain().await;
        match ended {
            Some(what) => Err(Error::Stopped { what }),
            None => drained,
        }
    }

    /// Finishes what is in flight, in order.
    async fn drain(mut self) -> Result<(), Error> {
        tracing::info!("draining");
        self.health.not_serving().await;
        self.front.start();
        let late = self.front_loops.finish(self.drain_timeout).await;
        self.back.start();
        // The device ends after the slice that it runs and the engine after its batch, so this is short.
        let later = self.back_loops.finish(self.drain_timeout).await;
        let unfinished: Vec<&str> = late.into_iter().chain(later).collect();
        if unfinished.is_empty() {
            tracing::info!("drained");
            return Ok(());
        }
        Err(Error::DrainTimeout {
            seconds: self.drain_timeout.as_secs(),
            what: unfinished.join(", "),
        })
    }
}

impl Bound {
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address
    }

    fn serve(mut self) -> Self {
        let (config, api) = (self.config.rpc.clone(), self.api.clone());
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        let drain = self.front_signal.clone();
        if let Some(listener) = self.listeners.take_api() {
            self.loops.spawn("the API", Ends::Server, async move {
                rpc::serve(&config, listener, api, &health, metrics, drain).await
            });
        }
        self
    }

    /// Loads the backbone, wires everything, waits until the engine is warm, and serves.
    ///
    /// # Errors
    /// When the backbone, the video workers or the device do not start.
    pub async fn load(mut self) -> Result<App, Error> {
        let config = self.config;
        let decoder = Decoder::start(config.video.clone()).await?;
        let backbone = Arc::new(backbone(&config.backbone).await?);
        let (store, metadata, metrics) = (self.store, self.metadata, self.metrics);
        let (back, back_signal) = shutdown::channel();
        let mut back_loops = Loops::new();

        let library = Library::new(
            library::Config {
                upload_bytes: config.upload_limit,
                ..library::Config::default()
            },
            store.clone(),
            Arc::clone(&metadata),
            Arc::new(decoder.clone()),
        );
        let registry = Registry::new(
            registry::Config::default(),
            store.clone(),
            Arc::clone(&metadata),
        );
        let (device, service) = device::start(config.device.clone(), metrics.clone())?;
        back_loops.spawn("the device", Ends::Server, service.run(back_signal.clone()));
        let (engine, service) = engine::new(
            config.engine.clone(),
            engine::Parts {
                registry: registry.clone(),
                device: device.clone(),
                backbone: Arc::clone(&backbone),
                metrics: metrics.clone(),
            },
        );
        back_loops.spawn("the engine", Ends::Server, service.run(back_signal.clone()));
        let (jobs, service) = jobs::new(config.jobs.clone(), Arc::clone(&metadata));
        let parts = jobs::Parts {
            metadata: Arc::clone(&metadata),
            store,
            library: library.clone(),
            registry: registry.clone(),
            decoder: decoder.clone(),
            device: device.clone(),
            backbone: Arc::clone(&backbone),
            metrics: metrics.clone(),
        };
        let drain = self.front_signal.clone();
        self.loops.spawn("the jobs", Ends::Server, async move {
            service.run(parts, drain).await;
            Ok::<(), Error>(())
        });
        if let Some(listener) = self.listeners.take_metrics() {
            let endpoint =
                crate::telemetry::serve_metrics(listener, metrics.clone(), back_signal.clone());
            back_loops.spawn("the metrics endpoint", Ends::Itself, endpoint);
        }
        back_loops.spawn(
            "the collector",
            Ends::Itself,
            loops::collect(library.clone(), back_signal),
        );

        let about = about::of(&config, &backbone, &decoder);
        let summary = Summary::new(&config, &self.listeners, &about);
        self.api.open(rpc::Parts {
            library,
            registry: registry.clone(),
            jobs,
            engine: engine.clone(),
            decoder,
            metrics: metrics.clone(),
            spool: config.data_dir.clone(),
            about,
        });
        let mut ready = engine.ready();
        if ready.wait_for(|ready| *ready).await.is_err() {
            return Err(Error::Stopped { what: "the engine" });
        }
        self.health.serving().await;
        Ok(App {
            address: self.listeners.address,
            metrics_address: self.listeners.metrics_address,
            summary,
            parts: Wiring {
                device,
                backbone,
                engine,
                registry,
                metadata,
                metrics,
            },
            health: self.health,
            front: self.front,
            back,
            front_loops: self.loops,
            back_loops,
            drain_timeout: config.drain_timeout,
            _lock: self.lock,
        })
    }
}

/// Loads the weights, off the async threads.
async fn backbone(choice: &Choice) -> Result<Backbone, Error> {
    let choice = choice.clone();
    let name = match &choice {
        Choice::Builtin => "builtin".to_owned(),
        Choice::Path(path) => path.display().to_string(),
    };
    let load = move || match choice {
        Choice::Builtin => Backbone::builtin(),
        Choice::Path(path) => Backbone::load(&path),
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded.map_err(|source| Error::Backbone { name, source }),
        Err(_) => Err(Error::Stopped {
            what: "loading the backbone",
        }),
    }
}
