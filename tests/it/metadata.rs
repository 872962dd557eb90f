//! The contract of every metadata backend: what each use case does, whatever stores the records.

#[cfg(feature = "postgres")]
mod backbones;
pub(crate) mod bulk;
mod changes;
mod crashes;
pub(crate) mod fixture;
#[cfg(feature = "postgres")]
mod hints;
mod isolation;
mod jobs;
mod outage;
mod quotas;
mod races;
mod resources;
mod retention;
#[cfg(feature = "postgres")]
mod schema;
mod snapshots;

use std::sync::Arc;

use frameshift::metadata::{Config, Database, MetadataStore};
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
    },
}

impl Backend {
    /// Lets so much time pass on the database's clock.
    pub(crate) fn pass(&self, time: std::time::Duration) {
        self.clock.advance_clock(time);
    }
}

/// Every backend, by name.
pub(crate) async fn backends() -> Vec<(&'static str, Backend)> {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("metadata.sqlite");
    let store = Database::open(Config::at(path)).await.expect("a database");
    let sqlite = Backend {
        store: Arc::new(store.clone()),
        clock: store,
        _home: Home::Folder { _folder: directory },
    };
    let mut backends = vec![("sqlite", sqlite)];
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::postgres::database().await {
        let store = Database::connect(database.config()).await;
        let store = store.expect("a database");
        let postgres = Backend {
            store: Arc::new(store.clone()),
            clock: store,
            _home: Home::Server {
                _database: database,
            },
        };
        backends.push(("postgres", postgres));
    }
    backends
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
