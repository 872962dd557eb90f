//! The server under load: one that is there already, or one of this program's own on a temporary folder.
//!
//! Invariant: a server that was started here ends with its value, and so does its folder.

use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;
use tempfile::TempDir;

use super::affinity::{self, Split};
use super::material::GUARDED;
use super::{Error, during, system};
use crate::client::Client;
use crate::demo::server::Server;
use crate::ids::TenantId;
use crate::metadata::{self, Database, MetadataStore};
use crate::proto::v1;
use crate::spec::Scopes;
use crate::telemetry::metrics::Metrics;
use crate::tenancy::admin::{Call, KeyRequest};
use crate::tenancy::{self, Admin, Credentials, Meter, Tenants};

/// A server of this program on a folder of its own; it can be started again with other settings on the same data.
pub(super) struct Host {
    folder: TempDir,
    split: Option<Split>,
    /// Arguments of `serve` that every start gets.
    arguments: Vec<String>,
    running: Option<Server>,
}

impl Host {
    /// Starts a server.
    ///
    /// # Errors
    /// When the folder cannot be made or the server does not serve.
    pub(super) async fn start(split: Option<Split>, arguments: &[String]) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("frameshift-bench-").map_err(system("make a folder"))?;
        let mut host = Self {
            folder,
            split,
            arguments: arguments.to_vec(),
            running: None,
        };
        host.begin(&[]).await?;
        Ok(host)
    }

    /// Starts a server whose callers prove who they are, with the tenant [`GUARDED`]. Returns a key of that tenant, too.
    ///
    /// # Errors
    /// When the folder or the records cannot be made, or the server does not serve.
    pub(super) async fn guarded(split: Option<Split>) -> Result<(Self, SecretString), Error> {
        let folder = TempDir::with_prefix("frameshift-bench-").map_err(system("make a folder"))?;
        let key = record(&folder.path().join("data")).await?;
        let mut host = Self {
            folder,
            split,
            arguments: vec!["--authentication".to_owned(), "keys".to_owned()],
            running: None,
        };
        host.begin(&[]).await?;
        Ok((host, key))
    }

    /// Starts the server again on the same data, with some arguments more.
    ///
    /// # Errors
    /// When the server does not end or does not serve again.
    pub(super) async fn restart(&mut self, more: &[String]) -> Result<(), Error> {
        if let Some(running) = self.running.take() {
            running.stop().await?;
        }
        self.begin(more).await
    }

    async fn begin(&mut self, more: &[String]) -> Result<(), Error> {
        let arguments = [&self.arguments[..], more].concat();
        let (log, data) = (
            self.folder.path().join("log"),
            self.folder.path().join("data"),
        );
        let spawn = || Server::spawn(&log, Some(Path::new(&data)), &arguments);
        let server = match &self.split {
            Some(split) => affinity::on(&split.server, spawn).map_err(system("choose CPUs"))?,
            None => spawn(),
        };
        self.running = Some(server?.ready().await?);
        Ok(())
    }

    /// Address of the server's API.
    pub(super) fn address(&self) -> &str {
        self.running.as_ref().map_or("", |server| &server.address)
    }

    /// Moves the server's video decoders to the generator's CPUs; new ones are forked from those that are there.
    pub(super) fn place_decoders(&self) {
        if let (Some(split), Some(pid)) = (&self.split, self.pid()) {
            affinity::place_children(pid, &split.generator);
        }
    }

    /// Resident memory of the server's process, in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn resident_bytes(&self) -> Result<u64, Error> {
        let bytes = self.pid().and_then(affinity::resident_bytes);
        bytes.ok_or(Error::Incomplete {
            what: "the server's process",
        })
    }

    /// Most resident memory of the server's process so far and that of its video workers now, in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn peak_bytes(&self) -> Result<u64, Error> {
        let bytes = self.pid().and_then(|pid| {
            let own = affinity::peak_bytes(pid)?;
            Some(own + affinity::resident_of_children(pid))
        });
        bytes.ok_or(Error::Incomplete {
            what: "the server's process",
        })
    }

    fn pid(&self) -> Option<u32> {
        self.running.as_ref().and_then(Server::pid)
    }

    /// Stops the server and removes its folder.
    ///
    /// # Errors
    /// When the server does not end.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        match self.running.take() {
            Some(running) => Ok(running.stop().await?),
            None => Ok(()),
        }
    }
}

/// Records a tenant and a key of it, as an operator would with a server.
async fn record(data: &Path) -> Result<SecretString, Error> {
    let incomplete = |_| Error::Incomplete {
        what: "a database with a tenant",
    };
    std::fs::create_dir_all(data).map_err(system("make a folder"))?;
    let path = data.join("metadata.sqlite");
    let records = Database::open(metadata::Config::at(path)).await;
    let records = records.map_err(|_| Error::Incomplete { what: "a database" })?;
    let metrics = Metrics::new();
    let own: Arc<dyn MetadataStore> = Arc::new(records.clone());
    let config = tenancy::Config::default();
    let tenants = Tenants::new(Arc::clone(&own), Meter::default(), config.feed_poll);
    let credentials = Credentials::new(config, own, metrics);
    let credentials = credentials.map_err(|_| Error::Incomplete {
        what: "credentials",
    })?;
    let admin = Admin::new(credentials, tenants);
    let (operator, tenant): (Call, TenantId) = (
        Call::operator(),
        GUARDED.parse().map_err(|_| Error::Incomplete {
            what: "a tenant's name",
        })?,
    );
    let made = admin.create_tenant(&operator, &tenant, "").await;
    made.map_err(incomplete)?;
    let wanted = KeyRequest {
        tenant: Some(tenant),
        display_name: String::new(),
        scopes: Scopes::TENANT,
        tasks: Default::default(),
        lifetime: None,
    };
    let (_, key) = admin
        .create_key(&operator, wanted)
        .await
        .map_err(incomplete)?;
    let closed = records.close().await;
    closed.map_err(|_| Error::Incomplete { what: "a database" })?;
    Ok(key.reveal())
}

/// A server's description of itself and its backbone.
///
/// # Errors
/// When the server cannot be reached or does not say its backbone.
pub(in crate::tools) async fn describe(
    address: &str,
) -> Result<(v1::ServerInfo, v1::Backbone), Error> {
    let client = Client::connect(address, None).await;
    let client = client.map_err(during("connect"))?;
    let mut service = client.server();
    let answer = service.get_server_info(v1::GetServerInfoRequest {}).await;
    let info = answer
        .map_err(during("ask what the server is"))?
        .into_inner();
    let backbone = info.backbone.clone().ok_or(Error::Incomplete {
        what: "the server's backbone",
    })?;
    Ok((info, backbone))
}
