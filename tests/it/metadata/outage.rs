//! A database whose disk is full, that another process locks, or that is not whole: what fails, how it says so, and that it works again afterwards.

use std::path::Path;
use std::time::Duration;

use frameshift::metadata::{Config, Database, Error, MetadataStore, OpenError};
use sqlx::{Connection, Executor, SqliteConnection};

use super::fixture;

fn database(folder: &Path) -> Config {
    Config::at(folder.join("metadata.sqlite"))
}

/// Creates tasks until that fails: not every record needs a new page.
async fn fill(store: &dyn MetadataStore, prefix: &str) -> Error {
    let tenant = fixture::tenant("a");
    for i in 0..1000 {
        let task = fixture::task(&format!("{prefix}{i}"));
        if let Err(error) = store.create_task(&tenant, task, None).await {
            return error;
        }
    }
    panic!("the disk is never full");
}

#[tokio::test]
async fn writes_work_again_as_soon_as_a_full_disk_has_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let faults = config.faults.clone();
    let database = Database::open(config).await.expect("a database");
    let mut condition = database.condition();
    let store: &dyn MetadataStore = &database;
    let tenant = fixture::tenant("a");
    for round in 0..3 {
        assert_eq!(condition.borrow_and_update().failing, None, "{round}");
        faults.fill_disk();
        let error = fill(store, &format!("full{round}-")).await;
        assert!(matches!(error, Error::StorageFull(_)), "{round}: {error:?}");
        let noted = condition.wait_for(|now| now.failing.is_some());
        let noted = tokio::time::timeout(Duration::from_secs(60), noted).await;
        noted.expect("noted").expect("open");
        store
            .list_tasks(&tenant, &frameshift::metadata::PageRequest::first())
            .await
            .expect("reads go on");

        faults.free_disk();
        let task = fixture::task(&format!("free{round}"));
        store
            .create_task(&tenant, task, None)
            .await
            .expect("created");
        let failures = condition.borrow().failures;
        database.probe(failures).await.expect("written");
        assert_eq!(condition.borrow_and_update().failing, None, "{round}");
    }
}

#[tokio::test]
async fn a_database_that_another_process_locks_is_unavailable_and_not_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let path = config.path.clone();
    let database = Database::open(config).await.expect("a database");
    let url = format!("sqlite://{}", path.display());
    let mut other = SqliteConnection::connect(&url).await.expect("connected");
    other.execute("BEGIN IMMEDIATE").await.expect("locked");
    let store: &dyn MetadataStore = &database;
    let tenant = fixture::tenant("a");
    let refused = store.create_task(&tenant, fixture::task("t"), None).await;
    let error = refused.expect_err("locked");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(error.is_temporary());
    other.execute("COMMIT").await.expect("unlocked");
    store
        .create_task(&tenant, fixture::task("t"), None)
        .await
        .expect("created");
}

#[tokio::test]
async fn a_closed_database_is_whole_in_its_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let path = config.path.clone();
    let database = Database::open(config).await.expect("a database");
    let store: &dyn MetadataStore = &database;
    let tenant = fixture::tenant("a");
    let task = store
        .create_task(&tenant, fixture::task("t"), None)
        .await
        .expect("created");
    let log = folder.path().join("metadata.sqlite-wal");
    assert!(std::fs::metadata(&log).expect("a log").len() > 0);
    database.tidy_up().await.expect("written back");
    assert_eq!(std::fs::metadata(&log).expect("a log").len(), 0);
    store
        .create_task(&tenant, fixture::task("u"), None)
        .await
        .expect("created");
    database.close().await.expect("closed");
    assert!(!log.exists(), "the log is gone");

    let copy = tempfile::tempdir().expect("a folder");
    let copied = self::database(copy.path());
    std::fs::copy(&path, &copied.path).expect("copied");
    let again = Database::open(copied).await.expect("a database");
    let store: &dyn MetadataStore = &again;
    assert_eq!(
        store.get_task(&tenant, &task.id).await.expect("found"),
        task
    );
    let second = fixture::task_id("u");
    store.get_task(&tenant, &second).await.expect("found");
}

