//! The command-line client of the public API.
//!
//! Invariant: it speaks the public API alone; nothing here reaches into a server of the same process.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::proto::v1::classification_service_client::ClassificationServiceClient;
use crate::proto::v1::dataset_service_client::DatasetServiceClient;
use crate::proto::v1::fine_tuning_service_client::FineTuningServiceClient;
use crate::proto::v1::server_service_client::ServerServiceClient;
use crate::proto::v1::task_service_client::TaskServiceClient;
use crate::proto::v1::video_service_client::VideoServiceClient;

pub mod annotations;
pub mod classify;
pub mod cli;
pub mod dataset;
pub mod embed;
pub mod error;
mod failures;
pub mod health;
mod info;
pub mod jobs;
pub mod json;
mod npy;
pub mod output;
mod pages;
mod proxied;
pub mod tasks;
pub mod train;
pub mod upload;
mod uploads;
mod versions;
mod videos;

pub use error::Error;
pub use proxied::Proxied;

/// Largest message that the server sends or takes, in bytes.
pub const MAX_MESSAGE: usize = 32 << 20;

/// Largest chunk of an upload, in bytes.
pub const CHUNK: usize = 1 << 20;

/// Names the caller's tenant in every request.
#[derive(Debug, Clone)]
pub struct Tenant(Option<MetadataValue<Ascii>>);

impl Interceptor for Tenant {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(tenant) = &self.0 {
            request
                .metadata_mut()
                .insert("x-frameshift-tenant", tenant.clone());
        }
        Ok(request)
    }
}

/// A channel that names its tenant.
pub type Service = InterceptedService<Proxied, Tenant>;

/// A connection to a server, for one tenant. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Proxied,
    tenant: Tenant,
}

impl Client {
    /// Connects to `server`, for example `127.0.0.1:50051` or `http://127.0.0.1:50051`; without a tenant the server's default one is used.
    ///
    /// # Errors
    /// When the address or the tenant is malformed, or nobody answers within 10 seconds.
    pub async fn connect(server: &str, tenant: Option<&str>) -> Result<Self, Error> {
        let unreachable = |source| Error::Connect {
            server: server.to_owned(),
            source,
        };
        let endpoint = Endpoint::from_shared(address(server)?)
            .map_err(|_| wrong_address(server))?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_while_idle(true);
        let tenant = tenant
            .map(|tenant| {
                tenant.parse().map_err(|_| Error::Tenant {
                    tenant: tenant.to_owned(),
                })
            })
            .transpose()?;
        Ok(Self {
            channel: Proxied::new(endpoint.connect().await.map_err(unreachable)?),
            tenant: Tenant(tenant),
        })
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.tenant.clone())
    }

    /// The channel, for services that know no tenants.
    pub fn channel(&self) -> Proxied {
        self.channel.clone()
    }

    /// The server's description.
    pub fn server(&self) -> ServerServiceClient<Service> {
        ServerServiceClient::new(self.service())
    }

    /// Videos.
    pub fn videos(&self) -> VideoServiceClient<Service> {
        VideoServiceClient::new(self.service())
    }

    /// Data sets.
    pub fn datasets(&self) -> DatasetServiceClient<Service> {
        DatasetServiceClient::new(self.service())
    }

    /// Tasks and versions.
    pub fn tasks(&self) -> TaskServiceClient<Service> {
        TaskServiceClient::new(self.service())
    }

    /// Jobs.
    pub fn fine_tuning(&self) -> FineTuningServiceClient<Service> {
        FineTuningServiceClient::new(self.service())
    }

    /// Classification.
    pub fn classification(&self) -> ClassificationServiceClient<Service> {
        ClassificationServiceClient::new(self.service())
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE)
    }
}

/// `kind/id` from an id or from the whole name.
pub fn resource(kind: &str, id: &str) -> String {
    if id.starts_with(&format!("{kind}/")) {
        id.to_owned()
    } else {
        format!("{kind}/{id}")
    }
}

/// The server's address as a URL. `https` is refused, since it would be spoken in plain text.
fn address(server: &str) -> Result<String, Error> {
    match server.split_once("://") {
        None if server.is_empty() || server.contains(['/', ' ']) => Err(wrong_address(server)),
        None => Ok(format!("http://{server}")),
        Some(("http", _)) => Ok(server.to_owned()),
        Some(("https", _)) => Err(Error::Usage(format!(
            "--server {server}: TLS is not supported yet, so https is refused; use http:// where the connection is protected by other means"
        ))),
        Some(_) => Err(wrong_address(server)),
    }
}

fn wrong_address(server: &str) -> Error {
    Error::Usage(format!(
        "--server {server:?}: expected HOST:PORT or http://HOST:PORT"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_is_never_spoken_to_in_plain_text_by_mistake() {
        assert_eq!(
            address("localhost:50051").unwrap(),
            "http://localhost:50051"
        );
        assert_eq!(address("http://[::1]:1").unwrap(), "http://[::1]:1");
        for wrong in ["https://host:1", "ftp://host", "", "a b", "host/path"] {
            assert_eq!(address(wrong).unwrap_err().exit_code(), 64, "{wrong}");
        }
    }

    #[test]
    fn an_id_and_its_whole_name_mean_the_same() {
        assert_eq!(super::resource("tasks", "a"), "tasks/a");
        assert_eq!(super::resource("tasks", "tasks/a"), "tasks/a");
    }
}
