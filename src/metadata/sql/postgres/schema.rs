//! The schema on a PostgreSQL server: brought up to date by one process, checked by every other.
//!
//! Invariant: a release runs on the schema of the next one, which only adds; a schema that is older than the release, or that says that the release is
//! too old for it, is refused before anything is read.

use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::super::{Error, Result, SchemaState, ServerConfig};
use super::super::schema;
use super::{Stale, connect};

/// The beginning of PostgreSQL's codes for credentials that it refuses.
const REFUSED: &str = "28";
/// How long the start waits between two tries, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Takes from every role but their owner the right to change what is in the audit log and which migrations there were: `deploy/postgres/roles.sql` gives the
/// role of the servers rights on each table that the owner makes, before it can tell these from the others. Who is not their owner changes nothing.
const NARROW: &str = "DO $do$ DECLARE own RECORD; BEGIN \
     FOR own IN SELECT DISTINCT kept.oid::regclass AS name, COALESCE(quote_ident(rolname), 'PUBLIC') AS grantee \
     FROM pg_class AS kept CROSS JOIN LATERAL aclexplode(kept.relacl) AS allowed \
     LEFT JOIN pg_roles ON pg_roles.oid = allowed.grantee \
     WHERE kept.relnamespace = current_schema()::regnamespace AND kept.relname IN ('audit_events', '_sqlx_migrations') \
     AND pg_get_userbyid(kept.relowner) = current_user AND allowed.grantee <> kept.relowner \
     AND allowed.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE') \
     LOOP EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %s FROM %s', own.name, own.grantee); END LOOP; END $do$";

/// Brings the schema up to date, unless only asked how it stands. Other roles than the owner's can then only add to the audit log.
///
/// # Errors
/// When the server cannot be reached or refuses the statements.
pub(in super::super) async fn migrate(
    config: &ServerConfig,
    only_check: bool,
) -> Result<SchemaState> {
    // An index on a large table takes longer than any call may.
    let mut unlimited = config.past_pooler();
    unlimited.statement_timeout = Duration::ZERO;
    let pool = connect::pool(&unlimited, 1, Stale::default())?;
    let mut state = bring_up(&pool, &unlimited, only_check).await;
    if !only_check && state.is_ok() {
        let narrowed = sqlx::raw_sql(NARROW).execute(&pool).await;
        state = narrowed.map_err(Error::from).and(state);
    }
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
    let mut state = bring_up(pool, config, config.is_pooled() || !config.migrate).await?;
    if config.is_pooled() && config.migrate && state.found < state.wanted {
        // It holds a lock of its session, which no pooler keeps. A schema that is there already needs no other connection.
        let direct = config.past_pooler();
        let past = connect::pool(&direct, 1, Stale::default())?;
        let brought = bring_up(&past, &direct, false).await;
        past.close().await;
        brought?;
        // Of the database that is used: the other address may name another one.
        state = bring_up(pool, config, true).await?;
    }
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
    // Each is one message, which prepares nothing.
    let sql = format!(
        "INSERT INTO store (one, id, commits) VALUES (1, '{}', 0) ON CONFLICT DO NOTHING",
        uuid::Uuid::now_v7()
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?;
    // Rows that were copied from another server have the numbers of its transactions.
    for sql in [RENUMBER, REMEMBER] {
        sqlx::raw_sql(sql).execute(pool).await?;
    }
    let row = sqlx::raw_sql("SELECT id FROM store")
        .fetch_one(pool)
        .await?;
    let id: String = row.try_get("id")?;
    if config.is_pooled() {
        compare(config, &id).await?;
    }
    Ok(id)
}

/// Refuses an address past the pooler that leads to another database, in which no hint would be heard. One that leads nowhere may be mended while the server
/// runs.
async fn compare(config: &ServerConfig, id: &str) -> Result<()> {
    let direct = connect::options(&config.past_pooler())?;
    let connect = tokio::time::timeout(config.connect_timeout, direct.connect());
    let connected = match connect.await {
        Ok(connected) => connected.map_err(Error::from),
        Err(late) => Err(Error::Unavailable(late.into())),
    };
    let mut conn = match connected {
        Ok(conn) => conn,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the database cannot be reached past the pooler");
            return Ok(());
        }
    };
    let found = sqlx::raw_sql("SELECT id FROM store")
        .fetch_optional(&mut conn)
        .await;
    let found: Option<String> = match found {
        Ok(row) => row.map(|row| row.try_get("id")).transpose()?,
        // It has no such table.
        Err(error) if error.as_database_error().is_some() => None,
        Err(error) => return Err(error.into()),
    };
    conn.close().await?;
    if found.as_deref() != Some(id) {
        let problem = "database_listen_url leads to another database than database_url";
        return Err(Error::Backend(problem.into()));
    }
    Ok(())
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
    let row = sqlx::raw_sql(sql).fetch_one(pool).await?;
    if !row.try_get::<bool, _>("has_one")? {
        return Ok(SchemaState {
            found: 0,
            wanted,
            min_release: 0,
        });
    }
    let sql = "SELECT min_release, (SELECT MAX(version) FROM _sqlx_migrations WHERE success) \
               AS version FROM schema_state";
    let row = sqlx::raw_sql(sql).fetch_one(pool).await?;
    Ok(SchemaState {
        found: row.try_get("version")?,
        wanted,
        min_release: row.try_get("min_release")?,
    })
}
