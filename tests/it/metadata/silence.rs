//! A PostgreSQL server that falls silent without a word: calls end in time, and everything works again when it is back.

use std::time::Duration;

use frameshift::metadata::{Database, Error, MetadataStore, ServerConfig, Topic};

use super::fixture::*;
use crate::faults::wire::{Mood, Wire};
use crate::postgres::own::OwnServer;
use crate::server::{soon, until};

/// The database behind a port of this machine.
fn at(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_any_more_keeps_nobody_waiting() {
    let Some(server) = OwnServer::start() else {
        return;
    };
    let wire = Wire::start(server.port()).await;
    let url = at(wire.port);
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

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_without_a_word_are_replaced() {
    let Some(server) = OwnServer::start() else {
        return;
    };
    let wire = Wire::start(server.port()).await;
    let url = at(wire.port);
    let delay = Duration::from_millis(20);
    for connections in [3, 10] {
        let mut config = ServerConfig::at(&url).expect("a URL");
        config.connect_timeout = Duration::from_secs(1);
        config.statement_timeout = Duration::from_millis(500);
        config.connections = connections;
        let database = Database::connect(config).await.expect("a database");
        // Those that nobody uses, and those whose statement is under way, first the one of their transaction, then one of theirs.
        for pieces in [None, Some(3), Some(5)] {
            database.probe(0).await.expect("a connection");
            tokio::time::sleep(5 * delay).await;
            let mut used = None;
            if let Some(pieces) = pieces {
                wire.set(Mood::Delay(delay));
                let own = database.clone();
                used = Some(tokio::spawn(async move { own.probe(0).await }));
                // The library's question comes before.
                tokio::time::sleep(delay * pieces).await;
            }
            wire.lose();
            if let Some(used) = used {
                // On a busy machine it may have ended before.
                let _lost = soon(used).await.expect("no panic");
            }
            until(|| async { Box::pin(database.probe(0)).await.is_ok() }).await;
            for _ in 0..10 {
                database.probe(0).await.expect("a new connection");
            }
        }
        soon(database.close()).await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_hints_that_dies_without_a_word_is_replaced() {
    let Some(server) = OwnServer::start() else {
        return;
    };
    let wire = Wire::start(server.port()).await;
    // Hints alone go through the wire.
    let mut config = ServerConfig::at(&at(server.port())).expect("a URL");
    config.through_pooler(&at(wire.port)).expect("a URL");
    config.hint_silence = Duration::from_millis(5);
    let database = Database::connect(config).await.expect("a database");
    let mut heard = database.heard().expect("others share it");
    let exchanging = database.clone();
    tokio::spawn(async move { exchanging.exchange_hints().await });
    for topic in Topic::ALL {
        assert_eq!(soon(heard.recv()).await, Ok(topic), "it begins to listen");
    }
    // One that is only quiet is asked between any two of these, and stays: nobody begins to listen anew.
    let store: &dyn MetadataStore = &database;
    for _ in 0..10 {
        store.tell(Topic::Jobs);
        assert_eq!(soon(heard.recv()).await, Ok(Topic::Jobs));
    }

    wire.lose();
    for topic in Topic::ALL {
        assert_eq!(soon(heard.recv()).await, Ok(topic), "hints may be lost");
    }
    store.tell(Topic::Tasks);
    assert_eq!(soon(heard.recv()).await, Ok(Topic::Tasks));
    // Nor does what was lost keep the end waiting.
    soon(database.close()).await.expect("closed");
}
