//! A job whose server is killed goes on elsewhere, soon, and to the same result.

use std::time::{Duration, Instant};

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::job_event::Event;
use rustix::process::Signal;

use crate::replicas::{Stand, is_full, job, signal, submit_long};
use crate::server::{create_dataset, create_task, events, until};
use crate::server_process::Process;

/// The lease of jobs on a stand.
const LEASE: Duration = Duration::from_secs(6);
/// How much longer than its lease a job may wait.
const MORE: Duration = Duration::from_secs(5);

/// Numbers of the events of steps that are on record.
async fn steps(client: &Client, name: &str, after: u64) -> Option<u64> {
    let request = v1::WatchJobRequest {
        name: name.into(),
        after_sequence: after,
    };
    let stream = client.fine_tuning().watch_job(request).await;
    let mut stream = stream.expect("watched").into_inner();
    while let Some(event) = stream.message().await.expect("an event") {
        if matches!(event.event, Some(Event::Step(_))) && event.sequence > after {
            return Some(event.sequence);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_killed_server_goes_on_within_its_lease_and_a_little_to_the_same_bits() {
    let Some(stand) = Stand::start(2).await else {
        return;
    };
    let mut times = Vec::new();
    let mut results = Vec::new();
    let rounds = if is_full() { 5 } else { 1 };
    let mut worker = stand.launch("w0", &[]);
    let mut client = stand.open(0, &worker).await;
    create_task(&client, "long").await;
    create_dataset(&client, "long").await;
    for round in 1..=rounds {
        let name = submit_long(&client, 1000, 20).await;
        until(|| async { job(&client, &name).await.step >= 60 }).await;
        let other = stand.launch(&format!("w{round}"), &[]);
        let next = stand.open(round % 2, &other).await;
        let all = job(&next, &name).await;
        assert_eq!(all.state(), v1::JobState::Running, "{all:?}");
        stand.close(1 - round % 2);
        signal(&worker, Signal::KILL);
        let killed = Instant::now();
        worker.ended().await;
        (worker, client) = (other, next);
        // The newest event that the killed server has written.
        let told = last(&client, &name).await;
        steps(&client, &name, told).await.expect("a step");
        times.push(killed.elapsed());
        events(&client, &name, 0).await;
        let ended = job(&client, &name).await;
        assert_eq!(ended.state(), v1::JobState::Succeeded, "{ended:?}");
        let result = ended.result.expect("a result");
        results.push((result.loss_curve, result.evaluation));
    }
    println!("jobs of killed servers went on after {times:?}");
    assert!(times.iter().all(|time| *time <= LEASE + MORE), "{times:?}");
    let name = submit_long(&client, 1000, 20).await;
    events(&client, &name, 0).await;
    let result = job(&client, &name).await.result.expect("a result");
    let undisturbed = (result.loss_curve, result.evaluation);
    for result in results {
        assert_eq!(result, undisturbed);
    }
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// The number of the newest event on record, once nothing follows it for a moment.
async fn last(client: &Client, name: &str) -> u64 {
    let request = v1::WatchJobRequest {
        name: name.into(),
        after_sequence: 0,
    };
    let stream = client.fine_tuning().watch_job(request).await;
    let mut stream = stream.expect("watched").into_inner();
    let mut newest = 0;
    let pause = Duration::from_millis(1500);
    while let Ok(event) = tokio::time::timeout(pause, stream.message()).await {
        let event = event.expect("an event").expect("it has not ended");
        if event.event.is_some() {
            newest = event.sequence;
        }
    }
    newest
}

/// What a job was told in words.
fn messages(told: &[v1::JobEvent]) -> Vec<&str> {
    let texts = told.iter().filter_map(|event| match &event.event {
        Some(Event::Message(message)) => Some(message.text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_goes_on_with_other_kernels_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |cpu: Option<&str>| {
        let mut server = crate::server_process::command(folder.path());
        server.args(["--precision", "f32"]);
        server.envs(cpu.map(|cpu| ("FRAMESHIFT_CPU", cpu)));
        Process::start_by(server, folder.path(), &[])
    };
    let mut server = serve(Some("portable"));
    let client = server.client().await;
    create_task(&client, "long").await;
    create_dataset(&client, "long").await;
    let name = submit_long(&client, 60, 10).await;
    until(|| async { job(&client, &name).await.step >= 30 }).await;
    signal(&server, Signal::KILL);
    server.ended().await;
    drop(client);
    let server = serve(None);
    let client = server.client().await;
    let told = events(&client, &name, 0).await;
    let said = messages(&told);
    assert_eq!(job(&client, &name).await.state(), v1::JobState::Succeeded);
    let is_told = said
        .iter()
        .any(|text| text.contains("computed by cpu portable"));
    let is_other = frameshift::model::instructions(frameshift::spec::Precision::F32) != "portable";
    assert_eq!(is_told, is_other, "{said:?}");
    assert_eq!(server.terminate().await.code(), Some(0));
}
