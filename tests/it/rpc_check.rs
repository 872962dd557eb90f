//! CheckDataset: what is planted into a data set is found, and a job warns of the same.

use frameshift::proto::v1;
use frameshift::proto::v1::job_event::Event;

use crate::server::{TestServer, clip, create_dataset, create_task, events, submit, upload};

#[tokio::test(flavor = "multi_thread")]
async fn planted_duplicates_are_found_by_the_server_and_told_by_a_job() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_dataset(&client, "shades").await;
    // The bytes of a dark training clip, as a bright one and in another split.
    let mut examples = Vec::new();
    for (shade, label, split) in [
        (10, "bright", v1::Split::Train),
        (200, "bright", v1::Split::Test),
    ] {
        let video = upload(&client, &clip(shade)).await.unwrap().name;
        examples.push(v1::Example {
            video,
            label: label.into(),
            split: split.into(),
            ..Default::default()
        });
    }
    let planted: Vec<String> = examples.iter().map(|own| own.video.clone()).collect();
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples,
    };
    client.datasets().add_examples(request).await.unwrap();

    let request = v1::CheckDatasetRequest {
        name: "datasets/shades".into(),
    };
    let answer = client.datasets().check_dataset(request).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.examples, answer.dataset_digest.len()), (8, 32));
    assert_eq!(answer.unseen, 8);
    let kinds: Vec<v1::FindingKind> = answer.findings.iter().map(v1::Finding::kind).collect();
    assert_eq!(
        kinds,
        [
            v1::FindingKind::DuplicateAcrossLabels,
            v1::FindingKind::DuplicateAcrossSplits,
            v1::FindingKind::FewClips
        ]
    );
    for (finding, video) in answer.findings.iter().zip(&planted) {
        assert_eq!((finding.count, finding.videos.len()), (1, 2));
        assert!(finding.videos.contains(video), "{finding:?}");
    }
    let mut labels = answer.findings[0].labels.clone();
    labels.sort();
    assert_eq!(labels, ["bright", "dark"]);

    create_task(&client, "shades").await;
    let job = submit(&client, "shades", "shades").await;
    let told = events(&client, &job.name, 0).await;
    let warnings: Vec<&str> = told
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Message(message)) if message.warning => Some(message.text.as_str()),
            _ => None,
        })
        .collect();
    for (finding, video) in answer.findings.iter().zip(&planted) {
        let is_told = |text: &&str| text.contains(&finding.text) && text.contains(video.as_str());
        assert!(warnings.iter().any(is_told), "{warnings:?}");
    }
    let request = v1::CheckDatasetRequest {
        name: "datasets/shades".into(),
    };
    let answer = client.datasets().check_dataset(request).await.unwrap();
    assert_eq!(answer.into_inner().unseen, 0, "the job has looked at all");
    server.stop().await;
}
