//! Several servers on one PostgreSQL database and one folder of objects: each answers for all, and outages of the database pass.

use std::os::unix::fs::symlink;
use std::path::Path;

use frameshift::config::Config;
use frameshift::proto::v1;
use tempfile::TempDir;
use tonic::Code;

use crate::postgres::{TestDatabase, database};
use crate::server::{
    TestServer, classify, config, create_dataset, create_task, events, new_task, reason, refused,
    serving, submit, trained, until, upload,
};

/// A folder of objects for all servers, and a database for all.
struct Fleet {
    folder: TempDir,
    database: TestDatabase,
}

impl Fleet {
    /// `None` where PostgreSQL is not installed.
    async fn new() -> Option<Self> {
        let database = database().await?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("objects")).unwrap();
        Some(Self { folder, database })
    }

    /// The configuration of a server with a data directory of its own.
    fn config(&self, name: &str) -> Config {
        let own = self.folder.path().join(name);
        if !own.exists() {
            std::fs::create_dir(&own).unwrap();
            share(&self.folder.path().join("objects"), &own);
        }
        let mut config = config(&own);
        let mut server = self.database.config();
        server.connections = 5;
        server.connect_timeout = std::time::Duration::from_secs(3);
        config.database_server = Some(server);
        config
    }

    async fn start(&self, name: &str) -> TestServer {
        TestServer::start_on(self.config(name)).await
    }
}

/// Gives a server the objects that the others have.
fn share(objects: &Path, own: &Path) {
    symlink(objects, own.join("objects")).unwrap();
}

fn task(name: &str) -> v1::GetTaskRequest {
    let name = format!("tasks/{name}");
    v1::GetTaskRequest { name }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_takes_every_other_serves() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let (first, second) = (one.client("acme").await, other.client("acme").await);
    create_task(&first, "motion").await;
    let videos = create_dataset(&second, "motion").await;
    let job = submit(&first, "motion", "motion").await;
    // Whichever server works on it, both tell the same.
    let told = tokio::join!(events(&first, &job.name, 0), events(&second, &job.name, 0));
    assert_eq!(told.0, told.1);
    let version = serving(&second, "motion").await;
    for client in [&first, &second] {
        let mut classification = client.classification();
        let request = classify("motion", &videos[0].name);
        let answer = classification.classify(request).await;
        let answer = answer.expect("classified").into_inner();
        assert_eq!(answer.version, version);
    }
    assert_eq!(serving(&first, "motion").await, version);
    // A server that goes takes nothing with it.
    one.stop().await;
    let request = classify("motion", &videos[1].name);
    second
        .classification()
        .classify(request)
        .await
        .expect("classified");
    let again = fleet.start("one").await;
    let client = again.client("acme").await;
    assert_eq!(serving(&client, "motion").await, version);
    again.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_a_job_on_another_server() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let mut idle = fleet.config("idle");
    idle.jobs.lease = std::time::Duration::from_secs(6);
    let (one, other) = (fleet.start("one").await, TestServer::start_on(idle).await);
    let (first, second) = (one.client("acme").await, other.client("acme").await);
    create_task(&first, "motion").await;
    create_dataset(&first, "motion").await;
    let request = v1::SubmitJobRequest {
        task: "tasks/motion".into(),
        dataset: "datasets/motion".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1000),
            batch_size: Some(2),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = first
        .fine_tuning()
        .submit_job(request)
        .await
        .unwrap()
        .into_inner();
    let state = async || {
        let request = v1::GetJobRequest {
            name: job.name.clone(),
        };
        let job = second.fine_tuning().get_job(request).await.unwrap();
        job.into_inner().state()
    };
    until(|| async { state().await == v1::JobState::Running }).await;
    let request = v1::CancelJobRequest {
        name: job.name.clone(),
    };
    // One of the two servers has it; the cancellation comes by the other or by itself.
    for client in [&first, &second] {
        let cancelled = client.fine_tuning().cancel_job(request.clone()).await;
        if let Err(status) = cancelled {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        }
    }
    until(|| async { state().await == v1::JobState::Cancelled }).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tasks_are_served_while_the_database_is_away_and_everything_works_when_it_is_back() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let server = fleet.start("one").await;
    let client = server.client("acme").await;
    let videos = trained(&client, "motion").await;
    let inline = async || {
        let mut request = classify("motion", &videos[0].name);
        request.source = Some(v1::classify_request::Source::Content(crate::server::clip(
            10,
        )));
        client.classification().classify(request).await
    };
    inline().await.expect("classified");

    fleet.database.set_away(true);
    let begun = std::time::Instant::now();
    let refusal = client.tasks().create_task(new_task("lost")).await;
    refused(refusal, Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    inline().await.expect("a known task is classified");
    let unknown = client.tasks().get_task(task("unknown")).await;
    refused(unknown, Code::Unavailable, "DATABASE_UNAVAILABLE");

    fleet.database.set_away(false);
    until(|| async { client.tasks().create_task(new_task("kept")).await.is_ok() }).await;
    upload(&client, &crate::server::clip(90))
        .await
        .expect("uploaded");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_left_for_one_that_does() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let server = fleet.start("one").await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    // As a primary that became a standby: connections stay, and take no writes.
    fleet.database.set_read_only(true);
    until(|| async {
        let created = client.tasks().create_task(new_task("refused")).await;
        match created {
            Ok(_) => false,
            Err(status) if reason(&status) == "DATABASE_UNAVAILABLE" => true,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    client
        .tasks()
        .get_task(task("motion"))
        .await
        .expect("reads go on");
    fleet.database.set_read_only(false);
    until(|| async { client.tasks().create_task(new_task("kept")).await.is_ok() }).await;
    server.stop().await;
}
