//! The contract of every metadata backend: what each use case does, whatever stores the records.

mod audited;
#[cfg(feature = "postgres")]
mod backbones;
pub(crate) mod bulk;
mod changes;
mod checkpoints;
mod crashes;
mod erasures;
#[cfg(feature = "postgres")]
mod feed;
pub(crate) mod fixture;
mod fleet;
#[cfg(feature = "postgres")]
mod hints;
mod isolation;
mod jobs;
mod metering;
mod outage;
#[cfg(feature = "postgres")]
mod ownership;
#[cfg(feature = "postgres")]
mod pooler;
mod quotas;
mod races;
mod resources;
mod retention;
#[cfg(feature = "postgres")]
mod schema;
mod seals;
#[cfg(feature = "postgres")]
mod silence;
mod snapshots;
mod sweeps;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use frameshift::metadata::{Config, Database, JobRecord, MetadataStore};
use tempfile::TempDir;

/// A fresh backend and what keeps it alive.
pub(crate) struct Backend {
    pub(crate) store: Arc<dyn MetadataStore>,
    clock: Database,
    _home: Home,
}

/// What a backend lives in, for as long as its test runs.
enum Home {
    Folder {
        _folder: TempDir,
    },
    #[cfg(feature = "postgres")]
    Server {
        _database: crate::postgres::TestDatabase,
        _pooler: Option<crate::postgres::pooler::Pooler>,
    },
}

impl Backend {
    /// Takes whatever workers have for lost, as the next process does, and looks. Returns the jobs that ended.
    pub(crate) async fn restart(&self, pause: Duration) -> Vec<JobRecord> {
        self.clock.forget_workers(pause);
        self.store.release_lost_jobs(&[]).await.expect("looked")
    }

    /// As [`Self::restart`], but whoever looks gives up after so many polls. Returns whether that came before the end.
    pub(crate) async fn cut_restart(&self, polls: u32) -> bool {
        self.clock.forget_workers(Duration::ZERO);
        let mut look = std::pin::pin!(self.store.release_lost_jobs(&[]));
        for _ in 0..polls {
            if futures::poll!(look.as_mut()).is_ready() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Lets so much time pass on the database's clock.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance_clock(time);
    }

    /// Reads the schema, and expects that every table with tenants has rows of one, or that none has, but for the audit log and the record of erasures.
    pub(crate) async fn expect_rows(&self, tenant: &str, are_there: bool) {
        match &self._home {
            Home::Folder { _folder } => {
                let path = _folder.path().join("metadata.sqlite");
                expect_rows(&path, tenant, are_there).await;
            }
            #[cfg(feature = "postgres")]
            Home::Server { _database, .. } => {
                let (wanted, unwanted) = if are_there {
                    ("", "NOT ")
                } else {
                    ("NOT ", "")
                };
                _database.run(&format!(
                    "DO $$ DECLARE own text; found boolean; BEGIN \
                     FOR own IN SELECT table_name FROM information_schema.columns \
                     WHERE table_schema = 'public' AND column_name = 'tenant' \
                     AND table_name NOT IN ('audit_events', 'erasures') LOOP \
                     EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I WHERE tenant = %L)', own, '{tenant}') INTO found; \
                     IF {unwanted}found THEN RAISE EXCEPTION 'rows are {wanted}there: %', own; END IF; \
                     END LOOP; END $$"
                ));
            }
        }
    }
}

impl Backend {
    /// Has the audit log take no event, or take them again.
    pub(crate) async fn refuse_audit(&self, refuses: bool) {
        match &self._home {
            Home::Folder { _folder } => {
                let sql = match refuses {
                    true => {
                        "CREATE TRIGGER no_audit BEFORE INSERT ON audit_events \
                         BEGIN SELECT RAISE(ABORT, 'no event'); END"
                    }
                    false => "DROP TRIGGER no_audit",
                };
                let mut conn = sqlite_conn(&_folder.path().join("metadata.sqlite")).await;
                sqlx::query(sql)
                    .execute(&mut conn)
                    .await
                    .expect("a trigger");
            }
            #[cfg(feature = "postgres")]
            Home::Server { _database, .. } => _database.run(match refuses {
                true => {
                    "CREATE FUNCTION no_audit() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN RAISE EXCEPTION 'no event'; END $$; \
                     CREATE TRIGGER no_audit BEFORE INSERT ON audit_events \
                     FOR EACH ROW EXECUTE FUNCTION no_audit()"
                }
                false => "DROP FUNCTION no_audit() CASCADE",
            }),
        }
    }

