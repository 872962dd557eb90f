//! Two roles on the PostgreSQL server, as `deploy/postgres/roles.sql` makes them: the server's can do all that a server does, and can neither change the schema
//! nor take back what is in the audit log; the owner's migrates and prunes.

use std::process::Output;
use std::time::Duration;

use frameshift::metadata::{Access as _, Database, KeyOwner, PageRequest, ServerConfig};
use tokio::process::Command;

use super::erasures::{erase, fill};
use super::fixture::*;
use super::metering::actor;
use crate::postgres::{TestDatabase, empty_database};
use crate::server::{TestServer, config, create_task, upload};

const SCRIPT: &str = include_str!("../../../deploy/postgres/roles.sql");

/// A database with the schema and both roles.
struct Owned {
    database: TestDatabase,
    owner: String,
    server: String,
}

impl Owned {
    async fn new() -> Option<Self> {
        let database = empty_database().await?;
        let (owner, server) = (
            format!("{}_owner", database.name()),
            format!("{}_server", database.name()),
        );
        let owned = Self {
            database,
            owner,
            server,
        };
        // As with one role: the servers' made the database.
        let (name, server) = (owned.database.name(), &owned.server);
        owned.database.run(&format!(
            "CREATE ROLE {server} LOGIN; ALTER DATABASE {name} OWNER TO {server}"
        ));
        owned.run_script();
        let migrated = owned.migrate().await;
        assert_eq!(migrated.status.code(), Some(0), "{migrated:?}");
        // Servers start before anybody runs the script again.
        for sql in [
            "DELETE FROM audit_events",
            "UPDATE audit_events SET principal = 'somebody'",
            "DELETE FROM _sqlx_migrations",
        ] {
            owned.denied(sql);
        }
        owned.run_script();
        Some(owned)
    }

    fn roles(&self) -> [(&str, &str); 2] {
        [("owner", &self.owner), ("server", &self.server)]
    }

    fn run_script(&self) {
        self.database.run_script(SCRIPT, &self.roles());
    }

    /// Runs `frameshift migrate` as the owner.
    async fn migrate(&self) -> Output {
        let owner = self.database.config_of(&self.owner);
        let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
        command
            .arg("migrate")
            .args(["--database-url", owner.url()])
            .kill_on_drop(true);
        command.output().await.expect("it runs")
    }

    /// How a server connects.
    fn config(&self) -> ServerConfig {
        let mut config = self.database.config_of(&self.server);
        config.migrate = false;
        config
    }

    fn denied(&self, sql: &str) {
        let refused = self.database.run_as(&self.server, sql);
        let said = refused.expect_err(sql);
        let reasons = ["permission denied", "must be owner", "must be member"];
        let is_denied = reasons.iter().any(|reason| said.contains(reason));
        assert!(is_denied, "{sql}: {said}");
    }
}

