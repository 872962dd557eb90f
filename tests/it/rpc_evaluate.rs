//! EvaluateVersion: what a job measured, what an evaluation says, and what clips get when they are classified one by one, are the same.

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::evaluate_version_response::{Clips, Event, Result as Evaluated};
use tonic::{Code, Status};

use crate::server::{
    TestServer, classify, clip, events, new_task, refused, serving, soon, submit, upload,
};

/// A data set `shades` of so many clips of each label in each split.
async fn shades(client: &Client, splits: &[(v1::Split, u8)]) {
    let request = v1::CreateDatasetRequest {
        dataset_id: "shades".into(),
        ..Default::default()
    };
    client.datasets().create_dataset(request).await.unwrap();
    let mut shade = 0;
    for (split, count) in splits.iter().copied() {
        let mut examples = Vec::new();
        for i in 0..2 * count {
            shade += 1;
            let (label, own) = match i % 2 {
                0 => ("dark", shade),
                _ => ("bright", 255 - 12 - shade),
            };
            let video = upload(client, &clip(own)).await.unwrap();
            examples.push(v1::Example {
                video: video.name,
                label: label.into(),
                split: split.into(),
                ..Default::default()
            });
        }
        add(client, examples).await;
    }
}

async fn add(client: &Client, examples: Vec<v1::Example>) {
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples,
    };
    client.datasets().add_examples(request).await.unwrap();
}

/// Creates a task with this sampling, trains it on `shades` and returns its job.
async fn train(client: &Client, task: &str, sampling: v1::ClipSampling) -> v1::Job {
    let mut request = new_task(task);
    request.task.as_mut().unwrap().sampling = Some(sampling);
    client.tasks().create_task(request).await.unwrap();
    let job = submit(client, task, "shades").await;
    let told = events(client, &job.name, 0).await;
    let is_test = |event: &v1::JobEvent| matches!(&event.event, Some(v1::job_event::Event::Evaluation(own)) if own.split() == v1::Split::Test);
    let place = told
        .iter()
        .position(is_test)
        .expect("the test split is told");
    assert_eq!(
        place,
        told.len() - 2,
        "before the job's end and after all else"
    );
    serving(client, task).await;
    let request = v1::GetJobRequest { name: job.name };
    client
        .fine_tuning()
        .get_job(request)
        .await
        .unwrap()
        .into_inner()
}

fn request(task: &str, split: v1::Split) -> v1::EvaluateVersionRequest {
    v1::EvaluateVersionRequest {
        version: format!("tasks/{task}/versions/1"),
        dataset: "datasets/shades".into(),
        split: split.into(),
        top_k: u32::MAX,
        ..Default::default()
    }
}

