//! The command-line client of the public API.
//!
//! Invariant: it speaks the public API alone; nothing here reaches into a server of the same process.

use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::classification_service_client::ClassificationServiceClient;
use crate::proto::v1::dataset_service_client::DatasetServiceClient;
use crate::proto::v1::fine_tuning_service_client::FineTuningServiceClient;
use crate::proto::v1::server_service_client::ServerServiceClient;
use crate::proto::v1::task_service_client::TaskServiceClient;
use crate::proto::v1::video_service_client::VideoServiceClient;
use crate::telemetry::trace::Outgoing;
use unreachable::Peer;

pub mod annotations;
pub mod audit;
pub mod classify;
pub mod cli;
mod columnar;
pub mod dataset;
pub mod embed;
pub mod error;
pub mod evaluate;
mod failures;
pub mod format;
pub mod health;
pub mod identity;
mod info;
pub mod jobs;
pub mod json;
pub mod keys;
mod lines;
mod live;
mod npy;
pub mod output;
mod pages;
mod proxied;
pub mod replicas;
mod selection;
pub mod sweep;
pub mod tasks;
pub mod tenants;
mod text;
pub mod train;
mod unreachable;
pub mod upload;
mod uploads;
pub mod usage;
mod versions;
mod videos;
mod whole;
mod windows;

pub use error::Error;
pub use identity::{Options, Signed, Tls};
pub use proxied::Proxied;

/// Largest message that the server sends or takes, in bytes.
pub const MAX_MESSAGE: usize = 32 << 20;

/// Largest chunk of an upload, in bytes.
pub const CHUNK: usize = 1 << 20;

/// A channel that names its caller.
pub type Service = InterceptedService<Proxied, Signed>;

/// A connection to a server, for one tenant. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Proxied,
    signed: Signed,
}

impl Client {
    /// Connects to `server`, for example `127.0.0.1:50051` or `http://127.0.0.1:50051`; without a tenant the server's default one is used.
    ///
    /// # Errors
    /// When the address or the tenant is malformed, or nobody answers within 10 seconds.
    pub async fn connect(server: &str, tenant: Option<&str>) -> Result<Self, Error> {
        Self::open(&Options {
            server: server.to_owned(),
            tenant: tenant.map(str::to_owned),
            ..Options::default()
        })
        .await
    }

    /// Connects as somebody.
    ///
    /// # Errors
    /// When an option is malformed, a file cannot be read, or nobody answers within 10 seconds.
    pub async fn open(options: &Options) -> Result<Self, Error> {
        let server = options.server.as_str();
        let unreachable = |source| Error::Connect {
            server: server.to_owned(),
            source,
        };
        let address = address(options)?;
        let mut endpoint = Endpoint::from_shared(address.url)
            .map_err(|_| wrong_address(options))?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_while_idle(true);
        if address.is_encrypted {
            let tls = options.tls.config()?;
            endpoint = endpoint.tls_config(tls).map_err(unreachable)?;
        } else if options.tls.is_given() {
            return Err(Error::Usage(format!(
                "{} {server}: certificates go with https://",
                options.flag()
            )));
        }
        let signed = Signed::new(options)?;
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let has_certificate = options.tls.certificate.is_some();
        let peer = Peer::new(server, address.is_encrypted, has_certificate);
        Ok(Self {
            channel: Proxied::new(channel, peer),
            signed,
        })
    }

    /// Makes all requests from here on a part of this trace.
    #[must_use]
    pub fn traced(mut self, trace: Outgoing) -> Self {
        self.signed.in_trace(trace);
        self
    }

