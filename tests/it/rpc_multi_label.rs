//! Labels that do not exclude one another over the API: data sets, jobs, scores, windows, evaluations and files.

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::evaluate_version_response::Event;
use tonic::{Code, Status};

use crate::rpc_versions::{exported, import, into_task};
use crate::server::{
    TestServer, classify, clip, create_dataset, create_task, events, refused, serving, trained,
    upload,
};

/// Labels of a picture of this shade: dark or bright, extreme or not, in the middle none.
fn labels(shade: u8) -> Vec<String> {
    let own: &[&str] = match shade {
        0..40 => &["extreme", "dark"],
        40..110 => &["dark"],
        110..150 => &[],
        150..220 => &["bright"],
        _ => &["bright", "extreme"],
    };
    own.iter().map(|label| (*label).to_owned()).collect()
}

async fn shades(client: &Client) -> Vec<String> {
    let request = v1::CreateDatasetRequest {
        dataset_id: "shades".into(),
        label_kind: v1::LabelKind::Multi.into(),
        ..Default::default()
    };
    let made = client.datasets().create_dataset(request).await.unwrap();
    assert_eq!(made.into_inner().label_kind(), v1::LabelKind::Multi);
    let (mut videos, mut examples) = (Vec::new(), Vec::new());
    for (i, shade) in (5..=240).step_by(15).enumerate() {
        let video = upload(client, &clip(shade)).await.unwrap().name;
        let split = match i % 4 {
            3 => v1::Split::Validation,
            _ => v1::Split::Train,
        };
        examples.push(v1::Example {
            video: video.clone(),
            labels: labels(shade),
            split: split.into(),
            ..Default::default()
        });
        videos.push(video);
    }
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples,
    };
    client.datasets().add_examples(request).await.unwrap();
    videos
}

async fn evaluate(
    client: &Client,
    version: &str,
    (dataset, classify): (&str, bool),
) -> Result<(Vec<v1::ClipEvaluation>, v1::Evaluation), Status> {
    let request = v1::EvaluateVersionRequest {
        version: version.into(),
        dataset: format!("datasets/{dataset}"),
        split: v1::Split::Validation.into(),
        top_k: u32::MAX,
        classify,
        ..Default::default()
    };
    let mut stream = client.tasks().evaluate_version(request).await?.into_inner();
    let mut clips = Vec::new();
    while let Some(message) = stream.message().await? {
        match message.event.unwrap() {
            Event::Started(_) => {}
            Event::Clips(more) => clips.extend(more.clips),
            Event::Result(result) => return Ok((clips, result.evaluation.unwrap())),
        }
    }
    panic!("no result");
}

async fn answer(
    client: &Client,
    task: &str,
    video: &str,
    threshold: Option<f64>,
) -> v1::ClassifyResponse {
    let mut request = classify(task, video);
    request.options = Some(v1::ClassifyOptions {
        threshold,
        ..Default::default()
    });
    let answer = client.classification().classify(request).await;
    answer.unwrap().into_inner()
}

