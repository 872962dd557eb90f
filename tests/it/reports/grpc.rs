//! Reported calls of clients in other languages: ids in capitals, limits, and request ids that are used twice.

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use futures::stream;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::server::{
    TestServer, clip, create_dataset, create_task, new_task, refused, upload_messages,
};

fn id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_in_capitals_is_the_same_one() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let id = id();
    let mut names = Vec::new();
    for request_id in [id.clone(), id.to_uppercase()] {
        let request = v1::CreateUploadRequest {
            request_id,
            ..Default::default()
        };
        let upload = client.videos().create_upload(request).await.unwrap();
        names.push(upload.into_inner().name);
    }
    assert_eq!(names[0], names[1]);
    let request = v1::CreateUploadRequest {
        request_id: "7".into(),
        ..Default::default()
    };
    let status = client.videos().create_upload(request).await.unwrap_err();
    assert_eq!(status.message(), "request_id: \"7\" is not a UUID");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inline_clip_over_the_limit_is_told_the_way_out() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let request = v1::ClassifyRequest {
        task: "tasks/motion".into(),
        source: Some(v1::classify_request::Source::Content(Bytes::from(
            vec![0; 33 << 20],
        ))),
        ..Default::default()
    };
    let mut calls = client.classification().max_encoding_message_size(64 << 20);
    let status = calls.classify(request).await.unwrap_err();
    assert!(status.message().contains("ClassifyUpload"), "{status}");
    refused::<()>(Err(status), Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    server.stop().await;
}

async fn upload(
    client: &Client,
    bytes: &Bytes,
    header: v1::UploadVideoHeader,
) -> Result<v1::Video, Status> {
    let messages = upload_messages(header, bytes);
    let answer = client.videos().upload_video(stream::iter(messages)).await?;
    Ok(answer.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upload_with_a_used_request_id_does_not_vanish() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let (a, b) = (clip(10), clip(200));
    for has_digest in [true, false] {
        let request_id = id();
        let header = |bytes: &Bytes| v1::UploadVideoHeader {
            request_id: request_id.clone(),
            sha256: match has_digest {
                true => Sha256::digest(bytes).to_vec().into(),
                false => Bytes::new(),
            },
            ..Default::default()
        };
        let first = upload(&client, &a, header(&a)).await.unwrap();
        assert_eq!(upload(&client, &a, header(&a)).await.unwrap(), first);
        let status = upload(&client, &b, header(&b)).await.unwrap_err();
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "header.request_id");
        assert!(status.message().contains("sha256 differs"), "{status}");
        refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");

        // After its video was deleted, the id says so.
        let request = v1::DeleteVideoRequest {
            name: first.name,
            ..Default::default()
        };
        client.videos().delete_video(request).await.unwrap();
        let status = upload(&client, &a, header(&a)).await.unwrap_err();
        refused::<()>(
            Err(status),
            Code::FailedPrecondition,
            "REQUEST_RESULT_DELETED",
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_with_a_used_request_id_are_told_what_differs() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let request_id = id();
    let dataset = |name: &str| v1::CreateDatasetRequest {
        dataset_id: name.into(),
        request_id: request_id.clone(),
        ..Default::default()
    };
    let task = |name: &str| v1::CreateTaskRequest {
        request_id: request_id.clone(),
        ..new_task(name)
    };
    let mut datasets = client.datasets();
    datasets.create_dataset(dataset("first")).await.unwrap();
    datasets.create_dataset(dataset("first")).await.unwrap();
    let status = datasets
        .create_dataset(dataset("second"))
        .await
        .unwrap_err();
    assert!(status.message().contains("dataset_id differs"), "{status}");
    refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");
    let mut tasks = client.tasks();
    tasks.create_task(task("first")).await.unwrap();
    let status = tasks.create_task(task("second")).await.unwrap_err();
    assert!(status.message().contains("task_id differs"), "{status}");
    refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_used_request_id_is_told_what_differs() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "shade").await;
    create_dataset(&client, "shade").await;
    let request_id = id();
    let job = |epochs| v1::SubmitJobRequest {
        task: "tasks/shade".into(),
        dataset: "datasets/shade".into(),
        request_id: request_id.clone(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(epochs),
            batch_size: Some(2),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut jobs = client.fine_tuning();
    let first = jobs.submit_job(job(1)).await.unwrap().into_inner();
    assert_eq!(
        jobs.submit_job(job(1)).await.unwrap().into_inner().name,
        first.name
    );
    let status = jobs.submit_job(job(50)).await.unwrap_err();
    assert!(
        status.message().contains("hyper_parameters.epochs differs"),
        "{status}"
    );
    refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_inside_of_messages_are_named_by_their_whole_path() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let long = "x".repeat(256);
    let field = |status: Status| {
        let details = status.get_error_details();
        details.bad_request().unwrap().field_violations[0]
            .field
            .clone()
    };
    let header = v1::UploadVideoHeader {
        display_name: long.clone(),
        ..Default::default()
    };
    let status = upload(&client, &clip(1), header).await.unwrap_err();
    assert_eq!(field(status), "header.display_name");
    let header = v1::UploadVideoHeader {
        request_id: "7".into(),
        ..Default::default()
    };
    let status = upload(&client, &clip(1), header).await.unwrap_err();
    assert_eq!(field(status), "header.request_id");
    let mut create = new_task("motion");
    create.task.as_mut().unwrap().display_name = long;
    let status = client.tasks().create_task(create).await.unwrap_err();
    assert_eq!(field(status), "task.display_name");
    let list = v1::ListTasksRequest {
        page_size: -1,
        ..Default::default()
    };
    let status = client.tasks().list_tasks(list).await.unwrap_err();
    assert_eq!(status.message(), "page_size: expected 0 to 1000, got -1");
    server.stop().await;
}
