//! The contract of every metadata backend: what each use case does, whatever stores the records.

pub(crate) mod bulk;
mod changes;
mod crashes;
pub(crate) mod fixture;
mod isolation;
mod jobs;
mod outage;
mod quotas;
mod resources;
mod retention;
mod snapshots;

use std::sync::Arc;

use frameshift::metadata::{Config, MetadataStore, Sqlite};
use tempfile::TempDir;

/// A fresh backend and what keeps it alive.
pub(crate) struct Backend {
    pub(crate) store: Arc<dyn MetadataStore>,
    clock: Sqlite,
    _directory: TempDir,
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
    let store = Sqlite::open(Config::at(path)).await.expect("a database");
    let sqlite = Backend {
        store: Arc::new(store.clone()),
        clock: store,
        _directory: directory,
    };
    vec![("sqlite", sqlite)]
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
    let first = Sqlite::open(config.clone()).await.expect("a database");
    let task = {
        let store: &dyn MetadataStore = &first;
        store
            .create_task(&tenant, fixture::task("t"), None)
            .await
            .expect("created")
    };
    first.close().await.expect("closed");
    let again = Sqlite::open(config).await.expect("a database");
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
    assert!(Sqlite::open(Config::at(path)).await.is_err());
}
