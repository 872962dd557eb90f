//! `frameshift migrate`: brings the schema on a PostgreSQL server up to date, before the servers of a new release start.
//!
//! Invariant: a schema only gains what the release before does not know, so that servers of both run meanwhile.

use std::path::PathBuf;

use futures::future::BoxFuture;

use crate::metadata::{self, Database, SchemaState, ServerConfig};
use crate::tools::show;

/// Arguments of `frameshift migrate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Changes nothing, and ends with 1 when a server of this release could not start
    #[arg(long)]
    pub check: bool,
    /// The servers' configuration file [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// URL of the database [default: database_url of the servers' configuration]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

/// Reasons why the schema does not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server is named.
    #[error(
        "database_url is not set: a database in a file is brought up to date by its server's start"
    )]
    NoServer,
    /// The database failed.
    #[error("cannot bring the schema up to date")]
    Metadata(#[from] metadata::Error),
    /// The schema does not fit the release.
    #[error(
        "the schema is {found}, for releases with {min_release} and newer; this release has {wanted}"
    )]
    Unfit {
        /// The schema's number.
        found: i64,
        /// The number that this release brings.
        wanted: i64,
        /// The oldest number that a release has to bring.
        min_release: i64,
    },
}

impl Error {
    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoServer => 64,
            Self::Metadata(_) => 69,
            Self::Unfit { .. } => 1,
        }
    }
}

/// Brings the schema up to date, or only checks it.
pub fn run(server: Option<ServerConfig>, check: bool) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move {
        let server = server.ok_or(Error::NoServer)?;
        let state = Database::migrate(&server, check).await?;
        let SchemaState {
            found,
            wanted,
            min_release,
        } = state;
        if !state.fits() {
            return Err(Error::Unfit {
                found,
                wanted,
                min_release,
            });
        }
        show(format!("schema {found}, this release has {wanted}"));
        Ok(())
    })
}
