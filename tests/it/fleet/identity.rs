//! A task that was deleted and one that took its name are two tasks on every server.

use super::*;

/// Asks for one version by name.
fn named(video: &str, version: &str) -> v1::ClassifyRequest {
    let mut request = classify("motion", video);
    request.options = Some(v1::ClassifyOptions {
        version: version.into(),
        ..Default::default()
    });
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_a_deleted_task_is_gone_where_only_that_version_was_asked_for() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let (first, second) = (one.client("acme").await, other.client("acme").await);
    let [_, old] = two_versions(&first, "motion").await;
    let video = upload(&first, &crate::server::clip(70)).await;
    let video = video.expect("uploaded").name;
    // The other server knows the version, and nothing of what serves the task.
    let ask = async |version: &str| {
        let request = named(&video, version);
        let answer = second.classification().classify(request).await;
        answer.map(|answer| answer.into_inner().version)
    };
    assert_eq!(ask(&old).await.expect("classified"), old);
    let acme: frameshift::ids::TenantId = "acme".parse().unwrap();
    let listed = |server: &TestServer| {
        let sets = server.wiring.engine.residency(&acme);
        let names = sets.iter().map(|own| own.version.to_string());
        names.collect::<Vec<_>>()
    };
    assert!(!listed(&other).is_empty());

    let request = v1::DeleteTaskRequest {
        name: "tasks/motion".into(),
        ..Default::default()
    };
    first.tasks().delete_task(request).await.expect("deleted");
    let [new, _] = two_versions(&first, "motion").await;
    assert_ne!(new, old);
    // The feed tells that the task has changed, and no more: its name is taken again.
    until(|| async {
        match ask(&old).await {
            Ok(version) => {
                assert_eq!(version, old);
                false
            }
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
                true
            }
        }
    })
    .await;
    assert_eq!(ask(&new).await.expect("classified"), new);
    for server in [&one, &other] {
        until(|| async { listed(server).iter().all(|own| *own != old) }).await;
    }
    one.stop().await;
    other.stop().await;
}