    /// Makes all requests from here on those of a task, by its id or its name, for balancers that send a task's requests to the same servers.
    #[must_use]
    pub fn toward(mut self, task: &str) -> Self {
        self.signed.toward(task);
        self
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.signed.clone())
    }

    /// The channel, for services that know no tenants.
    pub fn channel(&self) -> Proxied {
        self.channel.clone()
    }

    /// The server's description.
    pub fn server(&self) -> ServerServiceClient<Service> {
        ServerServiceClient::new(self.service())
    }

    /// Tenants and keys, at the administrators' address.
    pub fn admin(&self) -> AdminServiceClient<Service> {
        AdminServiceClient::new(self.service())
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

/// A server's address.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    url: String,
    is_encrypted: bool,
}

/// The server's address as a URL; without a scheme it is spoken to in plain text, and the port has to be said.
fn address(options: &Options) -> Result<Address, Error> {
    let server = options.server.as_str();
    let wrong = || wrong_address(options);
    let (scheme, rest) = match server.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, server),
    };
    let is_encrypted = match scheme.as_deref() {
        None | Some("http") => false,
        Some("https") => true,
        Some(_) => return Err(wrong()),
    };
    // A path would be ignored, and a user's name and password sent to nobody.
    let authority = match scheme {
        Some(_) => rest.strip_suffix('/').unwrap_or(rest),
        None => rest,
    };
    if authority.contains(['/', ' ', '@', '?', '#']) {
        return Err(wrong());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    // The colons of an IPv6 address need brackets to be told from that of the port.
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.is_empty()
        || (host.contains(':') && !is_bracketed)
        || !port.map_or(scheme.is_some(), is_port)
    {
        return Err(wrong());
    }
    let scheme = match is_encrypted {
        true => "https",
        false => "http",
    };
    Ok(Address {
        url: format!("{scheme}://{authority}"),
        is_encrypted,
    })
}

fn wrong_address(options: &Options) -> Error {
    Error::Usage(format!(
        "{} {:?}: expected HOST:PORT, http://HOST:PORT or https://HOST:PORT; an IPv6 address in brackets, as in [::1]:50051",
        options.flag(),
        options.server
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_https_is_never_spoken_in_plain_text() {
        let of = |server: &str| Options {
            server: server.to_owned(),
            ..Options::default()
        };
        let read = |server| {
            let Address { url, is_encrypted } = address(&of(server)).unwrap();
            (url, is_encrypted)
        };
        for (server, url, is_encrypted) in [
            ("localhost:50051", "http://localhost:50051", false),
            ("http://[::1]:1", "http://[::1]:1", false),
            ("[::1]:50051", "http://[::1]:50051", false),
            ("http://host", "http://host", false),
            ("http://host:1/", "http://host:1", false),
            ("https://host:1", "https://host:1", true),
            ("HTTPS://host", "https://host", true),
        ] {
            assert_eq!(read(server), (url.to_owned(), is_encrypted));
        }
        for wrong in [
            "ftp://host",
            "",
            "a b",
            "host/path",
            "http://host:1/path",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "http://host:99999",
            ":50051",
            "http://",
            "::1",
            "::1:50051",
            "[::1]",
            "https://me:secret@host",
        ] {
            assert_eq!(address(&of(wrong)).unwrap_err().exit_code(), 64, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_wrong_address_is_named_by_the_option_that_it_came_from() {
        let certified = |server: &str, is_admin| Options {
            server: server.to_owned(),
            is_admin,
            tls: Tls {
                ca: Some("ca.pem".into()),
                ..Tls::default()
            },
            ..Options::default()
        };
        for (is_admin, flag) in [(false, "--server"), (true, "--admin-server")] {
            for server in ["ftp://host", "host:1"] {
                let error = Client::open(&certified(server, is_admin))
                    .await
                    .unwrap_err();
                let text = error.to_string();
                assert!(text.starts_with(&format!("{flag} ")), "{text}");
                assert_eq!(error.exit_code(), 64);
            }
        }
    }

    #[test]
    fn an_id_and_its_whole_name_mean_the_same() {
        assert_eq!(super::resource("tasks", "a"), "tasks/a");
        assert_eq!(super::resource("tasks", "tasks/a"), "tasks/a");
    }
}