#[tokio::test]
async fn the_servers_role_does_all_that_a_server_does_and_cannot_change_the_audit_log_or_the_schema()
 {
    let Some(owned) = Owned::new().await else {
        return;
    };
    // Something in every table, and then nothing of it.
    let database = Database::connect(owned.config()).await.expect("it fits");
    let store: Store = std::sync::Arc::new(database.clone());
    fill(&store, &tenant("a")).await;
    let begun = store.begin_erasure(&tenant("a"), &actor()).await;
    begun.expect("begun");
    erase(&store, &tenant("a")).await;
    let page = PageRequest::new(1000, "").expect("a page");
    let listed = database.list_audit(&KeyOwner::Any, &page).await;
    let events = listed.expect("listed").items.len();
    assert!(events >= 3, "{events}");
    for sql in [
        "UPDATE audit_events SET principal = 'somebody'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "ALTER TABLE audit_events ADD COLUMN more TEXT",
        "DROP TABLE audit_events",
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
        "CREATE TABLE own (one TEXT)",
        "ALTER SCHEMA public RENAME TO hidden",
        "DROP TABLE videos",
        "DELETE FROM _sqlx_migrations",
        "UPDATE _sqlx_migrations SET success = false",
    ] {
        owned.denied(sql);
    }
    // Of a right that it does not have, it has none to give: that is a warning.
    let server = &owned.server;
    let granted = format!("GRANT CREATE ON SCHEMA public TO {server}");
    drop(owned.database.run_as(server, &granted));
    owned.denied("CREATE TABLE own (one TEXT)");
    // However old events are, the server does not try to prune them.
    database.advance_clock(Duration::from_secs(500 * 24 * 60 * 60));
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    assert_eq!(database.forget_audit(year).await.expect("left"), 0);
    let listed = database.list_audit(&KeyOwner::Any, &page).await;
    assert_eq!(listed.expect("listed").items.len(), events);
    database.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_serves_as_its_role_and_starts_only_on_a_schema_that_the_owner_made() {
    let Some(owned) = Owned::new().await else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.database_server = Some(owned.config());
    let server = TestServer::start_on(config).await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let video = upload(&client, &crate::server::clip(20)).await;
    video.expect("uploaded");
    server.stop().await;
    // A schema that is not there yet is not the server's to make.
    let Some(empty) = empty_database().await else {
        return;
    };
    empty.run_script(SCRIPT, &owned.roles());
    let refused = Database::connect(empty.config_of(&owned.server)).await;
    let error = format!("{:?}", refused.expect_err("it may not"));
    assert!(error.contains("permission denied"), "{error}");
}

#[tokio::test]
async fn a_role_that_could_take_its_rights_back_is_refused_and_nothing_of_the_script_stays() {
    let Some(owned) = Owned::new().await else {
        return;
    };
    let (owner, server) = (&owned.owner, &owned.server);
    for (give, take) in [
        (
            format!("GRANT {owner} TO {server}"),
            format!("REVOKE {owner} FROM {server}"),
        ),
        (
            format!("ALTER ROLE {server} CREATEROLE"),
            format!("ALTER ROLE {server} NOCREATEROLE"),
        ),
        (
            format!("ALTER ROLE {server} SUPERUSER"),
            format!("ALTER ROLE {server} NOSUPERUSER"),
        ),
    ] {
        owned.database.run(&give);
        owned.database.run("CREATE TABLE later (one TEXT)");
        let refused = owned.database.try_script(SCRIPT, &owned.roles());
        assert!(!refused.status.success(), "{give}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("the role of the servers"), "{give}: {said}");
        // What it changed before it was refused is as it was.
        let sql = "SELECT tableowner FROM pg_tables WHERE tablename = 'later'";
        assert_eq!(owned.database.ask(sql).trim(), "postgres", "{give}");
        owned.database.run("DROP TABLE later");
        owned.database.run(&take);
    }
    owned.run_script();
    owned.denied("DELETE FROM audit_events");
}

#[tokio::test]
async fn the_owner_prunes_the_audit_log_when_it_migrates() {
    let Some(owned) = Owned::new().await else {
        return;
    };
    for (id, days) in [("0-old", 401), ("1-young", 399)] {
        owned.database.run(&format!(
            "INSERT INTO audit_events (id, time, principal, source, method, resource, detail, request_id) \
             VALUES ('{id}', CAST(EXTRACT(EPOCH FROM now() - INTERVAL '{days} days') * 1000000 AS BIGINT), \
             '', '', '', '', '', '')"
        ));
    }
    let migrated = owned.migrate().await;
    assert_eq!(migrated.status.code(), Some(0), "{migrated:?}");
    let said = String::from_utf8_lossy(&migrated.stdout).into_owned();
    assert!(said.contains("forgot 1 old events"), "{said}");
    let left = owned.database.ask("SELECT id FROM audit_events");
    assert_eq!(left.trim(), "1-young");
}
