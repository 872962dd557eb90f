//! Turns a configuration into a running server: binds first, wires the handles, owns the drain order.
//!
//! Invariant: an address is announced only after it is bound and this process holds the data directory; health reports SERVING only after the
//! backbone is loaded and warmed up. Drain order: health and GOAWAY → endless and idle streams → after the grace period, new calls → calls in flight
//! and jobs (to their checkpoints) → engine and device → the last counts of usage → the database, whose log is checkpointed so that the database file alone holds every record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::config::Config;
use crate::exchange::Exchange;
use crate::metadata::{self, Database, MetadataStore};
use crate::rpc::{self, Api, Health};
use crate::store::{self, DirectoryLock};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{LogFilter, Probes, Traces};
use crate::tenancy::pages::Pages;
use crate::tenancy::tls::Certificates;
use crate::tenancy::{self, Admin, Credentials, Meter, Tenants};
use crate::{shutdown, telemetry};

mod about;
mod accounts;
mod bind;
mod budgets;
mod database;
mod error;
mod hints;
mod loops;
mod objects;
mod pairing;
mod place;
mod presence;
mod upkeep;
mod wiring;

pub use about::Summary;
pub use budgets::Budgets;
pub use error::Error;
pub use wiring::Wiring;

use bind::Listeners;
use loops::{Ends, Loops};
use wiring::{LoopSet, Stores};

/// How long a drain waits for the database to take the last counts of usage.
const LAST_COUNTS: Duration = Duration::from_secs(3);

/// Server whose addresses are bound and that answers NOT_SERVING until the backbone is loaded.
pub struct Bound {
    config: Config,
    listeners: Listeners,
    health: Health,
    api: Api,
    front_drain: shutdown::Drain,
    front: LoopSet,
    back_drain: shutdown::Drain,
    back: LoopSet,
    probes: Probes,
    stores: Stores,
    traces: Traces,
    database: Database,
    credentials: Credentials,
    tenants: Tenants,
    certificates: Option<Certificates>,
    pages: Pages,
    lock: DirectoryLock,
}

/// Running server.
pub struct App {
    address: Option<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    summary: Summary,
    wiring: Wiring,
    health: Health,
    probes: Probes,
    /// Time without a job after which the process ends by itself.
    exit_when_idle: Option<Duration>,
    front_drain: shutdown::Drain,
    back_drain: shutdown::Drain,
    /// Loops that drain first: the API and the jobs.
    front: Loops,
    /// Loops that drain last, because the first need them to finish: the engine and the device.
    back: Loops,
    drain_grace: Duration,
    drain_timeout: Duration,
    traces: Traces,
    database: Database,
    /// Lock of the data directory, held until everything that writes has ended.
    _lock: DirectoryLock,
}

