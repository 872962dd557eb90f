//! Quotas of stored things through the whole server: sixteen clients that race exceed none.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::{Code, Status};

use super::{Bed, is_full};
use crate::rpc_uploads::{create, write_open};
use crate::server::{clip, create_dataset, create_task, new_task, reason, upload};

/// Clients that race.
const CLIENTS: usize = 16;

/// Whether a call was let in; any other refusal than that of a quota fails the test.
fn is_in<T>(result: Result<T, Status>) -> bool {
    match result {
        Ok(_) => true,
        Err(status) => {
            let expected = ["QUOTA_EXCEEDED", "TOO_MANY_JOBS", "TOO_MANY_UPLOAD_BYTES"];
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(expected.contains(&reason(&status).as_str()), "{status:?}");
            false
        }
    }
}

/// What a racing client does once.
#[derive(Debug, Clone, Copy)]
enum Act {
    Upload,
    CreateTask,
    Submit,
    /// Adds an example to a data set of the call's own.
    AddExample,
    /// Writes an upload and leaves it unfinished.
    Write,
}

impl Act {
    async fn once(self, client: &Client, number: usize) -> bool {
        match self {
            Self::Upload => is_in(upload(client, &clip(20)).await),
            Self::CreateTask => {
                let task = new_task(&format!("t{number}"));
                is_in(client.tasks().create_task(task).await)
            }
            Self::AddExample => add_example(client, number).await,
            Self::Write => write(client).await,
            Self::Submit => {
                let request = v1::SubmitJobRequest {
                    task: "tasks/motion".into(),
                    dataset: "datasets/motion".into(),
                    ..Default::default()
                };
                is_in(client.fine_tuning().submit_job(request).await)
            }
        }
    }
}

async fn add_example(client: &Client, number: usize) -> bool {
    let create = v1::CreateDatasetRequest {
        dataset_id: format!("d{number}"),
        ..Default::default()
    };
    client.datasets().create_dataset(create).await.unwrap();
    let list = v1::ListVideosRequest {
        page_size: 1,
        ..Default::default()
    };
    let listed = client.videos().list_videos(list).await.unwrap();
    let example = v1::Example {
        video: listed.into_inner().videos[0].name.clone(),
        label: "left".into(),
        split: v1::Split::Train.into(),
        ..Default::default()
    };
    let add = v1::AddExamplesRequest {
        name: format!("datasets/d{number}"),
        examples: vec![example],
    };
    is_in(client.datasets().add_examples(add).await)
}

async fn write(client: &Client) -> bool {
    let upload = create(client).await;
    let is_in = is_in(write_open(client, &upload, &clip(20)).await);
    if !is_in {
        let delete = v1::DeleteUploadRequest { name: upload };
        client.videos().delete_upload(delete).await.unwrap();
    }
    is_in
}

/// Has every client act so often, all at once. Returns how often they were let in.
async fn race(bed: &Bed, key: &str, (act, calls): (Act, usize)) -> u64 {
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = bed.guarded.client(key).await;
        clients.spawn(async move {
            let mut let_in = 0;
            for call in 0..calls {
                let_in += u64::from(act.once(&client, number * calls + call).await);
            }
            let_in
        });
    }
    clients.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_racing_clients_exceed_no_quota() {
    let calls = if is_full() { 100 } else { 4 };
    let bed = Bed::start().await;
    let key = bed.guarded.key(frameshift::spec::Scopes::TENANT).await;
    create_task(&bed.acme, "motion").await;
    let videos = create_dataset(&bed.acme, "motion").await;
    let size = upload(&bed.acme, &clip(20)).await.unwrap().size_bytes;
    let there = videos.len() as i64 + 1;
    // No job ends while the clients race.
    let rest = bed.guarded.server.wiring.device.pause();
    let quotas = v1::Quotas {
        videos: Some(there + 11),
        tasks: Some(6),
        unfinished_jobs: Some(5),
        ..Default::default()
    };
    bed.set(quotas).await;
    let usage = async || bed.shown().await.usage.unwrap();
    let check = |what: &str, limit: i64, stored: i64, let_in: u64, before: i64| {
        let over = (stored - limit).max(0);
        println!("{what}: {stored} of at most {limit}, exceeded by {over} (goal 0)");
        assert_eq!((stored, let_in as i64), (limit, limit - before), "{what}");
    };
    let let_in = race(&bed, &key, (Act::Upload, calls)).await;
    let stored = usage().await;
    check("videos", there + 11, stored.videos, let_in, there);
    let let_in = race(&bed, &key, (Act::CreateTask, calls)).await;
    check("tasks", 6, usage().await.tasks, let_in, 1);
    let let_in = race(&bed, &key, (Act::Submit, calls)).await;
    check(
        "unfinished jobs",
        5,
        usage().await.unfinished_jobs,
        let_in,
        0,
    );
    let before = usage().await.bytes;
    let limit = before + 5 * size + size / 2;
    bed.set(v1::Quotas {
        bytes: Some(limit),
        ..Default::default()
    })
    .await;
    let let_in = race(&bed, &key, (Act::Upload, calls)).await;
    let stored = usage().await.bytes;
    let over = (stored - limit).max(0);
    println!("bytes: {stored} of at most {limit}, exceeded by {over} (goal 0)");
    assert_eq!((let_in, stored), (5, before + 5 * size));
    drop(rest);
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_racing_clients_exceed_no_quota_of_examples_or_open_uploads() {
    let calls = if is_full() { 100 } else { 4 };
    let bed = Bed::start().await;
    let key = bed.guarded.key(frameshift::spec::Scopes::TENANT).await;
    let size = upload(&bed.acme, &clip(20)).await.unwrap().size_bytes;
    let (examples, bytes) = (9, 5 * size + size / 2);
    bed.set(v1::Quotas {
        dataset_examples: Some(examples),
        open_upload_bytes: Some(bytes),
        ..Default::default()
    })
    .await;
    let let_in = race(&bed, &key, (Act::AddExample, calls)).await;
    let stored = bed.shown().await.usage.unwrap().dataset_examples;
    let over = (stored - examples).max(0);
    println!("examples: {stored} of at most {examples}, exceeded by {over} (goal 0)");
    assert_eq!((let_in, stored), (9, examples));
    let let_in = race(&bed, &key, (Act::Write, calls)).await;
    let stored = bed.shown().await.usage.unwrap().open_upload_bytes;
    let over = (stored - bytes).max(0);
    println!("bytes of open uploads: {stored} of at most {bytes}, exceeded by {over} (goal 0)");
    assert_eq!((let_in, stored), (5, 5 * size));
    bed.guarded.server.stop().await;
}
