//! A job on other labels than the serving version's: it replaces them only when it was asked to, and its stream says so.

use frameshift::client::Client;
use frameshift::proto::v1;
use v1::job_event::{Event, Serving};

use crate::server::{TestServer, create_dataset, serving, trained};

/// What the stream of a job says at its end.
async fn last_word(client: &Client, job: &str) -> Serving {
    let request = v1::WatchJobRequest {
        name: job.into(),
        after_sequence: 0,
    };
    let mut jobs = client.fine_tuning();
    let mut events = jobs.watch_job(request).await.unwrap().into_inner();
    let (mut last, mut highest) = (None, 0);
    while let Some(event) = events.message().await.unwrap() {
        assert!(last.is_none(), "nothing follows it");
        if let Some(Event::Serving(serving)) = event.event {
            assert_eq!(event.sequence, highest, "it is not on record");
            last = Some(serving);
        }
        highest = event.sequence;
    }
    last.expect("the version serves or not")
}

async fn submit(client: &Client, dataset: &str, allow_label_change: bool) -> v1::Job {
    let request = v1::SubmitJobRequest {
        task: "tasks/shade".into(),
        dataset: format!("datasets/{dataset}"),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1),
            batch_size: Some(2),
            seed: Some(5),
            ..Default::default()
        }),
        allow_label_change,
        ..Default::default()
    };
    let mut jobs = client.fine_tuning();
    jobs.submit_job(request).await.unwrap().into_inner()
}

/// A data set whose labels are not those of the task.
async fn other_labels(client: &Client) {
    let videos = create_dataset(client, "other").await;
    let examples = videos.iter().enumerate().map(|(i, video)| v1::Example {
        video: video.name.clone(),
        label: if i % 2 == 0 { "even" } else { "odd" }.into(),
        split: if i < 4 {
            v1::Split::Train
        } else {
            v1::Split::Validation
        }
        .into(),
        ..Default::default()
    });
    let request = v1::AddExamplesRequest {
        name: "datasets/other".into(),
        examples: examples.collect(),
    };
    client.datasets().add_examples(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_other_labels_serves_only_when_that_was_allowed() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let before = serving(&client, "shade").await;
    other_labels(&client).await;

    let job = submit(&client, "other", false).await;
    let word = last_word(&client, &job.name).await;
    assert!(!word.serves);
    assert_eq!(word.reason, "LABELS_CHANGED");
    assert!(word.message.contains("\"even\""), "{}", word.message);
    let get = v1::GetJobRequest { name: job.name };
    let ended = client
        .fine_tuning()
        .get_job(get)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ended.state(), v1::JobState::Succeeded);
    assert_eq!(ended.reason, "LABELS_CHANGED");
    assert_eq!(serving(&client, "shade").await, before);

    // The same labels serve by themselves, and so do others when they are allowed.
    let job = submit(&client, "shade", false).await;
    let same = last_word(&client, &job.name).await;
    assert!(same.serves, "{same:?}");
    let job = submit(&client, "other", true).await;
    let other = last_word(&client, &job.name).await;
    assert!(other.serves, "{other:?}");
    assert_eq!(serving(&client, "shade").await, other.version);
    server.stop().await;
}
