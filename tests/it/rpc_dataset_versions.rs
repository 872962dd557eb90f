//! Versions of a data set over the API: what was kept stays, what differs is told, and jobs and evaluations read it.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::Code;

use crate::reports::command::ask;
use crate::server::{
    TestServer, clip, create_dataset, create_task, events, refused, serving, upload,
};

async fn version(client: &Client, note: &str) -> v1::DatasetVersion {
    let request = v1::CreateDatasetVersionRequest {
        name: "datasets/shades".into(),
        note: note.into(),
    };
    let answer = client.datasets().create_dataset_version(request).await;
    answer.unwrap().into_inner()
}

async fn add(client: &Client, video: &str, label: &str, split: v1::Split) {
    let example = v1::Example {
        video: video.into(),
        label: label.into(),
        split: split.into(),
        ..Default::default()
    };
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples: vec![example],
    };
    client.datasets().add_examples(request).await.unwrap();
}

/// Every change, read in pages of two.
async fn changes(client: &Client, from: &str, to: &str) -> Vec<v1::DatasetChange> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDatasetChangesRequest {
            from: from.into(),
            to: to.into(),
            page_size: 2,
            page_token,
        };
        let answer = client.datasets().list_dataset_changes(request).await;
        let page = answer.unwrap().into_inner();
        all.extend(page.changes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)]
