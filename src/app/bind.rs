//! The server's addresses: bound before anything slow happens, so that a wrong address is reported at once.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;

use super::Error;
use crate::config::Config;

/// Bound listeners and their real addresses.
#[derive(Debug)]
pub(super) struct Listeners {
    api: Option<TcpListener>,
    metrics: Option<TcpListener>,
    admin: Option<TcpListener>,
    /// Address of the API; none when the process only trains.
    pub(super) address: Option<SocketAddr>,
    /// Address of the metrics endpoint.
    pub(super) metrics_address: Option<SocketAddr>,
    /// Address of the administrators' API.
    pub(super) admin_address: Option<SocketAddr>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, Error> {
        let mut listeners = Self {
            api: None,
            metrics: None,
            address: None,
            metrics_address: None,
            admin: None,
            admin_address: None,
        };
        if config.role.serves() {
            let (api, address) = bind(config.listen).await?;
            listeners.api = Some(api);
            listeners.address = Some(address);
        }
        if let Some(address) = config.admin_listen {
            let (admin, address) = bind(address).await?;
            listeners.admin = Some(admin);
            listeners.admin_address = Some(address);
        }
        if let Some(address) = config.metrics_listen {
            let (metrics, address) = bind(address).await?;
            listeners.metrics = Some(metrics);
            listeners.metrics_address = Some(address);
        }
        Ok(listeners)
    }

    pub(super) fn take_api(&mut self) -> Option<TcpListener> {
        self.api.take()
    }

    pub(super) fn take_admin(&mut self) -> Option<TcpListener> {
        self.admin.take()
    }

    pub(super) fn take_metrics(&mut self) -> Option<TcpListener> {
        self.metrics.take()
    }

    /// Writes the real address to a file. The file appears complete or not at all, because other processes wait for it.
    pub(super) fn announce(&self, path: Option<&Path>) -> Result<(), Error> {
        let (Some(path), Some(address)) = (path, self.address) else {
            return Ok(());
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            writeln!(file, "{address}")?;
            file.persist(path).map_err(|error| error.error)
        };
        write().map(drop).map_err(|source| Error::AddressFile {
            path: path.into(),
            source,
        })
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let real = listener.local_addr().map_err(failed)?;
    Ok((listener, real))
}
