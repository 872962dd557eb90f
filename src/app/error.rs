//! Reasons why the server could not start, or stopped; `main` gives each its exit code.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::loops::Ended;
use crate::spec::Digest;
use crate::{device, metadata, model, rpc, store, telemetry, tenancy, video};

/// Reason why the server could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Address that was to be bound.
        address: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The address file cannot be written.
    #[error("cannot write the address file {}: {source}", path.display())]
    AddressFile {
        /// Path of the address file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The data directory, the object store or the cache before it cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database cannot be opened.
    #[error("cannot open the database")]
    Metadata(#[from] metadata::OpenError),
    /// The database was opened but cannot be read or written.
    #[error("cannot read the database")]
    Records(#[from] metadata::Error),
    /// The store has objects, but the database that names them is missing or empty.
    #[error(
        "{}/metadata.sqlite is missing or empty, but {objects} holds the objects of a database: put the database back (docs/operate.md says how), or \
         start with an empty database with --accept-data-loss, after which objects that no record names are deleted",
        directory.display()
    )]
    DatabaseMissing {
        /// The data directory.
        directory: PathBuf,
        /// Folder or URL of the objects.
        objects: String,
    },
    /// The objects belong to a different database.
    #[error(
        "{}/metadata.sqlite is database {database}, but {objects} belongs to database {owner}: restore the matching database or objects, or continue with \
         --accept-data-loss, after which objects that no record names are deleted",
        directory.display()
    )]
    OtherDatabase {
        /// The data directory.
        directory: PathBuf,
        /// Folder or URL of the objects.
        objects: String,
        /// Id of the database in the data directory.
        database: String,
        /// Id of the database that the objects belong to.
        owner: String,
    },
    /// The backbone cannot be loaded.
    #[error("cannot load the backbone {name}")]
    Backbone {
        /// Name of the backbone: `builtin` or its path.
        name: String,
        /// Reason.
        #[source]
        source: Box<model::load::Error>,
    },
    /// The backbone is not the one that the configuration names.
    #[error("backbone_digest is {expected}, but the backbone {name} has the digest {found}")]
    OtherBackbone {
        /// Name of the backbone: `builtin` or its path.
        name: String,
        /// Digest that it must have.
        expected: Digest,
        /// Digest that it has.
        found: Digest,
    },
    /// The device that was asked for cannot be used.
    #[error("cannot compute on {device}: {source}")]
    Accelerator {
        /// Device, as it was asked for.
        device: crate::config::units::DeviceChoice,
        /// Reason.
        source: model::Unusable,
    },
    /// The credentials cannot be set up.
    #[error("cannot set up authentication: {0}")]
    Credentials(#[from] tenancy::bootstrap::Error),
    /// The certificates cannot be used.
    #[error("cannot set up TLS: {0}")]
    Certificates(#[from] Box<tenancy::tls::Error>),
    /// The video workers cannot be started.
    #[error("cannot start the video workers")]
    Video(#[from] video::Error),
    /// The device cannot be started.
    #[error("cannot start the device")]
    Device(#[from] device::Error),
    /// The API cannot be served.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] telemetry::trace::Unusable),
    /// A loop that the server depends on has ended.
    #[error("{what} ended unexpectedly: {why}")]
    Stopped {
        /// Name of the loop.
        what: &'static str,
        /// Reason why it ended.
        why: String,
    },
    /// Requests or jobs were still in flight when the drain's time was over.
    #[error("the drain was not over after {seconds} s: {what} had not finished")]
    DrainTimeout {
        /// Seconds that the drain waited.
        seconds: u64,
        /// Names of the loops that had not finished.
        what: String,
    },
}

impl From<Ended> for Error {
    fn from(Ended { what, why }: Ended) -> Self {
        Self::Stopped { what, why }
    }
}
