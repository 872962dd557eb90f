//! `frameshift migrate`: brings the schema on a PostgreSQL server up to date, before the servers of a new release start, and prunes the audit log, which the
//! servers' own role may not be allowed to.
//!
//! Invariant: a schema only gains what the release before does not know, so that servers of both run meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::metadata::{self, AUDIT_KEPT, Access as _, Database, SchemaState, ServerConfig};
use crate::tools::show;

/// Time after which no more events are forgotten: the chart's hook has five minutes for all of it.
const PRUNING: Duration = Duration::from_secs(60);

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

/// Brings the schema up to date and forgets events of the audit log that are older than it keeps them, or only checks the schema.
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
        if !check {
            // Servers can start: what is not forgotten now is so another time.
            let (forgotten, left) = prune(server).await;
            show(format!(
                "forgot {forgotten} old events of the audit log{left}"
            ));
        }
        Ok(())
    })
}

/// Forgets events of the audit log that have been kept for long enough, for as long as an upgrade may wait for it. Returns how many, and what is to be said of
/// the others.
async fn prune(server: ServerConfig) -> (u64, String) {
    let mut forgotten = 0;
    let left = match prune_into(&mut forgotten, server).await {
        Ok(true) => String::new(),
        Ok(false) => "; more are left: run it again".to_owned(),
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            format!("; the others cannot be forgotten: {error}{cause}")
        }
    };
    (forgotten, left)
}

/// As [`prune`]. Returns whether none is left.
async fn prune_into(forgotten: &mut u64, mut server: ServerConfig) -> metadata::Result<bool> {
    server.migrate = false;
    let begun = Instant::now();
    let database = Database::connect(server).await?;
    let mut is_done = false;
    while !is_done && begun.elapsed() < PRUNING {
        match database.forget_audit(AUDIT_KEPT).await? {
            0 => is_done = true,
            some => *forgotten += some,
        }
    }
    database.close().await?;
    Ok(is_done)
}