impl App {
    /// Binds the addresses, locks and opens the data directory, and starts to answer NOT_SERVING.
    ///
    /// # Errors
    /// When an address cannot be bound, or the data directory or the database cannot be opened.
    pub fn bind(config: Config) -> BoxFuture<'static, Result<Bound, Error>> {
        Self::bind_logged(config, None)
    }

    /// As [`App::bind`], with a log whose filter the operators' endpoint can change.
    ///
    /// # Errors
    /// The errors of [`App::bind`].
    pub fn bind_logged(
        config: Config,
        log: Option<LogFilter>,
    ) -> BoxFuture<'static, Result<Bound, Error>> {
        // Boxed here, as all futures that another crate polls: the whole server is compiled with this crate, and not once more with each of those.
        Box::pin(Self::bind_all(config, log))
    }

    async fn bind_all(config: Config, log: Option<LogFilter>) -> Result<Bound, Error> {
        let mut listeners = Listeners::bind(&config).await?;
        let certificates = config.tls.clone().map(Certificates::load);
        let certificates = certificates.transpose().map_err(Box::new)?;
        let lock = DirectoryLock::acquire(&config.data_dir)?;
        let (metrics, probes) = (Metrics::new(), Probes::default());
        let (back_drain, mut back) = LoopSet::new();
        // Before anything is waited for: an orchestrator asks from the beginning.
        if let Some(listener) = listeners.take_metrics() {
            let shown = (metrics.clone(), probes.clone());
            let endpoint = telemetry::serve_metrics(listener, shown, log, back.signal.clone());
            back.loops
                .spawn("the metrics endpoint", Ends::Itself, endpoint);
        }
        let store = objects::open(&config, &metrics).await?;
        let database = pairing::open(&config, &store).await?;
        // The feed says so from when it runs; until then the backbone is loaded, which may take minutes.
        metrics.database_up(true);
        let traces = Traces::new(config.traces.as_ref())?;
        let metadata: Arc<dyn MetadataStore> = Arc::new(database.clone());
        let credentials = Credentials::new(
            config.tenancy.clone(),
            Arc::clone(&metadata),
            metrics.clone(),
        );
        let credentials = credentials.map_err(tenancy::bootstrap::Error::from)?;
        credentials.bootstrap().await?;
        let pages = Pages::of(&*metadata).await?;
        let tenants = Tenants::new(
            Arc::clone(&metadata),
            Meter::default(),
            config.tenancy.feed_poll,
        )
        .with_defaults(config.tenancy.at_once);
        tenants.load().await?;
        listeners.announce(config.address_file.as_deref())?;

        probes.opened();
        let (front_drain, front) = LoopSet::new();
        let bound = Bound {
            health: Health::new().await,
            api: Api::new(),
            front_drain,
            front,
            back_drain,
            back,
            probes,
            stores: Stores {
                store,
                metadata,
                metrics,
            },
            traces,
            database,
            credentials,
            tenants,
            certificates,
            pages,
            lock,
            listeners,
            config,
        };
        Ok(bound.serve())
    }

    /// Binds the addresses, loads the backbone and serves.
    ///
    /// # Errors
    /// The errors of [`App::bind`] and [`Bound::load`].
    pub fn start(config: Config) -> BoxFuture<'static, Result<Self, Error>> {
        Box::pin(async { Self::bind(config).await?.load().await })
    }

    /// Returns the address of the API; none when the process only trains.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Returns the address of the metrics endpoint, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns the address of the administrators' API, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Returns the values that the server chose at its start.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Returns the handles of the components behind the API.
    pub fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    /// Serves until `signal` completes, until an operator asks that the process drain, or until no job has run for as long as the configuration says, then drains.
    ///
    /// # Errors
    /// When a loop that the server depends on ends earlier, or the drain takes too long.
    pub fn run_until(
        self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, Result<(), Error>> {
        self.run(Box::pin(signal))
    }

    fn run(self, signal: BoxFuture<'static, ()>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(self.serve_until(signal))
    }

    async fn serve_until(self, signal: BoxFuture<'static, ()>) -> Result<(), Error> {
        let (jobs, patience) = (self.wiring.jobs.clone(), self.exit_when_idle);
        let asked = self.wiring.asked.clone();
        let idle = async move {
            match patience {
                Some(patience) => jobs.idle_for(patience).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = signal => None,
            () = idle => {
                tracing::info!("no job for long enough: the process ends");
                None
            }
            () = asked.to_drain() => {
                tracing::info!("an operator asked that this process drain");
                None
            }
            ended = self.front.fatal() => Some(ended),
            ended = self.back.fatal() => Some(ended),
        };
        let drained = self.drain().await;
        match ended {
            Some(ended) => Err(ended.into()),
            None => drained,
        }
    }

    /// Finishes what is in flight, in the order that the module documents.
    async fn drain(mut self) -> Result<(), Error> {
        tracing::info!("draining");
        self.health.not_serving().await;
        self.probes.draining();
        let began = Instant::now();
        self.front_drain.start();
        let all = self.drain_grace + self.drain_timeout;
        // The device ends after its current slice and the engine after its current batch, so a tenth of the time is enough for them.
        let late = self.front.finish(all - self.drain_timeout / 10).await;
        self.back_drain.start();
        let later = self.back.finish(all.saturating_sub(began.elapsed())).await;
        keep_last_counts(&self.wiring.tenants).await;
        self.traces.finish().await;
        database::close(&self.database).await;
        let unfinished: Vec<&str> = late.into_iter().chain(later).collect();
        if unfinished.is_empty() {
            tracing::info!("drained");
            return Ok(());
        }
        Err(Error::DrainTimeout {
            seconds: all.as_secs(),
            what: unfinished.join(", "),
        })
    }
}

/// Records what the device and the calls used after the loop that keeps the books had ended.
async fn keep_last_counts(tenants: &Tenants) {
    match tokio::time::timeout(LAST_COUNTS, tenants.close_window()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the last counts of usage are lost");
        }
        Err(_) => {
            tracing::warn!("the last counts of usage are lost: the database does not answer");
        }
    }
}

