//! The gRPC services: requests in, domain calls, answers out.
//!
//! Invariant: a handler converts, calls one component and converts back; what every request has in common is in [`stack`].

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::engine;
use crate::exchange::Exchange;
use crate::ids::TenantId;
use crate::library::Library;
use crate::proto::v1;
use crate::registry::Registry;
use crate::serving::Serving;
use crate::shutdown::{self, Signal};
use crate::spec::Geometry;
use crate::telemetry::Traces;
use crate::telemetry::metrics::Metrics;
use crate::tenancy::pages::Pages;
use crate::tenancy::proxies::Proxies;
use crate::tenancy::tls::Certificates;
use crate::tenancy::{Admin, Credentials, Tenants};

mod admin;
mod auth;
mod classify;
mod convert;
mod datasets;
mod embed;
mod evaluate;
mod frames;
pub mod health;
pub mod info;
mod jobs;
mod listener;
mod listing;
mod methods;
mod pool;
mod scopes;
mod spool;
mod stack;
mod standing;
mod status;
mod tasks;
mod uploads;
mod versions;
mod videos;
mod web;
mod windows;

use auth::Callers;
use listener::Listener;
use listing::{Ask, Listing};
use stack::budget::Budget;
use stack::drained::Steps;

#[cfg(any(fuzzing, test))]
pub use auth::fuzz as fuzz_header;
pub use health::Health;
pub use info::About;
pub use pool::Pools;
pub use stack::budget::Limits;
pub use status::Reason;

/// Largest message, in bytes: an inline clip with its envelope.
pub const MESSAGE_BYTES: usize = 32 << 20;
/// Largest chunk of an upload, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Requests at a time on one connection: more than a sensible client has in flight. What they hold is bounded by the budget.
const STREAMS: u32 = 256;
/// Flow control window of a stream: a chunk, so that an upload seldom waits for a round trip.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow control window of a connection: what it holds, at most, before a handler or the budget asks for it. Two streams that are held back leave nothing
/// for others, and all connections together hold `connections` times as much.
pub const CONNECTION_WINDOW: u32 = 2 << 20;
/// Connections of the administrators' API at a time: people and operators, not clients.
pub const ADMIN_CONNECTIONS: usize = 32;
/// Memory of messages to the administrators' API: the least that a budget can have.
pub const ADMIN_MEMORY: u64 = 2 * MESSAGE_BYTES as u64;

/// Configuration of connections and calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Age at which a connection is asked to close; its requests in flight finish.
    pub connection_age: Duration,
    /// Silence after which a connection is probed.
    pub keepalive_interval: Duration,
    /// Time to answer the probe.
    pub keepalive_timeout: Duration,
    /// Most connections at a time.
    pub connections: usize,
    /// Time until a connection has to speak HTTP/2.
    pub handshake: Duration,
    /// Limits of what calls hold, and for how long.
    pub limits: Limits,
    /// Time after the beginning of a drain in which calls that still arrive are served.
    pub drain_grace: Duration,
    /// Callers who may ask which services there are.
    pub reflection: Reflection,
    /// Proxies whose word counts for the addresses of callers.
    pub trusted_proxies: Proxies,
    /// Whether nothing but proxies connects, each with the calls of many callers.
    pub behind_proxy: bool,
    /// Origins of pages whose browsers may call by gRPC-Web; none turns gRPC-Web off.
    pub web_origins: Vec<http::HeaderValue>,
}

impl Config {
    /// Returns the configuration of the administrators' API: a few connections with small messages.
    #[must_use]
    pub fn of_admin(&self) -> Self {
        Self {
            connections: ADMIN_CONNECTIONS,
            limits: Limits {
                message_memory: ADMIN_MEMORY,
                ..self.limits.clone()
            },
            // People administer by the command line, not from pages.
            web_origins: Vec::new(),
            ..self.clone()
        }
    }
}

/// Callers who may ask which services and messages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflection {
    /// Everybody may ask.
    On,
    /// Callers with a credential may ask.
    Authenticated,
    /// Nobody may ask.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connection_age: Duration::from_secs(60 * 60),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            connections: 512,
            handshake: Duration::from_secs(10),
            limits: Limits::default(),
            drain_grace: Duration::from_secs(5),
            reflection: Reflection::On,
            trusted_proxies: Proxies::default(),
            behind_proxy: false,
            web_origins: Vec::new(),
        }
    }
}

