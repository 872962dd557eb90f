//! What servers know from memory: who proves a version, what they all swap to, what is gone, and what asks the database for nothing.

use frameshift::proto::v1;
use tonic::Code;

use super::{Fleet, given, set_serving, two_versions};
use crate::server::{TestServer, classify, new_task, refused, until, upload};

/// Versions that a server has proved or moved.
fn moves(server: &TestServer) -> u64 {
    let moved = ["frameshift_serving_moves_total{", "outcome=\"moved\""];
    crate::rpc_classify::counted(server, &moved)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_proves_a_version_and_those_that_serve_the_task_swap_without_waiting() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let mut servers = Vec::new();
    for name in ["one", "two", "three", "idle"] {
        servers.push(fleet.start(name).await);
    }
    let client = servers[0].client("acme").await;
    let [first, second] = two_versions(&client, "motion").await;
    until(|| async { servers.iter().map(moves).sum::<u64>() >= 2 }).await;
    let proved: u64 = servers.iter().map(moves).sum();
    assert_eq!(proved, 2, "one server loaded each version for all");
    // Whichever heard of a version first has it in memory, and nobody else.
    for own in &servers {
        let has_sets = own.wiring.engine.in_use().sets > 0;
        assert_eq!(has_sets, moves(own) > 0);
    }
    let mut clients = Vec::new();
    for server in &servers[..3] {
        let client = server.client("acme").await;
        let answer = client.classification().classify(given("motion")).await;
        assert_eq!(answer.expect("classified").into_inner().version, first);
        clients.push(client);
    }

    // The whole time each of the three answers, and at last with the new version.
    set_serving(&client, "motion", &second).await;
    let begun = std::time::Instant::now();
    for client in &clients {
        until(|| async {
            let answer = client.classification().classify(given("motion")).await;
            let version = answer.expect("classified").into_inner().version;
            assert!(version == first || version == second, "{version}");
            version == second
        })
        .await;
    }
    println!(
        "every server answers with the new version after {:?}",
        begun.elapsed()
    );
    until(|| async { servers.iter().map(moves).sum::<u64>() >= 3 }).await;
    let proved: u64 = servers.iter().map(moves).sum();
    assert_eq!(proved, 3);
    let idle = servers.last().expect("a server");
    if moves(idle) == 0 {
        assert_eq!(
            idle.wiring.engine.in_use().sets,
            0,
            "it serves no such task"
        );
    }

    // Everybody is on record, with what it has.
    let page = frameshift::metadata::PageRequest::new(0, "").expect("a page");
    let metadata = std::sync::Arc::clone(&servers[0].wiring.metadata);
    let reported = async || {
        let listed = metadata.list_replicas(&page).await.expect("listed").items;
        let has = |own: &frameshift::metadata::ReplicaRecord| !own.report.sets.is_empty();
        (listed.len(), listed.iter().filter(|own| has(own)).count())
    };
    until(|| async {
        let (all, with_sets) = reported().await;
        all == 4 && with_sets >= 3
    })
    .await;
    let idle = servers.pop().expect("a server");
    idle.stop().await;
    assert_eq!(reported().await.0, 3, "who ends goes from the list");
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_video_is_gone_on_every_server() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let (first, second) = (one.client("acme").await, other.client("acme").await);
    two_versions(&first, "motion").await;
    let video = upload(&first, &crate::server::clip(70))
        .await
        .expect("uploaded");
    for client in [&first, &second] {
        let request = classify("motion", &video.name);
        client
            .classification()
            .classify(request)
            .await
            .expect("classified");
    }
    let name = video.name.clone();
    let request = v1::DeleteVideoRequest { name, force: false };
    first.videos().delete_video(request).await.expect("deleted");
    let answer = first
        .classification()
        .classify(classify("motion", &video.name))
        .await;
    refused(answer, Code::NotFound, "VIDEO_NOT_FOUND");
    until(|| async {
        let request = classify("motion", &video.name);
        match second.classification().classify(request).await {
            Ok(_) => false,
            Err(status) => status.code() == Code::NotFound,
        }
    })
    .await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classifying_what_is_known_asks_the_database_for_nothing() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let server = fleet.start("one").await;
    let client = server.client("acme").await;
    two_versions(&client, "motion").await;
    let video = upload(&client, &crate::server::clip(70))
        .await
        .expect("uploaded");
    let stored = classify("motion", &video.name);
    let all = async |requests: u32| {
        for _ in 0..requests {
            for request in [given("motion"), stored.clone()] {
                client
                    .classification()
                    .classify(request)
                    .await
                    .expect("classified");
            }
        }
    };
    all(2).await;
    fleet.database.log_statements();
    all(100).await;
    let statements = fleet.database.logged();
    // What runs by itself goes on; none of it is asked for a classification.
    let asked = [
        "FROM tasks WHERE tenant",
        "FROM versions",
        "FROM videos",
        "api_keys",
    ];
    let of_calls = |text: &&String| asked.iter().any(|part| text.contains(part));
    let of_calls: Vec<_> = statements.iter().filter(of_calls).collect();
    assert_eq!(of_calls, Vec::<&String>::new());
    println!(
        "200 classifications beside {} statements of loops",
        statements.len()
    );

    // Known tasks and videos are classified while the database is away.
    fleet.database.set_away(true);
    let span = if crate::replicas::is_full() { 30 } else { 4 };
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < span {
        all(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    fleet.database.set_away(false);
    let begun = std::time::Instant::now();
    until(|| async { client.tasks().create_task(new_task("kept")).await.is_ok() }).await;
    println!("the first change after {:?}", begun.elapsed());
    server.stop().await;
}
