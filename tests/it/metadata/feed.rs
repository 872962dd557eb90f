//! The change feed on PostgreSQL beside transactions that commit late: nothing is left out, and nobody waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frameshift::metadata::{Cursor, Database, Erased, TaskUpdate};
use tokio::task::JoinHandle;

use super::fixture::*;
use super::metering::actor;
use crate::postgres::own::OwnServer;
use crate::server::until;

/// Makes commits that change something of the tenant `late` wait until [`OPEN`] has run. A sequence is read as it is now, whatever the snapshot.
const WAITS: &str = "CREATE SEQUENCE gate; CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN WHILE (SELECT last_value FROM gate) < 2 LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END $$; \
    CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON changes DEFERRABLE INITIALLY DEFERRED \
    FOR EACH ROW WHEN (NEW.tenant = 'late') EXECUTE FUNCTION wait()";

/// Lets those commits go on.
const OPEN: &str = "SELECT setval('gate', 2)";

/// Waits until such a commit waits.
const UNTIL_ONE_WAITS: &str = "DO $$ BEGIN WHILE NOT EXISTS (SELECT 1 FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event = 'PgSleep') \
    LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";

/// Changes that each writer makes while such commits wait.
fn changes() -> u32 {
    if crate::replicas::is_full() { 500 } else { 20 }
}

/// Tasks that a reader was told of, and how often.
type Told = BTreeMap<String, u32>;

/// Reads the feed to its end.
async fn read(store: &Store, cursor: &mut Cursor, told: &mut Told) {
    loop {
        let page = store.changes_since(Some(cursor.clone()), 3).await;
        let page = page.expect("read");
        assert!(!page.is_gap);
        for change in page.changes {
            let name = format!("{}/{}", change.tenant, change.task);
            *told.entry(name).or_default() += 1;
        }
        *cursor = page.cursor;
        if page.is_last {
            return;
        }
    }
}

/// Reads the feed again and again until all of this has finished.
async fn read_beside(work: &[JoinHandle<()>], store: &Store, cursor: &mut Cursor, told: &mut Told) {
    while !work.iter().all(JoinHandle::is_finished) {
        read(store, cursor, told).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_whose_commit_waits_are_told_and_keep_nobody_waiting() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let mut config = database.config();
    config.statement_timeout = Duration::from_secs(60);
    let store: Store = Arc::new(Database::connect(config).await.expect("a database"));
    database.run(WAITS);
    let quick = tenant("quick");
    for number in 0..4 {
        let task = task(&format!("t{number}"));
        store
            .create_task(&quick, task, None)
            .await
            .expect("created");
    }
    let mut cursor = store.changes_since(None, 10).await.expect("read").cursor;
    let mut told = Told::new();
    let mut late = Vec::new();
    for number in 0..4 {
        let store = Arc::clone(&store);
        late.push(tokio::spawn(async move {
            let task = task(&format!("l{number}"));
            let created = store.create_task(&tenant("late"), task, None).await;
            created.expect("created");
        }));
    }
    database.run(UNTIL_ONE_WAITS);
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for count in 0..changes() {
                    let update = TaskUpdate {
                        display_name: Some(format!("{count}")),
                        auto_serve: None,
                    };
                    let id = task_id(&format!("t{number}"));
                    let updated = store.update_task(&tenant("quick"), &id, update, None).await;
                    updated.expect("updated");
                }
            })
        })
        .collect();
    // A writer that waited for such a commit would not come to its end.
    read_beside(&writers, &store, &mut cursor, &mut told).await;
    assert!(!late.iter().any(JoinHandle::is_finished));
    database.run(OPEN);
    read_beside(&late, &store, &mut cursor, &mut told).await;
    for finished in writers.into_iter().chain(late) {
        finished.await.expect("no panic");
    }
    read(&store, &mut cursor, &mut told).await;
    for number in 0..4 {
        assert_eq!(told.get(&format!("late/l{number}")), Some(&1), "{told:?}");
        assert!(told[&format!("quick/t{number}")] > 0);
    }
    let before = told.clone();
    read(&store, &mut cursor, &mut told).await;
    assert_eq!(told, before, "what was told is not told again");
}