/// Everything that a stream says, up to so many messages of clips.
async fn evaluate(
    client: &Client,
    request: v1::EvaluateVersionRequest,
    most: usize,
) -> Result<(Vec<Clips>, Option<Evaluated>), Status> {
    let mut stream = client.tasks().evaluate_version(request).await?.into_inner();
    let mut clips = Vec::new();
    while clips.len() < most {
        match stream
            .message()
            .await?
            .map(|message| message.event.unwrap())
        {
            Some(Event::Started(started)) => {
                assert_eq!(started.labels, ["bright", "dark"]);
                assert_eq!(started.dataset_digest.len(), 32);
            }
            Some(Event::Clips(more)) => clips.push(more),
            Some(Event::Result(result)) => {
                assert!(stream.message().await?.is_none());
                return Ok((clips, Some(result)));
            }
            None => panic!("no result"),
        }
    }
    Ok((clips, None))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_an_evaluation_and_single_classifications_agree_to_the_bit() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let (validation, test) = (v1::Split::Validation, v1::Split::Test);
    shades(
        &client,
        &[(v1::Split::Train, 2), (validation, 2), (test, 3)],
    )
    .await;
    let one = v1::ClipSampling {
        num_frames: 2,
        ..Default::default()
    };
    let nine = v1::ClipSampling {
        num_frames: 2,
        sampling_rate: 2,
        num_temporal_views: 3,
        num_spatial_views: 3,
        ..Default::default()
    };
    for (task, sampling) in [("one", one), ("nine", nine)] {
        let job = train(&client, task, sampling).await;
        let result = job.result.unwrap();
        let measured = [
            (validation, 4, result.evaluation.clone().unwrap()),
            (test, 6, result.test_evaluation.clone().unwrap()),
        ];
        let version = v1::GetAdapterVersionRequest {
            name: result.version.clone(),
        };
        let version = client.tasks().get_adapter_version(version).await.unwrap();
        assert_eq!(version.into_inner().test_evaluation, result.test_evaluation);
        for (split, count, own) in measured {
            assert_eq!(own.examples, count);
            let (clips, evaluated) = evaluate(&client, request(task, split), 9).await.unwrap();
            // Every number of it, the confusion matrix too.
            assert_eq!(evaluated.unwrap().evaluation, Some(own));
            let clips: Vec<_> = clips.into_iter().flat_map(|clips| clips.clips).collect();
            assert_eq!(clips.len() as i64, count);
            assert!(clips.is_sorted_by_key(|clip| &clip.video));
            for clip in clips {
                let mut request = classify(task, &clip.video);
                request.options = Some(v1::ClassifyOptions {
                    top_k: u32::MAX,
                    ..Default::default()
                });
                let answer = client.classification().classify(request).await;
                let answer = answer.unwrap().into_inner().predictions;
                let answer = answer.iter().map(|own| (&own.label, own.score.to_bits()));
                let own = clip.predictions.iter();
                assert!(answer.eq(own.map(|own| (&own.label, own.score.to_bits()))));
                let place = clip
                    .predictions
                    .iter()
                    .position(|own| own.label == clip.label);
                let place = place.expect("its label is among all");
                assert_eq!(clip.rank as usize, place + 1);
                assert_eq!(
                    clip.score.to_bits(),
                    clip.predictions[place].score.to_bits()
                );
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_that_breaks_off_goes_on_and_ends_with_the_metrics_of_all_clips() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    shades(&client, &[(v1::Split::Train, 2), (v1::Split::Test, 20)]).await;
    train(
        &client,
        "shade",
        new_task("shade").task.unwrap().sampling.unwrap(),
    )
    .await;
    let request = || request("shade", v1::Split::Test);
    let (whole, expected) = evaluate(&client, request(), 99).await.unwrap();
    assert_eq!(
        whole
            .iter()
            .map(|clips| clips.clips.len())
            .collect::<Vec<_>>(),
        [16, 16, 8]
    );
    let (begun, none) = evaluate(&client, request(), 1).await.unwrap();
    assert!(none.is_none());
    // What comes into the data set meanwhile is not of this evaluation.
    let video = upload(&client, &clip(99)).await.unwrap();
    let example = v1::Example {
        video: video.name,
        label: "dark".into(),
        split: v1::Split::Test.into(),
        ..Default::default()
    };
    add(&client, vec![example]).await;
    let token = begun[0].resume_token.clone();
    let resumed = || v1::EvaluateVersionRequest {
        resume_token: token.clone(),
        ..request()
    };
    let (rest, result) = evaluate(&client, resumed(), 99).await.unwrap();
    assert_eq!([&begun[..], &rest[..]].concat(), whole);
    assert_eq!(result, expected);

    let other = v1::EvaluateVersionRequest {
        split: v1::Split::Train.into(),
        ..resumed()
    };
    refused(
        evaluate(&client, other, 1).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    let broken = v1::EvaluateVersionRequest {
        resume_token: "nonsense".into(),
        ..request()
    };
    refused(
        evaluate(&client, broken, 1).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clips_of_a_label_that_the_version_does_not_have_are_told_and_not_counted() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    shades(&client, &[(v1::Split::Train, 2), (v1::Split::Test, 1)]).await;
    let video = upload(&client, &clip(120)).await.unwrap();
    let grey = v1::Example {
        video: video.name.clone(),
        label: "grey".into(),
        split: v1::Split::Test.into(),
        ..Default::default()
    };
    add(&client, vec![grey]).await;
    let training = train(&client, "shade", v1::ClipSampling::default());
    let job = soon(Box::pin(training)).await;
    let own = job.result.unwrap().test_evaluation.unwrap();
    let (clips, result) = evaluate(&client, request("shade", v1::Split::Test), 9)
        .await
        .unwrap();
    let result = result.unwrap();
    assert_eq!((result.unknown_labels, result.unreadable), (1, 0));
    assert_eq!(result.evaluation, Some(own));
    let unknown: Vec<_> = clips[0]
        .clips
        .iter()
        .filter(|clip| clip.unknown_label)
        .collect();
    assert_eq!(unknown.len(), 1);
    assert_eq!((&unknown[0].video, unknown[0].rank), (&video.name, 0));
    server.stop().await;
}
