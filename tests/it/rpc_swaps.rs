//! Hot swaps through the whole server: jobs publish versions, SetServing moves between them, and clients that classify all the while notice nothing
//! but the version's name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::Code;

use crate::server::{TestServer, classify, config, events, refused, trained, until};

const CLIENTS: usize = 8;
const SWAPS: usize = 20;

/// An answer, and when it was asked for and given.
struct Answer {
    asked: Instant,
    given: Instant,
    version: String,
    scores: Vec<f32>,
}

/// A time in which a version may have been the serving one: from the request for it until the next one was seen to serve.
struct Reign {
    version: String,
    from: Instant,
    to: Option<Instant>,
}

async fn ask(client: &Client, video: &str, version: Option<&str>) -> Answer {
    let mut request = classify("shade", video);
    request.options = Some(v1::ClassifyOptions {
        per_view: true,
        version: version.unwrap_or_default().into(),
        ..Default::default()
    });
    let asked = Instant::now();
    let answer = client.classification().classify(request).await;
    let answer = answer.expect("no request fails").into_inner();
    Answer {
        asked,
        given: Instant::now(),
        version: answer.version,
        scores: answer.views[0].scores.clone(),
    }
}

async fn task(client: &Client) -> v1::Task {
    let name = "tasks/shade".to_owned();
    let request = v1::GetTaskRequest { name };
    client.tasks().get_task(request).await.unwrap().into_inner()
}

async fn serve(client: &Client, version: &str) {
    let request = v1::SetServingRequest {
        name: "tasks/shade".into(),
        version: version.into(),
        etag: task(client).await.etag,
        ..Default::default()
    };
    client.tasks().set_serving(request).await.unwrap();
    until(|| async { task(client).await.serving_version == version }).await;
}

/// Classifies until told to stop.
async fn keep_asking(
    client: Client,
    video: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        answers.push(ask(&client, &video, None).await);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

/// Trains a second version of the task with another seed.
async fn train_again(client: &Client) {
    let request = v1::SubmitJobRequest {
        task: "tasks/shade".into(),
        dataset: "datasets/shade".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(2),
            batch_size: Some(2),
            seed: Some(6),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(request).await.unwrap();
    events(client, &job.into_inner().name, 0).await;
    until(|| async { task(client).await.serving_version == "tasks/shade/versions/2" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_swaps_under_eight_clients_lose_nothing_and_every_answer_is_its_versions_own() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    train_again(&client).await;
    let versions = ["tasks/shade/versions/1", "tasks/shade/versions/2"];

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut asking = Vec::new();
    for number in 0..CLIENTS {
        let (client, video) = (server.client("acme").await, &videos[number % videos.len()]);
        let (stop, answered) = (stop.clone(), answered.clone());
        asking.push(tokio::spawn(keep_asking(
            client,
            video.name.clone(),
            stop,
            answered,
        )));
    }

    let mut reigns = vec![Reign {
        version: versions[1].into(),
        from: Instant::now(),
        to: None,
    }];
    // What was asked before the first reign was noted is older than it; the version had been serving before, too.
    reigns[0].from -= std::time::Duration::from_secs(60);
    for swap in 0..SWAPS {
        let goal = answered.load(Ordering::Relaxed) + 2 * CLIENTS;
        until(|| async { answered.load(Ordering::Relaxed) >= goal }).await;
        let (version, from) = (versions[swap % 2], Instant::now());
        serve(&client, version).await;
        if let Some(before) = reigns.last_mut() {
            before.to = Some(Instant::now());
        }
        reigns.push(Reign {
            version: version.into(),
            from,
            to: None,
        });
    }
    stop.store(true, Ordering::Relaxed);

    for (number, asking) in asking.into_iter().enumerate() {
        let video = &videos[number % videos.len()].name;
        let alone = [
            ask(&client, video, Some(versions[0])).await.scores,
            ask(&client, video, Some(versions[1])).await.scores,
        ];
        assert_ne!(alone[0], alone[1], "the versions can be told apart");
        let answers = asking.await.expect("no client fails");
        assert!(answers.len() > SWAPS, "client {number} asked all the while");
        for answer in answers {
            let served = reigns.iter().any(|reign| {
                reign.version == answer.version
                    && reign.from <= answer.given
                    && reign.to.is_none_or(|to| answer.asked <= to)
            });
            assert!(served, "{} did not serve then", answer.version);
            let expected = &alone[usize::from(answer.version == versions[1])];
            for (score, expected) in answer.scores.iter().zip(expected) {
                assert!((score - expected).abs() < 1e-5, "{score} and {expected}");
            }
        }
    }
    server.stop().await;
}

/// The file of a version of the task.
pub(crate) fn stored_version(folder: &Path, number: u32) -> PathBuf {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    files(&folder.join("objects"), &mut found);
    let name = format!("/tasks/shade/versions/{number}");
    let own = |path: &PathBuf| path.to_string_lossy().contains(&name);
    found.into_iter().find(own).expect("a version's file")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_version_that_cannot_answer_is_told_of_and_answers_when_it_is_mended_and_asked_for()
 {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let videos = trained(&server.client("acme").await, "shade").await;
    server.stop().await;
    let file = stored_version(folder.path(), 1);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "damaged").unwrap();

    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let version = "tasks/shade/versions/1";
    assert_eq!(task(&client).await.serving_version, version);
    let ask_again = || async {
        let request = classify("shade", &videos[0].name);
        client.classification().classify(request).await
    };
    refused(ask_again().await, Code::DataLoss, "VERSION_DAMAGED");
    assert_ne!(task(&client).await.serving_error, "");
    // Asking for it anew changes nothing while it is damaged, and that is told, too.
    serve(&client, version).await;
    until(|| async { !task(&client).await.serving_error.is_empty() }).await;
    refused(ask_again().await, Code::DataLoss, "VERSION_DAMAGED");

    std::fs::write(&file, whole).unwrap();
    refused(ask_again().await, Code::DataLoss, "VERSION_DAMAGED");
    serve(&client, version).await;
    ask_again().await.expect("it is whole again");
    assert_eq!(task(&client).await.serving_error, "");
    server.stop().await;
}
