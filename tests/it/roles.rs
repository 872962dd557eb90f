//! Processes that only serve or only train, and what an orchestrator is told of them.

use std::net::SocketAddr;

use frameshift::app::App;
use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{TestServer, config, create_dataset, create_task, serving, submit, until};
use crate::server_process::{Process, command, output};

async fn state(client: &Client, job: &str) -> v1::JobState {
    let request = v1::GetJobRequest { name: job.into() };
    let job = client.fine_tuning().get_job(request).await.unwrap();
    job.into_inner().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_and_another_trains_what_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &["--role", "serve"]);
    let client = server.client().await;
    create_task(&client, "motion").await;
    create_dataset(&client, "motion").await;
    let job = submit(&client, "motion", "motion").await;
    assert_eq!(server.terminate().await.code(), Some(0));

    let server = Process::start(folder.path(), &["--role", "serve"]);
    let client = server.client().await;
    assert_eq!(state(&client, &job.name).await, v1::JobState::Queued);
    assert_eq!(server.terminate().await.code(), Some(0));

    // It has no address, does what there is to do, and ends by itself.
    let mut trainer = command(folder.path());
    trainer.args(["--role", "train", "--exit-when-idle", "2s"]);
    let (code, text) = output(trainer).await;
    assert_eq!(code, Some(0), "{text}");

    // Frames that it left would outlive their tenant.
    let decoded = folder.path().join("data/decoded");
    std::fs::create_dir_all(decoded.join("a")).unwrap();
    std::fs::write(decoded.join("a/frames"), b"x").unwrap();
    let server = Process::start(folder.path(), &["--role", "serve"]);
    let client = server.client().await;
    assert_eq!(state(&client, &job.name).await, v1::JobState::Succeeded);
    serving(&client, "motion").await;
    assert!(!decoded.exists());
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_only_serves_counts_the_jobs_that_wait() {
    use frameshift::config::settings::Role;
    let folder = tempfile::tempdir().unwrap();
    let serve = || {
        let mut config = config(folder.path());
        config.role = Role::Serve;
        TestServer::start_on(config)
    };
    let server = serve().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    create_dataset(&client, "motion").await;
    submit(&client, "motion", "motion").await;
    server.stop().await;
    // It counts at its start.
    let server = serve().await;
    let waiting = "frameshift_jobs_waiting 1\n";
    until(|| async { server.wiring.metrics.text().contains(waiting) }).await;
    server.stop().await;
}

/// What an address answers to a GET by plain HTTP, headers included.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_follow_a_process_that_only_trains_as_well() {
    use frameshift::config::settings::Role;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.role = Role::Train;
    config.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    let app = App::start(config).await.unwrap();
    assert_eq!(app.address(), None);
    assert!(
        app.summary()
            .to_string()
            .contains("none: this process only trains")
    );
    let address = app.metrics_address().unwrap();
    for path in ["/livez", "/readyz"] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    let (drain, signal) = shutdown::channel();
    let running = tokio::spawn(app.run_until(async move { signal.draining().await }));
    drain.start();
    running.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
