//! Several servers on one PostgreSQL database and one folder of objects: each answers for all, and outages of the database pass.

mod access;
mod connections;
mod drain;
mod identity;
mod losses;
mod pooled;
mod start;
mod tenants;
mod view;

use std::os::unix::fs::symlink;
use std::path::Path;

use frameshift::client::Client;
use frameshift::config::Config;
use frameshift::proto::v1;
use tempfile::TempDir;
use tonic::{Code, Request};

use crate::postgres::pooler::Pooler;
use crate::postgres::{TestDatabase, database};
use crate::replicas::cancel;
use crate::rpc_canary::versions;
use crate::server::{
    TestServer, classify, config, create_dataset, create_task, events, new_task, reason, refused,
    serving, soon, submit, trained, until, upload,
};

/// A folder of objects for all servers, and a database for all.
struct Fleet {
    folder: TempDir,
    database: TestDatabase,
    /// What is between the servers and the database, if anything is.
    pooler: Option<Pooler>,
}

impl Fleet {
    /// `None` where PostgreSQL is not installed.
    async fn new() -> Option<Self> {
        let database = database().await?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("objects")).unwrap();
        Some(Self {
            folder,
            database,
            pooler: None,
        })
    }

    /// As [`Self::new`], with a pooler; `None` also where PgBouncer is not installed.
    async fn pooled() -> Option<Self> {
        let mut fleet = Self::new().await?;
        fleet.pooler = Some(Pooler::start(&fleet.database)?);
        Some(fleet)
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
        if let Some(pooler) = &self.pooler {
            server = pooler.config(&server);
        }
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
    if let Some(fleet) = Fleet::new().await {
        serve_and_train(&fleet).await;
    }
}

/// Has two servers take what belongs together, and expects that both serve all of it.
async fn serve_and_train(fleet: &Fleet) {
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

/// The version that answers, and its best label.
async fn answered(client: &Client, video: &str, key: &str) -> (String, String) {
    let mut request = Request::new(classify("shade", video));
    let metadata = request.metadata_mut();
    metadata.insert("x-frameshift-key", key.parse().unwrap());
    let answer = client.classification().classify(request).await;
    let answer = answer.expect("classified").into_inner();
    (answer.version, answer.predictions[0].label.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_on_what_serves_wherever_it_was_moved() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let clients = [one.client("acme").await, other.client("acme").await];
    let video = versions(&one, &clients[0], &[0, 1]).await;
    let name = |number: usize| format!("tasks/shade/versions/{number}");
    for (number, client) in [(2, 0), (1, 1), (2, 1), (1, 0)] {
        let request = v1::SetServingRequest {
            name: "tasks/shade".into(),
            version: name(number),
            etag: (clients[client].tasks().get_task(task("shade")).await)
                .unwrap()
                .into_inner()
                .etag,
            ..Default::default()
        };
        clients[client].tasks().set_serving(request).await.unwrap();
        for (client, server) in clients.iter().zip([&one, &other]) {
            let expected = (name(number), (number - 1).to_string());
            until(|| async { answered(client, &video, "k").await == expected }).await;
            // Once a server has seen the move it never answers with the version before.
            for _ in 0..5 {
                assert_eq!(answered(client, &video, "k").await, expected);
            }
            let request = v1::ListResidencyRequest {};
            let answer = client.tasks().list_residency(request).await.unwrap();
            let v1::ListResidencyResponse { sets, replica } = answer.into_inner();
            let is_own = |set: &v1::Residency| set.version == name(number);
            assert!(sets.iter().any(is_own), "{sets:?}");
            // Each answers for itself, by the name that operators know it by.
            assert_eq!(replica, server.wiring.replica);
            let known = fleet.database.ask("SELECT name FROM replicas");
            assert!(known.contains(&replica), "{replica}: {known}");
        }
    }
    // Of a split, every key has the same version on both.
    let share = |number| v1::ServingShare {
        version: name(number),
        per_mille: 500,
    };
    let found = clients[1].tasks().get_task(task("shade")).await.unwrap();
    let request = v1::SetServingRequest {
        name: "tasks/shade".into(),
        split: vec![share(1), share(2)],
        etag: found.into_inner().etag,
        ..Default::default()
    };
    clients[1].tasks().set_serving(request).await.unwrap();
    let keys: Vec<String> = (0..16).map(|key| format!("user-{key}")).collect();
    let of = async |client: &Client| {
        let mut seen = Vec::new();
        for key in &keys {
            seen.push(answered(client, &video, key).await.0);
        }
        seen
    };
    let is_divided = |seen: &[String]| seen.iter().any(|own| *own != seen[0]);
    for client in &clients {
        until(|| async { is_divided(&of(client).await) }).await;
    }
    assert_eq!(of(&clients[0]).await, of(&clients[1]).await);
    drop(clients);
    one.stop().await;
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
    // One of the two servers has it; the cancellation comes by the other or by itself.
    for client in [&first, &second] {
        let cancelled = cancel(client, &job.name).await;
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
    let mut tasks = client.tasks();
    let refusal = soon(tasks.create_task(new_task("lost"))).await;
    refused(refusal, Code::Unavailable, "DATABASE_UNAVAILABLE");
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

/// A task with two versions from files, each of which has served. Returns the one that serves, then the other.
async fn two_versions(client: &frameshift::client::Client, task: &str) -> [String; 2] {
    let plan = frameshift::model::load::plan(&crate::server::backbone(), &Default::default());
    let shape = plan.expect("a backbone").config().clone();
    let file = |classes| crate::rpc_versions::file(&crate::rpc_versions::adapters(&shape, classes));
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 2,
            ..Default::default()
        }),
        ..crate::rpc_versions::into_task(task)
    };
    let first = crate::rpc_versions::import(client, header, &file(5)).await;
    let first = first.expect("imported").name;
    until(|| async { serving(client, task).await == first }).await;
    let again = crate::rpc_versions::into_task(task);
    let second = crate::rpc_versions::import(client, again, &file(5)).await;
    let second = second.expect("imported").name;
    until(|| async { serving(client, task).await == second }).await;
    [second, first]
}

async fn set_serving(client: &frameshift::client::Client, task: &str, version: &str) {
    let name = format!("tasks/{task}");
    let get = v1::GetTaskRequest { name: name.clone() };
    let found = client.tasks().get_task(get).await.expect("found");
    let request = v1::SetServingRequest {
        name,
        version: version.into(),
        etag: found.into_inner().etag,
        ..Default::default()
    };
    client.tasks().set_serving(request).await.expect("set");
}

fn given(task: &str) -> v1::ClassifyRequest {
    let mut request = classify(task, "");
    request.source = Some(v1::classify_request::Source::Content(crate::server::clip(
        10,
    )));
    request
}
