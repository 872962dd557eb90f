//! How many connections to the database a server has.

use std::time::Duration;

use frameshift::metadata::Database;

use crate::postgres::{TestDatabase, database};
use crate::server::until;

/// Connections of ours.
fn connections(database: &TestDatabase) -> String {
    let count = database.ask(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'frameshift'",
    );
    count.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_meet_share_a_connection() {
    let Some(place) = database().await else {
        return;
    };
    let mut counted = Vec::new();
    // A statement may take longer than another one waits while the machine is busy; then there are more, which is right.
    while !counted.iter().any(|count| count == "1") && counted.len() < 10 {
        let database = Database::connect(place.config()).await.expect("connected");
        for _ in 0..20 {
            let met = tokio::join!(database.is_empty(), database.is_empty(), database.probe(0));
            assert!(met.0.is_ok() && met.1.is_ok() && met.2.is_ok(), "{met:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        counted.push(connections(&place));
        database.close().await.expect("closed");
    }
    assert_eq!(counted.last().map(String::as_str), Some("1"), "{counted:?}");
}

/// Does something while a transaction holds a table for some seconds.
fn while_locked(place: &TestDatabase, run: impl AsyncFnOnce()) {
    let locked = || {
        let sql = "SELECT COUNT(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation = 'tasks'::regclass AND mode = 'AccessExclusiveLock' AND granted";
        place.ask(sql).trim() == "1"
    };
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let lock =
                "BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(4); COMMIT;";
            let holder = scope.spawn(|| place.run(lock));
            tokio::runtime::Handle::current().block_on(async {
                until(|| async { locked() }).await;
                run().await;
            });
            holder.join().expect("locked");
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_caller_left_holds_up_no_other() {
    let Some(place) = database().await else {
        return;
    };
    for connections in [3, 10] {
        let mut config = place.config();
        config.connections = connections;
        config.connect_timeout = Duration::from_secs(1);
        let database = Database::connect(config).await.expect("connected");
        while_locked(&place, async || {
            // The connection comes back when the table does.
            let left = tokio::time::timeout(Duration::from_millis(200), database.is_empty());
            assert!(left.await.is_err(), "it waits for the table");
            for _ in 0..20 {
                database.probe(0).await.expect("another connection");
            }
        });
        database.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_holds_up_no_other() {
    let Some(place) = database().await else {
        return;
    };
    let database = Database::connect(place.config()).await.expect("connected");
    while_locked(&place, async || {
        let own = database.clone();
        let waiting = tokio::spawn(async move { own.is_empty().await });
        for _ in 0..3 {
            database.probe(0).await.expect("another connection");
        }
        assert!(!waiting.is_finished(), "the first one waits for the table");
        waiting.await.expect("no panic").expect("in time");
    });
    database.close().await.expect("closed");
}
