//! Confidence and `unknown` over the API: what a job was submitted with marks answers, a request may say otherwise, and files carry it.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::Code;

use crate::rpc_versions::{exported, import, into_task};
use crate::server::{
    TestServer, classify, clip, create_dataset, create_task, events, refused, serving, upload,
};

/// Ten validation clips, without which there is no calibration.
async fn with_validation(client: &Client) {
    create_dataset(client, "shades").await;
    let mut examples = Vec::new();
    for i in 0..10_u8 {
        let (shade, label) = match i % 2 {
            0 => (40 + i, "dark"),
            _ => (180 + i, "bright"),
        };
        let video = upload(client, &clip(shade)).await.unwrap();
        examples.push(v1::Example {
            video: video.name,
            label: label.into(),
            split: v1::Split::Validation.into(),
            ..Default::default()
        });
    }
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples,
    };
    client.datasets().add_examples(request).await.unwrap();
}

async fn train(client: &Client, task: &str, unknown_below: Option<f64>) -> v1::AdapterVersion {
    create_task(client, task).await;
    let request = v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: "datasets/shades".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(2),
            seed: Some(5),
            unknown_below,
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(request).await.unwrap();
    events(client, &job.into_inner().name, 0).await;
    let name = serving(client, task).await;
    let request = v1::GetAdapterVersionRequest { name };
    let version = client.tasks().get_adapter_version(request).await;
    version.unwrap().into_inner()
}

/// Whether a clip is unknown, and how sure the version is.
async fn answer(
    client: &Client,
    task: &str,
    video: &str,
    unknown_below: Option<f64>,
) -> Result<(bool, f64), tonic::Status> {
    let mut request = classify(task, video);
    request.options = Some(v1::ClassifyOptions {
        unknown_below,
        ..Default::default()
    });
    let answer = client.classification().classify(request).await?;
    let answer = answer.into_inner();
    Ok((answer.unknown, answer.confidence))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_below_the_confidence_of_the_job_or_of_the_request_are_unknown() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    with_validation(&client).await;
    let version = train(&client, "sure", Some(1.0)).await;
    let calibration = version.calibration.clone().expect("a calibration");
    assert_eq!(calibration.unknown_below, Some(1.0));
    assert_eq!(calibration.examples, 12);
    assert!(calibration.temperature > 0.0 && calibration.bins.len() == 15);
    let video = upload(&client, &clip(120)).await.unwrap().name;
    let own = async |task, below| answer(&client, task, &video, below).await;
    let (unknown, confidence) = own("sure", None).await.unwrap();
    assert!(unknown && (0.5..1.0).contains(&confidence), "{confidence}");
    // A request's own threshold counts, on both sides of the confidence.
    let near = confidence;
    for (below, expected) in [(near - 1e-3, false), (near + 1e-3, true), (0.0, false)] {
        let got = own("sure", Some(below)).await.unwrap();
        assert_eq!(got, (expected, confidence), "{below}");
    }
    refused(
        own("sure", Some(1.5)).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    // A job without a threshold marks nothing, and has the same scores.
    let plain = train(&client, "plain", None).await;
    assert_eq!(plain.calibration.expect("one").unknown_below, None);
    assert_eq!(own("plain", None).await.unwrap(), (false, confidence));
    // Out and in, with the threshold.
    let (_, bytes) = exported(&client, &version.name, v1::ExportFormat::Safetensors)
        .await
        .unwrap();
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        ..into_task("copy")
    };
    let back = import(&client, header, &bytes).await.unwrap();
    assert_eq!(back.calibration, version.calibration);
    serving(&client, "copy").await;
    assert_eq!(own("copy", None).await.unwrap(), (true, confidence));
    server.stop().await;
}