    /// What all tables hold but the audit log.
    pub(crate) async fn digest(&self) -> String {
        match &self._home {
            Home::Folder { _folder } => {
                sqlite_digest(&_folder.path().join("metadata.sqlite")).await
            }
            #[cfg(feature = "postgres")]
            Home::Server { _database, .. } => _database.ask(
                "SELECT string_agg(name || ' ' || md5(query_to_xml(format('SELECT * FROM %I AS own ORDER BY own::text', name), \
                 true, false, '')::text), ' ' ORDER BY name) \
                 FROM (SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'public' \
                 AND tablename <> 'audit_events') AS tables",
            ),
        }
    }
}

async fn sqlite_conn(path: &std::path::Path) -> sqlx::SqliteConnection {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let conn = sqlx::SqliteConnection::connect_with(&options).await;
    conn.expect("a connection")
}

async fn sqlite_digest(path: &std::path::Path) -> String {
    let mut conn = sqlite_conn(path).await;
    let sql = "SELECT m.name, group_concat('quote(\"' || c.name || '\")', '||') FROM sqlite_schema AS m \
               JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name <> 'audit_events' \
               GROUP BY m.name ORDER BY m.name";
    let tables: Vec<(String, String)> = sqlx::query_as(sql)
        .fetch_all(&mut conn)
        .await
        .expect("tables");
    let mut all = String::new();
    for (table, columns) in tables {
        let sql = format!("SELECT {columns} FROM \"{table}\" ORDER BY 1");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut conn)
            .await
            .expect("rows");
        all += &format!("{table}: {rows:?}\n");
    }
    all
}

/// As [`Backend::expect_rows`], in a SQLite file.
pub(crate) async fn expect_rows(path: &std::path::Path, tenant: &str, are_there: bool) {
    let mut conn = sqlite_conn(path).await;
    let sql = "SELECT m.name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c \
               WHERE m.type = 'table' AND c.name = 'tenant' \
               AND m.name NOT IN ('audit_events', 'erasures')";
    let tables: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(&mut conn)
        .await
        .expect("tables");
    assert!(tables.len() > 15, "{tables:?}");
    for table in tables {
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE tenant = ?");
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(tenant)
            .fetch_one(&mut conn)
            .await
            .expect("a count");
        assert_eq!(count > 0, are_there, "{table} has {count} rows of {tenant}");
    }
}

/// Statements that are run in every database on a server before its test, for tests that are expected to fail then. SQLite has no part in those.
pub(crate) const PREPARATION: &str = "FRAMESHIFT_TEST_SQL";

/// Set to anything, every test that runs on a PostgreSQL server runs through a pooler.
#[cfg(feature = "postgres")]
const POOLER: &str = "FRAMESHIFT_TEST_POOLER";

/// Every backend, by name.
pub(crate) async fn backends() -> Vec<(&'static str, Backend)> {
    let preparation = std::env::var(PREPARATION).ok();
    #[cfg_attr(not(feature = "postgres"), allow(unused_mut))]
    let mut backends = match preparation {
        Some(_) => Vec::new(),
        None => vec![("sqlite", sqlite().await)],
    };
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::postgres::database().await {
        if let Some(sql) = preparation.filter(|sql| !sql.is_empty()) {
            database.run(&sql);
        }
        let mut config = database.config();
        let mut pooler = None;
        if std::env::var_os(POOLER).is_some() {
            let started = crate::postgres::pooler::Pooler::start(&database);
            let started = started.expect("PgBouncer, which was asked for");
            config = started.config(&config);
            pooler = Some(started);
        }
        let store = Database::connect(config).await;
        let store = store.expect("a database");
        let postgres = Backend {
            store: Arc::new(store.clone()),
            clock: store,
            _home: Home::Server {
                _database: database,
                _pooler: pooler,
            },
        };
        backends.push(("postgres", postgres));
    }
    backends
}

async fn sqlite() -> Backend {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("metadata.sqlite");
    let store = Database::open(Config::at(path)).await.expect("a database");
    Backend {
        store: Arc::new(store.clone()),
        clock: store,
        _home: Home::Folder { _folder: directory },
    }
}

/// Runs a test body on a fresh instance of every backend.
macro_rules! contract {
    ($($(#[$meta:meta])* async fn $name:ident($backend:ident: Backend) $body:block)*) => {
        $($(#[$meta])* #[tokio::test]
        async fn $name() {
            for (name, backend) in crate::metadata::backends().await {
                eprintln!("backend: {name}");
                let $backend = &backend;
                $body
            }
        })*
    };
    ($($(#[$meta:meta])* async fn $name:ident($store:ident: Store) $body:block)*) => {
        $($(#[$meta])* #[tokio::test]
        async fn $name() {
            for (name, backend) in crate::metadata::backends().await {
                eprintln!("backend: {name}");
                let $store = &backend.store;
                $body
            }
        })*
    };
}
pub(crate) use contract;

#[tokio::test]
async fn a_database_is_reopened_with_its_records() {
    let directory = tempfile::tempdir().expect("a folder");
    let config = Config::at(directory.path().join("metadata.sqlite"));
    let tenant = fixture::tenant("a");
    let first = Database::open(config.clone()).await.expect("a database");
    let task = {
        let store: &dyn MetadataStore = &first;
        store
            .create_task(&tenant, fixture::task("t"), None)
            .await
            .expect("created")
    };
    first.close().await.expect("closed");
    let again = Database::open(config).await.expect("a database");
    let store: &dyn MetadataStore = &again;
    let found = store.get_task(&tenant, &task.id).await.expect("found");
    assert_eq!(found, task);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("metadata.sqlite");
    std::fs::write(
        &path,
        "not a database, but long enough to be taken for one".repeat(100),
    )
    .expect("written");
    assert!(Database::open(Config::at(path)).await.is_err());
}
