//! A submission that only validates: what a job would train with, without a job.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::{Code, Status};

use crate::server::{TestServer, create_dataset, create_task, new_task, refused};

fn request(task: &str, hyper: v1::HyperParameters) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: "datasets/shades".into(),
        hyper_parameters: Some(hyper),
        validate_only: true,
        ..Default::default()
    }
}

async fn submit(client: &Client, request: v1::SubmitJobRequest) -> Result<v1::Job, Status> {
    let job = client.fine_tuning().submit_job(request).await?;
    Ok(job.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validated_submission_shows_the_whole_recipe_and_queues_nothing() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_dataset(&client, "shades").await;
    let given = v1::HyperParameters {
        batch_size: Some(3),
        base_learning_rate: Some(0.256),
        warmup_epochs: Some(1.0),
        rand_augment: Some("rand-m7-n4-mstd0.5-inc1".into()),
        keep_checkpoints: Some(3),
        unknown_below: Some(0.25),
        ..Default::default()
    };
    // The task need not be there.
    let shape = v1::SubmitJobRequest {
        new_task: new_task("later").task,
        ..request("later", given.clone())
    };
    let job = submit(&client, shape.clone()).await.unwrap();
    assert!(job.name.is_empty());
    let hyper = job.hyper_parameters.expect("hyper-parameters");
    // Four training clips are two steps an epoch.
    assert_eq!(hyper.epochs, Some(40));
    assert_eq!(job.total_steps, 80);
    assert!((hyper.learning_rate.unwrap() - 0.003).abs() < 1e-12);
    assert_eq!((hyper.warmup_share, hyper.warmup_epochs), (None, Some(1.0)));
    assert_eq!(hyper.label_smoothing, Some(0.0));
    assert_eq!(
        (hyper.keep_checkpoints, hyper.unknown_below),
        (Some(3), Some(0.25))
    );
    assert_eq!(
        (hyper.rand_augment, hyper.seed),
        (given.rand_augment.clone(), None)
    );
    // Of a task that is there, the same.
    create_task(&client, "there").await;
    let there = submit(&client, request("there", given.clone()))
        .await
        .unwrap();
    assert_eq!(there.total_steps, 80);
    let listed = client
        .fine_tuning()
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    assert!(listed.unwrap().into_inner().jobs.is_empty());
    // What a submission would refuse is refused.
    let gone = submit(&client, request("gone", given.clone())).await;
    refused(gone, Code::NotFound, "TASK_NOT_FOUND");
    let wrong = v1::HyperParameters {
        rand_augment: Some("rand-m70".into()),
        ..given.clone()
    };
    let wrong = submit(&client, request("there", wrong)).await;
    refused(wrong, Code::InvalidArgument, "INVALID_FIELD");
    let real = v1::SubmitJobRequest {
        validate_only: false,
        ..shape
    };
    refused(
        submit(&client, real).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_that_few_validation_clips_choose_no_epoch() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_dataset(&client, "shades").await;
    create_task(&client, "there").await;
    let chosen = async |patience| {
        let hyper = v1::HyperParameters {
            patience,
            ..Default::default()
        };
        let job = submit(&client, request("there", hyper)).await.unwrap();
        let hyper = job.hyper_parameters.expect("hyper-parameters");
        (hyper.publish(), hyper.patience())
    };
    assert_eq!(chosen(None).await, (v1::Publish::Last, 0));
    assert_eq!(chosen(Some(3)).await, (v1::Publish::Best, 3));
    drop(client);
    server.stop().await;
}
