//! Hints among processes on one PostgreSQL database.

use frameshift::metadata::{Database, MetadataStore, Topic};
use tokio::sync::broadcast::Receiver;

use crate::postgres::database;
use crate::server::soon;

async fn next(heard: &mut Receiver<Topic>) -> Topic {
    soon(heard.recv()).await.expect("a hint")
}

#[tokio::test]
async fn a_process_hears_what_another_tells_and_everything_after_its_connection_was_lost() {
    let Some(database) = database().await else {
        return;
    };
    let one = Database::connect(database.config())
        .await
        .expect("a database");
    let other = Database::connect(database.config())
        .await
        .expect("a database");
    let mut heard = other.heard().expect("others share it");
    for database in [one.clone(), other.clone()] {
        tokio::spawn(async move { database.exchange_hints().await });
    }
    for topic in Topic::ALL {
        assert_eq!(
            next(&mut heard).await,
            topic,
            "a hearer begins with everything"
        );
    }
    for topic in [Topic::Tasks, Topic::Access, Topic::Jobs] {
        (&one as &dyn MetadataStore).tell(topic);
        assert_eq!(next(&mut heard).await, topic);
    }
    database.set_away(true);
    database.set_away(false);
    for topic in Topic::ALL {
        assert_eq!(next(&mut heard).await, topic, "hints may have been lost");
    }
}

#[tokio::test]
async fn a_database_of_one_process_has_no_hints() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = frameshift::metadata::Config::at(folder.path().join("metadata.sqlite"));
    let database = Database::open(config).await.expect("a database");
    assert!(database.heard().is_none());
}
