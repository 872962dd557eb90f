//! Tenants: equal names coexist, and nothing of one tenant can be seen, named or used by another.

mod reach;

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::Code;

use reach::{Theirs, reach};

use crate::server::{
    TestServer, classify, clip, create_dataset, create_task, events, reason, submit, trained,
    upload,
};

/// What a tenant's own listings show.
async fn listed(client: &Client) -> [usize; 6] {
    let uploads = client
        .videos()
        .list_uploads(v1::ListUploadsRequest::default())
        .await;
    let videos = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    let datasets = client
        .datasets()
        .list_datasets(v1::ListDatasetsRequest::default())
        .await;
    let tasks = client
        .tasks()
        .list_tasks(v1::ListTasksRequest::default())
        .await;
    let jobs = client
        .fine_tuning()
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let resident = client
        .tasks()
        .list_residency(v1::ListResidencyRequest {})
        .await;
    [
        uploads.unwrap().into_inner().uploads.len(),
        videos.unwrap().into_inner().videos.len(),
        datasets.unwrap().into_inner().datasets.len(),
        tasks.unwrap().into_inner().tasks.len(),
        jobs.unwrap().into_inner().jobs.len(),
        resident.unwrap().into_inner().sets.len(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_tenant_exists_whatever_is_called() {
    let server = TestServer::start().await;
    let (a, b) = (server.client("a").await, server.client("b").await);
    let theirs = Theirs::of(&a).await;
    assert_eq!(listed(&b).await, [0; 6]);
    let before = listed(&a).await;

    reach::prepare(&b).await;
    for (method, answer) in reach(&b, &theirs).await {
        let status = answer.expect_err(method);
        assert_eq!(status.code(), Code::NotFound, "{method}: {status:?}");
        assert!(
            reason(&status).ends_with("_NOT_FOUND"),
            "{method}: {status:?}"
        );
    }
    assert_eq!(listed(&a).await, before);
    let answer = a
        .classification()
        .classify(classify("theirs", &theirs.video))
        .await;
    assert_eq!(
        answer.unwrap().into_inner().version,
        "tasks/theirs/versions/1"
    );
    server.stop().await;
}

/// The work that a server did so far: whatever takes a time that a caller could measure.
fn work(server: &TestServer) -> (u64, u64, Vec<String>) {
    let text = server.wiring.metrics.text();
    let decoded = text
        .lines()
        .filter(|line| line.starts_with("frameshift_decode"))
        .filter(|line| !line.contains("_bucket"))
        .map(str::to_owned)
        .collect();
    let stats = server.settled();
    (stats.slices(), stats.batches, decoded)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_answers_and_costs_as_what_was_never_there() {
    let server = TestServer::start().await;
    let (a, b) = (server.client("a").await, server.client("b").await);
    let theirs = Theirs::of(&a).await;
    let never = Theirs {
        named: "nothing".into(),
        video: "videos/00000000-0000-7000-8000-000000000001".into(),
        upload: "uploads/00000000-0000-7000-8000-000000000002".into(),
        job: "jobs/00000000-0000-7000-8000-000000000003".into(),
        sweep: "sweeps/00000000-0000-7000-8000-000000000004".into(),
        etag: "1".into(),
    };
    reach::prepare(&b).await;

    let before = work(&server);
    let mut seen = Vec::new();
    for things in [&theirs, &never] {
        let answers = reach(&b, things).await;
        let told: Vec<_> = answers
            .into_iter()
            .map(|(method, answer)| {
                let status = answer.expect_err(method);
                let text = things.unnamed(status.message());
                (method, status.code(), reason(&status), text)
            })
            .collect();
        assert_eq!(work(&server), before, "no refusal decodes or computes");
        seen.push(told);
    }
    assert_eq!(seen[0], seen[1]);
    server.stop().await;
}

/// The blobs of a data directory.
fn blobs(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => blobs(&entry.path()),
            false => 1,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_another_tenant_holds_are_stored_and_decoded_anew() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let objects = folder.path().join("objects");
    let bytes = clip(77);
    let mut grew = Vec::new();
    for tenant in ["a", "b"] {
        let client = server.client(tenant).await;
        trained(&client, "shade").await;
        let (stored, done) = (blobs(&objects), work(&server));
        let video = upload(&client, &bytes).await.unwrap();
        let put = blobs(&objects) - stored;
        client
            .classification()
            .classify(classify("shade", &video.name))
            .await
            .unwrap();
        let now = work(&server);
        assert_ne!(now.2, done.2, "a decoding is counted");
        grew.push((put, now.0 - done.0, now.1 - done.1));
    }
    assert_eq!(grew[0], grew[1]);
    assert_eq!(grew[0].0, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_of_two_tenants_coexist_and_train_at_once() {
    let server = TestServer::start().await;
    let (a, b) = (server.client("a").await, server.client("b").await);
    create_task(&a, "shade").await;
    create_task(&b, "shade").await;
    let (of_a, of_b) = (
        create_dataset(&a, "set").await,
        create_dataset(&b, "set").await,
    );
    let (job_a, job_b) = (
        submit(&a, "shade", "set").await,
        submit(&b, "shade", "set").await,
    );
    let (events_a, events_b) = tokio::join!(events(&a, &job_a.name, 0), events(&b, &job_b.name, 0));
    assert!(!events_a.is_empty() && !events_b.is_empty());
    for (client, job) in [(&a, &job_a), (&b, &job_b)] {
        let request = v1::GetJobRequest {
            name: job.name.clone(),
        };
        let job = client
            .fine_tuning()
            .get_job(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(job.state(), v1::JobState::Succeeded, "{job:?}");
    }
    assert!(
        of_a.iter()
            .all(|video| of_b.iter().all(|other| other.name != video.name))
    );
    let request = v1::DeleteTaskRequest {
        name: "tasks/shade".into(),
        etag: String::new(),
    };
    a.tasks().delete_task(request).await.unwrap();
    let request = v1::GetTaskRequest {
        name: "tasks/shade".into(),
    };
    assert!(b.tasks().get_task(request).await.is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_events_replay_from_any_number_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let client = server.client("a").await;
    create_task(&client, "shade").await;
    create_dataset(&client, "set").await;
    let job = submit(&client, "shade", "set").await;
    let live = events(&client, &job.name, 0).await;
    assert!(live.len() > 3);
    assert!(
        live.iter()
            .map(|event| event.sequence)
            .eq(1..=live.len() as u64)
    );
    server.stop().await;

    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let client = server.client("a").await;
    for after in 0..=live.len() {
        let replayed = events(&client, &job.name, after as u64).await;
        assert_eq!(replayed, live[after..]);
    }
    server.stop().await;
}