#[tokio::test]
async fn a_database_that_lost_its_log_is_refused_unless_that_is_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let path = config.path.clone();
    let database = Database::open(config.clone()).await.expect("a database");
    let store: &dyn MetadataStore = &database;
    let tenant = fixture::tenant("a");
    store
        .create_task(&tenant, fixture::task("kept"), None)
        .await
        .expect("created");
    database.tidy_up().await.expect("written back");
    let kept = std::fs::read(&path).expect("read");
    for name in ["lost", "gone"] {
        store
            .create_task(&tenant, fixture::task(name), None)
            .await
            .expect("created");
    }
    database.close().await.expect("closed");

    // As if the process had been killed and its log were deleted.
    std::fs::write(&path, kept).expect("written");
    let error = Database::open(config.clone()).await.expect_err("refused");
    assert!(
        matches!(error, OpenError::CommitsLost { lost: 2, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("--accept-data-loss"), "{error}");

    let accepting = Config {
        accept_data_loss: true,
        ..config.clone()
    };
    let database = Database::open(accepting).await.expect("accepted");
    database.close().await.expect("closed");
    let database = Database::open(config)
        .await
        .expect("the loss was accepted once and for all");
    let store: &dyn MetadataStore = &database;
    store
        .get_task(&tenant, &fixture::task_id("kept"))
        .await
        .expect("found");
    assert!(
        store
            .get_task(&tenant, &fixture::task_id("lost"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_end_without_a_word_loses_no_commit_and_is_no_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let database = Database::open(config.clone()).await.expect("a database");
    let store: &dyn MetadataStore = &database;
    let tenant = fixture::tenant("a");
    store
        .create_task(&tenant, fixture::task("t"), None)
        .await
        .expect("created");
    // A copy of all files in this moment is what a killed process leaves.
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    let again = Database::open(self::database(copy.path()))
        .await
        .expect("a database");
    let store: &dyn MetadataStore = &again;
    store
        .get_task(&tenant, &fixture::task_id("t"))
        .await
        .expect("found");
}

#[tokio::test]
async fn a_transaction_that_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let database = Database::open(config).await.expect("a database");
    database.tidy_up().await.expect("written back");
    let store: &dyn MetadataStore = &database;
    for _ in 0..3 {
        let claim = store
            .claim_job("worker", fixture::LEASE)
            .await
            .expect("asked");
        assert!(claim.is_none());
    }
    let log = folder.path().join("metadata.sqlite-wal");
    assert_eq!(std::fs::metadata(&log).expect("a log").len(), 0);
}

#[tokio::test]
async fn a_database_that_nobody_may_write_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let first = Database::open(config.clone()).await.expect("a database");
    first.close().await.expect("closed");
    let mut mode = std::fs::metadata(&config.path)
        .expect("a file")
        .permissions();
    mode.set_readonly(true);
    std::fs::set_permissions(&config.path, mode).expect("changed");
    let error = Database::open(config).await.expect_err("refused");
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_page_is_found_at_the_start() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().expect("a folder");
    let config = database(folder.path());
    let database = Database::open(config.clone()).await.expect("a database");
    let tenant = fixture::tenant("a");
    let store: &dyn MetadataStore = &database;
    for i in 0..100 {
        store
            .create_task(&tenant, fixture::task(&format!("t{i}")), None)
            .await
            .expect("created");
    }
    database.close().await.expect("closed");
    let file = std::fs::File::options()
        .write(true)
        .open(&config.path)
        .expect("a file");
    let pages = file.metadata().expect("a file").len() / 4096;
    // Headers of the pages after the first few, which hold the schema.
    for page in pages / 2..pages {
        file.write_all_at(&[0xff; 64], page * 4096)
            .expect("damaged");
    }
    let error = Database::open(config).await.expect_err("refused");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}
