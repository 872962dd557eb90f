//! A PostgreSQL server that falls silent without a word: calls end in time, and everything works again when it is back.

use std::time::Duration;

use frameshift::metadata::{Database, Error, MetadataStore, ServerConfig};

use super::fixture::*;
use crate::faults::wire::{Mood, Wire};
use crate::postgres::own::OwnServer;
use crate::server::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_any_more_keeps_nobody_waiting() {
    let Some(server) = OwnServer::start() else {
        return;
    };
    let wire = Wire::start(server.port()).await;
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
        wire.port
    );
    let mut config = ServerConfig::at(&url).expect("a URL");
    config.statement_timeout = Duration::from_secs(1);
    config.connect_timeout = Duration::from_secs(2);
    config.connections = 3;
    let database = Database::connect(config).await.expect("a database");
    let store: &dyn MetadataStore = &database;
    let a = tenant("a");
    store
        .create_task(&a, task("t"), None)
        .await
        .expect("created");

    wire.set(Mood::Silent);
    for _ in 0..3 {
        let lost = soon(store.create_task(&a, task("u"), None)).await;
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
        let found = soon(store.get_task(&a, &task_id("t"))).await;
        assert!(matches!(found, Err(Error::Unavailable(_))), "{found:?}");
    }
    wire.set(Mood::Cut);
    wire.set(Mood::Pass);
    until(|| async { store.get_task(&a, &task_id("t")).await.is_ok() }).await;
    until(|| async { store.create_task(&a, task("v"), None).await.is_ok() }).await;
}
