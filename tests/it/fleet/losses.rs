//! Workers that are lost, or that lose their job, and who does what is left to do.

use frameshift::client::Client;
use frameshift::config::settings::Role;
use frameshift::proto::v1;

use super::Fleet;
use crate::replicas::{cancel, job, submit_long};
use crate::server::{TestServer, create_dataset, create_task, until};

/// Has a server train this many jobs, and returns their names once each has a checkpoint.
async fn training(fleet: &Fleet, client: &Client, jobs: usize) -> Vec<String> {
    create_task(client, "long").await;
    create_dataset(client, "long").await;
    let mut names = Vec::new();
    for _ in 0..jobs {
        names.push(submit_long(client, 1000, 1).await);
    }
    let sql = "SELECT COUNT(*) FROM jobs WHERE checkpoint IS NOT NULL";
    until(|| async { fleet.database.ask(sql).trim() == jobs.to_string() }).await;
    names
}

/// Where the checkpoint of a job is.
fn checkpoint(fleet: &Fleet, job: &str) -> std::path::PathBuf {
    let id = job.trim_start_matches("jobs/");
    let sql = format!("SELECT checkpoint::json->>'key' FROM jobs WHERE id = '{id}'");
    fleet
        .folder
        .path()
        .join("objects")
        .join(fleet.database.ask(&sql).trim())
}

async fn serving_only(fleet: &Fleet, name: &str) -> TestServer {
    let mut config = fleet.config(name);
    config.role = Role::Serve;
    TestServer::start_on(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trainer_jobs_that_lost_their_worker_wait_again_or_end_as_they_were_told_to() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let trainer = fleet.start("trainer").await;
    let client = trainer.client("acme").await;
    let names = training(&fleet, &client, 2).await;
    drop(client);
    trainer.stop().await;
    let servers = [
        serving_only(&fleet, "one").await,
        serving_only(&fleet, "other").await,
    ];
    let client = servers[0].client("acme").await;
    // As a trainer leaves them that is killed.
    let far = "UPDATE jobs SET state = 'running', worker = 'gone/0', lease_end = 9000000000000000";
    fleet.database.run(far);
    cancel(&client, &names[0]).await.unwrap();
    for name in &names {
        assert_eq!(job(&client, name).await.state(), v1::JobState::Running);
    }
    let files: Vec<_> = names.iter().map(|name| checkpoint(&fleet, name)).collect();
    assert!(files.iter().all(|file| file.is_file()), "{files:?}");
    fleet.database.run("UPDATE jobs SET lease_end = 1");
    let is = async |number: usize, state| job(&client, &names[number]).await.state() == state;
    until(|| is(0, v1::JobState::Cancelled)).await;
    until(|| is(1, v1::JobState::Queued)).await;
    until(|| async { !files[0].exists() }).await;
    assert!(files[1].is_file(), "the other job goes on from it");
    let line = "frameshift_jobs_finished_total{state=\"cancelled\",tenant=\"acme\"} 1\n";
    let told = |server: &TestServer| server.wiring.metrics.text().contains(line);
    assert_eq!(servers.iter().filter(|server| told(server)).count(), 1);
    drop(client);
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_job_went_to_another_is_counted() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let server = fleet.start("one").await;
    let client = server.client("acme").await;
    let names = training(&fleet, &client, 1).await;
    let lost = |jobs: u32| {
        let line = format!("frameshift_leases_lost_total{{kind=\"job\"}} {jobs}\n");
        server.wiring.metrics.text().contains(&line)
    };
    assert!(lost(0));
    // As another worker's claim does.
    fleet.database.run("UPDATE jobs SET epoch = epoch + 1");
    until(|| async { lost(1) }).await;
    cancel(&client, &names[0]).await.unwrap();
    drop(client);
    server.stop().await;
}
