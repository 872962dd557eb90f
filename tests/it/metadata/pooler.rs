//! The records on PostgreSQL through a pooler that gives each transaction another connection.

use std::sync::Arc;
use std::time::Duration;

use frameshift::metadata::{Database, Error, MetadataStore, PageRequest, ServerConfig, Topic};
use frameshift::spec::Split;
use futures::future::join_all;

use super::fixture::*;
use crate::postgres::pooler::Pooler;
use crate::postgres::{TestDatabase, database, empty_database};
use crate::server::{soon, until};

/// Callers at a time: many more than the pooler has connections.
const CALLERS: usize = 24;

fn pooled(database: &TestDatabase) -> Option<(Pooler, ServerConfig)> {
    let pooler = Pooler::start(database)?;
    let config = pooler.config(&database.config());
    Some((pooler, config))
}

/// A URL where nobody answers.
const NOBODY: &str = "postgres://postgres@127.0.0.1:1/nobody?sslmode=disable";

/// Reads and writes of one tenant, most of them more than once.
async fn work(store: &Store, name: &str) {
    let a = tenant(name);
    for round in 0..3 {
        trainable(store, &a, &format!("t{round}")).await;
        let page = PageRequest::new(100, "").expect("a page");
        let listed = store.list_tasks(&a, &page).await.expect("listed");
        assert_eq!(listed.items.len(), round + 1);
        let id = task_id(&format!("t{round}"));
        assert_eq!(store.get_task(&a, &id).await.expect("found").id, id);
        let more = video(store, &a).await;
        let dataset = dataset_id(&format!("more-{round}"));
        let created = store.create_dataset(&a, &dataset, "".into(), None);
        created.await.expect("created");
        let examples = [example(more.id, "left", Split::Train)];
        let added = store.add_examples(&a, &dataset, &examples);
        added.await.expect("added");
        let snapshot = store.snapshot_dataset(&a, &dataset).await;
        snapshot.expect("a snapshot");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn use_cases_of_many_callers_work_on_few_connections() {
    let Some(database) = database().await else {
        return;
    };
    let Some((_pooler, config)) = pooled(&database) else {
        return;
    };
    let store = Database::connect(config).await.expect("a database");
    let store: Store = Arc::new(store);
    let callers = (0..CALLERS).map(|caller| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { work(&store, &format!("a{caller}")).await })
    });
    for ended in join_all(callers).await {
        ended.expect("no failure");
    }
}

#[tokio::test]
async fn a_pooler_that_is_not_named_is_met_at_the_start() {
    let Some(database) = database().await else {
        return;
    };
    let Some(pooler) = Pooler::start(&database) else {
        return;
    };
    let mut config = pooler.without_saying_so(&database.config());
    config.start_timeout = Duration::from_secs(1);
    let refused = Database::connect(config).await.map(drop);
    let text = format!("{:?}", refused.expect_err("PgBouncer's own refusal"));
    assert!(text.contains("extra_float_digits"), "{text}");
}

#[tokio::test]
async fn hints_come_past_the_pooler_and_without_them_changes_are_found_by_asking() {
    let Some(database) = database().await else {
        return;
    };
    let Some((_pooler, config)) = pooled(&database) else {
        return;
    };
    let mut deaf = config.clone();
    deaf.through_pooler(NOBODY).expect("a URL");
    let one = Database::connect(config.clone()).await.expect("a database");
    let other = Database::connect(config).await.expect("a database");
    let deaf = Database::connect(deaf).await.expect("a database");
    let mut heard = other.heard().expect("others share it");
    let mut unheard = deaf.heard().expect("others share it");
    for database in [one.clone(), other.clone(), deaf.clone()] {
        tokio::spawn(async move { database.exchange_hints().await });
    }
    for topic in Topic::ALL {
        assert_eq!(soon(heard.recv()).await.expect("a hint"), topic);
    }
    for topic in [Topic::Tasks, Topic::Access, Topic::Jobs] {
        // Whoever hears nothing tells the others all the same.
        for teller in [&one, &deaf] {
            (teller as &dyn MetadataStore).tell(topic);
            assert_eq!(soon(heard.recv()).await.expect("a hint"), topic);
        }
    }
    assert!(unheard.try_recv().is_err());
    let store: Store = Arc::new(deaf.clone());
    let cursor = store.changes_since(None, 10).await.expect("read").cursor;
    let a = tenant("a");
    let created = (&one as &dyn MetadataStore).create_task(&a, task("t"), None);
    created.await.expect("created");
    until(|| async {
        let page = store.changes_since(Some(cursor.clone()), 10).await;
        !page.expect("read").changes.is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_schema_is_brought_up_to_date_past_the_pooler_once() {
    let Some(database) = empty_database().await else {
        return;
    };
    let Some((_pooler, config)) = pooled(&database) else {
        return;
    };
    let mut cut_off = config.clone();
    cut_off.through_pooler(NOBODY).expect("a URL");
    cut_off.start_timeout = Duration::from_millis(500);
    let refused = Database::connect(cut_off.clone()).await.map(drop);
    let refused = refused.expect_err("nobody can make the schema");
    assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
    let state = Database::migrate(&config, true).await.expect("read");
    assert_eq!(state.found, 0);

    let first = Database::connect(config.clone()).await.expect("a database");
    let state = Database::migrate(&config, true).await.expect("read");
    assert!(state.fits(), "{state:?}");
    // Whoever finds the schema needs no other way to the database.
    let again = Database::connect(cut_off).await.expect("a database");
    assert_eq!(first.id(), again.id());
}

#[tokio::test]
async fn an_address_past_the_pooler_of_another_database_is_refused() {
    for is_new in [false, true] {
        let own = match is_new {
            false => database().await,
            true => empty_database().await,
        };
        let (Some(own), Some(other)) = (own, empty_database().await) else {
            return;
        };
        let Some((_pooler, mut config)) = pooled(&own) else {
            return;
        };
        config.through_pooler(other.config().url()).expect("a URL");
        let refused = Database::connect(config).await.map(drop);
        let text = format!("{:?}", refused.expect_err("another database"));
        let expected = match is_new {
            false => "database_listen_url",
            true => "frameshift migrate",
        };
        assert!(text.contains(expected), "{text}");
    }
}
