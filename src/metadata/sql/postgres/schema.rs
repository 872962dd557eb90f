//! The schema on a PostgreSQL server: brought up to date by one process, checked by every other.
//!
//! Invariant: a release runs on the schema of the next one, which only adds; a schema that is older than the release, or that says that the release is
//! too old for it, is refused before anything is read.

use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::super::super::{Error, Result, SchemaState, ServerConfig};
use super::super::schema;
use super::{Stale, connect};

/// The beginning of PostgreSQL's codes for credentials that it refuses.
const REFUSED: &str = "28";
/// How long the start waits between two tries, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Brings the schema up to date, unless only asked how it stands.
///
/// # Errors
/// When the server cannot be reached or refuses the statements.
pub(in super::super) async fn migrate(
    config: &ServerConfig,
    only_check: bool,
) -> Result<SchemaState> {
    // An index on a large table takes longer than any call may.
    let mut unlimited = config.clone();
    unlimited.statement_timeout = Duration::ZERO;
    let pool = connect::pool(&unlimited, Stale::default())?;
    let state = bring_up(&pool, config, only_check).await;
    pool.close().await;
    state
}

async fn bring_up(pool: &PgPool, config: &ServerConfig, only_check: bool) -> Result<SchemaState> {
    wait(config).await?;
    if !only_check {
        schema::postgres().run(pool).await?;
    }
    read(pool).await
}

/// Changes with numbers that the server has still to give: the trigger gives them another one.
const RENUMBER: &str = "UPDATE changes SET sequence = 0 WHERE sequence >= \
     CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)";
/// A note of forgotten changes with such a number: no reader could ever be past it.
const REMEMBER: &str = "UPDATE change_feed SET forgotten = 0 WHERE forgotten >= \
     CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)";

/// Waits for the server, brings its schema up to date if that is wanted, and returns the database's id.
pub(super) async fn prepare(pool: &PgPool, config: &ServerConfig) -> Result<String> {
    let state = bring_up(pool, config, !config.migrate).await?;
    if !state.fits() {
        let SchemaState {
            found,
            wanted,
            min_release,
        } = state;
        let problem = format!(
            "the database has schema {found}, which is for releases with schema {min_release} and newer; this release has {wanted}: run `frameshift \
             migrate` of the newest release"
        );
        return Err(Error::Backend(problem.into()));
    }
    let sql = "INSERT INTO store (one, id, commits) VALUES (1, $1, 0) ON CONFLICT DO NOTHING";
    let id = uuid::Uuid::now_v7().to_string();
    sqlx::query(sql).bind(id).execute(pool).await?;
    // Rows that were copied from another server have the numbers of its transactions.
    for sql in [RENUMBER, REMEMBER] {
        sqlx::query(sql).execute(pool).await?;
    }
    let row = sqlx::query("SELECT id FROM store").fetch_one(pool).await?;
    Ok(row.try_get("id")?)
}

/// Waits until the server answers. A connection outside the pool tells why it does not.
async fn wait(config: &ServerConfig) -> Result<()> {
    let begin = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        let connect = tokio::time::timeout(config.connect_timeout, answer(config));
        let error = match connect.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(late) => Error::Unavailable(late.into()),
        };
        if !error.is_temporary() || begin.elapsed() + pause > config.start_timeout {
            return Err(error);
        }
        late(&error);
        tokio::time::sleep(pause).await;
        pause = PAUSE.1.min(pause * 2);
    }
}

fn late(error: &Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "the database does not answer yet");
}

async fn answer(config: &ServerConfig) -> Result<()> {
    let connected = connect::options(config)?.connect().await;
    let conn = connected.map_err(refused)?;
    Ok(conn.close().await?)
}

/// What a connection that fails at the start means. Credentials that are refused stay wrong, unlike those of a running server, which may just be changed.
fn refused(error: sqlx::Error) -> Error {
    let state = error.as_database_error().and_then(|own| own.code());
    match state.is_some_and(|state| state.starts_with(REFUSED)) {
        true => Error::Backend(Box::new(error)),
        false => error.into(),
    }
}

async fn read(pool: &PgPool) -> Result<SchemaState> {
    let wanted = schema::NEWEST;
    let sql = "SELECT to_regclass('schema_state') IS NOT NULL AS has_one";
    let row = sqlx::query(sql).fetch_one(pool).await?;
    if !row.try_get::<bool, _>("has_one")? {
        return Ok(SchemaState {
            found: 0,
            wanted,
            min_release: 0,
        });
    }
    let sql = "SELECT min_release, (SELECT MAX(version) FROM _sqlx_migrations WHERE success) \
               AS version FROM schema_state";
    let row = sqlx::query(sql).fetch_one(pool).await?;
    Ok(SchemaState {
        found: row.try_get("version")?,
        wanted,
        min_release: row.try_get("min_release")?,
    })
}
