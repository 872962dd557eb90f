//! The gRPC services: requests in, domain calls, answers out.
//!
//! Invariant: a handler converts, calls one component and converts back; what every request has in common is in [`stack`].

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::engine;
use crate::ids::TenantId;
use crate::library::Library;
use crate::model::Backbone;
use crate::proto::{self, v1};
use crate::registry::Registry;
use crate::shutdown::Signal;
use crate::telemetry::metrics::Metrics;
use crate::video::Decoder;

mod auth;
mod classify;
mod convert;
mod datasets;
pub mod health;
pub mod info;
mod jobs;
mod methods;
mod spool;
mod stack;
mod status;
mod tasks;
mod uploads;
mod versions;
mod videos;

pub use health::Health;
pub use info::About;

/// Largest message, in bytes: an inline clip with its envelope.
pub const MESSAGE_BYTES: usize = 32 << 20;
/// Largest chunk of an upload, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Requests at a time on one connection: more than a sensible client has in flight, few enough that one connection cannot hold all memory.
const STREAMS: u32 = 256;
/// Flow control windows. A stream's holds two chunks, so that an upload never waits for a round trip.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How connections are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Age at which a connection is asked to close; its requests in flight finish.
    pub connection_age: Duration,
    /// Silence after which a connection is probed.
    pub keepalive_interval: Duration,
    /// Time to answer the probe.
    pub keepalive_timeout: Duration,
}

/// Why the API stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The API's own description is broken.
    #[error("the API's descriptors cannot be served by reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What handlers call.
pub struct Parts {
    /// Videos and data sets.
    pub library: Library,
    /// Tasks and versions.
    pub registry: Registry,
    /// Fine-tuning.
    pub jobs: crate::jobs::Handle,
    /// Classification.
    pub engine: engine::Handle,
    /// Decoding.
    pub decoder: Decoder,
    /// Counters.
    pub metrics: Metrics,
    /// The frozen backbone: what imported adapters have to fit.
    pub backbone: Arc<Backbone>,
    /// Folder for videos of one request that are too large for memory.
    pub spool: PathBuf,
    /// What the server is.
    pub about: About,
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
    /// Handlers that are not ready.
    pub fn new() -> Self {
        Self {
            parts: Arc::new(OnceLock::new()),
        }
    }

    /// Makes the handlers ready; a second call changes nothing.
    pub fn open(&self, parts: Parts) {
        let _ = self.parts.set(parts);
    }

    fn parts(&self) -> Result<&Parts, Status> {
        self.parts.get().ok_or_else(status::not_ready)
    }

    /// The message of a unary request, its tenant, and what to call.
    fn enter<T>(&self, request: tonic::Request<T>) -> Result<(&Parts, TenantId, T), Status> {
        let parts = self.parts()?;
        let tenant = auth::tenant(&request)?;
        Ok((parts, tenant, request.into_inner()))
    }
}

/// A service with the message limits of the API.
macro_rules! limited {
    ($module:ident::$service:ident, $api:expr) => {
        v1::$module::$service::new($api.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    };
}

/// Serves the API, health and reflection on a bound listener until the drain; returns when every request in flight has finished.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    config: &Config,
    listener: TcpListener,
    api: Api,
    health: &Health,
    metrics: Metrics,
    mut drain: Signal,
) -> Result<(), Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(config.keepalive_interval))
        .http2_keepalive_timeout(Some(config.keepalive_timeout))
        // Without tonic's own grace, which would close without asking first: requests in flight end by their own deadlines.
        .max_connection_age(config.connection_age)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(stack::layers(metrics, drain.clone()))
        .add_service(reflection().build_v1()?)
        // What Python's reflection client speaks.
        .add_service(reflection().build_v1alpha()?)
        .add_service(health.service())
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
        ))
        .serve_with_incoming_shutdown(incoming, async move { drain.draining().await })
        .await?;
    Ok(())
}