/// Trains the task `shades` on the data set of that name. Returns the name of the version, which serves.
async fn submitted(client: &Client) -> String {
    create_task(client, "shades").await;
    let request = v1::SubmitJobRequest {
        task: "tasks/shades".into(),
        dataset: "datasets/shades".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(6),
            batch_size: Some(4),
            seed: Some(5),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut dry = request.clone();
    dry.validate_only = true;
    let dry = client.fine_tuning().submit_job(dry).await.unwrap();
    assert_eq!(
        dry.into_inner().total_steps,
        18,
        "twelve clips are trained on"
    );
    let job = client.fine_tuning().submit_job(request).await.unwrap();
    let told = events(client, &job.into_inner().name, 0).await;
    let maps = told.iter().filter_map(|event| match &event.event {
        Some(v1::job_event::Event::Evaluation(own)) => own.mean_average_precision,
        _ => None,
    });
    assert_eq!(maps.count(), 6);
    serving(client, "shades").await
}

/// Exports the version and imports it into a task of its own, with the kind and the thresholds.
async fn out_and_in(client: &Client, name: &str, (own, video): (v1::Evaluation, &str)) {
    let (_, bytes) = exported(client, name, v1::ExportFormat::Pytorch)
        .await
        .unwrap();
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        ..into_task("copy")
    };
    let mut wrong = header.clone();
    wrong.label_kind = v1::LabelKind::Single.into();
    refused(
        import(client, wrong, &bytes).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    let back = import(client, header, &bytes).await.unwrap();
    assert_eq!(
        (back.label_kind(), back.evaluation),
        (v1::LabelKind::Multi, Some(own))
    );
    serving(client, "copy").await;
    let (here, there) = (
        answer(client, "shades", video, None).await,
        answer(client, "copy", video, None).await,
    );
    assert_eq!(here.predictions, there.predictions);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_labels_an_example_from_the_data_set_to_files() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = shades(&client).await;
    let request = v1::ListExamplesRequest {
        name: "datasets/shades".into(),
        ..Default::default()
    };
    let listed = client.datasets().list_examples(request).await.unwrap();
    let first = &listed.into_inner().examples[0];
    assert_eq!(
        (first.label.as_str(), &first.labels[..]),
        ("", &["dark".to_owned(), "extreme".to_owned()][..])
    );
    let name = submitted(&client).await;
    let request = v1::GetAdapterVersionRequest { name: name.clone() };
    let version = client.tasks().get_adapter_version(request).await;
    let version = version.unwrap().into_inner();
    assert_eq!(version.label_kind(), v1::LabelKind::Multi);
    assert_eq!(version.labels, ["bright", "dark", "extreme"]);
    let own = version.evaluation.clone().unwrap();
    assert!(own.mean_average_precision.is_some() && own.confusion_cells.is_empty());
    for label in &own.labels {
        assert!(label.average_precision.is_some() && label.f1.is_some());
        assert!((0.0..=1.0).contains(&label.threshold.unwrap()));
    }
    // What the job measured, an evaluation and single classifications agree by the bit.
    let (clips, evaluation) = evaluate(&client, &name, ("shades", false)).await.unwrap();
    assert_eq!(evaluation, own);
    for clip in &clips {
        let own = answer(&client, "shades", &clip.video, None).await;
        let bits = |score: f32| score.to_bits();
        let got: Vec<_> = own
            .predictions
            .iter()
            .map(|p| (&p.label, bits(p.score), p.selected))
            .collect();
        let want: Vec<_> = clip
            .predictions
            .iter()
            .map(|p| (&p.label, bits(p.score), p.selected))
            .collect();
        assert_eq!(got, want);
        assert_eq!(clip.rank == 0, clip.labels.is_empty());
        assert_eq!(own.unknown, !own.predictions.iter().any(|p| p.selected));
    }
    // Scores are probabilities of their own, and a request may say from where on labels are selected.
    let all = answer(&client, "shades", &videos[0], Some(0.0)).await;
    assert!(all.predictions.iter().all(|own| own.selected) && !all.unknown);
    let sum: f32 = all.predictions.iter().map(|own| own.score).sum();
    assert!((sum - 1.0).abs() > 1e-3, "{sum}");
    let none = answer(&client, "shades", &videos[0], Some(1.0)).await;
    assert!(none.unknown && none.predictions.iter().all(|own| !own.selected));

    out_and_in(&client, &name, (own, &videos[3])).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_labels_do_not_mix() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "plain").await;
    create_dataset(&client, "single").await;
    let add = async |labels: &[&str]| {
        let request = v1::AddExamplesRequest {
            name: "datasets/single".into(),
            examples: vec![v1::Example {
                video: videos[0].name.clone(),
                labels: labels.iter().map(|own| (*own).to_owned()).collect(),
                split: v1::Split::Train.into(),
                ..Default::default()
            }],
        };
        client.datasets().add_examples(request).await
    };
    refused(
        add(&["dark", "bright"]).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    refused(add(&[]).await, Code::InvalidArgument, "INVALID_FIELD");
    add(&["dark", "dark "])
        .await
        .expect("one label, named twice");
    shades(&client).await;
    let name = "tasks/plain/versions/1";
    let mixed = evaluate(&client, name, ("shades", false)).await;
    refused(mixed, Code::InvalidArgument, "INVALID_FIELD");
    // Clips are classified whatever their labels are, and none is counted.
    let (clips, evaluation) = evaluate(&client, name, ("shades", true)).await.unwrap();
    assert!(
        clips
            .iter()
            .all(|own| own.unknown_label && !own.predictions.is_empty())
    );
    assert_eq!(evaluation.examples, 0);
    // A version of another kind does not take the place of the one that serves by itself.
    let request = v1::SubmitJobRequest {
        task: "tasks/plain".into(),
        dataset: "datasets/shades".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client
        .fine_tuning()
        .submit_job(request)
        .await
        .unwrap()
        .into_inner();
    events(&client, &job.name, 0).await;
    let request = v1::GetJobRequest { name: job.name };
    let job = client
        .fine_tuning()
        .get_job(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (job.state(), job.reason.as_str()),
        (v1::JobState::Succeeded, "LABELS_CHANGED")
    );
    assert!(
        job.message.contains("do not exclude one another"),
        "{}",
        job.message
    );
    server.stop().await;
}
