//! The schema on a PostgreSQL server: brought up to date by `frameshift migrate` or a server's start, refused when it does not fit.

use std::process::Output;
use std::time::Duration;

use frameshift::metadata::{Database, Datasets as _, Error, PageRequest, ServerConfig};
use tokio::process::Command;

use crate::postgres::{TestDatabase, database, empty_database};
use crate::server::soon;

/// Runs `frameshift migrate` on a database.
async fn migrate(server: &ServerConfig, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .arg("migrate")
        .args(["--database-url", server.url()]);
    crate::processes::output(command.args(options)).await
}

/// The start without a migration.
async fn start(database: &TestDatabase) -> Result<Database, Error> {
    let mut config = database.config();
    config.migrate = false;
    Database::connect(config).await
}

#[tokio::test]
async fn migrate_brings_a_schema_up_to_date_and_check_says_whether_it_is() {
    let Some(database) = empty_database().await else {
        return;
    };
    let server = database.config();
    let check = migrate(&server, &["--check"]).await;
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let refused = start(&database).await.expect_err("there is no schema");
    let text = format!("{:?}", refused);
    assert!(text.contains("frameshift migrate"), "{text}");
    for _ in 0..2 {
        let done = migrate(&server, &[]).await;
        assert_eq!(done.status.code(), Some(0), "{done:?}");
    }
    let check = migrate(&server, &["--check"]).await;
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let first = start(&database).await.expect("it fits");
    let again = start(&database).await.expect("it fits");
    assert_eq!(first.id(), again.id(), "a database keeps its id");
}

#[tokio::test]
async fn servers_that_start_at_once_migrate_once() {
    let Some(database) = empty_database().await else {
        return;
    };
    let starts = (0..4).map(|_| tokio::spawn(Database::connect(database.config())));
    let starts: Vec<_> = starts.collect();
    let mut ids = Vec::new();
    for start in starts {
        let started = start.await.expect("no panic").expect("it starts");
        ids.push(started.id().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[tokio::test]
async fn a_newer_schema_is_used_until_it_says_that_the_release_is_too_old() {
    let Some(database) = database().await else {
        return;
    };
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (900, 'of a later release', true, '', 0)";
    database.run(later);
    start(&database)
        .await
        .expect("a newer schema only has more");
    database.run("UPDATE schema_state SET min_release = 900");
    let refused = start(&database).await.expect_err("it is too old");
    assert!(!refused.is_temporary(), "{refused:?}");
}

#[tokio::test]
async fn a_column_that_a_later_release_adds_disturbs_no_running_server() {
    let Some(database) = database().await else {
        return;
    };
    let store = start(&database).await.expect("it fits");
    let tenant = "owner".parse().expect("a tenant");
    let dataset = "shades".parse().expect("a data set");
    let made = store
        .create_dataset(&tenant, &dataset, "".into(), None)
        .await;
    made.expect("made");
    for change in [
        "",
        "ALTER TABLE datasets ADD COLUMN later BIGINT NOT NULL DEFAULT 0",
    ] {
        if !change.is_empty() {
            database.run(change);
        }
        // Often enough for every connection to have prepared what it runs.
        for _ in 0..20 {
            let found = store.get_dataset(&tenant, &dataset).await;
            assert_eq!(found.expect("found").id, dataset, "{change}");
            let listed = store.list_datasets(&tenant, &PageRequest::first()).await;
            assert_eq!(listed.expect("listed").items.len(), 1, "{change}");
        }
    }
}

#[tokio::test]
async fn a_start_waits_for_the_server_as_long_as_it_may() {
    let Some(database) = database().await else {
        return;
    };
    database.set_away(true);
    let mut config = database.config();
    config.start_timeout = Duration::from_secs(1);
    let error = soon(Database::connect(config)).await;
    let error = error.expect_err("it is away");
    assert!(error.is_temporary(), "{error:?}");
    let waiting = tokio::spawn(Database::connect(database.config()));
    database.set_away(false);
    waiting.await.expect("no panic").expect("it is there again");
}

#[tokio::test]
async fn credentials_that_are_refused_are_an_error_at_once() {
    let Some(database) = database().await else {
        return;
    };
    let url = database
        .config()
        .url()
        .replace("user=postgres", "user=nobody");
    let mut server = ServerConfig::at(&url).expect("a URL");
    server.start_timeout = Duration::from_secs(300);
    // Long before the start's time is over.
    let refused = soon(Database::connect(server)).await;
    let refused = refused.expect_err("there is no such user");
    assert!(!refused.is_temporary(), "{refused:?}");
    let text = format!("{refused:?}");
    assert!(text.contains("nobody"), "{text}");
}