impl Bound {
    /// Returns the address of the API; none when the process only trains.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.address
    }

    /// Returns the same server with a metadata store that fails when `faults` says so; for tests.
    pub fn with_metadata_faults(mut self, faults: &metadata::Outages) -> Self {
        self.stores.metadata = faults.wrap(self.stores.metadata);
        self
    }

    /// Returns the same server with an object store that fails or waits when `faults` says so; for tests.
    pub fn with_store_faults(mut self, faults: &store::Faults) -> Self {
        self.stores.store = self.stores.store.with_faults(faults.clone());
        self
    }

    fn serve(mut self) -> Self {
        let (api, health) = (self.api.clone(), self.health.clone());
        let front = |listener| rpc::Front {
            listener,
            credentials: Some(self.credentials.clone()).filter(Credentials::are_required),
            tenants: self.tenants.clone(),
            certificates: self.certificates.clone(),
            metrics: self.stores.metrics.clone(),
            traces: self.traces.clone(),
            drain: self.front.signal.clone(),
        };
        let (own, admin) = (self.listeners.take_api(), self.listeners.take_admin());
        let (own, admin) = (own.map(front), admin.map(front));
        let watched = self.certificates.clone().map(|certificates| {
            certificates.watch(self.stores.metrics.clone(), self.front.signal.clone())
        });
        let loops = &mut self.front.loops;
        if let Some(watched) = watched {
            loops.spawn("the certificates", Ends::Itself, watched);
        }
        if let Some(identities) = self.credentials.identities() {
            let watched = identities.watch(self.front.signal.clone());
            loops.spawn("the identities", Ends::Itself, watched);
        }
        if let Some(front) = own {
            let config = self.config.rpc.clone();
            loops.spawn("the API", Ends::Server, async move {
                rpc::serve(&config, front, api, &health).await
            });
        }
        if let Some(front) = admin {
            let config = self.config.rpc.of_admin();
            let admin = Admin::new(self.credentials.clone(), self.tenants.clone());
            let admin = (admin, self.pages.clone());
            loops.spawn("the administrators' API", Ends::Server, async move {
                rpc::serve_admin(&config, front, admin).await
            });
        }
        self
    }

    /// Loads the backbone, starts all components, waits until the engine is warmed up, and serves.
    ///
    /// # Errors
    /// When the backbone, the video workers or the device cannot be started, the backbone's first forward pass fails, or a loop ends that the server
    /// depends on.
    pub fn load(self) -> BoxFuture<'static, Result<App, Error>> {
        Box::pin(self.load_all())
    }

    async fn load_all(self) -> Result<App, Error> {
        let (front_ended, back_ended) = (self.front.loops.fatal(), self.back.loops.fatal());
        tokio::select! {
            loaded = self.load_beside() => loaded,
            ended = front_ended => Err(ended.into()),
            ended = back_ended => Err(ended.into()),
        }
    }

    async fn load_beside(mut self) -> Result<App, Error> {
        let (mut config, mut back) = (self.config, self.back);
        let shared = (self.stores, &self.tenants);
        let wiring = Wiring::start(&mut config, shared, &mut self.front, &mut back).await?;
        let device = wiring.device.clone();
        self.probes.watch_device(move || device.busy_for());
        let upkeep = database::tend(
            self.database.clone(),
            self.health.clone(),
            wiring.metrics.clone(),
            back.signal.clone(),
        );
        back.loops
            .spawn("the database's upkeep", Ends::Itself, upkeep);
        hints::start(&self.database, (&wiring, &self.credentials), &mut back);
        if self.credentials.are_required() {
            let feed = self.credentials.clone().follow(back.signal.clone());
            back.loops
                .spawn("the feed of credentials", Ends::Server, feed);
        }
        let device = wiring.place.memory().map(|memory| memory.total);
        let budgets = Budgets::of(&config, wiring.backbone.bytes(), device);
        budgets.check();
        let about = about::of(&config, &wiring, &budgets);
        let summary = Summary::new(&config, &self.listeners, &about, budgets);
        self.api.open(rpc::Parts {
            library: wiring.library.clone(),
            registry: wiring.registry.clone(),
            jobs: wiring.jobs.clone(),
            serving: wiring.serving.clone(),
            engine: wiring.engine.clone(),
            metrics: wiring.metrics.clone(),
            geometry: wiring.backbone.config().geometry(),
            exchange: Exchange::new(wiring.registry.clone(), Arc::clone(&wiring.backbone)),
            spool: config.data_dir.clone(),
            pages: self.pages,
            pools: rpc::Pools::new(&config.rpc.limits),
            about,
            replica: wiring.replica.clone(),
            accelerator: place::look(wiring.place.clone()),
        });
        let mut ready = wiring.engine.ready();
        if ready.wait_for(|ready| *ready).await.is_err() {
            let why = "it stopped before it was ready".to_owned();
            return Err(Error::Stopped {
                what: "the engine",
                why,
            });
        }
        self.health.serving().await;
        self.probes.ready();
        Ok(App {
            address: self.listeners.address,
            metrics_address: self.listeners.metrics_address,
            admin_address: self.listeners.admin_address,
            summary,
            wiring,
            health: self.health,
            probes: self.probes,
            exit_when_idle: config.exit_when_idle,
            front_drain: self.front_drain,
            back_drain: self.back_drain,
            front: self.front.loops,
            back: back.loops,
            drain_grace: config.rpc.drain_grace,
            drain_timeout: config.drain_timeout,
            traces: self.traces,
            database: self.database,
            _lock: self.lock,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Flags;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    #[tokio::test]
    async fn a_loop_that_ends_while_the_server_loads_ends_the_start_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let flags = Flags {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            data_dir: Some(folder.path().to_owned()),
            ..Flags::default()
        };
        let nobody = PathBuf::from("/nowhere");
        let config = Config::load(None, &BTreeMap::new(), &flags, nobody).unwrap();
        let mut bound = App::bind(config).await.unwrap();
        let loops = &mut bound.front.loops;
        loops.spawn("a loop", Ends::Server, async {
            if true {
                panic!("as planned");
            }
            Ok::<(), Error>(())
        });
        loops.fatal().await;
        match bound.load().await {
            Err(Error::Stopped { what, why }) => {
                assert!(
                    what == "a loop" && why.contains("as planned"),
                    "{what}: {why}"
                );
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it serves"),
        }
    }
}
