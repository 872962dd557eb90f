//! Processes with different backbones that share one database: each leaves alone what is the others'.

use std::sync::Arc;

use frameshift::metadata::{Database, MetadataStore};
use frameshift::spec::{Digest, JobState};

use super::fixture::*;

#[tokio::test]
async fn a_process_takes_jobs_and_judges_versions_of_its_own_backbone_only() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let mut stores: Vec<Store> = Vec::new();
    for backbone in [1, 2] {
        let store = Database::connect(database.config())
            .await
            .expect("a database");
        let store: Arc<dyn MetadataStore> = Arc::new(store);
        store.bind_backbone(Digest([backbone; 32]));
        stores.push(store);
    }
    let [one, other] = stores.as_slice() else {
        panic!("two processes")
    };
    let a = tenant("a");
    trainable(one, &a, "t").await;
    let job = submit(one, &a, "t").await;
    assert!(
        other
            .claim_job("other", LEASE)
            .await
            .expect("asked")
            .is_none()
    );
    // More workers of the other backbone would find nothing to do.
    assert_eq!(other.count_waiting_jobs().await.expect("counted"), 0);
    assert_eq!(one.count_waiting_jobs().await.expect("counted"), 1);
    let claim = claim(one).await;
    assert_eq!(
        (claim.job.id, claim.job.state),
        (job.id, JobState::Validating)
    );
    // Versions of the fixture are of the first backbone.
    let published = publish(one, &claim).await;
    let version = published.version.version;
    assert!(published.is_desired);
    assert_eq!(other.pending_tasks().await.expect("asked"), []);
    let t = task_id("t");
    assert!(
        !other
            .serving_failed(&a, &t, version, "another backbone")
            .await
            .expect("asked")
    );
    let task = one.get_task(&a, &t).await.expect("found");
    assert_eq!(task.serving_error, None);
    assert_eq!(one.pending_tasks().await.expect("asked"), [task]);
    assert!(one.move_serving(&a, &t, version).await.expect("moved"));
    assert!(
        !other
            .note_serving(&a, &t, version, Some("no"))
            .await
            .expect("asked")
    );
    assert!(
        one.note_serving(&a, &t, version, Some("no"))
            .await
            .expect("noted")
    );
}