#[tokio::test]
async fn changes_with_the_numbers_of_an_older_release_are_told() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let store = Database::connect(database.config()).await;
    let store: Store = Arc::new(store.expect("a database"));
    let mut cursor = store.changes_since(None, 10).await.expect("read").cursor;
    let mut told = Told::new();
    for _ in 0..2 {
        database.run(
            "INSERT INTO changes (tenant, kind, id, sequence, is_deleted, change_time) \
             VALUES ('old', 'task', 't', 1, 0, 0) \
             ON CONFLICT (tenant, kind, id) DO UPDATE SET sequence = excluded.sequence",
        );
        read(&store, &mut cursor, &mut told).await;
    }
    assert_eq!(told.get("old/t"), Some(&2), "{told:?}");
}

#[tokio::test]
async fn a_feed_that_was_copied_from_a_server_with_higher_numbers_goes_on() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let first = Database::connect(database.config()).await;
    drop(first.expect("a database"));
    // What was forgotten on the other server is far ahead of this one's transactions.
    database.run("UPDATE change_feed SET forgotten = 1000000000000000");
    let store = Database::connect(database.config()).await;
    let store: Store = Arc::new(store.expect("a database"));
    let mut cursor = store.changes_since(None, 10).await.expect("read").cursor;
    let mut told = Told::new();
    let quick = tenant("quick");
    let created = store.create_task(&quick, task("t"), None).await;
    created.expect("created");
    read(&store, &mut cursor, &mut told).await;
    assert_eq!(told.get("quick/t"), Some(&1), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_beside_a_transaction_that_stays_open_is_one_gap_and_no_more() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let mut config = database.config();
    config.statement_timeout = Duration::from_secs(60);
    let store: Store = Arc::new(Database::connect(config).await.expect("a database"));
    let gone = tenant("gone");
    store
        .create_task(&gone, task("t"), None)
        .await
        .expect("created");
    database.run(WAITS);
    let late = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create_task(&tenant("late"), task("l"), None).await }
    });
    database.run(UNTIL_ONE_WAITS);
    let before = store.changes_since(None, 10).await.expect("read").cursor;
    store.begin_erasure(&gone, &actor()).await.expect("begun");
    while let Erased::Rows(_) = store.erase_some(&gone).await.expect("erased") {}
    assert!(
        store
            .settle_erasure(&gone, Duration::ZERO)
            .await
            .expect("ended")
    );
    let missed = store.changes_since(Some(before), 10).await.expect("read");
    assert!(missed.is_gap, "what was forgotten was not seen");
    let mut cursor = missed.cursor;
    let mut told = Told::new();
    for _ in 0..3 {
        // This is no gap any more.
        read(&store, &mut cursor, &mut told).await;
    }
    assert!(
        !late.is_finished(),
        "the other transaction was open all the time"
    );
    database.run(OPEN);
    late.await.expect("no panic").expect("created");
    read(&store, &mut cursor, &mut told).await;
    assert_eq!(told, Told::from([("late/l".into(), 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashed_may_give_numbers_again_which_is_a_gap() {
    let Some(server) = OwnServer::start() else {
        return;
    };
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
        server.port()
    );
    let config = frameshift::metadata::ServerConfig::at(&url).expect("a URL");
    let store = Database::connect(config).await.expect("a database");
    let store: Store = Arc::new(store);
    let a = tenant("a");
    let make = async |name: &str| {
        // Until the server is there again.
        until(|| async { store.create_task(&a, task(name), None).await.is_ok() }).await;
    };
    make("t").await;
    let mut cursor = store.changes_since(None, 10).await.expect("read").cursor;
    // A server that was stopped in peace goes on counting.
    server.stop();
    server.start_again();
    make("u").await;
    let mut told = Told::new();
    read(&store, &mut cursor, &mut told).await;
    assert_eq!(told.get("a/u"), Some(&1), "{told:?}");
    // Transactions that are taken back reach the disk late or never, and readers have seen their numbers.
    for _ in 0..3 {
        server.run("BEGIN; SELECT pg_current_xact_id(); ROLLBACK");
    }
    let cursor = store.changes_since(Some(cursor), 10).await.expect("read");
    let cursor = cursor.cursor;
    server.kill();
    server.start_again();
    for name in ["v", "w", "x", "y"] {
        make(name).await;
    }
    let page = store.changes_since(Some(cursor), 10).await.expect("read");
    assert!(page.is_gap, "{page:?}");
    let mut cursor = page.cursor;
    make("z").await;
    read(&store, &mut cursor, &mut told).await;
    assert_eq!(told.get("a/z"), Some(&1), "{told:?}");
}