/// Reason why the API stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The API's own description is broken.
    #[error("the API's descriptors cannot be served by reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Components that handlers call.
pub struct Parts {
    /// Videos and data sets.
    pub library: Library,
    /// Tasks and versions.
    pub registry: Registry,
    /// Handle of fine-tuning jobs.
    pub jobs: crate::jobs::Handle,
    /// Classification and embedding.
    pub serving: Serving,
    /// Engine, which knows what is resident.
    pub engine: engine::Handle,
    /// Metrics of the server.
    pub metrics: Metrics,
    /// Geometry of the backbone, which tasks have to fit.
    pub geometry: Geometry,
    /// Versions as files.
    pub exchange: Exchange,
    /// Folder for files of one request that are too large for memory.
    pub spool: PathBuf,
    /// Seals of page tokens.
    pub pages: Pages,
    /// Pools of memory and disk that files on their way draw from.
    pub pools: Pools,
    /// Description of the server.
    pub about: About,
    /// Name of this process among those that share the database.
    pub replica: String,
    /// Function that reads the state of the server's accelerator.
    pub accelerator: info::LookAtAccelerator,
}

/// The API's handlers. They exist before what they call does: until [`Api::open`] they answer UNAVAILABLE.
#[derive(Clone)]
pub struct Api {
    parts: Arc<OnceLock<Parts>>,
}

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}

impl Api {
    /// Creates handlers that are not ready.
    pub fn new() -> Self {
        Self {
            parts: Arc::new(OnceLock::new()),
        }
    }

    /// Makes the handlers ready; a second call changes nothing.
    pub fn open(&self, parts: Parts) {
        let about = &parts.about;
        parts.metrics.build_info(
            env!("CARGO_PKG_VERSION"),
            &about.digest.to_string(),
            about.device.as_str(),
            &about.precision,
        );
        let _ = self.parts.set(parts);
    }

    fn parts(&self) -> Result<&Parts, Status> {
        self.parts.get().ok_or_else(status::not_ready)
    }

    /// Returns the message of a unary request, its tenant, and the components to call.
    fn enter<T>(&self, request: tonic::Request<T>) -> Result<(&Parts, TenantId, T), Status> {
        let parts = self.parts()?;
        let tenant = auth::tenant(&request)?;
        Ok((parts, tenant, request.into_inner()))
    }

    /// Does what [`Api::enter`] does with a request for a page of a listing, and opens the listing.
    fn list<T: Ask>(
        &self,
        request: tonic::Request<T>,
    ) -> Result<(&Parts, TenantId, T, Listing), Status> {
        let (parts, tenant, list) = self.enter(request)?;
        let listing = Listing::open(&parts.pages, Some(&tenant), &list)?;
        Ok((parts, tenant, list, listing))
    }
}

/// A service with the message limits of the API.
macro_rules! limited {
    ($module:ident::$service:ident, $api:expr) => {
        compressed!(v1::$module::$service::new($api.clone()))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    };
}

/// A service that reads messages compressed with gzip or zstd.
macro_rules! compressed {
    ($service:expr) => {
        $service
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
    };
}

/// A bound address, and what its calls share with those of other addresses.
pub struct Front {
    /// The bound listener.
    pub listener: TcpListener,
    /// Credentials that callers prove who they are with; without them callers are anonymous.
    pub credentials: Option<Credentials>,
    /// States and limits of tenants.
    pub tenants: Tenants,
    /// Certificates of TLS; without them connections are in plain text.
    pub certificates: Option<Certificates>,
    /// Metrics of the calls.
    pub metrics: Metrics,
    /// Traces of the calls.
    pub traces: Traces,
    /// Signal at which serving ends.
    pub drain: Signal,
}