async fn what_a_version_holds_stays_and_is_read_by_jobs_and_evaluations() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    let videos = create_dataset(&client, "shades").await;
    let first = version(&client, "the first").await;
    assert_eq!(first.name, "datasets/shades/versions/1");
    assert_eq!((first.examples, first.note.as_str()), (6, "the first"));
    assert_eq!(
        version(&client, "again").await,
        first,
        "nothing has changed"
    );

    let late = upload(&client, &clip(100)).await.unwrap().name;
    add(&client, &late, "dark", v1::Split::Train).await;
    add(&client, &videos[0].name, "bright", v1::Split::Train).await;
    add(&client, &videos[4].name, "dark", v1::Split::Test).await;
    let request = v1::RemoveExamplesRequest {
        name: "datasets/shades".into(),
        videos: vec![videos[2].name.clone()],
    };
    client.datasets().remove_examples(request).await.unwrap();
    let told = changes(&client, &first.name, "datasets/shades").await;
    assert_eq!(told.len(), 4);
    let of = |name: &str| {
        let own = told.iter().find(|own| own.video == name).expect("a change");
        let shown = |own: &Option<v1::Example>| {
            let own = own.as_ref();
            own.map(|own| (own.label.clone(), own.split()))
        };
        (shown(&own.before), shown(&own.after))
    };
    let (dark, bright) = ("dark".to_owned(), "bright".to_owned());
    let (train, test) = (v1::Split::Train, v1::Split::Test);
    let validation = v1::Split::Validation;
    assert_eq!(of(&late), (None, Some((dark.clone(), train))));
    assert_eq!(of(&videos[2].name), (Some((bright.clone(), train)), None));
    assert_eq!(
        of(&videos[0].name),
        (Some((dark.clone(), train)), Some((bright, train)))
    );
    assert_eq!(
        of(&videos[4].name),
        (Some((dark.clone(), validation)), Some((dark, test)))
    );
    let second = version(&client, "").await;
    assert_eq!(second.name, "datasets/shades/versions/2");
    assert_eq!(changes(&client, &first.name, &second.name).await, told);
    assert_eq!(changes(&client, &second.name, &first.name).await.len(), 4);
    let request = v1::ListDatasetVersionsRequest {
        name: "datasets/shades".into(),
        ..Default::default()
    };
    let listed = client.datasets().list_dataset_versions(request).await;
    assert_eq!(
        listed.unwrap().into_inner().versions,
        [first.clone(), second.clone()]
    );

    // A job, a check and an evaluation of what the data set held then.
    create_task(&client, "shades").await;
    let request = v1::SubmitJobRequest {
        task: "tasks/shades".into(),
        dataset: first.name.clone(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1),
            ..Default::default()
        }),
        request_id: "018f0000-0000-7000-8000-000000000001".into(),
        ..Default::default()
    };
    let submit = async || client.fine_tuning().submit_job(request.clone()).await;
    let job = submit().await.unwrap().into_inner().name;
    events(&client, &job, 0).await;
    // What has changed since the job read it is what has changed since the version.
    let since = changes(&client, &job, "datasets/shades").await;
    assert_eq!(
        since,
        changes(&client, &first.name, "datasets/shades").await
    );
    let words = ["dataset", "versions", "diff", "shades", &job];
    let told = ask(&server, &words).await.ends(0);
    assert_eq!(told.out.lines().count(), since.len(), "{told:?}");
    let name_of_job = job.clone();
    let get = v1::GetJobRequest { name: job };
    let job = client.fine_tuning().get_job(get).await.unwrap();
    let result = job.into_inner().result.expect("a result");
    assert_eq!(result.dataset_digest, first.digest);
    assert_eq!(result.evaluation.expect("metrics").examples, 2);
    let request = v1::CheckDatasetRequest {
        name: first.name.clone(),
    };
    let checked = client.datasets().check_dataset(request).await.unwrap();
    assert_eq!(checked.into_inner().dataset_digest, first.digest);
    let words = [
        "evaluate",
        "--task",
        "shades",
        "--split",
        "val",
        "--json",
        "--dataset",
    ];
    let words = [&words[..], &["shades/versions/1"]].concat();
    let name = serving(&client, "shades").await;
    assert_eq!(name, "tasks/shades/versions/1");
    let told = ask(&server, &words).await.ends(0).json();
    assert_eq!(told[0]["evaluation"]["examples"], 2, "{told:?}");
    let told = ask(&server, &["dataset", "versions", "diff", "shades", "1"])
        .await
        .ends(0);
    assert_eq!(told.out.lines().count(), 4, "{told:?}");

    let delete = async || {
        let request = v1::DeleteDatasetVersionRequest {
            name: first.name.clone(),
        };
        client.datasets().delete_dataset_version(request).await
    };
    delete().await.unwrap();
    let again = submit().await.expect("a repeated request has its answer");
    assert_eq!(again.into_inner().name, name_of_job);
    refused(delete().await, Code::NotFound, "DATASET_VERSION_NOT_FOUND");
    let request = v1::CheckDatasetRequest {
        name: first.name.clone(),
    };
    refused(
        client.datasets().check_dataset(request).await,
        Code::NotFound,
        "DATASET_VERSION_NOT_FOUND",
    );
    add(&client, &videos[2].name, "bright", v1::Split::Train).await;
    assert_eq!(
        version(&client, "").await.name,
        "datasets/shades/versions/3"
    );
    // What a job would do is told of the version that it would read, which has a training clip fewer.
    for (dataset, steps) in [(second.name.as_str(), 4), ("datasets/shades", 5)] {
        let request = v1::SubmitJobRequest {
            task: "tasks/shades".into(),
            dataset: dataset.into(),
            hyper_parameters: Some(v1::HyperParameters {
                epochs: Some(1),
                batch_size: Some(1),
                ..Default::default()
            }),
            validate_only: true,
            ..Default::default()
        };
        let told = client.fine_tuning().submit_job(request).await.unwrap();
        let told = told.into_inner();
        assert_eq!((told.dataset.as_str(), told.total_steps), (dataset, steps));
    }
    // A task that is not there yet is made for a version that is, and for no other.
    let train = async |version: &str| {
        let dataset = format!("shades/versions/{version}");
        let words = [
            "train",
            "--task",
            "later",
            "--num-frames",
            "2",
            "--sites",
            "none",
            "--epochs",
            "1",
            "--dataset",
            dataset.as_str(),
        ];
        ask(&server, &words).await
    };
    let refusal = train("1").await;
    assert_ne!(refusal.code, Some(0));
    assert!(refusal.err.contains("shades/versions/1"), "{refusal:?}");
    let task = || v1::GetTaskRequest {
        name: "tasks/later".into(),
    };
    let missing = client.tasks().get_task(task()).await;
    refused(missing, Code::NotFound, "TASK_NOT_FOUND");
    train("2").await.ends(0);
    client.tasks().get_task(task()).await.unwrap();
    server.stop().await;
}