/// Serves the API, health and reflection on a bound listener until the drain; returns when every request in flight has finished.
///
/// # Errors
/// When the transport fails.
pub async fn serve(config: &Config, front: Front, api: Api, health: &Health) -> Result<(), Error> {
    let routes = reflection(config, false)?
        .add_service(compressed!(health.service()))
        .add_service(limited!(server_service_server::ServerServiceServer, api))
        .add_service(limited!(video_service_server::VideoServiceServer, api))
        .add_service(limited!(dataset_service_server::DatasetServiceServer, api))
        .add_service(limited!(task_service_server::TaskServiceServer, api))
        .add_service(limited!(
            fine_tuning_service_server::FineTuningServiceServer,
            api
        ))
        .add_service(limited!(
            classification_service_server::ClassificationServiceServer,
            api
        ));
    run(config, front, routes).await
}

/// Serves the administrators' API, and reflection, on a listener of its own until the drain.
///
/// # Errors
/// When the transport fails.
pub async fn serve_admin(
    config: &Config,
    front: Front,
    admin: (Admin, Pages),
) -> Result<(), Error> {
    let api = admin::AdminApi(admin.0, admin.1);
    let api = v1::admin_service_server::AdminServiceServer::new(api);
    let routes = reflection(config, true)?.add_service(compressed!(api));
    run(config, front, routes).await
}

/// Serves some services on a bound address.
async fn run(config: &Config, front: Front, routes: Routes) -> Result<(), Error> {
    let Front {
        listener,
        credentials,
        tenants,
        certificates,
        metrics,
        traces,
        drain,
    } = front;
    let budget = Budget::new(&config.limits);
    let (closing, steps, cut) = Closing::new(config.drain_grace, drain.clone());
    let limits = listener::Limits {
        connections: config.connections,
        handshake: config.handshake,
    };
    let ends = listener::Ends {
        drain: drain.clone(),
        cut,
    };
    let listener = Listener::new(listener, limits, budget.clone(), metrics.clone(), ends)
        .encrypted(certificates)
        .with_http1(!config.web_origins.is_empty());
    let callers = Callers::new(credentials, config.reflection, metrics.clone())
        .of_tenants(tenants)
        .behind(config.trusted_proxies.clone(), config.behind_proxy);
    let shared = stack::Shared {
        metrics,
        traces,
        steps,
        budget,
        limits: config.limits.clone(),
        callers,
    };
    let begins = drain;
    let serving = Server::builder()
        .http2_keepalive_interval(Some(config.keepalive_interval))
        .http2_keepalive_timeout(Some(config.keepalive_timeout))
        // Without tonic's own grace, which would close without asking first: requests in flight end by their own deadlines.
        .max_connection_age(config.connection_age)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .accept_http1(!config.web_origins.is_empty())
        .layer(web::origins(&config.web_origins))
        .layer(web::translation(&config.web_origins))
        .layer(stack::layers(shared))
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener.into_stream(), async move {
            begins.draining().await;
        });
    tokio::select! {
        served = serving => Ok(served?),
        never = closing.run() => match never {},
    }
}

/// Reflection of the services that an address has, when there is any.
fn reflection(config: &Config, is_admin: bool) -> Result<Routes, Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(methods::shown(is_admin))
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    if config.reflection == Reflection::Off {
        return Ok(Routes::default());
    }
    // The second one is what Python's reflection client speaks.
    Ok(Routes::new(compressed!(builder().build_v1()?))
        .add_service(compressed!(builder().build_v1alpha()?)))
}

/// The steps of a drain on the wire: GOAWAY and the end of endless streams when it begins, refusals after the grace, and an end to connections whose
/// clients do not close them once the last call is over.
struct Closing {
    grace: Duration,
    drain: Signal,
    refuse: shutdown::Drain,
    cut: shutdown::Drain,
    calls: TaskTracker,
}

impl Closing {
    fn new(grace: Duration, drain: Signal) -> (Self, Steps, Signal) {
        let (refuse, refuses) = shutdown::channel();
        let (cut, cuts) = shutdown::channel();
        let calls = TaskTracker::new();
        let steps = Steps {
            began: drain.clone(),
            refuses,
            calls: calls.clone(),
        };
        let closing = Self {
            grace,
            drain,
            refuse,
            cut,
            calls,
        };
        (closing, steps, cuts)
    }

    async fn run(self) -> Infallible {
        self.drain.draining().await;
        tokio::time::sleep(self.grace).await;
        self.refuse.start();
        self.calls.close();
        self.calls.wait().await;
        self.cut.start();
        std::future::pending().await
    }
}
